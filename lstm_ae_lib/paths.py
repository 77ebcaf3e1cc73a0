"""Where things live. Importing this module, or asking it for a path, creates nothing.

What the project ships (notebooks, figures, ``data/``) lies in the checkout; what it makes (``raw/``, the full data set, and
``runs/``, a folder for each run) lies under :func:`output_dir`: a read-only checkout works, and several can share one copy.
"""

import functools
import os
from pathlib import Path


def checkout() -> Path | None:
    """The folder of the project's checkout, or None where only the library was installed."""
    folder = Path(__file__).resolve().parent.parent
    return folder if (folder / "notebooks").is_dir() and (folder / "pyproject.toml").is_file() else None


def _in_checkout(name: str) -> Path:
    if folder := checkout():
        return folder / name
    raise FileNotFoundError(f"the {name} folder is part of the project's checkout, and this copy of lstm_ae_lib was installed "
                            "without it; clone the repository and run `make study` there")  # fmt: skip


# The tracked folders.
data_dir = functools.partial(_in_checkout, "data")
notebooks_dir = functools.partial(_in_checkout, "notebooks")
figures_dir = functools.partial(_in_checkout, "figures")


def output_dir() -> Path:
    """The folder that holds ``raw/`` and ``runs/``: ``$LSTM_AE_DATA``, else the checkout's ``data/``, else ``~/.lstm_ae``."""
    if chosen := os.environ.get("LSTM_AE_DATA"):
        return Path(chosen).expanduser().resolve()
    return folder / "data" if (folder := checkout()) else Path.home() / ".lstm_ae"


def raw_dir() -> Path:
    return output_dir() / "raw"


def runs_dir() -> Path:
    return output_dir() / "runs"


def _bundled(name: str) -> Path:  # what an installed copy brings along, too
    return (checkout() or Path(__file__).resolve().parent) / "data" / name


def sample_file() -> Path:
    return _bundled("cifar10_sample.npz")


def published_dir() -> Path:
    return data_dir() / "published"


def released_dir(kind: str = "") -> Path:
    """Released weights: of restorers, or of a ``kind``, such as ``"compress"``; an installed copy has ``.onnx`` files only."""
    return _bundled("weights") / kind
