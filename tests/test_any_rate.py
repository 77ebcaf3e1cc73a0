"""The networks of the compressor for all rates: what each number may be foretold from, and how many bits it costs."""

import itertools
import math

import numpy as np
import pytest

from lstm_ae_lib import datasets, weights
from lstm_ae_lib._backend import keras
from lstm_ae_lib.tasks import any_rate, any_rate_codec, codec

SMALL = {"width": 4, "memory": 6, "hidden": 5}
EDGES = np.cumsum((0, *any_rate_codec.GROUPS))


def pairs(clean, batch_size, seed):
    return datasets.training_batches(clean, clean, batch_size, seed)


def context(kind, rows=4, columns=3, seed=0):
    """A context with weights that all matter, and numbers for it."""
    keras.utils.set_random_seed(seed)
    layer, random = any_rate.RowContext(6, 5, kind), np.random.default_rng(seed)
    layer.build([(1, rows, columns, 192), (1, 1)])
    layer.set_weights([weight + 0.2 * random.standard_normal(weight.shape) for weight in layer.get_weights()])
    return layer, random.laplace(0, 3, (1, rows, columns, 192)).astype(np.float32)


@pytest.mark.parametrize("kind", ["recurrent", "window"])
def test_a_number_is_foretold_from_those_decoded_before_it_and_from_no_other(kind):
    layer, numbers = context(kind)
    step = np.full((1, 1), -2, np.float32)
    before = keras.ops.convert_to_numpy(layer([numbers, step])).reshape(1, 4, 3, 2, 192)
    reached = set()
    for row, column, (group, (first, last)) in itertools.product(range(4), range(3), enumerate(itertools.pairwise(EDGES))):
        changed = numbers.copy()
        changed[:, row, column, first:last] += 5
        moved = (keras.ops.convert_to_numpy(layer([changed, step])).reshape(before.shape) != before).any(axis=(0, 3))
        assert not moved[:row].any() and not moved[row, :, :first].any() and not moved[row, column, first:last].any()
        beside = moved[row, :, first:last].any(-1)  # of its group, only those in the column between, which come second
        assert not beside[::2].any() and not (column == 1 and beside[1])
        reached |= {group} if beside[1] else set()
        assert moved[row, :, last:].any() == (group < 5)
        assert moved[row + 1 : row + 3].any() == (row < 3)
    assert reached == set(range(6))


def test_a_memory_reaches_further_than_the_window():
    for kind, far in (("recurrent", True), ("window", False)):
        layer, numbers = context(kind, rows=6)
        changed = numbers.copy()
        changed[:, 0] += 5
        given, step = np.concatenate([numbers, changed]), np.zeros((2, 1), np.float32)
        one, other = keras.ops.convert_to_numpy(layer([given, step]))
        assert (one[5] != other[5]).any() == far and (one[2] != other[2]).any()


def test_without_a_context_only_the_step_is_known():
    layer, numbers = context("none")
    given, steps = np.concatenate([numbers, numbers + 7]), np.array([[-1.0], [0.0]], np.float32)
    one, other = keras.ops.convert_to_numpy(layer([given, steps]))
    assert not one[..., :192].any() and len(np.unique(one[..., 192:].reshape(-1, 192), axis=0)) == 1
    np.testing.assert_allclose((one - other)[..., 192:], np.broadcast_to(-layer.slope.numpy(), numbers.shape[1:]), rtol=1e-5)


@pytest.mark.parametrize("table", [0, 9, 30, 45])
def test_the_loss_counts_the_bits_that_the_coder_needs(table):
    symbols = np.arange(-40, 41)
    estimated = keras.ops.convert_to_numpy(any_rate.laplace_bits(symbols.astype(np.float32), np.float32(table)))
    coded = -np.log2(codec.distribution(table)[symbols + codec.LARGEST])
    likely = coded < 16  # beyond, the coder adds a little so that nothing is impossible
    assert likely.sum() >= 1
    np.testing.assert_allclose(estimated[likely], coded[likely], atol=0.05)


def test_a_symbol_is_one_nearer_to_zero_where_that_pays():
    random = np.random.default_rng(0)
    distance, tables = 3 * random.standard_normal(3000), random.integers(0, codec.TABLES, 3000)
    bits = -np.log2([codec.distribution(table) for table in range(codec.TABLES)])
    nearest, symbols = np.rint(distance).astype(int), any_rate_codec.thrifty(distance, tables)
    costs = [6 / math.log(2) * (distance - one) ** 2 + bits[tables, one + codec.LARGEST] for one in
             (nearest, nearest - np.sign(nearest), symbols)]  # fmt: skip
    np.testing.assert_array_equal(costs[2], np.minimum(*costs[:2]))
    assert 100 < (symbols != nearest).sum() < 2900
    np.testing.assert_array_equal(any_rate_codec.thrifty(np.array([2000.0, -2000.0]), np.array([63, 63])), [1023, -1023])
    # The layer has widths for tables, and no bit that the coder adds so that nothing is impossible.
    likely = bits[tables, nearest + codec.LARGEST] < 16
    layers = keras.ops.convert_to_numpy(any_rate._thrifty(distance.astype(np.float32), tables.astype(np.float32)))
    assert (layers[likely] == symbols[likely]).mean() > 0.995


