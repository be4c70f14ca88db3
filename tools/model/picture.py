"""A model's graph as a picture: where it can grow, and where it cannot, by colour."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from keras_grow.tools.cli.errors import InputError, one_paragraph
from keras_grow.tools.model.parts import Part, inner_ends, parts_of
from keras_grow.tools.modelfile import write_file

#: Formats that Graphviz draws, and its own language, for which it need not be installed.
DRAWN, SOURCE = (".svg", ".png", ".pdf"), (".dot", ".gv")
ENDINGS = (*DRAWN, *SOURCE)

_SECONDS = 180

# Told apart without colour too: by their borders.
_GROWS = 'fillcolor="#bfe3c4", color="#2b7a3d", penwidth=2'
_REFUSED = 'fillcolor="#f6c6bd", color="#b03a2e", style="rounded,filled,dashed"'
_BOX = 'labelloc=t; labeljust=l; color="#888888"; style="rounded"; fontsize=11'
_PLAIN = 'fillcolor="#eeeeee", color="#888888"'


def check_drawing(path: Path) -> None:
    """Refuse, before any work is done, a picture that could not be drawn here.

    Raises:
        InputError: Graphviz is needed and not installed.
    """
    if path.suffix in DRAWN and shutil.which("dot") is None:
        raise InputError(
            f"{path.suffix} pictures are drawn by Graphviz, and its program dot is not installed. "
            "Install it (Debian and Ubuntu: apt install graphviz; macOS: brew install graphviz), "
            "or give a name ending in .dot for the text that Graphviz reads."
        )


def save_picture(path: Path, text: str, force: bool) -> None:
    """Draw ``text``, a graph in Graphviz's language, into a file.

    Raises:
        InputError: the file cannot be written, or Graphviz fails or takes too long.
    """

    def write(target: Path) -> None:
        if path.suffix in SOURCE:
            target.write_text(text, encoding="utf-8")
            return
        command = ["dot", f"-T{path.suffix[1:]}", "-o", str(target)]
        try:
            done = subprocess.run(
                command, input=text, capture_output=True, text=True, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise InputError(
                f"Graphviz did not finish {path} within {_SECONDS} seconds. Give a name ending in "
                ".dot, and draw that with another program of Graphviz, such as sfdp."
            ) from None
        if done.returncode or not target.exists():
            raise InputError(f"Graphviz could not draw {path}: {one_paragraph(done.stderr, 300)}")

    check_drawing(path)
    write_file(path, write, force, ENDINGS)


def graph_text(model: Any, sites: list[Any], refusals: list[Any]) -> str:
    """The graph of ``model`` in Graphviz's language.

    Layers that can be widened show their width and, where it is not their own name, that of
    their site; layers tied to each other are one site. Nested models are boxes.

    Args:
        sites: from `keras_grow.sites(model)`.
        refusals: from `keras_grow.sites(model, refused=True)`.
    """
    parts = parts_of(model)
    site_of = {producer: site for site in sites for producer in site.producers}
    refused = {one.producer for one in refusals}

    lines = [
        f"digraph {_quote(model.name)} {{",
        '  graph [rankdir=TB, fontname="Helvetica", nodesep=0.25, ranksep=0.3];',
        '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=11];',
        '  edge [color="#555555", arrowsize=0.7];',
        f"  label={_quote(f'{model.name}: {len(sites)} places can be widened')}; labelloc=t;",
    ]

    nested = [path for path, part in parts.items() if part.model]
    # A layer's own name may hold a slash, so the innermost nested model around it is looked for.
    around = {
        path: max((one for one in nested if path.startswith(f"{one}/")), key=len, default="")
        for path in parts
    }

    def inside(prefix: str, indent: str) -> None:
        for path, part in parts.items():
            if around[path] != prefix:
                continue
            if part.model:
                lines.append(f"{indent}subgraph {_quote('cluster_' + path)} {{")
                lines.append(f"{indent}  label={_quote(path)}; {_BOX};")
                inside(path, indent + "  ")
                lines.append(f"{indent}}}")
            else:
                lines.append(f"{indent}{_quote(path)} [{_node(part, site_of, refused)}];")

    inside("", "  ")
    for start, end in _arrows(parts):
        lines.append(f"  {_quote(start)} -> {_quote(end)};")
    lines += _legend()
    lines.append("}")
    return "\n".join(lines) + "\n"


def _node(part: Part, site_of: dict[str, Any], refused: set[str]) -> str:
    name = part.path.rpartition("/")[2] or part.path
    words = [name, part.kind]
    style = _PLAIN
    if part.path in site_of:
        style = _GROWS
        site = site_of[part.path]
        words.append(f"width {site.width}")
        if site.granularity > 1:
            words[-1] += f", in steps of {site.granularity}"
        if site.name != part.path:
            words.append(f"site {site.name}")
        elif len(site.producers) > 1:
            words.append(f"tied to {len(site.producers) - 1} more")
    elif part.path in refused:
        style = _REFUSED
        words.append("cannot be widened")
    label = "\\n".join(_escape(word) for word in words)
    return f'label="{label}", {style}'


def _arrows(parts: dict[str, Part]) -> list[tuple[str, str]]:
    """Edges between parts; those at a nested model lead to and from what is inside it."""
    arrows: list[tuple[str, str]] = []
    ends = {path: inner_ends(parts, path) for path, part in parts.items() if part.model}
    for path, part in parts.items():
        firsts = ends[path][0] if part.model else [path]
        for position, source in enumerate(part.inputs):
            lasts = ends[source][1] if source in ends else [source]
            # A nested model's inputs come in the order in which it is called with them.
            one = [firsts[position % len(firsts)]] if part.model and firsts else firsts
            arrows += [(last, first) for last in lasts for first in one if last in parts]
    return list(dict.fromkeys(arrows))


def _legend() -> list[str]:
    return [
        '  subgraph "cluster_legend" {',
        '    label="Legend"; labelloc=t; color="#bbbbbb"; style="solid"; fontsize=10;',
        "    node [fontsize=10];",
        f'    "legend: grows" [label="can be widened", {_GROWS}];',
        f'    "legend: refused" [label="makes channels,\\ncannot be widened", {_REFUSED}];',
        f'    "legend: plain" [label="no width\\nof its own", {_PLAIN}];',
        '    "legend: grows" -> "legend: refused" -> "legend: plain" [style=invis];',
        "  }",
    ]


def _escape(text: str) -> str:
    text = "".join(c if c.isprintable() else " " for c in text)
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _quote(text: str) -> str:
    return f'"{_escape(text)}"'
