"""READMEs promise; this checks what can be checked: tables, numbers, links, commands, snippets."""

import csv
import functools
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from lstm_ae_lib import __main__, files, restoring
from lstm_ae_lib.study import address, margins, records, reporting, runner

ROOT = Path(__file__).resolve().parent.parent
PLACES = "README.md", "[a-z]*/README.md", "data/*/README.md"
READMES = sorted(path.relative_to(ROOT).as_posix() for place in PLACES for path in ROOT.glob(place))
NOTEBOOKS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("notebooks/*.ipynb"))


@functools.cache
def text_of(document):
    """A document's Markdown; of a notebook, its text cells and the HTML that its code cells show."""
    text = (ROOT / document).read_text(encoding="utf-8")
    if document.endswith(".md"):
        return text
    parts = []
    for cell in json.loads(text)["cells"]:
        shown = [output.get("data", {}).get("text/html", "") for output in cell.get("outputs", [])]
        parts += ["".join(part) for part in (cell["source"] if cell["cell_type"] == "markdown" else "", *shown)]
    return "\n\n".join(parts)


README = text_of("README.md")


def blocks(document="README.md", language=None):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text_of(document), re.S | re.M)
    return [(kind, block) for kind, block in found if language in (None, kind)]


def code_lines():
    for document in READMES:
        for _, block in blocks(document, ""):
            for line in block.splitlines():
                yield line.split("#")[0].removeprefix(".venv/bin/").split()
        for inline in re.findall(r"`([^`\n]+)`", text_of(document)):
            yield inline.removeprefix(".venv/bin/").split()


def prose():
    """README's running text: no tables, no code, no comments; one space for each gap."""
    text = re.sub(r"^```.*?^```$|<!--.*?-->|^\|[^\n]*$", "", README, flags=re.S | re.M)
    return " ".join(text.split())


def between(document, name, command):
    start, end = address.marks(name, command)
    return text_of(document).split(start)[1].split(end)[0].strip()


# --- size, tables, numbers --------------------------------------------------------------------------------------------


def test_readme_is_short():
    text = re.sub(r"<!--.*?-->", "", README, flags=re.S)
    lines = text.splitlines()
    assert sum(len(line.split()) for line in lines if not line.startswith("|")) <= 1100
    assert sum(line.startswith("|") for line in lines) <= 45


def test_the_first_screen_has_what_it_must():
    first = README.split("## Results")[0]
    parts = "figures/photograph.png", "figures/cifar.png", "**The answer.**", "make study", "make test", "lstm_ae_lib restore"
    for part in parts:
        assert part in first
    assert all(f"]({notebook})" in first for notebook in NOTEBOOKS if notebook < "notebooks/9")


def test_the_tables_are_what_the_files_say():
    tables = reporting.readme_tables()
    assert list(tables) == list(reporting.WRITTEN)
    for name, table in tables.items():
        document, command = reporting.WRITTEN[name]
        assert between(document, name, command) == table, f"{name}: `python -m lstm_ae_lib publish` writes it again"
    rows = [line for line in tables["results"].splitlines() if line.startswith("| `")]
    assert len(rows) >= 7 and "10,000 test images" in tables["results"] and "cores" in tables["results"]
    looks = tables["looks"]
    assert "| flagship |" in looks and "| clean |" in looks and "10,000 test images" in looks
    speed = tables["speed"]
    assert "| training step | 64 |" in speed and "interleaved rounds" in speed and "cores" in speed


def test_titles_and_times_are_what_the_notebooks_say():
    for document, parts in address.documents(ROOT, address.read_address(ROOT)).items():
        for name, content in parts.items():
            assert between(document, name, address.COMMAND) == content, f"{document}: `{address.COMMAND}` writes it again"


