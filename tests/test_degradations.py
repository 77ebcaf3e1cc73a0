import dataclasses

import cv2
import numpy as np
import pytest
import scipy.ndimage

from lstm_ae_lib import degradations, layers
from lstm_ae_lib._backend import keras

OPENCV = ("gauss1", "gauss2", "gauss3")
PROTOCOLS = tuple(name for name, protocol in degradations.PROTOCOLS.items() if protocol.in_graph)


def run(layer, images):
    return keras.ops.convert_to_numpy(layer(images))


# --- the definitions --------------------------------------------------------------------------------------------------


def test_reference_is_scipys_filter_on_each_uint8_image(clean):
    expected = np.stack([scipy.ndimage.gaussian_filter(image, sigma=1.0) for image in clean])
    np.testing.assert_array_equal(degradations.degrade(clean, "reference"), expected)


def test_reference_leaks_colour_and_truncates(clean):
    dot = np.zeros((1, 9, 9, 3), np.uint8)
    dot[0, 4, 4] = (255, 0, 0)
    assert degradations.degrade(dot, "reference")[0, 4, 4].tolist() == [25, 11, 2]
    # The colour mixing rows of a sigma of 1 on an axis of three, SciPy's border.
    mixing = degradations.blur_matrix(3, degradations.kernel_taps(1.0, "reflect"), "reflect")
    np.testing.assert_allclose(mixing, [[0.641, 0.296, 0.063], [0.296, 0.408, 0.296], [0.063, 0.296, 0.641]], atol=5e-4)
    darker = clean.mean() - degradations.degrade(clean, "reference").mean()
    assert 1.2 < darker < 1.6


@pytest.mark.parametrize("name", OPENCV)
def test_opencv_protocols_are_opencvs_filter(name, clean):
    sigma = {"gauss1": 1, "gauss2": 2, "gauss3": 3}[name]
    expected = [cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101) for image in clean]
    np.testing.assert_array_equal(degradations.degrade(clean, name), np.stack(expected))


def test_blind_is_opencvs_filter_with_a_sigma_for_each_image(clean):
    sigmas = degradations.sampled_strengths("blind", 4000)
    assert 0 < sigmas.min() < 0.01 and 2.99 < sigmas.max() < 3 and abs(sigmas.mean() - 1.5) < 0.05
    expected = [cv2.GaussianBlur(image, (0, 0), sigma) for image, sigma in zip(clean, sigmas, strict=False)]
    np.testing.assert_array_equal(degradations.degrade(clean, "blind"), np.stack(expected))
    np.testing.assert_array_equal(degradations.sampled_strengths("blind", 5, first_index=7), sigmas[7:12])
    with pytest.raises(ValueError, match=r"gauss2 degrades every image alike \(others: blind, noisy, awgn\)"):
        degradations.sampled_strengths("gauss2", 3)
    with pytest.raises(ValueError, match="camera draws more than a strength"):
        degradations.sampled_strengths("camera", 3)


def test_awgn_is_noise_of_another_strength_for_each_image():
    grey = np.full((400, 16, 16, 3), 128, np.uint8)
    noise, strengths = degradations.degrade(grey, "awgn") / 255 - 128 / 255, degradations.sampled_strengths("awgn", 400)
    assert 0 <= strengths.min() < 0.005 and 54 / 255 < strengths.max() <= 55 / 255
    np.testing.assert_allclose(noise.std(axis=(1, 2, 3)), np.sqrt(strengths**2 + 1 / 12 / 255**2), rtol=0.15, atol=6e-4)


def test_noisy_is_a_blur_and_noise_of_two_percent(clean):
    degraded, sigmas = degradations.degrade(clean, "noisy"), degradations.sampled_strengths("noisy", len(clean))
    assert degraded.dtype == np.float32 and sigmas.min() > 1 and sigmas.max() < 4
    blurred = [cv2.GaussianBlur(image / np.float32(255), (5, 5), sigma) for image, sigma in zip(clean, sigmas, strict=True)]
    noise = degraded - np.stack(blurred)
    assert abs(noise.std() / 0.02 - 1) < 0.02 and abs(noise.mean()) < 5e-4
    assert len({image.tobytes() for image in noise}) == len(clean)  # another for each image
    assert abs(np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]) < 0.02


