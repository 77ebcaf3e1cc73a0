"""How far along a line a recurrence holds: bounded scans, bands and their pieces."""

import numpy as np
import pytest

from lstm_ae_lib import degradations, keras, layers, models, weights
from lstm_ae_lib.tasks import reach


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def bounded(bound, units=3, **options):
    layer = reach.BoundedScan(units, "rows", bound=bound, **options)
    layer.build((None, None, None, 2))
    return layer


def test_with_gates_wide_open_the_bound_to_the_power_of_n_is_left_after_n_positions():
    layer = bounded(0.5)
    kernel = numbers(2, 4, 3)  # gate and candidate of both ways
    kernel[:, ::2] = 0
    layer.kernel.assign(kernel.reshape(2, 12))
    layer.bias.assign(np.tile(np.repeat([50.0, 0.0], 3), 2))  # gates wide open
    line = numbers(1, 1, 20, 2)
    moved = line.copy()
    moved[0, 0, 0] += 1.0
    change = np.abs(np.asarray(layer(moved)) - np.asarray(layer(line)))[0, 0, :, :3]  # rows forwards
    assert change[0].min() > 0.01
    np.testing.assert_allclose(change, change[0] * 0.5 ** np.arange(20)[:, None], atol=1e-6)


def test_with_small_gates_a_bounded_scan_is_the_scan_with_gates_times_the_bound():
    layer, plain = bounded(0.75), layers.GatedScan(3, "rows")
    plain.build((None, None, None, 2))
    kernel = numbers(*plain.kernel.shape) * 1e-3
    layer.kernel.assign(kernel)
    kernel = kernel.reshape(2, 4, 3)  # gate and candidate of both ways
    kernel[:, ::2] *= 0.75
    plain.kernel.assign(kernel.reshape(2, 12))
    lines = numbers(2, 4, 9, 2)
    np.testing.assert_allclose(layer(lines), plain(lines), rtol=1e-4, atol=1e-7)


def test_a_bounded_flagship_is_a_flagship_whose_scans_are_bounded():
    options = {"image_shape": (8, 6, 3), "width": 8, "depth": 1, "latent": 4}
    plain = models.flagship(**options, linear_start="")
    model = weights.build("bounded_flagship", options | {"bound": 0.9})
    assert [weight.shape for weight in model.weights] == [weight.shape for weight in plain.weights]
    scans = [layer for layer in model.layers if isinstance(layer, layers.GatedScan)]
    assert [type(scan) for scan in scans] == [reach.BoundedScan] * 2 and {scan.bound for scan in scans} == {0.9}
    constants = reach.time_constants(model, np.abs(numbers(2, 8, 6, 3)).clip(0, 1))
    assert constants.max() <= -1 / np.log(0.9) + 1e-4


def test_time_constants_say_after_how_many_positions_1_over_e_is_left():
    model = models.flagship((8, 6, 3), width=8, depth=1, latent=4, linear_start="")
    for layer in model.layers:
        if isinstance(layer, layers.GatedScan):
            layer.kernel.assign(np.zeros(layer.kernel.shape))
            layer.bias.assign(np.tile(np.repeat([np.arctanh(np.exp(-1 / 5)), 0.0], layer.units), 4))
    constants = reach.time_constants(model, np.zeros((1, 8, 6, 3), np.float32))
    assert constants.size == 2 * 4 * 4 * (4 * 3)  # scans, ways, units, positions
    np.testing.assert_allclose(constants, 5, rtol=1e-4)


def test_a_network_without_scans_has_no_time_constants():
    with pytest.raises(ValueError, match="must have gated scans, got rednet without any"):
        reach.time_constants(weights.build("rednet", {"image_shape": (8, 6, 3), "width": 4, "depth": 3}), np.zeros((1, 8, 6, 3)))


