"""``keras-grow report``: one page that shows how models grew, from their log folders."""

from __future__ import annotations

from pathlib import Path

import click

from keras_grow.tools.cli.errors import EXIT_CODES_HELP, InputError
from keras_grow.tools.cli.logdirs import LOGDIRS, check_packages, read_logdirs
from keras_grow.tools.cli.options import common_options
from keras_grow.tools.drawings import PAGE_SMOOTHING
from keras_grow.tools.modelfile.writing import check_output, write_file

_ENDINGS = (".html", ".htm")


@click.command(
    epilog=f"""\
\b
Examples:
  keras-grow report logs -o report.html
  keras-grow report logs/gradmax logs/random -o report.html --title "GradMax or random?"
  keras-grow report logs --run 'wrn_.*' -o report.html --force

{EXIT_CODES_HELP}"""
)
@LOGDIRS
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="OUT",
    help="Where to write the page; must end in .html.",
)  # fmt: skip
@click.option("--title", default="Growth report", show_default=True, help="Heading of the page.")
@click.option("--run", "pattern", metavar="REGEX", help="Only runs whose name this matches.")
@click.option(
    "--smoothing", type=click.FloatRange(0, 1), default=PAGE_SMOOTHING, show_default=True,
    help="Of the loss, as in TensorBoard.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@common_options
def command(
    logdirs: tuple[Path, ...],
    output: Path,
    title: str,
    pattern: str | None,
    smoothing: float,
    force: bool,
) -> None:
    """Write a page about the runs below each LOGDIR, with every figure of the TensorBoard tab.

    The page is one file that fetches nothing: open it from disk, send it by mail, print it. It
    tells whether, when and where the models grew, what that cost and brought, why it was there,
    and what the networks look like now.
    """
    check_output(output, force, _ENDINGS)
    check_packages("The report", "plotly", "jinja2")
    runs = read_logdirs(logdirs, pattern)
    if not any(run.growths or run.scalars for run in runs):
        raise InputError("Nothing has been logged in these runs yet.")
    from keras_grow.tools.report.page import build

    page = build(runs, title, ", ".join(str(one) for one in logdirs), smoothing)
    write_file(output, lambda path: path.write_text(page, encoding="utf-8"), force, _ENDINGS)
    click.echo(f"Wrote {output}: {len(runs)} run{'' if len(runs) == 1 else 's'}.")
