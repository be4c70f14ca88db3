"""The tab as a person sees it: a real TensorBoard and real Chromium."""

import csv
import importlib.util
import json
import re

import pytest
from helpers.browser import Browser, wait
from helpers.synthetic import synthetic_events
from helpers.tab import GROWTHS, complete, quiet, rows, text, visiting
from helpers.written import RUNS, write_run
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from keras_grow.logs.writing import RunWriter

pytestmark = pytest.mark.usefixtures("no_complaints")

VIEWS = ("growth", "costs", "widths", "why", "runs", "network")

#: Marks of growths in the timeline that are drawn, by what plotly draws them with.
MARKS = """
const plot = document.querySelector('[data-figure=timeline]');
const drawn = plot.calcdata.filter(one => one[0].trace.meta?.what === 'growths');
return drawn.map(one => one[0].trace.visible === true
  ? one[0].node3.node().querySelectorAll('path.point').length : 0).reduce((a, b) => a + b, 0);
"""


@pytest.mark.parametrize("tensorflow", ["with TensorFlow", "without TensorFlow"])
@pytest.mark.parametrize("load_fast", ["true", "false"])
def test_growths_are_shown(written, browser, without_tensorflow, load_fast, tensorflow):
    if tensorflow.startswith("with ") and importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed")
    env = without_tensorflow if tensorflow.startswith("without") else {}
    with visiting(browser, written, f"--load_fast={load_fast}", env=env) as board:
        browser.open(board)
        complete(browser)
        assert text(browser, "#tab-growth") == "Growth"
        assert len(browser.all(".runs li")) == len(RUNS)
        wait("marks", lambda: browser.run(MARKS) == GROWTHS)
        assert f"{GROWTHS} growths" in text(browser, "section.card p[role=status]")
        assert "1 failed" in browser.one(".tiles").text
        assert "No, 1 changed" in browser.one(".tiles").text
        assert browser.one(".warnings summary").text == "2 warnings"
        quiet(board)
        assert ("TensorFlow installation not found" in board.log) == bool(env)


def test_every_view_is_drawn(board, browser):
    browser.open(board, "&run=wrn-28")
    for view in VIEWS:
        browser.tab(view)
        assert browser.one(f"#tab-{view}").get_attribute("aria-selected") == "true"
        assert not [p for p in browser.all(".problem") if p.is_displayed()], view
        drawn = browser.run(
            """
            const marks = '.point, .trace path, .hm image';
            return [...document.querySelectorAll('.plot')].filter(p => p.offsetParent)
              .map(p => [p.dataset.figure, p.querySelectorAll(marks).length,
                         p.getAttribute('aria-label'), p._fullLayout.width - p.clientWidth]);
            """
        )
        assert drawn, view
        for name, marks, label, spare in drawn:
            assert marks > 0, name
            assert len(label) > 10, name
            assert abs(spare) <= 1, name


def test_the_slider_moves_the_network(board, browser):
    browser.open(board, "&view=network&run=mlp/gradmax")
    browser.drawn()
    slider = browser.one("input[type=range][max='8']")
    bars = """
    const plot = document.querySelector('[data-figure=network]');
    return [...plot.querySelectorAll('.barlayer path')].map(p => p.getAttribute('d')).join();
    """
    assert slider.get_attribute("aria-valuetext") == "After growth 8 of 8, at step 1,600"
    last = browser.run(bars)
    slider.send_keys(Keys.HOME)
    wait("another network", lambda: browser.run(bars) != last)
    assert text(browser, ".place") == "At the start, before all 8 growths"
    first = browser.run(bars)
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    wait("another network", lambda: browser.run(bars) not in (first, last))
    assert slider.get_attribute("aria-valuetext") == "After growth 2 of 8, at step 400"
    assert "step=400" in browser.hash()
    slider.send_keys(Keys.END, Keys.ARROW_LEFT)
    play = next(b for b in browser.all("button") if b.text == "Play")
    play.click()  # one more growth, and then it stops by itself
    wait("the last growth", lambda: slider.get_attribute("value") == "8")
    wait("the end", lambda: play.text == "Play")
    wait("the network of the end", lambda: browser.run(bars) == last)


def test_the_theme_follows_tensorboard(board, browser):
    browser.open(board)
    complete(browser)
    ground = "return document.querySelector('.plot')._fullLayout.paper_bgcolor"
    assert browser.run(ground) == "#ffffff"
    zoom = "return document.querySelector('.plot')._fullLayout.xaxis.range"
    browser.run("Plotly.relayout(document.querySelector('.plot'), {'xaxis.range': [100, 300]})")
    browser.driver.switch_to.default_content()
    menu = "button[aria-label='Menu for changing light or dark theme']"
    browser.driver.find_element(By.CSS_SELECTOR, menu).click()
    wait(
        "the menu",
        lambda: [b for b in browser.driver.find_elements(By.CSS_SELECTOR, "button[mat-menu-item]")
                 if b.text == "Dark"],
    )[0].click()  # fmt: skip
    browser.enter()
    wait("a dark figure", lambda: browser.run(ground) == "#303030")
    assert browser.run("return document.documentElement.dataset.theme") == "dark"
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == (
        "rgb(58, 58, 58)"
    )
    assert browser.run(zoom) == [100, 300]  # the user's zoom stays


