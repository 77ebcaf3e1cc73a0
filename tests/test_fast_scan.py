"""The gated scan is a first-order recurrence, by the kernel and by Keras operations: the same numbers and gradients."""

import numpy as np
import pytest
from test_fast_lstm import assert_same, numbers, only_tensorflow, value_and_gradients, without_kernels

from lstm_ae_lib import fast, layers
from lstm_ae_lib._backend import keras
from lstm_ae_lib.fast import threads

WAYS = layers.GatedScan.WAYS["both"]
each_way = pytest.mark.parametrize("along", ["rows", "columns", "both"])
each_gate = pytest.mark.parametrize("positive", [False, True], ids=["tanh", "sigmoid"])


def by_hand(layer, images):
    """The recurrence step by step, in float64."""
    kernel, bias = (keras.ops.convert_to_numpy(weight).astype(np.float64) for weight in layer.weights)
    projected, swept, units = images @ kernel + bias, [], layer.units
    for k, (axis, reverse) in enumerate(layer.WAYS[layer.along]):
        part = np.moveaxis(projected[..., 2 * units * k : 2 * units * (k + 1)], axis, 0)
        part = part[::-1] if reverse else part
        forget = 1 / (1 + np.exp(-part[..., :units])) if layer.positive else np.tanh(part[..., :units])
        state, states = 0.0, []
        for a, candidate in zip(forget, part[..., units:], strict=True):
            state = a * state + (1 - np.abs(a)) * candidate
            states.append(state)
        swept.append(np.moveaxis(np.stack(states[::-1] if reverse else states), 0, axis))
    return np.concatenate(swept, -1)


@pytest.mark.backends
@each_gate
@each_way
@pytest.mark.parametrize("path", ["kernel", "operations"])
@pytest.mark.parametrize("size", [(6, 7), (1, 33)], ids=str)
def test_a_scan_is_a_first_order_recurrence_each_way(monkeypatch, along, positive, path, size):
    if path == "operations":
        without_kernels(monkeypatch)  # other backends never have any
    scan, images = layers.GatedScan(5, along, positive), 3 * numbers(2, *size, 4)
    found = keras.ops.convert_to_numpy(scan(images))
    np.testing.assert_allclose(found, by_hand(scan, images), rtol=1e-5, atol=5e-6)


@pytest.mark.backends
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 31, 192])
def test_the_recurrence_by_operations_at_any_length(steps, reverse):
    factors, terms = np.tanh(numbers(2, steps, 3)), numbers(2, steps, 3, seed=1)
    state, expected = np.zeros((2, 3)), np.zeros((2, steps, 3))
    for t in range(steps - 1, -1, -1) if reverse else range(steps):
        state = factors[:, t] * state + terms[:, t]
        expected[:, t] = state
    found = keras.ops.convert_to_numpy(layers.linear_recurrence(*map(keras.ops.convert_to_tensor, (factors, terms)), 1, reverse))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)


@only_tensorflow
@each_gate
@each_way
@pytest.mark.parametrize("batch", [1, 11])
def test_gradients_are_those_of_the_operations(monkeypatch, along, positive, batch):
    scan = layers.GatedScan(20, along, positive)
    scan.build((None, 5, 7, 4))
    inputs = [numbers(batch, 5, 7, 4)]
    found = value_and_gradients(scan, inputs, True)
    without_kernels(monkeypatch)
    for dynamic in (False, True):
        assert_same(found, value_and_gradients(scan, inputs, dynamic))


