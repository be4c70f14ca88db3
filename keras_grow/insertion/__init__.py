"""New layers in a trained model: on an edge as the identity, or as a bridge between two layers."""

from keras_grow.insertion.bridging import bridge, bridge_
from keras_grow.insertion.inserting import insert, insert_

__all__ = ["bridge", "bridge_", "insert", "insert_"]