@pytest.mark.parametrize("load_fast", ["true", "false"])
def test_new_growths_arrive_while_the_page_is_open(
    tmp_path, browser, without_tensorflow, load_fast
):
    events, networks, _ = synthetic_events(events=6, seed=1)
    for event in events:
        event.time = 0.0  # now: what is older than a writer was taken back by it
    arguments = (browser, tmp_path, f"--load_fast={load_fast}")
    with RunWriter(tmp_path / "live") as writer:
        writer.network(networks[0])
        for event in events[:3]:
            writer.growth(event)
        with visiting(*arguments, env=without_tensorflow) as board:
            browser.open(board)
            complete(browser, 3)
            browser.run(
                """
                window.before = document.querySelector('.plot');
                window.emptied = 0;
                new MutationObserver(() => {
                  if (!window.before.querySelector('.main-svg')) window.emptied += 1;
                }).observe(window.before, {childList: true, subtree: true});
                Plotly.relayout(window.before, {'xaxis.range': [150, 450]});
                """
            )
            link = browser.one("tbody button[data-key='live 400']")
            browser.run("arguments[0].focus()", link)
            for event in events[3:]:
                writer.growth(event)
            complete(browser, 6)
            wait("marks", lambda: browser.run(MARKS) == 6)
            assert browser.run("return document.querySelector('.plot') === window.before")
            assert browser.run("return window.emptied") == 0
            assert browser.run("return window.before._fullLayout.xaxis.range") == [150, 450]
            assert browser.run("return document.activeElement.dataset.key") == "live 400"
            assert "3 new growths" in text(browser, ".live")


def test_a_link_shows_the_same_again(board, browser):
    browser.open(board, "&view=why&run=mlp%2Fdeeper&step=600&site=dense_2&x=time&log=1")
    browser.drawn()
    wait("the growth", lambda: "3 of 8" in browser.one("main").text)
    chosen = browser.run("return [...document.querySelectorAll('select')].map(s => s.value)")
    assert {"mlp/deeper", "600", "dense_2", "time"} <= set(chosen)
    assert browser.one("input[type=checkbox][id^=field]").is_selected()
    browser.tab("growth")
    browser.one(".runs li[data-run='mlp/random'] input").click()
    find = browser.one("main input[type=search]")
    find.send_keys("gradmax 1,200")
    wait("the link", lambda: "find=" in browser.hash() and "hidden=" in browser.hash())
    link = browser.hash()
    assert "view=" not in link  # it is the first one
    before = rows(browser)
    browser.open(board, link.removeprefix("#keras_grow"))
    browser.drawn()
    wait("the same rows", lambda: rows(browser) == before)
    assert 0 < len(before) < GROWTHS
    assert not browser.one(".runs li[data-run='mlp/random'] input").is_selected()
    assert browser.one("main input[type=search]").get_attribute("value") == "gradmax 1,200"


def test_links_of_rubbish_show_what_can_be_shown(board, browser):
    browser.open(board, "&view=moon&x=%25E0&step=1e99&smoothing=NaN&only=%25E0&=&run=nobody")
    browser.drawn()
    assert browser.one("#tab-growth").get_attribute("aria-selected") == "true"
    browser.open(board, "&view=network&run=nobody&step=-5")
    browser.drawn()
    assert "At the start" in text(browser, ".place")


def test_runs_are_chosen_by_regular_expression_and_boxes(board, browser):
    browser.open(board)
    complete(browser)
    browser.one("aside input[type=search]").send_keys("mlp/(grad|rand)")
    complete(browser, 16)
    assert len([item for item in browser.all(".runs li") if item.is_displayed()]) == 2
    browser.one("aside input[type=search]").send_keys("((")
    problem = browser.one("aside .problem")
    assert "No regular expression" in problem.text
    assert browser.one("aside input[type=search]").get_attribute("aria-invalid") == "true"
    browser.one("aside input[type=search]").clear()
    browser.one("aside input[type=search]").send_keys("w", Keys.BACKSPACE)
    complete(browser)
    click = "document.querySelector(arguments[0]).click()"
    browser.run(click, "[aria-label='Show no runs']")
    wait("no rows", lambda: rows(browser) == [])
    browser.run(click, "[aria-label='Show only wrn-28']")
    complete(browser, 10)
    assert {row[0] for row in rows(browser)} == {"wrn-28"}
    assert "only=wrn-28" in browser.hash()
    browser.run(click, "[aria-label='Show all runs']")
    complete(browser)
    assert browser.hash() == "#keras_grow"


