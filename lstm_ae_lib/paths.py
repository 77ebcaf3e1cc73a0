"""Where things live. Importing this module, or asking it for a path, creates nothing.

Two kinds of files are kept apart:

* what the project ships (notebooks, the bundled sample, parameter files, reference metrics) lies in the checkout;
* what it makes (the full data set, runs) lies in ``data/raw`` and ``data/runs`` of the checkout, or under the folder that
  the environment variable ``LSTM_AE_DATA`` names, so that a read-only checkout works and several checkouts can share one
  copy of the images.
"""

import os
from pathlib import Path

DATA_VARIABLE = "LSTM_AE_DATA"


def checkout() -> Path | None:
    """The folder of the project's checkout, or None where only the library was installed."""
    folder = Path(__file__).resolve().parent.parent
    return folder if (folder / "notebooks").is_dir() and (folder / "pyproject.toml").is_file() else None


def _require_checkout(what: str) -> Path:
    folder = checkout()
    if folder is None:
        raise FileNotFoundError(
            f"{what} is part of the project's checkout, and this copy of lstm_ae_lib was installed without it; "
            "clone the repository and run `make study` there"
        )
    return folder


def output_dir() -> Path:
    """The folder that holds ``raw/`` and ``runs/``: ``$LSTM_AE_DATA``, else the checkout's ``data/``, else ``~/.lstm_ae``."""
    if os.environ.get(DATA_VARIABLE):
        return Path(os.environ[DATA_VARIABLE]).expanduser().resolve()
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
    return ((checkout() or Path(__file__).resolve().parent) / "data") / "cifar10_sample.npz"


def data_dir() -> Path:
    """The tracked ``data/`` folder of the checkout."""
    return _require_checkout("the data folder") / "data"


def notebooks_dir() -> Path:
    """The notebooks' folder of the checkout."""
    return _require_checkout("the notebooks folder") / "notebooks"


def figures_dir() -> Path:
    """The tracked ``figures/`` folder of the checkout: the published pictures."""
    return _require_checkout("the figures folder") / "figures"


def published_dir() -> Path:
    """The tracked folder that keeps the records of published runs."""
    return data_dir() / "published"


def reference_metrics_file() -> Path:
    """The one place published numbers live."""
    return data_dir() / "reference_metrics.json"
