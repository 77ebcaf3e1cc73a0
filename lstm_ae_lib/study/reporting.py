"""From records to what people read: tables, curves, README."""

import html
from collections import namedtuple
from functools import partial
from operator import attrgetter, itemgetter

import numpy as np

from lstm_ae_lib import checks, degradations, files, paths
from lstm_ae_lib.study import records as published
from lstm_ae_lib.study import runs
from lstm_ae_lib.study.records import CLOSED_FORM, RESTORER_TITLES, restorer_title

# README's tables stand between these.
MARKS = {
    name: (f"<!-- {name}: written by `python -m lstm_ae_lib {command}` -->", f"<!-- end of {name} -->")
    for name, command in {"overview": "publish", "results": "publish", "looks": "publish", "speed": "bench ... --save"}.items()
}


Column = namedtuple("Column", ("title", "text"))  # of a table: its title, and a function that gives a row's text


def render(rows: list, columns: list, style: str = "text") -> str:
    """A table of rows, each of whatever the :class:`Column`'s functions take; ``style``: ``text``, ``markdown`` or ``html``."""
    draw = {"text": _plain, "markdown": _markdown, "html": _html}[checks.choice(style, "style", ("text", "markdown", "html"))]
    return "\n".join(draw([title for title, _ in columns], [[str(text(row)) for _, text in columns] for row in rows]))


def _plain(titles, cells):
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    lines = [titles, ["-" * width for width in widths], *cells]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _markdown(titles, cells):
    lines = [[text.replace("|", r"\|") for text in line] for line in [titles, *cells]]
    head, *lines = ["".join(f"| {text} " if text else "| " for text in line) + "|" for line in lines]
    return [head, "|---" * len(titles) + "|", *lines]


def _html(titles, cells):
    head, *lines = [
        "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in line) + "</tr>"
        for tag, line in (("th", titles), *(("td", line) for line in cells))
    ]
    return ["<table>", "<thead>", head, "</thead>", "<tbody>", *lines, "</tbody>", "</table>"]


def shown(value, style: str, zero: bool = True) -> str:
    """A number as text; ``-`` for None, and where ``zero`` says nothing for 0."""
    return "-" if value is None or not (value or zero) else format(value, style)


def between(record: dict, name: str, style: str, ends: str | None = None) -> str:
    """A number with its interval, where it has one: the fields ``NAME_low`` and ``NAME_high``, or ``ENDS_...``."""
    text, (low, high) = shown(record[name], style), (record.get(f"{ends or name}_{end}") for end in ("low", "high"))
    return text if low is None else f"{text} [{low:{style}}, {high:{style}}]"


def ratio(record: dict, peer: str = "pytorch") -> str:
    """A benchmark's share of another time, with the lowest and highest round."""
    return between(record, f"ratio_to_{peer}", ".2f", "ratio") if f"ratio_to_{peer}" in record else "-"


def number(title: str, field: str, style: str, zero: bool = True) -> Column:
    """A column of a field's numbers."""
    return Column(title, lambda record: shown(record[field], style, zero))


def interval(title: str, field: str, style: str) -> Column:
    """A column of a field's numbers with their intervals."""
    return Column(title, lambda record: between(record, field, style))


IMAGES, MSE, PSNR = number("images", "images", ","), number("MSE", "mse", ".3e"), interval("PSNR dB [95 %]", "psnr", ".2f")
SSIM, MINUTES = number("SSIM", "ssim", ".4f"), number("minutes", "minutes", ".1f", zero=False)
PARAMETERS = number("parameters", "parameters", ",", zero=False)
RUN = Column("run", lambda record: record["run"] or record["source"])


