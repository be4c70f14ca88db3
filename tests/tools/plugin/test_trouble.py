"""What should never have been written, what is not installed, and a real training run."""

import json
import zlib

import keras
import numpy as np
import pytest
from helpers.browser import blocking, wait
from helpers.synthetic import synthetic_events
from helpers.tab import complete, rows, text, visiting
from helpers.written import write_run
from selenium.webdriver.common.by import By
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

import keras_grow as kg
from keras_grow.logs import records
from keras_grow.logs.networks import Network, Node

pytestmark = pytest.mark.usefixtures("no_complaints")

#: Runs when it is taken for markup anywhere, and then says so where the test looks.
SCRIPT = "<img src=x onerror='parent.hacked=1'><script>parent.hacked=1</script>"
FORMULA = '=HYPERLINK("http://localhost","x")'


def put(writer, step, **contents):
    """One event with raw records, as our writer frames them."""
    event = Event(step=step, wall_time=1000.0 + step)
    for tag, content in contents.items():
        value = event.summary.value.add(tag=f"keras_grow/{tag}")
        value.metadata.plugin_data.plugin_name = "keras_grow"
        value.metadata.data_class = 2
        if isinstance(content, bytes):
            value.tensor.dtype = 7
            value.tensor.tensor_shape.SetInParent()
            value.tensor.string_val.append(content)
        else:  # a tensor of numbers
            value.tensor.dtype = 1
            value.tensor.tensor_shape.dim.add(size=len(content))
            value.tensor.float_val.extend(content)
    writer.write(event.SerializeToString())


def put_good(writer, event):
    sites = records.encode_sites(event.sites)
    put(writer, event.step, growth=records.encode_growth(event), sites=sites)


def write_hostile(logdir):
    """A run with good growths at steps 1, 2 and 9, and all that is bad in between."""
    folder = logdir / "bold <b onmouseover='parent.hacked=1'>run"
    folder.mkdir()
    path = folder / "events.out.tfevents.1"
    with open(path, "wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString())
        nodes = (
            Node(SCRIPT, SCRIPT, 4, "a"),
            Node("${alert(1)}<a href='javascript:parent.hacked=1'>b</a>", "Dense", 5, "b"),
        )
        put(writer, 0, network=records.encode_network(Network(SCRIPT, 0, nodes, ((0, 1),))))
        events, _, _ = synthetic_events(events=3, sites=2, seed=1)
        for event, step in zip(events, (1, 2, 9), strict=True):
            event.step = step
            event.notes = [SCRIPT, FORMULA]
            for site, name in zip(event.sites, (SCRIPT, FORMULA), strict=False):
                site.name = site.method = name
                site.consumers = [SCRIPT]
        put_good(writer, events[0])
        put_good(writer, events[1])
        good = json.loads(records.encode_growth(events[0]))
        bad = json.dumps({**good, "epoch": "moon"}).encode()
        put(writer, 3, growth=b"{no json", sites=b"no zlib")
        put(writer, 4, growth=bad, sites=zlib.compress(b"[]"))
        put(writer, 5, growth=b'{"epoch": NaN}', sites=zlib.compress(b"0" * 20_000_000))
        put(writer, 6, growth=[1.0, 2.0], sites=[3.0])
        put(writer, 7, growth=b"\xff\xfe", sites=b"")
        huge = {"name": ["wide"], "singular_values": [[1.0] * 300_000]}
        put(writer, 8, growth=records.encode_growth(events[0]))
        put(writer, 8, sites=zlib.compress(json.dumps(huge).encode()))
        put_good(writer, events[2])
        network = b'{"name": "x", "step": 10, "nodes": 5, "edges": []}'
        put(writer, 10, network=zlib.compress(network))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[-40:-7])  # cut off in the middle of a record
    return folder.name


