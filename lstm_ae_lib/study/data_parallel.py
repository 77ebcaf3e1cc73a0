"""One training on several processes: each takes its part of every batch, and all make the same step (``run --distribute``).

Keras on JAX does it (``keras.distribution.DataParallel`` under ``jax.distributed``): every process holds all weights, gradients and
metrics are means over the whole batch. Process 0 is the run's: it alone writes. The others execute the same notebook as far as the
end of its training, in a folder of their own. Losses are those of one process, but for the order in which numbers are added up.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

from lstm_ae_lib import checks, files, paths
from lstm_ae_lib.study import runs

NOTEBOOK = "90_train"  # the one that trains on several processes
MOST = 1024
SECONDS_TO_SAY = 5  # that process 0 has to say what went wrong, once another has failed
SECONDS_TO_END = 20  # that the others have to end, once process 0 has
_PLACE, _COUNT, _COORDINATOR = "LSTM_AE_PROCESS", "LSTM_AE_PROCESSES", "LSTM_AE_COORDINATOR"


@dataclasses.dataclass(frozen=True)
class Processes:
    """How many processes train, and where they meet.

    Args:
        count: 1 to 1,024; 1 for an ordinary training.
        coordinator: ``"host:port"`` of process 0's machine, where all are started by hand, one by one; none: all are started here,
            and meet on loopback.
        place: which of them this one is, from 0.
    """

    count: int = 1
    coordinator: str = ""
    place: int = 0

    def __post_init__(self):
        checks.number(self.count, "distribute", 1, MOST, whole=True)
        checks.number(self.place, "process", 0, self.count - 1, whole=True)
        if self.place and not self.coordinator:
            raise ValueError(f"process {self.place} needs the coordinator's address, such as --coordinator first-host:8476")
        if self.coordinator and self.count == 1:
            raise ValueError(f"the coordinator {self.coordinator} needs the number of processes, such as --distribute 2")
        host, _, port = self.coordinator.rpartition(":")
        if self.coordinator and not (host and port.isdecimal() and 0 < int(port) < 2**16):
            raise ValueError(f"coordinator must be host:port, got {self.coordinator!r}")

    def check(self, parameters: dict) -> None:
        """Raises where these processes cannot train so: ``ImportError`` without JAX, ``ValueError`` for what they cannot share."""
        if self.count == 1:
            return
        backend = os.environ.get("KERAS_BACKEND", "jax")
        if backend != "jax":
            why = "TensorFlow's fit under MultiWorkerMirroredStrategy is not supported by Keras 3, and PyTorch's is for one process"
            raise ValueError(f"distribute needs Keras on JAX, got KERAS_BACKEND={backend}: {why}")
        if float(parameters.get("minutes") or 0):
            raise ValueError(f"distribute needs epochs, got minutes={parameters['minutes']}: the processes' clocks differ")
        if importlib.util.find_spec("jax") is None:
            raise ImportError("distribute needs JAX: pip install 'lstm_ae_lib[jax]'")


# --- in a notebook ----------------------------------------------------------------------------------------------------------------


def part() -> tuple[int, int]:
    """This process's place among those that train together, from 0, and their number: ``(0, 1)`` for one that trains alone."""
    return int(os.environ.get(_PLACE) or 0), int(os.environ.get(_COUNT) or 1)


def join() -> tuple[int, int]:
    """Meets the other processes, before Keras is imported; those that are all on this machine share its cores. Nothing where this
    process trains alone. Returns :func:`part`."""
    place, count = part()
    if count == 1:
        return 0, 1
    import jax

    address, options = os.environ[_COORDINATOR], {}
    if address.startswith("127.0.0.1:"):
        options["coordinator_bind_address"] = address  # it would listen on every interface
        if hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, cores[place::count] or cores)
    jax.distributed.initialize(address, count, place, **options)
    return place, count


