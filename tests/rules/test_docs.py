"""What is said to writers of rules: `docs/rules.md` run, and every question named."""

import doctest
from pathlib import Path

import pytest

from keras_grow import rules
from keras_grow.rules import base, space
from keras_grow.rules.base import Costs, Gradients, Rule, Traits
from keras_grow.rules.space import Conditions, Consequences, Ends, Moves

PAGE = Path(__file__).parents[2] / "docs" / "rules.md"
# Read off the class; no rule answers it.
NO_QUESTION = {"knows_gradient"}


def _methods(*kinds: type) -> list[str]:
    return [
        name
        for kind in kinds
        for name in vars(kind)
        if not name.startswith("_") and name not in NO_QUESTION
    ]


@pytest.mark.backend("torch")
def test_the_python_session_of_the_page_gives_what_it_shows() -> None:
    known = dict(rules.registry._RULES), set(rules.registry._CUSTOM)
    try:
        options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        result = doctest.testfile(str(PAGE), module_relative=False, optionflags=options)
    finally:
        rules.registry._RULES.clear()
        rules.registry._RULES.update(known[0])
        rules.registry._CUSTOM.intersection_update(known[1])
    assert result.attempted >= 20
    assert result.failed == 0


def test_every_question_that_a_rule_is_asked_is_named() -> None:
    questions = _methods(Rule, Traits, Gradients, Costs)
    assert questions[0] == "flow"
    assert len(questions) == 11
    assert {n for n in dir(Rule) if not n.startswith("_")} == {*questions, *NO_QUESTION}
    assert "one question about a call, and may answer ten more" in base.__doc__
    for name in questions:
        assert f"`{name}`" in base.__doc__ or f"`Rule.{name}`" in base.__doc__
        assert f"| `{name}` |" in PAGE.read_text()


def test_every_statement_that_a_space_takes_is_named() -> None:
    statements = _methods(Ends, Moves, Conditions, Consequences)
    assert len(statements) == 20
    assert {n for n in dir(rules.Space) if not n.startswith("_")} == set(statements)
    assert "takes twenty statements, in four" in " ".join(space.__doc__.split())
    for name in statements:
        assert f"`{name}`" in space.__doc__
        assert f"`{name}`" in PAGE.read_text()
