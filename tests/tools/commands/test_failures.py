"""Every kind of bad input: one paragraph, the documented exit code, nothing written."""

import os
import re
from pathlib import Path

import keras
import pytest


def assert_refused(result, *patterns, code=2):
    """One readable paragraph on stderr which matches, nothing on stdout, no traceback."""
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    paragraph = result.stderr.partition("Error: ")[2].strip()
    assert paragraph
    assert "\n" not in paragraph
    assert len(paragraph) < 1000
    for pattern in patterns:
        assert re.search(pattern, paragraph), (pattern, paragraph)


UNREADABLE = {
    "missing.keras": r"no file .*missing\.keras",
    "noise.keras": "not a saved Keras model",
    "noise.h5": "not a saved Keras model",
    "empty.keras": "not a saved Keras model",
    "text.keras": "not a saved Keras model",
    "zip.keras": r"no config\.json",
    "junk_config.keras": r"damaged: its config\.json is no JSON",
    "cut.keras": "not a saved Keras model",
    "misnamed.bin": "Rename it",
    "directory.keras": "is a directory",
    "only.weights.h5": "weights only",
    "lambda.keras": "layer 'twice' holds Python code.*--trust",
    "custom.keras": "'_Outsider'.*--custom",
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("command", ["inspect", "widen", "verify"])
def test_a_file_that_is_no_model(run, bad, good, tmp_path, snapshot, command, name):
    before = snapshot(bad)
    rest = {
        "inspect": ["--json"],
        "widen": ["first=8", "-o", tmp_path / "out.keras"],
        "verify": [good / "net.keras"],
    }[command]
    assert_refused(run(command, bad / name, *rest), UNREADABLE[name])
    assert snapshot(bad) == before
    assert list(tmp_path.iterdir()) == []


def test_verify_checks_its_second_file_too(run, good, bad):
    assert_refused(run("verify", good / "net.keras", bad / "text.keras"), r"text\.keras")


@pytest.mark.parametrize(
    ("widths", "patterns"),
    [
        (["innr=5"], ["innr", "inner"]),
        (["head=5"], ["head", "output"]),
        (["flatten=9"], ["flatten"]),
        (["inner=3"], ["inner", "3"]),
        (["inner=2"], ["inner", "2"]),
        (["inner=0"], ["inner"]),
        (["stem=6", "body=7"], ["stem|body"]),
    ],
)
def test_widths_the_library_refuses(run, good, tmp_path, snapshot, widths, patterns):
    before = snapshot(good)
    result = run("widen", good / "net.keras", *widths, "-o", tmp_path / "out.keras")
    assert_refused(result, *patterns)
    assert snapshot(good) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["inner", "inner=", "=5", "inner=five", "inner=-5", "inner=5.0"])
def test_widths_that_cannot_be_read(run, good, tmp_path, text):
    result = run("widen", good / "net.keras", "-o", tmp_path / "out.keras", "--", text)
    assert_refused(result, "LAYER=WIDTH", "conv_1=96")
    assert list(tmp_path.iterdir()) == []


def test_two_widths_for_one_layer(run, good, tmp_path):
    result = run("widen", good / "net.keras", "inner=5", "inner=6", "-o", tmp_path / "out.keras")
    assert_refused(result, "inner is given two widths, 5 and 6")


def test_no_widths(run, good, tmp_path):
    assert_refused(run("widen", good / "net.keras", "-o", tmp_path / "out.keras"), "LAYER=WIDTH")


@pytest.mark.parametrize("method", ["gradmx", "gradmax"])
def test_a_method_that_does_not_exist_or_needs_data(run, good, tmp_path, method):
    result = run(
        "widen", good / "net.keras", "inner=5", "-o", tmp_path / "o.keras", "--method", method
    )
    assert_refused(result, "gradmax|GradMax")
    assert list(tmp_path.iterdir()) == []


# --- the output path -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("out.h5", "must end in .keras"),
        ("out", "must end in .keras"),
        ("taken.keras", "exists already.*--force"),
        ("folder.keras", "is a directory"),
        ("nowhere/out.keras", "does not exist"),
        ("taken.keras/out.keras", "not a folder"),
    ],
)
def test_output_paths(run, good, tmp_path, snapshot, name, pattern):
    (tmp_path / "taken.keras").write_text("somebody's work", encoding="utf-8")
    (tmp_path / "folder.keras").mkdir()
    before = snapshot(tmp_path)
    assert_refused(run("widen", good / "net.keras", "inner=5", "-o", tmp_path / name), pattern)
    assert snapshot(tmp_path) == before


def test_an_output_folder_that_cannot_be_written_to(run, good, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):  # root may write anywhere, except where the kernel says no
        folder = Path("/proc")
        if not folder.is_dir():
            pytest.skip("running as root, and there is no /proc")
    result = run("widen", good / "net.keras", "inner=5", "-o", folder / "out.keras")
    assert_refused(result, "written")


def test_force_keeps_the_old_file_if_the_model_cannot_be_widened(run, good, tmp_path):
    out = tmp_path / "taken.keras"
    out.write_text("somebody's work", encoding="utf-8")
    assert_refused(run("widen", good / "net.keras", "innr=5", "-o", out, "--force"))
    assert out.read_text(encoding="utf-8") == "somebody's work"


# --- usage, --debug, what no check foresaw --------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["grow"],
        ["inspect"],
        ["inspect", "a.keras", "b.keras"],
        ["verify", "a.keras"],
        ["verify", "a.keras", "b.keras", "--samples", "0"],
        ["widen", "a.keras", "inner=5"],
        ["demo", "--seeds", "0"],
        ["inspect", "a.keras", "--backend", "numpy"],
    ],
)
def test_bad_usage(run, arguments):
    assert_refused(run(*arguments))


def test_debug_shows_the_traceback(run, bad):
    result = run("inspect", bad / "custom.keras", "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert "Error: " in result.stderr


def test_a_failure_nobody_foresaw(run, good, monkeypatch):
    import keras_grow

    def fails(*_, **__):
        raise RuntimeError("the disk\nis on fire")

    monkeypatch.setattr(keras_grow, "sites", fails)
    result = run("inspect", good / "net.keras")
    running = keras.backend.backend()
    assert_refused(result, "RuntimeError: the disk is on fire", running, "--debug", code=3)
    result = run("inspect", good / "net.keras", "--debug")
    assert result.exit_code == 3
    assert "Traceback" in result.stderr


def test_interrupted(run, good, monkeypatch):
    import keras_grow

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(keras_grow, "sites", interrupted)
    result = run("inspect", good / "net.keras")
    assert result.exit_code == 130
    assert "Traceback" not in result.stderr


def test_a_model_that_does_not_come_out_the_same_is_not_written(run, good, tmp_path, monkeypatch):
    import keras_grow

    widen = keras_grow.widen

    def broken_widen(*arguments, **options):
        model = widen(*arguments, **options)
        model.get_layer("head").bias.assign([1.0, -1.0])
        return model

    monkeypatch.setattr(keras_grow, "widen", broken_widen)
    result = run("widen", good / "net.keras", "inner=5", "-o", tmp_path / "out.keras")
    assert result.exit_code == 1
    assert "Nothing was written" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_demo_by_itself_finds_a_free_folder(tmp_path, monkeypatch):
    from keras_grow.tools.commands.demo import _free_folder

    monkeypatch.chdir(tmp_path)
    for expected in ("demo-out", "demo-out/run-2", "demo-out/run-3"):
        assert _free_folder() == Path(expected)
        Path(expected).mkdir()
        (Path(expected) / "results.json").write_text("{}", encoding="utf-8")
