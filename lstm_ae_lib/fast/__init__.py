"""Kernels that compute on a CPU faster than a loop of Keras operations: layers ask for them, nothing else knows how they work."""

import importlib
import sys

# Who turns a graph into a file. What XLA or another program is to run must not need a kernel.
_EXPORTERS = ("keras.src.export", "tensorflow.lite", "tensorflow.python.saved_model", "tf2onnx")


def kernels(name: str):
    """A module of kernels, ``"lstm"`` or ``"scan"``; None where a layer has to compute with Keras operations: on another
    backend, on a GPU, and in a graph that XLA compiles or that is exported."""
    from lstm_ae_lib._backend import keras

    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU") or not tf.executing_eagerly() and (_compiled(tf) or _exported()):
        return None
    return importlib.import_module(f"lstm_ae_lib.fast.{name}")


def _compiled(tf):
    """Whether the graph that is being made is part of a ``tf.function`` with ``jit_compile=True``."""
    from tensorflow.python.ops import control_flow_util

    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def _exported():
    """Whether an exporter is making the graph. TensorFlow and Keras say so nowhere else than on the stack of calls."""
    frame = sys._getframe()
    while frame and not frame.f_globals.get("__name__", "").startswith(_EXPORTERS):
        frame = frame.f_back
    return frame is not None
