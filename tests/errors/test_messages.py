"""Bad input gets an error that says what was asked, what was found, where, and what to do.

Every case names what the message has to hold. Nothing may change: `unchanged` compares the model's
whole state before and after.
"""

import contextlib

import keras
import numpy as np
import pytest
from helpers.fitting import CLASSES, FEATURES, compiled, dense, numpy_of, points, same_arrays
from keras import layers

import keras_grow as kg

X, Y = points(16)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.hidden = layers.Dense(4)

    def call(self, x):
        return self.hidden(x)


@keras.saving.register_keras_serializable("errors")
class Unknown(layers.Layer):
    def call(self, x):
        return x * 2.0


def plus_one(x):
    return x + 1.0


def through(layer, width=4):
    inputs = keras.Input((FEATURES,))
    x = layer(layers.Dense(width, name="a")(inputs))
    return compiled(keras.Model(inputs, layers.Dense(CLASSES, name="scores")(x), name="net"))


def tied():
    inputs = keras.Input((FEATURES,))
    x = layers.Add()([layers.Dense(4, name="p")(inputs), layers.Dense(4, name="q")(inputs)])
    return keras.Model(inputs, layers.Dense(CLASSES)(x), name="net")


def grouped():
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(4, 2, name="a")(inputs)
    x = layers.Conv2D(4, 2, groups=2)(x)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)), name="net")


def nested():
    inner = keras.Sequential(
        [keras.Input((FEATURES,)), layers.Dense(4, name="a"), layers.Dense(4)], name="inner"
    )
    inputs = keras.Input((FEATURES,))
    return keras.Model(inputs, layers.Dense(CLASSES)(inner(inputs)), name="net")


def everything(model):
    return (
        numpy_of(model.variables),
        model.to_json(),
        [layer.input_spec and str(layer.input_spec.axes) for layer in model.layers],
    )


@contextlib.contextmanager
def refused(model, *parts, kind=kg.GrowthError):
    """Expects an error with all `parts` in its message, and the model unchanged."""
    before = everything(model) if model is not None and model.built else None
    with pytest.raises(kind) as failure:
        yield
    message = str(failure.value)
    assert issubclass(failure.type, ValueError)
    for part in parts:
        assert part in message, message
    assert "\n" not in message
    if before is not None:
        after = everything(model)
        assert same_arrays(before[0], after[0])
        assert before[1:] == after[1:]


# --- widths -------------------------------------------------------------------------------------

WIDTHS = {
    "unknown layer": ({"aa": 6}, ["no layer 'aa'", "Model 'net'", "Did you mean 'a'?"]),
    "nothing near": ({"conv_7": 6}, ["no layer 'conv_7'", "Choose one of: 'a', 'b'"]),
    "same width": ({"a": 4}, ["Layer 'a' is 4 wide", "only become wider", "Received: a=4"]),
    "narrower": ({"b": 2}, ["Layer 'b' is 3 wide", "Received: b=2"]),
    "negative": ({"b": -2}, ["Layer 'b' is 3 wide", "Received: b=-2"]),
    "fraction": ({"a": 6.0}, ["whole numbers", "Received: a=6.0"]),
    "text": ({"a": "6"}, ["whole numbers", "Received: a='6'"]),
    "bool": ({"a": True}, ["whole numbers", "Received: a=True"]),
    "none": ({"a": None}, ["whole numbers", "Received: a=None"]),
    "number as name": ({0: 6}, ["by their name", "Received: 0"]),
    "no dict": (6, ["dict of new widths", "{'conv_1': 96}", "Received: 6"]),
    "nothing asked": ({}, ["dict of new widths", "Received: {}"]),
    "output": (
        {"scores": 6},
        ["'scores'", "'net'", "output of the model", "Choose one of: 'a', 'b'"],
    ),
    "one of two": ({"a": 6, "zz": 6}, ["no layer 'zz'"]),
}


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("function", [kg.plan, kg.widen, kg.grow_])
def test_widths(name, function):
    widths, parts = WIDTHS[name]
    model = compiled(dense())
    with refused(model, *parts):
        function(model, widths)


