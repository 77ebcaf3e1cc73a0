import tracemalloc

import numpy as np
import pytest
import skimage.metrics

from lstm_ae_lib import metrics
from lstm_ae_lib._backend import WIDE_FLOAT, keras
from lstm_ae_lib.tasks import uncertainty, variational

pytestmark = pytest.mark.backends


def test_a_constant_error_of_a_tenth_is_20_db():
    zeros, tenth = np.zeros((3, 16, 16, 3), np.float32), np.full((3, 16, 16, 3), 0.1, np.float32)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(metrics.psnr(zeros, tenth)), 20.0, rtol=1e-6)
    assert metrics.evaluate(zeros.astype(np.float64), tenth.astype(np.float64) * 0 + 0.1)["psnr"] == pytest.approx(20.0, rel=1e-12)


def test_equals_scikit_image(clean, blurred, unit):
    values = metrics.per_image(clean, blurred)
    for index in range(len(clean)):
        pair = clean[index] / 255, blurred[index] / 255
        similarity = skimage.metrics.structural_similarity(
            *pair, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=-1
        )
        assert values["ssim"][index] == pytest.approx(similarity, abs=1e-7 if WIDE_FLOAT == "float64" else 2e-5)
        assert values["psnr"][index] == pytest.approx(skimage.metrics.peak_signal_noise_ratio(*pair, data_range=1.0), abs=1e-5)
        assert values["mse"][index] == pytest.approx(skimage.metrics.mean_squared_error(*pair), rel=1e-6)


def test_equals_tensorflow(unit, clean, blurred):
    tf = pytest.importorskip("tensorflow")
    degraded = (blurred / 255).astype(np.float32)
    values = metrics.per_image(clean, blurred)
    # TensorFlow rounds to float32 in between, where SSIM takes differences of nearly equal numbers.
    np.testing.assert_allclose(values["ssim"], tf.image.ssim(unit, degraded, 1.0).numpy(), rtol=2e-4)
    np.testing.assert_allclose(values["psnr"], tf.image.psnr(unit, degraded, 1.0).numpy(), atol=1e-4)


def test_mse_is_pooled_and_psnr_is_the_mean_of_each_images_own():
    zeros = np.zeros((2, 16, 16, 3))
    restored = np.stack([np.full((16, 16, 3), 0.1), np.full((16, 16, 3), 0.01)])
    summary = metrics.evaluate(zeros, restored)
    assert summary["mse"] == pytest.approx((0.01 + 0.0001) / 2)
    assert summary["psnr"] == pytest.approx((20 + 40) / 2)


def test_identical_images_are_counted_and_left_out_of_the_mean():
    clean = np.random.default_rng(0).random((3, 16, 16, 3))
    restored = clean.copy()
    restored[0] = np.clip(restored[0] + 0.1, 0, 1)
    summary = metrics.evaluate(clean, restored)
    assert summary["identical"] == 2 and np.isfinite(summary["psnr"])
    assert metrics.evaluate(clean, clean)["psnr"] is None
    assert metrics.evaluate(clean, clean)["ssim"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("restored", "message"),
    [
        (np.full((2, 16, 16, 3), 255.0), r"restored must lie in \[0, 1\], got values from 255 to 255"),
        (np.full((2, 16, 16, 3), -0.01), r"restored must lie in \[0, 1\]"),
        (np.full((2, 16, 16, 3), np.nan), "restored must be finite, got 1536 values"),
        (np.zeros((2, 16, 16, 3), np.int64), "restored must be floating point .*got int64"),
        (np.zeros((1, 16, 16, 3)), r"same shape, got \(2, 16, 16, 3\) and \(1, 16, 16, 3\)"),
        (np.zeros((2, 16, 16)), r"restored must have the shape"),
    ],
)
def test_wrong_images_are_refused(restored, message):
    with pytest.raises(ValueError, match=message):
        metrics.evaluate(np.zeros((2, 16, 16, 3)), restored)


