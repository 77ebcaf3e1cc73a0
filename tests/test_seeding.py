import numpy as np
import pytest

from lstm_ae_lib import models, seeding


def weights(seed):
    seeding.set_seed(seed, deterministic=False)
    return np.concatenate([weight.ravel() for weight in models.reference_lstm_autoencoder(units=(4, 3)).get_weights()])


def test_a_seed_repeats_and_another_differs():
    np.testing.assert_array_equal(weights(3), weights(3))
    assert not np.array_equal(weights(3), weights(4))


@pytest.mark.parametrize("seed", [-1, 2**31, 1.5, "0", True])
def test_a_wrong_seed_is_refused(seed):
    with pytest.raises(ValueError, match="seed must be a whole number from 0 to"):
        seeding.set_seed(seed)


def test_two_trainings_of_one_seed_are_bit_identical(sample):
    """In processes of their own, since the switch for deterministic operations cannot be turned off again."""
    import subprocess
    import sys

    code = """
import hashlib
from lstm_ae_lib import cifar10, datasets, models, seeding
seeding.set_seed(5)
images = cifar10.load_cifar10("sample").train_images[:64]
model = models.reference_lstm_autoencoder(units=(8, 4))
model.compile("adam", "mse")
model.fit(datasets.training_batches(images, "gauss1", 16, 5), steps_per_epoch=4, epochs=2, shuffle=False, verbose=0)
print(hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights())).hexdigest())
"""
    first, second = (subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert len(first.stdout.strip()) == 64 and first.stdout == second.stdout
