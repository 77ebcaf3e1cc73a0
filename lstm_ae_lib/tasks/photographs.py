"""Photographs under free licences to train on, from two Debian packages: found or fetched, and verified. And what a restorer does
to photographs, which is measured on scikit-image's.

``data/photographs.json`` lists those to train on, each with author, licence and content hash. None is tracked.
"""

import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np

from lstm_ae_lib import checks, cifar10, datasets, degradations, files, metrics, paths, pictures, restoring
from lstm_ae_lib.tasks.pages import draw_fills, write_pages
from lstm_ae_lib.tasks.picture_folder import PictureFolder, picture_crops

ENSEMBLE = 8  # ways of laying a picture whose results are averaged, of restoring.ENSEMBLES
AT_LEAST = 10  # half of the list: another release of the packages may lack some
SECONDS = 3600.0  # for one package, at most 94 MB; apt-get itself gives up a connection that is silent

# What happens to a photograph: title -> arguments of degradations.through_camera. The last four are outside what `camera` draws.
CASES = {
    "untouched": {}, "JPEG 90": {"quality": 90}, "JPEG 80": {"quality": 80},
    "Gaussian 1.2, JPEG 90": {"kind": "gaussian", "sizes": (1.2,), "quality": 90},
    "disc 3, noise 2, JPEG 92": {"kind": "disc", "sizes": (3.0,), "noise": 2 / 255, "quality": 92},
    "Gaussian 2, noise 3": {"kind": "gaussian", "sizes": (2.0,), "noise": 3 / 255},
    "motion 9, noise 3, JPEG 85": {"kind": "motion", "sizes": (9.0,), "angle": np.pi / 6, "noise": 3 / 255, "quality": 85},
    "noise 10": {"noise": 10 / 255},
    "Gaussian 5": {"kind": "gaussian", "sizes": (5.0,)}, "noise 40": {"noise": 40 / 255}, "JPEG 20": {"quality": 20},
    "enlarged 2 times": {"kind": "enlarged", "sizes": (2.0,)},
}  # fmt: skip
# And to a picture that is no photograph, and to one of flat areas and fine patterns.
OTHER_CASES = {"untouched": {}, "JPEG 80": {"quality": 80}, "Gaussian 1.2": {"kind": "gaussian", "sizes": (1.2,)}}
FILL_CASES = {name: OTHER_CASES[name] for name in ("untouched", "JPEG 80")}


def listed() -> list[dict]:
    """The list: file, package, path in it, title, author, licence, width, height, bytes, SHA-256 of each photograph."""
    return _list()["photographs"]


def present() -> list[dict]:
    """Those listed that are in :func:`store` with the right content."""
    return [one for one in listed() if _is_right(store() / one["file"], one)]


def store() -> Path:
    """The photographs' folder, which may not be there yet; :func:`verified` says whether it can be used."""
    return paths.raw_dir() / "photographs"


def verified() -> Path:
    """The folder with at least ``AT_LEAST`` photographs, none damaged; else a :class:`cifar10.DataUnavailableError`."""
    return _verified([])


def fetch(folder=None) -> Path:
    """Finds or fetches what is missing or damaged, and returns the folder of the photographs.

    Processes that call it at once wait for the first; a killed one leaves nothing half-written. What was found is kept.

    Args:
        folder: holds the packages (``*.deb``), or files unpacked from them, under any names; None: ``apt-get download``.

    Raises:
        cifar10.DataUnavailableError: fewer than ``AT_LEAST`` could be had; the message lists the ways to get them.
        OSError: ``folder`` is none, or the photographs cannot be written.
    """
    if folder is not None and not os.path.isdir(folder):
        raise NotADirectoryError(f"folder must be a folder with the Debian packages, or with files from them, got {str(folder)!r}")
    if len(present()) == len(listed()):
        return store()
    with cifar10.exclusive(store().with_suffix(".lock"), store()):
        there = present()  # another process may have fetched them meanwhile
        wanted = {one["sha256"]: one for one in listed() if one not in there}
        failures = _take(folder, wanted) if wanted else []
    return _verified(failures)


