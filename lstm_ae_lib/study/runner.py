"""Runs the drivers, notebooks 90 to 99, headlessly as one recorded run.

The runner, not the notebooks' kernel, owns the status in ``run.json``: a kernel that the system kills still leaves a run
that says it failed, and why; a runner that is killed leaves one that is shown as interrupted.
"""

import ast
import contextlib
import difflib
import errno
import json
import logging
import os
import re
import signal
import sys
import threading
import time
import warnings

import psutil

from lstm_ae_lib import checks, paths
from lstm_ae_lib.study import data_parallel, runs

CHAIN = ("90_train", "91_evaluate")
# Drivers by the names that recorded runs and sweep files may know them by; None: a lesson, which no run needs.
RENAMED = {
    "01_prepare_data": None, "02_train_autoencoder": "90_train", "03_evaluate_restoration": "91_evaluate",
    "04_compare_restorers": "92_restore_classically", "10_compress_images": "93_compress", "11_remove_noise": "94_denoise",
    "12_measure_sharpness": "95_classify", "20_variational_autoencoder": "96_train_variational",
    "21_adversarial_training": "97_train_adversarial",
}  # fmt: skip
# A kernel warns on every start that its connection is not encrypted, and prints a trace of its own when it is interrupted.
KERNEL_ARGUMENTS = ["--log-level=CRITICAL"]
_TYPES = {"int": int, "float": float, "bool": bool, "str": str}
_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
# A declared parameter, as papermill reads it too: ``name: type = default  # help``.
_DECLARED = re.compile(r"^(\w+) *: *(int|float|bool|str) *= *(.*?) *(?:# *(.*?) *)?$", re.MULTILINE)


class ParameterError(ValueError):
    """A parameter that no notebook has, or a value that it does not take."""


