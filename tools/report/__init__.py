"""How a model grew, for people: one self-contained page (`page`), and a view in the terminal that
follows runs (`watch`).
"""