def test_a_layer_without_channels_of_its_own():
    model = through(layers.ReLU(name="relu"))
    parts = ["Layer 'relu'", "is a ReLU", "no width of its own", "Choose one of: 'a'"]
    with refused(model, *parts):
        kg.widen(model, {"relu": 6})


def test_tied_layers_grow_alike():
    model = tied()
    with refused(model, "'p', 'q' are tied", "same number", "Received: {'p': 5, 'q': 6}"):
        kg.widen(model, {"p": 5, "q": 6})


def test_groups_give_the_next_width_that_works():
    model = grouped()
    with refused(model, "'a' grows in steps of 2", "Received: width 5 (now 4)", "works is 6"):
        kg.widen(model, {"a": 5})


def test_layers_of_nested_models_are_named_by_their_path():
    model = nested()
    with refused(model, "no layer 'a'", "Did you mean 'inner/a'?", "outer/inner"):
        kg.widen(model, {"a": 6})


# --- layers on the path -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "parts"),
    [
        (lambda: layers.Softmax(name="soft"), ["Softmax 'soft'", "mixes", "Path: a -> soft"]),
        (lambda: Unknown(name="own"), ["Unknown 'own'", "no rule", "Path: a -> own"]),
        (
            lambda: layers.Activation(plus_one, name="act"),
            ["Activation 'act'", "no rule", "Path: a -> act"],
        ),
    ],
)
def test_a_refused_layer_on_the_path(layer, parts):
    model = through(layer())
    with refused(model, "Layer 'a' of model 'net' cannot be widened", *parts):
        kg.widen(model, {"a": 6})
    assert not kg.sites(model)
    (refusal, _) = kg.sites(model, refused=True)
    assert refusal.producer == "a"
    for part in parts:
        assert part in refusal.reason


def test_lora_is_refused_with_what_to_do():
    model = dense()
    model.get_layer("a").enable_lora(2)
    with refused(model, "Layer 'a'", "LoRA", "merge the LoRA weights first"):
        kg.widen(model, {"a": 6})


# --- models -------------------------------------------------------------------------------------

