import numpy as np
import pytest

from lstm_ae_lib import classical, degradations, metrics
from lstm_ae_lib._backend import keras

pytestmark = pytest.mark.backends


def restore(model, degraded):
    return np.clip(keras.ops.convert_to_numpy(model(degraded / np.float32(255))), 0, 1)


@pytest.mark.parametrize("name", ["reference", "gauss1", "gauss2", "gauss3"])
def test_on_the_sample_it_gains_decibels_on_images_it_has_not_seen(name, sample):
    protocol = degradations.get_protocol(name)
    degraded = degradations.degrade(sample.train_images, protocol)
    model = classical.fit_linear_filter(degraded, sample.train_images, protocol.transform)
    tested = degradations.degrade(sample.test_images, protocol)
    before = metrics.evaluate(sample.test_images, tested)["psnr"]
    after = metrics.evaluate(sample.test_images, restore(model, tested))["psnr"]
    assert after - before > {"reference": 11.0, "gauss1": 10.3, "gauss2": 5.6, "gauss3": 4.9}[name]


def test_the_border_decides_the_transform(sample):
    degraded = degradations.degrade(sample.train_images, "gauss2")
    errors = {}
    for transform in ("dct1", "dct2"):
        model = classical.fit_linear_filter(degraded, sample.train_images, transform)
        tested = degradations.degrade(sample.test_images, "gauss2")
        errors[transform] = metrics.evaluate(sample.test_images, restore(model, tested))["mse"]
    assert errors["dct1"] < 0.85 * errors["dct2"]


def test_it_is_the_least_squares_solution(sample):
    """No small change of the fitted weights lowers the training error."""
    clean = sample.train_images[:400]
    degraded = degradations.degrade(clean, "gauss2")
    model = classical.fit_linear_filter(degraded, clean, "dct1")
    inputs = (degraded / 255).astype(np.float32)

    def error():
        return np.mean((keras.ops.convert_to_numpy(model(inputs)).astype(np.float64) - clean / 255.0) ** 2)

    best, weights = error(), model.get_weights()
    generator = np.random.default_rng(0)
    for scale in (1e-2, -1e-2):
        model.set_weights([weight * (1 + scale * generator.random(weight.shape)) for weight in weights])
        assert error() > best


def test_it_undoes_an_invertible_linear_map_exactly():
    clean = np.random.default_rng(0).integers(0, 256, (64, 8, 6, 3), np.uint8)
    degraded = 255 - clean[..., ::-1]
    model = classical.fit_linear_filter(degraded, clean, "dct2")
    np.testing.assert_allclose(restore(model, degraded), clean / 255, atol=2e-5)


def test_chunks_change_nothing(sample):
    clean = sample.train_images[:100]
    degraded = degradations.degrade(clean, "reference")
    whole, parts = (classical.fit_linear_filter(degraded, clean, "dct2", chunk=size) for size in (100, 7))
    for first, second in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-3)


def test_without_the_offset_the_bias_of_truncation_stays(sample):
    degraded = degradations.degrade(sample.train_images, "reference")
    errors = []
    for offset in (True, False):
        model = classical.fit_linear_filter(degraded, sample.train_images, "dct2", offset=offset)
        errors.append(metrics.evaluate(sample.train_images, restore(model, degraded))["mse"])
    assert errors[0] < errors[1]


@pytest.mark.parametrize(
    ("degraded", "clean", "message"),
    [
        (np.zeros((9, 8, 8, 3)), np.zeros((9, 8, 8, 3), np.uint8), "degraded must be uint8"),
        (np.zeros((9, 8, 8, 3), np.uint8), np.zeros((8, 8, 8, 3), np.uint8), "degraded and clean must have the same shape"),
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3), np.uint8), "the number of image pairs must be .* got 2"),
    ],
)
def test_bad_pairs_are_refused(degraded, clean, message):
    with pytest.raises(ValueError, match=message):
        classical.fit_linear_filter(degraded, clean, "dct1")
