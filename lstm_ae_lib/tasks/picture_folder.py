"""Pictures in a folder, as random crops, and pipelines of them."""

import concurrent.futures
import copy
import functools
import sys
import threading
from pathlib import Path

import numpy as np

from lstm_ae_lib import checks, datasets, degradations, pictures

SEED = 2016  # of the generators of crops and of the order of files; beside it: seed, epoch, place of the file
_ORDER, _HELD_OUT = 2**32 - 1, 2**32 - 2  # in place of a file and of an epoch, which never count so far
INTERLEAVED = 16  # pictures whose crops take turns: a batch of 32 shows all of them twice
_READING = threading.Lock()  # decoders run one at a time anyway; so each file that is skipped is said once


class PictureFolder:
    """The PNG and JPEG pictures in a folder and in the folders below it, as square crops in 8-bit colours.

    A file that :func:`lstm_ae_lib.pictures.read` refuses, or that is smaller than a crop, is skipped: one line on standard error,
    an entry in ``skipped`` (its name and the reason), and the next usable picture gives other crops in its place. Hidden files are
    left out. Raises ``FileNotFoundError``, and ``ValueError`` where no picture can be used.

    Args:
        folder: any number of pictures, of any size; ``files`` has their names, in order.
        side: height and width of a crop in pixels, 8 to 1024.
        crops: how many a picture gives each time that it is decoded, 1 to 4096.
        shrink: a crop is cut up to so many times as large, as far as the picture goes, and shrunk, because large photographs are
            smooth pixel by pixel; the smaller, the more often. 1 to 64.
    """

    def __init__(self, folder, side: int = 128, crops: int = 64, shrink: float = 12.0):
        self.side = checks.number(side, "side", 8, 1024, whole=True)
        self.crops = checks.number(crops, "crops", 1, 4096, whole=True)
        self.shrink = checks.number(shrink, "shrink", 1, 64)
        self.folder, self.skipped = Path(folder), {}
        if not self.folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder}")
        self.files = names_in(self.folder)
        if not self.files:
            raise ValueError(f"folder must hold pictures ({', '.join(pictures.SUFFIXES)}), got none in {folder}")
        self._read(0)

    def split(self, validation_share: float = 0.1, seed: int = 0) -> tuple:
        """Folders for training and for validation, of different files drawn by ``seed``; share and errors as for
        :func:`lstm_ae_lib.datasets.split`."""
        checks.number(seed, "seed", 0, 2**31 - 1, whole=True)
        order = np.random.default_rng((SEED, seed, _HELD_OUT)).permutation(len(self.files))
        parts = [copy.copy(self), copy.copy(self)]
        for part, places in zip(parts, datasets.split(len(self.files), validation_share), strict=True):
            part.files = [self.files[place] for place in sorted(order[places])]
            part.skipped = {name: self.skipped[name] for name in part.files if name in self.skipped}
            part._read(0)
        return tuple(parts)

    def order(self, seed, epoch) -> np.ndarray:
        """Places in ``files`` in the order of an epoch."""
        return np.random.default_rng((SEED, seed, epoch, _ORDER)).permutation(len(self.files))

    def cut(self, place: int, count: int, key: tuple, flip: bool = False) -> np.ndarray:
        """``count`` random crops of the picture at a place in ``files``, drawn from the whole numbers ``key``; half are mirrored
        with ``flip``. Returns ``(count, side, side, 3)`` uint8."""
        import cv2

        image, cuts = self._read(place), []
        height, width = image.shape[:2]
        largest = min(self.shrink * self.side, height, width)
        for scale, down, right, mirror in np.random.default_rng((SEED, *key)).random((count, 4)):
            size = round(self.side + scale**2 * (largest - self.side))  # three in ten within twice the side: text must stay text
            top, left = int(down * (height - size + 1)), int(right * (width - size + 1))
            crop = image[top : top + size, left : left + size]
            crop = cv2.resize(crop, (self.side, self.side), interpolation=cv2.INTER_AREA)
            cuts.append(crop[:, ::-1] if flip and mirror < 0.5 else crop)
        return pictures.eight_bit_colours(np.concatenate(cuts)).reshape(count, self.side, self.side, 3)

    def _read(self, place):
        """The first picture from a place on that can be used."""
        for name in (self.files[(place + more) % len(self.files)] for more in range(len(self.files))):
            with _READING:
                try:
                    if name not in self.skipped:
                        image = pictures.read(self.folder / name, quiet=True)
                        if min(image.shape[:2]) >= self.side:
                            return image
                        raise ValueError(f"is smaller than a crop of {self.side} pixels: {image.shape[1]} x {image.shape[0]}")
                except (OSError, ValueError) as error:
                    self.skipped[name] = str(error).removeprefix(f"{Path(name).name} ")
                    print(f"skipped {name}: {self.skipped[name]}", file=sys.stderr)
        reasons = "; ".join(f"{name} {reason}" for name, reason in list(self.skipped.items())[:3])
        raise ValueError(f"folder must hold a picture to use, got none in {self.folder} among {len(self.files)}: {reasons}")


def names_in(folder) -> list:
    """The PNG and JPEG files in a folder and the folders below it, linked ones too, as paths from there, in order; hidden ones are
    left out."""
    return sorted(path.relative_to(folder).as_posix() for path in _below(Path(folder)) if path.suffix.lower() in pictures.SUFFIXES)


