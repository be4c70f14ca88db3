"""The change that builds a bridge: its layers, computing zero, and then their weights."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_grow import _backend, _keras
from keras_grow.apply.copying import copy_layer
from keras_grow.apply.rewiring import Rewiring
from keras_grow.errors import GrowthError
from keras_grow.graph import graph_of
from keras_grow.growth.choice import Pose
from keras_grow.growth.guarded import Change, Clock
from keras_grow.growth.methods import Problem
from keras_grow.growth.problem import problem_of
from keras_grow.growth.statistics import SiteGradients
from keras_grow.growth.step import Initialization, Prepared, Request, prepared
from keras_grow.growth.wider import loss_of
from keras_grow.logs.events import SiteGrowth
from keras_grow.planning import SitePlan, survey
from keras_grow.rules import activations
from keras_grow.surgery.ends import check_owner, ends
from keras_grow.surgery.paths import connect

layers = keras.layers


@dataclass(frozen=True)
class NewBridge:
    """A bridge to be built or widened.

    Attributes:
        after, before: the layers it connects.
        width: of its hidden layer, or of what is added to it.
        activation: of the hidden layer.
        method: how its weights are chosen; None where that is settled elsewhere.
    """

    after: str
    before: str
    width: int
    activation: Any
    method: Any = None


class Bridging(Change):
    """A new hidden layer from one layer's output into another's pre-activation.

    Args:
        model: in which there is no such layer yet.
        new: what is to be built.
        init: how its weights are chosen.

    Raises:
        GrowthError: no bridge is possible there.
    """

    def __init__(self, model: Any, new: NewBridge, init: Initialization) -> None:
        self.graph = graph_of(model)
        self.new, self.init = new, init
        self.start, self.end = ends(model, new.after, new.before)
        check_owner(self.end)
        self.doing = f"A bridge from '{new.after}' to '{new.before}'"
        self.may_differ = bool(init.method.epsilon)
        self._rewiring: Rewiring | None = None
        self._sloped = False
        self._ready: Prepared | None = None
        self._name, self._form = "", ""

    def apply(self, living: _keras.Living, clock: Clock) -> None:
        model = self.graph.model
        self._rewiring = rewiring = Rewiring(model, living)
        with clock("surgery"):
            self._plain_activation(rewiring)
            hidden, initial = self._build(rewiring)
            rewiring.map()
        self._name = self.end.path[: len(self.end.path) - len(self.end.op.name)] + hidden.name
        atlas = survey(model)
        site = atlas.find(next(p for p, op in atlas.graph.paths.items() if op is hidden))
        request = Request(atlas, {site: site.width}, self.init)
        self._ready = prepared(request, clock, _for_present(initial))
        self.loss = loss_of(self.init.method, self._ready.data)
        with clock("surgery"):
            self._fill(rewiring, self._ready)
            rewiring.finish()

    def undo(self) -> None:
        if self._rewiring is not None:
            self._rewiring.undo()

    def settle(self) -> None:
        """Activations that are new get an explicit slope where those of the model have one."""
        slopes = self.init.slopes
        if slopes is None or self._ready is None:
            return
        for call in self._ready.draft.plan.activations.values():
            slopes.install(call)
        if self._sloped:
            old = {id(call.op) for call in self.graph.calls}
            for call in graph_of(self.graph.model).calls:
                if id(call.op) not in old:
                    slopes.install(call)

    def records(self) -> list[SiteGrowth]:
        new, method = self.new, self.init.method.name
        ends = [new.after], [new.before]
        return [SiteGrowth(self._name, *ends, 0, new.width, method, self._form, kind="bridge")]

    # --- the layers ----------------------------------------------------------------------------

    def _plain_activation(self, rewiring: Rewiring) -> None:
        """The activation of `before` moves behind the sum, and its explicit slope with it."""
        slopes, before = self.init.slopes, self.end.op
        if slopes is None or id(before) not in slopes.ops:
            return
        call = next(c for c in self.graph.calls if c.op is before)
        slopes.remove(keep=slopes.ops - {id(before)})
        rewiring.note(partial(slopes.install, call))
        self._sloped = True

    def _build(self, rewiring: Rewiring) -> tuple[Any, dict[int, np.ndarray]]:
        """Puts the layers into the graph, computing zero.

        Returns:
            The hidden layer, and the initial kernels of it and its reader by id of the variable.
        """
        consumer, living = self.end.op, rewiring.living
        (source,), (target,) = self.start.outputs, self.end.outputs
        self._check_not_shared(target, living)
        name = rewiring.name(f"{self.start.op.name}_{consumer.name}_bridge")
        found = connect(
            tuple(source.shape), tuple(target.shape), consumer, self.start.op,
            self.new.width, self.new.activation,
            name,
        )  # fmt: skip
        tensor = source
        for layer in (found.hidden, *found.between, found.out):
            tensor = rewiring.call(layer, tensor)
        readers = living.readers_of(target)
        total = rewiring.call(
            layers.Add(name=rewiring.name(f"{name}_add"), dtype=consumer.dtype_policy),
            [target, tensor],
        )
        result = self._behind(rewiring, total)
        rewiring.swap(readers, target, result)
        for functional in living.graphs:
            if any(target is t for t in _keras.flat_outputs(functional)):
                rewiring.swap_output(functional, target, result)
        kernels = [_keras.kernel_of(layer) for layer in (found.hidden, found.out)]
        initial = {id(v): _backend.to_numpy(v).copy() for v in kernels}
        for kernel in kernels:
            rewiring.assign(kernel, np.zeros(tuple(kernel.shape)))
        return found.hidden, initial

    def _behind(self, rewiring: Rewiring, total: Any) -> Any:
        """The consumer's activation, taken off it and applied to the sum."""
        consumer = self.end.op
        function = getattr(consumer, "activation", None)
        if function is None or function is keras.activations.linear:
            return total
        if activations.plain(function) is not function:
            raise GrowthError(
                f"'{consumer.name}' is being grown by a GrowthCallback at present, which puts its "
                "activation back at the end of fit. Build the bridge before or after that fit."
            )
        if isinstance(function, keras.layers.Layer):
            if function.weights:
                raise GrowthError(
                    f"The activation of '{consumer.name}' is a layer with weights, which cannot be "
                    "moved behind a sum. Use it as a layer of its own behind a linear "
                    f"'{consumer.name}'. Received: {type(function).__name__}."
                )
            layer = copy_layer(function)
            rewiring.attribute(layer, "name", rewiring.name(layer.name))
        else:
            name = rewiring.name(f"{consumer.name}_activation")
            layer = layers.Activation(function, name=name, dtype=consumer.dtype_policy)
        linear = keras.activations.linear
        rewiring.note(_keras.replace_activation(consumer, linear))
        return rewiring.call(layer, total)

    def _check_not_shared(self, target: Any, living: _keras.Living) -> None:
        """Taking its activation off a layer changes every call of it that is in use."""
        consumer = self.end.op
        own = _keras.maker_node(target)
        for functional in living.graphs:
            for node in _keras.all_nodes(functional):
                if node.operation is consumer and node is not own:
                    raise GrowthError(
                        f"Layer '{self.end.path}' is also called in model '{functional.name}', "
                        "which the bridge would change. Use kg.bridge, which works on a copy, or "
                        "delete that model."
                    )

    # --- their weights -------------------------------------------------------------------------

    def _fill(self, rewiring: Rewiring, ready: Prepared) -> None:
        """Gives what was chosen for new neurons to the neurons that are there."""
        (site,) = ready.draft.plan.sites
        (read,), (write,) = site.reads, site.writes
        surgery, solution = ready.choice.surgery, ready.choice.solutions[site]
        for edit, positions, chosen in (
            (read.edit, read.old_rows, surgery.fan_out),
            (write.edit, write.old_columns, surgery.fan_in),
        ):
            value = _backend.to_numpy(edit.variable).copy()
            moved = np.moveaxis(value, edit.axis, 0)  # a view: writing to it writes to value
            for _, part in chosen.get(edit, []):
                moved[positions] = part.reshape(*positions.shape, *moved.shape[1:])
            rewiring.assign(edit.variable, value)
        if solution.bias is not None:
            rewiring.assign(write.producer.call.op.bias, solution.bias)
        self._form = ready.draft.form_of(site)


def _for_present(initial: dict[int, np.ndarray]) -> Pose:
    """Poses the problem of a layer that computes zero as if its neurons were new.

    The site's M is the same for both. Norms are those of the layers' own initial kernels.
    """

    def pose(site: SitePlan, form: str, gradients: SiteGradients | None) -> Problem:
        def rows(edit: Any, positions: np.ndarray) -> np.ndarray:
            kernel = np.moveaxis(initial[id(edit.variable)], edit.axis, 0)
            return kernel[positions].reshape(site.site.width, -1)

        (read,), (write,) = site.reads, site.writes
        return replace(
            problem_of(site, form, gradients),
            fan_out=rows(read.edit, read.old_rows),
            fan_in=rows(write.edit, write.old_columns),
        )

    return pose
