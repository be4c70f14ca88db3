"""The table of figures: what it says of them is what they take."""

import dataclasses
import inspect

import pytest
from helpers.synthetic import synthetic_run

from keras_grow.tools import figures
from keras_grow.tools.drawings import DRAWINGS, Options, Style, X


def test_options_are_those_of_a_style():
    assert list(Options.__annotations__) == [one.name for one in dataclasses.fields(Style)]


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_figure_takes_what_the_table_says(name):
    drawing = DRAWINGS[name]
    parameters = inspect.signature(getattr(figures, name)).parameters
    by_position = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert tuple(by_position) == drawing.arguments()
    assert ("slider" in parameters) == drawing.slider
    for option in Options.__annotations__:
        assert parameters[option].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[option].default == drawing.defaults.get(option, getattr(Style, option))
    assert set(drawing.axes) <= set(X)


@pytest.mark.parametrize("name", DRAWINGS)
def test_its_defaults_are_those_it_is_drawn_with(name):
    run = synthetic_run(events=3, sites=2)
    function = getattr(figures, name)
    runs = [run] if DRAWINGS[name].several else run
    parameters = inspect.signature(function).parameters
    stated = {option: parameters[option].default for option in Options.__annotations__}
    assert function(runs).to_json() == function(runs, **stated).to_json()


@pytest.mark.parametrize("name", DRAWINGS)
def test_another_option_is_refused(name):
    runs = [] if DRAWINGS[name].several else synthetic_run(events=1, sites=1)
    with pytest.raises(TypeError, match=rf"{name}\(\) got an unexpected .* 'smothing'"):
        getattr(figures, name)(runs, smothing=0.5)
