"""A grown model carries its history in its file, which loads without keras_grow."""

import copy
import itertools
import json
import pickle
import zipfile

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from helpers.logged import X, a_growth, a_model, fit
from helpers.processes import python
from helpers.records import a_site, an_event

import keras_grow as kg
from keras_grow.logs import history_file as files
from keras_grow.logs.history_file import FILE, MEMBER, encode_history, read_history
from keras_grow.tools.cli.main import cli


def a_graph():
    x = inputs = keras.Input((5,), name="features")
    x = keras.layers.Dense(4, activation="relu", name="a")(x)
    x = keras.layers.Dense(3, activation="tanh", name="b")(x)
    model = keras.Model(inputs, keras.layers.Dense(1, name="c")(x), name="net")
    model.compile(keras.optimizers.SGD(0.05), "mse")
    return model


def saved(model, folder, name="model.keras"):
    path = folder / name
    model.save(path)
    return path


def grown(events):
    return [(s.kind, s.name, s.width_before, s.width_after) for e in events for s in e.sites]


@pytest.mark.every_backend
class TestWhatIsRemembered:
    def test_growth_in_fit(self, tmp_path):
        model, growth = a_model(), a_growth(None, (2, 6), method="gradmax")
        fit(model, growth)
        assert kg.history(model) == growth.events
        found = kg.history(saved(model, tmp_path))
        assert [e.step for e in found] == [2, 6]
        assert grown(found) == grown(growth.events)
        for event, written in zip(growth.events, found, strict=True):
            assert written.deviation == pytest.approx(event.deviation)
            assert written.time == pytest.approx(event.time, abs=1e4)
            assert written.parameters_after == event.parameters_after

    def test_a_file_saved_in_the_middle_has_what_has_happened_so_far(self, tmp_path):
        path = tmp_path / "{epoch}.keras"
        keep = keras.callbacks.ModelCheckpoint(path)
        fit(a_model(), a_growth(None, (2, 6)), keep)
        assert len(kg.history(tmp_path / "1.keras")) == 1
        assert len(kg.history(tmp_path / "2.keras")) == 2

    def test_dry_runs_are_no_growth(self):
        model = a_model()
        fit(model, a_growth(None, dry_run=True))
        assert kg.history(model) == []

    def test_operations_on_copies_and_in_place(self):
        old = a_graph()
        wider = kg.widen(old, {"a": 6}, seed=0)
        deeper = kg.insert(wider, keras.layers.Dense(6, name="new"), after="a")
        bridged = kg.bridge(deeper, after="a", before="c", width=2, method="random", seed=0)
        (name,) = (s.name for s in kg.history(bridged)[-1].sites)
        kg.bridge_(bridged, after="a", before="c", width=3, method="random", seed=0)
        kg.grow_(bridged, {"b": 5}, seed=0)
        kg.insert_(bridged, keras.layers.Dense(5, name="last"), after="b")
        assert grown(kg.history(bridged)) == [
            ("widen", "a", 4, 6),
            ("insert", "new", 0, 6),
            ("bridge", name, 0, 2),
            ("bridge", name, 2, 5),
            ("widen", "b", 3, 5),
            ("insert", "last", 0, 5),
        ]
        assert [len(kg.history(m)) for m in (old, wider, deeper)] == [0, 1, 2]
        events = kg.history(bridged)
        assert events[0].parameters_before == old.count_params()
        for before, after in itertools.pairwise(events):
            assert before.parameters_after == after.parameters_before
        assert events[-1].parameters_after == bridged.count_params()
        assert events[-1].flops_after == kg.flops(bridged)
        assert all(e.deviation <= e.tolerance for e in events)
        assert all(e.step == 0 for e in events)

    def test_layers_and_bridges_in_fit_are_remembered_once(self):
        selector = kg.selectors.InTurn(
            kg.selectors.Insert(lambda i: keras.layers.Dense(4), after="a"),
            kg.selectors.Bridge("a", "c", width=2, method="random"),
            kg.selectors.Bridge("a", "c", width=2, method="random"),
        )
        model, growth = a_graph(), a_growth(None, (2, 3, 4), selector=selector)
        fit(model, growth)
        assert len(growth.events) == 3
        assert kg.history(model) == growth.events

    def test_the_step_is_the_optimizers(self):
        model = a_model()
        fit(model, epochs=1)
        kg.grow_(model, {"a": 6})
        assert kg.history(model)[0].step == 4

    def test_a_failed_operation_leaves_none(self):
        model = a_graph()
        with pytest.raises(kg.GrowthError):
            kg.grow_(model, {"a": 6}, method="gradmax")
        with pytest.raises(kg.GrowthError):
            kg.insert_(model, keras.layers.Dense(9), after="a")
        assert kg.history(model) == []


