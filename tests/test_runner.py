import ast
import signal
import subprocess
import sys
import time

import nbformat
import papermill
import pytest

from lstm_ae_lib import paths
from lstm_ae_lib.study import runner, runs

PARAMETERS = """run_name: str = "notebook"  # folder of the run; (text)
count: int = 2  # how many: [1 to 9]
share: float = 0.5  # how much: [0 to 1]
loud: bool = False  # say more
colour: str = "red"  # which: {red, green}"""


def write_notebook(folder, name, *cells, parameters=PARAMETERS):
    folder.mkdir(exist_ok=True)
    parameters = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(
        cells=[parameters, *(nbformat.v4.new_code_cell(cell) for cell in cells)],
        metadata={"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    )
    nbformat.write(notebook, folder / f"{name}.ipynb")


@pytest.fixture
def notebooks(made, monkeypatch, tmp_path):
    """Three notebooks of a line each: one that works, one that fails, one whose kernel is killed."""
    folder = tmp_path / "notebooks"
    write_notebook(folder, "10_works", "print('share', share, 'count', count, loud)")
    write_notebook(folder, "11_fails", "raise RuntimeError('out of luck')")
    write_notebook(folder, "12_dies", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.setattr(paths, "notebooks_dir", lambda: folder)
    return folder


# --- parameters -------------------------------------------------------------------------------------------------------


def test_parameters_are_read_from_the_notebook(notebooks):
    declared = runner.notebook_parameters("10_works")
    assert list(declared) == ["run_name", "count", "share", "loud", "colour"]
    assert declared["count"] == {
        "type": "int",
        "default": 2,
        "help": "how many: [1 to 9]",
        "low": 1.0,
        "high": 9.0,
        "choices": None,
    }
    assert declared["loud"]["default"] is False and declared["colour"]["choices"] == ["red", "green"]
    with pytest.raises(FileNotFoundError, match="there is no notebook '99'; there are: 10_works, 11_fails, 12_dies"):
        runner.notebook_parameters("99")


def test_values_get_the_right_type(notebooks):
    given = {"count": "3", "share": "0.25", "loud": "true", "colour": "green"}
    assert runner.check_parameters(given, ["10_works"]) == {
        "10_works": {"count": 3, "share": 0.25, "loud": True, "colour": "green"}
    }
    assert runner.check_parameters({"share": 1}, ["10_works"])["10_works"] == {"share": 1.0}


def test_a_folder_of_pictures_is_the_same_in_the_kernels_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    names = "own", "photographs", ""
    taken = [runner.check_parameters({"pictures": name}, ["90_train"])["90_train"]["pictures"] for name in names]
    assert taken == [str(tmp_path / "own"), "photographs", ""]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cuont": 3}, r"there is no parameter 'cuont' \(did you mean 'count'\?\); the parameters are:\n"),
        ({"cuont": 3}, r"  share: float = 0.5  how much: \[0 to 1\]"),
        ({"count": "three"}, "the parameter count must be int, got 'three'"),
        ({"count": 2.5}, r"the parameter count must be int, got 2.5 \(float\)"),
        ({"count": True}, r"the parameter count must be int, got True \(bool\)"),
        ({"count": 10}, "the parameter count must be from 1 to 9, got 10"),
        ({"share": float("nan")}, "the parameter share must be from 0 to 1, got nan"),
        ({"loud": "perhaps"}, "the parameter loud must be true or false, got 'perhaps'"),
        ({"colour": "blue"}, "the parameter colour must be one of red, green; got 'blue'"),
    ],
)
def test_wrong_parameters_stop_it_before_anything_runs(notebooks, made, given, message):
    with pytest.raises(runner.ParameterError, match=message):
        runner.run_chain("one", given, ["10_works"])
    assert not made.exists()


def test_a_notebook_is_told_what_its_run_records():
    """All parameters, in their order, with values of their types; whether it goes on with a run is none of them."""
    given = {"In": ["import json", PARAMETERS + "\nresume: bool = False  # go on"], "run_name": "one", "count": "3", "share": 1}
    given |= {"loud": "true", "colour": "red", "resume": "true"}
    found = runner.read_parameters(given)
    assert list(found.items()) == [("run_name", "one"), ("count", 3), ("share", 1.0), ("loud", True), ("colour", "red")]
    assert given["resume"] is True and {name: given[name] for name in found} == found
    unkept = {"__annotations__": {"count": int, "loud": bool}, "count": "3", "loud": False}  # where no cell is kept, as in nbval
    assert runner.read_parameters(unkept) == {"count": 3, "loud": False}


def by_papermill(notebooks, given):
    """What a notebook says of the parameters that papermill gave it: its type and value."""
    check = "from lstm_ae_lib.study import runner\nrunner.read_parameters(globals())"
    write_notebook(notebooks, "13_checks", check, f"print([{', '.join(given)}])")
    done = papermill.execute_notebook(str(notebooks / "13_checks.ipynb"), None, given, progress_bar=False)
    return ast.literal_eval(done.cells[-1].outputs[0].text)


def test_papermill_gives_what_run_gives(notebooks):
    """Texts, as papermill's -p hands on what is neither a number nor True nor False."""
    given = {"loud": "false", "count": "3", "share": 1, "colour": "green"}
    found = dict(zip(given, by_papermill(notebooks, given), strict=True))
    assert found == {"loud": False, "count": 3, "share": 1.0, "colour": "green"}
    assert found == runner.check_parameters(given, ["10_works"])["10_works"]
    assert list(map(type, found.values())) == [bool, int, float, str]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": "abc"}, "ParameterError: the parameter count must be int, got 'abc' (str)"),
        ({"count": 2.5}, "ParameterError: the parameter count must be int, got 2.5 (float)"),
        ({"count": 10}, "ParameterError: the parameter count must be from 1 to 9, got 10"),
        ({"loud": "perhaps"}, "ParameterError: the parameter loud must be true or false, got 'perhaps' (str)"),
    ],
)
def test_papermill_is_refused_what_run_is_refused(notebooks, given, message):
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        by_papermill(notebooks, given)
    assert message in str(caught.value)


