"""The tab in a browser: how tests open it, wait for it and read it."""

from collections.abc import Iterator
from contextlib import contextmanager

from helpers.browser import Browser, TensorBoard, serving, wait
from helpers.written import RUNS

GROWTHS = sum(options["events"] for options in RUNS.values())


@contextmanager
def visiting(browser: Browser, *arguments, **options) -> Iterator[TensorBoard]:
    """A TensorBoard of one test. The browser leaves it before it ends."""
    with serving(*arguments, **options) as board:
        try:
            yield board
        finally:
            browser.leave()
        quiet(board)


def quiet(board: TensorBoard) -> None:
    assert "Traceback" not in board.log
    assert "security_validator" not in board.log
    assert "Content-Security-Policy" not in board.log


def text(browser: Browser, selector: str) -> str:
    return browser.one(selector).text


def rows(browser: Browser) -> list[list[str]]:
    """Cells of the table that can be seen."""
    return browser.run(
        """
        const body = [...document.querySelectorAll('tbody')].find(b => b.offsetParent);
        return [...body.rows].map(row => [...row.cells].map(cell => cell.textContent));
        """
    )


def complete(browser: Browser, growths: int = GROWTHS) -> None:
    """Waits until TensorBoard has read everything, and the page with it."""
    wait(
        f"{growths} growths",
        lambda: (
            browser.run("return document.querySelector('.tile .value')?.textContent")
            in (f"{growths} growths", f"{growths} growth")
        ),
    )
    browser.drawn()
