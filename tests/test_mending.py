"""Networks that mend broken JPEGs: what the accumulator holds, what each network sees, and what is measured."""

import numpy as np
import pytest

from lstm_ae_lib import models, pictures, weights
from lstm_ae_lib.study import sweeps
from lstm_ae_lib.tasks import broken_jpeg, mending


def test_the_accumulator_is_its_equation(unit):
    layer, features = mending.RasterAccumulator(4), 6 * unit[:2, :5, :7] - 3
    found = np.asarray(layer(features))
    kernel, bias = (np.asarray(weight, float) for weight in layer.get_weights())
    line = features.reshape(2, 35, 3)
    for way, places in enumerate((range(35), reversed(range(35)))):
        parts = np.split((line @ kernel + bias)[..., 20 * way : 20 * way + 20], 5, axis=-1)
        forget, enter = (np.clip(part / 6 + 0.5, 0, 1) for part in parts[:2])
        keep, added, averaged = 1 / (1 + np.exp(-parts[3])), parts[2], parts[4]
        sums = means = np.zeros((2, 4))
        for place in places:
            sums = forget[:, place] * sums + enter[:, place] * added[:, place]
            means = keep[:, place] * means + (1 - keep[:, place]) * averaged[:, place]
            row, column = divmod(place, 7)
            assert found[:, row, column, 8 * way : 8 * way + 8] == pytest.approx(np.concatenate([sums, means], -1), abs=1e-4)


def test_what_was_added_once_is_held_to_the_end_and_nothing_is_added_to_it():
    """Over 4,096 blocks, exactly: a picture of 512 x 512 pixels. A state between -1 and 1 could not hold 40."""
    layer = mending.RasterAccumulator(1)
    layer.build((None, None, None, 2))
    kernel, bias = np.zeros((2, 10)), np.array([9.0, -6.0, 0, 0, 0] * 2)  # held, nothing enters, at first
    kernel[0, [1, 6]], kernel[1, [2, 7]] = 12.0, 1.0  # the first channel opens the input gate, the second is what enters
    layer.set_weights([kernel, bias])
    features = np.zeros((1, 64, 64, 2), np.float32)
    features[0, :, :, 1] = 7.0  # which does not enter
    features[0, 10, 3] = 1.0, 40.0
    found = np.asarray(layer(features))[0].reshape(4096, 4)
    place = 10 * 64 + 3
    assert np.array_equal(found[:, 0], np.where(np.arange(4096) < place, 0, 40))
    assert np.array_equal(found[:, 2], np.where(np.arange(4096) > place, 0, 40))  # and backwards to the beginning


def test_blocks_and_what_changes_across_their_edges(unit):
    image = np.concatenate([unit[0], unit[1]], 1)[None, :24, :40]
    found = np.asarray(mending.BlockFeatures()(image))
    assert found.shape == (1, 3, 5, mending.SEEN)
    here, left, above = image[0, 8:16, 16:24], image[0, 8:16, 15], image[0, 7, 16:24]
    wanted = [here.ravel() - 0.5, 4 * (here[:, 0] - left).ravel(), 4 * (here[0] - above).ravel()]
    wanted += [4 * (here[:, 0] - left).mean(0), 4 * (here[0] - above).mean(0)]
    assert found[0, 1, 2, :246] == pytest.approx(np.concatenate(wanted), abs=1e-6)
    assert not found[0, :, 0, 192:216].any() and not found[0, 0, :, 216:240].any()  # at the border nothing is known


