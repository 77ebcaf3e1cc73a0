import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lstm_ae_lib import datasets, training
from lstm_ae_lib._backend import keras

TENSORFLOW = keras.backend.backend() == "tensorflow"
only_tensorflow = pytest.mark.skipif(not TENSORFLOW, reason="tf.data, and checkpoints in mid-epoch, need TensorFlow")


@pytest.mark.backends
def test_the_rate_is_constant_and_then_falls_to_zero():
    rate = training.Cooldown(0.004, steps=1000, share=0.2)
    values = [float(rate(step)) for step in (0, 500, 800, 900, 1000, 1200)]
    np.testing.assert_allclose(values, [0.004, 0.004, 0.004, 0.002, 0.0, 0.0], atol=1e-9)


@pytest.mark.backends
def test_it_survives_its_config_and_drives_an_optimizer():
    rate = training.Cooldown(0.5, steps=4, share=1.0)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(rate))
    assert again.get_config() == rate.get_config()
    variable = keras.Variable(0.0)
    optimizer = keras.optimizers.SGD(again)
    moved = []
    for _ in range(5):
        before = float(keras.ops.convert_to_numpy(variable))
        optimizer.apply([keras.ops.ones(())], [variable])
        moved.append(before - float(keras.ops.convert_to_numpy(variable)))
    np.testing.assert_allclose(moved, [0.5, 0.375, 0.25, 0.125, 0.0], atol=1e-6)


@pytest.mark.backends
@pytest.mark.parametrize("arguments", [(0.0, 10), (2.0, 10), (0.1, 0), (0.1, 10, 0.0), (0.1, 10, 1.5)])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        training.Cooldown(*arguments)


@pytest.mark.parametrize(("steps", "expected"), [(704, 8), (50, 10), (7, 7), (13, 1), (1, 1)])
def test_steps_per_execution_divides_the_epoch(steps, expected):
    assert training.steps_per_execution(steps) == expected
    with pytest.raises(ValueError, match="steps must be a whole number from 1"):
        training.steps_per_execution(0)


# --- checkpoints: a process that is killed -------------------------------------------------------------------------------


def train(folder, *options, timeout=300):
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(Path(__file__).parent / "train_once.py"), str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def assert_same_result(folder, expected):
    with np.load(folder / "result.npz") as found, np.load(expected / "result.npz") as wanted:
        assert found.files == wanted.files and len(found.files) > 20
        for name in wanted.files:
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    assert (folder / "history.csv").read_bytes() == (expected / "history.csv").read_bytes()


def killed_again_and_again(tmp_path, deaths, epochs):
    """Trains with one death after the other, then to the end; returns how often it really died."""
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    done = train(undisturbed, "--epochs", str(epochs))
    assert done.returncode == 0, done.stderr
    killed = 0
    for moment, count in deaths:
        done = train(disturbed, "--epochs", str(epochs), "--die", moment, str(count))
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        if done.returncode == 0:
            break
        killed += 1
    done = train(disturbed, "--epochs", str(epochs))
    assert done.returncode == 0, done.stderr
    assert_same_result(disturbed, undisturbed)
    return killed


@only_tensorflow
def test_a_training_that_is_killed_ends_with_the_same_bits(tmp_path):
    assert killed_again_and_again(tmp_path, [("write", 3), ("step", 6), ("validation", 1), ("renamed", 2)], epochs=3) == 4


@only_tensorflow
@pytest.mark.soak
def test_a_training_that_is_killed_twenty_times_ends_with_the_same_bits(tmp_path):
    generator = random.Random(7)
    moments = ["step", "write", "rename", "renamed", "validation", "epoch"] * 3 + ["step"] * 2
    generator.shuffle(moments)
    deaths = [(moment, generator.randint(1, 2 if moment in ("validation", "epoch") else 9)) for moment in moments]
    assert killed_again_and_again(tmp_path, deaths, epochs=40) == 20


