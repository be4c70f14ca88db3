"""What every command shares: the group they hang in, options, exit codes, backend and console.

`main` is the entry point. Nothing here imports Keras when it is imported: the backend is chosen
first, and `--help` must not wait.
"""
