"""A small model that grows in `fit` and logs it."""

import keras
import numpy as np

import keras_grow as kg

RNG = np.random.default_rng(0)
X = RNG.standard_normal((64, 5)).astype("float32")
Y = (X[:, :1] * X[:, 1:2] > 0).astype("float32")


def a_model(rate=0.05, **compiled):
    parts = [
        keras.Input((5,), name="features"),
        keras.layers.Dense(4, activation="relu", name="a"),
        keras.layers.Dense(3, activation="tanh", name="b"),
        keras.layers.Dense(1, name="c"),
    ]
    model = keras.Sequential(parts, name="net")
    model.compile(keras.optimizers.SGD(rate), "mse", metrics=["mae"], **compiled)
    return model


def a_growth(log_dir, steps=(2,), amount=2, **options):
    options.setdefault("method", "random")
    options.setdefault("selector", kg.selectors.All(amount))
    schedule = options.pop("schedule", lambda moment: moment.step in steps)
    return kg.GrowthCallback((X, Y), schedule=schedule, log_dir=log_dir, **options)


def fit(model, *callbacks, epochs=2, **options):
    model.fit(
        X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks),
        **options,
    )  # fmt: skip
