"""The compiled sweep computes what Keras computes, whatever the number of sequences and threads, and mixes no memory up."""

import numpy as np
import pytest

from lstm_ae_lib import layers
from lstm_ae_lib._backend import keras
from lstm_ae_lib.fast import lstm, scan, threads

only_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the gradient tape is TensorFlow's")


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def sweep_and_gradient(inputs, axis, weights, backwards=(False, True)):
    outputs, saved = scan.sweep(inputs, axis, weights, backwards)
    to_inputs, to_weights = scan.sweep_gradient(inputs, axis, weights, backwards, outputs, saved, np.cos(outputs))
    return [outputs, to_inputs, *to_weights]


@only_tensorflow
@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize(
    ("batch", "features", "units"),
    [(1, 1, 1), (3, 5, 6), (5, 16, 16), (2, 40, 32)],
    ids=["one", "odd", "two-chunks-and-a-bit", "small-chunks"],
)
def test_values_and_gradients_are_those_of_keras(axis, batch, features, units):
    import tensorflow as tf

    size = {1: 7, 2: 29}
    inputs = numbers(batch, size[1], size[2], features)
    forward, backward = (keras.layers.LSTM(units, return_sequences=True) for _ in range(2))
    stock = keras.layers.Bidirectional(forward, backward_layer=keras.layers.LSTM(units, return_sequences=True, go_backwards=True))
    stock.build((None, None, features))
    stock.set_weights([0.5 * numbers(*weight.shape, seed=place) for place, weight in enumerate(stock.get_weights())])
    with tf.GradientTape() as tape:
        images = tf.constant(inputs)
        tape.watch(images)
        lines = images if axis == 2 else tf.transpose(images, (0, 2, 1, 3))
        swept = stock(tf.reshape(lines, (-1, size[axis], features)))
        swept = tf.reshape(swept, (batch, size[3 - axis], size[axis], 2 * units))
        expected = swept if axis == 2 else tf.transpose(swept, (0, 2, 1, 3))
        loss = tf.reduce_sum(tf.sin(expected))
    to_inputs, *to_weights = tape.gradient(loss, [images, *(weight.value for weight in stock.trainable_weights)])
    kernels_and_biases = [stock.get_weights()[3 * k : 3 * k + 3] for k in range(2)]
    weights = [np.concatenate([kernel, recurrent, bias[None]]) for kernel, recurrent, bias in kernels_and_biases]
    to_weights = [np.concatenate([to_weights[3 * k], to_weights[3 * k + 1], to_weights[3 * k + 2][None]]) for k in range(2)]
    for got, wanted in zip(sweep_and_gradient(inputs, axis, weights), [expected, to_inputs, *to_weights], strict=True):
        wanted = np.asarray(wanted)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    inputs, weights = numbers(9, 5, 32, 8), [0.3 * numbers(8 + 16 + 1, 64, seed=k) for k in (1, 2)]
    found = []
    for count in (1, 2, 3):
        monkeypatch.setattr(threads, "inter_op", lambda count=count: count)
        found.append([array.copy() for array in sweep_and_gradient(inputs, 1, weights)])
    assert len(scan._Shape(inputs, 1, weights).edges) > 3
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_no_images_at_all():
    outputs, to_inputs, to_weight = sweep_and_gradient(np.zeros((0, 4, 5, 3), np.float32), 2, [numbers(3 + 2 + 1, 8)], [False])
    assert outputs.shape == (0, 4, 5, 2) and to_inputs.shape == (0, 4, 5, 3)
    np.testing.assert_array_equal(to_weight, np.zeros((6, 8)))


@only_tensorflow
def test_what_is_too_large_is_left_to_tensorflow(monkeypatch):
    assert scan.is_supported(32, 32) and not scan.is_supported(256, 128)
    monkeypatch.setattr(scan, "MAX_PRODUCT", 0)
    images = numbers(2, 4, 6, 3)
    sweep = layers.LSTMSweep(4, "columns")
    monkeypatch.setattr(scan, "sweep", None)
    left = np.asarray(sweep(images))
    monkeypatch.undo()
    np.testing.assert_allclose(np.asarray(sweep(images)), left, rtol=1e-5, atol=1e-6)
    assert lstm.is_supported(keras.ops.convert_to_tensor(images), sweep.sweeps[0].cell, 4)


def test_memory_is_used_again_only_when_nobody_holds_it():
    memory = scan._Memory()
    first, second = memory.array(10, 20), memory.array(10, 20)
    assert not np.shares_memory(first, second)
    assert all(array.ctypes.data % memory.ALIGNMENT == 0 for array in (first, second))
    part, where = first[3:], first.ctypes.data
    del first
    assert not any(np.shares_memory(part, memory.array(20, 10)) for _ in range(3))
    del part
    assert memory.array(200).ctypes.data == where or len(memory.blocks) == 3


def test_memory_that_is_not_wanted_any_more_is_given_back(monkeypatch):
    memory = scan._Memory()
    monkeypatch.setattr(memory, "SPARE", 5000)
    for size in range(1, 200):
        memory.array(size, 10)
    assert sum(block.size for block in memory.blocks) < 10000
    held = [memory.array(size, 10) for size in range(1, 20)]
    for size, array in enumerate(held, 1):
        array[:] = size
    assert [float(array.mean()) for array in held] == list(range(1, 20))
