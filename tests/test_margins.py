"""The map of where recurrence pays: every number is a record's, and the pairs are fair."""

import numpy as np
import pytest

from lstm_ae_lib.study import margins, records, reporting


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
        assert len({(one.get("minutes"), one.get("epochs"), one.get("protocol"), one.get("side")) for one in pair}) == 1, row
        sizes = [max(one["parameters"] for one in records.reference_records(run=run, split="test")) for run in row["runs"]
                 if records.reference_records(run=run, split="test")]  # fmt: skip
        assert not sizes or max(sizes) <= 1.05 * min(sizes), row


def test_jpegs_are_compared_picture_by_picture_with_the_best_without_recurrence(rows):
    for side in margins.JPEG_SIDES:
        found = records.reference_records(protocol="broken_jpeg", split="test", setting=side)
        gains = {one["run"]: np.array(one["gains"]) for one in found if "gains" in one}
        row = rows[f"JPEG with a flipped bit, {side}x{side}"]
        own, other = row["runs"]
        assert row["with"] == pytest.approx(gains[own].mean()) and row["without"] == pytest.approx(gains[other].mean())
        without = [run for run in gains if run.split("-")[1] in ("unet", "nafnet", "rednet", "convolution", "mean")]
        assert other == max(without, key=lambda run: gains[run].mean()) and len(without) >= 3
        spread = 1.96 * np.std(gains[own] - gains[other]) / np.sqrt(len(gains[own]))
        assert row["high"] - row["low"] == pytest.approx(2 * spread, rel=0.25)


def test_recurrence_pays_where_something_must_be_remembered(rows):
    """What the README says: nothing on small images, decibels where a convolution does not see far enough."""
    far, near = ([row for row in rows.values() if row["remembered"].startswith("nothing") == near] for near in (False, True))
    assert len(far) >= 2 and len(near) >= 2
    assert all(row["margin"] < 0.05 for row in near)
    assert all(row["low"] > 0 for row in far)


def test_the_table_has_a_line_for_each_task(rows):
    text = reporting.map_table(list(rows.values()), "markdown")
    assert len(text.splitlines()) == 2 + len(rows)
    for row in rows.values():
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {row['task']} |"))
        assert f"{row['margin']:+.2f}" in line and (row["low"] is None or f"[{row['low']:+.2f}, {row['high']:+.2f}]" in line)
