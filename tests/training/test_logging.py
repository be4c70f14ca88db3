"""What `GrowthCallback(log_dir=...)` writes during `fit`, on the backend that is set."""

import json
import sys
import warnings

import keras
import numpy as np
import pytest
from helpers.logged import X, Y, a_growth, a_model, fit
from helpers.processes import python
from helpers.records import event_file, only_run

import keras_grow as kg
from keras_grow.logs import events
from keras_grow.logs.reading import read_runs
from keras_grow.logs.writing import RunWriter
from keras_grow.training.run_log import StepLoss, network_of

STEPS = 4  # of an epoch


class StepLosses(keras.callbacks.Callback):
    """Losses of single steps, of a model that sees the same batches: each on its own."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_train_batch_begin(self, batch, logs=None):
        rows = slice(16 * batch, 16 * batch + 16)
        predicted = keras.ops.convert_to_numpy(self.model(X[rows]))
        self.found.append(float(((predicted - Y[rows]) ** 2).mean()))


class TestScalars:
    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, tmp_path_factory):
        folder = tmp_path_factory.mktemp("logs")
        model, losses = a_model(), StepLosses()
        fit(model, losses, a_growth(folder, (2, 6)), validation_data=(X, Y))
        return only_run(folder), losses.found, model

    def test_the_loss_is_that_of_the_step(self, run):
        """Not Keras's mean since the epoch began."""
        series = run[0].scalars["loss"]
        assert series.steps.tolist() == list(range(1, 2 * STEPS + 1))
        np.testing.assert_allclose(series.values, run[1], rtol=1e-4)

    def test_metrics_and_validation(self, run):
        scalars, model = run[0].scalars, run[2]
        assert scalars["mae"].steps.tolist() == list(range(1, 2 * STEPS + 1))
        assert scalars["val_loss"].steps.tolist() == [STEPS, 2 * STEPS]
        assert scalars["val_loss"].values[-1] == pytest.approx(
            model.evaluate(X, Y, verbose=0)[0], rel=1e-5
        )
        assert "val_mae" in scalars

    def test_sizes_at_the_start_and_when_they_change(self, run):
        scalars, model = run[0].scalars, run[2]
        for tag in ("parameters", "flops", "width/a", "width/b"):
            assert scalars[tag].steps.tolist() == [0, 2, 6]
        assert scalars["width/a"].values.tolist() == [4, 6, 8]
        assert scalars["parameters"].values[-1] == model.count_params()
        assert scalars["flops"].values[-1] == kg.flops(model)

    def test_times_go_on(self, run):
        times = run[0].scalars["loss"].times
        assert (np.diff(times) >= 0).all()
        assert times[1] <= run[0].growths[0].time <= times[2]

    def test_the_network_at_the_start(self, run):
        (network,) = run[0].networks
        assert [(n.path, n.kind, n.width, n.site) for n in network.nodes] == [
            ("features", "InputLayer", 5, None),
            ("a", "Dense", 4, "a"),
            ("b", "Dense", 3, "b"),
            ("c", "Dense", 1, None),
        ]
        assert [n.parameters for n in network.nodes] == [0, 24, 15, 4]
        assert network.edges == ((0, 1), (1, 2), (2, 3))
        assert (network.name, network.step) == ("net", 0)


