"""How new weights are chosen, when and where to grow, and the callback that does it in `fit`."""
