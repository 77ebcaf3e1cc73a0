"""One call that makes a run repeatable."""

from lstm_ae_lib import checks
from lstm_ae_lib._backend import keras


def set_seed(seed: int, deterministic: bool = True) -> None:
    """Seeds Python, NumPy and the Keras backend; ``ValueError`` unless the seed is a whole number from 0 to 2**31 - 1.

    With ``deterministic`` TensorFlow refuses operations whose result depends on timing: two runs of one seed are bit-identical
    on the same kind of machine with the same number of threads; another number differs in the last bits.
    """
    checks.number(seed, "seed", 0, 2**31 - 1, whole=True)
    keras.utils.set_random_seed(int(seed))
    if deterministic and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
