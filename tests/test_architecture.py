"""What README and CONTRIBUTING say of the rooms of the code, held against the code."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"keras_grow": "keras_grow", "keras_grow.tools": "tools", "keras_grow.zoo": "zoo"}
# Each room imports only from those before it. Rooms of one line may not import each other.
FLOORS = [
    {"errors"},
    {"_keras", "_backend"},
    {"graph"},
    {"rules"},
    {"planning"},
    {"apply"},
    {"logs"},
    {"growth"},
    {"surgery"},
    {"training"},
]
# `_backend` says what differs between backends, by means of what is private to Keras.
SAME_FLOOR = {("_backend", "_keras")}
# What a user imports, and what proves a user's rule, may look at everything.
ABOVE_ALL = {"", "testing"}
# Written without Keras, so that the report and the TensorBoard tab need neither it nor a backend.
WITHOUT_KERAS = ("logs", "errors")
# Which calls are private is said by name only where the room is `_keras`.
LONGEST = 500


def modules():
    found = {}
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join((package, *parts))] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
LIBRARY = [n for n in MODULES if not n.startswith(("keras_grow.tools", "keras_grow.zoo"))]


def is_package(name):
    return MODULES[name].name == "__init__.py"


def imported(name, top_only=False):
    """Modules that a module imports, by the names they have here; others by their own."""
    tree = TREES[name]
    found = set()
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
    return found


def room(name):
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def floor(name):
    (found,) = [i for i, rooms in enumerate(FLOORS) if room(name) in rooms]
    return found


def test_every_room_is_on_a_floor():
    assert {room(n) for n in LIBRARY} - ABOVE_ALL == set.union(*FLOORS)


@pytest.mark.parametrize("name", [n for n in LIBRARY if room(n) not in ABOVE_ALL])
def test_a_module_imports_only_from_rooms_before_its_own(name):
    for other in imported(name):
        if other not in MODULES or other == "keras_grow" or room(other) == room(name):
            continue
        allowed = floor(other) < floor(name) or (room(name), room(other)) in SAME_FLOOR
        assert allowed, f"{name} imports {other}, which lies above it or beside it"


def test_no_modules_import_each_other_in_a_circle():
    # Packages show what lies in them, and are made of it.
    edges = {
        n: {o for o in imported(n) if o in MODULES and o != n and not is_package(o)}
        for n in LIBRARY
        if not is_package(n)
    }
    state = {}

    def visit(name, path):
        assert state.get(name) != "open", f"a circle: {' -> '.join([*path, name])}"
        if name in state or name not in edges:
            return
        state[name] = "open"
        for other in sorted(edges[name]):
            visit(other, [*path, name])
        state[name] = "done"

    for name in edges:
        visit(name, [])


@pytest.mark.parametrize("name", MODULES)
def test_no_module_is_long(name):
    length = len(MODULES[name].read_text(encoding="utf-8").splitlines())
    assert length <= LONGEST, f"{name} has {length} lines"


def private(name):
    return name.startswith("_") and not name.startswith("__") and name.strip("_") != ""


def own_private_names():
    """Private names that this code defines itself, as attributes, methods, functions or classes."""
    found = set()
    for name in MODULES:
        for node in ast.walk(TREES[name]):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and private(node.name):
                found.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                    found.add(node.attr)
            elif isinstance(node, (ast.AnnAssign, ast.Assign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found |= {t.id for t in targets if isinstance(t, ast.Name)}
    return found


# TensorFlow has no public way to have a function traced anew; `_backend` says so.
TENSORFLOWS = {
    "_function_cache",
    "_function_captures",
    "_variable_creation_config",
    "_no_variable_creation_config",
}
OWN = own_private_names()


@pytest.mark.parametrize("name", [n for n in MODULES if room(n) != "_keras"])
def test_what_is_private_to_keras_is_used_in_its_room_only(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in OWN:
            if room(name) == "_backend" and node.attr in TENSORFLOWS:
                continue
            raise AssertionError(f"{name}:{node.lineno} uses .{node.attr}")
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "getattr",
            "setattr",
            "hasattr",
            "delattr",
        ):
            asked = node.args[1]
            if isinstance(asked, ast.Constant) and private(asked.value):
                assert asked.value in OWN, f"{name}:{node.lineno} asks for {asked.value}"
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            source = getattr(node, "module", None) or ""
            names = [a.name for a in node.names]
            assert not source.startswith("keras.src"), f"{name}:{node.lineno} imports {source}"
            assert not any(n.startswith("keras.src") for n in names), f"{name}:{node.lineno}"


def everything_imported(name, seen):
    for other in imported(name, top_only=True):
        if other in MODULES and other not in seen:
            seen.add(other)
            everything_imported(other, seen)
        elif other not in MODULES:
            seen.add(other)
    return seen


@pytest.mark.parametrize("name", [n for n in LIBRARY if room(n) in WITHOUT_KERAS])
def test_logs_are_read_without_keras(name):
    found = everything_imported(name, set())
    assert not {o.split(".")[0] for o in found} & {"keras", "tensorflow", "torch", "jax"}
