"""The peers are what their papers say: parameter counts by hand, skips where they belong, a start from the linear estimate."""

import numpy as np
import pytest

from lstm_ae_lib import classical, degradations, layers, models, peers, spectral
from lstm_ae_lib._backend import keras

pytestmark = pytest.mark.backends

BUILDERS = (peers.dncnn, peers.rednet, peers.unet, peers.nafnet)


def conv(inputs, outputs, side=3, bias=True):
    return side * side * inputs * outputs + (outputs if bias else 0)


def nafnet_block(c):
    spatial = 2 * c + conv(c, 2 * c, 1) + (9 * 2 * c + 2 * c) + conv(c, c, 1) + conv(c, c, 1) + c
    return spatial + 2 * c + conv(c, 2 * c, 1) + conv(c, c, 1) + c


def by_hand(name):
    if name == "dncnn":  # batch normalisation: scale, shift, moving mean and variance
        return conv(3, 64) + 8 * (conv(64, 64, bias=False) + 4 * 64) + conv(64, 3)
    if name == "rednet":
        return conv(3, 64) + 8 * conv(64, 64) + conv(64, 3)
    if name == "unet":
        w = 13
        down = conv(3, w) + conv(w, w) + conv(w, 2 * w) + conv(2 * w, 2 * w) + conv(2 * w, 4 * w) + conv(4 * w, 4 * w)
        bottom = conv(4 * w, 8 * w) + conv(8 * w, 8 * w)
        up = sum(conv(2 * c, c, 2) + conv(2 * c, c) + conv(c, c) for c in (w, 2 * w, 4 * w))
        return down + bottom + up + conv(w, 3, 1)
    c = 25
    blocks = 4 * nafnet_block(c) + 4 * nafnet_block(2 * c) + 2 * nafnet_block(4 * c)
    between = conv(c, 2 * c, 2) + conv(2 * c, 4 * c, 2) + conv(4 * c, 8 * c, 1, False) + conv(2 * c, 4 * c, 1, False)
    return conv(3, c) + blocks + between + conv(c, 3)


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_parameters_are_those_counted_by_hand(build):
    count = build().count_params()
    assert count == by_hand(build.__name__)
    assert abs(count / 305_000 - 1) < 0.05  # the size at which the study compares


def test_multiply_adds_are_those_counted_by_hand():
    pixels = 32 * 32
    assert models.multiply_adds(peers.dncnn()) == pixels * 9 * (3 * 64 + 8 * 64 * 64 + 64 * 3)
    assert models.multiply_adds(peers.rednet()) == pixels * 9 * (3 * 64 + 8 * 64 * 64 + 64 * 3)
    small = peers.nafnet(width=4, encoder=(1,), middle=0, decoder=(1,))
    block = pixels * (4 * 8 + 9 * 8 + 4 * 4 + 4 * 8 + 4 * 4) + 4 * 4  # the attention is for each image, not for each pixel
    between = pixels / 4 * (4 * 4 * 8) + pixels / 4 * (8 * 16)
    assert models.multiply_adds(small) == pixels * 9 * (3 * 4 + 4 * 3) + 2 * block + between


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_without_its_last_layer_it_returns_where_it_starts_from(build, sample):
    clean = sample.train_images[:64]
    degraded = degradations.degrade(clean, "gauss2")
    linear_filter = classical.fit_linear_filter(degraded, clean, "dct1")
    seen = degradations.as_float(degraded[:4])
    for start in ("", "dct1"):
        model = build(linear_start=start)
        spectral.set_linear_start(model, linear_filter)
        last = model.get_layer("deconv1" if build is peers.rednet else "last")
        last.set_weights([np.zeros_like(weight) for weight in last.get_weights()])
        expected = keras.ops.convert_to_numpy(linear_filter(seen)) if start else seen
        np.testing.assert_allclose(keras.ops.convert_to_numpy(model(seen)), expected, atol=1e-5)


