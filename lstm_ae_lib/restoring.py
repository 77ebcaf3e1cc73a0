"""Released weights, and what they are for: restoring a picture of any size.

A released model is two files in ``data/weights``: ``NAME.weights.h5``, and ``NAME.json`` with its builder, the builder's
arguments, the SHA-256 of the weights, and a card (task, data, numbers, seed, versions, limits).
"""

import functools
import itertools
import math
import warnings
from pathlib import Path

import numpy as np

from lstm_ae_lib import checks, degradations, pictures, weights

# A larger picture is cut into tiles, which share a border, where one fades into the other. At its cut edges a tile is wrong, for
# 16 pixels with the weights photo, by more than a grey level for 22 with gauss2: a third of the overlap is unused.
TILE, OVERLAP = 512, 64
# Between which numbers what :func:`measured` finds must lie, by the protocol of the weights' card; outside, the weights do not fit.
# Chosen from 128-pixel cut-outs of scikit-image's photographs, and of a page, text, a screenshot and a drawing, degraded in 41 ways
# (each protocol's own, others, none); from the left halves, counted on the right ones: "found" of those that came out worse by
# 0.1 dB, "false" of those that the protocol had degraded and that came out better.
# - A result that fits gives the picture again when it is degraded again: gauss2 97 % found, 0 of 40 false; reference 97 %, 1 of 40.
# - Blurred by blind's sigmas, but for the smallest, only rounding is left at the finest scale: 89 % found, 18 % false (29 ways).
# - noisy adds white noise of 5.1 grey levels: all found, 4 of 80 false. It also warns of other blurs, which come out better.
# - photo takes sharp small print and patterns of single pixels for noise or blur; no photograph came above 0.17, or 1.08.
# - awgn takes something away only where there is noise: 98 % found, 12 % false (noise below 5 grey levels on fine texture).
FITTING = {
    "gauss2": {"misfit": (0, 0.2), "change": (0, 4.6)},
    "reference": {"misfit": (0, 0.21), "change": (0, 5)},
    "blind": {"noise": (0, 0.3), "rise": (0, 4.5)},
    "blind-cifar": {"noise": (0, 0.3), "grain": (0, 1.5)},
    "noisy": {"noise": (4.3, 6), "whiteness": (0.985, 2)},
    "awgn": {"rise": (0, 0.9)},
    "photo": {"drawn": (0, 0.2), "whiteness": (0, 1.25)},
}
_SAID = {
    "noise": "its noise and finest detail, in grey levels, are",
    "whiteness": "its noise is not white: from a scale to the next it grows by",
    "drawn": "it is no photograph: of neighbouring pixels so many are equal, or differ by more than 48 grey levels, on average",
    "misfit": "degraded again, the restored one differs from the picture, as a multiple of neighbouring pixels' difference, by",
    "change": "restoring changed it, as a multiple of neighbouring pixels' difference, by",
    "rise": "neighbouring pixels differ, as a multiple of before, by",
    "grain": "the finest detail of the restored one, in grey levels, is",
}
SMALLEST_JUDGED, EDGE = 64, 8
DEFAULT = GENERAL = "photo"  # the weights for pictures with an unknown degradation, named where others do not fit
STRIDE = 8  # networks halve an image at most three times; what does not divide is continued at its border and cut off again
ENGINES, ENSEMBLES = ("keras", "onnx"), (1, 2, 4, 8)


class Restorer:
    """Released weights, ready to use: degraded images in, restored images out, of any size; :func:`load_restorer` makes it.

    ``name`` and ``card`` are the weights'; an image that would change by more than ``most`` stays as it is.
    """

    def __init__(self, name: str, card: dict, most: float):
        self.name, self.card, self.most = name, dict(card), most

    def __call__(self, degraded) -> np.ndarray:
        """Restores a batch ``(batch, height, width, 3)``, floating, in units of [0, 1], at least 2 pixels high and wide.

        Returns float32, clipped to [0, 1]; with a warning the image as it is, where a network without a linear start would
        change it by more than 2. Raises ``ValueError`` for another shape or dtype, and for values that are not finite.
        """
        degraded = checks.images_float(degraded, "degraded", -np.inf, np.inf).astype(np.float32, copy=False)
        if min(height := degraded.shape[1], width := degraded.shape[2]) < 2:
            raise ValueError(f"degraded must be at least 2 pixels high and wide, got {height} x {width}")
        # A border that is continued as the blur continued it: mirrored, the outermost pixel once.
        padded = np.pad(degraded, [(0, 0), (0, _padding(height)), (0, _padding(width)), (0, 0)], mode="reflect")
        restored = self._restored(padded)[:, :height, :width]
        if (wild := ~(np.abs(restored - degraded).max((1, 2, 3), keepdims=True) <= self.most)).any():  # NaN too
            said = f"the weights {self.name} fail on an image unlike all that they were trained on, "
            said += "or a tile of one, which stays as it was"
            warnings.warn(said, pictures.PictureWarning, stacklevel=2)
        return np.clip(np.where(wild, degraded, restored), 0, 1)


