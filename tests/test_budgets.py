"""A budget of minutes ends a training, and lets the learning rate fall before."""

import time
import types

import numpy as np
import pytest

from lstm_ae_lib import datasets, degradations
from lstm_ae_lib._backend import keras
from lstm_ae_lib.study import budgets, checkpoints

TENSORFLOW = keras.backend.backend() == "tensorflow"
only_tensorflow = pytest.mark.skipif(not TENSORFLOW, reason="tf.data, and checkpoints in mid-epoch, need TensorFlow")


def budgeted(tmp_path, minutes, **options):
    budget = budgets.TimeBudget(minutes, 0.01, images=90, batch_size=8, **options)
    return budget, checkpoints.Checkpoints(tmp_path / "budget", history=tmp_path / "history.csv", callbacks=[budget])


def model_to_train():
    inputs = keras.layers.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(3, 3, padding="same")(inputs))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def pairs_to_train():
    clean = np.random.default_rng(0).integers(0, 256, (90, 8, 8, 3), dtype=np.uint8)
    return degradations.degrade(clean, "gauss1"), clean


TICK = 1 / 64


@pytest.fixture
def clock(monkeypatch):
    """A clock in place of :class:`TimeBudget`'s: from one look at it to the next, a tick passes; a callback may let more pass."""
    shown = types.SimpleNamespace(seconds=0.0)

    def now(budget):
        shown.seconds += TICK
        return shown.seconds

    monkeypatch.setattr(budgets.TimeBudget, "_now", now)
    return shown


@only_tensorflow
def test_a_budget_ends_the_training_and_lets_the_rate_fall(tmp_path, clock):
    model = model_to_train()
    batches = datasets.training_batches(*pairs_to_train(), 8, 0)
    budget, checkpoints = budgeted(tmp_path, 0.03)
    rates = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: rates.append(float(model.optimizer.learning_rate)))
    history = model.fit(
        batches, steps_per_epoch=5, epochs=10**6, shuffle=False, verbose=0, callbacks=[budget, watch, checkpoints]
    ).history
    left = np.maximum(1 - np.arange(len(rates)) * TICK / 1.8, 0)  # the first step builds the graph and takes no time
    assert left[-1] == 0 < left[-2]
    np.testing.assert_allclose(rates, 0.01 * np.minimum(left / 0.25, 1), rtol=1e-6)
    assert budget.steps == len(rates) and history["minutes"][-1] == (len(rates) - 1) * TICK / 60
    assert history["images"][0] == 40 and history["images"][-1] == datasets.images_seen(90, 8, budget.steps)


@only_tensorflow
@pytest.mark.parametrize("pause", [1000, -1000], ids=["hours-later", "a-process-whose-clock-begins-anew"])
def test_a_resumed_training_has_the_minutes_that_are_left(tmp_path, clock, pause):
    histories = []
    for epochs in (20, 10**6):  # the first one is interrupted after 20 parts
        model = model_to_train()
        budget, checkpoints = budgeted(tmp_path, 0.05)
        batches = datasets.training_batches(*pairs_to_train(), 8, 0, first_step=checkpoints.epoch * 5)
        history = model.fit(batches, steps_per_epoch=5, epochs=epochs, initial_epoch=checkpoints.epoch, shuffle=False, verbose=0,
                            callbacks=[budget, checkpoints])  # fmt: skip
        histories.append(history.history)
        clock.seconds += pause
    first, whole = (history["minutes"] for history in histories)
    assert first == [(5 * part - 1) * TICK / 60 for part in range(1, 21)] and whole[:20] == first
    assert whole[20] == first[-1] + 4 * TICK / 60  # neither the time between the two nor the first step counts
    assert 0.05 <= whole[-1] < 0.05 + TICK / 60
    assert histories[1]["images"][-1] == datasets.images_seen(90, 8, budget.steps)


def test_only_steps_count(clock):
    """Neither what callbacks do between two batches, nor validation."""

    class Lazy(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            clock.seconds += 1  # within the step

        def on_train_batch_end(self, batch, logs=None):
            clock.seconds += 100

        on_test_batch_end = on_epoch_end = on_train_batch_end

    model, images = model_to_train(), pairs_to_train()[1] / np.float32(255)
    budget = budgets.TimeBudget(1.0, 0.01, images=90, batch_size=18)
    callbacks, held_out = [budget, Lazy()], (images[:8], images[:8])
    model.fit(images, images, batch_size=18, epochs=2, verbose=0, callbacks=callbacks, validation_data=held_out)
    assert budget.steps == 10 and budget.seconds == 9 * (1 + TICK)


def test_a_clock_is_that_of_the_wall_or_of_the_processor():
    passed = {}
    for clock in ("wall", "cpu"):
        budget = budgets.TimeBudget(1.0, 0.01, images=90, batch_size=18, clock=clock)
        before = budget._now()
        time.sleep(0.3)
        passed[clock] = budget._now() - before
    assert passed["wall"] >= 0.3 > 2 * passed["cpu"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0.01, 90, 8), "minutes must be a number above 0"),
        ((1, 0, 90, 8), "learning_rate must be a number above 0"),
        ((1, 0.01, 90, 8, 0.25, "sun"), "clock must be one of wall, cpu; got 'sun'"),
        ((1, 0.01, 90, 91), "batch_size must be a whole number from 1 to 90, got 91"),
    ],
)
def test_bad_budgets_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        budgets.TimeBudget(*arguments)
