"""Released weights, and what they are for: restoring a picture of any size.

A released model is two files in ``data/weights``: ``NAME.weights.h5``, and ``NAME.json`` with its builder, the builder's
arguments, the SHA-256 of the weights, and a card (task, data, numbers, seed, versions, limits).
"""

import functools
import math
from pathlib import Path

import numpy as np

from lstm_ae_lib import checks, pictures, spectral, weights
from lstm_ae_lib._backend import keras

# A picture that is larger than this is cut into tiles, which share a border: where two meet, one fades into the other. At its
# cut edges a tile is wrong, by more than a grey level for 22 pixels with the weights gauss2: a quarter of the overlap is unused.
TILE, OVERLAP = 384, 96
# Networks halve an image this often; whatever does not divide is continued at its border and cut off again.
STRIDE = 8


class ReleasedRestorer:
    """A released network, ready to use: degraded images in, restored images out, of any size. :func:`load_restorer` makes it.

    Args:
        name: what it is called.
        model: the network, built for one image size.
        builder, arguments: what built it (:func:`lstm_ae_lib.weights.build`); other sizes are built the same way.
        card: what is known about it.
    """

    def __init__(self, name: str, model, builder: str, arguments: dict, card: dict):
        self.name, self.model, self.builder, self.arguments, self.card = name, model, builder, dict(arguments), dict(card)
        self._at_size = functools.lru_cache(maxsize=4)(self._build)

    def __call__(self, degraded) -> np.ndarray:
        """Restores a batch.

        Args:
            degraded: ``(batch, height, width, 3)``, floating, in units of [0, 1]; height and width at least 2.

        Returns:
            numpy.ndarray: the same shape, float32, clipped to [0, 1].

        Raises:
            ValueError: another shape, an integer dtype, values that are not finite.
        """
        degraded = checks.images_float(degraded, "degraded", -np.inf, np.inf).astype(np.float32, copy=False)
        height, width = degraded.shape[1:3]
        if min(height, width) < 2:
            raise ValueError(f"degraded must be at least 2 pixels high and wide, got {height} x {width}")
        # A border that is continued as the blur continued it: mirrored, the outermost pixel once.
        more = [(0, 0), (0, _padding(height)), (0, _padding(width)), (0, 0)]
        padded = np.pad(degraded, more, mode="reflect")
        model = self._at_size(padded.shape[1], padded.shape[2])
        restored = keras.ops.convert_to_numpy(model.predict_on_batch(padded))
        return np.clip(restored[:, :height, :width], 0, 1)

    def _build(self, height, width):
        if tuple(self.model.inputs[0].shape[1:3]) == (height, width):
            return self.model
        model = weights.build(self.builder, {**self.arguments, "image_shape": (height, width, 3)})
        start = spectral.linear_start_of(self.model)
        for layer, own in zip(model.layers, self.model.layers, strict=True):
            layer.set_weights(spectral.resized_filter(own, height, width) if own is start else own.get_weights())
        return model