def test_the_overview_has_the_lowest_error_of_each_family():
    found = records.reference_records(protocol="gauss2", data="full", split="test", images=10_000)
    (row,) = (line for line in reporting.readme_overview(found).splitlines() if line.startswith("| `gauss2`"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    families = ("degraded",), ("linear",), records.LSTMS, records.PEERS, ("flagship",)
    for cell, family in zip(cells[1:], families, strict=True):
        best = min((record for record in found if record["restorer"] in family), key=lambda record: record["mse"])
        assert cell.startswith(f"{best['psnr']:.2f} / {1000 * best['mse']:#.3g}"), cell
        assert cell.endswith(f" ({best['minutes']:.0f})") == (family not in (("degraded",), ("linear",))), cell
    assert reporting.readme_overview([]).splitlines()[-1].endswith("| - | - | - | - | - |")


def test_the_table_of_families_has_published_numbers_too():
    found = records.reference_records(protocol="gauss2", data="full", split="test", images=10_000)
    least = {name: min(r["mse"] for r in found if r["restorer"] == name) for name in ("degraded", "linear", "unet", "flagship")}
    (row,) = (line for line in reporting.families_table(found).splitlines() if line.startswith("| `gauss2`"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == f"{1000 * least['degraded']:#.3g}" and cells[2] == f"{1000 * least['linear']:#.3g}"
    assert cells[6].startswith(f"{1000 * least['flagship']:#.3g} (") and cells[7] == "-"
    peers = reporting.families_table([record for record in found if record["restorer"] in ("unet", "flagship")])
    assert f"| - | {1000 * least['unet']:#.3g} (20) |" in peers
    assert "`gauss2`" not in reporting.families_table([record for record in found if record["restorer"] == "unet"])
    elsewhere = records.reference_records(protocol="reference", data="full")
    assert r"| 1.40\* |" in reporting.families_table(elsewhere)  # the precursor's, on validation images


def facts():
    """What README's prose says in numbers, each phrase as the records have it, and whether what it claims is so."""
    found = [one for one in records.reference_records(data="full", split="test", source="measured") if one["images"] == 10_000]
    one = {(record["run"], record["restorer"]): record for record in found}

    def psnr(run, restorer):
        return one[run, restorer]["psnr"]

    (lstm, lstm_adam), (both, both_adam) = (
        [psnr(f"gauss2-{name}{run}", f"reference_{name}") for run in ("-muon", "")] for name in ("lstm", "bilstm")
    )
    gauss2 = [record for record in found if record["protocol"] == "gauss2"]
    linear = max(record["psnr"] for record in gauss2 if record["restorer"] == "linear")
    best = max((record for record in gauss2 if record["restorer"] == "flagship"), key=lambda record: record["psnr"])
    pairs = [pair for pair in records.comparisons("gauss2") if pair["other"].split("-")[1] in records.PEERS]
    gains, wins = ([pair[field] for pair in pairs] for field in ("psnr", "wins"))
    same = [one[f"gauss2-{name}-20m", name] for name in (*records.PEERS, "flagship")]
    size = [same[-1]["parameters"] / record["parameters"] - 1 for record in same[:-1]]
    trials = ("scan", "none", "no-start", "adam", "same-size", "rednet")
    end = {name: records.published_training(f"design-{name}")["psnr"][-1] for name in trials}
    yield (
        f"reaches {lstm:.2f} dB, one that reads in both directions {both:.2f} dB, and a linear filter in closed form "
        f"{linear:.2f} dB"
    ), both > linear > lstm
    yield f"and reaches {best['psnr']:.2f} dB after {best['minutes']:.0f} minutes", best["psnr"] > linear
    yield (
        f"alike for 20 minutes, it reaches {same[-1]['psnr']:.2f} dB and beats four convolutional networks by {min(gains):.2f} to "
        f"{max(gains):.2f} dB, with {100 * min(size):.0f} to {100 * max(size):.0f} % more parameters; at RED-Net's size the two "
        "are level"
    ), len(pairs) == 4 and min(pair["psnr_low"] for pair in pairs) > 0 and abs(end["same-size"] - end["rednet"]) < 0.05
    rows = {row["task"]: row for row in margins.margins()}
    near, camera = rows["blur of 2 pixels, 32x32 (`gauss2`)"], rows["a camera's blur, noise and JPEG, 32x32 (`camera`)"]
    alike = max(abs(row["margin"]) for row in (near, camera)) < 0.05 and near["seeds"] == camera["seeds"] == [3, 3]
    yield "on such small images convolutions do as well as its scans", alike
    epochs = {records.published_parameters(f"gauss2-{name}{run}")["epochs"] for name in ("lstm", "bilstm") for run in ("-muon", "")}
    yield (
        f"Muon takes the one that reads in both directions from {both_adam:.2f} to {both:.2f} dB, past the filter"
    ), max(both_adam, psnr("gauss2-bilstm-20m", "reference_bilstm")) < linear < both and len(epochs) == 1
    yield f"is worth {lstm - lstm_adam:.2f} dB to the other, which stays below it", lstm < linear
    yield f"on {min(wins):.0%} to {max(wins):.0%} of the test images".replace("%", " %"), min(wins) > 0.5
    runs = {"unet": "unet-mixture", "flagship": "flagship-mixture", "multiscale_flagship": "multiscale"}
    unet, flagship, several = (one[f"blind-{run}-10m", name]["mse"] for name, run in runs.items())
    yield (
        "on `blind`, after ten minutes, a U-Net errs less than it, and the flagship of several resolutions, with Muon, less than "
        "both"
    ), several < unet < flagship
    start, muon, scans = (end["scan"] - end[name] for name in ("no-start", "adam", "none"))
    yield (
        f"{start:.2f} dB after four minutes, against {muon:.2f} dB for Muon in place of Adam and {scans:.2f} dB for all scans"
    ), start > muon > scans
    long = {name: {one["setting"]: np.mean(one["gains"]) for one in records.reference_records(protocol="rows", run=f"reach-{name}")}
            for name in ("lstm", "scan", "convolution")}  # fmt: skip
    lstm_loses, scan_loses, convolution_loses = (gains[32] - gains[1024] for gains in long.values())
    yield (
        f"trained on CIFAR-10, on rows of 1,024 pixels an LSTM gains {lstm_loses:.1f} dB less than on rows of 32, a scan "
        f"{scan_loses:.1f}, a convolution {convolution_loses:.1f}"
    ), lstm_loses > scan_loses > 5 * convolution_loses > 0
    blind = {name: max((r for r in found if r["protocol"] == "blind" and r["restorer"] == name), key=lambda r: r["psnr"])
             for name in ("linear", "linear_mixture", "flagship")}  # fmt: skip
    others = [one for one in records.study_records("blind") if one["source"] != "measured"]
    theirs = max(others, key=lambda record: record["psnr"])
    yield (
        f"{blind['linear_mixture']['psnr']:.2f} dB where one filter reaches {blind['linear']['psnr']:.2f}, and "
        f"{blind['flagship']['psnr']:.2f} dB with the flagship on top (`blind-cifar`), against {theirs['psnr']:.2f} for the best "
        "published network (cnn-deblur)"
    ), blind["flagship"]["psnr"] > theirs["psnr"] and 1.9 < theirs["parameters"] / blind["flagship"]["parameters"] < 2.3
    cases = restoring.load_restorer("photo").card["cases"]
    gain = {one["case"]: one["after"] - one["before"] for one in cases if one["pictures"] == "photographs" and one["before"]}
    (untouched,) = (one["after"] for one in cases if one["pictures"] == "photographs" and one["case"] == "untouched")
    yield f"they gain {gain['noise 10']:.1f} dB with noise of 10 grey levels", untouched > 42
    yield f"{gain['Gaussian 2, noise 3']:.1f} dB after a blur of 2 pixels with noise", True
    yield f"{gain['motion 9, noise 3, JPEG 85']:.1f} dB after motion, noise and JPEG", min(gain.values()) > -0.05
    alone = [gain[f"JPEG {quality}"] for quality in (90, 80, 20)]
    yield f"up to {max(alone):.1f} dB after JPEG alone", True
    more = {one["case"]: one["averaged"] - one["before"] for one in cases if one["pictures"] == "photographs" and one["before"]}
    names = ("noise 10", "Gaussian 2, noise 3", "motion 9, noise 3, JPEG 85")
    less = {name for name in gain if more[name] <= gain[name]}  # data/README.md names them
    yield "gains {:.1f}, {:.1f} and {:.1f} dB".format(*map(more.get, names)), less == {"JPEG 90", "JPEG 80", "JPEG 20"}
    twelve = records.reference_records(protocol="burst50", split="test", setting=12, drift=1.0)
    ours, means, windows = ([one for one in twelve if one["restorer"] == kind] for kind in ("recurrent", "average", "window"))
    mean = max(means, key=lambda one: one["psnr"])
    yield (
        f"For 12 noisy frames a network that sees their mean, moved along with the camera, reaches {mean['psnr']:.2f} dB"
    ), min(one["psnr_low"] for one in ours) > mean["psnr"] and mean["psnr_low"] > max(one["psnr_high"] for one in windows)
    rival = "scale hyperprior, trained alike"
    above = [(one["bits_per_pixel"], one["psnr"] - one["others"][rival])
             for one in reporting.rate_gains(records.codec_records(), "any_rate_compressor") if rival in one["others"]]  # fmt: skip
    (low, *_, high), gains = zip(*above, strict=True)
    yield (
        f"from {low:.1f} to {high:.1f} bits per pixel it is {min(gains):.1f} to {max(gains):.1f} dB above a scale hyperprior "
        "trained alike"
    ), len(gains) >= 4 and min(gains) > 0
    looks = records.perception_records("gauss2")
    (before,) = (record for record in looks if record["restorer"] == "flagship")
    (after,) = (record for record in looks if record["restorer"] == "gan" and record["setting"] == 0.003)
    yield f"the flagship loses {before['psnr'] - after['psnr']:.2f} dB", True
    yield f"falls from {before['frechet']:.2f} to {after['frechet']:.2f}", True


def test_every_number_in_the_prose_is_a_records():
    text = prose()
    for phrase, true in facts():
        assert phrase in text, f"README does not say {phrase!r}"
        assert true, f"no longer so: {phrase!r}"
        text = text.replace(phrase, "")
    text = text.replace("Python 3.11 to 3.13", "").replace("Version 0.1.0", "")
    assert not re.findall(r"\S*\d+\.\d+\S*|\d+ ?(?:%|dB)", text)


def test_the_speed_that_the_data_readme_tells_is_the_benchmarks():
    found = {(one["width"], one["engine"]): one for one in records.benchmark_records("restore")}
    small, large = ({engine: found[width, engine] for engine in ("onnx", "keras")} for width in (512, 4000))
    told = f"takes {small['onnx']['seconds']:.1f} s, start included, in place of {small['keras']['seconds']:.1f} s with Keras, "
    told += "one of 12 megapixels {seconds:.1f} s and {peak_mebibytes:,} MiB in place of ".format(**large["onnx"])
    told += "{seconds:.1f} s and {peak_mebibytes:,} MiB".format(**large["keras"])
    assert told in " ".join((ROOT / "data" / "README.md").read_text(encoding="utf-8").split())


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
            if start := run["parameters"].get("start_run") or run.get("started_from", {}).get("run"):
                earlier = files.read_json(ROOT / "data" / "published" / start / "run.json")
                before = earlier["training"][record["restorer"]]
            assert float(rows[-1]["images"]) + before["images_seen"] == record["images_seen"]
            assert float(rows[-1]["minutes"]) + before["minutes"] == pytest.approx(record["minutes"], abs=1e-3)
        else:
            given = run["parameters"]
            assert len(rows) == (given["epochs"] if "epochs" in given else -(-given["updates"] // given["check_every"]))


def test_what_was_measured_on_fewer_images_too_is_shown_once():
    record = next(
        record for record in records.reference_records() if record["restorer"] == "linear" and record["split"] == "test"
    )
    fewer = {**record, "images": 1000, "psnr": 1.23, "psnr_low": 1.22, "psnr_high": 1.24}
    tuned = {**record, "restorer": "wiener", "budget": "tuned"}
    assert (
        reporting.results_table([record, fewer, tuned])
        == reporting.results_table([fewer, record])
        == reporting.results_table([record])
    )


# --- links ------------------------------------------------------------------------------------------------------------


def anchors(document):
    """What the headings of a document are linked by, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", text_of(document), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document):
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text_of(document), flags=re.S | re.M)
    return re.findall(r"\]\(<?([^)\s>]+)>?\)", text) + re.findall(r"""(?:href|src)=["']([^"']+)["']""", text)


@pytest.mark.parametrize("document", [*READMES, *NOTEBOOKS])
def test_every_link_leads_somewhere(document):
    own = address.read_address(ROOT)
    for target in links(document):
        if target.startswith("data:"):
            continue  # a picture that is in the document
        if target.startswith(address.COLAB):
            start = f"{address.COLAB}{own}/blob/main/"
            assert own and target.startswith(start) and (ROOT / target.removeprefix(start)).is_file(), target
        elif re.match(r"\w+:", target):
            assert target.startswith("https://"), target
            assert not re.search(r"your-|account/name", target, re.I), f"an address that is not set: {target}"
        else:
            path, _, anchor = target.partition("#")
            there = (ROOT / document).parent.joinpath(path).resolve() if path else ROOT / document
            assert there.exists(), target
            assert there.is_relative_to(ROOT), target
            assert not anchor or anchor.lower() in anchors(there.relative_to(ROOT).as_posix()), target


def test_every_folder_has_a_readme_and_the_top_one_leads_there():
    for folder in ("notebooks", "lstm_ae_lib", "tests", "data", "data/published", "data/benchmarks", "figures"):
        assert f"{folder}/README.md" in READMES and f"]({folder}/README.md)" in README, folder


# --- commands (test_notebook_runs.py runs the snippets) --------------------------------------------------------------


def test_commands_can_be_parsed():
    lines = [line.split("#")[0] for document in READMES for _, block in blocks(document, "") for line in block.splitlines()]
    commands = [shlex.split(command) for line in lines for command in line.split("&&") if "python -m lstm_ae_lib " in command]
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
            if re.fullmatch(r"(notebooks|tests|data/parameters|figures)/[\w./-]+", word):
                assert (ROOT / word).exists(), word
    assert min(seen.values()) >= 4


def test_presets_and_parameters_named_exist():
    for words in code_lines():
        if words[:4] == ["python", "-m", "lstm_ae_lib", "run"]:
            given = [(words[place + 1], words[place + 2]) for place, word in enumerate(words) if word == "-p"]
            preset = runner.read_preset(words[words.index("--preset") + 1]) if "--preset" in words else {}
            runner.check_parameters({**preset, **dict(given)})


def test_all_weights_are_named():
    for path in (ROOT / "data" / "weights").glob("*.json"):
        assert f"| `{path.stem}` |" in text_of("data/README.md"), path.stem


def test_make_help_lists_the_targets():
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    for target in ("study", "test", "test-colab", "full", "bench", "bench-train", "soak", "address"):
        assert f"make {target} " in done.stdout


def test_the_licence_and_the_list_of_requirements_are_where_the_project_file_says():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "MIT License" in (ROOT / project["project"]["license-files"][0]).read_text()
    assert project["tool"]["setuptools"]["dynamic"]["optional-dependencies"]["study"]["file"] == ["requirements.txt"]
    assert not any(re.match("keras|tensorflow", package) for package in project["project"]["dependencies"])
    named = {re.split(r"[<>=]", line)[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if line[:1].isalpha()}
    assert {"tensorflow", "keras", "numpy", "matplotlib", "opencv-python", "jupyter", "nbval", "papermill"} <= named
