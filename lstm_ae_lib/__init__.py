"""LSTM autoencoders for image restoration: Keras layers, blur utilities, and what the study's notebooks share.

The names listed here are loaded when they are first used, so that importing the package costs nothing.
"""

import importlib
import importlib.machinery
import sys

__version__ = "0.1.0"

_HOMES = {
    "load_cifar10": "cifar10", "degrade": "degradations", "fit_linear_filter": "classical", "evaluate": "metrics",
    "reference_lstm_autoencoder": "models", "load_restorer": "restoring", "open_run": "study.runs", "restore": "restoring",
    "set_seed": "seeding", "set_threads": "fast.threads", "keras": "_backend",
}  # fmt: skip

__all__ = sorted(_HOMES)

# What saved models may hold, so that Keras finds it whatever has been imported.
_REGISTERED = {
    "layers": "ImageToRows RowsToImage FastLSTM LSTMSweep GatedScan SimpleGate ChannelScale ChangeGate DepthToSpace GaussianBlur",
    "spectral": "SpectralWiener SpectralMixture", "metrics": "PSNR log_mse",
    "training": "Cooldown Muon", "tasks.adversarial": "AdversarialTraining", "tasks.any_rate": "RowContext RowQuantize",
    "tasks.bursts": "Registration", "tasks.compression": "SpectralLatent SpectralImage Quantize",
    "tasks.hyperprior": "DivisiveNorm ScaledQuantize", "tasks.mending": "BlockFeatures MovedBack RasterAccumulator",
    "tasks.reach": "BoundedScan", "tasks.recurrent_inference": "ConvLSTMStep", "tasks.row_feedback": "RowFeedback",
    "tasks.variational": "LatentSample gaussian_nll",
}  # fmt: skip


def _stand_in(module, name):
    """What Keras finds under a registered name until its module is imported: imports it, and passes everything on."""

    def load():
        return getattr(importlib.import_module(f"lstm_ae_lib.{module}"), name)

    def function(*arguments):
        return load()(*arguments)

    function.__name__ = name
    made = {"from_config": staticmethod(lambda config: load().from_config(config)), "get_config": None}
    return type(name, (), made) if name[0].isupper() else function


def _register(keras):
    for module, names in _REGISTERED.items():
        for name in names.split():
            if keras.saving.get_registered_object(f"lstm_ae_lib>{name}") is None:
                keras.saving.register_keras_serializable("lstm_ae_lib", name)(_stand_in(module, name))


class _WhenKerasIsImported:
    """Registers the library's classes as soon as Keras is there. Importing Keras for that would cost seconds."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name == "keras" else None
        if spec and spec.loader:
            run = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (run(module), _register(module))
        return spec


if sys.modules.get("keras"):
    _register(sys.modules["keras"])
else:
    sys.meta_path.insert(0, _WhenKerasIsImported)


def __getattr__(name):
    if name in _HOMES:
        return getattr(importlib.import_module(f"lstm_ae_lib.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'lstm_ae_lib' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])