def test_a_changed_notebook_is_read_again(notebooks):
    assert "resume" not in runner.notebook_parameters("10_works")
    write_notebook(notebooks, "10_works", "pass", parameters=PARAMETERS + "\nresume: bool = False  # go on")
    assert runner.notebook_parameters("10_works")["resume"]["default"] is False


@pytest.mark.parametrize("text", ["count: 3\ncount: 4\n", "a: {count: 3, count: 4}", "? count\n: 3\n? 'count'\n: 4"])
def test_a_name_that_stands_twice_in_a_file_is_refused(tmp_path, text):
    (tmp_path / "some.yaml").write_text(text)
    with pytest.raises(ValueError, match="some.yaml: 'count' stands there twice, again in line [123]"):
        runner.read_yaml(tmp_path / "some.yaml")


def test_what_stands_in_two_places_is_read(tmp_path):
    (tmp_path / "some.yaml").write_text("a: &a {count: 3}\nb: {<<: *a, share: 1}\nc: {<<: *a, count: 4}\n")
    assert runner.read_yaml(tmp_path / "some.yaml") == {"a": {"count": 3}, "b": {"count": 3, "share": 1}, "c": {"count": 4}}


def test_presets_are_files_whose_names_fit_the_notebooks():
    for preset in ("quick", "full", "precursor"):
        runner.check_parameters(runner.read_preset(preset))
    assert runner.read_preset("quick")["optimizer"] == "muon" and runner.read_preset("full")["data"] == "full"
    with pytest.raises(ValueError, match="preset must be one of flagship, full, photo, precursor, quick; got 'slow'"):
        runner.read_preset("slow")


# --- running ----------------------------------------------------------------------------------------------------------


