"""The public verbs: where a model can grow, wider layers, new layers, bridges."""

from keras_grow.surgery.bridging import bridge, bridge_
from keras_grow.surgery.inserting import insert, insert_
from keras_grow.surgery.widening import flops, grow_, plan, sites, widen

__all__ = [
    "bridge",
    "bridge_",
    "flops",
    "grow_",
    "insert",
    "insert_",
    "plan",
    "sites",
    "widen",
]
