"""What all tests share: the sample, its blurred version, and a data folder of their own."""

import matplotlib
import numpy as np
import pytest

from lstm_ae_lib import cifar10, degradations

matplotlib.use("Agg")  # not by a variable: the kernels that tests start draw inline


@pytest.fixture(scope="session")
def sample():
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
    return degradations.degrade(clean, "gauss2")


@pytest.fixture(scope="session", autouse=True)
def own_data_folder(tmp_path_factory):
    """No test reads or writes the checkout's runs; with several workers, each has a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_AE_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A data folder of the test's own: raw/ and runs/ live there."""
    monkeypatch.setenv("LSTM_AE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"
