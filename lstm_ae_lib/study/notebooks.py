"""The committed lessons: which are stale, and executing those in place.

A lesson's metadata says what its outputs were made from, under the key ``lstm_ae_lib``: ``hash``, of its code cells, and ``reads``,
each file of the checkout that its kernel read or imported, with a hash of its content. A lesson is stale when one of these hashes
is no longer right. Text cells, comments and docstrings of the library make nothing stale; what other processes read is not seen.

A lesson that needs what another one wrote links to it in its line ``**Reads** ... **Writes** ...``. It is executed after that one,
sees in ``$LSTM_AE_DATA`` what that one left and nothing else, and is stale when that one is.
"""

import ast
import asyncio
import base64
import concurrent.futures
import contextlib
import functools
import graphlib
import hashlib
import io
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from lstm_ae_lib import checks, files, paths
from lstm_ae_lib.fast import threads
from lstm_ae_lib.study import runner

KEY = "lstm_ae_lib"
JOBS = 4  # kernels side by side at most: each takes 1 to 2 GB
DRAWING = 2800  # colours up to which a figure is a drawing: lines and letters with smooth edges

# Runs in the kernel before the first cell, in a namespace of its own. Python tells of each file that it opens, each folder that it
# lists, each module that it executes; those of the checkout's are written to a file, one a line.
_RECORDER = """
import os, sys
log, folders, seen = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND), {folders!r}, set()

def record(event, arguments):
    if event not in ("open", "os.listdir", "os.scandir", "exec"):
        return
    try:
        path = os.fsdecode(arguments[0].co_filename if event == "exec" else arguments[0])
        written = event == "open" and (set("wax+") & set(arguments[1] or "") or arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if not written and path not in seen:
            seen.add(path)
            path = os.path.realpath(path)
            if path.startswith(folders):
                os.write(log, path.encode() + b"\\n")
    except (AttributeError, TypeError, ValueError, OSError):
        pass  # a number, a text to execute, or nothing that a file can be called

sys.addaudithook(record)
os.write(log, b"\\n")
"""


def lessons() -> list:
    """The names of the lessons, in order. Notebooks from 90 on are drivers: they are committed without outputs."""
    return sorted(path.stem for path in paths.notebooks_dir().glob("[0-8]*.ipynb"))


def stale(names=None) -> dict:
    """The stale ones of some lessons (default: all): name -> why. ``ValueError`` for what is no lesson."""
    reasons = {name: _why_stale(name) for name in _chosen(names)}
    return {name: reason for name, reason in reasons.items() if reason}


def _why_stale(name):
    recorded = _read(name)["metadata"].get(KEY)
    if not isinstance(recorded, dict) or not isinstance(recorded.get("reads"), dict):
        return "it has not been executed by `make notebooks`"
    if recorded.get("hash") != _hash_of_cells(name):
        return "its code has changed"
    before = dict.fromkeys(_reads_of_others(name)) | recorded["reads"]
    changed = [read for read in sorted(before) if before[read] != _hash(read)]
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return f"{', '.join(changed[:3])}{more} changed" if changed else ""


def refresh(names=None, everything: bool = False, jobs: int | None = None) -> list:
    """Execute the stale ones of some lessons (default: of all) in place, and return their names.

    Each is written as soon as it is done, so that a second call goes on after an interruption; outputs, counts and tags stay, other
    metadata goes. What a stale lesson needs of another one's is made anew; that one's file changes only where it is stale, too.

    Args:
        names: lessons, without ``.ipynb``.
        everything: also those that are not stale.
        jobs: kernels side by side, by default one a core, at most 4. Several share the cores' threads.

    Raises:
        ValueError: an argument out of range; lessons that read each other's results.
        RuntimeError: cells failed. All other lessons are done; those that failed are as they were.
    """
    jobs = min(threads.cores(), JOBS) if jobs is None else checks.number(jobs, "jobs", 1, 64, whole=True)
    wanted = _chosen(names) if everything else list(stale(names))
    after = {}
    while missing := [name for name in {*wanted, *sum(after.values(), [])} if name not in after]:
        after |= {name: _after(name) for name in missing}
    order = graphlib.TopologicalSorter(dict(sorted(after.items())))
    try:
        order.prepare()
    except graphlib.CycleError as error:
        raise ValueError(f"lessons read each other's results: {' <- '.join(error.args[1])}") from None
    failed = _execute_all(order, after, wanted, max(1, min(jobs, len(after))))
    if failed:
        raise RuntimeError("\n".join(f"{name} failed: {reason}" for name, reason in sorted(failed.items())))
    return wanted


