"""Planning is NumPy (and a little SciPy): what it asks of Keras goes through graph and rules."""

import ast
from pathlib import Path

import keras_grow

ROOM = Path(keras_grow.__file__).parent / "planning"
# Each may import those before it.
ORDER = [
    "labels", "centring", "cost", "search", "sites", "plan", "arrays", "drafting", "atlas",
    "__init__",
]  # fmt: skip


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_no_module_imports_keras_or_a_backend() -> None:
    assert {path.stem for path in ROOM.glob("*.py")} == set(ORDER)
    for path in ROOM.glob("*.py"):
        for name in _imported(path):
            assert name.split(".")[0] not in ("keras", "tensorflow", "torch", "jax"), (path, name)
            assert not name.startswith(("keras_grow._keras", "keras_grow._backend")), (path, name)


def test_no_module_imports_one_above_it() -> None:
    for position, stem in enumerate(ORDER):
        for name in _imported(ROOM / f"{stem}.py"):
            if name.startswith("keras_grow.planning"):
                assert name.split(".")[2] in ORDER[:position], (stem, name)
