"""Runs the notebooks headlessly, as one recorded run.

The runner, not the notebooks' kernel, owns the status in ``run.json``: a kernel that the system kills still leaves a run
that says it failed, and why; a runner that is killed leaves one that is shown as interrupted.
"""

import base64
import difflib
import io
import logging
import re
import signal
import sys
import time
import warnings

import psutil

from lstm_ae_lib import checks, files, paths
from lstm_ae_lib.study import runs

CHAIN = ("01_prepare_data", "02_train_autoencoder", "03_evaluate_restoration")

# A kernel warns on every start that its local, authenticated connection is not encrypted, and prints a trace of its own
# when it is interrupted. What goes wrong in a cell is in the notebook all the same.
_KERNEL_ARGUMENTS = ["--log-level=CRITICAL"]

_TYPES = {"int": int, "float": float, "bool": bool, "str": str}
# Colours up to which a figure is a drawing: lines and letters with smooth edges.
DRAWING = 2800


class ParameterError(ValueError):
    """A parameter that no notebook has, or a value that it does not take."""


def notebook_parameters(notebook: str) -> dict:
    """The parameters of a notebook, as its parameters cell declares them.

    Each is one annotated line, ``name: type = default  # what it is [low to high]``; ``{a, b}`` in place of the range lists
    the allowed words.

    Args:
        notebook: its name without ``.ipynb``.

    Returns:
        dict: name -> ``{"type", "default", "help", "low", "high", "choices"}``.

    Raises:
        FileNotFoundError: there is no such notebook.
    """
    import papermill

    path = paths.notebooks_dir() / f"{notebook}.ipynb"
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in paths.notebooks_dir().glob("*.ipynb")))
        raise FileNotFoundError(f"there is no notebook {notebook!r}; there are: {known}")
    declared = {}
    for name, entry in papermill.inspect_notebook(str(path)).items():
        kind, text = entry["inferred_type_name"], entry["help"]
        limits = re.search(r"\[(\S+) to (\S+)\]", text)
        words = re.search(r"\{(.+)\}", text)
        declared[name] = {
            "type": kind, "default": _parse(name, entry["default"].strip("\"'"), kind), "help": text,
            "low": float(limits[1]) if limits else None, "high": float(limits[2]) if limits else None,
            "choices": [word.strip() for word in words[1].split(",")] if words else None,
        }  # fmt: skip
    return declared


def check_parameters(given: dict, notebooks=CHAIN) -> dict:
    """Checks parameters by name, type and range before anything runs.

    Args:
        given: name -> value; a text is read as the parameter's type (``"20"`` for an int, ``"true"`` for a bool).
        notebooks: the notebooks they are for.

    Returns:
        dict: notebook -> the parameters it takes, with values of the right type.

    Raises:
        ParameterError: a name that no notebook has (the right ones are listed), or a value of the wrong type or out of range.
    """
    declared = {notebook: notebook_parameters(notebook) for notebook in notebooks}
    known = {name: entry for entries in declared.values() for name, entry in entries.items()}
    values = {}
    for name, value in given.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            lines = [f"  {key}: {entry['type']} = {entry['default']!r}  {entry['help']}" for key, entry in known.items()]
            raise ParameterError(
                f"there is no parameter {name!r}{f' (did you mean {close[0]!r}?)' if close else ''}; the parameters are:\n"
                + "\n".join(lines)
            )
        values[name] = _check_value(name, value, known[name])
    return {notebook: {name: values[name] for name in entries if name in values} for notebook, entries in declared.items()}


def _check_value(name, value, entry):
    kind = entry["type"]
    value = _parse(name, value, kind) if isinstance(value, str) else value
    if kind == "float" and type(value) is int:
        value = float(value)
    if type(value) is not _TYPES[kind]:
        raise ParameterError(f"the parameter {name} must be {kind}, got {value!r} ({type(value).__name__})")
    if entry["low"] is not None and not entry["low"] <= value <= entry["high"]:
        raise ParameterError(f"the parameter {name} must be from {entry['low']:g} to {entry['high']:g}, got {value!r}")
    if entry["choices"] and value not in entry["choices"]:
        raise ParameterError(f"the parameter {name} must be one of {', '.join(entry['choices'])}; got {value!r}")
    return value


