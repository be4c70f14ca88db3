"""How new weights are chosen, and one growth step from sites to a grown model."""
