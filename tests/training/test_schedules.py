"""Schedules fire exactly when they must: on simulated moments, and in `fit`."""

import json

import keras
import numpy as np
import pytest
from helpers.fitting import compiled, dense, points

import keras_grow as kg
from keras_grow.training.schedules import Every, Moment, OnPlateau, OnSpectrum, When

DATA = points(64)


def fired(schedule, steps, grows=True, **values):
    """Steps of those asked at which a schedule is due; each is a growth."""
    found, count, last = [], 0, None
    for step in steps:
        if schedule.due(Moment(step, count=count, last=last, **values)):
            found.append(step)
            count, last = count + 1, step if grows else None
    return found


def train(schedule, metrics, batches=1, validation=None, every=1):
    """Steps at which a schedule is due in epochs of `batches` steps.

    Args:
        metrics: the metric "loss" of every single step.
        validation: "val_loss" of every epoch; of each `every`-th only.
    """
    found, count, last, ended, start = [], 0, None, None, 0
    for step in range(1, len(metrics) + 1):
        logs = {"loss": np.float32(np.mean(metrics[start:step]))}
        moment = Moment(
            step, (step - 1) // batches, count, last, logs, ended is not None, ended, start
        )
        if schedule.due(moment):
            found.append(step)
            count, last = count + 1, step
        ended = None
        if step % batches == 0:
            epoch = step // batches - 1
            start, ended = step, dict(logs)
            if validation is not None and (epoch + 1) % every == 0:
                ended["val_loss"] = validation[epoch]
    return found


# --- limits that all share ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"start": 3}, [3, 4, 5, 6, 7, 8]),
        ({"stop": 3}, [1, 2, 3]),
        ({"times": 2, "start": 4}, [4, 5]),
        ({"cooldown": 2}, [1, 4, 7]),
        ({"cooldown": 2, "start": 2, "stop": 7}, [2, 5]),
    ],
)
def test_limits(limits, expected):
    assert fired(When(lambda moment: True, **limits), range(1, 9)) == expected


def test_a_cool_down_follows_growths_only():
    """A growth that found nothing to grow needs no rest."""
    schedule = When(lambda moment: True, cooldown=3)
    assert fired(schedule, range(1, 5), grows=False) == [1, 2, 3, 4]


def test_every_with_limits():
    assert fired(Every(3, stop=8), range(1, 20)) == [3, 6]
    assert fired(Every(2, cooldown=4), range(1, 20)) == [2, 7, 12, 17]
    assert fired(Every(2, start=5, stop=9), range(1, 20)) == [5, 7, 9]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Every(3), None),
        (Every(3, times=4), 4),
        (Every(3, stop=10), 3),
        (Every(3, start=1, stop=10), 4),
        (Every(3, times=2, stop=10), 2),
        (Every(2, cooldown=4, stop=17), 4),
        (OnPlateau(times=3), 3),
        (OnPlateau(), None),
    ],
)
def test_remaining_growths(schedule, expected):
    assert schedule.remaining(0) == expected
    if isinstance(schedule, Every) and expected is not None:
        assert len(fired(schedule, range(1, 30))) == expected
    if expected is not None:
        assert schedule.remaining(2) == max(expected - 2, 0)


def test_a_function_is_asked_only_where_the_limits_allow_growth():
    asked = []
    schedule = When(lambda moment: asked.append(moment.step), start=3, stop=5)
    assert fired(schedule, range(1, 9)) == []
    assert asked == [3, 4, 5]


# --- plateaus ----------------------------------------------------------------------------------


def test_plateau_over_epochs_grows_one_step_later():
    # Means of the epochs of two steps: 4, 3, 3, 3, 2, 2, 2, 2.
    steps = np.repeat([4, 3, 3, 3, 2, 2, 2, 2], 2).astype(float)
    # The second epoch without improvement is the fourth, steps 7 and 8; then the seventh.
    assert train(OnPlateau(patience=2), steps, batches=2) == [9, 15]
    assert train(OnPlateau(patience=1), steps, batches=2) == [7, 9, 13, 15]
    assert train(OnPlateau(patience=4), steps, batches=2) == []


