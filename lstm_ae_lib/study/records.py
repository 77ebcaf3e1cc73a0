"""Published records: reading, publishing and comparing them."""

import json
import shutil
from pathlib import Path

import numpy as np

from lstm_ae_lib import checks, cifar10, degradations, files, metrics, paths
from lstm_ae_lib.study import runs

# What a record's `restorer` is called, in the tables' order.
RESTORER_TITLES = {
    "degraded": "degraded", "linear": "linear filter", "linear_mixture": "mixture of linear filters",
    "reference_lstm": "LSTM autoencoder", "reference_bilstm": "bidirectional LSTM autoencoder", "dncnn": "DnCNN",
    "rednet": "RED-Net", "unet": "U-Net", "nafnet": "NAFNet", "flagship": "flagship", "multiscale_flagship": "multiscale flagship",
    "recurrent_inference": "recurrent inference", "bounded_flagship": "flagship with bounded scans",
    "unsharp": "unsharp mask", "wiener": "Wiener filter", "richardson_lucy": "Richardson-Lucy",
    "total_variation": "total variation", "non_local_means": "non-local means", "wavelet": "wavelets", "compressor": "compressor",
    "any_rate_compressor": "compressor for all rates", "scale_hyperprior": "scale hyperprior, trained alike",
    "pca": "principal components", "lstm_bottleneck": "sequence-to-sequence LSTM", "jpeg": "JPEG", "webp": "WebP",
    "avif": "AVIF", "jxl": "JPEG XL",
    "bottleneck_restorer": "compressor, from the blurred", "vae_mean": "mean of VAE samples", "vae_sample": "one VAE sample",
    "gan": "flagship against a discriminator", "clean": "clean", "accumulator": "raster accumulator", "lstm": "raster LSTM",
    "scan": "gated scan", "mean": "mean of all blocks", "convolution": "convolutions", "feedback": "row by row, fed back",
    "recurrent": "recurrent, frame by frame", "window": "window of frames", "average": "average of frames",
    "pooling": "pooled features",
}  # fmt: skip
CLOSED_FORM = ("linear", "linear_mixture")  # fitted to the training images, not tuned or trained
LSTMS, PEERS = ("reference_lstm", "reference_bilstm"), ("dncnn", "rednet", "unet", "nafnet")


def metrics_file():
    """Where the published numbers live."""
    return paths.data_dir() / "reference_metrics.json"


def reference_records(**wanted) -> list:
    """Published records whose fields have the wanted values, in the tables' order: ``reference_records(protocol="gauss2")``."""
    records = files.read_json(metrics_file())["records"]
    return sorted((record for record in records if all(record.get(name) == value for name, value in wanted.items())), key=order)


def study_records(protocol: str) -> list:
    """The published test records of a protocol on the full data set, other people's numbers included."""
    records = [record for record in reference_records(protocol=protocol, data="full") if not is_perception(record)]
    return [record for record in records if record["split"] == "test" or record["source"] != "measured"]


def codec_records() -> list:
    """What codecs are compared on: the published records of compressing all 10,000 test images, other people's included. Of the
    study's own networks those of one rate, trained for 8 minutes each, and the one for all rates that was trained for as long as
    five of them."""
    rated = [record for record in study_records("compress") if record.get("bits_per_pixel")]
    return [record for record in rated if record["source"] != "measured" or (
        record["images"] == 10_000
        and (record["restorer"] != "compressor" or record["run"].startswith("compress-step")))]  # fmt: skip


def psnr_at(run: str, bits_per_pixel: float) -> float:
    """What a published compressor for all rates reaches at a rate, in dB, between the two nearest that were measured."""
    found = reference_records(protocol="compress", run=run, restorer="any_rate_compressor", split="test")
    return float(np.interp(bits_per_pixel, *zip(*sorted((one["bits_per_pixel"], one["psnr"]) for one in found), strict=True)))


def perception_records(protocol: str) -> list:
    """The published records of a protocol on the full data set that say how natural the restored images look."""
    records = reference_records(protocol=protocol, data="full", split="test")
    return sorted(filter(is_perception, records), key=lambda record: -(record["psnr"] or 0))


