"""Loops compiled with Numba, for what TensorFlow's operations do slowly on a CPU: NumPy arrays in, NumPy arrays out.

An LSTM that sweeps over the positions of images meets tens of thousands of short sequences and few hidden units. There the
time goes into moving tensors between memory and processor, once for each of TensorFlow's operations and steps. Here a few
dozen sequences at a time are taken through all their steps while everything they need stays in the processor's cache. The
chunks are the same whatever the number of threads, and their sums are added in order: so is the result.
"""

import concurrent.futures
import functools
import math
import sys
import threading

import numba
import numpy as np

from lstm_ae_lib.fast import threads

# Sequences taken through all steps together, the most and the fewest. Beyond so many multiply-adds a matrix product is shared
# out among OpenBLAS' own threads, and those of several chunks wait for each other.
CHUNKS = (64, 32, 16)
MAX_PRODUCT = 300_000

# Without these LLVM may not vectorise: fused multiply-add, no care for the sign of zero, a division by zero gives infinity.
_jit = functools.partial(numba.njit, nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz"})
_inline = functools.partial(_jit, inline="always")


def is_supported(features: int, units: int) -> bool:
    """Whether LSTMs of this size are small enough for :func:`sweep` to be the faster way."""
    return CHUNKS[-1] * _multiply_adds(features, units) <= MAX_PRODUCT


def sweep(inputs, axis, weights, backwards):
    """Runs LSTMs over one axis of an array, from zero states, with the standard activations.

    Args:
        inputs: float32 ``(batch, ..., features)``, C-contiguous.
        axis: which of the axes between batch and features is time.
        weights: for each LSTM float32 ``(features + units + 1, 4 * units)``: kernel, recurrent kernel and, as the last row,
            bias; the gates in Keras' order (input, forget, cell, output).
        backwards: for each LSTM, whether it starts at the end.

    Returns:
        (numpy.ndarray, numpy.ndarray): the outputs ``(batch, ..., units * len(weights))``, and what :func:`sweep_gradient`
        wants to have back: gates and cell states.
    """
    shape = _Shape(inputs, axis, weights)
    outputs = _MEMORY.array(*inputs.shape[:-1], shape.width)
    saved = _MEMORY.array(len(weights), shape.positions * 5 * shape.units)
    transposed = [_halve_sigmoids(weight) for weight in weights]

    def run(first, last):
        rows = np.ones((shape.steps, shape.features + shape.units + 1, last - first), np.float32)
        hidden = np.empty((shape.steps, shape.width, last - first), np.float32)
        _gather(inputs.reshape(-1), shape.stride, first, rows, shape.features)
        for k, reverse in enumerate(backwards):
            _forward(rows, transposed[k], hidden, shape.chunk(saved[k], first, last), k, reverse)
        _scatter(hidden, outputs.reshape(-1), shape.stride, first)

    _for_each([(run, *edge) for edge in shape.edges])
    return outputs, saved


def sweep_gradient(inputs, axis, weights, backwards, outputs, saved, gradient):
    """The gradients of :func:`sweep`.

    Args:
        inputs, axis, weights, backwards: as there.
        outputs, saved: what it returned.
        gradient: of the outputs.

    Returns:
        (numpy.ndarray, list): the gradients of the inputs, and of each LSTM's weights.
    """
    shape = _Shape(inputs, axis, weights)
    to_inputs = _MEMORY.array(*inputs.shape)
    sums = [np.zeros((len(shape.edges), *weight.T.shape), np.float32) for weight in weights]

    def run(chunk, first, last):
        rows = np.empty((shape.steps, last - first, shape.features + shape.units + 1), np.float32)
        above = np.empty((shape.steps, shape.width, last - first), np.float32)
        to_features = np.zeros((shape.steps, shape.features, last - first), np.float32)
        _gather(gradient.reshape(-1), shape.stride, first, above, shape.width)
        for k, reverse in enumerate(backwards):
            _fill(rows, inputs.reshape(-1), outputs.reshape(-1), shape.stride, first, shape.features, shape.width, k, reverse)
            own = shape.chunk(saved[k], first, last)
            _backward(rows, weights[k], own, above, to_features, sums[k][chunk], k, reverse)
        _scatter(to_features, to_inputs.reshape(-1), shape.stride, first)

    _for_each([(run, chunk, *edge) for chunk, edge in enumerate(shape.edges)])
    return to_inputs, [np.ascontiguousarray(each.sum(0).T) for each in sums]


def scan(projected, units, ways, positive):
    """Runs gated linear recurrences over the axes of images, from zero states.

    ``h[t] = a[t] * h[t-1] + (1 - |a[t]|) * v[t]`` for every unit by itself, with ``a = tanh`` of the first ``units`` numbers
    of a way, or their sigmoid, and ``v`` the next ``units`` as they are. Computed in float32, read and written in the dtype
    of ``projected``.

    Args:
        projected: float32 or bfloat16 ``(batch, height, width, 2 * units * len(ways))``, C-contiguous.
        units: of each way.
        ways: for each way its axis, 1 or 2, and whether it starts at the end.
        positive: a sigmoid instead of tanh, so that ``a`` is never below 0.

    Returns:
        numpy.ndarray: ``(batch, height, width, units * len(ways))``.
    """
    outputs = _like(projected, units * len(ways))
    given, made = _bits(projected), _bits(outputs)
    settings = units, np.array(ways, np.int64), positive
    _for_each([(_scan_forward, given[part], made[part], *settings) for part in _shares(len(projected))])
    return outputs


def scan_gradient(projected, units, ways, positive, outputs, gradient):
    """The gradient of :func:`scan` with respect to ``projected``.

    Args:
        projected, units, ways, positive: as there.
        outputs: what it returned.
        gradient: of the outputs, same dtype.
    """
    to_projected = _like(projected, projected.shape[-1])
    arrays = [_bits(array) for array in (projected, outputs, gradient, to_projected)]
    settings = units, np.array(ways, np.int64), positive
    _for_each([(_scan_backward, *(array[part] for array in arrays), *settings) for part in _shares(len(projected))])
    return to_projected


class _Memory:
    """Large arrays whose memory is used again once nobody holds them: to hand it back and have it cleared by the operating
    system at every step costs as much as the arithmetic. They start where TensorFlow takes them without copying."""

    ALIGNMENT = 64
    SPARE = 16 * 2**20  # numbers; beyond that, at most as much is kept unused as is in use

    def __init__(self):
        self.lock = threading.Lock()
        self.blocks = []  # the one that was not wanted for longest comes first

    def array(self, *shape):
        size = math.prod(shape) + self.ALIGNMENT // 4
        with self.lock:
            place = next((place for place in self._free() if self.blocks[place].size == size), None)
            if place is None:
                unused = self._free()
                spare = self.SPARE + sum(block.size for block in self.blocks) - sum(self.blocks[place].size for place in unused)
                for place in reversed(unused):  # from the end, so that places stay right
                    spare -= self.blocks[place].size
                    if spare < 0:
                        del self.blocks[place]
                block = np.empty(size, np.float32)
            else:
                block = self.blocks.pop(place)
            self.blocks.append(block)
            start = -block.ctypes.data % self.ALIGNMENT // 4
            return block[start : start + math.prod(shape)].reshape(shape)

    def _free(self):
        # Every array made from a block holds a reference to it; of a free one there are the list's and getrefcount's own.
        return [place for place in range(len(self.blocks)) if sys.getrefcount(self.blocks[place]) == 2]


_MEMORY = _Memory()


def _multiply_adds(features, units):
    return (features + units + 1) * 4 * units


class _Shape:
    """Where the steps of a sequence lie in memory, and how the sequences are shared out."""

    def __init__(self, inputs, axis, weights):
        self.steps, self.features, self.units = inputs.shape[axis], inputs.shape[-1], weights[0].shape[1] // 4
        self.width = self.units * len(weights)
        # From one step to the next: what lies between are the axes after time.
        self.stride = math.prod(inputs.shape[axis + 1 : -1])
        sequences = math.prod(inputs.shape[:axis]) * self.stride
        one = _multiply_adds(self.features, self.units)
        size = next((size for size in CHUNKS if size * one <= MAX_PRODUCT), CHUNKS[-1])
        self.edges = [(first, min(first + size, sequences)) for first in range(0, sequences, size)]
        self.positions = sequences * self.steps

    def chunk(self, saved, first, last):
        """Gates and cell states of one chunk, a row a step."""
        size = self.steps * 5 * self.units
        return saved[first * size : last * size].reshape(self.steps, -1)


def _for_each(calls):
    """Calls functions with their arguments, on as many threads as TensorFlow has."""
    if threads.inter_op() == 1 or len(calls) == 1:
        for function, *arguments in calls:
            function(*arguments)
    else:
        list(_pool(threads.inter_op()).map(lambda call: call[0](*call[1:]), calls))


def _like(array, features):
    """Uninitialised memory of the same shape but for the last axis, and the same dtype."""
    shape = (*array.shape[:-1], features)
    if array.dtype == np.float32:
        return _MEMORY.array(*shape)
    whole = _MEMORY.array(-(-math.prod(shape) // 2))  # two numbers of 16 bits in the place of each
    return whole.view(array.dtype)[: math.prod(shape)].reshape(shape)


def _bits(array):
    """What Numba can read: float32 as it is, bfloat16 as whole numbers, the upper half of a float32 each."""
    return array if array.dtype == np.float32 else array.view(np.uint16)


def _shares(count):
    """Consecutive parts, four for each thread, so that none waits long for the last."""
    edges = np.linspace(0, count, 4 * threads.inter_op() + 1).astype(int).tolist()
    return [slice(first, last) for first, last in zip(edges, edges[1:], strict=False) if first < last]


@functools.cache
def _pool(count):
    return concurrent.futures.ThreadPoolExecutor(count, thread_name_prefix="lstm_ae_lib")


def _halve_sigmoids(weight):
    """A sigmoid is a tanh of half its argument: with the halves in the weights, all four gates are one loop."""
    units = weight.shape[1] // 4
    scale = np.repeat(np.array([0.5, 0.5, 1.0, 0.5], np.float32), units)
    return np.ascontiguousarray((weight * scale).T)


@_inline
def _tanh(x):
    """A quotient of polynomials, right to some 1e-7: the one that Eigen and XLA use."""
    x = min(max(x, np.float32(-7.90531110763549805)), np.float32(7.90531110763549805))
    square = x * x
    above = square * np.float32(-2.76076847742355e-16) + np.float32(2.00018790482477e-13)
    above = square * above + np.float32(-8.60467152213735e-11)
    above = square * above + np.float32(5.12229709037114e-08)
    above = square * above + np.float32(1.48572235717979e-05)
    above = square * above + np.float32(6.37261928875436e-04)
    above = square * above + np.float32(4.89352455891786e-03)
    below = square * np.float32(1.19825839466702e-06) + np.float32(1.18534705686654e-04)
    below = square * below + np.float32(2.26843463243900e-03)
    below = square * below + np.float32(4.89352518554385e-03)
    return x * above / below


@_jit
def _place(n, steps, stride, count, first):
    """The n-th of the positions of a chunk, in the order in which they lie in memory: time, sequence, position."""
    time, r = (n % steps, n // steps) if stride == 1 else (n // count, n % count)
    sequence = first + r
    return time, r, (sequence // stride * steps + time) * stride + sequence % stride


@_jit
def _gather(flat, stride, first, out, features):
    """Takes a chunk of sequences out of an image: ``out[time, feature, sequence]``."""
    steps, _, count = out.shape
    for n in range(steps * count):
        time, r, place = _place(n, steps, stride, count, first)
        source, target = flat[place * features : (place + 1) * features], out[time]
        for u in range(features):
            target[u, r] = source[u]


@_jit
def _scatter(values, flat, stride, first):
    """Puts a chunk of sequences back into an image."""
    steps, features, count = values.shape
    for n in range(steps * count):
        time, r, place = _place(n, steps, stride, count, first)
        source, target = values[time], flat[place * features : (place + 1) * features]
        for u in range(features):
            target[u] = source[u, r]


@_jit
def _fill(rows, inputs, outputs, stride, first, features, width, k, reverse):
    """What each step was multiplied with the weights: features, the state before it, one. ``rows[time, sequence, ...]``"""
    steps, count, size = rows.shape
    units = size - 1 - features
    for n in range(steps * count):
        time, r, place = _place(n, steps, stride, count, first)
        row, source = rows[time, r], inputs[place * features : (place + 1) * features]
        for u in range(features):
            row[u] = source[u]
        if time != (steps - 1 if reverse else 0):
            start = (place + stride if reverse else place - stride) * width + k * units
            state = outputs[start : start + units]
            for u in range(units):
                row[features + u] = state[u]
        else:
            row[features : features + units] = 0
        row[size - 1] = 1


@_jit
def _forward(rows, transposed, hidden, saved, k, reverse):
    steps, size, count = rows.shape
    units, half = transposed.shape[0] // 4, np.float32(0.5)
    features, size = size - 1 - units, units * count
    cell = np.zeros(size, np.float32)
    for position in range(steps):
        time = steps - 1 - position if reverse else position
        row, gates, kept = rows[time], saved[position, : 4 * size], saved[position, 4 * size :]
        if position:
            row[features : features + units] = hidden[time + 1 if reverse else time - 1, k * units : (k + 1) * units]
        else:
            row[features : features + units] = 0
        np.dot(transposed, row, gates.reshape(4 * units, count))
        for r in range(4 * size):
            gates[r] = _tanh(gates[r])
        enter, keep, new, leave = gates[:size], gates[size : 2 * size], gates[2 * size : 3 * size], gates[3 * size :]
        for r in range(size):
            enter[r] = half * enter[r] + half
            keep[r] = half * keep[r] + half
            leave[r] = half * leave[r] + half
        for r in range(size):
            cell[r] = keep[r] * cell[r] + enter[r] * new[r]
        shown = hidden[time, k * units : (k + 1) * units].reshape(-1)
        for r in range(size):
            kept[r] = cell[r]
            shown[r] = leave[r] * _tanh(cell[r])


@_jit
def _backward(rows, weight, saved, above, to_features, to_weight, k, reverse):
    steps, count, size = rows.shape
    units, one = weight.shape[1] // 4, np.float32(1)
    features, size = size - 1 - units, units * count
    deltas = np.empty((4 * units, count), np.float32)
    flat = deltas.reshape(-1)
    to_enter, to_keep, to_new, to_leave = flat[:size], flat[size : 2 * size], flat[2 * size : 3 * size], flat[3 * size :]
    to_row = np.zeros((features + units + 1, count), np.float32)
    back = to_row[features : features + units].reshape(-1)
    to_cell, nothing = np.zeros(size, np.float32), np.zeros(size, np.float32)
    total, shown = np.empty(size, np.float32), np.empty(size, np.float32)
    product = np.empty_like(to_weight)
    for position in range(steps - 1, -1, -1):
        time = steps - 1 - position if reverse else position
        done = saved[position]
        enter, keep, new, leave = done[:size], done[size : 2 * size], done[2 * size : 3 * size], done[3 * size : 4 * size]
        kept, before = done[4 * size :], saved[position - 1, 4 * size :] if position else nothing
        given = above[time, k * units : (k + 1) * units].reshape(-1)
        # One loop for each array that is written: LLVM vectorises where it need not tell too many of them apart.
        for r in range(size):
            total[r] = given[r] + back[r]
        for r in range(size):
            shown[r] = _tanh(kept[r])
        for r in range(size):
            to_cell[r] += total[r] * leave[r] * (one - shown[r] * shown[r])
        for r in range(size):
            to_enter[r] = to_cell[r] * new[r] * enter[r] * (one - enter[r])
        for r in range(size):
            to_keep[r] = to_cell[r] * before[r] * keep[r] * (one - keep[r])
        for r in range(size):
            to_new[r] = to_cell[r] * enter[r] * (one - new[r] * new[r])
        for r in range(size):
            to_leave[r] = total[r] * shown[r] * leave[r] * (one - leave[r])
        for r in range(size):
            to_cell[r] *= keep[r]
        np.dot(deltas, rows[time], product)
        to_weight += product
        np.dot(weight, deltas, to_row)
        to_features[time] += to_row[:features]


@_inline
def _coefficient(x, positive):
    half = np.float32(0.5)
    return half * _tanh(half * x) + half if positive else _tanh(x)


def _read(numbers, buffer):
    """Numbers as float32: where they are, or of 16 bits, which are the upper half of a float32, in a buffer."""


@numba.extending.overload(_read, inline="always")
def _read_either(numbers, buffer):
    def halves(numbers, buffer):
        bits = buffer.view(np.uint32)
        for u in range(buffer.size):
            bits[u] = np.uint32(numbers[u]) << np.uint32(16)
        return buffer

    return (lambda numbers, buffer: numbers) if numbers.dtype == numba.float32 else halves


def _room(numbers, buffer):
    """Where to write what :func:`_write` then puts into ``numbers``: there, or for 16 bits in a buffer."""


@numba.extending.overload(_room, inline="always")
def _room_either(numbers, buffer):
    return (lambda numbers, buffer: numbers) if numbers.dtype == numba.float32 else (lambda numbers, buffer: buffer)


def _write(buffer, numbers):
    """float32 to the nearest of 16 bits, to the even one of two."""


@numba.extending.overload(_write, inline="always")
def _write_either(buffer, numbers):
    def halves(buffer, numbers):
        bits = buffer.view(np.uint32)
        for u in range(buffer.size):
            numbers[u] = (bits[u] + np.uint32(0x7FFF) + ((bits[u] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)

    return (lambda buffer, numbers: None) if numbers.dtype == numba.float32 else halves


@_jit
def _lines(image, axis):
    """``(independent, time, side by side, features)``: over the columns, all of a row are taken along at each step."""
    height, width, features = image.shape
    return image.reshape(1, height, width, features) if axis == 1 else image.reshape(height, width, 1, features)


@_jit
def _scan_forward(projected, outputs, units, ways, positive):
    one = np.float32(1)
    states = np.empty((projected.shape[2], units), np.float32)
    buffer = np.empty(2 * units, np.float32)
    for image in range(len(projected)):
        for k in range(len(ways)):
            axis, reverse = ways[k]
            given, made = _lines(projected[image], axis), _lines(outputs[image], axis)
            independent, steps, beside, _ = given.shape
            for n in range(independent):
                for position in range(steps):
                    time = steps - 1 - position if reverse else position
                    for b in range(beside):
                        numbers = _read(given[n, time, b, 2 * k * units : 2 * (k + 1) * units], buffer)
                        keep, new, state = numbers[:units], numbers[units:], states[b]
                        if position == 0:
                            for u in range(units):
                                state[u] = 0
                        for u in range(units):
                            a = _coefficient(keep[u], positive)
                            state[u] = a * state[u] + (one - abs(a)) * new[u]
                        shown = made[n, time, b, k * units : (k + 1) * units]
                        copy = _room(shown, state)
                        for u in range(units):
                            copy[u] = state[u]
                        _write(state, shown)


@_jit
def _scan_backward(projected, outputs, above, below, units, ways, positive):
    one = np.float32(1)
    carry = np.empty((projected.shape[2], units), np.float32)
    buffer, buffer2, buffer3 = np.empty(2 * units, np.float32), np.empty(units, np.float32), np.empty(units, np.float32)
    buffer4, nothing = np.empty(2 * units, np.float32), np.zeros(units, np.float32)
    keep, total = np.empty(units, np.float32), np.empty(units, np.float32)
    for image in range(len(projected)):
        for k in range(len(ways)):
            axis, reverse = ways[k]
            given, made = _lines(projected[image], axis), _lines(outputs[image], axis)
            upper, lower = _lines(above[image], axis), _lines(below[image], axis)
            independent, steps, beside, _ = given.shape
            first, last, here, end = 2 * k * units, 2 * (k + 1) * units, k * units, (k + 1) * units
            for n in range(independent):
                for position in range(steps - 1, -1, -1):
                    time = steps - 1 - position if reverse else position
                    earlier = time + 1 if reverse else time - 1
                    for b in range(beside):
                        numbers = _read(given[n, time, b, first:last], buffer)
                        arrived = _read(upper[n, time, b, here:end], buffer2)
                        before = _read(made[n, earlier, b, here:end], buffer3) if position else nothing
                        target = lower[n, time, b, first:last]
                        room = _room(target, buffer4)
                        new, own, to_keep, to_new = numbers[units:], carry[b], room[:units], room[units:]
                        if position == steps - 1:
                            for u in range(units):
                                own[u] = 0
                        # One loop for each array that is written: see _backward.
                        for u in range(units):
                            keep[u] = _coefficient(numbers[u], positive)
                        for u in range(units):
                            total[u] = arrived[u] + own[u]
                        if positive:
                            for u in range(units):
                                to_keep[u] = total[u] * (before[u] - new[u]) * keep[u] * (one - keep[u])
                        else:
                            for u in range(units):
                                slope = one - keep[u] * keep[u]
                                to_keep[u] = total[u] * (before[u] - math.copysign(one, keep[u]) * new[u]) * slope
                        for u in range(units):
                            to_new[u] = total[u] * (one - abs(keep[u]))
                        for u in range(units):
                            own[u] = total[u] * keep[u]
                        _write(room, target)
