"""Where a restored picture is least to be trusted: where the network restores the picture's mirror images otherwise.

What lies between the four results says nothing of errors that all of them share, but grows with these: a power of their variance
is the squared error to expect. ``release`` fits it on one half of scikit-image's photographs, and checks it on the other half.
"""

import numpy as np

from lstm_ae_lib import checks, degradations, kernels, pictures, restoring

SMOOTHING = 2.0  # pixels: the logarithms of variance and squared error correlate 0.70 without, 0.79 with it
LEAST = 1e-3  # squared grey levels, the smallest variance or error that counts
GREYS = 8  # of a map's file, for each grey level of expected error


def spread(image, restorer, progress: bool = False) -> tuple:
    """The restored picture, ``(height, width, 3)`` in [0, 1], and the variance between it and its restored mirror images,
    ``(height, width)`` in squared grey levels, mean of the colours.

    ``image`` is as for :func:`lstm_ae_lib.pictures.check_pixels`, ``restorer`` as for :func:`lstm_ae_lib.restoring.restore`.
    """
    colours = pictures.to_colours(pictures.as_array(image))
    first = restoring.restore(colours, restorer, progress=progress)
    total, squares = np.zeros_like(first), np.zeros_like(first)
    for down, across in ((1, -1), (-1, 1), (-1, -1)):
        restored = restoring.restore(np.ascontiguousarray(colours[::down, ::across]), restorer, progress=progress)
        difference = 255 * (restored[::down, ::across] - first)
        total += difference
        squares += difference**2
    variance = ((squares - total**2 / 4) / 3).mean(axis=2)
    return first, _smoothed(variance)


def _smoothed(values):
    taps = kernels.gaussian(SMOOTHING, SMOOTHING, 0, 17)[8]
    for axis in (0, 1):
        values = degradations.blur_axis(values, taps / taps.sum(), axis)
    return values


def error_map(image, restorer: restoring.Restorer, progress: bool = False) -> np.ndarray:
    """The error to expect of each restored pixel: ``(height, width)`` float32, root mean square in grey levels.

    Takes four times as long as restoring. Raises ``ValueError`` for weights whose card does not say how to tell, and as
    :func:`spread`.
    """
    if "trust" not in restorer.card:
        raise ValueError(f"the weights {restorer.name} have no map of errors; photo has")
    return expected(spread(image, restorer, progress)[1], restorer.card["trust"])


def expected(variance, trust: dict) -> np.ndarray:
    """Root mean square errors in grey levels, from variances as of :func:`spread` and the numbers of :func:`fit`."""
    return np.exp((trust["slope"] * np.log(np.maximum(variance, LEAST)) + trust["offset"]) / 2).astype(np.float32)


def fit(variance, squared_error, bins: int = 50) -> dict:
    """``slope`` and ``offset`` of the line from log(variance) to log(squared error), both in squared grey levels: least squares on
    the means of ``bins`` with as many pixels each, of which there must be as many (``ValueError``)."""
    checks.number(bins, "bins", 2, variance.size, whole=True)
    variance = np.maximum(variance, LEAST).ravel()
    parts = np.array_split(np.argsort(variance), bins)
    means = [(np.log(variance[part]).mean(), np.log(np.maximum(np.mean(squared_error.ravel()[part]), LEAST))) for part in parts]
    x, y = np.transpose(means)
    slope = float(np.cov(x, y)[0, 1] / np.var(x, ddof=1)) if np.ptp(x) else 0.0  # where nothing varies, it is one number for all
    return {"slope": slope, "offset": float(y.mean() - slope * x.mean())}


def calibrate(restorer, side: int = 256, bins: int = 6) -> dict:
    """:func:`fit` on the left halves of squares from the middle of scikit-image's photographs, in all
    :data:`lstm_ae_lib.tasks.photographs.CASES`; and how it does on the right halves.

    ``correlation`` is that of the logarithms there; ``bins`` has as many pixels each, from where the least error is expected to
    where the most is: ``expected`` and ``found``, root mean squares in grey levels.
    """
    from lstm_ae_lib.tasks.photographs import CASES, middle

    halves = {"left": ([], []), "right": ([], [])}  # each: variances, squared errors
    for arguments in CASES.values():
        for place, picture in enumerate(pictures.photographs().values()):
            clean = middle(picture, side)
            random = np.random.default_rng((degradations.PROTOCOL_SEED, place))
            restored, variance = spread(degradations.through_camera(clean, random, **arguments), restorer)
            error = _smoothed(np.square(255 * restored - clean).mean(axis=2, dtype=np.float32))
            for kind, values in enumerate((variance, error)):
                for half, part in zip(halves.values(), np.array_split(values, 2, axis=1), strict=True):
                    half[kind].append(part.ravel())
    trust = fit(*map(np.concatenate, halves["left"]))
    variance, error = map(np.concatenate, halves["right"])
    told = expected(variance, trust)
    parts = np.array_split(np.argsort(told), bins)
    rows = [{"expected": float(np.sqrt(np.mean(told[part] ** 2))), "found": float(np.sqrt(error[part].mean()))} for part in parts]
    correlation = float(np.corrcoef(np.log(told), np.log(np.maximum(error, LEAST)))[0, 1]) if np.ptp(told) else 0.0
    return {**trust, "correlation": correlation, "bins": rows}


def write_map(source, target, restorer: restoring.Restorer, progress: bool = False) -> None:
    """Writes :func:`error_map` of a PNG or JPEG file as a grey PNG: :data:`GREYS` for each level of error, white from 32 on."""
    pictures.check_target(target, source, (".png",))
    levels = error_map(pictures.read(source, quiet=True), restorer, progress)  # a map has no metadata to lose
    pictures.write(target, np.rint(np.minimum(GREYS * levels, 255)).astype(np.uint8))
