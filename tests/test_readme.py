"""The documents' examples, run."""

import doctest
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("page", "least"), [("README.md", 8), ("docs/methods.md", 8)])
def test_the_python_session_of_a_page_gives_what_it_shows(page, least):
    path = str(ROOT / page)
    result = doctest.testfile(path, module_relative=False, optionflags=doctest.ELLIPSIS)
    assert result.attempted >= least
    assert result.failed == 0
