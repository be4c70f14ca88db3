"""What a rule is: how the channels of a tensor pass one layer or op.

A rule must answer one question about a call, and may answer ten more. Each is one method.

* `Rule.flow`, the one it must: where do the channels go, and which weights have an axis that
  follows them? Asked with the identities of all channels (to find the sites) and again with the
  grown channels (to make a plan); the rule does not know which. What it may say is in `space`.
* `Traits`, four facts: `mode`, `adds`, `writes`, `lifts`. Without an answer the call is taken for
  one that does not have the trait.
* `Gradients`, four questions, with which weights are scored before anything has grown. `shadow`,
  of a call that channels pass: what does it do to the *new* ones alone? `patches` and `respond`,
  of a producer: what would a new channel's fan-in multiply, and what comes of it? `correlate`, of
  a consumer: the gradient by the weights that would read the new channels. Without an answer
  methods that need the gradient say so there; those that draw at random work.
* `Costs`, two ways to say the same: `flops`, or `cost` where weights have to be looked at. Without
  an answer the call is free.

`docs/rules.md` teaches all of this by examples.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_grow.graph import Call
from keras_grow.rules.shadows import NoSlope, Shadow, ShadowContext
from keras_grow.rules.space import Channels, Space


class Traits:
    """Facts about a call besides where its channels go."""

    def mode(self, call: Call) -> str:
        """Which of several things the layer does in this call, each with weights of its own.

        Where a layer is shared, what is read in one call must be read in all of the same mode.
        """
        return ""

    def adds(self, call: Call) -> bool:
        """Whether the output is a plain sum of the inputs, in training too."""
        return False

    def writes(self, call: Call) -> list[tuple[Any, int]] | None:
        """Weights in which the output is linear, each with its output axis; None if not so.

        Taking the mean over the output axis off all of them takes it off the output.
        """
        return None

    def lifts(self, call: Call) -> bool:
        """Whether each channel is divided by its own size in training.

        A channel that is constantly zero then has a gradient 1 / sqrt(epsilon) times too large and
        is at full size after one step.
        """
        return False


class Gradients:
    """What new channels and their weights would do, to first order or at any value."""

    def shadow(self, call: Call, inputs: list[Shadow | None], context: ShadowContext) -> list:
        """What the call does to the new channels alone; one `Shadow` or None for each output.

        To first order around the value that they have at growth, or at any value: `context` says
        which, and lets the real tensors be looked at.

        Raises:
            NoSlope: not known for this layer.
        """
        raise NoSlope(f"{call!r} has no rule for gradients of new channels")

    def patches(self, call: Call, x: Any) -> Shadow:
        """For a producer: what one new channel's fan-in multiplies.

        Args:
            x: the call's input.

        Returns:
            A tensor with the spatial sizes of the output and the fan-in along its channel axis,
            in the order of the kernel with its output axis dropped; `ids` count the fan-in.

        Raises:
            NoSlope: not known for this layer.
        """
        raise NoSlope(f"{call!r} has no rule for the gradient of its new channels' fan-in")

    def respond(self, call: Call, x: Any, fan_in: Any) -> tuple[Any, int]:
        """For a producer: the pre-activations of new channels; and their channel axis.

        Args:
            fan_in: (fan-in entries, new channels), entries in the order of `patches`.
        """
        columns = self.patches(call, x)
        moved = ops.moveaxis(columns.tensor, columns.axis, -1)
        return ops.moveaxis(ops.matmul(moved, fan_in), -1, columns.axis), columns.axis

    def correlate(self, call: Call, shadow: Shadow, gradient: Any) -> tuple[Any, np.ndarray]:
        """For a consumer: the gradient by the kernel rows that would read the shadow.

        Args:
            gradient: gradient of the loss by the call's pre-activation.

        Returns:
            (rows, *the kernel's other axes), and the new channel each row belongs to.

        Raises:
            NoSlope: not known for this layer.
        """
        raise NoSlope(f"{call!r} has no rule for the gradient of kernels that read new channels")

    def knows_gradient(self, method: str) -> bool:
        """Whether `method`, one of "patches" and "correlate", is there. No rule answers this."""
        return getattr(type(self), method) is not getattr(Gradients, method)


class Costs:
    """Multiply-adds times two for one sample."""

    def flops(self, call: Call, inputs: list[tuple], outputs: list[tuple]) -> float:
        """From the shapes of the call's inputs and outputs."""
        return 0.0

    def cost(
        self,
        call: Call,
        inputs: list[tuple],
        outputs: list[tuple],
        weights: Callable[[Any], tuple],
    ) -> float:
        """`flops` of a call whose weights tell more than its inputs and outputs do.

        Args:
            weights: the shape of a variable, now or after a plan.
        """
        return self.flops(call, inputs, outputs)


class Rule(Traits, Gradients, Costs):
    """Base of all rules. A subclass says only what its layer does differently."""

    def flow(self, call: Call, inputs: list[Channels | None], space: Space) -> list:
        """Where the channels of the inputs go.

        Args:
            call: the call, with its layer or op as `call.op`.
            inputs: the channels of every input tensor, None where it has none that could grow.
            space: takes what there is to say about them.

        Returns:
            The channels of every output tensor, likewise.
        """
        raise NotImplementedError
