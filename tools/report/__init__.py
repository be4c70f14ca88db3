"""One self-contained page that shows how a model grew."""
