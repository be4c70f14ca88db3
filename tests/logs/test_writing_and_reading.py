"""What `RunWriter` writes, `read_runs` and `Follower` read, whatever happens in between."""

import json
import os
import resource
import signal
import subprocess
import textwrap
import time

import numpy as np
import pytest
from helpers.processes import python
from helpers.records import a_site, an_event, event_file, only_run

from keras_grow.errors import GrowthError
from keras_grow.logs import events, records
from keras_grow.logs.networks import Network, Node
from keras_grow.logs.reading import Follower, read_runs
from keras_grow.logs.writing import RunWriter

NETWORK = Network("net", 0, (Node("a", "Dense", 4, "a", 12), Node("b", "Dense", 2)), ((0, 1),))


def rounded(event):
    """What is left of an event in short once it was written."""
    return records.decode_growth(records.encode_growth(event), event.step, event.time)


class TestRoundTrip:
    def test_all_that_is_written_is_read(self, tmp_path):
        event = an_event()
        with RunWriter(tmp_path / "run") as writer:
            writer.network(NETWORK)
            writer.scalars({"loss": 0.5, "accuracy": 0.25}, 1, when=10.0)
            writer.scalar("loss", 0.375, 2, when=11.0)
            writer.growth(event)
        run = only_run(tmp_path)
        assert run.name == "run"
        assert run.growths == [rounded(event)]
        assert run.growths[0].time == event.time
        assert run.sites[400] == records.decode_sites(records.encode_sites(event.sites))
        assert run.networks == [NETWORK]
        assert sorted(run.scalars) == ["accuracy", "loss"]
        loss = run.scalars["loss"]
        assert (loss.steps.tolist(), loss.values.tolist()) == ([1, 2], [0.5, 0.375])
        assert loss.times.tolist() == [10.0, 11.0]
        assert (run.resumed, run.left_out, run.warnings) == ([], [], [])

    def test_tensorboard_itself_reads_the_same(self, tmp_path):
        """And takes back what a resumed run has undone."""
        for begun, steps in ((0, (1, 2, 3, 4)), (2, (3,))):
            with RunWriter(tmp_path, step=begun) as writer:
                for step in steps:
                    writer.scalar("loss", step / 2, step)
                    writer.growth(an_event(step=step))
        code = """
            import sys
            from tensorboard.backend.event_processing import plugin_event_accumulator as loading
            accumulator = loading.EventAccumulator(sys.argv[1])
            accumulator.Reload()
            print(sorted(accumulator.ActivePlugins()))
            print([(e.step, *e.tensor_proto.float_val) for e in accumulator.Tensors("loss")])
            for e in accumulator.Tensors("keras_grow/growth"):
                print(e.step, e.wall_time, e.tensor_proto.string_val[0].hex())
        """
        plugins, loss, *growths = python(code, tmp_path, hidden=("tensorflow",)).splitlines()
        assert plugins == f"['{records.PLUGIN}', 'scalars']"
        assert loss == "[(1, 0.5), (2, 1.0), (3, 1.5)]"
        found = [line.split() for line in growths]
        assert [records.decode_growth(bytes.fromhex(d), int(s), float(t)) for s, t, d in found] == [
            rounded(an_event(step=step)) for step in (1, 2, 3)
        ]

    def test_keras_own_folders_are_runs_without_growths(self, tmp_path):
        """`keras.callbacks.TensorBoard` writes scalars as tensors."""
        with RunWriter(tmp_path) as writer:
            writer.growth(an_event())
        with RunWriter(tmp_path / "train") as writer:
            for step in range(3):
                event = writer._event(step)
                value = event.summary.value.add(tag="epoch_loss")
                value.metadata.plugin_data.plugin_name = "scalars"
                value.tensor.dtype = 1
                value.tensor.tensor_content = np.float32(step / 4).tobytes()
                writer._write(event)
        ours, theirs = read_runs(tmp_path)
        assert (ours.name, theirs.name) == (".", "train")
        assert theirs.scalars["epoch_loss"].values.tolist() == [0, 0.25, 0.5]
        assert theirs.growths == []

    def test_numbers_that_are_none(self, tmp_path):
        with RunWriter(tmp_path) as writer:
            writer.scalar("loss", float("nan"), 1)
            writer.scalar("loss", float("inf"), 2)
        values = only_run(tmp_path).scalars["loss"].values
        assert np.isnan(values[0])
        assert np.isinf(values[1])

    def test_lines_alone_are_enough(self, tmp_path):
        event = an_event()
        events.append(tmp_path, event)
        run = only_run(tmp_path)
        assert run.growths == [records.in_short(event)]
        assert run.sites[400] == event.sites
        assert events.read(tmp_path) == [event]


