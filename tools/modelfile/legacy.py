"""What Keras 2 wrote into .h5 files and Keras 3 stumbles over, put the way Keras 3 writes it.

Only what changes nothing is touched: arguments that are gone and had the value which is the rule
now. Where an argument meant something (``time_major=True``), Keras' own error stands.
"""

from __future__ import annotations

import copy
from typing import Any

_GONE: dict[str, dict[str, tuple[Any, ...]]] = {
    "time_major": {"time_major": (False,)},
    "groups": {"groups": (1,)},
    "normalization": {
        "fused": (None, True, False),  # how it was computed, not what
        "virtual_batch_size": (None,),
        "adjustment": (None,),
        "mode": (0,),  # Keras 1
    },
}
_RECURRENT = ("RNN", "SimpleRNN", "LSTM", "GRU", "CuDNNLSTM", "CuDNNGRU", "ConvLSTM1D",
              "ConvLSTM2D", "ConvLSTM3D", "Bidirectional")  # fmt: skip
_NO_GROUPS = ("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D",
              "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")  # fmt: skip
_RULES = {
    **dict.fromkeys(_RECURRENT, _GONE["time_major"]),
    **dict.fromkeys(_NO_GROUPS, _GONE["groups"]),
    "BatchNormalization": _GONE["normalization"],
}
#: Keras 2 inherited these from Conv2D and used the depthwise_ and pointwise_ ones instead.
_UNUSED = ("kernel_initializer", "kernel_regularizer", "kernel_constraint")

#: Short names of losses and metrics, which Keras 3 does not find when it reads them from a file.
_ALIASES = {
    "mse": "mean_squared_error",
    "MSE": "mean_squared_error",
    "mae": "mean_absolute_error",
    "MAE": "mean_absolute_error",
    "mape": "mean_absolute_percentage_error",
    "MAPE": "mean_absolute_percentage_error",
    "msle": "mean_squared_logarithmic_error",
    "MSLE": "mean_squared_logarithmic_error",
    "kld": "kl_divergence",
    "KLD": "kl_divergence",
    "bce": "binary_crossentropy",
    "BCE": "binary_crossentropy",
}


def upgrade_model(config: dict[str, Any]) -> dict[str, Any]:
    """``model_config`` of an .h5 file, readable by Keras 3; equal to ``config`` if it was."""
    config = copy.deepcopy(config)
    waiting: list[Any] = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            _upgrade_object(value)
            waiting.extend(value.values())
    return config


def _upgrade_object(node: dict[str, Any]) -> None:
    name = node.get("class_name")
    if not isinstance(name, str):
        return
    if name == "Sequential" and isinstance(node.get("config"), list):
        node["config"] = {"layers": node["config"]}  # Keras before 2.2
    inner = node.get("config")
    if not isinstance(inner, dict):
        return
    policy = inner.get("dtype")
    if isinstance(policy, dict) and policy.get("class_name") == "Policy":
        named = policy.get("config")
        if isinstance(named, dict) and isinstance(named.get("name"), str):
            inner["dtype"] = named["name"]
    for argument, neutral in _RULES.get(name, {}).items():
        if argument in inner and inner[argument] in neutral:
            del inner[argument]
    if name.startswith(("DepthwiseConv", "SeparableConv")):
        for argument in _UNUSED:
            inner.pop(argument, None)


def upgrade_training(config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """``training_config`` of an .h5 file, readable by Keras 3, and what is lost in words."""
    config = copy.deepcopy(config)
    lost = []
    outer = config.get("optimizer_config")
    inner = outer.get("config") if isinstance(outer, dict) else None
    if isinstance(inner, dict):
        if "lr" in inner:
            inner.setdefault("learning_rate", inner.pop("lr"))
        if inner.get("decay"):
            lost.append(
                f"the optimizer's decay={inner['decay']}, which Keras 3 has no argument for (use "
                "keras.optimizers.schedules.InverseTimeDecay)"
            )
        inner.pop("decay", None)
    config.setdefault("loss_weights", None)
    for key in ("loss", "metrics", "weighted_metrics"):
        if key in config:
            config[key] = _full_names(config[key])
    return config, lost


def _full_names(value: Any) -> Any:
    if isinstance(value, str):
        return _ALIASES.get(value, value)
    if isinstance(value, list):
        return [_full_names(one) for one in value]
    if isinstance(value, dict) and "class_name" not in value:
        return {key: _full_names(one) for key, one in value.items()}
    return value
