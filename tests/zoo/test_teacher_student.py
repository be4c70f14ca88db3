import dataclasses

import keras
import numpy as np
import pytest

from keras_grow import zoo
from keras_grow.zoo import teacher_student as ts

TASKS = [ts.SMALL, ts.LARGE, ts.CONV]
by_name = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def mean_squared_error(model, data):
    x, y = data
    return float(np.mean((model.predict(x, verbose=0) - y) ** 2))


def test_the_papers_numbers():
    """Section 4.1."""
    assert (ts.SMALL.steps, ts.LARGE.steps) == (1500, 3500)
    for task in TASKS:
        assert task.student_width + task.growths * task.amount == task.teacher_width
    assert ts.student(ts.SMALL).count_params() == 20 * 5 + 5 * 10
    assert ts.student(ts.SMALL, width=10).count_params() == 20 * 10 + 10 * 10
    assert ts.student(ts.LARGE).count_params() == 100 * 25 + 25 * 10
    assert ts.student(ts.LARGE, width=50).count_params() == 100 * 50 + 50 * 10
    assert ts.student(ts.CONV).count_params() == 9 * (4 * 5 + 5 * 4)
    assert ts.student(ts.SMALL, use_bias=True).count_params() == 150 + 5 + 10
    # gamma, beta, moving mean and moving variance
    assert ts.student(ts.SMALL, normalization="batch").count_params() == 150 + 4 * 5


@by_name
def test_the_data_is_what_the_paper_says(task):
    (x, y), (x_test, y_test) = ts.load_data(task, seed=1)
    assert x.dtype == y.dtype == "float32"
    assert len(x) == len(y) == task.samples
    assert len(x_test) == len(y_test) == 1000
    assert abs(x.mean()) < 0.02
    assert abs(x.std() - 1) < 0.02
    for kernel in ts.teacher_kernels(task, seed=1):
        assert np.abs(kernel).max() < 1
        # The variance of the uniform distribution on [-1, 1] is 1/3.
        assert abs(kernel.var() - 1 / 3) < 0.1
    assert (x_test[0] != x[0]).all()


@by_name
def test_the_seed_decides_the_data_and_the_number_of_samples_only_its_length(task):
    first, again, other = (ts.load_data(task, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_equal(first, again)
    assert (first[0][0] != other[0][0]).all()
    assert (first[0][1] != other[0][1]).any()
    (x, y), test = ts.load_data(task, seed=1, samples=10)
    np.testing.assert_array_equal(x, first[0][0][:10])
    np.testing.assert_allclose(y, first[0][1][:10], rtol=1e-5, atol=1e-5)
    np.testing.assert_equal(test, first[1])


def test_the_data_does_not_depend_on_backend_or_version():
    (x, y), _ = ts.load_data(ts.SMALL, seed=0)
    np.testing.assert_allclose(x[0, :3], [0.8050895, -1.9120592, -3.4966493], rtol=1e-6)
    np.testing.assert_allclose(y[0, :3], [2.62031, 0.25886843, 0.57562226], rtol=1e-5)


@by_name
@pytest.mark.parametrize("seed", [0, 5])
def test_the_teachers_weights_give_a_student_zero_loss(task, seed):
    """Section 4.1: global minima with 0 training loss exist at the teacher's width."""
    train, test = ts.load_data(task, seed=seed, samples=50, test_samples=50)
    student = ts.student(task, width=task.teacher_width, seed=0)
    assert mean_squared_error(student, train) > 0.1 * train[1].var()
    student.set_weights(ts.teacher(task, seed).get_weights())
    for data in (train, test):
        assert mean_squared_error(student, data) < 1e-10 * data[1].var()


def test_a_batch_normalized_student_reaches_zero_loss_too():
    """With moving statistics, gamma and beta which undo each other."""
    train, _ = ts.load_data(ts.SMALL, seed=0, samples=50)
    student = ts.student(ts.SMALL, width=10, normalization="batch")
    first, second = ts.teacher_kernels(ts.SMALL, seed=0)
    norm = student.get_layer("hidden_norm")
    student.get_layer("hidden").set_weights([first])
    student.get_layer("output").set_weights([second])
    mean, variance = np.arange(10.0), np.arange(1.0, 11.0)
    norm.set_weights([np.sqrt(variance + norm.epsilon), mean, mean, variance])
    assert mean_squared_error(student, train) < 1e-9 * train[1].var()


def test_a_wider_student_learns_the_task_better():
    """A few steps of the paper's training, plain gradient descent on the whole data."""
    (x, y), _ = ts.load_data(ts.SMALL, seed=0)
    losses = {}
    for width in (5, 10):
        model = zoo.build("teacher_student_small", width=width, seed=0)
        model.compile(keras.optimizers.SGD(ts.SMALL.learning_rate), "mse")
        losses[width] = [float(model.train_on_batch(x, y)) for _ in range(300)]
    assert losses[5][-1] < 0.5 * losses[5][0]
    assert losses[10][-1] < 0.5 * losses[5][-1]


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_images_follow_the_data_format(data_format):
    usual = keras.config.image_data_format()
    try:
        keras.config.set_image_data_format(data_format)
        (x, y), _ = ts.load_data(ts.CONV, seed=0, samples=8)
        model = ts.student(ts.CONV, normalization="batch")
        assert model.input_shape[1:] == x.shape[1:]
        assert model.output_shape[1:] == y.shape[1:]
        axis = 1 if data_format == "channels_first" else 3
        assert x.shape[axis] == 4
        assert model.get_layer("hidden_norm").gamma.shape == (5,)
        keras.config.set_image_data_format("channels_last")
        (x_last, y_last), _ = ts.load_data(ts.CONV, seed=0, samples=8)
        np.testing.assert_array_equal(np.moveaxis(x, axis, -1), x_last)
        np.testing.assert_array_equal(np.moveaxis(y, axis, -1), y_last)
    finally:
        keras.config.set_image_data_format(usual)


def test_a_task_of_ones_own():
    task = dataclasses.replace(ts.SMALL, name="mine", inputs=3, outputs=2)
    (x, y), _ = ts.load_data(task, samples=4)
    assert (x.shape, y.shape) == ((4, 3), (4, 2))
    assert ts.student(task).count_params() == 3 * 5 + 5 * 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ts.student(ts.SMALL, width=0), "`width` must be .* at least 1.*width=0"),
        (lambda: ts.student(ts.SMALL, width=2.5), "Received: width=2.5"),
        (lambda: ts.student(ts.SMALL, normalization="layer"), "one of 'none', 'batch'"),
        (lambda: ts.student(ts.SMALL, seed=-1), "`seed` must be .* at least 0"),
        (lambda: ts.load_data(ts.SMALL, seed="a"), "Received: seed='a'"),
        (lambda: ts.load_data(ts.SMALL, samples=0), "Received: samples=0"),
        (lambda: ts.load_data(ts.SMALL, test_samples=True), "Received: test_samples=True"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(zoo.ZooError, match=message):
        call()


def test_a_student_of_the_teachers_seed_and_width_does_not_start_as_its_teacher():
    task = ts.SMALL
    student = ts.student(task, task.teacher_width, seed=3)
    pairs = zip(student.get_weights(), ts.teacher_kernels(task, 3), strict=True)
    for own, taught in pairs:
        assert abs(np.corrcoef(own.ravel(), taught.ravel())[0, 1]) < 0.3
