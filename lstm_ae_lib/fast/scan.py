"""Gated linear recurrences along the rows and columns of images, in loops compiled with Numba.

``h[t] = a[t] * h[t-1] + (1 - |a[t]|) * v[t]`` for every unit by itself, from zero, where ``a`` is tanh of the first ``units``
numbers of a way, or their sigmoid, and ``v`` the next ``units`` as they are. Computed in float32, read and written in the dtype
of the input. Each image is a chain of its own: the number of threads changes no bit."""

import concurrent.futures
import functools
import math
import sys
import threading

import numba
import numpy as np
import tensorflow as tf

from lstm_ae_lib._backend import keras
from lstm_ae_lib.fast import threads


def _jit(function, **options):
    # Without these LLVM may not vectorise: fused multiply-add, no care for the sign of zero, a division by zero gives infinity.
    compile = functools.partial(numba.njit, nogil=True, error_model="numpy", fastmath={"contract", "nsz"}, **options)
    try:
        return compile(cache=True)(function)
    except RuntimeError:  # no folder for the cache that can be written to
        return compile()(function)


def is_supported(projected) -> bool:
    """Whether :func:`scan` takes a tensor of this dtype."""
    return keras.backend.standardize_dtype(projected.dtype) in ("float32", "bfloat16")


def scan(projected, units, ways, positive):
    """Runs the recurrences, as an operation with a gradient of its own.

    From float32 or bfloat16 ``(batch, height, width, 2 * units * len(ways))`` to ``(batch, height, width, units * len(ways))``.
    A way is its axis, 1 or 2, and whether it starts at the end; ``positive``: ``a`` is a sigmoid.
    """

    def operation(function, features, *tensors):
        run = lambda *arrays: function(*arrays, units, ways, positive)  # noqa: E731
        made = tf.numpy_function(run, [*tensors], projected.dtype, stateful=False)
        made.set_shape([*projected.shape[:-1], features])
        return made

    @tf.custom_gradient
    def run(projected):
        outputs = operation(forward, units * len(ways), projected)
        return outputs, lambda to_outputs: operation(backward, projected.shape[-1], projected, outputs, to_outputs)

    return run(projected)


def forward(projected, units, ways, positive):
    """:func:`scan` of an array."""
    return _for_each_image(_scan_forward, [projected], units * len(ways), units, ways, positive)


def backward(projected, outputs, to_outputs, units, ways, positive):
    """The gradient of ``projected``, from the outputs and their gradient."""
    return _for_each_image(_scan_backward, [projected, outputs, to_outputs], projected.shape[-1], units, ways, positive)


def _for_each_image(kernel, arrays, features, units, ways, positive):
    """Runs a kernel on some images of each array and of what is returned at a time, on as many threads as TensorFlow has."""
    made = _MEMORY.empty((*arrays[0].shape[:-1], features), arrays[0].dtype)
    settings = units, np.array(ways, np.int64), positive

    def part(first, last):
        if made.dtype == np.float32:
            return kernel(*(array[first:last] for array in arrays), made[first:last], *settings)
        exact = np.empty((1, *made.shape[1:]), np.float32)
        for place in range(first, last):
            kernel(*(_widen(array[place].view(np.uint16))[None] for array in arrays), exact, *settings)
            _round(exact[0], made[place].view(np.uint16))

    count = threads.inter_op()
    edges = np.linspace(0, len(made), 4 * count + 1).astype(int).tolist()  # four parts each, so that none waits long for the last
    list((map if count == 1 else _pool(count).map)(part, edges[:-1], edges[1:]))
    return made


@functools.cache
def _pool(count):
    return concurrent.futures.ThreadPoolExecutor(count, thread_name_prefix="lstm_ae_lib")


