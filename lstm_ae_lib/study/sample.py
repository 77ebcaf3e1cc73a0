"""The bundled sample: which of CIFAR-10's images are in it, and how it is made."""

import numpy as np

from lstm_ae_lib import checks, cifar10, files, paths


def choose_sample(train_labels, test_labels, seed: int = 2009) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the bundled sample's images among all, from the labels of all: ``(50000,)`` and ``(10000,)``.

    Per class 160 of the first 40,000 training images, 20 of the next 5,000, 20 of the last 5,000, and 50 test images: so the
    last 10 % (20 %) of the sample come from the last 5,000 (10,000) images, which training on the full set holds out.
    """
    for labels, name, count in ((train_labels, "train_labels", 50000), (test_labels, "test_labels", 10000)):
        if checks.array(labels, name).shape != (count,):
            raise ValueError(f"{name} must be {count} numbers, got the shape {np.shape(labels)}")
    generator = np.random.default_rng(checks.number(seed, "seed", 0, 2**62, whole=True))
    parts = [(train_labels, 0, 40000, 160), (train_labels, 40000, 45000, 20), (train_labels, 45000, 50000, 20)]
    chosen = []
    for labels, low, high, each in (*parts, (test_labels, 0, 10000, 50)):
        picks = [generator.choice(np.flatnonzero(labels[low:high] == name) + low, each, replace=False) for name in range(10)]
        chosen.append(np.sort(np.concatenate(picks)))
    return np.concatenate(chosen[:-1]), chosen[-1]


def write_sample(path=None) -> dict:
    """Writes the bundled sample from the full data set, and returns its content hashes (for
    :data:`lstm_ae_lib.cifar10.SAMPLE_HASHES`)."""
    full = cifar10.fetch_cifar10()
    train, test = choose_sample(full["y_train"], full["y_test"])
    arrays = {name: full[name][train if name.endswith("train") else test] for name in cifar10.CONTENT_HASHES}
    with files.replacing(path or paths.sample_file()) as temporary:
        np.savez_compressed(temporary, **arrays, train_indices=train, test_indices=test)
    return cifar10.content_hashes(arrays)
