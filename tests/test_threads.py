import subprocess
import sys

import pytest

from lstm_ae_lib.fast import threads


def in_a_new_process(code):
    import os

    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_NUM_")}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)


def test_set_before_tensorflow_starts_it_holds_and_may_be_said_again():
    done = in_a_new_process(
        "from lstm_ae_lib import set_threads; set_threads(3, 2)\n"
        "from lstm_ae_lib import keras; from lstm_ae_lib.fast import threads; set_threads(3, 2)\n"
        "import os; print(threads.inter_op(), threads.intra_op(), os.environ['TF_NUM_INTEROP_THREADS'])"
    )
    assert (done.stdout, done.stderr) == ("3 2 3\n", "")


def test_the_default_is_one_operation_for_each_core():
    done = in_a_new_process(
        "from lstm_ae_lib import set_threads; set_threads()\n"
        "from lstm_ae_lib.fast import threads; print(threads.inter_op() == threads.cores(), threads.intra_op())"
    )
    assert done.stdout == "True 1\n", done.stderr


def test_too_late_is_said_and_changes_nothing(monkeypatch):
    from lstm_ae_lib._backend import keras  # noqa: F401

    for name in ("TF_NUM_INTEROP_THREADS", "TF_NUM_INTRAOP_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = threads.inter_op(), threads.intra_op()
    with pytest.warns(UserWarning, match="TensorFlow has started and keeps its threads"):
        threads.set_threads(77, 5)
    assert (threads.inter_op(), threads.intra_op()) == before


@pytest.mark.parametrize("arguments", [{"inter_op": 0}, {"intra_op": 2000}, {"inter_op": 1.5}])
def test_bad_numbers_are_refused(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))} must be a whole number from 1 to 1024"):
        threads.set_threads(**arguments)
