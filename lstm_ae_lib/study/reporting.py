"""From recorded runs to what people read: tables, the published numbers, README."""

import csv
import json
import shutil

import numpy as np

from lstm_ae_lib import checks, cifar10, degradations, files, metrics, paths
from lstm_ae_lib.study import runs

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
PEERS = ("dncnn", "rednet", "unet", "nafnet")

OVERVIEW_MARKS = "<!-- overview: written by `python -m lstm_ae_lib publish` -->", "<!-- end of overview -->"
README_MARKS = "<!-- results: written by `python -m lstm_ae_lib publish` -->", "<!-- end of results -->"
LOOKS_MARKS = "<!-- looks: written by `python -m lstm_ae_lib publish` -->", "<!-- end of looks -->"
SPEED_MARKS = (
    "<!-- speed: written by `python -m lstm_ae_lib bench train --save` and `bench scaling --save` -->",
    "<!-- end of speed -->",
)


def format_table(rows: list, columns: list) -> str:
    """Plain text table. ``columns``: ``(title, function of a row giving text)``."""
    cells = [[title for title, _ in columns]] + [[str(value(row)) for _, value in columns] for row in rows]
    widths = [max(len(line[number]) for line in cells) for number in range(len(columns))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def protocols_table() -> str:
    """All protocols: what they do, with which constants; below it where they come from."""
    protocols = list(degradations.PROTOCOLS.values())
    table = format_table(protocols, [
        ("protocol", lambda protocol: protocol.name), ("blur", lambda protocol: protocol.blur),
        ("noise", lambda protocol: protocol.noise_text),
        ("pixels", lambda protocol: "8 bits" if protocol.eight_bit else "float"),
        ("what it does", lambda protocol: protocol.summary),
    ])  # fmt: skip
    sources = {}
    for protocol in protocols:
        sources.setdefault(f"{protocol.source}; {protocol.notes}" if protocol.notes else protocol.source, []).append(protocol.name)
    return "\n".join([table, "", "Defined by:", *(f"{', '.join(names)}: {source}" for source, names in sources.items())])


def metrics_table(records: list) -> str:
    """The records as a table: restorer, and MSE, PSNR and SSIM, each with its 95 % interval where the record has one."""
    return format_table(records, [
        ("restorer", lambda record: RESTORER_TITLES.get(record["restorer"], record["restorer"])),
        ("split", lambda record: record["split"]),
        ("images", lambda record: _shown(record["images"], ",")),
        ("MSE [95 %]", lambda record: _with_interval(record, "mse", ".2e")),
        ("PSNR dB [95 %]", lambda record: _with_interval(record, "psnr", ".2f")),
        ("SSIM [95 %]", lambda record: _with_interval(record, "ssim", ".3f")),
        ("source", lambda record: record["source"]),
    ])  # fmt: skip


def runs_table(chosen: list) -> str:
    """Runs side by side: status, what they did, and their test-set numbers."""
    rows = []
    for run in chosen:
        try:
            record = run.record
            metrics = run.records() if run.path("metrics.json").is_file() else []
        except (ValueError, KeyError) as error:
            record, metrics = {"status": f"damaged: {error}"}, []
        rows.append((run.name, record, {item["restorer"]: item for item in metrics if item["split"] == "test"}))

    def number(restorer, field, style):
        return lambda row: format(row[2][restorer][field], style) if restorer in row[2] else "-"

    def network(field, style):
        return lambda row: format(row[2][network_name(row[2])][field], style) if network_name(row[2]) != "-" else "-"

    def network_name(metrics):
        return next((name for name in metrics if name not in ("degraded", *CLOSED_FORM)), "-")

    def budget(training):
        return next((given["budget"] for name, given in training.items() if name not in CLOSED_FORM), "-")

    return format_table(rows, [
        ("run", lambda row: row[0]),
        ("status", lambda row: runs.status(row[1])),
        ("protocol", lambda row: row[1].get("protocol", "-")),
        ("data", lambda row: row[1].get("data", {}).get("kind", "-")),
        ("budget", lambda row: budget(row[1].get("training", {}))),
        ("model", lambda row: network_name(row[2])),
        ("minutes", lambda row: f"{row[1]['minutes']:.1f}" if row[1].get("minutes") is not None else "-"),
        ("degraded dB", number("degraded", "psnr", ".2f")),
        ("linear dB", number("linear", "psnr", ".2f")),
        ("model dB", network("psnr", ".2f")),
        ("model MSE", network("mse", ".3e")),
        ("model SSIM", network("ssim", ".4f")),
    ])  # fmt: skip


def reference_records(**wanted) -> list:
    """Published records whose fields have the wanted values, from ``data/reference_metrics.json``, in the tables' order.

    Example:
        >>> reference_records(protocol="reference", restorer="linear", split="test")  # doctest: +SKIP
    """
    records = files.read_json(paths.reference_metrics_file())["records"]
    chosen = [record for record in records if all(record.get(name) == value for name, value in wanted.items())]
    return sorted(chosen, key=_order)


def study_records(protocol: str) -> list:
    """The published test records of a protocol on the full data set, other people's numbers included."""
    records = [record for record in reference_records(protocol=protocol, data="full") if not _is_perception(record)]
    return [record for record in records if record["split"] == "test" or record["source"] != "measured"]


def perception_records(protocol: str) -> list:
    """The published records of a protocol on the full data set that say how natural the restored images look."""
    records = reference_records(protocol=protocol, data="full", split="test")
    return sorted((record for record in records if _is_perception(record)), key=lambda record: -(record["psnr"] or 0))


def _is_perception(record):
    return "frechet" in record


def perception_table(records: list) -> str:
    """What was restored, as a table: distortion, and how natural it looks to the study's classifier."""
    return format_table(records, [
        ("restorer", _perceived),
        ("images", lambda record: _shown(record["images"], ",")),
        ("MSE", lambda record: _shown(record["mse"], ".3e")),
        ("PSNR dB", lambda record: _shown(record["psnr"], ".2f")),
        ("Fréchet [95 %]", lambda record: _with_interval(record, "frechet", ".3f")),
        ("kernel x 1000", lambda record: f"{1000 * record['kernel_distance']:.2f}"),
        ("accuracy [95 %]", lambda record: _with_interval(record, "accuracy", ".3f")),
        ("gradients", lambda record: _shown(record["gradient_energy"], ".2f")),
        ("run", lambda record: record["run"] or record["source"]),
    ])  # fmt: skip


def perception_points(records: list) -> list:
    """Perception's records as ``(title, PSNR, Fréchet distance)``, for those that have both."""
    return [(_perceived(record), record["psnr"], record["frechet"]) for record in records if record["psnr"]]


def perception_prices(records: list) -> list:
    """What each restorer other than the flagship has gained and lost against it, a line each."""
    own = next((record for record in records if record["restorer"] == "flagship"), None)
    return [
        f"{_perceived(record)}: {record['psnr'] - own['psnr']:+.2f} dB, {record['frechet'] / own['frechet']:.2f} of the Fréchet "
        f"distance, accuracy {record['accuracy'] - own['accuracy']:+.3f}"
        for record in records
        if own and record["psnr"] and record is not own
    ]


def _perceived(record):
    title = RESTORER_TITLES.get(record["restorer"], record["restorer"])
    setting = [] if record.get("setting") is None else [f"{record['setting']:g}"]
    trained = _published_parameters(record["run"]) if record["restorer"] in ("gan", "vae_mean", "vae_sample") else {}
    special = [name for name, field in (("features", "feature_weight"), ("free nats", "free_nats")) if trained.get(field)]
    return ", ".join([title, *setting, *special])


def variational_runs() -> list:
    """The published runs of variational autoencoders, as their ``run.json`` says."""
    found = [files.read_json(file) for file in sorted(paths.published_dir().glob("*/run.json"))]
    return [record for record in found if "variational" in record]


def variational_table(found: list) -> str:
    """Runs of variational autoencoders as a table: bounds, how much of a latent is used, how far the spread tells the error."""

    def part(name, style):
        return lambda record: style.format(**record["variational"][name])

    used = "{used} of {latent}"
    return format_table(found, [
        ("run", lambda record: record["name"]),
        ("free nats", lambda record: f"{record['parameters']['free_nats']:g}"),
        ("drawing: bits per dimension", part("drawing", "{bits:.3f} [{bits_low:.3f}, {bits_high:.3f}]")),
        ("of it latent", part("drawing", "{latent_bits:.3f}")), ("used", part("drawing", used)),
        ("restoring: bits per dimension", part("restoring", "{bits:.3f} [{bits_low:.3f}, {bits_high:.3f}]")),
        ("of it latent", part("restoring", "{latent_bits:.3f}")), ("used", part("restoring", used)),
        ("rank correlation, pixels", part("restoring", "{rank_correlation:.3f}")),
        ("images", part("restoring", "{rank_correlation_images:.3f}")),
    ])  # fmt: skip


def study_table(records: list) -> str:
    """Published records as a table with what each number cost: parameters, multiply-adds, minutes, images seen, seed."""
    return format_table(records, [
        ("restorer", _title),
        ("images", lambda record: _shown(record["images"], ",")),
        ("MSE", lambda record: _shown(record["mse"], ".3e")),
        ("PSNR dB [95 %]", lambda record: _with_interval(record, "psnr", ".2f")),
        ("SSIM", lambda record: _shown(record["ssim"], ".4f")),
        ("parameters", lambda record: f"{record['parameters']:,}" if record["parameters"] else "-"),
        ("multiply-adds", lambda record: f"{record['multiply_adds']:,}" if record["multiply_adds"] else "-"),
        ("minutes", lambda record: f"{record['minutes']:.1f}" if record["minutes"] else "-"),
        ("images seen", lambda record: f"{record['images_seen']:,}" if record["images_seen"] else "-"),
        ("seed", lambda record: _shown(record["seed"], "d")),
        ("run", lambda record: record["run"] or record["source"]),
    ])  # fmt: skip


def rate_table(records: list) -> str:
    """What was compressed, as a table: bits per pixel, without the file's header and with it, and what is left of the image.

    What several runs measured alike (JPEG's qualities) is shown once."""
    once = {(record["restorer"], record["bits_per_pixel"], record["psnr"]): record for record in records}
    records = sorted(once.values(), key=lambda record: (*_order(record), record["bits_per_pixel"]))
    return format_table(records, [
        ("compressed by", lambda record: RESTORER_TITLES.get(record["restorer"], record["restorer"])),
        ("setting", lambda record: _shown(record.get("setting"), "g")),
        ("images", lambda record: _shown(record["images"], ",")),
        ("bits per pixel", lambda record: _shown(record["bits_per_pixel"], ".3f")),
        ("in the file", lambda record: _shown(record.get("bits_per_pixel_in_file"), ".3f")),
        ("MSE", lambda record: _shown(record["mse"], ".3e")),
        ("PSNR dB [95 %]", lambda record: _with_interval(record, "psnr", ".2f")),
        ("SSIM", lambda record: _shown(record["ssim"], ".4f")),
        ("run", lambda record: record["run"] or record["source"]),
    ])  # fmt: skip


def rate_curves(records: list) -> dict:
    """Compressed images' records as curves: title -> bits per pixel, rising, and PSNR and SSIM at each."""
    found = {}
    for record in sorted(records, key=lambda record: record["bits_per_pixel"]):
        line = found.setdefault(RESTORER_TITLES.get(record["restorer"], record["restorer"]), ([], [], []))
        for values, field in zip(line, ("bits_per_pixel", "psnr", "ssim"), strict=True):
            values.append(record[field])
    return found


def rate_gains(records: list, restorer: str = "compressor") -> list:
    """What one way to compress has, and what the others have at the same rate, between two of their points on a straight line.

    Args:
        records: with ``bits_per_pixel``.
        restorer: the one whose points are taken.

    Returns:
        list: a dict for each of its points, the fewest bits first: ``bits_per_pixel``, ``psnr``, and ``others``, title ->
        PSNR in dB, without those that were not measured on both sides of that rate.
    """
    found, once = [], {(record["bits_per_pixel"], record["psnr"]) for record in records if record["restorer"] == restorer}
    lines = rate_curves([record for record in records if record["restorer"] != restorer])
    for rate, psnr in sorted(once):
        others = {
            title: float(np.interp(rate, rates, psnrs))
            for title, (rates, psnrs, _) in lines.items()
            if rates[0] <= rate <= rates[-1]
        }
        found.append({"bits_per_pixel": rate, "psnr": psnr, "others": others})
    return found


def bottleneck_curves(records: list) -> tuple:
    """What passes bottlenecks without rounding: their sizes, rising, and ``{title: PSNR at each size}``.

    Raises:
        ValueError: a restorer was not measured at every size.
    """
    sizes = sorted({record["latent"] for record in records})
    found = {}
    for record in records:
        found.setdefault(RESTORER_TITLES[record["restorer"]], {})[record["latent"]] = record["psnr"]
        if "linear_filter_psnr" in record:  # what a restorer without a bottleneck makes of the same pictures
            found.setdefault("linear filter of the blurred", {})[record["latent"]] = record["linear_filter_psnr"]
    for title, psnrs in found.items():
        if sorted(psnrs) != sizes:
            raise ValueError(f"{title} was measured at {sorted(psnrs)} numbers, not at {sizes}")
    return sizes, {title: [psnrs[size] for size in sizes] for title, psnrs in found.items()}


def cost_points(records: list) -> list:
    """Of records, those with parameters and a PSNR, as ``(title, parameters, multiply-adds, PSNR)``."""
    return [
        (_title(record), record["parameters"], record["multiply_adds"], record["psnr"])
        for record in _on_most_images(records)
        if record["parameters"] and record["multiply_adds"] and record["psnr"]
    ]


def _on_most_images(records):
    """Without what was measured on more images too."""
    most = {}
    for record in records:
        what = tuple(record[name] for name in ("protocol", "restorer", "split", "parameters", "source")), _title(record)
        most[what] = max(most.get(what, record), record, key=lambda record: record["images"] or 0)
    return list(most.values())


def published_histories(protocol: str) -> dict:
    """Of a protocol's published trainings by the minute: title -> images seen, minutes and validation PSNR, each a list; without
    those that went on from another run's network."""
    found = {}
    for record in study_records(protocol):
        file = paths.published_dir() / str(record["run"]) / "history.csv"
        if record["source"] != "measured" or not record["images_seen"] or record["restorer"] in CLOSED_FORM or not file.is_file():
            continue
        if _published_parameters(record["run"]).get("start_run"):
            continue
        history = _history(file)
        if history:
            found[_title(record)] = history
    return found


def published_training(name: str) -> dict | None:
    """What a published run trained for, and where its validation stood at the end; None for one that is not published.

    Returns:
        dict: ``images`` seen, ``minutes`` and validation ``psnr``, each a list, as in :func:`published_histories`; and ``run``,
        the run's record.
    """
    folder = paths.published_dir() / checks.file_name(name, "a run's name")
    if not (folder / "history.csv").is_file():
        return None
    return {**_history(folder / "history.csv"), "run": files.read_json(folder / "run.json")}


def _history(file):
    """Images, minutes and validation PSNR of a training by the minute; nothing of any other."""
    with open(file, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or "minutes" not in rows[0] or "val_psnr" not in rows[0]:
        return {}
    columns = {"images": "images", "minutes": "minutes", "psnr": "val_psnr"}
    return {name: [float(row[column]) for row in rows] for name, column in columns.items()}


def _not_tested(run):
    return run.record.get("notebooks") == ["02_train_autoencoder"]


def _title(record):
    title = RESTORER_TITLES.get(record["restorer"], record["restorer"])
    if record["budget"] in ("none", "closed form", "tuned", None):
        return title
    rate = [f"{record['bits_per_pixel']:.2f} bits per pixel"] if record.get("bits_per_pixel") else []
    return ", ".join([title, *rate, record["budget"], *_unusual(record["run"])])


def _is_compressor(record):
    return record["restorer"] == "compressor" and bool(record.get("bits_per_pixel"))


def _unusual(run_name):
    """What a published run trained, and how, where that is not the size as it comes, and Adam in float32 from one linear filter."""
    parameters = _published_parameters(run_name)
    kinds = (
        (parameters.get("optimizer", "adam"), {"muon": "Muon"}),
        (parameters.get("precision", "float32"), {"bfloat16": "bfloat16"}),
        (parameters.get("linear_parts", 1) > 1, {True: "mixture start"}),
        (bool(json.loads(parameters.get("options") or "{}").get("gate")), {True: "gate"}),
    )
    width = [f"width {parameters['width']}"] if parameters.get("width") else []
    return width + [names[value] for value, names in kinds if value in names]


def _published_parameters(run_name):
    file = paths.published_dir() / str(run_name) / "run.json"
    return files.read_json(file)["parameters"] if file.is_file() else {}


def publish(names) -> list:
    """Copies finished runs' records into the repository: this is how a number gets into README and notebooks.

    Each run's ``run.json``, ``history.csv`` and ``metrics.json`` go to ``data/published/NAME``, and its records take the
    place of those that ``data/reference_metrics.json`` has of that run. Records from elsewhere, marked ``published: ...``,
    stay. A run that only trained, so that its validation curve could be read, has no records.

    Args:
        names: of the runs.

    Returns:
        list: the records that were published.

    Raises:
        ValueError: a run that is not finished.
        FileNotFoundError: a run, or a file of it, that is missing.
    """
    chosen = []
    for name in names:
        run = runs.open_run(name)
        if runs.status(run.record) != "finished":
            raise ValueError(f"only a finished run can be published; {name!r} is {runs.status(run.record)}")
        run.need("history.csv" if _not_tested(run) else "metrics.json")
        chosen.append(run)
    target = paths.reference_metrics_file()
    records = files.read_json(target)["records"] if target.is_file() else []
    records = [record for record in records if record["run"] not in {run.name for run in chosen}]
    # Runs of one protocol measure the same untouched images and the same linear filter: once is enough.
    known = {_what(record) for record in records if record["source"] == "measured"}
    published = []
    for measured in (record for run in chosen if not _not_tested(run) for record in run.records()):
        if _what(measured) not in known:
            known.add(_what(measured))
            published.append(measured)
    readme_table(records + published)  # a record that cannot be shown stops it here, before anything is written
    for run in chosen:
        folder = paths.published_dir() / run.name
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("history.csv", "metrics.json"):
            if run.path(file).is_file():  # what was not trained has no history
                shutil.copyfile(run.path(file), folder / file)
        files.write_json(folder / "run.json", {name: value for name, value in run.record.items() if name != "process"})
    files.write_json(target, {"records": records + published})
    update_readme()
    return sorted(published, key=_order)


def compare_runs(name: str, other: str) -> dict:
    """Two runs' networks image by image, on the test images of the first one's data, degraded as both have trained for.

    Args:
        name, other: runs with a network each, of the same protocol and the same images.

    Returns:
        dict: the runs' names, protocol, data, and :func:`lstm_ae_lib.metrics.compare`'s numbers, the first less the other.

    Raises:
        FileNotFoundError: a run, or its network, that is missing.
        ValueError: runs of different protocols or different images.
    """
    pair = [runs.open_run(one) for one in (name, other)]
    what = [
        {"protocol": run.record["protocol"], "data": run.record["data"]["kind"], "data_hash": run.record["data"]["hash"]}
        for run in pair
    ]
    if what[0] != what[1]:
        raise ValueError(f"runs of one protocol and the same images can be compared, got {what[0]} and {what[1]}")
    images = cifar10.load_cifar10(what[0]["data"]).test_images
    asked = pair[0].record["parameters"]
    degraded = degradations.as_float(degradations.degrade(images, degradations.get_protocol(asked["protocol"], asked["sigma"])))
    values = [
        metrics.per_image(images, run.load_model("autoencoder").predict(degraded, batch_size=500, verbose=0).clip(0, 1))
        for run in pair
    ]
    return {"run": name, "other": other, **what[0], **metrics.compare_values(*values)}


def save_comparison(found: dict) -> None:
    """Keeps what :func:`compare_runs` found in ``data/published/comparisons.json``, in the place of the same pair's."""
    file = paths.published_dir() / "comparisons.json"
    kept = [one for one in comparisons() if (one["run"], one["other"]) != (found["run"], found["other"])]
    files.write_json(file, {"records": [*kept, found]})


def comparisons(protocol: str = "") -> list:
    """The kept comparisons, of one protocol or all."""
    file = paths.published_dir() / "comparisons.json"
    records = files.read_json(file)["records"] if file.is_file() else []
    return [record for record in records if protocol in ("", record["protocol"])]


def comparison_line(found: dict) -> str:
    """One comparison in words."""
    return (
        f"{found['run']} against {found['other']}: {found['psnr']:+.2f} dB [{found['psnr_low']:+.2f}, {found['psnr_high']:+.2f}], "
        f"better on {found['wins']:.1%} of {found['images']:,} images"
    )


def readme_overview(records: list) -> str:
    """README's short table: a row for each protocol that the flagship was trained for, a column for each kind of restorer, and
    in the cells the least error that one of that kind reached, with its minutes of training."""
    shown = _readme_records(records)
    kinds = {
        "degraded": ("degraded",), "best closed form": CLOSED_FORM, "LSTM autoencoder": ("reference_lstm",),
        "bidirectional": ("reference_bilstm",), "convolutional network": PEERS, "flagship": ("flagship",),
    }  # fmt: skip
    columns = {
        title: [record for record in shown if record["source"] == "measured" and record["restorer"] in restorers]
        for title, restorers in kinds.items()
    }
    columns["published by others"] = [record for record in shown if record["source"] != "measured"]
    lines = [f"| protocol | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for protocol in sorted({record["protocol"] for record in columns["flagship"]}, key=list(degradations.PROTOCOLS).index):
        cells = [_overview_cell([record for record in column if record["protocol"] == protocol]) for column in columns.values()]
        lines.append(f"| `{protocol}`: {degradations.get_protocol(protocol).summary} | {' | '.join(cells)} |")
    lines += ["", (
        "Mean squared error x 1000, pixels from 0 to 1, on the 10,000 test images: the least that any of its kind reached, in "
        "brackets its minutes of training on 2 cores. The minutes differ, so this is no race; networks that were trained alike "
        "stand together in the table of all runs and in notebook 4. \\* on other images, or only indicative: see there."
    )]  # fmt: skip
    return "\n".join(lines)


def _overview_cell(records):
    if not records:
        return "-"
    record = min(records, key=lambda record: record["mse"])
    number = f"{1000 * record['mse']:#.3g}"
    if record["split"] != "test" or "indicative" in record["source"]:
        number += r"\*"
    return f"{number} ({record['minutes']:.0f})" if record["minutes"] and record["restorer"] not in CLOSED_FORM else number


def _readme_records(records):
    """What README shows: all of the test images' measured numbers, and others' published ones, in order. The tuned classical
    restorers, and what compressors are compared with, are left to the notebooks that compare them."""
    records = [record for record in records if record["data"] == "full" and record["budget"] != "tuned"]
    records = [record for record in records if not _is_perception(record)]
    records = [record for record in records if record["protocol"] != "compress" or _is_compressor(record)]
    shown = [record for record in records if record["split"] == "test" or record["source"] != "measured"]
    return sorted(_on_most_images(shown), key=_order)


def readme_table(records: list) -> str:
    """The published test-set numbers as README's long table, with what it takes to read them below it."""
    shown = _readme_records(records)
    lines = [
        "| protocol | restorer | MSE | PSNR dB [95 %] | SSIM | parameters | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for record in shown:
        title = _title(record)
        title = title if record["source"] == "measured" else f"{title}, {record['source']}, {record['split']} images"
        parameters = f"{record['parameters']:,}" if record["parameters"] else "-"
        minutes = f"{record['minutes']:.1f}" if record["minutes"] else "-"
        lines.append(
            f"| `{record['protocol']}` | {title} | {_shown(record['mse'], '.2e')} | {_with_interval(record, 'psnr', '.2f')} | "
            f"{_shown(record['ssim'], '.4f')} | {parameters} | {minutes} |"
        )
    measured = [record for record in shown if record["source"] == "measured"]
    hardware = sorted({record["hardware"] for record in measured})
    images = sorted({record["images"] for record in measured})
    lines += ["", (
        f"Measured on {' / '.join(f'{count:,}' for count in images)} test images, one seed; intervals are a bootstrap over images. "
        f"Behind a network stands what it was trained for: epochs and their images, or minutes; in the last column minutes of "
        f"training alone, on {' / '.join(hardware)}. Classical restorers: notebook 4."
    )]  # fmt: skip
    return "\n".join(lines)


def readme_looks(records: list) -> str:
    """README's table of how natural restored images look, from :func:`perception_records`."""
    lines = [
        "| restorer | MSE x 1000 | PSNR dB [95 %] | Fréchet distance [95 %] | accuracy [95 %] | gradients |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {_perceived(record)} | {1000 * record['mse']:#.3g} | {_with_interval(record, 'psnr', '.2f')} | "
        f"{_with_interval(record, 'frechet', '.2f')} | {_with_interval(record, 'accuracy', '.3f')} | "
        f"{record['gradient_energy']:.2f} |"
        for record in records
    ]
    images = sorted({record["images"] for record in records})
    lines += ["", (
        f"`gauss2`, {' / '.join(f'{count:,}' for count in images)} test images. Fréchet distance, in the features of this study's "
        "classifier: how far restored images are from clean ones as a crowd, 0 for no difference; it compares with no other "
        "network's. Accuracy: how often that classifier names a restored image rightly. Gradients: of the clean images'. Behind "
        "an adversarial training stands the weight of its loss."
    )]  # fmt: skip
    return "\n".join(lines)


def speed_table(training: list, growth: list) -> str:
    """README's table of speed, from the records of ``bench train`` and ``bench scaling``."""
    threads = max(record["threads"] for record in training)
    here = [record for record in training if record["threads"] == threads]
    lines = [
        "| | batch | this library | stock Keras | PyTorch | ONNX Runtime | of PyTorch's time | of the GEMM rate |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task, batch in dict.fromkeys((record["task"], record["batch"]) for record in here):
        row = {record["implementation"]: record for record in here if (record["task"], record["batch"]) == (task, batch)}
        if "pytorch" not in row:
            continue
        mine = row["project"]
        times = [_shown(row.get(name, {}).get("milliseconds"), ".2f") for name in ("project", "keras", "pytorch", "onnxruntime")]
        ratio = f"{mine['ratio_to_pytorch']:.2f} [{mine['ratio_low']:.2f}, {mine['ratio_high']:.2f}]"
        share = f"{mine['fraction_of_gemm']:.0%}" if "fraction_of_gemm" in mine else "-"
        lines.append(f"| {task} | {batch} | {' | '.join(times)} | {ratio} | {share} |")
        if "gated scan" in row:
            scan = row["gated scan"]
            ratio = f"{scan['ratio_to_pytorch']:.2f} [{scan['ratio_low']:.2f}, {scan['ratio_high']:.2f}]"
            times[0] = _shown(scan["milliseconds"], ".2f")
            lines.append(f"| the same by gated scans | {batch} | {' | '.join(times)} | {ratio} | - |")
    batches = {record["task"]: record["batch"] for record in here}
    milliseconds = {record["task"]: record["milliseconds"] for record in here if record["implementation"] == "project"}
    once = milliseconds["making the pipeline"] / batches["making the pipeline"]  # an image
    epoch = milliseconds["step with one batch"] / batches["step with one batch"]
    pipeline = next(record for record in here if record["task"] == "step with pipeline")
    exponents = {record["what"]: record["exponent"] for record in growth}
    first = here[0]
    lines += ["", (
        f"Milliseconds, medians of {first['rounds']} interleaved rounds, {threads} threads, {first['hardware']}, GEMM "
        f"{first['gemm_gflops']:.0f} GFLOP/s; ratios with the lowest and highest round. A training step is forward, backward and "
        "Adam of the reference model; a sweep step that of two bidirectional LSTMs, along the rows and the columns of 32x32 "
        "positions, or of the flagship's scans with as many units. Fed by the pipeline a step takes "
        f"{pipeline['ratio_to_one_batch']:.2f} [{pipeline['ratio_low']:.2f}, "
        f"{pipeline['ratio_high']:.2f}] of its time with one batch again and again; that all images are degraded when the pipeline "
        f"is made adds {once / epoch:.0%} to the first epoch. Training time grows as the number of images to the "
        f"power of {exponents['images']:.2f}, the pixels of an image to the power of {exponents['side']:.2f}, and the "
        f"multiply-adds of a model to the power of {exponents['units']:.2f}."
    )]  # fmt: skip
    return "\n".join(lines)


def update_readme() -> None:
    """Writes the tables of the published records and of the recorded speed between their marks in README.md."""
    path = paths.data_dir().parent / "README.md"
    text = path.read_text(encoding="utf-8")
    for marks, table in readme_tables().items():
        before, _, rest = text.partition(marks[0])
        _, end, after = rest.partition(marks[1])
        if not end:
            raise ValueError(f"README.md has no marks {marks[0]!r} and {marks[1]!r}")
        text = f"{before}{marks[0]}\n{table}\n{end}{after}"
    with files.replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def readme_tables() -> dict:
    """README's tables, each under the pair of marks that it stands between; looks and speed only where they have been measured."""
    tables = {OVERVIEW_MARKS: readme_overview(reference_records()), README_MARKS: readme_table(reference_records())}
    perceived = perception_records("gauss2")
    if perceived:
        tables[LOOKS_MARKS] = readme_looks(perceived)
    benchmarks = [paths.data_dir() / "benchmarks" / f"{name}.json" for name in ("train", "scaling")]
    if all(path.is_file() for path in benchmarks):
        tables[SPEED_MARKS] = speed_table(*(files.read_json(path)["records"] for path in benchmarks))
    return tables


def publish_figures(run: runs.Run) -> list:
    """Copies a run's figures into the tracked ``figures/`` folder; returns their names."""
    figures = sorted(run.path("figures").glob("*.png"))
    for figure in figures:
        shutil.copyfile(figure, paths.figures_dir() / figure.name)
    return [figure.name for figure in figures]


def _order(record):
    """Protocol, source, split, restorer: the reference protocol first, other people's numbers and unknown restorers last."""
    titles = list(RESTORER_TITLES)
    place = titles.index(record["restorer"]) if record["restorer"] in titles else len(titles)
    elsewhere = record["source"] != "measured"
    return record["protocol"] != "reference", record["protocol"], elsewhere, record["split"] != "validation", place


def _what(record):
    # To five digits: what float32 leaves of the same pixels differs after that.
    numbers = tuple(f"{record[name]:.4e}" for name in ("mse", "psnr") if record[name] is not None)
    what = tuple(record[name] for name in ("protocol", "restorer", "split", "data_hash", "images"))
    return (*what, _is_perception(record), *numbers)


def _shown(value, style):
    return "-" if value is None else format(value, style)


def _with_interval(record, name, style):
    text = _shown(record[name], style)
    low, high = record.get(f"{name}_low"), record.get(f"{name}_high")
    return text if low is None else f"{text} [{low:{style}}, {high:{style}}]"