def _execute_all(order, after, wanted, jobs):
    failed, running, clients = {}, {}, []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        try:
            while order.is_active():
                for name in order.get_ready():
                    started = pool.submit(_execute, name, after[name], Path(folder), name in wanted, jobs, clients)
                    running[started] = name
                if not running:
                    break
                for done in concurrent.futures.wait(running, return_when="FIRST_COMPLETED").done:
                    name = running.pop(done)
                    try:
                        print(f"{name}: {done.result():.0f} s", file=sys.stderr)
                        order.done(name)
                    except RuntimeError as error:
                        failed[name] = str(error)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(one.done() for one in running):  # interrupted: kernels do not hear of it by themselves
                for client in clients:
                    with contextlib.suppress(AttributeError, OSError):
                        client.km.provisioner.process.kill()
                time.sleep(0.1)
    while waiting := [name for name in after if name not in failed and set(after[name]) & set(failed)]:
        failed |= {name: f"it needs {', '.join(sorted(set(after[name]) & set(failed)))}" for name in waiting}
    return failed


def _execute(name, after, folder, write, jobs, clients):
    """Execute a lesson, and write it if asked; returns the seconds it took. ``RuntimeError`` where a cell failed."""
    import nbformat
    from nbclient import NotebookClient, exceptions

    path, started = _path(name), time.time()
    content, log, made = path.read_bytes(), folder / f"{name}.log", folder / name
    made.mkdir()
    for other in after:
        shutil.copytree(folder / other, made, dirs_exist_ok=True)
    notebook = nbformat.reads(content.decode(), as_version=4)
    client = NotebookClient(
        notebook, timeout=1800, kernel_name="python3", coalesce_streams=True, extra_arguments=runner.KERNEL_ARGUMENTS,
        resources={"metadata": {"path": str(path.parent)}},
    )  # fmt: skip
    recorder = _RECORDER.format(log=str(log), folders=tuple(f"{_root() / place}{os.sep}" for place in ("data", "figures", KEY)))
    client.on_notebook_start = lambda notebook: client.kc.execute(f"exec({recorder!r}, {{}})", silent=True)
    clients.append(client)
    try:
        asyncio.run(client.async_execute(env=_environment(made, jobs)))
    except (exceptions.CellExecutionError, exceptions.CellTimeoutError, exceptions.DeadKernelError) as error:
        raise RuntimeError(runner.reason_of(error)) from error
    if not write:
        return time.time() - started
    if path.read_bytes() != content:
        raise RuntimeError("it was edited while it was executed; execute it again")
    reads = {read: _hash(read, started) for read in sorted(_opened(log) | _reads_of_others(name))}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, KEY: {"hash": _hash_of_cells(name), "reads": reads}}
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        for data in [output["data"] for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]:
            data["image/png"] = _smaller(data["image/png"])
    with files.replacing(path) as temporary:
        nbformat.write(notebook, temporary)
    return time.time() - started