class TestResuming:
    def test_later_records_of_an_earlier_session_are_taken_back(self, tmp_path):
        with RunWriter(tmp_path) as writer:
            for step in (1, 2, 3, 4):
                writer.scalar("loss", step, step)
            for step in (2, 4):
                writer.growth(an_event(step=step, time=0.0))
        with RunWriter(tmp_path, step=2) as writer:
            writer.scalar("loss", 30, 3)
            writer.growth(an_event(step=3, time=0.0))
        run = only_run(tmp_path)
        assert run.scalars["loss"].values.tolist() == [1, 2, 30]
        assert [g.step for g in run.growths] == [2, 3]
        assert sorted(run.sites) == [2, 3]
        assert run.resumed == [2]
        assert any("resumed at step 2" in line for line in run.warnings)

    def test_a_run_that_begins_anew_forgets_the_old_one(self, tmp_path):
        for value in (1.0, 2.0):
            with RunWriter(tmp_path) as writer:
                writer.scalar("loss", value, 5)
        run = only_run(tmp_path)
        assert run.scalars["loss"].values.tolist() == [2.0]
        assert run.resumed == []


class TestFollower:
    def test_only_what_is_new_is_read(self, tmp_path):
        follower = Follower(tmp_path)
        assert not follower.update()
        assert follower.runs() == []
        writer = RunWriter(tmp_path / "a")
        writer.scalar("loss", 1.0, 1)
        writer.growth(an_event(step=1))
        assert follower.update()
        (first,) = follower.runs()
        assert len(first.growths) == 1
        assert not follower.update()
        assert follower.runs()[0] is first

        writer.scalar("loss", 2.0, 2)
        assert not follower.update()  # not written yet
        writer.flush()
        event_file(tmp_path / "a").chmod(0o644)
        assert follower.update()
        (second,) = follower.runs()
        assert second.scalars["loss"].values.tolist() == [1.0, 2.0]
        assert first.scalars["loss"].values.tolist() == [1.0]
        RunWriter(tmp_path / "b").close()
        assert follower.update()
        assert [run.name for run in follower.runs()] == ["a", "b"]

    def test_a_record_that_is_written_in_two_halves(self, tmp_path):
        with RunWriter(tmp_path / "whole") as writer:
            for step in range(3):
                writer.growth(an_event(step=step))
        data = event_file(tmp_path / "whole").read_bytes()
        (tmp_path / "live").mkdir()
        path = tmp_path / "live" / "x.tfevents.1"
        follower, counts = Follower(tmp_path / "live"), []
        with open(path, "wb") as file:
            for part in (data[:-500], data[-500:-3], data[-3:]):
                file.write(part)
                file.flush()
                follower.update()
                (run,) = follower.runs()
                assert run.left_out == []
                counts.append(len(run.growths))
        assert counts == [2, 2, 3]

    def test_scalars_arrive_within_seconds_without_a_flush(self, tmp_path):
        writer = RunWriter(tmp_path)
        end = time.monotonic() + 10
        while time.monotonic() < end and not only_run(tmp_path).scalars:
            writer.scalar("loss", 1.0, 1)
            time.sleep(0.2)
        assert only_run(tmp_path).scalars


