"""The library's structure: who imports whom, and how large it may grow; and how the code is written."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parent.parent / "lstm_ae_lib"
MODULES = sorted(LIBRARY.rglob("*.py"))
ENTRY = LIBRARY / "__main__.py"  # calls everything
# Rooms that a room must not import.
FORBIDDEN = {"": {"tasks", "study"}, "fast": {"tasks", "study"}, "tasks": {"study"}, "study": set()}

ROOMS_ABOVE = ("tasks.", "study.", "lstm_ae_lib.tasks", "lstm_ae_lib.study")

each = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))


def name_of(path):
    parts = ("lstm_ae_lib", *path.relative_to(LIBRARY).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


def room(name):
    """``""`` for the core, else the folder."""
    parts = name.split(".")
    return parts[1] if len(parts) > 2 or (LIBRARY / parts[-1]).is_dir() and len(parts) == 2 else ""


def imported(path, anywhere=True):
    """The library's modules that a file imports; without ``anywhere`` those at its top level only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if anywhere else tree.body:
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path.name}: a relative import"
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{name}" for name in names)]
        found |= {name for name in names if name in NAMES}
    return found - {"lstm_ae_lib", name_of(path)}


@each
def test_no_module_imports_a_room_above_its_own(path):
    if path != ENTRY:
        above = {name for name in imported(path) if room(name) in FORBIDDEN[room(name_of(path))]}
        assert not above, f"{name_of(path)} imports {sorted(above)}"


def test_names_stand_for_modules_in_two_tables_only():
    """What is found by its name when a file asks for it: a builder of released weights, a class in a saved model."""
    core = [path for path in MODULES if room(name_of(path)) == "" and path != ENTRY]
    named = {path.name for path in core if any(text.startswith(ROOMS_ABOVE) for text in texts_in(path))}
    assert named == {"__init__.py", "weights.py"}


def texts_in(path):
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_the_rule_can_be_broken():
    assert room("lstm_ae_lib.study.runs") == room("lstm_ae_lib.study") == "study" and room("lstm_ae_lib.layers") == ""
    assert "lstm_ae_lib.study.runs" in imported(ENTRY)
    assert not imported(ENTRY, anywhere=False), "--help must not wait for an import"


def test_no_imports_run_in_a_circle():
    graph = {name_of(path): imported(path, anywhere=False) for path in MODULES}
    while graph:
        free = {name for name, needed in graph.items() if not needed & set(graph)}
        assert free, f"a circle among {sorted(graph)}"
        graph = {name: needed for name, needed in graph.items() if name not in free}


@each
def test_no_file_is_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 520


def test_the_core_is_thin():
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    core = {name: count for name, count in lines.items() if room(name) == ""}
    assert sum(core.values()) <= 4000 + lines["lstm_ae_lib.__main__"], core


def test_the_code_is_written_as_the_project_file_says():
    """Rules and length of lines in ``pyproject.toml``; the notebooks' code, too."""
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache"], cwd=LIBRARY.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_answers_a_question():
    text = (LIBRARY / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        short = name.rsplit(".", 1)[-1]
        if not short.startswith("_") and short not in ("lstm_ae_lib", "seeding"):
            assert f"`{short}`" in text or f"`{short}/`" in text, short
