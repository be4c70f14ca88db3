"""The wheel holds every package, under the name by which the code imports it."""

import pathlib
import tomllib

ROOT = pathlib.Path(__file__).parents[2]


def test_pyproject_lists_every_package():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {"keras_grow": "keras_grow", "tools": "keras_grow.tools", "zoo": "keras_grow.zoo"}
    found = set()
    for folder, package in folders.items():
        for file in (ROOT / folder).rglob("*.py"):
            parts = file.relative_to(ROOT / folder).parent.parts
            found.add(".".join((package, *parts)))
    assert sorted(setuptools["packages"]) == sorted(found)
    assert setuptools["package-dir"] == {package: folder for folder, package in folders.items()}


def test_tools_and_zoo_are_parts_of_keras_grow():
    import keras_grow.tools
    import keras_grow.zoo

    assert pathlib.Path(keras_grow.tools.__path__[0]) == ROOT / "tools"
    assert pathlib.Path(keras_grow.zoo.__path__[0]) == ROOT / "zoo"
