"""Which backend the command line takes when, and what it says when there is none."""

import json
import os
import sys

import keras
import pytest

from keras_grow.tools.cli import backend
from keras_grow.tools.cli.backend import choose_backend
from keras_grow.tools.cli.errors import InputError


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A process in which nobody has chosen a backend and Keras is not imported yet."""
    monkeypatch.setenv("KERAS_BACKEND", "")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setattr(backend, "installed_backends", lambda: ["jax", "torch"])
    return tmp_path


def test_the_first_installed_one_is_taken(fresh):
    choice = choose_backend()
    assert choice.name == os.environ["KERAS_BACKEND"] == "jax"
    assert "no other one was asked for" in choice.reason


def test_the_option_wins_over_the_environment(fresh, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert choose_backend("torch").name == "torch"
    assert os.environ["KERAS_BACKEND"] == "torch"


def test_the_environment_wins_over_the_configuration_file(fresh, monkeypatch):
    (fresh / "keras.json").write_text(json.dumps({"backend": "jax"}), encoding="utf-8")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert choose_backend().name == "torch"


def test_the_configuration_file_counts(fresh):
    (fresh / "keras.json").write_text(json.dumps({"backend": "torch"}), encoding="utf-8")
    choice = choose_backend()
    assert choice.name == "torch"
    assert "keras.json" in choice.reason


@pytest.mark.parametrize("content", ['{"backend": "tensorflow"}', "{broken", "[]", "{}"])
def test_a_configuration_file_that_names_none_that_is_there_does_not(fresh, content):
    # Keras itself writes {"backend": "tensorflow"} there when it is first imported.
    (fresh / "keras.json").write_text(content, encoding="utf-8")
    assert choose_backend().name == "jax"


def test_one_that_is_not_installed_is_refused_with_the_way_out(fresh, monkeypatch):
    with pytest.raises(InputError, match=r"pip install tensorflow.*--backend jax\|torch"):
        choose_backend("tensorflow")
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(InputError, match="KERAS_BACKEND asks for it"):
        choose_backend()


def test_one_that_cannot_train_is_refused(fresh, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    with pytest.raises(InputError, match=r"'numpy'.*jax, torch"):
        choose_backend()


def test_none_installed(fresh, monkeypatch):
    monkeypatch.setattr(backend, "installed_backends", list)
    with pytest.raises(InputError, match="pip install jax"):
        choose_backend()


@pytest.mark.every_backend
def test_a_running_backend_cannot_be_changed():
    running = keras.backend.backend()
    assert choose_backend().name == choose_backend(running).name == running
    other = next(name for name in backend.BACKENDS if name != running)
    with pytest.raises(InputError, match=f"already running on the {running}.*{other}"):
        choose_backend(other)


def test_installed_backends_are_found():
    assert keras.backend.backend() in backend.installed_backends()