class TestGrowths:
    def test_each_has_its_record(self, tmp_path):
        growth = a_growth(tmp_path, (2, 3), method="gradmax")
        fit(a_model(), growth)
        run = only_run(tmp_path)
        assert [g.step for g in run.growths] == [2, 3]
        for short, event in zip(run.growths, growth.events, strict=True):
            assert short.kept is True
            assert short.tolerance == pytest.approx(event.tolerance)
            assert (short.added, short.sites, short.methods) == (4, 2, ("gradmax",))
            assert short.seconds.keys() == event.seconds.keys()
            for written, site in zip(run.sites[event.step], event.sites, strict=True):
                assert (written.name, written.width_after) == (site.name, site.width_after)
                assert written.form == site.form
                assert np.allclose(written.singular_values, site.singular_values, rtol=1e-3)
                assert written.gradient_norm == pytest.approx(site.gradient_norm, rel=1e-3)
        assert events.read(tmp_path) == growth.events

    @pytest.mark.parametrize("looked", [False, True])
    @pytest.mark.parametrize("batches", [1, 3])
    def test_the_gradient_of_the_weights_there_were(self, tmp_path, looked, batches):
        """By finite differences of the loss; also where a selector has looked at it already."""
        selector = kg.selectors.All(2)
        if looked:
            selector = kg.selectors.LargestGain(amount=2, sites=2)
        growth = a_growth(
            tmp_path, (2,), method="gradmax", selector=selector, batch_size=16, batches=batches
        )
        model, seen = a_model(0.0), []
        draw = growth.data.batches

        def drawn(*arguments):
            found = list(draw(*arguments))
            seen[:] = found
            return kg.growth.data.Batches(found[0], found[1:])

        growth.data.batches = drawn
        fit(model, growth, epochs=1)
        weights = [np.array(w, "float64") for w in a_model(0.0).get_weights()]
        original = [np.array(keras.ops.convert_to_numpy(w)) for w in model.get_weights()]
        small = [w[: s.shape[0], : s.shape[1]] if w.ndim > 1 else w[: len(s)]
                 for w, s in zip(original, weights, strict=True)]  # fmt: skip

        def loss(w):
            total = 0.0
            for x, y, *_ in seen:
                x, y = (keras.ops.convert_to_numpy(t).astype("float64") for t in (x, y))
                hidden = np.maximum(x @ w[0] + w[1], 0)
                hidden = np.tanh(hidden @ w[2] + w[3])
                total += ((hidden @ w[4] + w[5] - y) ** 2).mean() / len(seen)
            return total

        def norm(*which):
            square = 0.0
            for i in which:
                for place in np.ndindex(small[i].shape):
                    ends = []
                    for step in (1e-4, -1e-4):
                        moved = [np.array(w, "float64") for w in small]
                        moved[i][place] += step
                        ends.append(loss(moved))
                    square += ((ends[0] - ends[1]) / 2e-4) ** 2
            return square**0.5

        sites = {s.name: s for s in growth.events[0].sites}
        assert len(seen) == batches
        assert sites["a"].existing_norm == pytest.approx(norm(0, 2), rel=1e-3)
        assert sites["b"].existing_norm == pytest.approx(norm(2, 4), rel=1e-3)
        written = only_run(tmp_path).growths[0].existing_norm
        assert written == pytest.approx(np.hypot(norm(0, 2), norm(2, 4)), rel=1e-3)

    def test_a_new_layer_changes_the_network(self, tmp_path):
        selector = kg.selectors.Insert(lambda i: keras.layers.Dense(4, name=f"new_{i}"), after="a")
        growth = a_growth(tmp_path, (3,), selector=selector)
        fit(a_model(), growth)
        run = only_run(tmp_path)
        assert [n.step for n in run.networks] == [0, 3]
        assert "new_0" in [n.path for n in run.networks[1].nodes]
        assert run.growths[0].kinds == ("insert",)
        assert run.growths[0].kept is True
        assert run.scalars["width/new_0"].steps.tolist() == [3]
        assert run.scalars["parameters"].values.tolist() == [
            run.growths[0].parameters_before,
            run.growths[0].parameters_after,
        ]

    def test_a_dry_run_changes_no_width(self, tmp_path):
        fit(a_model(), a_growth(tmp_path, dry_run=True))
        run = only_run(tmp_path)
        assert run.growths[0].dry_run
        assert run.scalars["width/a"].values.tolist() == [4]

    def test_a_failure_is_written_too(self, tmp_path):
        def broken(*arguments):
            raise MemoryError("no room")

        growth = a_growth(tmp_path, method="gradmax")
        growth.data.batches = broken
        with pytest.warns(UserWarning, match="no room"):
            fit(a_model(), growth)
        run = only_run(tmp_path)
        assert "no room" in run.growths[0].error
        assert any("no room" in line for line in run.warnings)