def test_cold_is_fifty_blurs_without_rounding(clean):
    image = clean[0] / np.float32(255)
    for step in range(50):
        image = cv2.GaussianBlur(image, (11, 11), 0.35 + step / 100, borderType=cv2.BORDER_REFLECT_101)
    degraded = degradations.degrade(clean[:1], "cold")
    assert degraded.dtype == np.float32
    np.testing.assert_array_equal(degraded[0], image)
    np.testing.assert_array_equal(degradations.degrade(clean[:1], "cold8")[0], np.rint(image * 255))


@pytest.mark.parametrize("level", [15, 25, 50])
def test_awgn_is_noise_clipped_and_rounded(level):
    grey = np.full((20, 32, 32, 3), 128, np.uint8)
    degraded = degradations.degrade(grey, f"awgn{level}")
    assert degraded.dtype == np.uint8 and abs((degraded - 128.0).std() / level - 1) < 0.02
    assert set(degradations.degrade(np.zeros_like(grey), f"awgn{level}")[:, 0, 0, 0]) != {0}
    assert degradations.degrade(np.zeros_like(grey), f"awgn{level}").mean() == pytest.approx(level / np.sqrt(2 * np.pi), rel=0.03)


def test_camera_draws_five_blurs_noise_and_jpeg_with_their_shares():
    """A grey image with one dot, by what is left of it; noise is seen far from the dot."""
    protocol = degradations.PROTOCOLS["camera"]
    dots = np.zeros((2000, 33, 33, 3), np.uint8)
    dots[:, 16, 16] = 255
    alone = dataclasses.replace(protocol, name="alone", noise_share=0.0, jpeg_share=0.0)
    blurred = degradations.degrade(dots, alone)
    assert (blurred == dots).all(axis=(1, 2, 3)).mean() == pytest.approx(0.1 + 0.35 * 0.1, abs=0.03)  # none, and small sigmas
    np.testing.assert_array_equal(blurred[..., 0], blurred[..., 2])
    grey = np.full((2000, 16, 16, 3), 128, np.uint8)
    noise = degradations.degrade(grey, dataclasses.replace(alone, noise_share=0.8)).std(axis=(1, 2, 3))
    assert (noise > 0.3).mean() == pytest.approx(0.8, abs=0.05) and noise.max() == pytest.approx(12, abs=1)
    assert noise[noise > 0].mean() == pytest.approx(6, abs=0.4)
    red = np.tile(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8), (500, 1, 1, 1))
    none = dataclasses.replace(alone, blurs=((1.0, "none", 0, 0),), jpeg_share=0.7)
    made = degradations.degrade(red, none)
    assert (made != red).any(axis=(1, 2, 3)).mean() == pytest.approx(0.7, abs=0.06)
    files = {image.tobytes() for image in made}
    possible = {degradations.jpeg(red[0], quality).tobytes() for quality in range(50, 99)} | {red[0].tobytes()}
    assert files <= possible and len(files) > 40


@pytest.mark.parametrize("kind", degradations.BLURS)
def test_each_kind_of_blur_keeps_constants_and_blurs_less_than_its_highest_strength(kind, clean):
    high = {"motion": 13.0, "none": 0.0}.get(kind, 3.0)
    low = {"motion": 1.0, "none": 0.0, "enlarged": 1.0}.get(kind, 0.3)
    only = dataclasses.replace(degradations.PROTOCOLS["camera"], name=kind, blurs=((1.0, kind, low, high),), noise_share=0.0,
                               jpeg_share=0.0)  # fmt: skip
    grey = np.full((50, 24, 20, 3), 100, np.uint8)
    np.testing.assert_array_equal(degradations.degrade(grey, only), grey)
    change = np.abs(degradations.degrade(clean, only).astype(int) - clean).mean(axis=(1, 2, 3))
    most = dataclasses.replace(only, blurs=((1.0, kind, high, high),))
    assert (change.max() == 0) == (kind == "none")
    assert change.mean() <= np.abs(degradations.degrade(clean, most).astype(int) - clean).mean()


def test_photo_leaves_a_tenth_untouched_and_reaches_further(clean):
    images = np.repeat(clean, 40, axis=0)
    seen = degradations.degrade(images, "photo")
    untouched = (seen == images).all(axis=(1, 2, 3)).mean()
    assert untouched == pytest.approx(0.1 + 0.9 * 0.2 * 0.3 * 0.35, abs=0.04)
    camera, photo = (degradations.PROTOCOLS[name] for name in ("camera", "photo"))
    highest = [{kind: high for _, kind, _, high in one.blurs} for one in (camera, photo)]
    assert all(highest[1][kind] > high for kind, high in highest[0].items() if kind != "none")


