"""The map of where recurrence pays: every number is a record's, and the pairs are fair."""

import json

import numpy as np
import pytest

from lstm_ae_lib import paths
from lstm_ae_lib.study import margins, records, reporting, runner


@pytest.fixture(scope="module")
def rows():
    return {row["task"]: row for row in margins.margins()}


def test_every_margin_is_the_difference_of_what_is_shown(rows):
    for row in rows.values():
        assert row["margin"] == pytest.approx(row["with"] - row["without"], abs=1e-9)
        if row["low"] is not None:
            assert row["low"] < row["margin"] < row["high"]
        assert row["images"] >= 40 and row["seen"] > 0 and len(set(row["runs"])) == 2


def test_pairs_differ_in_the_network_only(rows):
    """Same protocol, same minutes or same images, sizes at most 5 % apart where both were tested."""
    for row in rows.values():
        pair = [records.published_parameters(run) for run in row["runs"]]
        side = [one.get("side") if one.get("folder") or one.get("pictures") else None for one in pair]  # of crops of pictures
        assert len({(one.get("minutes"), one.get("epochs"), one.get("protocol")) for one in pair}) == len(set(side)) == 1, row
        sizes = [max(one["parameters"] for one in records.reference_records(run=run, split="test")) for run in row["runs"]
                 if records.reference_records(run=run, split="test")]  # fmt: skip
        assert not sizes or max(sizes) <= 1.05 * min(sizes), row


def test_jpegs_are_compared_picture_by_picture_with_the_best_without_recurrence(rows):
    for side in margins.JPEG_SIDES:
        found = records.reference_records(protocol="broken_jpeg", split="test", setting=side)
        gains = {}
        for one in found:
            if "gains" in one and one["run"] != "jpeg-feedback-long":
                gains.setdefault(one["run"].split("-seed")[0], []).append(one["gains"])
        row = rows[f"JPEG with a flipped bit, {side}x{side}"]
        own, other = row["runs"]
        assert row["with"] == pytest.approx(np.mean(gains[own])) and row["without"] == pytest.approx(np.mean(gains[other]))
        without = [run for run in gains if run.split("-")[1] in ("unet", "nafnet", "rednet", "convolution", "mean")]
        assert other == max(without, key=lambda run: np.mean(gains[run])) and len(without) >= 3
        assert row["seeds"] == [len(gains[own]), len(gains[other])] and own == "jpeg-feedback"
        means = [np.array(gains[run]).mean(1) for run in (own, other)]
        variance = np.var(np.mean(gains[own], 0) - np.mean(gains[other], 0)) / 40
        if row["seeds"] == [1, 1]:
            assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.25)
        else:  # wider than of the images alone, or of the seeds
            seeds = sum(np.var(one, ddof=1) / len(one) for one in means if len(one) > 1)
            assert row["high"] - row["low"] > 2 * 1.96 * np.sqrt(variance + seeds)


def test_an_interval_of_one_seed_is_that_of_paired_images():
    random = np.random.default_rng(0)
    second = random.normal(size=(1, 400))
    first = second + 0.3 + 0.2 * random.normal(size=(1, 400))
    low, high = margins.interval(first, second)
    half = 1.96 * np.std(first - second) / 20
    assert (low, high) == pytest.approx((np.mean(first - second) - half, np.mean(first - second) + half), abs=0.1 * half)


def test_an_interval_of_three_seeds_covers_the_difference_as_often_as_it_says():
    random, inside = np.random.default_rng(1), 0
    for _ in range(300):
        low, high = margins.interval(random.normal(0.2, 0.3, (3, 1)), random.normal(0, 0.3, (3, 1)), resamples=1000)
        inside += low < 0.2 < high
    assert 0.93 < inside / 300 <= 0.995