def test_settings_change_the_figures(board, browser):
    browser.open(board, "&only=mlp%252Fgradmax")
    complete(browser, 8)
    axis = """
    const layout = document.querySelector('.plot')._fullLayout;
    return (layout.xaxis2 ?? layout.xaxis).title.text;
    """
    assert browser.run(axis) == "Training step"
    for key, title in [("time", "Time"), ("parameters", "Param"), ("flops", "Forward")]:
        Select(browser.one("aside select")).select_by_value(key)
        wait(title, lambda title=title: browser.run(axis).startswith(title))
    box = browser.one("input[type=checkbox][id^=field]")
    box.click()
    kind = "return document.querySelector('.plot')._fullLayout.yaxis.type"
    wait("a log scale", lambda: browser.run(kind) == "log")
    faint = "return document.querySelector('.plot').data.some(t => t.meta?.what === 'raw')"
    assert browser.run(faint)
    smoothing = browser.one("aside input[type=range]")
    smoothing.send_keys(Keys.HOME)
    wait("no smoothing", lambda: not browser.run(faint))
    Select(browser.all("aside select")[1]).select_by_value("accuracy")
    of = "return document.querySelector('.plot')._fullLayout.yaxis.title.text"
    wait("accuracy", lambda: browser.run(of) == "accuracy")


def test_the_table_sorts_filters_and_opens_a_growth(board, browser):
    browser.open(board)
    complete(browser)

    def column(name):
        headers = [h.text.rstrip(" ↓↑") for h in browser.all("thead th") if h.is_displayed()]
        return [row[headers.index(name)] for row in rows(browser)]

    sort = {b.text.rstrip(" ↓↑"): b for b in browser.all("thead button") if b.is_displayed()}
    sort["Layers"].click()
    layers = [int(one) for one in column("Layers")]
    assert layers == sorted(layers, reverse=True)
    header = sort["Layers"].find_element(By.XPATH, "..")
    assert header.get_attribute("aria-sort") == "descending"
    sort["Layers"].click()
    wait("the other way", lambda: header.get_attribute("aria-sort") == "ascending")
    layers = [int(one) for one in column("Layers")]
    assert layers == sorted(layers)
    events, _, _ = synthetic_events(**RUNS["mlp/outputs-changed"])
    broken = next(event.step for event in events if event.deviation > event.tolerance)
    browser.one("main input[type=search]").send_keys(f"outputs-changed {broken}")
    wait("one row", lambda: len(rows(browser)) == 1)
    assert column("Outcome") == ["Outputs changed"]
    assert column("Output change") == ["0.003"]
    browser.one("tbody button").send_keys(Keys.ENTER)
    browser.drawn()
    assert browser.one("#tab-why").get_attribute("aria-selected") == "true"
    assert f"run=mlp%2Foutputs-changed&step={broken}" in browser.hash()


def test_the_keyboard_reaches_everything(board, browser):
    browser.open(board)
    complete(browser)
    tab = browser.one("#tab-growth")
    tab.send_keys(Keys.ARROW_RIGHT)
    focused = "return document.activeElement.id"
    assert browser.run(focused) == "tab-costs"
    browser.driver.switch_to.active_element.send_keys(Keys.END)
    assert browser.run(focused) == "tab-network"
    browser.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert browser.run(focused) == "tab-growth"
    browser.drawn()
    # From the first control on, Tab reaches every one that can be used.
    expected = browser.run(
        """
        const able = 'button:enabled, input, select, summary, [tabindex="0"]';
        const found = [...document.querySelectorAll(able)].filter(e => e.tabIndex >= 0
          && e.offsetParent);
        found[0].focus();
        window.reached = new Set();
        document.addEventListener('focusin', e => window.reached.add(e.target));
        window.wanted = found;
        return found.length;
        """
    )
    for _ in range(expected + 2):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        if browser.run("return document.activeElement === document.body"):
            break
    missed = browser.run(
        "return window.wanted.slice(1).filter(e => !window.reached.has(e)).map(e => e.outerHTML)"
    )
    assert missed == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_screen_readers_and_weak_eyes(board, browser, theme):
    browser.open(board, theme=theme)
    complete(browser)
    for view in ("growth", "why", "network"):
        browser.tab(view)
        unnamed = browser.run(
            """
            return [...document.querySelectorAll('button, input, select')].filter(
              e => e.offsetParent && !e.labels?.length && !e.getAttribute('aria-label')
                && !e.textContent.trim()).map(e => e.outerHTML);
            """
        )
        assert unnamed == []
        faint = browser.run(
            """
            const parts = color => color.match(/[\\d.]+/g).map(Number);
            const light = color => {
              const [r, g, b] = parts(color).map(v => (v /= 255) <= 0.04045 ? v / 12.92
                : ((v + 0.055) / 1.055) ** 2.4);
              return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const ground = e => {
              for (; e; e = e.parentElement) {
                const color = getComputedStyle(e).backgroundColor;
                if ((parts(color)[3] ?? 1) === 1) return color;
              }
              return 'rgb(255, 255, 255)';
            };
            const found = [];
            const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            while (walk.nextNode()) {
              const e = walk.currentNode.parentElement;
              if (!walk.currentNode.data.trim() || !e.offsetParent || e.closest('.plot, :disabled'))
                continue;
              const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
              const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
              if (contrast < 4.5) found.push([e.outerHTML.slice(0, 120), contrast]);
            }
            return found;
            """
        )
        assert faint == []


