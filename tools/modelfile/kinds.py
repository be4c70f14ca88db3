"""What a file is, by its first bytes, and what to say when it is no saved Keras model."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

from keras_grow.tools.cli.errors import InputError

KERAS, H5 = "keras", "h5"

#: The endings by which Keras tells the two formats.
KERAS_SUFFIX = ".keras"
H5_SUFFIXES = (".h5", ".hdf5")

_H5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

_WANTED = "A model to read is what model.save('name.keras') writes."

#: Ending -> what such a file is.
_BY_SUFFIX = {
    ".onnx": "an ONNX model, which Keras cannot read",
    ".safetensors": "a safetensors file: weights only, and not the layers they belong to",
    ".gguf": "a GGUF file, which Keras cannot read",
    ".pb": "a TensorFlow graph or SavedModel, which Keras 3 cannot read",
    ".npz": "a NumPy archive: arrays, and not the layers they belong to",
}


def model_format(path: Path) -> str:
    """``KERAS`` or ``H5``: the format of the file at ``path``, which ends as it should.

    Only the kind of file and its first bytes are looked at, so a pipe or a device is never opened.

    Raises:
        InputError: there is no such file, it is no regular file, it cannot be read, or it is
            something else than a saved Keras model; the message says what.
    """
    _check_regular(path)
    try:
        with path.open("rb") as file:
            start = file.read(512)
        is_zip = zipfile.is_zipfile(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    if start.startswith(_H5_SIGNATURE):
        _check_ending(path, H5_SUFFIXES, ".h5")
        if path.name.endswith((".weights.h5", ".weights.hdf5")):
            raise InputError(
                f"{path} holds weights only, and not the layers they belong to. Load them into "
                "the model in Python, save it with model.save('name.keras'), and give that file."
            )
        return H5
    if is_zip:
        _check_zip_is_keras(path)
        _check_ending(path, (KERAS_SUFFIX,), ".keras")
        return KERAS
    raise InputError(f"{path} is not a saved Keras model: {_describe(path, start)} {_WANTED}")


def _check_regular(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise InputError(f"There is no file {path} (looked in {Path.cwd()}).") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read: {reason}.") from error
    if stat.S_ISDIR(mode):
        what = "A model to read is one file, ending in .keras or .h5"
        if (path / "saved_model.pb").exists():
            raise InputError(
                f"{path} is a directory that holds a TensorFlow SavedModel, which Keras 3 cannot "
                f"read. {what}: save the model again with a Keras version that loads it, with "
                "model.save('name.keras')."
            )
        raise InputError(
            f"{path} is a directory. {what}; a TensorFlow SavedModel directory cannot be read by "
            "Keras 3."
        )
    if not stat.S_ISREG(mode):
        kinds = {
            stat.S_IFIFO: "a named pipe",
            stat.S_IFSOCK: "a socket",
            stat.S_IFCHR: "a device",
            stat.S_IFBLK: "a device",
        }
        raise InputError(
            f"{path} is {kinds.get(stat.S_IFMT(mode), 'no regular file')}. A model is read from a "
            "regular file; save what comes out of it there first."
        )
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read: Permission denied.")


def _check_ending(path: Path, endings: tuple[str, ...], content: str) -> None:
    if path.suffix not in endings:
        raise InputError(
            f"Keras tells a file's format by its ending, and {path.name} ends in "
            f"{path.suffix or 'nothing'!r}, but its content is that of a {content} file. Rename "
            "it."
        )


def _check_zip_is_keras(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is a damaged zip file: {error}. {_WANTED}") from error
    if "config.json" in names:
        return
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        what = "it is a PyTorch checkpoint (a zip with a Python pickle), which Keras cannot read"
    elif any(name.endswith(".npy") for name in names):
        what = "it is a NumPy archive: arrays, and not the layers they belong to"
    else:
        what = "it holds no config.json"
    raise InputError(f"{path} is a zip file but no saved Keras model: {what}. {_WANTED}")


def _describe(path: Path, start: bytes) -> str:
    text = start.lstrip().lower()
    if not start:
        return "the file is empty."
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "it is a Python pickle, which runs code when it is loaded; it was not opened."
    if start[4:8] == b"TFL3":
        return "it is a TensorFlow Lite model, which Keras cannot read."
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, and the model itself was not fetched: run git lfs pull."
    if text.startswith((b"<!doctype html", b"<html")):
        return "it is a web page, perhaps in place of a download that failed."
    if start.startswith(b"\x1f\x8b"):
        return "it is compressed with gzip; unpack it first."
    if start.startswith(b"PK\x03\x04"):
        return "it begins like a zip file and breaks off (neither a zip nor an HDF5 file)."
    if path.suffix.lower() in _BY_SUFFIX:
        return f"it is {_BY_SUFFIX[path.suffix.lower()]}."
    return "it is neither a zip nor an HDF5 file."
