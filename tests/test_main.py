import re
import subprocess
import sys

import fake_cifar
import numpy as np
import pytest

from lstm_ae_lib import __main__, cifar10, degradations, paths


def test_help_is_quick_and_lists_every_command():
    done = subprocess.run([sys.executable, "-m", "lstm_ae_lib", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    for command in ("data", "protocols", "run", "sweep", "runs", "publish", "bench", "notebooks"):
        assert re.search(rf"^ +{command}\s", done.stdout, re.M), command


def test_protocols(capsys):
    assert __main__.main(["protocols"]) == 0
    table, _, sources = capsys.readouterr().out.partition("\n\n")
    assert [line.split()[0] for line in table.splitlines()[2:]] == list(degradations.PROTOCOLS)
    assert all(name in sources for name in degradations.PROTOCOLS), "where each is defined stands below"


def test_data_says_what_it_has(made, monkeypatch, capsys):
    monkeypatch.setattr(cifar10, "CONTENT_HASHES", fake_cifar.hashes())
    (made / "raw").mkdir(parents=True)
    np.savez(made / "raw" / "cifar10.npz", **fake_cifar.arrays())
    assert __main__.main(["data"]) == 0
    assert "50 training and 10 test images, verified" in capsys.readouterr().out


def test_data_that_cannot_be_had_exits_with_1(made, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert __main__.main(["data", "--source", "keras-cache"]) == 1
    assert "Ways to get it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "-p", "epoch", "3"], "there is no parameter 'epoch' (did you mean 'epochs'?)"),
        (["run", "-p", "epochs", "0"], "the parameter epochs must be from 1 to 10000, got 0"),
        (
            ["run", "-p", "protocol", "gauss9"],
            "the parameter protocol must be one of reference, gauss1, gauss2, gauss3, blind, noisy",
        ),
        (["run", "-p", "sigma", "-1"], "the parameter sigma must be from 0 to 64, got -1.0"),
        (["run", "--preset", "slow"], "preset must be one of flagship, full, precursor, quick; got 'slow'"),
        (["run", "--name", "../x"], "a run's name is 1 to 100 letters"),
        (["run", "-p", "run_name", "mine"], "the run's name is not a parameter here: use --name mine"),
        (["run", "--resume", "nothing"], "there is no run 'nothing'"),
        (["run", "--resume", "one", "-p", "epochs", "3"], "--resume goes on with the run's own settings"),
        (["runs", "nothing"], "there is no run 'nothing'"),
        (["publish", "nothing"], "there is no run 'nothing'"),
        (["bench", "--repeats", "1"], "repeats must be a whole number from 3"),
    ],
)
def test_a_wrong_request_exits_with_2_and_says_why(made, capsys, arguments, message):
    assert __main__.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (made / "runs").exists()


def test_no_runs_yet(made, capsys):
    assert __main__.main(["runs"]) == 0
    assert "no runs yet" in capsys.readouterr().out
    assert not paths.runs_dir().exists()