def test_min_delta_and_mode():
    steps = 10 - 0.1 * np.arange(8)
    assert train(OnPlateau(patience=2), steps) == []
    assert train(OnPlateau(patience=2, min_delta=0.15), steps) == []  # two steps make 0.2
    assert train(OnPlateau(patience=2, min_delta=0.25), steps) == [4, 7]
    assert train(OnPlateau(patience=2, mode="max"), steps) == [4, 6, 8]


def test_the_mode_is_told_from_the_name():
    def due(monitor):
        schedule = OnPlateau(monitor, patience=1)
        values = (1.0, 2.0)
        moments = [
            Moment(i, epoch_ended=True, epoch_logs={monitor: v}) for i, v in enumerate(values)
        ]
        return [schedule.due(m) for m in moments]

    assert due("val_loss") == [False, True]
    assert due("val_sparse_categorical_accuracy") == [False, False]
    assert due("auc") == [False, False]


def test_looks_that_fall_into_a_cool_down_do_not_count():
    steps = np.ones(12)
    assert train(OnPlateau(patience=2), steps) == [4, 6, 8, 10, 12]
    # Growth at 4; looks at 5 to 7 do not count, those at 8 and 9 do.
    assert train(OnPlateau(patience=2, cooldown=3), steps) == [4, 9]


def test_a_diverged_metric_is_no_plateau():
    steps = np.array([1.0, 2.0, np.nan, np.nan, np.inf, np.nan, 3.0, 3.0])
    assert train(OnPlateau(patience=3), steps) == []
    # Looks of finite values: 1 (best), 2; then 3 at step 7, seen one step later.
    assert train(OnPlateau(patience=2), steps) == [8]


@pytest.mark.parametrize("batches", [3, 5, 7, 100])
def test_means_over_steps_are_recovered_from_running_means(batches):
    rng = np.random.default_rng(0)
    values = rng.random(60)
    schedule, seen = OnPlateau(steps=4, patience=60), []
    better = schedule._better
    schedule._better = lambda value, best: seen.append(value) or better(value, best)
    train(schedule, values, batches)
    expected = values.reshape(-1, 4).mean(axis=1)
    np.testing.assert_allclose(seen, expected[1:], rtol=1e-4)


def test_windows_begin_anew_after_a_fit_that_was_broken_off():
    schedule, seen = OnPlateau(steps=4, patience=60), []
    schedule._better = lambda value, best: seen.append(value)
    for step in range(1, 7):  # broken off after step 6 of an epoch
        schedule.due(Moment(step, logs={"loss": 1.0}))
    for step in range(7, 17):
        schedule.due(Moment(step, logs={"loss": 5.0}, epoch_start=6))
    assert seen == [5.0, 5.0]


def test_plateau_over_steps():
    values = np.concatenate([np.linspace(5, 1, 20), np.ones(20)])
    # Windows of four steps: from step 24 on all are 1, so the best is that of step 24.
    assert train(OnPlateau(steps=4, patience=2), values, batches=7) == [32, 40]


def test_a_metric_that_is_missing_is_named_with_those_that_are_there():
    schedule = OnPlateau("acuracy")
    logs = {"accuracy": 0.5, "loss": 1.0}
    with pytest.raises(kg.GrowthError) as error:
        schedule.due(Moment(1, epoch_ended=True, epoch_logs=logs))
    for part in ("monitor='acuracy'", "'accuracy'?", "Received: logs with ['accuracy', 'loss']"):
        assert part in str(error.value)
    with pytest.raises(kg.GrowthError, match="validation_data= to fit"):
        OnPlateau("val_loss").due(Moment(1, epoch_ended=True, epoch_logs=logs))
    with pytest.raises(kg.GrowthError, match="finds no such metric"):
        OnPlateau("lost", steps=1).due(Moment(1, logs=logs))


