"""The student-teacher tasks of GradMax (Evci et al. 2022, section 4.1 and appendix D).

A teacher network with one hidden ReLU layer and weights drawn uniformly from [-1, 1] labels
standard normal inputs. A student with the same architecture but a narrower hidden layer learns
these labels under the mean squared error. As soon as the student is as wide as the teacher,
training losses of 0 exist.

Neither network has biases. The paper does not say so, but its published code builds both without,
and without them training from scratch reaches the paper's losses.

The data is drawn with NumPy, so the same seed gives the same task on every backend.
"""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_grow.zoo._common import (
    NORMALIZATIONS,
    Kernels,
    channel_axis,
    channels_first,
    image_shape,
    one_of,
    whole,
)
from keras_grow.zoo.registry import Data, register_data, register_model

# Streams of random numbers within one seed, so that changing the number of samples changes
# neither the teacher nor the test set.
_TEACHER, _TRAIN, _TEST = range(3)


@dataclasses.dataclass(frozen=True)
class Task:
    """One student-teacher task, with the growth and training that the paper gives for it.

    Attributes:
        name: the name of its students and its data in the registry.
        inputs: input features, or input channels of an image.
        teacher_width: hidden units (or channels) of the teacher, and of the grown student.
        student_width: hidden units (or channels) of the student before it grows.
        outputs: output features, or output channels.
        growths: how many times the student grows.
        every: training steps from one growth to the next, and before the first.
        amount: hidden units (or channels) added by one growth.
        final_steps: training steps after the last growth.
        learning_rate: of plain gradient descent on the whole training set.
        samples: training samples.
        image_size: height and width of the inputs; `None` for dense networks.
        kernel_size: height and width of both convolutions; `None` for dense networks.
    """

    name: str
    inputs: int
    teacher_width: int
    student_width: int
    outputs: int
    growths: int
    every: int
    amount: int
    final_steps: int
    learning_rate: float = 0.1
    samples: int = 1000
    image_size: int | None = None
    kernel_size: int | None = None

    @property
    def steps(self) -> int:
        """Training steps in all."""
        return self.growths * self.every + self.final_steps


SMALL = Task(
    name="teacher_student_small",
    inputs=20,
    teacher_width=10,
    student_width=5,
    outputs=10,
    growths=5,
    every=200,
    amount=1,
    final_steps=500,
)
"""Figures 2 and 3a: teacher 20:10:10, student 20:5:10, 1,500 steps."""

LARGE = Task(
    name="teacher_student_large",
    inputs=100,
    teacher_width=50,
    student_width=25,
    outputs=10,
    growths=5,
    every=500,
    amount=5,
    final_steps=1000,
)
"""Figure 3b: teacher 100:50:10, student 100:25:10, 3,500 steps."""

CONV = Task(
    name="teacher_student_conv",
    inputs=4,
    teacher_width=10,
    student_width=5,
    outputs=4,
    growths=5,
    every=200,
    amount=1,
    final_steps=500,
    learning_rate=0.03,
    samples=256,
    image_size=8,
    kernel_size=3,
)
"""The convolutional task of appendix D: two 3x3 convolutions, 4:10:4 channels, 8 x 8 images.

The paper gives neither sizes nor learning rate for it. These are ours: of 0.003, 0.01, 0.03 and
0.1 the learning rate 0.03 trains a student of the teacher's width best.
"""


def student(
    task: Task,
    width: int | None = None,
    normalization: str = "none",
    use_bias: bool = False,
    seed: int | None = None,
) -> keras.Model:
    """Build a student for `task`: layers `hidden` and `output`.

    Args:
        task: `SMALL`, `LARGE`, `CONV` or another `Task`.
        width: hidden units or channels; by default `task.student_width`.
        normalization: "none", or "batch" for a BatchNormalization (layer `hidden_norm`) between
            the hidden layer and its ReLU (layer `hidden_relu`).
        use_bias: whether `hidden` and `output` have biases. The paper's have none.
        seed: of the initial weights: Glorot uniform, Keras' default; the same on every backend.

    Returns:
        A functional model from (batch, inputs) to (batch, outputs); for a convolutional task from
        and to images with `inputs` and `outputs` channels and the same height and width.

    Raises:
        ZooError: if an argument is out of range.
    """
    width = task.student_width if width is None else whole("width", width, minimum=1)
    one_of("normalization", normalization, NORMALIZATIONS)
    kernels = Kernels(seed)
    batch_norm = normalization == "batch"

    inputs = keras.Input(_sample_shape(task), name="inputs")
    activation = None if batch_norm else "relu"
    hidden = _layer(task, width, activation=activation, use_bias=use_bias, name="hidden")
    x = kernels.of(hidden, keras.initializers.GlorotUniform())(inputs)
    if batch_norm:
        axis = -1 if task.image_size is None else channel_axis()
        x = keras.layers.BatchNormalization(axis=axis, name="hidden_norm")(x)
        x = keras.layers.Activation("relu", name="hidden_relu")(x)
    output = _layer(task, task.outputs, use_bias=use_bias, name="output")
    x = kernels.of(output, keras.initializers.GlorotUniform())(x)
    kernels.draw()
    return keras.Model(inputs, x, name=task.name)


