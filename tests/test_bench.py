import pytest

from lstm_ae_lib.study import bench


def test_it_measures_everything_and_asserts_nothing(monkeypatch):
    monkeypatch.setattr(bench, "IMAGES", 2000)
    records = bench.measure(repeats=3)
    names = " ".join(record["name"] for record in records)
    for part in ("training step, reference_lstm", "pipeline alone", "gauss2, OpenCV", "gauss2, in the graph"):
        assert part in names
    assert all(0 < record["low"] <= record["median"] <= record["high"] for record in records)
    text = bench.format_results(records)
    assert "3 interleaved repetitions" in text and "times as fast" in text


def test_too_few_repeats_are_refused():
    with pytest.raises(ValueError, match="repeats must be a whole number from 3"):
        bench.measure(1)
