"""The chain runs headlessly, learns something, and the regression test can fail."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import processes
import pytest
from test_readme import blocks

from lstm_ae_lib import cifar10, degradations, files, metrics, pictures, weights
from lstm_ae_lib.study import reporting, runner, runs, sweeps
from lstm_ae_lib.tasks import photographs

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def snippets(tmp_path_factory):
    """README's commands and programs, each as it stands, in one folder where the environment is what `make study` leaves."""
    folder = tmp_path_factory.mktemp("snippets")
    for name in ("figures", "notebooks"):
        (folder / name).symlink_to(ROOT / name)
    environment = os.environ | {"LSTM_AE_DATA": str(folder / "data"), "PYTHONPATH": str(ROOT)}
    done = {}
    for kind, block in blocks():
        for code in [block] if kind == "python" else block.splitlines():
            if not code.startswith("make "):
                interpreter, *words = [".venv/bin/python", "-c", code] if kind == "python" else shlex.split(code)
                assert interpreter == ".venv/bin/python", code
                done[code] = processes.run(words, cwd=folder, env=environment, timeout=900)
                assert done[code].returncode == 0, f"{code}\n{done[code].stderr[-3000:]}"
    return folder, done


@pytest.fixture
def smoke(snippets, monkeypatch):
    """README's run of the chain on the sample, short of the quick preset."""
    folder, done = snippets
    monkeypatch.setenv("LSTM_AE_DATA", str(folder / "data"))
    (one,) = [result for code, result in done.items() if " run " in code]
    return runs.open_run("mine"), one


def test_readmes_snippets_say_what_they_should(snippets):
    folder, done = snippets
    said = {code: result.stdout for code, result in done.items()}
    assert any("restored.png: 512 x 512 pixels" in text for text in said.values()) and (folder / "again.png").is_file()
    assert any(code.endswith(" runs") and " finished " in text for code, text in said.items())
    programs = [text for code, text in said.items() if "import" in code]
    assert len(programs) == 1 and programs[0].count("'psnr': ") == 2 and "Total params: 170,848" in programs[0]


def test_it_ends_with_a_table_one_figure_and_what_to_open_next(snippets, smoke):
    (folder, _), (run, done) = snippets, smoke
    head, table, end = done.stdout.strip().split("\n\n")
    assert head.startswith("run mine: sample CIFAR-10, protocol gauss2, ")
    rows = [re.split("  +", line) for line in table.splitlines()]
    assert [row[0] for row in rows[2:]] == ["degraded", "linear filter", "LSTM autoencoder", "released flagship"]
    assert [row[-1] for row in rows[2:]] == ["-", "closed form", "6 epochs of 1,600", "40 minutes, weights gauss2"]
    assert max(map(len, table.splitlines())) <= 120
    said = dict(line.split(":", 1) for line in end.splitlines())
    assert folder / said["figure"].strip() == run.path("figures/91_strip.png") and run.path("figures/91_strip.png").is_file()
    *_, lesson = said["next"].split()
    assert re.search(r" -m jupyter lab .*notebooks/01\w+\.ipynb$", said["next"]) and (folder / lesson).is_file()
    assert "Executing" in done.stderr and "100%" in done.stderr  # the progress bar


def test_the_released_restorer_is_shown_and_not_recorded(smoke, sample):
    """Its numbers are those of the same test images, below them stands the run's own network; no record has its name."""
    run, _ = smoke
    shown = files.read_json(run.path("released.json"))
    numbers = {record["restorer"]: record for record in run.records() if record["split"] == "test"}
    assert shown["images"] == len(sample.test_images) and set(numbers) == {"degraded", "linear", "reference_lstm"}
    assert shown["psnr"] > numbers["linear"]["psnr"] + 1 and shown["mse"] < 0.7 * numbers["linear"]["mse"]
    assert "flagship" not in run.record["training"] and {record["source"] for record in run.records()} == {"measured"}


