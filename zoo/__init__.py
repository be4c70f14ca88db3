"""Models and data of the growing-networks literature, by name.

>>> from keras_grow import zoo
>>> zoo.models()
['convnet', 'teacher_student_conv', 'teacher_student_large', 'teacher_student_small', 'wide_resnet']
>>> model = zoo.build("wide_resnet", depth=28, k=1, block_width=0.25)
>>> (x_train, y_train), (x_test, y_test) = zoo.load_data("teacher_student_small", seed=0)

The models are plain functional Keras models made of stock Keras layers: nothing in them knows
about growing. Convolutional models and image data follow `keras.config.image_data_format()`.
"""

# Importing a module registers what it offers.
from keras_grow.zoo import convnet, digits, teacher_student, wide_resnet
from keras_grow.zoo.registry import (
    ZooError,
    build,
    datasets,
    load_data,
    models,
    register_data,
    register_model,
)

__all__ = [
    "ZooError",
    "build",
    "convnet",
    "datasets",
    "digits",
    "load_data",
    "models",
    "register_data",
    "register_model",
    "teacher_student",
    "wide_resnet",
]
