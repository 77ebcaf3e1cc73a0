"""Imports Keras once, and holds back what TensorFlow's C++ side prints while it starts.

Its first lines come before logging is set up: no setting turns them off, they are no use to a reader of a notebook, and a
regression test that compares standard error would trip over their time stamps. They go to a small process of their own, which
prints all of them if the import fails, and also if TensorFlow ends this process; otherwise only what is no log line. Whoever
sets ``TF_CPP_MIN_LOG_LEVEL`` sees everything.
"""

import contextlib
import os
import subprocess
import sys
import warnings

_HOLD_BACK = r"""
import re, sys
held = []
for line in sys.stdin.buffer:
    held.append(line)
    if line.startswith(b"\0"):
        break
if held[-1:] == [b"\0imported\n"]:
    held = [line for line in held if not re.match(rb"WARNING: All log messages before absl|[IWE]\d{4} ", line)]
sys.stderr.buffer.writelines(line for line in held if line[:1] != b"\0")
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
    if "keras" in sys.modules:
        import keras

        return keras
    ours = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "3"
    with _held_back() if ours else contextlib.nullcontext():
        try:
            import keras
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in ("jax", "openvino", "tensorflow", "torch"):
                raise
            wanted = os.environ.get("KERAS_BACKEND", "what keras.json says")
            raise ImportError(f"KERAS_BACKEND is {wanted}, but the package {package} is not installed") from None
        # The first operation makes TensorFlow start its devices, which prints once more.
        keras.ops.zeros((1,))
    return keras


def _check(keras):
    if keras.config.image_data_format() != "channels_last":
        raise ValueError("image_data_format must be channels_last, in keras.json or by keras.config.set_image_data_format; "
                         f"got {keras.config.image_data_format()}")  # fmt: skip
    if keras.config.backend() == "tensorflow" and os.path.exists("/proc/driver/nvidia/version"):
        import tensorflow as tf

        # Level 3 hides why: the warnings about libraries that are missing.
        if not tf.config.list_physical_devices("GPU") and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
            warnings.warn("TensorFlow does not use this machine's GPU; with TF_CPP_MIN_LOG_LEVEL=0 it says why", stacklevel=2)
    return keras


keras = _check(_import_keras())

# The widest floating point type that the backend computes with: JAX leaves float64 off.
WIDE_FLOAT = "float32" if keras.backend.backend() == "jax" else "float64"
