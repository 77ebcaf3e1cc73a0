import json
import subprocess
import sys
from pathlib import Path

import filelock
import numba
import numpy as np
import pytest
import skimage

from lstm_ae_lib import cifar10, metrics, models, weights
from lstm_ae_lib._backend import keras
from lstm_ae_lib.study import runs
from lstm_ae_lib.tasks import adversarial


@pytest.fixture
def run(made, sample):
    parameters = {"seed": 3, "data": "sample", "protocol": "gauss2"}
    run = runs.start_run("one", parameters, sample, "gauss2")
    run.note_training("reference_lstm", 1.5, 64, "2 epochs of 32")
    return run


def tiny():
    return models.reference_lstm_autoencoder(units=(4, 3)), {"units": [4, 3]}


def records_of(run, blurred, clean):
    return [run.new_record(restorer="degraded", split="test", summary=metrics.evaluate(clean, blurred))]


def test_a_run_records_what_it_ran_with_and_on(run):
    record = run.record
    assert record["parameters"]["seed"] == 3 and record["data"] == {
        "kind": "sample",
        "hash": cifar10.load_cifar10("sample").content_hash,
    }
    assert record["versions"]["keras"] == keras.__version__ and record["versions"]["tensorflow"]
    assert record["hardware"]["cores"] >= 1 and record["threads"] >= 1 and "started" in record
    json.dumps(record)


def test_a_model_comes_back_the_same(run):
    model, arguments = tiny()
    images = np.random.default_rng(0).random((2, 32, 32, 3)).astype(np.float32)
    run.save_model("autoencoder", model, "reference_lstm_autoencoder", arguments)
    again = runs.open_run("one").load_model("autoencoder")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(again(images)), keras.ops.convert_to_numpy(model(images)))


def test_a_network_is_handed_over_with_what_it_has_cost(run):
    model, arguments = tiny()
    run.save_model("autoencoder", model, "reference_lstm_autoencoder", arguments)
    keras.utils.set_random_seed(5)
    other = tiny()[0]
    given = run.load_pretrained(other, "reference_lstm")
    assert given == {"minutes": 1.5, "images_seen": 64, "budget": "2 epochs of 32"}
    for mine, its in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, its)
    run.save_model("compressor", model, "reference_lstm_autoencoder", arguments)
    assert run.load_pretrained(tiny()[0], "reference_lstm", "compressor") == given
    with pytest.raises(ValueError, match="the run 'one' has trained reference_lstm, not flagship"):
        run.load_pretrained(other, "flagship")
    larger = models.reference_lstm_autoencoder(units=(5, 3))
    with pytest.raises(ValueError, match="'one' was built otherwise: .* give the same width and options"):
        run.load_pretrained(larger, "reference_lstm")


def test_released_weights_are_handed_over_with_what_they_have_cost(run):
    its, description = weights.read_released("gauss2")
    network = weights.build(description["builder"], description["arguments"])
    keras.utils.set_random_seed(5)
    given = run.load_released(network, description["builder"], "gauss2")
    assert given == description["card"]["training"][description["builder"]]
    assert given["images_seen"] > 0 and "minutes" in given["budget"]
    for mine, wanted in zip(network.get_weights(), its.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, wanted)
    started = runs.open_run("one").record["started_from"]
    assert started == {"weights": "gauss2", "run": description["card"]["run"], "sha256": description["sha256"]}
    with pytest.raises(ValueError, match="weights gauss2 has trained .*, not unet"):
        run.load_released(network, "unet", "gauss2")
    with pytest.raises(ValueError, match="weights must be one of .*; got 'gauss7'"):
        run.load_released(network, description["builder"], "gauss7")
    with pytest.raises(ValueError, match="weights gauss2 was built otherwise: .* give the same width and options"):
        run.load_released(tiny()[0], description["builder"], "gauss2")


def test_damaged_weights_are_refused(run):
    model, arguments = tiny()
    run.save_model("autoencoder", model, "reference_lstm_autoencoder", arguments)
    path = run.path("autoencoder.weights.h5")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="autoencoder.weights.h5 is damaged: its SHA-256"):
        run.load_model("autoencoder")


@pytest.mark.parametrize("missing", ["autoencoder.json", "autoencoder.weights.h5", "run.json"])
def test_a_missing_file_is_named(run, missing):
    model, arguments = tiny()
    run.save_model("autoencoder", model, "reference_lstm_autoencoder", arguments)
    run.path(missing).unlink()
    expected = "there is no run 'one'" if missing == "run.json" else f"the run 'one' has no {missing} \\(it has: "
    with pytest.raises(FileNotFoundError, match=expected):
        runs.open_run("one").load_model("autoencoder")


def test_metrics_that_are_not_there_yet(run):
    with pytest.raises(FileNotFoundError, match="has no metrics.json .*91_evaluate the metrics"):
        run.records()


