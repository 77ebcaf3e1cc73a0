"""Runs on the workers of a Dask cluster. Each is a process of its own: when it crashes or is killed, the worker lives on.

Where a worker sees the caller's data folder, a run goes on from its checkpoint whichever worker has it next. Where it has a folder
of its own, the finished run is sent back, and verified by its hash.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import uuid

from lstm_ae_lib import paths
from lstm_ae_lib.study import clusters, runner, runs

RETRIES = 2  # of a run that fails; Dask gives up on one that has taken three workers with it
SECONDS_TO_END = 120  # that the process of a worker that died has to save its training
_ended, _processes = set(), {}  # on a worker: sweeps that were ended; the processes of its runs, by sweep and name


def execute_all(wanted: dict, notebooks, workers: int = 0, scheduler: str = "", quiet: bool = False):
    """Execute runs on a cluster, as many at once as there are workers; yields name and outcome as they end.

    ``wanted``: name -> parameters. Outcomes are ``"finished"``, ``"was finished"``, ``"interrupted"``, and after :data:`RETRIES`
    further tries ``"failed: ..."``. A ``KeyboardInterrupt`` lets all runs save their trainings, and is raised when they have
    ended; a second one kills them. Raises as :func:`lstm_ae_lib.study.clusters.connected`; ``RuntimeError`` where the scheduler
    is lost.
    """
    sweep = uuid.uuid4().hex
    with clusters.connected(workers, scheduler) as client, contextlib.ExitStack() as stack:
        from distributed import as_completed

        shared = paths.runs_dir() / f".sweep-{sweep}"
        paths.runs_dir().mkdir(parents=True, exist_ok=True)
        shared.touch()
        stack.callback(shared.unlink)
        if not quiet:
            print(f"dashboard: {client.dashboard_link}", file=sys.stderr)
            stack.enter_context(_shown(client, sweep, len(wanted)))
        options = {"pure": False, "retries": RETRIES}
        futures = {client.submit(execute, name, one, list(notebooks), sweep, **options): name for name, one in wanted.items()}
        ended, left, asked = as_completed(futures), len(futures), False
        while left:
            try:
                future = next(ended)
                left -= 1
                yield futures[future], _outcome(client, futures[future], future)
            except KeyboardInterrupt:
                client.run(end_runs, sweep, asked)
                if asked:
                    raise
                asked = True
                print("the runs save their trainings and end; interrupt once more to kill them", file=sys.stderr)
        if asked:
            raise KeyboardInterrupt


def _outcome(client, name, future):
    if future.status == "error":
        error = future.exception()
        return f"failed: {error}" if isinstance(error, RuntimeError) else f"failed: {type(error).__name__}: {error}"
    if future.status != "finished":
        raise RuntimeError(f"the scheduler {client.scheduler.addr} is lost; given again, the same command goes on")
    outcome, content, sha256 = future.result()
    if content is not None:
        if hashlib.sha256(content).hexdigest() != sha256:
            return "failed: what the worker sent is not what it read: its hash is another"
        _unpack(name, content)
    return outcome


def _unpack(name, content):
    """A run's folder from a worker, whole or not at all, in place of one that was not finished."""
    folder = runs.Run(name).folder
    part = folder.with_name(f".{name}.part")
    shutil.rmtree(part, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as packed:
        packed.extractall(part, filter="data")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


# --- on a worker ----------------------------------------------------------------------------------------------------------


def execute(name: str, parameters: dict, notebooks: list, sweep: str) -> tuple:
    """The task: one run, in a process of its own. Returns its outcome, and from a data folder that is not the caller's the run's
    files (tar) and their SHA-256. Raises ``RuntimeError`` where it failed."""
    import distributed

    worker = distributed.get_worker()
    if sweep in _ended:
        return "interrupted", None, None
    variables = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = os.environ | dict.fromkeys(variables, os.environ["LSTM_AE_CORES"])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
    command = [sys.executable, "-m", "lstm_ae_lib.study.cluster_runs"]
    last = ""
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
        _processes[sweep, name] = process
        process.stdin.write(json.dumps({"name": name, "parameters": parameters, "notebooks": notebooks}) + "\n")
        process.stdin.flush()  # and open for as long as this worker lives
        for line in process.stderr:
            last = line.strip() or last
            if "validation" in line or "loss" in line:
                worker.log_event(sweep, {"name": name, "text": line.strip()})
        answer = process.stdout.read()
    _processes.pop((sweep, name), None)
    if process.returncode:
        why = f"its process was ended by signal {-process.returncode}" if process.returncode < 0 else answer.strip() or last
        raise RuntimeError(f"{why} (on the worker {worker.name})")
    if (paths.runs_dir() / f".sweep-{sweep}").exists() or answer.strip() == "interrupted":
        return answer.strip(), None, None
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as pack:
        pack.add(runs.Run(name).folder, arcname=".", filter=lambda entry: None if "checkpoints" in entry.name else entry)
    return answer.strip(), packed.getvalue(), hashlib.sha256(packed.getvalue()).hexdigest()


def end_runs(sweep: str, kill: bool) -> None:
    """On a worker: no run of this sweep is begun any more; those that it has save their trainings and end, or are killed."""
    _ended.add(sweep)
    for (own, _), process in list(_processes.items()):
        if own == sweep:
            process.kill() if kill else process.terminate()


def main() -> int:
    """The run's process: told what to do in a line on standard input; when that is closed, because its worker has died, it ends."""
    from lstm_ae_lib.study import sweeps

    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_worker, daemon=True).start()
    try:
        _wait_for_others(runs.Run(task["name"]))
        print(sweeps.run_one(task["name"], task["parameters"], task["notebooks"]))
    except KeyboardInterrupt:
        print("interrupted")
    except Exception as error:
        print(error)
        return 1
    return 0


def _end_with_worker():
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _wait_for_others(run):
    """Until the process that a dead worker has left behind has ended."""
    until = time.monotonic() + SECONDS_TO_END
    paths.runs_dir().mkdir(parents=True, exist_ok=True)
    while True:
        try:
            with runner.alone(run):
                return
        except RuntimeError:
            if time.monotonic() > until:
                raise
        time.sleep(0.5)


# --- what is shown ----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _shown(client, sweep, count):
    """A bar of runs, and below it a line for each run that trains; line after line where nobody looks at a terminal."""
    import tqdm

    bars, place = {}, iter(range(1, count + 1))

    def show(event):
        _, told = event
        text = f"{told['name']}: {told['text']}"
        if not sys.stderr.isatty():
            print(text, file=sys.stderr)
            return
        if told["name"] not in bars:
            bars[told["name"]] = tqdm.tqdm(total=0, bar_format="{desc}", position=next(place), leave=False)
        bars[told["name"]].set_description_str(text[: shutil.get_terminal_size().columns - 1])

    client.subscribe_topic(sweep, show)
    try:
        yield
    finally:
        client.unsubscribe_topic(sweep)
        for bar in bars.values():
            bar.close()


if __name__ == "__main__":
    sys.exit(main())
