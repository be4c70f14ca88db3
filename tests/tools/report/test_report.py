"""`keras-grow report`: the file, what it refuses, and the page as a browser shows it."""

import json
import re
import time

import pytest
from helpers.hostile import hostile_run
from helpers.synthetic import synthetic_run
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from keras_grow.logs.reading import read_runs
from keras_grow.tools.report.page import build

# --- the command -------------------------------------------------------------------------------


def test_it_writes_one_page(run, logdir, tmp_path):
    out = tmp_path / "report.html"
    result = run("report", logdir, "-o", out, "--title", "Small & <wide>")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"Wrote {out}: 3 runs.\n"
    page = out.read_text(encoding="utf-8")
    assert "<h1>Small &amp; &lt;wide&gt;</h1>" in page
    for heading in ("Did it grow, when", "What did it cost", "Where did the width go?"):
        assert heading in page
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]


def test_nothing_is_overwritten_without_force(run, logdir, tmp_path):
    out = tmp_path / "report.html"
    out.write_text("mine")
    result = run("report", logdir, "-o", out)
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    assert out.read_text() == "mine"
    assert run("report", logdir, "-o", out, "--force").exit_code == 0


@pytest.mark.parametrize("there", [False, True])
def test_without_logs_it_shows_how_to_make_some(run, tmp_path, there):
    folder = tmp_path / "logs"
    if there:
        folder.mkdir()
    result = run("report", folder, "-o", tmp_path / "report.html")
    assert result.exit_code == 2
    assert str(folder) in result.stderr
    assert 'GrowthCallback((x_train, y_train), log_dir="logs/run_1")' in result.stderr
    assert "model.fit(" in result.stderr
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--run", "(wrn"], "is no regular expression"),
        (["--run", "nothing"], "matches none of the runs: 'gradmax', 'random', 'wrn'"),
        (["-o", "report.txt"], "must end in .html"),
        (["--smoothing", "2"], "0<=x<=1"),
    ],
)
def test_bad_input_is_told(run, logdir, tmp_path, arguments, words):
    result = run("report", logdir, "-o", tmp_path / "report.html", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_log_folder(run, tmp_path):
    (tmp_path / "file").write_text("x")
    result = run("report", tmp_path / "file", "-o", tmp_path / "report.html")
    assert result.exit_code == 2
    assert "is a file" in result.stderr


def test_runs_can_be_chosen_and_folders_joined(run, logdir, tmp_path):
    out = tmp_path / "report.html"
    result = run("report", logdir, logdir / "wrn", "-o", out, "--run", "wrn$")
    assert result.exit_code == 0, result.output
    summary = re.findall(r'scope="row".*?</span>(.*?)</th>', out.read_text(encoding="utf-8"))
    assert summary == [f"{logdir.name}/wrn", "wrn"]


def test_it_needs_no_keras(process_without_keras, logdir, tmp_path):
    result = process_without_keras("report", logdir, "-o", tmp_path / "report.html")
    assert result.returncode == 0, result.stderr
    assert "Wrote" in result.stdout


@pytest.fixture
def process_without_keras(tmp_path_factory):
    import os
    import subprocess
    import sys

    from helpers.browser import blocking

    folder = tmp_path_factory.mktemp("blocked")
    blocked = blocking(folder, "keras", "torch", "jax", "tensorflow")

    def call(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "keras_grow.tools", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, **blocked},
        )

    return call


# --- the page as text --------------------------------------------------------------------------


def data_of(page):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found.group(1))


def test_it_is_self_contained():
    page = build([synthetic_run(events=2, sites=2)])
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!#|data:)", outside)
    assert "default-src 'none'" in page


def test_warnings_come_first():
    page = build([synthetic_run(events=4, trouble=("error", "broken"), resumed=(300,))])
    start, end = page.index("What to know first"), page.index("Did it grow, when")
    warnings = page[start:end]
    assert "Step 600: growth failed" in warnings
    assert "Step 800: the outputs changed by 3.0e-03" in warnings
    assert "resumed at step 300" in warnings
    assert "1 growth failed." in page
    assert "What to know first" not in build([synthetic_run(events=2)])


