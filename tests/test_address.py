"""The repository's address: nowhere until it is set, then everywhere; and the cell that brings the project to Colab."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lstm_ae_lib.study import address

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("README.md", "Makefile", "pyproject.toml", "notebooks", "lstm_ae_lib", "figures")
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the tree, without an address."""
    folder = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        source = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(source, folder / name, ignore=ignored) if source.is_dir() else shutil.copy(source, folder / name)
    address.set_address(folder, "")
    return folder


@pytest.fixture
def tree(copied, tmp_path):
    return shutil.copytree(copied, tmp_path / "tree")


def make(tree, repo):
    command = ["make", "-s", "address", f"REPO={repo}", f"PYTHON={sys.executable}"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=60, env=environment)


def contents(tree):
    names = [*tree.glob("*.*"), *tree.glob("*/README.md"), *tree.glob("notebooks/*.ipynb")]
    return {path.relative_to(tree).as_posix(): path.read_text(encoding="utf-8") for path in names}


def first_cells(tree):
    """The notebooks that run on Colab: name -> the text above all, and the code of the first cell."""
    for name in NOTEBOOKS:
        head, *cells = json.loads((tree / "notebooks" / name).read_text(encoding="utf-8"))["cells"]
        codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        if "google.colab" in codes[0]:
            yield name, "".join(head["source"]), codes[0]


def test_the_tree_has_its_own_address_everywhere(tmp_path):
    """Badges and first cells as `python -m lstm_ae_lib.study.address` writes them; the same command mends them."""
    for name in COPIED:
        source = ROOT / name
        shutil.copytree(source, tmp_path / name) if source.is_dir() else shutil.copy(source, tmp_path / name)
    assert address.set_address(tmp_path, address.read_address(ROOT)) == [], f"`{address.COMMAND}` mends it"


def test_without_an_address_there_are_no_badges(copied):
    assert address.read_address(copied) == ""
    for name, text in contents(copied).items():
        assert "colab-badge" not in text and "colab.research" not in text and "YOUR-ACCOUNT" not in text, name
    cells = list(first_cells(copied))
    assert {name for name in NOTEBOOKS if name < "90"} <= {name for name, *_ in cells}
    assert {cell for *_, cell in cells} == {address.first_cell("")}


def test_with_an_address_badges_stand_everywhere(tree):
    done = make(tree, "some-one/a_study.2")
    assert done.returncode == 0, done.stderr
    assert "address: some-one/a_study.2" in done.stdout and "notebooks/01_prepare_data.ipynb" in done.stdout
    assert 'Repository = "https://github.com/some-one/a_study.2"\n' in (tree / "pyproject.toml").read_text()
    lessons = [name for name in NOTEBOOKS if name < "90"]
    for name, head, cell in first_cells(tree):
        paragraphs = head.split("\n\n")
        assert paragraphs.count(address.badge("some-one/a_study.2", name)) == 1
        assert paragraphs[2 if paragraphs[1].startswith("*") else 1] == address.badge("some-one/a_study.2", name)
        assert cell == address.first_cell("some-one/a_study.2") and '"https://github.com/some-one/a_study.2"' in cell
    for readme in ("README.md", "notebooks/README.md"):
        text = (tree / readme).read_text(encoding="utf-8")
        assert all(address.badge("some-one/a_study.2", name) in text for name in lessons)
    for text in contents(tree).values():
        for target in re.findall(r"https://colab\.research\.google\.com/github/[^)\s\"]+", text):
            start = f"{address.COLAB}some-one/a_study.2/blob/main/"
            assert target.startswith(start) and (tree / target.removeprefix(start)).is_file(), target
    assert "2026. https://github.com/some-one/a_study.2\n" in (tree / "README.md").read_text(encoding="utf-8")


