"""Checks of arguments: each returns its argument, or raises a ``ValueError`` that says its name, what came and what is allowed."""

import re

import numpy as np


def array(values, name: str) -> np.ndarray:
    """Checks that ``values`` can be an array of numbers."""
    try:
        values = np.asarray(values)
    except Exception as error:  # ragged lists, tensors of a graph: every library raises another error
        raise ValueError(f"{name} must be an array of numbers, got {type(values).__name__}: {error}") from error
    if values.dtype.kind not in "biuf" and values.dtype.name != "bfloat16":  # NumPy knows no kind for the latter
        raise ValueError(f"{name} must be an array of numbers, got {values.dtype}")
    return values


def images_uint8(images, name: str = "images") -> np.ndarray:
    """Checks 8-bit colour images: ``(batch, height, width, 3)`` uint8, no empty axis."""
    return _images(images, name, "uint8 (0 to 255)", uint8=True)


def images_float(images, name: str = "images", low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Checks float colour images, ``(batch, height, width, 3)``, in ``[low, high]``; returned as float32 (float64 stays)."""
    images = _images(images, name, f"floating point in [{low:g}, {high:g}]", floating=True)
    images = images if images.dtype == np.float64 else images.astype(np.float32, copy=False)
    smallest, largest = images.min(), images.max()
    if not (np.isfinite(smallest) and np.isfinite(largest)):
        raise ValueError(f"{name} must be finite, got {np.count_nonzero(~np.isfinite(images))} values that are NaN or infinite")
    if smallest < low or largest > high:
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got values from {smallest:g} to {largest:g}")
    return images


def images_degraded(images, name: str = "degraded") -> np.ndarray:
    """Checks degraded images: uint8, or float with finite values of any size (noise may leave [0, 1])."""
    images = _images(images, name, "uint8 (0 to 255), or floating point in units of [0, 1]", uint8=True, floating=True)
    return images if images.dtype == np.uint8 else images_float(images, name, -np.inf, np.inf)


def same_shape(first, second, first_name: str, second_name: str) -> None:
    """Checks that two arrays have one shape."""
    shapes = tuple(np.shape(first)), tuple(np.shape(second))
    if shapes[0] != shapes[1]:
        raise ValueError(f"{first_name} and {second_name} must have the same shape, got {shapes[0]} and {shapes[1]}")


def number(value, name: str, low: float, high: float, *, whole: bool = False, above_low: bool = False):
    """Checks one finite number in ``[low, high]`` (``(low, high]`` with ``above_low``), a whole one with ``whole``."""
    good_type = isinstance(value, (int, np.integer) if whole else (int, float, np.integer, np.floating))
    if not good_type or isinstance(value, bool) or not (low <= value <= high) or (above_low and value == low):
        allowed = f"above {low:g} up to {high:g}" if above_low else f"from {low:g} to {high:g}"
        raise ValueError(f"{name} must be a {'whole ' if whole else ''}number {allowed}, got {value!r}")
    return value


def choice(value, name: str, allowed):
    """Checks that ``value`` is one of ``allowed``."""
    if not any(isinstance(value, type(one)) and value == one for one in allowed):  # an array is none of them
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}; got {value!r}")
    return value


def file_name(value: str, name: str) -> str:
    """Checks a name that becomes part of a path."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", value):
        rule = "1 to 100 letters, digits, '.', '_' or '-', starting with neither '.' nor '-'"
        raise ValueError(f"{name} must be {rule}; got {value!r}")
    return value


def _images(images, name, allowed, *, uint8=False, floating=False):
    images = array(images, name)
    if not (uint8 and images.dtype == np.uint8 or floating and images.dtype.kind not in "biu"):
        raise ValueError(f"{name} must be {allowed}, got {images.dtype}")
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise ValueError(f"{name} must have the shape (batch, height, width, 3) with no empty axis, got {images.shape}")
    return images
