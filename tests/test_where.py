"""Every test runs on a backend, and somebody has said for each folder on which."""

import itertools
from pathlib import Path

import pytest
from helpers.where import EVERY, FROM_ZERO, ONE, OP_BY_OP, QUICKEST, WHERE, home, where

TESTS = Path(__file__).parent
ROOT = TESTS.parent
# What crosses the rooms of the library: training on with `fit`, any graph at all, what users read.
CROSSING = {"errors", "fit", "properties"}


def test_somebody_has_said_where_each_folder_runs():
    files = [path.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")]
    assert len(files) > 80
    assert {where(path) for path in files} == {EVERY, ONE}


def test_what_is_said_is_of_folders_that_there_are():
    for path in (*WHERE, *OP_BY_OP, *FROM_ZERO):
        assert (TESTS / path).exists(), path


def test_a_new_folder_does_not_run_on_one_backend_unnoticed():
    with pytest.raises(LookupError, match=r"tests/new/test_it\.py depends on the backend"):
        where("new/test_it.py")


def test_every_test_runs_somewhere():
    some = [s for n in (1, 2, 3) for s in itertools.combinations(QUICKEST, n)]
    for beside, admitted in itertools.product(some, (None, *some)):
        possible = set(beside) if admitted is None else {*beside} & {*admitted}
        assert home(EVERY, beside, admitted) == possible
        assert home(ONE, beside, admitted) <= possible
        assert len(home(ONE, beside, admitted)) == bool(possible)


def test_tests_lie_like_the_code():
    folders = {p.relative_to(TESTS).parts[0] for p in TESTS.rglob("*/test_*.py")}
    for folder in folders - CROSSING:
        assert (ROOT / "keras_grow" / folder).is_dir() or (ROOT / folder).is_dir(), folder
