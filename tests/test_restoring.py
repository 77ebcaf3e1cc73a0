"""Pictures of any size, depth and number of channels; files that are no pictures; weights that are not what was released."""

import copy
import functools
import io
import itertools
import json
import logging
import os
import pickle
import re
import sys
import types
import warnings

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import PIL.ImageOps
import processes
import pytest

from lstm_ae_lib import __main__, cifar10, classical, degradations, metrics, paths, peers, pictures, restoring, spectral, weights
from lstm_ae_lib._backend import keras
from lstm_ae_lib.kernels import blur, disc, motion
from lstm_ae_lib.models import reference_lstm_autoencoder
from lstm_ae_lib.study import releasing, runs
from lstm_ae_lib.tasks import photographs


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """``same``, which returns what it is given, and ``near``, which sees eleven pixels far and starts from nothing linear."""
    folder = tmp_path_factory.mktemp("weights")
    keras.utils.set_random_seed(0)
    for name, arguments in {"same": {"linear_start": "dct1"}, "near": {}}.items():
        arguments = {"image_shape": [16, 16, 3], "width": 4, "depth": 5, **arguments}
        model = peers.dncnn(**arguments)
        if name == "near":
            last = model.get_layer("last")
            last.set_weights([0.3 * numbers(*weight.shape) - 0.15 for weight in last.get_weights()])
        weights.write(model, folder, name, "dncnn", arguments, card={"task": "a test"})
    return folder


@pytest.fixture
def same(store):
    return restoring.load_restorer("same", store)


@pytest.mark.backends
def test_released_weights_come_back(store):
    restorer = restoring.load_restorer("near", store)
    assert weights.released(store) == ["near", "same"] and restorer.card == {"task": "a test"}
    images = numbers(2, 16, 16, 3)
    expected = keras.ops.convert_to_numpy(restorer.model(images))
    np.testing.assert_allclose(restorer(images), np.clip(expected, 0, 1), atol=1e-6)
    assert not np.allclose(restorer(images), images, atol=0.01)


@pytest.mark.parametrize("shape", [(2, 2), (16, 16), (17, 30), (40, 9)])
def test_a_restorer_takes_images_of_any_size(same, shape):
    images = numbers(1, *shape, 3)
    np.testing.assert_allclose(same(images), images, atol=2e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_shape_and_dtype_stay_and_alpha_is_kept(same, dtype, channels):
    image = numbers(30, 21, *([channels] if channels else []))
    image = image.astype(dtype) if np.dtype(dtype).kind == "f" else (image * np.iinfo(dtype).max).astype(dtype)
    restored = restoring.restore(image, same, tile=16, overlap=4)
    assert restored.shape == image.shape and restored.dtype == image.dtype
    # 16 bits are more than float32's arithmetic in a cosine transform keeps.
    atol = {np.uint8: 0, np.uint16: 1}.get(dtype, 2e-6)
    np.testing.assert_allclose(restored.astype(float), image.astype(float), rtol=0, atol=atol)
    if channels == 4:
        np.testing.assert_array_equal(restored[..., 3], image[..., 3])


def test_tiles_leave_no_seam(store):
    """A quarter of the overlap is more than the five pixels that this network sees: the tiles show what the whole shows."""
    near = restoring.load_restorer("near", store)
    image = numbers(100, 76, 3)
    whole = restoring.restore(image, near)
    assert not np.allclose(whole, image, atol=0.01)
    inside = slice(0, 94), slice(0, 70)  # below and to the right the whole was continued to a multiple of the stride
    for tile, overlap in ((48, 24), (64, 30), (80, 20)):
        tiled = restoring.restore(image, near, tile=tile, overlap=overlap)
        np.testing.assert_allclose(tiled[inside], whole[inside], atol=1e-5)


def test_tiles_cover_everything_are_of_one_size_and_no_larger_than_they_must():
    for size in range(1, 200):
        tiles = restoring._tiles(size, 32, 8)
        (length,) = {part.stop - part.start for part in tiles}
        covered = np.zeros(size, int)
        for part in tiles:
            covered[part] += 1
        assert tiles[0].start == 0 and tiles[-1].stop == size and covered.min() > 0
        assert all(before.stop - after.start >= 8 for before, after in zip(tiles, tiles[1:], strict=False))
        assert length == min(size, 32) or length % 8 == 0 and len(tiles) * (length - 8) < size + (len(tiles) - 1) * 8
    for size, count, length in ((512, 1, 512), (600, 2, 336), (3000, 7, 488), (4000, 9, 504)):
        tiles = restoring._tiles(size, restoring.TILE, restoring.OVERLAP)
        assert (len(tiles), tiles[0].stop) == (count, length)  # 336 x 336 in the place of 512 x 512 are less than half


def test_the_linear_filter_works_at_another_size(sample):
    """Fitted on 32x32, it takes the blur of a larger picture away."""
    import skimage.data

    clean = sample.train_images[:400]
    fitted = classical.fit_linear_filter(degradations.degrade(clean, "gauss2"), clean, "dct1")
    photo = skimage.data.astronaut()[None, 40:168, 160:258]
    blurred = degradations.degrade(photo, "gauss2")
    small = fitted.layers[-1]
    assert all((one == two).all() for one, two in zip(small.get_weights(), spectral.resized_filter(small, 32, 32), strict=True))
    larger = spectral.linear_filter(photo.shape[1:], "dct1")
    larger.layers[-1].set_weights(spectral.resized_filter(small, 128, 98))
    restored = keras.ops.convert_to_numpy(larger(blurred / np.float32(255)))
    before, after = (np.mean((image - photo / 255) ** 2) for image in (blurred / 255, restored))
    assert after < 0.5 * before


def test_the_mixture_works_at_another_size_and_finds_the_sigma_there(sample):
    import skimage.data

    clean = sample.train_images
    sigmas = degradations.sampled_strengths("blind", len(clean))
    fitted = classical.fit_linear_mixture(degradations.degrade(clean, "blind"), clean, sigmas, "dct1")
    photo = skimage.data.astronaut()[None, 40:168, 160:258]
    larger = spectral.linear_mixture(photo.shape[1:])
    larger.layers[-1].set_weights(spectral.resized_filter(fitted.layers[-1], 128, 98))
    for protocol in ("gauss1", "gauss2", "gauss3"):
        blurred = degradations.degrade(photo, protocol)
        restored = keras.ops.convert_to_numpy(larger(blurred / np.float32(255)))
        before, after = (np.mean((image - photo / 255) ** 2) for image in (blurred / 255, restored))
        assert after < 0.6 * before, protocol


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 5, 3), np.uint8), r"not empty, got \(0, 5, 3\)"),
        (np.zeros((5, 5, 2), np.uint8), r"got \(5, 5, 2\)"),
        (np.zeros(5, np.uint8), r"got \(5,\)"),
        (np.zeros((1, 5), np.uint8), "at least 2 pixels high and wide, got 1 x 5"),
        (np.zeros((5, 5), np.int32), "image must be uint8, uint16, or floating in .0, 1., got int32"),
        (np.full((5, 5, 3), 1.5), "image must lie in .0, 1., got values from 1.5 to 1.5"),
        (np.full((5, 5, 3), np.nan), "image must"),
    ],
)
def test_what_is_no_image_is_refused(same, image, message):
    with pytest.raises(ValueError, match=message):
        restoring.restore(image, same)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_what_a_function_returns_is_clipped(dtype, channels):
    image = numbers(20, 30, *([channels] if channels else []))
    image = image.astype(dtype) if np.dtype(dtype).kind == "f" else (image * np.iinfo(dtype).max).astype(dtype)
    top = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    for value, expected in ((1.01, top), (-0.01, 0), (300.0, top), (-300.0, 0)):
        restored = restoring.restore(image, lambda batch, value=value: np.full_like(batch, value), tile=16, overlap=4)
        assert restored.dtype == dtype
        np.testing.assert_array_equal(restored[..., :3] if channels == 4 else restored, np.full_like(image[..., :3], expected)
                                      if channels == 4 else np.full_like(image, expected))  # fmt: skip


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_function_that_returns_no_number_is_refused(wrong):
    def spoilt(batch):
        batch = batch.copy()
        batch[0, 3, 4, 1] = wrong
        return batch

    for dtype, strength in ((np.uint8, 1), (np.float32, 1), (np.uint8, 0.5)):
        with pytest.raises(ValueError, match="restored must be finite, got 1 values that are NaN or infinite"):
            restoring.restore(np.zeros((9, 9, 3), dtype), spoilt, strength=strength)
    with pytest.raises(ValueError, match=r"floats, of its image's shape \(1, 9, 9, 3\), got float32 \(1, 9, 9, 1\)"):
        restoring.restore(np.zeros((9, 9, 3), np.uint8), lambda batch: batch[..., :1])
    with pytest.raises(ValueError, match=r"restorer must return floats, of its image's shape .*, got uint8 \(1, 9, 9, 3\)"):
        restoring.restore(np.zeros((9, 9, 3), np.uint8), lambda batch: (255 * batch).astype(np.uint8))


