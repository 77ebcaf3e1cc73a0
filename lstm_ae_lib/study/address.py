"""The repository's address in badges, in the notebooks' first cell and in README; and the READMEs' tables of notebooks.

``python -m lstm_ae_lib.study.address ACCOUNT/NAME`` sets the address, ``--none`` takes it away; without either, all is written
again for the address in ``pyproject.toml``. It needs the standard library only: nothing has to be installed first.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from lstm_ae_lib import files, paths

COLAB = "https://colab.research.google.com/github/"
PICTURE = "https://colab.research.google.com/assets/colab-badge.svg"
COMMAND = "python -m lstm_ae_lib.study.address"
DRIVERS = "90"  # the first number of a driver; what comes before is a lesson
_KEY = re.compile(r'^Repository = "https://github\.com/(.+)"\n', re.M)
_TAKES = re.compile(r"\*\*Takes\*\* *(.+?)(?:,? (?:alone|measured|on (?:two|2)\b|\().*)?\.?$", re.M)
_BADGE = re.compile(r"\[!\[Open In Colab\]\([^)]*\)\]\([^)]*\)\n*")
_SET = """\
# On Colab this fetches the project; anywhere else it does nothing. It never touches TensorFlow or NumPy.
import sys

if "google.colab" in sys.modules:
    import pathlib
    import subprocess

    if not pathlib.Path("study").is_dir():
        subprocess.run(["git", "clone", "--depth", "1", "https://github.com/{address}", "study"], check=True)
    sys.path.insert(0, "study")"""
_UNSET = """\
# On Colab this finds the project; anywhere else it does nothing. It never touches TensorFlow or NumPy.
import sys

if "google.colab" in sys.modules:
    import pathlib
    import shutil

    if pathlib.Path("study.zip").is_file():
        shutil.unpack_archive("study.zip", "study")
    found = next(pathlib.Path("study").rglob("lstm_ae_lib"), None)
    if found is None:
        upload = "Zip the project's folder, upload it here as study.zip (Files, on the left) and run this cell again"
        raise FileNotFoundError(f"This copy has no address. {upload}; or set one with `make address REPO=account/name`.")
    sys.path.insert(0, str(found.parent))"""


def check_address(address: str) -> str:
    """``account/name`` as GitHub allows it, or ``ValueError``."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}/[A-Za-z0-9._-]{1,100}", address) or address.endswith((".git", "/.", "/..")):
        raise ValueError(f"the address must be account/name, as in https://github.com/account/name; got {address!r}")
    return address


def read_address(folder: Path) -> str:
    """The address that stands in ``pyproject.toml``; empty where none is set."""
    found = _KEY.search((folder / "pyproject.toml").read_text(encoding="utf-8"))
    return found[1] if found else ""


def badge(address: str, notebook: str) -> str:
    """A notebook's Colab badge in Markdown; ``notebook`` is its file's name. Empty without an address."""
    return f"[![Open In Colab]({PICTURE})]({COLAB}{address}/blob/main/notebooks/{notebook})" if address else ""


def first_cell(address: str) -> str:
    """The cell that makes a notebook work on Colab: fetches the project, or says how to bring it where there is no address."""
    return _SET.format(address=address) if address else _UNSET


def fill(text: str, name: str, command: str, content: str, file: str = "README.md") -> str:
    """``text`` with ``content`` between the marks of ``name``; ``ValueError`` where it has no such marks."""
    opening, closing = marks(name, command)
    before, start, rest = text.partition(opening)
    _, end, after = rest.partition(closing)
    if not end:
        raise ValueError(f"{file} has no marks {opening!r} and {closing!r}")
    return f"{before}{start}\n{content}\n{end}{after}"


def marks(name: str, command: str = COMMAND) -> tuple:
    """The comments in a README between which ``command`` writes."""
    return f"<!-- {name}: written by `{command}` -->", f"<!-- end of {name} -->"


def notebooks(folder: Path) -> list:
    """All notebooks: ``file``, ``title``, ``subtitle`` and ``takes``, as their first cells say."""
    return [_described(path) for path in sorted((folder / "notebooks").glob("*.ipynb"))]


def _described(path):
    text = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    patterns = {"title": re.compile(r"^# (.+)$", re.M), "subtitle": re.compile(r"^\*([^*].*)\*$", re.M), "takes": _TAKES}
    found = {name: match[1] if (match := pattern.search(text)) else "" for name, pattern in patterns.items()}
    return {"file": path.name, **found}