@pytest.mark.parametrize("kind", any_rate.CONTEXTS)
def test_every_weight_learns_from_what_a_codec_would_make(kind, sample):
    keras.utils.set_random_seed(0)
    model = any_rate.any_rate_compressor(**SMALL, context=kind)
    any_rate.start_from_images(model, sample.train_images[:200])
    model.compile(keras.optimizers.Adam(0.00005), loss="mse", run_eagerly=True)
    before = [weight.numpy() for weight in model.trainable_weights]
    batch = next(iter(any_rate.rated_batches(pairs(sample.train_images[:64], 16, 0), 0)))
    losses = [float(model.train_on_batch(*batch)) for _ in range(5)]
    assert losses[-1] < losses[0]
    still = [weight.path for old, weight in zip(before, model.trainable_weights, strict=True) if (old == weight.numpy()).all()]
    assert not still


def test_it_begins_as_transform_coding(sample):
    """The decoder begins as the identity: what is lost is what the rounding loses, a twelfth of a step squared."""
    keras.utils.set_random_seed(0)
    model = any_rate.any_rate_compressor(**SMALL)
    images = sample.train_images[:40] / np.float32(255)
    for log_step, least in ((-9.0, 0.95), (-3.0, 0.1)):  # numbers of less than half a step lose less
        made = model([images, np.full((40, 1), log_step, np.float32)], training=False)
        error = np.mean((keras.ops.convert_to_numpy(made) - images) ** 2)
        assert least < error / (4**log_step / 12) < 1.05


def test_the_first_widths_are_those_of_images(sample):
    keras.utils.set_random_seed(0)
    model = any_rate.any_rate_compressor(**SMALL, context="none")
    any_rate.start_from_images(model, sample.train_images[:200])
    made = any_rate_codec.codec_of(model, {"builder": "any_rate_compressor", "arguments": SMALL | {"context": "none"}})
    symbols, tables, _ = made.encode(sample.test_images[:50], 10)
    promised = np.mean([codec.distribution(table) for table in tables[0, 0, 0]], axis=0)
    assert promised.sum() == pytest.approx(1)
    chosen = codec.choose_tables(symbols.reshape(-1, 192))  # the best there are for these very symbols
    assert np.abs(chosen - tables[0, 0, 0])[:60].max() <= 3


def test_the_bits_of_a_training_step_are_those_of_a_file(sample):
    """But for widths that are not rounded, and for how the coder ends."""
    keras.utils.set_random_seed(0)
    model, size = any_rate.any_rate_compressor(**SMALL), 2
    any_rate.start_from_images(model, sample.train_images[:200])
    clean = sample.train_images[:16]
    model([clean / np.float32(255), np.full((16, 1), any_rate_codec.log_step(size), np.float32)], training=True)
    made = any_rate_codec.codec_of(model, {"builder": "any_rate_compressor", "arguments": SMALL})
    _, counted = made.measure(clean, size)
    assert float(model.losses[0]) * clean[0].size / 8 == pytest.approx(counted.mean(), rel=0.03)


def test_steps_are_drawn_evenly_and_weights_make_errors_bits(sample):
    clean, (low, high) = sample.train_images[:64], any_rate_codec.SIZES
    batches = [tuple(map(np.asarray, (*inputs, clean, weight))) for inputs, clean, weight in
               any_rate.rated_batches(pairs(clean, 64, 1), 1).take(30)]  # fmt: skip
    drawn = np.concatenate([log_step for _, log_step, _, _ in batches])
    assert any_rate_codec.log_step(low) <= drawn.min() < drawn.max() <= any_rate_codec.log_step(high)
    assert drawn.mean() == pytest.approx(any_rate_codec.log_step((low + high) / 2), abs=0.1)
    for images, log_step, target, weight in batches[:2]:
        np.testing.assert_array_equal(images, target)
        # A step half as large costs a bit a number, and saves three quarters of step^2 / 12: worth one bit at this weight's slope.
        np.testing.assert_allclose(weight[:, 0], 6 / (4.0**log_step * math.log(2)), rtol=1e-6)
        found = {one.tobytes() for one in clean} | {one[:, ::-1].tobytes() for one in clean}
        assert all(np.rint(image * 255).astype(np.uint8).tobytes() in found for image in images)
    again = next(iter(any_rate.rated_batches(pairs(clean, 64, 1), 1)))
    np.testing.assert_array_equal(np.asarray(again[0][1]), batches[0][1])
    other = next(iter(any_rate.rated_batches(pairs(clean, 64, 1), 2)))
    assert (np.asarray(other[0][1]) != batches[0][1]).any()


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"image_shape": (30, 32, 3)}, "multiples of 8"), ({"width": 0}, "width"), ({"depth": 0}, "depth"),
        ({"context": "lstm"}, "context must be one of recurrent, window, none; got 'lstm'"), ({"memory": 0}, "memory"),
        ({"sizes": (5, 4)}, "the largest of sizes must be a whole number from 5 to 64, got 4"),
        ({"sizes": (-1, 4)}, "the smallest of sizes"),
    ],
)  # fmt: skip
def test_arguments_out_of_range_are_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        weights.build("any_rate_compressor", SMALL | wrong)


def test_a_latent_of_another_width_is_refused():
    with pytest.raises(ValueError, match=r"RowContext needs \(batch, rows, columns, 192\), got \(1, 2, 2, 7\)"):
        any_rate.RowContext(4, 4)([np.zeros((1, 2, 2, 7), np.float32), np.zeros((1, 1), np.float32)])
