"""One run on disk: what was asked, what it ran on, what came out.

A run is a folder ``data/runs/NAME`` with ``run.json`` (status, parameters, versions, hardware, threads, data and its hash,
minutes), ``history.csv`` (losses by epoch), ``MODEL.json`` and ``MODEL.weights.h5`` (builder, arguments and weights, tied together
by a SHA-256), ``metrics.json`` (records in the form of ``data/reference_metrics.json``), ``figures/`` and the executed notebooks.
"""

import contextlib
import csv
import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

import psutil

from lstm_ae_lib import checks, files, paths
from lstm_ae_lib.fast import threads

# The fields of one published record, in order; more may follow, none of these is renamed.
RECORD_FIELDS = (
    "protocol", "restorer", "split", "images", "mse", "psnr", "psnr_low", "psnr_high", "ssim", "parameters", "multiply_adds",
    "minutes", "images_seen", "budget", "seed", "data", "data_hash", "hardware", "source", "run",
)  # fmt: skip
# What a run writes; and what of it stays, such as the figures of notebook 01, which runs before a run starts.
_WRITTEN = ("*.json", "*.csv", "*.weights.h5", ".tmp-*", "figures/*.png", "checkpoints*/*")
_KEPT = ("run.json", ".lock", "01_")
# What the runner has recorded before a notebook.
_PREPARED = ("status", "process", "processes", "runner", "started", "notebooks", "asked", "error", "minutes")
# The packages that decide the numbers.
_PACKAGES = (
    "lstm_ae_lib", "tensorflow", "jax", "torch", "keras", "numpy", "scipy", "opencv-python", "numba", "scikit-image", "PyWavelets",
    "constriction",
)  # fmt: skip
# The names of the accelerators, by Keras' backend.
_ACCELERATORS = {
    "tensorflow": lambda tf: [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
                              for gpu in tf.config.list_physical_devices("GPU")],
    "jax": lambda jax: [device.device_kind for device in jax.devices() if device.platform != "cpu"],
    "torch": lambda torch: [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
}  # fmt: skip


class Run:
    """A run's folder. Make one with :func:`start_run`, open one with :func:`open_run`."""

    def __init__(self, name: str):
        self.name = checks.file_name(name, "a run's name")
        self.folder = paths.runs_dir() / name

    def path(self, name: str) -> Path:
        """The path of a file of this run, whether it is there or not."""
        return self.folder / name

    def make_folder(self) -> None:
        """Make the folder, where it is missing; ``OSError`` where it cannot be written to."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(error.errno, f"cannot write a run: {error.strerror or error}", str(self.folder)) from error

    def is_free(self) -> bool:
        """Whether the folder is missing, or holds nothing but what a killed process had begun to write."""
        return not self.folder.exists() or all(entry.name.startswith(".tmp-") for entry in self.folder.iterdir())

    def need(self, name: str) -> Path:
        """The path of a file that must be there; ``FileNotFoundError`` names the run, the file and what writes it."""
        if not (path := self.path(name)).is_file():
            here = ", ".join(sorted(entry.name for entry in self.folder.glob("*"))) or "nothing"
            lack = f"the run {self.name!r} has no {name} (it has: {here}); 90_train writes the models, 91_evaluate the metrics"
            raise FileNotFoundError(f"{lack}: run them, or choose another run (`python -m lstm_ae_lib runs` lists them)")
        return path

    @property
    def record(self) -> dict:
        """``run.json``."""
        return files.read_json(self.need("run.json"))

    def update(self, **fields) -> dict:
        """Merge ``fields`` into ``run.json`` and return all of it."""
        record = (self.record if self.path("run.json").is_file() else {"name": self.name}) | fields
        files.write_json(self.path("run.json"), record)
        return record

    def save_model(self, name: str, model, builder: str, arguments: dict) -> dict:
        """Save a trained model, as :func:`lstm_ae_lib.weights.write` does, and return what stands in ``NAME.json``."""
        from lstm_ae_lib import weights

        return weights.write(model, self.folder, name, builder, arguments)

    def load_model(self, name: str):
        """Build a saved model again and load its weights, as :func:`lstm_ae_lib.weights.read` does."""
        from lstm_ae_lib import weights

        self.need(f"{name}.json")
        self.need(f"{name}.weights.h5")
        return weights.read(self.folder, name)[0]

    def load_pretrained(self, network, restorer: str, name: str = "autoencoder") -> dict:
        """Give a network the weights of this run's ``restorer``, saved as ``name``, and return its ``"minutes"``, ``"images_seen"``
        and ``"budget"``.

        Raises ``FileNotFoundError`` where the run has no network, ``ValueError`` where it has trained another one.
        """
        given = _given(self.record, restorer, f"the run {self.name!r}")
        _hand_over(self.load_model(name), network, f"the run {self.name!r}")
        return given

    def load_released(self, network, restorer: str, name: str) -> dict:
        """As :meth:`load_pretrained`, of the released weights ``name``; ``run.json`` says from which run they are, and their
        SHA-256. Raises also as :func:`lstm_ae_lib.weights.read_released`."""
        from lstm_ae_lib import weights

        its, description = weights.read_released(name)
        given = _given(description["card"], restorer, f"weights {name}")
        _hand_over(its, network, f"weights {name}")
        self.update(started_from={"weights": name, "run": description["card"]["run"], "sha256": description["sha256"]})
        return given

    def history(self) -> dict:
        """What :func:`read_history` finds in ``history.csv``."""
        return read_history(self.need("history.csv"))

    def note_training(self, restorer: str, minutes: float, images_seen: int, budget: str) -> None:
        """Record the training budget of a restorer: minutes, images seen, and a short name for the two."""
        training = self.record.get("training", {})
        self.update(training=training | {restorer: {"minutes": round(minutes, 3), "images_seen": images_seen, "budget": budget}})

    def new_record(self, *, restorer: str, split: str, summary: dict, model=None) -> dict:
        """A record of ``metrics.json`` with the ``summary`` of ``metrics.evaluate``; no ``model`` for the degraded image itself."""
        from lstm_ae_lib import models

        run = self.record
        record = {
            "protocol": run["protocol"], "restorer": restorer, "split": checks.choice(split, "split", ("validation", "test")),
            **summary, "parameters": 0 if model is None else int(model.count_params()),
            "multiply_adds": 0 if model is None else models.multiply_adds(model),
            **run.get("training", {}).get(restorer, {"minutes": 0.0, "images_seen": 0, "budget": "none"}),
            "seed": run["parameters"]["seed"], "data": run["data"]["kind"], "data_hash": run["data"]["hash"],
            "hardware": run["hardware"]["summary"], "source": "measured", "run": self.name,
        }  # fmt: skip
        return {name: record[name] for name in RECORD_FIELDS} | record

    def save_records(self, records: list) -> None:
        """Write ``metrics.json``, after checking that no field is missing."""
        for record in records:
            if missing := [name for name in RECORD_FIELDS if name not in record]:
                raise ValueError(f"the record of {record.get('restorer')} lacks {', '.join(missing)}")
        files.write_json(self.path("metrics.json"), {"records": records})

    def records(self) -> list:
        """The records of ``metrics.json``."""
        return files.read_json(self.need("metrics.json"))["records"]


def start_run(name: str, parameters: dict, images, protocol: str, resume: bool = False) -> Run:
    """Start a run: make its folder and record its parameters, data, protocol, versions and hardware.

    What an earlier run of that name has written goes, but for what the runner has just prepared and notebook 01's figures; with
    ``resume`` that run goes on. Raises ``ValueError`` for a run to resume with other parameters or images, ``FileExistsError`` for
    a run that the runner has recorded (it stays untouched), ``RuntimeError`` where another process is training it.
    """
    run = Run(name)
    asked = {"parameters": parameters, "protocol": protocol, "data": {"kind": images.kind, "hash": images.content_hash}}
    run.make_folder()
    with contextlib.ExitStack() as locks:
        for folder in filter(Path.is_dir, run.folder.glob("checkpoints*")):  # a training that goes on holds their lock
            refusal = f"another process is training the run {name!r}; wait for it, or choose another run_name"
            locks.enter_context(hold_lock(folder / ".lock", refusal, is_singleton=True))
        old = run.path("run.json")
        record = files.read_json(old) if old.is_file() else {}
        if record.get("runner") == "lstm_ae_lib" and status(record) != "running":
            advice = f"choose another run_name, or delete {run.folder}"
            raise FileExistsError(f"the run {name!r} is a recorded run ({status(record)}); {advice}")
        if resume and "parameters" in record:
            _same_training(name, record, asked)
            files.write_json(old, record | {"resumed": [*record.get("resumed", []), {"at": now(), "versions": versions()}]})
            return run
        for leftover in {path for pattern in _WRITTEN for path in run.folder.glob(pattern) if not path.name.startswith(_KEPT)}:
            leftover.unlink()
        prepared = {"status": "interactive", "runner": "notebook"}  # nobody watches a notebook that a person runs
        if record.get("status") == "running":
            prepared = {key: record[key] for key in _PREPARED if key in record}
        files.write_json(old, {
            "name": name, "started": now(), **prepared, **asked, "versions": versions(), "hardware": hardware(),
            "threads": threads.inter_op(), "threads_per_operation": threads.intra_op(),
        })  # fmt: skip
    return run


def hold_lock(path, refusal: str, is_singleton: bool = False):
    """Hold a file's lock in a ``with`` statement; ``RuntimeError`` with the refusal where another process holds it."""
    import filelock

    try:
        return filelock.FileLock(path, blocking=False, is_singleton=is_singleton).acquire()
    except filelock.Timeout:
        raise RuntimeError(refusal) from None


def _same_training(name, record, asked):
    old, new = record["parameters"], asked["parameters"]
    compared = [(key, record.get(key), asked[key]) for key in ("protocol", "data")]
    compared += [(key, old.get(key), new.get(key)) for key in old | new]
    if different := [f"{key}: {before!r} then, {now!r} now" for key, before, now in compared if before != now]:
        raise ValueError(f"the run {name!r} cannot go on with other settings ({'; '.join(different)}); use another run_name")


def read_history(path) -> dict:
    """A ``history.csv`` as a list of numbers for each column, NaN where an epoch has none (empty, or Keras' ``NA``)."""
    rows = list(csv.DictReader(Path(path).read_text(encoding="utf-8").splitlines()))
    unmeasured = {"": "nan", "NA": "nan"}
    return {name: [float(unmeasured.get(row[name], row[name])) for row in rows] for name in rows[0]} if rows else {}


def _given(record, restorer, whose):
    trained = record.get("training", {})
    if restorer not in trained:
        raise ValueError(f"{whose} has trained {', '.join(sorted(trained)) or 'nothing'}, not {restorer}")
    return trained[restorer]


def _hand_over(its, network, whose):
    found, wanted = ([tuple(weight.shape) for weight in model.weights] for model in (its, network))
    if found != wanted:
        sizes = f"{its.count_params():,} parameters in {len(found)} arrays, against {network.count_params():,} in {len(wanted)}"
        raise ValueError(f"the network of {whose} was built otherwise: {sizes}; give the same width and options")
    network.set_weights(its.get_weights())


def open_run(name: str) -> Run:
    """Open a run to read it; ``FileNotFoundError`` where there is none, ``ValueError`` for a damaged ``run.json``."""
    run = Run(name)
    if not run.path("run.json").is_file():
        known = ", ".join(other.name for other in list_runs()) or "none yet"
        advice = "train it first, with the same run_name and, on Colab, in the same session; or set run_name to one of those"
        raise FileNotFoundError(f"there is no run {name!r} in {paths.runs_dir()} (runs there: {known}); {advice}")
    run.record  # noqa: B018 - damaged JSON is reported here
    return run


def list_runs() -> list:
    """All runs, the one that was changed last at the end."""
    found = [Run(path.parent.name) for path in paths.runs_dir().glob("*/run.json") if not path.parent.name.startswith(".")]
    return sorted(found, key=lambda run: run.path("run.json").stat().st_mtime)


def status(record: dict) -> str:
    """The status of a run as it is now: ``running`` only while the process that runs it lives."""
    if record.get("status") != "running":
        return record.get("status", "unknown")
    process = record.get("process", {})
    if process.get("machine") != platform.node():
        return "running elsewhere"
    with contextlib.suppress(KeyError, psutil.Error):
        if abs(psutil.Process(process["pid"]).create_time() - process["created"]) < 1.0:
            return "running"
    return "interrupted"


def this_process() -> dict:
    """What :func:`status` needs to tell later whether this process still lives."""
    return {"pid": os.getpid(), "created": psutil.Process().create_time(), "machine": platform.node()}


def now() -> str:
    """The time, UTC, as text."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def commit() -> str | None:
    """The checkout's git commit, with ``+changes`` where files differ from it; None outside a git checkout."""
    folder = paths.checkout()
    if folder is None or shutil.which("git") is None or not (folder / ".git").exists():
        return None
    describe = ["git", "describe", "--always", "--abbrev=64", "--exclude=*", "--dirty=+changes"]
    return subprocess.run(describe, cwd=folder, capture_output=True, text=True).stdout.strip() or None


def versions() -> dict:
    """Versions of Python, of this library and its commit, and of the packages that decide the numbers."""
    found = {"python": platform.python_version(), "commit": commit(), **dict.fromkeys(_PACKAGES)}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def hardware() -> dict:
    """The machine: processor, cores, memory in GB, accelerators, and one line that says it all."""
    from lstm_ae_lib._backend import keras

    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), processor)
    cores, memory = os.cpu_count(), round(psutil.virtual_memory().total / 2**30)
    backend = keras.backend.backend()
    accelerators = _ACCELERATORS[backend](importlib.import_module(backend))
    return {
        "system": platform.system(), "machine": platform.machine(), "processor": processor, "cores": cores,
        "memory_gb": memory, "accelerators": accelerators, "backend": backend,
        "summary": ", ".join([f"{cores} cores of {processor}", f"{memory} GB", *accelerators]),
    }  # fmt: skip