def _environment(made, jobs):
    """Of a kernel: this checkout's library, a data folder of its own, and its share of the cores."""
    variables = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"
    share = dict.fromkeys(variables, str(max(1, threads.cores() // jobs)))
    library = os.pathsep.join(filter(None, (str(_root()), os.environ.get("PYTHONPATH"))))
    return (share if jobs > 1 else {}) | os.environ | {"LSTM_AE_DATA": str(made), "PYTHONPATH": library}


def _smaller(figure):
    """A figure in fewer bytes: without an alpha channel that says nothing; a drawing, which photographs are not, in 256 colours."""
    import PIL.Image

    image = PIL.Image.open(io.BytesIO(base64.b64decode(figure)))
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
    if image.mode == "RGB" and image.getcolors(DRAWING) is not None:  # smooth edges make a thousand colours, photographs many more
        image = image.quantize(256, dither=PIL.Image.Dither.NONE)
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode() + "\n"


# --- what a lesson was made from ---------------------------------------------------------------------------------------


def _root():
    return paths.notebooks_dir().parent


def _path(name):
    return paths.notebooks_dir() / f"{name}.ipynb"


def _read(name):
    return files.read_json(_path(name))


def _chosen(names):
    if drivers := [name for name in names or () if str(name).startswith("9")]:
        message = "drivers are committed without outputs; `python -m lstm_ae_lib run` executes a copy"
        raise ValueError(f"{', '.join(drivers)}: {message}")
    known = lessons()
    return list(dict.fromkeys(checks.choice(name, "lesson", known) for name in names)) if names else known


def _after(name):
    """The lessons whose results a lesson reads: those that its first cell links to, from ``**Reads**`` to ``**Writes**``."""
    cells = _read(name)["cells"]
    line = re.search(r"\*\*Reads\*\*(.*?)(?:\*\*Writes\*\*|$)", "".join(cells[0]["source"]) if cells else "", re.DOTALL)
    links = re.findall(r"\]\((?:\./)?([^()/]+)\.ipynb\)", line[1]) if line else []
    return [other for other in lessons() if other in links and other != name]


def _reads_of_others(name):
    return {f"notebooks/{other}.ipynb" for other in _after(name)}


def _opened(log):
    """What the recorder wrote, as names in the checkout: files, folders that were listed (``data/weights/``), and for all files of
    one name in a folder's folders ``data/published/*/run.json``."""
    ready, *lines = log.read_text(encoding="utf-8").split("\n") if log.exists() else [None]
    if ready != "":
        raise RuntimeError("the files that it read could not be recorded")
    opened = {Path(line).relative_to(_root()) for line in lines if line}
    opened = {path for path in opened if not any(part.startswith((".", "__pycache__")) for part in path.parts)}
    opened = {path for path in opened if path.suffix == ".py" if path.parts[0] == KEY} | {
        path for path in opened if path.parts[0] != KEY and path.parts[:2] not in (("data", "raw"), ("data", "runs"))}  # fmt: skip
    names = {path.as_posix() + ("/" if (_root() / path).is_dir() else "") for path in opened}
    for pattern in {path.parent.parent / "*" / path.name for path in opened if len(path.parts) > 3}:
        every = {path.relative_to(_root()).as_posix() for path in _root().glob(str(pattern))}
        if len(every) > 2 and every <= names:
            names = names - every | {pattern.as_posix()}
    return names


def _hash_of_cells(name):
    """Of the code cells as they stand. The first one, for Colab, does nothing elsewhere: the address in it does not count."""
    sources = ["".join(cell["source"]) for cell in _read(name)["cells"] if cell["cell_type"] == "code"]
    return _short(*(source.rstrip() for place, source in enumerate(sources) if place or "google.colab" not in source))


def _hash(read, before=float("inf")):
    """Of one of a lesson's reads as it is now; none where it is not there, or was written after a time ``before``."""
    path = _root() / read
    if "*" in read:
        return _short(*(f"{each.parent.name} {_hash_of_file(each, before)}" for each in sorted(_root().glob(read))))
    if read.endswith("/"):
        return _short(*sorted(each.name for each in path.iterdir() if not each.name.startswith("."))) if path.is_dir() else ""
    if read.startswith("notebooks/") and path.is_file():
        reads = _read(path.stem)["metadata"].get(KEY, {}).get("reads", {})
        return _short(_hash_of_cells(path.stem), *map(_hash, sorted(reads)))
    return _hash_of_file(path, before)


def _hash_of_file(path, before):
    if not path.is_file() or (state := path.stat()).st_mtime > before:
        return ""
    return _hash_of_content(path, state.st_mtime_ns, state.st_size, state.st_ino)


@functools.cache
def _hash_of_content(path, *_state):
    return _short(_meaning(path.read_text(encoding="utf-8"))) if path.suffix == ".py" else files.sha256(path)[:16]


def _short(*texts):
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _meaning(source):
    """What a module's source says to Python, whichever version reads it: its syntax tree without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return _as_text(tree)


def _as_text(node):
    """As ``ast.dump`` does, less what Python's versions disagree on: fields that hold nothing, empty parts of f-strings."""
    if isinstance(node, ast.AST):
        fields = {name: value for name, value in ast.iter_fields(node) if value is not None and value != []}
        if isinstance(node, ast.JoinedStr):
            fields["values"] = [part for part in node.values if getattr(part, "value", None) != ""]
        return f"{type(node).__name__}({','.join(f'{name}={_as_text(value)}' for name, value in fields.items())})"
    return f"[{','.join(map(_as_text, node))}]" if isinstance(node, list) else repr(node)
