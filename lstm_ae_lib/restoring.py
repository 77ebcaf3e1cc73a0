"""Released weights, and what they are for: restoring a picture of any size.

A released model is two files in ``data/weights``: ``NAME.weights.h5``, and ``NAME.json`` with its builder, the builder's
arguments, the SHA-256 of the weights, and a card (task, data, numbers, seed, versions, limits).
"""

import functools
import math
import warnings
from pathlib import Path

import numpy as np

from lstm_ae_lib import checks, pictures, spectral, weights
from lstm_ae_lib._backend import keras

# A picture that is larger than this is cut into tiles, which share a border: where two meet, one fades into the other. At its
# cut edges a tile is wrong, by more than a grey level for 22 pixels with the weights gauss2: a quarter of the overlap is unused.
TILE, OVERLAP = 384, 96
# How many times as much as before neighbouring pixels may differ (RMS) in a restored picture, by the protocol of the weights'
# card. Chosen from 80 cut-outs of 192 pixels of scikit-image's pictures. gauss2: up to 6.2 where the protocol degraded them,
# above 6.5 in 156 of 160 after another blur with noise or JPEG (all lost, 2 to 30 dB). blind: above 4.5 in 26 of 240 of the
# protocol's own, 23 of which were worse than before, and in 54 of 160 of the others, all worse. noisy: above 1.5 in 5 of 80 of
# its own, in 72 of 80 not degraded. reference: above 3.5 in 3 of 80 of its own, all worse, in 77 of 80 not degraded. Of
# scikit-image's photographs as a whole none that its protocol degraded is above. Smaller images vary more: nothing is said.
LARGEST_RISE = {"gauss2": 6.5, "blind": 4.5, "noisy": 1.5, "reference": 3.5}
SMALLEST_JUDGED = 128
DEFAULT = "gauss2"
# Networks halve an image this often; whatever does not divide is continued at its border and cut off again.
STRIDE = 8


class ReleasedRestorer:
    """A released network, ready to use: degraded images in, restored images out, of any size. :func:`load_restorer` makes it.

    ``model`` is built for one image size; ``builder`` and ``arguments`` (:func:`lstm_ae_lib.weights.build`) build other sizes.
    """

    def __init__(self, name: str, model, builder: str, arguments: dict, card: dict):
        self.name, self.model, self.builder, self.arguments, self.card = name, model, builder, dict(arguments), dict(card)
        self._at_size = functools.lru_cache(maxsize=4)(self._build)

    def __reduce__(self):
        return _rebuilt, (self.name, self.model.get_weights(), self.builder, self.arguments, self.card)

    def __call__(self, degraded) -> np.ndarray:
        """Restores a batch ``(batch, height, width, 3)``, floating, in units of [0, 1], at least 2 pixels high and wide.

        Returns float32, clipped to [0, 1]. Raises ``ValueError`` for another shape or dtype, and for values that are not finite.
        """
        degraded = checks.images_float(degraded, "degraded", -np.inf, np.inf).astype(np.float32, copy=False)
        height, width = degraded.shape[1:3]
        if min(height, width) < 2:
            raise ValueError(f"degraded must be at least 2 pixels high and wide, got {height} x {width}")
        # A border that is continued as the blur continued it: mirrored, the outermost pixel once.
        padded = np.pad(degraded, [(0, 0), (0, _padding(height)), (0, _padding(width)), (0, 0)], mode="reflect")
        return np.clip(_predict(self._at_size(*padded.shape[1:3]), padded)[:, :height, :width], 0, 1)

    def _build(self, height, width):
        if tuple(self.model.inputs[0].shape[1:3]) == (height, width):
            return self.model
        model = weights.build(self.builder, {**self.arguments, "image_shape": (height, width, 3)})
        start = spectral.linear_start_of(self.model)
        for layer, own in zip(model.layers, self.model.layers, strict=True):
            layer.set_weights(spectral.resized_filter(own, height, width) if own is start else own.get_weights())
        return model


def _rebuilt(name, values, builder, arguments, card):
    model = weights.build(builder, arguments)
    model.set_weights(values)
    return ReleasedRestorer(name, model, builder, arguments, card)


def _predict(model, images):
    """``model.predict_on_batch``, without TensorFlow's warning: its count of calls that trace is one for all models."""
    if keras.backend.backend() != "tensorflow":
        return keras.ops.convert_to_numpy(model.predict_on_batch(images))
    model.make_predict_function()
    data = [(keras.ops.convert_to_tensor(images),)]
    return model.predict_function.get_concrete_function(data)(data).numpy()


