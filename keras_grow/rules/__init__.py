"""How channels pass every layer and op. One rule a class; what has none is refused by name."""

from keras_grow.rules import (  # noqa: F401  (importing them registers their rules)
    activations,
    applications,
    attention,
    contracting,
    einops,
    einsum,
    embedding,
    hub,
    merging,
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
from keras_grow.rules.base import (
    LIKE_OLD,
    Channels,
    NoSlope,
    Rule,
    Shadow,
    ShadowContext,
    Space,
    Weight,
)
from keras_grow.rules.custom import PerChannel, Projection, is_custom, register_rule
from keras_grow.rules.lookup import has_rule, rule_for
from keras_grow.rules.opened import flow

__all__ = [
    "LIKE_OLD",
    "Channels",
    "NoSlope",
    "PerChannel",
    "Projection",
    "Rule",
    "Shadow",
    "ShadowContext",
    "Space",
    "Weight",
    "flow",
    "has_rule",
    "is_custom",
    "register_rule",
    "rule_for",
]