class _Memory:
    """Memory that is used again once nobody holds it: to return it and get it back cleared costs as much as the arithmetic."""

    ALIGNMENT = 64  # bytes: arrays that start there TensorFlow takes without copying
    SPARE = 64 * 2**20  # bytes that may lie unused, beside as much as is in use

    def __init__(self):
        self.lock = threading.Lock()
        self.blocks = []  # the one that was not asked for longest comes first

    def empty(self, shape, dtype):
        """Like numpy.empty."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        with self.lock:
            block = self._take(size + self.ALIGNMENT)
            self.blocks.append(block)
            start = -block.ctypes.data % self.ALIGNMENT
            return block[start : start + size].view(dtype).reshape(shape)

    def _take(self, size):
        # Every array made of a block holds a reference to it; of an unused one there are the list's and getrefcount's own.
        unused = [place for place in range(len(self.blocks)) if sys.getrefcount(self.blocks[place]) == 2]
        for place in unused:
            if self.blocks[place].size == size:
                return self.blocks.pop(place)
        spare = self.SPARE + sum(block.size for block in self.blocks) - sum(self.blocks[place].size for place in unused)
        for place in reversed(unused):  # from the end, so that places stay right
            spare -= self.blocks[place].size
            if spare < 0:
                del self.blocks[place]
        return np.empty(size, np.uint8)


_MEMORY = _Memory()


@_jit
def _widen(halves):
    """bfloat16, each the upper half of a float32, as float32."""
    bits = np.empty(halves.shape, np.uint32)
    source, target = halves.reshape(-1), bits.reshape(-1)
    for n in range(source.size):
        target[n] = np.uint32(source[n]) << np.uint32(16)
    return bits.view(np.float32)


@_jit
def _round(numbers, halves):
    """float32 to the nearest bfloat16, to the even one of two."""
    bits, target = numbers.reshape(-1).view(np.uint32), halves.reshape(-1)
    for n in range(target.size):
        target[n] = (bits[n] + np.uint32(0x7FFF) + ((bits[n] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)


@functools.partial(_jit, inline="always")
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


@functools.partial(_jit, inline="always")
def _coefficient(x, positive):
    half = np.float32(0.5)
    return half * _tanh(half * x) + half if positive else _tanh(x)


@_jit
def _lines(image, axis):
    """``(independent, time, side by side, features)``: over the columns, all of a row go along at each step."""
    height, width, features = image.shape
    return image.reshape(1, height, width, features) if axis == 1 else image.reshape(height, width, 1, features)


@_jit
def _forward_along(given, made, units, k, reverse, positive):
    one = np.float32(1)
    independent, steps, beside, _ = given.shape
    states = np.empty((beside, units), np.float32)
    for n in range(independent):
        for position in range(steps):
            time = steps - 1 - position if reverse else position
            for b in range(beside):
                numbers = given[n, time, b, 2 * k * units : 2 * (k + 1) * units]
                gate, candidate, state = numbers[:units], numbers[units:], states[b]
                # Here, and not states[:] = 0 above: with that, LLVM does not vectorise the next loop.
                if position == 0:
                    for u in range(units):
                        state[u] = 0
                for u in range(units):
                    a = _coefficient(gate[u], positive)
                    state[u] = a * state[u] + (one - abs(a)) * candidate[u]
                shown = made[n, time, b, k * units : (k + 1) * units]
                for u in range(units):
                    shown[u] = state[u]


@_jit
def _backward_along(given, made, above, below, units, k, reverse, positive):
    one = np.float32(1)
    independent, steps, beside, _ = given.shape
    carry, nothing = np.empty((beside, units), np.float32), np.zeros(units, np.float32)
    forget, total = np.empty(units, np.float32), np.empty(units, np.float32)
    first, middle, last, here, end = 2 * k * units, (2 * k + 1) * units, 2 * (k + 1) * units, k * units, (k + 1) * units
    for n in range(independent):
        for position in range(steps - 1, -1, -1):
            time = steps - 1 - position if reverse else position
            earlier = time + 1 if reverse else time - 1
            for b in range(beside):
                gate, candidate = given[n, time, b, first:middle], given[n, time, b, middle:last]
                arrived, own = above[n, time, b, here:end], carry[b]
                before = made[n, earlier, b, here:end] if position else nothing
                to_gate, to_candidate = below[n, time, b, first:middle], below[n, time, b, middle:last]
                if position == steps - 1:
                    for u in range(units):
                        own[u] = 0
                # One loop for each array that is written: LLVM vectorises where it need not tell too many of them apart.
                for u in range(units):
                    forget[u] = _coefficient(gate[u], positive)
                for u in range(units):
                    total[u] = arrived[u] + own[u]
                if positive:
                    for u in range(units):
                        to_gate[u] = total[u] * (before[u] - candidate[u]) * forget[u] * (one - forget[u])
                else:
                    for u in range(units):
                        slope = one - forget[u] * forget[u]
                        to_gate[u] = total[u] * (before[u] - math.copysign(one, forget[u]) * candidate[u]) * slope
                for u in range(units):
                    to_candidate[u] = total[u] * (one - abs(forget[u]))
                for u in range(units):
                    own[u] = total[u] * forget[u]


@_jit
def _scan_forward(given, made, units, ways, positive):
    for image in range(len(given)):
        for k in range(len(ways)):
            axis, reverse = ways[k]
            _forward_along(_lines(given[image], axis), _lines(made[image], axis), units, k, reverse, positive)


@_jit
def _scan_backward(given, made, above, below, units, ways, positive):
    for image in range(len(given)):
        for k in range(len(ways)):
            axis, reverse = ways[k]
            lines = _lines(given[image], axis), _lines(made[image], axis), _lines(above[image], axis), _lines(below[image], axis)
            _backward_along(*lines, units, k, reverse, positive)
