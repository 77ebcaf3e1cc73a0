"""Linear restoration in the cosine domain: transforms, the Wiener filter as a layer, and mixtures of such filters."""

import math
import re

import numpy as np

from lstm_ae_lib import checks
from lstm_ae_lib._backend import keras

layers, ops = keras.layers, keras.ops


def cosine_basis(size: int, transform: str) -> tuple[np.ndarray, np.ndarray]:
    """A cosine transform along one axis, and its inverse, as matrices.

    Args:
        size: samples along the axis, at least 2.
        transform: ``"dct1"`` (whole-sample symmetric borders, OpenCV's BORDER_REFLECT_101) or ``"dct2"`` (half-sample
            symmetric, SciPy's ``reflect``).

    Returns ``(size, size)`` float64, forward and inverse. A symmetric blur with the matching border is diagonal between them.
    Both are orthogonal up to the border samples (exactly for ``"dct2"``).
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
            name = type(self).__name__
            raise ValueError(f"{name} needs images (batch, height, width, 3) of a known size, got {tuple(input_shape)}")
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

    Weights: ``filter`` ``(height, width, 3, 3)``, degraded colours to restored ones, and ``offset`` ``(height, width, 3)``,
    what is added in the transform domain (it undoes a bias such as the truncation's).

    Input and output: ``(batch, height, width, 3)``, height and width fixed when the layer is built. The output is not
    clipped.

    Raises ``ValueError`` for an unknown transform, or an image size that is unknown.
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

    def multiply_adds(self, given, made):
        _, height, width, channels = given
        return height * width * channels * (2 * (height + width) + channels)


def frequency_bands(height: int, width: int, transform: str, bands: int) -> np.ndarray:
    """Rings of frequencies alike in wavelength, as the matrix that takes the mean over each.

    Args:
        height, width, transform: as for :func:`cosine_basis`.
        bands: how many rings between no frequency and the highest diagonal one, at least 1.

    Returns ``(height, width, bands)``. The mean brightness belongs to no ring; a ring without a frequency at this size is zero.
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
        transform: as for :class:`SpectralWiener`.
        parts: filters, 1 to 1,024. Default 12.
        bands: rings of frequencies, 1 to 4,096. Default 24.

    Weights: ``filters`` and ``offsets`` ``(parts, height, width, 3)``, ``kernel`` ``(2 * bands, parts)``, ``bias``
    ``(parts,)``.

    Input and output: ``(batch, height, width, 3)``, height and width fixed when the layer is built. The output is not
    clipped.

    Raises ``ValueError`` for an argument out of range, or an image size that is unknown.
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

    def multiply_adds(self, given, made):
        _, height, width, channels = given
        transform = height * width * channels * (2 * (height + width) + 2 * channels)
        return transform + height * width * channels * (self.bands + 2 * self.parts) + math.prod(self.kernel.shape)

    def get_config(self):
        return {**super().get_config(), "parts": self.parts, "bands": self.bands}


def linear_layer(linear_start: str, **options):
    """The layer that a network starts from, as the builders name it: ``"dct1"`` or ``"dct2"`` is a :class:`SpectralWiener`;
    with a number, such as ``"dct1x12"``, a :class:`SpectralMixture` of so many filters. Raises ``ValueError`` for others."""
    found = re.fullmatch(r"(dct[12])(?:x([1-9]\d{0,3}))?", linear_start) if isinstance(linear_start, str) else None
    if not found:
        raise ValueError(
            f"linear_start must be dct1 or dct2, with a number of filters behind it (dct1x12) a mixture, or empty, "
            f"got {linear_start!r}"
        )
    transform, parts = found.groups()
    return SpectralMixture(transform, int(parts), **options) if parts else SpectralWiener(transform, **options)


def linear_filter(image_shape=(32, 32, 3), transform: str = "dct1"):
    """One :class:`SpectralWiener` as a model of images ``(height, width, 3)``; :func:`lstm_ae_lib.classical.fit_linear_filter`
    fits it."""
    return keras.Sequential([layers.Input(image_shape), SpectralWiener(transform, name="filter")], name="linear_filter")


def linear_mixture(image_shape=(32, 32, 3), transform: str = "dct1", parts: int = 12):
    """One :class:`SpectralMixture` as a model; :func:`lstm_ae_lib.classical.fit_linear_mixture` fits it."""
    return keras.Sequential([layers.Input(image_shape), SpectralMixture(transform, parts, name="mixture")], name="linear_mixture")


def linear_start_of(model):
    """The layer with which a model makes its linear estimate; None where it makes none."""
    layers_within = [layer for part in model.layers for layer in getattr(part, "layers", [part])]
    return next((layer for layer in layers_within if isinstance(layer, SpectralWiener | SpectralMixture)), None)


def set_linear_start(model, fitted) -> None:
    """Gives a model that starts from a linear estimate the numbers of a fitted filter, or of a fitted mixture.

    Args:
        model: built with ``linear_start``; one without is left as it is.
        fitted: what ``fit_linear_filter`` or ``fit_linear_mixture`` of :mod:`lstm_ae_lib.classical` returned.

    Raises ``ValueError`` for a filter of another transform, another number of parts or another image size.
    """
    layer = linear_start_of(model)
    if layer is None:
        return
    source = linear_start_of(fitted)
    wanted, given = (f"{one.transform}x{one.parts}" if hasattr(one, "parts") else one.transform for one in (layer, source))
    if wanted != given:
        raise ValueError(f"the model starts from {wanted}, the fitted filter is of {given}")
    layer.set_weights(source.get_weights())


def resized_filter(layer, height: int, width: int) -> list:
    """A fitted layer's numbers for images of another size: what it does to a frequency, read off between those it knows.

    Args:
        layer: a fitted :class:`SpectralWiener` or :class:`SpectralMixture`.
        height, width: of the images to restore, at least 2.

    Returns the weights of the same layer, built for images of that size. The same size gives the same numbers; at any other
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
