"""One growth: from sites and a method to a wider model, as values handed on.

The whole way of a growth in `fit`:

1. `GrowthCallback.on_train_batch_end` asks the schedule, and the selector which sites
   (training/callback.py, training/operations.py);
2. `drafted`: the plan, every axis of every variable, in the form that helps (draft.py);
3. `measured`: one forward and backward pass on growth data (choice.py, statistics/);
4. `chosen`: the method solves every site (choice.py, methods/), and its weights are cut up kernel
   by kernel (problem.py);
5. `guarded`: outputs before, the change, outputs after, or all of it undone (guarded.py);
6. `Wider.apply` (wider.py) -> `Surgery.apply` -> `_keras.reinitialize`: the same `keras.Variable`
   gets its new value (apply/widening.py).

A bridge enters the same way with a problem of its own (surgery/building.py).
"""

from dataclasses import dataclass, replace

from keras_grow import _backend
from keras_grow.growth.choice import Choice, Pose, chosen, measured, recording_of
from keras_grow.growth.draft import Draft, Initialization, Request, check_slopes, drafted
from keras_grow.growth.guarded import Clock, Growth, Guard, guarded
from keras_grow.growth.problem import problem_of
from keras_grow.growth.statistics import Measured
from keras_grow.growth.wider import Wider, loss_of, records_of
from keras_grow.planning.cost import Size

__all__ = ["Initialization", "Prepared", "Request", "check", "decide", "grow", "prepared"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """All that is known before anything has changed."""

    request: Request
    draft: Draft
    data: Measured | None
    choice: Choice

    def wider(self) -> Wider:
        """The change that carries it out."""
        return Wider(self.request, self.draft, self.data, self.choice)


def prepared(request: Request, clock: Clock, pose: Pose = problem_of) -> Prepared:
    """Plans, measures and chooses; nothing is changed.

    Raises:
        GrowthError: it cannot be done.
    """
    _backend.attach_state(request.atlas.graph.model)
    with clock("plan"):
        draft = drafted(request)
        recording = recording_of(request, draft)
    data = None
    if recording is not None:
        with clock("statistics"):
            data = measured(request, draft, recording)
    with clock("choice"):
        choice = chosen(request, draft, data, pose)
    return Prepared(request, draft, data, choice)


def grow(request: Request, guard: Guard) -> Growth:
    """Grows the model in place.

    Raises:
        GrowthError: it cannot be done; the model is as it was.
    """
    clock = Clock()
    ready = prepared(request, clock)
    batches = request.init.batches
    first = None if batches is None else batches.first
    return guarded(ready.wider(), replace(guard, batch=first), clock)


def decide(request: Request) -> Growth:
    """What `grow` would do, new weights chosen; nothing is changed.

    Raises:
        GrowthError: it cannot be done.
    """
    clock = Clock()
    ready = prepared(request, clock)
    plan, size = ready.draft.plan, Size.of(request.atlas.graph)
    after = Size(size.parameters + plan.added_parameters, size.flops + plan.added_flops)
    sites = records_of(request, ready.draft, ready.data, ready.choice)
    loss = loss_of(request.init.method, ready.data)
    return Growth(sites, size, after, plan, loss, None, clock.seconds)


def check(request: Request) -> None:
    """Whether the method can grow these sites, as far as can be told without growth data.

    Raises:
        GrowthError: it cannot, at some of them.
    """
    check_slopes(drafted(request), request.init.method)
