"""Imports Keras once, and holds back the log lines that TensorFlow prints while it starts, which no setting turns off: a small
process shows them if the import fails or ends this process. With ``TF_CPP_MIN_LOG_LEVEL`` set, everything is shown."""

import contextlib
import os
import subprocess
import sys
import warnings

_HOLD_BACK = r"""
import re, sys
held = []
while (line := sys.stdin.buffer.readline()) and line[:1] != b"\0":
    held.append(line)
if line == b"\0imported\n":
    held = [line for line in held if not re.match(rb"WARNING: All log messages before absl|[IWE]\d{4} ", line)]
sys.stderr.buffer.writelines(held)
"""


@contextlib.contextmanager
def _held_back():
    try:
        real = os.dup(2)
        watcher = subprocess.Popen([sys.executable, "-ISc", _HOLD_BACK], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    except OSError:  # there is no standard error, or no other process can be started
        yield
        return
    outcome = b"\0failed\n"
    if sys.stderr:
        sys.stderr.flush()
    os.dup2(watcher.stdin.fileno(), 2)
    try:
        yield
        outcome = b"\0imported\n"
    finally:
        os.dup2(real, 2)
        os.close(real)
        watcher.communicate(outcome)


def _import_keras():
    first = "keras" not in sys.modules
    with _held_back() if first and os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "3" else contextlib.nullcontext():
        try:
            import keras
        except ModuleNotFoundError as error:
            package, wanted = (error.name or "").partition(".")[0], os.environ.get("KERAS_BACKEND", "what keras.json says")
            if package not in ("jax", "openvino", "tensorflow", "torch"):
                raise
            raise ImportError(f"KERAS_BACKEND is {wanted}, but the package {package} is not installed") from None
        if first:
            keras.ops.zeros((1,))  # makes TensorFlow start its devices, which prints once more
    if (order := keras.config.image_data_format()) != "channels_last":
        settings = "keras.json or by keras.config.set_image_data_format"
        raise ValueError(f"image_data_format must be channels_last, in {settings}; got {order}")
    if keras.config.backend() == "tensorflow" and os.path.exists("/proc/driver/nvidia/version"):
        import tensorflow as tf

        if not tf.config.list_physical_devices("GPU") and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
            warnings.warn("TensorFlow does not use this machine's GPU; with TF_CPP_MIN_LOG_LEVEL=0 it says why", stacklevel=2)
    return keras


keras = _import_keras()
WIDE_FLOAT = "float32" if keras.backend.backend() == "jax" else "float64"  # JAX leaves float64 off
