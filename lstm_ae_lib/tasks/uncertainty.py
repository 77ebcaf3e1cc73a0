"""What a trained variational autoencoder says: restored images as samples, bounds in bits, which numbers it uses, and whether
its spread can be believed."""

import math

import numpy as np

from lstm_ae_lib import checks, metrics, models, weights
from lstm_ae_lib._backend import keras
from lstm_ae_lib.tasks.variational import gaussian_kl


def generate(model, count: int, seed: int = 0) -> np.ndarray:
    """Images drawn from a :func:`lstm_ae_lib.tasks.variational.variational_autoencoder`: latents from the standard normal, decoded.

    Args:
        model: the trained model.
        count: images, at least 1.
        seed: of the latents.

    Returns:
        numpy.ndarray: ``(count, height, width, channels)`` float32, clipped to [0, 1].
    """
    decoder = model.get_layer("decoder")
    checks.number(count, "count", 1, 2**31, whole=True)
    latent = np.random.default_rng(seed).standard_normal((count, *decoder.inputs[0].shape[1:])).astype(np.float32)
    return np.clip(models.apply(decoder, latent), 0, 1)


def restore_samples(model, degraded, count: int, seed: int = 0, batch_size: int = 250) -> np.ndarray:
    """Restored images of a :func:`lstm_ae_lib.tasks.variational.conditional_vae`, several for each degraded one.

    Args:
        model: the trained model.
        degraded: ``(n, height, width, 3)``, float in units of [0, 1].
        count: samples for each image; 0 for one whose latent is the mean of the prior.
        seed: of the samples.
        batch_size: images at a time; bounds the memory.

    Returns:
        numpy.ndarray: ``(max(count, 1), n, height, width, 3)`` float32, not clipped.

    Raises:
        ValueError: images of another shape or dtype, a count out of range.
    """
    degraded = checks.images_float(degraded, "degraded", -np.inf, np.inf).astype(np.float32, copy=False)
    checks.number(count, "count", 0, 10**6, whole=True)
    prior_encoder, decoder = model.get_layer("prior_encoder"), model.get_layer("decoder")
    generator, found = np.random.default_rng(seed), np.empty((max(count, 1), *degraded.shape), np.float32)
    for place in range(0, len(degraded), batch_size):
        start, features, prior = _outputs(prior_encoder, degraded[place : place + batch_size])
        mean, log_variance = np.split(prior, 2, axis=-1)
        for number in range(max(count, 1)):
            latent = mean if not count else _draw(generator, mean, log_variance)
            found[number, place : place + batch_size] = _outputs(decoder, [start, features, latent])
    return found


def posterior(model, clean, degraded=None, batch_size: int = 500) -> tuple:
    """Means and log variances of the latent's posterior and of its prior.

    Args:
        model: a :func:`~lstm_ae_lib.tasks.variational.variational_autoencoder`, or a :func:`~lstm_ae_lib.tasks.variational.conditional_vae`.
        clean: ``(n, height, width, 3)``, float in [0, 1].
        degraded: the same images degraded, float; for the conditional one only.
        batch_size: images at a time; bounds the memory.

    Returns:
        tuple: mean, log variance, prior mean, prior log variance, each ``(n, ..., latent)``.

    Raises:
        ValueError: images of another shape or dtype.
    """
    clean = checks.images_float(clean, "clean", -np.inf, np.inf).astype(np.float32, copy=False)
    if degraded is None:
        mean, log_variance = np.split(models.apply(model.get_layer("encoder"), clean, batch_size), 2, axis=-1)
        return mean, log_variance, np.zeros_like(mean), np.zeros_like(mean)
    degraded = checks.images_float(degraded, "degraded", -np.inf, np.inf).astype(np.float32, copy=False)
    checks.same_shape(degraded, clean, "degraded", "clean")
    prior_encoder, posterior_encoder, found = model.get_layer("prior_encoder"), model.get_layer("posterior_encoder"), []
    for place in range(0, len(clean), batch_size):
        start, features, prior = _outputs(prior_encoder, degraded[place : place + batch_size])
        statistics = _outputs(posterior_encoder, [clean[place : place + batch_size], start, features])
        found.append(np.concatenate([statistics, prior], axis=-1))
    return tuple(np.split(np.concatenate(found), 4, axis=-1))


