"""One training on several processes: what each sees of a batch, that losses stay those of one, and what happens when one dies."""

import csv
import json
import os
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from lstm_ae_lib import __main__, datasets, degradations, files
from lstm_ae_lib.study import data_parallel, runner, runs

FLAGSHIP = {
    "model": "multiscale_flagship", "width": 12, "optimizer": "muon", "learning_rate": 0.001, "epochs": 3, "validate_every": 96,
    "redraw": True, "protocol": "blind",
}  # fmt: skip
LSTM = {"encoder_units": 8, "decoder_units": 4, "epochs": 2, "validate_every": 64, "validation_images": 40}
CHAIN = """
import json, sys
from lstm_ae_lib.study import data_parallel, runner
name, parameters, count, coordinator, place = json.loads(sys.argv[1])
processes = data_parallel.Processes(count, coordinator, place)
try:
    if parameters is None:
        runner.resume_chain(name, quiet=True)
    elif place:
        runner.take_part(name, parameters, processes)
    else:
        runner.run_chain(name, parameters, ("90_train",), quiet=True, processes=processes)
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder that the tests share, and compiled programs beside it."""
    pytest.importorskip("jax")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_AE_DATA", str(made := tmp_path_factory.mktemp("several")))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(made / "compiled"))
        patch.delenv("KERAS_BACKEND", raising=False)
        yield made


def train(name, parameters, count=1, coordinator="", place=0, backend=None):
    """A command as the runner is started by, in a process of its own."""
    environment = os.environ | ({"KERAS_BACKEND": backend} if backend else {})
    task = json.dumps([name, parameters, count, coordinator, place])
    return subprocess.Popen([sys.executable, "-c", CHAIN, task], env=environment, stdout=subprocess.PIPE, text=True)


def said(process):
    lines = process.communicate(timeout=600)[0].splitlines()
    return "\n".join(line for line in lines if not line.startswith("[Gloo]"))  # which says that it has connected


