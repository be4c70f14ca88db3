"""Pictures of every view in both themes, from real training: `make screenshots`.

Trains a small convolutional network on handwritten digits three times, and a wide residual network
for a short while, with `GrowthCallback(log_dir=...)`; a log directory that is there is used again.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import keras
from helpers.browser import Browser, blocking, missing, serving, wait

import keras_grow as kg
from keras_grow import zoo

VIEWS = {
    "growth": "&hidden=wrn-28",
    "costs": "&hidden=wrn-28",
    "widths": "&run=wrn-28",
    "why": "&run=digits%2Fgradmax",
    "runs": "&hidden=wrn-28",
    "network": "&run=wrn-28",
}
SIZES = {"": (1280, 800), "-narrow": (900, 800)}
#: Those that the README shows.
SHOWN = {"growth-light": "growth-tab.png", "network-dark": "network-tab.png"}


def train(folder: Path, model: keras.Model, epochs: int, **options) -> None:
    """One run on the digits."""
    (x, y), test = zoo.load_data("digits", seed=0)
    model.compile(
        keras.optimizers.Adam(2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    growth = kg.GrowthCallback((x, y), log_dir=folder, **options)
    model.fit(
        x, y, batch_size=64, epochs=epochs, verbose=0, validation_data=test, callbacks=[growth]
    )


def train_all(logdir: Path) -> None:
    """Four runs."""
    every, all_layers = kg.schedules.Every(40, times=6), kg.selectors.All(amount=2)
    for name, method in (("gradmax", "gradmax"), ("random", "random")):
        model = zoo.build("convnet", width=2, seed=0)
        folder = logdir / "digits" / name
        train(folder, model, 16, method=method, schedule=every, selector=all_layers)

    def layer(number: int) -> keras.layers.Layer:
        width = (4, 6, 10)[number]  # of the layer behind which it is put, by then
        return keras.layers.Conv2D(width, 3, padding="same", activation="relu")

    relus = [f"relu{number}" for number in (1, 2, 3)]
    inserting = kg.selectors.InTurn(all_layers, kg.selectors.Insert(layer, after=relus))
    model = zoo.build("convnet", width=2, seed=0)
    train(logdir / "digits" / "deeper", model, 16, schedule=every, selector=inserting)
    model = zoo.build(
        "wide_resnet",
        depth=28,
        block_width=0.25,
        normalization="batch",
        image_size=8,
        channels=1,
        seed=0,
    )
    widest = kg.selectors.LargestGain(amount=2, sites=6)
    often = kg.schedules.Every(8, times=6)
    train(logdir / "wrn-28", model, 3, schedule=often, selector=widest)


def take(browser: Browser, board, folder: Path) -> None:
    """All pictures."""
    for theme in ("light", "dark"):
        for suffix, size in SIZES.items():
            browser.resize(*size)
            for view, options in VIEWS.items():
                browser.open(board, f"&view={view}{options}", theme)
                browser.drawn()
                wait("rows or figures", lambda: browser.all("td, .main-svg"))
                time.sleep(0.5)  # fonts
                name = f"{view}-{theme}{suffix}"
                # First what is seen at once, then all of it.
                browser.driver.switch_to.default_content()
                browser.driver.get_screenshot_as_file(str(folder / f"{name}.png"))
                browser.enter()
                whole = browser.run("return document.querySelector('main').scrollHeight") + 64
                if whole > size[1]:
                    browser.resize(size[0], whole)
                    time.sleep(0.5)
                    browser.driver.switch_to.default_content()
                    browser.driver.get_screenshot_as_file(str(folder / f"{name}-whole.png"))
                    browser.resize(*size)
                print(name, flush=True)
    severe = browser.severe()
    if severe:
        raise SystemExit(f"The console says: {severe}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/screenshots"))
    parser.add_argument("--docs", type=Path, help="where those for the README go")
    options = parser.parse_args()
    if missing() is not None:
        parser.error(str(missing()))
    logdir = options.output / "logs"
    if not logdir.exists():
        train_all(logdir)
    with tempfile.TemporaryDirectory() as folder:
        env = blocking(Path(folder) / "env", "tensorflow")
        browser = Browser(Path(folder) / "browser")
        try:
            with serving(logdir, env=env) as board:
                take(browser, board, options.output)
        finally:
            browser.close()
    if options.docs is not None:
        options.docs.mkdir(parents=True, exist_ok=True)
        for name, to in SHOWN.items():
            shutil.copyfile(options.output / f"{name}.png", options.docs / to)


if __name__ == "__main__":
    main()
