from pathlib import Path

import pytest

from lstm_ae_lib import paths


def test_everything_lies_in_the_checkout(monkeypatch):
    monkeypatch.delenv("LSTM_AE_DATA", raising=False)
    root = Path(__file__).resolve().parent.parent
    assert paths.checkout() == root
    assert paths.runs_dir() == root / "data" / "runs" and paths.raw_dir() == root / "data" / "raw"
    for path in (paths.notebooks_dir(), paths.figures_dir(), paths.sample_file(), paths.reference_metrics_file()):
        assert path.exists(), path


def test_paths_do_not_depend_on_the_working_directory(monkeypatch, tmp_path):
    before = paths.runs_dir(), paths.notebooks_dir()
    monkeypatch.chdir(tmp_path)
    assert (paths.runs_dir(), paths.notebooks_dir()) == before


def test_the_variable_moves_what_is_made_and_not_what_is_shipped(made):
    assert paths.runs_dir() == made / "runs" and paths.raw_dir() == made / "raw"
    assert paths.sample_file().is_file()
    assert not made.exists()


def test_without_a_checkout_it_says_what_is_missing(monkeypatch):
    monkeypatch.delenv("LSTM_AE_DATA", raising=False)
    monkeypatch.setattr(paths, "checkout", lambda: None)
    assert paths.output_dir() == Path.home() / ".lstm_ae"
    assert paths.sample_file().parts[-3:] == ("share", "lstm_ae_lib", "cifar10_sample.npz")
    with pytest.raises(FileNotFoundError, match="the notebooks folder is part of the project's checkout"):
        paths.notebooks_dir()
