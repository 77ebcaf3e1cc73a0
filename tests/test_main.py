import io
import re
import subprocess
import sys

import cv2
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
        (["run", "--preset", "slow"], "preset must be one of flagship, full, photo, precursor, quick; got 'slow'"),
        (["run", "--name", "../x"], "a run's name must be 1 to 100 letters"),
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["restore", "nofile.png", "out.png"], "there is no file nofile.png"),
        (["restore", "in.png", "out.gif"], "must be one of .png, .jpg, .jpeg; got '.gif'"),
        (["restore", "in.png", "nowhere/out.png"], "there is no folder"),
        (["restore", "in.png", "in.png"], "in.png is what is read"),
        (["restore", "in.png", "out.png", "--weights", "x"], "weights must be one of awgn, blind, "),
        (["restore", "in.png", "out.jpg", "--quality", "0"], "quality must be a whole number from 1 to 100, got 0"),
        (["compress", "nofile.png", "out.laec"], "there is no file nofile.png"),
        (["compress", "in.png", "out.png"], "must be one of .laec; got '.png'"),
        (
            ["compress", "in.png", "out.laec", "--weights", "x"],
            "weights must be one of any_rate, coarse, default, fine, photo; got 'x'",
        ),
        (["decompress", "nofile.laec", "out.png"], "there is no file nofile.laec"),
        (
            ["decompress", "in.png", "out.png", "--weights", "x"],
            "weights must be one of any_rate, coarse, default, fine, photo; got 'x'",
        ),
    ],
)
def test_what_can_be_told_at_once_is_told_without_keras(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.png").write_bytes(b"")
    for module in ("lstm_ae_lib._backend", "lstm_ae_lib.restoring", "lstm_ae_lib.tasks.codec", "keras"):
        monkeypatch.setitem(sys.modules, module, None)  # importing it would fail
    for name in ("restoring", "tasks"):
        monkeypatch.delattr(f"lstm_ae_lib.{name}", raising=False)
    assert __main__.main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def test_a_missing_file_is_told_quickly():
    code = "import sys; from lstm_ae_lib.__main__ import main; main(['restore', 'nofile', 'o.png']); print('keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n" and "there is no file nofile" in done.stderr


def test_closed_streams_hide_nothing_in_a_picture_and_are_told(tmp_path):
    """With standard error closed, Python's ``print(file=sys.stderr)`` writes to standard output."""
    source, out = tmp_path / "in.png", tmp_path / "out.png"
    cv2.imwrite(str(source), np.arange(768, dtype=np.uint8).reshape(16, 16, 3))
    command = f"{sys.executable} -m lstm_ae_lib restore"
    subprocess.run(["sh", "-c", f"{command} {source} - 2>&- > {out}"], check=True, timeout=60)
    assert out.read_bytes().endswith(b"IEND\xaeB`\x82") and cv2.imread(str(out)).shape == (16, 16, 3)
    for line in (f"{command} {source} - >&-", f"{command} - {out} <&-"):
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and done.stderr == "error: - is standard input or output, which is closed\n"


def test_a_pipe_that_has_seen_enough_is_no_error():
    line = f"{sys.executable} -m lstm_ae_lib protocols | head -1"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.stderr == "" and done.stdout.count("\n") == 1


def test_a_name_that_the_terminal_cannot_show_is_escaped(made, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(__main__, "_protocols", lambda arguments: print("\xe4.png \udce4"))
    assert __main__.main(["protocols"]) == 0
    stream.flush()
    assert stream.buffer.getvalue() == b"\\xe4.png \\udce4\n"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [(ImportError("no coder"), 1, "no coder"), (MemoryError(), 1, "MemoryError"), (BrokenPipeError("pipe"), 2, "pipe")],
)
def test_no_traceback(monkeypatch, capsys, error, code, message):
    def fail(_):
        raise error

    monkeypatch.setattr(__main__, "_protocols", fail)
    assert __main__.main(["protocols"]) == code
    assert capsys.readouterr().err == f"error: {message}\n"


def test_no_runs_yet(made, capsys):
    assert __main__.main(["runs"]) == 0
    assert "no runs yet" in capsys.readouterr().out
    assert not paths.runs_dir().exists()
