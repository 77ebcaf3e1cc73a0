import importlib.util

import numpy as np
import pytest

from lstm_ae_lib import models, pictures, restoring
from lstm_ae_lib.fast import threads
from lstm_ae_lib.study import bench, bench_crops, bench_flagship, bench_restoring, records


class InProcess:
    """Stands in for a worker process: the same work, here."""

    def __init__(self, name, cores):
        self.name, self.cores = name, cores

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ready(self):
        try:
            self.ask = bench._answering(self.name, self.cores)
        except ModuleNotFoundError:
            return False
        return True


@pytest.fixture
def small(monkeypatch):
    """Everything that is measured, a few times on a few images; stock Keras once, its threads are the processes'."""
    implementations = [name for name in bench.IMPLEMENTATIONS if name != "keras, project's threads"]
    small = {"IMPLEMENTATIONS": implementations, "TASKS": {name: ((2,), 1) for name in bench.TASKS}, "STEPS_PER_EXECUTION": 1}
    small |= {"_images": lambda batch, shape=(4, 32, 3), make=bench._images: make(batch, shape)}  # few rows are traced faster
    build = models.reference_lstm_autoencoder
    monkeypatch.setattr(models, "reference_lstm_autoencoder", lambda shape=(4, 32, 3), *rest: build(shape, *rest))
    for name, value in (small | {"Worker": InProcess, "SWEEP_SIZE": 4, "GEMM": (64, 64, 64)}).items():
        monkeypatch.setattr(bench, name, value)
    for name, value in {"SIDE": 8, "WIDTH": 8, "DEPTH": 1, "LATENT": 4}.items():
        monkeypatch.setattr(bench_flagship, name, value)


@pytest.mark.scale
def test_the_overview_measures_everything(monkeypatch):
    for name, value in {"IMAGES": 100, "BATCH": 4, "STEPS": 1, "BATCHES": 5}.items():
        monkeypatch.setattr(bench, name, value)
    found, text = bench.run("overview", 3)
    assert [record["name"] for record in found] == [
        "training step, reference_lstm, batch 4, milliseconds", "training step, reference_bilstm, batch 4, milliseconds",
        "pipeline alone, images per second", "degrading 100 images, gauss2, OpenCV, seconds",
        "degrading 100 images, gauss2, in the graph, seconds", "degrading 100 images, reference, SciPy, seconds",
        "degrading 100 images, reference, in the graph, seconds",
    ]  # fmt: skip
    assert set(found[0]) == set(records.benchmark_records("overview")[0])
    assert all(0 < record["low"] <= record["median"] <= record["high"] for record in found)
    assert "3 interleaved repetitions" in text and "pipeline alone: " in text and "times as fast" in text


@pytest.mark.scale
def test_every_implementation_takes_its_turn(small):
    found = bench.train(repeats=5, cores=(1,))
    rows = {(record["task"], record["implementation"]): record for record in found}
    every = {"project", "keras"}
    every |= {"pytorch"} if importlib.util.find_spec("torch") else set()
    done = {task: {name for this, name in rows if this == task} - {"onnxruntime"} for task in bench.TASKS}
    assert done == {
        "training step": every, "inference": every, "sweep step": every | {"gated scan"},
        **{task: every - {"project", "keras"} | {"flagship"} for task in bench_flagship.TASKS if "flagship" in task},
        "scans of a step, float32": {"flagship"}, "scans of a step, bfloat16": {"flagship"},
        "step with one batch": every - {"pytorch"}, "step with pipeline": {"project"}, "making the pipeline": {"project"},
    }  # fmt: skip
    for record in found:
        assert 0 < record["low"] <= record["milliseconds"] <= record["high"]
        assert record["threads"] == 1 and record["rounds"] == 5 and record["gemm_gflops"] > 0
    # 1.05 million multiply-adds a row, three times but for the gradient to the image; two images of 32 rows.
    products = 3 * (4 * 128 * 224 + 4 * 64 * 192 + 64 * 96) - 4 * 128 * 96
    step = rows["training step", "project"]
    assert step["gflop"] == pytest.approx(2e-9 * 32 * products * 2, abs=1e-4) and step["fraction_of_gemm"] > 0
    flagship = rows["flagship step, bfloat16", "flagship"]
    assert flagship["gflop"] == pytest.approx(2e-9 * bench_flagship.multiply_adds(step=True) * 2, abs=1e-4)
    for kind in bench_flagship.PRECISIONS:  # a part of the step, of no products
        scans = rows[f"scans of a step, {kind}", "flagship"]
        assert "gflop" not in scans and scans["low"] < rows[f"flagship step, {kind}", "flagship"]["high"]
    assert "gflop" not in rows["sweep step", "project"] and step["ratio_to_keras"] > 0
    piped = rows["step with pipeline", "project"]
    assert 0 < piped["ratio_low"] <= piped["ratio_to_one_batch"] <= piped["ratio_high"]
    text = bench.format_train(found)
    assert "of PyTorch's time" in text and "median [lowest, highest] of 5 interleaved rounds" in text