class TestDamage:
    def test_a_file_that_is_cut_off_anywhere(self, tmp_path):
        with RunWriter(tmp_path / "whole") as writer:
            writer.scalar("loss", 1.0, 1)
            writer.growth(an_event(step=1))
            writer.growth(an_event(step=2))
        data = event_file(tmp_path / "whole").read_bytes()
        (tmp_path / "cut").mkdir()
        seen = set()
        for end in [*range(0, len(data), 7), len(data) - 1]:
            (tmp_path / "cut" / "x.tfevents.1").write_bytes(data[:end])
            run = only_run(tmp_path / "cut")
            seen.add(len(run.growths))
            assert len(run.left_out) <= 1
        assert seen == {0, 1}
        assert "not whole" in run.left_out[0]

    @pytest.mark.parametrize("seed", range(20))
    def test_bytes_that_are_turned_over(self, tmp_path, seed):
        with RunWriter(tmp_path) as writer:
            writer.network(NETWORK)
            for step in range(5):
                writer.scalar("loss", 1.0, step)
                writer.growth(an_event(step=step))
        path = event_file(tmp_path)
        data, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
        for place in rng.integers(len(data), size=8):
            data[place] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        (tmp_path / events.FILE_NAME).unlink()
        run = only_run(tmp_path)
        for step in run.sites:
            assert isinstance(run.sites[step], list)
        assert all("Traceback" not in line for line in run.left_out)

    def test_a_record_of_absurd_length(self, tmp_path):
        from tensorboard.summary.writer.record_writer import RecordWriter

        with RunWriter(tmp_path) as writer:
            writer.scalar("loss", 1.0, 1)
        with open(event_file(tmp_path), "ab") as file:
            RecordWriter(file).write(b"not an event \xff\xff\xff")
            import struct

            from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

            header = struct.pack("<Q", 2**62)
            file.write(header + struct.pack("<I", masked_crc32c(header)) + b"x" * 50)
        run = only_run(tmp_path)
        assert len(run.scalars["loss"]) == 1
        assert len(run.left_out) == 2
        assert "it is no event" in run.left_out[0]
        assert "damaged at byte" in run.left_out[1]

    def test_sites_that_cannot_be_read_are_told_when_looked_at(self, tmp_path):
        with RunWriter(tmp_path) as writer:
            event = writer._event(7)
            writer._tensor(event, {records.SITES: b"nonsense"})
            event = writer._event(8)
            writer._tensor(event, {records.GROWTH: b"[]", records.NETWORK: b"\0"})
        run = only_run(tmp_path)
        assert len(run.left_out) == 2
        assert run.sites[7] == []
        assert run.sites[7] == []
        assert run.left_out[-1].startswith("Step 7: what grew was left out: ")
        assert len(run.left_out) == 3

    def test_many_bad_records_are_told_in_few_words(self, tmp_path):
        with RunWriter(tmp_path) as writer:
            for step in range(100):
                writer._tensor(writer._event(step), {records.GROWTH: b"[]"})
        assert len(only_run(tmp_path).left_out) == 21

    def test_lines_of_nonsense_among_lines_of_sense(self, tmp_path):
        events.append(tmp_path, an_event(step=1))
        with open(tmp_path / events.FILE_NAME, "a") as file:
            file.write('{"step": 3}\n[[[[\n"<script>"\n\n')
        events.append(tmp_path, an_event(step=2))
        run = only_run(tmp_path)
        assert [g.step for g in run.growths] == [1, 2]
        assert len(run.left_out) == 4
        assert "line 2" in run.left_out[0]

    def test_names_of_folders_and_tags(self, tmp_path):
        name = "<b>run</b>\x1b[31m"
        with RunWriter(tmp_path / name) as writer:
            writer.scalar("\x1b]0;loss<img>", 1.0, 1)
            writer.scalar("\x1b]0;loss<img>", 2.0, 2)
        run = only_run(tmp_path)
        assert run.name == "<b>run<\ufffdb>\ufffd[31m".replace("\ufffdb", "/b")
        (tag,) = run.scalars
        assert "\x1b" not in tag
        assert len(run.scalars[tag]) == 2

    def test_a_pipe_and_a_link_to_above(self, tmp_path):
        with RunWriter(tmp_path / "a") as writer:
            writer.scalar("loss", 1.0, 1)
        os.mkfifo(tmp_path / "a" / "pipe.tfevents.9")
        (tmp_path / "a" / "loop").symlink_to(tmp_path)
        assert only_run(tmp_path).scalars["loss"].values.tolist() == [1.0]

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(GrowthError, match="does not exist"):
            read_runs(tmp_path / "nowhere")
        (tmp_path / "file").touch()
        with pytest.raises(GrowthError, match="is a file"):
            Follower(tmp_path / "file")
        assert read_runs(tmp_path) == []


