"""One module a task: its networks, and what its notebook measures. Each is imported when it is first used."""

import importlib
import pkgutil

MODULES = tuple(module.name for module in pkgutil.iter_modules(__path__))


def __getattr__(name):
    if name in MODULES:
        return importlib.import_module(f"lstm_ae_lib.tasks.{name}")
    raise AttributeError(f"module 'lstm_ae_lib.tasks' has no attribute {name!r}")


def load_all() -> None:
    """Imports all tasks, which makes their builders known to :mod:`lstm_ae_lib.weights`."""
    for name in MODULES:
        importlib.import_module(f"lstm_ae_lib.tasks.{name}")
