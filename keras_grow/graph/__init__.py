"""A read-only view of a functional Keras graph, and an interpreter that runs it with a hook."""

from keras_grow.graph.run import arguments, run
from keras_grow.graph.view import Call, Container, Graph, Ref, class_name, graph_of, open_layers

__all__ = [
    "Call",
    "Container",
    "Graph",
    "Ref",
    "arguments",
    "class_name",
    "graph_of",
    "open_layers",
    "run",
]
