"""Plotly figures of runs: for the TensorBoard plugin, the report and notebooks alike."""
