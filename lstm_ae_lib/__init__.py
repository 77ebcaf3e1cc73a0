"""LSTM autoencoders for image restoration: Keras layers, blur utilities, and what the study's notebooks share.

The names listed here are loaded when they are first used, so that importing the package costs nothing.

Example:
    >>> from lstm_ae_lib import degrade, evaluate, load_cifar10
    >>> images = load_cifar10("sample")
    >>> blurred = degrade(images.test_images, "gauss2")
    >>> round(evaluate(images.test_images, blurred)["psnr"], 2)
    21.07
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "load_cifar10": "cifar10",
    "degrade": "degradations",
    "fit_linear_filter": "classical",
    "evaluate": "metrics",
    "reference_lstm_autoencoder": "models",
    "load_restorer": "restoring",
    "open_run": "study.runs",
    "restore": "restoring",
    "set_seed": "seeding",
    "set_threads": "fast.threads",
    "keras": "_backend",
}

__all__ = sorted(_HOMES)


def __getattr__(name):
    if name in _HOMES:
        return getattr(importlib.import_module(f"lstm_ae_lib.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'lstm_ae_lib' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
