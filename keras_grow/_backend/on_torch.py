"""What is particular to PyTorch."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from keras_grow import _keras

ATTENTION_NEEDS_ONE_SIZE = False


def lend(target: Any, source: Any) -> Any | None:
    value = source.value.detach()
    needs = target.trainable and torch.is_floating_point(value)
    lent = torch.nn.Parameter(value, requires_grad=needs)
    _keras.set_value(target, lent)
    return lent


def attach_state(model: Any) -> None:
    """Variables hold the state at any time."""


def after_variables_changed(layers: Iterable[Any]) -> None:
    """Parameters are kept a second time, in each module's ParameterDict.

    `zero_grad` reads them there, and gradients would accumulate on stale ones.
    """
    for layer in layers:
        _keras.track_variables(layer)


def traces_of(functions: Iterable[Any], variables: Iterable[Any]) -> list[Any]:
    """Nothing that is traced holds variables."""
    return []


def forget_traces(functions: Iterable[Any]) -> None:
    """There are none."""


def gradients(forward: Callable) -> tuple[Any, list, Any]:
    probed: dict[int, Any] = {}

    def probe(i: int, tensor: Any) -> Any:
        if not tensor.requires_grad:
            tensor = tensor.detach().requires_grad_()
        probed[i] = tensor
        return tensor

    with torch.enable_grad():
        loss, aux = forward(probe)
        sources = [probed[i] for i in range(len(probed))]
        found = torch.autograd.grad(loss, sources, allow_unused=True) if sources else ()
    zeros = [torch.zeros_like(s) if g is None else g for g, s in zip(found, sources, strict=True)]
    return loss.detach(), zeros, aux


def compiled(function: Callable, variables: Sequence[Any]) -> Callable:
    """Runs eagerly, without a record for gradients."""

    def quiet(*arrays: Any) -> Any:
        with torch.no_grad():
            return function([], *arrays)

    return quiet


def fused(function: Callable) -> Callable:
    return function


def pullback(function: Callable[[Any], Any], x: Any) -> tuple[Any, Callable[[Any], Any]]:
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        out = function(at)

    def back(weights: Any) -> Any:
        if not out.requires_grad:
            return torch.zeros_like(at)
        found = torch.autograd.grad(
            out, at, weights.to(out.dtype), retain_graph=True, allow_unused=True
        )[0]
        return torch.zeros_like(at) if found is None else found

    return out.detach(), back