def protocols_table() -> str:
    """All protocols: what they do, with which constants; below it where they come from."""
    protocols = list(degradations.PROTOCOLS.values())
    table = render(protocols, [
        Column("protocol", attrgetter("name")), Column("blur", attrgetter("blur")), Column("noise", attrgetter("noise_text")),
        Column("pixels", lambda protocol: "8 bits" if protocol.eight_bit else "float"),
        Column("what it does", attrgetter("summary")),
    ])  # fmt: skip
    sources = {}
    for protocol in protocols:
        sources.setdefault(f"{protocol.source}; {protocol.notes}" if protocol.notes else protocol.source, []).append(protocol.name)
    return "\n".join([table, "", "Defined by:", *(f"{', '.join(names)}: {source}" for source, names in sources.items())])


def metrics_table(records: list, style: str = "text") -> str:
    """Records as a table: restorer, and MSE, PSNR and SSIM, each with its 95 % interval where the record has one."""
    return render(records, [
        Column("restorer", restorer_title), Column("split", itemgetter("split")), IMAGES,
        interval("MSE [95 %]", "mse", ".2e"), PSNR, interval("SSIM [95 %]", "ssim", ".3f"),
        Column("source", itemgetter("source")),
    ], style)  # fmt: skip


def runs_table(chosen: list, style: str = "text") -> str:
    """Runs side by side: status, what they did, and their test-set numbers."""
    titles = ("run", "status", "protocol", "data", "budget", "model", "minutes")
    titles += ("degraded dB", "linear dB", "model dB", "model MSE", "model SSIM")
    columns = [Column(title, itemgetter(place)) for place, title in enumerate(titles)]
    return render([_run_cells(run) for run in chosen], columns, style)


def _run_cells(run):
    try:
        record, found = run.record, run.records() if run.path("metrics.json").is_file() else []
        found = {item["restorer"]: item for item in found if item["split"] == "test"}
    except (ValueError, KeyError) as error:
        record, found = {"status": f"damaged: {error}"}, {}
    network = next((name for name in found if name not in ("degraded", *CLOSED_FORM)), "-")
    budgets = (given["budget"] for name, given in record.get("training", {}).items() if name not in CLOSED_FORM)
    numbers = (("degraded", "psnr", ".2f"), ("linear", "psnr", ".2f"))
    numbers += ((network, "psnr", ".2f"), (network, "mse", ".3e"), (network, "ssim", ".4f"))
    return [
        run.name, runs.status(record), record.get("protocol", "-"), record.get("data", {}).get("kind", "-"), next(budgets, "-"),
        network, shown(record.get("minutes"), ".1f"),
        *(shown(found.get(restorer, {}).get(field), style) for restorer, field, style in numbers),
    ]  # fmt: skip


def study_table(records: list, style: str = "text") -> str:
    """Published records as a table with what each number cost: parameters, multiply-adds, minutes, images seen, seed."""
    return render(records, [
        Column("restorer", published.title), IMAGES, MSE, PSNR, SSIM, PARAMETERS,
        number("multiply-adds", "multiply_adds", ",", zero=False), MINUTES,
        number("images seen", "images_seen", ",", zero=False), number("seed", "seed", "d"), RUN,
    ], style)  # fmt: skip


def perception_table(records: list, style: str = "text") -> str:
    """Restored images as a table: distortion, and how natural they look to the study's classifier."""
    return render(records, [
        Column("restorer", _perceived), IMAGES, MSE, number("PSNR dB", "psnr", ".2f"),
        interval("Fréchet [95 %]", "frechet", ".3f"),
        Column("kernel x 1000", lambda record: f"{1000 * record['kernel_distance']:.2f}"),
        interval("accuracy [95 %]", "accuracy", ".3f"), number("gradients", "gradient_energy", ".2f"), RUN,
    ], style)  # fmt: skip


def perception_points(records: list) -> list:
    """Perception's records as ``(title, PSNR, Fréchet distance)``, for those that have both."""
    return [(_perceived(record), record["psnr"], record["frechet"]) for record in records if record["psnr"]]


