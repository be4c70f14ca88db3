"""Colours that can be told apart, and text that stays text."""

import pytest

from keras_grow import GrowthError
from keras_grow.tools import figures
from keras_grow.tools.drawings import Style
from keras_grow.tools.figures.theme import (
    ACCENT,
    BACKGROUND,
    BAD,
    NEUTRAL,
    NEW,
    ORDER,
    PALETTE,
    line_styles,
    template,
    text,
)
from keras_grow.tools.words import shortened


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_colour_can_be_seen_on_both_backgrounds(theme):
    ordered = [color for _, color in ORDER]
    for color in (*PALETTE, *ordered, ACCENT, NEW, NEUTRAL, BAD):
        assert contrast(color, BACKGROUND[theme]) >= 3, color


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read(theme):
    layout = template(theme).layout
    colors = [
        layout.font.color,
        layout.xaxis.tickfont.color,
        layout.xaxis.title.font.color,
        layout.legend.font.color,
        layout.annotationdefaults.font.color,
        layout.sliderdefaults.font.color,
    ]
    for color in colors:
        assert contrast(color, BACKGROUND[theme]) >= 4.5
    assert contrast(layout.hoverlabel.font.color, layout.hoverlabel.bgcolor) >= 4.5
    buttons = layout.updatemenudefaults
    assert contrast(buttons.font.color, buttons.bgcolor) >= 4.5


def test_colours_follow_names_not_places():
    names = [f"run_{i}" for i in range(5)]
    assert line_styles(names) == line_styles(names[::-1])
    assert line_styles(names[2:4], among=names) == {n: line_styles(names)[n] for n in names[2:4]}


def test_few_runs_have_few_colours_in_common():
    for start in range(50):
        names = [f"lr-{start}", f"seed={start}", f"{start}", f"wide_{start}"]
        assert len({style.color for style in line_styles(names).values()}) == 4


def test_many_runs_differ_by_line():
    found = line_styles(f"run_{i}" for i in range(20))
    assert len({(s.color, s.dash) for s in found.values()}) == 20
    assert figures.colors(found) == {name: style.color for name, style in found.items()}


@pytest.mark.parametrize(
    "value",
    ["<b>bold</b>", "<a href='javascript:alert(1)'>x</a>", "&lt;b&gt;", "%{x}", "$x^2$", "a&b"],
)
def test_markup_is_text(value):
    escaped = text(value)
    for sign in "<>%$":
        assert sign not in escaped
    plain = escaped
    for code, sign in (("lt", "<"), ("gt", ">"), ("#36", "$"), ("#37", "%"), ("amp", "&")):
        plain = plain.replace(f"&{code};", sign)
    assert plain == value


def test_control_characters_and_broken_text():
    assert shortened("a\nb\x1b[31mc\u202ed\ud800", 50) == "a b [31mc d?"
    assert shortened("x" * 10**7, 11) == "xxxxx…xxxxx"


def test_long_names_keep_both_ends():
    assert shortened("block_1/conv/kernel_of_the_first", 15) == "block_1…e_first"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"x": "steps"}, "Did you mean 'step'"),
        ({"theme": "drak"}, "Did you mean 'dark'"),
        ({"smoothing": 2}, "from 0 (none) to 1"),
        ({"smoothing": True}, "from 0 (none) to 1"),
        ({"smoothing": "much"}, "from 0 (none) to 1"),
        ({"x": None}, "x must be one of"),
    ],
)
def test_options_are_checked(options, words):
    with pytest.raises(GrowthError) as told:
        Style(**options)
    assert words in str(told.value)
    assert "Received" in str(told.value)
