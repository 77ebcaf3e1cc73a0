"""The published rival: its parts as in the paper, its bits, and that it learns."""

import math

import numpy as np
import pytest
from scipy import special

from lstm_ae_lib import datasets, models, training, weights
from lstm_ae_lib._backend import keras
from lstm_ae_lib.tasks import hyperprior

ops = keras.ops
SMALL = {"width": 6, "latent": 8, "step": 0.2}


def test_divisive_normalisation_is_the_papers_formula_and_its_inverse():
    values = np.random.default_rng(0).normal(0, 2, (2, 3, 4, 5)).astype(np.float32)
    for inverse in (False, True):
        layer = hyperprior.DivisiveNorm(inverse)
        layer.build(values.shape)
        gamma = np.random.default_rng(1).uniform(0, 1, (5, 5))
        layer.set_weights([np.log(np.expm1(np.full(5, 0.7))), np.log(np.expm1(gamma))])
        power = np.sqrt(0.7 + (values**2) @ gamma)
        np.testing.assert_allclose(ops.convert_to_numpy(layer(values)), values * power if inverse else values / power, rtol=1e-4)


def test_it_begins_near_a_tenth_of_the_own_square():
    layer = hyperprior.DivisiveNorm()
    made = ops.convert_to_numpy(layer(np.full((1, 1, 1, 3), 2, np.float32)))
    np.testing.assert_allclose(made, 2 / math.sqrt(1 + 4 * (0.1 + 0.002)), rtol=1e-4)


def test_bits_are_those_of_a_normal_distribution():
    distance, scale = np.meshgrid(np.arange(-6, 7), [0.11, 0.4, 1.0, 5.0])
    share = special.ndtr((distance + 0.5) / scale) - special.ndtr((distance - 0.5) / scale)
    bits = ops.convert_to_numpy(hyperprior.normal_bits(distance.astype(np.float32), np.log(scale).astype(np.float32)))
    np.testing.assert_allclose(bits, -np.log2(np.maximum(share, 2.0**-23)), rtol=2e-2, atol=1e-4)
    narrow = ops.convert_to_numpy(hyperprior.normal_bits(np.zeros(1, np.float32), np.full(1, -50, np.float32)))
    assert 0 <= narrow[0] < 1e-4 and bits.max() <= 23


def test_numbers_are_rounded_and_noisy_in_training_and_their_bits_are_in_the_loss():
    layer = hyperprior.ScaledQuantize(0.5, 0.01)
    given = [np.float32([0.7, -0.2, 3.0]).reshape(1, 1, 1, 3), np.zeros((1, 1, 1, 3), np.float32)]
    np.testing.assert_allclose(ops.convert_to_numpy(layer(given)).ravel(), [0.5, 0, 3])
    assert not layer.losses
    noisy = ops.convert_to_numpy(layer(given, training=True))
    assert 0 < np.abs(noisy - given[0]).max() <= 0.25
    expected = 0.01 * ops.sum(hyperprior.normal_bits(noisy / 0.5, given[1]))
    np.testing.assert_allclose(float(layer.losses[0]), float(expected), rtol=1e-5)


def test_a_small_one_learns_and_its_bytes_are_counted(sample):
    keras.utils.set_random_seed(0)
    images, tested = sample.train_images[:256], sample.test_images[:40]
    model = weights.build("scale_hyperprior", SMALL)
    before = hyperprior.Counted(model).measure(tested)
    model.compile(training.Muon(0.02), loss="mse")
    model.fit(datasets.training_batches(images, images, 32, 0), steps_per_epoch=80, epochs=1, shuffle=False, verbose=0)
    decoded, sizes = hyperprior.Counted(model).measure(tested)
    errors = [np.square(one.astype(float) - tested).mean() for one in (before[0], decoded)]
    assert errors[1] < 0.5 * errors[0] and decoded.dtype == np.uint8
    assert sizes.shape == (40,) and sizes.dtype.kind == "i" and 1 < sizes.mean() < 3072
    again = hyperprior.Counted(model).measure(np.tile(tested[:1], (501, 1, 1, 1)))
    assert (again[0] == decoded[0]).mean() > 0.99 and (np.abs(again[1] - sizes[0]) <= 1).all()


def test_the_bits_that_are_counted_are_those_of_the_loss(sample):
    """Without noise: of rounded numbers, by the layers' own formulas, and the hyperlatent's among them."""
    keras.utils.set_random_seed(0)
    model, unit = weights.build("scale_hyperprior", SMALL), sample.test_images[:4] / np.float32(255)
    log_scale = model.get_layer("log_scale")
    log_scale.bias.assign(np.full(8, 1.5, np.float32))
    sizes = hyperprior.Counted(model).measure(sample.test_images[:4])[1]
    without = hyperprior.Counted(model)
    without._rounding[1] = type("Free", (), {"bits": staticmethod(ops.zeros_like)})
    assert (without.measure(sample.test_images[:4])[1] < sizes).all()
    numbers = keras.Model(model.input, model.get_layer("quantize").output)(unit)
    scale = keras.Model(model.input, log_scale.output)(unit)
    bits = ops.convert_to_numpy(ops.sum(hyperprior.normal_bits(numbers / 0.2, scale), axis=(1, 2, 3)))
    np.testing.assert_array_equal(without.measure(sample.test_images[:4])[1], np.ceil(bits / 8))


def test_sides_and_arguments_are_checked():
    assert weights.build("scale_hyperprior", SMALL | {"image_shape": (64, 32, 3)}).output.shape == (None, 64, 32, 3)
    assert models.multiply_adds(weights.build("scale_hyperprior", SMALL)) > 100_000
    for wrong, said in (
        ({"image_shape": (48, 32, 3)}, "48"),
        ({"strides": 7}, "strides"),
        ({"latent": 0}, "latent"),
        ({"width": 0}, "width"),
    ):
        with pytest.raises(ValueError, match=said):
            weights.build("scale_hyperprior", SMALL | wrong)