def _padding(size):
    """Pixels by which a side is continued: none where it divides, else so many that the new edge is far from the picture."""
    fits = size % STRIDE == 0 and size >= 2 * STRIDE
    return 0 if fits else -(-(size + OVERLAP // 4) // STRIDE) * STRIDE - size


def linear_part(restorer):
    """The linear estimate that a :class:`ReleasedRestorer` starts from, as a restorer of its own; None where it starts from nothing."""
    layer = spectral.linear_start_of(restorer.model)
    if layer is None:
        return None
    arguments = {"image_shape": restorer.model.inputs[0].shape[1:], "transform": layer.transform}
    builder = "linear_filter"
    if isinstance(layer, spectral.SpectralMixture):
        builder, arguments["parts"] = "linear_mixture", layer.parts
    model = weights.build(builder, arguments)
    spectral.set_linear_start(model, restorer.model)
    return ReleasedRestorer(f"{restorer.name}, linear start", model, builder, arguments, {})


def load_restorer(name: str, folder=None) -> ReleasedRestorer:
    """A released network by its name.

    Args:
        name: one of :func:`lstm_ae_lib.weights.released`, such as ``"gauss2"``.
        folder: default ``data/weights``.

    Returns:
        ReleasedRestorer: a callable, degraded float32 batch in [0, 1] -> restored.

    Raises:
        FileNotFoundError: no released weights at all, or one of the two files missing.
        ValueError: an unknown name; weights that are not those that were released.
    """
    model, description = weights.read_released(name, folder)
    return ReleasedRestorer(name, model, description["builder"], description["arguments"], description["card"])


def restore(image, restorer="gauss2", *, tile: int = TILE, overlap: int = OVERLAP, progress: bool = False) -> np.ndarray:
    """Restores one picture of any size.

    A picture larger than a tile is restored tile by tile; memory grows with the picture, not with the network's layers.

    Args:
        image: ``(height, width)`` or ``(height, width, channels)`` with 1 (grey), 3 (RGB) or 4 (RGBA) channels; uint8, uint16,
            or floating in [0, 1]. Grey is restored as three equal colours and averaged; alpha is kept as it is.
        restorer: released weights' name, or any function of a batch ``(1, height, width, 3)``, float32 in [0, 1].
        tile: side of a tile in pixels, at least twice ``overlap``. Default 384.
        overlap: pixels that neighbouring tiles share, at least 2. Default 96.
        progress: show a bar.

    Returns:
        numpy.ndarray: the same shape and dtype.

    Raises:
        ValueError: another shape or dtype, an empty image, values out of range, an argument out of range.

    Example:
        >>> photo = cv2.imread("photo.png")[..., ::-1]                # doctest: +SKIP
        >>> sharp = restore(photo, "gauss2")                          # doctest: +SKIP
    """
    checks.number(overlap, "overlap", 2, 2**20, whole=True)
    checks.number(tile, "tile", 2 * overlap, 2**20, whole=True)
    restorer = load_restorer(restorer) if isinstance(restorer, str) else restorer
    image = np.asarray(image)
    colours, back = pictures.to_colours(image)
    height, width = colours.shape[:2]
    rows, columns = _tile_offsets(height, tile, overlap), _tile_offsets(width, tile, overlap)
    restored, weight = np.zeros(colours.shape, np.float32), np.zeros((height, width, 1), np.float32)
    places = [(top, left) for top in rows for left in columns]
    if progress:
        import tqdm

        places = tqdm.tqdm(places, unit=" tiles", disable=len(places) == 1)
    for top, left in places:
        part = slice(top, top + tile), slice(left, left + tile)
        seen = colours[part]
        fade = (_blend_weights(top, height, seen.shape[0], overlap)[:, None] * _blend_weights(left, width, seen.shape[1], overlap))[..., None]
        restored[part] += fade * restorer(seen[None])[0]
        weight[part] += fade
    return back(restored / weight)


def _tile_offsets(size, tile, overlap):
    """Where tiles begin: all of one size, spread evenly, sharing at least ``overlap`` pixels."""
    if size <= tile:
        return [0]
    count = math.ceil((size - overlap) / (tile - overlap))
    return [round(place * (size - tile) / (count - 1)) for place in range(count)]


def _blend_weights(start, size, length, overlap):
    """A tile's weight along one axis, but for the picture's own edges: nothing in the outer quarter of the shared border,
    where the network sees least, then rising over a half of it."""
    rising = np.clip((np.arange(length, dtype=np.float32) + 0.5 - overlap / 4) / (overlap / 2), 0, 1)
    falling = rising[::-1] if start + length < size else 1
    return (rising if start else np.ones(length, np.float32)) * falling


def restore_file(source, target, restorer="gauss2", *, progress: bool = False) -> tuple:
    """Restores a PNG or JPEG file.

    Args:
        source: the picture: 8 or 16 bits, grey or colours, with or without alpha. It is turned as its EXIF orientation says.
        target: where to write, ``.png``, ``.jpg`` or ``.jpeg``; it is written whole or not at all.
        restorer: as for :func:`restore`.
        progress: show a bar.

    Returns:
        tuple: the shape of what was written.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no picture, a damaged, animated, empty or too large one (:func:`lstm_ae_lib.pictures.read`), a target of
            another format, a JPEG that should hold alpha, an unknown restorer.
    """
    target = Path(target)
    pictures.check_target(target)
    restorer = load_restorer(restorer) if isinstance(restorer, str) else restorer
    image = pictures.read(source)
    if image.ndim == 3 and image.shape[2] == 4 and target.suffix.lower() in pictures.FORMATS["JPEG"]:
        raise ValueError(f"{Path(source).name} has transparent pixels, which JPEG cannot hold: write a .png")
    restored = restore(image, restorer, progress=progress)
    pictures.write(target, restored)
    return restored.shape