def teacher(task: Task, seed: int = 0) -> keras.Model:
    """Build the teacher that labels `load_data(task, seed)`.

    Args:
        task: `SMALL`, `LARGE`, `CONV` or another `Task`.
        seed: of the task.

    Returns:
        A functional model like `student(task, width=task.teacher_width)`.

    Raises:
        ZooError: if the seed is no whole number of at least 0.
    """
    model = student(task, width=task.teacher_width)
    model.set_weights(teacher_kernels(task, seed))
    return model


def teacher_kernels(task: Task, seed: int = 0) -> list[np.ndarray]:
    """Draw the teacher's two kernels, uniform on [-1, 1], float32, as its layers hold them.

    Args:
        task: `SMALL`, `LARGE`, `CONV` or another `Task`.
        seed: of the task.

    Returns:
        Kernels of shapes (inputs, teacher_width) and (teacher_width, outputs), with
        (kernel_size, kernel_size) in front for a convolutional task.

    Raises:
        ZooError: if the seed is no whole number of at least 0.
    """
    rng = _rng(seed, _TEACHER)
    window = () if task.kernel_size is None else (task.kernel_size, task.kernel_size)
    shapes = [
        (*window, task.inputs, task.teacher_width),
        (*window, task.teacher_width, task.outputs),
    ]
    return [rng.uniform(-1.0, 1.0, shape).astype("float32") for shape in shapes]


def load_data(
    task: Task, seed: int = 0, samples: int | None = None, test_samples: int = 1000
) -> Data:
    """Draw the inputs of a task and label them with its teacher.

    Args:
        task: `SMALL`, `LARGE`, `CONV` or another `Task`.
        seed: of teacher and inputs.
        samples: training samples; by default `task.samples`.
        test_samples: test samples, drawn from the same distribution. The paper uses none.

    Returns:
        `(x_train, y_train), (x_test, y_test)`, float32, of shapes (samples, inputs) and
        (samples, outputs); for a convolutional task images of `image_size` squared with `inputs`
        and `outputs` channels, in the order of `keras.config.image_data_format()`.

    Raises:
        ZooError: if an argument is out of range.
    """
    samples = task.samples if samples is None else whole("samples", samples, minimum=1)
    test_samples = whole("test_samples", test_samples, minimum=1)
    kernels = teacher_kernels(task, seed)
    train = _labelled(task, kernels, _rng(seed, _TRAIN), samples)
    test = _labelled(task, kernels, _rng(seed, _TEST), test_samples)
    return train, test


def _rng(seed: int, stream: int) -> np.random.Generator:
    # Spawned, since default_rng([seed, 0]) is default_rng(seed): a student of the same seed and
    # width would start as its teacher, scaled.
    sequence = np.random.SeedSequence(whole("seed", seed, minimum=0), spawn_key=(stream,))
    return np.random.default_rng(sequence)


def _sample_shape(task: Task) -> tuple[int, ...]:
    if task.image_size is None:
        return (task.inputs,)
    return image_shape(task.image_size, task.image_size, task.inputs)


def _layer(task: Task, width: int, **options: Any) -> keras.layers.Layer:
    if task.kernel_size is None:
        return keras.layers.Dense(width, **options)
    return keras.layers.Conv2D(width, task.kernel_size, padding="same", **options)


def _labelled(
    task: Task, kernels: list[np.ndarray], rng: np.random.Generator, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    window = () if task.image_size is None else (task.image_size, task.image_size)
    x = rng.standard_normal((samples, *window, task.inputs))
    first, second = (kernel.astype("float64") for kernel in kernels)
    y = _apply(np.maximum(_apply(x, first), 0.0), second)
    if task.image_size is not None and channels_first():
        x, y = (np.ascontiguousarray(np.moveaxis(a, -1, 1)) for a in (x, y))
    return x.astype("float32"), y.astype("float32")


def _apply(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Apply a dense kernel, or a convolution ("same", channels last, odd kernel), in NumPy."""
    if kernel.ndim == 2:
        return x @ kernel
    size = kernel.shape[:2]
    margins = [(0, 0), *((n // 2, n // 2) for n in size), (0, 0)]
    # (batch, height, width, channels, kernel height, kernel width)
    patches = np.lib.stride_tricks.sliding_window_view(np.pad(x, margins), size, axis=(1, 2))
    return np.tensordot(patches, kernel, axes=([4, 5, 3], [0, 1, 2]))


def _register(task: Task) -> None:
    def build(
        width: int | None = None,
        normalization: str = "none",
        use_bias: bool = False,
        seed: int | None = None,
    ) -> keras.Model:
        return student(task, width, normalization, use_bias, seed)

    def load(seed: int = 0, samples: int | None = None, test_samples: int = 1000) -> Data:
        return load_data(task, seed, samples, test_samples)

    build.__doc__, load.__doc__ = student.__doc__, load_data.__doc__
    register_model(task.name)(build)
    register_data(task.name)(load)


for _task in (SMALL, LARGE, CONV):
    _register(_task)
