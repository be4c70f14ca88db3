"""Runs as real training leaves them, made without Keras: for tests of what reads and shows them.

Losses decay with noise and drop faster after growths, widths grow site by site, spectra decay.
`synthetic_events` is what a callback would have logged, `synthetic_run` what is read back of it,
`write_synthetic` a log directory with such runs.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_grow.logs.events import GrowthEvent, SiteGrowth
from keras_grow.logs.networks import Network, Node
from keras_grow.logs.runs import GrowthSummary, Run, Series

START = 1_760_000_000.0  # seconds since 1970
PHASES = {
    "survey": 0.02,
    "data": 0.01,
    "plan": 0.03,
    "statistics": 0.6,
    "choice": 0.25,
    "verification": 0.15,
    "surgery": 0.08,
}


# --- networks ----------------------------------------------------------------------------------


class _Builder:
    """Nodes and edges in the order in which they run."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.edges: list[tuple[int, int]] = []

    def add(self, path, kind, *inputs, width=None, site=None, parameters=0) -> int:
        index = len(self.nodes)
        if width is None and inputs:
            width = self.nodes[inputs[0]].width
        if site is None and inputs and kind not in ("Dense", "Conv2D"):
            site = self.nodes[inputs[0]].site
        self.nodes.append(Node(path, kind, width, site, parameters))
        self.edges += [(one, index) for one in inputs]
        return index

    def conv(self, path, source, width, size=3, site=None) -> int:
        inputs = self.nodes[source].width
        return self.add(
            path, "Conv2D", source, width=width, site=site, parameters=size**2 * inputs * width
        )

    def norm(self, path, source) -> int:
        return self.add(path, "BatchNormalization", source, parameters=4 * self.nodes[source].width)

    def done(self, name: str, step: int = 0) -> Network:
        return Network(name, step, tuple(self.nodes), tuple(self.edges))


def mlp(layers: int = 4, width: int = 8, step: int = 0) -> Network:
    """Dense layers in a row, each a site but the last."""
    build = _Builder()
    x = build.add("features", "InputLayer", width=20)
    for number in range(1, layers + 1):
        name = f"dense_{number}"
        inputs = build.nodes[x].width
        x = build.add(name, "Dense", x, width=width, site=name, parameters=(inputs + 1) * width)
        x = build.add(f"relu_{number}", "ReLU", x)
    build.add("logits", "Dense", x, width=10, parameters=(width + 1) * 10)
    return build.done("mlp", step)


