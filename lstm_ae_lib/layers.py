"""Keras layers of the study, with ``keras.ops`` only, for every backend; :mod:`lstm_ae_lib.fast` holds what is faster on one."""

import math

import numpy as np

from lstm_ae_lib import checks, degradations, fast
from lstm_ae_lib._backend import WIDE_FLOAT, keras

ops = keras.ops


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class ImageToRows(keras.layers.Layer):
    """An image as a sequence of its rows: the row index becomes time.

    Input: ``(batch, height, width, channels)``, width and channels known (``ValueError``). Output: ``(batch, height, width *
    channels)``.
    """

    def call(self, images):
        _, _, features = self.compute_output_shape(images.shape)
        return ops.reshape(images, (-1, ops.shape(images)[1], features))

    def compute_output_shape(self, input_shape):
        if len(input_shape) != 4 or None in tuple(input_shape)[2:]:
            raise ValueError(f"ImageToRows needs (batch, height, width, channels) with a known width, got {tuple(input_shape)}")
        batch, height, width, channels = input_shape
        return (batch, height, width * channels)


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class RowsToImage(keras.layers.Layer):
    """A sequence of rows as an image: undoes :class:`ImageToRows`.

    Input: ``(batch, height, width * channels)``. Output: ``(batch, height, width, channels)``.
    Raises ``ValueError`` unless ``channels`` is from 1 to 4,096 and divides the length of a row.
    """

    def __init__(self, channels=3, **kwargs):
        super().__init__(**kwargs)
        self.channels = int(checks.number(channels, "channels", 1, 4096, whole=True))

    def call(self, rows):
        _, _, width, channels = self.compute_output_shape(rows.shape)
        return ops.reshape(rows, (-1, ops.shape(rows)[1], width, channels))

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

    It is Keras' layer (cuDNN's on a GPU) where :func:`lstm_ae_lib.fast.kernels` has none, with a mask, and for what
    :func:`lstm_ae_lib.fast.lstm.is_supported` refuses. The fast path has a first derivative only.

    Input: ``(batch, steps, features)``. Output: ``(batch, units)``, or ``(batch, steps, units)`` with ``return_sequences``.
    """

    def inner_loop(self, sequences, initial_state, mask, training=False):
        kernels = fast.kernels("lstm")
        if mask is not None or not kernels or not kernels.is_supported(sequences, self.cell, sequences.shape[1]):
            return super().inner_loop(sequences, initial_state, mask, training=training)
        if training and self.dropout:
            # As Keras does it: one mask, the same for every step.
            sequences = sequences * ops.expand_dims(self.cell.get_dropout_mask(sequences[:, 0, :]), 1)
        options = [self.go_backwards], [tuple(initial_state)], self.return_sequences
        outputs, [(h, c)] = kernels.sweep(sequences, 1, [self.cell], *options)
        if self.go_backwards and self.return_sequences:
            outputs = ops.flip(outputs, 1)  # Keras returns them in the order in which they were made
        return h, outputs, [h, c]

    def get_config(self):
        return {**super().get_config(), "use_cudnn": self.use_cudnn}  # which Keras leaves out


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class LSTMSweep(keras.layers.Layer):
    """A bidirectional LSTM over the positions of an image: every row, or every column, is a sequence of its own.

    Two of them, one along each axis, let every position see the whole image (Visin et al., "ReNet: A Recurrent Neural Network
    Based Alternative to Convolutional Networks", 2015). Results and weights are those of ``Bidirectional(LSTM)`` over the
    reshaped and transposed image; where :class:`FastLSTM` is fast, nothing is reshaped or transposed.

    Args:
        units: hidden units of each direction, 1 to 65,536.
        along: ``"rows"`` (from left to right and back) or ``"columns"`` (from top to bottom and back).

    Input: ``(batch, height, width, channels)``. Output: ``(batch, height, width, 2 * units)``, the forward direction first.
    Raises ``ValueError`` for an argument out of range, or an input that is no batch of images.
    """

    def __init__(self, units, along="rows", **kwargs):
        super().__init__(**kwargs)
        self.units = int(checks.number(units, "units", 1, 65536, whole=True))
        self.along = checks.choice(along, "along", ("rows", "columns"))
        options = {"return_sequences": True, "dtype": self.dtype_policy}
        ways = {"forward": False, "backward": True}
        self.sweeps = [FastLSTM(self.units, name=way, go_backwards=back, **options) for way, back in ways.items()]

    def build(self, input_shape):
        self.compute_output_shape(input_shape)
        for sweep in self.sweeps:
            sweep.build((None, None, input_shape[-1]))

    def call(self, images):
        axis = 2 if self.along == "rows" else 1
        kernels, cells = fast.kernels("lstm"), [sweep.cell for sweep in self.sweeps]
        if kernels and kernels.is_supported(images, cells[0], images.shape[axis]):
            return kernels.sweep(images, axis, cells, [False, True])[0]
        if self.along == "columns":
            images = ops.transpose(images, (0, 2, 1, 3))
        _, lines, length, channels = ops.shape(images)
        sequences = ops.reshape(images, (-1, length, channels))
        forward, backward = (sweep(sequences) for sweep in self.sweeps)
        outputs = ops.reshape(ops.concatenate([forward, ops.flip(backward, 1)], -1), (-1, lines, length, 2 * self.units))
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
    """Gated linear recurrence along image rows and columns: an LSTM whose gate sees the input only (minLSTM: Feng et al.,
    "Were RNNs All We Needed?", 2024).

    ``h[t] = a[t] * h[t-1] + (1 - |a[t]|) * v[t]``, with the forget gate ``a = tanh(W_a x[t] + b_a)`` and the candidate
    ``v = W_v x[t] + b_v``, for each unit by itself, in float32 at least: a recursive filter whose coefficient each position
    sets anew. A coefficient between 0 and 1, as in the paper, only smooths; undoing a blur takes negative ones too.

    Args:
        units: units of each way, 1 to 65,536.
        along: ``"rows"`` (from left to right and back), ``"columns"`` (from top to bottom and back) or ``"both"`` (four ways).
        positive: coefficients between 0 and 1 (a sigmoid) instead of between -1 and 1.

    Weights: ``kernel`` ``(channels, ways * 2 * units)`` and ``bias``: gate and candidate for each way.
    Input: ``(batch, height, width, channels)``. Output: ``(batch, height, width, ways * units)``: rows forwards, rows
    backwards, columns forwards, columns backwards. Raises as :class:`LSTMSweep`.
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

    def _initial(self, shape, dtype=None):
        # Each gate and each candidate is a product of its own: how many stand side by side must not change their scale.
        draw, parts = keras.initializers.GlorotUniform, range(shape[1] // self.units)
        return ops.concatenate([draw()((shape[0], self.units), dtype) for _ in parts], -1)

    def project(self, images):  # one large product; with matmul, TensorFlow makes one a line, and a gradient of the kernel for each
        return ops.tensordot(images, self.kernel, axes=1) + self.bias

    def call(self, images):
        ways, projected = self.WAYS[self.along], self.project(images)
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
    """
    before, steps = (slice(None),) * axis, factors.shape[axis]

    def earlier(values, distance):
        zeros = ops.zeros_like(values[(*before, slice(None, distance))])
        kept = values[(*before, slice(distance, None) if reverse else slice(None, -distance))]
        return ops.concatenate([kept, zeros] if reverse else [zeros, kept], axis)

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
    """One half of the channels times the other (Chen et al., "Simple Baselines for Image Restoration", 2022).

    Input: ``(..., channels)``, an even number (``ValueError``). Output: ``(..., channels / 2)``.
    """

    def call(self, features):
        self.compute_output_shape(features.shape)
        return ops.multiply(*ops.split(features, 2, axis=-1))

    def compute_output_shape(self, input_shape):
        if input_shape[-1] is None or input_shape[-1] % 2:
            raise ValueError(f"SimpleGate needs an even number of channels, got {tuple(input_shape)}")
        return (*input_shape[:-1], input_shape[-1] // 2)


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class ChannelScale(keras.layers.Layer):
    """Multiplies each channel by a weight of its own: ``scale`` ``(channels,)``, at first ``initial``, -1,000 to 1,000
    (``ValueError``). At 0 a residual branch begins silent. Input and output: ``(..., channels)``."""

    def __init__(self, initial=0.0, **kwargs):
        super().__init__(**kwargs)
        self.initial = float(checks.number(initial, "initial", -1000, 1000))

    def build(self, input_shape):
        self.scale = self.add_weight((input_shape[-1],), keras.initializers.Constant(self.initial), name="scale")

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
    """How far an image has been changed around each pixel, from 0 to 1: ``tanh(slope * RMS)``, the root mean square over the
    channels and ``size`` by ``size`` pixels. With it a network adds nothing where a linear estimate took nothing away.

    Args:
        size: odd, 1 to 1,023.
        slope: above 0 up to 1e6. At 30 a change of 0.02 gives 0.54, one of 0.1 gives 0.995.

    Input: ``(batch, height, width, channels)``, the difference of two images in units of [0, 1]. Output: ``(batch, height,
    width, 1)``. Raises ``ValueError`` for an argument out of range.
    """

    FLOOR = 1e-7  # on the mean square, whose root has no derivative at 0: a fiftieth of what rounding to 8 bits leaves

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

    Input: ``(batch, height, width, channels)``, width and channels known. Output: ``(batch, height * factor, width * factor,
    channels / factor ** 2)``. Raises ``ValueError`` unless ``factor`` is from 1 to 64, and its square divides the channels.
    """

    def __init__(self, factor=2, **kwargs):
        super().__init__(**kwargs)
        self.factor = int(checks.number(factor, "factor", 1, 64, whole=True))

    def call(self, features):
        _, _, width, channels = self.compute_output_shape(features.shape)
        rows, side = ops.shape(features)[1], self.factor
        blocks = ops.reshape(features, (-1, rows, width // side, side, side, channels))
        return ops.reshape(ops.transpose(blocks, (0, 1, 3, 2, 4, 5)), (-1, rows * side, width, channels))

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}

    def compute_output_shape(self, input_shape):
        if len(input_shape) != 4 or None in tuple(input_shape)[2:] or input_shape[3] % self.factor**2:
            wanted = f"(batch, height, width, a multiple of {self.factor**2}) with a known width"
            raise ValueError(f"DepthToSpace needs {wanted}, got {tuple(input_shape)}")
        batch, height, width, channels = input_shape
        return (batch, height and height * self.factor, width * self.factor, channels // self.factor**2)


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class GaussianBlur(keras.layers.Layer):
    """Gaussian blur of images, with the border, the kernel size and the rounding of SciPy or of OpenCV.

    Each axis is one product with a fixed matrix, at these sizes faster than a convolution. Input: ``(batch, height, width, 3)`` in
    [0, 1], or uint8; height and width must be known (``ValueError``). Output: float in [0, 1], same shape.

    Args:
        sigma: standard deviation in pixels, above 0, at most 64.
        border: ``"reflect_101"`` (OpenCV) or ``"reflect"`` (SciPy).
        mix_channels: blur across the three colours too, as ``scipy.ndimage.gaussian_filter`` does with one scalar sigma.
        rounding: None for the linear operator; ``"opencv"`` for its fixed-point arithmetic (weights in 256ths, rounded once; the
            same pixels); ``"truncate"`` for SciPy's, cut to whole grey levels after each axis (the same pixels in float64; in
            float32, as on JAX, one level off in a few pixels of 10,000).
    """

    def __init__(self, sigma, border="reflect_101", mix_channels=False, rounding=None, **kwargs):
        super().__init__(**kwargs)
        self.sigma = float(checks.number(sigma, "sigma", 0, degradations.LARGEST_SIGMA, above_low=True))
        self.border = checks.choice(border, "border", degradations.BORDERS)
        self.mix_channels = checks.choice(mix_channels, "mix_channels", (True, False))
        self.rounding = checks.choice(rounding, "rounding", (None, "opencv", "truncate"))
        if rounding == "opencv" and (border != "reflect_101" or mix_channels):
            raise ValueError("rounding 'opencv' needs border 'reflect_101' and mix_channels False")

    def build(self, input_shape):
        _, height, width, channels = input_shape
        if height is None or width is None or channels != 3:
            raise ValueError(f"GaussianBlur needs images (batch, height, width, 3) of a known size, got {tuple(input_shape)}")
        exact = self.rounding == "opencv"
        taps = degradations.opencv_taps_in_256ths(self.sigma) if exact else degradations.kernel_taps(self.sigma, self.border)
        rows, columns = (degradations.blur_matrix(size, taps, self.border) for size in (height, width))
        self._products = [("ij,bjwc->biwc", rows), ("ij,bhjc->bhic", columns)]
        if width * channels <= 128 and self.rounding != "truncate":
            # On small images, multiplying by the zeros between the colours costs less than transposing.
            self._products[1] = (None, np.kron(columns.T, np.eye(channels)))
        if self.mix_channels:
            self._products.append(("ij,bhwj->bhwi", degradations.blur_matrix(channels, taps, self.border)))
        self.built = True

    def call(self, images):
        grey = keras.backend.standardize_dtype(images.dtype) == "uint8"
        if self.rounding is None:
            return self._blur_axes(ops.cast(images, self.compute_dtype) / 255.0 if grey else images)
        # Whole grey levels: exact in float32 for OpenCV's integer weights (sums below 2**24); SciPy adds in float64.
        dtype = WIDE_FLOAT if self.rounding == "truncate" else "float32"
        levels = self._blur_axes(ops.cast(images if grey else ops.round(ops.cast(images, "float32") * 255.0), dtype))
        levels = ops.floor(levels / 65536.0 + 0.5) if self.rounding == "opencv" else levels
        return ops.cast(ops.cast(levels, "float32") / 255.0, self.compute_dtype)

    def _blur_axes(self, values):
        dtype = keras.backend.standardize_dtype(values.dtype)
        for equation, matrix in self._products:
            shape, matrix = (-1, *values.shape[1:]), ops.convert_to_tensor(matrix, dtype)
            values = ops.reshape(values, (-1, matrix.shape[0])) if equation is None else values
            values = ops.matmul(values, matrix) if equation is None else ops.einsum(equation, matrix, values)
            values = ops.reshape(values, shape)
            if self.rounding == "truncate":
                # A whole sum may come out a hair below. By way of int32: on PyTorch, ops.floor takes float64 down to float32.
                values = ops.cast(ops.cast(values + (1e-9 if dtype == "float64" else 1e-4), "int32"), dtype)
        return values

    def get_config(self):
        return super().get_config() | {name: getattr(self, name) for name in ("sigma", "border", "mix_channels", "rounding")}

    def compute_output_shape(self, input_shape):
        return input_shape
