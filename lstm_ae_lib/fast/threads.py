"""How many threads compute: operations side by side, and threads within one operation."""

import os
import sys
import warnings

from lstm_ae_lib import checks

_INTER, _INTRA = "TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS"


def set_threads(inter_op: int | None = None, intra_op: int = 1) -> None:
    """Sets TensorFlow's threads for the whole process, before TensorFlow starts. The last bits of a result depend on them.

    A recurrent layer is a long chain of small operations: independent chains side by side, each operation on one thread, are
    faster than operations cut up for several (``python -m lstm_ae_lib bench train``). Not so convolutions, few and large.
    ``inter_op`` operations run side by side, by default one a core, each on ``intra_op`` threads; both 1 to 1,024, else
    ``ValueError``. Warns if TensorFlow has started with other numbers, which stay."""
    inter_op = cores() if inter_op is None else int(checks.number(inter_op, "inter_op", 1, 1024, whole=True))
    wanted = {_INTER: str(inter_op), _INTRA: str(int(checks.number(intra_op, "intra_op", 1, 1024, whole=True)))}
    if {"lstm_ae_lib._backend", "tensorflow"} & sys.modules.keys() and not wanted.items() <= os.environ.items():
        message = "set_threads came too late: TensorFlow has started and keeps its threads; restart, and call it first"
        warnings.warn(message, stacklevel=2)
    else:
        os.environ.update(wanted)


def cores() -> int:
    """The cores that this process may use, at most so many as the variable ``LSTM_AE_CORES`` allows."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(own, int(os.environ.get("LSTM_AE_CORES") or own))


def inter_op() -> int:
    """How many operations the backend runs side by side: what TensorFlow was told, else one for each core."""
    return _told("get_inter_op_parallelism_threads", _INTER)


def intra_op() -> int:
    """How many threads one operation may use: what TensorFlow was told, else one for each core."""
    return _told("get_intra_op_parallelism_threads", _INTRA)


def _told(function, variable):
    from lstm_ae_lib._backend import keras

    if keras.backend.backend() != "tensorflow":
        return cores()
    import tensorflow as tf

    return getattr(tf.config.threading, function)() or int(os.environ.get(variable) or 0) or cores()
