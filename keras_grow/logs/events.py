"""What happened: one record per growth step, kept in memory and written as JSON lines."""

import json
import math
import os
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any, BinaryIO

FILE_NAME = "growth-events.jsonl"


@dataclass
class SiteGrowth:
    """The growth of one site.

    Attributes:
        name, producers, consumers: the site's addresses.
        width_before, width_after: channels.
        method: name of the method.
        form: "outgoing" (fan-in zero), "inverse" (fan-out zero), or a form of the method's own:
            "split", "zeros", "joint".
        singular_values: spectrum of M, largest first, whole or its leading part; the first
            `width_after - width_before` of them were used. Empty for methods that compute none.
        gradient_norm: norm of the loss gradient by the new weights that are zero; None where not
            computed.
        existing_norm: norm of the loss gradient by the weights that the site had before, of its
            producers and consumers; None where not computed: by methods without gradients, and
            outside of a `GrowthCallback` with a log_dir. After a growth that keeps the
            function it is the same, so the gradient has grown from `existing_norm` to
            sqrt(existing_norm^2 + gradient_norm^2).
        rank: directions M supports; None where not computed.
        notes: what else there is to say, such as that something is an approximation.
        spectrum_size: how many singular values there were, where a log has kept only the leading
            ones; None where `singular_values` is whole.
        first_step: how long the first training step of the new weights that are zero will be, in
            steps of a present neuron's weights on the same side; means over neurons, on the growth
            batch. Above 1 new neurons move faster. None where not known: methods without
            gradients, other forms than outgoing and inverse, optimizers other than SGD and those
            around Adam and RMSprop.
        first_reach: how far momentum will carry new weights on that gradient alone, in lengths of
            a present neuron's weights on the same side. Kept at 1 or below where the size of the
            chosen side decides it.
        kind: "widen"; "insert" or "bridge" for a new layer, whose path is `name`, whose producer
            is the layer it reads, and whose `width_before` is 0; "bridge" too for one made wider.
    """

    name: str
    producers: list[str]
    consumers: list[str]
    width_before: int
    width_after: int
    method: str
    form: str
    singular_values: list[float] = field(default_factory=list)
    gradient_norm: float | None = None
    rank: int | None = None
    notes: list[str] = field(default_factory=list)
    kind: str = "widen"
    existing_norm: float | None = None
    spectrum_size: int | None = None
    first_step: float | None = None
    first_reach: float | None = None


@dataclass
class GrowthEvent:
    """One growth step.

    Attributes:
        step: training steps done before it.
        epoch: index of the epoch it happened in.
        sites: what grew; empty if it failed or there was no room.
        parameters_before, parameters_after: of the whole model.
        flops_before, flops_after: of one sample's forward pass.
        loss: of the growth batch before growth; None where not computed.
        deviation: largest change of any output, as a part of the outputs' scale; None if not
            checked.
        tolerance: the deviation up to which the function counts as kept; None if not checked.
        time: when it happened, in seconds since 1970.
        seconds: by phase: survey, data, plan, statistics, choice, verification, surgery.
        error: why nothing grew; None if all went well.
        notes: what limits and budgets have cut down or left out.
        skipped: sites of which the growth data could say nothing, with the reason.
        scores: what schedule or selector looked at, by site: `added` channels, the largest
            `gradient_norm` they could have, and where asked for the `existing_norm` of the
            gradient by the site's kernels.
        dry_run: whether nothing was changed; then all else says what would be.
    """

    step: int
    epoch: int
    sites: list[SiteGrowth]
    parameters_before: int
    parameters_after: int
    flops_before: float
    flops_after: float
    loss: float | None = None
    deviation: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    notes: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    dry_run: bool = False
    tolerance: float | None = None
    time: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, as `json` takes them."""
        sites = [_copied(vars(site)) for site in self.sites]  # `asdict` takes ten times as long
        return {**_copied({**vars(self), "sites": []}), "sites": sites}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "GrowthEvent":
        """The event that `to_dict` was called on."""
        sites = [SiteGrowth(**site) for site in values["sites"]]
        return cls(**{**values, "sites": sites})


def append(log_dir: str | os.PathLike, event: GrowthEvent) -> None:
    """Adds one line to `log_dir/growth-events.jsonl` and has it on disk before returning."""
    folder = Path(log_dir)
    folder.mkdir(parents=True, exist_ok=True)
    values = event.to_dict()
    try:
        line = json.dumps(values, allow_nan=False)
    except (TypeError, ValueError):  # a method of the user's own may leave other numbers
        line = json.dumps(plain(values), allow_nan=False)
    with open(folder / FILE_NAME, "a+b") as file:
        file.truncate(_end_of_lines(file))
        file.write(line.encode("utf-8") + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _end_of_lines(file: BinaryIO) -> int:
    """Where the last whole line ends: behind it there may be one cut off by a crash."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(end - 4096, 0)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _copied(values: dict[str, Any]) -> dict[str, Any]:
    """A copy, two levels deep."""
    copies: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            copies[name] = {k: dict(v) if isinstance(v, dict) else v for k, v in value.items()}
        else:
            copies[name] = list(value) if isinstance(value, (list, tuple)) else value
    return copies


def plain(value: Any) -> Any:
    """Values as JSON has them: NumPy's numbers are Python's, what is not finite is None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (str, bool)) or value is None:
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if math.isfinite(value) else None


def read(log_dir: str | os.PathLike) -> list[GrowthEvent]:
    """The events written under `log_dir`. A last line cut off by a crash is left out."""
    path = Path(log_dir) / FILE_NAME
    events = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for line in lines[:-1]:  # a whole line ends in a newline
        events.append(GrowthEvent.from_dict(json.loads(line)))
    return events
