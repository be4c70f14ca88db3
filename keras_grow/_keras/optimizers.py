"""What optimizers keep for every variable, and optimizers that get new variables."""

from collections.abc import Callable
from typing import Any

import keras
from keras import tree


def optimizer_variables(optimizer: Any) -> list:
    return list(optimizer._trainable_variables)


def optimizer_slots(optimizer: Any) -> dict[str, list]:
    """Lists of per-variable slots by attribute name, each aligned with the trained variables."""
    trained = optimizer._trainable_variables
    slots = {}
    for name, value in vars(optimizer).items():
        if name in ("_trainable_variables", "_variables") or not isinstance(value, list):
            continue
        if len(value) == len(trained) and any(isinstance(v, keras.Variable) for v in value):
            slots[name] = value
    return slots


def state_besides(optimizer: Any, slots: dict[str, list]) -> list:
    """What an optimizer keeps besides per-variable slots and the state of those inside it."""
    known = {id(slot) for of_all in slots.values() for slot in of_all}
    return [v for v in optimizer._variables if id(v) not in known]


def optimizer_keys(optimizer: Any) -> list:
    return [optimizer._var_key(v) for v in optimizer._trainable_variables]


def set_optimizer_keys(optimizer: Any, keys: list, present: list | None = None) -> None:
    """Makes the optimizer find its variables under `keys`.

    On TensorFlow the key of a variable is the inner variable's id, which changes when it is
    re-initialised.

    Args:
        keys: the new keys, in the order of the trained variables.
        present: the keys it uses now; read from its index if left out.
    """
    if present is None:
        index = optimizer._trainable_variables_indices
        present = sorted(index, key=index.__getitem__)
    if keys == present:
        return
    optimizer._trainable_variables_indices = {key: i for i, key in enumerate(keys)}
    renamed = dict(zip(present, keys, strict=True))
    handed = getattr(optimizer, "_var_to_optimizer_idx", None)  # MultiOptimizer's
    if handed is not None:
        optimizer._var_to_optimizer_idx = {renamed[key]: i for key, i in handed.items()}
    excluded = getattr(optimizer, "_exclude_from_weight_decay", None)
    if excluded is not None:
        optimizer._exclude_from_weight_decay = {renamed.get(key, key) for key in excluded}
    if hasattr(optimizer, "_exclude_from_weight_decay_cache"):
        optimizer._exclude_from_weight_decay_cache = {}


def rate_of(optimizer: Any, value: Callable[[Any], Any] = lambda v: v.value) -> float | None:
    """The learning rate of one optimizer's next step; None where it has none of its own.

    Args:
        value: reads one of its variables.
    """
    rate = getattr(optimizer, "_learning_rate", None)
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(value(optimizer.iterations))
    elif isinstance(rate, keras.Variable):
        rate = value(rate)
    return None if rate is None else float(keras.ops.convert_to_numpy(rate))


def nadam_product(optimizer: Any) -> float:
    """The product of momenta that Nadam corrects its means with."""
    return float(keras.ops.convert_to_numpy(optimizer._u_product))


def inner_optimizers(optimizer: Any) -> list:
    """The optimizers an optimizer keeps besides `inner_optimizer`."""
    inner = getattr(optimizer, "inner_optimizer", None)
    # TensorFlow's tracking keeps everything once more, in structures of its own.
    kept = [v for v in tree.flatten(list(vars(optimizer).values())) if v is not inner]
    maps = [vars(v) for v in kept if hasattr(v, "_optimizer_map")]
    found = [v for v in tree.flatten([kept, maps]) if isinstance(v, keras.optimizers.Optimizer)]
    return list({id(one): one for one in found}.values())


def hands_out(optimizer: Any) -> bool:
    """Whether it is a `MultiOptimizer`, which Keras has from 3.15 on."""
    cls = getattr(keras.optimizers, "MultiOptimizer", None)
    return cls is not None and isinstance(optimizer, cls)


def handed_to(optimizer: Any, variable: Any) -> Any:
    """The optimizer that a `MultiOptimizer` has for a variable, or wants for a new one."""
    place = optimizer._var_to_optimizer_idx.get(optimizer._var_key(variable))
    if place is not None:
        return optimizer._inner_optimizers[place]
    return optimizer._optimizer_map(variable)