def load_crops(folder, side: int = 128, validation_share: float = 0.2, seed: int = 0, count: int = 600) -> tuple:
    """Crops of a folder of pictures in the place of CIFAR-10, and the folder to train on, a
    :class:`~lstm_ae_lib.tasks.picture_folder.PictureFolder`.

    Args:
        folder: of PNG and JPEG pictures, or ``"photographs"`` for those of :func:`verified` and the pages drawn beside them.
        side: of a crop in pixels, a multiple of 8 from 16 to 512.
        validation_share, seed: of which files are held out, and of the crops.
        count: fixed crops, at least 20; the last ``validation_share`` of them come from the files that are held out.

    Returns a :class:`lstm_ae_lib.cifar10.ImageSet` of kind ``"pictures"``, ``(count, side, side, 3)`` uint8 to fit and validate
    with, and as test images scikit-image's photographs cut into squares; and the folder. Raises what these do.
    """
    if checks.number(side, "side", 16, 512, whole=True) % 8:
        raise ValueError(f"side must be a multiple of 8, got {side}")
    checks.number(count, "count", 20, 10**6, whole=True)
    chosen, held_out = datasets.split(count, validation_share)
    if str(folder) == "photographs":
        write_pages(folder := verified())
        both = _split_with_soft_ones(PictureFolder(folder, side), validation_share, seed)
    else:
        both = PictureFolder(folder, side).split(validation_share, seed)
    counts = (len(range(count)[places]) for places in (chosen, held_out))
    crops = [picture_crops(part, number, seed) for part, number in zip(both, counts, strict=True)]
    tests = np.concatenate([squares(photograph, side) for photograph in pictures.photographs().values()])
    content = hashlib.sha256("".join(files.sha256(part.folder / name) for part in both for name in part.files).encode())
    places = np.arange(count), np.arange(len(tests))
    labels = [np.zeros(len(one), np.uint8) for one in places]
    images = cifar10.ImageSet(np.concatenate(crops), labels[0], tests, labels[1], *places, "pictures", content.hexdigest())
    return images, both[0]


def crops_per_second(batches, count: int = 20) -> float:
    """How fast a pipeline of ``(degraded, clean)`` batches is, if nothing else computes: over ``count`` batches after the first."""
    batches = iter(batches)
    next(batches)
    started = time.perf_counter()
    crops = sum(len(degraded) for degraded, _ in itertools.islice(batches, count))
    return crops / (time.perf_counter() - started)


def measure(restorer, side: int = 0) -> list[dict]:
    """What a restorer, as :func:`lstm_ae_lib.restoring.restore` takes it, does to photographs and to other pictures.

    ``side``: of a crop from the middle of each, in pixels; 0 for whole pictures. Returns a record for each of :data:`CASES` on
    scikit-image's photographs, of :data:`OTHER_CASES` on :func:`other_pictures`, and of :data:`FILL_CASES` on flat areas and
    patterns of pure colours: ``case``, ``pictures`` (a word), ``images``, mean PSNR in dB ``before`` (None for untouched ones),
    ``after``, and ``averaged`` after an ensemble of :data:`ENSEMBLE`; ``least`` and ``least_averaged``, the smallest gain of one
    picture.
    """
    found = []
    groups = [("photographs", pictures.photographs(), CASES), ("others", other_pictures(), OTHER_CASES)]
    groups.append(("fills", {place: draw_fills(place) for place in (100, 101)}, FILL_CASES))  # not those of any training
    for word, chosen, cases in groups:
        clean = [middle(pictures.eight_bit_colours(picture), side) for picture in chosen.values()]
        for case, arguments in cases.items():
            values = []
            for place, picture in enumerate(clean):
                random = np.random.default_rng((degradations.PROTOCOL_SEED, place))
                degraded = degradations.through_camera(picture, random, **arguments)
                shown = degraded, *(restoring.restore(degraded, restorer, ensemble=ways) for ways in (1, ENSEMBLE))
                values.append([metrics.per_image(picture[None], image[None])["psnr"][0] for image in shown])
            names = ("before", "after", "averaged", "least", "least_averaged")
            with np.errstate(invalid="ignore"):  # infinity less itself
                gains = np.array(values)[:, 1:] - np.array(values)[:, :1]
            numbers = dict(zip(names, [*np.mean(values, axis=0), *gains.min(axis=0)], strict=True))  # without an error no PSNR
            numbers = {name: float(number) if np.isfinite(number) else None for name, number in numbers.items()}
            found.append({"case": case, "pictures": word, "images": len(clean), **numbers})
    return found