@pytest.mark.every_backend
class TestFiles:
    def test_it_loads_without_keras_grow(self, tmp_path):
        """Where the package cannot be imported at all."""
        model = kg.widen(a_model(), {"a": 6}, seed=0)
        path = saved(model, tmp_path)
        np.save(tmp_path / "y.npy", model.predict(X, verbose=0))
        np.save(tmp_path / "x.npy", X)
        code = """
            import sys, pathlib, numpy as np, keras
            folder = pathlib.Path(sys.argv[1])
            model = keras.saving.load_model(folder / "model.keras")
            y = model.predict(np.load(folder / "x.npy"), verbose=0)
            assert np.allclose(y, np.load(folder / "y.npy"), atol=1e-6)
            model.save(folder / "again.keras")
            assert "keras_grow" not in sys.modules
        """
        python(code, tmp_path, hidden=("keras_grow",))
        assert len(kg.history(path)) == 1
        assert kg.history(tmp_path / "again.keras") == []

    def test_what_keras_has_loaded_can_go_on_with_it(self, tmp_path):
        path = saved(kg.widen(a_graph(), {"a": 6}), tmp_path)
        model = keras.saving.load_model(path)
        assert kg.history(model) == []
        assert kg.history(path, into=model) == kg.history(model)
        wider = kg.widen(model, {"b": 5})
        assert grown(kg.history(saved(wider, tmp_path, "second.keras"))) == [
            ("widen", "a", 4, 6),
            ("widen", "b", 3, 5),
        ]
        growth = a_growth(None, (2,))
        fit(wider, growth)
        assert len(kg.history(saved(wider, tmp_path, "third.keras"))) == 3

    def test_copies(self, tmp_path):
        model = kg.widen(a_graph(), {"a": 6}, seed=0)
        wanted = model.predict(X, verbose=0)
        for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            np.testing.assert_allclose(made.predict(X, verbose=0), wanted, atol=1e-6)
            assert made.count_params() == model.count_params()
            saved(made, tmp_path)
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        assert kg.history(saved(clone, tmp_path)) == []
        assert len(kg.history(model)) == 1
        model.save_weights(tmp_path / "only.weights.h5")
        clone.load_weights(tmp_path / "only.weights.h5")

    def test_a_model_with_assets_of_its_own_keeps_them(self, tmp_path):
        class Labelled(keras.Model):
            def save_assets(self, folder):
                with open(f"{folder}/labels.txt", "w") as file:
                    file.write("cat")

        plain = a_graph()
        model = Labelled(plain.inputs, plain.outputs)
        kg.grow_(model, {"a": 6})
        with zipfile.ZipFile(saved(model, tmp_path)) as archive:
            assert archive.read("assets/labels.txt") == b"cat"
            assert MEMBER in archive.namelist()

    def test_nested_models_keep_theirs(self, tmp_path):
        inner = kg.widen(a_graph(), {"a": 6})
        outer = keras.Sequential([keras.Input((5,)), inner, keras.layers.Dense(1)])
        path = saved(outer, tmp_path)
        assert kg.history(path) == []
        assert keras.saving.load_model(path).count_params() == outer.count_params()

    def test_a_model_that_has_not_grown(self, tmp_path):
        path = saved(a_model(), tmp_path)
        assert kg.history(path) == []
        assert MEMBER not in zipfile.ZipFile(path).namelist()
        a_model().save(tmp_path / "old.h5")
        assert kg.history(tmp_path / "old.h5") == []

    def test_long_histories_are_cut_down(self, monkeypatch):
        events = [an_event(step=i, sites=[a_site(k, 300) for k in range(20)]) for i in range(30)]
        whole, _ = files.records.decode_events(encode_history(events))
        assert {len(s.singular_values) for e in whole for s in e.sites} == {8}
        assert whole[0].sites[0].spectrum_size == 300
        monkeypatch.setattr(files, "LIMIT", 150_000)
        data = encode_history(events)
        assert len(data) <= 150_000
        short, left_out = files.records.decode_events(data)
        assert left_out == []
        assert [e.step for e in short] == list(range(30))
        assert short[0].sites == []
        assert any("left out" in note for note in short[0].notes)
        assert len(short[-1].sites) == 20

    def test_no_such_thing(self, tmp_path):
        with pytest.raises(kg.GrowthError, match="no file"):
            kg.history(tmp_path / "nothing.keras")
        (tmp_path / "text.keras").write_text("hello")
        with pytest.raises(kg.GrowthError, match="not a saved Keras model"):
            kg.history(tmp_path / "text.keras")
        with pytest.raises(kg.GrowthError, match="type int"):
            kg.history(3)
        with pytest.raises(kg.GrowthError, match="into must be a Keras model"):
            kg.history(saved(a_model(), tmp_path), into="model")


def with_history(path, data, **options):
    """A model's file with these bytes as its history."""
    a_model().save(path)
    with zipfile.ZipFile(path, "a", **options) as archive:
        archive.writestr(MEMBER, data)
    return path


HOSTILE = {
    "no JSON": (b"\xff{", "no text in UTF-8"),
    "no list": (b"{}", "a list"),
    "deep": (b"[" * 100_000, "nested too deeply"),
    "long": (b"[" + b"0," * 2_000_000 + b"0]", "values"),
}


