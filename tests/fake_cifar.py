"""A CIFAR-10 of 60 images in the shape of each of its sources, so that finding and fetching can be tested anywhere."""

import json
import pickle
import tarfile
import time
from pathlib import Path

import cv2
import numpy as np

from lstm_ae_lib import cifar10

BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def arrays():
    generator = np.random.default_rng(10)
    images = generator.integers(0, 256, (60, 32, 32, 3), np.uint8)
    labels = generator.integers(0, 10, 60).astype(np.uint8)
    return {"x_train": images[:50], "y_train": labels[:50], "x_test": images[50:], "y_test": labels[50:]}


def hashes():
    return cifar10.content_hashes(arrays())


def batches():
    """Name, images and labels of the six parts."""
    content = arrays()
    images = np.concatenate([content["x_train"], content["x_test"]])
    labels = np.concatenate([content["y_train"], content["y_test"]])
    return [
        (name, images[10 * place : 10 * place + 10], labels[10 * place : 10 * place + 10]) for place, name in enumerate(BATCHES)
    ]


def write_python_version(folder: Path):
    folder.mkdir(parents=True)
    for name, images, labels in batches():
        planar = images.transpose(0, 3, 1, 2).reshape(len(images), 3072)
        (folder / name).write_bytes(pickle.dumps({b"data": planar, b"labels": [int(label) for label in labels]}, protocol=2))


def write_npm_archive(path: Path):
    folder = path.parent / "package"
    folder.mkdir(parents=True)
    labels = {"train_lables.json": [], "test_lables.json": []}
    for name, images, numbers in batches():
        sheet = images.reshape(len(images), 1024, 3)[..., ::-1]
        cv2.imwrite(str(folder / f"{name}.png"), sheet)
        labels["test_lables.json" if name == "test_batch" else "train_lables.json"] += [int(number) for number in numbers]
    for name, numbers in labels.items():
        (folder / name).write_text(json.dumps(numbers))
    with tarfile.open(path, "w:gz") as package:
        package.add(folder, "package")


def install(calls: Path, seconds: float = 0.0):
    """For a process of its own: one source, which writes down that it was asked and takes its time."""
    cifar10.CONTENT_HASHES.clear()
    cifar10.CONTENT_HASHES.update(hashes())

    def source(_seconds):
        with open(calls, "a", encoding="utf-8") as stream:
            stream.write("asked\n")
        time.sleep(seconds)
        return arrays()

    cifar10._from_keras_cache = source