def _padding(size):
    """Pixels by which a side is continued: none where it divides, else so many that the new edge is far from the picture."""
    fits = size % STRIDE == 0 and size >= 2 * STRIDE
    return 0 if fits else -(-(size + OVERLAP // 4) // STRIDE) * STRIDE - size


def linear_part(restorer):
    """The linear estimate that a :class:`ReleasedRestorer` starts from, as a restorer of its own, or None."""
    layer = spectral.linear_start_of(restorer.model)
    if layer is None:
        return None
    parts = {"parts": layer.parts} if isinstance(layer, spectral.SpectralMixture) else {}
    arguments = {"image_shape": restorer.model.inputs[0].shape[1:], "transform": layer.transform, **parts}
    builder = "linear_mixture" if parts else "linear_filter"
    model = weights.build(builder, arguments)
    spectral.set_linear_start(model, restorer.model)
    return ReleasedRestorer(f"{restorer.name}, linear start", model, builder, arguments, {})


def load_restorer(name: str, folder=None) -> ReleasedRestorer:
    """A released network by its name, such as ``"gauss2"``; else as :func:`lstm_ae_lib.weights.read_released`."""
    model, description = weights.read_released(name, folder)
    return ReleasedRestorer(name, model, description["builder"], description["arguments"], description["card"])


def restore(image, restorer=None, *, tile: int = TILE, overlap: int = OVERLAP, progress: bool = False) -> np.ndarray:
    """Restores one picture of any size, tile by tile: memory grows with the picture, not with the network's layers.

    With weights given by name, a :class:`lstm_ae_lib.pictures.PictureWarning` says when neighbouring pixels differ so much more
    than before (:data:`LARGEST_RISE`) that the picture was hardly degraded as the weights' card says.

    Args:
        image: as for :func:`lstm_ae_lib.pictures.to_colours`, or a PIL image. Grey is averaged; alpha is kept as it is.
        restorer: released weights' name, or any function of a batch ``(1, height, width, 3)``, float32 in [0, 1], whose result
            is clipped. With none, ``"gauss2"``, and a warning says what these are for.
        tile, overlap: side of a tile, at least twice ``overlap``, and what neighbours share, at least 2; pixels.
        progress: show a bar.

    Returns the same shape and dtype (of a PIL image: those of :func:`lstm_ae_lib.pictures.as_array`). Raises ``ValueError`` for
    another image, an argument out of range, and a function that returns another shape or NaN.
    """
    checks.number(overlap, "overlap", 2, 2**20, whole=True)
    checks.number(tile, "tile", 2 * overlap, 2**20, whole=True)
    by_name = restorer is None or isinstance(restorer, str)
    colours, back = pictures.to_colours(pictures.as_array(image))
    restore_tile = load_restorer(restorer or DEFAULT) if by_name else restorer
    warn = functools.partial(warnings.warn, category=pictures.PictureWarning, stacklevel=2)
    if restorer is None:
        warn(f"no weights were chosen: {DEFAULT} {restore_tile.card.get('task')}")
    height, width = colours.shape[:2]
    rows, columns = _tile_offsets(height, tile, overlap), _tile_offsets(width, tile, overlap)
    restored, weight = np.zeros(colours.shape, np.float32), np.zeros((height, width, 1), np.float32)
    places, rise = [(top, left) for top in rows for left in columns], np.zeros(2)
    if progress:
        import tqdm

        places = tqdm.tqdm(places, unit=" tiles", disable=len(places) == 1)
    for top, left in places:
        part = slice(top, top + tile), slice(left, left + tile)
        seen = colours[part]
        down, across = _blend_weights(top, height, seen.shape[0], overlap), _blend_weights(left, width, seen.shape[1], overlap)
        fade = (down[:, None] * across)[..., None]
        made = np.asarray(restore_tile(seen[None]))
        if made.shape != (1, *seen.shape):
            raise ValueError(f"restorer must return the shape it was given, {(1, *seen.shape)}, got {made.shape}")
        restored[part] += fade * made[0]
        weight[part] += fade
        rise += [sum(np.square(np.diff(pixels, axis=axis)).sum(dtype=float) for axis in (0, 1)) for pixels in (seen, made[0])]
    result = back(restored / weight)
    before, after = np.maximum(np.sqrt(rise / colours.size), 0.5 / 255)  # what is less is rounding
    card = restore_tile.card if by_name and min(height, width) >= SMALLEST_JUDGED else {}
    if after / before > LARGEST_RISE.get(card.get("protocol"), np.inf):
        warn(f"the weights {restore_tile.name} hardly fit this picture, which may be worse now: neighbouring pixels differ "
             f"{after / before:.1f} times as much as before; {restore_tile.name} {card.get('task')}")  # fmt: skip
    return result


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


def restore_file(source, target, restorer=None, *, quality: int = pictures.QUALITY, progress: bool = False) -> tuple:
    """Restores a PNG or JPEG file, and keeps its metadata. Returns the shape of what was written.

    Arguments and errors are those of :func:`lstm_ae_lib.pictures.read`, :func:`lstm_ae_lib.pictures.check_target` (the folder must
    exist), :func:`lstm_ae_lib.pictures.write` and :func:`restore`; a JPEG that should hold alpha is a ``ValueError``, too.
    """
    pictures.check_target(target, source)
    image, metadata = pictures.read_with_metadata(source)
    if image.ndim == 3 and image.shape[2] == 4 and Path(target).suffix.lower() in pictures.FORMATS["JPEG"]:
        raise ValueError(f"{pictures.title(source)} has transparent pixels, which JPEG cannot hold: write a .png")
    restored = restore(image, restorer, progress=progress)
    pictures.write(target, restored, metadata, quality)
    return restored.shape