def test_a_pil_image_is_restored(same):
    palette = PIL.Image.fromarray((255 * numbers(20, 30, 3)).astype(np.uint8)).quantize(16)
    np.testing.assert_array_equal(restoring.restore(palette, same), np.asarray(palette.convert("RGB")))


def test_a_restorer_can_be_pickled_and_copied(store):
    near = restoring.load_restorer("near", store)
    image = numbers(1, 20, 30, 3)
    for again in (pickle.loads(pickle.dumps(near)), copy.deepcopy(near)):
        assert (again.name, again.builder, again.card) == (near.name, near.builder, near.card) and again.model is not near.model
        np.testing.assert_array_equal(again(image), near(image))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the warning is TensorFlow's")
def test_images_of_many_sizes_bring_no_warning(store, caplog):
    restorers = [restoring.load_restorer(name, store) for name in ("near", "same")]
    logger = logging.getLogger("tensorflow")
    logger.addHandler(caplog.handler)
    try:
        for size in (16, 24, 32, 40, 48, 56, 64):
            for restorer in restorers:
                found = restorer(numbers(1, size, size, 3))
                restorer(numbers(2, size, size, 3))
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.text
    expected = restorers[-1]._at_size(64, 64).predict_on_batch(numbers(1, 64, 64, 3))
    np.testing.assert_array_equal(found, np.clip(expected, 0, 1))


LOADED = functools.cache(restoring.load_restorer)


@pytest.fixture
def loaded_once(monkeypatch):
    """Released weights stay in memory from one test to the next."""
    monkeypatch.setattr(restoring, "load_restorer", LOADED)


def degraded_by(image, blur=lambda image: image, noise=0, quality=None):
    """A blur, noise in grey levels, 8 bits, JPEG."""
    image = blur(image / np.float32(255)) * 255 + noise * np.random.default_rng(0).standard_normal(image.shape)
    image = np.rint(np.clip(image, 0, 255)).astype(np.uint8)
    return degradations.jpeg(image, quality) if quality else image


def gaussian(sigma):
    return lambda image: cv2.GaussianBlur(image, (0, 0), sigma)


def defocused(image):
    return blur(image, disc(3, 15))


def shaken(image):
    return blur(image, motion(9, 0.7, 15))


def part_of(title, size=160):
    return pictures.photographs()[title][-size:, 150 : 150 + size]


@pytest.mark.parametrize(
    ("name", "title", "options", "why"),
    [
        ("gauss2", "astronaut", {}, "degraded again"),
        ("gauss2", "chelsea", {"quality": 90}, "degraded again"),
        ("gauss2", "coffee", {"blur": gaussian(1.2), "quality": 90}, "degraded again"),
        ("gauss2", "rocket", {"blur": defocused, "noise": 2, "quality": 92}, "degraded again"),
        ("gauss2", "astronaut", {"blur": gaussian(2), "noise": 3}, "degraded again"),
        ("gauss2", "chelsea", {"blur": shaken, "noise": 3, "quality": 85}, "degraded again"),
        ("gauss2", "coffee", {"blur": lambda image: degradations.enlarged(image, 2)}, "degraded again"),
        ("blind", "astronaut", {}, "noise and finest detail"),
        ("blind", "chelsea", {"noise": 10}, "noise and finest detail"),
        ("blind", "coffee", {"blur": defocused, "noise": 2, "quality": 92}, "noise and finest detail"),
        ("noisy", "astronaut", {}, "its noise"),
        ("noisy", "chelsea", {"quality": 80}, "its noise"),
        ("noisy", "coffee", {"noise": 40}, "its noise"),
        ("reference", "rocket", {"quality": 20}, "degraded again"),
        ("awgn", "astronaut", {}, "neighbouring pixels"),
    ],
)
def test_weights_that_do_not_fit_are_told(loaded_once, name, title, options, why):
    clean = part_of(title)
    seen = degraded_by(clean, **options)
    with pytest.warns(pictures.PictureWarning, match=f"^the weights {name} hardly fit this picture.*{why}.*; {name} restores what"):
        restored = restoring.restore(seen, name)
    before, after = (metrics.per_image(clean[None], image[None])["mse"][0] for image in (seen, restored))
    assert after > 1.05 * before


@pytest.mark.parametrize("name", weights.released())
def test_weights_that_fit_are_used_without_a_word(loaded_once, name):
    """Of four photographs; blind-cifar makes three of them worse, and says so."""
    protocol, silent = restoring.load_restorer(name).card["protocol"], 0
    for position, title in enumerate(pictures.photographs()):
        clean = part_of(title)
        # From position 15 the strengths are moderate: 1 to 2.4 pixels, 19 to 44 grey levels.
        degraded = degradations.as_float(degradations.degrade(clean[None], protocol, position + 15)[0])
        with warnings.catch_warnings(record=True, action="always") as said:
            restored = restoring.restore(np.clip(degraded, 0, 1), name)
        before, after = (np.mean((image - clean / 255) ** 2) for image in (degraded, restored))
        before = max(before, 1e-4)  # some that photo draws are hardly degraded, or not at all
        assert bool(said) == (after > before), f"{title}: {before:.5f} -> {after:.5f}, {[str(one.message) for one in said]}"
        silent += not said
    assert silent == (1 if name == "blind-cifar" else 4)