FUNCTIONS = {
    "sites": lambda model: kg.sites(model),
    "plan": lambda model: kg.plan(model, {"a": 6}),
    "widen": lambda model: kg.widen(model, {"a": 6}),
    "grow_": lambda model: kg.grow_(model, {"a": 6}),
    "verify": lambda model: kg.verify(model, model),
    "flops": lambda model: kg.flops(model),
    "target": lambda model: kg.selectors.All(model) and kg.sites(model),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_models_without_a_graph(function):
    call = FUNCTIONS[function]
    with refused(None, "'mine' is subclassed", "Subclassed defines its own call()", "Build it"):
        call(Subclassed())
    unbuilt = keras.Sequential([layers.Dense(4, name="a"), layers.Dense(2)], name="net")
    with refused(None, "'net' is not built", "keras.Input(shape)", "model.build(input_shape)"):
        call(unbuilt)


@pytest.mark.parametrize("thing", ["model.keras", None, 3])
def test_things_that_are_no_model(thing):
    with refused(None, "works on Keras models", "Received", type(thing).__name__):
        kg.sites(thing)
    with refused(None, "works on Keras models"):
        kg.verify(dense(), thing)


def test_fit_refuses_a_subclassed_model_before_training():
    model = compiled(Subclassed())
    model(X)
    with refused(model, "is subclassed"):
        model.fit(X, Y, verbose=0, callbacks=[kg.GrowthCallback((X, Y))])


def test_an_uncompiled_model():
    model = dense()
    with refused(model, "'gradmax' needs the gradient", "'net' is not compiled", "model.compile("):
        kg.widen(model, {"a": 6}, method="gradmax", data=(X, Y))
    growth = kg.GrowthCallback((X, Y))
    growth.set_model(model)
    with refused(model, "Model 'net' must be compiled"):
        growth.on_train_begin()


def test_a_model_that_cannot_grow_at_all():
    model = compiled(keras.Sequential([keras.Input((FEATURES,)), layers.Dense(3)], name="net"))
    with refused(model, "'net' has no layer that can grow", "refused=True"):
        model.fit(X, Y, verbose=0, callbacks=[kg.GrowthCallback((X, Y))])


def test_models_that_cannot_be_compared():
    model = dense()
    inputs = keras.Input((FEATURES,))
    with refused(model, "different inputs", "(None, 5)", "(None, 3)"):
        kg.verify(model, keras.Sequential([keras.Input((3,)), layers.Dense(3)]))
    with refused(model, "different shapes", "(8, 3), (8, 2)"):
        kg.verify(model, keras.Sequential([inputs, layers.Dense(2)]))
    with refused(model, "different numbers of outputs", "1 and 2"):
        kg.verify(model, keras.Model(inputs, [layers.Dense(3)(inputs), layers.Dense(3)(inputs)]))


# --- methods ------------------------------------------------------------------------------------


def test_a_method_that_looks_at_gradients_needs_data():
    model = compiled(dense())
    parts = ["'gradmax' looks at gradients", "Pass data=(x, y)", "method='random'"]
    with refused(model, *parts):
        kg.widen(model, {"a": 6}, method="gradmax")


def test_gradmax_where_zero_fan_in_is_useless():
    model = through(layers.Activation("tanh_shrink"))
    (site,) = kg.grow_(model, {"a": 6}, "gradmax", data=(X, Y), form="outgoing").sites
    assert site.form == "inverse"
    assert any("the inverse form was taken" in note for note in site.notes), site.notes


def test_gradmax_takes_the_inverse_form_where_zero_fan_in_is_not_exact():
    model = through(layers.Activation("sigmoid"))
    wider = kg.widen(model, {"a": 6}, method="gradmax", data=(X, Y))
    assert kg.verify(model, wider)
    with refused(model, "'gradmax' knows the forms outgoing, inverse", "form='split'"):
        kg.widen(model, {"a": 6}, method="gradmax", data=(X, Y), form="split")


BAD_ARGUMENTS = {
    "method name": (
        lambda: kg.methods.get("gradmx"),
        ["'gradmx'", "Did you mean 'gradmax'", "Received"],
    ),
    "method": (lambda: kg.methods.get(5), ["method must be a name", "Received: method=5"]),
    "no method": (lambda: kg.methods.get(None), ["method must be", "Received: method=None"]),
    "scale": (lambda: kg.methods.GradMax(scale=-1), ["positive", "Received: scale=-1"]),
    "scale text": (lambda: kg.methods.GradMax(scale="1"), ["positive", "Received: scale='1'"]),
    "epsilon": (lambda: kg.methods.Random(epsilon=-1), ["0 or more", "Received: epsilon=-1"]),
    "scale_method": (
        lambda: kg.methods.Random(scale_method="mean"),
        ["'mean_norm' or 'fixed'", "Received: scale_method='mean'"],
    ),
    "distribution": (
        lambda: kg.methods.Random(distribution="normal"),
        ["'isotropic' or 'positive'", "Received: distribution='normal'"],
    ),
    "every": (lambda: kg.schedules.Every(0), ["steps", "1 or more", "Received: steps=0"]),
    "every fraction": (lambda: kg.schedules.Every(2.5), ["Received: steps=2.5"]),
    "every start": (lambda: kg.schedules.Every(2, start=0), ["Received: start=0"]),
    "every times": (lambda: kg.schedules.Every(2, times=-1), ["Received: times=-1"]),
    "names": (lambda: kg.selectors.All(2, names=5), ["names must be", "Received: names=5"]),
    "pattern": (lambda: kg.selectors.All(2, pattern=5), ["pattern", "Received: pattern=5"]),
    "schedule": (lambda: kg.GrowthCallback((X, Y), schedule=200), ["Every(200)", "schedule=200"]),
    "schedule class": (
        lambda: kg.GrowthCallback((X, Y), schedule=kg.schedules.Every),
        ["Every(200)", "Received: schedule=<class"],
    ),
    "selector": (lambda: kg.GrowthCallback((X, Y), selector=2), ["All(amount=2)", "selector=2"]),
    "callback's method": (lambda: kg.GrowthCallback((X, Y), method="rndom"), ["'random'"]),
    "log_dir": (lambda: kg.GrowthCallback((X, Y), log_dir=5), ["folder", "Received: log_dir=5"]),
    "seed": (lambda: kg.GrowthCallback((X, Y), seed=-1), ["0 or more", "Received: seed=-1"]),
    "on_failure": (
        lambda: kg.GrowthCallback((X, Y), on_failure="stop"),
        ["'continue' or 'raise'", "Received: on_failure='stop'"],
    ),
    "batch_size": (lambda: kg.GrowthCallback((X, Y), batch_size=0), ["Received: batch_size=0"]),
    "state": (lambda: kg.GrowthCallback((X, Y)).set_state({"step": 1}), ["get_state()", "count"]),
    "widen's seed": (lambda: kg.widen(dense(), {"a": 6}, seed="x"), ["Received: seed='x'"]),
    "form": (lambda: kg.widen(dense(), {"a": 6}, form="out"), ["'inverse'", "form='out'"]),
    "plan's form": (lambda: kg.plan(dense(), {"a": 6}, form="out"), ["'inverse'", "form='out'"]),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_arguments(name):
    call, parts = BAD_ARGUMENTS[name]
    with refused(None, *parts):
        call()


@pytest.mark.parametrize("amount", [0, -1, True, "2", None, float("nan"), float("inf"), [2], {}])
def test_amounts(amount):
    with refused(None, "channels (int)", "fraction", "dict", f"Received: amount={amount!r}"):
        kg.selectors.All(amount)


def test_numpy_numbers_are_numbers():
    assert kg.schedules.Every(np.int64(3)).due(kg.schedules.Moment(3))
    growth = kg.GrowthCallback((X, Y), method="random", selector=kg.selectors.All(np.int32(1)))
    assert kg.selectors.All(np.float32(0.5)).amount == 0.5
    assert growth.selector.amount == 1


SELECTORS = {
    "unknown name": ({"names": ["aa"]}, ["no layer 'aa'", "Did you mean 'a'?"]),
    "pattern": ({"pattern": "conv*"}, ["No site of model 'net'", "pattern='conv*'", "'a', 'b'"]),
    "target's name": ({"amount": {"zz": 9}}, ["no layer 'zz'"]),
    "target narrower": (
        {"amount": {"a": 2}},
        ["target width of 'a'", "present width 4", "Received: amount={'a': 2}"],
    ),
    "target fraction": ({"amount": {"a": 9.5}}, ["whole numbers", "Received: a=9.5"]),
    "target output": ({"amount": {"scores": 9}}, ["'scores'", "output of the model"]),
}


@pytest.mark.parametrize("name", SELECTORS)
def test_selectors_are_checked_before_training(name):
    arguments, parts = SELECTORS[name]
    model = compiled(dense())
    growth = kg.GrowthCallback((X, Y), selector=kg.selectors.RoundRobin(**arguments))
    with refused(model, *parts):
        model.fit(X, Y, verbose=0, callbacks=[growth])


def test_another_models_widths_as_target():
    other = keras.Sequential(
        [keras.Input((3,)), layers.Dense(3, name="q"), layers.Dense(3, name="r")]
    )
    model = compiled(dense())
    growth = kg.GrowthCallback((X, Y), selector=kg.selectors.All(other))
    with refused(model, "No site of model 'net'", "'q': 3", "Choose one of: 'a', 'b'"):
        model.fit(X, Y, verbose=0, callbacks=[growth])


# --- growth data --------------------------------------------------------------------------------

NAN = np.where(np.arange(FEATURES) == 2, np.nan, X)

DATA = {
    "nothing": (None, ["missing", "data=(x, y)"]),
    "no x": ((None, Y), ["batches (x, y)", "Received: (None"]),
    "wrong width": ((X[:, :4], Y), ["input 'features'", "'net'", "(None, 5)", "shape (16, 4)"]),
    "wrong rank": ((X[:, 0], Y), ["input 'features'", "(None, 5)", "Received: shape (16,)"]),
    "empty": ((X[:0], Y[:0]), ["empty", "Received: 0 samples"]),
    "NaN in x": ((NAN, Y), ["x holds NaN", "Clean it"]),
    "NaN in y": ((X, np.full(16, np.nan)), ["y holds NaN"]),
    "infinite weights": ((X, Y, np.full(16, np.inf)), ["sample_weight holds NaN or infinite"]),
    "different lengths": ((X, Y[:5]), ["different numbers of samples", "16", "5"]),
    "different lengths of a batch": (lambda: (X, Y[:5]), ["y has 5 samples, x has 16"]),
    "four parts": ((X, Y, Y, Y), ["(x, y, sample_weight)", "Received: 4 parts"]),
    "two inputs": (([X, X], Y), ["'net' has 1 inputs", "has 2"]),
    "wrong key": (({"pixels": X}, Y), ["['features']", "Received: a dict of ['pixels']"]),
    "a number": (3, ["tf.data.Dataset", "Received: int"]),
    "a path": ("data.npz", ["tf.data.Dataset", "Received: str"]),
    "lists": ([X.tolist(), Y.tolist()], ["np.asarray", "(float)"]),
    "a scalar": ((np.float32(3), Y), ["first axis", "(float32)"]),
    "no batches": (iter([]), ["empty", "without batches"]),
    "nothing from a function": (lambda: None, ["batches (x, y)", "Received: None"]),
    "labels of the wrong shape": (
        (X, np.zeros((16, 7, 2), "float32")),
        ["loss of model 'net' could not be computed", "x (16, 5), y (16, 7, 2)", "The loss said"],
    ),
    "no labels": ((X,), ["loss of model 'net' could not be computed", "y is missing", "y None"]),
}


@pytest.mark.parametrize("name", DATA)
def test_growth_data(name):
    data, parts = DATA[name]
    model = compiled(dense(), keras.optimizers.SGD(momentum=0.9))
    if data is None:
        with refused(model, *parts, kind=kg.DataError):
            kg.GrowthCallback(data)
        return
    with refused(model, *parts, kind=kg.DataError):
        kg.grow_(model, {"a": 6}, method="gradmax", data=data)


@pytest.mark.every_backend
def test_growth_data_is_checked_in_fit_and_ends_it_with_the_model_as_it_was():
    model = compiled(dense(), keras.optimizers.SGD(0.1))
    growth = kg.GrowthCallback((NAN, Y), schedule=kg.schedules.Every(2))
    with pytest.raises(kg.DataError, match="NaN"):
        model.fit(X, Y, batch_size=8, verbose=0, callbacks=[growth])
    assert model.get_layer("a").units == 4
    assert model.get_layer("a").activation is keras.activations.relu
    assert np.isfinite(model.fit(X, Y, verbose=0).history["loss"][0])


@pytest.mark.every_backend
def test_a_diverged_model_is_not_grown_on_its_gradients():
    model = compiled(dense())
    model.get_layer("a").bias.assign(np.full(4, np.nan))
    with pytest.raises(kg.DataError, match="loss of the growth batch is nan"):
        kg.grow_(model, {"a": 6}, method="gradmax", data=(X, Y))
    assert model.get_layer("a").units == 4
