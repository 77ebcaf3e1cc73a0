"""Learned image compression: the autoencoder, its quantised bottleneck, and principal components to compare with."""

import math

import numpy as np

from lstm_ae_lib import checks, models, peers, plotting, spectral, weights
from lstm_ae_lib._backend import keras
from lstm_ae_lib.tasks import codec

ops = keras.ops


class _Coefficients(keras.layers.Layer):
    """An orthogonal cosine transform and its order: what :class:`SpectralLatent` and :class:`SpectralImage` share."""

    def _prepare(self, image_shape, count):
        self.image_shape = tuple(image_shape)
        if len(self.image_shape) != 3 or None in self.image_shape or self.image_shape[2] != 3:
            raise ValueError(f"{type(self).__name__} needs images (height, width, 3) of a known size, got {self.image_shape}")
        self._bases = tuple(spectral.cosine_basis(size, "dct2")[0] for size in self.image_shape)
        self._kept = codec.lowest_frequencies(*self.image_shape[:2], count)

    def multiply_adds(self, given, made):
        return math.prod(self.image_shape) * sum(self.image_shape)


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class SpectralLatent(_Coefficients):
    """The lowest frequencies of an image's orthogonal cosine transform, of brightness and two colour differences; middle grey is
    zero. ``(batch, height, width, 3)``, height and width known -> ``(batch, latent)``, at most height x width x 3."""

    def __init__(self, latent, **kwargs):
        super().__init__(**kwargs)
        self.latent = checks.number(latent, "latent", 1, 2**31, whole=True)

    def build(self, input_shape):
        self._prepare(input_shape[1:], self.latent)

    def call(self, images):
        rows, columns, colours = (ops.convert_to_tensor(basis, self.compute_dtype) for basis in self._bases)
        spectrum = ops.einsum("dc,bhwc->bhwd", colours, images - 0.5)
        spectrum = ops.einsum("jw,biwc->bijc", columns, ops.einsum("ih,bhwc->biwc", rows, spectrum))
        return ops.take(ops.reshape(spectrum, (-1, math.prod(self.image_shape))), self._kept, axis=1)

    def get_config(self):
        return {**super().get_config(), "latent": self.latent}

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.latent)


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class SpectralImage(_Coefficients):
    """The inverse of :class:`SpectralLatent`: ``(batch, latent)`` -> ``(batch, *image_shape)``, three channels, not clipped."""

    def __init__(self, image_shape, **kwargs):
        super().__init__(**kwargs)
        self._prepare(image_shape, 1)

    def build(self, input_shape):
        self._prepare(self.image_shape, input_shape[-1])
        # Where each frequency stands in the latent; those left out stand behind the last one, where a zero is put.
        self._position = np.full(math.prod(self.image_shape), input_shape[-1])
        self._position[self._kept] = np.arange(input_shape[-1])

    def call(self, latent):
        rows, columns, colours = (ops.convert_to_tensor(basis, self.compute_dtype) for basis in self._bases)
        spectrum = ops.take(ops.pad(latent, [[0, 0], [0, 1]]), self._position, axis=1)
        spectrum = ops.reshape(spectrum, (-1, *self.image_shape))
        images = ops.einsum("jw,bijc->biwc", columns, ops.einsum("ih,bijc->bhjc", rows, spectrum))
        return ops.einsum("dc,bhwd->bhwc", colours, images) + 0.5

    def get_config(self):
        return {**super().get_config(), "image_shape": list(self.image_shape)}

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.image_shape)


