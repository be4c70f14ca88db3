"""Where to grow, and by how much: widths, and new layers and bridges in turn with them."""

from keras_grow.training.budgets import Budget
from keras_grow.training.selectors.base import Occasion, Selector
from keras_grow.training.selectors.in_turn import InTurn
from keras_grow.training.selectors.new_layers import Bridge, Insert
from keras_grow.training.selectors.widening import All, LargestGain, RoundRobin, Widening

__all__ = [
    "All",
    "Bridge",
    "Budget",
    "InTurn",
    "Insert",
    "LargestGain",
    "Occasion",
    "RoundRobin",
    "Selector",
    "Widening",
]