def perception_tradeoffs(records: list) -> list:
    """What each restorer other than the flagship gains and loses against it, a line each; none without the flagship."""
    own = next((record for record in records if record["restorer"] == "flagship"), None)
    return [
        f"{_perceived(record)}: {record['psnr'] - own['psnr']:+.2f} dB, {record['frechet'] / own['frechet']:.2f} of the Fréchet "
        f"distance, accuracy {record['accuracy'] - own['accuracy']:+.3f}"
        for record in records
        if own and record["psnr"] and record is not own
    ]


def _perceived(record):
    setting = [] if record.get("setting") is None else [f"{record['setting']:g}"]
    trained = published.published_parameters(record["run"]) if record["restorer"] in ("gan", "vae_mean", "vae_sample") else {}
    special = [name for name, field in (("features", "feature_weight"), ("free nats", "free_nats")) if trained.get(field)]
    return ", ".join([restorer_title(record), *setting, *special])


def variational_table(found: list, style: str = "text") -> str:
    """Runs of variational autoencoders as a table: bounds, how much of a latent is used, how far the spread tells the error."""

    def part(title, name, text):
        return Column(title, lambda record: text.format(**record["variational"][name]))

    bounds = [
        part(title, name, text)
        for name in ("drawing", "restoring")
        for title, text in (
            (f"{name}: bits per dimension", "{bits:.3f} [{bits_low:.3f}, {bits_high:.3f}]"),
            ("of it latent", "{latent_bits:.3f}"), ("used", "{used} of {latent}"),
        )
    ]  # fmt: skip
    return render(found, [
        Column("run", itemgetter("name")), Column("free nats", lambda record: f"{record['parameters']['free_nats']:g}"), *bounds,
        part("rank correlation, pixels", "restoring", "{rank_correlation:.3f}"),
        part("images", "restoring", "{rank_correlation_images:.3f}"),
    ], style)  # fmt: skip


def rate_table(records: list, style: str = "text") -> str:
    """Compressed images as a table: bits per pixel, without the file's header and with it, and what is left of the image.

    What several runs measured alike (JPEG's qualities) is shown once."""
    once = {(record["restorer"], record["bits_per_pixel"], record["psnr"]): record for record in records}
    return render(sorted(once.values(), key=lambda record: (*published.order(record), record["bits_per_pixel"])), [
        Column("compressed by", restorer_title), Column("setting", lambda record: shown(record.get("setting"), "g")), IMAGES,
        number("bits per pixel", "bits_per_pixel", ".3f"),
        Column("in the file", lambda record: shown(record.get("bits_per_pixel_in_file"), ".3f")), MSE, PSNR, SSIM, RUN,
    ], style)  # fmt: skip


def rate_curves(records: list) -> dict:
    """Compressed images' records as curves: title -> bits per pixel, rising, and PSNR and SSIM at each."""
    found = {}
    for record in sorted(records, key=itemgetter("bits_per_pixel")):
        line = found.setdefault(restorer_title(record), ([], [], []))
        for values, field in zip(line, ("bits_per_pixel", "psnr", "ssim"), strict=True):
            values.append(record[field])
    return found


def rate_gains(records: list, restorer: str = "compressor") -> list:
    """One way to compress beside the others at the same rate, on straight lines between two of their points.

    Returns:
        list: a dict for each point of ``restorer``, the fewest bits first: ``bits_per_pixel``, ``psnr``, and ``others``, title ->
        PSNR in dB, without those that were not measured on both sides of that rate.
    """
    points = sorted({(record["bits_per_pixel"], record["psnr"]) for record in records if record["restorer"] == restorer})
    lines = rate_curves([record for record in records if record["restorer"] != restorer]).items()
    others = [
        {title: float(np.interp(rate, rates, psnrs)) for title, (rates, psnrs, _) in lines if rates[0] <= rate <= rates[-1]}
        for rate, _ in points
    ]
    return [{"bits_per_pixel": rate, "psnr": psnr, "others": at} for (rate, psnr), at in zip(points, others, strict=True)]