def test_an_unknown_run_lists_the_known_ones(run):
    with pytest.raises(FileNotFoundError, match="there is no run 'two' in .*runs there: one"):
        runs.open_run("two")


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "a b", "x" * 101, None])
def test_a_name_that_is_none_is_refused(made, name):
    with pytest.raises(ValueError, match="a run's name must be 1 to 100 letters"):
        runs.Run(name)


def test_damaged_run_json_is_reported(run):
    run.path("run.json").write_text("{")
    with pytest.raises(ValueError, match="run.json is not valid JSON"):
        runs.open_run("one")


def test_starting_again_removes_what_the_run_had_measured(run, sample, clean, blurred):
    model, arguments = tiny()
    run.save_model("autoencoder", model, "reference_lstm_autoencoder", arguments)
    run.save_records(records_of(run, blurred, clean))
    runs.start_run("one", {"seed": 4}, sample, "gauss1")
    assert run.record["parameters"] == {"seed": 4} and "training" not in run.record
    assert [path.name for path in run.folder.iterdir()] == ["run.json"]


WRITTEN = (  # by the notebooks of every task, and by a process that was killed
    "classifier.json", "classifier.weights.h5", "compressor.json", "drawing.json", "drawing.csv", "linear_filter.json",
    "metrics.json", "history.csv", "figures/10_rate_distortion.png", "checkpoints_drawing/000001-00000000-x.npz",
    "checkpoints/x.npz.damaged", "checkpoints/.tmp-x.npz", ".tmp-x-run.json",
)  # fmt: skip


@pytest.mark.parametrize("watched", [False, True], ids=["by-hand", "by-the-runner"])
def test_all_that_an_earlier_run_wrote_goes_and_what_is_prepared_stays(run, sample, watched):
    prepared = ["01_prepare_data.ipynb", "02_train_autoencoder.partial.ipynb", "figures/01_class_samples.png", "notes.txt"]
    for name in [*WRITTEN, *prepared]:
        run.path(name).parent.mkdir(exist_ok=True)
        run.path(name).write_text("before")
    if watched:
        run.update(status="running", runner="lstm_ae_lib", process=runs.this_process(), asked={"seed": 4}, notebooks=["02"])
    run.update(classifier={"accuracy": 0.5})
    runs.start_run("one", {"seed": 4}, sample, "gauss1")
    left = sorted(str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.is_file() and path.name != ".lock")
    assert left == sorted([*prepared, "run.json"])
    record = run.record
    assert "classifier" not in record and "training" not in record and record["parameters"] == {"seed": 4}
    assert (record["status"], record.get("asked")) == (("running", {"seed": 4}) if watched else ("interactive", None))


def test_nobody_starts_to_train_while_files_go(run, sample, monkeypatch):
    leave_files(run)
    unlink, held = Path.unlink, []

    def unlink_and_look(path, **options):
        if path.name.endswith(".npz"):
            with pytest.raises(filelock.Timeout):
                filelock.FileLock(path.parent / ".lock", blocking=False).acquire()
            held.append(path.parent.name)
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", unlink_and_look)
    runs.start_run("one", {"seed": 4}, sample, "gauss1")
    assert sorted(held) == ["checkpoints", "checkpoints_first"]
    with filelock.FileLock(run.path("checkpoints/.lock"), blocking=False):
        pass


