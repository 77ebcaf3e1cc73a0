"""Measures of a trained variational autoencoder: sampled restorations, evidence lower bound, active units, calibration."""

import math

import numpy as np

from lstm_ae_lib import checks, metrics, models, weights
from lstm_ae_lib._backend import keras
from lstm_ae_lib.tasks.variational import gaussian_kl


def restore_samples(model, degraded, count: int, seed: int = 0, batch_size: int = 250) -> np.ndarray:
    """Samples of the restored images of a trained :func:`lstm_ae_lib.tasks.variational.conditional_vae`.

    ``degraded``: ``(n, height, width, 3)``, float in units of [0, 1]; ``count``: samples for each image, 0 for one whose latent is
    the mean of the prior. Returns ``(max(count, 1), n, height, width, 3)`` float32, not clipped.
    """
    degraded = _float32(degraded, "degraded")
    checks.number(count, "count", 0, 10**6, whole=True)
    generator, found = np.random.default_rng(seed), np.empty((max(count, 1), *degraded.shape), np.float32)
    for place in range(0, len(degraded), batch_size):
        start, features, prior = _outputs(model, "prior_encoder", degraded[place : place + batch_size])
        mean, log_variance = np.split(prior, 2, axis=-1)
        for number in range(max(count, 1)):
            latent = mean if not count else _draw(generator, mean, log_variance)
            found[number, place : place + batch_size] = _outputs(model, "decoder", [start, features, latent])
    return found


def posterior(model, clean, degraded=None, batch_size: int = 500) -> tuple:
    """Means and log variances of the latent's posterior and of its prior, each ``(n, ..., latent)``.

    ``model``: of :mod:`lstm_ae_lib.tasks.variational`; ``clean``: ``(n, height, width, 3)``, float in [0, 1]; ``degraded``: the
    same images degraded, float, for a conditional model only.
    """
    clean = _float32(clean, "clean")
    if degraded is None:
        mean, log_variance = np.split(models.apply(model.get_layer("encoder"), clean, batch_size), 2, axis=-1)
        return mean, log_variance, np.zeros_like(mean), np.zeros_like(mean)
    degraded = _float32(degraded, "degraded")
    checks.same_shape(degraded, clean, "degraded", "clean")

    def statistics(clean, degraded):
        start, features, prior = _outputs(model, "prior_encoder", degraded)
        return np.concatenate([_outputs(model, "posterior_encoder", [clean, start, features]), prior], axis=-1)

    return tuple(np.split(_in_batches(statistics, batch_size, clean, degraded), 4, axis=-1))


def elbo(model, clean, degraded=None, sigma: float | None = None, seed: int = 0, batch_size: int = 500) -> dict:
    """The evidence lower bound of images, from one sample of the latent each, in bits per dimension (value of an image).

    It bounds the probability of the 8-bit images ``clean``, ``(n, height, width, 3)``: the decoder's output is the mean of a normal
    distribution, whose probability mass around each grey level counts. ``sigma``: of the decoder, above 0, from training images;
    None for the best for these images. Other arguments: as for :func:`posterior`.

    Returns a dict: ``bits`` ``(n,)``, ``nats`` ``(n,)`` (the divergence alone, of an image), ``sigma``, ``values`` (of an image),
    and ``units`` ``(latent,)``, the mean divergence of each number of the latent in nats.
    """
    clean = checks.images_uint8(clean, "clean")
    unit = clean / np.float32(255)
    mean, log_variance, _, _ = statistics = posterior(model, unit, degraded, batch_size)
    divergence = keras.ops.convert_to_numpy(gaussian_kl(*statistics)).astype(np.float64)
    latent = _draw(np.random.default_rng(seed), mean, log_variance)

    def decode(latent, degraded=None):
        return _outputs(model, "decoder", latent if degraded is None else [*_outputs(model, "prior_encoder", degraded)[:2], latent])

    decoded = _in_batches(decode, batch_size, latent, *([] if degraded is None else [_float32(degraded, "degraded")]))
    sigma = math.sqrt(np.mean(np.square(decoded - unit), dtype=np.float64)) if sigma is None else sigma
    nats, values = divergence.sum(axis=tuple(range(1, divergence.ndim))), math.prod(clean.shape[1:])
    bits = bits_of_pixels(clean, decoded, sigma) + nats / math.log(2) / values
    return {"bits": bits, "nats": nats, "sigma": float(sigma), "values": values, "units": divergence.mean(axis=0)}