def test_the_table_has_every_growth():
    runs = [
        synthetic_run("a", events=3, sites=2, every=30),
        synthetic_run("b", events=4, sites=2, every=30, trouble=("error",)),
    ]
    page = build(runs)
    body = re.search(r'<table id="events">.*?<tbody>(.*?)</tbody>', page, re.DOTALL).group(1)
    assert body.count("<tr") == sum(len(run.growths) for run in runs)
    assert body.count('<tr class="failed"') == 1


def test_text_from_logs_is_escaped():
    run = synthetic_run("</script><script>alert(1)</script>", events=2, sites=2)
    run.left_out.append("<img src=x onerror=alert(2)>")
    page = build([run], title="<i>t</i>", source="<u>s</u>")
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    for bad in ("<img", "<i>", "<u>", "alert(1)</script>"):
        assert bad not in outside
    assert "<script>alert(1)" not in page
    assert data_of(page)["cards"]


def test_large_logs_make_a_page_of_bounded_size():
    runs = [
        synthetic_run(f"run-{i}", 60, 12, i, network="mlp" if i < 1 else None, every=10)
        for i in range(3)
    ]
    page = build(runs)
    data = data_of(page)
    assert len(json.dumps(data)) < 4e6
    assert len(data["figures"]) < 330
    assert "Left out to keep this page small" in data["cards"]["spectrum"]["note"]


# --- the page in a browser ---------------------------------------------------------------------


class Page:
    def __init__(self, browser, path):
        self.browser = browser
        self.driver = browser.driver
        self.driver.switch_to.default_content()
        browser.forget()
        self.driver.get(path.as_uri())
        WebDriverWait(self.driver, 60).until(
            lambda driver: self.run("return document.documentElement.dataset.ready")
        )

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def plot(self, card, expression):
        return self.run(
            f"const plot = document.querySelector('#card-{card} .plot'); return {expression};"
        )

    def select(self, card, label, text):
        for one in self.all(f"#card-{card} .choices label"):
            if one.text.startswith(label) and one.find_elements(By.TAG_NAME, "select"):
                Select(one.find_element(By.TAG_NAME, "select")).select_by_visible_text(text)
                time.sleep(0.3)
                return
        raise AssertionError(f"no {label} in {card}")


