"""The measured records as a page of Markdown."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_grow.tools.coverage.models import entries
from keras_grow.tools.coverage.runner import read

TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
_OUTPUT = "makes an output of the model"


def write(folder: Path, target: Path) -> list[str]:
    """Writes the report of all records in `folder`.

    Returns:
        What is not as it should be: failures, and deviations above the tolerance.
    """
    records = [r for path in sorted(folder.glob("*.jsonl")) for r in read(path).values()]
    main = _main_records(records)
    lines = [
        "# Coverage",
        "",
        "Every model of `keras.applications`, and the vision models of keras-cv and keras-hub "
        "that build",
        "on Keras 3, untrained, on small images, ending in logits. `make coverage-report` writes "
        "this page.",
        "",
        "A *producer* is a layer that makes channels. It is *growable* if it belongs to a site; "
        "the others",
        "are model outputs or refused, with the reason. All weights, biases and statistics are "
        "random. Then",
        "every site is widened by one to three channels (or whole groups), all at once, and a few",
        "sites each alone; Keras's own outputs before and after are compared. "
        "*Deviation* is the largest difference as a part of the largest "
        "output.",
        "",
    ]
    lines += _totals(main)
    for library in dict.fromkeys(r["library"] for r in main):
        lines += _table(library, [r for r in main if r["library"] == library])
    lines += _refusals(main)
    lines += _backends(records)
    problems = _problems(records)
    if problems:
        lines += ["## Not as it should be", "", *(f"* {p}" for p in problems), ""]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines))
    return problems


def _main_records(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One record a model, in float32, on the backend where most were measured."""
    single = [r for r in records if r["floatx"] == "float32"]
    rank = {b: i for i, (b, _) in enumerate(Counter(r["backend"] for r in single).most_common())}
    best: dict[str, dict[str, Any]] = {}
    for record in sorted(single, key=lambda r: ("failure" in r, rank[r["backend"]])):
        best.setdefault(record["key"], record)
    return [best[e.key] for e in entries() if e.key in best]


def worst_of(record: dict[str, Any]) -> float:
    """The largest deviation of a record."""
    return max([*record["all"].values(), *record["alone"].values()], default=0.0)


def outputs_of(record: dict[str, Any]) -> int:
    """Producers that make an output of the model."""
    return sum(n for reason, n in record["refused"].items() if _OUTPUT in reason)


def _totals(records: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| library | models | producers | growable | outputs | refused | worst deviation |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for library in dict.fromkeys(r["library"] for r in records):
        own = [r for r in records if r["library"] == library and "failure" not in r]
        producers, growable = (sum(r[k] for r in own) for k in ("producers", "growable"))
        outputs = sum(map(outputs_of, own))
        lines.append(
            f"| {library} | {len(own)} | {producers:,} | {growable:,} | {outputs:,} | "
            f"{producers - growable - outputs:,} | {max(map(worst_of, own), default=0.0):.0e} |"
        )
    return [*lines, ""]


def _table(library: str, records: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"## {library}",
        "",
        "| model | layers | producers | growable | sites | outputs | refused | all at once | "
        "alone | scale | backend | `kg.sites` s | `kg.widen` s |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --- | --: | --: |",
    ]
    for r in records:
        if "failure" in r:
            lines.append(f"| {r['name']} | " + " | " * 11 + f"{r['failure'][:100]} |")
            continue
        outputs = outputs_of(r)
        refused = r["producers"] - r["growable"] - outputs
        together, alone = (f"{max(r[k].values()):.0e}" if r[k] else "" for k in ("all", "alone"))
        seconds = r["seconds"]
        widen = next((f"{seconds[f]:.1f}" for f in ("auto", "outgoing") if f in seconds), "")
        scale = f"{r['scale']:.2g}" if "scale" in r else ""
        lines.append(
            f"| {r['name']} | {r['layers']} | {r['producers']} | {r['growable']} | {r['sites']} | "
            f"{outputs} | {refused} | {together} | {alone} | {scale} | {r['backend']} | "
            f"{seconds['sites']:.2f} | {widen} |"
        )
    return [*lines, ""]


def _refusals(records: list[dict[str, Any]]) -> list[str]:
    count: Counter[str] = Counter()
    models: dict[str, set[str]] = {}
    examples: dict[str, str] = {}
    for r in records:
        for reason, n in r.get("refused", {}).items():
            if _OUTPUT in reason:
                reason = "it makes an output of the model, whose width its users rely on."
            count[reason] += n
            models.setdefault(reason, set()).add(r["key"])
            examples.setdefault(reason, r["key"])
    lines = [
        "## Refused, and why",
        "",
        "| producers | models | reason |",
        "| --: | --: | --- |",
    ]
    for reason, n in count.most_common():
        lines.append(f"| {n:,} | {len(models[reason])} | {reason.replace('|', '/')} |")
    return [*lines, ""]


def _backends(records: list[dict[str, Any]]) -> list[str]:
    columns = sorted({(r["backend"], r["floatx"]) for r in records})
    by_model: dict[str, dict[tuple[str, str], float]] = {}
    for r in records:
        if "failure" not in r and (r["all"] or r["alone"]):
            by_model.setdefault(r["key"], {})[r["backend"], r["floatx"]] = worst_of(r)
    several = {key: found for key, found in by_model.items() if len(found) > 1}
    if not several:
        return []
    lines = [
        "## On several backends",
        "",
        "Worst deviation of a model, all sites at once and alone.",
        "",
        "| model | " + " | ".join(f"{b} {f}" for b, f in columns) + " |",
        "| --- |" + " --: |" * len(columns),
    ]
    for key, found in several.items():
        cells = [f"{found[c]:.0e}" if c in found else "" for c in columns]
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _problems(records: list[dict[str, Any]]) -> list[str]:
    problems = []
    for r in records:
        where = f"{r['key']} on {r['backend']} in {r['floatx']}"
        if "failure" in r:
            problems.append(f"{where}: {r['failure']}")
            continue
        problems += [f"{where}, {what}: {error}" for what, error in r["errors"].items()]
        limit = TOLERANCE[r["floatx"]]
        problems += [
            f"{where}, {what}: deviation {value:.1e}"
            for what, value in [*r["all"].items(), *r["alone"].items()]
            if not value <= limit
        ]
    return problems