class ReleasedRestorer(Restorer):
    """A released Keras network. ``model`` is built for one image size; ``builder`` and ``arguments``
    (:func:`lstm_ae_lib.weights.build`) build other sizes."""

    def __init__(self, name: str, model, builder: str, arguments: dict, card: dict):
        from lstm_ae_lib import spectral

        self.model, self.builder, self.arguments, self._start = model, builder, dict(arguments), spectral.linear_start_of(model)
        self._at_size = functools.lru_cache(maxsize=4)(self._build)
        super().__init__(name, card, np.inf if self._start else 2)  # an inverse filter may change an image by far more

    def __reduce__(self):
        return _rebuilt, (self.name, self.model.get_weights(), self.builder, self.arguments, self.card)

    def _restored(self, padded):
        """``model.predict_on_batch``, without TensorFlow's warning: its count of calls that trace is one for all models."""
        from lstm_ae_lib._backend import keras

        model = self._at_size(*padded.shape[1:3])
        if keras.backend.backend() != "tensorflow":
            return keras.ops.convert_to_numpy(model.predict_on_batch(padded))
        model.make_predict_function()
        data = [(keras.ops.convert_to_tensor(padded),)]
        return model.predict_function.get_concrete_function(data)(data).numpy()

    def _build(self, height, width):
        from lstm_ae_lib import spectral

        if tuple(self.model.inputs[0].shape[1:3]) == (height, width):
            return self.model
        model = weights.build(self.builder, {**self.arguments, "image_shape": (height, width, 3)})
        for layer, own in zip(model.layers, self.model.layers, strict=True):
            layer.set_weights(spectral.resized_filter(own, height, width) if own is self._start else own.get_weights())
        return model


def _rebuilt(name, values, builder, arguments, card):
    model = weights.build(builder, arguments)
    model.set_weights(values)
    return ReleasedRestorer(name, model, builder, arguments, card)


