"""What makes a run repeatable: one call, and random numbers that are a function of a seed and a place."""

import numpy as np

from lstm_ae_lib import checks

_SCRAMBLING = (0x3EC8F720, 0x02461E29)  # the key that mixes seed and stream


def set_seed(seed: int, deterministic: bool = True) -> None:
    """Seeds Python, NumPy and the Keras backend; ``ValueError`` unless the seed is a whole number from 0 to 2**31 - 1.

    With ``deterministic`` TensorFlow refuses operations whose result depends on timing: two runs of one seed are bit-identical
    on the same kind of machine with the same number of threads; another number differs in the last bits.
    """
    from lstm_ae_lib._backend import keras

    checks.number(seed, "seed", 0, 2**31 - 1, whole=True)
    keras.utils.set_random_seed(int(seed))
    if deterministic and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def uniform(shape, seed: int, stream: int) -> np.ndarray:
    """Float32 numbers from 0 to below 1, a function of two whole numbers of 64 bits: those of ``tf.random.stateless_uniform`` on a
    processor (Philox: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011)."""
    mixed = [int(word[0]) for word in _philox(np.array([[seed], [stream]], np.int64).view(np.uint32).reshape(4, 1), _SCRAMBLING)]
    count = int(np.prod(shape))
    place = np.arange(-(-count // 4), dtype=np.uint32)
    counters = [place, np.zeros_like(place), *(np.full_like(place, word) for word in mixed[2:])]
    numbers = np.stack(_philox(counters, mixed[:2]), axis=-1).ravel()[:count]
    return ((numbers & np.uint32(2**23 - 1) | np.uint32(127 << 23)).view(np.float32) - np.float32(1)).reshape(shape)


def _philox(counters, key):
    """Four words each, from four words each, by ten rounds of Philox4x32."""
    for turn in range(10):
        first, second = (np.uint64(factor) * counters[word] for factor, word in ((0xD2511F53, 0), (0xCD9E8D57, 2)))
        keys = [np.uint32((word + turn * step) % 2**32) for word, step in zip(key, (0x9E3779B9, 0xBB67AE85), strict=True)]
        high, low = ([(product >> np.uint64(shift)).astype(np.uint32) for product in (first, second)] for shift in (32, 0))
        counters = [high[1] ^ counters[1] ^ keys[0], low[1], high[0] ^ counters[3] ^ keys[1], low[0]]
    return counters
