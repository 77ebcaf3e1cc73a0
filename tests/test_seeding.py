import numpy as np
import processes
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
    """In a process of its own, since the switch for deterministic operations cannot be turned off again."""
    code = """
import hashlib
from lstm_ae_lib import cifar10, datasets, degradations, keras, models, seeding
images = cifar10.load_cifar10("sample").train_images[:64, :8]
degraded = degradations.degrade(images, "gauss1")
for seed in (5, 5):
    seeding.set_seed(seed)
    model = models.reference_lstm_autoencoder((8, 32, 3), units=(8, 4))
    model.compile("adam", "mse")
    batches = datasets.training_batches(degraded, images, 16, seed)
    model.fit(batches, steps_per_epoch=4, epochs=2, shuffle=False, verbose=0)
    print(hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights())).hexdigest())
"""
    done = processes.run(["-c", code])
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split()
    assert len(first) == 64 and first == second


@pytest.mark.parametrize("shape", [(7,), (1000,), (64, 2), ()])
@pytest.mark.parametrize(("seed", "stream"), [(0, 0), (0, -1), (2**31 - 1, 2**40 + 3), (2**32 + 5, 17), (-1 - 7, 3)])
def test_uniform_numbers_are_tensorflows(shape, seed, stream):
    """Orders drawn by TensorFlow stay what they were."""
    import tensorflow as tf

    found = seeding.uniform(shape, seed, stream)
    wanted = tf.random.stateless_uniform(shape, tf.constant([seed, stream], tf.int64), alg="philox").numpy()
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == np.float32 and found.shape == shape


def test_uniform_numbers_are_pinned():
    """On every machine."""
    assert (seeding.uniform((5,), 3, 1) * 2**23).astype(int).tolist() == [3702855, 5750423, 2660782, 4644401, 7359757]
    numbers = seeding.uniform((100_000,), 1, 0)
    assert numbers.min() >= 0 and numbers.max() < 1 and abs(numbers.mean() - 0.5) < 0.005 and abs(numbers.var() - 1 / 12) < 0.002