class TestLearningRate:
    def rates(self, tmp_path, rate, *callbacks, epochs=2):
        fit(a_model(rate), *callbacks, a_growth(tmp_path), epochs=epochs)
        return only_run(tmp_path).scalars["learning_rate"]

    def test_a_fixed_one_is_written_once(self, tmp_path):
        series = self.rates(tmp_path, 0.125)
        assert (series.steps.tolist(), series.values.tolist()) == ([0], [0.125])

    def test_one_that_a_callback_changes(self, tmp_path):
        change = keras.callbacks.LearningRateScheduler(lambda epoch: 0.5 / 2**epoch)
        series = self.rates(tmp_path, 0.125, change, epochs=3)
        assert series.values.tolist() == [0.125, 0.5, 0.25, 0.125]
        assert series.steps.tolist() == [0, 1, STEPS + 1, 2 * STEPS + 1]

    def test_a_schedule_is_followed_from_epoch_to_epoch(self, tmp_path):
        schedule = keras.optimizers.schedules.PolynomialDecay(1e-2, 100, 0.0)
        series = self.rates(tmp_path, schedule)
        done = dict(zip(series.steps.tolist(), series.values.tolist(), strict=True))
        for step in (0, 1, STEPS + 1):
            assert done[step] == pytest.approx(1e-2 * (1 - step / 100), rel=1e-5)


class TestHowOften:
    def test_every_few_steps_the_mean_of_them(self, tmp_path):
        losses = StepLosses()
        fit(a_model(), losses, a_growth(tmp_path, log_every=2))
        series = only_run(tmp_path).scalars["loss"]
        assert series.steps.tolist() == [2, 4, 6, 8]
        np.testing.assert_allclose(
            series.values, np.reshape(losses.found, (4, 2)).mean(1), rtol=1e-4
        )

    @pytest.mark.parametrize("often", [0, -1, 1.5, "2", True])
    def test_no_number_of_steps(self, tmp_path, often):
        with pytest.raises(kg.GrowthError, match=r"log_every must be a whole number.*Received"):
            a_growth(tmp_path, log_every=often)

    @pytest.mark.backend("jax", "tensorflow")  # PyTorch has none
    def test_steps_per_execution(self, tmp_path):
        fit(a_model(steps_per_execution=2), a_growth(tmp_path, (4,)))
        run = only_run(tmp_path)
        assert run.scalars["loss"].steps.tolist() == [2, 4, 6, 8]
        assert run.growths[0].step == 4

    def test_what_a_step_of_ones_own_returns_is_written_as_it_is(self, tmp_path):
        class Own(keras.Model):
            def train_step(self, *arguments):
                found = super().train_step(*arguments)
                logs = found[0] if isinstance(found, tuple) else found
                logs["loss"] = logs["loss"] * 0 + 7.0
                return found

        plain = a_model()
        model = Own(plain.inputs, plain.outputs)
        model.compile("sgd", "mse")
        fit(model, a_growth(tmp_path))
        assert only_run(tmp_path).scalars["loss"].values.tolist() == [7.0] * 8

    def test_a_mean_of_many_steps_is_taken_apart_as_exactly_as_it_can_be(self):
        """float32 means of 20,000 steps hold little of a single one."""
        rng = np.random.default_rng(0)
        true = 0.1 + 2 / np.arange(1, 20001) + 0.01 * rng.standard_normal(20000)
        means = (np.cumsum(true) / np.arange(1, 20001)).astype("float32")
        step_loss, last, worst, count = StepLoss(), 0, 0.0, 0
        for steps, mean in enumerate(means.tolist(), 1):
            value = step_loss(steps, mean)
            if value is not None:
                wanted = true[last:steps].mean()
                worst, last, count = max(worst, abs(value / wanted - 1)), steps, count + 1
        assert worst < 0.01
        assert count > 5000
        assert 20000 - last < 100

    def test_means_that_are_no_numbers_or_zero(self):
        step_loss = StepLoss()
        assert step_loss(1, 0.0) == 0.0
        assert step_loss(2, 0.0) == 0.0
        assert np.isnan(step_loss(3, float("nan")))
        step_loss.restart()
        assert step_loss(1, 2.0) == 2.0
        assert any(step_loss(n, 2.0 / n) is not None for n in range(2, 1000))


