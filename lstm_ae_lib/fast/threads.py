"""How many threads compute: operations side by side, and threads within one operation."""

import os
import sys
import warnings

_INTER, _INTRA = "TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS"


def set_threads(inter_op: int | None = None, intra_op: int = 1) -> None:
    """Sets TensorFlow's threads, before TensorFlow starts.

    A recurrent layer is a long chain of small operations. Cutting each of them up for several threads costs more than it
    gains; running independent chains side by side, each operation on one thread, is faster (see
    ``python -m lstm_ae_lib bench train``). Convolutions are few and large: for them leave TensorFlow as it comes.

    The setting holds for the whole process. The last bits of a result depend on it.

    Args:
        inter_op: operations side by side, 1 to 1,024. Default: the cores that this process may use.
        intra_op: threads within one operation, 1 to 1,024. Default 1.

    Raises ``ValueError`` for a number out of range. Warns if TensorFlow has started with other numbers, which stay.
    """
    from lstm_ae_lib import checks

    inter_op = cores() if inter_op is None else int(checks.number(inter_op, "inter_op", 1, 1024, whole=True))
    wanted = {_INTER: str(inter_op), _INTRA: str(int(checks.number(intra_op, "intra_op", 1, 1024, whole=True)))}
    if {name: os.environ.get(name) for name in wanted} == wanted:
        return
    if "lstm_ae_lib._backend" in sys.modules or "tensorflow" in sys.modules:
        warnings.warn("set_threads came too late: TensorFlow has started and keeps its threads; restart, and call it first",
                      stacklevel=2)  # fmt: skip
        return
    os.environ.update(wanted)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


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
