"""The zip archive of a .keras file, checked before anything is taken out of it."""

from __future__ import annotations

import lzma
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from keras_grow.tools.cli.errors import InputError
from keras_grow.tools.words import size

CONFIG, WEIGHTS = "config.json", "model.weights.h5"

#: More members, and larger texts, than any model has.
_MAX_MEMBERS = 100_000
_MAX_TEXT = 64 * 2**20
#: Keras writes its members uncompressed; archives that were packed again shrink by a few times,
#: and zeros by a thousand times.
_FREE_SIZE = 256 * 2**20
_MAX_EXPANSION = 200

_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
)
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


class Archive:
    """A .keras file whose members are named, and as large, as a model's may be."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self._archive = archive
        self._check()

    def _refuse(self, reason: str) -> InputError:
        return InputError(f"{self.path} was not opened: {reason}")

    def _check(self) -> None:
        members = self._archive.infolist()
        if len(members) > _MAX_MEMBERS:
            raise self._refuse(f"it is a zip file of {len(members):,} members.")
        seen: set[str] = set()
        for member in members:
            name = member.filename
            if _leaves_the_folder(name):
                raise self._refuse(
                    f"its member {name!r} would be written outside of the folder it is unpacked "
                    "in. Keras writes no such names; the file is hostile or damaged."
                )
            if name in seen:
                raise self._refuse(f"it holds {name!r} twice, so what it means is undecided.")
            seen.add(name)
            kind = member.external_attr >> 16
            if stat.S_IFMT(kind) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise self._refuse(f"its member {name!r} is a link or a special file.")
            if member.flag_bits & 1:
                raise self._refuse(f"its member {name!r} is encrypted.")
            if member.compress_type not in _COMPRESSIONS:
                raise self._refuse(f"its member {name!r} is compressed in an unknown way.")
        unpacked = sum(member.file_size for member in members)
        packed = self.path.stat().st_size
        if unpacked > max(_FREE_SIZE, _MAX_EXPANSION * packed):
            raise self._refuse(
                f"it is {size(packed)} and would unpack to {size(unpacked)}. A saved model does "
                "not shrink that much; this is a zip bomb or a damaged file."
            )

    def text(self, name: str) -> str:
        """The content of a member that holds text.

        Raises:
            InputError: it is damaged, too large, or no UTF-8.
        """
        declared = self._archive.getinfo(name).file_size
        if declared > _MAX_TEXT:
            raise self._refuse(f"its {name} is {size(declared)}, and at most {size(_MAX_TEXT)} "
                               "are read.")  # fmt: skip
        with self._reading(name):
            content = self._archive.read(name)
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{self.path} is damaged: its {name} is no UTF-8 text.") from None

    @contextmanager
    def file(self, name: str) -> Iterator[IO[bytes]]:
        """A member as a file in which one can seek; its checksum is compared first.

        Keras itself goes on when a checksum is wrong.

        Raises:
            InputError: it is missing or damaged.
        """
        if name not in self._archive.namelist():
            raise InputError(
                f"{self.path} holds no {name}, so the model's weights are missing. Save the model "
                "again with model.save('name.keras')."
            )
        with tempfile.SpooledTemporaryFile(max_size=_FREE_SIZE) as copy:
            with self._reading(name), self._archive.open(name) as member:
                while block := member.read(2**20):
                    copy.write(block)
            copy.seek(0)
            yield copy

    def check_rest(self, *but: str) -> None:
        """Compare the checksums of all members except those named.

        Raises:
            InputError: one is wrong.
        """
        for member in self._archive.infolist():
            if member.filename not in but and not member.is_dir():
                with self._reading(member.filename), self._archive.open(member) as file:
                    while file.read(2**20):
                        pass

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except _DAMAGED as error:
            raise InputError(
                f"{self.path} is damaged: its {name} cannot be unpacked ({error}). Copy or save "
                "the file again."
            ) from error


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """The checked archive at ``path``.

    Raises:
        InputError: it is damaged, or not made as Keras makes them.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is a damaged zip file: {error}.") from error
    with archive:
        yield Archive(path, archive)


def _leaves_the_folder(name: str) -> bool:
    windows = PureWindowsPath(name)
    return (
        not name
        or "\0" in name
        or PurePosixPath(name).is_absolute()
        or bool(windows.drive or windows.root)
        or ".." in windows.parts  # splits at both kinds of slash
    )