def test_a_run_keeps_the_executed_notebooks_and_its_record(notebooks):
    run = runner.run_chain("one", {"count": "3", "share": 0.25}, ["10_works"], quiet=True)
    record = run.record
    assert (
        record["status"] == "finished"
        and record["minutes"] > 0
        and record["asked"] == {"count": 3, "share": 0.25, "run_name": "one"}
    )
    executed = nbformat.read(run.path("10_works.ipynb"), as_version=4)
    assert executed.cells[-1].outputs[0].text == "share 0.25 count 3 False\n"
    assert sorted(path.name for path in run.folder.iterdir()) == ["10_works.ipynb", "run.json"]


@pytest.mark.parametrize("left", [[], [".tmp-x-run.json"]], ids=["nothing", "half-a-file"])
def test_a_runner_that_was_killed_at_once_blocks_nothing(notebooks, left):
    folder = runs.Run("one").folder
    folder.mkdir(parents=True)
    for name in left:
        (folder / name).write_text("{")
    assert runner.run_chain("one", {}, ["10_works"], quiet=True).record["status"] == "finished"


def test_a_folder_that_is_no_run_is_not_touched(notebooks):
    folder = runs.Run("one").folder
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="the run 'one' exists; choose another --name"):
        runner.run_chain("one", {}, ["10_works"], quiet=True)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_run_is_never_overwritten(notebooks):
    runner.run_chain("one", {}, ["10_works"], quiet=True)
    before = runs.open_run("one").record
    with pytest.raises(FileExistsError, match="the run 'one' exists; choose another --name"):
        runner.run_chain("one", {}, ["10_works"], quiet=True)
    assert runs.open_run("one").record == before


def test_a_failing_notebook_leaves_a_failed_run_that_says_why(notebooks):
    with pytest.raises(RuntimeError, match="11_fails failed: .*out of luck"):
        runner.run_chain("one", {}, ["10_works", "11_fails", "12_dies"], quiet=True)
    record = runs.open_run("one").record
    assert record["status"] == "failed" and "out of luck" in record["error"] and record["error"].startswith("11_fails")
    assert runs.open_run("one").path("10_works.ipynb").is_file()
    assert (
        not runs.open_run("one").path("11_fails.ipynb").exists() and runs.open_run("one").path("11_fails.partial.ipynb").is_file()
    )


def test_the_reason_is_the_cause_and_the_advice(notebooks):
    """Of a message of many lines the last one was once shown alone."""
    write_notebook(notebooks, "13_says", "raise OSError('no network\\n  tried: all\\n\\nfetch it by hand')")
    with pytest.raises(RuntimeError) as caught:
        runner.run_chain("one", {}, ["13_says"], quiet=True)
    reason = "OSError: no network\n  tried: all\nfetch it by hand"
    assert str(caught.value) == f"13_says failed: {reason} (see {runs.Run('one').folder})"
    assert runs.open_run("one").record["error"] == f"13_says: {reason}"
    long = runner.reason_of(ValueError("\n".join(map(str, range(40)))))
    assert long == "ValueError: 0\n1\n2\n3\n4\n5\n...\n35\n36\n37\n38\n39"