def test_what_would_change_if_a_block_belonged_elsewhere(unit):
    """By a loop; the block above the one at which it belongs is the one before it in raster order by a line."""
    image = np.concatenate([unit[0], unit[1]], 1)[None, :24, :40]
    found = np.asarray(mending.BlockFeatures()(image))[0].reshape(15, -1)
    blocks = np.asarray(mending.in_blocks(image))[0]
    for place in range(15):
        for number, moved in enumerate(mending.MOVES):
            above, mean, rough = place - 5 + moved, np.zeros(3), 0.0
            if place >= 5 and 0 <= above < 15:
                edge = blocks[place, 0] - blocks[above, -1]
                mean = edge.mean(0)
                rough = np.abs(edge - mean).mean()
            assert found[place, 246 + 3 * number : 249 + 3 * number] == pytest.approx(4 * mean, abs=1e-5)
            assert found[place, 273 + number] == pytest.approx(4 * rough, abs=1e-5)


def test_blocks_that_have_moved_are_moved_back(unit):
    """A bit that swallows two blocks: all later ones come two places early. What was swallowed, at the end, is 0."""
    image = np.concatenate([unit[0], unit[1]], 1)[None, :24, :40]
    blocks = np.asarray(mending.in_blocks(image))
    lost = np.concatenate([blocks[:, :4], blocks[:, 6:], blocks[:, :2]], 1).reshape(1, 3, 5, 8, 8, 3)
    damaged = lost.transpose(0, 1, 3, 2, 4, 5).reshape(1, 24, 40, 3)
    places = np.arange(15).reshape(1, 3, 5)
    weights = np.zeros((1, 3, 5, 9), np.float32)
    weights[..., 4 + 0], weights[..., 4 + 2] = places < 6, places >= 6
    found = np.asarray(mending.MovedBack()([damaged, weights])).reshape(15, 8, 8, 3)
    assert np.array_equal(found[:4], blocks[0, :4]) and np.array_equal(found[6:], blocks[0, 6:])
    half = np.asarray(mending.MovedBack()([damaged, np.full_like(weights, 1 / 9)])).reshape(15, 8, 8, 3)
    neighbours = np.asarray(mending.in_blocks(damaged))[0, 3:12]
    assert half[7] == pytest.approx(neighbours.mean(0), abs=1e-6)


@pytest.mark.parametrize("moves", [(3, 5, 8), (3, 4, 9)])
def test_weights_for_other_blocks_are_told(moves):
    with pytest.raises(ValueError, match="MovedBack needs .* 9 weights for each block, got "):
        mending.MovedBack()([np.zeros((1, 24, 40, 3), np.float32), np.zeros((1, *moves), np.float32)])


@pytest.mark.parametrize("size", [(12, 16), (16, 20), (None, 16)])
def test_sides_that_blocks_do_not_fill_are_told(size):
    with pytest.raises(ValueError, match="sides multiples of 8, got "):
        mending.BlockFeatures()(np.zeros((1, *(side or 9 for side in size), 3), np.float32))


@pytest.mark.parametrize("arguments, said", [
    ({"memory": "gru"}, "memory must be one of accumulator, lstm, scan, mean, convolution; got .gru."),
    ({"width": 0}, "width must be a whole number from 1 to 4096, got 0"),
    ({"units": 0}, "units must be a whole number from 1 to 4096, got 0"),
    ({"depth": 33}, "depth must be a whole number from 1 to 32, got 33"),
])  # fmt: skip
def test_arguments_out_of_range_are_told(arguments, said):
    with pytest.raises(ValueError, match=said):
        mending.jpeg_mender((16, 16, 3), **arguments)


def test_a_network_begins_as_doing_next_to_nothing_and_fits_any_size(unit):
    network = mending.jpeg_mender((32, 32, 3), "lstm", width=6, depth=1, units=3)
    assert np.asarray(network(unit[:2])) == pytest.approx(unit[:2], abs=0.03)  # a share of 98 % of each block stays
    network.set_weights([weight + 0.1 for weight in network.get_weights()])
    arguments = {"memory": "lstm", "width": 6, "depth": 1, "units": 3}
    larger = mending.at_size("jpeg_mender", arguments, network, 64)
    assert larger.output_shape == (None, 64, 64, 3)
    assert all(np.array_equal(*pair) for pair in zip(network.get_weights(), larger.get_weights(), strict=True))


