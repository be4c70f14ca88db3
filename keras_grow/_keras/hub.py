"""What is private to keras-hub's layers."""

from typing import Any


def transformer_hidden(layer: Any) -> Any:
    """The hidden Dense layer in the feed-forward part of a TransformerEncoder or -Decoder."""
    return layer._feedforward_intermediate_dense


def f_net_hidden(layer: Any) -> Any:
    """The hidden Dense layer in the feed-forward part of an FNetEncoder."""
    return layer._intermediate_dense