def test_the_run_is_complete(smoke):
    run, _ = smoke
    record = run.record
    assert record["status"] == "finished" and record["parameters"]["epochs"] == 6 and record["data"]["kind"] == "sample"
    for name in ("history.csv", "autoencoder.weights.h5", "autoencoder.json", "linear_filter.weights.h5", "metrics.json"):
        assert run.path(name).is_file()
    for name in runner.CHAIN:
        cells = nbformat.read(run.path(f"{name}.ipynb"), as_version=4).cells
        assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
    assert len(run.history()["loss"]) == 6


def test_the_learned_numbers_are_within_their_bounds(smoke):
    run, _ = smoke
    for split in ("validation", "test"):
        numbers = {record["restorer"]: record for record in run.records() if record["split"] == split}
        assert numbers["reference_lstm"]["mse"] < 0.65 * numbers["degraded"]["mse"]
        assert numbers["reference_lstm"]["psnr"] > numbers["degraded"]["psnr"] + 2
        assert numbers["reference_lstm"]["ssim"] > numbers["degraded"]["ssim"] + 0.15
        assert numbers["linear"]["psnr"] > numbers["degraded"]["psnr"] + 5.5
        assert numbers["reference_lstm"]["parameters"] == 170848
    history = run.history()
    assert history["val_loss"][-1] < 0.3 * history["val_loss"][0]


def test_the_saved_models_give_the_recorded_numbers(smoke, sample):
    run, _ = smoke
    degraded = degradations.degrade(sample.test_images, "gauss2")
    numbers = {record["restorer"]: record for record in run.records() if record["split"] == "test"}
    for name, restorer in (("autoencoder", "reference_lstm"), ("linear_filter", "linear")):
        restored = run.load_model(name).predict(degraded / np.float32(255), batch_size=500, verbose=0)
        assert metrics.evaluate(sample.test_images, np.clip(restored, 0, 1))["mse"] == pytest.approx(
            numbers[restorer]["mse"], rel=1e-5
        )
    assert cifar10.load_cifar10("sample").content_hash == numbers["linear"]["data_hash"]


@pytest.mark.scale
def test_a_network_is_trained_on_a_mixture_where_the_sigma_is_unknown(tmp_path, monkeypatch, sample):
    monkeypatch.setenv("LSTM_AE_DATA", str(tmp_path))
    processes.fork_kernels(monkeypatch)
    file = tmp_path / "some.yaml"
    file.write_text(
        "notebooks: [90_train]\n"
        "parameters: {protocol: blind, model: unet, width: 4, linear_parts: 6, epochs: 2, redraw: true}\n"
        "runs: {unknown: {}}\n"
    )
    assert set(sweeps.run_sweep(str(file), quiet=True).values()) == {"finished"}
    run = runs.open_run("unknown")
    names = {"unet": "autoencoder", "linear_mixture": "linear_mixture", "linear": "linear_filter"}
    models = {name: run.load_model(file) for name, file in names.items()}
    assert models["unet"].get_layer("linear").parts == 6
    degraded = degradations.degrade(sample.test_images, "blind") / np.float32(255)
    restored = {name: np.clip(model.predict(degraded, batch_size=500, verbose=0), 0, 1) for name, model in models.items()}
    found = {name: metrics.evaluate(sample.test_images, images)["mse"] for name, images in restored.items()}
    assert found["unet"] < 1.02 * found["linear_mixture"] < 0.6 * found["linear"]

    # Trained on, on crops of pictures of one's own, with a rate that falls from the first step.
    (tmp_path / "own").mkdir()
    for number in range(10):
        mosaic = sample.train_images[48 * number : 48 * (number + 1)].reshape(6, 8, 32, 32, 3).swapaxes(1, 2).reshape(192, 256, 3)
        pictures.write(tmp_path / "own" / f"{number}.png", mosaic)
    (tmp_path / "own" / "broken.png").write_bytes(b"no picture")
    file.write_text(file.read_text().replace(
        "{unknown: {}}", f"{{unknown: {{}}, own: {{start_run: unknown, pictures: {tmp_path / 'own'}, side: 32, cooldown_share: 1, "
        "validation_share: 0.25, loss: log_mse, seed: 1}}"
    ))  # fmt: skip
    assert set(sweeps.run_sweep(str(file), quiet=True).values()) == {"was finished", "finished"}
    own = runs.open_run("own")
    assert own.record["data"]["kind"] == "pictures" and " pictures " in reporting.runs_table([own])
    seen = {name: one.record["training"]["unet"]["images_seen"] for name, one in (("first", run), ("both", own))}
    assert seen["both"] == seen["first"] + 2 * 8 * 64 and own.record["training"]["unet"]["budget"].count("epochs") == 2
    printed = str(nbformat.read(own.path("90_train.ipynb"), as_version=4))
    assert re.search(r"pipeline alone: \d+ crops per second", printed)
    assert re.search(r"beside training: \d+ images per second", printed)
    held_out = photographs.load_crops(tmp_path / "own", 32, 0.25, seed=1)[0].train_images[450:]
    degraded = degradations.degrade(held_out, "blind", 450) / np.float32(255)
    mixture = own.load_model("linear_mixture").predict(degraded, batch_size=500, verbose=0)
    assert own.history()["val_mse"][-1] < 1.03 * metrics.evaluate(held_out, np.clip(mixture, 0, 1))["mse"]


