"""Keras layers of the study: they shape or transform tensors, with weights or without. ``keras.ops`` only, so they run on
every Keras backend; what is faster on one of them is in :mod:`lstm_ae_lib.fast`."""

import math

from lstm_ae_lib import checks, fast
from lstm_ae_lib._backend import keras

ops = keras.ops


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class ImageToRows(keras.layers.Layer):
    """An image as a sequence of its rows: the row index becomes time.

    Input: ``(batch, height, width, channels)``. Output: ``(batch, height, width * channels)``. Width and channels must be
    known (``ValueError``); the height, which is the number of time steps, need not be.
    """

    def call(self, images):
        self.compute_output_shape(images.shape)
        _, height, width, channels = images.shape
        return ops.reshape(images, (-1, height if height is not None else ops.shape(images)[1], width * channels))

    def compute_output_shape(self, input_shape):
        if len(input_shape) != 4 or None in tuple(input_shape)[2:]:
            raise ValueError(f"ImageToRows needs (batch, height, width, channels) with a known width, got {tuple(input_shape)}")
        batch, height, width, channels = input_shape
        return (batch, height, width * channels)


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class RowsToImage(keras.layers.Layer):
    """A sequence of rows as an image: undoes :class:`ImageToRows`.

    Input: ``(batch, height, width * channels)``. Output: ``(batch, height, width, channels)``; 3 channels by default.

    Raises ``ValueError`` if ``channels`` is out of range, or does not divide the length of a row.
    """

    def __init__(self, channels=3, **kwargs):
        super().__init__(**kwargs)
        self.channels = int(checks.number(channels, "channels", 1, 4096, whole=True))

    def call(self, rows):
        _, height, width, channels = self.compute_output_shape(rows.shape)
        return ops.reshape(rows, (-1, height if height is not None else ops.shape(rows)[1], width, channels))

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}

    def compute_output_shape(self, input_shape):
        if len(input_shape) != 3 or input_shape[2] is None or input_shape[2] % self.channels:
            wanted = f"(batch, height, width * {self.channels}) with a known row length"
            raise ValueError(f"RowsToImage needs {wanted}, got {tuple(input_shape)}")
        batch, height, features = input_shape
        return (batch, height, features // self.channels, self.channels)


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class FastLSTM(keras.layers.LSTM):
    """:class:`keras.layers.LSTM`, faster on a CPU with TensorFlow: the same arguments, weights, states and results.

    The weights have Keras' layout, so ``set_weights`` and weight files move them both ways. It is Keras' layer, which on a GPU
    is cuDNN's, on another backend or a GPU, in a graph that XLA compiles (``jit_compile=True``) or that is exported, and with a
    mask, another dtype than float32, other activations, recurrent dropout, an unknown number of steps or more than
    :data:`lstm_ae_lib.fast.lstm.MAX_STEPS`. The fast path has a first derivative only.

    Arguments, input and output are those of :class:`keras.layers.LSTM`.
    """

    def inner_loop(self, sequences, initial_state, mask, training=False):
        kernels = fast.kernels("lstm")
        if mask is not None or not kernels or not kernels.is_supported(sequences, self.cell, sequences.shape[1]):
            return super().inner_loop(sequences, initial_state, mask, training=training)
        if training and self.dropout:
            # As Keras does it: one mask, the same for every step.
            sequences = sequences * ops.expand_dims(self.cell.get_dropout_mask(sequences[:, 0, :]), 1)
        others = [self.cell], [self.go_backwards], [tuple(initial_state)], self.return_sequences
        outputs, [(h, c)] = kernels.sweep(sequences, 1, *others)
        if self.go_backwards and self.return_sequences:
            outputs = ops.flip(outputs, 1)  # Keras returns them in the order in which they were made
        return h, outputs, [h, c]

    def get_config(self):
        return {**super().get_config(), "use_cudnn": self.use_cudnn}  # which Keras leaves out


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class LSTMSweep(keras.layers.Layer):
    """A bidirectional LSTM that sweeps over the positions of an image, along its rows or along its columns.

    Every row (column) of the batch is a sequence of its own; its positions are the time steps. Two sweeps, one along each
    axis, let every position see the whole image (Visin et al., "ReNet: A Recurrent Neural Network Based Alternative to
    Convolutional Networks", 2015). It computes what ``Bidirectional(LSTM)`` over the reshaped and transposed image
    computes, with the same weights in the same order, but where :class:`FastLSTM` is fast it neither reshapes nor transposes.

    Args:
        units: hidden units of each direction, 1 to 65,536.
        along: ``"rows"`` (from left to right and back) or ``"columns"`` (from top to bottom and back).

    Input: ``(batch, height, width, channels)``. Output: ``(batch, height, width, 2 * units)``, first the sweep that goes
    forwards.

    Raises ``ValueError`` for an argument out of range, or an input that is no batch of images.
    """

    def __init__(self, units, along="rows", **kwargs):
        super().__init__(**kwargs)
        self.units = int(checks.number(units, "units", 1, 65536, whole=True))
        self.along = checks.choice(along, "along", ("rows", "columns"))
        self.sweeps = [
            FastLSTM(self.units, return_sequences=True, go_backwards=way == "backward", dtype=self.dtype_policy, name=way)
            for way in ("forward", "backward")
        ]

    def build(self, input_shape):
        self.compute_output_shape(input_shape)
        for sweep in self.sweeps:
            sweep.build((None, None, input_shape[-1]))
        self.built = True

    def call(self, images):
        axis = 2 if self.along == "rows" else 1
        kernels, cells = fast.kernels("lstm"), [sweep.cell for sweep in self.sweeps]
        if kernels and kernels.is_supported(images, cells[0], images.shape[axis]):
            return kernels.sweep(images, axis, cells, [False, True])[0]
        if self.along == "columns":
            images = ops.transpose(images, (0, 2, 1, 3))
        _, lines, length, channels = images.shape
        shape = ops.shape(images)
        sequences = ops.reshape(images, (-1, length if length is not None else shape[2], channels))
        forward, backward = (sweep(sequences) for sweep in self.sweeps)
        outputs = ops.concatenate([forward, ops.flip(backward, 1)], -1)
        outputs = ops.reshape(outputs, (-1, lines or shape[1], length or shape[2], 2 * self.units))
        return ops.transpose(outputs, (0, 2, 1, 3)) if self.along == "columns" else outputs

    def multiply_adds(self, given, made):
        return 2 * math.prod(given[1:3]) * 4 * self.units * (given[3] + self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "along": self.along}

    def compute_output_shape(self, input_shape):
        if len(input_shape) != 4 or input_shape[3] is None:
            raise ValueError(f"LSTMSweep needs (batch, height, width, channels) with known channels, got {tuple(input_shape)}")
        return (*input_shape[:3], 2 * self.units)


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class GatedScan(keras.layers.Layer):
    """Gated linear recurrences that sweep over the positions of an image: LSTMs stripped of what keeps them from running
    fast, whose gate sees the input only (minLSTM: Feng et al., "Were RNNs All We Needed?", 2024).

    ``h[t] = a[t] * h[t-1] + (1 - |a[t]|) * v[t]``, with the forget gate ``a = tanh(W_a x[t] + b_a)`` and the candidate
    ``v = W_v x[t] + b_v``, for each unit by itself. It is a recursive filter whose coefficient each position sets anew. A
    coefficient between 0 and 1, as in the paper, only smooths; undoing a blur takes negative ones too, which the tanh allows
    (``positive`` turns them off). The recurrence is computed in float32 at least.

    Args:
        units: units of each way, 1 to 65,536.
        along: ``"rows"`` (from left to right and back), ``"columns"`` (from top to bottom and back) or ``"both"`` (four ways).
            Default ``"both"``.
        positive: coefficients between 0 and 1 (a sigmoid) instead of between -1 and 1. Default False.

    Weights: ``kernel`` ``(channels, ways * 2 * units)`` and ``bias``: gate and candidate for each way.

    Input: ``(batch, height, width, channels)``. Output: ``(batch, height, width, ways * units)``: rows forwards, rows
    backwards, columns forwards, columns backwards.

    Raises ``ValueError`` for an argument out of range, or an input that is no batch of images.
    """

    WAYS = {"rows": ((2, False), (2, True)), "columns": ((1, False), (1, True))}
    WAYS["both"] = WAYS["rows"] + WAYS["columns"]

    def __init__(self, units, along="both", positive=False, **kwargs):
        super().__init__(**kwargs)
        self.units = int(checks.number(units, "units", 1, 65536, whole=True))
        self.along = checks.choice(along, "along", tuple(self.WAYS))
        self.positive = bool(positive)

    def build(self, input_shape):
        self.compute_output_shape(input_shape)
        size = 2 * self.units * len(self.WAYS[self.along])
        self.kernel = self.add_weight(name="kernel", shape=(input_shape[-1], size), initializer=self._initial)
        self.bias = self.add_weight(name="bias", shape=(size,), initializer="zeros")
        self.built = True

    def _initial(self, shape, dtype=None):
        # Every gate and every candidate is a product of its own: how many stand side by side has no part in their scale.
        parts = shape[1] // self.units
        return ops.concatenate([keras.initializers.GlorotUniform()((shape[0], self.units), dtype) for _ in range(parts)], -1)

    def call(self, images):
        ways = self.WAYS[self.along]
        # One large product; with matmul, TensorFlow makes one a line, and a gradient of the kernel for each.
        projected = ops.tensordot(images, self.kernel, axes=1) + self.bias
        kernels = fast.kernels("scan")
        if kernels and kernels.is_supported(projected):
            return kernels.scan(projected, self.units, ways, self.positive)
        exact = ops.cast(projected, keras.backend.result_type(projected.dtype, "float32"))
        swept = []
        for part, (axis, reverse) in zip(ops.split(exact, len(ways), axis=-1), ways, strict=True):
            gate, candidate = ops.split(part, 2, axis=-1)
            forget = ops.sigmoid(gate) if self.positive else ops.tanh(gate)
            swept.append(linear_recurrence(forget, (1 - ops.abs(forget)) * candidate, axis, reverse))
        return ops.cast(ops.concatenate(swept, -1), projected.dtype)

    def multiply_adds(self, given, made):
        return math.prod(made[1:3]) * math.prod(self.kernel.shape)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "along": self.along, "positive": self.positive}

    def compute_output_shape(self, input_shape):
        if len(input_shape) != 4 or input_shape[3] is None:
            raise ValueError(f"GatedScan needs (batch, height, width, channels) with known channels, got {tuple(input_shape)}")
        return (*input_shape[:3], self.units * len(self.WAYS[self.along]))


