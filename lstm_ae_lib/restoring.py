"""Released weights, and what they are for: restoring a picture of any size.

A released model is two files in ``data/weights``: ``NAME.weights.h5``, and ``NAME.json`` with its builder, the builder's
arguments, the SHA-256 of the weights, and a card (task, data, numbers, seed, versions, limits).
"""

import contextlib
import functools
import io
import math
import re
import warnings
from pathlib import Path

import numpy as np

from lstm_ae_lib import checks, classical, datasets, degradations, files, metrics, models, paths, runs
from lstm_ae_lib._backend import keras
from lstm_ae_lib.layers import SpectralWiener

# A picture that is larger than this is cut into tiles, which share a border: where two meet, one fades into the other.
TILE, OVERLAP = 256, 32
MAX_PIXELS = 2**26
FORMATS = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg")}
# Networks halve an image this often; whatever does not divide is continued at its border and cut off again.
STRIDE = 8
LIMITS = (
    "Trained on CIFAR-10's 32x32 images with this one degradation, on one seed. Another blur, noise that the training did not "
    "have, or JPEG artefacts come out worse, not better; detail that the blur has wiped out is guessed or left out."
)


class Restorer:
    """A released network, ready to use: degraded images in, restored images out, of any size. :func:`load_restorer` makes it.

    Args:
        name: what it is called.
        model: the network, built for one image size.
        builder, arguments: what built it (:func:`lstm_ae_lib.models.build`); other sizes are built the same way.
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
        more = [(0, 0), (0, _missing(height)), (0, _missing(width)), (0, 0)]
        padded = np.pad(degraded, more, mode="reflect")
        model = self._at_size(padded.shape[1], padded.shape[2])
        restored = keras.ops.convert_to_numpy(model.predict_on_batch(padded))
        return np.clip(restored[:, :height, :width], 0, 1)

    def _build(self, height, width):
        if tuple(self.model.inputs[0].shape[1:3]) == (height, width):
            return self.model
        model = models.build(self.builder, {**self.arguments, "image_shape": (height, width, 3)})
        for layer, own in zip(model.layers, self.model.layers, strict=True):
            weights = own.get_weights()
            if isinstance(layer, SpectralWiener):
                weights = classical.resized_filter(weights, layer.transform, height, width)
            layer.set_weights(weights)
        return model


def _missing(size):
    return max(2 * STRIDE, -(-size // STRIDE) * STRIDE) - size


def weights_dir() -> Path:
    """The tracked folder of released weights."""
    return paths.data_dir() / "weights"


def release(name: str, model, builder: str, arguments: dict, card: dict, folder=None) -> dict:
    """Writes a model as released weights and returns what stands in the JSON.

    Args:
        name: letters, digits, hyphens, dots and underscores.
        model, builder, arguments: see :func:`lstm_ae_lib.models.write`.
        card: what somebody who uses the weights should know; plain values.
        folder: default ``data/weights``.

    Raises:
        ValueError: a name of other characters, an unknown builder.
    """
    return models.write(model, folder or weights_dir(), _check_name(name), builder, arguments, card=card)


def release_run(run_name: str, name: str, limits: str = LIMITS, folder=None) -> dict:
    """Releases the network of a finished run, with a card that is read from the run's records.

    Args:
        run_name: of a run whose notebooks have trained and evaluated one network.
        name: of the weights, such as ``"gauss2"``.
        limits: what the network cannot do, for the card.
        folder: default ``data/weights``.

    Returns:
        dict: what stands in the JSON.

    Raises:
        FileNotFoundError: no such run, or it has no network or no records.
        ValueError: a run that is not finished, a name of other characters.
    """
    run = runs.open_run(run_name)
    record = run.record
    if runs.status(record) != "finished":
        raise ValueError(f"only a finished run is released; {run_name} is {runs.status(record)}")
    network, description = models.read(run.folder, "autoencoder")
    builder, arguments = description["builder"], description["arguments"]
    fields = ("images", "mse", "mse_low", "mse_high", "psnr", "psnr_low", "psnr_high", "ssim", "ssim_low", "ssim_high")
    tested = [entry for entry in run.records() if entry["split"] == "test"]
    protocol = degradations.get_protocol(record["protocol"])
    card = {
        "task": f"restores what the protocol {protocol.name} degrades: {protocol.summary}",
        "numbers": {entry["restorer"]: {field: entry[field] for field in fields} for entry in tested},
        "photographs": measure_photographs(Restorer(name, network, builder, arguments, {}), protocol),
        "training": record["training"], "parameters": record["parameters"], "data": record["data"],
        "multiply_adds": models.multiply_adds(network), "versions": record["versions"], "hardware": record["hardware"],
        "run": run_name, "limits": limits,
    }  # fmt: skip
    return release(name, network, builder, arguments, card, folder)


def measure_photographs(restorer, protocol) -> dict:
    """PSNR in dB on photographs that are not 32x32 pixels: degraded, after the restorer's linear start, and restored.

    Args:
        restorer: a :class:`Restorer`.
        protocol: how :func:`lstm_ae_lib.datasets.photographs` are degraded first.

    Returns:
        dict: title -> {"degraded", "linear" (where the restorer has such a start), "restored"}.
    """
    linear = linear_part(restorer)
    found = {}
    for title, photograph in datasets.photographs().items():
        degraded = np.clip(degradations.as_float(degradations.degrade(photograph[None], protocol)[0]), 0, 1)
        shown = {"degraded": degraded, "linear": linear and restore(degraded, linear), "restored": restore(degraded, restorer)}
        found[title] = {
            name: float(metrics.per_image(photograph[None], image[None])["psnr"][0])
            for name, image in shown.items()
            if image is not None
        }
    return found


def linear_part(restorer):
    """The linear estimate that a :class:`Restorer` starts from, as a restorer of its own; None where it starts from nothing."""
    for layer in restorer.model.layers:
        if isinstance(layer, SpectralWiener):
            arguments = {"image_shape": restorer.model.inputs[0].shape[1:], "transform": layer.transform}
            model = models.linear_filter(**arguments)
            models.set_linear_start(model, restorer.model)
            return Restorer(f"{restorer.name}, linear start", model, "linear_filter", arguments, {})
    return None


def released(folder=None) -> list:
    """The names of the released weights."""
    return sorted(path.stem for path in Path(folder or weights_dir()).glob("*.json"))


def load_restorer(name: str, folder=None) -> Restorer:
    """A released network by its name.

    Args:
        name: one of :func:`released`, such as ``"gauss2"``.
        folder: default ``data/weights``.

    Returns:
        Restorer: a callable, degraded float32 batch in [0, 1] -> restored.

    Raises:
        FileNotFoundError: no released weights at all, or one of the two files missing.
        ValueError: an unknown name; weights that are not those that were released.
    """
    folder = Path(folder or weights_dir())
    known = released(folder)
    if not known:
        raise FileNotFoundError(f"there are no released weights in {folder}")
    checks.choice(_check_name(name), "weights", known)
    model, description = models.read(folder, name)
    return Restorer(name, model, description["builder"], description["arguments"], description["card"])


def _check_name(name):
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(f"weights must be a name of letters, digits, hyphens, dots and underscores, got {name!r}")
    return name


def restore(image, restorer="gauss2", *, tile: int = TILE, overlap: int = OVERLAP, progress: bool = False) -> np.ndarray:
    """Restores one picture of any size.

    A picture larger than a tile is restored tile by tile; memory grows with the picture, not with the network's layers.

    Args:
        image: ``(height, width)`` or ``(height, width, channels)`` with 1 (grey), 3 (RGB) or 4 (RGBA) channels; uint8, uint16,
            or floating in [0, 1]. Grey is restored as three equal colours and averaged; alpha is kept as it is.
        restorer: released weights' name, or any function of a batch ``(1, height, width, 3)``, float32 in [0, 1].
        tile: side of a tile in pixels, at least twice ``overlap``. Default 256.
        overlap: pixels that neighbouring tiles share, at least 2. Default 32.
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
    colours, back = _to_colours(image)
    height, width = colours.shape[:2]
    rows, columns = _starts(height, tile, overlap), _starts(width, tile, overlap)
    restored, weight = np.zeros(colours.shape, np.float32), np.zeros((height, width, 1), np.float32)
    places = [(top, left) for top in rows for left in columns]
    if progress:
        import tqdm

        places = tqdm.tqdm(places, unit=" tiles", disable=len(places) == 1)
    for top, left in places:
        part = slice(top, top + tile), slice(left, left + tile)
        seen = colours[part]
        fade = (_fade(top, height, seen.shape[0], overlap)[:, None] * _fade(left, width, seen.shape[1], overlap))[..., None]
        restored[part] += fade * restorer(seen[None])[0]
        weight[part] += fade
    return back(restored / weight)