def history(folder, name):
    with open(folder / "runs" / name / "history.csv") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def assert_same_losses(found, wanted):
    assert len(found) == len(wanted) and found[0].keys() == wanted[0].keys()
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.scale
def test_two_processes_have_the_losses_of_one_and_one_that_was_killed_goes_on(folder):
    assert said(train("alone", FLAGSHIP, backend="jax")) == ""
    assert said(train("two", FLAGSHIP, 2)) == ""
    assert_same_losses(history(folder, "two"), wanted := history(folder, "alone"))
    record = json.loads((folder / "runs" / "two" / "run.json").read_text())
    assert record["processes"] == 2 and record["hardware"]["backend"] == "jax" and record["status"] == "finished"
    assert (folder / "runs" / "two" / "autoencoder.weights.h5").is_file()

    process = train("killed", FLAGSHIP, 2)
    until = time.monotonic() + 500
    while not list(folder.glob("runs/killed/checkpoints/*.npz")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    others = [one for one in psutil.Process(process.pid).children() if "lstm_ae_lib.study.data_parallel" in one.cmdline()]
    assert len(others) == 1
    others[0].kill()
    reason = "90_train failed: RuntimeError: process 1 of 2 was ended by signal 9 (SIGKILL)"
    assert said(process).startswith(f"RuntimeError: {reason}")
    record = json.loads((folder / "runs" / "killed" / "run.json").read_text())
    assert record["status"] == "failed" and "process 1 of 2 was ended by signal 9" in record["error"]
    assert said(train("killed", None)) == ""
    record = json.loads((folder / "runs" / "killed" / "run.json").read_text())
    assert record["status"] == "finished" and record["processes"] == 2 and len(record["resumed"]) == 1
    assert_same_losses(history(folder, "killed"), wanted)


@pytest.mark.scale
def test_the_reference_model_too_and_processes_started_by_hand(folder):
    assert said(train("reference", LSTM, backend="jax")) == ""
    address = f"127.0.0.1:{data_parallel._free_port()}"
    first, second = train("by-hand", LSTM, 2, address), train("by-hand", LSTM, 2, address, 1)
    assert said(first) == "" and said(second) == ""
    assert_same_losses(history(folder, "by-hand"), history(folder, "reference"))


@pytest.mark.scale
def test_processes_that_were_told_different_things_are_refused(folder):
    address = f"127.0.0.1:{data_parallel._free_port()}"
    first, second = train("different", LSTM, 2, address), train("different", LSTM | {"seed": 1}, 2, address, 1)
    wanted = "process 1 has other parameters than process 0"
    assert wanted in said(first) and wanted in said(second)


@pytest.mark.scale
def test_what_another_process_fails_of_is_the_run_s_error(folder, tmp_path, monkeypatch):
    """Process 0 waits for it, and would until JAX notices."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('LSTM_AE_PROCESS') == '1':\n"
        "    from lstm_ae_lib import datasets\n"
        "    def fail(*_): raise ValueError('out of luck')\n"
        "    datasets.steps_per_epoch = fail\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    started = time.monotonic()
    told = said(train("unlucky", LSTM | {"validate_every": 0}, 2))
    assert "90_train failed: RuntimeError: process 1 of 2: ValueError: out of luck" in told
    assert time.monotonic() - started < 200


def numbered(count):
    return np.tile(np.arange(count, dtype=np.uint8)[:, None, None, None], (1, 8, 8, 3))


@pytest.mark.parametrize("kind", ["training", "redrawn", "evaluation"])
def test_parts_of_batches_make_the_whole(kind):
    clean = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8)

    def batches(part):
        if kind == "evaluation":
            return datasets.evaluation_batches(degradations.degrade(clean, "gauss2"), clean, 8, part)
        if kind == "redrawn":
            return datasets.redrawn_batches(clean, "noisy", 8, 3, part=part, first_step=2)
        return datasets.training_batches(degradations.degrade(clean, "gauss2"), clean, 8, 3, part=part, first_step=2)

    take = 3 if kind == "evaluation" else 5
    parts = ((0, 1), (0, 2), (1, 2))
    whole, first, second = ([[one.numpy() for one in pair] for pair in batches(part).take(take)] for part in parts)
    assert len(whole) == take
    for both, *halves in zip(whole, first, second, strict=True):
        for column in (0, 1):
            assert len(halves[0][column]) == len(halves[1][column]) == len(both[column]) / 2
            np.testing.assert_array_equal(both[column][0::2], halves[0][column])
            np.testing.assert_array_equal(both[column][1::2], halves[1][column])


@pytest.mark.parametrize(
    ("part", "batch_size", "message"),
    [
        ((0, 3), 8, "a batch must divide into 3 equal parts: batches are of 8 images, the last of 4"),
        ((0, 8), 8, "equal parts"),
        ((2, 2), 8, "the part's place must be a whole number from 0 to 1, got 2"),
        ((0, 0), 8, "the number of parts must be a whole number from 1"),
    ],
)
def test_parts_that_are_none_are_refused(part, batch_size, message):
    clean = numbered(20)
    with pytest.raises(ValueError, match=message):
        datasets.training_batches(clean, clean, batch_size, 0, part=part)
    with pytest.raises(ValueError, match=message):
        datasets.evaluation_batches(clean, clean, batch_size, part)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--distribute", "-1"], "distribute must be a whole number from 1 to 1024, got -1"),
        (["--distribute", "2", "--process", "2"], "process must be a whole number from 0 to 1, got 2"),
        (["--distribute", "2", "--process", "1"], "process 1 needs the coordinator's address"),
        (["--distribute", "2", "--coordinator", "host"], "coordinator must be host:port, got 'host'"),
        (["--distribute", "2", "--coordinator", "host:99999"], "coordinator must be host:port"),
        (["--coordinator", "host:8476"], "the coordinator host:8476 needs the number of processes"),
        (["--distribute", "2", "-p", "minutes", "3"], "distribute needs epochs, got minutes=3: the processes' clocks differ"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(made, monkeypatch, capsys, arguments, message):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert __main__.main(["run", "--name", "x", *arguments]) == 2
    assert message in capsys.readouterr().err and not (made / "runs" / "x").exists()


def test_other_backends_and_a_missing_jax_are_named(made, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert __main__.main(["run", "--name", "x", "--distribute", "2"]) == 2
    told = capsys.readouterr().err
    assert "needs Keras on JAX, got KERAS_BACKEND=tensorflow: TensorFlow's fit under MultiWorkerMirroredStrategy" in told
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setattr(data_parallel.importlib.util, "find_spec", lambda name: None)
    assert __main__.main(["run", "--name", "x", "--distribute", "2"]) == 1
    assert "distribute needs JAX: pip install 'lstm_ae_lib[jax]'" in capsys.readouterr().err
    assert not (made / "runs" / "x").exists()


@pytest.mark.parametrize("status", ["running", "failed"])
def test_another_process_has_a_copy_of_the_run_and_of_nothing_else(made, tmp_path, monkeypatch, status):
    """A copy that it may train in, whatever the original's status, and whichever machine has that."""
    for name in ("raw/a.npz", "runs/x/checkpoints/one.npz", "runs/x/history.csv", "runs/y/run.json", "runs/.x.lock"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(name)
    original = {"status": status, "runner": "lstm_ae_lib", "process": runs.this_process(), "parameters": {"seed": 3}}
    files.write_json(made / "runs" / "x" / "run.json", original)
    (copy := tmp_path / "copy").mkdir()
    monkeypatch.setattr(runs.platform, "node", lambda: "another-machine")
    data_parallel._imitate(copy, "x")
    assert (copy / "raw").is_symlink() and (copy / "runs" / "y").is_symlink()
    own = copy / "runs" / "x"
    assert sorted(path.relative_to(own).as_posix() for path in own.rglob("*")) == ["checkpoints", "checkpoints/one.npz", "run.json"]
    assert sorted(path.name for path in (copy / "runs").iterdir()) == ["x", "y"]
    record = files.read_json(own / "run.json")
    assert runs.status(record) == "running" and record["parameters"] == {"seed": 3}
    (own / "checkpoints" / "one.npz").unlink()
    files.write_json(own / "run.json", {})
    assert files.read_json(made / "runs" / "x" / "run.json") == original
    assert (made / "runs" / "x" / "checkpoints" / "one.npz").is_file()


@pytest.mark.parametrize(
    ("before", "backend", "now", "message"),
    [
        (1, "tensorflow", 2, "the run 'x' was trained by tensorflow, and several processes need JAX"),
        (2, "jax", 1, "the run 'x' was trained on 2 processes: it goes on with --distribute 2 or more"),
    ],
)
def test_a_run_goes_on_by_what_it_was_trained_by(made, monkeypatch, before, backend, now, message):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setattr(data_parallel.importlib.util, "find_spec", lambda name: True)
    (made / "runs" / "x").mkdir(parents=True)
    record = {"status": "failed", "runner": "lstm_ae_lib", "notebooks": ["90_train"], "asked": {}, "hardware": {"backend": backend}}
    files.write_json(made / "runs" / "x" / "run.json", record | ({"processes": before} if before > 1 else {}))
    with pytest.raises(ValueError, match=message):
        runner.resume_chain("x", processes=data_parallel.Processes(now))


def ends(how):
    """A process that is not the first, which ends in some way before it has done anything."""
    other = data_parallel._Other(1, 2, "127.0.0.1:1", "x", {})
    other.environment["PYTHONPATH"] = str(how)
    return other


def test_what_another_process_failed_of_is_told_and_its_folder_goes(made, tmp_path):
    """It fails at once here: this run is not there, and its parameters are none."""
    (tmp_path / "sitecustomize.py").write_text(
        "from lstm_ae_lib.study import data_parallel\n"
        "def fail(*_): raise ValueError('out of luck')\n"
        "data_parallel._execute = fail\n"
    )
    with ends(tmp_path) as other:
        other.popen.wait(60)
        folder = other.folder.name
        assert other.reason(None) == "process 1 of 2: ValueError: out of luck"
        assert other.reason(RuntimeError("JaxRuntimeError: Gloo: connection closed")) == other.reason(None)
        assert other.reason(RuntimeError("FloatingPointError: the loss became nan")) == ""  # which process 0 says itself
    assert not os.path.exists(folder)


def test_a_process_whose_starter_is_gone_ends_and_leaves_nothing(made, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "from lstm_ae_lib.study import data_parallel\nimport time\ndata_parallel._execute = lambda _: time.sleep(100)\n"
    )
    with ends(tmp_path) as other:
        until = time.monotonic() + 60
        while not os.path.exists(os.path.join(other.folder.name, "runs", "x")):
            assert time.monotonic() < until and other.popen.poll() is None
            time.sleep(0.05)
        other.popen.stdin.close()
        assert other.popen.wait(60) == 1 and not os.path.exists(other.folder.name)


def test_a_process_that_trains_alone_meets_nobody(monkeypatch):
    for name in ("LSTM_AE_PROCESS", "LSTM_AE_PROCESSES"):
        monkeypatch.delenv(name, raising=False)
    assert data_parallel.part() == data_parallel.join() == (0, 1)
    data_parallel.begin(None, None, None)
    data_parallel.end()


def test_a_part_of_a_run_that_is_not_there_is_refused(made):
    with pytest.raises(FileNotFoundError, match="there is no run 'x'"):
        runner.take_part("x", None, data_parallel.Processes(2, "host:1234", 1))