def test_the_loss_counts_decibels_of_each_image(unit):
    clean, mended = unit[:2], unit[:2] + np.array([0.1, 0.01], np.float32)[:, None, None, None]
    assert np.asarray(mending.loss(clean, mended)) == pytest.approx(np.log([0.01 + 1e-4, 1e-4 + 1e-4]), rel=1e-4)


def test_crops_are_of_photographs_that_are_large_enough():
    cut = mending.crops(384, 6)
    assert cut.shape == (6, 384, 384, 3) and cut.dtype == np.uint8
    assert np.array_equal(cut, mending.crops(384, 6)) and not np.array_equal(cut, mending.crops(384, 6, seed=1))
    for side in (100, 4, 2056):
        with pytest.raises(ValueError, match=f"side must be .*got {side}"):
            mending.crops(side, 1)


def test_crops_larger_than_all_photographs_are_continued_by_mirror_images():
    cut = mending.crops(1024, 4)
    assert cut.shape == (4, 1024, 1024, 3)
    for image, photograph in zip(cut, pictures.photographs().values(), strict=True):
        height, width = photograph.shape[:2]  # all are smaller: nothing is left to draw
        np.testing.assert_array_equal(image[:height, :width], photograph[..., :3])
        rows = min(height, 1024 - height)
        np.testing.assert_array_equal(image[height : height + rows, :width], photograph[::-1, :, :3][:rows])


def test_what_is_measured_of_a_network_that_undoes_half_of_the_damage():
    clean = mending.crops(96, 5)
    sound = np.stack([broken_jpeg.damage(image, 0, 0) for image in clean])
    broken = np.stack([broken_jpeg.damage(image, 1, (mending.SEED, 0, place)) for place, image in enumerate(clean)])
    wanted = {image.tobytes(): (image / 255 + one / 255) / 2 for image, one in zip(broken, clean, strict=True)}
    wanted |= {image.tobytes(): image / 255 + 0.01 for image in sound}

    def network(images, training):
        bytes_of = lambda image: np.rint(np.asarray(image) * 255).astype(np.uint8).tobytes()  # noqa: E731
        return np.stack([wanted[bytes_of(image)] for image in images]).astype(np.float32)

    found = mending.measure(network, clean)
    assert found["gains"] == pytest.approx(20 * np.log10(2), abs=1e-3) and found["gains"].shape == (5,)
    assert found["sound"] == pytest.approx(40, abs=0.3)  # less where it is clipped
    assert len(found["far"]) == len(mending.FAR) + 1 and found["far"][-1] is None  # no pixel is 256 from another
    assert all(after == pytest.approx(before / 4, rel=1e-3) for before, after in filter(None, found["far"]))
    assert found["damaged"] == pytest.approx(broken / 255, abs=1e-6)


def test_the_networks_of_the_study_are_of_one_size():
    parameters = {}
    for name, one in sweeps.read_sweep("broken_jpeg")["runs"].items():
        network = weights.build(*mending.described(one["network"], (128, 128, 3), one["width"], one.get("options", "{}")))
        parameters[name] = network.count_params()
        assert models.multiply_adds(network) > 0
    assert max(parameters.values()) <= min(1.05 * min(parameters.values()), 450_000), parameters
    runs = sweeps.read_sweep("broken_jpeg")["runs"].values()
    assert {one["network"] for one in runs} == {"feedback", *mending.MEMORIES, *mending.NETWORKS}


def test_a_name_that_is_no_network_is_told():
    with pytest.raises(ValueError, match="memory must be one of feedback, accumulator, .*, unet, nafnet, rednet; got 'x'"):
        mending.described("x", (128, 128, 3), 8)
    with pytest.raises(ValueError, match=r"options must be names and values in JSON, such as \{\}, got '\[1\]'"):
        mending.described("mean", (128, 128, 3), 8, "[1]")
