"""New layers in a trained model: on an edge as the identity, or as a bridge between two layers."""

from keras_grow.insertion.inserting import insert, insert_

__all__ = ["insert", "insert_"]