class TestHostileFiles:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_histories_that_are_none(self, tmp_path, name):
        data, reason = HOSTILE[name]
        path = with_history(tmp_path / "model.keras", data)
        with pytest.raises(kg.GrowthError, match=reason):
            kg.history(path)
        keras.saving.load_model(path)

    def test_a_bomb(self, tmp_path):
        bomb = b"[" + b" " * 40_000_000 + b"]"
        path = with_history(tmp_path / "model.keras", bomb, compression=zipfile.ZIP_DEFLATED)
        assert path.stat().st_size < 1_000_000
        with pytest.raises(kg.GrowthError, match="longer than 16 MB"):
            kg.history(path)

    def test_a_member_that_is_damaged(self, tmp_path):
        model = kg.widen(a_model(), {"a": 6})
        path = saved(model, tmp_path)
        data = bytearray(path.read_bytes())
        data[data.index(b'"parameters_before"')] ^= 1
        path.write_bytes(data)
        with pytest.raises(kg.GrowthError, match=r"CRC|damaged"):
            kg.history(path)

    def test_bad_entries_among_good_ones(self, tmp_path):
        good = an_event().to_dict()
        data = json.dumps([good, {**good, "sites": "<script>"}, 7])
        path = with_history(tmp_path / "model.keras", data)
        events, left_out = read_history(path)
        assert len(events) == len(kg.history(path)) == 1
        assert len(left_out) == 2


def command(*arguments):
    found = CliRunner().invoke(cli, ["history", *map(str, arguments)])
    return found.exit_code, found.stdout, found.stderr


class TestCommand:
    def test_a_table(self, tmp_path, monkeypatch):
        monkeypatch.setenv("COLUMNS", "120")
        model = kg.insert(
            kg.widen(a_graph(), {"a": 6}), keras.layers.Dense(6, name="[b]new"), after="a"
        )
        code, out, _ = command(saved(model, tmp_path))
        assert code == 0
        assert "a 4 -> 6" in out
        assert "[b]new new, 6 wide" in out
        assert "random, inverse" in out
        assert f"{a_graph().count_params()} -> {model.count_params()}" in out
        assert "2 growths" in out

    def test_json(self, tmp_path):
        model = kg.widen(a_model(), {"a": 6})
        code, out, _ = command(saved(model, tmp_path), "--json")
        found = json.loads(out)
        assert (code, found["schema"], found["left_out"]) == (0, "keras-grow/history/1", [])
        (event,) = found["events"]
        assert event["sites"][0]["width_after"] == 6

    def test_a_model_without(self, tmp_path):
        path = saved(a_model(), tmp_path)
        code, out, _ = command(path)
        assert code == 0
        assert "tells of no growth" in out
        assert json.loads(command(path, "--json")[1])["events"] == []

    def test_failures_are_paragraphs(self, tmp_path):
        code, _, err = command(tmp_path / "nothing.keras")
        assert code == 2
        assert "There is no file" in err
        code, _, err = command(with_history(tmp_path / "model.keras", b"{}"))
        assert code == 2
        assert "growth history" in err

    def test_control_characters_do_not_reach_the_terminal(self, tmp_path):
        site = a_site(name="\x1b[2Jevil[red]", method="\x07")
        data = json.dumps([an_event(sites=[site], time=1e200).to_dict(), {}])
        code, out, err = command(with_history(tmp_path / "model.keras", data))
        assert code == 0
        assert "\x1b" not in out
        assert "\x07" not in out
        assert "evil[red]" in out
        assert "Entry 2 was left out" in err

    def test_keras_is_not_started(self, tmp_path):
        path = saved(kg.widen(a_model(), {"a": 6}), tmp_path)
        code = """
            import sys
            from keras_grow.tools.cli.main import cli
            cli(["history", sys.argv[1], "--json"], standalone_mode=False)
        """
        found = python(code, path, hidden=("keras", "tensorflow", "torch", "jax"))
        assert len(json.loads(found)["events"]) == 1

    @pytest.mark.every_backend
    def test_commands_go_on_with_the_history_of_their_file(self, tmp_path):
        path = saved(kg.widen(a_graph(), {"a": 6}), tmp_path)
        wider = tmp_path / "wider.keras"
        found = CliRunner().invoke(cli, ["widen", str(path), "b=5", "-o", str(wider)])
        assert found.exit_code == 0, found.stderr
        assert grown(kg.history(wider)) == [("widen", "a", 4, 6), ("widen", "b", 3, 5)]

    def test_a_damaged_history_is_left_out_with_a_warning(self, tmp_path):
        path = with_history(tmp_path / "model.keras", b"{}")
        wider = tmp_path / "wider.keras"
        found = CliRunner().invoke(cli, ["widen", str(path), "a=6", "-o", str(wider)])
        assert found.exit_code == 0, found.stderr
        assert "Warning: growth history of" in found.stderr
        assert len(kg.history(wider)) == 1


def test_the_file_is_where_keras_puts_assets(tmp_path):
    model = kg.widen(a_model(), {"a": 6})
    with zipfile.ZipFile(saved(model, tmp_path)) as archive:
        assert [n for n in archive.namelist() if FILE in n] == [MEMBER]