class Rounding(keras.layers.Layer):
    """Base of the layers that round a latent to steps: in training, uniform noise between -0.5 and 0.5 steps replaces the rounding,
    which has no gradient, and ``rate`` times the bits of an image are added to the loss (Ballé et al., "End-to-end Optimized Image
    Compression", 2017). ``step``, before training, is above 0 up to 64, ``rate`` at least 0."""

    def __init__(self, step=0.25, rate=0.0, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.step = checks.number(step, "step", 0, 64, above_low=True)
        self.rate = checks.number(rate, "rate", 0, 1e6)
        self.seed = checks.number(seed, "seed", 0, 2**31 - 1, whole=True)
        self._noise = keras.random.SeedGenerator(seed)

    def rounded(self, steps, bits, training):
        """``steps`` rounded, or with noise; ``bits(steps)`` are those of each number."""
        if not training:
            return ops.round(steps)
        steps = steps + keras.random.uniform(ops.shape(steps), -0.5, 0.5, steps.dtype, self._noise)
        self.add_loss(self.rate * ops.mean(ops.sum(bits(steps), axis=tuple(range(1, len(steps.shape))))))
        return steps

    def multiply_adds(self, given, made):
        return 0

    def get_config(self):
        return {**super().get_config(), "step": self.step, "rate": self.rate, "seed": self.seed}


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class Quantize(Rounding):
    """Round each number of a latent to a multiple of a learned step, and estimate its bits.

    Each number has a Laplace distribution of a learned width: one parameter instead of Ballé's free density. It computes in the
    dtype of the weights: in 8 bits of mantissa neighbouring symbols would be one.

    Input and output: ``(batch, latent)``. Weights ``(latent,)``, logarithms: ``log_gain`` of a factor on the number of steps,
    ``log_scale`` of the width of the distribution in steps.
    """

    def build(self, input_shape):
        self.log_gain = self.add_weight(name="log_gain", shape=input_shape[-1:], initializer="zeros", autocast=False)
        self.log_scale = self.add_weight(name="log_scale", shape=input_shape[-1:], initializer="zeros", autocast=False)

    def call(self, latent, training=False):
        gain = ops.exp(self.log_gain) / self.step
        steps = ops.cast(latent, self.variable_dtype) * gain
        return ops.cast(self.rounded(steps, self._bits, training) / gain, self.compute_dtype)

    def _bits(self, steps):
        """Minus the logarithm of the probability within half a step of each number."""
        far, width = ops.abs(steps), ops.exp(-self.log_scale)
        tail = ops.exp(-(ops.maximum(far, 0.5) - 0.5) * width) * (1 - ops.exp(-width)) / 2
        middle = 1 - (ops.exp(-(0.5 + ops.minimum(far, 0.5)) * width) + ops.exp(-(0.5 - ops.minimum(far, 0.5)) * width)) / 2
        return -ops.log(ops.maximum(ops.where(far < 0.5, middle, tail), 1e-9)) / math.log(2)

    def bits(self, rounded):
        """An estimate of the bits of each number of a latent that this layer has rounded, ``(batch, latent)`` twice."""
        return self._bits(ops.round(rounded * ops.exp(self.log_gain) / self.step))

    def gain(self) -> np.ndarray:
        """How many steps 1 is, ``(latent,)`` float64."""
        return np.exp(ops.convert_to_numpy(self.log_gain).astype(np.float64)) / self.step

    def values(self, symbols) -> np.ndarray:
        """The latent, float32, of symbols ``(batch, latent)``."""
        return (np.asarray(symbols) / self.gain()).astype(np.float32)

    def compute_output_shape(self, input_shape):
        return input_shape


@weights.register
def compressor(image_shape=(32, 32, 3), latent: int = 768, step: float = 0.25, width: int = 48, depth: int = 1,
               rate: float = -1.0, transform: str = "cosine", name: str = "compressor"):  # fmt: skip
    """A recurrent autoencoder with a quantised bottleneck, for image compression.

    clean -> encoder -> linear transform to ``latent`` coefficients -> rounded to steps -> inverse transform -> decoder ->
    reconstruction. Encoder and decoder are built as the flagship is and begin as the identity: training starts from transform
    coding, and minimises distortion plus rate (Ballé et al., "End-to-end Optimized Image Compression", 2017).

    Args:
        image_shape, latent: known, even sides; numbers that pass the bottleneck, 1 to height x width x 3, lowest frequencies first.
        step: to which they are rounded, in units of [0, 1] after an orthogonal transform; above 0 up to 64.
        width, depth: channels, a multiple of 2 up to 4,096, 0 for transform coding alone; pairs of blocks in each half, 1 to 64.
        rate: weight of one bit an image in the loss; -1 for that at which a finer step costs in bits what it saves in distortion.
        transform: ``"cosine"``, without weights, or ``"components"``, principal ones, set by :func:`start_from_components`.

    Returns a model with the images' shape, not clipped; its layers ``latent``, ``quantize``, ``from_latent`` and ``decoder`` follow
    the bottleneck. Raises ``ValueError`` for an argument out of range.
    """
    peers.check_divides(image_shape, 2)
    if checks.number(width, "width", 0, 4096, whole=True) % 2:
        raise ValueError(f"width must be a multiple of 2, got {width}")
    checks.number(depth, "depth", 1, 64, whole=True)
    checks.number(latent, "latent", 1, math.prod(image_shape), whole=True)
    checks.choice(transform, "transform", ("cosine", "components"))
    rate = step**2 * math.log(2) / 6 / math.prod(image_shape) if rate == -1 else rate

    def half(part):
        return peers.residual_model(image_shape, "", models.recurrent_body(width, depth, width), part)

    clean = keras.layers.Input(image_shape, name="clean")
    seen = half("encoder")(clean) if width else clean
    if transform == "cosine":
        numbers = SpectralLatent(latent, dtype="float32", name="latent")(seen)
        from_latent = SpectralImage(image_shape, dtype="float32", name="from_latent")
    else:
        numbers = keras.layers.Flatten(dtype="float32", name="all")(seen)
        numbers = keras.layers.Dense(latent, dtype="float32", trainable=False, name="latent")(numbers)
        whole = keras.layers.Dense(math.prod(image_shape), dtype="float32", name="components")
        stack = [keras.layers.Input((latent,)), whole, keras.layers.Reshape(image_shape, dtype="float32")]
        from_latent = keras.Sequential(stack, name="from_latent", trainable=False)
    reconstruction = from_latent(Quantize(step, rate, dtype="float32", name="quantize")(numbers))
    return keras.Model(clean, half("decoder")(reconstruction) if width else reconstruction, name=name)


def fit_pca(clean) -> tuple:
    """Principal components of images ``(n, height, width, 3)``, uint8: the best linear autoencoder at every latent size.

    Returns, float32, the mean image, flattened, in [0, 1], and ``(pixels, pixels)``, one component a row, the largest variance
    first. Fewer images than pixels give as many components as they span, at most ``n - 1``.
    """
    flat = checks.images_uint8(clean, "clean").reshape(len(clean), -1)
    mean = flat.mean(axis=0) / 255
    if len(flat) < flat.shape[1]:
        centred = flat / 255 - mean
        power, vectors = np.linalg.eigh(centred @ centred.T)  # no larger than it must be
        there = np.flatnonzero(power > 1e-10 * power[-1])[::-1]
        components = vectors[:, there].T @ centred / np.sqrt(power[there])[:, None]
        return mean.astype(np.float32), components.astype(np.float32)
    parts = ((flat[start : start + 5000] / 255 - mean).astype(np.float32) for start in range(0, len(flat), 5000))  # bounded memory
    covariance = sum((part.T @ part for part in parts), np.zeros((flat.shape[1],) * 2))
    _, vectors = np.linalg.eigh(covariance / len(flat))
    return mean.astype(np.float32), np.ascontiguousarray(vectors[:, ::-1].T, np.float32)


def start_from_components(model, mean, components) -> None:
    """Set the components of :func:`fit_pca` in a new :func:`compressor` whose ``transform`` is ``"components"``; a ``ValueError``
    for another transform, or for fewer components than its latent has numbers."""
    weights = model.get_layer("from_latent").get_weights()
    if not weights:
        raise ValueError('the compressor\'s transform is "cosine": only one with transform="components" can start from components')
    latent, pixels = weights[0].shape
    if components.shape[0] < latent or components.shape[1] != pixels:
        raise ValueError(f"the latent needs {latent} components of {pixels} values each, got an array of shape {components.shape}")
    kept = components[:latent]
    model.get_layer("latent").set_weights([kept.T, -kept @ mean])
    model.get_layer("from_latent").set_weights([kept, mean])


def rate_distortion(lines: dict, title: str):
    """PSNR and SSIM over bits per pixel, side by side, as a figure. ``lines``: name -> (bits per pixel, PSNR in dB, SSIM), each a
    list."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8.0, 3.4), dpi=plotting.DPI)
    for name, (rates, *heights) in lines.items():
        marker, size = ("o", 4) if len(rates) > 1 else ("*", 11)
        for axis, values in zip(axes, heights, strict=True):
            axis.plot(rates, values, marker=marker, markersize=size, label=name, color=plotting.COLOURS.get(name))
    for axis, label in zip(axes, ("PSNR (dB)", "SSIM"), strict=True):
        axis.set(xlabel="bits per pixel, without headers", ylabel=label)
    return plotting.finished(figure, title)
