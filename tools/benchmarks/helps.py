"""Does growing help? Small, grown and big on networks, data and optimizers that people have."""

import gzip
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import keras
import numpy as np
from keras import ops

import keras_grow as kg
from keras_grow.tools.benchmarks.networks import NETWORKS, target
from keras_grow.zoo import digits

#: Of Debian's package dataset-fashion-mnist.
FASHION = Path("/usr/share/datasets/fashion-mnist")
#: By data set: batch size and epochs.
LENGTHS = {"digits": (32, 16), "fashion": (64, 12), "fashion28": (128, 16)}
OPTIMIZERS = ("sgd", "adamw")
#: Methods whose sites are refused in some of the networks are listed as such.
METHODS = ("gradmax", "random", "tiny", "split", "firefly", "gradmaxopt", "pursuit")

Arrays = tuple[np.ndarray, np.ndarray]


class Rate(keras.optimizers.schedules.LearningRateSchedule):
    """A rate over a known number of steps.

    Args:
        rate: at its highest.
        steps: of the training.
        kind: "stable" rises over the first 2 %, stays, and falls to zero over the last 10 %;
            "cosine" falls from the start.
    """

    def __init__(self, rate: float, steps: int, kind: str) -> None:
        super().__init__()
        self.rate, self.steps, self.kind = rate, steps, kind

    def __call__(self, step: Any) -> Any:
        part = ops.cast(step, "float32") / self.steps
        if self.kind == "cosine":
            return self.rate * 0.5 * (1 + ops.cos(math.pi * ops.minimum(part, 1.0)))
        rise, fall = part / 0.02 + 1e-3, ops.maximum((1 - part) / 0.1, 0.0)
        return self.rate * ops.minimum(1.0, ops.minimum(rise, fall))

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "steps": self.steps, "kind": self.kind}


def load(name: str) -> tuple[Arrays, Arrays]:
    """Images of mean 0 and deviation 1, and labels.

    "fashion" is the first 4,096 and 4,000 images of Fashion-MNIST, halved to 14 x 14 pixels by
    averaging; "fashion28" the first 12,000 and 5,000 as they are.

    Raises:
        click.ClickException: the files of Fashion-MNIST are not there.
    """
    if name == "digits":
        (x, y), (x_test, y_test) = digits.load_data(seed=0)
    else:
        whole = name == "fashion28"
        x, y = _fashion("train", 12_000 if whole else 4_096, whole)
        x_test, y_test = _fashion("t10k", 5_000 if whole else 4_000, whole)
    mean, deviation = x.mean(), x.std()
    return ((x - mean) / deviation, y), ((x_test - mean) / deviation, y_test)


def _fashion(part: str, count: int, whole: bool) -> Arrays:
    images = _bytes(f"{part}-images-idx3", 16).reshape(-1, 14, 2, 14, 2, 1)[:count]
    images = images.reshape(-1, 28, 28, 1) if whole else images.mean(axis=(2, 4))
    return images.astype("float32"), _bytes(f"{part}-labels-idx1", 8)[:count].astype("int32")


def _bytes(name: str, offset: int) -> np.ndarray:
    path = FASHION / f"{name}-ubyte.gz"
    if not path.exists():
        raise click.ClickException(
            f"{path} is not there. Debian's and Ubuntu's package dataset-fashion-mnist has it: "
            "apt-get install dataset-fashion-mnist; or use --data digits."
        )
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=offset)


