"""A model in words and as a picture."""