def linear_recurrence(factors, terms, axis: int, reverse: bool = False):
    """``h[t] = factors[t] * h[t-1] + terms[t]`` along an axis, from zero, or from the end with ``reverse``, in log2(steps) passes.

    After a pass each position holds what twice as many terms give (Hillis and Steele, "Data Parallel Algorithms", 1986). Not
    ``keras.ops.associative_scan``: XLA cannot compile what that is with TensorFlow, and it makes ten times as many operations.

    ``factors`` and ``terms`` are of one shape; an unknown number of steps becomes a loop.
    """

    before, steps = (slice(None),) * axis, factors.shape[axis]

    def earlier(values, distance):
        zeros = ops.zeros_like(values[(*before, slice(None, distance))])
        if reverse:
            return ops.concatenate([values[(*before, slice(distance, None))], zeros], axis)
        return ops.concatenate([zeros, values[(*before, slice(None, -distance))]], axis)

    def one_pass(distance, factors, terms):
        return 2 * distance, factors * earlier(factors, distance), terms + factors * earlier(terms, distance)

    if steps is None:
        return ops.while_loop(lambda distance, *_: distance < ops.shape(factors)[axis], one_pass, (1, factors, terms))[2]
    distance = 1
    while distance < steps:
        distance, factors, terms = one_pass(distance, factors, terms)
    return terms


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class SimpleGate(keras.layers.Layer):
    """Halves the channels by multiplying one half with the other: a gate without an activation function (Chen et al.,
    "Simple Baselines for Image Restoration", 2022).

    Input: ``(..., channels)``, an even number, else ``ValueError``. Output: ``(..., channels / 2)``.
    """

    def call(self, features):
        self.compute_output_shape(features.shape)
        first, second = ops.split(features, 2, axis=-1)
        return first * second

    def compute_output_shape(self, input_shape):
        if input_shape[-1] is None or input_shape[-1] % 2:
            raise ValueError(f"SimpleGate needs an even number of channels, got {tuple(input_shape)}")
        return (*input_shape[:-1], input_shape[-1] // 2)


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class ChannelScale(keras.layers.Layer):
    """Multiplies each channel with a weight of its own, which begins at ``initial``, of magnitude up to 1,000 (``ValueError``);
    at 0, the default, a residual branch begins silent.

    Weights: ``scale`` ``(channels,)``. Input and output: ``(..., channels)``.
    """

    def __init__(self, initial=0.0, **kwargs):
        super().__init__(**kwargs)
        self.initial = float(checks.number(initial, "initial", -1000, 1000))

    def build(self, input_shape):
        initializer = keras.initializers.Constant(self.initial)
        self.scale = self.add_weight(name="scale", shape=(input_shape[-1],), initializer=initializer)
        self.built = True

    def call(self, features):
        return features * ops.cast(self.scale, features.dtype)

    def multiply_adds(self, given, made):
        return 0

    def get_config(self):
        return {**super().get_config(), "initial": self.initial}

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class ChangeGate(keras.layers.Layer):
    """How far an image has been changed around each pixel, as a factor between 0 and 1: the hyperbolic tangent of ``slope``
    times the root mean square over the channels and a square of ``size`` by ``size`` pixels, the part of it inside the image.

    A network that adds to a linear estimate multiplies with it what it adds: where the estimate took nothing away from the
    image there was nothing to restore, and nothing is added.

    Args:
        size: odd, 1 to 1,023. Default 9.
        slope: above 0 up to 1e6. Default 30: a change of 0.02 gives 0.54, one of 0.1 gives 0.995.

    Input: ``(batch, height, width, channels)``, the difference of two images in units of [0, 1].
    Output: ``(batch, height, width, 1)``.

    Raises ``ValueError`` for an argument out of range.
    """

    # Added to the mean square, whose root has no derivative at zero: a fiftieth of what rounding to 8 bits leaves.
    FLOOR = 1e-7

    def __init__(self, size=9, slope=30.0, **kwargs):
        super().__init__(**kwargs)
        self.size = int(checks.number(size, "size", 1, 1023, whole=True))
        if self.size % 2 == 0:
            raise ValueError(f"size must be odd, got {size}")
        self.slope = float(checks.number(slope, "slope", 0, 1e6, above_low=True))

    def call(self, change):
        square = ops.mean(ops.square(change), axis=-1, keepdims=True)
        around = ops.average_pool(square, self.size, strides=1, padding="same")
        return ops.tanh(self.slope * ops.sqrt(around + self.FLOOR))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:3], 1)

    def get_config(self):
        return {**super().get_config(), "size": self.size, "slope": self.slope}


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class DepthToSpace(keras.layers.Layer):
    """Moves channels to positions: the sub-pixel upsampling of Shi et al. (2016).

    Input: ``(batch, height, width, channels)``, channels a multiple of ``factor ** 2``; width and channels known. Output:
    ``(batch, height * factor, width * factor, channels / factor ** 2)``. ``factor`` is 1 to 64, by default 2.

    Raises ``ValueError`` for an argument out of range, or channels that do not divide.
    """

    def __init__(self, factor=2, **kwargs):
        super().__init__(**kwargs)
        self.factor = int(checks.number(factor, "factor", 1, 64, whole=True))

    def call(self, features):
        _, height, width, channels = self.compute_output_shape(features.shape)
        rows = features.shape[1] if features.shape[1] is not None else ops.shape(features)[1]
        blocks = ops.reshape(features, (-1, rows, width // self.factor, self.factor, self.factor, channels))
        blocks = ops.transpose(blocks, (0, 1, 3, 2, 4, 5))
        return ops.reshape(blocks, (-1, rows * self.factor, width, channels))

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}

    def compute_output_shape(self, input_shape):
        if len(input_shape) != 4 or None in tuple(input_shape)[2:] or input_shape[3] % self.factor**2:
            wanted = f"(batch, height, width, a multiple of {self.factor**2}) with a known width"
            raise ValueError(f"DepthToSpace needs {wanted}, got {tuple(input_shape)}")
        batch, height, width, channels = input_shape
        height = height * self.factor if height is not None else None
        return (batch, height, width * self.factor, channels // self.factor**2)