def other_pictures() -> dict:
    """Pictures that are no photographs: two printed pages and a drawing of scikit-image's, a program's window, drawn here."""
    import skimage.data

    return {name: getattr(skimage.data, name)() for name in ("page", "text", "logo")} | {"window": _window()}


def _window():
    import cv2

    window = np.full((360, 480, 3), 245, np.uint8)
    cv2.rectangle(window, (0, 0), (479, 27), (60, 90, 150), -1)
    cv2.rectangle(window, (12, 40), (150, 345), (255, 255, 255), -1)
    for line, word in enumerate(("File  Edit  View  Help", "notebooks", "01_prepare_data", "02_train", "03_evaluate", "README.md")):
        place, colour = ((10, 19), (255, 255, 255)) if line == 0 else ((20, 40 + 22 * line), (30, 30, 30))
        cv2.putText(window, word, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)
    for line in range(12):
        text = f"{line + 1:>2}  loss {0.02 / (line + 1):.4f}  psnr {20 + line / 3:.2f}"
        cv2.putText(window, text, (165, 62 + 22 * line), cv2.FONT_HERSHEY_PLAIN, 0.9, (20, 20, 20 + 15 * line), 1, cv2.LINE_AA)
    cv2.line(window, (160, 330), (465, 40), (200, 60, 60), 1, cv2.LINE_AA)
    return window


