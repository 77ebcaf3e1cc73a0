"""Kernels that are faster on a CPU than a loop of Keras operations: layers ask for them, nothing else knows how they work."""

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
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext as compiled_by_xla

    portable = not tf.executing_eagerly() and (compiled_by_xla(tf.compat.v1.get_default_graph()) or _exported())
    return None if portable or tf.config.list_physical_devices("GPU") else importlib.import_module(f"lstm_ae_lib.fast.{name}")


def _exported():
    """Whether an exporter is making the graph. TensorFlow and Keras say so nowhere else than on the stack of calls."""
    frame = sys._getframe()
    while frame and not frame.f_globals.get("__name__", "").startswith(_EXPORTERS):
        frame = frame.f_back
    return frame is not None