def _padding(size):
    """Pixels by which a side is continued: none where it divides, else so many that the new edge is far from the picture."""
    fits = size % STRIDE == 0 and size >= 2 * STRIDE
    return 0 if fits else -(-(size + OVERLAP // 3) // STRIDE) * STRIDE - size


def load_restorer(name: str, folder=None, engine: str = "keras") -> Restorer:
    """Released weights by their name, such as ``"gauss2"``; else as :func:`lstm_ae_lib.weights.read_released`.

    ``engine``: ``"keras"``, or ``"onnx"``, ONNX Runtime, where the weights have an ``.onnx`` file, which Keras is not needed for;
    of none, that which is there, ONNX Runtime first. ``ImportError`` where it is not.
    """
    from lstm_ae_lib.fast import runtime

    description = weights.describe_released(name, folder)
    if checks.choice(engine or runtime.engine_for(description), "engine", ENGINES) == "onnx":
        return runtime.open_restorer(name, description, folder or weights.released_dir())
    model, _ = weights.read_released(name, folder)
    return ReleasedRestorer(name, model, description["builder"], description["arguments"], description["card"])


def restore(image, restorer=None, *, strength: float = 1.0, ensemble: int = 1, strict: bool = False, engine: str = "",
            tile: int = TILE, overlap: int = OVERLAP, progress: bool = False) -> np.ndarray:
    """Restores one picture of any size, tile by tile: memory grows with the picture, not with the network's layers.

    With weights given by name, a :class:`lstm_ae_lib.pictures.PictureWarning` says where the picture, or what became of it, shows
    that it was hardly degraded as the weights' card says (:data:`FITTING`; of 64 pixels a side and more).

    Args:
        image: as for :func:`lstm_ae_lib.pictures.check_pixels`, or a PIL image. Grey is averaged; alpha is kept as it is.
        restorer: released weights' name, or any function of a batch ``(1, height, width, 3)``, float32 in [0, 1], whose result
            is clipped. With none, :data:`DEFAULT`.
        strength: share of the restored picture in the result, the rest is ``image``: 0 gives ``image``, 1 the restored picture.
        ensemble: 1, 2, 4 or 8: in so many ways of :func:`lay` each tile is restored, and their average is the result (geometric
            self-ensemble; Lim et al. 2017). It takes as many times as long.
        strict: raise such a warning, which is a ``ValueError``, where the weights do not fit, or fail.
        engine: of weights given by name, as for :func:`load_restorer`.
        tile, overlap: side of a tile, at least twice ``overlap``, and what neighbours share, at least 2; pixels.
        progress: show a bar.

    Returns the same shape and dtype (of a PIL image: those of :func:`lstm_ae_lib.pictures.as_array`). Raises ``ValueError`` for
    another image, an argument out of range, and a function that returns another shape or NaN.
    """
    checks.number(strength, "strength", 0, 1)
    checks.choice(ensemble, "ensemble", ENSEMBLES)
    checks.choice(strict, "strict", (True, False))
    checks.number(overlap, "overlap", 2, 2**20, whole=True)
    checks.number(tile, "tile", 2 * overlap, 2**20, whole=True)
    by_name = restorer is None or isinstance(restorer, str)
    pictures.check_pixels(image := pictures.as_array(image))
    restore_tile = load_restorer(restorer or DEFAULT, engine=engine) if by_name else restorer
    if strength == 0:
        return image.copy()
    with warnings.catch_warnings(**({"action": "error", "category": pictures.PictureWarning} if strict else {})):
        restored = _restored(image, restore_tile, ensemble, tile, overlap, progress)
        result = pictures.from_colours(restored, image)
        if by_name and (why := _misfit(image, restored, restore_tile)):
            said = f"the weights {restore_tile.name} hardly fit this picture, and may make it worse: {why}; "
            said += f"{restore_tile.name} {restore_tile.card.get('task')}"
            if restore_tile.name != GENERAL and GENERAL in weights.released():
                said += f"; the weights {GENERAL} are for pictures with an unknown degradation"
            warnings.warn(said, pictures.PictureWarning, stacklevel=2)
    if strength < 1:
        restored = strength * np.clip(restored, 0, 1) + (1 - strength) * pictures.to_colours(image)
    return result if strength == 1 else pictures.from_colours(restored, image)


def lay(images, way: int, back: bool = False) -> np.ndarray:
    """Images ``(batch, height, width, channels)`` laid in one of 8 ways: the bits of ``way``, 0 to 7, mirror them across, mirror
    them down, and last transpose them; ``back`` undoes it. A copy."""
    laid = images.swapaxes(1, 2) if way & 4 and back else images
    laid = laid[:, :: 1 - (way & 2), :: 1 - 2 * (way & 1)]
    return (laid.swapaxes(1, 2) if way & 4 and not back else laid).copy()


def _restored(image, restore_tile, ensemble, tile, overlap, progress):
    restored = np.zeros((*image.shape[:2], 3), np.float32)
    places = list(itertools.product(*(blended(length, tile, overlap) for length in image.shape[:2])))
    if progress:
        import tqdm

        places = tqdm.tqdm(places, unit=" tiles", disable=len(places) == 1)
    for (rows, down), (columns, across) in places:
        seen, weight = pictures.to_colours(image[rows, columns])[None], down[:, None, None] * across[:, None] / ensemble
        for way in range(ensemble):
            made = np.asarray(restore_tile(laid := lay(seen, way)))
            if made.shape != laid.shape or made.dtype.kind != "f":
                raise ValueError(f"restorer must return floats, of its image's shape {laid.shape}, got {made.dtype} {made.shape}")
            restored[rows, columns] += weight * lay(made, way, back=True)[0]
    return restored


def measured(before, after, protocol: str) -> dict:
    """What :data:`FITTING` limits, of a picture ``before`` and ``after`` restoring, ``(height, width, 3)`` in [0, 1], 32 pixels or
    more a side. All are from root mean squares; "detail" is the difference of neighbouring pixels, at least 2 grey levels.

    - ``noise``, grey levels: fifth differences along both axes, scaled so that white noise gives its standard deviation.
    - ``grain``: the same of ``after``.
    - ``whiteness``: ``noise`` as a multiple of the same from second differences, 1 for white noise.
    - ``drawn``: shares of pixels that equal both neighbours, clipped or not, and that differ by more than 48: their geometric mean.
    - ``rise``: the detail after, as a multiple of before.
    - ``change``: ``after`` less ``before``, as a multiple of the detail before.
    - ``misfit``: ``after``, blurred again, less ``before``, as a multiple of the detail before; 0 but for one blur of all.
    """
    protocol = degradations.get_protocol(protocol)
    sums, places = np.zeros(9), list(itertools.product(*(_tiles(side, TILE, OVERLAP) for side in before.shape[:2])))
    for part in places:
        seen, made = (255 * picture for picture in (pictures.to_colours(before[part]), after[part]))
        again = _blurred(np.rint(made).astype(float), protocol) if protocol.in_graph else seen
        inner = slice(EDGE, -EDGE), slice(EDGE, -EDGE)  # a tile's edge is not blurred as it was within the picture
        steps, inside = _neighbours(seen).max(axis=-1), ((seen > 0) & (seen < 255)).any(axis=-1)[:-1, :-1]
        equal = (steps == 0) & (inside if inside.mean() > 0.25 else True)  # clipped ones only where hardly any is not
        sums += [np.mean(np.square(pixels, dtype=float)) for pixels in (
            _fine(seen, 5), _fine(seen, 2), _fine(made, 5), _neighbours(seen), _neighbours(made), made - seen,
            again[inner] - seen[inner], equal, steps > 48)]  # fmt: skip
    noise, coarser, grain, before, after, change, misfit, equal, far = np.sqrt(sums / len(places))
    detail = max(before, 2)
    return {"noise": noise, "grain": grain, "whiteness": noise / max(coarser, 0.01), "drawn": equal * far,
            "rise": max(after, 1) / max(before, 1), "change": change / detail, "misfit": misfit / detail}  # fmt: skip


def _blurred(pixels, protocol):
    """What :func:`lstm_ae_lib.degradations.degrade` gives, with NumPy alone."""
    if protocol.engine == "scipy":
        for axis in range(3):
            pixels = np.floor(degradations.blur_axis(pixels, degradations.kernel_taps(protocol.sigma, "reflect"), axis, "reflect"))
        return pixels
    for axis in range(2):
        pixels = degradations.blur_axis(pixels, degradations.opencv_taps_in_256ths(protocol.sigma), axis)
    return np.floor(pixels / 2**16 + 0.5)


def _fine(pixels, order):
    """Differences of an order along both axes, of standard deviation 1 for white noise of 1."""
    return np.diff(np.diff(pixels, order, axis=0), order, axis=1) / math.comb(2 * order, order)


def _neighbours(pixels):
    """Length of the difference to the next pixel below and to the right."""
    return np.hypot(pixels[1:, :-1] - pixels[:-1, :-1], pixels[:-1, 1:] - pixels[:-1, :-1])


def _misfit(before, after, restorer):
    """In words, the first measurement outside of :data:`FITTING`; nothing of other weights, or of images too small to tell."""
    protocol = restorer.card.get("protocol")
    limits = FITTING.get(restorer.name, FITTING.get(protocol, {})) if min(before.shape[:2]) >= SMALLEST_JUDGED else {}
    found = measured(before, after, protocol) if limits else {}
    for name, (low, high) in limits.items():
        if not low <= found[name] <= high:
            return f"{_SAID[name]} {found[name]:.3g}, where {low:g} to {high:g} would fit"
    return ""


def _tiles(size, tile, overlap):
    """Along one axis, slices: as few as can be, then as short, in steps of STRIDE, evenly spread, sharing ``overlap`` or more."""
    count = max(1, math.ceil((size - overlap) / (tile - overlap)))
    length = min(size, tile, -(-(size + (count - 1) * overlap) // (count * STRIDE)) * STRIDE)
    starts = (round(place * (size - length) / max(1, count - 1)) for place in range(count))
    return [slice(start, start + length) for start in starts]


def blended(size, tile, overlap):
    """Tiles along one axis, as slices, each with its weights, which add up to 1: nothing in the outer third of a border that is
    shared, where the network sees least, then rising over the next third."""
    parts = _tiles(size, tile, overlap)
    rising = np.clip(3 * (np.arange(parts[0].stop, dtype=np.float32) + 0.5) / overlap - 1, 0, 1)
    weights = [np.pad((rising if part.start else np.ones_like(rising)) * (rising[::-1] if part.stop < size else 1),
                      (part.start, size - part.stop)) for part in parts]  # fmt: skip
    return [(part, (weight / sum(weights))[part]) for part, weight in zip(parts, weights, strict=True)]


def restore_file(source, target, restorer=None, *, quality: int = pictures.QUALITY, **options) -> tuple:
    """Restores a PNG or JPEG file, and keeps its metadata. Returns the shape of what was written.

    Arguments and errors are those of :func:`lstm_ae_lib.pictures.read`, :func:`lstm_ae_lib.pictures.check_target` (the folder must
    exist), :func:`lstm_ae_lib.pictures.write` and, ``options``, :func:`restore`; a JPEG that should hold alpha is a ``ValueError``.
    """
    pictures.check_target(target, source)
    image, metadata = pictures.read_with_metadata(source)
    pictures.check_holds(image, Path(target).suffix, pictures.title(source))
    restored = restore(image, restorer, **options)
    pictures.write(target, restored, metadata, quality)
    return restored.shape
