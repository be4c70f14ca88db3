"""gromo (https://pypi.org/project/gromo, BSD) doing the job of `cost` on models of its own.

A growth event there is: statistics on (forward, backward, update), optimal new neurons, applied.
Its ratio is to a training step of the same gromo model, eager as all of it is.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

# What `cost` calls these settings, and gromo's own names of what it can compute.
SETTINGS = ("mlp", "convs")
METHODS: dict[str, dict[str, Any]] = {
    # The values its documentation of `compute_optimal_updates` gives for the two papers.
    "gradmax": {
        "compute_delta": False,
        "use_covariance": False,
        "alpha_zero": True,
        "use_projection": False,
        "ignore_singular_values": True,
    },
    "tiny": {"compute_delta": False, "use_covariance": True, "use_projection": True},
}
WHAT = (
    "gromo's rows: statistics, optimal new neurons and their application, without a check of the "
    "outputs and without optimizer state; ratios are to an eager training step of its own model."
)
HOW = "gromo does the same job beside ours on the torch backend: pip install gromo"


def available() -> bool:
    """Whether it can run: it is installed, and the backend is its own, so that threads are shared
    in the same way.
    """
    return keras.config.backend() == "torch" and importlib.util.find_spec("gromo") is not None


def _model(setting: str) -> tuple[Any, Any, Callable[[Any, Any], Any]]:
    """The model of a setting, the layer before which it grows, and the loss."""
    import torch
    from gromo.modules.conv2d_growing_module import FullConv2dGrowingModule
    from gromo.modules.linear_growing_module import LinearGrowingModule

    device = torch.device("cpu")
    if setting == "mlp":
        first = LinearGrowingModule(100, 25, post_layer_function=torch.nn.ReLU(), device=device)
        second = LinearGrowingModule(25, 10, previous_module=first, device=device)
        return torch.nn.Sequential(first, second), second, torch.nn.functional.mse_loss
    common: dict[str, Any] = {
        "padding": 1,
        "post_layer_function": torch.nn.ReLU(),
        "device": device,
        "input_size": (32, 32),
    }
    first = FullConv2dGrowingModule(3, 16, 3, **common)
    second = FullConv2dGrowingModule(16, 16, 3, previous_module=first, **common)
    head = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 10))
    model = torch.nn.Sequential(first, second, *head)
    return model, second, torch.nn.functional.cross_entropy


def growth_event(
    setting: str,
    method: str,
    x: np.ndarray,
    y: np.ndarray,
    added: dict[str, int],
    steps: int,
    repeats: int,
) -> tuple[float, dict[str, float]]:
    """Median seconds of a training step, and by phase of a growth event of a fresh model.

    Args:
        setting, x, y, added: as in `cost`; images have their channels last.
        method: of `METHODS`.
    """
    import torch

    images = x.ndim == 4
    inputs = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if images else x)
    targets = torch.from_numpy(y)
    (neurons,) = added.values()
    if images:
        repeats = 1  # it takes a hundred steps and more, beside which warming up is nothing
    times, runs = [], []
    for _ in range(1 if images else repeats + 1):
        model, layer, loss = _model(setting)
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9 if images else 0.0)
        for _ in range(max(3, steps // repeats)):
            start = time.perf_counter()
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            optimizer.step()
            times.append(time.perf_counter() - start)
        runs.append(_grow(model, layer, loss, inputs, targets, neurons, METHODS[method]))
    warm = runs[1:] or runs
    phases = {name: statistics.median(r[name] for r in warm) for name in warm[0]}
    return statistics.median(times), phases


def _grow(
    model: Any,
    layer: Any,
    loss: Callable[[Any, Any], Any],
    inputs: Any,
    targets: Any,
    neurons: int,
    settings: dict[str, Any],
) -> dict[str, float]:
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    layer.init_computation()
    model.zero_grad()
    loss(model(inputs), targets).backward()
    layer.update_computation()
    seconds["statistics"] = time.perf_counter() - start
    start = time.perf_counter()
    layer.compute_optimal_updates(maximum_added_neurons=neurons, **settings)
    layer.reset_computation()
    seconds["choice"] = time.perf_counter() - start
    start = time.perf_counter()
    before = layer.weight.shape[1]
    layer.apply_change(scaling_factor=1.0, apply_delta=False)
    layer.delete_update()
    seconds["surgery"] = time.perf_counter() - start
    if layer.weight.shape[1] == before:
        raise RuntimeError("gromo added no neuron, so there is nothing to compare with.")
    return seconds
