"""The recurrence that is given back what it has mended: its equations, what it finds, and its teacher."""

import numpy as np
import pytest

from lstm_ae_lib import weights
from lstm_ae_lib.tasks import mending, row_feedback

FEATURES = 3


def told(image, layer=None, features=None):
    """``(rows, columns, 9)`` shares and ``(rows, columns, 3)`` colours."""
    layer = layer or row_feedback.RowFeedback(4, 2, 1)
    features = np.zeros((1, image.shape[0] // 8, image.shape[1] // 8, FEATURES), np.float32) if features is None else features
    found = np.asarray(layer([image[None].astype(np.float32), features]))[0]
    return found[..., :9], found[..., 9:]


def averaged(keep, values, start):
    keep, found = 1 / (1 + np.exp(-keep)), []
    for gate, value in zip(keep, values, strict=True):
        start = gate * start + (1 - gate) * value
        found.append(start)
    return np.stack(found)


def test_it_is_its_equations(unit):
    random = np.random.default_rng(0)
    layer, image = row_feedback.RowFeedback(5, 2, 1), np.concatenate([unit[0], unit[1]], 1)[:24, :40]
    features = random.normal(size=(1, 3, 5, FEATURES)).astype(np.float32)
    told(image, layer, features)
    for variable in layer.weights:
        variable.assign(np.asarray(variable) + 0.2 * random.normal(size=variable.shape))
    w = {variable.name: np.asarray(variable, float) for variable in layer.weights}
    shares, colours = told(image, layer, features)
    blocks = np.asarray(mending.in_blocks(image[None]), float)[0]
    candidate = lambda place: blocks[place] if 0 <= place < 15 else np.zeros((8, 8, 3))  # noqa: E731
    scores, colour, held, above = np.array([0, 0, 0, 0, 6.0, 0, 0, 0, 0]), np.zeros(3), np.zeros(2), None
    for row in range(3):
        here = [[candidate(5 * row + column - moved) for moved in mending.MOVES] for column in range(5)]
        evidence = np.zeros((5, 36))
        for column in range(5) if row else ():
            steps = [block[0] + colour - above[column][1] for block in here[column]]
            slopes = [block[1] - block[0] + above[column][1] - above[column][0] for block in here[column]]
            means = [(step - slope / 2).mean(0) for step, slope in zip(steps, slopes, strict=True)]
            evidence[column] = 4 * np.concatenate([np.ravel(means), [np.abs(step - step.mean(0)).mean() for step in steps]])
        given = np.concatenate([features[0, row], evidence, np.repeat(scores[None] / 6, 5, 0)], 1)
        hidden = given @ w["enter_kernel"] + w["enter_bias"]
        keep, value, keep_back, value_back = np.split(np.maximum(hidden, 0) @ w["memory0_kernel"] + w["memory0_bias"], 4, 1)
        forwards, backwards = averaged(keep, value, held), averaged(keep_back[::-1], value_back[::-1], 0.0)[::-1]
        mixed = np.concatenate([np.maximum(hidden, 0), forwards, backwards], 1)
        hidden = hidden + mixed @ w["mix0_kernel"] + w["mix0_bias"]
        keep, keep_back = np.split(np.maximum(hidden, 0) @ w["average_kernel"] + w["average_bias"], 2, 1)
        evidence = (averaged(keep, evidence, 0.0) + averaged(keep_back[::-1], evidence[::-1], 0.0)[::-1]) / 2
        left = np.concatenate([np.maximum(hidden, 0), evidence], 1) @ w["leave_kernel"] + w["leave_bias"]
        gates = np.clip(left[:, :4] / 6 + 0.5, 0, 1)
        all_scores = (1 - gates[:, :1]) * scores + gates[:, :1] * left[:, 4:]
        share = np.exp(all_scores) / np.exp(all_scores).sum(1, keepdims=True)
        change = np.einsum("cm,cmk->ck", share, evidence[:, :27].reshape(5, 9, 3)) / 4
        all_colours = colour - gates[:, 1:] * np.clip(np.abs(change) / np.exp(w["least"]) - 1, 0, 1) * change
        assert shares[row] == pytest.approx(share, abs=1e-4) and colours[row] == pytest.approx(all_colours, abs=1e-4)
        above = [sum(s * block[-2:] for s, block in zip(*pair, strict=True)) for pair in zip(share, here, strict=True)]
        above = [lines + added for lines, added in zip(above, all_colours, strict=True)]
        scores, colour, held = all_scores[-1], all_colours[-1], forwards[-1]


def trusting():
    """A layer that believes each block by itself: open gates, no averages along the row."""
    layer = row_feedback.RowFeedback(4, 2, 1)
    layer.build([(None, 8, 8, 3), (None, 1, 1, FEATURES)])
    bias = {variable.name: variable for variable in layer.weights}
    bias["average_bias"].assign([-30.0, -30.0])
    bias["leave_bias"].assign([9.0] * 4 + [0, 0, 0, 0, 6.0, 0, 0, 0, 0])
    return layer


def image_of(blocks, columns):
    rows = len(blocks) // columns
    return blocks.reshape(rows, columns, 8, 8, 3).swapaxes(1, 2).reshape(8 * rows, 8 * columns, 3)


def test_a_colour_is_found_and_held():
    blocks = np.full((256, 8, 8, 3), 0.4, np.float32)
    blocks[24:] += np.array([0.25, -0.1, 0.01])  # of which the last is as natural changes are
    _, colours = told(image_of(blocks, 8), trusting())
    assert not colours[:3].any()
    assert colours[3] == pytest.approx(np.tile([-0.25, 0.1, 0], (8, 1)), abs=0.003)  # shares of the others
    assert (colours[4:] == colours[3, -1]).all()  # exactly, over 28 rows


def test_it_is_found_where_blocks_belong():
    """Stripes from top to bottom, each other ones; from the 48th block on, two blocks have been swallowed."""
    stripes = np.random.default_rng(1).random((1, 128, 3)) * np.ones((128, 1, 1))
    blocks = np.asarray(mending.in_blocks(stripes[None].astype(np.float32)))[0]
    shares, _ = told(image_of(np.concatenate([blocks[:48], blocks[50:], blocks[:2]]), 16), trusting())
    moved = shares.argmax(-1) - 4
    assert (moved[:3] == 0).all() and (moved[3:, 2:] == 2).all()  # below the two that were swallowed nothing is sound
    assert shares.sum(-1) == pytest.approx(1, abs=1e-5)


def test_a_teacher_is_the_sound_row_above(unit):
    """An image that its teacher helps is laid below the sound rows, one that he does not as if there were none."""
    network = row_feedback.feedback_mender((32, 32, 3), 6, 1, 2, 1)
    damaged, sound = unit[:2], unit[2:4]
    beside = row_feedback.taught(network)
    assert beside.count_params() == network.count_params()
    free, helped = np.asarray(network(damaged)), np.asarray(beside([damaged, sound, np.array([[1.0], [0.0]])]))
    assert np.array_equal(free[1], helped[1]) and np.array_equal(free[0, :8], helped[0, :8])
    assert np.abs(free[0, 8:] - helped[0, 8:]).max() > 0.01


def test_batches_get_a_teacher_for_their_first_part(unit):
    import tensorflow as tf

    batches = tf.data.Dataset.from_tensor_slices((unit[:10], unit[10:20])).batch(4)
    for (damaged, sound, helped), clean in row_feedback.taught_batches(batches, 0.5):
        count = len(damaged)
        assert np.array_equal(helped, (np.arange(count) < count // 2)[:, None]) and helped.dtype == "float32"
        assert np.array_equal(sound, clean)
    with pytest.raises(ValueError, match="share must be a number from 0 to 1, got 1.5"):
        row_feedback.taught_batches(batches, 1.5)


@pytest.mark.parametrize("arguments, said", [
    ({"width": 0}, "width must be a whole number from 1 to 4096, got 0"),
    ({"units": 5000}, "units must be a whole number from 1 to 4096, got 5000"),
    ({"depth": 33}, "depth must be a whole number from 1 to 32, got 33"),
    ({"memories": 0}, "memories must be a whole number from 1 to 32, got 0"),
    ({"image_shape": (20, 16, 3)}, "sides multiples of 8, got "),
])  # fmt: skip
def test_arguments_out_of_range_are_told(arguments, said):
    with pytest.raises(ValueError, match=said):
        row_feedback.feedback_mender(**{"image_shape": (16, 16, 3)} | arguments)


@pytest.mark.parametrize("images, features", [((1, 16, 16, 3), (1, 2, 3, 5)), ((1, 20, 16, 3), (1, 2, 2, 5)),
                                              ((1, 16, 16, 6), (1, 2, 2, 5)), ((1, 16, 16, 3), (1, 2, 2))])  # fmt: skip
def test_features_of_other_blocks_are_told(images, features):
    with pytest.raises(ValueError, match="RowFeedback needs .* got ") as told:
        row_feedback.RowFeedback(4)([np.zeros(images, np.float32), np.zeros(features, np.float32)])
    assert str(images) in str(told.value) and str(features) in str(told.value)


def test_it_goes_on_at_any_size(unit):
    builder, arguments = mending.described("feedback", (32, 32, 3), 6, '{"depth": 1, "units": 2, "memories": 1}')
    network = weights.build(builder, arguments)
    larger = mending.at_size(builder, arguments, network, (24, 64))
    wide = np.concatenate([unit[:1, :24], unit[1:2, :24]], 2)
    assert np.asarray(larger(wide)).shape == (1, 24, 64, 3)
    assert all(np.array_equal(*pair) for pair in zip(network.get_weights(), larger.get_weights(), strict=True))
