"""How far along a line a recurrence holds: networks trained on short lines, tested on long ones.

A line is a row or a column of an image. A state that forgets slowly grows along a line; on one longer than those of the training it
takes values that no weight was fitted to. Longer lines in the training, or a bound on what is kept, prevent that.
"""

import numpy as np

from lstm_ae_lib import checks, degradations, layers, metrics, models, pictures, weights
from lstm_ae_lib._backend import keras
from lstm_ae_lib.tasks.mending import at_size
from lstm_ae_lib.tasks.photographs import CASES

ops = keras.ops

SEED = 2017
LENGTHS = (32, 64, 128, 256, 512, 1024)
HEIGHT = 128  # of a band in pixels
# Degradations that change what a network has to know about a line; their strengths are in photographs.CASES.
KINDS = ("Gaussian 1.2, JPEG 90", "disc 3, noise 2, JPEG 92", "Gaussian 2, noise 3", "motion 9, noise 3, JPEG 85", "noise 10")


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class BoundedScan(layers.GatedScan):
    """A gated scan that cannot keep for long: ``a = bound * tanh(W_a x + b_a)``, so that after ``n`` positions at most
    ``bound ** n`` of a state is left.

    Args:
        bound: largest coefficient, above 0, below 1. At 0.75, 1 % is left after 16 positions.

    Others, weights, input and output as for :class:`lstm_ae_lib.layers.GatedScan`, but coefficients of both signs only. Raises
    ``ValueError`` for an argument out of range.
    """

    def __init__(self, units, along="both", bound=0.75, **kwargs):
        super().__init__(units, along, **kwargs)
        if self.positive:
            raise ValueError("positive must be False: a bound is for coefficients of both signs, got True")
        self.bound = checks.number(bound, "bound", 1e-6, 1 - 1e-6)

    def project(self, images):
        parts = ops.split(super().project(images), 2 * len(self.WAYS[self.along]), axis=-1)
        for place in range(0, len(parts), 2):  # gates; behind each is its candidate
            gate = self.bound * ops.tanh(ops.cast(parts[place], "float32"))
            parts[place] = ops.cast(ops.arctanh(gate), parts[place].dtype)
        return ops.concatenate(parts, -1)

    def get_config(self):
        return {**super().get_config(), "bound": self.bound}


@weights.register
def bounded_flagship(
    image_shape=(32, 32, 3), width: int = 64, depth: int = 2, latent: int = 64, bound: float = 0.75, linear_start: str = "",
    name: str = "bounded_flagship",
):  # fmt: skip
    """:func:`lstm_ae_lib.models.flagship` with a :class:`BoundedScan` for each scan. Arguments, result and errors as there."""
    model = models.flagship(image_shape, width, depth, latent, linear_start=linear_start, name=name)

    def copied(layer):
        is_scan = isinstance(layer, layers.GatedScan)
        return BoundedScan.from_config(layer.get_config() | {"bound": bound}) if is_scan else layer.from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=copied)


def bands(length: int = LENGTHS[-1]) -> np.ndarray:
    """The middle of each of scikit-image's photographs, mirrored along its rows as often as needed: ``(count, HEIGHT, length, 3)``
    uint8."""
    checks.number(length, "length", 1, 2**15, whole=True)
    cut = []
    for picture in map(pictures.eight_bit_colours, pictures.photographs().values()):
        top = (len(picture) - HEIGHT) // 2
        middle = picture[top : top + HEIGHT, :length]
        cut.append(np.pad(middle, ((0, 0), (0, length - middle.shape[1]), (0, 0)), mode="symmetric"))
    return np.stack(cut)


def pieces(images, length: int) -> np.ndarray:
    """Images of ``HEIGHT`` rows cut into pieces whose rows are ``length`` pixels long, and whose columns at most that."""
    height, (count, rows, columns, _) = min(length, HEIGHT), images.shape
    if length < 1 or rows % height or columns % length:
        raise ValueError(f"length must divide {rows} rows and {columns} columns, or be {rows} or more, got {length}")
    cut = images.reshape(count, rows // height, height, columns // length, length, 3)
    return cut.swapaxes(2, 3).reshape(-1, height, length, 3)


def joined(parts, rows: int = HEIGHT, columns: int = LENGTHS[-1]) -> np.ndarray:
    """The images that :func:`pieces` has cut."""
    _, height, length, _ = parts.shape
    put = parts.reshape(-1, rows // height, columns // length, height, length, 3)
    return put.swapaxes(2, 3).reshape(-1, rows, columns, 3)


def restored_by_length(builder: str, arguments: dict, trained, length: int, clean=None) -> dict:
    """What a network does to :func:`bands` in pieces with rows of ``length`` pixels, each degraded and restored by itself.

    Args:
        builder, arguments: as :func:`lstm_ae_lib.weights.build` takes them; for any image size, so without a linear start.
        trained: that network with its weights, for images of any size.
        clean: other bands, ``(count, HEIGHT, width, 3)`` uint8.

    Returns ``clean``, uint8, ``degraded`` and ``restored``, in [0, 1], joined again: all bands for one of :data:`KINDS` after the
    other; and ``gains``, of the PSNR of each in dB, ``(kinds, bands)``. Every length has the same pixels, so only that differs.
    """
    clean = bands() if clean is None else clean
    cut, size = pieces(clean, length), clean.shape[1:3]
    network = at_size(builder, arguments, trained, cut.shape[1:3])
    both = {"degraded": [], "restored": []}
    for kind in KINDS:
        draws = [np.random.default_rng((SEED, length, place)) for place in range(len(cut))]
        seen = [degradations.through_camera(piece, random, **CASES[kind]) for piece, random in zip(cut, draws, strict=True)]
        seen = degradations.as_float(np.stack(seen))
        made = models.apply(network, seen, max(1, 4096 // length))
        for name, images in zip(both, (seen, np.clip(made, 0, 1)), strict=True):
            both[name].append(joined(images, *size))
    found = {"clean": np.tile(clean, (len(KINDS), 1, 1, 1)), **{name: np.concatenate(parts) for name, parts in both.items()}}
    before, after = (metrics.per_image(found["clean"], found[name])["psnr"] for name in both)
    return found | {"gains": (after - before).reshape(len(KINDS), -1)}


def time_constants(network, images) -> np.ndarray:
    """After how many positions a scan has forgotten all but 1/e of its state, ``-1 / log(|a|)``: for every coefficient that the
    network's scans compute for the images, float images ``(n, height, width, 3)`` of the network's size. ``(count,)``."""
    scans = [layer for layer in network.layers if isinstance(layer, layers.GatedScan)]
    if not scans:
        raise ValueError(f"the network must have gated scans, got {network.name} without any")
    found = []
    for scan, features in zip(scans, _computed(network, [scan.input for scan in scans], images), strict=True):
        parts = np.split(np.asarray(scan.project(features), np.float64), 2 * len(scan.WAYS[scan.along]), axis=-1)
        gates = np.stack(parts[::2])
        kept = 1 / (1 + np.exp(-gates)) if scan.positive else np.abs(np.tanh(gates))
        found.append(-1 / np.log(np.clip(kept, 1e-12, 1 - 1e-7)))
    return np.concatenate([constants.ravel() for constants in found])


def _computed(network, tensors, images):
    outputs = keras.Model(network.input, tensors)(images, training=False)
    return outputs if isinstance(outputs, list | tuple) else [outputs]