def test_bands_are_photographs_mirrored_to_their_length():
    bands = reach.bands()
    assert bands.shape[1:] == (reach.HEIGHT, 1024, 3) and bands.dtype == np.uint8 and len(bands) >= 4
    short = reach.bands(300)
    np.testing.assert_array_equal(bands[:, :, :300], short)
    after, before = (lambda width: bands[0, :, width : width + 50]), (lambda width: bands[0, :, width - 50 : width][:, ::-1])
    width = next(width for width in range(301, 1000) if np.array_equal(after(width), before(width)))
    assert width == 512  # the first photograph's


@pytest.mark.parametrize("length", reach.LENGTHS)
def test_pieces_are_joined_to_what_they_were(length):
    images = np.random.default_rng(0).integers(0, 256, (2, reach.HEIGHT, 1024, 3), np.uint8)
    parts = reach.pieces(images, length)
    assert parts.shape[1:3] == (min(length, reach.HEIGHT), length)
    np.testing.assert_array_equal(parts[0], images[0, : parts.shape[1], :length])
    np.testing.assert_array_equal(reach.joined(parts), images)


@pytest.mark.parametrize("length", [0, -32, 48, 1000])
def test_a_length_that_does_not_divide_the_bands_is_refused(length):
    with pytest.raises(ValueError, match=f"length must divide 128 rows and 1024 columns, or be 128 or more, got {length}"):
        reach.pieces(np.zeros((1, reach.HEIGHT, 1024, 3), np.uint8), length)


def test_a_bound_out_of_range_is_refused():
    for bound in (0, 1, 1.5, "a"):
        with pytest.raises(ValueError, match="bound must be"):
            reach.BoundedScan(4, bound=bound)
    with pytest.raises(ValueError, match="positive must be False"):
        reach.BoundedScan(4, positive=True)


def test_every_length_measures_the_same_pixels():
    """A network that changes nothing gains nothing, and a convolution gives nearly the same whatever the length."""
    clean = reach.bands(256)[:1]
    arguments = {"width": 4, "depth": 3, "linear_start": ""}
    network = weights.build("rednet", arguments | {"image_shape": (32, 32, 3)})
    found = [reach.restored_by_length("rednet", arguments, network, length, clean) for length in (32, 256)]
    for one in found:
        np.testing.assert_array_equal(one["clean"], np.tile(clean, (len(reach.KINDS), 1, 1, 1)))
        assert one["degraded"].shape == one["restored"].shape == one["clean"].shape
        assert one["gains"].shape == (len(reach.KINDS), 1) and np.abs(one["gains"]).max() < 1e-5  # its last layer begins at zero
    noise = [one["degraded"][-1] - clean[0] / np.float32(255) for one in found]
    assert [float(values.std()) for values in noise] == pytest.approx([10 / 255] * 2, rel=0.06)  # less where it is clipped


def test_a_released_scan_holds_on_rows_of_1024_pixels():
    """The weights photo, trained on crops of 128: gains on longer rows are no smaller than on those."""
    from lstm_ae_lib import restoring

    restorer, clean = restoring.load_restorer("photo"), reach.bands()[:2]
    gains = []
    for length in (128, 1024):
        cut = reach.pieces(clean, length)
        draws = [np.random.default_rng(place) for place in range(len(cut))]
        case = reach.CASES["Gaussian 2, noise 3"]
        seen = np.stack([degradations.through_camera(one, random, **case) for one, random in zip(cut, draws, strict=True)])
        errors = [np.square(images / 255.0 - cut / 255.0).mean() for images in (seen, 255 * restorer(degradations.as_float(seen)))]
        gains.append(10 * np.log10(errors[0] / errors[1]))
    assert gains[0] > 1.5 and gains[1] > gains[0] - 0.05


def test_the_network_can_be_saved_and_read_again(tmp_path):
    model = weights.build("bounded_flagship", {"image_shape": [8, 8, 3], "width": 8, "depth": 1, "latent": 4})
    images = np.abs(numbers(1, 8, 8, 3))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(images), model(images), atol=1e-6)