def test_photo_blurred_has_the_parts_of_photo_in_other_shares(clean):
    photo, blurred = (degradations.PROTOCOLS[name] for name in ("photo", "photo_blurred"))
    parts, mine = ({tuple(part): share for share, *part in one.blurs} for one in (photo, blurred))
    assert set(parts) == set(mine) and sum(mine.values()) == pytest.approx(1) == sum(parts.values())
    assert mine["motion", 1, 17] > 1.4 * parts["motion", 1, 17] and blurred.untouched_share < photo.untouched_share
    kept = ("kernel", "noise_range", "noise_share", "jpeg_share", "jpeg_range", "source")
    assert [getattr(blurred, name) for name in kept] == [getattr(photo, name) for name in kept]
    seen = degradations.degrade(np.repeat(clean, 40, axis=0), "photo_blurred")
    untouched = (seen == np.repeat(clean, 40, axis=0)).all(axis=(1, 2, 3)).mean()
    assert untouched == pytest.approx(0.06 + 0.94 * 0.12 * 0.3 * 0.35, abs=0.03)


def test_crops_of_any_size_can_be_photographed():
    for shape in ((1, 2, 3, 3), (2, 96, 50, 3)):
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        for name in ("camera", "photo", "photo_blurred"):
            assert degradations.degrade(images, name, first_index=4).shape == shape


def test_enlarging_and_jpeg_are_opencvs(clean):
    image = clean[0]
    small = cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(degradations.enlarged(image, 2.0), cv2.resize(small, (32, 32), interpolation=cv2.INTER_CUBIC))
    errors = [np.abs(degradations.jpeg(image, quality).astype(int) - image).mean() for quality in (10, 50, 95)]
    assert errors[0] > errors[1] > errors[2] > 0
    grey = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    assert np.abs(degradations.jpeg(grey, 95).astype(int) - grey).max() <= 2  # colours stay where they are


def test_untouched_images_have_the_errors_that_the_protocols_state(sample):
    """On the sample's 500 test images; the stated values are of all 10,000."""
    stated = {
        "blind": 6.337e-3,
        "noisy": 6.732e-3,
        "cold": 0.136**2,
        "awgn15": 10**-2.479,
        "awgn25": 10**-2.049,
        "awgn50": 10**-1.494,
        "camera": 6.314e-3,
    }
    for name, error in stated.items():
        seen = np.clip(degradations.as_float(degradations.degrade(sample.test_images, name)), 0, 1)
        assert np.square(seen - sample.test_images / 255.0).mean() == pytest.approx(error, rel=0.08), name


@pytest.mark.parametrize("name", [name for name in degradations.PROTOCOLS if name not in PROTOCOLS])
def test_those_without_an_operator_say_so(name):
    with pytest.raises(ValueError, match=f"the protocol {name} has no in-graph operator"):
        degradations.operator(name)
    with pytest.raises(ValueError, match=f"sigma must be 0 for the protocol {name} .others: reference, gauss1, gauss2, gauss3."):
        degradations.get_protocol(name, 1.0)


def test_as_float_divides_eight_bits_and_keeps_floats(clean):
    np.testing.assert_array_equal(degradations.as_float(clean), clean / np.float32(255))
    floats = degradations.degrade(clean, "noisy")
    assert degradations.as_float(floats) is floats


def test_a_part_is_degraded_as_the_whole_is(clean):
    for name in degradations.PROTOCOLS:
        whole = degradations.degrade(clean, name)
        np.testing.assert_array_equal(degradations.degrade(clean[5:7], name, first_index=5), whole[5:7])


# --- the in-graph operator --------------------------------------------------------------------------------------------


@pytest.mark.backends
@pytest.mark.parametrize("name", PROTOCOLS)
def test_eight_bit_operator_gives_the_same_pixels(name, sample):
    images = sample.test_images[:200]
    restored = run(degradations.operator(name), (images / 255).astype(np.float32)) * 255
    np.testing.assert_allclose(restored, np.round(restored), atol=1e-4)
    wrong = np.count_nonzero(np.round(restored) != degradations.degrade(images, name))
    if name == "reference" and keras.backend.backend() == "jax":  # no float64 there
        assert wrong <= 1e-3 * images.size
    else:
        assert wrong == 0