def test_a_killed_kernel_leaves_a_failed_run(notebooks):
    with pytest.raises(RuntimeError, match="12_dies failed: DeadKernelError"):
        runner.run_chain("one", {}, ["12_dies"], quiet=True)
    record = runs.open_run("one").record
    assert record["status"] == "failed" and "DeadKernelError" in record["error"]


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_runner_leaves_an_interrupted_run(notebooks, made, tmp_path, signal_):
    write_notebook(notebooks, "13_sleeps", f"open({str(tmp_path / 'started')!r}, 'w').close(); import time; time.sleep(600)")
    code = f"""
import pathlib
from lstm_ae_lib import __main__, paths
from lstm_ae_lib.study import runner
paths.notebooks_dir = lambda: pathlib.Path({str(notebooks)!r})
runner.run_chain.__defaults__ = (["13_sleeps"], True, *runner.run_chain.__defaults__[2:])
raise SystemExit(__main__.main(["run", "--name", "one"]))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.05)
    assert runs.status(runs.open_run("one").record) == "running"
    process.send_signal(signal_)
    _, errors = process.communicate(timeout=300)
    assert runs.status(runs.open_run("one").record) == "interrupted", errors
    if signal_ == signal.SIGTERM:
        assert process.returncode == 75 and runs.open_run("one").record["error"] == "ended in 13_sleeps"
        assert errors.endswith("interrupted\n") and "Traceback" not in errors, errors


def test_an_interrupted_run_goes_on_with_what_is_left(notebooks, tmp_path):
    """The second notebook fails until a file is there; the first one is not run again."""
    cell = f"print(open({str(tmp_path / 'needed')!r}).read(), resume, count)"
    write_notebook(notebooks, "14_needs", cell, parameters=PARAMETERS + "\nresume: bool = False  # go on")
    with pytest.raises(RuntimeError, match="14_needs failed"):
        runner.run_chain("one", {"count": 7}, ["10_works", "14_needs"], quiet=True)
    first = runs.open_run("one").path("10_works.ipynb").read_bytes()
    (tmp_path / "needed").write_text("here it is")
    run = runner.resume_chain("one", quiet=True)
    assert run.record["status"] == "finished" and run.record["error"] is None and run.record["asked"]["count"] == 7
    executed = nbformat.read(run.path("14_needs.ipynb"), as_version=4)
    assert executed.cells[-1].outputs[0].text == "here it is True 7\n"
    assert run.path("10_works.ipynb").read_bytes() == first
    with pytest.raises(ValueError, match="the run 'one' cannot be resumed: it is finished"):
        runner.resume_chain("one", quiet=True)


def test_a_run_recorded_with_other_names_goes_on_with_the_drivers(notebooks, monkeypatch):
    """The first notebook is no driver any more, the second has been executed under its other name, the third is left."""
    monkeypatch.setattr(runner, "RENAMED", {"01_gone": None, "02_first": "11_fails", "03_second": "10_works"})
    run = runs.Run("one")
    run.make_folder()
    asked = {"count": 7, "run_name": "one"}
    run.update(runner="lstm_ae_lib", status="failed", notebooks=["01_gone", "02_first", "03_second"], asked=asked)
    run.path("02_first.ipynb").write_text("executed")
    assert runner.resume_chain("one", quiet=True).record["status"] == "finished"
    executed = nbformat.read(run.path("10_works.ipynb"), as_version=4)
    assert executed.cells[-1].outputs[0].text == "share 0.5 count 7 False\n" and not run.path("11_fails.ipynb").exists()


def test_the_other_names_are_no_drivers_and_lead_to_all_of_them():
    drivers = {path.stem for path in paths.notebooks_dir().glob("9*.ipynb")}
    never_renamed = {"98_mend_jpegs", "99_restore_bursts"}
    assert set(filter(None, runner.RENAMED.values())) == drivers - never_renamed and not drivers & set(runner.RENAMED)


def test_a_run_that_is_running_is_not_resumed(notebooks, made):
    with pytest.raises(RuntimeError, match="11_fails failed"):
        runner.run_chain("one", {}, ["11_fails"], quiet=True)
    code = (
        "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(paths.runs_dir() / ".one.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(RuntimeError, match="another process is running 'one'; this one is refused"):
            runner.resume_chain("one", quiet=True)
        other.stdin.close()
    assert runs.open_run("one").record["status"] == "failed"


def test_a_folder_that_cannot_be_written_to_is_named(notebooks, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LSTM_AE_DATA", str(tmp_path / "file"))
    with pytest.raises(OSError, match="cannot write a run"):
        runner.run_chain("one", {}, ["10_works"], quiet=True)
