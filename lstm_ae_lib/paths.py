"""Where things live. Importing this module, or asking it for a path, creates nothing.

What the project ships (notebooks, the bundled sample, parameter files, released weights) lies in the checkout; what it makes
(the full data set, runs) lies under :func:`output_dir`, so that a read-only checkout works, and several can share one copy.
"""

import os
from pathlib import Path


def checkout() -> Path | None:
    """The folder of the project's checkout, or None where only the library was installed."""
    folder = Path(__file__).resolve().parent.parent
    return folder if (folder / "notebooks").is_dir() and (folder / "pyproject.toml").is_file() else None


def _in_checkout(name: str) -> Path:
    folder = checkout()
    if folder is None:
        raise FileNotFoundError(
            f"the {name} folder is part of the project's checkout, and this copy of lstm_ae_lib was installed without it; "
            "clone the repository and run `make study` there"
        )
    return folder / name


def output_dir() -> Path:
    """The folder that holds ``raw/`` and ``runs/``: ``$LSTM_AE_DATA``, else the checkout's ``data/``, else ``~/.lstm_ae``."""
    if os.environ.get("LSTM_AE_DATA"):
        return Path(os.environ["LSTM_AE_DATA"]).expanduser().resolve()
    folder = checkout()
    return folder / "data" if folder else Path.home() / ".lstm_ae"


def raw_dir() -> Path:
    """The folder of the full data set."""
    return output_dir() / "raw"


def runs_dir() -> Path:
    """The folder that holds one folder for each run."""
    return output_dir() / "runs"


def sample_file() -> Path:
    """The bundled sample: in the checkout's ``data/``, or in the installed package's."""
    return (checkout() or Path(__file__).resolve().parent) / "data" / "cifar10_sample.npz"


def data_dir() -> Path:
    """The tracked ``data/`` folder of the checkout."""
    return _in_checkout("data")


def notebooks_dir() -> Path:
    """The notebooks' folder of the checkout."""
    return _in_checkout("notebooks")


def figures_dir() -> Path:
    """The tracked ``figures/`` folder of the checkout: the published pictures."""
    return _in_checkout("figures")


def published_dir() -> Path:
    """The tracked folder that keeps the records of published runs."""
    return data_dir() / "published"


def released_dir(kind: str = "") -> Path:
    """The tracked folder of released weights: of restorers, or of a ``kind``, such as ``"compress"``."""
    return data_dir() / "weights" / kind


def reference_metrics_file() -> Path:
    """The one place published numbers live."""
    return data_dir() / "reference_metrics.json"
