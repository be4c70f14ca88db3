"""A read-only view of a functional Keras graph, and an interpreter that runs it with a hook."""

from keras_grow.graph.run import run
from keras_grow.graph.view import Call, Container, Graph, Ref, graph_of

__all__ = ["Call", "Container", "Graph", "Ref", "graph_of", "run"]
