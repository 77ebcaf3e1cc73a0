"""Variational autoencoders: the sampled bottleneck, the loss, and the two networks."""

import math

import numpy as np

from lstm_ae_lib import checks, layers, models, peers, weights
from lstm_ae_lib._backend import keras

ops = keras.ops


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class LatentSample(keras.layers.Layer):
    """A sample of a latent from its posterior, and what the latent costs: the variational bottleneck (Kingma and Welling,
    "Auto-Encoding Variational Bayes", 2014).

    In training the output is ``mean + exp(log_variance / 2) * noise``, so that gradients pass, and the divergence of the
    posterior from the prior is added to the loss; otherwise it is the mean. Two means against posterior collapse: the beta
    of a nat rises from zero over the first steps, and each number of the latent has some nats for nothing (Kingma et al.,
    "Improved Variational Inference with Inverse Autoregressive Flow", 2016), counted on the mean over the batch.

    Args:
        prior: the prior comes with the input, as it does where it depends on a degraded image; without it, it is the standard
            normal. Default False.
        beta: of one nat in the loss, at least 0. Default 1.
        free_nats: of each number, at least 0. Default 0.
        kl_warmup_steps: steps over which the beta rises, 0 for none. Default 0.
        seed: of the noise. Default 0.

    Weights: ``steps``, how many steps of training it has seen. The metric ``kl`` is the divergence in nats an image.

    Input: ``(batch, ..., 2 * latent)``: mean and log variance of the posterior; with ``prior`` ``4 * latent``: behind them
    those of the prior. Log variances are taken from -14 to 8. Output: ``(batch, ..., latent)``.

    Raises:
        ValueError: an argument out of range, an input whose last axis does not divide.
    """

    def __init__(self, prior=False, beta=1.0, free_nats=0.0, kl_warmup_steps=0, seed=0, **kwargs):
        super().__init__(**kwargs)
        self.prior = bool(prior)
        self.beta = checks.number(beta, "beta", 0, 1e6)
        self.free_nats = checks.number(free_nats, "free_nats", 0, 1e6)
        self.kl_warmup_steps = checks.number(kl_warmup_steps, "kl_warmup_steps", 0, 2**31, whole=True)
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
        divergence = gaussian_kl(*parts)
        axes = tuple(range(1, len(statistics.shape)))
        self._kl.update_state(ops.sum(divergence, axis=axes))
        if not training:
            return mean
        counted = ops.sum(ops.maximum(ops.mean(divergence, axis=0), self.free_nats))
        share = ops.minimum((self.steps + 1) / self.kl_warmup_steps, 1.0) if self.kl_warmup_steps else 1.0
        self.steps.assign_add(1.0)
        self.add_loss(self.beta * share * ops.cast(counted, "float32"))
        return mean + ops.exp(log_variance / 2) * keras.random.normal(ops.shape(mean), dtype=mean.dtype, seed=self._noise)

    def multiply_adds(self, given, made):
        return 0

    def get_config(self):
        return {
            **super().get_config(), "prior": self.prior, "beta": self.beta, "free_nats": self.free_nats,
            "kl_warmup_steps": self.kl_warmup_steps, "seed": self.seed,
        }  # fmt: skip

    def compute_output_shape(self, input_shape):
        parts = 4 if self.prior else 2
        if not input_shape[-1] or input_shape[-1] % parts:
            raise ValueError(f"LatentSample needs a last axis that {parts} divides, got {tuple(input_shape)}")
        return (*input_shape[:-1], input_shape[-1] // parts)


def gaussian_kl(mean, log_variance, prior_mean=None, prior_log_variance=None):
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


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
def gaussian_nll(clean, restored):
    """The loss of a normal distribution round the restored images whose variance is the best for the batch, which is its
    mean squared error: ``log(2 pi e MSE) / 2`` nats a value (Rybkin et al., "Simple and Effective VAE Training with
    Calibrated Decoders", 2021). Any two tensors of one shape -> a scalar."""
    error = ops.mean(ops.square(ops.cast(clean, "float32") - ops.cast(restored, "float32")))
    return 0.5 * ops.log(2 * np.pi * np.e * ops.maximum(error, 1e-12))


@weights.register
def variational_autoencoder(
    image_shape=(32, 32, 3), latent: int = 128, width: int = 48, free_nats: float = 0.0, kl_warmup_steps: int = 0,
    name: str = "variational_autoencoder",
):  # fmt: skip
    """A recurrent variational autoencoder: a vector of ``latent`` numbers that images can be drawn from.

    clean -> encoder -> mean and log variance -> a sample -> decoder -> clean again. Encoder and decoder are pairs of a
    residual block and scans, as the flagship's, at a half and at a quarter of the resolution, and nothing passes them but
    the latent. With :func:`lstm_ae_lib.tasks.variational.gaussian_nll` as the loss, what training minimises is the negative
    evidence lower bound in nats for each of an image's values.

    Args:
        image_shape: ``(height, width, channels)``, known, both sides multiples of 4.
        latent: numbers, 1 to 65,536. Default 128.
        width: channels at half the resolution, twice as many at a quarter; a multiple of 2 up to 2,048. Default 48.
        free_nats, kl_warmup_steps: of :class:`~lstm_ae_lib.tasks.variational.LatentSample`.
        name: the model's name.

    Returns:
        keras.Model: ``(batch, height, width, channels)`` -> the same shape, not clipped. Its parts ``encoder`` (image ->
        mean and log variance) and ``decoder`` (latent -> image) are models of their own.

    Raises:
        ValueError: an argument out of range.
    """
    checks.number(latent, "latent", 1, 65536, whole=True)
    checks.number(width, "width", 4, 2048, whole=True)
    if None in tuple(image_shape):
        raise ValueError(f"image_shape must be known, got {image_shape!r}")
    peers.check_divides(image_shape, 4)
    height, across, channels = image_shape
    narrow = 16  # channels that are flattened

    clean = keras.layers.Input(image_shape, name="image")
    hidden = keras.layers.Conv2D(width, 6, strides=2, padding="same", name="first")(clean)
    hidden = models.block_pair(width, "half")(hidden)
    hidden = keras.layers.Conv2D(2 * width, 4, strides=2, padding="same", name="down")(hidden)
    hidden = models.block_pair(2 * width, "quarter")(hidden)
    hidden = keras.layers.Flatten(name="flat")(models.convolution(narrow, 1, "narrow")(hidden))
    statistics = keras.layers.Dense(2 * latent, dtype="float32", name="statistics")(hidden)
    encoder = keras.Model(clean, statistics, name="encoder")

    numbers = keras.layers.Input((latent,), name="numbers")
    hidden = keras.layers.Dense(height // 4 * (across // 4) * narrow, name="wide")(numbers)
    hidden = keras.layers.Reshape((height // 4, across // 4, narrow), name="map")(hidden)
    hidden = models.block_pair(2 * width, "decoder_quarter")(models.convolution(2 * width, 1, "widen")(hidden))
    hidden = layers.DepthToSpace(2, name="up")(models.convolution(4 * width, 1, "more")(hidden))
    hidden = models.block_pair(width, "decoder_half")(hidden)
    image = layers.DepthToSpace(2, dtype="float32", name="shuffle")(models.convolution(4 * channels, 3, "last")(hidden))
    grey = keras.layers.Rescaling(1.0, 0.5, dtype="float32", name="grey")(image)
    decoder = keras.Model(numbers, grey, name="decoder")

    beta = 1 / math.prod(image_shape)
    image = keras.layers.Input(image_shape, name="clean")
    sample = LatentSample(False, beta, free_nats, kl_warmup_steps, dtype="float32", name="sample")(encoder(image))
    return keras.Model(image, decoder(sample), name=name)


@weights.register
def conditional_vae(
    image_shape=(32, 32, 3), width: int = 64, latent: int = 4, free_nats: float = 0.0, kl_warmup_steps: int = 0,
    linear_start: str = "dct1", name: str = "conditional_vae",
):  # fmt: skip
    """A recurrent variational autoencoder that restores: as many restored images for one degraded image as one likes.

    What a degraded image leaves open is a map of ``latent`` numbers at half the resolution. Its prior is read from the
    degraded image; its posterior, in training, from the clean one too. From a sample of it and the degraded image comes what
    is added to the linear estimate (Sohn et al., "Learning Structured Output Representation using Deep Conditional
    Generative Models", 2015). All parts are made of the flagship's pairs.

    Args:
        image_shape: ``(height, width, channels)``, both sides even.
        width: channels of the hidden layers, a multiple of 2 up to 4,096. Default 64.
        latent: channels of the map, 1 to 4,096. Default 4.
        free_nats, kl_warmup_steps: of :class:`~lstm_ae_lib.tasks.variational.LatentSample`.
        linear_start: as for the peers. Default ``"dct1"``.
        name: the model's name.

    Returns:
        keras.Model: degraded and clean images, each ``(batch, height, width, channels)`` -> the same shape, not clipped. Its
        parts are models of their own: ``prior_encoder`` (degraded -> start, features, prior), ``posterior_encoder`` (clean, start, features
        -> posterior), ``decoder`` (start, features, latent -> restored).

    Raises:
        ValueError: an argument out of range.
    """
    checks.number(width, "width", 4, 4096, whole=True)
    checks.number(latent, "latent", 1, 4096, whole=True)
    if None in tuple(image_shape):
        raise ValueError(f"image_shape must be known, got {image_shape!r}")
    peers.check_divides(image_shape, 2)
    height, across, channels = image_shape

    def shrunk(images, name):
        return keras.layers.Conv2D(width, 6, strides=2, padding="same", name=name)(images)

    seen = keras.layers.Input(image_shape, name="seen")
    start, known = peers.linear_features(seen, linear_start)
    features = models.block_pair(width, "prior_pair")(shrunk(known, "first"))
    prior = models.convolution(2 * latent, 1, "prior", kernel_initializer="zeros", dtype="float32")(features)
    prior_encoder = keras.Model(seen, [start, features, prior], name="prior_encoder")

    wanted, given = keras.layers.Input(image_shape, name="wanted"), keras.layers.Input(image_shape, name="start_of_it")
    context = keras.layers.Input((height // 2, across // 2, width), name="context")
    missing = keras.layers.Subtract(dtype="float32", name="missing")([wanted, given])
    hidden = keras.layers.Add(name="both")([shrunk(missing, "first_missing"), context])
    hidden = models.block_pair(width, "posterior_pair")(hidden)
    # Nearly without noise at first: a latent that begins as noise is one that the decoder learns to leave alone.
    certain = {"kernel_initializer": "zeros", "bias_initializer": keras.initializers.Constant(-3.0)}
    mean = models.convolution(latent, 1, "mean", dtype="float32")(hidden)
    log_variance = models.convolution(latent, 1, "log_variance", dtype="float32", **certain)(hidden)
    statistics = keras.layers.Concatenate(dtype="float32", name="statistics")([mean, log_variance])
    posterior_encoder = keras.Model([wanted, given, context], statistics, name="posterior_encoder")

    numbers = keras.layers.Input((height // 2, across // 2, latent), name="numbers")
    hidden = keras.layers.Add(name="joined")([context, models.convolution(width, 1, "from_latent")(numbers)])
    hidden = models.block_pair(width, "decoder_pair1")(models.block_pair(width, "decoder_pair0")(hidden))
    found = layers.DepthToSpace(2, name="shuffle")(models.convolution(4 * channels, 3, "last", kernel_initializer="zeros")(hidden))
    restored = keras.layers.Add(dtype="float32", name="restored")([given, found])
    decoder = keras.Model([given, context, numbers], restored, name="decoder")

    degraded, clean = keras.layers.Input(image_shape, name="degraded"), keras.layers.Input(image_shape, name="clean")
    start, features, prior = prior_encoder(degraded)
    statistics = keras.layers.Concatenate(dtype="float32", name="both")([posterior_encoder([clean, start, features]), prior])
    beta = 1 / math.prod(image_shape)
    sample = LatentSample(True, beta, free_nats, kl_warmup_steps, dtype="float32", name="sample")(statistics)
    return keras.Model([degraded, clean], decoder([start, features, sample]), name=name)
