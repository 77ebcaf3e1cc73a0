import numpy as np
import pytest

from lstm_ae_lib import models, weights
from lstm_ae_lib._backend import keras
from lstm_ae_lib.tasks import recurrent_inference

pytestmark = pytest.mark.backends


def test_the_reference_has_the_precursors_parameters():
    model = models.reference_lstm_autoencoder()
    assert model.count_params() == 170848
    assert [layer.count_params() for layer in model.layers if layer.count_params()] == [115200, 49408, 6240]
    # By hand: four gates from 96 inputs and 128 states with a bias, and so on.
    assert 4 * 128 * (96 + 128 + 1) == 115200 and 4 * 64 * (128 + 64 + 1) == 49408 and 96 * 64 + 96 == 6240
    assert models.multiply_adds(model) == 32 * (4 * 128 * (96 + 128) + 4 * 64 * (128 + 64) + 64 * 96)


def respond(model, row):
    """Which rows of the output change when one row of the input does."""
    images = np.random.default_rng(0).random((1, 32, 32, 3)).astype(np.float32)
    changed = images.copy()
    changed[0, row] = 1 - changed[0, row]
    difference = keras.ops.convert_to_numpy(model(images)) - keras.ops.convert_to_numpy(model(changed))
    return np.abs(difference[0]).max(axis=(1, 2)) > 0


def test_in_one_direction_a_row_never_sees_the_rows_below():
    touched = respond(models.reference_lstm_autoencoder(), 16)
    assert not touched[:16].any() and touched[16:].all()


@pytest.mark.parametrize("arguments", [{"bidirectional": True}, {"bottleneck": 8}])
def test_with_both_directions_or_a_bottleneck_it_does(arguments):
    assert respond(models.reference_lstm_autoencoder(**arguments), 16).all()


def test_a_bottleneck_passes_no_more_than_its_width():
    model = models.reference_lstm_autoencoder(bottleneck=4)
    assert model.get_layer("latent").output.shape == (None, 4)
    images = np.random.default_rng(0).random((40, 32, 32, 3)).astype(np.float32)
    latent = keras.Model(model.input, model.get_layer("latent").output)
    assert np.linalg.matrix_rank(keras.ops.convert_to_numpy(latent(images))) == 4
    # Replacing the latent by zeros leaves one picture for all images: nothing goes round it.
    model.get_layer("latent").set_weights([np.zeros_like(weight) for weight in model.get_layer("latent").get_weights()])
    restored = keras.ops.convert_to_numpy(model(images))
    np.testing.assert_allclose(restored, np.broadcast_to(restored[:1], restored.shape), atol=1e-6)