def lessons_table(folder: Path, address: str, start: str = "") -> str:
    """Lessons as a Markdown table: title, question, time and, with an address, badge. ``start``: of the links, ``"notebooks/"``.

    A question is written by hand, in the table of ``notebooks/README.md``, and kept; that of a new notebook is its subtitle.
    """
    rows = [cells + ([badge(address, file)] if address else []) for file, *cells in _rows(folder, start) if file < DRIVERS]
    return _table(["notebook", "question", "time", *(["in Colab"] if address else [])], rows)


def drivers_table(folder: Path) -> str:
    """Drivers as a Markdown table: title, what it does (written by hand, too) and time."""
    return _table(["driver", "what it does", "time"], [cells for file, *cells in _rows(folder) if file >= DRIVERS])


def _rows(folder, start=""):
    asked = dict(re.findall(r"^\| \[[^]]+\]\(([\w.-]+)\) \| ([^|]*?) \|", _text(folder / "notebooks" / "README.md"), re.M))
    for one in notebooks(folder):
        yield one["file"], f"[{one['title']}]({start}{one['file']})", asked.get(one["file"]) or one["subtitle"], one["takes"]


def _table(titles, rows):
    return "\n".join(f"| {' | '.join(line)} |" for line in (titles, ["---"] * len(titles), *rows))


def documents(folder: Path, address: str) -> dict:
    """What is generated here: file -> name of the marks -> text."""
    version = re.search(r'^version = "(.+)"', _text(folder / "pyproject.toml"), re.M)[1]
    where = f" https://github.com/{address}" if address else ""
    cite = f"> LSTM autoencoders for image restoration: a reference study. Version {version}, 2026.{where}"
    return {
        "README.md": {"notebooks": lessons_table(folder, address, "notebooks/"), "cite": cite},
        "notebooks/README.md": {"lessons": lessons_table(folder, address), "drivers": drivers_table(folder)},
    }


def set_address(folder: Path, address: str) -> list:
    """Writes an address, or none, into every notebook, README and ``pyproject.toml``; returns the files that changed."""
    project = _KEY.sub("", _text(folder / "pyproject.toml"))
    line = f'Repository = "https://github.com/{address}"\n' if address else ""
    changed = {folder / "pyproject.toml": project.replace("[project.urls]\n", f"[project.urls]\n{line}")}
    for path in (folder / "notebooks").glob("*.ipynb"):
        changed[path] = _rewritten(path, address)
    for file, blocks in documents(folder, address).items():
        changed[folder / file] = _text(folder / file)
        for name, content in blocks.items():
            changed[folder / file] = fill(changed[folder / file], name, COMMAND, content, file)
    changed = {path: text for path, text in changed.items() if text != _text(path)}
    for path, text in changed.items():
        files.write(path, text.encode())
    return sorted(path.relative_to(folder).as_posix() for path in changed)


def _rewritten(path, address):
    """A notebook's text with the address in its first cell, and a badge below the subtitle; a driver has neither."""
    notebook = json.loads(_text(path))
    head, *cells = notebook["cells"]
    first = [cell for cell in cells if cell["cell_type"] == "code"][:1]
    first = [cell for cell in first if "google.colab" in "".join(cell["source"])]
    parts = _BADGE.sub("", "".join(head["source"])).strip().split("\n\n")
    parts.insert(2 if parts[1:] and parts[1].startswith("*") else 1, badge(address, path.name) if first else "")
    head["source"] = "\n\n".join(filter(None, parts)).splitlines(keepends=True)
    for cell in first:
        cell["source"] = first_cell(address).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _text(path):
    return path.read_text(encoding="utf-8")


def main(argv=None) -> int:
    """Sets the address that the command line gives, and prints what changed."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Set the repository's address in badges, notebooks and READMEs.")
    parser.add_argument("address", nargs="?", metavar="ACCOUNT/NAME", help="on GitHub (default: what pyproject.toml says)")
    parser.add_argument("--none", action="store_true", help="take the address and all badges away")
    arguments = parser.parse_args(argv)
    folder = paths.notebooks_dir().parent
    try:
        if arguments.none and arguments.address is not None:
            raise ValueError("give an address or --none, not both")
        given = read_address(folder) if arguments.address is None else check_address(arguments.address)
        address = "" if arguments.none else given
        changed = set_address(folder, address)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"address: {address or 'none'}; {len(changed)} files changed", *changed, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