def _below(folder, above=()):
    """Files that are not hidden; no folder within itself, to which a link can lead. One that cannot be read takes a line."""
    if (real := folder.resolve()) in above:
        return
    try:
        found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except PermissionError as error:
        print(f"skipped the folder {folder}: {error.strerror}", file=sys.stderr)
        return
    for path in found:
        if path.is_dir():
            yield from _below(path, (*above, real))
        elif path.is_file():
            yield path


def picture_crops(folder: PictureFolder, count: int, seed: int) -> np.ndarray:
    """``count`` crops to validate with, always the same ones, evenly from all files: ``(count, side, side, 3)`` uint8."""
    checks.number(count, "count", 1, 2**31 - 1, whole=True)
    checks.number(seed, "seed", 0, 2**31 - 1, whole=True)
    places, counts = np.unique(np.arange(count) * len(folder.files) // count, return_counts=True)
    return np.concatenate([folder.cut(place, crops, (seed, _HELD_OUT, place)) for place, crops in zip(places, counts, strict=True)])


def picture_batches(
    folder, protocol, batch_size: int, seed: int, *, flip: bool = True, turn: bool = False, first_epoch: int = 0,
    first_step: int = 0, threads: int = 2, part=(0, 1),
):  # fmt: skip
    """Endless batches of ``(degraded, clean)`` crops of pictures, as :func:`lstm_ae_lib.datasets.redrawn_batches` gives them of
    images; ``folder`` is a :class:`PictureFolder`, and where ``protocol`` is ``None`` both are the clean ones.

    An epoch decodes each file once, in a new order, and has ``len(folder.files) * folder.crops`` images. They depend on the files,
    ``seed`` and the epoch alone, not on ``threads``, 1 to 64. Memory, whatever the folder holds: the crops of three groups of 16
    pictures (150 MB for 64 of 128 x 128), or of as many as the batches need that are made ahead, and as many whole pictures and
    batches as there are threads.
    """
    protocol, count = degradations.get_protocol(protocol) if protocol else None, len(folder.files) * folder.crops
    checks.choice(flip, "flip", (True, False))
    checks.number(threads, "threads", 1, 64, whole=True)
    order = datasets.Order(count, batch_size, seed, first_epoch, first_step, part)  # of which the crops' own order is not used
    groups = _Groups(folder, seed, flip, threads, (threads + 2) * batch_size)

    def make(step):
        epoch, place = divmod(int(step), order.steps)
        places = np.arange(place * batch_size, min((place + 1) * batch_size, count))
        clean, positions = groups.crops(epoch, places)
        clean, positions = clean[order.mine], positions[order.mine]
        degraded = degradations.redegrade(clean, protocol, positions, epoch) if protocol else clean
        return [degradations.as_float(images) for images in (degraded, clean)]

    shape = (folder.side, folder.side, 3)
    return datasets.pipeline(order.turned(make, shape[:2]) if turn else make, [shape] * 2, order.first, threads=threads)


class _Groups:
    """The crops of :data:`INTERLEAVED` pictures at a time, which take turns. While a group is used, the next is decoded, and all
    that hold one of the next ``near`` crops; groups with one of the last ``near`` crops are kept: several threads make batches."""

    def __init__(self, folder, seed, flip, threads, near):
        self.folder, self.seed, self.flip, self.near = folder, seed, flip, near
        self.pool, self.lock, self.cutting = concurrent.futures.ThreadPoolExecutor(threads), threading.Lock(), {}
        self.size, self.images = INTERLEAVED * folder.crops, len(folder.files) * folder.crops  # of a group, of an epoch
        self.count = -(-self.images // self.size)  # groups in an epoch
        self.order = functools.lru_cache(maxsize=2)(functools.partial(folder.order, seed))

    def crops(self, epoch, places):
        """Crops at some neighbouring places of an epoch: ``(n, side, side, 3)`` uint8, and their positions."""
        at, found = epoch * self.images + int(places[0]), []
        groups = self._begun(*(self._group(max(0, at + more)) for more in (-self.near, 0, len(places) + self.near)))
        for place in np.unique(places // self.size):
            own = groups[epoch * self.count + int(place)]
            rows, turns = np.divmod(places[places // self.size == place] % self.size, len(own))
            cut = {turn: own[turn][1].result() for turn in np.unique(turns)}
            found += [(cut[turn][row], own[turn][0] * self.folder.crops + row) for row, turn in zip(rows, turns, strict=True)]
        images, positions = zip(*found, strict=True)
        return np.stack(images), np.array(positions)

    def _group(self, position):
        """The number of a group, counted through all epochs."""
        epoch, place = divmod(position, self.images)
        return epoch * self.count + place // self.size

    def _begun(self, first, now, last):
        """Groups' files, as places, each with what cuts its crops: number -> list; from ``now`` to ``last``, or one more."""
        with self.lock:
            for one in range(now, max(last, now + 1) + 1):
                if one not in self.cutting:
                    epoch, place = divmod(one, self.count)
                    files = self.order(epoch)[place * INTERLEAVED : (place + 1) * INTERLEAVED].tolist()
                    self.cutting[one] = [(file, self.pool.submit(self._cut, file, epoch)) for file in files]
            self.cutting = {one: group for one, group in self.cutting.items() if one >= first}
            return self.cutting

    def _cut(self, file, epoch):
        return self.folder.cut(file, self.folder.crops, (self.seed, epoch, file), self.flip)