def middle(picture, side):
    """A square from the middle of a picture, or as much of it as there is; with 0 the picture."""
    rows, columns = (slice(max(0, (length - side) // 2), max(0, (length - side) // 2) + side) for length in picture.shape[:2])
    return picture[rows, columns] if side else picture


def squares(picture, side: int) -> np.ndarray:
    """A picture ``(height, width, 3)`` cut into squares from its upper left corner on, what is left over dropped."""
    rows, columns = (length // side for length in picture.shape[:2])
    cut = picture[: rows * side, : columns * side].reshape(rows, side, columns, side, 3)
    return cut.swapaxes(1, 2).reshape(-1, side, side, 3)


def _split_with_soft_ones(folder, validation_share, seed):
    """As :meth:`PictureFolder.split`; a softer version of a photograph goes where the photograph is."""
    soft = {name: f"{name.removeprefix('soft-').removesuffix('.png')}.jpg" for name in folder.files if name.startswith("soft-")}
    folder.files = [name for name in folder.files if name not in soft]
    both = folder.split(validation_share, seed)
    for part in both:
        part.files = sorted([*part.files, *(name for name, source in soft.items() if source in part.files)])
    return both


def _list():
    return files.read_json(paths.data_dir() / "photographs.json")


def _packages():
    return [package["name"] for package in _list()["packages"]]


def _is_right(path, one):
    return path.is_file() and path.stat().st_size == one["bytes"] and files.sha256(path) == one["sha256"]


def _verified(failures):
    there = present()
    missing = [one["file"] for one in listed() if one not in there]
    damaged = [name for name in missing if (store() / name).exists()]
    if damaged or len(there) < AT_LEAST:
        raise cifar10.DataUnavailableError(_ways_to_get_them(len(there), missing, damaged, failures))
    if missing:
        _say("; ".join([f"{len(there)} of {len(there) + len(missing)} are there, missing are {', '.join(missing)}", *failures]))
    return store()


def _take(folder, wanted):
    """Stores what it finds of the wanted photographs, by content hash, and returns what there is to say about the others."""
    found, sizes = set(), {one["bytes"] for one in wanted.values()}  # most files of /usr/share need not be read
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=store()) as temporary:
        failures = [] if folder else _download(temporary)
        for content in _contents(folder or temporary, sizes, failures):
            if (content_hash := hashlib.sha256(content).hexdigest()) in wanted:
                _write(store() / wanted[content_hash]["file"], content)
                found.add(content_hash)
    return [*failures, f"{folder or 'the packages'}: {len(found)} of {len(wanted)} found"]


def _download(temporary):
    if (apt := shutil.which("apt-get")) is None:
        return ["the command apt-get is not installed"]
    failures = []
    for name in _packages():
        _say(f"trying apt-get download {name}")
        try:
            cifar10.run_program([apt, "download", name], SECONDS, temporary, LC_ALL="C")
        except OSError as error:
            failures.append(f"{name}: {error}")
    return failures


def _contents(folder, sizes, failures):
    """The content of every file of one of the ``sizes`` in a folder, and in the right packages among its files."""
    for parent, _, names in os.walk(folder):
        for path in (os.path.abspath(os.path.join(parent, name)) for name in names):
            if path.endswith(".deb") and os.path.isfile(path):
                try:
                    yield from _packed(path, sizes)
                except OSError as error:
                    failures.append(f"{path}: {error}")
                except tarfile.TarError as error:
                    failures.append(f"{path}: damaged ({error})")
            elif os.path.isfile(path) and os.path.getsize(path) in sizes:
                yield files.read(path)


def _packed(package, sizes):
    if (dpkg := shutil.which("dpkg-deb")) is None:
        raise FileNotFoundError("the command dpkg-deb is not installed; unpack the package and name that folder")
    if cifar10.run_program([dpkg, "--field", package, "Package"], SECONDS, LC_ALL="C").strip() not in _packages():
        return  # /var/cache/apt/archives holds many
    command = [dpkg, "--fsys-tarfile", package]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as unpacking,
        tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive,
    ):
        for member in archive:
            if member.isreg() and member.size in sizes:
                yield archive.extractfile(member).read()


def _write(path, content):
    try:
        files.write(path, content)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, f"cannot write {path.name}: {error.strerror}", str(path.parent)) from error  # a full disk


def _say(text):
    print(f"photographs: {text}", file=sys.stderr)


def _ways_to_get_them(count, missing, damaged, failures):
    names = " ".join(_packages())
    gone = ", ".join(name for name in missing if name not in damaged) or "none"
    gone = textwrap.fill(gone, 110, subsequent_indent=" " * 11, break_on_hyphens=False)
    tried = "\n".join(f"    {failure}" for failure in failures) or "    nothing: the command below fetches them"
    return f"""the photographs to train on are not all right: {count} are there, and at least {AT_LEAST}, none damaged, are needed.

  Folder:  {store()}
  Missing: {gone}
  Damaged: {", ".join(damaged) or "none"}
  What was tried:
{tried}

  Ways to get them (any one is enough; the content is checked whichever you choose):
    1. On Debian or Ubuntu, with a network: run `python -m lstm_ae_lib data photographs` (141 MB are fetched, 12 MB
       kept). If apt-get does not know the packages, its lists are missing or old: run `apt-get update` first, as root.
    2. From another machine: there, run `apt-get download {names}`; copy the two
       files into a folder and run `python -m lstm_ae_lib data photographs --source FOLDER`. Unpacked packages will do as well:
       where they are installed, FOLDER is /usr/share.
    3. From a machine that has them: copy its data/raw/photographs to the folder above.

  Without them: train on a folder of your own, of sharp and large PNG or JPEG photographs, with
  `python -m lstm_ae_lib run --preset photo -p pictures FOLDER`. Nothing is evaluated on these pictures."""
