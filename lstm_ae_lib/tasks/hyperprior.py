"""A scale hyperprior, the published convolutional design that a learned compressor is compared with, trained alike.

Ballé, Minnen, Singh, Hwang and Johnston, "Variational Image Compression with a Scale Hyperprior", 2018.
"""

import math

import numpy as np

from lstm_ae_lib import checks, peers, weights
from lstm_ae_lib._backend import keras
from lstm_ae_lib.tasks.compression import Quantize, Rounding

ops = keras.ops

SMALLEST = math.log(0.11)  # of the logarithms of scales, in steps: narrower distributions save nothing


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class DivisiveNorm(keras.layers.Layer):
    """Generalised divisive normalisation: each channel through the root of a weighted sum of squares of all, at its place.

    y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2), or with ``inverse`` times that root (Ballé, Laparra, Simoncelli, "Density
    Modeling of Images Using a Generalized Normalization Transformation", 2016). Both are kept positive by a softplus; at first
    beta is 1 and gamma 0.1 on the diagonal and almost zero beside it. Input and output: ``(batch, height, width, channels)``.
    """

    def __init__(self, inverse=False, **kwargs):
        super().__init__(**kwargs)
        self.inverse = bool(inverse)

    def build(self, input_shape):
        channels, one, tenth, little = input_shape[-1], *(math.log(math.expm1(value)) for value in (1.0, 0.1, 0.001))
        diagonal = keras.initializers.Identity(tenth - little)
        self.beta = self.add_weight(name="beta", shape=(channels,), initializer=keras.initializers.Constant(one))
        self.gamma = self.add_weight(  # "first" in its name keeps it from Muon: it is no map from inputs to outputs
            name="gamma_first", shape=(channels, channels),
            initializer=lambda *given, **options: diagonal(*given, **options) + little,
        )  # fmt: skip

    def call(self, values):
        power = ops.matmul(ops.square(values), ops.softplus(self.gamma)) + ops.softplus(self.beta)
        return values * (ops.sqrt(power) if self.inverse else ops.rsqrt(power))

    def multiply_adds(self, given, made):
        return math.prod(made[1:]) * made[-1]

    def get_config(self):
        return {**super().get_config(), "inverse": self.inverse}

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class ScaledQuantize(Rounding):
    """Round numbers to whole steps, and estimate their bits in normal distributions around zero whose scales are given.

    Inputs, a list of two alike, ``(batch, height, width, channels)``: the numbers, and the logarithms of their scales in steps.
    Output: shaped like one of them.
    """

    def call(self, inputs, training=False):
        numbers, log_scale = (ops.cast(one, self.variable_dtype) for one in inputs)
        steps = self.rounded(numbers / self.step, lambda steps: normal_bits(steps, log_scale), training)
        return ops.cast(steps * self.step, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape[0]


def normal_bits(distance, log_scale):
    """Minus the logarithm to base 2 of the probability within half a step of ``distance``, in steps, in a normal distribution
    around zero; 23 at most."""
    far, sharp = ops.abs(distance), ops.exp(-ops.maximum(log_scale, SMALLEST)) / math.sqrt(2)
    share = (ops.erf((0.5 - far) * sharp) + ops.erf((0.5 + far) * sharp)) / 2
    return -ops.log(ops.maximum(share, 2.0**-23)) / math.log(2)


@weights.register
def scale_hyperprior(image_shape=(32, 32, 3), width: int = 48, latent: int = 96, strides: int = 3, step: float = 0.35,
                     rate: float = -1.0, name: str = "scale_hyperprior"):  # fmt: skip
    """A convolutional autoencoder whose latent's scales are coded beside it (Ballé et al. 2018), a size smaller.

    clean -> convolutions of 5x5 and stride 2 with divisive normalisation -> latent -> rounding -> the mirror image ->
    reconstruction. Of the latent's absolute values three more convolutions make the hyperlatent, from which the decoder learns how
    large each of its numbers may be. The paper has four strides, 128 to 192 channels and photographs; on 32x32 pixels four leave
    2x2 places.

    Args:
        image_shape: known sides, multiples of 2^(strides + 2).
        width, latent: channels of the layers and of the latent, 1 to 4,096 each.
        strides: convolutions of stride 2, 1 to 6.
        step: above 0 up to 64; the latent is rounded to its multiples.
        rate: weight of one bit an image in the loss; -1 for that of :func:`lstm_ae_lib.tasks.compression.compressor`.

    Returns a model with the images' shape, not clipped. Raises ``ValueError`` for an argument out of range.
    """
    checks.number(width, "width", 1, 4096, whole=True)
    checks.number(latent, "latent", 1, 4096, whole=True)
    checks.number(strides, "strides", 1, 6, whole=True)
    peers.check_divides(image_shape, 2 ** (strides + 2))
    rate = step**2 * math.log(2) / 6 / math.prod(image_shape) if rate == -1 else rate
    layers, down, up = keras.layers, keras.layers.Conv2D, keras.layers.Conv2DTranspose

    def strided(kind, filters, name, **options):
        return kind(filters, 5, strides=2, padding="same", name=name, **options)

    clean = hidden = layers.Input(image_shape, name="clean")
    for place in range(strides - 1):
        hidden = DivisiveNorm(name=f"norm{place}")(strided(down, width, f"encode{place}")(hidden))
    numbers = strided(down, latent, "latent", dtype="float32")(hidden)
    hidden = layers.ReLU(name="sizes")(layers.Conv2D(width, 3, padding="same", name="hyper_encode0")(ops.abs(numbers)))
    hidden = strided(down, width, "hyper_encode1", activation="relu")(hidden)
    hidden = strided(down, width, "hyper_latent", dtype="float32")(hidden)
    places = hidden.shape[1:]
    hidden = Quantize(1.0, rate, dtype="float32", name="hyper_quantize")(layers.Flatten(dtype="float32", name="flat")(hidden))
    hidden = layers.Reshape(places, dtype="float32", name="map")(hidden)
    hidden = strided(up, width, "hyper_decode0", activation="relu")(hidden)
    hidden = strided(up, width, "hyper_decode1", activation="relu")(hidden)
    log_scale = layers.Conv2D(latent, 3, padding="same", dtype="float32", name="log_scale")(hidden)
    hidden = ScaledQuantize(step, rate, dtype="float32", name="quantize")([numbers, log_scale])
    for place in range(strides - 1):
        hidden = DivisiveNorm(inverse=True, name=f"inverse{place}")(strided(up, width, f"decode{place}")(hidden))
    grey = keras.initializers.Constant(0.5)
    last = strided(up, image_shape[-1], "reconstruction", dtype="float32", bias_initializer=grey)
    return keras.Model(clean, last(hidden), name=name)


class Counted:
    """A trained :func:`scale_hyperprior`, measured as a codec is. Its bytes are those that its own probabilities promise, rounded
    up; no range coder needs fewer, so this favours it."""

    usual = 0

    def __init__(self, model):
        self.model, layer = model, model.get_layer
        self._rounding = [layer("quantize"), layer("hyper_quantize")]
        parts = [layer("quantize").output, layer("log_scale").output, layer("hyper_quantize").output]
        self._parts = keras.Model(model.input, [model.output, *parts])

    def measure(self, images, size: int = 0) -> tuple:
        """What the decoder makes of images ``(n, height, width, 3)``, uint8, and the bytes of each: uint8 as they are, ``(n,)``."""
        images = checks.images_uint8(images)
        made = [self._counted(images[first : first + 500] / np.float32(255)) for first in range(0, len(images), 500)]
        return tuple(np.concatenate(parts) for parts in zip(*made, strict=True))

    def _counted(self, unit):
        decoded, numbers, log_scale, hyperlatent = self._parts(unit)
        scaled, hyper = self._rounding
        bits = ops.sum(normal_bits(numbers / scaled.step, log_scale), axis=(1, 2, 3)) + ops.sum(hyper.bits(hyperlatent), axis=-1)
        decoded = np.rint(np.clip(ops.convert_to_numpy(decoded), 0, 1) * 255).astype(np.uint8)
        return decoded, np.ceil(ops.convert_to_numpy(bits) / 8).astype(int)