def bottleneck_curves(records: list) -> tuple:
    """What passes bottlenecks without rounding: their sizes, rising, and ``{title: PSNR at each size}``.

    Raises ``ValueError`` for a restorer that was not measured at every size.
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
    wanted = itemgetter("parameters", "multiply_adds", "psnr")
    return [(published.title(record), *wanted(record)) for record in _on_most_images(records) if all(wanted(record))]


def _on_most_images(records):
    """Without what was measured on more images too."""
    most = {}
    for record in records:
        what = tuple(record[name] for name in ("protocol", "restorer", "split", "parameters", "source")), published.title(record)
        most[what] = max(most.get(what, record), record, key=lambda record: record["images"] or 0)
    return list(most.values())


def comparison_line(found: dict) -> str:
    """One comparison in words."""
    return (
        f"{found['run']} against {found['other']}: {found['psnr']:+.2f} dB [{found['psnr_low']:+.2f}, {found['psnr_high']:+.2f}], "
        f"better on {found['wins']:.1%} of {found['images']:,} images"
    )


def readme_overview(records: list) -> str:
    """README's short table, of the protocols that the flagship was trained for: lowest error per family (training minutes)."""
    records = _readme_records(records)
    families = {
        "degraded": ("degraded",), "best closed form": CLOSED_FORM, "LSTM autoencoder": ("reference_lstm",),
        "bidirectional": ("reference_bilstm",), "convolutional network": ("dncnn", "rednet", "unet", "nafnet"),
        "flagship": ("flagship",),
    }  # fmt: skip
    measured = [record for record in records if record["source"] == "measured"]
    columns = {title: [record for record in measured if record["restorer"] in family] for title, family in families.items()}
    columns["published by others"] = [record for record in records if record["source"] != "measured"]
    protocols = {record["protocol"] for record in columns["flagship"]}
    return render([name for name in degradations.PROTOCOLS if name in protocols], [
        Column("protocol", lambda name: f"`{name}`: {degradations.get_protocol(name).summary}"),
        *(Column(title, partial(_lowest_error, column)) for title, column in columns.items()),
    ], "markdown")  # fmt: skip


def _lowest_error(records, protocol):
    records = [record for record in records if record["protocol"] == protocol]
    if not records:
        return "-"
    record = min(records, key=itemgetter("mse"))
    elsewhere = record["split"] != "test" or "indicative" in record["source"]
    number = f"{1000 * record['mse']:#.3g}" + (r"\*" if elsewhere else "")
    return f"{number} ({record['minutes']:.0f})" if record["minutes"] and record["restorer"] not in CLOSED_FORM else number


def _readme_records(records):
    """What README shows: all of the test images' measured numbers, and others' published ones, in order. The tuned classical
    restorers, and what compressors are compared with, are left to the notebooks that compare them."""
    records = [record for record in records if record["data"] == "full" and record["budget"] != "tuned"]
    records = [record for record in records if not published.is_perception(record)]
    records = [
        record
        for record in records
        if record["protocol"] != "compress" or (record["restorer"] == "compressor" and record.get("bits_per_pixel"))
    ]
    found = [record for record in records if record["split"] == "test" or record["source"] != "measured"]
    return sorted(_on_most_images(found), key=published.order)


def readme_table(records: list) -> str:
    """The published test-set numbers as README's long table."""
    records = _readme_records(records)
    measured = [record for record in records if record["source"] == "measured"]

    def title(record):
        origin = [] if record in measured else [record["source"], f"{record['split']} images"]
        return ", ".join([published.title(record), *origin])

    table = render(records, [
        Column("protocol", lambda record: f"`{record['protocol']}`"), Column("restorer", title), number("MSE", "mse", ".2e"), PSNR,
        SSIM, PARAMETERS, MINUTES,
    ], "markdown")  # fmt: skip
    hardware = " / ".join(sorted({record["hardware"] for record in measured}))
    return f"{table}\n\nMeasured on {_counts(measured)} test images, one seed, on {hardware}."


