import tomllib
from pathlib import Path

import pytest

from lstm_ae_lib import cifar10, paths, restoring, weights


def test_everything_lies_in_the_checkout(monkeypatch):
    monkeypatch.delenv("LSTM_AE_DATA", raising=False)
    root = Path(__file__).resolve().parent.parent
    assert paths.checkout() == root
    assert paths.runs_dir() == root / "data" / "runs" and paths.raw_dir() == root / "data" / "raw"
    for path in (paths.notebooks_dir(), paths.figures_dir(), paths.sample_file()):
        assert path.exists(), path


def test_paths_do_not_depend_on_the_working_directory(monkeypatch, tmp_path):
    before = paths.runs_dir(), paths.notebooks_dir()
    monkeypatch.chdir(tmp_path)
    assert (paths.runs_dir(), paths.notebooks_dir()) == before


def test_the_variable_moves_what_is_made_and_not_what_is_shipped(made):
    assert paths.runs_dir() == made / "runs" and paths.raw_dir() == made / "raw"
    assert paths.sample_file().is_file()
    assert not made.exists()


def test_without_a_checkout_it_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.delenv("LSTM_AE_DATA", raising=False)
    package = tmp_path / "lstm_ae_lib"  # as it is installed: with the sample and released networks, as pyproject.toml has it
    (package / "data" / "weights").mkdir(parents=True)
    for name in ("cifar10_sample.npz", "weights/noisy.json", "weights/noisy.onnx"):
        (package / "data" / name).symlink_to(paths.data_dir() / name)
    monkeypatch.setattr(paths, "__file__", str(package / "paths.py"))
    setuptools = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools["package-dir"]["lstm_ae_lib.data"] == "data" and "lstm_ae_lib.data" in setuptools["packages"]
    bundled = ["weights/*.json", "weights/*.onnx", "weights/compress/*.json", "weights/compress/*.onnx", "weights/compress/*.npz"]
    assert setuptools["package-data"]["lstm_ae_lib.data"] == ["cifar10_sample.npz", *bundled]
    assert restoring.load_restorer("noisy", engine="").name == "noisy" and weights.released() == ["noisy"]
    assert paths.checkout() is None and paths.output_dir() == Path.home() / ".lstm_ae"
    assert paths.sample_file().parent == package / "data" and cifar10.load_cifar10("sample").kind == "sample"
    with pytest.raises(FileNotFoundError, match="the notebooks folder is part of the project's checkout"):
        paths.notebooks_dir()
