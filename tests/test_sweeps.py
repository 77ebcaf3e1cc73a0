"""A sweep does what is left to do, whatever happened before, and touches nothing that is not its own."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from test_runner import notebooks, write_notebook  # noqa: F401 - a fixture

from lstm_ae_lib import __main__, degradations, paths, tasks, weights  # noqa: F401 - tasks: its builders are known
from lstm_ae_lib.study import runner, runs, sweeps


@pytest.fixture
def sweep(notebooks, tmp_path):  # noqa: F811
    """Writes a sweep file and returns its path."""

    def write(text):
        path = tmp_path / "some.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_the_studys_own_sweep_fits_the_notebooks():
    # the others tell classical methods nothing
    known = [name for name, protocol in degradations.PROTOCOLS.items() if not protocol.blurs]
    assert sorted(values["protocol"] for values in sweeps.read_sweep("classical")["runs"].values()) == sorted(known)
    content = sweeps.read_sweep("compare")
    assert {values["protocol"] for values in content["runs"].values()} == {"gauss2", "blind", "reference", "noisy"}
    budgets = {(values["protocol"], values["minutes"]) for values in content["runs"].values()}
    assert budgets == {("gauss2", 20.0), ("blind", 10.0), ("reference", 10.0), ("noisy", 10.0)}
    for name in ("compress", "flagship", "noise", "noise_levels", "classifier", "variational", "adversarial"):
        assert all(values["data"] == "full" for values in sweeps.read_sweep(name)["runs"].values())
    sizes = {}
    for name, values in sweeps.read_sweep("design")["runs"].items():
        arguments = ({"width": values["width"]} if values.get("width") else {}) | json.loads(values.get("options", "{}"))
        design = json.dumps([values["model"], arguments], sort_keys=True)
        if design not in sizes:
            sizes[design] = weights.build(values["model"], arguments).count_params()
        size = 318_000 if name in ("design-same-size", "design-twice-same-size", "design-unet", "design-rednet") else 436_000
        assert abs(sizes[design] / size - 1) < 0.07 or name.endswith("-none")


def test_runs_are_made_skipped_and_tried_again(sweep, capsys):
    file = sweep(
        "notebooks: [10_works]\nparameters: {count: 3}\nruns:\n  one: {share: 0.25}\n  two:\n  three: {count: 4}\n",
    )
    assert set(sweeps.run_sweep(file, quiet=True).values()) == {"finished"}
    assert runs.open_run("one").record["asked"] == {"count": 3, "share": 0.25, "run_name": "one"}
    assert runs.open_run("three").record["asked"]["count"] == 4
    started = runs.open_run("two").record["started"]
    runs.open_run("three").update(status="failed")
    assert list(sweeps.run_sweep(file, quiet=True).values()) == ["was finished", "was finished", "finished"]
    assert runs.open_run("two").record["started"] == started and runs.open_run("three").record["status"] == "finished"


def test_it_goes_on_after_a_failure_and_says_so(sweep, capsys, notebooks):  # noqa: F811
    write_notebook(notebooks, "13_fails_for_some", "assert count != 3, 'three is too many'")
    file = sweep("notebooks: [13_fails_for_some]\nruns:\n  bad: {count: 3}\n  good: {count: 2}\n")
    assert __main__.main(["sweep", file, "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert "1 of 2 runs failed: bad; the same command tries them again" in err and "three is too many" in err
    rows = [line.split()[:2] for line in out.splitlines()[2:]]
    assert rows == [["bad", "failed"], ["good", "finished"]]


def test_killed_it_goes_on_where_it_was(sweep, made, notebooks):  # noqa: F811
    marker = made.parent / "been_here"
    write_notebook(
        notebooks,
        "14_waits_once",
        f"import pathlib, time\nmarker = pathlib.Path({str(marker)!r})\n"
        "if count == 2 and not marker.exists():\n    marker.touch()\n    time.sleep(600)",
    )
    file = sweep("notebooks: [14_waits_once]\nruns:\n  one: {count: 1}\n  two: {count: 2}\n  three: {count: 3}\n")
    script = (
        "import sys, pathlib; from lstm_ae_lib import paths; from lstm_ae_lib.study import sweeps; "
        "folder = pathlib.Path(sys.argv[2]); paths.notebooks_dir = lambda: folder; sweeps.run_sweep(sys.argv[1], quiet=True)"
    )
    command = [sys.executable, "-c", script, file, str(notebooks)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        until = time.monotonic() + 120
        while not marker.exists():
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert runs.status(runs.open_run("two").record) == "interrupted"
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "two (interrupted: goes on)" in done.stderr and "one: was finished" in done.stderr
    assert [runs.open_run(name).record["status"] for name in ("one", "two", "three")] == ["finished"] * 3


def test_a_run_with_other_parameters_is_not_touched(sweep):
    file = "notebooks: [10_works]\nruns:\n  new: {}\n  one: {count: %d}\n"
    runner.run_chain("one", {"count": 3}, ["10_works"], quiet=True)
    with pytest.raises(ValueError, match="'one' was recorded with other parameters .count: 3 there, 4 here.; choose another name"):
        sweeps.run_sweep(sweep(file % 4), quiet=True)
    assert not (paths.runs_dir() / "new").exists() and runs.open_run("one").record["asked"]["count"] == 3
    odd = paths.runs_dir() / "odd" / "notes.txt"
    odd.parent.mkdir()
    odd.write_text("mine")
    with pytest.raises(ValueError, match="odd exists and is no run; nothing was run"):
        sweeps.run_sweep(sweep("notebooks: [10_works]\nruns: {odd: {}}"), quiet=True)
    odd.unlink()  # an empty folder, as a process leaves that was killed at once, is taken
    assert sweeps.run_sweep(sweep("notebooks: [10_works]\nruns: {odd: {}}"), quiet=True) == {"odd": "finished"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs: {one: {cuont: 3}}", r"some.yaml, run 'one': there is no parameter 'cuont' \(did you mean 'count'"),
        ("runs: {one: {count: 10}}", "run 'one': the parameter count must be from 1 to 9, got 10"),
        ("runs: {'../one': {}}", "run '../one': a run's name must be"),
        ("runs: {one: {}, two: {}, one: {count: 3}}", "some.yaml: 'one' stands there twice, again in line 2"),
        ("runs: {one: {count: 3, count: 4}}", "some.yaml: 'count' stands there twice"),
        ("runs: {one: {}}\nruns: {two: {}}", "some.yaml: 'runs' stands there twice, again in line 3"),
        ("runs: {one: 3}", "parameters must be names and values, got 3"),
        ("runs: {one: {run_name: two}}", "run_name is not a parameter here"),
        ("runs: {}", "must hold runs: names"),
        ("- one", "must hold runs: names"),
        ("runs: {one: {}}\nrusn: {}", "holds rusn; allowed are runs, parameters, notebooks"),
        ("runs: {one: [", "is no YAML file"),
        ("runs: {one: {1: 2}}", "some.yaml, run 'one': parameters must have names, got 1"),
        ("notebooks: 10_works\nruns: {one: {}}", "some.yaml: notebooks must be a list of names, got '10_works'"),
        ("notebooks: [[10_works]]\nruns: {one: {}}", "some.yaml: notebooks must be a list of names, got"),
    ],
)
def test_a_wrong_file_stops_it_before_anything_runs(sweep, made, text, message):
    if not text.startswith(("-", "notebooks")):
        text = "notebooks: [10_works]\n" + text
    with pytest.raises(ValueError, match=message):
        sweeps.run_sweep(sweep(text))
    assert not made.exists()


def test_drivers_by_their_other_names(tmp_path):
    (tmp_path / "old.yaml").write_text("notebooks: [01_prepare_data, 02_train_autoencoder]\nruns: {one: {epochs: 3}}\n")
    assert sweeps.read_sweep(tmp_path / "old.yaml")["notebooks"] == ("90_train",)


def test_a_sweep_that_is_not_there(capsys):
    assert __main__.main(["sweep", "comprae"]) == 2
    known = "adversarial, broken_jpeg, bursts, camera, classical, classifier, compare"
    assert f"there is no sweep file 'comprae'; those of the study: {known}" in capsys.readouterr().err
