"""The loader: what it imports, what it asks TensorBoard for, and that it never breaks it."""

import argparse
import subprocess
import sys
from importlib.metadata import entry_points

from helpers.browser import blocking
from tensorboard.plugins import base_plugin

from keras_grow.tools.plugin.loader import GrowthLoader


def test_tensorboard_finds_it():
    (found,) = entry_points(group="tensorboard_plugins", name="keras_grow")
    assert found.load() is GrowthLoader


def test_nothing_heavy_is_imported():
    script = """
import sys
from keras_grow.tools.plugin.loader import GrowthLoader
from tensorboard.plugins import base_plugin
plugin = GrowthLoader().load(base_plugin.TBContext())
assert plugin.plugin_name == "keras_grow"
plugin.get_plugin_apps()
heavy = {"keras", "tensorflow", "torch", "jax", "plotly", "scipy"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_all_records_are_kept_unless_the_user_says_otherwise():
    flags = argparse.Namespace(samples_per_plugin={"scalars": 5})
    GrowthLoader().fix_flags(flags)
    assert flags.samples_per_plugin == {"scalars": 5, "keras_grow": 0}
    flags.samples_per_plugin["keras_grow"] = 7
    GrowthLoader().fix_flags(flags)
    assert flags.samples_per_plugin["keras_grow"] == 7


def test_a_broken_plugin_is_left_out_with_a_warning(tmp_path):
    script = """
import logging, sys
logging.basicConfig()
from keras_grow.tools.plugin.loader import GrowthLoader
from tensorboard.plugins import base_plugin
assert GrowthLoader().load(base_plugin.TBContext()) is None
"""
    env = blocking(tmp_path, "keras_grow.logs", "numpy")
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "The Growth tab is left out: ModuleNotFoundError" in done.stderr


def test_it_does_not_make_tensorboard_wait():
    class Provider:
        def __getattr__(self, name):
            raise AssertionError(f"{name} was asked for")

    plugin = GrowthLoader().load(base_plugin.TBContext(data_provider=Provider()))
    assert plugin.is_active() is False  # TensorBoard itself knows of which plugins it has data
    assert plugin.frontend_metadata().es_module_path in plugin.get_plugin_apps()