def is_perception(record: dict) -> bool:
    """Whether a record says how natural the restored images look."""
    return "frechet" in record


def benchmark_records(name: str) -> list:
    """The records of ``data/benchmarks/NAME.json``; none when there is no such file."""
    return _read(benchmark_file(name), "records", [])


def benchmark_file(name: str):
    """Where the records of a benchmark are kept."""
    return paths.data_dir() / "benchmarks" / f"{name}.json"


def restorer_title(record: dict) -> str:
    """What a record's restorer is called; one without a title goes by its name."""
    return RESTORER_TITLES.get(record["restorer"], record["restorer"])


def title(record: dict) -> str:
    """What a record's restorer is called, its budget, and how a network was made and trained where that is unusual."""
    if record["budget"] in ("none", "closed form", "tuned", None):
        return restorer_title(record)
    trained = published_parameters(record["run"])
    options = json.loads(trained.get("options") or "{}")
    said = {
        f"{record.get('bits_per_pixel') or 0:.2f} bits per pixel": record.get("bits_per_pixel"), record["budget"]: True,
        f"width {trained.get('width')}": trained.get("width"), "Muon": trained.get("optimizer") == "muon",
        "bfloat16": trained.get("precision") == "bfloat16", "mixture start": trained.get("linear_parts", 1) > 1,
        "gate": options.get("gate"), "turned": trained.get("turn"),
        f"recurrence {options.get('recurrence')}": options.get("recurrence"),
        f"context {trained.get('context')}": trained.get("context", "recurrent") != "recurrent",
        f"crops of {trained.get('side')} pixels": trained.get("pictures"), f"seed {trained.get('seed')}": trained.get("seed"),
    }  # fmt: skip
    return ", ".join([restorer_title(record), *(text for text, is_so in said.items() if is_so)])


def order(record: dict) -> tuple:
    """The tables' order: the reference protocol first, other people's numbers and unknown restorers last."""
    place = [*RESTORER_TITLES, record["restorer"]].index(record["restorer"])
    elsewhere = record["source"] != "measured"
    return record["protocol"] != "reference", record["protocol"], elsewhere, record["split"] != "validation", place


def variational_runs() -> list:
    """The published runs of variational autoencoders: their ``run.json``."""
    found = map(files.read_json, sorted(paths.published_dir().glob("*/run.json")))
    return [record for record in found if "variational" in record]


def published_parameters(run_name: str | None) -> dict:
    """The parameters of a published run; none of any other."""
    return _read(paths.published_dir() / str(run_name) / "run.json", "parameters", {})


def published_history(run_name: str | None) -> dict:
    """A published run's history, column -> a number for each epoch; empty where there is none. Older histories call the
    discriminator's accuracy ``told_apart``; here it has its name."""
    file = paths.published_dir() / str(run_name) / "history.csv"
    found = runs.read_history(file) if file.is_file() else {}
    return {name.replace("told_apart", "discriminator_accuracy"): values for name, values in found.items()}


def published_training(name: str) -> dict | None:
    """A published run's training by the minute: lists of ``images`` seen, ``minutes`` and validation ``psnr``; and ``run``, its
    record. None for a run that is not published."""
    folder = paths.published_dir() / checks.file_name(name, "a run's name")
    return _by_the_minute(name) | {"run": files.read_json(folder / "run.json")} if (folder / "history.csv").is_file() else None


def published_histories(protocol: str) -> dict:
    """A protocol's trainings by the minute, not from another run's network: title -> images seen, minutes and validation PSNR."""
    trained = [record for record in study_records(protocol)
               if record["source"] == "measured" and record["images_seen"] and record["restorer"] not in CLOSED_FORM
               and not any(published_parameters(record["run"]).get(name) for name in ("start_run", "start_weights"))]  # fmt: skip
    found = {title(record): _by_the_minute(record["run"]) for record in trained}
    return {name: history for name, history in found.items() if history}


def _by_the_minute(run_name):
    history, columns = published_history(run_name), {"images": "images", "minutes": "minutes", "psnr": "val_psnr"}
    return {name: history[column] for name, column in columns.items()} if {"minutes", "val_psnr"} <= set(history) else {}