def test_a_network_can_start_from_a_mixture(sample):
    clean = sample.train_images[:64]
    degraded = degradations.degrade(clean, "blind")
    mixture = classical.fit_linear_mixture(degraded, clean, degradations.sampled_strengths("blind", 64), "dct1", 3)
    model = peers.unet(width=2, linear_start="dct1x3")
    spectral.set_linear_start(model, mixture)
    model.get_layer("last").set_weights([np.zeros_like(weight) for weight in model.get_layer("last").get_weights()])
    seen = degradations.as_float(degraded[:4])
    expected = keras.ops.convert_to_numpy(mixture(seen))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(seen)), expected, atol=1e-5)
    for other, given in ((spectral.linear_mixture(parts=4), "dct1x4"), (spectral.linear_filter(), "dct1")):
        with pytest.raises(ValueError, match=f"the model starts from dct1x3, the fitted filter is of {given}"):
            spectral.set_linear_start(model, other)


def test_the_linear_start_is_not_trained():
    model = peers.unet((8, 8, 3), width=2, levels=1, linear_start="dct1")
    assert not any("linear" in weight.path for weight in model.trainable_weights)
    assert model.count_params() - sum(weight.shape.num_elements() if hasattr(weight.shape, "num_elements") else
                                      int(np.prod(weight.shape)) for weight in model.trainable_weights) == 8 * 8 * 12  # fmt: skip


def test_a_start_of_another_transform_is_refused():
    with pytest.raises(ValueError, match="the model starts from dct1x1, the fitted filter is of dct2x1"):
        spectral.set_linear_start(peers.unet((8, 8, 3), 2, 1, "dct1"), spectral.linear_filter((8, 8, 3), "dct2"))


def test_red_net_skips_join_mirror_images():
    model = peers.rednet(depth=5)
    skips = {layer.name: [tensor._keras_history.operation.name for tensor in layer.input] for layer in model.layers
             if layer.name.startswith("skip")}  # fmt: skip
    assert skips == {"skip4": ["deconv4", "conv3"], "skip2": ["deconv2", "conv1"]}


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (peers.dncnn, {"depth": 2}, "depth must be a whole number from 3 to 100, got 2"),
        (peers.dncnn, {"linear_start": "dct3"}, "linear_start must be dct1 or dct2, .* or empty, got 'dct3'"),
        (peers.dncnn, {"linear_start": "dct1x0"}, "linear_start must be .* got 'dct1x0'"),
        (peers.dncnn, {"linear_start": "dct1x1025"}, "parts must be a whole number from 1 to 1024, got 1025"),
        (peers.rednet, {"width": 0}, "width must be a whole number from 1 to 4096, got 0"),
        (peers.unet, {"image_shape": (30, 32, 3)}, "multiples of 8"),
        (peers.nafnet, {"encoder": (1,)}, "the same number of levels"),
        (peers.nafnet, {"image_shape": (32, 34, 3)}, "multiples of 4"),
        (peers.nafnet, {"middle": -1}, "middle must be a whole number from 0 to 64, got -1"),
    ],
)
def test_bad_arguments_are_refused(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_the_gate_is_open_by_how_far_an_image_was_changed_around_a_pixel():
    change = np.zeros((1, 12, 12, 3), np.float32)
    change[0, 6:] = 0.02
    found = keras.ops.convert_to_numpy(layers.ChangeGate(5, 30.0)(change))[0, :, :, 0]
    # Rows of the square with a change, of those that are inside the image: at the border nothing from outside counts.
    rows = np.array([[min(r + 3, 12) - max(r - 2, 6), min(r + 3, 12) - max(r - 2, 0)] for r in range(12)]).clip(0)
    expected = np.tanh(30 * np.sqrt(0.02**2 * rows[:, 0] / rows[:, 1] + 1e-7))
    np.testing.assert_allclose(found, np.repeat(expected[:, None], 12, axis=1), rtol=1e-4)
    assert found[0, 0] < 0.01 < 0.5 < found[11, 0] < 0.6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((4,), "size must be odd, got 4"), ((0,), "size must be a whole number from 1"), ((9, 0), "slope must be a number above 0")],
)
def test_a_gate_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        layers.ChangeGate(*arguments)