def test_a_set_of_images_is_measured_part_by_part(sample):
    """Whatever the images' number, no more than a part of them is made float64 at a time."""
    clean = np.concatenate([sample.train_images, sample.test_images])
    restored = np.clip(clean / np.float32(255) + np.float32(0.05), 0, 1)
    tracemalloc.start()
    values = metrics.per_image(clean, restored, chunk=50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.25 * clean.size * 8 and values["mse"].shape == (2500,)
    some = metrics.per_image(clean[:120], restored[:120])
    for name, column in some.items():
        np.testing.assert_allclose(values[name][:120], column, rtol=1e-12)


IMAGES = np.zeros((2, 16, 16, 3), np.float32)
VALUES = {"mse": np.ones(2), "psnr": np.ones(2), "ssim": np.ones(2)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.mse(IMAGES.astype(np.uint8), IMAGES), "clean must be float images .*, got uint8"),
        (lambda: metrics.psnr(IMAGES, "cat.png"), "restored must be float images .*, got str"),
        (lambda: metrics.ssim(IMAGES[0], IMAGES[0]), r"clean must be float images .*, got float32 \(16, 16, 3\)"),
        (lambda: metrics.mse(IMAGES, IMAGES[:1]), "clean and restored must have the same shape"),
        (lambda: metrics.per_image(None, IMAGES), "clean must be an array of numbers, got object"),
        (lambda: metrics.per_image(IMAGES, [[1], [2, 3]]), "restored must be an array of numbers, got list"),
        (lambda: metrics.per_image(IMAGES, IMAGES, 0), "chunk must be a whole number from 1"),
        (lambda: metrics.compare(IMAGES, IMAGES, IMAGES.astype(int)), "restored must be floating point"),
        (lambda: metrics.summarize([1, 2]), "values must be a dictionary of mse, psnr, ssim, of per_image; got list"),
        (lambda: metrics.compare_values(VALUES, {"mse": np.ones(2)}), "others must be a dictionary of mse, psnr, ssim"),
        (lambda: metrics.gains(VALUES, None), "degraded must be a dictionary"),
        (lambda: metrics.summarize({**VALUES, "psnr": "high"}), "psnr of values must be an array of numbers"),
        (lambda: metrics.bootstrap_interval(["a"]), "values must be an array of numbers"),
        (lambda: metrics.bootstrap_interval([1.0, 2.0], seed="0"), "seed must be a whole number"),
        (lambda: metrics.radial_power(IMAGES.astype(int)), "images must be floating point"),
        (lambda: metrics.radial_power(IMAGES, 2.5), "bins must be a whole number"),
    ],
)
def test_the_argument_that_is_wrong_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(ValueError, match="at least 11x11 pixels, got 8x8"):
        metrics.ssim(np.zeros((1, 8, 8, 3), np.float32), np.zeros((1, 8, 8, 3), np.float32))


def test_keras_metric_is_the_mean_over_all_batches(unit, blurred, clean):
    metric = metrics.PSNR()
    degraded = (blurred / 255).astype(np.float32)
    for part in (slice(0, 5), slice(5, None)):
        metric.update_state(unit[part], degraded[part])
    assert float(metric.result()) == pytest.approx(metrics.per_image(clean, blurred)["psnr"].mean(), abs=1e-4)
    metric.reset_state()
    metric.update_state(unit[:2], unit[:2] * 0 + np.stack([unit[0], unit[1] * 0.9]))
    assert np.isfinite(float(metric.result()))


def test_bootstrap_interval_covers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for repetition in range(200):
        low, high = metrics.bootstrap_interval(generator.normal(3.0, 1.0, 100), resamples=400, seed=repetition)
        hits += low <= 3.0 <= high
    assert 178 <= hits <= 198  # 95 % of 200 is 190


def test_bootstrap_refuses_what_has_no_mean():
    with pytest.raises(ValueError, match="finite numbers, at least one"):
        metrics.bootstrap_interval([])
    with pytest.raises(ValueError, match="finite numbers"):
        metrics.bootstrap_interval([1.0, np.inf])
    with pytest.raises(ValueError, match="resamples must be a whole number from 100"):
        metrics.bootstrap_interval([1.0, 2.0], resamples=5)


def test_radial_power_finds_the_frequency_of_a_grating():
    rows = np.arange(32)
    for cycles in (0.1, 0.3):
        grating = np.cos(2 * np.pi * cycles * (rows + 0.5))[None, :, None, None] * np.ones((1, 32, 32, 3))
        frequencies, power = metrics.radial_power(grating)
        assert abs(frequencies[np.argmax(power)] - cycles) < 1 / 32
        assert np.isfinite(metrics.radial_power(grating, 31)[1]).all()
    with pytest.raises(ValueError, match="bins must be a whole number from 1 to 31, got 32"):
        metrics.radial_power(grating, 32)


def test_a_paired_comparison_sees_what_two_intervals_hide(clean):
    """All images differ more from one another than the two restorers do, and yet one is better on every image."""
    generator = np.random.default_rng(0)
    base = clean / 255.0
    strength = np.linspace(0.01, 0.2, len(base))[:, None, None, None]
    noise = strength * generator.standard_normal(base.shape)
    worse, better = np.clip(base + noise, 0, 1), np.clip(base + 0.97 * noise, 0, 1)
    first, second = metrics.evaluate(clean, better), metrics.evaluate(clean, worse)
    assert first["psnr_low"] < second["psnr_high"]
    found = metrics.compare(clean, better, worse)
    assert found["wins"] == 1 and found["images"] == len(clean)
    assert 0 < found["psnr_low"] < found["psnr"] < found["psnr_high"] < 0.4 and found["mse_high"] < 0
    backwards = metrics.compare(clean, worse, better)
    assert backwards["psnr"] == pytest.approx(-found["psnr"]) and backwards["wins"] == 0
    same = metrics.compare(clean, worse, worse)
    assert same["psnr"] == same["psnr_low"] == same["psnr_high"] == 0


