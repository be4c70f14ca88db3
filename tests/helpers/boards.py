"""One browser for all tests of a worker, and one TensorBoard for those that only read."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.browser import Browser, TensorBoard, blocking, missing, serving
from helpers.tab import quiet
from helpers.written import write_all

#: Set it to "required", and a missing browser is a failure rather than a skip.
SETTING = "KERAS_GROW_BROWSER"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    reason = missing()
    if reason is not None:
        if os.environ.get(SETTING) == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def without_tensorflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which TensorFlow cannot be imported: TensorBoard starts much sooner."""
    return blocking(tmp_path_factory.mktemp("no_tensorflow"), "tensorflow")


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log directory with runs of every kind."""
    folder = tmp_path_factory.mktemp("logs")
    write_all(folder)
    return folder


@pytest.fixture(scope="session")
def board(written: Path, without_tensorflow: dict[str, str]) -> Iterator[TensorBoard]:
    with serving(written, env=without_tensorflow) as found:
        yield found


@pytest.fixture
def no_complaints(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing severe in the console, nothing of the kind in TensorBoard's log."""
    yield
    if "browser" in request.fixturenames:
        browser = request.getfixturevalue("browser")
        browser.leave()
        severe = browser.severe()
        browser.forget()
        assert not severe
    if "board" in request.fixturenames:
        quiet(request.getfixturevalue("board"))