def list_handed_out(optimizer: Any, trained: list, chosen: list) -> Callable[[], None]:
    """Tells a `MultiOptimizer` which optimizer trains what; gives what undoes it.

    Its optimizers stand in the order in which a fresh one would have them.
    """
    undo_list = list_trained(optimizer, trained)
    before = {n: vars(optimizer)[n] for n in ("_inner_optimizers", "_var_to_optimizer_idx")}
    named = optimizer._optimizer_map
    first = []
    if hasattr(named, "values"):
        first = [*named.values(), getattr(named, "default_optimizer", None)]
    order = list({id(one): one for one in [*first, *chosen] if one is not None}.values())
    factors = [(one, one.loss_scale_factor) for one in order]
    for one in order:
        one.loss_scale_factor = optimizer.loss_scale_factor
    place = {id(one): i for i, one in enumerate(order)}
    vars(optimizer)["_inner_optimizers"] = order
    vars(optimizer)["_var_to_optimizer_idx"] = {
        optimizer._var_key(v): place[id(one)] for v, one in zip(trained, chosen, strict=True)
    }

    def undo() -> None:
        vars(optimizer).update(before)
        for one, factor in factors:
            one.loss_scale_factor = factor
        undo_list()

    return undo


def list_trained(optimizer: Any, trained: list) -> Callable[[], None]:
    """Tells an optimizer without slots what it trains; gives what undoes it."""
    names = ("_trainable_variables", "_trainable_variables_indices")
    before = {name: vars(optimizer)[name] for name in names}
    vars(optimizer)["_trainable_variables"] = list(trained)
    vars(optimizer)["_trainable_variables_indices"] = {
        optimizer._var_key(v): i for i, v in enumerate(trained)
    }
    return lambda: vars(optimizer).update(before)


def optimizer_restorer(optimizer: Any) -> Callable[[], None]:
    """What makes an optimizer that is built from now on unbuilt again."""
    own = vars(optimizer)
    before = dict(own)
    variables = list(optimizer._variables)
    tracker = optimizer._tracker
    is_variable, _ = tracker.config["variables"]
    ids = set(tracker.stored_ids["variables"])

    def undo() -> None:
        for name in [n for n in own if n not in before]:
            del own[name]
        own.update(before, _variables=variables, _trainable_variables_indices={})
        tracker.config["variables"] = (is_variable, variables)
        tracker.stored_ids["variables"] = ids

    return undo


def _holds_slots(value: list) -> bool:
    """Whether a list holds slots; Muon's is all None where it hands AdamW nothing."""
    return bool(value) and all(v is None or isinstance(v, keras.Variable) for v in value)


def transplant(optimizer: Any, fresh: Any) -> tuple[list[tuple[int, Any]], Callable[[], None]]:
    """Gives an optimizer the slots of `fresh`, a new one of its kind built on more variables.

    Slots it has already stay the objects they are.

    Returns:
        The new copies of weights for the moving average, as pairs of a variable's position and
        the copy; and what undoes it all.
    """
    place = {id(v): i for i, v in enumerate(optimizer._trainable_variables)}
    places = [place.get(id(v)) for v in fresh._trainable_variables]
    own = vars(optimizer)
    before = {
        name: own[name]
        for name in vars(fresh)
        if name in own and name not in ("_variables", "_tracker")
    }
    kept: dict[int, Any] = {}

    def carry(old: Any, new: Any) -> Any:
        if isinstance(new, keras.Variable) and isinstance(old, keras.Variable):
            kept[id(new)] = old
            return old
        return new

    averages: list[tuple[int, Any]] = []
    changed: dict[str, Any] = {}
    for name, new in vars(fresh).items():
        old = own.get(name)
        if name in ("_variables", "_tracker", "_trainable_variables"):
            continue
        if isinstance(new, keras.Variable):
            carry(old, new)
        elif isinstance(new, list) and _holds_slots(new):
            if len(new) != len(places) or not isinstance(old, list):
                raise TypeError(f"the optimizer's slots '{name}' do not follow its variables")
            changed[name] = [
                slot if i is None else carry(old[i], slot)
                for slot, i in zip(new, places, strict=True)
            ]
            if name == "_model_variables_moving_average":
                averages = [(k, new[k]) for k, i in enumerate(places) if i is None]
        elif isinstance(new, dict) and any(isinstance(v, keras.Variable) for v in new.values()):
            changed[name] = {k: carry((old or {}).get(k), v) for k, v in new.items()}
    changed["_trainable_variables"] = list(fresh._trainable_variables)
    changed["_trainable_variables_indices"] = dict(fresh._trainable_variables_indices)
    tracker = optimizer._tracker
    is_variable, store = tracker.config["variables"]
    ids_before = tracker.stored_ids["variables"]

    def put(attributes: dict, variables: list, ids: set) -> None:
        # New lists instead of changed ones: TensorFlow's wrappers of lists resent changes.
        own.update(attributes, _variables=variables)
        tracker.config["variables"] = (is_variable, variables)
        tracker.stored_ids["variables"] = ids

    variables = [kept.get(id(v), v) for v in fresh._variables]
    put(changed, variables, {id(v) for v in variables})
    restored = {name: before[name] for name in changed}
    return averages, lambda: put(restored, store, ids_before)