def text_of(size, mode):
    image = PIL.Image.new("RGB", (256, 256), "white")
    draw = PIL.ImageDraw.Draw(image)
    draw.fontmode = mode
    words = "\n".join(["The quick brown fox jumps over 0123456789"] * 25)
    draw.multiline_text((3, 3), words, "black", PIL.ImageFont.load_default(size))
    return np.asarray(image)


DOWN, ACROSS = np.mgrid[:256, :256]
DRAWN = {
    "small print": text_of(12, "1"), "smooth print": text_of(16, "L"), "a chequer of one pixel": 255 * ((DOWN + ACROSS) % 2),
    "a faint one": 100 + 56 * ((DOWN + ACROSS) % 2), "of two": 255 * ((DOWN // 2 + ACROSS // 2) % 2),
    "stripes": 255 * (DOWN // 3 % 2), "stripes down": 255 * (ACROSS // 2 % 2), "dots": 255 * ((DOWN % 8 == 0) & (ACROSS % 8 == 0)),
    "a mosaic": np.kron(np.random.default_rng(0).integers(0, 256, (32, 32)), np.ones((8, 8), int)),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_a_drawn_pattern_is_no_photograph_and_photo_says_so(loaded_once, name):
    """It takes them for noise or blur. They are sound; with ``strict`` they stay as they are."""
    drawn = DRAWN[name].astype(np.uint8)
    found = restoring.measured(drawn, pictures.to_colours(drawn), "photo")
    assert any(not low <= found[name] <= high for name, (low, high) in restoring.FITTING["photo"].items()), found
    with pytest.raises(pictures.PictureWarning, match="the weights photo"):
        restoring.restore(drawn, strict=True)


@pytest.mark.parametrize("case", photographs.CASES)
def test_photo_restores_photographs_without_a_word(case):
    """In each state that its card has; by what is measured, without restoring."""
    limits = restoring.FITTING["photo"]
    for place, picture in enumerate(pictures.photographs().values()):
        degraded = degradations.through_camera(picture, np.random.default_rng(place), **photographs.CASES[case])
        found = restoring.measured(degraded, pictures.to_colours(degraded), "photo")
        assert all(low <= found[name] <= high for name, (low, high) in limits.items()), found


@pytest.mark.parametrize("noise", [0, 40, 60, 80])
def test_clipped_pixels_make_no_drawing_of_a_photograph(noise):
    """Half of them black, or of three times the contrast, which clips two in five; with noise, which then differs by much."""
    dark = pictures.photographs()["coffee"]
    hard = np.clip(3.0 * dark - 256, 0, 255).astype(np.uint8)
    dark = dark * (dark.mean(axis=2, keepdims=True) > 80).astype(np.uint8)
    for picture in (dark, hard):
        degraded = degradations.through_camera(picture, np.random.default_rng(0), noise=noise / 255)
        found = restoring.measured(degraded, pictures.to_colours(degraded), "photo")
        assert all(low <= found[name] <= high for name, (low, high) in restoring.FITTING["photo"].items()), found


def test_noise_far_above_what_photo_was_trained_on_is_reduced_too():
    """Earlier weights broke down there."""
    image = part_of("astronaut")
    for level in (100, 220):
        noisy = degradations.through_camera(image, np.random.default_rng(0), noise=level / 255)
        restored = restoring.restore(noisy)  # a warning is an error here
        before, after = (metrics.per_image(image[None], one[None])["psnr"][0] for one in (noisy, restored))
        assert after > before + 5


def test_black_white_and_pure_colours_come_back_as_they_were():
    """Weights whose attention had no bound made 1e35 of them, in [0, 1]. Where they still fail they leave the image alone."""
    corners = np.array(list(itertools.product((0, 1), repeat=3)), np.float32)
    flat = np.broadcast_to(corners[:, None, None], (8, 64, 64, 3))
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        restored = restoring.load_restorer("photo")(flat)
    assert np.abs(restored - flat).max() < 0.1 and np.sqrt(np.mean((restored - flat) ** 2)) < 0.005


def test_a_chequer_that_makes_photo_explode_stays_as_it_was():
    chequer = np.repeat((DOWN // 2 + ACROSS // 2)[None, :64, :64, None] % 2, 3, axis=3).astype(np.float32)
    calm = np.full((1, 64, 64, 3), 0.5, np.float32)
    with pytest.warns(pictures.PictureWarning, match="the weights photo fail on an image unlike all"):
        restored = restoring.load_restorer("photo")(np.concatenate([chequer, calm]))
    np.testing.assert_array_equal(restored[0], chequer[0])
    assert 0 < np.abs(restored[1] - calm[0]).max() < 0.02
    said = "the weights photo fail on an image unlike all .* or a tile of one, which stays as it was"
    with pytest.raises(ValueError, match=said):
        restoring.restore((255 * chequer[0]).astype(np.uint8), strict=True)


def test_an_image_on_which_a_network_explodes_stays_as_it_was():
    restorer = restoring.load_restorer("photo")
    calm = restorer.model.get_weights()
    restorer.model.set_weights([10 * weight for weight in calm])
    image = numbers(16, 16, 3)
    image = np.stack([image, np.zeros_like(image)]).astype(np.float32)
    with pytest.warns(pictures.PictureWarning, match="the weights photo fail on an image unlike all"):
        restored = restoring.ReleasedRestorer("photo", restorer.model, restorer.builder, restorer.arguments, {})(image)
    restorer.model.set_weights(calm)
    np.testing.assert_array_equal(restored, image)


def test_a_small_image_or_other_weights_are_not_judged(loaded_once, same):
    image = (255 * numbers(63, 80, 3)).astype(np.uint8)
    assert restoring.restore(image, "gauss2").shape == image.shape  # a warning is an error here
    with pytest.warns(pictures.PictureWarning, match="hardly fit"):
        restoring.restore((255 * numbers(64, 80, 3)).astype(np.uint8), "gauss2")
    np.testing.assert_array_equal(restoring.restore(part_of("coffee"), same, strict=True), part_of("coffee"))


@pytest.mark.parametrize("name", ["gauss1", "gauss2", "gauss3", "reference"])
def test_blurred_again_is_the_protocol(name):
    clean = pictures.photographs()["coffee"][:200, :300]
    found = restoring._blurred(clean.astype(float), degradations.get_protocol(name))
    np.testing.assert_array_equal(found, degradations.degrade(clean[None], name)[0])


def test_what_is_measured_is_what_it_says():
    noise = np.clip(0.5 + 0.02 * np.random.default_rng(0).standard_normal((400, 400, 3)), 0, 1).astype(np.float32)
    found = restoring.measured(noise, noise, "noisy")
    assert found["noise"] == pytest.approx(5.1, rel=0.02) and found["whiteness"] == pytest.approx(1, abs=0.02)
    assert found["rise"] == 1 and found["change"] == found["misfit"] == 0
    clean = pictures.photographs()["coffee"][:400, :400]
    blurred = degradations.degrade(clean[None], "gauss2")[0] / 255
    found = restoring.measured(blurred, clean / 255, "gauss2")
    assert found["misfit"] == 0 and found["noise"] < 0.3 and found["rise"] > 2  # of the truth, degraded again, the picture is left
    neighbours = max(2, np.sqrt(sum(np.mean(np.diff(255 * blurred, axis=axis) ** 2) for axis in (0, 1))))
    assert found["change"] == pytest.approx(np.sqrt(np.mean((255 * blurred - clean) ** 2)) / neighbours, rel=0.02)


@pytest.mark.parametrize("photo_released", [True, False])
def test_strict_stops_and_writes_nothing(loaded_once, monkeypatch, capsys, tmp_path, photo_released):
    restoring.load_restorer("gauss2")
    monkeypatch.setattr(weights, "released", lambda folder=None: ["gauss2", *["photo"] * photo_released])
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    pictures.write(source, part_of("coffee", 64))
    words = "the weights gauss2 hardly fit this picture.*; gauss2 restores what"
    with pytest.raises(ValueError, match=words):
        restoring.restore_file(source, target, "gauss2", strict=True)
    assert __main__.main(["restore", str(source), str(target), "--weights", "gauss2", "--strict", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert re.match(f"error: {words}", said) and said.count("\n") == 1 and not target.exists()
    assert said.endswith("; the weights photo are for pictures with an unknown degradation\n") == photo_released
    assert __main__.main(["restore", str(source), str(target), "--weights", "gauss2", "--quiet"]) == 0
    assert capsys.readouterr().err == said.replace("error: ", "note: ") and target.exists()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_strength_blends(dtype, channels):
    image = numbers(30, 21, *([channels] if channels else [])).astype(float)
    top = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    image = (image * top).astype(dtype)
    blend = {strength: restoring.restore(image, lambda batch: 3 * batch**2, strength=strength, tile=16, overlap=4)
             for strength in (0, 0.25, 1)}  # fmt: skip
    np.testing.assert_array_equal(blend[0], image)
    np.testing.assert_array_equal(blend[1], restoring.restore(image, lambda batch: 3 * batch**2, tile=16, overlap=4))
    assert all(made.dtype == dtype and made is not image for made in blend.values())
    expected = 0.25 * blend[1].astype(float) + 0.75 * image
    np.testing.assert_allclose(blend[0.25], expected, rtol=0, atol=1 if np.dtype(dtype).kind == "u" else 1e-6)
    assert channels == 4 or not np.allclose(blend[1] / top, image / top, atol=0.1)


def test_the_ways_of_laying_an_image_are_eight_and_can_be_undone():
    images = numbers(2, 5, 3, 3)
    ways = [restoring.lay(images, way) for way in range(8)]
    assert len({way.tobytes() for way in ways}) == 8 and [way.shape[1] for way in ways] == [5] * 4 + [3] * 4
    np.testing.assert_array_equal(ways[1], images[:, :, ::-1])
    np.testing.assert_array_equal(ways[6], images[:, ::-1].swapaxes(1, 2))
    for way, laid in enumerate(ways):
        np.testing.assert_array_equal(restoring.lay(laid, way, back=True), images)


@pytest.mark.parametrize("ensemble", [1, 2, 4, 8])
def test_an_ensemble_is_the_average_over_ways_of_laying_the_picture(ensemble):
    image, seen = numbers(30, 21, 3).astype(np.float32), []

    def leaning(batch):  # what it makes of a pixel depends on where that is
        seen.append(batch.shape)
        return np.cumsum(batch, axis=2) / batch.shape[2] + np.cumsum(batch, axis=1)[:, ::-1] / 100

    made = restoring.restore(image, leaning, ensemble=ensemble)
    assert seen == ([(1, 30, 21, 3)] * 4 + [(1, 21, 30, 3)] * 4)[:ensemble]
    ways = [restoring.lay(leaning(restoring.lay(image[None], way)), way, back=True)[0] for way in range(ensemble)]
    np.testing.assert_allclose(made, np.clip(np.mean(ways, axis=0), 0, 1), rtol=0, atol=1e-6)
    tiled = restoring.restore(image, lambda batch: batch**2, ensemble=ensemble, tile=16, overlap=4)
    np.testing.assert_allclose(tiled, image**2, rtol=0, atol=1e-6)

    def halved(batch):  # in place: the other ways must not see it
        batch *= 0.5
        return batch

    np.testing.assert_allclose(restoring.restore(image, halved, ensemble=ensemble), image / 2, rtol=0, atol=1e-6)


def test_an_ensemble_errs_less(tmp_path, capsys):
    """In a file, too; and the weights photo, trained on mirror images, gain by each way."""
    image = pictures.photographs()["coffee"][100:196, 200:328]
    noisy = degradations.through_camera(image, np.random.default_rng(0), noise=10 / 255)
    restored = [restoring.restore(noisy, "photo", ensemble=ensemble) for ensemble in (1, 4, 8)]
    values = [metrics.per_image(image[None], one[None])["psnr"][0] for one in restored]
    assert values[0] + 0.1 < values[1] < values[2]
    pictures.write(tmp_path / "in.png", noisy)
    assert __main__.main(["restore", str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--ensemble", "8", "--quiet"]) == 0
    np.testing.assert_array_equal(pictures.read(tmp_path / "out.png"), restored[2])
    words = ["restore", str(tmp_path / "in.png"), str(tmp_path / "new.png"), "--ensemble", "2", "--map", str(tmp_path / "map.png")]
    assert __main__.main(words) == 2 and not (tmp_path / "new.png").exists()
    assert "map is of a picture that is restored once, got ensemble 2 beside it" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        __main__.main(["restore", "in.png", "out.png", "--ensemble", "3"])
    assert "--ensemble: invalid choice: 3 (choose from 1, 2, 4, 8)" in capsys.readouterr().err


def test_without_a_name_the_weights_are_those_for_any_photograph():
    """And they are safe: nothing is said, and nearly nothing happens to a picture that is not degraded."""
    image = pictures.photographs()["coffee"][:96, :128]
    restored = restoring.restore(image)
    np.testing.assert_array_equal(restored, restoring.restore(image, "photo"))
    assert metrics.per_image(image[None], restored[None])["psnr"][0] > 42
    noisy = degradations.through_camera(image, np.random.default_rng(0), noise=10 / 255)
    before, after = (metrics.per_image(image[None], one[None])["psnr"][0] for one in (noisy, restoring.restore(noisy)))
    assert after > before + 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 40}, "tile must be"),
        ({"overlap": 0}, "overlap must be"),
        *(({"strength": value}, f"strength must be a number from 0 to 1, got {value!r}") for value in (-0.1, 1.1, True, "1")),
        ({"strength": float("nan")}, "strength must be a number from 0 to 1, got nan"),
        ({"strict": 1}, "strict must be one of True, False; got 1"),
        *(({"ensemble": value}, f"ensemble must be one of 1, 2, 4, 8; got {value!r}") for value in (0, 3, 16, "2", None)),
    ],
)
def test_bad_options_are_refused(same, options, message):
    with pytest.raises(ValueError, match=message):
        restoring.restore(np.zeros((5, 5), np.uint8), same, **options)


def test_weights_that_are_not_the_released_ones_are_refused(store, tmp_path):
    with pytest.raises(FileNotFoundError, match="there are no released weights in"):
        restoring.load_restorer("gauss2", tmp_path)
    with pytest.raises(ValueError, match="weights must be one of near, same; got 'other'"):
        restoring.load_restorer("other", store)
    with pytest.raises(ValueError, match="weights must be 1 to 100 letters"):
        restoring.load_restorer("../same", store)
    for name in ("same.json", "same.weights.h5"):
        (tmp_path / name).write_bytes((store / name).read_bytes())
    content = bytearray((tmp_path / "same.weights.h5").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "same.weights.h5").write_bytes(content)
    with pytest.raises(ValueError, match="same.weights.h5 is damaged: its SHA-256 is not the one in same.json"):
        restoring.load_restorer("same", tmp_path)
    (tmp_path / "same.weights.h5").unlink()
    with pytest.raises(FileNotFoundError, match="there is no .*same.weights.h5"):
        restoring.load_restorer("same", tmp_path)


# --- files -----------------------------------------------------------------------------------------------------------


def photo(height=24, width=35, channels=3, dtype=np.uint8):
    smooth = cv2.resize(numbers(4, 5, channels), (width, height)).reshape(height, width, channels)
    return (smooth * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".jpeg"])
def test_files_in_and_out(same, tmp_path, suffix):
    image = photo()
    cv2.imwrite(str(tmp_path / "in.png"), image[..., ::-1])
    assert restoring.restore_file(tmp_path / "in.png", tmp_path / f"out{suffix}", same) == (24, 35, 3)
    found = np.asarray(PIL.Image.open(tmp_path / f"out{suffix}"))
    assert np.abs(found.astype(int) - image).mean() <= (0 if suffix.lower() == ".png" else 8)


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (1, np.uint16), (3, np.uint16), (4, np.uint8), (4, np.uint16)])
def test_depth_grey_and_alpha_survive(same, tmp_path, channels, dtype):
    image = photo(channels=channels, dtype=dtype)
    order = [2, 1, 0, 3][:channels] if channels > 1 else [0]
    cv2.imwrite(str(tmp_path / "in.png"), image[..., order])
    restoring.restore_file(tmp_path / "in.png", tmp_path / "out.png", same)
    found = cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED).reshape(image.shape)[..., order]
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype(int), image, atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_respected(same, tmp_path, orientation):
    exif = PIL.Image.Exif()
    exif[274] = orientation
    PIL.Image.fromarray(photo()).save(tmp_path / "in.png", exif=exif)
    upright = PIL.ImageOps.exif_transpose(PIL.Image.open(tmp_path / "in.png"))
    restoring.restore_file(tmp_path / "in.png", tmp_path / "out.png", same)
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(tmp_path / "out.png")), np.asarray(upright))


