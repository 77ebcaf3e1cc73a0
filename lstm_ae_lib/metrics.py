"""Quality of restored images. Arguments come as ``(clean, restored)``, as Keras takes ``(y_true, y_pred)``.

Three numbers that are easily mixed up, and are never converted into one another:

* **MSE** is pooled over all pixels of all images, in units of the [0, 1] range;
* **PSNR** is the mean over images of each image's own PSNR, in dB with data range 1;
* **SSIM** is the mean over images, with an 11x11 Gaussian window of sigma 1.5, data range 1, windows inside the image.
"""

import numpy as np

from lstm_ae_lib import checks
from lstm_ae_lib._backend import WIDE_FLOAT, keras

ops = keras.ops

MEASURES = ("mse", "psnr", "ssim")
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
# 8-bit pixels that were divided by 255 in float32 differ this little from those in float64: copies, not 150 dB.
FLOAT_ROUNDING = 1e-14


def mse(clean, restored):
    """Mean squared error of each image: ``(batch, height, width, 3)`` twice in [0, 1] -> ``(batch,)``."""
    _check_tensors(clean, restored)
    return ops.mean(ops.square(clean - restored), axis=(1, 2, 3))


def psnr(clean, restored):
    """Peak signal-to-noise ratio of each image in dB, data range 1; infinite for identical images. Arguments as for :func:`mse`."""
    return -10.0 * ops.log10(mse(clean, restored))


def ssim(clean, restored):
    """Structural similarity of each image (Wang et al. 2004), mean over windows and channels, at most 1.

    Equals ``tf.image.ssim``, and scikit-image's with the same settings. Arguments as for :func:`mse`, at least 11 pixels a side.
    """
    _check_tensors(clean, restored)
    _, height, width, _ = clean.shape
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs images of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, got {height}x{width}")
    clean, restored = ops.convert_to_tensor(clean), ops.convert_to_tensor(restored)
    rows, columns = (ops.convert_to_tensor(_window_matrix(size), clean.dtype) for size in (height, width))

    def windowed(values):
        return ops.einsum("jw,biwc->bijc", columns, ops.einsum("ih,bhwc->biwc", rows, values))

    mean_clean, mean_restored = windowed(clean), windowed(restored)
    # max: rounding can leave a flat window a variance a hair below zero.
    variance_clean = ops.maximum(windowed(ops.square(clean)) - ops.square(mean_clean), 0.0)
    variance_restored = ops.maximum(windowed(ops.square(restored)) - ops.square(mean_restored), 0.0)
    covariance = windowed(clean * restored) - mean_clean * mean_restored
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_clean * mean_restored + c1) / (ops.square(mean_clean) + ops.square(mean_restored) + c1)
    structure = (2 * covariance + c2) / (variance_clean + variance_restored + c2)
    return ops.mean(luminance * structure, axis=(1, 2, 3))


def _check_tensors(clean, restored):
    """Refuses what would silently give a wrong number: whole numbers, which wrap around, and shapes that broadcast."""
    for images, name in ((clean, "clean"), (restored, "restored")):
        shape, dtype = getattr(images, "shape", None), str(getattr(images, "dtype", type(images).__name__))
        if shape is None or len(shape) != 4 or "float" not in dtype:
            raise ValueError(f"{name} must be float images (batch, height, width, 3), got {dtype} {shape and tuple(shape)}")
    sides = zip(clean.shape, restored.shape, strict=True)
    if any(first != second for first, second in sides if None not in (first, second)):
        raise ValueError(f"clean and restored must have the same shape, got {tuple(clean.shape)} and {tuple(restored.shape)}")