def test_a_ratio_compares_the_same_rounds():
    times = {("inference", 1, "project"): (2.0, 3.0, 8.0), ("inference", 1, "pytorch"): (1.0, 3.0, 2.0)}
    record = bench._record(times, "inference", 1, "project", {"gemm": 100.0})
    assert (record["milliseconds"], record["low"], record["high"]) == (3.0, 2.0, 8.0)
    assert (record["ratio_to_pytorch"], record["ratio_low"], record["ratio_high"]) == (2.0, 1.0, 4.0)
    assert "ratio_to_pytorch" not in bench._record(times, "inference", 1, "pytorch", {"gemm": 100.0})


def test_a_task_is_put_beside_a_product_in_its_own_precision():
    rates = {"gemm": 100.0, bench_flagship.PRODUCT: 400.0}
    for task, rate in (("flagship step", 100.0), ("flagship step, bfloat16", 400.0)):
        record = bench._record({(task, 2, "flagship"): (8.0, 2.0, 4.0)}, task, 2, "flagship", rates)
        assert record["gemm_gflops"] == rate and record["fraction_of_gemm"] == pytest.approx(record["gflop"] / 0.004 / rate)


def test_the_products_of_the_flagship_are_counted(monkeypatch):
    for name, value in {"SIDE": 8, "WIDTH": 8, "DEPTH": 1, "LATENT": 4}.items():
        monkeypatch.setattr(bench_flagship, name, value)
    first, pair, latent, last = 108 * 8, 2 * 72 * 8 + 8 * 32 + 16 * 8, 2 * 4 * 8, 72 * 12
    assert bench_flagship.multiply_adds(step=False) == 16 * (first + 2 * pair + latent + last)
    assert bench_flagship.multiply_adds(step=True) == 16 * (2 * first + 3 * (2 * pair + latent + last))  # no gradient to the image


def copy_weights(own, other):
    """From the Keras flagship to PyTorch's: kernels have their outputs first there, and the decoder's pairs the other way round."""
    import torch

    for name, values in other.named_parameters():
        layer, _, kind = name.removeprefix("module.").rpartition(".")
        part, *rest = layer.removesuffix(".project").split(".")
        if rest:
            place = int(rest[0]) if part == "encoder" else bench_flagship.DEPTH - 1 - int(rest[0])
            part = f"{part}{place}_{rest[1]}"
        value = own.get_layer(part).get_weights()[kind == "bias"]
        if part == "last":  # pixel_shuffle counts colours first
            value = value.reshape(*value.shape[:-1], 4, 3).swapaxes(-1, -2).reshape(value.shape)
        order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]
        values.data.copy_(torch.from_numpy(np.ascontiguousarray(value.transpose(order))))


