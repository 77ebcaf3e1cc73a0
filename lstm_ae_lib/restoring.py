"""Released weights, and what they are for: restoring a picture of any size.

A released model is two files in ``data/weights``: ``NAME.weights.h5``, and ``NAME.json`` with its builder, the builder's
arguments, the SHA-256 of the weights, and a card (task, data, numbers, seed, versions, limits).
"""

import functools
import math
import re
from pathlib import Path

import numpy as np

from lstm_ae_lib import checks, classical, datasets, degradations, metrics, models, paths, pictures, runs
from lstm_ae_lib._backend import keras
from lstm_ae_lib.layers import SpectralMixture

# A picture that is larger than this is cut into tiles, which share a border: where two meet, one fades into the other. At its
# cut edges a tile is wrong, by more than a grey level for 22 pixels with the weights gauss2: a quarter of the overlap is unused.
TILE, OVERLAP = 384, 96
# Networks halve an image this often; whatever does not divide is continued at its border and cut off again.
STRIDE = 8
SAMPLE_IMAGES = 50
LIMITS = (
    "Trained on CIFAR-10's 32x32 images with this one degradation, on one seed. Another blur, noise that the training did not "
    "have, or JPEG artefacts come out worse, not better; detail that the blur has wiped out is guessed or left out."
)

DRAWN = (
    " Trained against a discriminator: it draws detail that looks right and need not be, and has more error than the network that "
    "it began as."
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
        start = models.linear_start_of(self.model)
        for layer, own in zip(model.layers, self.model.layers, strict=True):
            layer.set_weights(classical.resized_filter(own, height, width) if own is start else own.get_weights())
        return model


def _missing(size):
    """Pixels by which a side is continued: none where it divides, else so many that the new edge is far from the picture."""
    fits = size % STRIDE == 0 and size >= 2 * STRIDE
    return 0 if fits else -(-(size + OVERLAP // 4) // STRIDE) * STRIDE - size


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
    return models.write(model, folder or weights_dir(), check_name(name), builder, arguments, card=card)


def release_run(run_name: str, name: str, folder=None) -> dict:
    """Releases the network of a finished run, with a card that is read from the run's records.

    Args:
        run_name: of a run whose notebooks have trained and evaluated one network.
        name: of the weights, such as ``"gauss2"``.
        folder: default ``data/weights``.

    Returns:
        dict: what stands in the JSON.

    Raises:
        FileNotFoundError: no such run, or it has no network or no records.
        ValueError: a run that is not finished, a name of other characters.
    """
    run, record = finished_run(run_name)
    network, description = models.read(run.folder, "autoencoder")
    builder, arguments = description["builder"], description["arguments"]
    restorer = Restorer(name, network, builder, arguments, {})
    asked = {"protocol": record["protocol"], "sigma": 0.0} | record["parameters"]  # notebook 21 has one protocol and no word for it
    protocol = degradations.get_protocol(asked["protocol"], asked["sigma"])
    card = {
        "task": f"restores what the protocol {protocol.name} degrades: {protocol.summary}", "protocol": record["protocol"],
        "numbers": tested_numbers(run), "photographs": measure_photographs(restorer, protocol),
        "sample": measure_sample(restorer, protocol), "multiply_adds": models.multiply_adds(network),
        **origin(record), "limits": LIMITS + DRAWN if "gan" in record["training"] else LIMITS,
    }  # fmt: skip
    return release(name, network, builder, arguments, card, folder)


def tested_numbers(run) -> dict:
    """Of a run's records what a card says about the test images: restorer -> its numbers."""
    names = ("mse", "psnr", "ssim", "frechet", "kernel_distance", "accuracy")
    fields = ["images", "gradient_energy", *(f"{name}{end}" for name in names for end in ("", "_low", "_high"))]
    tested = [entry for entry in run.records() if entry["split"] == "test"]
    return {entry["restorer"]: {field: entry[field] for field in fields if field in entry} for entry in tested}


def finished_run(run_name: str) -> tuple:
    """A run that may be released, and its record.

    Raises:
        FileNotFoundError: no such run.
        ValueError: a run that is not finished.
    """
    run = runs.open_run(run_name)
    record = run.record
    if runs.status(record) != "finished":
        raise ValueError(f"only a finished run is released; {run_name} is {runs.status(record)}")
    return run, record


def origin(record: dict) -> dict:
    """Of a run's record what a card says about where weights come from."""
    return {"run": record["name"]} | {name: record[name] for name in ("training", "parameters", "data", "versions", "hardware")}


def measure_sample(restorer, protocol) -> dict:
    """PSNR in dB on the first test images of the bundled sample: a number that anyone who loads the weights can check.

    Args:
        restorer: a :class:`Restorer`.
        protocol: how the images are degraded first.

    Returns:
        dict: ``"images"``, and the mean PSNR ``"degraded"``, ``"linear"`` (where the restorer has such a start) and ``"restored"``.
    """
    clean = datasets.load_cifar10("sample").test_images[:SAMPLE_IMAGES]
    degraded = degradations.as_float(degradations.degrade(clean, protocol))
    linear = linear_part(restorer)
    found = {"degraded": np.clip(degraded, 0, 1), "linear": linear and linear(degraded), "restored": restorer(degraded)}
    values = {name: metrics.per_image(clean, images) for name, images in found.items() if images is not None}
    return {"images": len(clean), **{name: metrics.summarize(value)["psnr"] for name, value in values.items()}}


def measure_photographs(restorer, protocol) -> dict:
    """PSNR in dB on photographs that are not 32x32 pixels: degraded, after the restorer's linear start, and restored.

    Args:
        restorer: a :class:`Restorer`.
        protocol: how :func:`lstm_ae_lib.datasets.photographs` are degraded first.

    Returns:
        dict: title -> {"degraded", "linear" (where the restorer has such a start), "restored"}; without photographs that the
        protocol happens to leave as they are.
    """
    linear = linear_part(restorer)
    found = {}
    for position, (title, photograph) in enumerate(datasets.photographs().items()):
        degraded = np.clip(degradations.as_float(degradations.degrade(photograph[None], protocol, position)[0]), 0, 1)
        if (degraded == degradations.as_float(photograph)).all():
            continue  # a sigma near 0 was drawn: there is nothing to restore
        shown = {"degraded": degraded, "linear": linear and restore(degraded, linear), "restored": restore(degraded, restorer)}
        found[title] = {
            name: float(metrics.per_image(photograph[None], image[None])["psnr"][0])
            for name, image in shown.items()
            if image is not None
        }
    return found


def linear_part(restorer):
    """The linear estimate that a :class:`Restorer` starts from, as a restorer of its own; None where it starts from nothing."""
    layer = models.linear_start_of(restorer.model)
    if layer is None:
        return None
    arguments = {"image_shape": restorer.model.inputs[0].shape[1:], "transform": layer.transform}
    builder = "linear_filter"
    if isinstance(layer, SpectralMixture):
        builder, arguments["parts"] = "linear_mixture", layer.parts
    model = models.build(builder, arguments)
    models.set_linear_start(model, restorer.model)
    return Restorer(f"{restorer.name}, linear start", model, builder, arguments, {})


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
    checks.choice(check_name(name), "weights", known)
    model, description = models.read(folder, name)
    return Restorer(name, model, description["builder"], description["arguments"], description["card"])


def check_name(name: str) -> str:
    """Returns the name of released weights, or raises ``ValueError``: letters, digits, ``-``, ``.`` and ``_``."""
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
