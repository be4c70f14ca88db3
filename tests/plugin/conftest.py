"""One browser for all tests of a worker, and one TensorBoard for those that only read."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugin.browser import Browser, TensorBoard, blocking, missing, serving
from plugin.written import write_all

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
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    write_all(folder)
    return folder


@pytest.fixture(scope="session")
def board(logdir: Path, without_tensorflow: dict[str, str]) -> Iterator[TensorBoard]:
    with serving(logdir, env=without_tensorflow) as found:
        yield found
