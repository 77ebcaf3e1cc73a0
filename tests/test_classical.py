import functools

import numpy as np
import pytest

from lstm_ae_lib import classical, degradations, layers, metrics
from lstm_ae_lib._backend import keras

pytestmark = pytest.mark.backends


def restore(model, degraded):
    return np.clip(keras.ops.convert_to_numpy(model(degradations.as_float(degraded))), 0, 1)


@pytest.fixture(scope="module")
def fitted(sample):
    """The linear filter of the sample's 2,000 training images, for a protocol and a transform; fitted once."""

    @functools.cache
    def fit(name, transform):
        return classical.fit_linear_filter(degradations.degrade(sample.train_images, name), sample.train_images, transform)

    return fit


@pytest.mark.parametrize("name", ["reference", "gauss1", "gauss2", "gauss3"])
def test_on_the_sample_it_gains_decibels_on_images_it_has_not_seen(name, sample, fitted):
    tested = degradations.degrade(sample.test_images, name)
    before = metrics.evaluate(sample.test_images, tested)["psnr"]
    after = metrics.evaluate(sample.test_images, restore(fitted(name, degradations.get_protocol(name).transform), tested))["psnr"]
    assert after - before > {"reference": 11.0, "gauss1": 10.3, "gauss2": 5.6, "gauss3": 4.9}[name]


def test_the_border_decides_the_transform(sample, fitted):
    tested = degradations.degrade(sample.test_images, "gauss2")
    errors = {
        transform: metrics.evaluate(sample.test_images, restore(fitted("gauss2", transform), tested))["mse"]
        for transform in ("dct1", "dct2")
    }
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


def test_without_the_offset_the_bias_of_truncation_stays(sample, fitted):
    degraded = degradations.degrade(sample.train_images, "reference")
    without = classical.fit_linear_filter(degraded, sample.train_images, "dct2", offset=False)
    models = fitted("reference", "dct2"), without
    errors = [np.mean((restore(model, degraded) - sample.train_images / 255) ** 2) for model in models]
    assert errors[0] < errors[1]


@pytest.mark.parametrize(
    ("degraded", "clean", "message"),
    [
        (np.zeros((9, 8, 8, 3), int), np.zeros((9, 8, 8, 3), np.uint8), "degraded must be uint8 .*, or floating point"),
        (np.full((9, 8, 8, 3), np.nan), np.zeros((9, 8, 8, 3), np.uint8), "degraded must be finite"),
        (np.zeros((9, 8, 8, 3), np.uint8), np.zeros((8, 8, 8, 3), np.uint8), "degraded and clean must have the same shape"),
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3), np.uint8), "the number of image pairs must be .* got 2"),
    ],
)
def test_bad_pairs_are_refused(degraded, clean, message):
    with pytest.raises(ValueError, match=message):
        classical.fit_linear_filter(degraded, clean, "dct1")


# --- the mixture of linear filters ----------------------------------------------------------------------------------------


def fit_mixture(images, protocol, parts=12, **options):
    sigmas = degradations.sampled_strengths(protocol, len(images))
    transform = degradations.get_protocol(protocol).transform
    return classical.fit_linear_mixture(degradations.degrade(images, protocol), images, sigmas, transform, parts, **options)


@pytest.mark.parametrize(("protocol", "most"), [("blind", 0.5), ("noisy", 0.92)])
def test_a_mixture_restores_where_the_sigma_is_unknown(protocol, most, sample):
    """One filter for all blurs leaves most of the error; a mixture finds out from the image itself which it needs."""
    mixture = fit_mixture(sample.train_images, protocol)
    tested = degradations.degrade(sample.test_images, protocol)
    one = classical.make_restorer("linear", protocol).fit(degradations.degrade(sample.train_images, protocol), sample.train_images)
    estimates = restore(mixture, tested), one(tested)
    errors = [metrics.evaluate(sample.test_images, images)["mse"] for images in estimates]
    assert errors[0] < most * errors[1]


def test_the_mixture_behind_the_common_interface_is_the_fitted_one(sample):
    clean = sample.train_images[:400]
    degraded = degradations.degrade(clean, "blind")
    restorer = classical.make_restorer("linear_mixture", "blind").fit(degraded, clean)
    expected = np.clip(restore(fit_mixture(clean, "blind"), degraded[:9]), 0, 1)
    np.testing.assert_allclose(restorer(degraded[:9]), expected, atol=1e-5)