def cells(
    network: str,
    data: str,
    optimizer: str,
    ways: Sequence[str],
    ats: Sequence[float],
    seeds: Sequence[int],
    schedule: str = "stable",
) -> Iterator[dict[str, Any]]:
    """The cells of one network, data set and optimizer, as plain values.

    Args:
        ways: methods, as "gradmax", "gradmax:outgoing" or, with a warm-up of 100 steps,
            "gradmax:outgoing:100".
        ats: when to grow, as a part of all steps.
    """
    build, *rates = NETWORKS[network]
    batch_size, epochs = LENGTHS[data]
    (x, y), test = load(data)
    x, y = (a[: len(a) // batch_size * batch_size] for a in (x, y))
    rate = Rate(rates[OPTIMIZERS.index(optimizer)], epochs * len(x) // batch_size, schedule)

    def make(width: float) -> keras.Model:
        model = build(x.shape[1:], width)
        chosen = (
            keras.optimizers.SGD(rate, momentum=0.9)
            if optimizer == "sgd"
            else keras.optimizers.AdamW(rate, weight_decay=0.01)
        )
        model.compile(chosen, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    widths = target(build(x.shape[1:], 1.0))
    known = None
    for way in ways:
        method, form, warmup = (*way.split(":"), *("auto", "auto")[way.count(":") :])
        for at in ats:
            cell: dict[str, Any] = {
                "network": network, "data": data, "optimizer": optimizer, "way": way, "at": at,
                "schedule": schedule, "backend": keras.config.backend(),
            }  # fmt: skip
            try:
                check = kg.growth_check(
                    lambda: make(0.5), lambda: make(1.0), (x, y), validation_data=test,
                    epochs=epochs, batch_size=batch_size, at=at, method=method,
                    form=form, warmup=warmup if warmup == "auto" else int(warmup), seeds=seeds,
                    names=list(widths), known=known, on_failure="raise",
                )  # fmt: skip
            except kg.GrowthError as error:
                yield {**cell, "refused": str(error)}
                continue
            known = check
            yield {**cell, **check.to_dict()}


def summary(cell: dict[str, Any]) -> dict[str, Any]:
    """What a table shows of a cell: means over its seeds."""

    def mean(arm: str, what: str) -> float:
        found = [t[what] for t in cell["trials"] if t["arm"] == arm]
        return float(np.mean(found)) if found and None not in found else math.nan

    vitality = [t["vitality"] for t in cell["trials"] if t["arm"] == "grown" and t["vitality"]]
    by_seed = {(t["arm"], t["seed"]): t["train"] for t in cell["trials"]}
    differences = [
        loss - by_seed["small", seed] for (arm, seed), loss in by_seed.items() if arm == "grown"
    ]
    return {
        "seeds": len(differences),
        "spike": cell["spike"],
        "train": {arm: mean(arm, "train") for arm in ("small", "grown", "big")},
        "test": {arm: mean(arm, "test") for arm in ("small", "grown", "big")},
        "closed": cell["closed"],
        "lower": sum(d < 0 for d in differences),
        "alive": float(np.mean([v["alive"] for v in vitality])) if vitality else math.nan,
        "turning": float(np.mean([v["turning"] for v in vitality])) if vitality else math.nan,
        "first_step": mean("grown", "first_step"),
        "first_reach": mean("grown", "first_reach"),
    }


TITLES = (
    "network", "data", "optimizer", "growth", "at", "spike", "training loss: small, grown, big",
    "test loss", "gap closed", "lower than small", "alive, turning", "first step, reach",
)  # fmt: skip


def row(cell: dict[str, Any]) -> list[str]:
    """A cell as a row of a table."""
    first = [cell["network"], cell["data"], cell["optimizer"], cell["way"], f"{cell['at']:.0%}"]
    if "refused" in cell:
        return [*first, "refused", *[""] * (len(TITLES) - len(first) - 1)]
    s = summary(cell)
    three = [
        ", ".join(f"{s[what][a]:.3f}" for a in ("small", "grown", "big"))
        for what in ("train", "test")
    ]
    closed = "" if s["closed"] is None or math.isnan(s["closed"]) else f"{s['closed']:.2f}"
    foreseen = (
        "" if math.isnan(s["first_step"]) else f"{s['first_step']:.2g}, {s['first_reach']:.2g}"
    )
    return [
        *first, f"{s['spike']:.2f}", *three, closed, f"{s['lower']} of {s['seeds']}",
        f"{s['alive']:.2f}, {s['turning']:.2f}", foreseen,
    ]  # fmt: skip


def markdown(found: Sequence[dict[str, Any]]) -> str:
    """The table for a page."""
    lines = [TITLES, ["---"] * len(TITLES), *map(row, found)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@click.command("helps")
@click.option("--network", "networks", multiple=True, type=click.Choice(sorted(NETWORKS)))
@click.option("--data", "datasets", multiple=True, type=click.Choice(sorted(LENGTHS)))
@click.option("--optimizer", "optimizers", multiple=True, type=click.Choice(OPTIMIZERS))
@click.option("--way", "ways", multiple=True, help="METHOD[:FORM[:WARMUP]]; default gradmax.")
@click.option(
    "--at", "ats", multiple=True, type=float, help="Parts of training; default 0.25, 0.5."
)
@click.option("--seeds", default=3, show_default=True, help="Number of seeds, counted from 0.")
@click.option("--schedule", type=click.Choice(["stable", "cosine"]), default="stable")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Append cells as JSON lines.")
@click.option("--show", is_flag=True, help="Only print what the file of --out holds, as Markdown.")
def command(
    networks: tuple[str, ...] = (),
    datasets: tuple[str, ...] = (),
    optimizers: tuple[str, ...] = (),
    ways: tuple[str, ...] = (),
    ats: tuple[float, ...] = (),
    seeds: int = 3,
    schedule: str = "stable",
    out: Path | None = None,
    show: bool = False,
) -> None:
    """Does growing help? Small, grown and big on the networks people have.

    Without options: the default growth on every network, with both optimizers, on the digits, as
    a table in Markdown.
    """
    if show:
        if out is None or not out.exists():
            raise click.UsageError("--show needs --out FILE with cells in it.")
        click.echo(markdown([json.loads(line) for line in out.read_text().splitlines()]))
        return
    found = []
    for network in networks or tuple(n for n in NETWORKS if n != "batchnorm"):
        for data in datasets or ("digits",):
            for optimizer in optimizers or OPTIMIZERS:
                for cell in cells(
                    network, data, optimizer, ways or ("gradmax",), ats or (0.25, 0.5),
                    range(seeds), schedule,
                ):  # fmt: skip
                    found.append(cell)
                    if out is not None:
                        with out.open("a") as file:
                            file.write(json.dumps(cell) + "\n")
    click.echo(markdown(found))
