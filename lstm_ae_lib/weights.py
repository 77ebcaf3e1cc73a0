"""Models as files: a builder's name, its arguments, and weights with their SHA-256; and which of them are released."""

import importlib
from pathlib import Path

from lstm_ae_lib import checks, files, paths

# A builder's name -> the function, or the module that has it: reading a card needs no Keras.
BUILDERS = {
    **dict.fromkeys(("reference_lstm_autoencoder", "flagship", "multiscale_flagship"), "models"),
    **dict.fromkeys(("linear_filter", "linear_mixture"), "spectral"),
    **dict.fromkeys(("dncnn", "rednet", "unet", "nafnet"), "peers"),
}  # fmt: skip


def register(builder):
    """A decorator that makes a builder known by its name, so that :func:`build` and :func:`read` find it."""
    BUILDERS[builder.__name__] = builder
    return builder


# Arguments of builders under the names that released cards and recorded runs know them by.
RENAMED_ARGUMENTS = {
    "variational_autoencoder": {"warm_up": "kl_warmup_steps"}, "conditional_vae": {"warm_up": "kl_warmup_steps"},
}  # fmt: skip


def _check_known(builder):
    if isinstance(builder, str) and builder not in BUILDERS:
        importlib.import_module("lstm_ae_lib.tasks").load_all()  # whose builders register themselves
    checks.choice(builder, "builder", BUILDERS)


def build(builder: str, arguments: dict):
    """Builds a model; raises ``ValueError`` for an unknown builder, or arguments that it does not take."""
    _check_known(builder)
    new_names, make = RENAMED_ARGUMENTS.get(builder, {}), BUILDERS[builder]
    if isinstance(make, str):
        make = getattr(importlib.import_module(f"lstm_ae_lib.{make}"), builder)
    try:
        return make(**{new_names.get(name, name): value for name, value in arguments.items()})
    except TypeError as error:
        raise ValueError(f"{builder} does not take these arguments: {error}") from error


def write(model, folder, name: str, builder: str, arguments: dict, **more) -> dict:
    """Writes a model as ``NAME.weights.h5`` and ``NAME.json``, into a folder that is made if it is missing.

    Args:
        builder: a name in :data:`BUILDERS`, else ``ValueError``.
        arguments: what the builder was called with, plain values.
        **more: what else to write into the JSON, plain values.

    Returns what stands in the JSON: also the number of parameters and the SHA-256 of the weights.
    """
    _check_known(builder)
    weights = Path(folder) / f"{name}.weights.h5"
    with files.replacing(weights) as temporary:
        model.save_weights(temporary)
    description = {
        "builder": builder, "arguments": arguments, "parameters": int(model.count_params()), "sha256": files.sha256(weights),
        **more,
    }  # fmt: skip
    files.write_json(Path(folder) / f"{name}.json", description)
    return description


def describe(folder, name: str) -> dict:
    """What stands in the JSON of a model; errors as for :func:`read`."""
    path = Path(folder) / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}")
    description = files.read_json(path)
    expected, found = {"builder": str, "arguments": dict, "sha256": str}, description if isinstance(description, dict) else {}
    if wrong := [key for key, kind in expected.items() if not isinstance(found.get(key), kind)]:
        raise ValueError(f"{path} is damaged: it lacks {', '.join(wrong)}")
    return description


def read(folder, name: str) -> tuple:
    """A model that :func:`write` has written, and what stands in its JSON.

    Raises ``FileNotFoundError`` where a file is missing, ``ValueError`` where the JSON or the weights are damaged.
    """
    description, weights = describe(folder, name), Path(folder) / f"{name}.weights.h5"
    if not weights.is_file():
        raise FileNotFoundError(f"there is no {weights}")
    if files.sha256(weights) != description["sha256"]:
        raise ValueError(f"{weights} is damaged: its SHA-256 is not the one in {name}.json")
    model = build(description["builder"], description["arguments"])
    model.load_weights(weights)
    return model, description


def released_dir(kind: str = "") -> Path:
    """The folder of released weights: of restorers, or of a kind: ``"lstm"``, ``"burst"``, ``"compress"``, ``"classify"``..."""
    return paths.released_dir(kind)


def released(folder=None) -> list:
    """The names of the released weights in a folder, by default the restorers'."""
    return sorted(path.stem for path in Path(folder or released_dir()).glob("*.json"))


def describe_released(name: str, folder=None) -> dict:
    """What stands in the JSON of released weights, one of :func:`released`, with its ``card``.

    Raises as :func:`read`; ``FileNotFoundError`` also for a folder without weights, ``ValueError`` for an unknown name.
    """
    folder = Path(folder or released_dir())
    known = released(folder)
    if not known:
        raise FileNotFoundError(f"there are no released weights in {folder}")
    description = describe(folder, checks.choice(checks.file_name(name, "weights"), "weights", known))
    if "card" not in description:
        raise ValueError(f"{folder / name}.json is damaged: it lacks card")
    return description


def read_released(name: str, folder=None) -> tuple:
    """Released weights by their name, as :func:`read` returns them; errors as for :func:`describe_released`."""
    describe_released(name, folder)
    return read(folder or released_dir(), name)