@pytest.fixture(scope="module")
def report(browser, logdir, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(build(read_runs(logdir)), encoding="utf-8")
    return path


@pytest.fixture
def page(browser, report):
    found = Page(browser, report)
    yield found
    messages = [
        line["message"] for line in browser.console() if line["level"] in ("SEVERE", "WARNING")
    ]
    assert messages == []


def test_every_figure_is_drawn(page):
    cards = {one.get_attribute("data-card") for one in page.all("[data-card]")}
    assert cards == {
        "timeline", "costs", "gain", "widths", "width-map", "gradients", "spectrum", "spectra",
        "tradeoff", "network",
    }  # fmt: skip
    for card in cards:
        assert page.run(
            "return document.querySelectorAll(`#card-${arguments[0]} .main-svg`).length", card
        )
        assert page.one(f"#card-{card} .plot").get_attribute("aria-label")
    # A mark for each of the growths that were logged.
    marks = page.plot(
        "timeline",
        "plot.data.filter(t => t.meta?.what === 'growths').flatMap(t => t.hovertext).length",
    )
    assert marks == len(page.all("#events tbody tr")) == 12
    assert page.run("return document.querySelectorAll('#card-width-map .hm').length") == 1


def test_nothing_leads_to_plotlys_own_servers(page):
    titles = page.run(
        "return [...document.querySelectorAll('.modebar-btn')].map(b => b.dataset.title)"
    )
    assert not [title for title in titles if title and "hare" in title]


def test_the_theme_follows_the_button_in_page_and_figures(page):
    light = page.run("return getComputedStyle(document.body).backgroundColor")
    assert page.plot("timeline", "plot._fullLayout.paper_bgcolor") == "#ffffff"
    page.one("#theme").click()
    time.sleep(0.5)
    assert page.one("#theme").get_attribute("aria-pressed") == "true"
    assert page.run("return getComputedStyle(document.body).backgroundColor") != light
    for card in ("timeline", "network", "width-map"):
        assert page.plot(card, "plot._fullLayout.paper_bgcolor") == "#303030"


def test_the_theme_follows_the_system(page):
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    try:
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        time.sleep(0.5)
        assert page.run("return document.documentElement.dataset.theme") == "dark"
    finally:
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_choices_lead_to_other_figures(page):
    page.select("timeline", "x axis", "parameters")
    assert page.plot("timeline", "plot._fullLayout.xaxis.title.text") == "Parameters"
    page.select("spectrum", "Run", "wrn")
    page.select("spectrum", "Step", "120")
    assert "at step 120" in page.one("#card-spectrum h3").text
    page.select("spectrum", "Run", "random")
    # A method without spectra: a sentence.
    assert "no singular values" in page.plot("spectrum", "plot._fullLayout.annotations[0].text")


def test_logarithmic_axes(page):
    box = page.one("#card-timeline input[type=checkbox]")
    assert page.plot("timeline", "plot._fullLayout.yaxis.type") == "linear"
    box.click()
    time.sleep(0.5)
    assert page.plot("timeline", "plot._fullLayout.yaxis.type") == "log"


def test_the_slider_moves_the_network(page):
    page.select("network", "Run", "gradmax")
    slider = page.one("#card-network input[type=range]")
    last = page.plot("network", "plot.querySelectorAll('.point').length")
    lengths = "[...plot.querySelectorAll('.bars .point path')].map(p => p.getBBox().width)"
    grown = page.plot("network", lengths)
    assert last > 0
    slider.send_keys(Keys.HOME)
    time.sleep(0.5)
    start = page.plot("network", lengths)
    assert len(start) == len(grown)
    assert sum(start) < sum(grown)
    assert page.one("#card-network output").text == "0"
    slider.send_keys(Keys.ARROW_RIGHT)
    time.sleep(0.5)
    assert page.one("#card-network output").text == "60"
    assert sum(start) < sum(page.plot("network", lengths))
    colors = page.plot(
        "network", "[...plot.querySelectorAll('.bars .point path')].map(p => p.style.fill)"
    )
    assert "rgb(232, 113, 10)" in colors  # grown at this step


def test_play_ends_at_the_last_step(page):
    page.select("network", "Run", "gradmax")
    page.one("#card-network input[type=range]").send_keys(Keys.HOME)
    button = page.one("#card-network .play")
    button.click()
    assert button.text == "Pause"
    WebDriverWait(page.driver, 30).until(lambda _: button.text == "Play")
    assert page.one("#card-network output").text == "240"


def test_the_table_sorts_and_filters(page):
    def column(number):
        return [
            one.text for one in page.all(f"#events tbody tr:not([hidden]) td:nth-child({number})")
        ]

    head = page.all("#events thead th")[1]
    head.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    steps = [int(one.replace(",", "")) for one in column(2)]
    assert steps == sorted(steps)
    assert head.get_attribute("aria-sort") == "ascending"
    head.find_element(By.TAG_NAME, "button").click()
    assert [int(one.replace(",", "")) for one in column(2)] == sorted(steps, reverse=True)
    page.one("#filter").send_keys("wrn memory")
    assert column(1) == ["wrn"]
    assert page.one("#shown").text == "1 of 12 of 12 growths"


def test_everything_is_reached_by_keyboard(page):
    page.one("#theme").send_keys(Keys.SHIFT, Keys.TAB)
    reached = set()
    for _ in range(60):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.add(page.run("return document.activeElement.id || document.activeElement.tagName"))
    assert {"theme", "filter", "SELECT", "BUTTON", "INPUT", "A"} <= reached


def test_it_prints(page):
    printed = page.driver.print_page()
    assert len(printed) > 50_000


def test_a_hostile_log_runs_no_script(browser, tmp_path):

    path = tmp_path / "report.html"
    run = hostile_run()
    run.name = "<script>document.title = 'owned'</script><img src=x onerror='document.title=1'>"
    path.write_text(build([run, synthetic_run(events=2)], title="Hostile"), encoding="utf-8")
    page = Page(browser, path)
    assert page.driver.title == "Hostile"
    assert not page.all("img[src=x]")
    assert not [line for line in browser.console() if line["level"] == "SEVERE"]
