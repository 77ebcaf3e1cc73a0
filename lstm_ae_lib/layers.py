"""Keras layers of the study: they shape or transform tensors, with weights or without. ``keras.ops`` only, so they run on
every Keras backend; what is faster on one of them is in :mod:`lstm_ae_lib.kernels`."""

import math
import re

import numpy as np

from lstm_ae_lib import checks, kernels
from lstm_ae_lib._backend import keras

ops = keras.ops


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class ImageToRows(keras.layers.Layer):
    """An image as a sequence of its rows: the row index becomes time.

    Input: ``(batch, height, width, channels)``. Output: ``(batch, height, width * channels)``. Width and channels must be
    known; the height, which is the number of time steps, need not be.

    Raises:
        ValueError: the input is no batch of images, or its width is unknown.

    Example:
        >>> ImageToRows()(np.zeros((2, 32, 32, 3), "float32")).shape
        TensorShape([2, 32, 96])
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

    Args:
        channels: channels of the image, at least 1. Default 3.

    Input: ``(batch, height, width * channels)``. Output: ``(batch, height, width, channels)``.

    Raises:
        ValueError: ``channels`` is out of range, or does not divide the length of a row.

    Example:
        >>> RowsToImage()(np.zeros((2, 32, 96), "float32")).shape
        TensorShape([2, 32, 32, 3])
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
            raise ValueError(
                f"RowsToImage needs (batch, height, width * {self.channels}) with a known row length, got {tuple(input_shape)}"
            )
        batch, height, features = input_shape
        return (batch, height, features // self.channels, self.channels)


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class FastLSTM(keras.layers.LSTM):
    """:class:`keras.layers.LSTM`, faster on a CPU with TensorFlow: the same arguments, weights, states and results.

    The weights have Keras' layout, so ``set_weights`` and weight files move them both ways. Where there is no fast path
    (another backend, a GPU, a mask, another dtype than float32, other activations, recurrent dropout, more than
    :data:`lstm_ae_lib.kernels.MAX_STEPS` steps or an unknown number) it is Keras' layer, which on a GPU is cuDNN's. The
    fast path has a first derivative only, and XLA cannot compile it (Keras knows: ``supports_jit`` is False).

    Args:
        units: hidden units.
        **kwargs: everything else that :class:`keras.layers.LSTM` takes.

    Input: ``(batch, steps, features)``. Output: ``(batch, units)``, or ``(batch, steps, units)`` with
    ``return_sequences``.

    Example:
        >>> FastLSTM(8, return_sequences=True)(np.zeros((2, 32, 96), "float32")).shape
        TensorShape([2, 32, 8])
    """

    def inner_loop(self, sequences, initial_state, mask, training=False):
        if mask is not None or not kernels.applies(sequences, self.cell, sequences.shape[1]):
            return super().inner_loop(sequences, initial_state, mask, training=training)
        self.supports_jit = False
        if training and self.dropout:
            # As Keras does it: one mask, the same for every step.
            sequences = sequences * ops.expand_dims(self.cell.get_dropout_mask(sequences[:, 0, :]), 1)
        outputs, [(h, c)] = kernels.sweep(
            sequences, 1, [self.cell], [self.go_backwards], [tuple(initial_state)], self.return_sequences
        )
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
    computes, with the same weights in the same order, but on a CPU with TensorFlow it neither reshapes nor transposes,
    and small sizes run in loops compiled with Numba (:mod:`lstm_ae_lib.compiled`); such a layer can be saved, but not exported
    as a SavedModel.

    Args:
        units: hidden units of each direction, 1 to 65,536.
        along: ``"rows"`` (from left to right and back) or ``"columns"`` (from top to bottom and back).

    Input: ``(batch, height, width, channels)``. Output: ``(batch, height, width, 2 * units)``, first the sweep that goes
    forwards.

    Raises:
        ValueError: an argument out of range, or an input that is no batch of images.

    Example:
        >>> LSTMSweep(8, "columns")(np.zeros((2, 32, 32, 3), "float32")).shape
        TensorShape([2, 32, 32, 16])
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
        cells = [sweep.cell for sweep in self.sweeps]
        if kernels.applies(images, cells[0], images.shape[axis]):
            self.supports_jit = False
            return kernels.sweep_image(images, axis, cells, [False, True])
        if self.along == "columns":
            images = ops.transpose(images, (0, 2, 1, 3))
        _, lines, length, channels = images.shape
        shape = ops.shape(images)
        sequences = ops.reshape(images, (-1, length if length is not None else shape[2], channels))
        forward, backward = (sweep(sequences) for sweep in self.sweeps)
        outputs = ops.concatenate([forward, ops.flip(backward, 1)], -1)
        outputs = ops.reshape(outputs, (-1, lines or shape[1], length or shape[2], 2 * self.units))
        return ops.transpose(outputs, (0, 2, 1, 3)) if self.along == "columns" else outputs

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

    ``h[t] = a[t] * h[t-1] + (1 - |a[t]|) * v[t]``, with ``a = tanh(W_a x[t] + b_a)`` and ``v = W_v x[t] + b_v``, for each unit
    by itself. It is a recursive filter whose coefficient each position sets anew. A coefficient between 0 and 1, as in the
    paper, only smooths; undoing a blur takes negative ones too, which the tanh allows (``positive`` turns them off).

    On a CPU with TensorFlow the recurrence runs in loops compiled with Numba (:mod:`lstm_ae_lib.compiled`); such a layer
    can be saved, but not exported as a SavedModel.

    Args:
        units: units of each way, 1 to 65,536.
        along: ``"rows"`` (from left to right and back), ``"columns"`` (from top to bottom and back) or ``"both"`` (four ways).
            Default ``"both"``.
        positive: coefficients between 0 and 1 (a sigmoid) instead of between -1 and 1. Default False.

    Weights: ``kernel`` ``(channels, ways * 2 * units)`` and ``bias``: gate and candidate for each way.

    Input: ``(batch, height, width, channels)``. Output: ``(batch, height, width, ways * units)``: rows forwards, rows
    backwards, columns forwards, columns backwards. The length of a line must be known to run on other backends or a GPU.

    Raises:
        ValueError: an argument out of range, or an input that is no batch of images.

    Example:
        >>> GatedScan(8)(np.zeros((2, 32, 32, 3), "float32")).shape
        TensorShape([2, 32, 32, 32])
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
        if kernels.scan_applies(projected):
            self.supports_jit = False
            return kernels.scan_image(projected, self.units, ways, self.positive)
        swept = []
        for part, (axis, reverse) in zip(ops.split(projected, len(ways), axis=-1), ways, strict=True):
            length = images.shape[axis]
            if length is None:
                raise ValueError(f"GatedScan needs lines of a known length on this backend, got {tuple(images.shape)}")
            gate, candidate = ops.split(part, 2, axis=-1)
            keep = ops.sigmoid(gate) if self.positive else ops.tanh(gate)
            enter = (1 - ops.abs(keep)) * candidate
            states = [None] * length
            state = ops.zeros_like(ops.take(enter, 0, axis))
            for t in range(length - 1, -1, -1) if reverse else range(length):
                state = ops.take(keep, t, axis) * state + ops.take(enter, t, axis)
                states[t] = state
            swept.append(ops.stack(states, axis))
        return ops.concatenate(swept, -1)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "along": self.along, "positive": self.positive}

    def compute_output_shape(self, input_shape):
        if len(input_shape) != 4 or input_shape[3] is None:
            raise ValueError(f"GatedScan needs (batch, height, width, channels) with known channels, got {tuple(input_shape)}")
        return (*input_shape[:3], self.units * len(self.WAYS[self.along]))


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class ConvLSTMStep(keras.layers.Layer):
    """One step of a convolutional LSTM: gates by a convolution over input and state (Shi et al., "Convolutional LSTM Network",
    2015; without the peepholes).

    Keras' ``ConvLSTM2D`` runs over a sequence that is known beforehand; a network that looks at its own last answer calls
    this layer once an iteration, with the same weights.

    Args:
        filters: channels of the state, 1 to 65,536.
        kernel_size: 1 to 31, odd. Default 3.

    Weights: ``kernel`` ``(kernel_size, kernel_size, channels + filters, 4 * filters)`` and ``bias`` ``(4 * filters,)``; the gates
    in Keras' order (input, forget, cell, output), the forget gate's bias 1 at first.

    Input: ``(batch, height, width, channels + 2 * filters)``, the features and behind them the state, hidden and cell. Output:
    the new state ``(batch, height, width, 2 * filters)``.

    Raises:
        ValueError: an argument out of range, or an input without room for features and state.

    Example:
        >>> ConvLSTMStep(8)(np.zeros((2, 32, 32, 3 + 16), "float32")).shape
        TensorShape([2, 32, 32, 16])
    """

    def __init__(self, filters, kernel_size=3, **kwargs):
        super().__init__(**kwargs)
        self.filters = int(checks.number(filters, "filters", 1, 65536, whole=True))
        self.kernel_size = int(checks.number(kernel_size, "kernel_size", 1, 31, whole=True))
        if not self.kernel_size % 2:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")

    def build(self, input_shape):
        self.compute_output_shape(input_shape)
        side, channels = self.kernel_size, input_shape[-1] - self.filters
        self.kernel = self.add_weight(name="kernel", shape=(side, side, channels, 4 * self.filters), initializer="glorot_uniform")
        self.bias = self.add_weight(name="bias", shape=(4 * self.filters,), initializer=self._initial_bias)
        self.built = True

    def _initial_bias(self, shape, dtype=None):
        forget = np.zeros(shape)
        forget[self.filters : 2 * self.filters] = 1
        return ops.convert_to_tensor(forget, dtype)

    def call(self, inputs):
        gates = ops.conv(inputs[..., : -self.filters], self.kernel, padding="same") + self.bias
        enter, keep, new, leave = ops.split(gates, 4, axis=-1)
        cell = ops.sigmoid(keep) * inputs[..., -self.filters :] + ops.sigmoid(enter) * ops.tanh(new)
        return ops.concatenate([ops.sigmoid(leave) * ops.tanh(cell), cell], -1)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "kernel_size": self.kernel_size}

    def compute_output_shape(self, input_shape):
        if len(input_shape) != 4 or input_shape[-1] is None or input_shape[-1] <= 2 * self.filters:
            raise ValueError(
                f"ConvLSTMStep needs (batch, height, width, more than {2 * self.filters} channels), got {tuple(input_shape)}"
            )
        return (*input_shape[:3], 2 * self.filters)


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class SimpleGate(keras.layers.Layer):
    """Halves the channels by multiplying one half with the other: a gate without an activation function (Chen et al.,
    "Simple Baselines for Image Restoration", 2022).

    Input: ``(..., channels)``, an even number. Output: ``(..., channels / 2)``.

    Raises:
        ValueError: an odd or unknown number of channels.

    Example:
        >>> SimpleGate()(np.ones((1, 4, 4, 6), "float32")).shape
        TensorShape([1, 4, 4, 3])
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
    """Multiplies each channel with a weight of its own, which begins at ``initial``; at 0 a residual branch begins silent.

    Args:
        initial: any finite number of magnitude up to 1,000. Default 0.

    Weights: ``scale`` ``(channels,)``.

    Input and output: ``(..., channels)``.

    Raises:
        ValueError: ``initial`` out of range.
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

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> ChangeGate()(np.zeros((2, 8, 8, 3), "float32")).shape
        TensorShape([2, 8, 8, 1])
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

    Args:
        factor: by which height and width grow, 1 to 64. Default 2.

    Input: ``(batch, height, width, channels)``, channels a multiple of ``factor ** 2``; width and channels known. Output:
    ``(batch, height * factor, width * factor, channels / factor ** 2)``.

    Raises:
        ValueError: an argument out of range, or channels that do not divide.

    Example:
        >>> DepthToSpace()(np.zeros((1, 4, 4, 12), "float32")).shape
        TensorShape([1, 8, 8, 3])
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
            raise ValueError(
                f"DepthToSpace needs (batch, height, width, a multiple of {self.factor**2}) with a known width, "
                f"got {tuple(input_shape)}"
            )
        batch, height, width, channels = input_shape
        height = height * self.factor if height is not None else None
        return (batch, height, width * self.factor, channels // self.factor**2)


def cosine_basis(size: int, transform: str) -> tuple[np.ndarray, np.ndarray]:
    """A cosine transform along one axis, and its inverse, as matrices.

    Args:
        size: samples along the axis, at least 2.
        transform: ``"dct1"`` (whole-sample symmetric borders, OpenCV's BORDER_REFLECT_101) or ``"dct2"`` (half-sample
            symmetric, SciPy's ``reflect``).

    Returns:
        (numpy.ndarray, numpy.ndarray): ``(size, size)`` float64, forward and inverse; their product is the identity. A
        symmetric blur with the matching border is diagonal between them. Both are scaled to be orthogonal up to the
        border samples (exactly orthogonal for ``"dct2"``).
    """
    checks.number(size, "size", 2, 65536, whole=True)
    checks.choice(transform, "transform", ("dct1", "dct2"))
    index = np.arange(size)
    if transform == "dct2":
        forward = np.cos(np.pi * index[:, None] * (2 * index[None, :] + 1) / (2 * size)) * math.sqrt(2 / size)
        forward[0] /= math.sqrt(2)
        return forward, forward.T.copy()
    cosines = np.cos(np.pi * index[:, None] * index[None, :] / (size - 1))
    ends = np.where((index == 0) | (index == size - 1), 0.5, 1.0)
    scale = math.sqrt(2 / (size - 1))
    return scale * cosines * ends[None, :], scale * cosines * ends[None, :]


class _Spectral(keras.layers.Layer):
    """What layers share that work on the cosine transform of an image whose size is known when they are built."""

    def __init__(self, transform="dct1", **kwargs):
        super().__init__(**kwargs)
        self.transform = checks.choice(transform, "transform", ("dct1", "dct2"))

    def _set_size(self, input_shape):
        _, height, width, channels = input_shape
        if height is None or width is None or channels != 3:
            raise ValueError(
                f"{type(self).__name__} needs images (batch, height, width, 3) of a known size, got {tuple(input_shape)}"
            )
        self._rows, self._columns = cosine_basis(height, self.transform), cosine_basis(width, self.transform)
        return height, width

    def _transform(self, values, direction):
        rows = ops.convert_to_tensor(self._rows[direction], self.compute_dtype)
        columns = ops.convert_to_tensor(self._columns[direction], self.compute_dtype)
        return ops.einsum("jw,biwc->bijc", columns, ops.einsum("ih,bhwc->biwc", rows, values))

    def get_config(self):
        return {**super().get_config(), "transform": self.transform}

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class SpectralWiener(_Spectral):
    """A linear restoration filter: for each frequency of a cosine transform one 3x3 matrix that mixes the colours.

    With its weights fitted by :func:`lstm_ae_lib.classical.fit_linear_filter` this is the linear minimum mean square error
    (LMMSE) estimate among all filters that are diagonal in the transform: the Wiener filter of the data set. As built it
    is the identity.

    Args:
        transform: ``"dct1"`` or ``"dct2"``, whichever matches the border of the blur; see :func:`cosine_basis`.
        trainable: default True.

    Weights: ``filter`` ``(height, width, 3, 3)``, degraded colours to restored ones, and ``offset`` ``(height, width, 3)``,
    what is added in the transform domain (it undoes a bias such as the truncation's).

    Input and output: ``(batch, height, width, 3)``, height and width fixed when the layer is built. The output is not
    clipped.

    Raises:
        ValueError: an unknown transform, or an image size that is unknown.

    Example:
        >>> SpectralWiener("dct1")(np.zeros((2, 32, 32, 3), "float32")).shape
        TensorShape([2, 32, 32, 3])
    """

    def build(self, input_shape):
        height, width = self._set_size(input_shape)
        identity = lambda shape, dtype: ops.zeros(shape, dtype) + ops.eye(3, dtype=dtype)  # noqa: E731
        self.filter = self.add_weight(name="filter", shape=(height, width, 3, 3), initializer=identity)
        self.offset = self.add_weight(name="offset", shape=(height, width, 3), initializer="zeros")
        self.built = True

    def call(self, images):
        spectrum = self._transform(images, 0)
        restored = ops.einsum("bhwc,hwcd->bhwd", spectrum, self.filter) + self.offset
        return self._transform(restored, 1)


def frequency_bands(height: int, width: int, transform: str, bands: int) -> np.ndarray:
    """Rings of frequencies alike in wavelength, as the matrix that takes the mean over each.

    Args:
        height, width: of the image, at least 2.
        transform: ``"dct1"`` or ``"dct2"``.
        bands: how many rings between no frequency and the highest diagonal one, at least 1.

    Returns:
        numpy.ndarray: ``(height, width, bands)``. The mean brightness belongs to no ring; a ring that has no frequency at
        this size is zero.
    """
    checks.number(bands, "bands", 1, 4096, whole=True)
    checks.choice(transform, "transform", ("dct1", "dct2"))
    # Half periods a pixel, from 0 to 1: the same ring means the same wavelength at every image size.
    rows, columns = (np.arange(size) / (size - 1 if transform == "dct1" else size) for size in (height, width))
    radius = np.sqrt((rows[:, None] ** 2 + columns**2) / 2)
    ring = np.minimum((radius * bands).astype(int), bands - 1)
    member = (ring[..., None] == np.arange(bands)).astype(float)
    member[0, 0] = 0
    return member / np.maximum(member.sum((0, 1)), 1)


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class SpectralMixture(_Spectral):
    """Several linear restoration filters, mixed for each image by what its own spectrum says about its degradation.

    One filter cannot restore images that are blurred by different and unknown amounts: what sharpens one spoils the next.
    But the amount can be read off the image: the energy of its frequencies falls with the blur. The layer takes the
    logarithm of the energy in rings of frequencies, in brightness and in colour; from these numbers a linear map and a
    softmax give the share of each filter (linear discriminant analysis, where
    :func:`lstm_ae_lib.classical.fit_linear_mixture` has fitted it); the image is filtered by their mixture. Filters act on
    brightness and two colour differences, each by itself. As built the layer is the identity.

    Args:
        transform: ``"dct1"`` or ``"dct2"``, whichever matches the border of the blur; see :func:`cosine_basis`.
        parts: filters, 1 to 1,024. Default 12.
        bands: rings of frequencies, 1 to 4,096. Default 24.
        trainable: default True.

    Weights: ``filters`` and ``offsets`` ``(parts, height, width, 3)``, ``kernel`` ``(2 * bands, parts)``, ``bias``
    ``(parts,)``.

    Input and output: ``(batch, height, width, 3)``, height and width fixed when the layer is built. The output is not
    clipped.

    Raises:
        ValueError: an argument out of range, or an image size that is unknown.

    Example:
        >>> SpectralMixture("dct1", parts=4)(np.zeros((2, 32, 32, 3), "float32")).shape
        TensorShape([2, 32, 32, 3])
    """

    # Added to energies before the logarithm: a third of the variance that rounding to 8 bits leaves at each frequency.
    FLOOR = 4e-7

    def __init__(self, transform="dct1", parts=12, bands=24, **kwargs):
        super().__init__(transform, **kwargs)
        self.parts = checks.number(parts, "parts", 1, 1024, whole=True)
        self.bands = checks.number(bands, "bands", 1, 4096, whole=True)

    def build(self, input_shape):
        height, width = self._set_size(input_shape)
        self._means = frequency_bands(height, width, self.transform, self.bands)
        self._colours = cosine_basis(3, "dct2")[0]
        self.filters = self.add_weight(name="filters", shape=(self.parts, height, width, 3), initializer="ones")
        self.offsets = self.add_weight(name="offsets", shape=(self.parts, height, width, 3), initializer="zeros")
        self.kernel = self.add_weight(name="kernel", shape=(2 * self.bands, self.parts), initializer="zeros")
        self.bias = self.add_weight(name="bias", shape=(self.parts,), initializer="zeros")
        self.built = True

    def call(self, images):
        colours = ops.convert_to_tensor(self._colours, self.compute_dtype)
        spectrum = ops.einsum("dc,bhwc->bhwd", colours, self._transform(images, 0))
        shares = ops.softmax(self.features(spectrum) @ self.kernel + self.bias)
        mixed = [ops.einsum("bp,phwc->bhwc", shares, weight) for weight in (self.filters, self.offsets)]
        return self._transform(ops.einsum("dc,bhwd->bhwc", colours, mixed[0] * spectrum + mixed[1]), 1)

    def features(self, spectrum):
        """What the mixture is judged by: ``(batch, height, width, 3)``, the transform of brightness and colour differences ->
        ``(batch, 2 * bands)``, the logarithm of their energy in each ring."""
        means = ops.convert_to_tensor(self._means, self.compute_dtype)
        energy = ops.einsum("bhwc,hwk->bck", spectrum * spectrum, means)
        energy = ops.concatenate([energy[:, 0], (energy[:, 1] + energy[:, 2]) / 2], axis=-1)
        return ops.log(energy + self.FLOOR)

    def get_config(self):
        return {**super().get_config(), "parts": self.parts, "bands": self.bands}


def linear_layer(linear_start: str, **options):
    """The layer that a network starts from, as the builders name it.

    Args:
        linear_start: ``"dct1"`` or ``"dct2"``: one :class:`SpectralWiener`; with a number, such as ``"dct1x12"``, a
            :class:`SpectralMixture` of so many filters.
        **options: name, dtype and the like.

    Raises:
        ValueError: anything else.
    """
    found = re.fullmatch(r"(dct[12])(?:x([1-9]\d{0,3}))?", linear_start) if isinstance(linear_start, str) else None
    if not found:
        raise ValueError(
            f"linear_start must be dct1 or dct2, with a number of filters behind it (dct1x12) a mixture, or empty, "
            f"got {linear_start!r}"
        )
    transform, parts = found.groups()
    return SpectralMixture(transform, int(parts), **options) if parts else SpectralWiener(transform, **options)


def slowest_frequencies(height: int, width: int, count: int) -> np.ndarray:
    """Which numbers of an image's cosine transform to keep, when not all can be: the slowest first, brightness before colour.

    Args:
        height, width: of the image, at least 2.
        count: how many, 1 to height x width x 3.

    Returns:
        numpy.ndarray: ``(count,)`` positions in the flattened ``(height, width, 3)`` of brightness and two colour differences.
    """
    checks.number(count, "latent", 1, height * width * 3, whole=True)
    rows, columns = np.arange(height)[:, None, None] / height, np.arange(width)[:, None] / width
    # In CIFAR-10 the colour differences have as little energy as brightness has at some three and five times the frequency.
    distance = np.sqrt(rows**2 + columns**2 + 1e-6) * np.array([1.0, 3.0, 5.0])
    return np.argsort(distance.ravel(), kind="stable")[:count]


class _Coefficients(keras.layers.Layer):
    """What :class:`SpectralLatent` and :class:`SpectralImage` share: an orthogonal transform of an image, and its order."""

    def _prepare(self, image_shape, count):
        self.image_shape = tuple(image_shape)
        if len(self.image_shape) != 3 or None in self.image_shape or self.image_shape[2] != 3:
            raise ValueError(f"{type(self).__name__} needs images (height, width, 3) of a known size, got {self.image_shape}")
        height, width, _ = self.image_shape
        self._rows, self._columns = cosine_basis(height, "dct2")[0], cosine_basis(width, "dct2")[0]
        self._colours, self._kept = cosine_basis(3, "dct2")[0], slowest_frequencies(height, width, count)

    def _bases(self):
        return [ops.convert_to_tensor(basis, self.compute_dtype) for basis in (self._rows, self._columns, self._colours)]


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class SpectralLatent(_Coefficients):
    """An image as the slowest frequencies of its cosine transform, of brightness and two colour differences.

    The transform is orthogonal: an error in a number is as large an error in the image. Middle grey is zero. No weights.

    Args:
        latent: how many numbers, 1 to height x width x 3.

    Input: ``(batch, height, width, 3)``, height and width fixed when the layer is built. Output: ``(batch, latent)``.

    Raises:
        ValueError: an argument out of range, or an image size that is unknown.
    """

    def __init__(self, latent, **kwargs):
        super().__init__(**kwargs)
        self.latent = checks.number(latent, "latent", 1, 2**31, whole=True)

    def build(self, input_shape):
        self._prepare(input_shape[1:], self.latent)
        self.built = True

    def call(self, images):
        rows, columns, colours = self._bases()
        spectrum = ops.einsum("dc,bhwc->bhwd", colours, images - 0.5)
        spectrum = ops.einsum("jw,biwc->bijc", columns, ops.einsum("ih,bhwc->biwc", rows, spectrum))
        return ops.take(ops.reshape(spectrum, (-1, math.prod(self.image_shape))), self._kept, axis=1)

    def get_config(self):
        return {**super().get_config(), "latent": self.latent}

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.latent)


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class SpectralImage(_Coefficients):
    """The image that :class:`SpectralLatent` has made numbers of, with nothing at the frequencies that were left out.

    Args:
        image_shape: ``(height, width, 3)``.

    Input: ``(batch, latent)``. Output: ``(batch, height, width, 3)``, not clipped.

    Raises:
        ValueError: an image shape that is unknown or has other channels, more numbers than the image has.
    """

    def __init__(self, image_shape, **kwargs):
        super().__init__(**kwargs)
        self._prepare(image_shape, 1)

    def build(self, input_shape):
        self._prepare(self.image_shape, input_shape[-1])
        # Where each frequency stands among the numbers; those left out stand behind the last one, where a zero is put.
        self._position = np.full(math.prod(self.image_shape), input_shape[-1])
        self._position[self._kept] = np.arange(input_shape[-1])
        self.built = True

    def call(self, latent):
        rows, columns, colours = self._bases()
        spectrum = ops.take(ops.pad(latent, [[0, 0], [0, 1]]), self._position, axis=1)
        spectrum = ops.reshape(spectrum, (-1, *self.image_shape))
        images = ops.einsum("jw,bijc->biwc", columns, ops.einsum("ih,bijc->bhjc", rows, spectrum))
        return ops.einsum("dc,bhwd->bhwc", colours, images) + 0.5

    def get_config(self):
        return {**super().get_config(), "image_shape": list(self.image_shape)}

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.image_shape)


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class Quantize(keras.layers.Layer):
    """Rounds each number of a latent to a multiple of a step, which it learns, and knows what the numbers cost.

    In training noise between -0.5 and 0.5 steps takes the place of the rounding, which has no gradient, and the cost in bits
    is added to the loss: the numbers are taken to follow a Laplace distribution each, whose width is learned (Ballé et al.,
    "End-to-end Optimized Image Compression", 2017, with one parameter instead of a free density).

    Args:
        step: before training, above 0 up to 64. Default 0.25.
        rate: what one bit more an image costs in the loss, at least 0. Default 0.
        seed: of the noise. Default 0.

    Weights: ``log_gain`` ``(latent,)``, by what the number of steps is multiplied; ``log_scale`` ``(latent,)``, the width of
    the distribution in steps. Both are logarithms.

    Input and output: ``(batch, latent)``.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(self, step=0.25, rate=0.0, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.step = checks.number(step, "step", 0, 64, above_low=True)
        self.rate = checks.number(rate, "rate", 0, 1e6)
        self.seed = checks.number(seed, "seed", 0, 2**31 - 1, whole=True)
        self._noise = keras.random.SeedGenerator(seed)

    def build(self, input_shape):
        self.log_gain = self.add_weight(name="log_gain", shape=(input_shape[-1],), initializer="zeros")
        self.log_scale = self.add_weight(name="log_scale", shape=(input_shape[-1],), initializer="zeros")
        self.built = True

    def call(self, latent, training=False):
        gain = ops.exp(self.log_gain) / self.step
        if not training:
            return ops.round(latent * gain) / gain
        steps = latent * gain
        steps = steps + keras.random.uniform(ops.shape(steps), -0.5, 0.5, steps.dtype, self._noise)
        self.add_loss(self.rate * ops.mean(ops.sum(self._bits(steps), axis=-1)))
        return steps / gain

    def _bits(self, steps):
        """What each number costs: minus the logarithm of the distribution's share within half a step of it."""
        far, width = ops.abs(steps), ops.exp(-self.log_scale)
        tail = ops.exp(-(ops.maximum(far, 0.5) - 0.5) * width) * (1 - ops.exp(-width)) / 2
        middle = 1 - (ops.exp(-(0.5 + ops.minimum(far, 0.5)) * width) + ops.exp(-(0.5 - ops.minimum(far, 0.5)) * width)) / 2
        return -ops.log(ops.maximum(ops.where(far < 0.5, middle, tail), 1e-9)) / math.log(2)

    def symbols(self, latent) -> np.ndarray:
        """The whole numbers, int32, of a latent ``(batch, latent)``."""
        gain = np.exp(ops.convert_to_numpy(self.log_gain).astype(np.float64)) / self.step
        return np.rint(np.asarray(latent) * gain).astype(np.int32)

    def values(self, symbols) -> np.ndarray:
        """The latent, float32, that whole numbers ``(batch, latent)`` stand for."""
        gain = np.exp(ops.convert_to_numpy(self.log_gain).astype(np.float64)) / self.step
        return (np.asarray(symbols) / gain).astype(np.float32)

    def get_config(self):
        return {**super().get_config(), "step": self.step, "rate": self.rate, "seed": self.seed}

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class LatentSample(keras.layers.Layer):
    """A sample of a latent from its posterior, and what the latent costs: the variational bottleneck (Kingma and Welling,
    "Auto-Encoding Variational Bayes", 2014).

    In training the output is ``mean + exp(log_variance / 2) * noise``, so that gradients pass, and the divergence of the
    posterior from the prior is added to the loss; otherwise it is the mean. Two means against posterior collapse: the price
    of a nat rises from zero over the first steps, and each number of the latent has some nats for nothing (Kingma et al.,
    "Improved Variational Inference with Inverse Autoregressive Flow", 2016), counted on the mean over the batch.

    Args:
        prior: the prior comes with the input, as it does where it depends on a degraded image; without it, it is the standard
            normal. Default False.
        price: of one nat in the loss, at least 0. Default 1.
        free_nats: of each number, at least 0. Default 0.
        warm_up: steps over which the price rises, 0 for none. Default 0.
        seed: of the noise. Default 0.

    Weights: ``steps``, how many steps of training it has seen. The metric ``kl`` is the divergence in nats an image.

    Input: ``(batch, ..., 2 * latent)``: mean and log variance of the posterior; with ``prior`` ``4 * latent``: behind them
    those of the prior. Log variances are taken from -14 to 8. Output: ``(batch, ..., latent)``.

    Raises:
        ValueError: an argument out of range, an input whose last axis does not divide.
    """

    def __init__(self, prior=False, price=1.0, free_nats=0.0, warm_up=0, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.prior = bool(prior)
        self.price = checks.number(price, "price", 0, 1e6)
        self.free_nats = checks.number(free_nats, "free_nats", 0, 1e6)
        self.warm_up = checks.number(warm_up, "warm_up", 0, 2**31, whole=True)
        self.seed = checks.number(seed, "seed", 0, 2**31 - 1, whole=True)
        self._noise = keras.random.SeedGenerator(seed)
        self._kl = keras.metrics.Mean("kl")

    def build(self, input_shape):
        self.compute_output_shape(input_shape)
        self.steps = self.add_weight(name="steps", shape=(), initializer="zeros", trainable=False, dtype="float32")
        self.built = True

    def call(self, statistics, training=False):
        parts = ops.split(statistics, 4 if self.prior else 2, axis=-1)
        mean, log_variance = parts[0], ops.clip(parts[1], -14, 8)
        divergence = normal_divergence(*parts)
        axes = tuple(range(1, len(statistics.shape)))
        self._kl.update_state(ops.sum(divergence, axis=axes))
        if not training:
            return mean
        counted = ops.sum(ops.maximum(ops.mean(divergence, axis=0), self.free_nats))
        share = ops.minimum((self.steps + 1) / self.warm_up, 1.0) if self.warm_up else 1.0
        self.steps.assign_add(1.0)
        self.add_loss(self.price * share * ops.cast(counted, "float32"))
        return mean + ops.exp(log_variance / 2) * keras.random.normal(ops.shape(mean), dtype=mean.dtype, seed=self._noise)

    def get_config(self):
        return {
            **super().get_config(), "prior": self.prior, "price": self.price, "free_nats": self.free_nats,
            "warm_up": self.warm_up, "seed": self.seed,
        }  # fmt: skip

    def compute_output_shape(self, input_shape):
        parts = 4 if self.prior else 2
        if not input_shape[-1] or input_shape[-1] % parts:
            raise ValueError(f"LatentSample needs a last axis that {parts} divides, got {tuple(input_shape)}")
        return (*input_shape[:-1], input_shape[-1] // parts)


def normal_divergence(mean, log_variance, prior_mean=None, prior_log_variance=None):
    """Kullback-Leibler divergence of normal distributions from others, in nats, element by element.

    Args:
        mean, log_variance: tensors or arrays of one shape and dtype.
        prior_mean, prior_log_variance: of the others; None for the standard normal. Log variances are taken from -14 to 8.
    """
    mean, log_variance = ops.convert_to_tensor(mean), ops.clip(ops.convert_to_tensor(log_variance), -14, 8)
    if prior_mean is None:
        return 0.5 * (ops.exp(log_variance) + ops.square(mean) - 1 - log_variance)
    prior_log_variance = ops.clip(ops.convert_to_tensor(prior_log_variance), -14, 8)
    far = ops.square(mean - prior_mean) * ops.exp(-prior_log_variance)
    return 0.5 * (prior_log_variance - log_variance + ops.exp(log_variance - prior_log_variance) + far - 1)
