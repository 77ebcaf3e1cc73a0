"""Imports Keras once, and holds back the lines that TensorFlow's C++ side prints while it starts.

Those lines cannot be turned off by a setting (the first ones come before logging is set up), they are no use to a reader
of a notebook, and a regression test that compares standard error would trip over their time stamps. What is held back is
printed after all if the import fails.
"""

import os
import sys
import tempfile


def _import_keras():
    if "keras" in sys.modules:
        import keras

        return keras
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            import keras

            # The first operation makes TensorFlow start its devices, which prints once more.
            keras.ops.zeros((1,))
        except BaseException:
            held.seek(0)
            os.write(real, held.read())
            raise
        finally:
            os.dup2(real, 2)
            os.close(real)
    return keras


keras = _import_keras()

# The widest floating point type that the backend computes with: JAX leaves float64 off.
WIDE_FLOAT = "float32" if keras.backend.backend() == "jax" else "float64"
