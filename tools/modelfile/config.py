"""What a model is made of, as its file says: read and checked before Keras acts on it.

Keras' safe mode refuses pickled functions. It still looks up whatever public name of Keras a file
gives, downloads and file readers among them, and builds whatever size the file asks for.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_grow.tools.cli.errors import InputError, one_paragraph
from keras_grow.tools.modelfile.trust import Trust

#: Deeper than any model: every nested model adds some eight levels.
_MAX_DEPTH = 300

#: Layers that are, or bring, code.
_CODE = {
    "Lambda": "holds Python code (a Lambda layer)",
    "__lambda__": "holds Python code (a pickled function)",
    "TorchModuleWrapper": "holds a pickled PyTorch module",
    "TFSMLayer": "runs a TensorFlow program from another folder (TFSMLayer)",
    "JaxLayer": "holds Python code (JaxLayer)",
    "FlaxLayer": "holds Python code (FlaxLayer)",
}

#: Parts of Keras that a model is not made of: they download, read, write and configure.
_NO_PARTS = (
    "applications",
    "backend",
    "callbacks",
    "config",
    "datasets",
    "distribution",
    "distillation",
    "export",
    "preprocessing",
    "saving",
    "tree",
    "utils",
    "visualization",
    "wrappers",
)

#: Class names in Keras' configurations which stand for values.
_MARKS = (
    "function",
    "__bytes__",
    "__ellipsis__",
    "__keras_tensor__",
    "__numpy__",
    "__slice__",
    "__tensor__",
    "__typespec__",
)
_CLASS = re.compile(r"([\w.]+>)?[A-Z]\w*\Z")

_SHAPES = ("batch_shape", "batch_input_shape", "input_shape", "target_shape")
#: Numbers in one sample.
_MAX_SAMPLE = 2**32

_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def parse_config(path: Path, text: str, what: str) -> dict[str, Any]:
    """The JSON object in ``text``, which is ``what`` of the model at ``path``.

    Raises:
        InputError: it is no JSON, no object, or nested too deep.
    """
    depth = 0
    for match in _BRACKETS.finditer(text):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(match[0], 0)
        if depth > _MAX_DEPTH:
            raise InputError(
                f"{path} was not loaded: its {what} is nested more than {_MAX_DEPTH} levels deep, "
                "which no model needs."
            )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged: its {what} is no JSON ({one_paragraph(error, limit=200)})."
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is no saved Keras model: its {what} is no JSON object.")
    return value


def check_config(path: Path, config: dict[str, Any], trust: Trust) -> None:
    """Refuse what a model's configuration may not hold.

    With ``trust.code`` only its form and its sizes are checked.

    Raises:
        InputError: it is not the configuration of a model, holds code, names a class that is
            neither Keras' own nor one that the user vouches for, reads other files, or has an
            input of an absurd size.
    """
    if not isinstance(config.get("class_name"), str) or not isinstance(config.get("config"), dict):
        raise InputError(
            f"{path} is no saved Keras model: its configuration has no class_name with a config. "
            "A model to read is what model.save('name.keras') writes."
        )
    check_parts(path, config, trust)


def check_parts(path: Path, config: dict[str, Any], trust: Trust) -> None:
    """Refuse what no part of a model's configuration or training settings may hold.

    Raises:
        InputError: as :func:`check_config`.
    """
    for node, layer in _objects(config):
        _check_sizes(path, node, layer)
        if "class_name" in node:
            _check_class(path, node, layer, trust)


def _objects(config: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Every JSON object in ``config`` with the name of the layer around it."""
    waiting: list[tuple[Any, str]] = [(config, "")]
    while waiting:
        value, layer = waiting.pop()
        if isinstance(value, dict):
            inner = value.get("config")
            name = inner.get("name") if isinstance(inner, dict) else None
            layer = name if isinstance(name, str) else layer
            yield value, layer
            waiting.extend((one, layer) for one in value.values())
        elif isinstance(value, list):
            waiting.extend((one, layer) for one in value)


def _check_sizes(path: Path, node: dict[str, Any], layer: str) -> None:
    for key in _SHAPES:
        shape = node.get(key)
        if not isinstance(shape, list):
            continue
        known = [size for size in shape if isinstance(size, int) and not isinstance(size, bool)]
        if any(size < -1 for size in known) or math.prod(map(abs, known)) > _MAX_SAMPLE:
            raise InputError(
                f"{path} was not loaded: {_place(layer)} has {key} {one_paragraph(shape, 200)}, "
                f"and a sample of more than {_MAX_SAMPLE:,} numbers, or a negative size, is more "
                "likely an attack or damage than a model."
            )


def _check_class(path: Path, node: dict[str, Any], layer: str, trust: Trust) -> None:
    name, module = node["class_name"], node.get("module")
    registered = node.get("registered_name")
    if not isinstance(name, str) or not isinstance(module, str | None):
        raise InputError(
            f"{path} is no saved Keras model: {_place(layer)} has class_name "
            f"{one_paragraph(repr(name), 100)} and module {one_paragraph(repr(module), 100)}, "
            "which should be texts."
        )
    if trust.code:
        return
    names = [one for one in (name, registered) if isinstance(one, str)]
    if name == "function":
        names += [one for one in (node.get("config"),) if isinstance(one, str)]
    if name in _CODE and not (module or "keras").startswith("keras"):
        pass  # a class of the user's own that has the same name; told as such below
    elif name in _CODE:
        raise InputError(
            f"{path} was not loaded: {_place(layer)} {_CODE[name]}, which would be run. Keras' "
            "safe mode stays on unless you vouch for the file: if you trust whoever made it, add "
            "--trust."
        )
    if module is None and not registered and name not in _MARKS and not _CLASS.match(name):
        raise InputError(
            f"{path} was not loaded: {_place(layer)} has class_name {one_paragraph(name, 100)!r}, "
            "which is no name of a class."
        )
    if module is not None and not _is_keras(module) and not trust.covers(module, *names):
        wanted = names[-1].rpartition(">")[2]
        raise InputError(
            f"{path} was not loaded: {_place(layer)} uses {wanted!r} of the Python module "
            f"{module!r}, which is no part of Keras and was not imported. If it is your own, or of "
            f"a package that you trust, add --custom {_suggestion(module, wanted)}."
        )
    if module is not None and _is_no_part(module):
        raise InputError(
            f"{path} was not loaded: {_place(layer)} uses {names[-1]!r} of {module!r}, a part of "
            "Keras that reads or writes files or changes settings, and of which no model is made."
        )
    inner = node.get("config")
    vocabulary = inner.get("vocabulary") if isinstance(inner, dict) else None
    if isinstance(vocabulary, str):
        raise InputError(
            f"{path} was not loaded: {_place(layer)} reads its vocabulary from another file, "
            f"{vocabulary!r}. If you trust whoever made the model, add --trust."
        )


def _place(layer: str) -> str:
    return f"layer {one_paragraph(layer, 100)!r}" if layer else "its configuration"


def _is_keras(module: str) -> bool:
    return module in ("keras", "builtins") or module.startswith("keras.")


def _is_no_part(module: str) -> bool:
    return any(module == f"keras.{part}" or module.startswith(f"keras.{part}.")
               for part in _NO_PARTS)  # fmt: skip


def _suggestion(module: str, name: str) -> str:
    return f"{'your_module' if module == '__main__' else module}:{name}"
