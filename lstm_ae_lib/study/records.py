"""Published records: reading, publishing and comparing them."""

import csv
import json
import shutil

from lstm_ae_lib import checks, cifar10, degradations, files, metrics, paths
from lstm_ae_lib.study import runs

# What a record's `restorer` is called, in the tables' order.
RESTORER_TITLES = {
    "degraded": "degraded", "linear": "linear filter", "linear_mixture": "mixture of linear filters",
    "reference_lstm": "LSTM autoencoder", "reference_bilstm": "bidirectional LSTM autoencoder",
    "dncnn": "DnCNN", "rednet": "RED-Net", "unet": "U-Net",
    "nafnet": "NAFNet", "flagship": "flagship", "recurrent_inference": "recurrent inference", "unsharp": "unsharp mask",
    "wiener": "Wiener filter", "richardson_lucy": "Richardson-Lucy", "total_variation": "total variation",
    "non_local_means": "non-local means", "wavelet": "wavelets", "compressor": "compressor", "pca": "principal components",
    "lstm_bottleneck": "sequence-to-sequence LSTM", "jpeg": "JPEG", "webp": "WebP",
    "bottleneck_restorer": "compressor, from the blurred",
    "vae_mean": "mean of VAE samples", "vae_sample": "one VAE sample", "gan": "flagship against a discriminator",
    "clean": "clean",
}  # fmt: skip
# Restorers that are fitted to the training images, not tuned or trained.
CLOSED_FORM = ("linear", "linear_mixture")


def reference_records(**wanted) -> list:
    """Published records whose fields have the wanted values, in the tables' order: ``reference_records(protocol="gauss2")``."""
    records = files.read_json(paths.reference_metrics_file())["records"]
    return sorted((record for record in records if all(record.get(name) == value for name, value in wanted.items())), key=order)


def study_records(protocol: str) -> list:
    """The published test records of a protocol on the full data set, other people's numbers included."""
    records = [record for record in reference_records(protocol=protocol, data="full") if not is_perception(record)]
    return [record for record in records if record["split"] == "test" or record["source"] != "measured"]


def perception_records(protocol: str) -> list:
    """The published records of a protocol on the full data set that say how natural the restored images look."""
    records = filter(is_perception, reference_records(protocol=protocol, data="full", split="test"))
    return sorted(records, key=lambda record: -(record["psnr"] or 0))


def is_perception(record: dict) -> bool:
    """Whether a record says how natural the restored images look."""
    return "frechet" in record


def benchmark_records(name: str) -> list:
    """The records of ``data/benchmarks/NAME.json``; none when there is no such file."""
    return _read(benchmark_file(name), {"records": []})["records"]


def benchmark_file(name: str):
    """Where the records of a benchmark are kept."""
    return paths.data_dir() / "benchmarks" / f"{name}.json"


def restorer_title(record: dict) -> str:
    """What a record's restorer is called; one without a title goes by its name."""
    return RESTORER_TITLES.get(record["restorer"], record["restorer"])


def title(record: dict) -> str:
    """What a record's restorer is called, its budget, and how a network was trained where that is unusual."""
    if record["budget"] in ("none", "closed form", "tuned", None):
        return restorer_title(record)
    rate = [f"{record['bits_per_pixel']:.2f} bits per pixel"] if record.get("bits_per_pixel") else []
    return ", ".join([restorer_title(record), *rate, record["budget"], *_unusual(published_parameters(record["run"]))])


def _unusual(parameters):
    """Where a training differs from the size as it comes, and from Adam in float32 that starts at one linear filter."""
    said = {
        f"width {parameters.get('width')}": parameters.get("width"),
        "Muon": parameters.get("optimizer") == "muon",
        "bfloat16": parameters.get("precision") == "bfloat16",
        "mixture start": parameters.get("linear_parts", 1) > 1,
        "gate": json.loads(parameters.get("options") or "{}").get("gate"),
    }
    return [text for text, is_so in said.items() if is_so]


def order(record: dict) -> tuple:
    """The tables' order: the reference protocol first, other people's numbers and unknown restorers last."""
    titles = list(RESTORER_TITLES)
    place = titles.index(record["restorer"]) if record["restorer"] in titles else len(titles)
    elsewhere = record["source"] != "measured"
    return record["protocol"] != "reference", record["protocol"], elsewhere, record["split"] != "validation", place


def variational_runs() -> list:
    """The published runs of variational autoencoders, as their ``run.json`` says."""
    found = [files.read_json(file) for file in sorted(paths.published_dir().glob("*/run.json"))]
    return [record for record in found if "variational" in record]


def published_parameters(run_name: str | None) -> dict:
    """The parameters of a published run; none of any other."""
    return _read(paths.published_dir() / str(run_name) / "run.json", {"parameters": {}})["parameters"]


