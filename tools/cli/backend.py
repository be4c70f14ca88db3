"""Choose the Keras backend before Keras is imported, and tell which one was chosen and why.

Keras takes its backend once, when it is first imported, and its own default (TensorFlow) may not
be installed. So the command line looks for the user's choice where Keras looks for it, and only
where there is none takes a backend that is there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from keras_grow.tools.cli.errors import InputError

#: In the order in which they are tried when the user has chosen none: quickest start first.
BACKENDS = ("jax", "torch", "tensorflow")


@dataclass(frozen=True)
class ChosenBackend:
    """A backend's name and, in words, who chose it."""

    name: str
    reason: str


def installed_backends() -> list[str]:
    """The backends that can be imported here, in the order of :data:`BACKENDS`."""
    return [name for name in BACKENDS if importlib.util.find_spec(name) is not None]


def choose_backend(wanted: str | None = None) -> ChosenBackend:
    """Decide which backend Keras will run on, and tell Keras through ``KERAS_BACKEND``.

    The order is: ``wanted`` (the ``--backend`` option), the environment variable
    ``KERAS_BACKEND``, ``keras.json`` where it names an installed backend, and then the first
    installed one of :data:`BACKENDS`. A ``keras.json`` which names a backend that is not
    installed does not count as a choice: Keras writes that file by itself, with its own default
    in it, the first time it is imported.

    Raises:
        InputError: if no backend is installed, if the one asked for is not, or if Keras is
            already running on another one in this process.
    """
    running = _running_backend()
    if running is not None:
        if wanted not in (None, running):
            raise InputError(
                f"Keras is already running on the {running} backend in this process, so it "
                f"cannot change to {wanted}. Start a new process with KERAS_BACKEND={wanted}."
            )
        return ChosenBackend(running, "it was already running in this process")
    choice = _decide(wanted)
    os.environ["KERAS_BACKEND"] = choice.name
    # TensorFlow's start-up notes on stderr would drown the one line which we have to say.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return choice


def _running_backend() -> str | None:
    keras = sys.modules.get("keras")
    return None if keras is None else str(keras.backend.backend())


def _decide(wanted: str | None) -> ChosenBackend:
    installed = installed_backends()
    if not installed:
        raise InputError(
            "Keras needs a backend, and none of "
            f"{', '.join(BACKENDS)} is installed in {sys.executable}. Install one, for example "
            "with: pip install jax"
        )
    for name, reason in (
        (wanted, "--backend asked for it"),
        (os.environ.get("KERAS_BACKEND"), "the environment variable KERAS_BACKEND asks for it"),
    ):
        if name:
            if name in BACKENDS and name not in installed:
                raise InputError(
                    f"The {name} backend is not installed, although {reason}. Install it with: "
                    f"pip install {name}; or choose one that is there with --backend "
                    f"{'|'.join(installed)}."
                )
            if name not in BACKENDS:
                raise InputError(
                    f"{name!r} is not a backend on which models can be trained, although "
                    f"{reason}. Choose one that is installed: {', '.join(installed)}."
                )
            return ChosenBackend(name, reason)
    configured = _configured_backend()
    if configured in installed:
        return ChosenBackend(configured, f"{_config_path()} asks for it")
    return ChosenBackend(installed[0], "it is installed and no other one was asked for")


def _config_path() -> Path:
    home = os.environ.get("KERAS_HOME")
    folder = Path(home).expanduser() if home else Path.home() / ".keras"
    return folder / "keras.json"


def _configured_backend() -> str:
    try:
        config = json.loads(_config_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""  # no such file, or one which Keras does not read either
    return str(config.get("backend", "")) if isinstance(config, dict) else ""