def test_pairs_without_an_error_count_but_for_the_psnr(clean):
    restored = np.where(np.arange(len(clean))[:, None, None, None] < 3, clean, clean // 2)
    found, others = metrics.compare(clean, restored, clean // 3), metrics.compare(clean[3:], restored[3:], clean[3:] // 3)
    assert found["images"] == len(clean) and found["psnr"] == others["psnr"]
    assert found["wins"] == np.mean(metrics.per_image(clean, restored)["mse"] < metrics.per_image(clean, clean // 3)["mse"])
    for name in ("mse", "ssim"):
        means = [metrics.evaluate(clean, images)[name] for images in (restored, clean // 3)]
        assert found[name] == pytest.approx(means[0] - means[1])
    with pytest.raises(ValueError, match="no image has a finite PSNR in both"):
        metrics.compare(clean, clean, clean // 2)
    values = metrics.per_image(clean, clean // 2)
    with pytest.raises(ValueError, match="both must be of the same images, got 24 and 23"):
        metrics.compare_values(values, {name: column[1:] for name, column in values.items()})


def test_a_copy_in_float32_is_a_copy(clean):
    assert metrics.evaluate(clean, clean / np.float32(255))["identical"] == len(clean)
    assert np.isfinite(metrics.per_image(clean, np.clip(clean / 255 + 1e-6, 0, 1))["psnr"]).all()


def test_gains_leave_out_what_is_exactly_right():
    clean = 0.5 * np.random.default_rng(0).random((4, 16, 16, 3)).astype(np.float32)
    degraded, restored = clean + 0.1, clean.copy()
    degraded[1], restored[2], restored[3] = clean[1], clean[2] + 0.01, clean[3] + 0.05
    found = metrics.gains(metrics.per_image(clean, restored), metrics.per_image(clean, degraded))
    assert np.isnan(found[:2]).all() and np.isfinite(found[2:]).all() and found[2] > found[3] > 0
    with pytest.raises(ValueError, match="restored and degraded must have the same shape"):
        metrics.gains(metrics.per_image(clean[:2], restored[:2]), metrics.per_image(clean, degraded))


def test_bits_of_pixels_add_up_to_one():
    """The probabilities of all 256 values of a pixel sum to 1, wherever the mean lies."""
    values = np.arange(256, dtype=np.uint8)
    clean = np.broadcast_to(values[:, None, None, None], (256, 1, 1, 3))
    for centre, sigma in ((0.5, 0.1), (0.02, 0.05), (-0.3, 0.2), (1.0, 0.5), (0.25, 0.0005)):
        bits = uncertainty.bits_of_pixels(clean, np.full((256, 1, 1, 3), centre), sigma)
        assert np.sum(2.0**-bits) == pytest.approx(1, rel=1e-9), (centre, sigma)
        assert np.isfinite(bits).all() and (bits >= 0).all()


def test_bits_of_pixels_of_a_uniform_guess_and_of_a_sure_one():
    clean = np.full((1, 8, 8, 3), 100, np.uint8)
    assert uncertainty.bits_of_pixels(clean, np.full(clean.shape, 0.5), 5.0)[0] > 8
    assert uncertainty.bits_of_pixels(clean, clean / 255, 0.0005)[0] < 0.01
    with pytest.raises(ValueError, match="sigma must be a number above 0 up to 10, got 0"):
        uncertainty.bits_of_pixels(clean, clean / 255, 0)
    with pytest.raises(ValueError, match="clean and mean must have the same shape"):
        uncertainty.bits_of_pixels(clean, clean[:, :4] / 255, 1.0)


@pytest.mark.backends
def test_gaussian_nats_are_the_densitys_logarithm():
    generator = np.random.default_rng(0)
    clean, restored = (generator.random((2, 4, 4, 3)).astype(np.float32) for _ in range(2))
    variance = np.mean((clean - restored) ** 2)
    expected = np.mean(0.5 * (clean - restored) ** 2 / variance + 0.5 * np.log(2 * np.pi * variance))
    assert float(variational.gaussian_nll(clean, restored)) == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(float(variational.gaussian_nll(clean, clean)))


@pytest.mark.backends
def test_log_mse_weighs_images_by_their_decibels(unit):
    restored = unit + np.float32([0.1, 0.001])[np.arange(len(unit)) % 2][:, None, None, None]
    expected = np.log(np.square(restored.astype(float) - unit).mean(axis=(1, 2, 3)) + 2e-3)
    found = keras.ops.convert_to_numpy(metrics.log_mse(unit, restored))
    assert found.shape == (len(unit),)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert keras.ops.convert_to_numpy(metrics.log_mse(unit, unit)).max() == pytest.approx(np.log(2e-3), rel=1e-6)
