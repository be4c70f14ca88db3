"""Read and write saved models, with every way it can go wrong told in a sentence.

A file to read comes from anywhere. What can be checked without Keras is checked before Keras gets
the file: `kinds` (is it a saved model at all), `archive` (the zip of a .keras file), `tensors` (the
HDF5 inside), `config` (what the model is made of: no code, no other files, no absurd sizes).
`reading` then builds the model once without memory for its weights, to compare what it asks for
with what the file holds, and only then loads it.
"""

from keras_grow.tools.modelfile.reading import load_model, read_config
from keras_grow.tools.modelfile.trust import Trust
from keras_grow.tools.modelfile.writing import check_output, save_model, write_file

__all__ = ["Trust", "check_output", "load_model", "read_config", "save_model", "write_file"]