class TestSessions:
    def test_a_second_fit_goes_on(self, tmp_path):
        model, growth = a_model(), a_growth(tmp_path, (2, 6))
        fit(model, growth, epochs=1)
        fit(model, growth, epochs=1)
        run = only_run(tmp_path)
        assert run.scalars["loss"].steps.tolist() == list(range(1, 9))
        assert [g.step for g in run.growths] == [2, 6]
        assert run.resumed == [4]
        assert run.scalars["width/a"].values.tolist() == [4, 6, 6, 8]

    def test_a_state_that_was_set_takes_back_what_came_after(self, tmp_path):
        model, first = a_model(), a_growth(tmp_path, (2, 6, 7))
        fit(model, first, epochs=1)
        state, weights = first.get_state(), model.get_weights()
        fit(model, first, epochs=1)
        assert [g.step for g in only_run(tmp_path).growths] == [2, 6, 7]

        again = kg.widen(a_model(), {"a": 6, "b": 5})
        again.set_weights(weights)
        second = a_growth(tmp_path, (5,))
        second.set_state(json.loads(json.dumps(state)))
        assert not {"log", "log_dir"}.intersection(state)
        fit(again, second, epochs=1)
        run = only_run(tmp_path)
        assert [g.step for g in run.growths] == [2, 5]
        assert run.resumed == [4]

    def test_a_fit_that_fails_leaves_all_that_was_written(self, tmp_path):
        class Stop(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch == 2:
                    raise KeyError("stop")

        model, growth = a_model(), a_growth(tmp_path)
        with pytest.raises(KeyError):
            fit(model, growth, Stop())
        assert [g.step for g in only_run(tmp_path).growths] == [2]
        fit(model, growth, epochs=1)  # opens the folder again, and closes what was open
        run = only_run(tmp_path)
        assert run.scalars["loss"].steps.tolist() == list(range(1, 3 + STEPS + 1))
        assert run.resumed == [3]

    def test_a_growth_that_is_refused_closes_the_log(self, tmp_path):
        growth = a_growth(tmp_path, selector=kg.selectors.All({"a": 6}))
        growth._carry_out = lambda *_: 1 / 0
        with pytest.raises(ZeroDivisionError):
            fit(a_model(), growth)
        assert growth._log._writer is None
        assert only_run(tmp_path).scalars["loss"].steps.tolist() == [1, 2]

    def test_two_callbacks_in_one_folder(self, tmp_path):
        """The second has the folder; the first says that it is not logged."""
        first = a_growth(tmp_path, (2,), selector=kg.selectors.All(1, names="a"))
        second = a_growth(tmp_path, (3,), selector=kg.selectors.All(1, names="b"))
        with pytest.warns(UserWarning, match=r"another one was opened there.*without being logged"):
            fit(a_model(), first, second)
        run = only_run(tmp_path)
        assert [g.step for g in run.growths] == [3]
        assert run.scalars["loss"].steps.tolist() == list(range(1, 9))

    def test_a_folder_that_cannot_be_written_to(self, tmp_path):
        (tmp_path / "file").touch()
        model = a_model()
        before = model.get_weights()
        with pytest.raises(kg.GrowthError, match="cannot be written to"):
            fit(model, a_growth(tmp_path / "file"))
        assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))

    @pytest.mark.parametrize("on_failure", ["continue", "raise"])
    def test_a_disk_that_fails_in_the_middle(self, tmp_path, on_failure):
        class Full(keras.callbacks.Callback):
            """From the third step on the log's file is one that is always full."""

            def on_train_batch_end(self, batch, logs=None):
                if growth.step == 2:
                    growth._log._writer._file._writer = open(  # noqa: SIM115
                        "/dev/full", "wb", buffering=0
                    )

        growth = a_growth(tmp_path, (4,), on_failure=on_failure)
        if on_failure == "raise":
            with (
                pytest.warns(UserWarning, match="have not taken a step"),
                pytest.raises(kg.GrowthError, match="No space left on device"),
            ):
                fit(a_model(), growth, Full())
            return
        with pytest.warns(UserWarning, match="No space left on device.*without being logged"):
            fit(a_model(), growth, Full())
        assert [e.step for e in growth.events] == [4]
        assert growth.step == 8


