"""Insertion in graphs of every kind: nested, shared, Sequential, with sub-models and failures."""

import keras
import numpy as np
import pytest
from helpers.growing import describe, inputs_of, predict, randomize
from keras import layers

import keras_grow as kg
from keras_grow import _keras


def mlp():
    inputs = keras.Input((5,), name="in")
    a = layers.Dense(6, activation="relu", name="a")(inputs)
    b = layers.Dense(6, activation="relu", name="b")(a)
    c = layers.Add(name="c")([a, b])
    return keras.Model(inputs, layers.Dense(2, name="out")(c))


def same(model, x, before, tolerance=1e-6):
    for found, wanted in zip(predict(model, x), before, strict=True):
        np.testing.assert_allclose(found, wanted, atol=tolerance * np.abs(wanted).max())


def names(model):
    """Layer and name of every weight, in order."""
    return [v.path.split("/")[-2:] for v in model.weights]


def saves(model, tmp_path, x):
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    same(loaded, x, predict(model, x))
    assert names(loaded) == names(model)
    assert describe(loaded) == describe(model)
    return loaded


def in_place(model, *where, tmp_path, layer=None, **options):
    """Inserts random-looking scales which are then moved, so that a wrong edge is seen."""
    randomize(model)
    x = inputs_of(model)
    before = predict(model, x)
    held = [id(v) for v in model.variables]
    layer = layer or layers.Dense(6, activation="relu", name="new")
    kg.insert_(model, layer, after=where[0], before=where[1] if len(where) > 1 else None, **options)
    same(model, x, before)
    assert set(held) < {id(v) for v in model.variables}
    saves(model, tmp_path, x)
    return layer, x, before


def readers(functional, name):
    """Names of the layers that read what layer `name` makes."""
    return sorted(
        node.operation.name
        for node in _keras.all_nodes(functional)
        if any(_keras.maker(t).name == name for t in _keras.input_tensors(node))
    )


def test_all_readers_or_one(tmp_path):
    model = mlp()
    in_place(model, "a", tmp_path=tmp_path)
    assert readers(model, "a") == ["new"]
    assert readers(model, "new") == ["b", "c"]
    model = mlp()
    in_place(model, "a", "c", tmp_path=tmp_path)
    assert readers(model, "a") == ["b", "new"]
    assert readers(model, "new") == ["c"]


def test_behind_the_input_and_at_the_output(tmp_path):
    in_place(mlp(), "in", tmp_path=tmp_path, layer=layers.Dense(5, name="new"))
    model = mlp()
    in_place(model, "out", tmp_path=tmp_path, layer=layers.Dense(2, name="new"))
    assert model.output_names == ["new"]
    model = mlp()
    model.compile("sgd", {"out": "mse"})
    with pytest.raises(kg.GrowthError, match="loss was given to compile"):
        kg.insert_(model, layers.Dense(2), after="out")
    kg.insert_(model, layers.Dense(6), after="c", before="out")


def test_an_output_inside_the_graph(tmp_path):
    inputs = keras.Input((5,))
    a = layers.Dense(6, activation="relu", name="a")(inputs)
    model = keras.Model(inputs, [a, layers.Dense(2, name="out")(a)])
    in_place(model, "a", "out", tmp_path=tmp_path)
    assert model.output_names == ["a", "out"]
    in_place(model, "a", tmp_path=tmp_path, layer=layers.Dense(6, name="second"))
    assert model.output_names == ["second", "out"]


def test_sub_models_stay_right(tmp_path):
    model = mlp()
    shallow = keras.Model(model.input, model.get_layer("a").output)
    deep = keras.Model(model.input, model.get_layer("b").output)
    head = keras.Model(model.input, layers.Dense(3)(model.get_layer("c").output))
    from_inside = keras.Model(model.get_layer("b").output, layers.Dense(3)(deep.output))
    for each in (head, from_inside):
        randomize(each)
    randomize(model)
    x = inputs_of(model)
    before = [predict(m, x) for m in (shallow, deep, head)]
    layer, *_ = in_place(model, "a", "b", tmp_path=tmp_path)
    for each, wanted in zip((shallow, deep, head), before, strict=True):
        same(each, x, wanted)
    # The inserted layer is in those that go through the edge, and its training reaches them.
    assert [any(la is layer for la in m.layers) for m in (shallow, deep, head)] == [0, 1, 1]
    layer.kernel.assign(2 * np.eye(6))
    assert np.abs(predict(deep, x)[0] - before[1][0]).max() > 0.1
    same(shallow, x, before[0])
    assert len(deep.trainable_variables) == 6


