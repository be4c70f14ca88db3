"""Every figure of runs: what it is called and takes, its options and their defaults, what it needs.

The figures are functions of these names in `keras_grow.tools.figures`, which needs plotly. This
table does not, so that TensorBoard and the command line can start without it.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, TypedDict, TypeVar

from keras_grow.errors import GrowthError, nearest

X = ("step", "time", "parameters", "flops")
THEMES = ("light", "dark")
#: Of the loss on a page, where a figure by itself has none: as in TensorBoard.
PAGE_SMOOTHING = 0.6

Function = TypeVar("Function", bound=Callable[..., Any])


# --- options -----------------------------------------------------------------------------------


class Options(TypedDict, total=False):
    """What every figure of runs takes by keyword; defaults are those of `Style`, or its own."""

    x: str
    smoothing: float
    log: bool
    theme: str
    among: Iterable[str] | None


@dataclass(frozen=True)
class Style:
    """How a figure is drawn: its `Options`, checked.

    Raises:
        GrowthError: one of them is not what it can be.
    """

    x: str = "step"
    smoothing: float = 0.0
    log: bool = False
    theme: str = "light"
    among: Iterable[str] | None = None

    def __post_init__(self) -> None:
        check_choice("x", self.x, X)
        check_choice("theme", self.theme, THEMES)
        real = isinstance(self.smoothing, (int, float)) and not isinstance(self.smoothing, bool)
        if not real or not 0 <= self.smoothing <= 1:
            raise GrowthError(
                "smoothing must be a number from 0 (none) to 1. "
                f"Received: smoothing={self.smoothing!r}"
            )

    @classmethod
    def of(cls, name: str, options: Options) -> "Style":
        """That of the figure `name`, called with `options`.

        Raises:
            TypeError: there is no such option.
        """
        for option in options:
            if option not in Options.__annotations__:
                raise TypeError(f"{name}() got an unexpected keyword argument {option!r}")
        return cls(**{**DRAWINGS[name].defaults, **options})


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raises GrowthError unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        raise GrowthError(
            f"{name} must be one of {', '.join(repr(c) for c in choices)}. "
            f"{nearest(str(value), choices)} Received: {name}={value!r}"
        )


# --- the table ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawing:
    """What one figure takes and needs.

    Attributes:
        several: whether it takes several runs rather than one.
        tags: scalars, beside the metric's if `metric`.
        metric, step, site: whether it takes such an argument.
        sites: whether it needs what grew: at the step, or at all.
        widths: whether it needs the widths of the sites over time.
        networks: whether it needs the network.
        slider: whether it can have one.
        axes: of `X`, those that a page offers, the usual first.
        defaults: options that have another default than in `Style`.
    """

    several: bool = False
    tags: tuple[str, ...] = ()
    metric: bool = False
    step: bool = False
    site: bool = False
    sites: bool = False
    widths: bool = False
    networks: bool = False
    slider: bool = False
    axes: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def arguments(self) -> tuple[str, ...]:
        """What it takes by position, in this order."""
        wanted = {"metric": self.metric, "step": self.step, "site": self.site}
        return ("runs" if self.several else "run", *(name for name in wanted if wanted[name]))


_CURVES = ("loss", "parameters", "flops")

DRAWINGS = {
    "timeline": Drawing(several=True, tags=_CURVES, metric=True, axes=X),
    "costs": Drawing(several=True, tags=_CURVES),
    "gain": Drawing(several=True, tags=_CURVES, metric=True),
    "tradeoff": Drawing(
        several=True,
        tags=_CURVES,
        metric=True,
        axes=("parameters", "flops", "time"),
        defaults={"x": "parameters"},
    ),
    "widths": Drawing(tags=_CURVES, widths=True, networks=True),
    "width_map": Drawing(tags=_CURVES, widths=True, networks=True),
    "spectrum": Drawing(step=True, site=True, sites=True),
    "spectra": Drawing(site=True, sites=True, defaults={"log": True}),
    "gradients": Drawing(step=True, sites=True),
    "network": Drawing(step=True, widths=True, networks=True, slider=True),
}


def with_options(function: Function) -> Function:
    """Shows the options that `function` takes, with its defaults, in help and completion.

    Args:
        function: a figure that is in the table, taking `**options: Unpack[Options]`.
    """
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    defaults = {
        **{one.name: one.default for one in fields(Style)},
        **DRAWINGS[function.__name__].defaults,
    }
    shown = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=kind
        )
        for name, kind in Options.__annotations__.items()
    ]
    function.__signature__ = signature.replace(parameters=[*own, *shown])  # type: ignore[attr-defined]
    return function
