"""What runs where: which tests depend on the backend, and which run on one for all.

`make test` runs pytest once per backend and says so with `--beside`. A test that depends on none is
then left to one of them; run by hand, or by `make test-all`, everything runs.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath

EVERY, ONE = "on every backend", "on one backend"

#: A path counts for all below it, and the longest that fits for a test; a test of another kind than
#: its file is marked `every_backend` or `one_backend`.
WHERE: Mapping[str, str] = {
    "apply": EVERY,
    "errors": ONE,
    "fit": EVERY,
    "graph": EVERY,
    "growth": EVERY,
    "growth/methods/test_methods.py": ONE,  # NumPy alone
    "growth/methods/test_whitened.py": ONE,  # NumPy alone
    "logs": ONE,
    "planning": ONE,
    "properties": EVERY,
    "rules": EVERY,
    "rules/test_refusals.py": ONE,
    "rules/test_registry.py": ONE,
    "surgery": EVERY,
    "test_architecture.py": ONE,
    "test_readme.py": EVERY,
    "test_testing.py": EVERY,
    "test_tools_use_public_names.py": ONE,
    "test_where.py": ONE,
    "tools": ONE,
    "training": EVERY,
    "training/test_budgets.py": ONE,
    "training/test_schedules.py": ONE,
    "zoo": ONE,
    "zoo/test_models.py": EVERY,
    "zoo/test_teacher_student.py": EVERY,
}

#: What depends on no backend runs on the first of these that there is: the quickest comes first.
QUICKEST = ("torch", "tensorflow", "jax")

# Every new shape is compiled on JAX: there these tests verify growth op by op. The others, in `fit`
# above all, run the compiled verification.
OP_BY_OP = (
    "apply/test_streams.py",
    "graph",
    "growth/methods",
    "growth/statistics",
    "growth/test_alignment.py",
    "growth/test_limits.py",
    "growth/test_slopes_of_ops.py",
    "properties",
    "rules",
    "surgery",
)
# ... and these start kernels at zero instead of drawing them: each gives its weights random values.
FROM_ZERO = ("apply/test_streams.py", "graph", "properties", "rules")


def fits(path: str, folders: Collection[str]) -> str | None:
    """The longest of `folders` in which `path` lies, both from tests/ on; `None` if in none."""
    parents = [path, *(str(p) for p in PurePosixPath(path).parents)]
    return next((p for p in parents if p in folders), None)


def where(path: str) -> str:
    """Where the tests of a file run.

    Raises:
        LookupError: if nobody has said so; a new folder must not run on one backend unnoticed.
    """
    found = fits(path, WHERE)
    if found is None:
        raise LookupError(
            f"Nobody has said whether tests/{path} depends on the backend: "
            "add its folder to WHERE in tests/helpers/where.py."
        )
    return WHERE[found]


def home(runs: str, beside: Collection[str], admitted: Sequence[str] | None = None) -> set[str]:
    """The backends on which a test runs.

    Args:
        runs: EVERY or ONE.
        beside: the backends on which the suite runs.
        admitted: the backends for which the test is marked, if it is for some.
    """
    possible = [b for b in QUICKEST if b in beside and (admitted is None or b in admitted)]
    return set(possible if runs == EVERY else possible[:1])