@pytest.mark.parametrize("load_fast", ["true", "false"])
def test_hostile_records_run_no_script(tmp_path, browser, without_tensorflow, load_fast):
    logdir = tmp_path / "logs"
    logdir.mkdir()
    name = write_hostile(logdir)
    arguments = (browser, logdir, f"--load_fast={load_fast}")
    with visiting(*arguments, env=without_tensorflow) as board:
        browser.open(board)
        complete(browser, 4)
        assert browser.one(".runs li .name").text == name
        assert {row[0] for row in rows(browser)} == {name}
        warnings = browser.run(
            "return [...document.querySelectorAll('.warnings li')].map(item => item.textContent)"
        )
        for step in (3, 4, 5, 6, 7):
            assert any(f"Step {step}: the growth was left out" in w for w in warnings), step
        assert any("the network was left out" in warning for warning in warnings)
        assert browser.run("return document.querySelectorAll('main img, main script').length") == 0
        for view in ("costs", "widths", "runs", "network", "why"):
            browser.tab(view)
            shown = [p.text for p in browser.all(".problem") if p.is_displayed()]
            assert not shown, (view, shown)
        cells = browser.run("return [...document.querySelectorAll('td, th')].map(c => c.innerText)")
        assert SCRIPT in cells
        back = browser.one("[aria-label='Growth before']")
        back.click()  # step 8, with a spectrum of 300,000 values
        wait("step 8", lambda: "step=8" in browser.hash())
        listed = "return [...document.querySelectorAll('option')].map(option => option.text)"
        wait("the layer of step 8", lambda: "wide" in browser.run(listed))
        browser.drawn()
        assert browser.run("return parent.hacked") is None
        assert browser.run("return window.hacked") is None
    assert "Traceback" not in board.log


def test_a_spreadsheet_gets_no_formula(tmp_path, browser, without_tensorflow):
    write_hostile(tmp_path)
    with visiting(browser, tmp_path, env=without_tensorflow) as board:
        browser.open(board, "&view=why&step=1")
        browser.drawn()
        browser.one("[aria-label='Save as CSV: What grew']").click()
        path = browser.downloads / "keras_grow-layers.csv"
        wait("the file", lambda: path.exists() and path.stat().st_size)
        assert "'=HYPERLINK" in path.read_text()
        path.unlink()


def test_without_plotly_the_tab_says_what_to_install(tmp_path, browser):
    write_run(tmp_path / "logs" / "run", events=3, seed=1)
    env = blocking(tmp_path / "block", "tensorflow", "plotly", "_plotly_utils")
    with visiting(browser, tmp_path / "logs", env=env) as board:
        browser.open(board)
        complete(browser, 3)
        assert "pip install keras-grow[tensorboard]" in text(browser, ".figure .problem")
        assert len(rows(browser)) == 3  # all that needs no plotly works
        assert board.get("plotly.min.js")[0] == 501
        assert board.get("figure?name=timeline&run=run")[0] == 501


@pytest.mark.every_backend
def test_a_real_fit_is_shown(tmp_path, browser, without_tensorflow):
    """On the backend that the tests run on."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 6)).astype("float32")
    y = (x[:, :1] * x[:, 1:2] > 0).astype("float32")
    layers = [keras.layers.Dense(4, activation="relu", name=f"hidden_{i}") for i in (1, 2)]
    model = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(1)])
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    growth = kg.GrowthCallback(
        (x, y),
        schedule=kg.schedules.Every(4, times=3),
        selector=kg.selectors.All(amount=2),
        log_dir=tmp_path / "fit",
    )
    model.fit(x, y, epochs=2, batch_size=32, verbose=0, callbacks=[growth])
    with visiting(browser, tmp_path, env=without_tensorflow) as board:
        browser.open(board, "&sort=step")
        complete(browser, 3)
        steps = [event.step for event in growth.events]
        assert [int(row[1].replace(",", "")) for row in rows(browser)] == steps
        assert "Yes" in browser.one(".tiles").text  # the outputs were kept
        assert not [w for w in browser.all(".warnings") if w.is_displayed()]
        browser.tab("why")
        names = [b.text for b in browser.one("tbody").find_elements(By.TAG_NAME, "button")]
        assert sorted(names) == sorted(site.name for site in growth.events[-1].sites)
        for view in ("costs", "widths", "runs", "network"):
            browser.tab(view)
        assert not [p for p in browser.all(".problem") if p.is_displayed()]
        labels = browser.run(
            "return document.querySelector('[data-figure=network] .svg-container').textContent"
        )
        assert "hidden_1" in labels
        assert str(model.get_layer("hidden_1").units) in labels
