"""`tools/` and `zoo/` use only what keras_grow and Keras make public: as CONTRIBUTING says."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {"keras_grow.tools": "tools", "keras_grow.zoo": "zoo"}
FILES = sorted(path for folder in ROOMS.values() for path in (ROOT / folder).rglob("*.py"))

#: Modules of the library that are public as they are. `logs` is read without Keras.
MODULES = ("keras_grow.errors", "keras_grow.logs", "keras_grow.testing", *ROOMS)


def strings(path: Path, name: str) -> set[str]:
    """The texts of a list that a module assigns to `name`."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name:
            return set(ast.literal_eval(node.value))
    raise AssertionError(f"{path} has no {name}")


PUBLIC = strings(ROOT / "keras_grow" / "__init__.py", "__all__")
TESTING = strings(ROOT / "keras_grow" / "testing.py", "__all__")


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def wrong_import(module: str, names: list[str]) -> str | None:
    """What is wrong about importing `names` of a module, or itself where there are none."""
    if within(module, "keras"):
        parts = module.split(".") + names
        return "is Keras' own" if "src" in parts or any(map(private, parts)) else None
    if not within(module, "keras_grow"):
        return None
    if module == "keras_grow":
        unknown = set(names) - PUBLIC - {"tools", "zoo", "testing"}
        return f"is not public: {', '.join(sorted(unknown))}" if unknown else None
    if module == "keras_grow.testing" and set(names) - TESTING:
        return f"is not public: {', '.join(sorted(set(names) - TESTING))}"
    if not any(within(module, one) for one in MODULES):
        return "is not public"
    ours = any(within(module, one) for one in ROOMS)
    hidden = [] if ours else [one for one in [*module.split("."), *names] if private(one)]
    return f"is private: {', '.join(hidden)}" if hidden else None


def own_names(tree: ast.Module) -> set[str]:
    """Names that stand for something of the rooms themselves."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        if any(within(node.module, one) for one in ROOMS)
        for alias in node.names
    }


def defined(tree: ast.Module) -> set[str]:
    """Private names that a module gives to its own attributes, functions and classes."""
    found = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    found |= {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if getattr(node.value, "id", None) in ("self", "cls")
    }
    return found


def faults(source: str) -> list[str]:
    """What a module uses that is not public, each with its line."""
    tree = ast.parse(source)
    ours, own = own_names(tree), defined(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wrong = {alias.name: wrong_import(alias.name, []) for alias in node.names}
            found += [f"{node.lineno}: {name} {why}" for name, why in wrong.items() if why]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                found.append(f"{node.lineno}: a relative import")
            elif why := wrong_import(node.module or "", [alias.name for alias in node.names]):
                found.append(f"{node.lineno}: {node.module} {why}")
        elif isinstance(node, ast.Attribute) and private(node.attr):
            of = node.value.id if isinstance(node.value, ast.Name) else ""
            if of not in ("self", "cls") and of not in ours and node.attr not in own:
                found.append(f"{node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "kg":
            if node.attr not in PUBLIC:
                found.append(f"{node.lineno}: kg.{node.attr} is not public")
        elif isinstance(node, ast.Call) and getattr(node.func, "id", None) in (
            "getattr",
            "setattr",
        ):
            name = node.args[1] if len(node.args) > 1 else None
            if isinstance(name, ast.Constant) and private(str(name.value)):
                found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_public_names_are_used(path):
    assert not faults(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "source",
    [
        "from keras_grow.planning import survey",
        "import keras_grow.growth.step",
        "from keras_grow import planning",
        "from keras_grow.testing import describe",
        "from keras_grow.logs.records import _text",
        "from keras.src import ops",
        "model._flatten_layers()",
        "growth._log = 1",
        "self.writer._lock",
        "getattr(model, '_layers')",
        "import keras_grow as kg\nkg.surgery.widening",
    ],
)
def test_what_is_not_public_is_found(source):
    assert faults(source)


@pytest.mark.parametrize(
    "source",
    [
        "import keras_grow as kg\nkg.widen(model)\nkg.testing.time_growth(model)",
        "from keras_grow import GrowthError, zoo",
        "from keras_grow.logs.reading import Follower",
        "from keras_grow.zoo._common import whole",
        "class A:\n    def __init__(self):\n        self._x = 1\n    def f(self, other):\n"
        "        return other._x",
        "type(model).__name__",
    ],
)
def test_what_is_public_is_not(source):
    assert not faults(source)
