"""README promises; this checks what can be checked."""

import csv
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lstm_ae_lib import __main__, files, models
from lstm_ae_lib.study import records, reporting, runs

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = {"README.md": README, "data/README.md": (ROOT / "data" / "README.md").read_text(encoding="utf-8")}


def blocks(language=""):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.S | re.M)
    return [text for kind, text in found if kind == language]


def code_lines():
    for block in blocks():
        for line in block.splitlines():
            yield line.split("#")[0].split()
    for inline in re.findall(r"`([^`\n]+)`", README):
        yield inline.split()


def test_the_table_is_what_the_metrics_file_says():
    start, end = reporting.MARKS["results"]
    block = README.split(start)[1].split(end)[0].strip()
    assert block == reporting.readme_table(records.reference_records())
    rows = [line for line in block.splitlines() if line.startswith("| `")]
    assert len(rows) >= 7 and "10,000 test images" in block and "cores" in block


def test_the_tables_are_what_the_files_say():
    tables = reporting.readme_tables()
    assert list(tables) == list(reporting.MARKS) == ["overview", "results", "looks", "speed"]
    for name, table in tables.items():
        start, end = reporting.MARKS[name]
        assert README.split(start)[1].split(end)[0].strip() == table
    looks = tables["looks"]
    assert "| flagship |" in looks and "| clean |" in looks and "10,000 test images" in looks
    speed = tables["speed"]
    assert "| training step | 64 |" in speed and "interleaved rounds" in speed and "cores" in speed