@pytest.mark.backends
def test_pytorchs_flagship_is_the_same_network():
    """With the same weights it makes the same of an image."""
    torch = pytest.importorskip("torch", reason="PyTorch is optional")
    random = np.random.default_rng(0)
    own, other = bench_flagship.flagship("float32"), bench_flagship.torch_flagship()
    for layer in own.layers:
        shapes = [value.shape for value in layer.get_weights()]
        layer.set_weights([random.normal(scale=0.5 / np.sqrt(np.prod(shape[:-1])), size=shape) for shape in shapes])
    copy_weights(own, other)
    images = random.random((2, 32, 32, 3), dtype=np.float32)
    with torch.no_grad():
        made = other(torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(made, models.apply(own, images), rtol=0, atol=2e-5)
    assert np.abs(made - images).mean() > 0.01


@pytest.mark.scale
def test_the_growth_is_fitted(small, monkeypatch):
    monkeypatch.setattr(bench, "SCALES", {"images": (64, 128), "side": (4, 8)})
    found, text = bench.run("scaling", 3)
    assert [record["value"] for record in found] == [64, 128, 4, 8]
    assert [record["size"] for record in found][:2] == [64, 128] and found[2]["size"] < found[3]["size"]
    assert bench._scaled("side", 16)[1:] == ((64, 16, 16, 3), 8)
    costs = [models.multiply_adds(bench._scaled("units", units)[0]) for units in (4, 8)]  # the size of that scale
    assert costs == [32 * (16 * (96 + 4) + 8 * (4 + 2) + 2 * 96), 32 * (32 * (96 + 8) + 16 * (8 + 4) + 4 * 96)]
    assert all(record["seconds"] > 0 and record["peak_mebibytes"] > 100 for record in found)
    assert found[0]["exponent"] == found[1]["exponent"] and "fitted exponent" in text
    assert set(found[0]) == set(records.benchmark_records("scaling")[0])


@pytest.mark.scale
def test_restoring_a_folder_is_timed(monkeypatch):
    monkeypatch.setattr(bench_restoring, "FOLDER", (6, 32))
    found, text = bench.run("workers", 1)
    assert [record["workers"] for record in found] == [0, 1, threads.cores()]
    assert found[1]["speedup"] == 1 and found[2]["speedup"] == pytest.approx(found[1]["seconds"] / found[2]["seconds"])
    assert "6 pictures of 32 x 32" in text and "none, one process" in text


@pytest.mark.scale
def test_training_on_a_growing_folder_is_timed(monkeypatch):
    for name, value in {"COUNTS": (40, 1100), "SIDE": 16, "DISTINCT": 30, "IMAGES": 64, "BATCH": 8}.items():
        monkeypatch.setattr(bench_crops, name, value)
    found, text = bench.run("crops", 1)
    assert [record["files"] for record in found] == [40, 1100] and all(record["rate"] > 0 for record in found)
    assert all(200 < record["peak_mebibytes"] < 2048 for record in found) and "1,100" in text


@pytest.mark.scale
def test_restoring_whole_pictures_is_timed(small, monkeypatch):
    monkeypatch.setattr(bench_restoring, "PICTURES", ((64, 48), (900, 800)))
    asked, engines = [], ["keras", "onnx"]

    def restore(source, target, engine):
        asked.append((pictures.read(source).shape, engine))
        return 2.0, 300

    monkeypatch.setattr(bench_restoring, "_restore_once", restore)
    found, text = bench.run("restore", 2)
    assert asked == [(shape, engine) for shape in ((48, 64, 3), (800, 900, 3)) for engine in engines * 2]
    assert [(record["seconds"], record["peak_mebibytes"]) for record in found] == [(2.0, 300)] * 4
    assert [record["engine"] for record in found] == engines * 2 and all(record["tile_seconds"] > 0 for record in found)
    # The larger one is cut into two by two tiles, as small as they can be.
    one = models.multiply_adds(restoring.load_restorer(restoring.DEFAULT)._at_size(432, 488))
    rate = found[2]["gemm_gflops"]
    assert found[2]["gflop"] == pytest.approx(8e-9 * one)
    assert found[2]["fraction_of_gemm"] == pytest.approx(4e-9 * one / rate, rel=1e-3)
    assert "900 x 800" in text and "2.0 [2.0, 2.0]" in text


def test_of_some_tasks_the_others_records_are_kept(small):
    saved = records.benchmark_records("train")
    found, text = bench.run("train", 6, ["making the pipeline"])
    new = {record["task"] for record in found if record not in saved}
    assert new == {"making the pipeline"} and {record["task"] for record in found} >= {"training step", "sweep step"}
    assert "training step" not in text


@pytest.mark.scale
def test_a_process_computes_on_request_and_says_why_it_failed():
    with bench.Worker("project", 1) as worker, bench.Worker("pytorch", 1) as other:
        assert worker.ready() and other.ready() == bool(importlib.util.find_spec("torch"))
        assert worker.ask("gemm", bench.GEMM[0], True) > 0
        assert worker.ask("lunch", 1, True) is None
        with pytest.raises(RuntimeError, match="measuring inference -1 by project failed: ValueError"):
            worker.ask("inference", -1, True)
        assert worker.ask("peak", 0, True) > 100
    assert worker.returncode == other.returncode == 0


def test_a_process_that_has_ended_is_an_error():
    with bench.Worker("project", 1) as worker:
        worker.kill()
        with pytest.raises(RuntimeError, match="starting by project failed: its process has ended"):
            worker.ready()


def test_requests_that_are_refused():
    with pytest.raises(ValueError, match="repeats must be a whole number from 3"):
        bench.overview(1)
    with pytest.raises(ValueError, match="repeats must be a whole number from 5"):
        bench.train(4)
    with pytest.raises(ValueError, match="tasks must be one of training step, .*; got 'lunch'"):
        bench.train(tasks=("lunch",))
    with pytest.raises(ValueError, match="tasks are of train, got training step with overview"):
        bench.run("overview", 1, ["training step"])
    assert bench.train(cores=(threads.cores() + 1,)) == []