@pytest.mark.backends
@pytest.mark.parametrize("name", PROTOCOLS)
def test_float_operator_equals_the_library_before_rounding(name, unit):
    protocol = degradations.get_protocol(name)
    if protocol.engine == "scipy":
        expected = np.stack([scipy.ndimage.gaussian_filter(image.astype(np.float64), protocol.sigma) for image in unit])
    else:
        size = 2 * degradations.kernel_radius(protocol.sigma, "reflect_101") + 1
        expected = np.stack([cv2.GaussianBlur(image, (size, size), protocol.sigma) for image in unit])
    np.testing.assert_allclose(run(degradations.operator(name, eight_bit=False), unit), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 48, 33, 3), (2, 7, 5, 3), (1, 1, 40, 3)])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_operator_equals_the_library_at_any_size(name, shape):
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    restored = np.round(run(degradations.operator(name), (images / 255).astype(np.float32)) * 255)
    np.testing.assert_array_equal(restored, degradations.degrade(images, name))


@pytest.mark.parametrize("sigma", [0.3, 0.5, 0.8, 1.4, 2.5, 5.0])
def test_eight_bit_operator_at_other_widths(sigma, clean):
    protocol = degradations.get_protocol("gauss2", sigma)
    restored = np.round(run(degradations.operator(protocol), (clean / 255).astype(np.float32)) * 255)
    np.testing.assert_array_equal(restored, degradations.degrade(clean, protocol))


@pytest.mark.parametrize("border", ["reflect", "reflect_101"])
def test_the_matching_cosine_transform_diagonalises_the_blur(border):
    from lstm_ae_lib.spectral import cosine_basis

    matrix = degradations.blur_matrix(32, degradations.kernel_taps(2.0, border), border)
    forward, inverse = cosine_basis(32, {"reflect": "dct2", "reflect_101": "dct1"}[border])
    spectrum = forward @ matrix @ inverse
    np.testing.assert_allclose(spectrum - np.diag(np.diag(spectrum)), 0, atol=1e-12)
    forward, inverse = cosine_basis(32, {"reflect": "dct1", "reflect_101": "dct2"}[border])
    spectrum = forward @ matrix @ inverse
    assert np.abs(spectrum - np.diag(np.diag(spectrum))).max() > 1e-2


def test_gradient_is_the_adjoint():
    """The linear operator's gradient of <y, A x> is A^T y."""
    import tensorflow as tf

    generator = np.random.default_rng(1)
    x, y = (tf.constant(generator.random((1, 12, 10, 3)), tf.float32) for _ in range(2))
    operator = degradations.operator("gauss2", eight_bit=False)
    with tf.GradientTape() as tape:
        tape.watch(x)
        inner = tf.reduce_sum(operator(x) * y)
    gradient = tape.gradient(inner, x)
    np.testing.assert_allclose(tf.reduce_sum(gradient * x), inner, rtol=1e-5)


# --- properties -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eight_bit", [True, False])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_constant_stays_constant(name, eight_bit):
    for level in (0, 1, 100, 254, 255):
        images = np.full((1, 32, 32, 3), level, np.uint8)
        np.testing.assert_array_equal(degradations.degrade(images, name), images)
        restored = run(degradations.operator(name, eight_bit), (images / 255).astype(np.float32))
        np.testing.assert_allclose(restored, images / 255, atol=3e-7)


@pytest.mark.parametrize("name", OPENCV)
def test_an_impulse_gives_the_kernel(name):
    protocol = degradations.get_protocol(name)
    impulse = np.zeros((1, 41, 41, 3), np.float32)
    impulse[0, 20, 20] = 1
    taps = degradations.kernel_taps(protocol.sigma, "reflect_101")
    radius = len(taps) // 2
    answer = run(degradations.operator(name, eight_bit=False), impulse)[0, :, :, 0]
    np.testing.assert_allclose(answer[20 - radius : 21 + radius, 20 - radius : 21 + radius], np.outer(taps, taps), atol=1e-8)
    np.testing.assert_allclose(answer.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(taps, cv2.getGaussianKernel(len(taps), protocol.sigma).ravel(), rtol=1e-12)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 0.85, 1.0, 1.2, 1.5, 2.0, 2.37, 3.0, 4.9, 8.0])