def _starts(size, tile, overlap):
    """Where tiles begin: all of one size, spread evenly, sharing at least ``overlap`` pixels."""
    if size <= tile:
        return [0]
    count = math.ceil((size - overlap) / (tile - overlap))
    return [round(place * (size - tile) / (count - 1)) for place in range(count)]


def _fade(start, size, length, overlap):
    """A tile's weight along one axis, but for the picture's own edges: nothing in the outer quarter of the shared border,
    where the network sees least, then rising over a half of it."""
    rising = np.clip((np.arange(length, dtype=np.float32) + 0.5 - overlap / 4) / (overlap / 2), 0, 1)
    falling = rising[::-1] if start + length < size else 1
    return (rising if start else np.ones(length, np.float32)) * falling


def _to_colours(image):
    """``(height, width, 3)`` float32 in [0, 1], and the function that makes of such an image one like ``image``."""
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)) or min(image.shape, default=0) < 1:
        raise ValueError(f"image must be (height, width) or (height, width, 1, 3 or 4 channels), not empty, got {image.shape}")
    if min(image.shape[:2]) < 2:
        raise ValueError(f"image must be at least 2 pixels high and wide, got {image.shape[0]} x {image.shape[1]}")
    if image.dtype.kind == "f":
        scale = 1.0
        if not np.isfinite(image).all() or image.min() < 0 or image.max() > 1:
            raise ValueError(f"image must lie in [0, 1], got values from {image.min():g} to {image.max():g}")
    elif image.dtype in (np.uint8, np.uint16):
        scale = float(np.iinfo(image.dtype).max)
    else:
        raise ValueError(f"image must be uint8, uint16, or floating in [0, 1], got {image.dtype}")
    grey = image.ndim == 2 or image.shape[2] == 1
    colours = (image.reshape(*image.shape[:2], -1)[..., :3] / np.float32(scale)).astype(np.float32, copy=False)
    colours = np.repeat(colours, 3, axis=2) if grey else colours

    def back(restored):
        restored = restored.mean(axis=2, keepdims=True) if grey else restored
        restored = restored * np.float32(scale)
        restored = (np.rint(restored) if scale > 1 else restored).astype(image.dtype)
        if image.ndim == 3 and image.shape[2] == 4:
            restored = np.concatenate([restored, image[..., 3:]], axis=2)
        return restored.reshape(image.shape)

    return colours, back


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
        ValueError: no picture, a damaged, animated, empty or too large one (above :data:`MAX_PIXELS`), a target of another
            format, a JPEG that should hold alpha, an unknown restorer.
    """
    import cv2

    target = Path(target)
    suffixes = [suffix for group in FORMATS.values() for suffix in group]
    checks.choice(target.suffix.lower(), "the suffix of the file to write", suffixes)
    restorer = load_restorer(restorer) if isinstance(restorer, str) else restorer
    image = read_picture(source)
    if target.suffix.lower() in FORMATS["JPEG"]:
        if image.ndim == 3 and image.shape[2] == 4:
            raise ValueError(f"{Path(source).name} has transparent pixels, which JPEG cannot hold: write a .png")
        image = np.rint(image / 257).astype(np.uint8) if image.dtype == np.uint16 else image
    restored = restore(image, restorer, progress=progress)
    written, content = cv2.imencode(target.suffix, _swap_red_and_blue(restored))
    if not written:
        raise ValueError(f"OpenCV could not write {target.name}")
    with files.replacing(target) as temporary:
        temporary.write_bytes(content.tobytes())
    return restored.shape


def read_picture(path) -> np.ndarray:
    """A PNG or JPEG file as an array, ``(height, width)`` or ``(height, width, 3 or 4)``, RGB, uint8 or uint16, upright.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no picture, a damaged, animated, empty or too large one.
    """
    import cv2
    import PIL.Image

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    content = path.read_bytes()
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")  # of pictures that are large, which the header says below
        try:
            header = stack.enter_context(PIL.Image.open(io.BytesIO(content), formats=tuple(FORMATS)))
        except PIL.Image.DecompressionBombError as error:
            raise ValueError(f"{path.name} is too large: {error}") from None
        except (OSError, SyntaxError, ValueError):
            what = "is empty" if not content else "is neither a PNG nor a JPEG picture"
            raise ValueError(f"{path.name} {what}") from None
        width, height = header.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"{path.name} is too large: {width} x {height} pixels, at most {MAX_PIXELS:,} are allowed")
        if getattr(header, "is_animated", False):
            raise ValueError(f"{path.name} is animated ({header.n_frames} frames): save the frame to restore as a picture")
        try:
            orientation = header.getexif().get(274, 1)
            header.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{path.name} is damaged: {error}") from None
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError(f"{path.name} is damaged: OpenCV cannot read it")
    return _upright(_swap_red_and_blue(image), orientation)


def _swap_red_and_blue(image):
    """From RGB to what OpenCV writes, and back."""
    if image.ndim == 2 or image.shape[2] == 1:
        return image
    return np.ascontiguousarray(image[..., [2, 1, 0, *range(3, image.shape[2])]])


def _upright(image, orientation):
    """EXIF's eight ways to hold a camera: mirrored or not, then turned."""
    image = image[:, ::-1] if orientation in (2, 4, 5, 7) else image
    return np.ascontiguousarray(np.rot90(image, {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)))
