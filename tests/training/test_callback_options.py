"""Dry runs, state over processes, growth batches, forms and warm-up of `GrowthCallback`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.fitting import compiled, dense, numpy_of, points, same_arrays

import keras_grow as kg
from keras_grow.logs import events

pytestmark = pytest.mark.filterwarnings("ignore:The last growth:UserWarning")

DATA = points(64)
S = kg.selectors


def fit(growth, model=None, epochs=1, rate=0.1):
    model = model or compiled(dense(), keras.optimizers.SGD(rate))
    model.fit(*DATA, batch_size=16, epochs=epochs, verbose=0, shuffle=False, callbacks=[growth])
    return model


# --- dry runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "method"),
    [
        (S.All(2), "gradmax"),
        (S.All(2), "random"),
        (S.RoundRobin(0.5), "gradmax"),
        (S.LargestGain(S.Budget(parameters=50)), "gradmax"),
        (S.Insert(lambda n: keras.layers.Dense(4, name="new"), ["a", "a"]), "random"),
        (S.Bridge("features", "scores", 4), "gradmax"),
    ],
)
def test_a_dry_run_says_what_would_grow_and_changes_nothing(selector, method, tmp_path):
    weights = dense().get_weights()

    def run(dry):
        model = compiled(dense(), keras.optimizers.SGD(0.1))
        model.set_weights(weights)
        growth = kg.GrowthCallback(
            DATA, method, kg.schedules.Every(2, times=1), selector, dry_run=dry, log_dir=tmp_path
        )
        activations = []
        watch = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: activations.append(
                model.get_layer("a").activation
            )
        )
        model.fit(*DATA, batch_size=16, verbose=0, shuffle=False, callbacks=[growth, watch])
        return model, growth.events[0], activations

    plain = compiled(dense(), keras.optimizers.SGD(0.1))
    plain.set_weights(weights)
    plain.fit(*DATA, batch_size=16, verbose=0, shuffle=False)
    state = selector.get_state()
    model, dry, activations = run(True)
    assert same_arrays(numpy_of(model.weights), numpy_of(plain.weights))
    assert len(model.layers) == len(plain.layers)
    assert set(activations) == {keras.activations.relu}
    assert dry.dry_run
    assert events.read(tmp_path) == [dry]
    # The event of a real growth from the same state says the same.
    selector.set_state(state)
    grown, real, _ = run(False)
    assert not real.dry_run
    assert grown.count_params() == real.parameters_after == dry.parameters_after
    for name in ("step", "parameters_before", "flops_before", "flops_after", "notes"):
        assert getattr(dry, name) == getattr(real, name)
    for a, b in zip(dry.sites, real.sites, strict=True):
        assert (a.name, a.kind, a.width_before, a.width_after, a.form, a.method) == (
            b.name, b.kind, b.width_before, b.width_after, b.form, b.method,
        )  # fmt: skip
        assert a.singular_values == pytest.approx(b.singular_values, rel=1e-4, abs=1e-6)
        assert a.gradient_norm == (
            None if b.gradient_norm is None else pytest.approx(b.gradient_norm, rel=1e-4)
        )
    assert set(dry.scores) == set(real.scores)
    if method == "gradmax" and not isinstance(selector, S.Bridge):
        assert dry.sites[0].gradient_norm > 0
        assert dry.loss == pytest.approx(real.loss, rel=1e-4)


def test_a_dry_run_goes_on_as_growth_would():
    growth = kg.GrowthCallback(
        DATA, "random", kg.schedules.Every(1, times=3, cooldown=1), S.RoundRobin(1), dry_run=True
    )
    fit(growth, epochs=2)
    assert [(e.step, e.sites[0].name) for e in growth.events] == [(1, "a"), (3, "b"), (5, "a")]
    assert all(e.sites[0].width_after == e.sites[0].width_before + 1 for e in growth.events)


def test_a_dry_run_knows_the_limits():
    start = dense().count_params()
    growth = kg.GrowthCallback(
        DATA, "random", kg.schedules.Every(1, times=1), S.All(5), dry_run=True,
        max_parameters=start + 40,
    )  # fmt: skip
    model = fit(growth)
    (event,) = growth.events
    assert start + 30 < event.parameters_after <= start + 40
    assert event.notes
    assert model.count_params() == start


# --- state -------------------------------------------------------------------------------------

CODE = """
import json, sys
import keras, numpy as np
import keras_grow as kg
folder, state = sys.argv[1:]
data = np.load(folder + "/data.npz")
model = keras.models.load_model(folder + "/model.keras")
growth = kg.GrowthCallback(
    (data["x"], data["y"]), "random",
    kg.schedules.OnPlateau(patience=2, min_delta=10.0, times=3),
    kg.selectors.InTurn(kg.selectors.RoundRobin(1), kg.selectors.All(2)), verify=False,
)
growth.set_state(json.loads(state))
model.fit(data["x"], data["y"], batch_size=16, epochs=4, verbose=0, callbacks=[growth])
print("FOUND", json.dumps([
    [e.step, [[s.name, s.width_after] for s in e.sites]] for e in growth.events
]))
"""


def test_state_goes_on_in_a_new_process(tmp_path):
    """Nothing improves by 10, so growth is due every two epochs; the rest is one more epoch."""

    def make():
        return kg.GrowthCallback(
            DATA, "random", kg.schedules.OnPlateau(patience=2, min_delta=10.0, times=3),
            S.InTurn(S.RoundRobin(1), S.All(2)), verify=False,
        )  # fmt: skip

    def found(growth):
        return [[e.step, [[s.name, s.width_after] for s in e.sites]] for e in growth.events]

    whole = make()
    fit(whole, epochs=8)
    assert [step for step, _ in found(whole)] == [13, 21, 29]
    first, model = make(), compiled(dense(), keras.optimizers.SGD(0.1))
    fit(first, model, epochs=4)
    # The end of the fourth epoch has not been seen by the schedule yet.
    state = json.dumps(first.get_state())
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=DATA[0], y=DATA[1])
    run = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path), state],
        capture_output=True, text=True, check=False, cwd=Path(kg.__file__).parents[1],
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    line = next(line for line in run.stdout.splitlines() if line.startswith("FOUND"))
    assert json.loads(line[5:]) == found(whole)


def test_a_state_without_the_newer_entries_is_taken():
    growth = kg.GrowthCallback(DATA, "random", kg.schedules.Every(1, times=1), verify=False)
    fit(growth)
    old = {k: growth.get_state()[k] for k in ("step", "count", "initial_widths", "grown", "events")}
    again = kg.GrowthCallback(DATA, "random", kg.schedules.Every(1, times=2), verify=False)
    again.set_state(old)
    assert (again.step, len(again.events)) == (4, 1)


# --- growth data -------------------------------------------------------------------------------


def losses(**arguments):
    """Loss of the growth data at the first growth, of a model that does not learn."""
    model = dense()
    rng = np.random.default_rng(0)
    model.set_weights([rng.standard_normal(w.shape) for w in model.get_weights()])
    compiled(model, keras.optimizers.SGD(0.0))
    growth = kg.GrowthCallback(DATA, "gradmax", kg.schedules.Every(1, times=2), **arguments)
    fit(growth, model)
    return [e.loss for e in growth.events], model


def test_an_event_looks_at_as_many_batches_as_asked():
    (one, _), model = losses(batch_size=16)
    whole = model.evaluate(*DATA, verbose=0)
    assert one != pytest.approx(whole, rel=1e-3)
    for arguments in ({"batch_size": 64}, {"batch_size": 16, "batches": None}):
        assert losses(**arguments)[0][0] == pytest.approx(whole, rel=1e-4)
    (two, _), _ = losses(batch_size=16, batches=2)
    assert len({round(v, 6) for v in (one, two, whole)}) == 3


def test_all_the_data_is_drawn_for_schedule_and_growth():
    growth = kg.GrowthCallback(
        DATA, kg.methods.GradMax(sign_rule=False), kg.schedules.OnSpectrum(1e-9, steps=2, times=1),
        S.LargestGain(2), batch_size=16, batches=None,
    )  # fmt: skip
    fit(growth)
    (event,) = growth.events
    (site,) = event.sites
    score = event.scores[site.name]
    assert site.gradient_norm == pytest.approx(score["gradient_norm"], rel=1e-4)


# --- form and warm-up --------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["outgoing", "inverse"])
def test_the_form_is_passed_on(form):
    growth = kg.GrowthCallback(DATA, "random", kg.schedules.Every(4, times=1), form=form)
    model = fit(growth)
    assert [s.form for s in growth.events[0].sites] == [form, form]
    fan_in = numpy_of([model.get_layer("a").kernel])[0][:, 4:]
    fan_out = numpy_of([model.get_layer("b").kernel])[0][4:, :3]
    assert (not fan_in.any(), not fan_out.any()) == (form == "outgoing", form == "inverse")


def test_new_weights_warm_up():
    """In step i after the growth they move i / 4 of what they would."""
    x, y = DATA[0][:16], DATA[1][:16]

    def run(warmup):
        model = compiled(dense(), keras.optimizers.SGD(0.1))
        rng = np.random.default_rng(0)
        model.set_weights([rng.standard_normal(w.shape) for w in model.get_weights()])
        kernels = []

        class Read(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                kernels.append(numpy_of([self.model.get_layer("a").kernel])[0])

        growth = kg.GrowthCallback(
            DATA, "random", kg.schedules.Every(1, times=1), S.All(2, names="a"), warmup=warmup
        )
        model.fit(x, y, batch_size=16, epochs=7, verbose=0, callbacks=[growth, Read()])
        return np.array(kernels)

    plain, warm = run(0), run(4)
    assert not warm[0][:, 4:].any()
    np.testing.assert_allclose(warm[1][:, 4:], plain[1][:, 4:] / 4, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(warm[1][:, :4], plain[1][:, :4], rtol=1e-5)
    moved = np.abs(np.diff(warm[:, :, 4:], axis=0)).max(axis=(1, 2))
    assert (moved > 0).all()
    sizes = [np.abs(run[1:4, :, 4:]).mean(axis=(1, 2)) for run in (warm, plain)]
    assert (sizes[0] < 0.8 * sizes[1]).all()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"form": "sideways"}, "Received: form='sideways'"),
        ({"batches": 0}, "Received: batches=0"),
        ({"warmup": -1}, "Received: warmup=-1"),
        ({"schedule": 3}, "Received: schedule=3"),
        ({"schedule": kg.schedules.OnPlateau}, "Received: schedule=<class"),
    ],
)
def test_arguments_are_checked(arguments, text):
    with pytest.raises(kg.GrowthError, match=text):
        kg.GrowthCallback(DATA, **arguments)