def broken(folder, kind):
    path = folder / "in.png"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a picture")
    elif kind == "cut":
        cv2.imwrite(str(path), photo(200, 200))
        path.write_bytes(path.read_bytes()[:-3000])
    elif kind == "cut jpeg":
        path = folder / "in.jpg"
        cv2.imwrite(str(path), (255 * numbers(200, 200, 3)).astype(np.uint8))
        path.write_bytes(path.read_bytes()[:20000])
    elif kind == "animated":
        frames = [PIL.Image.fromarray(photo()), PIL.Image.fromarray(photo()[::-1])]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    elif kind == "large":
        path.write_bytes(_header(20000, 20000))
    elif kind == "gif":
        PIL.Image.fromarray(photo()).save(folder / "in.gif")
        path = folder / "in.gif"
    return path


def _header(width, height):
    """A PNG that claims a size."""
    import zlib

    chunk = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    end = b"IEND"
    parts = [len(part[4:]).to_bytes(4, "big") + part + zlib.crc32(part).to_bytes(4, "big") for part in (chunk, end)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "there is no file"),
        ("empty", "is empty"),
        ("text", "is neither a PNG nor a JPEG picture"),
        ("gif", "is neither a PNG nor a JPEG picture"),
        ("cut", "is damaged"),
        ("cut jpeg", "is damaged"),
        ("animated", r"is animated \(2 frames\)"),
        ("large", "is too large"),
    ],
)
def test_what_is_no_picture_gets_one_line_and_code_2(monkeypatch, capsys, store, tmp_path, kind, message):
    monkeypatch.setattr(paths, "released_dir", lambda kind="": store)
    source, target = broken(tmp_path, kind), tmp_path / "out.png"
    target.write_bytes(b"what was there")
    assert __main__.main(["restore", str(source), str(target), "--weights", "same", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert message.replace("\\", "") in said and said.count("\n") == 1
    assert target.read_bytes() == b"what was there"
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize(
    ("target", "channels", "message"),
    [
        ("out.tiff", 3, "the suffix of the file to write must be one of .png, .jpg, .jpeg; got '.tiff'"),
        ("out.jpg", 4, "in.png has an alpha channel, which JPEG cannot hold: write a .png"),
    ],
)
def test_targets_that_cannot_be_are_refused(same, tmp_path, target, channels, message):
    cv2.imwrite(str(tmp_path / "in.png"), photo(channels=channels))
    with pytest.raises(ValueError, match=message):
        restoring.restore_file(tmp_path / "in.png", tmp_path / target, same)
    assert not (tmp_path / target).exists()


def test_a_damaged_description_takes_one_line(monkeypatch, capsys, store, tmp_path):
    monkeypatch.setattr(paths, "released_dir", lambda kind="": tmp_path)
    description = json.loads((store / "same.json").read_text())
    (tmp_path / "same.weights.h5").write_bytes((store / "same.weights.h5").read_bytes())
    cv2.imwrite(str(tmp_path / "in.png"), photo())
    without_card = {key: value for key, value in description.items() if key != "card"}
    for damaged in ({**description, "sha256": None}, {"card": {}}, [], without_card):
        (tmp_path / "same.json").write_text(json.dumps(damaged))
        assert __main__.main(["restore", str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--weights", "same"]) == 2
        said = capsys.readouterr().err
        assert "same.json is damaged: it lacks" in said and said.count("\n") == 1


def test_the_command_line_reads_and_writes_pipes(monkeypatch, capsysbinary, store, tmp_path):
    monkeypatch.setattr(paths, "released_dir", lambda kind="": store)
    content = cv2.imencode(".png", photo())[1].tobytes()
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))
    assert __main__.main(["restore", "-", "-", "--weights", "same", "--quiet"]) == 0
    said = capsysbinary.readouterr()
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(said.out, np.uint8), cv2.IMREAD_UNCHANGED), photo())
    assert said.err == b"-: 35 x 24 pixels, restored with same, which a test\n"
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    assert __main__.main(["restore", f"/dev/fd/{reading}", str(tmp_path / "out.png"), "--weights", "same", "--quiet"]) == 0
    os.close(reading)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out.png")), photo())


