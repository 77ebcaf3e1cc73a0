import numpy as np
import pytest

from lstm_ae_lib import models
from lstm_ae_lib._backend import keras

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


def test_build_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="builder must be one of reference_lstm_autoencoder, linear_filter, .*; got 'gan'"):
        models.build("gan", {})
    with pytest.raises(ValueError, match="does not take these arguments"):
        models.build("linear_filter", {"depth": 3})


def test_multiply_adds_refuses_a_layer_it_cannot_count():
    model = keras.Sequential([keras.layers.Input((8, 8, 8, 3)), keras.layers.Conv3D(3, 3)])
    with pytest.raises(ValueError, match="Conv3D"):
        models.multiply_adds(model)
