"""The HDF5 file in which Keras keeps weights, checked before Keras reads it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from keras_grow.tools.cli.errors import InputError, one_paragraph
from keras_grow.tools.words import size

#: More groups and datasets than any model has.
_MAX_OBJECTS = 1_000_000
#: A dataset may be compressed; one that declares far more than it stores fills the memory.
_FREE_SIZE = 256 * 2**20
_MAX_EXPANSION = 200

_MAX_TEXT = 64 * 2**20


@contextmanager
def open_tensors(path: Path, file: Path | IO[bytes], name: str) -> Iterator[Any]:
    """The HDF5 file as a read-only ``h5py.File``; ``name`` says in errors what it is.

    Raises:
        InputError: it is no HDF5 file, or breaks off.
    """
    import h5py

    try:
        opened = h5py.File(file, "r")
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            f"{path} is damaged: {name} cannot be read as HDF5 "
            f"({one_paragraph(error, limit=200)}). Copy or save the file again."
        ) from error
    with opened:
        yield opened


def count_numbers(path: Path, tensors: Any) -> int:
    """How many numbers an HDF5 file declares, after a look at everything in it.

    Args:
        path: of the model, for errors.
        tensors: an open ``h5py.File``.

    Raises:
        InputError: it refers to other files or parts by links, virtual or external datasets, it
            declares far more than it stores, or it is damaged.
    """
    try:
        numbers, declared = _walk(path, tensors)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is damaged: its HDF5 content cannot be read "
            f"({one_paragraph(error, limit=200)}). Copy or save the file again."
        ) from error
    stored = path.stat().st_size
    if declared > max(_FREE_SIZE, _MAX_EXPANSION * stored):
        raise InputError(
            f"{path} was not loaded: it is {size(stored)} and its weights would be "
            f"{size(declared)}. Weights do not shrink that much; this is a hostile or a damaged "
            "file."
        )
    return numbers


def _walk(path: Path, tensors: Any) -> tuple[int, int]:
    import h5py

    def refuse(name: str, what: str) -> InputError:
        return InputError(
            f"{path} was not loaded: {name!r} in it {what}, which could read other files. Keras "
            "writes no such thing; the file is hostile or was put together by something else."
        )

    numbers = declared = objects = 0
    seen: set[int] = set()
    waiting = [tensors]
    while waiting:
        group = waiting.pop()
        for key in group:
            link = group.get(key, getlink=True)
            if not isinstance(link, h5py.HardLink):
                kind = "an external" if isinstance(link, h5py.ExternalLink) else "a soft"
                raise refuse(f"{group.name}/{key}".replace("//", "/"), f"is {kind} link")
            one = group[key]
            address = h5py.h5o.get_info(one.id).addr
            if address in seen:
                continue
            seen.add(address)
            objects += 1
            if objects > _MAX_OBJECTS:
                raise InputError(f"{path} was not loaded: it holds over {_MAX_OBJECTS:,} groups.")
            if isinstance(one, h5py.Group):
                waiting.append(one)
            elif isinstance(one, h5py.Dataset):
                if one.is_virtual:
                    raise refuse(one.name, "is a virtual dataset")
                if one.external:
                    raise refuse(one.name, "keeps its numbers in another file")
                count = math.prod(one.shape or (0,))
                numbers += count
                declared += count * one.dtype.itemsize
    return numbers, declared


def text_attribute(path: Path, tensors: Any, name: str) -> str | None:
    """The text in an attribute of an ``h5py.File``, such as ``model_config``; None if absent.

    Raises:
        InputError: it is no text, too long, or cannot be read.
    """
    try:
        if name not in tensors.attrs:
            return None
        stored = tensors.attrs.get_id(name)
        length = stored.get_storage_size()
        value = tensors.attrs[name] if length <= _MAX_TEXT else None
        if isinstance(value, bytes):
            value = value.decode("utf-8")
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is damaged: its {name} cannot be read ({one_paragraph(error, limit=200)})."
        ) from error
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise InputError(
            f"{path} is no saved Keras model: its {name} should be a text of at most "
            f"{size(_MAX_TEXT)}. Save the model again with model.save('name.keras')."
        )
    return value