def _counts(records):
    return " / ".join(f"{count:,}" for count in sorted({record["images"] for record in records}))


def readme_looks(records: list) -> str:
    """README's table of how natural restored images look, from :func:`~lstm_ae_lib.study.records.perception_records`."""
    table = render(records, [
        Column("restorer", _perceived), Column("MSE x 1000", lambda record: f"{1000 * record['mse']:#.3g}"), PSNR,
        interval("Fréchet distance [95 %]", "frechet", ".2f"), interval("accuracy [95 %]", "accuracy", ".3f"),
        number("gradients", "gradient_energy", ".2f"),
    ], "markdown")  # fmt: skip
    return f"{table}\n\n`gauss2`, {_counts(records)} test images."


def speed_table(training: list, growth: list) -> str:
    """README's table of speed, from the records of ``bench train`` and ``bench scaling``."""
    most = max(record["threads"] for record in training)
    here = [record for record in training if record["threads"] == most]
    rows = []
    for task, batch in dict.fromkeys((record["task"], record["batch"]) for record in here):
        peers = {record["implementation"]: record for record in here if (record["task"], record["batch"]) == (task, batch)}
        if "pytorch" in peers:
            own = {"project": task, "gated scan": "the same by gated scans"}
            rows += [(title, batch, {**peers, "own": peers[name]}) for name, title in own.items() if name in peers]

    def milliseconds(title, name):
        return Column(title, lambda row: shown(row[2].get(name, {}).get("milliseconds"), ".2f"))

    table = render(rows, [
        Column("", itemgetter(0)), Column("batch", itemgetter(1)), milliseconds("this library", "own"),
        milliseconds("stock Keras", "keras"), milliseconds("PyTorch", "pytorch"), milliseconds("ONNX Runtime", "onnxruntime"),
        Column("of PyTorch's time", lambda row: ratio(row[2]["own"])),
        Column("of the GEMM rate", lambda row: shown(row[2]["own"].get("fraction_of_gemm"), ".0%")),
    ], "markdown")  # fmt: skip
    project = {record["task"]: record for record in here if record["implementation"] == "project"}
    once, step = (project[task]["milliseconds"] / project[task]["batch"] for task in ("making the pipeline", "step with one batch"))
    growth = {record["what"]: f"to the power of {record['exponent']:.2f}" for record in growth}
    first = here[0]
    return f"{table}\n\n" + (
        f"Medians of {first['rounds']} interleaved rounds, {most} threads, {first['hardware']}, GEMM {first['gemm_gflops']:.0f} "
        f"GFLOP/s. A step fed by the pipeline takes {ratio(project['step with pipeline'], 'one_batch')} of the time of one with "
        f"the same batch repeated; degrading all images when the pipeline is made adds {once / step:.0%} to the first epoch. "
        f"Training time grows as the number of images {growth['images']}, the pixels of an image {growth['side']}, and the "
        f"multiply-adds of a model {growth['units']}."
    )


def readme_tables() -> dict:
    """README's tables by the name of their marks; looks and speed only where they have been measured."""
    records = published.reference_records()
    tables = {"overview": readme_overview(records), "results": readme_table(records)}
    if perceived := published.perception_records("gauss2"):
        tables["looks"] = readme_looks(perceived)
    speed = [published.benchmark_records(name) for name in ("train", "scaling")]
    return tables | ({"speed": speed_table(*speed)} if all(speed) else {})


def update_readme() -> None:
    """Writes the tables of the published records and of the recorded speed between their marks in README.md."""
    path = paths.data_dir().parent / "README.md"
    text = path.read_text(encoding="utf-8")
    for name, table in readme_tables().items():
        before, start, rest = text.partition(MARKS[name][0])
        _, end, after = rest.partition(MARKS[name][1])
        if not end:
            raise ValueError(f"README.md has no marks {' and '.join(map(repr, MARKS[name]))}")
        text = f"{before}{start}\n{table}\n{end}{after}"
    with files.replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
