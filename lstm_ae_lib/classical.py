"""Restoration without training: filters that are fitted in closed form."""

import numpy as np

from lstm_ae_lib import checks
from lstm_ae_lib.layers import cosine_basis
from lstm_ae_lib.models import linear_filter


def fit_linear_filter(degraded, clean, transform: str, offset: bool = True, chunk: int = 2000):
    """Fits the linear minimum mean square error (LMMSE) filter of pairs of images.

    For every frequency of the cosine transform, the 3x3 matrix and the offset that bring the degraded colours closest to
    the clean ones in the mean over all pairs: ordinary least squares, solved exactly, 12 numbers from ``n`` pairs at each
    frequency. It is the yardstick of the study: what a restorer can do that learns nothing from the pairs but their second moments.

    Args:
        degraded, clean: ``(n, height, width, 3)`` uint8, n at least 8.
        transform: ``"dct1"`` or ``"dct2"``; ``Protocol.transform`` says which one fits.
        offset: fit the offset too. Default True. Without it the filter is 9 numbers at each frequency and cannot undo a
            bias, such as the 1.5 grey levels by which the truncation of the protocol ``reference`` darkens.
        chunk: images transformed at a time; bounds the memory.

    Returns:
        keras.Model: ``(batch, height, width, 3)`` float in [0, 1] -> the same, not clipped; one
        :class:`~lstm_ae_lib.layers.SpectralWiener` with the fitted weights.

    Raises:
        ValueError: images of a wrong shape or dtype, too few of them, an unknown transform.
    """
    degraded, clean = checks.images_uint8(degraded, "degraded"), checks.images_uint8(clean, "clean")
    checks.same_shape(degraded, clean, "degraded", "clean")
    count, height, width, _ = clean.shape
    checks.number(count, "the number of image pairs", 8, 2**62, whole=True)
    rows, columns = cosine_basis(height, transform)[0], cosine_basis(width, transform)[0]

    def spectrum(images):
        values = np.einsum("ih,nhwc->niwc", rows, images / 255.0, optimize=True)
        return np.einsum("jw,niwc->ijnc", columns, values, optimize=True)

    inputs = 4 if offset else 3
    seen = np.zeros((height, width, inputs, inputs))
    wanted = np.zeros((height, width, inputs, 3))
    for start in range(0, count, chunk):
        target = spectrum(clean[start : start + chunk])
        observed = spectrum(degraded[start : start + chunk])
        if offset:  # a constant 1 beside the colours makes it part of the same least squares
            observed = np.concatenate([observed, np.ones_like(observed[..., :1])], axis=-1)
        seen += observed.swapaxes(-1, -2) @ observed
        wanted += observed.swapaxes(-1, -2) @ target
    # A frequency that the blur or the rounding wiped out has nothing to invert; the ridge, far below one grey level's
    # noise, keeps the equations solvable there.
    seen[..., range(3), range(3)] += 1e-9 * count
    solution = np.linalg.solve(seen, wanted)

    model = linear_filter((height, width, 3), transform)
    model.set_weights([solution[..., :3, :], solution[..., 3, :] if offset else np.zeros((height, width, 3))])
    return model
