"""When and where a model grows while it trains, and the callback that does it in `fit`."""
