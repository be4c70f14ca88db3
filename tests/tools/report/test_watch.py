"""`keras-grow watch`: what it shows in any width, live in a terminal, and how it ends."""

import io
import os
import select
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.synthetic import START, synthetic_events, synthetic_run, synthetic_runs
from rich.console import Console

from keras_grow.logs.runs import Run, Series
from keras_grow.logs.writing import RunWriter
from keras_grow.tools.report.watch import sparkline, view


def shown(runs, width=100, **options):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(view(runs, ["logs"], width, now=START + 100, **options))
    return console.file.getvalue()


def test_sparkline():
    assert sparkline(np.arange(8.0), 8) == "▁▂▃▄▅▆▇█"
    assert sparkline(np.arange(800.0), 4) == "▁▃▆█"
    assert sparkline(np.ones(5), 3) == "▁▁▁"
    assert sparkline(np.array([1.0, np.nan, 2.0]), 3) == "▁×█"
    assert sparkline(np.array([1.0, np.nan, 2.0]), 3, unicode=False) == "_x@"
    assert sparkline(np.zeros(0), 5) == ""


def test_it_shows_runs_growths_and_warnings():
    runs = synthetic_runs()
    text = shown(runs, 120)
    for run in runs:
        (line,) = [one for one in text.splitlines() if one.startswith(f"{run.name} ")][:1]
        assert "1,800" in line
        assert "█" in line
    assert f"{run.scalars['loss'].values[-20:].mean():.4g}" in line
    assert "7, 1 failed" in text
    last = next(one for one in text.splitlines() if "1,600" in one)
    assert "parameters" in last
    assert "outputs kept" in last
    assert "gradmax-failed-once: Step 1000: growth failed. The machine had no memory" in text
    assert "resumed: The run was resumed at step 900." in text


@pytest.mark.parametrize("width", [20, 40, 59, 60, 80, 89, 90, 200])
def test_no_line_is_wider_than_the_terminal(width):
    for unicode in (True, False):
        text = shown(synthetic_runs(), width, unicode=unicode)
        assert max(len(line) for line in text.splitlines()) <= width
        assert "gradmax"[:6] in text


def test_it_fits_the_height():
    runs = [synthetic_run(f"run_{i}", events=3, seed=i, every=20) for i in range(40)]
    text = shown(runs, 100, height=30)
    assert len(text.splitlines()) <= 30
    assert "more runs" in text


def test_what_went_wrong_can_be_seen():
    text = shown([synthetic_run(events=4, trouble=("broken", "nan"))], 100)
    assert "outputs CHANGED" in text
    assert "not finite" in text


def test_names_steer_no_terminal():
    run = synthetic_run("evil\x1b[2J\x07\x1b]0;title\x07[bold]x[/bold]", events=2)
    run.left_out.append("\x1b[31mred\x1b[0m")
    text = shown([run])
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold]" in text  # no markup either


def test_a_run_without_loss_or_growths():
    one = Series(np.array([3]), np.array([START]), np.array([0.5]))
    text = shown([Run("only", scalars={"parameters": one})])
    assert "only" in text
    assert "Last growths" not in text


# --- the command -------------------------------------------------------------------------------


def test_where_there_is_no_terminal_it_prints_once(run, logdir):
    start = time.monotonic()
    result = run("watch", logdir, COLUMNS="80")
    assert result.exit_code == 0, result.output
    assert time.monotonic() - start < 60
    assert "3 runs" in result.stdout
    assert "\x1b" not in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    only = run("watch", logdir, "--once", "--run", "wr")
    assert "1 run," in only.stdout
    assert "wrn: Step 180: growth failed" in only.stdout


def test_an_empty_folder_shows_how_to_log(run, tmp_path):
    result = run("watch", tmp_path)
    assert result.exit_code == 0
    assert "Nothing has been logged yet." in result.stdout
    assert "log_dir=" in result.stdout


def test_bad_input_is_told(run, logdir, tmp_path):
    assert "There is no log folder" in run("watch", tmp_path / "none").stderr
    assert "no regular expression" in run("watch", logdir, "--run", "[").stderr
    assert run("watch", logdir, "--interval", "0").exit_code == 2


def test_a_terminal_without_unicode(logdir):
    result = subprocess.run(
        [sys.executable, "-m", "keras_grow.tools", "watch", str(logdir), "--once"],
        capture_output=True,
        timeout=120,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "70"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.isascii()
    assert b"@" in result.stdout


class Terminal:
    """`keras-grow watch` in a terminal of 80 columns and 24 lines."""

    def __init__(self, *arguments):
        import fcntl
        import pty
        import struct
        import termios

        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
        environment.pop("COLUMNS", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "keras_grow.tools", "watch", *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        self.text = ""

    def read(self, until, seconds=60):
        """Reads on until a text is there that was not there before."""
        seen = len(self.text)
        end = time.monotonic() + seconds
        while until not in self.text[seen:]:
            assert time.monotonic() < end, f"{until!r} did not come: {self.text[-2000:]}"
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self.master, 65536).decode("utf-8", "replace")
                except OSError:
                    break
        return self.text[seen:]

    def end(self):
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(30)
        while select.select([self.master], [], [], 0.2)[0]:
            try:
                self.text += os.read(self.master, 65536).decode("utf-8", "replace")
            except OSError:  # all is read
                break
        os.close(self.master)
        return code


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminals")
def test_it_follows_a_run_and_ends_with_ctrl_c(tmp_path):
    folder = tmp_path / "live"
    events, _, scalars = synthetic_events(events=2, sites=2, every=20)
    with RunWriter(folder) as writer:
        loss = scalars["loss"]
        for step in range(1, 21):
            writer.scalar("loss", float(loss.values[step - 1]), step)
        writer.flush()
        terminal = Terminal(tmp_path, "--interval", "0.3")
        try:
            terminal.read("live")
            for step in range(21, 31):
                writer.scalar("loss", float(loss.values[step - 1]), step)
            writer.growth(events[0])
            terminal.read("Last growths")
            writer.growth(events[1])
            terminal.read("dense_1")
        finally:
            code = terminal.end()
    assert code == 0
    assert terminal.text.rstrip().endswith("\x1b[?25h")  # the cursor is back
    assert "Traceback" not in terminal.text