class TestBesideOthers:
    @pytest.mark.backend("tensorflow")
    def test_keras_own_callback_in_the_same_folder(self, tmp_path):
        board = keras.callbacks.TensorBoard(tmp_path, update_freq=1)
        fit(a_model(), a_growth(tmp_path, (2, 6)), board, validation_data=(X, Y))
        found = {run.name: run for run in read_runs(tmp_path)}
        assert sorted(found) == [".", "train", "validation"]
        assert len(found["."].growths) == 2
        assert found["."].scalars["loss"].steps.tolist() == list(range(1, 9))
        assert found["train"].scalars["epoch_loss"].steps.tolist() == [0, 1]
        assert found["validation"].scalars["epoch_loss"].values[-1] == pytest.approx(
            found["."].scalars["val_loss"].values[-1], rel=1e-5
        )
        assert not any(run.left_out for run in found.values())

    def test_tensorflow_is_not_needed(self, tmp_path):
        """Nor imported, unless it is the backend."""
        code = """
            import sys
            from helpers.logged import a_growth, a_model, fit
            fit(a_model(), a_growth(sys.argv[1]))
        """
        ours = keras.config.backend() == "tensorflow"
        python(code, tmp_path, hidden=() if ours else ("tensorflow",))
        assert [g.step for g in only_run(tmp_path).growths] == [2]

    def test_without_tensorboard(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
        with pytest.warns(UserWarning, match="tensorboard is not installed") as told:
            fit(a_model(), a_growth(tmp_path, (2, 3)))
        assert len([w for w in told if "tensorboard" in str(w.message)]) == 1
        assert [e.step for e in events.read(tmp_path)] == [2, 3]
        assert not list(tmp_path.glob("*tfevents*"))

    def test_without_a_folder_nothing_is_written(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            fit(a_model(), a_growth(None))
        assert not list(tmp_path.iterdir())


class TestNetworks:
    def test_a_graph_with_everything(self):
        x = inputs = keras.Input((8, 8, 3), name="image")
        x = keras.layers.Conv2D(6, 3, padding="same", use_bias=False, name="stem")(x)
        y = keras.layers.BatchNormalization(name="norm")(x)
        y = keras.layers.Conv2D(6, 1, name="conv")(keras.ops.relu(y))
        x = keras.layers.Add(name="add")([x, y])
        z = keras.layers.Conv2D(2, 1, name="side")(x)
        joined = keras.layers.Concatenate(name="join")([x, z])
        flat = keras.layers.Flatten(name="flat")(x)
        shared = keras.layers.Dense(4, name="shared")
        inner = keras.Sequential([keras.Input((480,)), keras.layers.Dense(2, name="last")])
        inner.name = "inner"
        a, b = shared(flat), shared(flat)
        tail = keras.layers.Concatenate(name="tail")(
            [flat, keras.layers.Flatten()(joined)[:, :88], a, b]
        )
        model = keras.Model(inputs, inner(tail))
        network = network_of(kg.planning.survey(model), 7)
        nodes = {n.path: n for n in network.nodes}
        stream = nodes["stem"].site
        assert stream is not None
        assert {nodes[p].site for p in ("norm", "conv", "add", "flat")} == {stream}
        assert nodes["flat"].width == 384
        assert nodes["join"].site is None  # of two sites
        assert nodes["inner/last"].width == 2
        assert sum(n.parameters for n in network.nodes) == model.count_params()
        starts = {a for a, _ in network.edges}
        assert starts == set(range(len(network.nodes))) - {len(network.nodes) - 1}
        assert all(a < b for a, b in network.edges)
        assert network.step == 7


def test_a_run_of_many_sessions_keeps_one_file_each(tmp_path):
    for step in range(3):
        RunWriter(tmp_path, step).close()
    assert len(list(tmp_path.glob("*tfevents*"))) == 3
    with pytest.raises(ValueError):
        event_file(tmp_path)