def elbo(model, clean, degraded=None, sigma: float | None = None, seed: int = 0, batch_size: int = 500) -> dict:
    """The evidence lower bound of images, one sample of the latent each, in bits for each of an image's values.

    What is bounded is the probability of the 8-bit image: of a normal distribution round the decoder's output, the part that
    falls on each value.

    Args:
        model: as for :func:`posterior`.
        clean: ``(n, height, width, 3)``, uint8.
        degraded: the same images degraded, float; for the conditional one only.
        sigma: of the decoder, above 0; None for the one with which these images come out best. Take it from training images.
        seed: of the samples.
        batch_size: images at a time; bounds the memory.

    Returns:
        dict: ``bits`` ``(n,)``, ``nats`` ``(n,)`` (the divergence alone, of an image), ``sigma``, ``values`` (of an
        image), and ``units`` ``(latent,)``, the mean divergence of each number of the latent in nats.

    Raises:
        ValueError: images of another shape or dtype, a sigma out of range.
    """
    clean = checks.images_uint8(clean, "clean")
    unit = clean / np.float32(255)
    mean, log_variance, _, _ = statistics = posterior(model, unit, degraded, batch_size)
    divergence = keras.ops.convert_to_numpy(gaussian_kl(*statistics)).astype(np.float64)
    latent = _draw(np.random.default_rng(seed), mean, log_variance)
    if degraded is None:
        decoded = models.apply(model.get_layer("decoder"), latent, batch_size)
    else:
        decoded, prior_encoder, decoder = np.empty_like(unit), model.get_layer("prior_encoder"), model.get_layer("decoder")
        for place in range(0, len(clean), batch_size):
            part = slice(place, place + batch_size)
            start, features, _ = _outputs(prior_encoder, np.asarray(degraded[part], np.float32))
            decoded[part] = _outputs(decoder, [start, features, latent[part]])
    if sigma is None:
        sigma = math.sqrt(np.mean(np.square(decoded - unit), dtype=np.float64))
    nats = divergence.sum(axis=tuple(range(1, divergence.ndim)))
    bits = bits_of_pixels(clean, decoded, sigma) + nats / math.log(2) / math.prod(clean.shape[1:])
    units = divergence.mean(axis=0)
    return {"bits": bits, "nats": nats, "sigma": float(sigma), "values": math.prod(clean.shape[1:]), "units": units}


def active_units(mean, least: float = 0.01) -> np.ndarray:
    """Which numbers of a latent a model uses: those whose posterior mean varies over the images by more than ``least``
    (Burda et al., "Importance Weighted Autoencoders", 2016). The others have collapsed to the prior.

    Args:
        mean: ``(n, ..., latent)`` of :func:`posterior`.
        least: variance, at least 0. Default 0.01.

    Returns:
        numpy.ndarray: ``(..., latent)`` bool.
    """
    return np.var(mean, axis=0) > checks.number(least, "least", 0, 1e6)


def summarize_elbo(found: dict, mean) -> dict:
    """What a run records of a trained model.

    Args:
        found: of :func:`elbo`.
        mean: of :func:`posterior`, of the same images.

    Returns:
        dict: ``bits`` with its 95 % interval ``bits_low`` and ``bits_high``, ``latent_bits`` (the latent's part), ``nats`` (the
        divergence of an image), ``latent`` (numbers), ``used`` (those of them that have not collapsed), and ``sigma``.
    """
    low, high = metrics.bootstrap_interval(found["bits"])
    nats, values = float(found["nats"].mean()), found["values"]
    return {
        "bits": float(found["bits"].mean()), "bits_low": low, "bits_high": high, "latent_bits": nats / math.log(2) / values,
        "nats": nats, "latent": math.prod(mean.shape[1:]), "used": int(active_units(mean).sum()), "sigma": found["sigma"],
    }  # fmt: skip


