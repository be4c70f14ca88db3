"""A real TensorBoard and a real browser, started by the tests and ended with them."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

DRIVER = "/usr/bin/chromedriver"
#: Chromium stays in its own folder and asks nobody outside for anything.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
PATIENCE = 60.0

#: What a process must not import, as a folder for PYTHONPATH with a sitecustomize.py.
BLOCK = """
import sys


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)


sys.meta_path.insert(0, Blocked())
"""


def missing() -> str | None:
    """What is not installed that the tests of the tab need; None if nothing."""
    if not Path(DRIVER).exists() and shutil.which("chromedriver") is None:
        return "chromedriver is not installed: make browser"
    if shutil.which("chromium") is None and shutil.which("google-chrome") is None:
        return "chromium is not installed: make browser"
    return None


def blocking(folder: Path, *names: str) -> dict[str, str]:
    """An environment in which these packages cannot be imported."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(BLOCK.format(names=set(names)))
    return {"PYTHONPATH": str(folder)}


def wait(what: str, condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What `condition` returns as soon as that is true; an error that says `what` if never."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"Not within {seconds:g} seconds: {what}")
        time.sleep(0.05)


class TensorBoard:
    """A TensorBoard process on a free port.

    Attributes:
        address: such as http://localhost:6006.
        log: what it has printed so far.
    """

    def __init__(self, logdir: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self._lines: list[str] = []
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tensorboard.main", f"--logdir={logdir}", "--port=0"),
                *("--reload_interval=1", *arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.address = ""

    @property
    def log(self) -> str:
        return "".join(self._lines)

    @property
    def pid(self) -> int:
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        self._lines.extend(iter(self._process.stdout.readline, ""))

    def ready(self) -> "TensorBoard":
        """Waits until it serves."""

        def found() -> re.Match[str] | None:
            if self._process.poll() is not None:
                raise AssertionError(f"TensorBoard ended:\n{self.log}")
            return re.search(r"at (http://\S+?)/? \(Press", self.log)

        self.address = wait("TensorBoard serves", found)[1]
        return self

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of the plugin's answer."""
        try:
            address = f"{self.address}/data/plugin/keras_grow/{path}"
            with urllib.request.urlopen(address, timeout=PATIENCE) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def close(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join(10)


@contextmanager
def serving(
    logdir: Path, *arguments: str, env: dict[str, str] | None = None
) -> Iterator[TensorBoard]:
    """A TensorBoard that serves `logdir`."""
    board = TensorBoard(logdir, *arguments, env=env)
    try:
        yield board.ready()
    finally:
        board.close()


class Browser:
    """Headless Chromium.

    Args:
        folder: empty; for its profile and downloads.
        size: of the window, in pixels.
    """

    def __init__(self, folder: Path, size: tuple[int, int] = (1280, 800)) -> None:
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True)
        options = Options()
        for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
            options.add_argument(flag)
        options.add_argument(f"--window-size={size[0]},{size[1]}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        options.add_experimental_option(
            "prefs",
            {"download.default_directory": str(self.downloads), "download.prompt_for_download": 0},
        )
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        self.driver.set_script_timeout(30)  # a page that hangs is an error
        self.driver.set_page_load_timeout(60)
        self.resize(*size)
        self._console: list[dict[str, Any]] = []

    def resize(self, width: int, height: int) -> None:
        """Sets the size of the page itself, whatever the window's frame."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def open(self, board: TensorBoard, options: str = "", theme: str = "light") -> None:
        """Opens TensorBoard at our tab, and steps into the tab's frame."""
        self.leave()
        dark = "true" if theme == "dark" else "false"
        self.driver.get(f"{board.address}/?darkMode={dark}#keras_grow{options}")
        self.enter()

    def leave(self) -> None:
        """Shows nothing, so that nothing is asked for."""
        self.driver.switch_to.default_content()
        self.driver.get("about:blank")

    def enter(self) -> None:
        """Steps into the frame of our tab."""
        self.driver.switch_to.default_content()
        found = "return [...document.querySelectorAll('iframe')].find(f => f.src.includes('keras'))"
        frame = wait("the frame of the tab", lambda: self.driver.execute_script(found))
        self.driver.switch_to.frame(frame)
        wait("the page in the tab", lambda: self.all("aside.sidebar, .empty, .lone"))

    def all(self, selector: str) -> list[Any]:
        """Elements of the frame."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        """The one element there is, once it is there and can be seen."""

        def found() -> Any:
            there = [element for element in self.all(selector) if element.is_displayed()]
            return there[0] if there else None

        return wait(f"an element {selector}", found)

    def run(self, script: str, *arguments: Any) -> Any:
        """What JavaScript in the frame returns."""
        return self.driver.execute_script(script, *arguments)

    def tab(self, name: str) -> None:
        """Chooses one of the tab's views and waits until it is drawn."""
        self.one(f"#tab-{name}").click()
        self.drawn()

    def drawn(self) -> None:
        """Waits until nothing is asked for and every figure that can be seen is drawn."""
        wait(
            "all figures are drawn",
            lambda: self.run(
                """
                const page = document.querySelector('.page');
                const seen = [...document.querySelectorAll('.figure')].filter(f => f.offsetParent);
                return page.offsetHeight && seen.length && seen.every(
                  f => f.getAttribute('aria-busy') === 'false'
                    && (f.querySelector('.main-svg') || f.querySelector('.problem').offsetParent));
                """
            ),
        )

    def console(self) -> list[dict[str, Any]]:
        """All lines of the console since the browser started."""
        self._console += self.driver.get_log("browser")
        return self._console

    def severe(self) -> list[str]:
        """Errors in the console."""
        return [line["message"] for line in self.console() if line["level"] == "SEVERE"]

    def forget(self) -> None:
        """Forgets what the console has said so far."""
        self.console()
        self._console = []

    def hash(self) -> str:
        """The part of TensorBoard's address that is the tab's."""
        return self.run("return parent.location.hash")

    def close(self) -> None:
        self.driver.quit()