def begin(run, saved, start) -> None:
    """What is built from now on is shared: before a network is made. ``saved`` are the checkpoints of ``run``; ``start`` is the
    model that the network starts from: all take process 0's, since what each has fitted may differ in a bit.

    ``RuntimeError`` where another process has other parameters, images, versions or checkpoints than process 0.
    """
    place, count = part()
    if count == 1:
        return
    import numpy as np
    from jax.experimental import multihost_utils

    from lstm_ae_lib._backend import keras

    record = run.record
    own = {
        "parameters": {name: value for name, value in record["parameters"].items() if name != "run_name"},
        "images": record["data"],
        "versions": [record["versions"][name] for name in ("lstm_ae_lib", "keras")],
        "checkpoints": [saved.epoch, saved.seconds_spent],
    }
    numbers = np.array([zlib.crc32(json.dumps(value, sort_keys=True).encode()) for value in own.values()], np.uint32)
    found = multihost_utils.process_allgather(numbers)
    for other, differs in enumerate(found != found[0]):
        if differs.any():
            names = ", ".join(name for name, one in zip(own, differs, strict=True) if one)
            advice = "a training that goes on needs one data folder for all (LSTM_AE_DATA)"
            raise RuntimeError(f"process {other} has other {names} than process 0; {advice}")
    start.set_weights(multihost_utils.broadcast_one_to_all(start.get_weights()))
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))


def end() -> None:
    """The training is over: process 0 goes on alone, the others end here."""
    place, count = part()
    if count == 1:
        return
    import jax

    from lstm_ae_lib._backend import keras

    keras.distribution.set_distribution(None)
    jax.distributed.shutdown()
    if place:
        raise _Done


class _Done(BaseException):
    """A process that is not the first has nothing more to do."""


# --- around a notebook ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def others(processes: Processes, name: str, notebook: str, parameters: dict):
    """While process 0 executes a notebook in a kernel of this process: the environment that it needs, and the other processes.

    One that dies takes the kernel with it: ``RuntimeError`` says which, and why.
    """
    if processes.count == 1 or notebook != NOTEBOOK:
        yield
        return
    address = processes.coordinator or f"127.0.0.1:{_free_port()}"
    places = () if processes.coordinator else range(1, processes.count)  # with one, the others are started by hand
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(_Other(place, processes.count, address, name, parameters)) for place in places]
        stack.enter_context(_environment(_variables(0, processes.count, address)))
        over = threading.Event()
        stack.callback(over.set)
        threading.Thread(target=_watch, args=(running, over), daemon=True).start()
        try:
            yield
        except Exception as error:
            time.sleep(0.5)  # what took the kernel along is about to end, too
            if reason := next(filter(None, (one.reason(error) for one in running)), ""):
                raise RuntimeError(reason) from error
            raise


def work(processes: Processes, name: str, parameters: dict) -> None:
    """Process 1, 2, ... of a training, started by hand: returns at its end. Raises ``RuntimeError`` where it failed."""
    with _Other(processes.place, processes.count, processes.coordinator, name, parameters) as process:
        while process.popen.poll() is None:
            time.sleep(0.2)
        if reason := process.reason(None):
            raise RuntimeError(reason)


class _Other:
    """A process that is not the first, while a ``with`` statement lasts: it ends with it, and with the process that started it."""

    def __init__(self, place, count, address, name, parameters):
        self.place, self.count = place, count
        self.environment = os.environ | _variables(place, count, address) | {"LSTM_AE_DATA": str(paths.output_dir())}
        self.task = {"name": name, "parameters": parameters}

    def __enter__(self):
        self.folder, self.log = tempfile.TemporaryDirectory(ignore_cleanup_errors=True), tempfile.TemporaryFile()
        # Where a kernel is, too; in a session of its own: the terminal's interrupt is for process 0.
        where = {"cwd": paths.notebooks_dir(), "env": self.environment, "start_new_session": True}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": self.log}
        self.popen = subprocess.Popen([sys.executable, "-m", "lstm_ae_lib.study.data_parallel"], **where, **pipes)
        self.popen.stdin.write(json.dumps(self.task | {"folder": self.folder.name}).encode() + b"\n")
        self.popen.stdin.flush()  # and open for as long as it shall live
        return self

    def __exit__(self, error, *_):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(SECONDS_TO_END if error is None else 0)
        self.popen.kill()
        self.popen.wait()
        self.popen.stdin.close()
        self.log.close()
        self.folder.cleanup()

    def reason(self, error) -> str:
        """Why it ended, where it failed and process 0, whose ``error`` is given, cannot say more about that."""
        code, who = self.popen.poll(), f"process {self.place} of {self.count}"
        if not code:
            return ""
        if code < 0 and code != -signal.SIGABRT:  # JAX aborts a process that has lost the others
            return f"{who} was ended by signal {-code} ({signal.Signals(-code).name})"
        self.log.seek(0)
        lines = [line for line in self.log.read().decode(errors="replace").splitlines() if line.startswith("error: ")]
        said = lines[-1].removeprefix("error: ") if lines else "ended by JAX, since another one is gone: resume the run"
        blind = error is None or _lost(str(error)) or "Kernel" in type(error).__name__
        return f"{who}: {said}" if blind and not (error is not None and (_lost(said) or code < 0)) else ""


