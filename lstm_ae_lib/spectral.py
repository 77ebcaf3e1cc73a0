"""Linear restoration in the cosine domain: transforms, the Wiener filter as a layer, and mixtures of such filters."""

import math
import re

import numpy as np

from lstm_ae_lib import checks
from lstm_ae_lib._backend import keras

layers, ops = keras.layers, keras.ops


def cosine_basis(size: int, transform: str) -> tuple[np.ndarray, np.ndarray]:
    """A cosine transform along one axis of at least 2 samples, and its inverse, as float64 matrices ``(size, size)``.

    ``"dct1"`` belongs to whole-sample symmetric borders (OpenCV's BORDER_REFLECT_101), ``"dct2"`` to half-sample symmetric ones
    (SciPy's ``reflect``): a symmetric blur with that border is diagonal between the matrices. They are orthogonal, for ``"dct1"``
    up to the border samples. Raises ``ValueError`` for an argument out of range.
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
    forward = math.sqrt(2 / (size - 1)) * cosines * ends[None, :]
    return forward, forward.copy()


class _Spectral(keras.layers.Layer):
    """A layer on the cosine transform of an image whose size is known when it is built."""

    def __init__(self, transform="dct1", **kwargs):
        super().__init__(**kwargs)
        self.transform = checks.choice(transform, "transform", ("dct1", "dct2"))

    def _set_size(self, input_shape):
        _, height, width, channels = input_shape
        if height is None or width is None or channels != 3:
            name = type(self).__name__
            raise ValueError(f"{name} needs images (batch, height, width, 3) of a known size, got {tuple(input_shape)}")
        self._rows, self._columns = cosine_basis(height, self.transform), cosine_basis(width, self.transform)
        return height, width

    def _transform(self, values, direction):
        matrices = self._rows[direction], self._columns[direction]
        rows, columns = (ops.convert_to_tensor(matrix, self.compute_dtype) for matrix in matrices)
        return ops.einsum("jw,biwc->bijc", columns, ops.einsum("ih,bhwc->biwc", rows, values))

    def get_config(self):
        return {**super().get_config(), "transform": self.transform}

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class SpectralWiener(_Spectral):
    """A linear restoration filter: for each frequency of a cosine transform one 3x3 matrix that mixes the colours.

    Fitted by :func:`lstm_ae_lib.classical.fit_linear_filter` it is the linear minimum mean square error (LMMSE) estimate among
    the filters that are diagonal in the transform: the Wiener filter of the data set. As built it is the identity. The
    ``transform``, ``"dct1"`` or ``"dct2"``, should match the border of the blur: see :func:`cosine_basis`.

    Weights: ``filter`` ``(height, width, 3, 3)``, degraded colours to restored ones, and ``offset`` ``(height, width, 3)``,
    what is added in the transform domain (it undoes a bias such as the truncation's).
    Input and output: ``(batch, height, width, 3)``, not clipped, height and width fixed when the layer is built.
    Raises ``ValueError`` for an argument out of range, or an unknown image size.
    """

    def build(self, input_shape):
        height, width = self._set_size(input_shape)
        identity = lambda shape, dtype: ops.zeros(shape, dtype) + ops.eye(3, dtype=dtype)  # noqa: E731
        self.filter = self.add_weight(name="filter", shape=(height, width, 3, 3), initializer=identity)
        self.offset = self.add_weight(name="offset", shape=(height, width, 3), initializer="zeros")

    def call(self, images):
        restored = ops.einsum("bhwc,hwcd->bhwd", self._transform(images, 0), self.filter) + self.offset
        return self._transform(restored, 1)

    def multiply_adds(self, given, made):
        _, height, width, channels = given
        return height * width * channels * (2 * (height + width) + channels)


def frequency_bands(height: int, width: int, transform: str, bands: int) -> np.ndarray:
    """Rings of frequencies alike in wavelength, as the matrix ``(height, width, bands)`` that takes the mean over each.

    The ``bands``, 1 to 4,096, divide the frequencies up to the highest diagonal one. The mean brightness belongs to no ring; a
    ring without a frequency at this size is zero.
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
    """Linear restoration filters, mixed for each image by what its own spectrum says about its degradation.

    One filter cannot restore images that are blurred by unknown, varying amounts, but the energy of an image's frequencies falls
    with its blur. From the logarithm of the energy in rings of frequencies, in brightness and in colour, a linear map and a
    softmax give the share of each filter (linear discriminant analysis, where :func:`lstm_ae_lib.classical.fit_linear_mixture`
    has fitted it). Filters act on brightness and two colour differences, each by itself. As built the layer is the identity.

    Args:
        transform: as for :class:`SpectralWiener`.
        parts: filters, 1 to 1,024.
        bands: rings of frequencies, 1 to 4,096.

    Weights: ``filters`` and ``offsets`` ``(parts, height, width, 3)``, ``kernel`` ``(2 * bands, parts)``, ``bias`` ``(parts,)``.
    Input, output and errors as for :class:`SpectralWiener`.
    """

    FLOOR = 4e-7  # on energies before the logarithm: a third of the variance that rounding to 8 bits leaves at each frequency

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

    def call(self, images):
        colours = ops.convert_to_tensor(self._colours, self.compute_dtype)
        spectrum = ops.einsum("dc,bhwc->bhwd", colours, self._transform(images, 0))
        shares = ops.softmax(self.features(spectrum) @ self.kernel + self.bias)
        mixed = [ops.einsum("bp,phwc->bhwc", shares, weight) for weight in (self.filters, self.offsets)]
        return self._transform(ops.einsum("dc,bhwd->bhwc", colours, mixed[0] * spectrum + mixed[1]), 1)

    def features(self, spectrum):
        """Logarithm of the energy in each ring, ``(batch, 2 * bands)``, of transformed brightness and colour differences."""
        means = ops.convert_to_tensor(self._means, self.compute_dtype)
        energy = ops.einsum("bhwc,hwk->bck", spectrum * spectrum, means)
        energy = ops.concatenate([energy[:, 0], (energy[:, 1] + energy[:, 2]) / 2], axis=-1)
        return ops.log(energy + self.FLOOR)

    def multiply_adds(self, given, made):
        _, height, width, channels = given
        each = 2 * (height + width) + 2 * channels + self.bands + 2 * self.parts
        return height * width * channels * each + math.prod(self.kernel.shape)

    def get_config(self):
        return {**super().get_config(), "parts": self.parts, "bands": self.bands}


def linear_layer(linear_start: str, **options):
    """The layer that a network starts from: ``"dct1"`` or ``"dct2"`` is a :class:`SpectralWiener`, ``"dct1x12"`` a
    :class:`SpectralMixture` of 12 filters. Raises ``ValueError`` for other names."""
    found = re.fullmatch(r"(dct[12])(?:x([1-9]\d{0,3}))?", linear_start) if isinstance(linear_start, str) else None
    if not found:
        wanted = "dct1 or dct2, with a number of filters behind it (dct1x12) a mixture, or empty"
        raise ValueError(f"linear_start must be {wanted}, got {linear_start!r}")
    transform, parts = found.groups()
    return SpectralMixture(transform, int(parts), **options) if parts else SpectralWiener(transform, **options)


def linear_filter(image_shape=(32, 32, 3), transform: str = "dct1"):
    """One :class:`SpectralWiener` as a model; :func:`lstm_ae_lib.classical.fit_linear_filter` fits it."""
    return keras.Sequential([layers.Input(image_shape), SpectralWiener(transform, name="filter")], name="linear_filter")


def linear_mixture(image_shape=(32, 32, 3), transform: str = "dct1", parts: int = 12):
    """One :class:`SpectralMixture` as a model; :func:`lstm_ae_lib.classical.fit_linear_mixture` fits it."""
    return keras.Sequential([layers.Input(image_shape), SpectralMixture(transform, parts, name="mixture")], name="linear_mixture")


def linear_start_of(model):
    """The layer with which a model makes its linear estimate; None where it makes none."""
    within = (layer for part in model.layers for layer in getattr(part, "layers", [part]))
    return next((layer for layer in within if isinstance(layer, SpectralWiener | SpectralMixture)), None)


def set_linear_start(model, fitted) -> None:
    """Copies a fitted filter or mixture, as :mod:`lstm_ae_lib.classical` returns it, into a model built with ``linear_start``.

    A model built without is left as it is. Raises ``ValueError`` for a filter of another transform, number of parts or image size.
    """
    layer = linear_start_of(model)
    if layer is None:
        return
    source = linear_start_of(fitted)
    wanted, given = (f"{getattr(one, 'transform', 'none')}x{getattr(one, 'parts', 1)}" for one in (layer, source))
    if wanted != given:
        raise ValueError(f"the model starts from {wanted}, the fitted filter is of {given}")
    layer.set_weights(source.get_weights())


def resized_filter(layer, height: int, width: int) -> list:
    """The weights of a fitted :class:`SpectralWiener` or :class:`SpectralMixture` for images of another size, at least 2x2.

    Filters are interpolated linearly between the frequencies that they know. The same size gives the same numbers; at any other
    an offset, which also holds what the training images have in common at each place, keeps its mean only.
    """
    weights = layer.get_weights()
    if not isinstance(layer, SpectralMixture):
        return _resized(weights, layer.transform, height, width)
    first = _resized([np.moveaxis(weight, 0, -1) for weight in weights[:2]], layer.transform, height, width)
    return [*(np.moveaxis(weight, -1, 0) for weight in first), *weights[2:]]


def _resized(weights, transform, height, width):
    matrices, offset = weights
    if matrices.shape[:2] == (height, width):
        return [matrices, offset]
    for axis, size in enumerate((height, width)):
        own = matrices.shape[axis]
        # The n-th of N cosines has n / (N - 1) half periods a pixel in the DCT-I, n / N in the DCT-II.
        step = (own - 1) / (size - 1) if transform == "dct1" else own / size
        place = np.minimum(np.arange(size) * step, own - 1)
        below = np.minimum(place.astype(int), own - 2)
        share = (place - below).reshape([-1 if other == axis else 1 for other in range(matrices.ndim)])
        matrices = (1 - share) * np.take(matrices, below, axis) + share * np.take(matrices, below + 1, axis)
    resized = np.zeros((height, width, *offset.shape[2:]), np.float32)
    lengths = [cosine_basis(size, transform)[0][0].sum() for size in (*offset.shape[:2], height, width)]
    resized[0, 0] = offset[0, 0] * (lengths[2] * lengths[3]) / (lengths[0] * lengths[1])
    return [matrices.astype(np.float32), resized]
