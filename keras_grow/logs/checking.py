"""Bytes and fields that may come from anywhere, checked before anything is made of them.

Texts are cut to a sensible length and have no control characters, numbers are finite, and whatever
else the bytes hold is a `RecordError`.
"""

import functools
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, NoReturn

# Limits of what is decoded: bytes when decompressed, values in them, characters of one text.
MAX_BYTES = 16 * 2**20
MAX_VALUES = 1_000_000
MAX_TEXT = 2000

#: What makes the value of a field, by its name, of what was decoded.
Check = Callable[[Any, str], Any]


class RecordError(ValueError):
    """Bytes that are no such record; the message says why."""


def decompressed(data: bytes) -> bytes:
    """What zlib has compressed.

    Raises:
        RecordError: it is no such thing, or more than `MAX_BYTES`.
    """
    try:
        stream = zlib.decompressobj()
        found = stream.decompress(bytes(data), MAX_BYTES)
    except (zlib.error, TypeError, ValueError) as error:
        raise RecordError(f"it cannot be decompressed ({_shown(str(error))})") from None
    if stream.unconsumed_tail:
        raise RecordError(f"it takes more than {MAX_BYTES // 2**20} MB when decompressed")
    if not stream.eof:
        raise RecordError("it is cut off")
    return found


def parsed(data: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        RecordError: it is none, or too long, or holds too many values.
    """
    try:
        text = data if isinstance(data, str) else bytes(data).decode("utf-8")
    except (TypeError, ValueError):
        raise RecordError("it is no text in UTF-8") from None
    if len(text) > MAX_BYTES:
        raise RecordError(f"it is longer than {MAX_BYTES // 2**20} MB")
    if sum(text.count(sign) for sign in ",[{") > MAX_VALUES:
        raise RecordError(f"it holds more than {MAX_VALUES:,} values")
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise RecordError("it is no JSON: it is nested too deeply") from None
    except RecordError:
        raise
    except ValueError as error:
        raise RecordError(f"it is no JSON ({_shown(str(error))})") from None


def _no_number(name: str) -> NoReturn:
    raise RecordError(f"it holds {name}, which is no number in JSON")


def require(what: str, good: bool, received: Any) -> None:
    """Raises RecordError unless it is good; `what` is what there should have been."""
    if not good:
        raise RecordError(f"it should have had {what}. Received: {_shown(repr(received))}")


def _shown(text: str) -> str:
    return clean(text if len(text) <= 60 else text[:57] + "...")


def cut(text: str, limit: int) -> str:
    """A text of `limit` characters at most."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


# Terminals obey control characters, and half a surrogate pair cannot be sent anywhere.
_UNPRINTABLE = {
    code: "\ufffd" for code in (*range(32), *range(127, 160), *range(0xD800, 0xE000))
} | {code: chr(code) for code in (9, 10)}


def clean(text: str) -> str:
    """A text without what would steer a terminal or cannot be encoded."""
    return text if text.isprintable() else text.translate(_UNPRINTABLE)


# --- fields: each returns a value of its kind or raises RecordError ------------------------------


def text(value: Any, name: str) -> str:
    require(f"a text as '{name}'", isinstance(value, str), value)
    return clean(cut(value, MAX_TEXT))


def texts(value: Any, name: str) -> list[str]:
    require(f"a list of texts as '{name}'", isinstance(value, list), value)
    return [text(v, name) for v in value]


def text_tuple(value: Any, name: str) -> tuple[str, ...]:
    return tuple(texts(value, name))


def count(value: Any, name: str) -> int:
    good = type(value) is int and 0 <= value < 2**63
    require(f"a whole number of 0 or more as '{name}'", good, value)
    return value


def number(value: Any, name: str) -> float:
    good = type(value) in (int, float) and abs(value) < 1e300
    require(f"a finite number as '{name}'", good, value)
    return float(value)


def positive(value: Any, name: str) -> float:
    found = number(value, name)
    require(f"a number of 0 or more as '{name}'", found >= 0, value)
    return found


def numbers(value: Any, name: str) -> list[float]:
    require(f"a list of numbers as '{name}'", isinstance(value, list), value)
    return [positive(v, name) for v in value]


def truth(value: Any, name: str) -> bool:
    require(f"true or false as '{name}'", isinstance(value, bool), value)
    return value


def table_of(check: Check) -> Check:
    """The check of a table of such values, by text."""

    def checked(value: Any, name: str) -> dict[str, Any]:
        require(f"a table as '{name}'", isinstance(value, dict), value)
        return {text(k, name): check(v, name) for k, v in value.items()}

    return checked


# --- rows and dataclasses ------------------------------------------------------------------------


def known(row: Any) -> dict[str, Any]:
    """None stands for what is not known everywhere, so it is the same as nothing."""
    require("a table for each", isinstance(row, dict), row)
    return {name: value for name, value in row.items() if value is not None}


@functools.cache
def _needed(cls: Any) -> frozenset[str]:
    """Fields without a default."""
    return frozenset(f.name for f in fields(cls) if f.default is f.default_factory is MISSING)


def arguments_of(cls: Any, checks: Mapping[str, Check], values: Any, what: str) -> dict[str, Any]:
    """Arguments of a dataclass. Fields that are not known here are of a later version."""
    require(f"a table, the {what}", isinstance(values, dict), values)
    needed = _needed(cls) & checks.keys()
    if not needed <= values.keys():
        missing = sorted(needed - values.keys())
        raise RecordError(f"the {what} lacks {', '.join(missing)}")
    found = {}
    for name, check in checks.items():
        value = values.get(name)
        if value is not None or name in needed:
            found[name] = check(value, name)
    return found
