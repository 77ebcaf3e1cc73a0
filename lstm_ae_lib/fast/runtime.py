"""Released networks on ONNX Runtime, from the ``.onnx`` file beside their weights. Neither Keras nor TensorFlow is imported.

What stands in such a file is said in :mod:`lstm_ae_lib.study.exporting`, which writes it.
"""

import functools
import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from lstm_ae_lib import restoring
from lstm_ae_lib.fast import threads

VERSION = 1  # of what stands in a file's metadata
HALVES = ("encoder", "decoder")  # of a compressor


def engine_for(description: dict) -> str:
    """``"onnx"`` where ONNX Runtime is installed and the JSON of the weights names an ``.onnx`` file, else ``"keras"``."""
    return "onnx" if description.get("onnx") and importlib.util.find_spec("onnxruntime") else "keras"


def open_session(name: str, description: dict, folder):
    """An ONNX Runtime session of ``NAME.onnx``, verified by the SHA-256 that the JSON of the weights has for it.

    ``name`` is the weights', or with ``-encoder`` or ``-decoder`` a compressor's half. Raises ``ImportError`` without ONNX Runtime,
    ``FileNotFoundError`` where the JSON or the folder has no such file, ``ValueError`` for one that is damaged, of other weights or
    of another version.
    """
    if not (onnxruntime := _onnxruntime()):
        raise ImportError("the engine onnx needs the package onnxruntime: pip install onnxruntime")
    path, known = Path(folder) / f"{name}.onnx", description.get("onnx", {})
    if name not in known or not path.is_file():
        raise FileNotFoundError(f"there is no {path}; the engine keras needs none")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != known[name]:
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one that the weights' JSON has")
    try:
        session = _opened(content)
    except Exception as error:  # ONNX Runtime's own classes
        raise ValueError(f"{path} cannot be opened by ONNX Runtime {onnxruntime.__version__}: {error}") from error
    found = session.get_modelmeta().custom_metadata_map
    if found.get("version") != str(VERSION):
        raise ValueError(f"{path} must have version {VERSION}, got {found.get('version')}: export it again")
    if found.get("weights") != description["sha256"]:
        raise ValueError(f"{path} was made from other weights than those beside it: export it again")
    return session


def _onnxruntime():
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return None
    return onnxruntime


@functools.lru_cache(maxsize=4)
def _opened(content):
    """A session on the cores that this process may use."""
    options = _onnxruntime().SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads.cores()
    return _onnxruntime().InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(session, *values) -> np.ndarray:
    """The output of a session with one output, of values for its inputs, in their order."""
    given = {one.name: np.ascontiguousarray(value, np.float32) for one, value in zip(session.get_inputs(), values, strict=True)}
    return session.run(None, given)[0]


class OnnxRestorer(restoring.Restorer):
    """Released weights on ONNX Runtime; ``session`` restores images whose sides are multiples of 8, from 16 pixels on."""

    def __init__(self, name: str, description: dict, session):
        super().__init__(name, description["card"], float(session.get_modelmeta().custom_metadata_map["most"]))
        self.session = session

    def __reduce__(self):
        return open_restorer, self.opened_from

    def _restored(self, padded):
        return run(self.session, padded)


def open_restorer(name: str, description: dict, folder) -> OnnxRestorer:
    """:class:`OnnxRestorer` of ``NAME.onnx`` in ``folder``; errors as for :func:`open_session`."""
    restorer = OnnxRestorer(name, description, open_session(name, description, folder))
    restorer.opened_from = name, description, folder  # as which it is pickled: a process that unpickles it needs the file
    return restorer


def open_halves(name: str, description: dict, folder) -> tuple:
    """A compressor's halves on ONNX Runtime: images ``(n, 32, 32, 3)`` in [0, 1] -> the latent in steps, ``(n, latent)``; and that,
    rounded -> images, not clipped. Of one for any rate only the second is there: images and ``(1,)``, the logarithm of the
    step -> images. Each is opened when it is first called; errors as for :func:`open_session`."""
    sessions = {}

    def half(which, *values):
        if which not in sessions:
            sessions[which] = open_session(f"{name}-{which}", description, folder)
            if (made := sessions[which].get_outputs()[0].name) == "symbols":
                raise ValueError(f"{name}-{which}.onnx gives {made}, rounded, not steps: export {name} again")
        return run(sessions[which], *values)

    return tuple(functools.partial(half, which) for which in HALVES)
