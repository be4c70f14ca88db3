"""The growth history that a saved model carries inside its `.keras` file.

A `.keras` file is a zip archive in which Keras leaves room for assets; what it does not know there
it ignores, so the model loads without keras_grow. Neither Keras nor a backend is needed to read it.
"""

import json
import lzma
import os
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from keras_grow.errors import GrowthError
from keras_grow.logs import checking, records
from keras_grow.logs.events import GrowthEvent, SiteGrowth

FILE = "growth-history.json"
MEMBER = f"assets/{FILE}"
# Bytes that a history is cut down to.
LIMIT = 6 * 2**20

_HDF5 = b"\x89HDF\r\n\x1a\n"


def encode_history(events: Iterable[GrowthEvent]) -> bytes:
    """Events as the JSON that is saved, with the leading values of spectra only.

    If that is too much spectra go first, then the sites of the oldest growths.
    """
    short = [
        replace(event, sites=[_with_spectrum(site) for site in event.sites], scores={})
        for event in events
    ]
    data = _json(short)
    if len(data) > LIMIT:
        short = [replace(e, sites=[_with_spectrum(s, 0) for s in e.sites]) for e in short]
        data = _json(short)
    done = 0
    while len(data) > LIMIT and done < len(short):
        more = done + max(1, (len(short) - done) // 4)
        note = "what grew was left out, to keep the file small"
        short[done:more] = [replace(e, sites=[], notes=[*e.notes, note]) for e in short[done:more]]
        done = more
        data = _json(short)
    return data


def read_history(path: str | os.PathLike) -> tuple[list[GrowthEvent], list[str]]:
    """The growth history inside a saved model; empty if it has none.

    Returns:
        The events, and a sentence for each entry that could not be read.

    Raises:
        GrowthError: there is no such file, it is no saved model, or its history is damaged.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            if file.read(len(_HDF5)) == _HDF5:  # the older format has no room for one
                return [], []
        with zipfile.ZipFile(path) as archive:
            if MEMBER not in archive.namelist():
                return [], []
            if archive.getinfo(MEMBER).file_size > checking.MAX_BYTES:
                raise checking.RecordError(f"it is longer than {checking.MAX_BYTES // 2**20} MB")
            with archive.open(MEMBER) as member:  # may lie about its size
                data = member.read(checking.MAX_BYTES + 1)
        return records.decode_events(data)
    except checking.RecordError as error:
        raise GrowthError(f"The growth history inside {path} cannot be read: {error}.") from None
    except FileNotFoundError:
        raise GrowthError(f"There is no file {path} (looked in {Path.cwd()}).") from None
    except zipfile.BadZipFile:
        raise GrowthError(f"{path} is not a saved Keras model: it is no .keras file.") from None
    except (zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError) as error:
        raise GrowthError(
            f"{path} is damaged: its {MEMBER} cannot be unpacked ({error})."
        ) from None
    except OSError as error:
        raise GrowthError(f"{path} cannot be read: {error.strerror or error}.") from None


def _with_spectrum(site: SiteGrowth, limit: int | None = None) -> SiteGrowth:
    values = site.singular_values
    if limit is None:
        limit = site.width_after - site.width_before + records.BEHIND_THE_CUT
    if len(values) <= limit:
        return site
    size = max(len(values), site.spectrum_size or 0)
    return replace(site, singular_values=values[:limit], spectrum_size=size)


def _json(events: list[GrowthEvent]) -> bytes:
    return json.dumps(records.rounded([e.to_dict() for e in events], 7), allow_nan=False).encode()
