"""Rules for the committed lessons: what a reader and nbval may rely on. Drivers, notebooks from 90 on, have test_drivers.py."""

import ast
import base64
import functools
import html.parser
import io
import re
import tomllib
from pathlib import Path

import nbformat
import PIL.Image
import pytest

from lstm_ae_lib import degradations
from lstm_ae_lib.study import notebooks, runner

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("[0-8]*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ADDRESS = PROJECT.get("urls", {}).get("Repository", "").removeprefix("https://github.com/")  # none until `make address` has set one
HEADINGS = ["What you will learn", "Setup", "Parameters"], ["What we saw", "Exercises", "References", "Next"]

each = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


@functools.cache
def read(path):
    return nbformat.read(path, as_version=4)


@functools.cache
def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


@functools.cache
def markdown(path):
    return [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]


@functools.cache
def sections(path):
    """Heading -> the text under it; ``""`` -> what stands above the first one."""
    parts = re.split(r"^## (.+)$", "\n\n".join(markdown(path)), flags=re.MULTILINE)
    return dict(zip(["", *parts[1::2]], parts[::2], strict=True))


@functools.cache
def source(path):
    return "\n".join(cell.source for cell in code_cells(path))


def tagged(cell, tag):
    return tag in cell.metadata.get("tags", [])


def parameters_cell(path):
    (cell,) = [cell for cell in code_cells(path) if tagged(cell, "parameters")]
    return cell


def outputs(path, kind):
    """What the cells show as a MIME type."""
    found = [output.get("data", {}) for cell in code_cells(path) for output in cell.outputs]
    return ["".join(data[kind]) for data in found if kind in data]


@functools.cache
def figures(path):
    shown = [*outputs(path, "image/png"), *outputs(path, "image/jpeg")]
    return [PIL.Image.open(io.BytesIO(base64.b64decode(figure))) for figure in shown]


# --- what it was made from --------------------------------------------------------------------------------------------


def test_no_lesson_is_stale():
    """Before nbval replays them: outputs of other code or of other records than those that lie here."""
    found = "\n".join(f"  {name}: {reason}" for name, reason in notebooks.stale().items())
    assert not found, f"`make notebooks` executes what is stale:\n{found}"


@each
def test_outputs_and_counts_are_committed_and_clean(path):
    metadata = read(path).metadata
    assert set(metadata) == {"kernelspec", notebooks.KEY} and set(metadata[notebooks.KEY]) == {"hash", "reads"}
    assert metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert set(cell.metadata) <= {"tags"}
        assert set(cell.metadata.get("tags", [])) <= {"parameters", "nbval-ignore-output"}
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", output
    assert sum(bool(cell.outputs) for cell in cells) >= len(cells) // 2


@each
def test_size_and_paths(path):
    assert path.stat().st_size <= 600_000
    assert not re.search(r"/(home|root|Users|work|tmp)/", path.read_text(encoding="utf-8"))


# --- text -------------------------------------------------------------------------------------------------------------


@each
def test_title_subtitle_badge_and_line(path):
    """A badge stands there once `make address` has set the repository's address."""
    title, subtitle, *badge, line = [part for part in markdown(path)[0].split("\n\n") if part.strip()]
    assert re.fullmatch(rf"# {int(path.stem[:2])}\. [A-Z].+", title) and re.fullmatch(r"\*[^*]+\*", subtitle.strip())
    link = f"https://colab.research.google.com/github/{ADDRESS}/blob/main/notebooks/{path.name}"
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    assert badge in ([], [f"[![Open In Colab]({image})]({link})"] if ADDRESS else [])
    assert re.fullmatch(r"\*\*Reads\*\* .+ · \*\*Writes\*\* .+ · \*\*Takes\*\* .*\b(seconds|minutes?)\b.*", line.strip())


def test_all_lessons_have_a_badge_or_none():
    assert len({"colab-badge.svg" in markdown(path)[0] for path in LESSONS}) == 1


@each
def test_headings(path):
    headings = list(sections(path))[1:]
    first, last = HEADINGS
    assert headings[:3] == first and headings[-4:] == last and len(headings) > 7
    assert len(headings) == len(re.findall(r"^## ", "\n".join(markdown(path)), re.MULTILINE)), "a heading stands twice"
    kinds = [cell.cell_type for cell in read(path).cells]
    assert kinds[0] == "markdown" and kinds[-1] == "markdown"


@each
def test_what_we_saw_names_a_limitation(path):
    assert re.search("limitation", sections(path)["What we saw"], re.IGNORECASE)


@each
def test_exercises(path):
    """Two or three; one at least asks what will happen, and one at least has a hint that opens."""
    text = sections(path)["Exercises"]
    numbers = re.findall(r"^(\d)\. \S", text, re.MULTILINE)
    assert numbers in (["1", "2"], ["1", "2", "3"])
    assert re.search(r"\bpredict|\bbefore you run|\bwill\b|\bwould\b", text, re.IGNORECASE)
    hints = re.findall(r"<details>\s*<summary>.+?</summary>.+?</details>", text, re.DOTALL)
    assert hints and len(hints) == text.count("<details") == text.count("</details>")


@each
def test_references(path):
    """Three or more, each with a link; most of them to a paper's identifier."""
    entries = re.findall(r"^[-*] (.+(?:\n  +.+)*)", sections(path)["References"], re.MULTILINE)
    assert len(entries) >= 3
    for entry in entries:
        assert re.search(r"\]\(https?://[^\s)]+", entry), f"no link: {entry}"
    assert sum(bool(re.search(r"\(https://(doi\.org/10\.|arxiv\.org/abs/)", entry)) for entry in entries) >= 2


def links(text):
    """The notebooks that a text links to."""
    return re.findall(r"\]\((?:\./)?([^()/#]+\.ipynb)(?:#[^()]*)?\)", text)


@each
def test_links_lead_to_what_is_there(path):
    text = "\n".join(markdown(path))
    assert set(links(text)) <= {other.name for other in (ROOT / "notebooks").glob("*.ipynb")}
    for target in re.findall(r"\]\((?!https?://|#)([^()\s]+)\)", text):
        assert (path.parent / target.split("#")[0]).exists(), f"there is no {target}"


@each
def test_whose_results_it_reads_is_said(path):
    """`make notebooks` executes a lesson after those that its line links to, and lets it see what they left and nothing else."""
    reads, writes = re.search(r"\*\*Reads\*\*(.*)\*\*Writes\*\*(.*)\*\*Takes", markdown(path)[0]).groups()
    if writes.strip(" ·") == "nothing" and "runs_dir()" in source(path):
        assert links(reads), "it looks into the folder of runs; say whose in `**Reads** ... [lesson 2](02_....ipynb)`"
    assert all(name < path.name for name in links(reads))


def test_next_leads_through_all_lessons_once():
    """The first lesson that `Next` links to comes next; the last one links to none."""
    following = {path.name: next(iter(links(sections(path)["Next"])), None) for path in LESSONS}
    walked = [LESSONS[0].name]
    while (name := following.get(walked[-1])) and name not in walked:
        walked.append(name)
    assert name is None, f"from {walked[-1]} back to {name}"
    assert sorted(walked) == sorted(following), f"the walk leaves out {sorted(set(following) - set(walked))}"


@each
def test_learned_numbers_are_not_typed_into_the_text(path):
    """What a run measured is printed by code; the text around it holds no decimals."""
    for text in markdown(path):
        prose = re.sub(r"`[^`]*`|\(http[^)]*\)", "", text)
        assert not re.search(r"\d\.\d+ ?(dB|e-\d)|\de-\d", prose), text


# --- code -------------------------------------------------------------------------------------------------------------


@each
def test_the_colab_cell_is_the_same_everywhere_and_upgrades_nothing(path):
    first = code_cells(path)[0].source
    assert first == code_cells(LESSONS[0])[0].source and '"google.colab" in sys.modules' in first
    assert "pip" not in first and "install" not in first
    assert set(re.findall(r"github\.com/([\w.-]+/[\w.-]+)", first)) <= {ADDRESS}


@each
def test_cells_are_few_and_short(path):
    assert len(code_cells(path)) <= 18
    for cell in code_cells(path):
        assert len(cell.source.splitlines()) <= 15, cell.source


@each
def test_lessons_import_and_do_not_define(path):
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef | ast.Lambda), cell.source


