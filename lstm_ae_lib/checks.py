"""Is this argument what it says it is? Each check returns its argument or raises a ``ValueError`` that names it, says what
arrived and what is allowed."""

import re

import numpy as np


def images_uint8(images, name: str = "images") -> np.ndarray:
    """Checks a batch of 8-bit colour images.

    Args:
        images: array ``(batch, height, width, 3)``, uint8.
        name: what the caller calls it, for the message.

    Returns:
        numpy.ndarray: the same images.

    Raises:
        ValueError: another shape or dtype.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise ValueError(f"{name} must be uint8 (0 to 255), got {images.dtype}")
    return _shape(images, name)


def images_float(images, name: str = "images", low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Checks a batch of float colour images.

    Args:
        images: array ``(batch, height, width, 3)``, floating, every value finite and in ``[low, high]``.
        name: what the caller calls it, for the message.
        low, high: the allowed range, default 0 to 1.

    Returns:
        numpy.ndarray: the same images as float32 (float64 stays float64).

    Raises:
        ValueError: another shape, an integer dtype, NaN or infinity, or a value out of range.
    """
    images = np.asarray(images)
    if images.dtype.kind != "f" and images.dtype.name != "bfloat16":
        raise ValueError(f"{name} must be floating point in [{low:g}, {high:g}], got {images.dtype}")
    if images.dtype != np.float64:
        images = images.astype(np.float32, copy=False)
    _shape(images, name)
    smallest, largest = images.min(), images.max()
    if not (np.isfinite(smallest) and np.isfinite(largest)):
        raise ValueError(f"{name} must be finite, got {np.count_nonzero(~np.isfinite(images))} values that are NaN or infinite")
    if smallest < low or largest > high:
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got values from {smallest:g} to {largest:g}")
    return images


def images_degraded(images, name: str = "degraded") -> np.ndarray:
    """Checks a batch of degraded images: uint8, or float with finite values of any size (noise may leave [0, 1])."""
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return _shape(images, name)
    if images.dtype.kind != "f":
        raise ValueError(f"{name} must be uint8 (0 to 255), or floating point in units of [0, 1], got {images.dtype}")
    return images_float(images, name, -np.inf, np.inf)


def same_shape(first, second, first_name: str, second_name: str) -> None:
    """Raises ``ValueError`` unless both arrays have one shape."""
    if tuple(first.shape) != tuple(second.shape):
        raise ValueError(
            f"{first_name} and {second_name} must have the same shape, got {tuple(first.shape)} and {tuple(second.shape)}"
        )


def number(value, name: str, low: float, high: float, *, whole: bool = False, above_low: bool = False):
    """Checks one finite number in ``[low, high]`` (``(low, high]`` with ``above_low``), a whole one with ``whole``."""
    kind = "a whole number" if whole else "a number"
    allowed = f"{kind} {'above' if above_low else 'from'} {low:g} {'up to' if above_low else 'to'} {high:g}"
    good_type = isinstance(value, (int, np.integer) if whole else (int, float, np.integer, np.floating))
    if not good_type or isinstance(value, bool) or not (low <= value <= high) or (above_low and value == low):
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return value


def choice(value, name: str, allowed):
    """Checks that ``value`` is one of ``allowed``."""
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}; got {value!r}")
    return value


def _shape(images, name):
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise ValueError(f"{name} must have the shape (batch, height, width, 3) with no empty axis, got {images.shape}")
    return images


def file_name(value: str, name: str) -> str:
    """Checks a name that becomes part of a path: 1 to 100 letters, digits, ``.``, ``_`` or ``-``, not starting with ``.`` or ``-``."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", value):
        raise ValueError(f"{name} must be 1 to 100 letters, digits, '.', '_' or '-', starting with neither '.' nor '-'; got {value!r}")
    return value
