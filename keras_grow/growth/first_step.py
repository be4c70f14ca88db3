"""How far the first training step after a growth will move new weights.

Exactness says what a growth does to the outputs at the moment it happens, not what the next steps
do. The optimizer's rule, its slots and its present rate are known, and so is the gradient on the
growth batch, by new weights and by present ones: the step can be worked out before anything grows.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from keras_grow import _backend, _keras
from keras_grow.apply.slots import optimizers_of
from keras_grow.growth.methods import Method, Problem, Solution
from keras_grow.growth.problem import cut_rows, present_rows
from keras_grow.growth.statistics import fan_out_slots
from keras_grow.planning import SitePlan
from keras_grow.planning.plan import INVERSE, OUTGOING

# The first steps, taken together (see `FirstStep.reach`), are not to move a new neuron by more
# than this many times the weights that a present neuron has on the same side.
FURTHEST = 1.0
# Of zero fan-ins behind batch or group normalisation.
LIFTED = (
    "a normalisation lifts zero fan-ins to full size after one step, which was measured to hurt: "
    "form='inverse' avoids it"
)


@dataclass(frozen=True)
class FirstStep:
    """The first step of a site's new weights on the side that is zero, as it is foreseen.

    Attributes:
        length: of a new neuron's step, a mean over them.
        present: of a present neuron's step on the same side, likewise.
        norm: of a present neuron's weights there, likewise.
        memory: how many such steps momentum makes of one, 1 / (1 - momentum).
        scales: whether a gradient half as large means a step half as long. Not so with Adam and
            its kin, whose first updates are of the size of the rate whatever the gradient.
    """

    length: float
    present: float
    norm: float
    memory: float = 1.0
    scales: bool = True

    @property
    def ratio(self) -> float | None:
        """A new neuron's step in units of a present one's; None where present ones stand still."""
        return self.length / self.present if self.present > 0 else None

    @property
    def reach(self) -> float:
        """How far the first gradient alone carries a new neuron, in lengths of a present one's
        weights on that side.
        """
        return self.length * self.memory / self.norm if self.norm > 0 else 0.0


def gradient_of(problem: Problem, solution: Solution) -> np.ndarray:
    """Gradient of the loss by the new weights that are zero, (k, entries)."""
    if problem.form == OUTGOING:
        return problem.known.by_fan_in(solution.fan_out)
    return problem.known.finite(solution.fan_in).value


def foresee(
    model: Any, site: SitePlan, problem: Problem, new: np.ndarray, weights: Mapping[int, Any]
) -> FirstStep | None:
    """The first step of the new weights of a site.

    Args:
        model: compiled, before it grows.
        site: in the outgoing or the inverse form.
        problem: of the site.
        new: gradient of the loss by the new weights that are zero, (k, entries).
        weights: gradients by the model's variables, by id.

    Returns:
        None where it is not known: the optimizer is none of SGD, Adam, AdamW, Nadam, Adamax,
        RMSprop, Adagrad, Adadelta and Lion, or the weights on that side are not trained.
    """
    outgoing = problem.form == OUTGOING
    slots: list[Any] = list(site.writes) if outgoing else fan_out_slots(site)
    parts = [part.reshape(len(part), -1) for part in cut_rows(new, slots)]
    squares: dict[str, Any] = {"new": 0.0, "present": 0.0, "norm": 0.0}
    memory, scales, known = 1.0, True, False
    for slot, gradient in zip(slots, parts, strict=True):
        variable = slot.edit.variable
        places = slot.old_columns if outgoing else slot.old_rows
        if not variable.trainable or id(variable) not in weights:
            continue
        rule = _rule_of(model, variable)
        if rule is None:
            return None
        known = True

        def rows(array: Any, slot: Any = slot, places: np.ndarray = places) -> np.ndarray:
            return present_rows(slot.edit, array, places)

        own = rows(_backend.to_numpy(weights[id(variable)]))
        clip = rule.clipping(own, gradient)
        held = {n: rows(_backend.to_numpy(v)) for n, v in rule.slots.items()}
        for name, g, slot_values in (
            ("new", gradient, rule.fresh(gradient)),
            ("present", own, held),
        ):
            squares[name] = squares[name] + (rule.step(g * clip, slot_values) ** 2).sum(axis=1)
        squares["norm"] = squares["norm"] + (rows(_backend.to_numpy(variable)) ** 2).sum(axis=1)
        memory, scales = max(memory, rule.memory), scales and rule.scales
    if not known:
        return None
    # A layer that computes zero (a bridge in the making) has no present neurons to compare with.
    if not np.any(squares["norm"]):
        return None
    length, present, norm = (float(np.sqrt(s).mean()) for s in squares.values())
    return FirstStep(length, present, norm, memory, scales)


def bounded(
    model: Any,
    site: SitePlan,
    problem: Problem,
    solution: Solution,
    method: Method,
    weights: Mapping[int, Any],
) -> tuple[Solution, FirstStep | None]:
    """A solution, weaker where the first steps would throw new neurons too far, and its first step.

    Warns where they would and weaker weights are no help.

    Args:
        model, site, problem, weights: as of `foresee`.
        method: that has made the solution.
    """
    if problem.form not in (OUTGOING, INVERSE) or method.epsilon:
        return solution, None
    if problem.form == OUTGOING and problem.normalised:
        solution = replace(solution, notes=(*solution.notes, LIFTED))
    step = foresee(model, site, problem, gradient_of(problem, solution), weights)
    shrinks = problem.form == OUTGOING or not problem.normalised
    if step is not None and step.scales and shrinks and step.reach > FURTHEST:
        part = FURTHEST / step.reach
        note = (
            f"new weights were scaled by {part:.2g}: the first steps would have carried them "
            f"{step.reach:.2g} times as far as present ones are long"
        )
        solution = replace(
            solution,
            fan_out=solution.fan_out * part,
            fan_in=solution.fan_in * part,
            notes=(*solution.notes, note),
        )
        step = foresee(model, site, problem, gradient_of(problem, solution), weights)
    if step is not None and step.reach > FURTHEST * (1 + 1e-3):
        inverse = ", form='inverse'" if problem.form == OUTGOING else ""
        warnings.warn(
            f"The first steps after growing site '{site.site.name}' will carry its new weights "
            f"{step.reach:.2g} times as far as present ones are long, which may undo what the "
            f"model has learned. Use a lower learning rate{inverse}, or warmup= of "
            f"GrowthCallback. Received: method='{method.name}', {problem.form} form, optimizer "
            f"{type(model.optimizer).__name__}.",
            stacklevel=2,
        )
    return solution, step


Slots = Mapping[str, np.ndarray]
Update = Callable[[Any, np.ndarray, Slots, float, int], np.ndarray]


@dataclass(frozen=True)
class _Rule:
    """One optimizer and one of its variables.

    Attributes:
        slots: of the variable, by attribute name.
        rate: the learning rate of the next step.
        done: steps the optimizer has done.
    """

    optimizer: Any
    update: Update
    slots: dict[str, Any]
    rate: float
    done: int

    def step(self, gradient: np.ndarray, slots: Slots) -> np.ndarray:
        """What is taken off the weights, weight decay left out: it is the same for all."""
        return self.update(self.optimizer, gradient, slots, self.rate, self.done)

    def fresh(self, like: np.ndarray) -> dict[str, np.ndarray]:
        """Slots of new weights, as `keras_grow.apply.slots` starts them."""
        start = float(getattr(self.optimizer, "initial_accumulator_value", 0.0))
        return {
            name: np.full(like.shape, start if name == "_accumulators" else 0.0)
            for name in self.slots
        }

    def clipping(self, present: np.ndarray, new: np.ndarray) -> float:
        """What clipping by norm makes of gradients.

        Of `global_clipnorm` only this variable's part is known, so steps may be shorter still.
        """
        limits = (getattr(self.optimizer, n, None) for n in ("clipnorm", "global_clipnorm"))
        norm = float(np.sqrt((present**2).sum() + (new**2).sum()))
        return min([1.0, *(limit / norm for limit in limits if limit and norm > limit)])

    @property
    def memory(self) -> float:
        momentum = getattr(self.optimizer, "momentum", 0.0)
        return 1.0 / (1.0 - momentum) if 0 < momentum < 1 else 1.0

    @property
    def scales(self) -> bool:
        return isinstance(self.optimizer, keras.optimizers.SGD)


def _rule_of(model: Any, variable: Any) -> _Rule | None:
    for optimizer in optimizers_of(model):
        places = [i for i, v in enumerate(_keras.optimizer_variables(optimizer)) if v is variable]
        update = _update_of(optimizer)
        if places and update is not None:
            slots = _keras.optimizer_slots(optimizer)
            own = {n: of_all[places[0]] for n, of_all in slots.items()}
            full = {
                n: v for n, v in own.items()
                if v is not None and tuple(v.shape) == tuple(variable.shape)
            }  # fmt: skip
            rate = _keras.rate_of(optimizer) or 0.0
            done = int(_backend.to_numpy(optimizer.iterations))
            return _Rule(optimizer, update, full, rate, done)
    return None


def _update_of(optimizer: Any) -> Update | None:
    for cls in type(optimizer).__mro__:
        if cls.__module__.startswith("keras.") and cls.__name__ in _UPDATES:
            return _UPDATES[cls.__name__]
    return None


# What every rule takes off the weights in its next step: Keras' own formulas, in NumPy, since a
# backend would have to compile them anew for every new shape.


def _sgd(o: Any, g: np.ndarray, slots: Slots, rate: float, done: int) -> np.ndarray:
    if not o.momentum:
        return rate * g
    velocity = o.momentum * slots["momentums"] - rate * g
    return rate * g - o.momentum * velocity if o.nesterov else -velocity


def _moments(o: Any, g: np.ndarray, slots: Slots) -> tuple[np.ndarray, np.ndarray]:
    first = slots["_momentums"] + (g - slots["_momentums"]) * (1 - o.beta_1)
    second = slots["_velocities"] + (g**2 - slots["_velocities"]) * (1 - o.beta_2)
    return first, second


def _adam(o: Any, g: np.ndarray, slots: Slots, rate: float, done: int) -> np.ndarray:
    first, second = _moments(o, g, slots)
    if o.amsgrad:
        second = np.maximum(second, slots["_velocity_hats"])
    alpha = rate * np.sqrt(1 - o.beta_2 ** (done + 1)) / (1 - o.beta_1 ** (done + 1))
    return alpha * first / (np.sqrt(second) + o.epsilon)


def _nadam(o: Any, g: np.ndarray, slots: Slots, rate: float, done: int) -> np.ndarray:
    first, second = _moments(o, g, slots)
    now, following = (o.beta_1 * (1 - 0.5 * 0.96 ** (done + n)) for n in (1, 2))
    product = _keras.nadam_product(o) * now
    mean = following * first / (1 - product * following) + (1 - now) * g / (1 - product)
    return rate * mean / (np.sqrt(second / (1 - o.beta_2 ** (done + 1))) + o.epsilon)


def _adamax(o: Any, g: np.ndarray, slots: Slots, rate: float, done: int) -> np.ndarray:
    first = slots["_m"] + (g - slots["_m"]) * (1 - o.beta_1)
    largest = np.maximum(o.beta_2 * slots["_u"], np.abs(g))
    return rate * first / ((1 - o.beta_1 ** (done + 1)) * (largest + o.epsilon))


def _rmsprop(o: Any, g: np.ndarray, slots: Slots, rate: float, done: int) -> np.ndarray:
    square = o.rho * slots["_velocities"] + (1 - o.rho) * g**2
    if o.centered:
        square = square - (o.rho * slots["_average_gradients"] + (1 - o.rho) * g) ** 2
    step = rate * g / np.sqrt(square + o.epsilon)
    return o.momentum * slots["_momentums"] + step if o.momentum > 0 else step


def _adagrad(o: Any, g: np.ndarray, slots: Slots, rate: float, done: int) -> np.ndarray:
    return rate * g / np.sqrt(slots["_accumulators"] + g**2 + o.epsilon)


def _adadelta(o: Any, g: np.ndarray, slots: Slots, rate: float, done: int) -> np.ndarray:
    square = o.rho * slots["_accumulated_grads"] + (1 - o.rho) * g**2
    moved = slots["_accumulated_delta_vars"]
    return rate * np.sqrt(moved + o.epsilon) * g / np.sqrt(square + o.epsilon)


def _lion(o: Any, g: np.ndarray, slots: Slots, rate: float, done: int) -> np.ndarray:
    return rate * np.sign(o.beta_1 * slots["_momentums"] + (1 - o.beta_1) * g)


# By class name; AdamW is an Adam.
_UPDATES: dict[str, Update] = {
    "SGD": _sgd,
    "Adam": _adam,
    "Nadam": _nadam,
    "Adamax": _adamax,
    "RMSprop": _rmsprop,
    "Adagrad": _adagrad,
    "Adadelta": _adadelta,
    "Lion": _lion,
}
KNOWN: Sequence[str] = tuple(_UPDATES)