def test_a_tasks_network_is_loaded_by_a_process_that_knows_runs_only(run):
    model = adversarial.discriminator(width=4)
    run.save_model("judge", model, "discriminator", {"width": 4})
    code = (
        "import sys; from lstm_ae_lib.study import runs; light = 'tensorflow' not in sys.modules; "
        "print(light, runs.open_run('one').load_model('judge').count_params())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout == f"True {model.count_params()}\n", done.stderr


def test_the_versions_are_those_of_what_decides_the_numbers(run):
    versions = run.record["versions"]
    assert versions["numba"] == numba.__version__ and versions["scikit-image"] == skimage.__version__
    assert versions["PyWavelets"] and versions["constriction"] and list(versions)[:3] == ["python", "commit", "lstm_ae_lib"]


def test_a_recorded_run_is_never_written_over(run, sample):
    run.update(runner="lstm_ae_lib", status="finished")
    run.path("metrics.json").write_text("{}")
    with pytest.raises(FileExistsError, match="the run 'one' is a recorded run \\(finished\\); choose another run_name"):
        runs.start_run("one", {"seed": 4}, sample, "gauss1")
    assert run.path("metrics.json").is_file() and run.record["parameters"]["seed"] == 3


def test_the_commit_is_recorded_where_there_is_one(run, monkeypatch, tmp_path):
    assert runs.commit() is None or len(runs.commit().removesuffix("+changes")) == 40
    monkeypatch.setattr(runs.paths, "checkout", lambda: tmp_path)
    assert runs.commit() is None
    (tmp_path / "file").write_text("1")
    for words in (["init", "-q"], ["add", "file"], ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "m"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    assert len(runs.commit()) == 40
    (tmp_path / "file").write_text("2")
    assert runs.commit().endswith("+changes")


def test_records_have_every_field_in_its_order(run, clean, blurred):
    records = records_of(run, blurred, clean)
    assert list(records[0])[: len(runs.RECORD_FIELDS)] == list(runs.RECORD_FIELDS)
    run.save_records(records)
    assert run.records() == records
    assert records[0]["budget"] == "none" and records[0]["source"] == "measured" and records[0]["run"] == "one"
    model = tiny()[0]
    trained = run.new_record(restorer="reference_lstm", split="test", summary=metrics.evaluate(clean, blurred), model=model)
    assert (trained["budget"], trained["minutes"], trained["images_seen"]) == ("2 epochs of 32", 1.5, 64)
    assert trained["parameters"] == model.count_params() and trained["multiply_adds"] == models.multiply_adds(model)
    broken = {name: value for name, value in records[0].items() if name != "seed"}
    with pytest.raises(ValueError, match="the record of degraded lacks seed"):
        run.save_records([broken])


def test_history_is_read_as_numbers(run):
    run.path("history.csv").write_text("epoch,loss\n0,0.5\n1,0.25\n")
    assert run.history() == {"epoch": [0.0, 1.0], "loss": [0.5, 0.25]}


def test_what_an_epoch_did_not_measure_is_nan_in_the_history(run):
    """Keras' CSVLogger writes NA for it, the checkpoints write nothing."""
    run.path("history.csv").write_text("epoch,loss,val_loss\n0,0.5,NA\n1,0.25,\n2,0.125,0.75\n")
    np.testing.assert_equal(run.history(), {"epoch": [0, 1, 2], "loss": [0.5, 0.25, 0.125], "val_loss": [np.nan, np.nan, 0.75]})


def test_status_follows_the_process(run):
    assert runs.status({"status": "finished"}) == "finished"
    assert runs.status({"status": "running", "process": runs.this_process()}) == "running"
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    import psutil

    process = {**runs.this_process(), "pid": child.pid, "created": psutil.Process(child.pid).create_time()}
    assert runs.status({"status": "running", "process": process}) == "running"
    child.kill()
    child.communicate()
    assert runs.status({"status": "running", "process": process}) == "interrupted"
    assert runs.status({"status": "running", "process": {**process, "machine": "another"}}) == "running elsewhere"


def test_a_folder_that_cannot_be_written_to_is_named(monkeypatch, tmp_path, sample):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LSTM_AE_DATA", str(tmp_path / "file"))
    with pytest.raises(OSError, match="cannot write a run"):
        runs.start_run("one", {"seed": 0}, sample, "gauss2")


# --- going on with a run ------------------------------------------------------------------------------------------------


def leave_files(run):
    for name in ("history.csv", "checkpoints/000001-00000000-x.npz", "checkpoints_first/000001-00000000-x.npz"):
        run.path(name).parent.mkdir(exist_ok=True)
        run.path(name).write_text("before")


def test_a_resumed_run_keeps_its_files_and_a_new_one_does_not(run, sample):
    leave_files(run)
    again = runs.start_run("one", run.record["parameters"], sample, "gauss2", resume=True)
    assert again.path("checkpoints/000001-00000000-x.npz").is_file() and again.path("history.csv").is_file()
    assert len(again.record["resumed"]) == 1 and again.record["resumed"][0]["versions"]["keras"] == keras.__version__
    assert again.record["training"] == run.record["training"]
    runs.start_run("one", run.record["parameters"], sample, "gauss2")
    assert not list(run.folder.glob("checkpoints*/*.npz")) and not run.path("history.csv").exists()
    assert "resumed" not in run.record and "training" not in run.record


def test_a_run_to_resume_that_is_not_there_is_started(made, sample):
    run = runs.start_run("new", {"seed": 1}, sample, "gauss2", resume=True)
    assert run.record["parameters"] == {"seed": 1} and "resumed" not in run.record


def test_a_run_goes_on_with_its_own_settings_only(run, sample):
    leave_files(run)
    with pytest.raises(
        ValueError, match="'one' cannot go on with other settings .protocol: 'gauss2' then, 'gauss1' now; seed: 3 then, 4 now"
    ):
        runs.start_run("one", {**run.record["parameters"], "seed": 4}, sample, "gauss1", resume=True)
    assert run.path("history.csv").read_text() == "before"


def test_a_run_that_another_process_trains_is_left_alone(run, sample):
    leave_files(run)
    code = (
        "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(run.path("checkpoints") / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        for resume in (False, True):
            with pytest.raises(RuntimeError, match="another process is training the run 'one'"):
                runs.start_run("one", run.record["parameters"], sample, "gauss2", resume=resume)
        other.stdin.close()
    assert run.path("history.csv").read_text() == "before"
