"""A whole run where TensorFlow is not installed: Keras on another backend trains, and makes its batches itself."""

import os
import subprocess
import sys

import pytest

from lstm_ae_lib import keras
from lstm_ae_lib.study import runs

BACKEND = keras.backend.backend()
pytestmark = [
    pytest.mark.backends,
    pytest.mark.skipif(BACKEND == "tensorflow", reason="is about the other backends"),
]
SMALL = ["-p", "epochs", "2", "-p", "model", "flagship", "-p", "width", "4", "-p", "protocol", "noisy", "-p", "redraw", "true",
         "-p", "turn", "true", "-p", "options", '{"depth": 1, "latent": 4}', "-p", "batch_size", "64"]  # fmt: skip


def trained(name, tmp_path, blocked):
    """The history of a run in a process of its own, and of its kernel, where TensorFlow can be imported or not."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['tensorflow'] = None\n" if blocked else "")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "KERAS_BACKEND": BACKEND}
    command = [sys.executable, "-m", "lstm_ae_lib", "run", "--name", name, "--quiet", *SMALL]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return runs.open_run(name)


def test_a_run_needs_no_tensorflow_and_takes_the_same_steps(made, tmp_path):
    run, other = (trained(name, tmp_path, blocked) for name, blocked in (("without", True), ("with", False)))
    assert run.record["hardware"]["backend"] == BACKEND and run.record["versions"][BACKEND]
    histories = [one.path("history.csv").read_text().splitlines() for one in (run, other)]
    assert len(histories[0]) == 3
    if BACKEND == "jax":
        assert histories[0] == histories[1]
    else:  # PyTorch adds up in another order each time
        losses = [float(lines[-1].split(",")[1]) for lines in histories]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert {record["restorer"] for record in run.records()} == {"degraded", "linear", "flagship"}