def test_a_mixture_tells_groups_apart_and_inverts_each_exactly():
    clean = np.random.default_rng(0).integers(0, 256, (400, 8, 6, 3), np.uint8)
    strength = np.where(np.arange(400) % 2, 0.25, 1.0)
    degraded = (clean * strength[:, None, None, None] / 255).astype(np.float32)
    model = classical.fit_linear_mixture(degraded, clean, strength, "dct2", parts=2)
    np.testing.assert_allclose(restore(model, degraded), clean / 255, atol=1e-3)
    # Rings that have no frequency at this size say nothing: no large number cancels, whatever the order of the sums.
    assert np.abs(model.get_weights()[2]).max() < 100


def test_chunks_change_no_mixture(sample):
    whole, parts = (fit_mixture(sample.train_images[:100], "noisy", 3, chunk=size) for size in (100, 7))
    for first, second in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("levels", "parts", "message"),
    [
        (np.arange(8.0), 2, "levels must be 40 finite numbers, one an image, got 8"),
        (np.full(40, np.nan), 2, "levels must be 40 finite numbers"),
        (np.full(40, 1.5), 2, "levels must differ from image to image, all are 1.5: one linear filter is enough"),
        (np.arange(40.0), 1, "parts must be a whole number from 2 to 1024, got 1"),
        (np.arange(40.0), 6, "the number of image pairs must be a whole number from 48 .* got 40"),
    ],
)
def test_bad_levels_are_refused(levels, parts, message):
    images = np.zeros((40, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=message):
        classical.fit_linear_mixture(images, images, levels, "dct1", parts)


# --- the classical restorers ----------------------------------------------------------------------------------------------

CASES = [
    (name, protocol)
    for name, restorer in classical.RESTORERS.items()
    for protocol in ("gauss2", "reference", "noisy", "awgn25", "blind", "awgn")
    if protocol not in ("blind", "awgn") or name == "linear_mixture"
    if restorer.fits(degradations.get_protocol(protocol))
]


def gain(restorer, sample, protocol, count=12):
    clean = sample.test_images[:count]
    degraded = degradations.degrade(clean, protocol)
    before = metrics.evaluate(clean, np.clip(degradations.as_float(degraded), 0, 1))["psnr"]
    return metrics.evaluate(clean, restorer(degraded))["psnr"] - before


@pytest.mark.parametrize(("name", "protocol"), CASES)
def test_tuned_on_some_images_it_gains_on_others(name, protocol, sample):
    clean = sample.train_images[: {"linear": 200, "linear_mixture": 200, "richardson_lucy": 3}.get(name, 6)]
    restorer = classical.make_restorer(name, protocol).fit(degradations.degrade(clean, protocol), clean)
    least = {
        "gauss2": {"unsharp": 1.8, "wiener": 4.0, "richardson_lucy": 3.0, "total_variation": 4.0},
        "reference": {"unsharp": 1.5, "wiener": 9.0, "richardson_lucy": 3.0, "total_variation": 9.0},
        "noisy": {"unsharp": 0.2, "wiener": 0.5, "richardson_lucy": 0.2},
        "awgn25": {"non_local_means": 4.0, "wavelet": 4.8, "total_variation": 4.5},
        "blind": {"linear_mixture": 3.0},
        "awgn": {"linear_mixture": 3.0},
    }[protocol].get(name, 1.0)
    assert gain(restorer, sample, protocol) > least, restorer.chosen


def test_where_the_border_is_known_the_wiener_filter_inverts_a_blur_exactly():
    """Without rounding there is nothing to regularise: what comes back is the clean image, borders included."""
    clean = np.random.default_rng(0).random((1, 20, 24, 3))
    protocol = degradations.Protocol("sharp", "a narrow blur", "-", sigma=0.5)
    blur = layers.GaussianBlur(0.5)
    degraded = keras.ops.convert_to_numpy(blur(clean.astype(np.float32)))
    restorer = classical.Wiener(protocol)
    np.testing.assert_allclose(restorer._restore(degraded, sigma=0.5, balance=1e-12), clean, atol=2e-4)


def test_fitting_takes_the_best_of_what_is_tried(sample):
    clean = sample.train_images[:4]
    degraded = degradations.degrade(clean, "gauss1")
    restorer = classical.make_restorer("unsharp", "gauss1").fit(degraded, clean)
    best = metrics.evaluate(clean, restorer(degraded))["mse"]
    for amount in restorer.grid["amount"]:
        other = np.clip(restorer._restore(degradations.as_float(degraded), **(restorer.chosen | {"amount": amount})), 0, 1)
        assert metrics.evaluate(clean, other)["mse"] >= best


def test_restorers_refuse_what_they_cannot_do(sample):
    degraded = degradations.degrade(sample.test_images[:2], "gauss2")
    with pytest.raises(RuntimeError, match="Wiener must be fitted before it restores"):
        classical.make_restorer("wiener", "gauss2")(degraded)
    with pytest.raises(ValueError, match="restorer must be one of linear, linear_mixture, unsharp, .*; got 'magic'"):
        classical.make_restorer("magic", "gauss2")
    with pytest.raises(ValueError, match="NonLocalMeans is not for the protocol gauss2"):
        classical.make_restorer("non_local_means", "gauss2")
    with pytest.raises(ValueError, match="same shape"):
        classical.make_restorer("unsharp", "gauss2").fit(degraded, sample.test_images[:3])
    with pytest.raises(ValueError, match="degraded must be uint8"):
        classical.make_restorer("unsharp", "gauss2").fit(degraded.astype(int), sample.test_images[:2])


@pytest.mark.parametrize("name", list(classical.RESTORERS))
def test_before_it_is_fitted_it_says_so(name, sample):
    protocol = "noisy" if classical.RESTORERS[name].fits("noisy") else "gauss2"
    restorer = classical.make_restorer(name, protocol)
    message = f"{type(restorer).__name__} must be fitted before it restores: call fit"
    with pytest.raises(RuntimeError, match=message):
        restorer(sample.test_images[:2])
    if isinstance(restorer, classical._Denoiser):  # what it tries depends on the Wiener filter before it
        with pytest.raises(RuntimeError, match=message):
            restorer.choices()
    else:
        assert all(len(values) > 0 for values in restorer.choices().values())


GREY = np.zeros((9, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: classical.fit_linear_filter(GREY, None, "dct1"), "clean must be an array of numbers"),
        (lambda: classical.fit_linear_filter(GREY, GREY, "dct3"), "transform must be one of dct1, dct2; got 'dct3'"),
        (lambda: classical.fit_linear_filter(GREY, GREY, "dct1", chunk=0), "chunk must be a whole number from 1"),
        (lambda: classical.fit_linear_filter(GREY, GREY, "dct1", offset="no"), "offset must be one of True, False"),
        (lambda: classical.fit_linear_mixture(GREY, GREY, "strong", "dct1", 2), "the number of image pairs must be"),
        (lambda: classical.fit_linear_mixture(GREY, GREY, np.arange(9), "dct1", "2"), "parts must be a whole number"),
        (lambda: classical.Wiener(None), "protocol must be one of"),
        (lambda: classical.Wiener.fits("gauss9"), "protocol must be one of"),
        (lambda: classical.make_restorer(["wiener"], "gauss2"), "restorer must be one of"),
        (lambda: classical.make_restorer("linear_mixture", "blind").fit(GREY, 5), "clean must be uint8"),
        (lambda: classical.make_restorer("wiener", "gauss2").fit(GREY, GREY / 255), "clean must be uint8"),
    ],
)
def test_the_argument_that_is_wrong_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_richardson_lucy_is_scikit_images_away_from_the_border():
    """Periodic images; with many periods round one of them, scikit-image's black border does not reach it."""
    from skimage.restoration import richardson_lucy

    kernel = np.array([0.1, 0.25, 0.3, 0.25, 0.1])
    image = np.random.default_rng(0).random((12, 16)).astype(np.float32)
    found = classical._richardson_lucy(image[None], kernel, 5)[0]
    wide = np.pad(image.astype(np.float64), 48, mode="wrap")
    expected = richardson_lucy(wide, np.outer(kernel, kernel), num_iter=5, clip=False, filter_epsilon=1e-6)[48:-48, 48:-48]
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["wiener", "richardson_lucy"])
def test_what_must_know_the_kernel_does_not_fit_where_there_are_several_kinds(name):
    restorer = classical.RESTORERS[name]
    assert restorer.fits("gauss2") and restorer.fits("blind")
    assert not any(restorer.fits(protocol) for protocol in ("camera", "photo", "photo_blurred"))
    assert classical.make_restorer("total_variation", "camera").deblur is None  # and the denoisers begin with none there