@only_tensorflow
def test_sigterm_saves_ends_with_its_own_code_and_resumes(tmp_path):
    folder = tmp_path / "ended"
    folder.mkdir()
    command = [sys.executable, str(Path(__file__).parent / "train_once.py"), str(folder), "--slow"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line == "step 4\n":
            process.terminate()
            break
    _, errors = process.communicate(timeout=60)
    assert process.returncode == training.EXIT_TERMINATED == 75, errors
    # Step 4 ends the fifth step; without the signal the last checkpoint would be that of the fourth.
    last = training.Checkpoints(folder / "checkpoints")
    assert last.epoch == 0 and last._first_step % 2 == 1
    assert train(folder).returncode == 0
    assert train(tmp_path / "undisturbed").returncode == 0
    assert_same_result(folder, tmp_path / "undisturbed")


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


def tiny_model(units=64, **compiled):
    keras.utils.set_random_seed(1)
    inputs = keras.layers.Input((64,))
    hidden = keras.layers.Dropout(0.3)(keras.layers.Dense(units, activation="relu")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(64)(hidden))
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"], **compiled)
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


def fit(model, checkpoints, epochs=4, poison=None, before=()):
    return model.fit(
        batches(checkpoints.epoch, poison), steps_per_epoch=STEPS, epochs=epochs, initial_epoch=checkpoints.epoch,
        validation_data=(VALUES, VALUES), shuffle=False, verbose=0, callbacks=[*before, checkpoints],
    )  # fmt: skip


def weights(model):
    return [keras.ops.convert_to_numpy(variable) for variable in [*model.variables, *model.optimizer.variables]]


def undisturbed(tmp_path, **arguments):
    model = tiny_model(**arguments)
    history = fit(model, training.Checkpoints(tmp_path / "undisturbed", steps=1))
    return weights(model), history.history


def assert_ends_the_same(folder, expected, epochs=4, **arguments):
    expected_weights, expected_history = expected
    model = tiny_model(**arguments)
    history = fit(model, training.Checkpoints(folder, steps=1), epochs)
    for found, wanted in zip(weights(model), expected_weights, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert history.history == expected_history and history.epoch == list(range(epochs))


def interrupted_training(folder, at=(2, 3), **arguments):
    checkpoints = training.Checkpoints(folder, steps=1, keep=4)
    # The interruption is listed first, so its step is done and not saved.
    with pytest.raises(Interrupted):
        fit(tiny_model(**arguments), checkpoints, before=[Interrupt(*at)])
    return training.Checkpoints(folder).files()


@only_tensorflow
@pytest.mark.parametrize("at", [(0, 0), (0, 1), (1, 0), (2, 3), (3, 4)], ids=str)
def test_it_goes_on_from_any_step(tmp_path, at):
    interrupted_training(tmp_path / "run", at)
    assert_ends_the_same(tmp_path / "run", undisturbed(tmp_path))


@only_tensorflow
def test_several_steps_in_one_execution(tmp_path):
    interrupted_training(tmp_path / "run", (1, 3), steps_per_execution=2)
    assert_ends_the_same(tmp_path / "run", undisturbed(tmp_path, steps_per_execution=2), steps_per_execution=2)


@only_tensorflow
@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "empty"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(tmp_path, damage, capsys):
    *_, before, last = interrupted_training(tmp_path / "run")
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes({"flipped bit": content, "truncated": content[: len(content) // 2], "empty": b""}[damage])
    checkpoints = training.Checkpoints(tmp_path / "run")
    assert f"the checkpoint {last.name[:15]} is damaged" in capsys.readouterr().err
    assert checkpoints.files()[-1] == before and last.with_name(last.name + ".damaged").is_file()
    assert_ends_the_same(tmp_path / "run", undisturbed(tmp_path))


@only_tensorflow
def test_a_finished_training_is_restored_and_not_trained_further(tmp_path):
    expected = undisturbed(tmp_path)
    assert training.Checkpoints(tmp_path / "undisturbed").epoch == 4
    assert_ends_the_same(tmp_path / "undisturbed", expected)


@only_tensorflow
def test_a_second_fit_with_the_same_checkpoints_mixes_nothing_up(tmp_path):
    checkpoints = training.Checkpoints(tmp_path / "run", steps=1)
    with pytest.raises(Interrupted):
        fit(tiny_model(), checkpoints, before=[Interrupt(2, 3)])
    before = checkpoints.files()
    with pytest.raises(
        ValueError, match="goes on with initial_epoch=2, got initial_epoch=0; make the Checkpoints and the pipeline anew"
    ):
        fit(tiny_model(), checkpoints)
    assert checkpoints.files() == before
    model = tiny_model()
    fit(model, checkpoints)  # it has read the folder by now
    expected = undisturbed(tmp_path)
    for found, wanted in zip(weights(model), expected[0], strict=True):
        np.testing.assert_array_equal(found, wanted)


@only_tensorflow
def test_the_last_ones_and_the_best_are_kept(tmp_path):
    model, snapshots = tiny_model(), []
    worse = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: (snapshots.append(model.get_weights()), logs.update(val_loss=[3.0, 1.0, 2.0, 4.0][epoch]))
    )
    checkpoints = training.Checkpoints(tmp_path / "run", steps=1, keep=2)
    fit(model, checkpoints, before=[worse])
    assert [path.name[:15] for path in checkpoints.files()] == ["000002-00000000", "000003-00000006", "000004-00000000"]
    other = tiny_model()
    assert training.Checkpoints(tmp_path / "run").restore_best(other) == 2
    for found, wanted in zip(other.get_weights(), snapshots[1], strict=True):
        np.testing.assert_array_equal(found, wanted)


@only_tensorflow
def test_a_full_disk_loses_nothing(tmp_path, capsys):
    """The limit on the size of a file stands in for the disk: writing fails in the middle, as it does there."""
    files = interrupted_training(tmp_path / "run", (1, 2))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    model = tiny_model()
    resource.setrlimit(resource.RLIMIT_FSIZE, (files[-1].stat().st_size // 2, hard))
    try:
        fit(model, training.Checkpoints(tmp_path / "run", steps=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    errors = capsys.readouterr().err
    assert "no checkpoint after epoch 3" in errors and "training goes on" in errors and "File too large" in errors
    assert sorted(path.name for path in (tmp_path / "run").glob("[!.]*")) == [path.name for path in files]
    expected = undisturbed(tmp_path)
    for found, wanted in zip(weights(model), expected[0], strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert_ends_the_same(tmp_path / "run", expected)


@only_tensorflow
def test_a_second_process_is_refused(tmp_path):
    code = (
        "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(RuntimeError, match="another process trains with the checkpoints in"):
            fit(tiny_model(), training.Checkpoints(tmp_path))
        other.stdin.close()
    fit(tiny_model(), training.Checkpoints(tmp_path), epochs=1)


@only_tensorflow
def test_a_nan_in_a_batch_stops_at_its_step_and_keeps_the_last_good_checkpoint(tmp_path):
    checkpoints = training.Checkpoints(tmp_path / "run", steps=1)
    with pytest.raises(
        FloatingPointError, match=r"the loss became nan in step 3 of epoch 2; the last good checkpoint is \S+000001-00000002"
    ):
        fit(tiny_model(), checkpoints, poison=STEPS + 2)
    # Without the poison it goes on as if nothing had been.
    assert_ends_the_same(tmp_path / "run", undisturbed(tmp_path))


@only_tensorflow
def test_a_nan_is_placed_among_the_steps_of_its_execution(tmp_path):
    with pytest.raises(FloatingPointError, match="in one of the steps 3 to 4 of epoch 1; the last good checkpoint is "):
        fit(tiny_model(steps_per_execution=2), training.Checkpoints(tmp_path, steps=1), poison=2)


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
        fit(model, training.Checkpoints(tmp_path, steps=1), before=[spoil])
    assert [path.name[:15] for path in training.Checkpoints(tmp_path).files()] == [f"000000-0000000{step}" for step in (1, 2, 3)]


@only_tensorflow
def test_what_does_not_fit_the_checkpoint_is_refused(tmp_path):
    interrupted_training(tmp_path)
    with pytest.raises(
        ValueError, match=r"is of another model or optimiser: .*first difference is .*\(\(64, 32\), 'float32'\) here"
    ):
        fit(tiny_model(units=32), training.Checkpoints(tmp_path))
    with pytest.raises(ValueError, match=r"holds the states of the callbacks \[\], got callbacks=\['EarlyStopping'\]"):
        fit(tiny_model(), training.Checkpoints(tmp_path, callbacks=[keras.callbacks.EarlyStopping()]))
    with pytest.raises(ValueError, match="goes on with initial_epoch=2, got initial_epoch=0"):
        tiny_model().fit(
            batches(), steps_per_epoch=STEPS, epochs=4, shuffle=False, verbose=0, callbacks=[training.Checkpoints(tmp_path)]
        )
    with pytest.raises(FileNotFoundError, match="there is no best checkpoint"):
        training.Checkpoints(tmp_path / "elsewhere").restore_best(tiny_model())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"seconds": 0}, "seconds must be a number above 0"), ({"steps": -1}, "steps must be"), ({"keep": 0}, "keep must be")],
)
def test_bad_checkpoint_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        training.Checkpoints(tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.backends
def test_every_backend_goes_on_between_epochs(tmp_path):
    def fit_arrays(folder, epochs):
        checkpoints, model = training.Checkpoints(folder, history=folder / "history.csv"), tiny_model()
        model.fit(
            VALUES, VALUES, batch_size=BATCH, epochs=epochs, initial_epoch=checkpoints.epoch, shuffle=False, verbose=0,
            callbacks=[checkpoints],
        )  # fmt: skip
        return weights(model)

    expected = fit_arrays(tmp_path / "undisturbed", 4)
    fit_arrays(tmp_path / "run", 2)
    for found, wanted in zip(fit_arrays(tmp_path / "run", 4), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert (tmp_path / "run/history.csv").read_bytes() == (tmp_path / "undisturbed/history.csv").read_bytes()


# --- progress ------------------------------------------------------------------------------------------------------------


def fit_with_progress(**arguments):
    model = tiny_model()
    model.fit(
        VALUES, VALUES, batch_size=BATCH, epochs=2, verbose=0, validation_data=(VALUES, VALUES),
        callbacks=[training.Progress(SAMPLES, **arguments)],
    )  # fmt: skip


@pytest.mark.backends
def test_progress_is_a_line_an_epoch_where_nobody_watches(capsys):
    fit_with_progress()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("epoch 2/2: training loss ") and "validation loss " in lines[1]
    assert lines[1].endswith(" images/s, 0.0 min left")


@pytest.mark.backends
def test_progress_is_a_bar_where_somebody_does(capsys):
    fit_with_progress(bar=True)
    printed = capsys.readouterr().out
    assert "100%" in printed and "epoch 2/2" in printed and "images/s" in printed and "left" in printed


def test_lines_can_be_asked_for_by_the_environment(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert training.Progress(10).bar
    monkeypatch.setenv("LSTM_AE_PROGRESS", "lines")
    assert not training.Progress(10).bar


# --- data parallel -------------------------------------------------------------------------------------------------------

PARALLEL = """
import sys
import numpy as np, tensorflow as tf
if sys.argv[1] == "two":
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    scope = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope()
else:
    import contextlib
    scope = contextlib.nullcontext()
from lstm_ae_lib import datasets, keras, models, seeding
seeding.set_seed(0, deterministic=False)
images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
with scope:
    model = models.reference_lstm_autoencoder((8, 8, 3), units=(8, 6))
    model.compile("adam", "mse")
history = model.fit(datasets.training_batches(images, "gauss2", 16, 0), steps_per_epoch=4, epochs=3, shuffle=False, verbose=0)
print(*[repr(value) for value in history.history["loss"]])
"""


@only_tensorflow
def test_two_devices_lose_as_one(tmp_path):
    losses = {}
    for devices in ("one", "two"):
        done = subprocess.run([sys.executable, "-c", PARALLEL, devices], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        losses[devices] = [float(value) for value in done.stdout.split()]
    assert len(losses["one"]) == 3 and losses["one"][2] < losses["one"][0]
    np.testing.assert_allclose(losses["two"], losses["one"], rtol=1e-5)


# --- a budget of minutes ----------------------------------------------------------------------------------------------


def budgeted(tmp_path, minutes, **options):
    budget = training.TimeBudget(minutes, 0.01, images=90, batch_size=8, **options)
    return budget, training.Checkpoints(tmp_path / "budget", history=tmp_path / "history.csv", callbacks=[budget])


def model_to_train():
    inputs = keras.layers.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(3, 3, padding="same")(inputs))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def images_to_train():
    return np.random.default_rng(0).integers(0, 256, (90, 8, 8, 3), dtype=np.uint8)


@only_tensorflow
@pytest.mark.parametrize("clock", ["wall", "cpu"])
def test_a_budget_ends_the_training_and_lets_the_rate_fall(tmp_path, clock):
    model = model_to_train()
    batches = datasets.training_batches(images_to_train(), "gauss1", 8, 0)
    budget, checkpoints = budgeted(tmp_path, 0.03, clock=clock)
    rates = []
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: rates.append(float(model.optimizer.learning_rate)))
    history = model.fit(
        batches, steps_per_epoch=5, epochs=10**6, shuffle=False, verbose=0, callbacks=[budget, watch, checkpoints]
    ).history
    assert 0.03 <= history["minutes"][-1] < 0.06 and history["images"][-1] == datasets.images_seen(90, 8, budget.steps)
    assert history["images"][0] == 40 and budget.steps == len(rates)
    assert rates[0] == pytest.approx(0.01) and rates[-1] == 0 and all(a >= b for a, b in zip(rates, rates[1:], strict=False))
    assert 0.1 < np.mean(np.array(rates) < 0.0099) < 0.5


@only_tensorflow
@pytest.mark.parametrize("pause", [1000, -1000], ids=["hours-later", "a-process-whose-clock-begins-anew"])
def test_a_resumed_training_has_the_minutes_that_are_left(tmp_path, monkeypatch, pause):
    histories, now = [], training.TimeBudget._now
    for epochs in (20, 10**6):  # the first one is interrupted after 20 parts
        if histories:
            monkeypatch.setattr(training.TimeBudget, "_now", lambda budget: now(budget) + pause)
        model = model_to_train()
        budget, checkpoints = budgeted(tmp_path, 0.05)
        batches = datasets.training_batches(images_to_train(), "gauss1", 8, 0, first_step=checkpoints.epoch * 5)
        history = model.fit(batches, steps_per_epoch=5, epochs=epochs, initial_epoch=checkpoints.epoch, shuffle=False, verbose=0,
                            callbacks=[budget, checkpoints])  # fmt: skip
        histories.append(history.history)
    first, whole = (history["minutes"] for history in histories)
    assert len(first) == 20 and first == whole[:20] and 0 < first[-1] < 0.05
    assert 0.05 <= whole[-1] < 0.08 and all(a <= b for a, b in zip(whole, whole[1:], strict=False))
    assert whole[20] - first[-1] < 0.02  # and no time between the two
    assert histories[1]["images"][-1] == datasets.images_seen(90, 8, budget.steps)


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
        training.TimeBudget(*arguments)


def one_step(optimizer):
    """A network's kernels before and after one step of an optimiser."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Input((6, 6, 3)),
            keras.layers.Conv2D(8, 3, name="first"),
            keras.layers.Conv2D(6, 3, name="middle"),
            keras.layers.DepthwiseConv2D(1, name="depthwise"),
            keras.layers.Flatten(),
            keras.layers.Dense(5, name="dense"),
        ]
    )
    before = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    model.compile(optimizer, loss="mse")
    random = np.random.default_rng(1)
    model.train_on_batch(random.random((16, 6, 6, 3)).astype("f"), random.random((16, 5)).astype("f"))
    names = ["/".join(weight.path.split("/")[-2:]) for weight in model.weights]
    after = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    return {name: new - old for name, new, old in zip(names, after, before, strict=True)}


@pytest.mark.backends
def test_muon_moves_kernels_alike_in_all_directions_and_the_rest_as_adam_does():
    moved, as_adam = one_step(training.Muon(0.01)), one_step(keras.optimizers.Adam(0.01))
    for path, side in {"middle/kernel": 72, "dense/kernel": 24}.items():
        matrix = moved[path].reshape(-1, moved[path].shape[-1])
        lengths = np.linalg.svd(matrix, compute_uv=False) / (0.01 * 0.2 * np.sqrt(side))
        assert lengths.min() > 0.5 and lengths.max() < 1.3, path
        adam = np.linalg.svd(as_adam[path].reshape(matrix.shape), compute_uv=False)
        assert adam.max() / adam.min() > 2 * lengths.max() / lengths.min()
    for path in ("first/kernel", "depthwise/kernel", "middle/bias", "dense/bias"):
        np.testing.assert_allclose(moved[path], as_adam[path], rtol=1e-3, atol=1e-6, err_msg=path)


def test_muon_is_saved_with_what_it_was_given():
    again = keras.optimizers.deserialize(keras.optimizers.serialize(training.Muon(0.02, exclude_layers=["head"], momentum=0.9)))
    assert isinstance(again, training.Muon) and again.exclude_layers == ["head"] and again.momentum == 0.9
    assert float(again.learning_rate) == pytest.approx(0.02) and again.weight_decay is None