def nested(calls=1):
    inner_in = keras.Input((6,), name="inner_in")
    y = layers.Dense(6, activation="relu", name="d1")(inner_in)
    y = layers.Dense(6, activation="relu", name="d2")(y)
    inner = keras.Model(inner_in, y, name="inner")
    inputs = keras.Input((6,), name="in")
    x = layers.Dense(6, activation="relu", name="stem")(inputs)
    for _ in range(calls):
        x = inner(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


@pytest.mark.parametrize("calls", [1, 2])
def test_inside_a_nested_model(calls, tmp_path):
    model = nested(calls)
    in_place(model, "inner/d1", tmp_path=tmp_path)
    assert readers(model.get_layer("inner"), "new") == ["d2"]
    in_place(model, "inner/d2", tmp_path=tmp_path, layer=layers.Dense(6, name="end"))
    assert model.get_layer("inner").output_names == ["end"]


def test_edges_that_enter_and_leave_a_nested_model(tmp_path):
    model = nested()
    in_place(model, "stem", "inner/d1", tmp_path=tmp_path)
    assert readers(model, "new") == ["inner"]
    in_place(model, "inner/d2", "head", tmp_path=tmp_path, layer=layers.Dense(6, name="end"))
    assert readers(model, "inner") == ["end"]
    in_place(model, "inner", tmp_path=tmp_path, layer=layers.Dense(6, name="third"))
    model = nested(calls=2)
    in_place(model, "inner/d2", "inner/d1", tmp_path=tmp_path)
    assert readers(model, "inner") == ["head", "new"]
    with pytest.raises(kg.GrowthError, match="is called 2 times"):
        kg.insert_(model, layers.Dense(6), after="inner")


def test_an_input_that_two_layers_of_a_nested_model_read():
    entry = keras.Input((6,))
    inner = keras.Model(
        entry, layers.Dense(6, name="p")(entry) + layers.Dense(6, name="q")(entry), name="inner"
    )
    inputs = keras.Input((6,))
    x = layers.Dense(6, name="stem")(inputs)
    model = keras.Model(inputs, inner(x))
    with pytest.raises(kg.GrowthError, match=r"read by 'q' besides 'inner/p'.*before='inner'"):
        kg.insert_(model, layers.Dense(6), after="stem", before="inner/p")


def test_a_nested_model_that_shares_its_input_tensor(tmp_path):
    """As the tasks of keras-cv and keras-hub do: outer and inner input are one object."""
    backbone = nested()
    backbone.name = "backbone"
    model = keras.Model(backbone.input, layers.Dense(2, name="top")(backbone(backbone.input)))
    in_place(model, "in", tmp_path=tmp_path, layer=layers.Dense(6, name="outside"))
    assert readers(model, "outside") == ["backbone"]
    assert readers(backbone, "in") == ["stem"]
    in_place(model, "backbone/stem", tmp_path=tmp_path, layer=layers.Dense(6, name="inside"))
    in_place(model, "backbone/in", tmp_path=tmp_path, layer=layers.Dense(6, name="first"))
    assert readers(model, "in") == ["outside"]
    assert readers(backbone, "in") == ["first"]


def sequential():
    return keras.Sequential(
        [keras.Input((5,)), layers.Dense(6, activation="relu", name="a"),
         layers.Dropout(0.2, seed=1, name="d"), layers.Dense(2, name="out")]
    )  # fmt: skip


def test_sequential(tmp_path):
    for after, units in (("a", 6), ("d", 6), ("out", 2)):
        model = sequential()
        in_place(model, after, tmp_path=tmp_path, layer=layers.Dense(units, name="new"))
        names = [la.name for la in model.layers]
        assert names[names.index(after) + 1] == "new"
        model.add(layers.Dense(3, name="more"))  # Keras builds it anew from its list of layers
        assert predict(model, inputs_of(model))[0].shape == (4, 3)
        model.pop()
        saves(model, tmp_path, inputs_of(model))
    model = sequential()
    in_place(model, "a", tmp_path=tmp_path, layer=layers.Dense(6, name="new"), branch=True)
    assert [type(la).__name__ for la in model.layers] == ["Dense", "Functional", "Dropout", "Dense"]
    deeper = kg.insert(model, layers.Dense(6), after="d")
    assert type(deeper) is keras.Sequential
    assert len(deeper.layers) == 5
    same(deeper, inputs_of(model), predict(model, inputs_of(model)))


def test_sequential_inside_a_functional(tmp_path):
    inputs = keras.Input((5,))
    inner = sequential()
    inner.name = "inner"
    model = keras.Model(inputs, layers.Dense(2, name="top")(inner(inputs)))
    in_place(model, "inner/a", tmp_path=tmp_path)
    in_place(model, "inner/out", "top", tmp_path=tmp_path, layer=layers.Dense(2, name="between"))
    assert [la.name for la in inner.layers] == ["a", "new", "d", "out"]


def test_shared_layers(tmp_path):
    shared = layers.Dense(6, activation="relu", name="shared")
    inputs = keras.Input((6,), name="in")
    first = shared(inputs)
    second = shared(layers.Dense(6, name="mid")(first))
    model = keras.Model(inputs, layers.Dense(2, name="out")(second))
    in_place(model, "shared", "mid", tmp_path=tmp_path)
    in_place(model, "mid", tmp_path=tmp_path, layer=layers.Dense(6, name="other"))
    with pytest.raises(kg.GrowthError, match="is called 2 times"):
        kg.insert_(model, layers.Dense(6), after="shared")


def test_order_of_weights_is_that_of_a_loaded_model(tmp_path):
    """An insertion into one of two branches changes depths, and so the order of layers."""
    inputs = keras.Input((6,))
    one = layers.Dense(6, name="one")(inputs)
    two = layers.Dense(6, name="two")(layers.Dense(6, name="zero")(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="out")(layers.Add()([one, two])))
    model.compile("adam", "mse")
    x = inputs_of(model)
    model.train_on_batch(x, np.ones((4, 2)))
    for name in ("one", "new", "extra"):
        layer = layers.Dense(6, name={"one": "new", "new": "extra", "extra": "last"}[name])
        kg.insert_(model, layer, after=name)
        model.train_on_batch(x, np.ones((4, 2)))
        loaded = saves(model, tmp_path, x)
        slots = [np.asarray(keras.ops.convert_to_numpy(v)) for v in model.optimizer.variables]
        for value, variable in zip(slots, loaded.optimizer.variables, strict=True):
            np.testing.assert_array_equal(value, keras.ops.convert_to_numpy(variable))


def test_a_subclass_of_functional_keeps_what_it_tracks(tmp_path):
    class Task(keras.Model):
        """Built as keras-hub's tasks are: attributes first, then the graph."""

        def __init__(self, backbone):
            inputs = backbone.input
            head = layers.Dense(2, name="head")
            super().__init__(inputs=inputs, outputs=head(backbone(inputs)))
            self.backbone = backbone
            self.head = head
            self.aside = layers.Dense(2, name="aside")
            self.aside.build((None, 2))

    backbone = nested()
    backbone.name = "backbone"
    model = Task(backbone)
    assert type(model) is Task
    randomize(model)
    x = inputs_of(model)
    before, paths = predict(model, x), [v.path for v in model.weights]
    with pytest.warns(UserWarning, match=r"saved by the arguments of its constructor \(Task\)"):
        kg.insert_(model, layers.Dense(6, activation="relu", name="new"), after="backbone/stem")
    with pytest.warns(UserWarning, match="a saved file will not hold the new layers"):
        kg.insert_(model, layers.Dense(2, name="last"), after="head")
    same(model, x, before)
    copy = kg.insert(model, layers.Dense(2, name="another"), after="head")
    same(saves(copy, tmp_path, x), x, before)
    now = [v.path for v in model.weights]
    assert [p for p in now if not p.startswith(("new", "last"))] == paths
    assert len(now) == len(paths) + 4


def test_names_are_made_unique(tmp_path):
    model = nested()
    deeper = kg.insert(model, layers.Dense(6, name="d1"), after="stem")
    assert [la.name for la in deeper.layers] == ["in", "stem", "d1_1", "inner", "head"]
    assert deeper.get_layer("d1_1").kernel.path == "d1_1/kernel"
    saves(deeper, tmp_path, inputs_of(deeper))


def test_several_inputs_and_dicts(tmp_path):
    inputs = {"p": keras.Input((6,), name="p"), "q": keras.Input((6,), name="q")}
    x = layers.Concatenate()([inputs["p"], layers.Dense(6, name="a")(inputs["q"])])
    model = keras.Model(inputs, {"one": layers.Dense(2, name="one")(x)})
    deeper = kg.insert(model, layers.Dense(6, name="new"), after="q")
    assert kg.verify(model, deeper)
    assert readers(deeper, "new") == ["a"]


def test_errors_name_what_is_wrong():
    model = mlp()
    with pytest.raises(kg.GrowthError, match="no layer 'z'"):
        kg.insert(model, layers.Dense(6), after="z")
    with pytest.raises(kg.GrowthError, match=r"no edge from layer 'a' to layer 'out'.*'b', 'c'"):
        kg.insert(model, layers.Dense(6), after="a", before="out")
    with pytest.raises(kg.GrowthError, match="no edge from layer 'b' to layer 'a'"):
        kg.insert(model, layers.Dense(6), after="b", before="a")
    with pytest.raises(kg.GrowthError, match="must be a Keras layer"):
        kg.insert(model, keras.ops.relu, after="a")
    with pytest.raises(kg.GrowthError, match="addressed by their name"):
        kg.insert(model, layers.Dense(6), after=3)
    built = layers.Dense(6, name="built")
    built.build((None, 6))
    with pytest.raises(kg.GrowthError, match="is built already"):
        kg.insert_(model, built, after="a")
    with pytest.raises(kg.GrowthError, match="is part of a model already"):
        kg.insert_(model, model.get_layer("b"), after="a")
    copy = kg.insert(model, model.get_layer("b"), after="a")  # a copy of it
    assert kg.verify(model, copy)
    inner = nested()
    with pytest.raises(kg.GrowthError, match="does not leave the nested model 'inner'"):
        kg.insert_(inner, layers.Dense(6), after="inner/d1", before="head")
    words = keras.Sequential(
        [keras.Input((4,), dtype="int32"), layers.Embedding(9, 6), layers.Flatten()]
    )
    with pytest.raises(kg.GrowthError, match="holds int32 values"):
        kg.insert(words, layers.Dense(4), after=words._layers[0].name)


def state(model):
    weights = [(id(v), np.array(keras.ops.convert_to_numpy(v))) for v in model.variables]
    slots = [(id(v), np.array(keras.ops.convert_to_numpy(v))) for v in model.optimizer.variables]
    return weights, slots, model.get_config(), [id(la) for la in model._layers]


FAILURES = [
    ("keras_grow.apply.rewiring.extend_optimizer", RuntimeError),
    ("keras_grow.apply.rewiring.Rewiring._refresh", None),
    ("keras_grow._keras.remap", KeyboardInterrupt),
    ("keras_grow.growth.guarded.compare", MemoryError),
]


@pytest.mark.parametrize("build", [mlp, sequential])
@pytest.mark.parametrize(("where", "error"), FAILURES)
def test_a_failure_leaves_everything_as_it_was(where, error, build, monkeypatch, tmp_path):
    model = build()
    extractor = keras.Model(model.inputs, model.get_layer("out").output)
    randomize(model)
    model.compile("adam", "mse")
    x = inputs_of(model)
    model.train_on_batch(x, np.ones((4, 2)))
    before, outputs = state(model), predict(extractor, x)
    calls = []

    def fail(*args, **kwargs):
        calls.append(args)
        if error is None and len(calls) > 1:
            return None
        raise (error or RuntimeError)("on purpose")

    layer = layers.Dense(6, name="new")
    with monkeypatch.context() as patch:
        patch.setattr(where, fail)
        with pytest.raises(error if error is KeyboardInterrupt else kg.GrowthError):
            kg.insert_(model, layer, after="a")
    after = state(model)
    for old, new in zip(before[:2], after[:2], strict=True):
        assert [i for i, _ in old] == [i for i, _ in new]
        for (_, p), (_, q) in zip(old, new, strict=True):
            np.testing.assert_array_equal(p, q)
    assert before[2:] == after[2:]
    same(extractor, x, outputs)
    model.train_on_batch(x, np.ones((4, 2)))
    saves(model, tmp_path, x)
    kg.insert_(model, layers.Dense(6, name="again"), after="a")  # and it works the next time
    model.train_on_batch(x, np.ones((4, 2)))
    saves(model, tmp_path, x)


def test_a_changed_function_is_noticed_and_undone(monkeypatch):
    """The weights proposed are checked on the layer, and the whole model on its outputs."""
    model = mlp()
    randomize(model)
    from keras_grow.surgery.identity import Block

    wrong = [None]

    def weights(self):
        (call,) = self.graph.calls
        wrong[0] = call.op
        return [(call.op.kernel, 2 * np.eye(6))]

    monkeypatch.setattr(Block, "identity", weights)
    x = inputs_of(model)
    before = predict(model, x)
    with pytest.raises(kg.GrowthError, match="would have changed what the model computes"):
        kg.insert_(model, layers.Dense(6), after="a")
    same(model, x, before, tolerance=0)