class TestDisk:
    def test_a_folder_that_is_a_file(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(GrowthError, match=r"cannot be written to: .*exists.*log_dir"):
            RunWriter(tmp_path / "file")

    def test_a_full_disk(self, tmp_path):
        """A limit on the size of files stands for it; what was written before is whole."""
        code = """
            import resource, signal, sys
            from keras_grow.errors import GrowthError
            from keras_grow.logs.writing import RunWriter
            from helpers.records import an_event
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            writer = RunWriter(sys.argv[1])
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
            for step in range(1000):
                try:
                    writer.growth(an_event(step=step))
                except GrowthError as error:
                    print(step, error)
                    break
            try:
                writer.growth(an_event(step=step))
            except GrowthError as error:
                print(error)
            writer.close()
        """
        first, second = python(code, tmp_path).splitlines()
        step, _, message = first.partition(" ")
        assert "cannot be written to: File too large" in message
        assert "closed, because the folder could not be written to" in second
        assert len(only_run(tmp_path).growths) >= int(step) > 0

    def test_nothing_is_lost_when_the_process_is_killed_after_a_growth(self, tmp_path):
        code = """
            import sys, time
            from keras_grow.logs.writing import RunWriter
            from helpers.records import an_event
            writer = RunWriter(sys.argv[1])
            for step in range(1, 4):
                writer.scalar("loss", step, step)
                writer.growth(an_event(step=step))
            print("now", flush=True)
            time.sleep(100)
        """
        process = python(code, tmp_path, wait=False)
        assert process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        run = only_run(tmp_path)
        assert [g.step for g in run.growths] == [1, 2, 3]
        assert len(run.scalars["loss"]) == 3
        assert len(events.read(tmp_path)) == 3
        RunWriter(tmp_path, step=3).close()  # its lock has gone with it

    def test_nothing_is_lost_when_the_program_ends_by_an_error(self, tmp_path):
        code = """
            import sys
            from keras_grow.logs.writing import RunWriter
            writer = RunWriter(sys.argv[1])
            for step in range(1, 2500):
                writer.scalar("loss", step, step)
            raise SystemExit(0)
        """
        python(code, tmp_path)
        assert only_run(tmp_path).scalars["loss"].steps.tolist() == list(range(1, 2500))

    def test_another_process_is_refused(self, tmp_path):
        code = """
            import sys
            from keras_grow.logs.writing import RunWriter
            writer = RunWriter(sys.argv[1])
            print("now", flush=True)
            sys.stdin.read()
        """
        process = python(code, tmp_path, wait=False, stdin=subprocess.PIPE)
        assert process.stdout.readline() == "now\n"
        with pytest.raises(GrowthError, match="Another process is writing"):
            RunWriter(tmp_path)
        process.communicate("")
        RunWriter(tmp_path).close()

    def test_a_second_writer_takes_over_and_the_first_says_so(self, tmp_path):
        first = RunWriter(tmp_path)
        first.scalar("loss", 1.0, 1)
        second = RunWriter(tmp_path, step=1)
        with pytest.raises(GrowthError, match="another one was opened there"):
            first.scalar("loss", 2.0, 2)
        first.close()
        second.scalar("loss", 3.0, 2)
        second.close()
        with pytest.raises(GrowthError, match="is closed"):
            second.scalar("loss", 3.0, 3)
        assert only_run(tmp_path).scalars["loss"].values.tolist() == [1.0, 3.0]

    def test_a_line_cut_off_by_a_crash_is_cut_away(self, tmp_path):
        events.append(tmp_path, an_event(step=1))
        path = tmp_path / events.FILE_NAME
        whole = path.read_bytes()
        path.write_bytes(whole + whole[:-1] * 20)  # longer than what is looked at at once
        events.append(tmp_path, an_event(step=2))
        assert [e.step for e in events.read(tmp_path)] == [1, 2]
        path.write_bytes(b"no line at all" * 1000)
        events.append(tmp_path, an_event(step=3))
        assert [e.step for e in events.read(tmp_path)] == [3]

    def test_appending_does_not_read_what_is_there(self, tmp_path):
        """It once read the whole file at every growth."""
        path = tmp_path / events.FILE_NAME
        with open(path, "wb") as file:
            file.truncate(3 * 2**30)  # without taking place on the disk
            file.seek(0, os.SEEK_END)
            file.write(b"\n")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        events.append(tmp_path, an_event())
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


WRITE_AND_READ = """
    import sys
    from keras_grow.logs.reading import read_runs
    from keras_grow.logs.writing import RunWriter
    from helpers.records import an_event
    with RunWriter(sys.argv[1]) as writer:
        writer.scalar("loss", 1.0, 1)
        writer.growth(an_event())
    (run,) = read_runs(sys.argv[1])
    print(len(run.growths), sorted(run.scalars), run.left_out)
    print([m for m in ("tensorflow", "keras", "torch", "jax") if m in sys.modules])
"""


class TestPackages:
    def test_neither_tensorflow_nor_keras_is_imported(self, tmp_path):
        assert python(WRITE_AND_READ, tmp_path).splitlines() == ["1 ['loss'] []", "[]"]

    def test_neither_is_needed(self, tmp_path):
        hidden = ("tensorflow", "keras", "torch", "jax")
        found = python(WRITE_AND_READ, tmp_path, hidden=hidden)
        assert found.splitlines() == ["1 ['loss'] []", "[]"]

    def test_without_tensorboard_there_are_lines_and_one_warning(self, tmp_path):
        code = """
            import sys, warnings
            warnings.simplefilter("always")
            with warnings.catch_warnings(record=True) as told:
        """ + textwrap.indent(textwrap.dedent(WRITE_AND_READ), " " * 16)
        code = textwrap.dedent(code) + "\nfor w in told: print(w.message)"
        found = python(code, tmp_path, hidden=("tensorboard",)).splitlines()
        assert found[:2] == ["1 [] []", "[]"]
        assert len(found) == 3
        assert "pip install keras-grow[tensorboard]" in found[2]
        assert [p.name for p in tmp_path.iterdir()] == [events.FILE_NAME]

    def test_event_files_without_tensorboard(self, tmp_path):
        with RunWriter(tmp_path / "run") as writer:
            writer.growth(an_event())
        code = """
            import sys
            from keras_grow.errors import GrowthError
            from keras_grow.logs.reading import read_runs
            try:
                (run,) = read_runs(sys.argv[1])
                print(len(run.growths), run.left_out)
            except GrowthError as error:
                print(error)
        """
        found = python(code, tmp_path, hidden=("tensorboard",))
        assert found.startswith("1 ['Loss and metrics were left out")
        (tmp_path / "run" / events.FILE_NAME).unlink()
        found = python(code, tmp_path, hidden=("tensorboard",))
        assert "Install with: pip install keras-grow[tensorboard]" in found


def test_json_lines_hold_whole_spectra(tmp_path):
    event = an_event(sites=[a_site(0, 3000)])
    with RunWriter(tmp_path) as writer:
        writer.growth(event)
    (line,) = (tmp_path / events.FILE_NAME).read_text().splitlines()
    assert json.loads(line) == json.loads(json.dumps(event.to_dict()))
    assert len(only_run(tmp_path).sites[400][0].singular_values) == records.SPECTRUM_LIMIT
