"""Trainings that are killed, damaged or disturbed, and go on."""

import functools
import itertools
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import processes
import pytest

from lstm_ae_lib._backend import keras
from lstm_ae_lib.fast import threads
from lstm_ae_lib.study import budgets, checkpoints

TENSORFLOW = keras.backend.backend() == "tensorflow"
TRAIN_ONCE = Path(__file__).parent / "train_once.py"
THREADS = {"TF_NUM_INTEROP_THREADS": str(threads.cores()), "TF_NUM_INTRAOP_THREADS": "1"}  # what it asks for
only_tensorflow = pytest.mark.skipif(not TENSORFLOW, reason="tf.data, and checkpoints in mid-epoch, need TensorFlow")


# --- a process that is killed -------------------------------------------------------------------------------


def train(folder, *options, timeout=300):
    folder.mkdir(exist_ok=True)
    return processes.run([TRAIN_ONCE, folder, *options], env=os.environ | THREADS, timeout=timeout)


def assert_same_result(folder, expected):
    with np.load(folder / "result.npz") as found, np.load(expected / "result.npz") as wanted:
        assert found.files == wanted.files and len(found.files) > 20
        for name in wanted.files:
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    assert (folder / "history.csv").read_bytes() == (expected / "history.csv").read_bytes()


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory):
    """A training of three epochs that nobody disturbs."""
    folder = tmp_path_factory.mktemp("left_alone")
    done = train(folder)
    assert done.returncode == 0, done.stderr
    return folder


def killed_again_and_again(folder, deaths, *options):
    """Trains with one death after the other, then to the end; returns how often it really died."""
    killed = 0
    for moment, count in deaths:
        done = train(folder, *options, "--die", moment, str(count))
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        if done.returncode == 0:
            break
        killed += 1
    done = train(folder, *options)
    assert done.returncode == 0, done.stderr
    return killed


@only_tensorflow
def test_a_training_that_is_killed_ends_with_the_same_bits(tmp_path, left_alone):
    assert killed_again_and_again(tmp_path, [("write", 3), ("step", 6)]) == 2
    assert_same_result(tmp_path, left_alone)


@only_tensorflow
@pytest.mark.soak
def test_a_training_that_is_killed_twenty_times_ends_with_the_same_bits(tmp_path):
    generator = random.Random(7)
    moments = ["step", "write", "rename", "renamed", "validation", "epoch"] * 3 + ["step"] * 2
    generator.shuffle(moments)
    deaths = [(moment, generator.randint(1, 2 if moment in ("validation", "epoch") else 9)) for moment in moments]
    assert killed_again_and_again(tmp_path / "disturbed", deaths, "--epochs", "40") == 20
    assert train(tmp_path / "left_alone", "--epochs", "40").returncode == 0
    assert_same_result(tmp_path / "disturbed", tmp_path / "left_alone")


@only_tensorflow
def test_sigterm_saves_ends_with_its_own_code_and_resumes(tmp_path, left_alone):
    folder = tmp_path / "ended"
    folder.mkdir()
    command = [sys.executable, TRAIN_ONCE, folder, "--slow"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | THREADS)
    for line in process.stdout:
        if line == "step 4\n":
            process.terminate()
            break
    _, errors = process.communicate(timeout=60)
    assert process.returncode == checkpoints.EXIT_TERMINATED == 75, errors
    # Step 4 ends the fifth step; without the signal the last checkpoint would be that of the fourth.
    last = checkpoints.Checkpoints(folder / "checkpoints")
    assert last.epoch == 0 and last._first_step % 2 == 1
    assert train(folder).returncode == 0
    assert_same_result(folder, left_alone)


# --- checkpoints: in this process ----------------------------------------------------------------------------------------

SAMPLES, BATCH, STEPS = 48, 8, 6
VALUES = np.random.default_rng(0).standard_normal((SAMPLES, 64)).astype("float32")