def test_integer_taps_are_what_opencv_blurs_an_impulse_with(sigma):
    taps = degradations.opencv_taps_in_256ths(sigma)
    radius = len(taps) // 2
    stripe = np.zeros((4 * radius + 3, 4 * radius + 3), np.uint8)
    stripe[:, 2 * radius + 1] = 255
    answer = cv2.GaussianBlur(stripe, (len(taps), len(taps)), sigma, borderType=cv2.BORDER_REFLECT_101)[0]
    found = answer[radius + 1 : 3 * radius + 2]
    np.testing.assert_array_equal(found, np.floor(255 * np.array(taps) / 256 + 0.5))
    assert sum(taps) == 256


@pytest.mark.parametrize("name", OPENCV)
def test_channels_do_not_mix(name, clean):
    red = clean.copy()
    red[..., 1:] = 0
    assert (degradations.degrade(red, name)[..., 1:] == 0).all()
    assert (run(degradations.operator(name), (red / 255).astype(np.float32))[..., 1:] == 0).all()


def test_two_blurs_are_one_wider_blur_away_from_the_border(unit):
    first, second, both = (layers.GaussianBlur(sigma, border="reflect") for sigma in (1.5, 2.0, 2.5))
    twice, once = run(second, run(first, unit)), run(both, unit)
    inside = (slice(None), slice(10, -10), slice(10, -10))
    np.testing.assert_allclose(twice[inside], once[inside], atol=1e-3)
    assert np.abs(run(second, unit)[inside] - once[inside]).max() > 1e-2


def test_mirroring_commutes_with_every_protocol(clean):
    for name in PROTOCOLS:
        mirrored = degradations.degrade(clean[:, :, ::-1], name)
        np.testing.assert_array_equal(mirrored[:, :, ::-1], degradations.degrade(clean, name))


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 32, 32, 3), np.float32), "images must be uint8 .*got float32"),
        (np.zeros((32, 32, 3), np.uint8), r"images must have the shape \(batch, height, width, 3\).*got \(32, 32, 3\)"),
        (np.zeros((2, 32, 32, 1), np.uint8), r"got \(2, 32, 32, 1\)"),
        (np.zeros((0, 32, 32, 3), np.uint8), "no empty axis"),
    ],
)
def test_wrong_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        degradations.degrade(images, "gauss2")


def test_unknown_protocol_lists_the_known_ones(clean):
    said = "protocol must be one of reference, gauss1, .*, awgn50, awgn, camera, photo, photo_blurred; got 'gauss4'"
    with pytest.raises(ValueError, match=said):
        degradations.degrade(clean, "gauss4")


@pytest.mark.parametrize("sigma", [-1.0, 65.0, float("nan"), float("inf"), "2", True])
def test_absurd_sigma_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma must be a number from 0 to 64, got"):
        degradations.get_protocol("gauss2", sigma)
    with pytest.raises(ValueError, match="sigma must be a number above 0 up to 64, got"):
        layers.GaussianBlur(sigma)


def test_a_variant_says_so():
    variant = degradations.get_protocol("gauss2", 1.5)
    assert variant.name == "gauss2@sigma=1.5" and "sigma 1.5," in variant.summary and "sigma 2" not in variant.summary
    assert degradations.get_protocol(variant, 1.7).name == "gauss2@sigma=1.7"
    assert "sigma=0.6" in degradations.get_protocol("reference", 0.6).source
    assert degradations.get_protocol("gauss2", 1.2345678).name != degradations.get_protocol("gauss2", 1.2345679).name
    assert degradations.get_protocol("gauss2", 2.0) is degradations.PROTOCOLS["gauss2"]


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="engine must be one of opencv, scipy; got 'noise'"):
        degradations.Protocol("new", "", "", engine="noise")


def test_kinds_of_blur_and_shares_are_checked():
    with pytest.raises(ValueError, match="a kind of blurs must be one of none, gaussian, .*; got 'box'"):
        degradations.Protocol("new", "", "", blurs=((1.0, "box", 1, 2),))
    with pytest.raises(ValueError, match=r"the shares of blurs must sum to 1, got \[0.5, 0.4\]"):
        degradations.Protocol("new", "", "", blurs=((0.5, "none", 0, 0), (0.4, "disc", 1, 2)))
    with pytest.raises(ValueError, match="jpeg_share must be a number from 0 to 1, got 2"):
        degradations.Protocol("new", "", "", jpeg_share=2)


