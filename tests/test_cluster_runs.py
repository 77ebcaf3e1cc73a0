"""Sweeps on a Dask cluster: what happens when a run, a worker, the scheduler or whoever started it fails."""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import distributed
import psutil
import pytest
from test_runner import write_notebook

from lstm_ae_lib import __main__, paths
from lstm_ae_lib.study import cluster_runs, clusters, runs, sweeps

pytestmark = pytest.mark.scale
CUSTOM = """
import os, pathlib
from lstm_ae_lib import files, paths
import lstm_ae_lib
paths.notebooks_dir = lambda: pathlib.Path({notebooks!r})
lstm_ae_lib.__version__ = os.environ.get("FAKE_VERSION", lstm_ae_lib.__version__)
if os.environ.get("FULL_DISK"):
    def write(path, content):
        raise OSError(28, "No space left on device", str(path))
    files.write = files.write_json = write
"""
# It trains until somebody has said that it may end, and saves when it is asked to end before; a file has its process' number.
WAITS = """
import os, pathlib, signal, time
here = pathlib.Path({folder!r})
def save(*_):
    (here / f"{{run_name}}.saved").touch()
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, save)
(here / f"{{run_name}}.pid").write_text(str(os.getpid()))
while not (here / "go").exists():
    time.sleep(0.1)
"""
CORES = """
import os
from lstm_ae_lib.fast import threads
print(count, threads.cores(), os.environ["TF_NUM_INTRAOP_THREADS"])
assert threads.cores() == int(os.environ["OMP_NUM_THREADS"]) == count, threads.cores()
"""


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A folder for notebooks, which every process finds, and for what these leave."""
    folder = tmp_path / "notebooks"
    write_notebook(folder, "10_works", "print('part 1: training loss 1.00e-03')")
    write_notebook(folder, "11_fails", "raise RuntimeError('out of luck')")
    write_notebook(folder, "12_waits", WAITS.format(folder=str(tmp_path)))
    write_notebook(folder, "13_cores", CORES)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(CUSTOM.format(notebooks=str(folder)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setattr(paths, "notebooks_dir", lambda: folder)
    return tmp_path


def sweep(place, text):
    (place / "some.yaml").write_text(text)
    return str(place / "some.yaml")


def until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def pid(place, name):
    return int(until(lambda: (place / f"{name}.pid").is_file() and (place / f"{name}.pid").read_text()))


@contextlib.contextmanager
def started(*arguments, **options):
    """A process of Python, which ends with all that it has started."""
    with subprocess.Popen([sys.executable, "-m", *map(str, arguments)], stderr=subprocess.PIPE, text=True, **options) as process:
        try:
            yield process
        finally:
            for one in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
                one.kill()
            process.kill()


def dask(kind, *options, **environment):
    """A scheduler or a worker, as a user starts it."""
    return started(f"distributed.cli.dask_{kind}", "--no-dashboard", *options, env=os.environ | environment)


@contextlib.contextmanager
def scheduler(place, name="scheduler"):
    file = place / f"{name}.json"
    with dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", file) as process:
        yield process, json.loads(until(lambda: file.is_file() and file.read_text()))["address"], file


def test_as_many_runs_as_workers_each_on_its_share_and_a_failure_is_one_runs(place, capsys):
    cores = max(len(os.sched_getaffinity(0)) // 2, 1)
    runs_ = f"runs: {{one: {{count: {cores}}}, two: {{count: {cores}}}, bad: {{count: {cores + 1}}}}}"
    file = sweep(place, f"notebooks: [13_cores, 10_works]\n{runs_}")
    assert __main__.main(["sweep", file, "--workers", "2"]) == 1
    err = capsys.readouterr().err
    assert "dashboard: http://127.0.0.1" in err and "one: part 1: training loss 1.00e-03" in err
    assert "bad: failed: 13_cores failed: AssertionError" in err and "1 of 3 runs failed: bad" in err
    assert [runs.status(runs.open_run(name).record) for name in ("one", "two", "bad")] == ["finished", "finished", "failed"]
    assert not list(paths.runs_dir().glob(".sweep-*"))
    runs.open_run("two").update(status="failed")
    alone = sweeps.run_sweep(file, quiet=True, workers=1)  # which has all the cores; bad wants more than half
    assert alone == {"one": "was finished", "two": "finished", "bad": "finished"} or cores == len(os.sched_getaffinity(0))


def test_a_killed_worker_costs_nothing(place):
    file = sweep(place, "notebooks: [12_waits, 10_works]\nruns: {one: {}, two: {}}")
    with started("lstm_ae_lib", "sweep", file, "--workers", "2", "--quiet") as process:
        kernel = psutil.Process(pid(place, "one"))
        runner_, worker = kernel.parents()[:2]
        assert "cluster_runs" in " ".join(runner_.cmdline()) and "spawn_main" in " ".join(worker.cmdline())
        (place / "one.pid").unlink()
        worker.kill()
        assert pid(place, "one") != kernel.pid  # begun again; what the worker left behind has ended
        assert (place / "one.saved").exists() and not runner_.is_running() and not kernel.is_running()
        (place / "go").touch()
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert [runs.status(runs.open_run(name).record) for name in ("one", "two")] == ["finished", "finished"]


def test_interrupted_once_it_saves_and_given_again_it_goes_on(place):
    file = sweep(place, "notebooks: [10_works, 12_waits]\nruns: {one: {}, two: {}, three: {}}")
    with started("lstm_ae_lib", "sweep", file, "--workers", "2", "--quiet", start_new_session=True) as process:
        for name in ("one", "two"):
            pid(place, name)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "interrupt once more to kill them" in err, err
    assert all((place / f"{name}.saved").exists() for name in ("one", "two")) and not (place / "three.pid").exists()
    assert [runs.status(runs.open_run(name).record) for name in ("one", "two")] == ["interrupted"] * 2
    (place / "go").touch()
    assert set(sweeps.run_sweep(file, quiet=True, workers=2).values()) == {"finished"}


def test_a_lost_scheduler_ends_it_and_another_one_goes_on(place, capsys):
    file = sweep(place, "notebooks: [10_works, 12_waits]\nruns: {one: {}}")
    with (
        scheduler(place) as (process, address, found),
        dask("worker", "--scheduler-file", found, "--nthreads", "1"),
        started("lstm_ae_lib", "sweep", file, "--scheduler", address, "--quiet") as caller,
    ):
        kernel = psutil.Process(pid(place, "one"))
        process.kill()
        _, err = caller.communicate(timeout=120)
    assert caller.returncode == 1 and "given again, the same command goes on" in err, err
    until(lambda: not kernel.is_running())
    (place / "go").touch()
    with scheduler(place, "other") as (_, address, found), dask("worker", "--scheduler-file", found, "--nthreads", "1"):
        assert sweeps.run_sweep(file, quiet=True, scheduler=address) == {"one": "finished"}


def test_a_worker_with_a_data_folder_of_its_own_sends_its_runs(place, monkeypatch):
    file = sweep(place, "notebooks: [10_works]\nruns: {one: {}, two: {}}")
    with scheduler(place) as (_, address, found):
        with dask("worker", "--scheduler-file", found, "--nthreads", "1", LSTM_AE_DATA=str(place / "other")):
            assert set(sweeps.run_sweep(file, quiet=True, scheduler=address).values()) == {"finished"}
            record = runs.open_run("two").record
            assert record == json.loads((place / "other" / "runs" / "two" / "run.json").read_text())
            assert runs.Run("two").path("10_works.ipynb").is_file() and not list(paths.runs_dir().glob("*.part"))
            real = hashlib.sha256
            monkeypatch.setattr(cluster_runs.hashlib, "sha256", lambda content: real(content + b"changed"))
            again = sweep(place, "notebooks: [10_works]\nruns: {three: {}}")
            assert "its hash is another" in sweeps.run_sweep(again, quiet=True, scheduler=address)["three"]
            assert not runs.Run("three").folder.exists()
        options = {"LSTM_AE_DATA": str(place / "full"), "FULL_DISK": "1"}
        with dask("worker", "--scheduler-file", found, "--nthreads", "1", "--name", "full", **options):
            again = sweep(place, "notebooks: [10_works]\nruns: {four: {}}")
            outcome = sweeps.run_sweep(again, quiet=True, scheduler=address)["four"]
            assert "No space left on device" in outcome and "on the worker full" in outcome


def test_a_worker_of_another_version_is_refused_by_its_name(place, capsys):
    file = sweep(place, "notebooks: [10_works]\nruns: {one: {}}")
    with (
        scheduler(place) as (_, address, found),
        dask("worker", "--scheduler-file", found, "--nthreads", "1", "--name", "old", FAKE_VERSION="0.0.1"),
    ):
        with distributed.Client(address) as client:
            client.wait_for_workers(1)
        assert __main__.main(["sweep", file, "--scheduler", address, "--quiet"]) == 1
    assert "the worker old has 0.0.1: install the same version there" in capsys.readouterr().err
    assert not runs.Run("one").folder.exists()


def test_a_local_cluster_listens_on_loopback_only():
    with clusters.connected(workers=1) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        assert all(address.startswith("tcp://127.0.0.1:") for address in (client.scheduler.address, *workers))
        assert client.dashboard_link.startswith("http://127.0.0.1:")
        (found,) = client.run(lambda: os.environ["LSTM_AE_CORES"]).values()
        assert int(found) == len(os.sched_getaffinity(0))


def test_where_nobody_answers_and_what_excludes_each_other(place, capsys):
    file = sweep(place, "notebooks: [10_works]\nruns: {one: {}}")
    assert __main__.main(["sweep", file, "--workers", "2", "--scheduler", "tcp://127.0.0.1:1"]) == 2
    assert __main__.main(["sweep", file, "--workers", "-1"]) == 2
    assert "workers must be a whole number from 0 to 1024, got -1" in capsys.readouterr().err


@contextlib.contextmanager
def cable(address):
    """A TCP proxy to an address, which forwards nothing while ``cut`` is set; yields its own address and ``cut``."""
    host, port = address.removeprefix("tcp://").split(":")
    listener, cut = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def forward(source, target):
        with source:  # each end is the source of one direction
            with contextlib.suppress(OSError):
                while content := source.recv(65536):
                    while cut.is_set():
                        time.sleep(0.05)
                    target.sendall(content)
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                near = listener.accept()[0]
                far = socket.create_connection((host, int(port)))
                for pair in ((near, far), (far, near)):
                    threads.append(threading.Thread(target=forward, args=pair, daemon=True))
                    threads[-1].start()

    threads = [threading.Thread(target=accept, daemon=True)]
    threads[0].start()
    with listener:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}", cut
        listener.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(10)


@pytest.mark.parametrize("seconds", [2, pytest.param(30, marks=pytest.mark.soak)])
def test_a_network_that_is_cut_costs_time_alone(place, seconds):
    file = sweep(place, "notebooks: [12_waits]\nruns: {one: {}}")
    with (
        scheduler(place) as (_, address, _),
        cable(address) as (far, cut),
        dask("worker", far, "--nthreads", "1"),
        started("lstm_ae_lib", "sweep", file, "--scheduler", address, "--quiet") as caller,
    ):
        pid(place, "one")
        cut.set()
        (place / "go").touch()  # the run ends while nobody can be told
        time.sleep(seconds)
        cut.clear()
        _, err = caller.communicate(timeout=120)
    assert caller.returncode == 0, err
    assert runs.status(runs.open_run("one").record) == "finished" and not (place / "one.saved").exists()
