import sys

import numpy as np
import processes
import pytest

from lstm_ae_lib import training
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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: training.Cooldown("0.1", 10), "learning_rate must be a number above 0 up to 1, got '0.1'"),
        (lambda: training.Cooldown(0.1, "abcabc"), "steps must be a whole number from 1"),
        (lambda: training.steps_per_execution(10, 0), "most must be a whole number from 1"),
        (lambda: training.Muon(exclude_layers="first"), "exclude_layers must be a list of patterns, got the text 'first'"),
        (lambda: training.Progress("10"), "images must be a whole number from 1"),
        (lambda: training.Progress(10, bar="no"), "bar must be one of True, False, None; got 'no'"),
        (lambda: training.Progress(10, budget=3.0), "budget must be a TimeBudget or None, got float"),
    ],
)
def test_the_argument_that_is_wrong_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- progress ------------------------------------------------------------------------------------------------------------


def fit_with_progress(**arguments):
    values = np.random.default_rng(0).standard_normal((48, 4)).astype("float32")
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(4)])
    model.compile("adam", "mse")
    model.fit(
        values, values, batch_size=8, epochs=2, verbose=0, validation_data=(values, values),
        callbacks=[training.Progress(len(values), **arguments)],
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
import contextlib
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from lstm_ae_lib import datasets, degradations, keras, models, seeding
images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
blurred = degradations.degrade(images, "gauss2")
for scope in (contextlib.nullcontext(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope()):
    seeding.set_seed(0, deterministic=False)
    with scope:
        model = models.reference_lstm_autoencoder((8, 8, 3), units=(8, 6))
        model.compile("adam", "mse")
        devices = model.distribute_strategy.num_replicas_in_sync
    history = model.fit(datasets.training_batches(blurred, images, 16, 0), steps_per_epoch=4, epochs=3, shuffle=False, verbose=0)
    print(devices, *[repr(value) for value in history.history["loss"]])
"""


@only_tensorflow
def test_two_devices_lose_as_one():
    done = processes.run(["-c", PARALLEL])
    assert done.returncode == 0, done.stderr
    (first, *one), (second, *two) = ([float(value) for value in line.split()] for line in done.stdout.splitlines())
    assert (first, second) == (1, 2) and len(one) == 3 and one[2] < one[0]
    np.testing.assert_allclose(two, one, rtol=1e-5)


# --- a budget of minutes ----------------------------------------------------------------------------------------------


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