@each
def test_parameters_are_few_annotated_literals_with_help_and_range(path):
    lines = parameters_cell(path).source.splitlines()
    assert 1 <= len(lines) <= 8
    for node, line in zip(ast.parse(parameters_cell(path).source).body, lines, strict=True):
        assert isinstance(node, ast.AnnAssign) and node.annotation.id in ("int", "float", "bool", "str"), line
        assert line.count("=") == 1, f"papermill cannot read a line with two '=': {line}"
    for name, entry in runner.notebook_parameters(path.stem).items():
        assert entry["help"], f"{name} says nothing"
        assert entry["type"] not in ("int", "float") or entry["low"] is not None, f"{name} says no range"
        assert entry["type"] != "str" or entry["choices"] or "(text)" in entry["help"], f"{name} says neither its words nor (text)"
        assert runner.check_parameters({name: entry["default"]}, [path.stem]) == {path.stem: {name: entry["default"]}}


@each
def test_parameters_are_checked_before_they_are_used(path):
    """papermill passes ``-p epochs abc`` on as it came."""
    cells = code_cells(path)
    (place,) = (number for number, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", []))
    assert cells[place + 1].source.startswith("runner.read_parameters(globals())\n")


def test_protocols_to_choose_from_are_the_librarys():
    for path in LESSONS:
        declared = runner.notebook_parameters(path.stem)
        assert set(declared.get("protocol", {"choices": []})["choices"]) <= set(degradations.PROTOCOLS), path.stem


def test_the_textbook_network_is_built_in_the_open():
    (path,) = [path for path in LESSONS if path.stem.startswith("02")]
    for call in ("LSTM(", "Dense(", ".summary(", ".compile(", ".fit("):
        assert call in source(path), call
    text = "\n".join("".join(output.get("text", "")) for cell in code_cells(path) for output in cell.outputs)
    assert "170,848" in text + "".join(outputs(path, "text/html")) + "".join(outputs(path, "text/plain"))


@each
def test_keras_is_visible(path):
    """What is trained is compiled in sight, and no builder's name hides a network."""
    if ".fit(" in source(path):
        assert ".compile(" in source(path) and re.search(r"\b(layers|models|keras)\.", source(path))
    assert not re.search(r"\bweights\.build\(\s*[\"']", source(path))


@each
def test_enough_cells_are_compared_strictly(path):
    strict = [cell for cell in code_cells(path) if cell.outputs and not tagged(cell, "nbval-ignore-output")]
    assert len(strict) >= 2


# --- figures and tables -----------------------------------------------------------------------------------------------


@each
def test_figures_can_be_looked_at(path):
    assert figures(path), "a lesson without a figure"
    for figure in figures(path):
        assert 300 <= figure.width <= 1300, f"a figure is {figure.width} pixels wide"


class Tables(html.parser.HTMLParser):
    """The number of cells in each row of each table."""

    def __init__(self, text):
        super().__init__()
        self.rows = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.rows.append([])
        elif tag == "tr":
            self.rows[-1].append(0)
        elif tag in ("td", "th"):
            self.rows[-1][-1] += int(dict(attributes).get("colspan") or 1)


@each
def test_tables_can_be_read(path):
    for table in [table for text in outputs(path, "text/html") for table in Tables(text).rows]:
        assert len(table) <= 16 and max(table) <= 8, f"a table of {len(table)} rows and {max(table)} columns"


@each
def test_what_is_printed_can_be_read(path):
    """Sentences are wrapped by the page, lines of aligned columns are not; and what TensorFlow logs is for nobody."""
    printed = [output.text for cell in code_cells(path) for output in cell.outputs if output.output_type == "stream"]
    for line in [line for text in printed for line in text.splitlines()]:
        assert len(line) <= 120 or not re.search(r"\S {2,}\S", line), line
        assert not re.match(r"WARNING:|[IWEF]\d{4} \d\d:", line), line