def test_layer_refuses_bad_arguments():
    with pytest.raises(ValueError, match="border must be one of reflect_101, reflect; got 'wrap'"):
        layers.GaussianBlur(1.0, border="wrap")
    with pytest.raises(ValueError, match="rounding 'opencv' needs border 'reflect_101'"):
        layers.GaussianBlur(1.0, border="reflect", rounding="opencv")
    with pytest.raises(ValueError, match="of a known size"):
        layers.GaussianBlur(1.0).build((None, None, 32, 3))


def test_degrading_again_draws_anew_by_position_and_epoch():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    positions = np.array([5, 6, 9])
    first = degradations.redegrade(images, "awgn", positions, 0)
    np.testing.assert_array_equal(first[:2], degradations.degrade(images[:2], "awgn", 5))
    np.testing.assert_array_equal(first[2:], degradations.degrade(images[2:], "awgn", 9))
    later = degradations.redegrade(images, "awgn", positions, 1)
    assert (first != later).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(later, degradations.redegrade(images, "awgn", positions, 1))
    np.testing.assert_array_equal(
        degradations.redegrade(images, "gauss1", positions, 4), degradations.degrade(images, "gauss1")
    )


@pytest.mark.parametrize("positions", [[0, 1], [0.0, 1.0, 2.0], [0, 1, 2**32], [-1, 0, 1]])
def test_positions_that_are_none_are_refused(positions):
    with pytest.raises(ValueError, match="positions must be 3 whole numbers below"):
        degradations.redegrade(np.zeros((3, 8, 8, 3), np.uint8), "awgn", np.array(positions), 0)


def test_what_is_random():
    assert [name for name in degradations.PROTOCOLS if not degradations.is_random(name)] == [
        "reference", "gauss1", "gauss2", "gauss3", "cold", "cold8"
    ]  # fmt: skip
    ranges = {name: protocol.strength_range for name, protocol in degradations.PROTOCOLS.items() if protocol.strength_range}
    assert ranges == {"blind": (0, 3), "noisy": (1, 4), "awgn": (0, 55 / 255)}


GREY = np.zeros((3, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: degradations.degrade([[1], [2, 3]], "gauss1"), "images must be an array of numbers"),
        (lambda: degradations.degrade(GREY, 2), "protocol must be one of reference, .*; got 2"),
        (lambda: degradations.degrade(GREY, "gauss1", 0.5), "first_index must be a whole number"),
        (lambda: degradations.redegrade(GREY, "gauss1", [0, 1, 2], -1), "epoch must be a whole number from 0"),
        (lambda: degradations.redegrade(GREY, "gauss1", None, 0), "positions must be an array of numbers"),
        (lambda: degradations.is_random(None), "protocol must be one of"),
        (lambda: degradations.sampled_strengths("blind", "3"), "count must be a whole number"),
        (lambda: degradations.sampled_strengths("blind", 3, -1), "first_index must be a whole number"),
        (lambda: degradations.as_float("cat.png"), "degraded must be an array of numbers"),
        (lambda: degradations.operator("gauss1", "no"), "eight_bit must be one of True, False; got 'no'"),
        (lambda: degradations.kernel_radius(0, "reflect"), "sigma must be a number above 0"),
        (lambda: degradations.kernel_taps(1.0, "wrap"), "border must be one of reflect_101, reflect; got 'wrap'"),
        (lambda: degradations.blur_matrix(0, [1.0], "reflect"), "size must be a whole number from 1"),
        (lambda: degradations.blur_matrix(8, [0.5, 0.5], "reflect"), "taps must be an odd number of values"),
        (lambda: degradations.blur_matrix(8, [1.0], 101), "border must be one of"),
        (lambda: degradations.Protocol("new", "", "", sigma="2"), "sigma must be a number from 0 to 64, got '2'"),
        (lambda: degradations.Protocol("new", "", "", noise=-1), "noise must be a number from 0"),
        (lambda: layers.GaussianBlur(1.0, mix_channels="yes"), "mix_channels must be one of True, False"),
        (lambda: layers.GaussianBlur(1.0, rounding=8), "rounding must be one of None, opencv, truncate; got 8"),
    ],
)
def test_the_argument_that_is_wrong_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.backends
@pytest.mark.parametrize("eight_bit", [True, False])
def test_the_operator_takes_grey_levels_for_what_they_are(eight_bit, clean):
    layer = degradations.operator("gauss2", eight_bit)
    np.testing.assert_allclose(run(layer, clean), run(layer, (clean / 255).astype(np.float32)), atol=1e-6)