def publish(names=()) -> list:
    """Copies finished runs' records into the repository, for the READMEs and the notebooks.

    ``run.json``, ``history.csv`` and ``metrics.json`` go to ``data/published/NAME``; the records replace the run's in
    ``data/reference_metrics.json``; the READMEs' tables are written again, without names only these. Raises ``ValueError`` for
    an unfinished run, ``FileNotFoundError`` for a missing file.
    """
    from lstm_ae_lib.study import reporting  # which reads records itself

    chosen = [runs.open_run(name) for name in names]
    trained = ["90_train"], ["02_train_autoencoder"]  # and nothing measured
    measured = [run for run in chosen if run.record.get("notebooks") not in trained]
    for run in chosen:
        if runs.status(run.record) != "finished":
            raise ValueError(f"only a finished run can be published; {run.name!r} is {runs.status(run.record)}")
        run.need("metrics.json" if run in measured else "history.csv")
    records = _read(metrics_file(), "records", [])
    records = [record for record in records if record["run"] not in {run.name for run in chosen}]
    # Runs of one protocol measure the same untouched images and the same linear filter: once is enough.
    known, new = {_measured(record) for record in records if record["source"] == "measured"}, {}
    for record in (record for run in measured for record in run.records()):
        new.setdefault(_measured(record), record)
    published = [record for what, record in new.items() if what not in known]
    reporting.results_table(records + published)  # a record that cannot be shown stops it here, before anything is written
    for run in chosen:
        folder = paths.published_dir() / run.name
        files.write_json(folder / "run.json", {name: value for name, value in run.record.items() if name != "process"})
        for file in filter(Path.is_file, map(run.path, ("history.csv", "metrics.json"))):  # what was not trained has no history
            shutil.copyfile(file, folder / file.name)
    files.write_json(metrics_file(), {"records": records + published})
    reporting.update_readmes()
    return sorted(published, key=order)


def _measured(record):
    # To five digits: the same pixels' numbers in float32 differ after that.
    numbers = [f"{record[name]:.4e}" for name in ("mse", "psnr") if record[name] is not None]
    numbers += [record.get(name) for name in ("setting", "drift") if record["parameters"]]  # of networks: a window that has enough
    return *(record[name] for name in ("protocol", "restorer", "split", "data_hash", "images")), is_perception(record), *numbers


def compare_runs(name: str, other: str) -> dict:
    """Two runs' networks image by image, on the test images of the first one's data, degraded as both have trained for.

    Returns the names, protocol, data, and :func:`lstm_ae_lib.metrics.compare`'s numbers, the first less the other. Raises
    ``FileNotFoundError`` for a missing run or network, ``ValueError`` for different protocols or images.
    """
    pair = [runs.open_run(one) for one in (name, other)]
    found = [(run.record["protocol"], run.record["data"]["kind"], run.record["data"]["hash"]) for run in pair]
    what, others = (dict(zip(("protocol", "data", "data_hash"), values, strict=True)) for values in found)
    if what != others:
        raise ValueError(f"runs of one protocol and the same images can be compared, got {what} and {others}")
    images = cifar10.load_cifar10(what["data"]).test_images
    asked = {"protocol": what["protocol"], "sigma": 0.0} | pair[0].record["parameters"]
    degraded = degradations.as_float(degradations.degrade(images, degradations.get_protocol(asked["protocol"], asked["sigma"])))
    restored = [run.load_model("autoencoder").predict(degraded, batch_size=500, verbose=0).clip(0, 1) for run in pair]
    return {"run": name, "other": other, **what, **metrics.compare(images, *restored)}


def save_comparison(found: dict) -> None:
    """Keeps what :func:`compare_runs` found in ``data/published/comparisons.json``, in the place of the same pair's."""
    kept = [one for one in comparisons() if (one["run"], one["other"]) != (found["run"], found["other"])]
    files.write_json(paths.published_dir() / "comparisons.json", {"records": [*kept, found]})


def comparisons(protocol: str = "") -> list:
    """The kept comparisons, of one protocol or all."""
    records = _read(paths.published_dir() / "comparisons.json", "records", [])
    return [record for record in records if protocol in ("", record["protocol"])]


def _read(file, field, missing):
    return files.read_json(file)[field] if file.is_file() else missing
