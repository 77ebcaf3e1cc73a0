"""The fast sweeps are Keras' LSTM: the same numbers and the same gradients, whatever the settings and sizes; and where a
kernel cannot be used, Keras operations take its place."""

import numpy as np
import pytest

from lstm_ae_lib import fast, layers
from lstm_ae_lib._backend import keras
from lstm_ae_lib.fast import threads

only_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the gradient tape is TensorFlow's")

SETTINGS = {
    "last": {},
    "sequences": {"return_sequences": True},
    "backwards": {"return_sequences": True, "go_backwards": True},
    "backwards-last": {"go_backwards": True},
    "state": {"return_sequences": True, "return_state": True},
    "no-bias": {"use_bias": False, "return_sequences": True},
    # Those that have no fast path are Keras' own:
    "hard-sigmoid": {"recurrent_activation": "hard_sigmoid", "return_sequences": True},
    "relu": {"activation": "relu"},
    "recurrent-dropout": {"recurrent_dropout": 0.5, "return_sequences": True},
    "float64": {"dtype": "float64", "return_sequences": True},
}
FAST = ("last", "sequences", "backwards", "backwards-last", "state", "no-bias")


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def twins(settings, features, units=6, batch=None):
    """A stock layer and one of this library with the same random weights."""
    stock, own = keras.layers.LSTM(units, **settings), layers.FastLSTM(units, **settings)
    for layer in (stock, own):
        layer.build((batch, None, features))
    weights = [0.5 * numbers(*weight.shape, seed=place) for place, weight in enumerate(stock.get_weights())]
    stock.set_weights(weights)
    own.set_weights(stock.get_weights())  # the layouts are one
    return stock, own


def without_kernels(monkeypatch):
    monkeypatch.setattr(fast, "kernels", lambda name: None)


def value_and_gradients(layer, inputs, dynamic, **call):
    """All outputs, and the gradients of a function of all of them, to inputs, states and weights."""
    return computation(layer, inputs, dynamic, **call)(inputs)


