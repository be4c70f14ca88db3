"""How channels pass every layer and op. One rule a class; what has none is refused by name."""

from keras_grow.rules import (  # noqa: F401  (importing them registers their rules)
    activations,
    applications,
    einsum,
    embedding,
    merging,
    normalization,
    passing,
    reshaping,
    transposed,
    weighted,
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
from keras_grow.rules.lookup import has_rule, rule_for

__all__ = [
    "LIKE_OLD",
    "Channels",
    "NoSlope",
    "Rule",
    "Shadow",
    "ShadowContext",
    "Space",
    "Weight",
    "has_rule",
    "rule_for",
]
