"""Rules for the committed notebooks: what a reader, papermill and nbval may rely on."""

import ast
import re
import tomllib
from pathlib import Path

import nbformat
import pytest

from lstm_ae_lib.study import runner

ROOT = Path(__file__).resolve().parent.parent
ALL = sorted((ROOT / "notebooks").glob("*.ipynb"))
DRIVERS = [path for path in ALL if path.stem >= "90"]
NOTEBOOKS = [path for path in ALL if path not in DRIVERS]  # the lessons
ADDRESS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def markdown(path):
    return [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]


def parameters_cell(path):
    (cell,) = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    return cell


def test_the_spine_is_there():
    assert [path.stem for path in DRIVERS][:2] == list(runner.CHAIN)


@each
def test_skeleton(path):
    texts = markdown(path)
    title, subtitle, badge, line = [part for part in texts[0].split("\n\n") if part]
    assert re.fullmatch(r"# \d+\. [A-Z].+", title) and re.fullmatch(r"\*.+\*", subtitle)
    assert badge == (
        "[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/"
        f"github/{ADDRESS.removeprefix('https://github.com/')}/blob/main/notebooks/{path.name})"
    )
    assert "**Reads**" in line and "**Writes**" in line and "**Takes**" in line
    headings = re.findall(r"^## (.+)$", "\n\n".join(texts), re.M)
    assert headings[:3] == ["What you will learn", "Setup", "Parameters"] and headings[-2:] == ["What we saw", "Next"]
    assert "limitation" in texts[-1]
    kinds = [cell.cell_type for cell in read(path).cells]
    assert kinds[0] == "markdown" and kinds[-1] == "markdown"


@each
def test_bootstrap_is_the_same_everywhere_and_upgrades_nothing(path):
    first = code_cells(path)[0].source
    assert first == code_cells(NOTEBOOKS[0])[0].source
    assert f'"{ADDRESS}"' in first and '"google.colab" in sys.modules' in first
    assert "pip" not in first and "install" not in first


@each
def test_they_import_and_do_not_define(path):
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef, ast.Lambda)), cell.source


@each
def test_cells_are_short(path):
    for cell in code_cells(path):
        if "parameters" not in cell.metadata.get("tags", []):
            assert len(cell.source.splitlines()) <= 15, cell.source


@each
def test_parameters_are_annotated_literals_with_help_and_range(path):
    tree = ast.parse(parameters_cell(path).source)
    lines = parameters_cell(path).source.splitlines()
    assert len(tree.body) == len(lines)
    for node, line in zip(tree.body, lines, strict=True):
        assert isinstance(node, ast.AnnAssign) and node.annotation.id in ("int", "float", "bool", "str"), line
        ast.literal_eval(node.value)
        assert line.count("=") == 1, f"papermill cannot read a line with two '=': {line}"
    for name, entry in runner.notebook_parameters(path.stem).items():
        if entry["type"] in ("int", "float"):
            assert entry["low"] is not None, f"{name} says no range"
        if entry["type"] == "str":
            assert entry["choices"] or "(text)" in entry["help"], f"{name} says neither its words nor (text)"
        runner._check_value(name, entry["default"], entry)


@each
def test_parameters_mean_the_same_in_every_notebook(path):
    for other in NOTEBOOKS:
        mine, theirs = runner.notebook_parameters(path.stem), runner.notebook_parameters(other.stem)
        for name in set(mine) & set(theirs):
            keys = ("type", "default", "low", "high", "choices")
            assert [mine[name][key] for key in keys] == [theirs[name][key] for key in keys], name


def test_choices_are_those_of_the_library():
    from lstm_ae_lib import degradations

    for path in NOTEBOOKS:
        declared = runner.notebook_parameters(path.stem)
        if "protocol" in declared:
            assert declared["protocol"]["choices"] == list(degradations.PROTOCOLS), path.name


@each
def test_outputs_and_counts_are_committed_and_clean(path):
    notebook = read(path)
    assert list(notebook.metadata) == ["kernelspec"] and notebook.metadata.kernelspec.name == "python3"
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert set(cell.metadata) <= {"tags"}
        assert set(cell.metadata.get("tags", [])) <= {"parameters", "nbval-ignore-output"}
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", output
    assert sum(bool(cell.outputs) for cell in cells) >= len(cells) // 2


@each
def test_enough_cells_are_compared_strictly(path):
    strict = [cell for cell in code_cells(path) if cell.outputs and "nbval-ignore-output" not in cell.metadata.get("tags", [])]
    assert len(strict) >= 2


@each
def test_learned_numbers_are_not_typed_into_the_text(path):
    """What a run measured is printed by code; the text around it holds no decimals."""
    for text in markdown(path):
        prose = re.sub(r"`[^`]*`|\(http[^)]*\)", "", text)
        assert not re.search(r"\d\.\d+ ?(dB|e-\d)|\de-\d", prose), text


@each
def test_size_and_paths(path):
    assert path.stat().st_size <= 300_000
    text = path.read_text()
    assert not re.search(r"/(home|root|Users|work|tmp)/", text)


def test_the_defaults_are_the_quick_preset():
    assert runner.read_preset("quick") == {}
    assert runner.notebook_parameters("90_train")["data"]["default"] == "sample"
