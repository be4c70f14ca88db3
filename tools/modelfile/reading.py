"""Read and write saved models, with every way it can go wrong told in a sentence."""

from __future__ import annotations

import os
import re
import uuid
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keras_grow.tools.errors import InputError, one_paragraph

if TYPE_CHECKING:
    import keras

_H5_SUFFIXES = (".h5", ".hdf5")
_H5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def load_model(path: Path, compile: bool = False) -> keras.Model:
    """Load the saved model at ``path``, in Keras' safe mode.

    With ``compile``, the loss, optimizer and metrics that were saved come with it; where they
    cannot be restored (a loss function of the author's own), the model comes without them and a
    warning on stderr says so.

    Raises:
        InputError: if there is no such file, if it is no saved Keras model, or if it needs
            Python code which is not Keras' own.
    """
    _check_is_model(path)
    import keras

    try:
        return keras.saving.load_model(path, compile=compile, safe_mode=True)
    except MemoryError:
        raise
    except Exception as error:  # whatever Keras stumbles over is the file's fault
        if compile:
            model = load_model(path, compile=False)
            click.echo(
                f"Warning: the training settings in {path} could not be restored and are left "
                f"out ({_cause(error)}); call compile() again before you train.",
                err=True,
            )
            return model
        raise InputError(_explain(path, error)) from error


def _check_is_model(path: Path) -> None:
    """Refuse, without Keras, whatever cannot be a saved model."""
    if path.is_dir():
        raise InputError(
            f"{path} is a directory. A model to read is one file, ending in .keras or .h5; a "
            "TensorFlow SavedModel directory cannot be read by Keras 3."
        )
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except FileNotFoundError:
        raise InputError(f"There is no file {path} (looked in {Path.cwd()}).") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    is_keras, is_h5 = zipfile.is_zipfile(path), start == _H5_SIGNATURE
    if path.suffix == ".keras" and is_keras:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
        if "config.json" not in names:
            raise InputError(
                f"{path} is a zip file but no saved Keras model: it holds no config.json. "
                "A model to read is what model.save('name.keras') writes."
            )
    elif path.suffix in _H5_SUFFIXES and is_h5:
        if path.name.endswith(".weights.h5"):
            raise InputError(
                f"{path} holds weights only, and not the layers they belong to. Load them into "
                "the model in Python, save it with model.save('name.keras'), and give that file."
            )
    elif is_keras or is_h5:
        raise InputError(
            f"Keras tells a file's format by its ending, and {path.name} ends in "
            f"{path.suffix or 'nothing'!r}, but its content is that of a "
            f"{'.keras' if is_keras else '.h5'} file. Rename it."
        )
    else:
        raise InputError(
            f"{path} is not a saved Keras model (it is neither a zip nor an HDF5 file). "
            "A model to read is what model.save('name.keras') writes."
        )


def _cause(error: Exception) -> str:
    text = str(error)
    missing = re.search(r"Could not locate (class|function) '([^']+)'", text)
    missing = missing or re.search(
        r"Unknown (layer|loss function|metric function): '([^']+)'", text
    )
    if missing:
        return f"it uses the {missing[1]} {missing[2]!r}, which is not part of Keras"
    # Keras appends the whole configuration to its messages; the last line names the reason.
    return one_paragraph(text, limit=300)


def _explain(path: Path, error: Exception) -> str:
    cause = _cause(error)
    in_python = (
        "use keras_grow from Python, where you can load it yourself: "
        "keras.saving.load_model({path!r}{argument}), then keras_grow.widen(model, ...)."
    )
    if "safe_mode" in str(error) or "unsafe" in str(error):
        return (
            f"{path} carries Python code of its own (a Lambda layer), which would be run when it "
            "is loaded. This command keeps Keras' safe mode on and has no option to turn it off. "
            "If you trust the file, "
            + in_python.format(path=str(path), argument=", safe_mode=False")
        )
    if "is not part of Keras" in cause:
        return (
            f"{path} cannot be loaded here: {cause}. This command reads models made of Keras' own "
            "classes (safe mode stays on, and no other code is imported). With a class of your "
            "own, " + in_python.format(path=str(path), argument=", custom_objects={...}")
        )
    return f"Keras cannot load {path}: {cause}"


def check_output(path: Path, force: bool) -> None:
    """Refuse, before any work is done, an output path that could not be written.

    Raises:
        InputError: if ``path`` does not end in .keras, exists (and ``force`` is not set), is a
            directory, or lies in a folder that is missing or cannot be written to.
    """
    if path.suffix != ".keras":
        raise InputError(
            f"The output must end in .keras, the format that Keras 3 writes. Received: {path}"
        )
    if path.is_dir():
        raise InputError(f"The output {path} is a directory. Give the name of a file.")
    if path.exists() and not force:
        raise InputError(f"{path} exists already. Give another name, or --force to replace it.")
    folder = path.parent
    if not folder.exists():
        raise InputError(f"The folder of the output, {folder}, does not exist. Create it first.")
    if not folder.is_dir():
        raise InputError(f"The folder of the output, {folder}, is not a folder but a file.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"The folder of the output, {folder}, cannot be written to.")


def save_model(model: keras.Model, path: Path, force: bool) -> None:
    """Save ``model`` at ``path`` completely or not at all.

    It is written under a temporary name in the same folder, and renamed when it is complete.

    Raises:
        InputError: as :func:`check_output`, or if the file cannot be written.
    """
    check_output(path, force)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.keras")
    try:
        model.save(temporary)
        check_output(path, force)  # another program may have written it in the meantime
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"{path} could not be written: {error.strerror or one_paragraph(error)}."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
