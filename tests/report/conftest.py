"""Log folders to report on, and a browser to open reports in."""

import os

import pytest
from click.testing import CliRunner
from logs.synthetic import synthetic_events
from plugin.browser import Browser, missing

from keras_grow.logs.writing import RunWriter
from keras_grow.tools.cli.main import cli


def write_run(folder, **options):
    events, networks, scalars = synthetic_events(**options)
    with RunWriter(folder) as writer:
        for network in networks:
            writer.network(network)
        for tag, series in scalars.items():
            for step, when, value in zip(series.steps, series.times, series.values, strict=True):
                writer.scalar(tag, float(value), int(step), float(when))
        for event in events:
            writer.growth(event)
    return events


@pytest.fixture(scope="session")
def logdir(tmp_path_factory):
    """Three runs: by two methods, and one in which things went wrong."""
    folder = tmp_path_factory.mktemp("logs")
    write_run(folder / "gradmax", events=4, sites=3, seed=1, every=60)
    write_run(folder / "random", events=3, sites=3, seed=2, every=60, method="random")
    write_run(
        folder / "wrn", events=5, sites=None, seed=3, every=60, network="wide_resnet",
        trouble=("error", "broken"),
    )  # fmt: skip
    return folder


@pytest.fixture
def run():
    def call(*arguments, **environment):
        runner = CliRunner()
        return runner.invoke(
            cli, [str(one) for one in arguments], prog_name="keras-grow", env=environment
        )

    return call


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    reason = missing()
    if reason is not None:
        if os.environ.get("KERAS_GROW_BROWSER") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()