def wide_resnet(depth: int = 28, block_width: float = 0.25, step: int = 0) -> Network:
    """WRN-`depth`-1 as `keras_grow.zoo` builds it with batch normalization."""
    build = _Builder()
    x = build.add("image", "InputLayer", width=3)
    x = build.conv("stem", x, 16, site="stem")
    for group, filters in enumerate((16, 32, 64), start=1):
        stream = "stem" if group == 1 else f"block{group}_1_conv2"
        for block in range(1, (depth - 4) // 6 + 1):
            name = f"block{group}_{block}"
            y = build.norm(f"{name}_norm1", x)
            y = build.add(f"{name}_relu1", "Activation", y)
            y = build.conv(f"{name}_conv1", y, int(filters * block_width), site=f"{name}_conv1")
            y = build.norm(f"{name}_norm2", y)
            y = build.add(f"{name}_relu2", "Activation", y)
            y = build.conv(f"{name}_conv2", y, filters, site=stream)
            if group > 1 and block == 1:
                x = build.conv(f"{name}_shortcut", x, filters, 1, site=stream)
            x = build.add(f"{name}_add", "Add", x, y)
    x = build.norm("norm", x)
    x = build.add("relu", "Activation", x)
    x = build.add("pool", "GlobalAveragePooling2D", x)
    build.add("logits", "Dense", x, width=10, parameters=650)
    return build.done(f"wide_resnet_{depth}_1", step)


def mobilenet(step: int = 0) -> Network:
    """MobileNetV2 of keras.applications, with its names."""
    build = _Builder()
    x = build.add("input_layer", "InputLayer", width=3)
    x = build.conv("Conv1", x, 32, site="Conv1")
    x = build.norm("bn_Conv1", x)
    x = build.add("Conv1_relu", "ReLU", x)
    number = 0
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
    stages += ((6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, filters, blocks, stride in stages:
        stream = None
        for block in range(blocks):
            name = f"block_{number}" if number else "expanded_conv"
            y = x
            if expansion > 1:
                inner = build.nodes[x].width * expansion
                y = build.conv(f"{name}_expand", y, inner, 1, site=f"{name}_expand")
                y = build.norm(f"{name}_expand_BN", y)
                y = build.add(f"{name}_expand_relu", "ReLU", y)
            if block == 0 and stride == 2:
                y = build.add(f"{name}_pad", "ZeroPadding2D", y)
            wide = build.nodes[y].width
            y = build.add(f"{name}_depthwise", "DepthwiseConv2D", y, parameters=9 * wide)
            y = build.norm(f"{name}_depthwise_BN", y)
            y = build.add(f"{name}_depthwise_relu", "ReLU", y)
            stream = stream or f"{name}_project"
            y = build.conv(f"{name}_project", y, filters, 1, site=stream)
            y = build.norm(f"{name}_project_BN", y)
            x = build.add(f"{name}_add", "Add", x, y) if block else y
            number += 1
    x = build.conv("Conv_1", x, 1280, 1, site="Conv_1")
    x = build.norm("Conv_1_bn", x)
    x = build.add("out_relu", "ReLU", x)
    x = build.add("global_average_pooling2d", "GlobalAveragePooling2D", x)
    build.add("predictions", "Dense", x, width=1000, parameters=1281 * 1000)
    return build.done("mobilenetv2_1.00_224", step)


NETWORKS = {"mlp": mlp, "wide_resnet": wide_resnet, "mobilenet": mobilenet}


def _inserted(network: Network, widths: Mapping[str, int], name: str, step: int) -> Network:
    """`network` with today's widths and a new layer between its first site and what reads it."""
    first = next(i for i, node in enumerate(network.nodes) if node.site)
    width = widths[network.nodes[first].site]
    nodes = [
        Node(n.path, n.kind, widths.get(n.site, n.width), n.site, n.parameters)
        for n in network.nodes
    ]
    reader = next(end for start, end in network.edges if start == first)
    while nodes[reader].kind in ("BatchNormalization", "ReLU", "Activation"):
        first, reader = reader, next(end for start, end in network.edges if start == reader)
    new = Node(name, nodes[reader].kind, width, name, width * width)
    nodes.insert(reader, new)

    def moved(i: int) -> int:
        return i + (i >= reader)

    edges = [(moved(a), moved(b)) for a, b in network.edges if (a, b) != (first, reader)]
    edges += [(first, reader), (reader, reader + 1)]
    return Network(network.name, step, tuple(nodes), tuple(sorted(edges)))


# --- events ------------------------------------------------------------------------------------


def _sites_of(network: Network | None, sites: int | None) -> dict[str, int]:
    if network is None:
        return {f"conv_{number}": 16 for number in range(1, (sites or 6) + 1)}
    found: dict[str, int] = {}
    for node in network.nodes:
        if node.site and node.width:
            found.setdefault(node.site, node.width)
    return dict(list(found.items())[:sites])


class _Spectra:
    """Spectra of a few looks, which many sites share: drawing each anew takes seconds."""

    def __init__(self, rng: np.random.Generator, kinds: int = 24, length: int = 64) -> None:
        falling = np.exp(-np.arange(length) / rng.uniform(2.0, 8.0, (kinds, 1)))
        scale = 0.4 * rng.uniform(0.3, 1.3, (kinds, 1))
        spectra = scale * falling * rng.lognormal(0, 0.15, (kinds, length)) + 1e-6
        self._kinds = -np.sort(-spectra, axis=1)
        self._scaled: dict[tuple[int, int], list[float]] = {}

    def of(self, kind: int, progress: float) -> list[float]:
        key = (kind % len(self._kinds), round(20 * progress))
        if key not in self._scaled:
            values = self._kinds[key[0]] * math.exp(-1.5 * key[1] / 20)
            self._scaled[key] = [float(f"{value:.4g}") for value in values]
        return self._scaled[key]


def _site_growth(
    name: str, width: int, added: int, method: str, spectrum: list[float], existing: float
) -> SiteGrowth:
    looked = method != "random"
    values = spectrum[: 3 * width + 8] if looked else []
    return SiteGrowth(
        name=name,
        producers=[name],
        consumers=[f"{name}_next"],
        width_before=width,
        width_after=width + added,
        method=method,
        form="outgoing" if looked else "inverse",
        singular_values=values,
        gradient_norm=math.sqrt(sum(v * v for v in values[:added])) if looked else None,
        rank=len(values) or None,
        existing_norm=existing if looked else None,
    )


def synthetic_events(
    events: int = 8,
    sites: int | None = 6,
    seed: int = 0,
    *,
    network: str | None = "mlp",
    method: str = "gradmax",
    every: int = 200,
    trouble: tuple[str, ...] = (),
) -> tuple[list[GrowthEvent], list[Network], dict[str, Series]]:
    """What one run logs.

    Args:
        events: growth steps.
        sites: how many can grow; None for all of the network's.
        network: one of NETWORKS, or None for a run that tells of none.
        method: of all growths.
        every: training steps between growths.
        trouble: of "error" (a growth fails), "broken" (at the next one outputs change), "insert"
            (a new layer), "dry" (nothing is changed), "nan" (the loss ends in NaN).

    Returns:
        Events, networks, and scalars by tag.
    """
    rng = np.random.default_rng([seed, 17])
    drawn = None
    if network is not None:
        drawn = mlp(sites or 4) if network == "mlp" else NETWORKS[network]()
    widths = _sites_of(drawn, sites)
    networks = [drawn] if drawn else []
    names = list(widths)
    found: list[GrowthEvent] = []
    parameters = sum(27 * w * w for w in widths.values()) + 1200
    flops = 220.0 * parameters
    steps = every * (events + 1)
    history = {name: [(0, width)] for name, width in widths.items()}
    sizes = [(0, parameters, flops)]
    middle = events // 2
    spectra = _Spectra(rng)
    drawn_numbers = rng.random((events, max(len(names), 1), 4))
    for number in range(events):
        step = every * (number + 1)
        event = GrowthEvent(
            step=step,
            epoch=step // 500,
            sites=[],
            parameters_before=parameters,
            parameters_after=parameters,
            flops_before=flops,
            flops_after=flops,
            loss=None,
            dry_run="dry" in trouble,
            time=START + 0.03 * step + 1.2 * number,
        )
        found.append(event)
        if "error" in trouble and number == middle:
            event.error = "The machine had no memory left: out of memory allocating 1.2 GiB."
            continue
        event.deviation = float(3e-7 * rng.lognormal(0, 0.8))
        event.tolerance = 1e-5
        if "broken" in trouble and number == middle + 1:
            event.deviation = 3e-3
        event.seconds = {
            phase: float(mean * (1 + 0.5 * number / max(events, 1)) * rng.lognormal(0, 0.2))
            for phase, mean in PHASES.items()
        }
        progress = (number + 1) / events
        if "insert" in trouble and number == middle and drawn is not None:
            name = "inserted"
            networks.append(_inserted(networks[-1], widths, name, step))
            width = widths[names[0]]
            event.sites = [
                SiteGrowth(
                    name=name, producers=[names[0]], consumers=[names[1]], width_before=0,
                    width_after=width, method="identity", form="identity", kind="insert",
                )
            ]  # fmt: skip
            widths[name] = width
            history[name] = [(step, width)]
        else:
            for place, name in enumerate(names):
                chance, part, kind, norm = drawn_numbers[number, place]
                if chance < 0.25 and len(names) > 2:
                    continue  # not every site grows each time
                added = max(1, round(widths[name] * (0.125, 0.25, 0.25, 0.5)[int(4 * part)]))
                if events > 50:
                    added = 1
                growth = _site_growth(
                    name, widths[name], added, method,
                    spectra.of(int(1000 * kind), progress), float(0.2 + 0.6 * norm),
                )  # fmt: skip
                event.sites.append(growth)
                if not event.dry_run:
                    widths[name] += added
                    history[name].append((step, widths[name]))
        after = sum(27 * w * w for w in widths.values()) + 1200
        event.parameters_after, event.flops_after = after, 220.0 * after
        parameters, flops = after, event.flops_after
        sizes.append((step, parameters, flops))
    scalars = _scalars(rng, found, steps, every, history, sizes, "nan" in trouble)
    for event in found:
        event.loss = float(scalars["loss"].values[min(event.step, steps) - 1])
    return found, networks, scalars


def _time(steps: np.ndarray, events: list[GrowthEvent]) -> np.ndarray:
    grown = np.searchsorted([e.step for e in events], steps, side="left")
    return START + 0.03 * steps + 1.2 * grown


def _scalars(rng, events, steps, every, history, sizes, broken) -> dict[str, Series]:
    at = np.arange(1, steps + 1)
    rate = np.full(steps, 0.5 / every)
    for event in events:
        added = max(len(event.sites), 1) / 6
        rate[event.step :] *= 0.9
        decay = np.exp(-np.arange(steps - event.step) / (0.3 * every))
        rate[event.step :] += min(added, 2) * 0.6 / every * decay * (method_gain(event))
    smooth = 0.08 + 2.2 * np.exp(-np.cumsum(rate))
    values = smooth * rng.lognormal(0, 0.09, steps)
    if broken:
        values[int(steps * 0.9) :] = math.nan
    times = _time(at, events)
    accuracy = np.clip(1 - 0.4 * smooth + rng.normal(0, 0.012, steps), 0, 1)

    def stairs(pairs) -> Series:
        s = np.array([p[0] for p in pairs])
        return Series(s, _time(s, events), np.array([float(p[1]) for p in pairs]))

    epochs = np.arange(max(every // 2, 1), steps + 1, max(every // 2, 1))
    scalars = {
        "loss": Series(at, times, values),
        "accuracy": Series(at, times, accuracy),
        "val_loss": Series(epochs, _time(epochs, events), smooth[epochs - 1] * 1.08),
        "learning_rate": Series(epochs, _time(epochs, events), np.full(len(epochs), 1e-3)),
        "parameters": stairs([(s, p) for s, p, _ in sizes]),
        "flops": stairs([(s, f) for s, _, f in sizes]),
    }
    for name, widths in history.items():
        scalars[f"width/{name}"] = stairs(widths)
    return scalars


def method_gain(event: GrowthEvent) -> float:
    """How much faster the loss falls after a growth."""
    methods = {site.method for site in event.sites}
    return 1.0 if "gradmax" in methods else 0.45 if methods else 0.0


# --- runs --------------------------------------------------------------------------------------


def short(event: GrowthEvent) -> GrowthSummary:
    """An event without its sites."""

    def norm(name: str) -> float | None:
        known = [v for v in (getattr(site, name) for site in event.sites) if v is not None]
        return math.sqrt(sum(v * v for v in known)) if known else None

    def each(name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(getattr(site, name) for site in event.sites))

    return GrowthSummary(
        step=event.step,
        time=event.time,
        epoch=event.epoch,
        parameters_before=event.parameters_before,
        parameters_after=event.parameters_after,
        flops_before=event.flops_before,
        flops_after=event.flops_after,
        loss=event.loss,
        deviation=event.deviation,
        tolerance=event.tolerance,
        seconds=event.seconds,
        error=event.error,
        notes=tuple(event.notes),
        dry_run=event.dry_run,
        sites=len(event.sites),
        added=sum(site.width_after - site.width_before for site in event.sites),
        methods=each("method"),
        forms=each("form"),
        kinds=each("kind"),
        gradient_norm=norm("gradient_norm"),
        existing_norm=norm("existing_norm"),
        skipped=event.skipped,
    )


def synthetic_run(
    name: str = "run",
    events: int = 8,
    sites: int | None = 6,
    seed: int = 0,
    *,
    with_sites: bool = True,
    resumed: tuple[int, ...] = (),
    **options: Any,
) -> Run:
    """A run as it is read back.

    Args:
        name: of the run.
        events, sites, seed, options: of `synthetic_events`.
        with_sites: whether what grew at each step is read too.
        resumed: steps at which it went on after a break.
    """
    found, networks, scalars = synthetic_events(events, sites, seed, **options)
    return Run(
        name=name,
        growths=[short(event) for event in found],
        scalars=scalars,
        sites={event.step: event.sites for event in found} if with_sites else {},
        networks=networks,
        resumed=list(resumed),
    )


def synthetic_runs() -> list[Run]:
    """Five runs with what can be met: two methods, a failure, a resumption, a new layer."""
    return [
        synthetic_run("gradmax", seed=1),
        synthetic_run("random", seed=2, method="random"),
        synthetic_run("gradmax-failed-once", seed=3, trouble=("error",)),
        synthetic_run("resumed", seed=4, resumed=(900,)),
        synthetic_run("deeper", seed=5, trouble=("insert",)),
    ]


def write_synthetic(
    logdir: str | os.PathLike, runs: int = 3, events: int = 8, sites: int | None = 6, **options: Any
) -> list[str]:
    """Writes runs below `logdir` as `GrowthCallback(log_dir=...)` would; returns their names."""
    from keras_grow.logs.writing import RunWriter

    names = []
    for number in range(runs):
        chosen = {"method": ("gradmax", "random")[number % 2], **options}
        name = f"{chosen['method']}-{number}"
        found, networks, scalars = synthetic_events(events, sites, seed=number, **chosen)
        begun = min(float(series.times[0]) for series in scalars.values())
        writer = RunWriter(Path(logdir) / name, opened=begun)
        for network in networks:
            writer.network(network, begun)
        for tag, series in scalars.items():
            for step, when, value in zip(series.steps, series.times, series.values, strict=True):
                writer.scalar(tag, float(value), int(step), float(when))
        for event in found:
            writer.growth(event)
        writer.close()
        names.append(name)
    return names