def _parse(name, text, kind):
    if kind == "bool":
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in words:
            raise ParameterError(f"the parameter {name} must be true or false, got {text!r}")
        return words[text.lower()]
    try:
        return _TYPES[kind](text)
    except ValueError:
        raise ParameterError(f"the parameter {name} must be {kind}, got {text!r}") from None


def read_preset(preset: str) -> dict:
    """The parameters of a preset: ``data/parameters/PRESET.yaml``, a file that ``papermill -f`` takes too.

    Raises:
        ValueError: an unknown preset, or a file that is no list of names and values.
    """
    import yaml

    folder = paths.data_dir() / "parameters"
    checks.choice(preset, "preset", sorted(path.stem for path in folder.glob("*.yaml")))
    content = yaml.safe_load((folder / f"{preset}.yaml").read_text(encoding="utf-8")) or {}
    if not isinstance(content, dict):
        raise ValueError(f"the preset {preset} must hold names and values, got {type(content).__name__}")
    return content


def run_chain(name: str, parameters: dict, notebooks=CHAIN, quiet: bool = False) -> runs.Run:
    """Executes notebooks one after the other as one run.

    Args:
        name: of the run; its folder must not exist yet.
        parameters: for the notebooks; checked before anything starts. ``run_name`` is set here.
        notebooks: their names, in order. Default: the study's spine.
        quiet: show no progress and none of the kernels' output.

    Returns:
        runs.Run: the finished run, executed notebooks in its folder.

    Raises:
        ParameterError: before anything has run.
        FileExistsError: a run of that name exists; nothing is overwritten.
        OSError: the runs' folder cannot be written to.
        RuntimeError: a notebook failed; the run's folder keeps it as far as it got, and the reason.
    """
    if "run_name" in parameters:
        raise ParameterError(f"the run's name is not a parameter here: use --name {parameters['run_name']}")
    per_notebook = check_parameters({**parameters, "run_name": name}, notebooks)
    run = runs.Run(name)
    try:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        run.folder.mkdir()
    except FileExistsError as error:
        if not run.folder.is_dir():
            raise
        raise FileExistsError(
            error.errno, f"the run {name!r} exists; choose another --name, or delete its folder, or --resume it", str(run.folder)
        ) from None
    except OSError as error:
        raise OSError(error.errno, f"cannot write a run: {error.strerror or error}", str(run.folder)) from error
    run.update(
        runner="lstm_ae_lib", started=runs.now(), notebooks=list(notebooks), versions=runs.versions(),
        asked={name: value for taken in per_notebook.values() for name, value in taken.items()},
    )  # fmt: skip
    return _run_notebooks(run, per_notebook, quiet)


def resume_chain(name: str, quiet: bool = False) -> runs.Run:
    """Goes on with a run that was interrupted, killed or failed: with the notebook that had not finished, and in it, where
    the notebook has a parameter ``resume``, from the last checkpoint.

    Args:
        name: of the run.
        quiet: show no progress and none of the kernels' output.

    Returns:
        runs.Run: the finished run.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: the run is finished, or was not made by the runner.
        RuntimeError: the run is still running; or a notebook failed.
    """
    run = runs.open_run(name)
    record = run.record
    if record.get("runner") != "lstm_ae_lib" or runs.status(record) == "finished":
        raise ValueError(f"the run {name!r} cannot be resumed: it is {runs.status(record)}")
    names = record["notebooks"]
    declared = {notebook: notebook_parameters(notebook) for notebook in names}
    per_notebook = {
        notebook: {key: value for key, value in record["asked"].items() if key in declared[notebook]}
        | ({"resume": True} if "resume" in declared[notebook] else {})
        for notebook in names
        if not run.path(f"{notebook}.ipynb").is_file()
    }
    return _run_notebooks(run, per_notebook, quiet)