def notebook_parameters(notebook: str) -> dict:
    """The parameters of a notebook: name -> ``{"type", "default", "help", "low", "high", "choices"}``.

    Each is one annotated line of its parameters cell, ``name: type = default  # what it is [low to high]``; ``{a, b}`` in place
    of the range lists the allowed words. Raises ``FileNotFoundError`` where there is no such notebook.
    """
    path = paths.notebooks_dir() / f"{notebook}.ipynb"
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in paths.notebooks_dir().glob("*.ipynb")))
        raise FileNotFoundError(f"there is no notebook {notebook!r}; there are: {known}")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    source = next(("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])), "")
    return {name: entry | {"default": ast.literal_eval(entry["default"])} for name, entry in _declared_in(source).items()}


def _declared_in(source):
    declared = {}
    for name, kind, default, text in _DECLARED.findall(source):
        limits, words = re.search(r"\[(\S+) to (\S+)\]", text), re.search(r"\{(.+)\}", text)
        low, high = map(float, limits.groups()) if limits else (None, None)
        choices = [word.strip() for word in words[1].split(",")] if words else None
        declared[name] = {"type": kind, "default": default, "help": text, "low": low, "high": high, "choices": choices}
    return declared


def read_parameters(namespace: dict) -> dict:
    """Check the parameters that a notebook was given, and turn texts into values of their types, in place.

    A notebook gives its ``globals()`` before it uses a parameter: papermill passes ``-p flip false`` on as a text, which is true in
    Python. Returns what a run records: all but ``resume``, which changes no result. ``ParameterError`` for another type or range.
    """
    # In: the cells that IPython has run. nbval has them not kept; types are known all the same.
    free = {"low": None, "high": None, "choices": None}
    declared = {name: free | {"type": kind.__name__} for name, kind in namespace.get("__annotations__", {}).items()}
    declared |= _declared_in("\n".join(namespace.get("In", ())))
    values = {name: _check_value(name, namespace[name], entry) for name, entry in declared.items()}
    namespace.update(values)
    return {name: value for name, value in values.items() if name != "resume"}


def check_parameters(given: dict, notebooks=CHAIN) -> dict:
    """Check parameters by name, type and range before anything runs.

    Texts are read as the parameter's type (``"20"``, ``"true"``). Returns notebook -> the parameters that it takes. Raises
    ``ParameterError`` for a name that no notebook has (the right ones are listed) or a value that it does not take.
    """
    declared = {notebook: notebook_parameters(notebook) for notebook in notebooks}
    known = {name: entry for entries in declared.values() for name, entry in entries.items()}
    for name in given:
        if name not in known:
            meant = "".join(f" (did you mean {close!r}?)" for close in difflib.get_close_matches(name, known, n=1))
            lines = [f"  {key}: {entry['type']} = {entry['default']!r}  {entry['help']}" for key, entry in known.items()]
            raise ParameterError("\n".join([f"there is no parameter {name!r}{meant}; the parameters are:", *lines]))
    values = {name: _check_value(name, value, known[name]) for name, value in given.items()}
    if os.path.isdir(values.get("pictures", "")):
        values["pictures"] = os.path.abspath(values["pictures"])  # a kernel's working directory is another
    return {notebook: {name: values[name] for name in entries if name in values} for notebook, entries in declared.items()}


def _check_value(name, value, entry):
    kind, must = entry["type"], f"the parameter {name} must be"
    if isinstance(value, str) or (kind == "float" and type(value) is int):
        with contextlib.suppress(ValueError, KeyError):
            value = _BOOLS[value.lower()] if kind == "bool" else _TYPES[kind](value)
    if type(value) is not _TYPES[kind]:
        raise ParameterError(f"{must} {'true or false' if kind == 'bool' else kind}, got {value!r} ({type(value).__name__})")
    if entry["low"] is not None and not entry["low"] <= value <= entry["high"]:
        raise ParameterError(f"{must} from {entry['low']:g} to {entry['high']:g}, got {value!r}")
    if entry["choices"] and value not in entry["choices"]:
        raise ParameterError(f"{must} one of {', '.join(entry['choices'])}; got {value!r}")
    return value


def read_preset(preset: str) -> dict:
    """The parameters of a preset, a file ``data/parameters/PRESET.yaml`` that ``papermill -f`` takes too; or ``ValueError``."""
    folder = paths.data_dir() / "parameters"
    checks.choice(preset, "preset", sorted(path.stem for path in folder.glob("*.yaml")))
    content = read_yaml(folder / f"{preset}.yaml") or {}
    if not isinstance(content, dict):
        raise ValueError(f"the preset {preset} must hold names and values, got {type(content).__name__}")
    return content


def read_yaml(path):
    """The content of a YAML file; ``ValueError`` where it is none, or where a name stands twice in one place."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            for place, (key, _) in enumerate(node.value):
                if key.value in [other.value for other, _ in node.value[:place]]:
                    raise ValueError(f"{path.name}: {key.value!r} stands there twice, again in line {key.start_mark.line + 1}")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is no YAML file: {error}") from error


def run_chain(name: str, parameters: dict, notebooks=CHAIN, quiet: bool = False, processes=data_parallel.Processes()) -> runs.Run:
    """Execute notebooks one after the other as one run, and return it; its folder keeps the executed notebooks.

    ``quiet`` hides the progress and the kernels' output; ``processes`` train together. Raises ``ParameterError`` before anything
    has run; ``OSError`` where the run's folder holds anything, or is read-only; ``RuntimeError`` where a notebook failed: the
    folder keeps it, and why.
    """
    if "run_name" in parameters:
        raise ParameterError(f"the run's name is not a parameter here: use --name {parameters['run_name']}")
    per_notebook = check_parameters({**parameters, "run_name": name}, notebooks)
    processes.check(parameters)
    run = runs.Run(name)
    run.make_folder()
    with alone(run):
        if not run.is_free():
            message = f"the run {name!r} exists; choose another --name, or delete its folder, or --resume it"
            raise FileExistsError(errno.EEXIST, message, str(run.folder))
        asked = {name: value for taken in per_notebook.values() for name, value in taken.items()}
        run.update(runner="lstm_ae_lib", started=runs.now(), notebooks=list(notebooks), versions=runs.versions(), asked=asked)
        return _run_notebooks(run, per_notebook, quiet, processes)


def resume_chain(name: str, quiet: bool = False, processes=None) -> runs.Run:
    """Go on with a run that was interrupted, killed or failed: with the notebook that had not finished, from its last checkpoint.

    As many processes as before train together, or ``processes``. Raises as :func:`run_chain`; ``ValueError`` for a run that is
    finished or not the runner's, ``RuntimeError`` for a running one.
    """
    run = runs.open_run(name)
    with alone(run):
        record = run.record
        if record.get("runner") != "lstm_ae_lib" or runs.status(record) == "finished":
            raise ValueError(f"the run {name!r} cannot be resumed: it is {runs.status(record)}")
        asked = record["asked"] | {"resume": True}
        renamed = {notebook: RENAMED.get(notebook, notebook) for notebook in record["notebooks"]}
        left = [new for pair in renamed.items() if (new := pair[1]) and not any(run.path(f"{one}.ipynb").is_file() for one in pair)]
        per_notebook = {notebook: {key: asked[key] for key in notebook_parameters(notebook) if key in asked} for notebook in left}
        before = record.get("processes", 1)
        processes = processes or data_parallel.Processes(before)
        processes.check(asked)
        if data_parallel.NOTEBOOK in left:  # another backend has other types of numbers
            if processes.count > 1 and (backend := record.get("hardware", {}).get("backend", "jax")) != "jax":
                raise ValueError(f"the run {name!r} was trained by {backend}, and several processes need JAX")
            if processes.count == 1 < before:
                raise ValueError(f"the run {name!r} was trained on {before} processes: it goes on with --distribute 2 or more")
        return _run_notebooks(run, per_notebook, quiet, processes)


def take_part(name: str, parameters: dict | None, processes) -> None:
    """Be process 1, 2, ... of a run whose process 0 is another command; without ``parameters`` of one that goes on."""
    if parameters is None:
        parameters = runs.open_run(name).record["asked"] | {"resume": True}
    known = notebook_parameters(data_parallel.NOTEBOOK)
    taken = check_parameters({key: value for key, value in parameters.items() if key in known}, (data_parallel.NOTEBOOK,))
    processes.check(parameters)
    data_parallel.work(processes, name, taken[data_parallel.NOTEBOOK])


def alone(run):
    """Holds a run for this process, in a ``with`` statement; ``RuntimeError`` where another process has it."""
    refusal = f"another process is running {run.name!r}; this one is refused"
    return runs.hold_lock(run.folder.with_name(f".{run.name}.lock"), refusal)


def _run_notebooks(run, per_notebook, quiet, processes):
    started, before = time.monotonic(), run.record
    several = {"processes": processes.count} if processes.count > 1 or "processes" in before else {}
    run.update(status="running", process=runs.this_process(), **several, **({"error": None} if "error" in before else {}))

    def finish(status, **fields):
        minutes = before.get("minutes", 0.0) + (time.monotonic() - started) / 60
        run.update(status=status, finished=runs.now(), minutes=round(minutes, 3), **fields)

    with _sigterm_passed_on() as sigterm:
        notebook = None
        try:
            for notebook, parameters in per_notebook.items():
                with data_parallel.others(processes, run.name, notebook, parameters):
                    _execute(run, notebook, parameters, quiet)
        except KeyboardInterrupt:
            finish("interrupted", error=f"interrupted in {notebook}")
            logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # or the abandoned cell is reported when Python ends
            raise
        except Exception as error:
            if sigterm["asked"]:
                finish("interrupted", error=f"ended in {notebook}")
                raise Terminated from None
            reason = reason_of(error)
            finish("failed", error=f"{notebook}: {reason}")
            raise RuntimeError(f"{notebook} failed: {reason} (see {run.folder})") from error
        finish("finished")
    return run


def _execute(run, notebook, parameters, quiet):
    import papermill

    partial = run.path(f"{notebook}.partial.ipynb")  # papermill writes it again and again; it is renamed at the end
    if not quiet:
        print(notebook, file=sys.stderr)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of papermill's own dependencies; the kernel is another process
        papermill.execute_notebook(
            str(paths.notebooks_dir() / f"{notebook}.ipynb"), str(partial), parameters=parameters, kernel_name="python3",
            cwd=str(paths.notebooks_dir()), start_timeout=180, progress_bar=not quiet, stdout_file=None if quiet else _Echo(),
            coalesce_streams=True, extra_arguments=KERNEL_ARGUMENTS,
        )  # fmt: skip
    partial.rename(run.path(f"{notebook}.ipynb"))


class _Echo:
    """Passes what a kernel prints on to the terminal, above papermill's progress bar."""

    def write(self, text):
        import tqdm

        for line in filter(str.strip, text.splitlines()):
            tqdm.tqdm.write(f"    {line.rstrip()}", file=sys.stderr)

    def flush(self):
        sys.stderr.flush()


class Terminated(KeyboardInterrupt):
    """The run was asked to end (SIGTERM)."""


@contextlib.contextmanager
def _sigterm_passed_on():
    """While it lasts, SIGTERM goes to the kernel, where a training saves a checkpoint before it ends; then the run ends."""
    state = {"asked": False}

    def pass_on(_signal, _frame):
        again, state["asked"] = state["asked"], True
        mine = [process for process in psutil.process_iter(["ppid", "cmdline"]) if process.info["ppid"] == os.getpid()]
        kernels = [process for process in mine if "ipykernel_launcher" in " ".join(process.info["cmdline"] or ())]
        if again or not kernels:
            raise Terminated
        for kernel in kernels:
            kernel.terminate()

    if threading.current_thread() is not threading.main_thread():  # there is nobody to interrupt
        yield state
        return
    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield state
    finally:
        signal.signal(signal.SIGTERM, before)


def reason_of(error):
    """What a cell raised, cause and advice; of a long message, as TensorFlow tells of its graph, the beginning and the end."""
    name, message = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in message.splitlines() if line.strip()]
    return f"{name}: " + "\n".join(lines if len(lines) <= 12 else [*lines[:6], "...", *lines[-5:]])
