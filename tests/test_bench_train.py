import pytest

from lstm_ae_lib.study import bench_train


def test_every_implementation_takes_its_turn(monkeypatch):
    """Small batches, one core; PyTorch's rows come where PyTorch is installed."""
    monkeypatch.setattr(
        bench_train,
        "BATCHES",
        {"training step": (2,), "inference": (1,), "sweep step": (1,), "step with pipeline": (8,), "making the pipeline": (8,)},
    )
    records = bench_train.measure(rounds=5, cores=(1,), share=0.01)
    rows = {(record["task"], record["implementation"]) for record in records}
    for name in ("project", "keras", "keras, project's threads"):
        assert {("training step", name), ("inference", name)} <= rows
    assert {("sweep step", name) for name in ("project", "gated scan", "keras")} <= rows and ("inference", "gated scan") not in rows
    assert {("step with pipeline", "project"), ("making the pipeline", "project")} <= rows
    for record in records:
        assert 0 < record["low"] <= record["milliseconds"] <= record["high"] and record["threads"] == 1
        if record["task"] == "training step":
            assert 0 < record["fraction_of_gemm"] < 1
            # 1.05 million multiply-adds a row, three times but for the gradient to the image.
            products = 3 * (4 * 128 * 224 + 4 * 64 * 192 + 64 * 96) - 4 * 128 * 96
            assert record["gflop"] == pytest.approx(2e-9 * 32 * products * 2, rel=0.02)
    text = bench_train.format_results(records)
    assert "of PyTorch's time" in text and "median [lowest, highest] of 5 interleaved rounds" in text


def test_the_growth_is_fitted(monkeypatch):
    monkeypatch.setattr(bench_train, "SCALES", {"images": (64, 128)})
    records = bench_train.scaling()
    assert [record["value"] for record in records] == [64, 128]
    assert all(record["seconds"] > 0 and record["peak_mebibytes"] > 100 for record in records)
    assert records[0]["exponent"] == records[1]["exponent"] and records[0]["seconds"] > 0
    assert "fitted exponent" in bench_train.format_scaling(records)


def test_too_few_rounds_are_refused():
    with pytest.raises(ValueError, match="rounds must be a whole number from 5"):
        bench_train.measure(4)


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="tasks must be one of training step, .*; got 'lunch'"):
        bench_train.measure(tasks=("lunch",))