def active_units(mean, least: float = 0.01) -> np.ndarray:
    """Active units: whether the posterior ``mean`` ``(n, ..., latent)`` of a number has a variance over the images above ``least``
    (Burda et al., "Importance Weighted Autoencoders", 2016); the others have collapsed to the prior. ``(..., latent)`` bool."""
    return np.var(mean, axis=0) > checks.number(least, "least", 0, 1e6)


def summarize_elbo(found: dict, mean) -> dict:
    """A run's record of a trained model, from :func:`elbo` and the means of :func:`posterior` of the same images: ``bits`` with its
    95 % interval, ``latent_bits`` (the latent's part), ``nats`` (of an image), ``latent`` (numbers), ``used`` (active units)."""
    low, high = metrics.bootstrap_interval(found["bits"])
    nats, values = float(found["nats"].mean()), found["values"]
    return {"bits": float(found["bits"].mean()), "bits_low": low, "bits_high": high, "latent_bits": nats / math.log(2) / values,
            "nats": nats, "latent": math.prod(mean.shape[1:]), "used": int(active_units(mean).sum()),
            "sigma": found["sigma"]}  # fmt: skip


def calibration(spread, error, bins: int = 10) -> dict:
    """Calibration of a predicted spread: does a larger spread go with a larger error?

    ``spread``: the predicted standard deviation of each value, at least 0, of any shape; ``error``: restored minus clean, alike;
    ``bins``: groups of equally many values, by their spread, 2 to 1,000. Returns a dict: ``spread`` and ``error``, ``(bins,)``,
    each group's root mean square, equal where calibrated; ``rank_correlation``, Spearman's, of spread and absolute error.
    """
    import scipy.stats

    spread, error = (np.asarray(one, np.float64).ravel() for one in (spread, error))
    checks.same_shape(spread, error, "spread", "error")
    checks.number(bins, "bins", 2, 1000, whole=True)
    if len(spread) < bins:
        raise ValueError(f"{bins} bins need as many values at least, got {len(spread)}")
    groups = np.array_split(np.argsort(spread, kind="stable"), bins)
    spreads, errors = (np.array([math.sqrt(np.mean(np.square(one[group]))) for group in groups]) for one in (spread, error))
    correlation = float(scipy.stats.spearmanr(spread, np.abs(error)).statistic)
    return {"spread": spreads, "error": errors, "rank_correlation": correlation}


def _float32(images, name):
    return checks.images_float(images, name, -np.inf, np.inf).astype(np.float32, copy=False)


def _in_batches(function, batch_size, *arrays):
    """A function's result for arrays, computed ``batch_size`` rows at a time."""
    places = range(0, len(arrays[0]), batch_size)
    return np.concatenate([function(*(one[place : place + batch_size] for one in arrays)) for place in places])


def _outputs(model, part, inputs):
    """The output of a part of a model, or a list of them, as arrays."""
    outputs = model.get_layer(part)(inputs, training=False)
    return keras.tree.map_structure(lambda one: np.asarray(keras.ops.convert_to_numpy(one), np.float32), outputs)


def _draw(generator, mean, log_variance):
    return mean + np.exp(np.clip(log_variance, -14, 8) / 2) * generator.standard_normal(mean.shape).astype(np.float32)


def bits_of_pixels(clean, mean, sigma: float) -> np.ndarray:
    """Bits per dimension of 8-bit images ``(n, height, width, 3)`` under normal distributions: ``(n,)``.

    ``mean`` (the same shape) and ``sigma`` (one for all, above 0 up to 10) are in units of [0, 1]. What counts is the probability
    mass within half a grey level of the value, and beyond it at 0 and 255.
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
    """A released pair of variational autoencoders: one that restores, one that images are drawn from, and the card. ``folder``:
    default ``data/weights/variational``. Errors as :func:`lstm_ae_lib.weights.read_released`."""
    folder = folder or weights.released_dir("variational")
    pairs = [one.removesuffix("-drawing") for one in weights.released(folder) if one.endswith("-drawing")]
    network, described = weights.read_released(checks.choice(name, "weights", pairs) if pairs else name, folder)
    return network, weights.read_released(f"{name}-drawing", folder)[0], described["card"]
