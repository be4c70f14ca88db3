"""Write files completely or not at all, and never over another without being told to."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from keras_grow.tools.cli.errors import InputError, one_paragraph

if TYPE_CHECKING:
    import keras


def check_output(path: Path, force: bool, endings: tuple[str, ...] = (".keras",)) -> None:
    """Refuse, before any work is done, an output path that could not be written.

    Raises:
        InputError: if ``path`` has none of the ``endings``, exists (and ``force`` is not set), is
            no regular file, or lies in a folder that is missing or cannot be written to.
    """
    if path.suffix not in endings:
        wanted = (
            ".keras, the format that Keras 3 writes"
            if endings == (".keras",)
            else " or ".join(endings)
        )
        raise InputError(f"The output must end in {wanted}. Received: {path}")
    if path.is_dir():
        raise InputError(f"The output {path} is a directory. Give the name of a file.")
    if path.exists() and not path.is_file():
        raise InputError(f"The output {path} is no regular file. Give another name.")
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

    Raises:
        InputError: as :func:`check_output`, or if the file cannot be written.
    """
    write_file(path, model.save, force)


def write_file(
    path: Path,
    write: Callable[[Path], object],
    force: bool,
    endings: tuple[str, ...] = (".keras",),
) -> None:
    """Have ``write`` write a file at ``path``, completely or not at all.

    It is written under a temporary name in the same folder, and renamed when it is complete.

    Raises:
        InputError: as :func:`check_output`, or if the file cannot be written.
    """
    check_output(path, force, endings)
    temporary = path.with_name(f".{path.stem[:100]}-{uuid.uuid4().hex}{path.suffix}")
    try:
        write(temporary)
        check_output(path, force, endings)  # another program may have written it in the meantime
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"{path} could not be written: {error.strerror or one_paragraph(error)}."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
