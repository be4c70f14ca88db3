"""One self-contained page that shows how a model grew, and the same in a terminal."""
