"""Every model of the libraries Keras users start from, widened wherever it can grow: a report."""