def test_an_interval_holds_seeds_and_images():
    """Its width is that of the sum of variances: of seeds, drawn for each network, and of images, drawn for both."""
    random = np.random.default_rng(0)
    seeds, images = 50, 200
    first = random.normal(scale=0.5, size=(seeds, 1)) + random.normal(scale=1.0, size=(1, images))
    second = random.normal(scale=0.4, size=(seeds, 1)) + np.zeros((1, images))
    low, high = margins.interval(first, second)
    variance = (np.var(first.mean(1)) + np.var(second.mean(1))) / seeds + np.var(first.mean(0)) / images
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.1)
    assert (low + high) / 2 == pytest.approx(first.mean() - second.mean(), abs=0.1 * (high - low))
    shared = random.normal(scale=9, size=(1, images))  # what images have in common does not count
    again = margins.interval(first + shared, second + shared)
    assert again == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(("first", "second"), [([1.0], [2.0]), ([[1.0, 2.0]], [[1.0]]), (np.zeros((0, 3)), np.zeros((1, 3)))])
def test_an_interval_is_of_the_same_images(first, second):
    with pytest.raises(ValueError, match=r"both must be \(seeds, images\), of the same images, got"):
        margins.interval(first, second)


def test_runs_of_several_seeds_are_one_network_and_trained_alike(rows):
    """Of each network of the map all runs have other seeds and the same settings otherwise."""
    names = {path.name for path in paths.published_dir().iterdir()}
    for row in rows.values():
        for run, count in zip(row["runs"], row["seeds"], strict=True):
            seeds = [name for name in names if margins.first_seed(name) == run]
            assert len(seeds) == count
            found = [records.published_training(name)["run"] for name in seeds]
            known = [runner.notebook_parameters(name) for name in max(found, key=lambda run: run["started"])["notebooks"]]
            # the defaults of what was not there at first
            defaults = {key: entry["default"] for entries in known for key, entry in entries.items()}
            settings = [defaults | run["parameters"] for run in found]
            assert len({one["seed"] for one in settings}) == count
            # The first in minutes, others on as many images, and some tested on further pictures.
            differing = {"seed", "run_name", "minutes", "clock", "epochs", "updates", "test_sides"}
            assert len({json.dumps({key: one[key] for key in sorted(one) if key not in differing}) for one in settings}) == 1
            sides = [one.get("test_sides", "").split(", ") for one in settings]
            assert all(set(min(sides, key=len)) <= set(one) for one in sides)
            seen = [max(part["images_seen"] for part in run["training"].values()) for run in found]
            assert max(seen) < 1.06 * min(seen)
            assert all(one.get("test_seed", 0) == 0 and not one.get("turn") and not one.get("any_quality") for one in settings)


def test_recurrence_pays_where_something_must_be_remembered(rows):
    """What the README says: nothing on small images, decibels where a convolution does not see far enough."""
    far, near = ([row for row in rows.values() if row["remembered"].startswith("nothing") == near] for near in (False, True))
    assert len(far) >= 2 and len(near) >= 2
    assert all(row["margin"] < 0.05 for row in near)
    assert all(row["margin"] > 0.5 for row in far)
    assert all(row["low"] > 0 for row in far)


def test_what_is_fed_back_does_harm_on_the_largest_pictures():
    """As README's limits, lesson 30 and lesson 32 say: false alarms on a quarter of them, and convolutions do next to nothing."""
    gains = {one["restorer"]: np.array(one["gains"]) for one in records.reference_records(protocol="broken_jpeg", setting=1024)
             if "gains" in one}  # fmt: skip
    assert set(gains) == {"feedback", "unet", "nafnet", "rednet"} and all(len(values) == 40 for values in gains.values())
    mine = gains.pop("feedback")
    assert mine.mean() < -1 and np.mean(np.delete(mine, np.s_[3::4])) > 0 and all(abs(one.mean()) < 0.2 for one in gains.values())


def test_the_table_has_a_line_for_each_task(rows):
    text = reporting.map_table(list(rows.values()), "markdown")
    assert len(text.splitlines()) == 2 + len(rows)
    for row in rows.values():
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {row['task']} |"))
        assert f"{row['margin']:+.2f}" in line and (row["low"] is None or f"[{row['low']:+.2f}, {row['high']:+.2f}]" in line)