def calibration(spread, error, bins: int = 10) -> dict:
    """Does a larger predicted spread go with a larger error?

    Args:
        spread: the predicted standard deviation of each value, at least 0; any shape.
        error: restored minus clean, the same shape.
        bins: groups of equally many values, from the smallest spread to the largest, 2 to 1,000.

    Returns:
        dict: ``spread`` and ``error``, ``(bins,)``, the root mean square of each in each group: equal where the spread can be
        believed; ``rank_correlation``, Spearman's, of the spread and the absolute error.

    Raises:
        ValueError: different shapes, too few values.
    """
    import scipy.stats

    spread, error = (np.asarray(one, np.float64).ravel() for one in (spread, error))
    checks.same_shape(spread, error, "spread", "error")
    checks.number(bins, "bins", 2, 1000, whole=True)
    if len(spread) < bins:
        raise ValueError(f"{bins} bins need as many values at least, got {len(spread)}")
    groups = np.array_split(np.argsort(spread, kind="stable"), bins)
    found = {
        name: np.array([math.sqrt(np.mean(np.square(values[group]))) for group in groups])
        for name, values in (("spread", spread), ("error", error))
    }
    return found | {"rank_correlation": float(scipy.stats.spearmanr(spread, np.abs(error)).statistic)}


def _outputs(model, inputs):
    """A model's output, or a list of them, as arrays."""
    found = model(inputs, training=False)
    arrays = [np.asarray(keras.ops.convert_to_numpy(one), np.float32) for one in (found if isinstance(found, list) else [found])]
    return arrays if isinstance(found, list) else arrays[0]


def _draw(generator, mean, log_variance):
    noise = generator.standard_normal(mean.shape).astype(np.float32)
    return mean + np.exp(np.clip(log_variance, -14, 8) / 2) * noise


def bits_of_pixels(clean, mean, sigma: float) -> np.ndarray:
    """What the 8-bit values of images cost under normal distributions, in bits a value.

    Args:
        clean: ``(n, height, width, 3)``, uint8.
        mean: of the distributions, the same shape, float in units of [0, 1].
        sigma: of all of them, in the same units, above 0 up to 10.

    Returns:
        numpy.ndarray: ``(n,)``, the mean over each image's values of minus the logarithm of the probability of that value:
        what of the distribution lies within half a grey level of it, and beyond it at 0 and at 255.

    Raises:
        ValueError: different shapes, an argument out of range.
    """
    import scipy.special

    clean = checks.images_uint8(clean, "clean")
    mean = checks.images_float(mean, "mean", -np.inf, np.inf)
    checks.same_shape(clean, mean, "clean", "mean")
    checks.number(sigma, "sigma", 0, 10, above_low=True)
    found = np.empty(len(clean))
    for place, (image, centre) in enumerate(zip(clean.astype(np.float64), mean.astype(np.float64), strict=True)):
        low = np.where(image == 0, -np.inf, ((image - 0.5) / 255 - centre) / sigma)
        high = np.where(image == 255, np.inf, ((image + 0.5) / 255 - centre) / sigma)
        # On the right of the mean both parts are nearly 1: mirrored, their difference keeps its digits.
        low, high = np.where(low > 0, -high, low), np.where(low > 0, -low, high)
        upper, lower = scipy.special.log_ndtr(high), scipy.special.log_ndtr(low)
        found[place] = -np.mean(upper + np.log1p(-np.exp(np.minimum(lower - upper, -1e-12)))) / np.log(2)
    return found


def load_released(name: str = "default", folder=None) -> tuple:
    """A released pair of variational autoencoders: the one that restores, the one that images are drawn from, and the card.

    ``folder``: default ``data/weights/variational``.

    Raises:
        FileNotFoundError: none is released at all, or a file is missing.
        ValueError: an unknown name; weights that are not those that were released.
    """
    folder = folder or weights.released_dir("variational")
    network, described = weights.read_released(name, folder)
    return network, weights.read_released(f"{name}-drawing", folder)[0], described["card"]