def test_the_command_line_shows_each_warning_in_one_line(monkeypatch, capsys, store, tmp_path):
    monkeypatch.setattr(paths, "released_dir", lambda kind="": store)
    monkeypatch.setattr(restoring, "DEFAULT", "same")
    PIL.Image.fromarray(photo()).save(tmp_path / "in.png", exif=b"Exif\0\0MM\0*", gamma=1.0)
    for _ in range(2):
        assert __main__.main(["restore", str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--quiet"]) == 0
        assert capsys.readouterr().err == "note: in.png: broken and ignored: EXIF\n"


def test_the_command_line_restores_a_picture(monkeypatch, capsys, store, tmp_path):
    monkeypatch.setattr(paths, "released_dir", lambda kind="": store)
    cv2.imwrite(str(tmp_path / "in.png"), photo())
    assert __main__.main(["restore", str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--weights", "same"]) == 0
    assert "out.png: 35 x 24 pixels, restored with same, which a test\n" in capsys.readouterr().out
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out.png")), cv2.imread(str(tmp_path / "in.png")))
    command = ["restore", str(tmp_path / "in.png"), str(tmp_path / "half.png"), "--weights", "same", "--strength"]
    assert __main__.main([*command, "0.5"]) == 0
    capsys.readouterr()
    assert __main__.main([*command, "1.5"]) == 2
    assert capsys.readouterr().err == "error: strength must be a number from 0 to 1, got 1.5\n"


def test_memory_grows_with_the_picture_only(store, tmp_path):
    """4 megapixels, in a process of its own: 12 bytes a pixel three times over, and not a network's layers at full size."""
    code = """
import json, resource, sys
import numpy as np
from lstm_ae_lib import restoring
restorer = restoring.load_restorer("near", sys.argv[1])
restoring.restore(np.zeros((512, 512, 3), np.uint8), restorer)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
restoring.restore(np.zeros((2048, 2048, 3), np.uint8), restorer)
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""
    done = processes.run(["-c", code, store])
    assert done.returncode == 0, done.stderr
    grown = json.loads(done.stdout) * (1024 if sys.platform == "linux" else 1)
    assert grown < 60 * 2048 * 2048


@pytest.fixture
def finished_run(tmp_path, monkeypatch):
    """A run as the notebooks leave it, of a network that adds nothing to its linear start."""
    monkeypatch.setenv("LSTM_AE_DATA", str(tmp_path))
    monkeypatch.setattr(paths, "released_dir", lambda kind="": tmp_path / "weights" / kind)
    nothing = np.zeros((2, 32, 32, 3), np.uint8)
    images = cifar10.ImageSet(nothing, np.zeros(2), nothing, np.zeros(2), np.zeros(2), np.zeros(2), "sample", "none")
    run = runs.start_run("mine", {"protocol": "gauss2", "sigma": 1.5, "seed": 3}, images, "gauss2@sigma=1.5")
    arguments = {"image_shape": [32, 32, 3], "width": 4, "depth": 3, "linear_start": "dct1"}
    network = peers.dncnn(**arguments)
    run.save_model("autoencoder", network, "dncnn", arguments)
    run.note_training("dncnn", 1.5, 640, "10 steps")
    summary = metrics.evaluate(numbers(9, 32, 32, 3), numbers(9, 32, 32, 3, seed=1))
    run.save_records([run.new_record(restorer="dncnn", split="test", summary=summary, model=network)])
    return run


def test_a_finished_run_is_released_with_its_card(finished_run, monkeypatch):
    photograph = (numbers(40, 50, 3) * 255).astype(np.uint8)
    monkeypatch.setattr(pictures, "photographs", lambda: {"noise": photograph})
    with pytest.raises(ValueError, match="only a finished run is released; mine is interactive"):
        releasing.release_run("mine", "good")
    finished_run.update(status="finished")
    releasing.release_run("mine", "good")
    card = restoring.load_restorer("good").card
    assert card["numbers"]["dncnn"]["images"] == 9 and card["training"]["dncnn"]["images_seen"] == 640
    assert card["parameters"]["seed"] == 3 and card["run"] == "mine" and "32x32" in card["limits"]
    # Neither the filter, which has not been fitted, nor the network changes anything: all three are the blurred photograph.
    blurred = degradations.degrade(photograph[None], degradations.get_protocol("gauss2", 1.5))
    expected = metrics.per_image(photograph[None], blurred)["psnr"][0]
    assert list(card["photographs"]["noise"]) == ["degraded", "linear", "restored"]
    assert card["sample"]["images"] == 50 and card["sample"]["restored"] == pytest.approx(card["sample"]["degraded"], rel=1e-5)
    np.testing.assert_allclose(list(card["photographs"]["noise"].values()), expected, rtol=1e-5)


def test_what_was_trained_against_a_discriminator_is_released_with_its_looks_and_a_warning(finished_run, monkeypatch):
    monkeypatch.setattr(pictures, "photographs", dict)
    looks = {"frechet": 1.5, "frechet_low": 1.25, "frechet_high": 1.75, "accuracy": 0.5}
    finished_run.save_records([record | looks | {"restorer": "gan"} for record in finished_run.records()])
    finished_run.update(status="finished", protocol="gauss2", parameters={"seed": 3})  # notebook 21 has no parameter protocol
    finished_run.note_training("gan", 1.5, 640, "10 steps")
    releasing.release_run("mine", "sharp")
    card = restoring.load_restorer("sharp").card
    assert card["protocol"] == "gauss2" and looks.items() <= card["numbers"]["gan"].items() and "discriminator" in card["limits"]


def test_what_was_trained_on_pictures_is_released_with_what_it_does_case_by_case(finished_run, monkeypatch, capsys):
    photograph = (numbers(40, 50, 3) * 255).astype(np.uint8)
    monkeypatch.setattr(pictures, "photographs", lambda: {"noise": photograph})
    monkeypatch.setattr(photographs, "CASES", {"untouched": {}, "JPEG 20": {"quality": 20}})
    monkeypatch.setattr(photographs, "other_pictures", lambda: {"page": photograph[:30]})
    monkeypatch.setattr(photographs, "draw_fills", lambda place: photograph[:30])
    data = {"kind": "pictures", "hash": "none"}
    finished_run.update(status="finished", protocol="camera", data=data, parameters={"protocol": "camera", "seed": 3})
    assert __main__.main(["release", "mine", "any"]) == 0
    card = restoring.load_restorer("any").card
    assert "32x32" not in card["limits"] and "photographs" in card["limits"]
    assert [case["case"] for case in card["cases"]] == ["untouched", "JPEG 20", *photographs.OTHER_CASES, *photographs.FILL_CASES]
    compressed = metrics.per_image(photograph[None], degradations.jpeg(photograph, 20)[None])["psnr"][0]
    assert card["cases"][1]["before"] == pytest.approx(compressed) and abs(card["cases"][1]["least"]) < 0.01
    assert len(card["cases of 256 pixels"]) == 7
    number = r" +[+-]?\d+\.\d\d"
    row = rf"photographs +JPEG 20 +1{number * 2} +[+-]0\.0\d +[+-]0\.0\d{number} +[+-]0\.0\d +[+-]0\.0\d"
    assert re.search(row, capsys.readouterr().out)
    averaged = restoring.restore(degradations.jpeg(photograph, 20), "any", ensemble=8)
    expected = metrics.per_image(photograph[None], averaged[None])["psnr"][0]
    assert card["cases"][1]["averaged"] == pytest.approx(expected)
    assert card["cases"][1]["least_averaged"] == pytest.approx(expected - compressed)


def test_a_card_is_measured_anew(finished_run, monkeypatch, capsys):
    finished_run.update(status="finished")
    monkeypatch.setattr(pictures, "photographs", lambda: {"noise": (numbers(40, 50, 3) * 255).astype(np.uint8)})
    releasing.release_run("mine", "one")
    assert __main__.main(["card", "one", "--measure"]) == 2
    assert "only photo, or a compressor for one rate, can be measured anew, got one" in capsys.readouterr().err
    path = weights.released_dir() / "one.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps(described | {"card": described["card"] | {"cases": []}}))
    monkeypatch.setattr(releasing, "_on_pictures", lambda restorer: {"cases": [{
        "pictures": "photographs", "case": "snow", "images": 1, "before": 20.0, "after": 21.5, "averaged": 22.25, "least": 1.5,
        "least_averaged": 2.25}]})  # fmt: skip
    assert __main__.main(["card", "one", "--measure"]) == 0
    row = "| photographs | snow | 1 | 20.00 | 21.50 | +1.50 | +1.50 | 22.25 | +2.25 | +2.25 |"
    assert row in capsys.readouterr().out and row in (weights.released_dir() / "one.md").read_text()
    assert restoring.load_restorer("one").card["cases"][0]["case"] == "snow"


def test_release_by_the_command_line(finished_run, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "photographs", lambda: {"noise": (numbers(40, 50, 3) * 255).astype(np.uint8)})
    finished_run.update(status="finished")
    assert __main__.main(["release", "mine", "good"]) == 0
    assert "dncnn" in capsys.readouterr().out and weights.released() == ["good"]
    assert __main__.main(["release", "other", "good"]) == 2
    assert "there is no run 'other'" in capsys.readouterr().err
    assert __main__.main(["release", "mine", "../good"]) == 2


@pytest.mark.parametrize("axis", [0, 1])
def test_a_line_of_1024_pixels_is_restored_as_well_as_its_pieces_of_128(axis):
    """Scans go along whole lines: what they learned on short ones must hold on long ones."""
    halves = (pictures.photographs()[name][200:248, :512] for name in ("astronaut", "coffee"))
    clean = np.concatenate(list(halves), axis=1).swapaxes(0, 1 - axis)
    degraded = degradations.through_camera(clean, np.random.default_rng(0), **photographs.CASES["Gaussian 2, noise 3"])
    restorer, seen = restoring.load_restorer("photo"), degraded[None] / np.float32(255)
    whole = restorer(seen)[0]
    pieces = np.concatenate([restorer(piece)[0] for piece in np.split(seen, 8, axis=1 + axis)], axis=axis)
    before, at_once, apart = (metrics.per_image(clean[None], image[None])["psnr"][0] for image in (degraded, whole, pieces))
    assert at_once > apart - 0.05 and at_once > before + 0.5


def test_photographs_are_larger_than_what_was_trained_on():
    photographs = pictures.photographs()
    assert len(photographs) >= 3
    for photograph in photographs.values():
        assert photograph.dtype == np.uint8 and photograph.shape[2] == 3 and min(photograph.shape[:2]) >= 300


RELEASED = weights.released()


def test_there_are_released_weights():
    assert "gauss2" in RELEASED


@pytest.mark.backends
@pytest.mark.parametrize("name", RELEASED)
def test_released_weights_restore_as_their_card_says(name):
    """On every backend and with every supported Keras: the same PSNR on the bundled sample's images."""
    restorer = restoring.load_restorer(name)
    expected = restorer.card["sample"]
    found = releasing.measure_sample(restorer, restorer.card["protocol"])
    assert found == pytest.approx(expected, rel=1e-4)
    # By the error on all test images: a mean PSNR lives by the images that were hardly degraded.
    errors = {title: numbers["mse"] for title, numbers in restorer.card["numbers"].items()}
    own = restorer.builder
    assert errors[own] < 0.9 * min(error for title, error in errors.items() if title not in (own, "gan"))
    if "gan" in errors:  # sharper, at a price: at most 1.5 dB more error than the flagship, and looks more natural by a half
        numbers = restorer.card["numbers"]
        assert errors["flagship"] < errors["gan"] < 10**0.15 * errors["flagship"]
        assert numbers["gan"]["frechet"] < 0.5 * numbers["flagship"]["frechet"]
        assert numbers["gan"]["accuracy"] > numbers["flagship"]["accuracy"]


@pytest.mark.parametrize("name", RELEASED)
def test_released_weights_have_a_card_and_are_small(name):
    folder = weights.released_dir()
    assert sum((folder / f"{name}{end}").stat().st_size for end in (".json", ".weights.h5")) <= 4 * 2**20
    card = json.loads((folder / f"{name}.json").read_text())["card"]
    assert {"task", "protocol", "numbers", "training", "parameters", "data", "versions", "hardware", "run", "limits"} <= set(card)
    assert card["data"]["kind"] == ("pictures" if name.startswith("photo") else "full")
    assert card["versions"]["commit"] and "+changes" not in card["versions"]["commit"]
    assert {"degraded", "linear"} < set(card["numbers"])


def test_tiles_of_released_weights_leave_no_seam():
    """At a cut edge the inverse of a blur is wrong for some twenty pixels; what the tiles show there must not be."""
    restorer = restoring.load_restorer("gauss2")
    photograph = pictures.photographs()["astronaut"][100:296, 60:460]
    blurred = degradations.degrade(photograph[None], "gauss2")[0]
    whole = restoring.restore(blurred, restorer, tile=400).astype(float)
    difference = {
        overlap: np.abs(restoring.restore(blurred, restorer, tile=200, overlap=overlap) - whole)
        for overlap in (16, restoring.OVERLAP)
    }
    assert difference[restoring.OVERLAP].mean(axis=(0, 2)).max() < 1
    assert difference[16].mean(axis=(0, 2)).max() > 3


def test_a_side_that_does_not_divide_costs_nothing():
    """112 rows, or 111: what is restored of the rows that both have is the same but for the outermost."""
    restorer = restoring.load_restorer("gauss2")
    photograph = pictures.photographs()["astronaut"][100:212, 60:172]
    psnr = {}
    for size in (112, 111, 109, 105):
        clean = photograph[:size, :size]
        restored = restoring.restore(degradations.degrade(clean[None], "gauss2")[0], restorer)
        psnr[size] = metrics.per_image(clean[None, :100, :100], restored[None, :100, :100])["psnr"][0]
    assert max(psnr.values()) - min(psnr.values()) < 0.3, psnr


def test_compressors_and_classifiers_are_released_to_their_own_folders(finished_run, monkeypatch, tmp_path, capsys, sample):
    from lstm_ae_lib.tasks import codec, compression, perception

    summary = metrics.evaluate(numbers(9, 32, 32, 3), numbers(9, 32, 32, 3, seed=1))
    rates = {"bits_per_pixel": 0.5, "bits_per_pixel_in_file": 0.7}
    monkeypatch.setattr(releasing, "RATE_IMAGES", 20)
    finished_run.save_records([finished_run.new_record(restorer="compressor", split="test", summary=summary) | rates])
    arguments = {"latent": 30, "step": 0.25, "width": 0}
    made_codec = codec.fit_codec(compression.compressor(**arguments), sample.train_images[:50])
    weights.write(made_codec.model, finished_run.folder, "compressor", "compressor", arguments, **codec.described(made_codec))
    finished_run.update(status="finished")
    assert __main__.main(["release", "mine", "small"]) == 0
    assert "compress/small.json: compressor" in capsys.readouterr().out
    again = codec.load_codec("small")
    assert again.fingerprint == made_codec.fingerprint
    assert again.card["run"] == "mine" and again.card["numbers"]["bits_per_pixel"] == 0.5
    rates = {one["size"]: one for one in again.card["rates"]}
    assert list(rates) == list(releasing.SIZES) and rates[0]["bits_per_pixel"] > rates[4]["bits_per_pixel"] > 0
    assert rates[-4]["psnr"] > rates[0]["psnr"] > rates[4]["psnr"] and rates[0]["images"] == 20
    monkeypatch.setattr(releasing, "SIZES", (2,))
    assert __main__.main(["card", "compress/small", "--measure"]) == 0
    row = f"| 2^(2/4) | {rates[2]['bits_per_pixel']:.3f} | {rates[2]['psnr']:.2f} | {rates[2]['ssim']:.3f} |"
    assert row in capsys.readouterr().out and codec.load_codec("small").card["rates"] == [rates[2]]
    finished_run.save_model("classifier", perception.classifier(width=2), "classifier", {"width": 2})
    finished_run.update(classifier={"accuracy": 0.25, "accuracy_low": 0.2, "accuracy_high": 0.3, "images": 9})
    assert __main__.main(["release", "mine", "small"]) == 0
    assert "classify/small.json: classifier" in capsys.readouterr().out
    assert perception.load_classifier("small").card["accuracy"] == 0.25
    assert weights.released(tmp_path / "weights" / "classify") == ["small"]


def test_a_compressor_for_all_rates_is_released_with_its_numbers_at_each(finished_run, sample, capsys):
    from lstm_ae_lib.tasks import any_rate, codec

    arguments = {"width": 4, "memory": 6, "hidden": 5, "sizes": [10, 20]}
    model = any_rate.any_rate_compressor(**arguments)
    any_rate.start_from_images(model, sample.train_images[:50])
    made = codec.codec_of(model, {"builder": "any_rate_compressor", "arguments": arguments}, "any")
    measured = []
    for size in (10, 20):
        decoded, counted = made.measure(sample.test_images[:5], size)
        summary = metrics.evaluate(sample.test_images[:5], decoded)
        record = finished_run.new_record(restorer="any_rate_compressor", split="test", summary=summary)
        rates = dict.fromkeys(("bits_per_pixel", "bits_per_pixel_in_file"), float(counted.mean() / 128))
        measured.append(record | {"setting": 2 ** (size / 8 - 4)} | rates)
    finished_run.save_records(measured)
    weights.write(model, finished_run.folder, "compressor", "any_rate_compressor", arguments, **codec.described(made))
    finished_run.update(status="finished")
    for kind, limits in (("full", "has seen none"), ("pictures", "Trained on small crops of photographs")):
        finished_run.update(data=finished_run.record["data"] | {"kind": kind})
        releasing.release_run("mine", "free")
        for engine in restoring.ENGINES:
            again = codec.load_codec("free", engine=engine)
            assert again.fingerprint == made.fingerprint and again.sizes == (10, 20) and limits in again.card["limits"]
        psnr = {name: numbers["psnr"] for name, numbers in again.card["numbers"].items()}
        assert list(psnr) == ["steps of 0.354", "steps of 0.149"] and psnr["steps of 0.149"] > psnr["steps of 0.354"]
    assert codec.choose(0) == ("free", 20)
    assert __main__.main(["card", "compress/free"]) == 0
    assert "- `free-context.npz` (what foretells numbers): SHA-256 `" in capsys.readouterr().out


def test_lstm_autoencoders_are_released_apart_from_what_restore_offers(finished_run, capsys):
    network = reference_lstm_autoencoder()
    finished_run.save_model("autoencoder", network, "reference_lstm_autoencoder", {})
    finished_run.update(status="finished")
    assert __main__.main(["release", "mine", "small"]) == 0
    assert "lstm/small.json: reference_lstm_autoencoder, 170,848 parameters" in capsys.readouterr().out
    assert weights.released(weights.released_dir("lstm")) == ["small"] and not weights.released(weights.released_dir())
    again, description = weights.read_released("small", weights.released_dir("lstm"))
    assert "photographs" not in description["card"] and description["card"]["sample"]["images"] == releasing.SAMPLE_IMAGES
    np.testing.assert_array_equal(again.get_weights()[0], network.get_weights()[0])


def test_the_released_lstm_autoencoder_restores_as_its_card_says():
    restorer = restoring.load_restorer("gauss2", weights.released_dir("lstm"))
    assert releasing.measure_sample(restorer, "gauss2") == pytest.approx(restorer.card["sample"], rel=1e-4)
    errors = {title: numbers["mse"] for title, numbers in restorer.card["numbers"].items()}
    assert errors["linear"] < errors["reference_lstm"] < 0.5 * errors["degraded"]
    assert restorer.model.count_params() == 170_848 and "+changes" not in restorer.card["versions"]["commit"]
