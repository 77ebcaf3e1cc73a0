"""What all tests share: the sample, its blurred version, and a data folder of their own.

The library is imported where it is needed: the process that only hands tests to the workers does without it, and without Keras.
"""

import gc
import json
import signal

import matplotlib
import numpy as np
import pytest

gc.set_threshold(100_000, 50, 100)  # graphs are many small objects that live long: looking at them often costs time
matplotlib.use("Agg")  # not by a variable: the kernels that tests start draw inline
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a script's background; processes that tests interrupt would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def sample():
    from lstm_ae_lib import cifar10

    return cifar10.load_cifar10("sample")


@pytest.fixture(scope="session")
def clean(sample):
    """24 test images, uint8."""
    return sample.test_images[:24]


@pytest.fixture(scope="session")
def unit(clean):
    """The same as float32 in [0, 1]."""
    return (clean / 255).astype(np.float32)


@pytest.fixture(scope="session")
def blurred(clean):
    from lstm_ae_lib import degradations

    return degradations.degrade(clean, "gauss2")


# Files that take longest, by far the longest first: workers that take whole files then end at about the same time.
LONGEST = (
    "test_notebook_runs", "test_drivers", "test_checkpoints", "test_restoring", "test_fast_lstm", "test_package",
    "test_conformance", "test_bench", "test_training", "test_classical", "test_runner",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def own_data_folder(tmp_path_factory):
    """No test reads or writes the checkout's runs; with several workers, each has a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_AE_DATA", str(tmp_path_factory.mktemp("data")))
        # No test cuts the power; on a disk that is busy each of a thousand small files would wait for all that others wrote.
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A data folder of the test's own: raw/ and runs/ live there."""
    monkeypatch.setenv("LSTM_AE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def run(made, sample, clean, blurred):
    """A run as notebooks 02 and 03 leave it, of the untouched images only."""
    from lstm_ae_lib import metrics
    from lstm_ae_lib.study import runs

    run = runs.start_run("one", {"seed": 3}, sample, "gauss2")
    run.path("history.csv").write_text("epoch,loss\n0,0.5\n")
    run.save_records([run.new_record(restorer="degraded", split="test", summary=metrics.evaluate(clean, blurred))])
    return run


@pytest.fixture
def tracked(monkeypatch, tmp_path):
    """A repository of the test's own: its READMEs, and a metrics file with a record from elsewhere and an old one."""
    from lstm_ae_lib import paths
    from lstm_ae_lib.study import address, reporting, runs

    folder = tmp_path / "tracked" / "data"
    folder.mkdir(parents=True)
    monkeypatch.setattr(paths, "data_dir", lambda: folder)
    monkeypatch.setattr(paths, "figures_dir", lambda: folder.parent)
    for file in ("README.md", "data/published/README.md"):
        names = [name for name in ("overview", "families", "results") if reporting.WRITTEN[name][0] == file]
        marked = [address.marks(name, reporting.WRITTEN[name][1]) for name in names]
        (folder.parent / file).parent.mkdir(exist_ok=True)
        (folder.parent / file).write_text("".join(["above\n", *(f"{start}\nold\n{end}\n" for start, end in marked), "below\n"]))
    foreign = dict.fromkeys(runs.RECORD_FIELDS) | {
        "source": "published: a paper", "protocol": "gauss2", "restorer": "reference_lstm", "split": "validation",
        "mse": 0.0014, "data": "full",
    }  # fmt: skip
    (folder / "reference_metrics.json").write_text(json.dumps({"records": [foreign, foreign | {"run": "one"}]}))
    return folder
