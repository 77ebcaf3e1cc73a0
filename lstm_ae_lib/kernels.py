"""Blur kernels as arrays, ``(side, side)`` float32 of sum 1, and blurring with one.

Each is symmetric about its centre, so that convolution and correlation with it are the same, and blurring is its own adjoint
but for the border.
"""

import numpy as np

from lstm_ae_lib import checks

LARGEST_SIDE = 129


def gaussian(sigma_along: float, sigma_across: float, angle: float, side: int) -> np.ndarray:
    """A Gaussian of two standard deviations in pixels, each from 0.05 to 64, the first along ``angle`` (radians, from the
    rows' direction towards the bottom), at the pixels' centres. ``side`` is odd."""
    _check(angle, side, sigma_along=(sigma_along, 0.05, 64), sigma_across=(sigma_across, 0.05, 64))
    down, right = _grid(side)
    along = right * np.cos(angle) + down * np.sin(angle)
    across = down * np.cos(angle) - right * np.sin(angle)
    return _normalised(np.exp(-0.5 * ((along / sigma_along) ** 2 + (across / sigma_across) ** 2)))


def motion(length: float, angle: float, side: int) -> np.ndarray:
    """A straight line: a camera that moves at even speed, ``length`` pixels from 1 (none) to ``side - 2``, along ``angle``.

    Points of the path are shared among the four pixels around them (bilinearly), so that the line is antialiased.
    """
    _check(angle, side, length=(length, 1, side - 2))
    path = ((np.arange(8 * side) + 0.5) / (8 * side) - 0.5) * (length - 1)
    kernel = np.zeros((side, side))
    down, right = (side // 2 + path * direction for direction in (np.sin(angle), np.cos(angle)))
    top, left = np.floor(down + 1e-9).astype(int), np.floor(right + 1e-9).astype(int)
    for row, down_share in ((top, 1 - (down - top)), (top + 1, down - top)):
        for column, right_share in ((left, 1 - (right - left)), (left + 1, right - left)):
            inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
            np.add.at(kernel, (row[inside], column[inside]), (down_share * right_share)[inside])
    return _normalised(np.maximum(kernel + kernel[::-1, ::-1], 0))


def disc(radius: float, side: int, samples: int = 8) -> np.ndarray:
    """A disc, as a lens out of focus draws a point: each pixel's share of its area, from ``samples`` ** 2 points a pixel.
    ``radius`` is from 0.05 to ``side / 2`` pixels."""
    _check(0.0, side, radius=(radius, 0.05, side / 2))
    places = (np.arange(side * samples) + 0.5) / samples - side / 2
    inside = (places[:, None] ** 2 + places**2 <= radius**2).reshape(side, samples, side, samples)
    kernel = inside.sum(axis=(1, 3)).astype(float)
    kernel[side // 2, side // 2] += not kernel.any()  # smaller than the distance of two points
    return _normalised(kernel)


def blur(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """An image ``(height, width, channels)``, float, blurred with a kernel, its border mirrored about the outermost pixel."""
    import cv2

    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def _check(angle, side, **ranges):
    checks.number(side, "side", 3, LARGEST_SIDE, whole=True)
    if side % 2 == 0:
        raise ValueError(f"side must be odd, got {side}")
    checks.number(angle, "angle", -1e6, 1e6)
    for name, (value, low, high) in ranges.items():
        checks.number(value, name, low, high)


def _grid(side):
    places = np.arange(side) - side // 2
    return places[:, None].astype(float), places[None, :].astype(float)


def _normalised(kernel):
    return (kernel / kernel.sum()).astype(np.float32)