def published_history(run_name: str | None) -> dict:
    """A published run's history, column -> a number for each epoch; empty where there is none.

    Histories from before the discriminator's accuracy had that name call it ``told_apart``; here it has its name."""
    file = paths.published_dir() / str(run_name) / "history.csv"
    if not file.is_file():
        return {}
    with open(file, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    columns = {name: name.replace("told_apart", "discriminator_accuracy") for name in (rows[0] if rows else ())}
    return {column: [float("nan" if row[name] == "NA" else row[name]) for row in rows] for name, column in columns.items()}


def published_training(name: str) -> dict | None:
    """A published run's training: ``images`` seen, ``minutes`` and validation ``psnr``, each a list, where it was trained by the
    minute; and ``run``, the run's record. None for a run that is not published."""
    folder = paths.published_dir() / checks.file_name(name, "a run's name")
    if not (folder / "history.csv").is_file():
        return None
    return {**_by_the_minute(name), "run": files.read_json(folder / "run.json")}


def published_histories(protocol: str) -> dict:
    """A protocol's published trainings by the minute: title -> images seen, minutes and validation PSNR, each a list; without
    those that went on from another run's network."""
    trained = [record for record in study_records(protocol) if record["source"] == "measured" and record["images_seen"]]
    found = {
        title(record): _by_the_minute(record["run"])
        for record in trained
        if record["restorer"] not in CLOSED_FORM and not published_parameters(record["run"]).get("start_run")
    }
    return {name: history for name, history in found.items() if history}


def _by_the_minute(run_name):
    history = published_history(run_name)
    columns = {"images": "images", "minutes": "minutes", "psnr": "val_psnr"}
    return {name: history[column] for name, column in columns.items()} if {"minutes", "val_psnr"} <= set(history) else {}


def publish(names) -> list:
    """Copies finished runs' records into the repository: this is how a number gets into README and notebooks.

    Each run's ``run.json``, ``history.csv`` and ``metrics.json`` go to ``data/published/NAME``, and its records take the
    place of those that ``data/reference_metrics.json`` has of that run. Records from elsewhere, marked ``published: ...``,
    stay. A run that only trained, so that its validation curve could be read, has no records.

    Raises:
        ValueError: a run that is not finished.
        FileNotFoundError: a run, or a file of it, that is missing.
    """
    from lstm_ae_lib.study import reporting  # which reads records itself

    chosen = [runs.open_run(name) for name in names]
    for run in chosen:
        if runs.status(run.record) != "finished":
            raise ValueError(f"only a finished run can be published; {run.name!r} is {runs.status(run.record)}")
        run.need("history.csv" if _only_trained(run) else "metrics.json")
    records = _read(paths.reference_metrics_file(), {"records": []})["records"]
    records = [record for record in records if record["run"] not in {run.name for run in chosen}]
    # Runs of one protocol measure the same untouched images and the same linear filter: once is enough.
    known = {_measured(record) for record in records if record["source"] == "measured"}
    published = []
    for record in (record for run in chosen if not _only_trained(run) for record in run.records()):
        if _measured(record) not in known:
            known.add(_measured(record))
            published.append(record)
    reporting.readme_table(records + published)  # a record that cannot be shown stops it here, before anything is written
    for run in chosen:
        folder = paths.published_dir() / run.name
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("history.csv", "metrics.json"):
            if run.path(file).is_file():  # what was not trained has no history
                shutil.copyfile(run.path(file), folder / file)
        files.write_json(folder / "run.json", {name: value for name, value in run.record.items() if name != "process"})
    files.write_json(paths.reference_metrics_file(), {"records": records + published})
    reporting.update_readme()
    return sorted(published, key=order)


def _only_trained(run):
    return run.record.get("notebooks") == ["02_train_autoencoder"]


def _measured(record):
    # To five digits: what float32 leaves of the same pixels differs after that.
    numbers = tuple(f"{record[name]:.4e}" for name in ("mse", "psnr") if record[name] is not None)
    what = tuple(record[name] for name in ("protocol", "restorer", "split", "data_hash", "images"))
    return (*what, is_perception(record), *numbers)


def publish_figures(run: runs.Run) -> list:
    """Copies a run's figures into the tracked ``figures/`` folder; returns their names."""
    figures = sorted(run.path("figures").glob("*.png"))
    for figure in figures:
        shutil.copyfile(figure, paths.figures_dir() / figure.name)
    return [figure.name for figure in figures]


def compare_runs(name: str, other: str) -> dict:
    """Two runs' networks image by image, on the test images of the first one's data, degraded as both have trained for.

    Returns:
        dict: the runs' names, protocol, data, and :func:`lstm_ae_lib.metrics.compare`'s numbers, the first less the other.

    Raises:
        FileNotFoundError: a run, or its network, that is missing.
        ValueError: runs of different protocols or different images.
    """
    pair = [runs.open_run(one) for one in (name, other)]
    found = [(run.record["protocol"], run.record["data"]["kind"], run.record["data"]["hash"]) for run in pair]
    what, others = (dict(zip(("protocol", "data", "data_hash"), values, strict=True)) for values in found)
    if what != others:
        raise ValueError(f"runs of one protocol and the same images can be compared, got {what} and {others}")
    images = cifar10.load_cifar10(what["data"]).test_images
    asked = pair[0].record["parameters"]
    degraded = degradations.as_float(degradations.degrade(images, degradations.get_protocol(asked["protocol"], asked["sigma"])))
    restored = [run.load_model("autoencoder").predict(degraded, batch_size=500, verbose=0).clip(0, 1) for run in pair]
    return {"run": name, "other": other, **what, **metrics.compare(images, *restored)}


def save_comparison(found: dict) -> None:
    """Keeps what :func:`compare_runs` found in ``data/published/comparisons.json``, in the place of the same pair's."""
    kept = [one for one in comparisons() if (one["run"], one["other"]) != (found["run"], found["other"])]
    files.write_json(paths.published_dir() / "comparisons.json", {"records": [*kept, found]})


def comparisons(protocol: str = "") -> list:
    """The kept comparisons, of one protocol or all."""
    records = _read(paths.published_dir() / "comparisons.json", {"records": []})["records"]
    return [record for record in records if protocol in ("", record["protocol"])]


def _read(file, missing):
    return files.read_json(file) if file.is_file() else missing