def test_it_can_be_set_again_and_taken_away(tree, copied):
    assert make(tree, "first/study").returncode == 0
    before = contents(tree)
    done = make(tree, "first/study")
    assert "0 files changed" in done.stdout and contents(tree) == before
    assert make(tree, "second/other").returncode == 0
    after = contents(tree)
    assert not any("first/study" in text for text in after.values())
    assert {name: text.replace("second/other", "first/study") for name, text in after.items()} == before
    command = [sys.executable, "-m", "lstm_ae_lib.study.address", "--none"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": str(tree)})
    assert done.stdout.startswith("address: none; ") and contents(tree) == contents(copied)


def test_only_the_first_cell_and_the_badge_change(tree, copied):
    assert make(tree, "some/study").returncode == 0
    for name in NOTEBOOKS:
        before, after = (json.loads((folder / "notebooks" / name).read_text(encoding="utf-8")) for folder in (copied, tree))
        changed = [place for place, pair in enumerate(zip(before["cells"], after["cells"], strict=True)) if pair[0] != pair[1]]
        assert len(changed) in (0, 2) and changed[:1] in ([], [0]), name
        for place in changed:
            before["cells"][place].pop("source"), after["cells"][place].pop("source")
        assert before == after


def test_a_new_notebook_comes_with_its_subtitle_and_a_question_stays(tree):
    source = tree / "notebooks" / "01_prepare_data.ipynb"
    text = source.read_text(encoding="utf-8")
    (title,) = re.findall(r"# 1\. [^\\\"]+", text)
    (tree / "notebooks" / "15_another.ipynb").write_text(text.replace(title, "# 15. Another"), encoding="utf-8")
    readme = tree / "notebooks" / "README.md"
    readme.write_text(re.sub(r"(01_prepare_data\.ipynb\) \|) [^|]+ ", r"\1 What else? ", readme.read_text()), encoding="utf-8")
    assert address.set_address(tree, "") == ["README.md", "notebooks/README.md"]
    subtitle = next(one["subtitle"] for one in address.notebooks(tree) if one["file"] == "15_another.ipynb")
    for file, start in (("README.md", "notebooks/"), ("notebooks/README.md", "")):
        assert f"| [15. Another]({start}15_another.ipynb) | {subtitle} |" in (tree / file).read_text(encoding="utf-8")
        assert f"({start}01_prepare_data.ipynb) | What else? |" in (tree / file).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "wrong",
    ["study", "a/b/c", "/study", "me/", "me/a study", "https://github.com/me/study", "-me/study", "me/study.git", "me/..", "a'b/c"],
)
def test_what_is_no_address_is_told_so(tree, wrong, monkeypatch, capsys):
    before = contents(tree)
    monkeypatch.setattr(address.paths, "notebooks_dir", lambda: tree / "notebooks")
    assert address.main(["--", wrong]) == 2
    error = capsys.readouterr().err
    assert error == f"error: the address must be account/name, as in https://github.com/account/name; got {wrong!r}\n"
    assert contents(tree) == before


def test_what_is_missing_is_told_so(tree, monkeypatch, capsys):
    done = make(tree, "")
    assert done.returncode == 2 and done.stdout == "usage: make address REPO=account/name\n"
    done = make(tree, "study")
    assert done.returncode == 2 and "the address must be account/name" in done.stderr
    monkeypatch.setattr(address.paths, "notebooks_dir", lambda: tree / "notebooks")
    assert address.main(["me/study", "--none"]) == 2
    assert capsys.readouterr().err == "error: give an address or --none, not both\n"
    (tree / "README.md").write_text("nothing")
    assert address.main(["me/study"]) == 2
    assert "README.md has no marks '<!-- notebooks: written by" in capsys.readouterr().err
    assert address.read_address(tree) == ""  # nothing was written


# --- the cell on Colab ------------------------------------------------------------------------------------------------


def on_colab(cell, folder, path=""):
    """The cell, where Colab's module is loaded, in a folder."""
    before = "import sys, types\nsys.modules['google.colab'] = types.ModuleType('colab')"
    code = f"{before}\n{cell}\nimport lstm_ae_lib\nprint(lstm_ae_lib.__path__)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PATH": f"{path}{os.pathsep}{environment['PATH']}"} if path else {}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60, env=environment)


def project(folder):
    (folder / "lstm_ae_lib").mkdir(parents=True)
    (folder / "lstm_ae_lib" / "__init__.py").write_text("")
    return folder


@pytest.mark.parametrize("own", ["", "me/study"])
def test_elsewhere_the_cell_does_nothing(own, tmp_path):
    cell = address.first_cell(own)
    done = subprocess.run([sys.executable, "-c", cell], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr, list(tmp_path.iterdir())) == (0, "", "", [])
    assert len(cell.splitlines()) <= 15 and max(map(len, cell.splitlines())) <= 132
    assert "pip" not in cell.replace("zip", "") and "install" not in cell and "import tensorflow" not in cell


def test_without_an_address_the_cell_says_what_to_do(tmp_path):
    done = on_colab(address.first_cell(""), tmp_path)
    assert done.returncode != 0
    assert "upload it here as study.zip" in done.stderr and "make address REPO=account/name" in done.stderr


@pytest.mark.parametrize("inside", ["", "lstm-ae-study-main"])
def test_an_uploaded_folder_is_found(tmp_path, inside):
    project(tmp_path / "elsewhere" / inside)
    shutil.make_archive(tmp_path / "study", "zip", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "elsewhere")
    for _ in range(2):  # and again when the cell is run again
        done = on_colab(address.first_cell(""), tmp_path)
        assert done.returncode == 0 and str(Path("study", inside, "lstm_ae_lib")) in done.stdout, done.stderr


def test_with_an_address_the_cell_clones_the_project_once(tmp_path):
    git = tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text('#!/bin/sh\necho "$@" >> calls\nmkdir -p study/lstm_ae_lib && touch study/lstm_ae_lib/__init__.py\n')
    git.chmod(0o755)
    for _ in range(2):
        done = on_colab(address.first_cell("me/study"), tmp_path, str(git.parent))
        assert done.returncode == 0 and "study/lstm_ae_lib" in done.stdout, done.stderr
    assert (tmp_path / "calls").read_text() == "clone --depth 1 https://github.com/me/study study\n"