def test_any_height_without_a_bottleneck():
    model = models.reference_lstm_autoencoder((None, 32, 3))
    assert tuple(model(np.zeros((1, 20, 32, 3), np.float32)).shape) == (1, 20, 32, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_shape": (None, 32, 3), "bottleneck": 4}, "image_shape must be"),
        ({"image_shape": (32, 32)}, "image_shape must be"),
        ({"units": (128,)}, "units must be two numbers"),
        ({"units": (0, 64)}, r"units\[0\] must be a whole number from 1 to 65536, got 0"),
        ({"bottleneck": -1}, "bottleneck must be a whole number from 0 to 65536, got -1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.reference_lstm_autoencoder(**arguments)


def conv(inputs, outputs, side=3):
    return side * side * inputs * outputs + outputs


@pytest.mark.parametrize("recurrence", models.RECURRENCES)
def test_the_flagships_recurrences_are_of_one_size(recurrence):
    w, ways = 64, 4
    instead = {
        "scan": w * 2 * ways * w // 2 + 2 * ways * w // 2 + conv(ways * w // 2, w, 1),
        "lstm": 2 * 2 * 4 * 16 * (w + 16 + 1) + conv(ways * 16, w, 1),
        "convolution": conv(w, 38) + conv(38, w, 1),
        "none": 0,
    }[recurrence]
    frame = conv(6, w, 6) + 2 * conv(w, w, 1) + conv(w, 12)
    model = models.flagship(recurrence=recurrence)
    assert model.count_params() - 32 * 32 * 12 == frame + 4 * (2 * conv(w, w) + instead)
    if recurrence != "none":
        assert abs((model.count_params() - 12288) / 424_140 - 1) < 0.005
        # Everything but the linear start runs at half the resolution.
        assert models.multiply_adds(model) == pytest.approx(256 * (model.count_params() - 12288) + 399_360, rel=0.005)


def test_two_ways_with_twice_the_units_are_of_the_same_size():
    sizes = {models.flagship((8, 8, 3), width=8, along=along).count_params() for along in ("both", "rows", "columns")}
    assert len(sizes) == 1


def test_without_skips_everything_passes_through_the_latent():
    images = np.random.default_rng(0).random((3, 8, 8, 3)).astype(np.float32)
    for skips in (True, False):
        model = models.flagship((8, 8, 3), width=8, depth=1, skips=skips, linear_start="")
        model.set_weights([np.random.default_rng(1).standard_normal(weight.shape) for weight in model.get_weights()])
        latent = model.get_layer("latent")
        latent.set_weights([np.zeros_like(weight) for weight in latent.get_weights()])
        added = keras.ops.convert_to_numpy(model(images)) - images
        assert (np.ptp(added, axis=0).max() < 1e-4) != skips


@pytest.mark.parametrize(("recurrence", "all_of_it"), [("scan", True), ("lstm", True), ("convolution", False), ("none", False)])
def test_a_recurrence_sees_the_whole_image(recurrence, all_of_it):
    keras.utils.set_random_seed(0)
    model = models.flagship((64, 64, 3), width=8, depth=1, recurrence=recurrence, linear_start="")
    generator = np.random.default_rng(0)
    model.set_weights([0.3 * generator.standard_normal(weight.shape) for weight in model.get_weights()])
    images = generator.random((1, 64, 64, 3)).astype(np.float32)
    changed = images.copy()
    changed[0, :2, :2] = 1 - changed[0, :2, :2]
    difference = keras.ops.convert_to_numpy(model(changed)) - keras.ops.convert_to_numpy(model(images))
    # Along the first row and column, where the second sweep of a pair has not to turn a corner.
    assert (np.abs(difference[0, 0, 32:]).max() > 0) == (np.abs(difference[0, 32:, 0]).max() > 0) == all_of_it


def test_iterations_share_their_weights_and_cost_each_time():
    models_of = [recurrent_inference.recurrent_inference(iterations=count) for count in (1, 3)]
    w = 64
    size = conv(9, w, 6) + conv(2 * w, 4 * w) + 2 * conv(w, w) + conv(w, 12)
    assert [model.count_params() - 12288 for model in models_of] == [size, size]
    once, thrice = (models.multiply_adds(model) for model in models_of)
    assert thrice - once == 2 * 256 * (36 * 9 * w + 9 * (2 * w * 4 * w + 2 * w * w + w * 12))
    assert recurrent_inference.recurrent_inference(sigma=0.0).count_params() == models_of[0].count_params() - 36 * 3 * w


def test_multiply_adds_are_this_models_own_whatever_else_is_made_of_its_layers():
    model = keras.Sequential([keras.layers.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, padding="same", name="one")])
    alone = models.multiply_adds(model)
    assert alone == 64 * 27 * 4
    inputs = keras.layers.Input((16, 8, 3))
    twice = keras.Model(inputs, keras.layers.Add()([model.get_layer("one")(inputs), model.get_layer("one")(1 - inputs)]))
    seen = keras.layers.Input((8, 8, 3))
    nested = keras.Model(seen, keras.layers.Dense(2)(model(seen)))
    assert models.multiply_adds(twice) == 2 * 2 * alone and models.multiply_adds(nested) == alone + 64 * 4 * 2
    assert models.multiply_adds(model) == alone


def test_multiply_adds_refuses_a_layer_it_cannot_count():
    model = keras.Sequential([keras.layers.Input((8, 8, 8, 3)), keras.layers.Conv3D(3, 3)])
    with pytest.raises(ValueError, match="Conv3D"):
        models.multiply_adds(model)


def test_apply_is_predict_in_parts():
    model = models.flagship((8, 8, 3), width=8, depth=1, linear_start="")
    model.set_weights([weight + 0.05 for weight in model.get_weights()])
    images = np.random.default_rng(0).random((7, 8, 8, 3)).astype(np.float32)
    expected = model.predict(images, verbose=0)
    # Products are added in another order for another batch: an error in proportion to the largest value, here some 500.
    np.testing.assert_allclose(models.apply(model, images, batch_size=3), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_repeated_pairs_share_their_weights():
    once, thrice = (models.flagship((8, 8, 3), width=8, depth=1, linear_start="", repeats=repeats) for repeats in (1, 3))
    assert once.count_params() == thrice.count_params()
    # At 4x4 positions: 6x6x3 -> 8, 8 -> 64 -> 8, and 3x3x8 -> 12.
    inside = models.multiply_adds(once) - 16 * (108 * 8 + 2 * 8 * 64 + 72 * 12)
    assert models.multiply_adds(thrice) - models.multiply_adds(once) == 2 * inside
    with pytest.raises(ValueError, match="repeats must be a whole number from 1 to 100, got 0"):
        models.flagship(repeats=0)
    with pytest.raises(ValueError, match="width must be a multiple of 2, got 7"):
        models.flagship(width=7)


@pytest.mark.parametrize("builder", ["flagship", "dncnn", "rednet", "unet", "nafnet"])
def test_a_gate_holds_back_what_is_added_where_the_linear_estimate_changed_nothing(builder):
    free, gated = (weights.build(builder, {"linear_start": "dct1", "gate": gate}) for gate in (False, True))
    for model in (free, gated):  # one that adds 0.05 everywhere
        last = [layer for layer in model.layers if layer.weights][-1]
        last.set_weights([np.zeros_like(last.get_weights()[0]), np.full_like(last.get_weights()[1], 0.05)])
    images = np.tile(np.float32([[[0.3]], [[0.7]]]), (2, 16, 32, 3))
    np.testing.assert_allclose(models.apply(free, images), images + 0.05, atol=1e-5)
    np.testing.assert_allclose(models.apply(gated, images), images, atol=1e-3)
    for model in (free, gated):  # an estimate that is black: everything has been taken away
        linear = model.get_layer("linear")
        linear.set_weights([np.zeros_like(weight) for weight in linear.get_weights()])
        np.testing.assert_allclose(models.apply(model, images), 0.05, atol=1e-5)
    with pytest.raises(ValueError, match="gate needs a linear_start"):
        weights.build(builder, {"linear_start": "", "gate": True})


def test_the_multiscale_flagship_has_its_size_and_cost():
    model = models.multiscale_flagship()
    w, v = 40, 56
    pair = lambda w: 2 * conv(w, w) + conv(w, w, 1) + w * 4 * w + 4 * w + conv(2 * w, w, 1)  # noqa: E731
    between = conv(w, v, 2) + conv(v, 48, 1) + conv(48, v, 1) + conv(v, 4 * w, 1)
    assert model.count_params() == conv(3, w, 6) + 2 * pair(w) + between + 4 * pair(v) + conv(w, 12) == 428_340 <= 450_000
    assert models.multiply_adds(model) == 42_646_912 <= 45_000 * 32 * 32


@pytest.mark.parametrize("shape", [(4, 8, 3), (36, 20, 3)])
def test_the_multiscale_flagship_takes_any_side_that_its_strides_divide(shape):
    model = models.multiscale_flagship(shape, width=4, latent=2)
    images = np.random.default_rng(0).random((1, *shape)).astype(np.float32)
    np.testing.assert_array_equal(models.apply(model, images), images)  # it begins as what it is given
    with pytest.raises(ValueError, match="multiples of 4, got"):
        models.multiscale_flagship((shape[0] + 2, shape[1], 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 5}, "width must be a multiple of 2, got 5"),
        ({"width": 2}, "width must be a whole number from 4 to 1024, got 2"),
        ({"growth": 0.0}, "growth must be a number from 0.5 to 4, got 0.0"),
        ({"depths": ()}, r"depths must have 1 to 6 levels, got \(\)"),
        ({"depths": (1, -1)}, "the pairs of a level must be a whole number from 0 to 16, got -1"),
        ({"latent": 0}, "latent must be a whole number from 1 to 4096, got 0"),
        ({"recurrence": "gru"}, "recurrence must be one of scan, .*; got 'gru'"),
    ],
)
def test_what_the_multiscale_flagship_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.multiscale_flagship(**arguments)