def computation(layer, inputs, dynamic, **call):
    """:func:`value_and_gradients` as a function of inputs shaped like these; ``dynamic``: compiled once, for any batch."""
    import tensorflow as tf

    def compute(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            states = {"initial_state": list(tensors[1:])} if len(tensors) > 1 else {}
            outputs = tf.nest.flatten(layer(tensors[0], **states, **call))
            loss = sum(tf.reduce_sum(tf.sin(output * (place + 1))) for place, output in enumerate(outputs))
        weights = [weight.value for weight in layer.trainable_weights]
        return outputs, tape.gradient(loss, [*tensors, *weights], unconnected_gradients="zero")

    if dynamic:
        specs = [tf.TensorSpec([None, *array.shape[1:]], layer.compute_dtype) for array in inputs]
        compute = tf.function(compute, input_signature=specs)

    def run(inputs):
        outputs, gradients = compute(*(tf.constant(array, layer.compute_dtype) for array in inputs))
        return [np.asarray(tensor) for tensor in [*outputs, *gradients]]

    return run


def assert_same(found, expected):
    """To 1e-5 of the size of each array (its norm)."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(other)


@only_tensorflow
@pytest.mark.parametrize(("settings", "dynamic"), [*((name, False) for name in SETTINGS), *((name, True) for name in FAST)])
def test_values_and_gradients_are_those_of_keras(settings, dynamic):
    stock, own = twins(SETTINGS[settings], features=5)
    batches = [[numbers(batch, 4, 5), numbers(batch, 6, seed=1), numbers(batch, 6, seed=2)] for batch in (1, 17)]
    assert fast.kernels("lstm").is_supported(keras.ops.convert_to_tensor(batches[0][0]), own.cell, 4) == (settings in FAST)
    found, expected = (computation(layer, batches[0], dynamic) for layer in (own, stock))
    for inputs in batches:
        assert_same(found(inputs), expected(inputs))


@only_tensorflow
@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_the_number_of_parts_changes_nothing(monkeypatch, parts):
    stock, own = twins({"return_sequences": True}, features=4)
    monkeypatch.setattr(threads, "inter_op", lambda: parts)
    found, expected = (computation(layer, [numbers(1, 4, 4)], True) for layer in (own, stock))
    for batch in (1, 11):
        assert_same(found([numbers(batch, 4, 4)]), expected([numbers(batch, 4, 4)]))


@only_tensorflow
@pytest.mark.parametrize("kind", ["lstm", "sweep"])
def test_stacked_layers(monkeypatch, kind):
    monkeypatch.setattr(threads, "inter_op", lambda: 3)
    if kind == "lstm":
        inputs, pair = keras.layers.Input((4, 4)), [layers.FastLSTM(5, return_sequences=True) for _ in range(2)]
    else:
        inputs, pair = keras.layers.Input((4, 3, 4)), [layers.LSTMSweep(3, along) for along in ("rows", "columns")]
    hidden = pair[0](inputs)
    model = keras.Model(inputs, [pair[1](hidden), keras.layers.Dense(2)(hidden)])
    batches = [[numbers(batch, *inputs.shape[1:])] for batch in (1, 2, 11)]
    compute = computation(model, batches[0], dynamic=True)
    found = [compute(arrays) for arrays in batches]
    without_kernels(monkeypatch)
    compute = computation(model, batches[0], dynamic=True)
    for one, arrays in zip(found, batches, strict=True):
        assert_same(one, compute(arrays))


@only_tensorflow
@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_layer_of_the_reference_takes_the_fast_path_whatever_the_batch(bidirectional):
    import tensorflow as tf

    from lstm_ae_lib import models

    model = models.reference_lstm_autoencoder((8, 6, 3), (5, 4), bidirectional)
    graph = tf.function(model, input_signature=[tf.TensorSpec([None, 8, 6, 3])]).get_concrete_function().graph
    fused = sum(operation.type == "LSTMBlockCell" for operation in graph.get_operations())
    parts = min(threads.inter_op(), fast.kernels("lstm").MAX_PARTS)
    assert fused == (2 if bidirectional else 1) * 2 * 8 * parts
    assert not any("While" in operation.type for operation in graph.get_operations())


@only_tensorflow
def test_a_mask_is_honoured():
    stock, own = twins({"return_sequences": True}, features=5)
    mask = np.random.default_rng(3).random((4, 7)) < 0.7
    mask[:, 0] = True
    inputs = [numbers(4, 7, 5)]
    masked = value_and_gradients(own, inputs, False, mask=keras.ops.convert_to_tensor(mask))
    assert_same(masked, value_and_gradients(stock, inputs, False, mask=keras.ops.convert_to_tensor(mask)))
    assert np.abs(masked[0] - value_and_gradients(own, inputs, False)[0]).max() > 0.01  # and it is not ignored


@only_tensorflow
def test_an_unknown_or_large_number_of_steps_is_left_to_keras():
    import tensorflow as tf

    _, own = twins({"return_sequences": True}, features=5)
    inputs, kernels = numbers(2, 7, 5), fast.kernels("lstm")
    any_length = tf.function(own, input_signature=[tf.TensorSpec([2, None, 5])])
    np.testing.assert_allclose(any_length(inputs), own(inputs), atol=1e-6)
    assert not kernels.is_supported(tf.constant(inputs), own.cell, kernels.MAX_STEPS + 1)
    assert not kernels.is_supported(tf.constant(inputs), own.cell, None)


@only_tensorflow
def test_dropout_draws_one_mask_for_all_steps_and_the_same_as_keras():
    results = []
    for kind in (keras.layers.LSTM, layers.FastLSTM):
        keras.utils.set_random_seed(5)
        layer = kind(6, dropout=0.5, return_sequences=True, seed=11)
        results.append(np.asarray(layer(numbers(4, 7, 5), training=True)))
        assert not np.array_equal(results[-1], np.asarray(layer(numbers(4, 7, 5), training=False)))
    np.testing.assert_allclose(results[0], results[1], atol=1e-6)


@only_tensorflow
def test_a_stateful_layer_carries_its_state():
    stock, own = twins({"return_sequences": True, "stateful": True}, features=5, batch=3)
    for layer in (stock, own):
        layer(keras.ops.convert_to_tensor(numbers(3, 7, 5)))
    again = numbers(3, 7, 5, seed=9)
    np.testing.assert_allclose(np.asarray(own(again)), np.asarray(stock(again)), atol=1e-6)


@pytest.mark.backends
@pytest.mark.parametrize("along", ["rows", "columns"])
def test_a_sweep_is_a_bidirectional_lstm_over_the_reshaped_image(along):
    images = numbers(3, 5, 8, 4)
    sweep = layers.LSTMSweep(6, along)
    found = keras.ops.convert_to_numpy(sweep(images))
    lines = images if along == "rows" else images.transpose(0, 2, 1, 3)
    stock = keras.layers.Bidirectional(keras.layers.LSTM(6, return_sequences=True))
    sequences = lines.reshape(-1, *lines.shape[2:])
    stock(sequences)
    stock.set_weights(sweep.get_weights())
    expected = keras.ops.convert_to_numpy(stock(sequences)).reshape(*lines.shape[:3], 12)
    np.testing.assert_allclose(found, expected if along == "rows" else expected.transpose(0, 2, 1, 3), atol=1e-5)


@only_tensorflow
@pytest.mark.parametrize("along", ["rows", "columns"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "any-batch"])
def test_a_sweeps_gradients_are_those_of_its_slow_path(monkeypatch, along, dynamic):
    sweep = layers.LSTMSweep(6, along)
    sweep.build((None, 3, 4, 4))
    inputs = [numbers(9, 3, 4, 4)]
    found = value_and_gradients(sweep, inputs, dynamic)
    without_kernels(monkeypatch)
    assert_same(found, value_and_gradients(sweep, inputs, dynamic))


@only_tensorflow
@pytest.mark.parametrize("along", ["rows", "columns"])
@pytest.mark.parametrize("layer", [layers.LSTMSweep, layers.GatedScan])
def test_a_sweep_takes_images_of_any_size(along, layer):
    import tensorflow as tf

    sweep = layer(6, along)
    images = numbers(2, 5, 7, 4)
    any_size = tf.function(sweep, input_signature=[tf.TensorSpec([None, None, None, 4])])
    np.testing.assert_allclose(any_size(images), sweep(images), atol=1e-6)


MAKERS = {
    "FastLSTM": (lambda: layers.FastLSTM(4, return_sequences=True), (3, 5)),
    "LSTMSweep": (lambda: layers.LSTMSweep(4, "columns"), (3, 4, 3)),
    "GatedScan": (lambda: layers.GatedScan(4), (3, 4, 3)),
}


@only_tensorflow
@pytest.mark.parametrize("kind", MAKERS)
def test_xla_compiles_what_needs_no_kernel(kind):
    import tensorflow as tf

    make, shape = MAKERS[kind]
    layer, inputs = make(), tf.constant(numbers(2, *shape))
    layer(inputs)
    weights = [weight.value for weight in layer.trainable_weights]

    def compute(inputs):
        with tf.GradientTape() as tape:
            outputs = layer(inputs)
            loss = tf.reduce_sum(tf.sin(outputs))
        return [outputs, *tape.gradient(loss, weights)]

    for found, expected in zip(tf.function(compute, jit_compile=True)(inputs), compute(inputs), strict=True):
        assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


@only_tensorflow
@pytest.mark.parametrize("kind", MAKERS)
def test_a_model_trains_as_well_when_it_is_compiled_by_xla(kind):
    make, shape = MAKERS[kind]
    losses = []
    for jit_compile in (True, False):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.layers.Input(shape), make(), keras.layers.Dense(2)])
        model.compile("sgd", "mse", jit_compile=jit_compile)
        assert model.jit_compile == jit_compile
        targets = numbers(4, *shape[:-1], 2, seed=1)
        losses.append(model.fit(numbers(4, *shape), targets, epochs=3, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


@only_tensorflow
def test_an_exported_model_runs_where_this_library_is_not(tmp_path):
    import subprocess
    import sys

    for kind, (make, shape) in MAKERS.items():
        inputs = keras.layers.Input(shape)
        model, images = keras.Model(inputs, make()(inputs)), numbers(2, *shape)
        expected = model.predict(images, verbose=0)  # traced with kernels before
        model.export(tmp_path / kind, verbose=False)
        np.savez(tmp_path / f"{kind}.npz", images=images, expected=expected)
    code = """
import sys, pathlib, numpy as np, tensorflow as tf
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.npz")):
    arrays = np.load(path)
    loaded = tf.saved_model.load(str(path.with_suffix("")))
    np.testing.assert_allclose(loaded.serve(arrays["images"]), arrays["expected"], rtol=1e-5, atol=1e-6)
    print(path.stem)
assert not any(name.startswith("lstm_ae_lib.") or name == "keras" for name in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == sorted(MAKERS), done.stderr


@only_tensorflow
def test_a_graph_of_ones_own_has_kernels_unless_it_is_saved(tmp_path):
    import tensorflow as tf

    layer = layers.GatedScan(4)
    layer(numbers(1, 6, 5, 3))
    module = tf.Module()
    module.held = [weight.value for weight in layer.weights]
    module.run = tf.function(layer, input_signature=[tf.TensorSpec([None, 6, 5, 3])])
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))

    def kernels(function):
        return [operation.type for operation in function.graph.get_operations() if "PyFunc" in operation.type]

    assert kernels(tf.function(layer, input_signature=module.run.input_signature).get_concrete_function())
    assert not any(kernels(function) for function in loaded.run.concrete_functions)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.LSTMSweep(0), "units must be a whole number from 1 to 65536, got 0"),
        (lambda: layers.LSTMSweep(4, "diagonal"), "along must be one of rows, columns; got 'diagonal'"),
        (lambda: layers.GatedScan(0), "units must be a whole number from 1 to 65536, got 0"),
        (lambda: layers.GatedScan(4, "diagonal"), "along must be one of rows, columns, both; got 'diagonal'"),
        (lambda: layers.GatedScan(4)(np.zeros((2, 8, 3), "float32")), r"GatedScan needs \(batch, height, width, channels\)"),
        (lambda: layers.LSTMSweep(4)(np.zeros((2, 8, 3), "float32")), r"LSTMSweep needs \(batch, height, width, channels\)"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