class Interrupted(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    def __init__(self, epoch, batch):
        super().__init__()
        self.at = (epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            raise Interrupted


@functools.cache
def made_once(units, steps_per_execution):
    """A compiled model, whose steps are traced once for all tests, and the variables of a new one."""
    keras.utils.set_random_seed(1)
    inputs = keras.layers.Input((64,))
    hidden = keras.layers.Dropout(0.3)(keras.layers.Dense(units, activation="relu")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(64)(hidden))
    metrics = [keras.metrics.MeanAbsoluteError("mae")]
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=metrics, steps_per_execution=steps_per_execution)
    model.optimizer.build(model.trainable_variables)  # else each step is traced twice, once to make these
    model.evaluate(VALUES, VALUES, verbose=0)  # makes what a first call makes
    return model, weights(model)


def tiny_model(units=64, steps_per_execution=1):
    """The model as if it were new, the one before forgotten."""
    model, new = made_once(units, steps_per_execution)
    keras.utils.set_random_seed(1)
    for variable, value in zip(variables(model), new, strict=True):
        variable.assign(value)
    return model


def batches(first_epoch=0, poison=None):
    import tensorflow as tf

    def epoch(number):
        order = tf.argsort(tf.random.stateless_uniform([SAMPLES], tf.stack([0, number])))
        return tf.data.Dataset.from_tensor_slices(tf.gather(VALUES, order)).batch(BATCH)

    endless = tf.data.Dataset.range(first_epoch, 10**9).flat_map(epoch).enumerate(first_epoch * STEPS)
    if poison is not None:
        endless = endless.map(lambda index, x: (index, tf.where(index == poison, x * np.nan, x)))
    return endless.map(lambda _, x: (x, x))


def fit(model, saved, epochs=4, poison=None, before=()):
    return model.fit(
        batches(saved.epoch, poison), steps_per_epoch=STEPS, epochs=epochs, initial_epoch=saved.epoch,
        validation_data=(VALUES, VALUES), shuffle=False, verbose=0, callbacks=[*before, saved],
    )  # fmt: skip


def variables(model):
    return [*model.variables, *model.optimizer.variables]


def weights(model):
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables(model)]  # PyTorch would share its memory


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder, weights and history of a training to its end. Every such training gives the same bits."""
    folder, model = tmp_path_factory.mktemp("undisturbed"), tiny_model()
    history = fit(model, checkpoints.Checkpoints(folder, steps=1))
    return folder, (weights(model), history.history)


@pytest.fixture
def interrupted(tmp_path, interrupted_once):
    """A folder of a training that ended in the fourth step of the third epoch."""
    return Path(shutil.copytree(interrupted_once, tmp_path / "run"))


@pytest.fixture(scope="module")
def interrupted_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted")
    interrupted_training(folder, (2, 3))
    return folder


def assert_ends_the_same(folder, expected, epochs=4, **arguments):
    expected_weights, expected_history = expected
    model = tiny_model(**arguments)
    history = fit(model, checkpoints.Checkpoints(folder, steps=1), epochs)
    for found, wanted in zip(weights(model), expected_weights, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert history.history == expected_history and history.epoch == list(range(epochs))


def interrupted_training(folder, at=(2, 3), **arguments):
    saved = checkpoints.Checkpoints(folder, steps=1, keep=4)
    # The interruption is listed first, so its step is done and not saved.
    with pytest.raises(Interrupted):
        fit(tiny_model(**arguments), saved, before=[Interrupt(*at)])
    return checkpoints.Checkpoints(folder).files()


@only_tensorflow
@pytest.mark.parametrize("at", [(0, 0), (0, 1), (1, 0), (2, 3), (3, 4)], ids=str)
def test_it_goes_on_from_any_step(tmp_path, undisturbed, at):
    interrupted_training(tmp_path / "run", at)
    assert_ends_the_same(tmp_path / "run", undisturbed[1])


@only_tensorflow
def test_several_steps_in_one_execution(tmp_path):
    model = tiny_model(steps_per_execution=2)
    history = fit(model, checkpoints.Checkpoints(tmp_path / "undisturbed", steps=1)).history
    expected = weights(model), history
    interrupted_training(tmp_path / "run", (1, 3), steps_per_execution=2)
    assert_ends_the_same(tmp_path / "run", expected, steps_per_execution=2)


@only_tensorflow
@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "empty"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(interrupted, undisturbed, damage, capsys):
    *_, before, last = checkpoints.Checkpoints(interrupted).files()
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes({"flipped bit": content, "truncated": content[: len(content) // 2], "empty": b""}[damage])
    saved = checkpoints.Checkpoints(interrupted)
    assert f"the checkpoint {last.name[:15]} is damaged" in capsys.readouterr().err
    assert saved.files()[-1] == before and last.with_name(last.name + ".damaged").is_file()
    assert_ends_the_same(interrupted, undisturbed[1])


@only_tensorflow
def test_a_finished_training_is_restored_and_not_trained_further(undisturbed):
    folder, expected = undisturbed
    assert checkpoints.Checkpoints(folder).epoch == 4
    assert_ends_the_same(folder, expected)


@only_tensorflow
def test_a_second_fit_with_the_same_checkpoints_mixes_nothing_up(tmp_path, undisturbed):
    saved = checkpoints.Checkpoints(tmp_path / "run", steps=1)
    with pytest.raises(Interrupted):
        fit(tiny_model(), saved, before=[Interrupt(2, 3)])
    before = saved.files()
    with pytest.raises(
        ValueError, match="goes on with initial_epoch=2, got initial_epoch=0; make the Checkpoints and the pipeline anew"
    ):
        fit(tiny_model(), saved)
    assert saved.files() == before
    model = tiny_model()
    fit(model, saved)  # it has read the folder by now
    for found, wanted in zip(weights(model), undisturbed[1][0], strict=True):
        np.testing.assert_array_equal(found, wanted)


def resumed_with(folder, first, now, at=(2, 3)):
    """Interrupted with the callbacks ``first``, and gone on to the end with the callbacks ``now``."""
    with pytest.raises(Interrupted):
        fit(tiny_model(), checkpoints.Checkpoints(folder, steps=1, callbacks=first), before=[*first, Interrupt(*at)])
    fit(tiny_model(), checkpoints.Checkpoints(folder, steps=1, callbacks=now), before=now)


@only_tensorflow
def test_arguments_are_those_given_now_and_state_is_restored(tmp_path, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(budgets.TimeBudget, "_now", lambda self: float(next(clock)))  # a step takes a second
    first, now = (
        [
            budgets.TimeBudget(minutes, rate, SAMPLES, BATCH),
            keras.callbacks.EarlyStopping(patience=patience, min_delta=delta),
            keras.callbacks.ReduceLROnPlateau(patience=patience, min_delta=delta),
        ]
        for minutes, rate, patience, delta in ((1.0, 0.01, 50, 7.0), (9.0, 0.5, 60, 8.0))
    )
    resumed_with(tmp_path, first, now)
    budget, early, plateau = now
    assert (budget.minutes, budget.learning_rate, budget.steps) == (9.0, 0.5, 4 * STEPS)
    assert 0 < first[0].seconds < budget.seconds == 4 * STEPS - 2  # it went on counting; the first step of each fit counts nothing
    # The loss never falls by 7, so that only the first epoch counted as better: before the interruption.
    assert (early.patience, early.min_delta, early.wait, early.best_epoch) == (60, -8.0, 3, 0)
    assert (plateau.patience, plateau.min_delta, plateau.wait, plateau.best) == (60, -8.0, 3, early.best)


@only_tensorflow
def test_other_callbacks_do_not_hear_of_steps_that_were_done_before(tmp_path):
    class Counter(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.begun = self.ended = 0

        def on_train_batch_begin(self, batch, logs=None):
            self.begun += 1

        def on_train_batch_end(self, batch, logs=None):
            self.ended += 1

    seen = []
    own = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    counter = Counter()
    resumed_with(tmp_path, [Counter(), keras.callbacks.LambdaCallback()], [counter, own])
    # The interruption came in the fourth step of the third epoch, when three were saved.
    assert counter.begun == counter.ended == 4 * STEPS and seen == [3, 4, 5, *range(STEPS)]
    assert "on_train_batch_end" not in vars(counter) and "on_train_batch_end" in vars(own)


@only_tensorflow
def test_the_last_ones_and_the_best_are_kept(tmp_path):
    model, snapshots = tiny_model(), []
    worse = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: (snapshots.append(model.get_weights()), logs.update(val_loss=[3.0, 1.0, 2.0, 4.0][epoch]))
    )
    saved = checkpoints.Checkpoints(tmp_path / "run", steps=1, keep=2)
    fit(model, saved, before=[worse])
    assert [path.name[:15] for path in saved.files()] == ["000002-00000000", "000003-00000006", "000004-00000000"]
    other = tiny_model()
    assert checkpoints.Checkpoints(tmp_path / "run").restore_best(other) == 2
    for found, wanted in zip(other.get_weights(), snapshots[1], strict=True):
        np.testing.assert_array_equal(found, wanted)


@only_tensorflow
def test_a_full_disk_loses_nothing(interrupted, undisturbed, capsys):
    """The limit on the size of a file stands in for the disk: writing fails in the middle, as it does there."""
    files = checkpoints.Checkpoints(interrupted).files()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    model = tiny_model()
    resource.setrlimit(resource.RLIMIT_FSIZE, (files[-1].stat().st_size // 2, hard))
    try:
        fit(model, checkpoints.Checkpoints(interrupted, steps=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    errors = capsys.readouterr().err
    assert "no checkpoint after epoch 3" in errors and "training goes on" in errors and "File too large" in errors
    assert sorted(path.name for path in interrupted.glob("[!.]*")) == [path.name for path in files]
    for found, wanted in zip(weights(model), undisturbed[1][0], strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert_ends_the_same(interrupted, undisturbed[1])


@only_tensorflow
def test_a_second_process_is_refused(tmp_path):
    code = (
        "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(RuntimeError, match="another process trains with the checkpoints in"):
            fit(tiny_model(), checkpoints.Checkpoints(tmp_path))
        other.stdin.close()
    fit(tiny_model(), checkpoints.Checkpoints(tmp_path), epochs=1)


@only_tensorflow
def test_a_nan_in_a_batch_stops_at_its_step_and_keeps_the_last_good_checkpoint(tmp_path, undisturbed):
    saved = checkpoints.Checkpoints(tmp_path / "run", steps=1)
    with pytest.raises(
        FloatingPointError, match=r"the loss became nan in step 3 of epoch 2; the last good checkpoint is \S+000001-00000002"
    ):
        fit(tiny_model(), saved, poison=STEPS + 2)
    # Without the poison it goes on as if nothing had been.
    assert_ends_the_same(tmp_path / "run", undisturbed[1])


@only_tensorflow
def test_a_nan_is_placed_among_the_steps_of_its_execution(tmp_path):
    with pytest.raises(FloatingPointError, match="in one of the steps 3 to 4 of epoch 1; the last good checkpoint is "):
        fit(tiny_model(steps_per_execution=2), checkpoints.Checkpoints(tmp_path, steps=1), poison=2)


@only_tensorflow
def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    model = tiny_model()
    spoil = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (
            model.optimizer.variables[-1].assign(model.optimizer.variables[-1] * np.inf) if batch == 3 else None
        )
    )
    with pytest.raises(
        FloatingPointError, match=r"is not finite after step 4 of epoch 1; the last good checkpoint is \S+000000-00000003"
    ):
        fit(model, checkpoints.Checkpoints(tmp_path, steps=1), before=[spoil])
    assert [path.name[:15] for path in checkpoints.Checkpoints(tmp_path).files()] == [f"000000-0000000{step}" for step in (1, 2, 3)]


@only_tensorflow
def test_what_does_not_fit_the_checkpoint_is_refused(tmp_path, interrupted):
    with pytest.raises(
        ValueError, match=r"is of another model or optimiser: .*first difference is .*\(\(64, 32\), 'float32'\) here"
    ):
        fit(tiny_model(units=32), checkpoints.Checkpoints(interrupted))
    with pytest.raises(ValueError, match=r"holds the states of the callbacks \[\], got callbacks=\['EarlyStopping'\]"):
        fit(tiny_model(), checkpoints.Checkpoints(interrupted, callbacks=[keras.callbacks.EarlyStopping()]))
    with pytest.raises(ValueError, match="goes on with initial_epoch=2, got initial_epoch=0"):
        tiny_model().fit(
            batches(), steps_per_epoch=STEPS, epochs=4, shuffle=False, verbose=0, callbacks=[checkpoints.Checkpoints(interrupted)]
        )
    with pytest.raises(FileNotFoundError, match="there is no best checkpoint"):
        checkpoints.Checkpoints(tmp_path / "elsewhere").restore_best(tiny_model())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"seconds": 0}, "seconds must be a number above 0"), ({"steps": -1}, "steps must be"), ({"keep": 0}, "keep must be")],
)
def test_bad_checkpoint_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        checkpoints.Checkpoints(tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.backends
def test_every_backend_goes_on_between_epochs(tmp_path):
    def fit_arrays(folder, epochs):
        saved, model = checkpoints.Checkpoints(folder, history=folder / "history.csv"), tiny_model()
        model.fit(
            VALUES, VALUES, batch_size=BATCH, epochs=epochs, initial_epoch=saved.epoch, shuffle=False, verbose=0,
            callbacks=[saved],
        )  # fmt: skip
        return weights(model)

    expected = fit_arrays(tmp_path / "undisturbed", 4)
    fit_arrays(tmp_path / "run", 2)
    for found, wanted in zip(fit_arrays(tmp_path / "run", 4), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert (tmp_path / "run/history.csv").read_bytes() == (tmp_path / "undisturbed/history.csv").read_bytes()
