"""What a growing run writes down, and how it is read back. Neither Keras nor a backend is needed.

`events` are what happened, `networks` what the model looked like, `records` the form in which
TensorBoard keeps both, `checking` what a record from anywhere must pass, and `runs` all that is
known of one run once it is read.
"""
