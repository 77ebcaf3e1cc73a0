"""Variational autoencoders: the sampled bottleneck, the loss, and the two networks."""

import math

import numpy as np

from lstm_ae_lib import checks, layers, models, peers, weights
from lstm_ae_lib._backend import keras

ops = keras.ops


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class LatentSample(keras.layers.Layer):
    """The bottleneck of a variational autoencoder (Kingma and Welling, "Auto-Encoding Variational Bayes", 2014).

    In training the output is ``mean + exp(log_variance / 2) * noise`` and ``beta`` times the divergence is added to the loss;
    otherwise it is the mean. Against posterior collapse beta rises from zero over the first ``kl_warmup_steps``, and ``free_nats``
    of each number, on the mean over the batch, cost nothing (Kingma et al., "Improved Variational Inference with Inverse
    Autoregressive Flow", 2016). All three are at least 0. Computed in the dtype of the weights; ``steps`` counts those of training.

    Input: ``(batch, ..., 2 * latent)``, mean and log variance of the posterior; with ``prior`` ``4 * latent``, behind them those of
    the prior (else the standard normal). Log variances are clipped to -14 to 8. Output: ``(batch, ..., latent)``. Metric: ``kl``,
    in nats an image. Raises ``ValueError`` for an argument out of range, or a last axis that does not divide.
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
        self.steps = self.add_weight((), "zeros", "float32", trainable=False, autocast=False, name="steps")

    def call(self, statistics, training=False):
        parts = ops.split(ops.cast(statistics, self.variable_dtype), 4 if self.prior else 2, axis=-1)
        mean, log_variance = parts[0], ops.clip(parts[1], -14, 8)
        divergence = gaussian_kl(*parts)
        self._kl.update_state(ops.sum(divergence, axis=tuple(range(1, len(statistics.shape)))))
        if training:
            counted = ops.sum(ops.maximum(ops.mean(divergence, axis=0), self.free_nats))
            share = ops.minimum((self.steps + 1) / self.kl_warmup_steps, 1.0) if self.kl_warmup_steps else 1.0
            self.steps.assign_add(1.0)
            self.add_loss(self.beta * share * ops.cast(counted, "float32"))
            mean = mean + ops.exp(log_variance / 2) * keras.random.normal(ops.shape(mean), dtype=mean.dtype, seed=self._noise)
        return ops.cast(mean, self.compute_dtype)

    def multiply_adds(self, given, made):
        return 0

    def get_config(self):
        names = ("prior", "beta", "free_nats", "kl_warmup_steps", "seed")
        return super().get_config() | {name: getattr(self, name) for name in names}

    def compute_output_shape(self, input_shape):
        parts = 4 if self.prior else 2
        if not input_shape[-1] or input_shape[-1] % parts:
            raise ValueError(f"LatentSample needs a last axis that {parts} divides, got {tuple(input_shape)}")
        return (*input_shape[:-1], input_shape[-1] // parts)


def gaussian_kl(mean, log_variance, prior_mean=None, prior_log_variance=None):
    """Kullback-Leibler divergence of normal distributions from a prior (None: the standard normal), in nats, element by element:
    tensors or arrays of one shape and dtype. Log variances are clipped to -14 to 8."""
    mean, log_variance = ops.convert_to_tensor(mean), ops.clip(ops.convert_to_tensor(log_variance), -14, 8)
    if prior_mean is None:
        return 0.5 * (ops.exp(log_variance) + ops.square(mean) - 1 - log_variance)
    prior_log_variance = ops.clip(ops.convert_to_tensor(prior_log_variance), -14, 8)
    far = ops.square(mean - prior_mean) * ops.exp(-prior_log_variance)
    return 0.5 * (prior_log_variance - log_variance + ops.exp(log_variance - prior_log_variance) + far - 1)


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
def gaussian_nll(clean, restored):
    """Negative log-likelihood of a normal distribution round the restored images with the best variance for the batch, its mean
    squared error: ``log(2 pi e MSE) / 2`` nats per dimension (Rybkin et al., "Simple and Effective VAE Training with Calibrated
    Decoders", 2021). Two tensors of one shape -> a scalar."""
    error = ops.mean(ops.square(ops.cast(clean, "float32") - ops.cast(restored, "float32")))
    return 0.5 * ops.log(2 * np.pi * np.e * ops.maximum(error, 1e-12))


@weights.register
def variational_autoencoder(image_shape=(32, 32, 3), latent: int = 128, width: int = 48, free_nats: float = 0.0,
                            kl_warmup_steps: int = 0, name: str = "variational_autoencoder"):  # fmt: skip
    """A recurrent variational autoencoder with a latent vector, which images can be drawn from.

    clean -> encoder -> mean and log variance -> a sample -> decoder -> reconstruction. Encoder and decoder are the flagship's
    pairs of a residual block and scans, at a half and at a quarter of the resolution, without skips around the latent. With
    :func:`gaussian_nll` as the loss, training minimises the negative evidence lower bound in nats per dimension.

    The image shape is known, its sides multiples of 4; ``latent``: numbers, 1 to 65,536; ``width``: channels at half the
    resolution, twice as many at a quarter, a multiple of 2 up to 2,048; others: as for :class:`LatentSample`. Returns a model with
    the images' shape, not clipped, of two models: ``encoder`` (image -> mean and log variance), ``decoder`` (latent -> image).
    """
    height, across, channels = _checked_arguments(image_shape, 4, width, 2048, latent, 65536)
    narrow = 16  # channels that are flattened
    clean = keras.layers.Input(image_shape, name="image")
    hidden = models.convolution(width, 6, "first", strides=2)(clean)
    hidden = models.block_pair(width, "half")(hidden)
    hidden = models.convolution(2 * width, 4, "down", strides=2)(hidden)
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
    decoder = keras.Model(numbers, keras.layers.Rescaling(1.0, 0.5, dtype="float32", name="grey")(image), name="decoder")

    image = keras.layers.Input(image_shape, name="clean")
    sample = LatentSample(False, 1 / math.prod(image_shape), free_nats, kl_warmup_steps, dtype="float32", name="sample")
    return keras.Model(image, decoder(sample(encoder(image))), name=name)


@weights.register
def conditional_vae(image_shape=(32, 32, 3), width: int = 64, latent: int = 4, free_nats: float = 0.0,
                    kl_warmup_steps: int = 0, linear_start: str = "dct1", name: str = "conditional_vae"):  # fmt: skip
    """A recurrent variational autoencoder that restores: any number of restored images for one degraded image.

    The latent is a map of ``latent`` channels at half the resolution. Its prior comes from the degraded image; its posterior, in
    training, from the clean one too. A decoder of a sample and the degraded image gives what is added to the linear estimate
    (Sohn et al., "Learning Structured Output Representation using Deep Conditional Generative Models", 2015).

    The image shape is known, its sides even; ``width`` (channels of the hidden layers) is a multiple of 2, both up to 4,096;
    others: as for :class:`LatentSample` and the peers. Returns a model: degraded and clean images -> restored ones, not clipped.
    Its parts are models: ``prior_encoder`` (degraded -> start, features, prior), ``posterior_encoder`` (clean, start, features ->
    posterior), ``decoder`` (start, features, latent -> restored).
    """
    height, across, channels = _checked_arguments(image_shape, 2, width, 4096, latent, 4096)

    seen = keras.layers.Input(image_shape, name="seen")
    start, known = peers.linear_features(seen, linear_start)
    features = models.block_pair(width, "prior_pair")(models.convolution(width, 6, "first", strides=2)(known))
    prior = models.convolution(2 * latent, 1, "prior", kernel_initializer="zeros", dtype="float32")(features)
    prior_encoder = keras.Model(seen, [start, features, prior], name="prior_encoder")

    wanted, given = keras.layers.Input(image_shape, name="wanted"), keras.layers.Input(image_shape, name="start_of_it")
    context = keras.layers.Input((height // 2, across // 2, width), name="context")
    missing = keras.layers.Subtract(dtype="float32", name="missing")([wanted, given])
    hidden = keras.layers.Add(name="both")([models.convolution(width, 6, "first_missing", strides=2)(missing), context])
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
    sample = LatentSample(True, 1 / math.prod(image_shape), free_nats, kl_warmup_steps, dtype="float32", name="sample")(statistics)
    return keras.Model([degraded, clean], decoder([start, features, sample]), name=name)


def with_clean(batches):
    """Batches of ``(degraded, clean)`` as ``((degraded, clean), clean)``: for a network that sees the clean image in training."""
    return batches.map(lambda degraded, clean: ((degraded, clean), clean))


def _checked_arguments(image_shape, divisor, width, widest, latent, largest):
    if checks.number(width, "width", 4, widest, whole=True) % 2:
        raise ValueError(f"width must be a multiple of 2, got {width}")
    checks.number(latent, "latent", 1, largest, whole=True)
    if None in tuple(image_shape):
        raise ValueError(f"image_shape must be known, got {image_shape!r}")
    peers.check_divides(image_shape, divisor)
    return image_shape
