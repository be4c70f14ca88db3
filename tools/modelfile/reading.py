"""Load a saved model: check the file, weigh what it asks for, and only then let Keras have it."""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_grow.tools.cli.errors import InputError, one_paragraph
from keras_grow.tools.modelfile import legacy
from keras_grow.tools.modelfile.archive import CONFIG, WEIGHTS, open_archive
from keras_grow.tools.modelfile.config import check_config, check_parts, parse_config
from keras_grow.tools.modelfile.kinds import KERAS, model_format
from keras_grow.tools.modelfile.tensors import count_numbers, open_tensors, text_attribute
from keras_grow.tools.modelfile.trust import Trust
from keras_grow.tools.words import size

if TYPE_CHECKING:
    import keras

#: A model asks for as many weights as its file holds. Some room for what is not saved (states of
#: random generators) or stored once and used several times; a hostile size is far beyond it.
_ROOM, _FACTOR = 1_000_000, 16
#: The group of an .h5 file with the optimizer's moments.
_STATE = "optimizer_weights"
#: Numbers that one sample may have anywhere in a model.
_MAX_SAMPLE = 2**32


@dataclass
class _Checked:
    """What the checks found out about a file.

    Attributes:
        config: the model's configuration, as Keras 3 reads it.
        numbers: how many numbers the file holds.
        legacy: whether `config` is that of an .h5 file.
        training: the training settings of an .h5 file as Keras 3 reads them; None: as they are.
        changed: whether the file's own configuration must be replaced.
        lost: what of the training settings has no place in Keras 3.
    """

    config: dict[str, Any]
    numbers: int
    legacy: bool = False
    training: dict[str, Any] | None = None
    changed: bool = False
    lost: tuple[str, ...] = ()


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of the model at ``path`` as it stands there, without Keras.

    The weights are not looked at, so this is quick for a file of any size.

    Raises:
        InputError: there is no such file, or it holds no configuration.
    """
    if model_format(path) == KERAS:
        with open_archive(path) as archive:
            return parse_config(path, archive.text(CONFIG), CONFIG)
    with open_tensors(path, path, "it") as tensors:
        text = text_attribute(path, tensors, "model_config")
        return parse_config(path, text or "null", "model_config")


def load_model(path: Path, compile: bool = False, trust: Trust | None = None) -> keras.Model:
    """Load the saved model at ``path``, in Keras' safe mode unless ``trust`` says otherwise.

    With ``compile``, the loss, optimizer and metrics that were saved come with it; where they
    cannot be restored (a loss function of the author's own), the model comes without them and a
    warning on stderr says so.

    Raises:
        InputError: if there is no such file, if it is no saved Keras model, if it is damaged or
            hostile, or if it needs Python code which is neither Keras' own nor vouched for.
    """
    trust = trust or Trust()
    checked = _check_file(path, trust)
    objects = trust.custom_objects()
    _check_demand(path, checked, trust, objects)
    with ExitStack() as stack:
        source = path
        if checked.changed:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="keras-grow-"))
            source = _upgraded_copy(path, checked, Path(folder))
        try:
            model = _load(source, compile, trust, objects)
        except MemoryError:
            raise
        except Exception as error:  # whatever Keras stumbles over is the file's fault
            if not compile:
                raise InputError(_explain(path, error)) from error
            try:
                model = _load(source, False, trust, objects)
            except Exception as second:
                raise InputError(_explain(path, second)) from second
            _warn_of_training(path, f"could not be restored and are left out ({_cause(error)})")
        else:
            if compile and checked.lost:
                lost = " and without ".join(checked.lost)
                _warn_of_training(path, f"were restored without {lost}", restored=True)
    import keras

    if not isinstance(model, keras.Model):
        raise InputError(
            f"{path} holds no model but a single {type(model).__name__}. Put it into a "
            "keras.Sequential and save that."
        )
    return model


def _load(path: Path, compile: bool, trust: Trust, objects: dict[str, Any]) -> Any:
    import keras

    return keras.saving.load_model(
        path, custom_objects=objects or None, compile=compile, safe_mode=not trust.code
    )


def _warn_of_training(path: Path, what: str, restored: bool = False) -> None:
    again = "" if restored else "; call compile() again before you train"
    click.echo(f"Warning: the training settings in {path} {what}{again}.", err=True)


# --- before Keras ---------------------------------------------------------------------------------


def _check_file(path: Path, trust: Trust) -> _Checked:
    if model_format(path) == KERAS:
        return _check_keras(path, trust)
    return _check_h5(path, trust)


def _check_keras(path: Path, trust: Trust) -> _Checked:
    with open_archive(path) as archive:
        config = parse_config(path, archive.text(CONFIG), CONFIG)
        check_config(path, config, trust)
        archive.check_rest(WEIGHTS)
        with (
            archive.file(WEIGHTS) as file,
            open_tensors(path, file, f"its {WEIGHTS}") as tensors,
        ):
            return _Checked(config, count_numbers(path, tensors))


def _check_h5(path: Path, trust: Trust) -> _Checked:
    with open_tensors(path, path, "it") as tensors:
        text = text_attribute(path, tensors, "model_config")
        if text is None:
            raise InputError(
                f"{path} has no model_config: it holds weights only, or is an HDF5 file of another "
                "program. Load the weights into the model in Python, save it with "
                "model.save('name.keras'), and give that file."
            )
        config = parse_config(path, text, "model_config")
        upgraded = legacy.upgrade_model(config)
        check_config(path, upgraded, trust)
        checked = _Checked(upgraded, 0, legacy=True, changed=upgraded != config)
        settings = text_attribute(path, tensors, "training_config")
        if settings is not None:
            training = parse_config(path, settings, "training_config")
            check_parts(path, training, trust)
            checked.training, lost = legacy.upgrade_training(training)
            checked.lost = tuple(lost)
            checked.changed = checked.changed or checked.training != training
        if _STATE in tensors:
            checked.lost += ("the optimizer's state, which Keras 3 cannot read from .h5 files",)
            checked.changed = True
        checked.numbers = count_numbers(path, tensors)
        return checked


def _upgraded_copy(path: Path, checked: _Checked, folder: Path) -> Path:
    """A copy of an .h5 file with the configuration that Keras 3 reads."""
    import h5py

    copy = folder / path.name
    try:
        shutil.copyfile(path, copy)
        with h5py.File(copy, "r+") as tensors:
            tensors.attrs["model_config"] = json.dumps(checked.config)
            if checked.training is not None:
                tensors.attrs["training_config"] = json.dumps(checked.training)
            if _STATE in tensors:
                # Keras 3 would build the optimizer for no variables at all, and leave it so.
                del tensors[_STATE]
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{path} was written by Keras 2 and could not be copied into the form that Keras 3 "
            f"reads ({one_paragraph(error, limit=200)})."
        ) from error
    return copy


# --- with Keras, without memory -------------------------------------------------------------------


def _check_demand(path: Path, checked: _Checked, trust: Trust, objects: dict[str, Any]) -> None:
    """Compare the weights that the model asks for with what its file holds.

    The model is built in a `keras.StatelessScope`, in which variables know their shapes and have
    no values. That scope leaves variables behind for the thread it is used in, hence a thread.
    """
    found: list[Any] = []

    def build() -> None:
        import keras

        try:
            with keras.StatelessScope(initialize_variables=False):
                model = _build(checked, trust, objects)
                found.append(_demand(model))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=build, name="keras-grow-weigh")
    thread.start()
    thread.join()
    (result,) = found
    if isinstance(result, Exception):
        if trust.code or trust.custom:
            return  # code of the user's own need not work without values
        raise InputError(_explain(path, result)) from result
    asked, largest, tensor = result
    if asked > _FACTOR * checked.numbers + _ROOM:
        raise InputError(
            f"{path} was not loaded: its configuration asks for {asked:,} weights "
            f"({size(4 * asked)} in float32; the largest are {largest}), but it holds "
            f"{checked.numbers:,}. It is damaged or hostile; no memory was taken for them."
        )
    if tensor is not None:
        raise InputError(
            f"{path} was not loaded: {tensor} for every sample, more than {_MAX_SAMPLE:,} numbers. "
            "It is damaged or hostile; no memory was taken for them."
        )


def _build(checked: _Checked, trust: Trust, objects: dict[str, Any]) -> Any:
    import keras

    config = json.loads(json.dumps(checked.config))  # Keras changes what it is given
    if not checked.legacy:
        config["compile_config"] = None
        return keras.saving.deserialize_keras_object(
            config, custom_objects=objects or None, safe_mode=not trust.code
        )
    kind = keras.Sequential if config["class_name"] == "Sequential" else keras.Model
    with keras.saving.CustomObjectScope(objects):
        return kind.from_config(config["config"])


def _demand(model: Any) -> tuple[int, str, str | None]:
    """The numbers of weights, the largest of them in words, and a tensor that is too large."""
    import keras

    if not isinstance(model, keras.Layer):
        return 0, "", None
    sizes = [(math.prod(map(int, v.shape)), v) for v in model.variables]
    largest = max(sizes, key=lambda one: one[0], default=None)
    words = "" if largest is None else f"{largest[1].path} of shape {tuple(largest[1].shape)}"
    waiting, tensor = [model], None
    while waiting and tensor is None:
        parent = waiting.pop()
        inside: Any = getattr(parent, "operations", None) or getattr(parent, "layers", ())
        for layer in inside:
            waiting.append(layer)
            try:
                outputs = keras.tree.flatten(layer.output)
            except (AttributeError, ValueError):
                continue  # called several times, or not at all
            for output in outputs:
                shape = tuple(getattr(output, "shape", ()))
                if math.prod(int(n) for n in shape[1:] if n) > _MAX_SAMPLE:
                    tensor = f"{layer.name!r} makes a tensor of shape {shape}"
    return sum(count for count, _ in sizes), words, tensor


# --- Keras' errors --------------------------------------------------------------------------------


def _cause(error: Exception) -> str:
    text = str(error)
    missing = re.search(r"Could not locate (class|function) '([^']+)'", text)
    missing = missing or re.search(
        r"Unknown (layer|loss function|metric function): '([^']+)'", text
    )
    if missing:
        return f"it uses the {missing[1]} {missing[2]!r}, which is not part of Keras"
    reason = text.rpartition("Exception encountered: ")[2]
    # Keras appends the whole configuration to its messages; the last line names the reason.
    return one_paragraph(reason, limit=300) or type(error).__name__


def _explain(path: Path, error: Exception) -> str:
    cause = _cause(error)
    if "safe_mode" in str(error) or "unsafe" in str(error):
        return (
            f"{path} carries Python code of its own (a Lambda layer), which would be run when it "
            "is loaded. Keras' safe mode stays on unless you vouch for the file: if you trust "
            "whoever made it, add --trust."
        )
    if "is not part of Keras" in cause:
        return (
            f"{path} cannot be loaded here: {cause}. This command reads models made of Keras' own "
            "classes. If it is a class of your own, or of a package that you trust, name it with "
            "--custom module:Class."
        )
    return f"Keras cannot load {path}: {cause}"