def _window_matrix(size):
    window = np.exp(-0.5 * ((np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2) / SSIM_SIGMA) ** 2)
    return sum(tap * np.eye(size - SSIM_WINDOW + 1, size, place) for place, tap in enumerate(window / window.sum()))


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
def log_mse(clean, restored):
    """A loss that counts decibels: ``log(MSE + 2e-3)`` of each image, ``(batch, ...)`` twice -> ``(batch,)``. An image that was
    badly degraded weighs less than in the MSE (Chen et al., 2022). The constant keeps untouched images from weighing the most."""
    error = ops.square(ops.cast(clean, "float32") - ops.cast(restored, "float32"))
    return ops.log(ops.mean(error, axis=tuple(range(1, len(error.shape)))) + 2e-3)


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class PSNR(keras.metrics.Metric):
    """Mean PSNR over images in dB, predictions clipped to [0, 1]; images without any error (infinite PSNR) are left out."""

    def __init__(self, name="psnr", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = self.add_variable((), "zeros", name="total")
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        if sample_weight is not None:
            raise ValueError("PSNR takes no sample weights")
        error = mse(ops.cast(y_true, self.dtype), ops.clip(ops.cast(y_pred, self.dtype), 0.0, 1.0))
        self.total.assign_add(ops.sum(-10.0 * ops.log10(ops.where(error > 0, error, ops.ones_like(error)))))
        self.count.assign_add(ops.sum(ops.cast(error > 0, self.dtype)))

    def result(self):
        return ops.divide_no_nan(self.total, self.count)


def per_image(clean, restored, chunk: int = 500) -> dict:
    """``mse``, ``psnr`` and ``ssim`` of every image, each ``(n,)`` float64.

    ``clean``, ``restored``: ``(n, height, width, 3)``, uint8, or float in [0, 1]; ``chunk`` bounds the memory. Raises
    ``ValueError`` for different shapes, or a value that is out of range, NaN or infinite.
    """
    clean, restored = _pixels(clean, "clean"), _pixels(restored, "restored")
    checks.same_shape(clean, restored, "clean", "restored")
    checks.number(chunk, "chunk", 1, 2**62, whole=True)
    parts = []
    for start in range(0, len(clean), chunk):
        pair = [images[start : start + chunk] for images in (clean, restored)]
        pair = [images / 255.0 if images.dtype == np.uint8 else images.astype(np.float64) for images in pair]
        errors = np.mean((pair[0] - pair[1]) ** 2, axis=(1, 2, 3))
        # In float32 a difference of two nearly equal means of squares would cost SSIM its fifth digit.
        similarities = ssim(*(ops.convert_to_tensor(images, WIDE_FLOAT) for images in pair))
        parts.append((errors, ops.convert_to_numpy(similarities).astype(np.float64)))
    errors, similarities = (np.concatenate(column) for column in zip(*parts, strict=True))
    errors[errors < FLOAT_ROUNDING] = 0.0
    with np.errstate(divide="ignore"):
        return {"mse": errors, "psnr": -10.0 * np.log10(errors), "ssim": similarities}


def evaluate(clean, restored) -> dict:
    """Means of :func:`per_image`'s values, each with its 95 % bootstrap interval (``..._low``, ``..._high``).

    Also ``images``, their number, and ``identical``, how many have no error; their infinite PSNR is left out (all: None).
    """
    return summarize(per_image(clean, restored))


def summarize(values: dict) -> dict:
    """:func:`evaluate`'s summary of :func:`per_image`'s values."""
    values = _measured(values, "values")
    summary = {"images": len(values["mse"]), "identical": int(np.isinf(values["psnr"]).sum())}
    for name in MEASURES:
        finite = values[name][np.isfinite(values[name])]
        low, high = bootstrap_interval(finite) if len(finite) else (None, None)
        summary |= {name: float(finite.mean()) if len(finite) else None, f"{name}_low": low, f"{name}_high": high}
    return summary


def bootstrap_interval(values, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of ``values`` ``(n,)``, finite: its lower and upper end (Efron 1979).

    ``confidence``: the coverage, 0.5 to 0.9999; ``resamples``: 100 to 1,000,000. Raises ``ValueError`` outside of these.
    """
    values = checks.array(values, "values").astype(np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"values must be a list of finite numbers, at least one; got shape {values.shape}")
    checks.number(confidence, "confidence", 0.5, 0.9999)
    checks.number(resamples, "resamples", 100, 1_000_000, whole=True)
    generator = np.random.default_rng(checks.number(seed, "seed", 0, 2**62, whole=True))
    means = np.empty(resamples)
    for start in range(0, resamples, 100):  # bounded memory
        part = generator.integers(0, len(values), (min(100, resamples - start), len(values)))
        means[start : start + 100] = values[part].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def compare(clean, restored, other, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> dict:
    """Paired comparison of two sets of restored images, image by image (paired percentile bootstrap, Efron 1979).

    Arguments as for :func:`per_image` and :func:`bootstrap_interval`. Returns the means of restored minus other with intervals,
    as :func:`evaluate`, of the PSNR over those where both are finite; ``wins``, the share with the smaller error; ``images``.
    """
    return compare_values(per_image(clean, restored), per_image(clean, other), confidence, resamples, seed)


def compare_values(values: dict, others: dict, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> dict:
    """:func:`compare` from :func:`per_image`'s values."""
    values, others = _measured(values, "values"), _measured(others, "others")
    if len(values["mse"]) != len(others["mse"]):
        raise ValueError(f"both must be of the same images, got {len(values['mse'])} and {len(others['mse'])}")
    usable = np.isfinite(values["psnr"]) & np.isfinite(others["psnr"])
    if not usable.any():
        raise ValueError("no image has a finite PSNR in both")
    result = {"images": len(usable), "wins": float(np.mean(values["mse"] < others["mse"]))}
    for name in MEASURES:
        differences = np.subtract(*(one[name][usable if name == "psnr" else ...] for one in (values, others)))
        low, high = bootstrap_interval(differences, confidence, resamples, seed)
        result |= {name: float(differences.mean()), f"{name}_low": low, f"{name}_high": high}
    return result


def gains(restored: dict, degraded: dict) -> np.ndarray:
    """Gain in PSNR of each image, ``(n,)`` dB, from :func:`per_image`'s values; NaN where a PSNR is infinite."""
    restored, degraded = (_measured(*pair)["psnr"] for pair in ((restored, "restored"), (degraded, "degraded")))
    checks.same_shape(restored, degraded, "restored", "degraded")
    known = np.isfinite(restored) & np.isfinite(degraded)
    return np.where(known, restored, np.nan) - np.where(known, degraded, np.nan)


def _measured(values, name):
    """Checks that ``values`` are of :func:`per_image`."""
    if not isinstance(values, dict) or not set(MEASURES) <= set(values):
        raise ValueError(f"{name} must be a dictionary of {', '.join(MEASURES)}, of per_image; got {type(values).__name__}")
    return {measure: checks.array(values[measure], f"{measure} of {name}") for measure in MEASURES}


def radial_power(images, bins: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Mean power of images by spatial frequency, over all directions, images and colours, without each image's mean.

    The images, float of any finite range, are mirrored at their borders (a DCT-II), so that their edges add no frequencies.
    Returns, for ``bins`` rings of equal width up to the Nyquist frequency, centres in cycles per pixel (0 to 0.5) and mean power.
    """
    import scipy.fft

    images = checks.images_float(images, low=-np.inf, high=np.inf)
    checks.number(bins, "bins", 1, min(images.shape[1:3]) - 1, whole=True)  # as many leave none but the mean in the first
    power = np.square(scipy.fft.dctn(images, axes=(1, 2), norm="ortho")).mean(axis=(0, 3))
    power[0, 0] = np.nan
    rows, columns = (np.arange(size) / (2 * size) for size in power.shape)
    ring = (np.hypot(rows[:, None], columns[None, :]) * 2 * bins).astype(int)
    return (np.arange(bins) + 0.5) / (2 * bins), np.array([np.nanmean(power[ring == number]) for number in range(bins)])


def _pixels(images, name):
    images = checks.array(images, name)
    return checks.images_uint8(images, name) if images.dtype == np.uint8 else checks.images_float(images, name)