def test_the_overview_has_the_least_error_of_each_kind():
    found = records.reference_records(protocol="gauss2", data="full", split="test", images=10_000)
    least = {name: min(r["mse"] for r in found if r["restorer"] == name) for name in ("degraded", "linear", "unet", "flagship")}
    (row,) = (line for line in reporting.readme_overview(found).splitlines() if line.startswith("| `gauss2`"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == f"{1000 * least['degraded']:#.3g}" and cells[2] == f"{1000 * least['linear']:#.3g}"
    assert cells[6].startswith(f"{1000 * least['flagship']:#.3g} (") and cells[7] == "-"
    peers = reporting.readme_overview([record for record in found if record["restorer"] in ("unet", "flagship")])
    assert f"| - | {1000 * least['unet']:#.3g} (20) |" in peers
    assert "`gauss2`" not in reporting.readme_overview([record for record in found if record["restorer"] == "unet"])
    elsewhere = records.reference_records(protocol="reference", data="full")
    assert r"| 1.40\* |" in reporting.readme_overview(elsewhere)  # the precursor's, on validation images


def test_every_published_number_has_its_recorded_run():
    for record in records.reference_records(source="measured"):
        folder = ROOT / "data" / "published" / record["run"]
        assert record in files.read_json(folder / "metrics.json")["records"]
        run = files.read_json(folder / "run.json")
        assert run["status"] == "finished" and run["data"]["hash"] == record["data_hash"] and run["versions"]["tensorflow"]
        if not record["multiply_adds"] or record["restorer"] in reporting.CLOSED_FORM:
            continue  # not trained step by step
        if "frechet" in record and record["restorer"] not in run["training"]:
            assert record["minutes"] == record["images_seen"] == 0  # released weights, looked at beside what was trained here
            continue
        if run["parameters"].get("trained_runs", "none") != "none":  # networks of other runs, tested on other degradations
            folders = [folder.parent / name.strip() for name in run["parameters"]["trained_runs"].split(",")]
            trained = {folder: files.read_json(folder / "run.json") for folder in folders}
            ((folder, run),) = (one for one in trained.items() if record["restorer"] in one[1]["training"])
            assert run["status"] == "finished" and run["data"]["hash"] == record["data_hash"]
        with open(folder / "history.csv", newline="") as stream:
            rows = list(csv.DictReader(stream))
        if run["protocol"] == "compress":
            assert rows
        elif run["parameters"].get("minutes"):
            before = {"images_seen": 0, "minutes": 0}  # what went on from another run's network
            if run["parameters"].get("start_run"):
                earlier = files.read_json(ROOT / "data" / "published" / run["parameters"]["start_run"] / "run.json")
                before = earlier["training"][record["restorer"]]
            assert float(rows[-1]["images"]) + before["images_seen"] == record["images_seen"]
            assert float(rows[-1]["minutes"]) + before["minutes"] == pytest.approx(record["minutes"], abs=1e-3)
        else:
            assert len(rows) == run["parameters"]["epochs"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_resolve(document):
    found = re.findall(r"\]\(([^)]+)\)", DOCUMENTS[document])
    for target in found:
        if not target.startswith("https://"):
            assert (ROOT / document).parent.joinpath(target.split("#")[0]).exists(), target
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    account = address.removeprefix("https://github.com/")
    for target in found:
        if target.startswith("https://colab.research.google.com/github/"):
            start = f"https://colab.research.google.com/github/{account}/blob/main/"
            assert target.startswith(start) and (ROOT / target.removeprefix(start)).is_file(), target


def test_python_snippets_run_as_they_stand(made, sample):
    """In the order of the text, each in a process of its own, with a run of the name that README gives it, here untrained."""
    snippets = blocks("python")
    named = {name for snippet in snippets for name in re.findall(r'open_run\("(\w+)"\)', snippet)}
    assert len(snippets) >= 2 and named == {"mine"} and "`python -m lstm_ae_lib run --name mine`" in README
    run = runs.start_run("mine", {"seed": 0}, sample, "gauss2")
    run.save_model("autoencoder", models.reference_lstm_autoencoder(), "reference_lstm_autoencoder", {})
    for snippet in snippets:
        done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and "'psnr': " in done.stdout, done.stderr


def test_commands_can_be_parsed():
    lines = [line.split("#")[0] for block in blocks() for line in block.splitlines()]
    commands = [shlex.split(command) for line in lines for command in line.split("&&") if "python -m lstm_ae_lib" in command]
    for words in commands:
        assert callable(__main__._parser().parse_args(words[3:]).run), words
    assert len(commands) > 20


def test_commands_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    help_text = subprocess.run([sys.executable, "-m", "lstm_ae_lib", "--help"], capture_output=True, text=True, timeout=60).stdout
    seen = {"make": 0, "python": 0}
    for words in code_lines():
        if words[:1] == ["make"] and len(words) > 1:
            assert words[1] in targets, words
            seen["make"] += 1
        if words[:3] == ["python", "-m", "lstm_ae_lib"] and len(words) > 3:
            assert re.search(rf"^ +{words[3]}\s", help_text, re.M), words
            seen["python"] += 1
        for word in words:
            if word.startswith(("notebooks/", "data/parameters/")):
                assert (ROOT / word).exists(), word
    assert min(seen.values()) >= 4


def test_presets_and_parameters_named_exist():
    from lstm_ae_lib.study import runner

    for words in code_lines():
        if words[:4] == ["python", "-m", "lstm_ae_lib", "run"]:
            given = [(words[place + 1], words[place + 2]) for place, word in enumerate(words) if word == "-p"]
            preset = words[words.index("--preset") + 1] if "--preset" in words else "quick"
            runner.check_parameters({**runner.read_preset(preset), **dict(given)})


def test_the_first_screen_has_what_it_must():
    first = README.split("## Where things are")[0]
    for part in (
        "figures/03_best_median_worst.png",
        "make study",
        "make test",
        "colab.research.google.com",
        reporting.MARKS["overview"][0],
    ):
        assert part in first
    assert (ROOT / "figures" / "03_best_median_worst.png").is_file()


def test_make_help_lists_the_targets():
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    for target in ("study", "test", "test-colab", "full", "bench", "bench-train", "soak"):
        assert f"make {target} " in done.stdout


def test_the_licence_and_the_list_of_requirements_are_where_the_project_file_says():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "MIT License" in (ROOT / project["project"]["license-files"][0]).read_text()
    assert project["tool"]["setuptools"]["dynamic"]["dependencies"]["file"] == ["requirements.txt"]
    named = {re.split(r"[<>=]", line)[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if line[:1].isalpha()}
    assert {"tensorflow", "keras", "numpy", "matplotlib", "opencv-python", "jupyter", "nbval", "papermill"} <= named


def test_what_was_measured_on_fewer_images_too_is_shown_once():
    record = next(
        record for record in records.reference_records() if record["restorer"] == "linear" and record["split"] == "test"
    )
    fewer = {**record, "images": 1000, "psnr": 1.23, "psnr_low": 1.22, "psnr_high": 1.24}
    tuned = {**record, "restorer": "wiener", "budget": "tuned"}
    assert (
        reporting.readme_table([record, fewer, tuned])
        == reporting.readme_table([fewer, record])
        == reporting.readme_table([record])
    )