def test_validation_in_some_epochs_only():
    losses = [3, 3, 3, 3, 3, 3, 3, 3]
    found = train(OnPlateau("val_loss", 2, start=3), losses, validation=losses, every=2)
    assert found == [7]  # looked at behind steps 2, 4, 6; seen first at the start of epoch 3


def test_errors():
    for make, *parts in (
        (lambda: OnPlateau(monitor=3), "monitor", "Received: 3"),
        (lambda: OnPlateau(patience=0), "Received: patience=0"),
        (lambda: OnPlateau(min_delta=-1), "Received: min_delta=-1"),
        (lambda: OnPlateau(mode="least"), "'auto', 'min' or 'max'", "mode='least'"),
        (lambda: OnPlateau("val_loss", steps=4), "ends of epochs", "'loss'", "steps=4"),
        (lambda: OnPlateau(cooldown=-1), "Received: cooldown=-1"),
        (lambda: OnSpectrum(0), "positive", "Received: threshold=0"),
        (lambda: OnSpectrum(1, steps=0), "Received: steps=0"),
        (lambda: When(3), "function", "Received: function=3"),
        (lambda: Every(3, start=5, stop=4), "start=5, stop=4"),
        (lambda: Moment(1).scores(), "GrowthCallback"),
    ):
        with pytest.raises(kg.GrowthError) as error:
            make()
        for part in parts:
            assert part in str(error.value)


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("steps", [None, 2])
def test_a_plateau_goes_on_from_its_state(steps, batches):
    values = np.random.default_rng(1).random(40)

    def make():
        return OnPlateau(patience=2, min_delta=0.01, steps=steps)

    class Resumed(kg.schedules.Schedule):
        """Goes through json after every step."""

        def __init__(self):
            self.state = None

        def due(self, moment):
            schedule = make()
            if self.state is not None:
                schedule.set_state(json.loads(self.state))
            due = schedule.due(moment)
            self.state = json.dumps(schedule.get_state())
            return due

    expected = train(make(), values, batches)
    assert expected
    assert train(Resumed(), values, batches) == expected


# --- spectra -----------------------------------------------------------------------------------


class Score:
    def __init__(self, gradient_norm, existing_norm):
        self.gradient_norm, self.existing_norm = gradient_norm, existing_norm


def test_spectrum_is_looked_at_every_so_many_steps():
    looks = []

    def asked(ratios):
        def scores():
            looks.append(1)
            return [Score(r * 2.0, 2.0) for r in ratios]

        return scores

    schedule = OnSpectrum(0.5, steps=3)
    assert fired(schedule, range(1, 10), scores=asked([0.1, 0.4])) == []
    assert len(looks) == 3
    assert fired(OnSpectrum(0.5, steps=3), range(1, 10), scores=asked([0.1, 0.5])) == [3, 6, 9]
    looks.clear()
    limited = OnSpectrum(0.5, steps=2, start=4, cooldown=3, times=2)
    assert fired(limited, range(1, 20), scores=asked([0.5])) == [4, 8]
    assert len(looks) == 2  # not where the limits forbid growth
    assert fired(OnSpectrum(0.5, steps=1), [1], scores=lambda: [Score(0.0, 0.0)]) == []
    assert fired(OnSpectrum(0.5, steps=1), [1], scores=lambda: []) == []


def test_spectrum_goes_on_from_its_state():
    schedule = OnSpectrum(1.0, steps=5)
    schedule.due(Moment(5, scores=lambda: []))
    again = OnSpectrum(1.0, steps=5)
    again.set_state(json.loads(json.dumps(schedule.get_state())))
    assert fired(again, range(6, 12), scores=lambda: [Score(1, 1)]) == [10]


