"""Rules for drivers, the notebooks that run, sweep and papermill execute; and each of them executed once, small."""

import ast
import itertools
import json
import re

import nbformat
import numpy as np
import papermill
import processes
import pytest

from lstm_ae_lib import degradations, paths, pictures
from lstm_ae_lib.study import runner, sweeps
from lstm_ae_lib.tasks import codec

DRIVERS = sorted(paths.notebooks_dir().glob("9*.ipynb"))
SWEEPS = sorted(path.stem for path in (paths.data_dir() / "sweeps").glob("*.yaml"))
PRESETS = sorted(path.stem for path in (paths.data_dir() / "parameters").glob("*.yaml"))
MEANING = ("type", "default", "low", "high", "choices")

each = pytest.mark.parametrize("path", DRIVERS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def parameters_cell(path):
    (place,) = [place for place, cell in enumerate(code_cells(path)) if "parameters" in cell.metadata.get("tags", [])]
    return place, code_cells(path)[place].source


# --- rules ------------------------------------------------------------------------------------------------------------


@each
def test_a_title_and_a_line_and_no_further_prose(path):
    first, *others = nbformat.read(path, as_version=4).cells
    assert all(cell.cell_type == "code" for cell in others)
    assert re.fullmatch(r"# (9\d)\. [A-Z].+\n\n\*\*Reads\*\* .+ · \*\*Writes\*\* .+ · \*\*Takes\*\* .+", first.source)
    assert first.source.startswith(f"# {path.stem[:2]}. ")


@each
def test_no_outputs_and_nothing_of_the_machine(path):
    notebook = json.loads(path.read_text())
    assert notebook["metadata"] == {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for cell in notebook["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        assert cell["metadata"] in ({}, {"tags": ["parameters"]})
    assert not re.search(r"/(home|root|Users|work|tmp)/", path.read_text())


@each
def test_cells_are_short_and_define_nothing(path):
    place, _ = parameters_cell(path)
    for number, cell in enumerate(code_cells(path)):
        assert number == place or len(cell.source.splitlines()) <= 15, cell.source
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef, ast.Lambda)), cell.source


@each
def test_parameters_are_annotated_literals_with_help_and_range(path):
    _, source = parameters_cell(path)
    for node, line in itertools.zip_longest(ast.parse(source).body, source.splitlines()):
        assert isinstance(node, ast.AnnAssign) and node.annotation.id in ("int", "float", "bool", "str"), line
        assert line.count("=") == 1, f"papermill cannot read a line with two '=': {line}"
    for name, entry in runner.notebook_parameters(path.stem).items():
        assert entry["type"] not in ("int", "float") or entry["low"] is not None, f"{name} says no range"
        assert entry["type"] != "str" or entry["choices"] or "(text)" in entry["help"], f"{name} says neither its words nor (text)"
        assert runner.check_parameters({name: entry["default"]}, [path.stem]) == {path.stem: {name: entry["default"]}}


@each
def test_parameters_are_read_as_papermill_does_and_checked_first(path):
    declared, found = papermill.inspect_notebook(str(path)), runner.notebook_parameters(path.stem)
    assert list(found) == list(declared)
    for name, entry in declared.items():
        assert (found[name]["type"], found[name]["help"]) == (entry["inferred_type_name"], entry["help"])
        assert found[name]["default"] == ast.literal_eval(entry["default"])
    place, _ = parameters_cell(path)
    assert re.match(r"(parameters = )?runner\.read_parameters\(globals\(\)\)\n", code_cells(path)[place + 1].source)


@each
def test_builders_of_the_tasks_are_known(path):
    source = "\n".join(cell.source for cell in code_cells(path))
    tasks = r"^from lstm_ae_lib(\.tasks import| import (\([^)]*|.*)\btasks\b)"  # the import may be wrapped in parentheses
    assert "weights.build(" not in source or re.search(tasks, source, re.M)


@each
def test_figures_are_named_by_the_driver(path):
    source = "\n".join(cell.source for cell in code_cells(path))
    assert all(name.startswith(path.stem[:3]) for name in re.findall(r'"([^"]+)\.png"', source))


@each
def test_parameters_mean_the_same_in_every_driver(path):
    mine = runner.notebook_parameters(path.stem)
    for other in DRIVERS:
        theirs = runner.notebook_parameters(other.stem)
        for name in set(mine) & set(theirs):
            assert [mine[name][key] for key in MEANING] == [theirs[name][key] for key in MEANING], name
    if "protocol" in mine:
        assert mine["protocol"]["choices"] == list(degradations.PROTOCOLS)


def test_run_presets_and_sweeps_know_drivers_only():
    drivers = {path.stem for path in DRIVERS}
    assert set(runner.CHAIN) <= drivers
    for name in SWEEPS:
        assert set(sweeps.read_sweep(name)["notebooks"]) <= drivers, name  # which checks names and values of parameters
    for name in PRESETS:
        runner.check_parameters(runner.read_preset(name))


# --- each of them, small; 90 and 91 in test_notebook_runs -------------------------------------------------------------


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    processes.fork_kernels(monkeypatch)


def execute(name, run_name="", **parameters):
    """Execute a driver as a run of its own, and return it and its records: restorer -> a list."""
    run = runner.run_chain(run_name or name, parameters, [name], quiet=True)
    found = {}
    for record in run.records():
        found.setdefault(record["restorer"], []).append(record)
    assert run.record["status"] == "finished" and set(found) - {"degraded", "clean"}
    return run, found


@pytest.mark.scale
def test_restore_classically():
    run, found = execute("92_restore_classically", test_images=12, tuning_images=4, networks="unet", steps=20)
    psnr = {name: records[0]["psnr"] for name, records in found.items()}
    assert {"linear", "unsharp", "wiener", "richardson_lucy", "total_variation", "unet"} < set(psnr)
    assert all(value > psnr["degraded"] + 0.5 for name, value in psnr.items() if name != "degraded")
    assert psnr["linear"] > psnr["degraded"] + 4 and psnr["unet"] > psnr["linear"] - 0.5  # it begins as the linear filter
    assert [record["images"] for record in found["linear"]] == [12, 500]
    assert run.record["training"]["wiener"]["budget"] == "tuned" and run.path("figures/92_one_picture.png").is_file()


@pytest.mark.scale
def test_compress(sample):
    """Without encoder and decoder networks, which take longest to build: the transforms, their training, the bytes."""
    run, found = execute("93_compress", sizes="24", latent=192, channels=0, steps=20, size_steps=5, test_images=20)
    (rated,) = [record for record in found["compressor"] if "bits_per_pixel" in record]
    assert 0.2 < rated["bits_per_pixel"] < 2 and rated["psnr"] > 20 and rated["latent"] == 192
    through = {name: records[0]["psnr"] for name, records in found.items() if records[0].get("latent") == 24}
    assert abs(through["compressor"] - through["pca"]) < 0.3  # it begins as the components
    assert through["lstm_bottleneck"] < through["pca"] and through["bottleneck_restorer"] < through["pca"]
    assert len(found["jpeg"]) == len(found["webp"]) == len(found["avif"]) == len(found["jxl"]) == 5
    coder = codec.load_codec("compressor", run.folder)
    picture = sample.test_images[0]
    assert np.abs(coder.decompress(coder.compress(picture)).astype(float) - picture).mean() < 30


@pytest.mark.scale
def test_compress_at_any_rate(sample, tmp_path):
    small = {"channels": 2, "steps": 3, "test_images": 4, "clip_norm": 1.0, "batch_size": 4}
    run, found = execute("93_compress", "any", rates="any", sizes="none", **small)
    rated = found["any_rate_compressor"]
    rates, psnrs = ([record[field] for record in rated] for field in ("bits_per_pixel", "psnr"))
    assert len(rated) == 9 and rates == sorted(rates, reverse=True) and psnrs == sorted(psnrs, reverse=True)
    assert run.record["training"]["any_rate_compressor"]["images_seen"] == 12
    coder = codec.load_codec("compressor", run.folder)
    assert coder.decompress(coder.compress(sample.test_images[0], 2)).shape == (32, 32, 3)
    # Trained on with crops of pictures.
    for place in range(10):
        pictures.write(tmp_path / f"{place}.png", np.concatenate(sample.train_images[place : place + 3], axis=1))
    own = {"pictures": str(tmp_path), "side": 24, "start_run": "any"}
    run, found = execute("93_compress", "crops", rates="any", sizes="none", **own, **small)
    assert run.record["data"]["kind"] == "pictures" and set(found) == {"any_rate_compressor", "jpeg", "webp", "avif", "jxl"}
    assert run.record["training"]["any_rate_compressor"] | {"minutes": 0} == {
        "minutes": 0, "images_seen": 24, "budget": "3 steps and 3 steps"}  # fmt: skip
    with pytest.raises(RuntimeError, match="pictures are for rates any and sizes none, got one and 8"):
        execute("93_compress", "refused", sizes="8", **own, **small)


@pytest.mark.scale
def test_compress_with_the_published_rival():
    small = {"channels": 8, "latent": 8, "steps": 80, "optimizer": "muon", "learning_rate": 0.02, "test_images": 8, "sizes": "none"}
    run, found = execute("93_compress", "hyper", design="hyperprior", **small)
    ((rated,),) = found.values()
    assert set(found) == {"scale_hyperprior"} and 0 < rated["bits_per_pixel"] < 8
    assert run.load_model("compressor").count_params() == rated["parameters"]
    with pytest.raises(RuntimeError, match="design hyperprior is for rates one, got any"):
        execute("93_compress", "hyper-refused", design="hyperprior", rates="any", **small)


@pytest.mark.scale
def test_denoise():
    _, found = execute("94_denoise", test_images=8, tuning_images=4, steps=8, denoisers="dncnn")
    for place, level in enumerate(("awgn15", "awgn25", "awgn50")):
        psnr = {name: records[place]["psnr"] for name, records in found.items()}
        assert {record["protocol"] for record in (records[place] for records in found.values())} == {level}
        assert psnr["linear"] > psnr["degraded"] + 2 and psnr["dncnn"] > psnr["linear_mixture"] - 0.5
        assert all(psnr[name] > psnr["degraded"] + 1 for name in ("total_variation", "non_local_means", "wavelet"))


@pytest.mark.scale
def test_classify():
    run, found = execute("95_classify", updates=60, test_images=100)
    assert run.record["classifier"]["images"] == 100 and run.record["classifier"]["accuracy"] > 0.15
    looks = {name: records[0] for name, records in found.items()}
    assert looks["flagship"]["psnr"] > looks["linear"]["psnr"] + 0.5 > looks["degraded"]["psnr"] + 4
    assert abs(looks["clean"]["frechet"]) < 1e-3 * looks["degraded"]["frechet"]
    assert looks["degraded"]["gradient_energy"] < looks["linear"]["gradient_energy"] < looks["clean"]["gradient_energy"]
    assert run.load_model("classifier").count_params() == json.loads(run.path("classifier.json").read_text())["parameters"]


@pytest.mark.scale
def test_train_variational():
    run, found = execute("96_train_variational", updates=10, samples=2, channels=8, test_images=24)
    psnr = {name: records[0]["psnr"] for name, records in found.items()}
    assert psnr["flagship"] > psnr["linear"] > psnr["degraded"] + 4
    assert psnr["vae_mean"] > psnr["vae_sample"] and psnr["vae_mean"] > psnr["degraded"] - 1
    bounds = run.record["variational"]
    assert 0 < bounds["restoring"]["bits"] < bounds["drawing"]["bits"] < 10 and bounds["restoring"]["calibration"]["error"]
    for name in ("autoencoder", "drawing"):
        assert run.load_model(name).count_params() > 1000


@pytest.mark.scale
def test_train_adversarial():
    run, found = execute("97_train_adversarial", updates=6, alone=6, judge_channels=8, batch_size=16, test_images=24)
    (gan,), (flagship,) = found["gan"], found["flagship"]
    assert abs(gan["psnr"] - flagship["psnr"]) < 0.5 and gan["mse"] != flagship["mse"] and gan["setting"] == 0.01
    assert gan["psnr"] > found["linear"][0]["psnr"] and run.record["failed"] == ""
    assert 0.2 < run.history()["val_discriminator_accuracy"][-1] <= 1
    assert run.load_model("autoencoder").count_params() == gan["parameters"] == flagship["parameters"]


@pytest.mark.parametrize("length", [{"updates": 4}, pytest.param({"minutes": 0.01, "clip_norm": 1.0}, marks=pytest.mark.scale)])
def test_mend_jpegs(made, tmp_path, sample, length):
    for number in range(5):
        mosaic = sample.train_images[12 * number : 12 * number + 12].reshape(3, 4, 32, 32, 3).swapaxes(1, 2).reshape(96, 128, 3)
        pictures.write(tmp_path / "all" / f"{number}.png", mosaic)
    small = {"network": "mean", "width": 8, "options": '{"depth": 1}', "check_every": 2, "batch_size": 4, **length}
    run, found = execute("98_mend_jpegs", folder=str(tmp_path / "all"), side=64, test_sides="64, 128", test_crops=3, **small)
    assert [record["setting"] for record in found["mean"]] == [64, 128]
    budget, seen = (found["mean"][0][name] for name in ("budget", "images_seen"))
    assert (budget, seen) == ("16 crops", 16) if "updates" in length else budget == "0.01 minutes" and seen >= 8
    assert all(len(record["gains"]) == 3 and len(record["far"]) == 6 and record["sound"] > 30 for record in found["mean"])
    assert run.load_model("autoencoder").count_params() == found["mean"][0]["parameters"]


def test_restore_bursts():
    small = {"memory": "average", "width": 8, "depth": 1, "updates": 20, "check_every": 20, "frames": 2}
    small |= {"precision": "bfloat16", "clip_norm": 0.1}
    run, found = execute("99_restore_bursts", variant="burst50", test_frames="1, 2", test_images=20, **small)
    assert [(record["setting"], record["drift"]) for record in found["average"]] == [(1, 1.0), (2, 1.0), (2, 2.0)]
    psnr = [record["psnr"] for record in found["average"]]
    assert psnr[1] > found["degraded"][1]["psnr"] + 0.2 and "val_last_psnr" in run.history()
