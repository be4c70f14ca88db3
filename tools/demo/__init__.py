"""A small network grows on real data, beside one that does not and one that was large at once."""