def test_a_narrow_window_cuts_nothing(board, browser):
    browser.resize(900, 700)
    try:
        browser.open(board, "&run=mobilenet-v2")
        for view in VIEWS:
            browser.tab(view)
            over = browser.run(
                """
                return [document.documentElement, document.querySelector('main'),
                  document.querySelector('aside')].map(e => e.scrollWidth - e.clientWidth);
                """
            )
            assert max(over) <= 0, view
    finally:
        browser.resize(1280, 800)


def saved(browser: Browser, name: str) -> bytes:
    path = browser.downloads / name
    wait(name, lambda: path.exists() and path.stat().st_size)
    content = path.read_bytes()
    path.unlink()
    return content


def test_tables_and_pictures_are_taken_away(board, browser):
    browser.open(board, "&find=mlp%2Frandom")
    complete(browser)
    wait("8 rows", lambda: len(rows(browser)) == 8)
    events, _, _ = synthetic_events(**RUNS["mlp/random"])
    browser.one("[aria-label='Save as CSV: Growths']").click()
    table = list(csv.DictReader(saved(browser, "keras_grow-growths.csv").decode().splitlines()))
    assert [int(row["step"]) for row in table] == [e.step for e in reversed(events)]
    assert {row["run"] for row in table} == {"mlp/random"}
    assert int(table[0]["parameters_after"]) == events[-1].parameters_after
    browser.one("[aria-label='Save as JSON: Growths']").click()
    values = json.loads(saved(browser, "keras_grow-growths.json"))
    assert [v["added"] for v in values] == [
        sum(s.width_after - s.width_before for s in e.sites) for e in reversed(events)
    ]
    browser.one(".figure [aria-label^='Save as PNG']").click()
    assert saved(browser, "keras_grow-timeline.png").startswith(b"\x89PNG")
    browser.one(".figure [aria-label^='Save as SVG']").click()
    picture = saved(browser, "keras_grow-timeline.svg").decode()
    assert picture.startswith("<svg")
    assert "over training" in re.sub(r"<[^>]+>", "", picture)


def test_a_mark_opens_its_growth(board, browser):
    browser.open(board, "&only=mlp%252Fgradmax")
    complete(browser, 8)
    browser.run(
        """
        const plot = document.querySelector('.plot');
        const trace = plot.data.find(t => t.meta?.what === 'growths');
        const point = {data: trace, customdata: [600], pointNumber: 2};
        plot.emit('plotly_click', {points: [point]});
        """
    )
    browser.drawn()
    assert "view=why" in browser.hash()
    assert "step=600" in browser.hash()


def test_before_anything_is_logged_the_tab_says_how(tmp_path, browser, without_tensorflow):
    with visiting(browser, tmp_path, env=without_tensorflow) as board:
        browser.open(board)
        assert "No growth has been logged yet" in text(browser, ".empty")
        assert len(text(browser, ".empty pre").splitlines()) == 3
        write_run(tmp_path / "first", events=2, seed=1)
        complete(browser, 2)  # it is seen without a word
        assert not browser.all(".empty")[0].is_displayed()


def test_when_tensorboard_is_gone_the_page_says_so_and_comes_back(
    tmp_path, browser, without_tensorflow
):
    write_run(tmp_path / "run", events=3, seed=1)
    with visiting(browser, tmp_path, env=without_tensorflow) as board:
        browser.open(board)
        complete(browser, 3)
        # Requests are refused inside the page, and let through again afterwards.
        browser.run("window.real = window.fetch; window.fetch = () => Promise.reject(TypeError())")
        browser.tab("network")
        problem = browser.one(".figure .problem")
        assert "TensorBoard does not answer" in problem.text
        assert problem.get_attribute("role") == "alert"
        browser.run("window.fetch = window.real")
        problem.find_element(By.TAG_NAME, "button").click()
        browser.drawn()
        wait("no problem", lambda: not browser.all(".figure .problem")[0].is_displayed())
        assert browser.all(".plot .barlayer path")