@only_tensorflow
def test_lines_of_unknown_length_without_a_kernel(monkeypatch):
    import tensorflow as tf

    scan, images = layers.GatedScan(4), tf.constant(numbers(2, 9, 13, 3))
    expected = scan(images)
    without_kernels(monkeypatch)
    for place, wanted in zip(value_and_any_size(tf, scan, images), value_and_any_size(tf, scan, images, known=True), strict=True):
        np.testing.assert_allclose(place, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(value_and_any_size(tf, scan, images)[0], expected, rtol=1e-5, atol=1e-6)


def value_and_any_size(tf, layer, images, known=False):
    @tf.function(input_signature=[tf.TensorSpec(images.shape if known else [None, None, None, 3])])
    def compute(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images)
            loss = tf.reduce_sum(tf.sin(outputs))
        return outputs, tape.gradient(loss, images)

    return compute(images)


@only_tensorflow
def test_the_operations_are_few(monkeypatch):
    import tensorflow as tf

    scan = layers.GatedScan(4)
    scan.build((None, 192, 192, 3))
    without_kernels(monkeypatch)
    graph = tf.function(scan, input_signature=[tf.TensorSpec([None, 192, 192, 3])]).get_concrete_function().graph
    assert len(graph.as_graph_def().node) < 1000  # one by one, 192 steps four ways are 20,000


@only_tensorflow
def test_in_bfloat16_it_is_the_one_in_float32_but_for_rounding():
    import tensorflow as tf

    scan = fast.kernels("scan")
    half = numbers(3, 5, 7, 8 * 6).astype(tf.bfloat16.as_numpy_dtype)
    found = []
    for projected in (half, half.astype(np.float32)):
        outputs = scan.forward(projected, 6, WAYS, False)
        exact = outputs.astype(np.float32).astype(half.dtype).astype(projected.dtype)  # the same states before them
        gradient = np.cos(exact.astype(np.float32)).astype(half.dtype).astype(projected.dtype)
        found.append((outputs, scan.backward(projected, exact, gradient, 6, WAYS, False)))
    for rounded, exact in zip(*found, strict=True):
        assert rounded.dtype == half.dtype and exact.dtype == np.float32
        np.testing.assert_array_equal(rounded, exact.astype(half.dtype))


@only_tensorflow
def test_the_number_of_threads_changes_no_bit(monkeypatch):
    scan, projected, found = fast.kernels("scan"), numbers(9, 5, 7, 8 * 6), []
    for count in (1, 3):
        monkeypatch.setattr(threads, "inter_op", lambda count=count: count)
        outputs = scan.forward(projected, 6, WAYS, False)
        found.append((outputs, scan.backward(projected, outputs, np.cos(outputs), 6, WAYS, False)))
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


@only_tensorflow
def test_no_images_at_all():
    outputs = fast.kernels("scan").forward(np.zeros((0, 4, 5, 16), np.float32), 2, WAYS, False)
    assert outputs.shape == (0, 4, 5, 8)


@only_tensorflow
def test_it_runs_where_nothing_can_be_written(monkeypatch):
    scan = fast.kernels("scan")
    compile = scan.numba.njit

    def refuse(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return compile(**options)

    monkeypatch.setattr(scan.numba, "njit", refuse)
    assert scan._jit(lambda x: 2 * x)(np.float32(3)) == 6


@only_tensorflow
def test_memory_is_used_again_only_when_nobody_holds_it():
    memory = fast.kernels("scan")._Memory()
    first, second = memory.empty((10, 20), np.float32), memory.empty((10, 20), np.float32)
    assert not np.shares_memory(first, second)
    assert all(array.ctypes.data % memory.ALIGNMENT == 0 for array in (first, second))
    part, where = first[3:], first.ctypes.data
    del first
    assert not any(np.shares_memory(part, memory.empty((20, 10), np.float32)) for _ in range(3))
    del part
    others = [memory.empty((200,), np.float32) for _ in range(2)]
    assert where in [array.ctypes.data for array in others]


@only_tensorflow
def test_memory_that_is_not_wanted_any_more_is_returned(monkeypatch):
    memory = fast.kernels("scan")._Memory()
    monkeypatch.setattr(memory, "SPARE", 20_000)
    for size in range(1, 200):
        memory.empty((size, 10), np.float32)
    assert sum(block.size for block in memory.blocks) < 40_000
    held = [memory.empty((size, 10), np.float32) for size in range(1, 20)]
    for size, array in enumerate(held, 1):
        array[:] = size
    assert [float(array.mean()) for array in held] == list(range(1, 20))
