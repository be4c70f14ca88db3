"""Measurements of keras_grow, each comparing both sides in one process."""
