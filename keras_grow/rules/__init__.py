"""How channels pass every layer and op. One rule a class; what has none is refused by name."""

from keras_grow.rules import (  # noqa: F401  (importing them registers their rules)
    activations,
    applications,
    attention,
    concatenating,
    contracting,
    einops,
    einsum_dense,
    elementwise,
    embedding,
    hub,
    logic,
    normalization,
    passing,
    recurrent,
    reductions,
    refused,
    reshaping,
    slicing,
    transposed,
    weighted,
    wrappers,
)
from keras_grow.rules.base import Rule
from keras_grow.rules.opened import flow
from keras_grow.rules.registry import has_rule, is_custom, register_rule, rule_for
from keras_grow.rules.shadows import NoSlope, Shadow, ShadowContext
from keras_grow.rules.space import LIKE_OLD, UNKNOWN, Channels, Production, Space, Weight, along
from keras_grow.rules.templates import PerChannel, Projection

__all__ = [
    "LIKE_OLD",
    "UNKNOWN",
    "Channels",
    "NoSlope",
    "PerChannel",
    "Production",
    "Projection",
    "Rule",
    "Shadow",
    "ShadowContext",
    "Space",
    "Weight",
    "along",
    "flow",
    "has_rule",
    "is_custom",
    "register_rule",
    "rule_for",
]