# --- in fit ------------------------------------------------------------------------------------


def fit(schedule, epochs, model=None, **arguments):
    growth = kg.GrowthCallback(
        DATA, "random", schedule, kg.selectors.All(1, names="a"), verify=False
    )
    model = model or compiled(dense(), keras.optimizers.SGD(0.0), metrics=["accuracy"])
    arguments = {"batch_size": 16, "verbose": 0, **arguments}
    model.fit(*DATA, epochs=epochs, callbacks=[growth], **arguments)
    return growth


@pytest.mark.every_backend
@pytest.mark.parametrize("monitor", ["loss", "accuracy", "val_loss", "val_accuracy"])
def test_plateau_in_fit(monitor):
    """Nothing learns, so nothing improves: four steps an epoch, looks after steps 4, 8, 12."""
    growth = fit(OnPlateau(monitor, patience=2, times=1), 4, validation_data=DATA)
    assert [(e.step, e.epoch) for e in growth.events] == [(13, 3)]
    assert growth.schedule.best is not None


@pytest.mark.every_backend
def test_plateau_over_steps_in_fit():
    growth = fit(OnPlateau(steps=8, patience=1, min_delta=1e-3, times=2), 8)
    # Windows of two whole epochs are alike: looks at 8, 16, 24.
    assert [e.step for e in growth.events] == [16, 24]


def test_plateau_goes_on_over_fits_and_the_last_epoch_counts():
    model = compiled(dense(), keras.optimizers.SGD(0.0))
    growth = kg.GrowthCallback(
        DATA, "random", OnPlateau(patience=2, times=1), kg.selectors.All(1), verify=False
    )
    for _ in range(4):
        model.fit(*DATA, batch_size=16, epochs=1, verbose=0, callbacks=[growth])
    assert [e.step for e in growth.events] == [13]


def test_a_missing_metric_ends_fit():
    with pytest.raises(kg.GrowthError, match="validation_data"):
        fit(OnPlateau("val_loss"), 2)


def test_a_function_is_a_schedule():
    seen = []

    def schedule(moment):
        seen.append((moment.step, moment.epoch, moment.count, moment.last, moment.epoch_ended))
        assert moment.logs["loss"] > 0
        return moment.step in (2, 5)

    growth = fit(schedule, 2)
    assert [e.step for e in growth.events] == [2, 5]
    assert seen[:6] == [
        (1, 0, 0, None, False),
        (2, 0, 0, None, False),
        (3, 0, 1, 2, False),
        (4, 0, 1, 2, False),
        (5, 1, 1, 2, True),
        (6, 1, 2, 5, False),
    ]


def test_an_object_with_due_alone_is_a_schedule():
    class Once:
        def due(self, moment):
            return moment.step == 3

    growth = fit(Once(), 1)
    assert [e.step for e in growth.events] == [3]
    growth.set_state(json.loads(json.dumps(growth.get_state())))


@pytest.mark.every_backend
def test_spectrum_in_fit():
    """The ratio the schedule acts on is the one between true gradients."""
    ratios = []

    class Watch(OnSpectrum):
        def due(self, moment):
            if moment.step == 2:
                (score,) = moment.scores()
                ratios.append(score.gradient_norm / score.existing_norm)
            return super().due(moment)

    model = compiled(dense(), keras.optimizers.SGD(0.0))
    fit(Watch(1e9, steps=2), 1, model)
    (ratio,) = ratios
    assert ratio > 0
    growth = fit(OnSpectrum(ratio * 1.01, steps=2), 1, model)
    assert not growth.events
    growth = fit(OnSpectrum(ratio * 0.99, steps=2, times=1), 1, model)
    assert [e.step for e in growth.events] == [2]
    (score,) = growth.events[0].scores.values()
    assert score["gradient_norm"] / score["existing_norm"] == pytest.approx(ratio, rel=1e-4)
