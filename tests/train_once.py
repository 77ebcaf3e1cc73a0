"""A small training as a process of its own, for the tests that kill one: ``python train_once.py FOLDER [options]``.

Dropout and flips are on. It ends by writing ``result.npz``: every variable of model and optimiser, the history, the other
callbacks' state, and random numbers drawn afterwards.
"""

import argparse
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

from lstm_ae_lib import set_threads

set_threads()

from lstm_ae_lib import datasets, degradations, files, keras, layers, metrics, seeding  # noqa: E402
from lstm_ae_lib.study import checkpoints  # noqa: E402

IMAGES, BATCH, SIDE = 90, 8, 8  # 12 steps an epoch, the last one with two images
MOMENTS = ("step", "write", "rename", "renamed", "validation", "epoch")


def images(count, seed):
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def small_model():
    inputs = keras.layers.Input((SIDE, SIDE, 3))
    hidden = layers.ImageToRows()(inputs)
    hidden = layers.FastLSTM(12, return_sequences=True, dropout=0.1)(hidden)
    hidden = keras.layers.Dropout(0.2)(hidden)
    return keras.Model(inputs, layers.RowsToImage()(keras.layers.Dense(3 * SIDE)(hidden)))


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Die(keras.callbacks.Callback):
    """Kills this process at its ``count``-th moment of a kind."""

    def __init__(self, moment, count):
        super().__init__()
        self.moment, self.left = moment, count
        if moment in ("write", "rename", "renamed"):
            real_write, real_replace = Path.write_bytes, os.replace

            def write_bytes(path, content):
                if moment == "write" and self.now():
                    real_write(path, content[: len(content) // 2])
                    die()
                return real_write(path, content)

            def replace(source, target):
                if moment == "rename" and self.now():
                    die()
                real_replace(source, target)
                if moment == "renamed" and self.now():
                    die()

            Path.write_bytes, files.os.replace = write_bytes, replace

    def now(self):
        self.left -= 1
        return self.left == 0

    def on_train_batch_begin(self, batch, logs=None):
        if self.moment == "step" and self.now():  # in this step, whose length nobody knows
            threading.Timer(random.SystemRandom().random() * 0.005, die).start()

    def on_test_begin(self, logs=None):
        if self.moment == "validation" and self.now():
            die()

    def on_epoch_begin(self, epoch, logs=None):
        if self.moment == "epoch" and self.now():
            die()


class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print(f"step {batch}", flush=True)
        time.sleep(0.1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--slow", action="store_true", help="wait after every step, so that a signal finds it training")
    parser.add_argument("--die", nargs=2, metavar=("MOMENT", "COUNT"), help=f"one of {', '.join(MOMENTS)}, and its how-manieth")
    arguments = parser.parse_args()

    seeding.set_seed(3)
    early = keras.callbacks.EarlyStopping(patience=1000, restore_best_weights=True)
    plateau = keras.callbacks.ReduceLROnPlateau(patience=0, factor=0.7, min_delta=1.0)
    saved = checkpoints.Checkpoints(
        arguments.folder / "checkpoints", steps=2, history=arguments.folder / "history.csv", callbacks=[early, plateau]
    )
    clean, held_out = images(IMAGES, 0), images(16, 1)
    blurred, held_out_blurred = (degradations.degrade(sharp, "gauss2") for sharp in (clean, held_out))
    model = small_model()
    model.compile("adam", "mse", metrics=[metrics.PSNR()])
    extra = ([Slow()] if arguments.slow else []) + ([Die(arguments.die[0], int(arguments.die[1]))] if arguments.die else [])
    history = model.fit(
        datasets.training_batches(blurred, clean, BATCH, seed=3, first_epoch=saved.epoch),
        steps_per_epoch=datasets.steps_per_epoch(IMAGES, BATCH), epochs=arguments.epochs, initial_epoch=saved.epoch,
        validation_data=datasets.evaluation_batches(held_out_blurred, held_out, 16), shuffle=False, verbose=0,
        callbacks=[*extra, early, plateau, saved],
    )  # fmt: skip
    variables = [*model.variables, *model.optimizer.variables]
    arrays = {f"v{place:03d}": keras.ops.convert_to_numpy(variable) for place, variable in enumerate(variables)}
    arrays |= {f"history-{name}": np.array(values) for name, values in history.history.items()}
    arrays |= {"epochs": np.array(history.epoch), "early": np.array([early.wait, early.best]), "drawn": np.random.random(3)}
    np.savez(arguments.folder / "result.npz", **arrays)
    return 0


if __name__ == "__main__":
    sys.exit(main())