def _run_notebooks(run, per_notebook, quiet):
    import filelock
    import papermill

    lock = filelock.FileLock(run.folder.with_name(f".{run.name}.lock"), blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RuntimeError(f"another process is running {run.name!r}; this one is refused") from None
    started = time.monotonic()
    before = run.record
    run.update(status="running", process=runs.this_process(), **({"error": None} if "error" in before else {}))

    def finish(status, **fields):
        minutes = before.get("minutes", 0.0) + (time.monotonic() - started) / 60
        run.update(status=status, finished=runs.now(), minutes=round(minutes, 3), **fields)

    with lock, _pass_sigterm_on() as sigterm:
        lock.release()  # the with statement holds it from here
        notebook = None
        try:
            for notebook, parameters in per_notebook.items():
                _execute(papermill, run, notebook, parameters, quiet)
        except KeyboardInterrupt:
            finish("interrupted", error=f"interrupted in {notebook}")
            # The abandoned cell's task would be reported, with a trace, when Python ends.
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)
            raise
        except Exception as error:
            if sigterm.asked:
                finish("interrupted", error=f"ended in {notebook}")
                raise Terminated from None
            reason = f"{type(error).__name__}: {_last_line(error)}"
            finish("failed", error=f"{notebook}: {reason}")
            raise RuntimeError(f"{notebook} failed: {reason} (see {run.folder})") from error
        finish("finished")
    return run


def _execute(papermill, run, notebook, parameters, quiet):
    # Papermill writes its output again and again while it runs: into a name of its own, which is renamed at the end.
    partial = run.path(f"{notebook}.partial.ipynb")
    echo = None if quiet else _Echo()
    if not quiet:
        print(f"{notebook}", file=sys.stderr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of papermill's own dependencies; the kernel is another process
        papermill.execute_notebook(
            str(paths.notebooks_dir() / f"{notebook}.ipynb"),
            str(partial),
            parameters=parameters,
            kernel_name="python3",
            cwd=str(paths.notebooks_dir()),
            start_timeout=180,
            progress_bar=not quiet,
            stdout_file=echo,
            coalesce_streams=True,
            extra_arguments=_KERNEL_ARGUMENTS,
        )
    partial.rename(run.path(f"{notebook}.ipynb"))


class _Echo:
    """Passes what a kernel prints on to the terminal, above papermill's progress bar."""

    def write(self, text):
        import tqdm

        for line in text.splitlines():
            if line.strip():
                tqdm.tqdm.write(f"    {line.rstrip()}", file=sys.stderr)

    def flush(self):
        sys.stderr.flush()


class Terminated(KeyboardInterrupt):
    """The run was asked to end (SIGTERM)."""


class _pass_sigterm_on:
    """While it lasts, SIGTERM goes to the kernel, where a training saves a checkpoint before it ends; then the run ends."""

    def __enter__(self):
        self.asked = False
        try:
            self.before = signal.signal(signal.SIGTERM, self._pass_on)
        except ValueError:  # not the main thread: there is nobody to interrupt
            self.before = None
        return self

    def _pass_on(self, _signal, _frame):
        again, self.asked = self.asked, True
        kernels = [child for child in psutil.Process().children() if "ipykernel_launcher" in " ".join(_command(child))]
        if again or not kernels:
            raise Terminated
        for kernel in kernels:
            kernel.terminate()

    def __exit__(self, *_):
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)


def _command(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _last_line(error):
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def refresh_notebooks(notebooks=None) -> list:
    """Executes the committed notebooks in place with their defaults and keeps only what belongs in git.

    Outputs and counts stay (the regression tests compare them); time stamps, papermill's metadata and the machine's
    language version go.

    Args:
        notebooks: names; default all, in order.

    Returns:
        list: the names.

    Raises:
        RuntimeError: a cell failed; the committed notebook is as it was.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    names = list(notebooks or sorted(path.stem for path in paths.notebooks_dir().glob("*.ipynb")))
    for name in names:
        path = paths.notebooks_dir() / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        try:
            NotebookClient(
                notebook, timeout=1800, kernel_name="python3", coalesce_streams=True, extra_arguments=_KERNEL_ARGUMENTS,
                resources={"metadata": {"path": str(path.parent)}},
            ).execute()  # fmt: skip
        except (CellExecutionError, DeadKernelError) as error:
            raise RuntimeError(f"{name} failed: {_last_line(error)}") from error
        notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
        for cell in notebook.cells:
            cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    output["data"]["image/png"] = _smaller(output["data"]["image/png"])
        with files.replacing(path) as temporary:
            nbformat.write(notebook, temporary)
    return names


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
