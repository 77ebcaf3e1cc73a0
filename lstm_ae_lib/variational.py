"""What a trained variational autoencoder says: restored images as samples, bounds in bits, which numbers it uses, and whether
its spread can be believed."""

import math
from pathlib import Path

import numpy as np

from lstm_ae_lib import checks, metrics, models, restoring
from lstm_ae_lib._backend import keras
from lstm_ae_lib.layers import normal_divergence

LIMITS = (
    "Trained on CIFAR-10's 32x32 images, on one seed, for 32x32 images only. Numbers of the latent are independent of each other "
    "given the degraded image: detail that hangs together over some distance is not drawn."
)


def generate(model, count: int, seed: int = 0) -> np.ndarray:
    """Images drawn from a :func:`lstm_ae_lib.models.variational_autoencoder`: latents from the standard normal, decoded.

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
    """Restored images of a :func:`lstm_ae_lib.models.conditional_vae`, several for each degraded one.

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
    reader, writer = model.get_layer("reader"), model.get_layer("writer")
    generator, found = np.random.default_rng(seed), np.empty((max(count, 1), *degraded.shape), np.float32)
    for place in range(0, len(degraded), batch_size):
        start, features, prior = _outputs(reader, degraded[place : place + batch_size])
        mean, log_variance = np.split(prior, 2, axis=-1)
        for number in range(max(count, 1)):
            latent = mean if not count else _draw(generator, mean, log_variance)
            found[number, place : place + batch_size] = _outputs(writer, [start, features, latent])
    return found


def posterior(model, clean, degraded=None, batch_size: int = 500) -> tuple:
    """Means and log variances of the latent's posterior and of its prior.

    Args:
        model: a :func:`~lstm_ae_lib.models.variational_autoencoder`, or a :func:`~lstm_ae_lib.models.conditional_vae`.
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
    reader, comparer, found = model.get_layer("reader"), model.get_layer("posterior"), []
    for place in range(0, len(clean), batch_size):
        start, features, prior = _outputs(reader, degraded[place : place + batch_size])
        statistics = _outputs(comparer, [clean[place : place + batch_size], start, features])
        found.append(np.concatenate([statistics, prior], axis=-1))
    return tuple(np.split(np.concatenate(found), 4, axis=-1))


def bound(model, clean, degraded=None, sigma: float | None = None, seed: int = 0, batch_size: int = 500) -> dict:
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
    divergence = keras.ops.convert_to_numpy(normal_divergence(*statistics)).astype(np.float64)
    latent = _draw(np.random.default_rng(seed), mean, log_variance)
    if degraded is None:
        decoded = models.apply(model.get_layer("decoder"), latent, batch_size)
    else:
        decoded, reader, writer = np.empty_like(unit), model.get_layer("reader"), model.get_layer("writer")
        for place in range(0, len(clean), batch_size):
            part = slice(place, place + batch_size)
            start, features, _ = _outputs(reader, np.asarray(degraded[part], np.float32))
            decoded[part] = _outputs(writer, [start, features, latent[part]])
    if sigma is None:
        sigma = math.sqrt(np.mean(np.square(decoded - unit), dtype=np.float64))
    nats = divergence.sum(axis=tuple(range(1, divergence.ndim)))
    bits = metrics.bits_of_pixels(clean, decoded, sigma) + nats / math.log(2) / math.prod(clean.shape[1:])
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


def describe(found: dict, mean) -> dict:
    """What a run records of a trained model.

    Args:
        found: of :func:`bound`.
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


def variational_dir() -> Path:
    """The tracked folder of released variational autoencoders."""
    return restoring.weights_dir() / "variational"


def release_run(run_name: str, name: str, folder=None) -> dict:
    """Releases both networks of a finished run of notebook 20, with a card that is read from the run's record.

    Args:
        run_name: of the run.
        name: of the pair; ``"default"`` is what the study shows. The one that images are drawn from gets ``NAME-drawing``.
        folder: default ``data/weights/variational``.

    Returns:
        dict: what stands in the JSON of the one that restores.

    Raises:
        FileNotFoundError: no such run, or a network is missing.
        ValueError: a run that is not finished, a name of other characters.
    """
    run, record = restoring.finished_run(run_name)
    folder, name = folder or variational_dir(), restoring.check_name(name)
    pair = {name: models.read(run.folder, "autoencoder"), f"{name}-drawing": models.read(run.folder, "drawing")}
    card = {
        "protocol": record["protocol"], "numbers": restoring.tested_numbers(run), **record["variational"],
        **restoring.origin(record), "limits": LIMITS,
    }  # fmt: skip
    tasks = "draws restored images of what the protocol degrades, as many as one likes", "draws images from nothing"
    described = [
        models.write(network, folder, own, old["builder"], old["arguments"], card={"task": task, **card})
        for (own, (network, old)), task in zip(pair.items(), tasks, strict=True)
    ]
    return described[0]


def load_released(name: str = "default", folder=None) -> tuple:
    """A released pair of variational autoencoders: the one that restores, the one that images are drawn from, and the card.

    Raises:
        FileNotFoundError: none is released at all, or a file is missing.
        ValueError: an unknown name; weights that are not those that were released.
    """
    folder = Path(folder or variational_dir())
    known = [one for one in restoring.released(folder) if not one.endswith("-drawing")]
    if not known:
        raise FileNotFoundError(f"there are no released variational autoencoders in {folder}")
    checks.choice(restoring.check_name(name), "weights", known)
    network, described = models.read(folder, name)
    return network, models.read(folder, f"{name}-drawing")[0], described["card"]


def _outputs(model, inputs):
    """A model's output, or a list of them, as arrays."""
    found = model(inputs, training=False)
    arrays = [np.asarray(keras.ops.convert_to_numpy(one), np.float32) for one in (found if isinstance(found, list) else [found])]
    return arrays if isinstance(found, list) else arrays[0]


def _draw(generator, mean, log_variance):
    noise = generator.standard_normal(mean.shape).astype(np.float32)
    return mean + np.exp(np.clip(log_variance, -14, 8) / 2) * noise