def _lost(text):
    """Whether an error is only that another process is gone."""
    return "JaxRuntimeError" in text and any(word in text for word in ("Gloo", "onnection", "oordination"))


def _watch(running, over):
    """Ends the kernel when a process has failed: it would wait for that one until JAX notices, minutes later."""
    import psutil

    ended = False
    while not ended and not over.wait(0.2):
        if any([one.popen.poll() for one in running]) and not over.wait(SECONDS_TO_SAY):
            for child in psutil.Process().children():
                with contextlib.suppress(psutil.Error):
                    if "ipykernel_launcher" in " ".join(child.cmdline()):
                        child.kill()
                        ended = True


def _variables(place, count, address):
    return {_PLACE: str(place), _COUNT: str(count), _COORDINATOR: address, "KERAS_BACKEND": "jax"}


@contextlib.contextmanager
def _environment(variables):
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


# --- a process that is not the first ----------------------------------------------------------------------------------------------


def main():
    """Executes the notebook's cells, told which run it is of in a line on standard input; when that is closed, it ends at once."""
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_starter, args=(task["folder"],), daemon=True).start()
    os.environ["MPLBACKEND"] = "agg"
    try:
        _imitate(Path(task["folder"]), task["name"])
        os.environ["LSTM_AE_DATA"] = task["folder"]
        _execute(task["parameters"] | {"run_name": task["name"]})
    except _Done:
        os._exit(0)
    except Exception as error:
        print(f"error: {type(error).__name__}: {' '.join(str(error).split())[:500]}", file=sys.stderr, flush=True)
    os._exit(1)  # at once: JAX would wait for the others


def _end_with_starter(folder):
    while os.read(0, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _imitate(folder, name):
    """A data folder that has what the real one has, with this run's record and checkpoints as copies."""
    real = paths.output_dir()
    for entry in real.iterdir() if real.is_dir() else ():
        if entry.name != "runs":
            (folder / entry.name).symlink_to(entry)
    (folder / "runs" / name).mkdir(parents=True)
    for entry in (real / "runs").iterdir() if (real / "runs").is_dir() else ():
        if entry.name != name and not entry.name.startswith("."):
            (folder / "runs" / entry.name).symlink_to(entry)
    own, copy = real / "runs" / name, folder / "runs" / name
    if (own / "run.json").is_file():  # which process, on which machine, has the original is nothing to this one
        record = files.read_json(own / "run.json")
        files.write_json(copy / "run.json", record | {"status": "running", "process": runs.this_process()})
    (copy / "checkpoints").mkdir()
    for path in own.glob("checkpoints/*.npz"):
        shutil.copyfile(path, copy / "checkpoints" / path.name)


def _execute(parameters):
    """A notebook's code cells in this process, with the parameters set after the cell that declares them, as papermill does it."""
    cells = json.loads((paths.notebooks_dir() / f"{NOTEBOOK}.ipynb").read_text(encoding="utf-8"))["cells"]
    namespace = {"__name__": "__main__", "In": (history := [])}
    for cell in cells:
        if cell["cell_type"] == "code":
            history.append(source := "".join(cell["source"]))
            exec(compile(source, f"<{NOTEBOOK}>", "exec"), namespace)
            if "parameters" in cell["metadata"].get("tags", []):
                namespace.update(parameters)


if __name__ == "__main__":
    # Not as __main__: what the notebook imports must be the same module.
    from lstm_ae_lib.study import data_parallel

    data_parallel.main()