@pytest.mark.scale
def test_a_training_goes_on_from_released_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("LSTM_AE_DATA", str(tmp_path))
    processes.fork_kernels(monkeypatch)
    given = {
        "protocol": "gauss2",
        "model": "flagship",
        "start_weights": "gauss2",
        "epochs": 1,
        "batch_size": 64,
        "learning_rate": 1e-5,
    }
    run = runner.run_chain("on", given, ["90_train"], quiet=True)
    released = weights.describe_released("gauss2")
    before, after = released["card"]["training"]["flagship"], run.record["training"]["flagship"]
    assert after["images_seen"] == before["images_seen"] + 1600 and after["budget"] == "40 minutes + 1 epochs of 1,600"
    assert after["minutes"] > before["minutes"] and run.record["started_from"]["sha256"] == released["sha256"]
    assert run.history()["val_psnr"][-1] > released["card"]["numbers"]["flagship"]["psnr"] - 0.5  # not from the beginning
    with pytest.raises(RuntimeError, match="start_run or start_weights must be empty, got on and gauss2"):
        runner.run_chain("both", given | {"start_run": "on"}, ["90_train"], quiet=True)


def test_changing_a_printed_fact_makes_the_regression_test_fail(tmp_path):
    """nbval over the beginning of the first lesson, with one digit of its first printed fact changed; as it is, nbval passes it."""
    notebook = nbformat.read(min((ROOT / "notebooks").glob("01*.ipynb")), as_version=4)
    strict = [cell.cell_type == "code" and "nbval-ignore-output" not in cell.metadata.get("tags", []) for cell in notebook.cells]
    printed = [any(re.search(r"\d", output.get("text", "")) for output in cell.get("outputs", [])) for cell in notebook.cells]
    notebook.cells = notebook.cells[: 1 + next(place for place, fact in enumerate(zip(strict, printed, strict=True)) if all(fact))]
    output = next(output for output in notebook.cells[-1].outputs if re.search(r"\d", output.get("text", "")))
    output.text = re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), output.text, count=1)
    nbformat.write(notebook, tmp_path / "changed.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-cell-timeout=600", "-p", "no:cacheprovider", "-p", "no:warnings",
               "-q", "-rf", "--rootdir", str(tmp_path), "-c", os.devnull, str(tmp_path)]  # fmt: skip
    environment = {**os.environ, "LSTM_AE_DATA": str(tmp_path / "made")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 1 and "Cell outputs differ" in done.stdout, done.stdout[-3000:]
    assert re.findall(r"^FAILED .*?(\w+)\.ipynb", done.stdout, re.M) == ["changed"], done.stdout[-3000:]
    assert re.search(r"\b1 failed, \d+ passed", done.stdout), done.stdout[-3000:]
