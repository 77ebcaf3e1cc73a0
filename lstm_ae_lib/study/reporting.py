"""From records to what people read: tables, curves, READMEs."""

import functools
import html
from collections import namedtuple
from operator import attrgetter, itemgetter

import numpy as np

from lstm_ae_lib import checks, degradations, files, paths
from lstm_ae_lib.study import address, margins, runs
from lstm_ae_lib.study import records as published
from lstm_ae_lib.study.records import CLOSED_FORM, LSTMS, PEERS, RESTORER_TITLES, restorer_title

WRITTEN = {  # the READMEs' tables: name of the marks -> file, and the command that writes it
    "overview": ("README.md", "python -m lstm_ae_lib publish"),
    "families": ("data/published/README.md", "python -m lstm_ae_lib publish"),
    "results": ("data/published/README.md", "python -m lstm_ae_lib publish"),
    "map": ("README.md", "python -m lstm_ae_lib publish"),
    "codecs": ("README.md", "python -m lstm_ae_lib publish"),
    "looks": ("data/published/README.md", "python -m lstm_ae_lib publish"),
    "speed": ("data/benchmarks/README.md", "python -m lstm_ae_lib bench ... --save"),
    "workers": ("data/benchmarks/README.md", "python -m lstm_ae_lib bench workers --save"),
    "crops": ("data/benchmarks/README.md", "python -m lstm_ae_lib bench crops --save"),
}
FLAGSHIPS = ("flagship", "multiscale_flagship")
COMPRESSORS = ("compressor", "any_rate_compressor", "scale_hyperprior")
CODECS = (RESTORER_TITLES["scale_hyperprior"], "scale hyperprior", "Cheng et al. 2020", "COIN++", "AVIF", "JPEG XL", "WebP", "JPEG")
SERIES = ("burst", "burst50", "rows", "broken_jpeg")  # protocols with tables of their own, for several frames, lengths or sizes
OVERVIEW = ("reference", "gauss2", "blind", "noisy")  # the protocols of the top README's table
SHOWN_RATES = 0.4, 2.6  # bits per pixel, the least and the most in its table of codecs
Column = namedtuple("Column", ("title", "text"))  # of a table: its title, and a function from a row to its text


def render(rows: list, columns: list, style: str = "text") -> str:
    """A table of rows, each whatever the :class:`Column`'s functions take; ``style``: ``text``, ``markdown`` or ``html``."""
    draw = {"text": _plain, "markdown": _markdown, "html": _html}[checks.choice(style, "style", ("text", "markdown", "html"))]
    return "\n".join(draw([title for title, _ in columns], [[str(text(row)) for _, text in columns] for row in rows]))


def table(rows: list, columns: list):
    """:func:`render` as a notebook shows it; in place of a column its title alone, where a row holds the cell in that place."""
    from IPython.display import HTML

    columns = [Column(column, itemgetter(place)) if isinstance(column, str) else column for place, column in enumerate(columns)]
    return HTML(render(rows, columns, "html"))


def _plain(titles, cells):
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    lines = [titles, ["-" * width for width in widths], *cells]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


def _markdown(titles, cells):
    lines = [[text.replace("|", r"\|") for text in line] for line in [titles, *cells]]
    head, *lines = ["".join(f"| {text} " if text else "| " for text in line) + "|" for line in lines]
    return [head, "|---" * len(titles) + "|", *lines]


def _html(titles, cells):
    # Jupyter aligns all cells right, which suits numbers; the first column says what a row is about.
    lines = [("th", titles), *(("td", line) for line in cells)]
    left = [' style="text-align: left"', *[""] * (len(titles) - 1)]
    head, *lines = (
        "<tr>" + "".join(f"<{tag}{align}>{html.escape(text)}</{tag}>" for align, text in zip(left, line, strict=True)) + "</tr>"
        for tag, line in lines
    )
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
ACCURACY, GRADIENTS = interval("accuracy [95 %]", "accuracy", ".3f"), number("gradients", "gradient_energy", ".2f")
RUN = Column("run", lambda record: record["run"] or record["source"])


def protocols_table() -> str:
    """All protocols with their constants; below the table, the source of each."""
    columns = [Column("protocol", attrgetter("name")), Column("blur", attrgetter("blur")),
               Column("noise", attrgetter("noise_text")), Column("pixels", lambda row: "8 bits" if row.eight_bit else "float"),
               Column("what it does", attrgetter("summary"))]  # fmt: skip
    found = {name: "; ".join(filter(None, (protocol.source, protocol.notes))) for name, protocol in degradations.PROTOCOLS.items()}
    lines = (f"{', '.join(name for name in found if found[name] == text)}: {text}" for text in dict.fromkeys(found.values()))
    return "\n".join([render(degradations.PROTOCOLS.values(), columns), "", "Defined by:", *lines])


def metrics_table(records: list, style: str = "text") -> str:
    """Records as a table: restorer, and MSE, PSNR and SSIM, each with its 95 % interval where the record has one."""
    columns = [Column("restorer", restorer_title), Column("split", itemgetter("split")), IMAGES,
               interval("MSE [95 %]", "mse", ".2e"), PSNR, interval("SSIM [95 %]", "ssim", ".3f"),
               Column("source", itemgetter("source"))]  # fmt: skip
    return render(records, columns, style)


def run_summary(run) -> str:
    """A run's numbers on the test images as a table; the last row a released restorer's, where the run has compared itself."""
    rows = [{"title": restorer_title(record), **record} for record in run.records() if record["split"] == "test"]
    rows += [files.read_json(run.path("released.json"))] if run.path("released.json").is_file() else []
    trained = Column("training", lambda row: "-" if row["budget"] == "none" else row["budget"])
    return render(rows, [Column("restorer", itemgetter("title")), IMAGES, PSNR, MSE, SSIM, trained])


def runs_table(chosen: list, style: str = "text") -> str:
    """Runs side by side: status, settings and test-set numbers."""
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
    return [
        run.name, runs.status(record), record.get("protocol", "-"), record.get("data", {}).get("kind", "-"), next(budgets, "-"),
        network, shown(record.get("minutes"), ".1f"),
        *(shown(found.get(restorer, {}).get("psnr"), ".2f") for restorer in ("degraded", "linear", network)),
        shown(found.get(network, {}).get("mse"), ".3e"), shown(found.get(network, {}).get("ssim"), ".4f"),
    ]  # fmt: skip


def cases_table(cases: list, style: str = "text") -> str:
    """What released weights do to pictures, from their card's ``cases``: mean PSNR before and after, mean and smallest gain; and
    the same with an ensemble of 8."""

    def gain(field, record):
        return "-" if record["before"] is None or record[field] is None else f"{record[field] - record['before']:+.2f}"

    columns = [Column("pictures", itemgetter("pictures")), Column("case", itemgetter("case")), number("images", "images", "d"),
               number("before (dB)", "before", ".2f"), number("after (dB)", "after", ".2f"),
               Column("gain (dB)", functools.partial(gain, "after")), number("least", "least", "+.2f"),
               number("ensemble (dB)", "averaged", ".2f"), Column("gain (dB)", functools.partial(gain, "averaged")),
               number("least", "least_averaged", "+.2f")]  # fmt: skip
    return render(cases, columns, style)


def perception_table(records: list, style: str = "text") -> str:
    """Restored images as a table: distortion, and how natural they look to the study's classifier."""
    kernel = Column("kernel x 1000", lambda record: f"{1000 * record['kernel_distance']:.2f}")
    columns = [Column("restorer", _perceived), IMAGES, MSE, number("PSNR dB", "psnr", ".2f"),
               interval("Fréchet [95 %]", "frechet", ".3f"), kernel, ACCURACY, GRADIENTS, RUN]  # fmt: skip
    return render(records, columns, style)


def _perceived(record):
    setting = [] if record.get("setting") is None else [f"{record['setting']:g}"]
    trained = published.published_parameters(record["run"]) if record["restorer"] in ("gan", "vae_mean", "vae_sample") else {}
    special = [name for name, field in (("features", "feature_weight"), ("free nats", "free_nats")) if trained.get(field)]
    return ", ".join([restorer_title(record), *setting, *special])


def rate_table(records: list, style: str = "text") -> str:
    """Compressed images by bits per pixel, without and with the file's header; what several runs measured alike is shown once."""
    once = {(record["restorer"], record["bits_per_pixel"], record["psnr"]): record for record in records}
    rows = sorted(once.values(), key=lambda record: (*published.order(record), record["bits_per_pixel"]))
    columns = [Column("compressed by", restorer_title), Column("setting", lambda record: shown(record.get("setting"), "g")), IMAGES,
               number("bits per pixel", "bits_per_pixel", ".3f"), MSE, PSNR, SSIM, RUN]  # fmt: skip
    columns.insert(4, Column("in the file", lambda record: shown(record.get("bits_per_pixel_in_file"), ".3f")))
    return render(rows, columns, style)


def rate_curves(records: list) -> dict:
    """Compressed images' records as curves: title -> bits per pixel, rising, and PSNR and SSIM at each."""
    found = {}
    for record in sorted(records, key=itemgetter("bits_per_pixel")):
        found.setdefault(restorer_title(record), []).append([record[field] for field in ("bits_per_pixel", "psnr", "ssim")])
    return {title: tuple(map(list, zip(*points, strict=True))) for title, points in found.items()}


def rate_gains(records: list, restorer: str = "compressor") -> list:
    """A restorer's points by rising ``bits_per_pixel``, with ``psnr`` and ``others``: title -> PSNR there, interpolated."""
    points = sorted({(record["bits_per_pixel"], record["psnr"]) for record in records if record["restorer"] == restorer})
    lines = rate_curves([record for record in records if record["restorer"] != restorer]).items()
    others = [{title: float(np.interp(rate, rates, psnrs)) for title, (rates, psnrs, _) in lines if rates[0] <= rate <= rates[-1]}
              for rate, _ in points]  # fmt: skip
    return [{"bits_per_pixel": rate, "psnr": psnr, "others": at} for (rate, psnr), at in zip(points, others, strict=True)]


def codecs_table(records: list) -> str:
    """The top README's table: PSNR of the compressor for all rates, at its rates within :data:`SHOWN_RATES`, and there of those
    that people use and publish; the highest in bold."""
    own, rows = RESTORER_TITLES["any_rate_compressor"], []
    for point in rate_gains(records, "any_rate_compressor"):
        if SHOWN_RATES[0] <= point["bits_per_pixel"] <= SHOWN_RATES[1]:
            found = {own: point["psnr"], **point["others"]}
            cells = {name: shown(found.get(name), ".2f") for name in (own, *CODECS)}
            best = max(filter(cells.get, found), key=found.get)
            cells[best] = f"**{cells[best]}**"
            rows.append([f"{point['bits_per_pixel']:.2f}", *cells.values()])
    return "\n".join(_markdown(["bits per pixel", own, *CODECS], rows))


def bottleneck_curves(records: list) -> tuple:
    """Bottlenecks without rounding: sizes, rising, and ``{title: PSNR at each size}``, where several runs have one that of the most
    training images; ``ValueError`` where one is missing."""
    sizes, found = sorted({record["latent"] for record in records}), {}
    for record in sorted(records, key=lambda record: record["images_seen"]):
        found.setdefault(RESTORER_TITLES[record["restorer"]], {})[record["latent"]] = record["psnr"]
        if "linear_filter_psnr" in record:  # a restorer without a bottleneck, on the same images
            found.setdefault("linear filter of the blurred", {})[record["latent"]] = record["linear_filter_psnr"]
    for title, psnrs in found.items():
        if sorted(psnrs) != sizes:
            raise ValueError(f"{title} was measured at {sorted(psnrs)} numbers, not at {sizes}")
    return sizes, {title: [psnrs[size] for size in sizes] for title, psnrs in found.items()}


def _on_most_images(records):
    most = {}
    for record in records:
        what = tuple(record[name] for name in ("protocol", "restorer", "split", "parameters", "source")), published.title(record)
        most[what] = max(most.get(what, record), record, key=lambda record: record["images"] or 0)
    return list(most.values())


def map_table(rows: list, style: str = "text") -> str:
    """Where recurrence pays, from :func:`lstm_ae_lib.study.margins.margins`."""
    columns = [
        Column("task", itemgetter("task")), Column("what must be remembered", itemgetter("remembered")),
        Column("recurrent, dB", lambda row: f"{row['recurrence']} {row['with']:.2f}"),
        Column("best with a limited reach, dB", lambda row: f"{row['best']} {row['without']:.2f}"),
        Column("margin [95 %]", lambda row: f"{row['margin']:+.2f}"
               + ("" if row["low"] is None else f" [{row['low']:+.2f}, {row['high']:+.2f}]")),
        Column("seeds", lambda row: " and ".join(map(str, dict.fromkeys(row["seeds"])))),
    ]  # fmt: skip
    return render(rows, columns, style)


def comparison_line(found: dict) -> str:
    """One comparison in words."""
    text = "{run} against {other}: {psnr:+.2f} dB [{psnr_low:+.2f}, {psnr_high:+.2f}], better on {wins:.1%} of {images:,} images"
    return text.format(**found)


def readme_overview(records: list) -> str:
    """The top README's table: for four protocols, each family's restorer of lowest error: PSNR, MSE x 1000, training minutes."""
    families = {"degraded": ("degraded",), "linear filter": CLOSED_FORM, "LSTM autoencoder": LSTMS,
                "convolutional network": PEERS, "flagship": FLAGSHIPS}  # fmt: skip
    measured, _ = _readme_records(records)
    cells = [[f"`{name}`: {degradations.PROTOCOLS[name].summary}", *(
        _psnr_and_error(min((record for record in measured if record["protocol"] == name and record["restorer"] in family),
                            key=itemgetter("mse"), default=None)) for family in families.values())]
        for name in OVERVIEW]  # fmt: skip
    return "\n".join(_markdown(["protocol", *families], cells))


def _psnr_and_error(record):
    if record is None:
        return "-"
    minutes = f" ({record['minutes']:.0f})" if record["minutes"] and record["restorer"] not in CLOSED_FORM else ""
    return f"{record['psnr']:.2f} / {1000 * record['mse']:#.3g}{minutes}"


def families_table(records: list) -> str:
    """Of all protocols that the flagship was trained for: lowest MSE x 1000 per family (training minutes)."""
    families = {"degraded": ("degraded",), "best closed form": CLOSED_FORM, "LSTM autoencoder": LSTMS[:1],
                "bidirectional": LSTMS[1:], "convolutional network": PEERS, "flagship": FLAGSHIPS}  # fmt: skip
    measured, others = _readme_records(records)
    found = {title: [record for record in measured if record["restorer"] in family] for title, family in families.items()}
    found["published by others"] = others
    protocols = {record["protocol"] for record in found["flagship"]}
    cells = [[f"`{name}`: {protocol.summary}", *(_lowest_error(those, name) for those in found.values())]
             for name, protocol in degradations.PROTOCOLS.items() if name in protocols]  # fmt: skip
    return "\n".join(_markdown(["protocol", *found], cells))


def _lowest_error(records, protocol):
    record = min((record for record in records if record["protocol"] == protocol), key=itemgetter("mse"), default=None)
    if record is None:
        return "-"
    number = f"{1000 * record['mse']:#.3g}" + (r"\*" if record["split"] != "test" or "indicative" in record["source"] else "")
    return f"{number} ({record['minutes']:.0f})" if record["minutes"] and record["restorer"] not in CLOSED_FORM else number


def _readme_records(records):
    """The READMEs' records, measured and others', in order: no tuned restorers, nothing that compressors are compared with, and
    nothing of :data:`SERIES`."""
    found = [record for record in records
             if record["data"] == "full" and record["budget"] != "tuned" and not published.is_perception(record)
             and record["protocol"] not in SERIES
             and (record["protocol"] != "compress" or (record["restorer"] in COMPRESSORS and record.get("bits_per_pixel")))
             ]  # fmt: skip
    found = sorted(_on_most_images(found), key=published.order)
    measured = [record for record in found if record["source"] == "measured" and record["split"] == "test"]
    return measured, [record for record in found if record["source"] != "measured"]


def results_table(records: list) -> str:
    """The published test-set numbers, but for tuned restorers, photographs and :data:`SERIES`."""
    measured, others = _readme_records(records)
    columns = [Column("protocol", lambda record: f"`{record['protocol']}`"),
               Column("restorer", lambda record: published.title(record)
                      + ("" if record in measured else f", {record['source']}, {record['split']} images")),
               number("MSE", "mse", ".2e"), PSNR, SSIM, PARAMETERS, MINUTES]  # fmt: skip
    table = render(sorted(measured + others, key=published.order), columns, "markdown")
    said = f"Measured on {_listed(measured, 'images', ',')} test images, on {_listed(measured, 'hardware')}, one seed where none "
    said += "is named. Tuned restorers are in notebook 4, broken files in 30, bursts by frames in 31, rows by length in 33."
    return f"{table}\n\n{said}"


def _listed(records, field, style=""):
    return " / ".join(format(value, style) for value in sorted({record[field] for record in records}))


def looks_table(records: list) -> str:
    """How natural restored images look, from :func:`~lstm_ae_lib.study.records.perception_records`, as a Markdown table."""
    columns = [Column("restorer", _perceived), Column("MSE x 1000", lambda record: f"{1000 * record['mse']:#.3g}"), PSNR,
               interval("Fréchet distance [95 %]", "frechet", ".2f"), ACCURACY, GRADIENTS]  # fmt: skip
    return f"{render(records, columns, 'markdown')}\n\n`gauss2`, {_listed(records, 'images', ',')} test images."


def speed_table(training: list, growth: list) -> str:
    """Speed as a Markdown table, from the records of ``bench train`` and ``bench scaling``."""
    most = max(record["threads"] for record in training)
    here, cells = [record for record in training if record["threads"] == most], []
    for task, batch in dict.fromkeys((record["task"], record["batch"]) for record in here):
        peers = {record["implementation"]: record for record in here if (record["task"], record["batch"]) == (task, batch)}
        times = [shown(peers.get(name, {}).get("milliseconds"), ".2f") for name in ("keras", "pytorch", "onnxruntime")]
        own = {"project": task, "flagship": task, "gated scan": "the same by gated scans"} if "pytorch" in peers else {}
        for title, record in ((title, peers[name]) for name, title in own.items() if name in peers):
            share = shown(record.get("fraction_of_gemm"), ".0%")
            cells.append([title, str(batch), shown(record["milliseconds"], ".2f"), *times, ratio(record), share])
    titles = ["", "batch", "this library", "stock Keras", "PyTorch", "ONNX Runtime", "of PyTorch's time", "of the GEMM rate"]
    project = {record["task"]: record for record in here if record["implementation"] == "project"}
    once, step = (project[task]["milliseconds"] / project[task]["batch"] for task in ("making the pipeline", "step with one batch"))
    rounds, exact, short = (_ends({record[field] for record in here if record["task"].endswith("bfloat16") in kinds})
                            for field, kinds in (("rounds", (True, False)), ("gemm_gflops", (False,)), ("gemm_gflops", (True,))))
    growth = {record["what"]: f"to the power of {record['exponent']:.2f}" for record in growth}
    flagship = {record["task"]: record["milliseconds"] for record in here if record["implementation"] == "flagship"}
    scans = (f"{flagship[f'scans of a step, {kind}'] / flagship[f'flagship step, {kind}']:.0%}" for kind in ("float32", "bfloat16"))
    return "\n".join([
        *_markdown(titles, cells), "",
        f"Medians of {rounds} interleaved rounds, {most} threads, {here[0]['hardware']}, GEMM {exact} GFLOP/s, {short} in "
        f"bfloat16. A step fed by the pipeline takes "
        f"{ratio(project['step with pipeline'], 'one_batch')} of the time of one with the same batch repeated; degrading all "
        f"images when the pipeline is made adds {once / step:.0%} to the first epoch. Of the flagship's step, recurrences without "
        f"their products take {' and, in bfloat16, '.join(scans)}. Training time grows as the number of images "
        f"{growth['images']}, the pixels of an image {growth['side']}, and the multiply-adds of a model {growth['units']}.",
    ])  # fmt: skip


def _ends(values):
    """The smallest and the largest number, or the only one, or none."""
    if not values:
        return "-"
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"


def workers_table(found: list, style: str = "text") -> str:
    """Folders restored by several workers: the records of ``bench workers``."""
    columns = [Column("workers", lambda record: str(record["workers"] or "none, one process")),
               Column("seconds", lambda record: f"{record['seconds']:.1f} [{record['low']:.1f}, {record['high']:.1f}]"),
               number("a second", "pictures_per_second", ".1f"), interval("times one worker", "speedup", ".2f")]  # fmt: skip
    said = ("Median [lowest, highest] of {repeats} processes, start included, in turn; {pictures} pictures of {side} x {side}, "
            "weights {weights}, one core a worker; {hardware}.")  # fmt: skip
    return f"{render(found, columns, style)}\n\n{said.format(**found[0])}"


def crops_table(found: list, style: str = "text") -> str:
    """Folders of many pictures to train on: the records of ``bench crops``."""
    columns = [number("files", "files", ","), number("seconds to open it", "open_seconds", ".1f"),
               Column("crops a second", lambda one: f"{one['rate']:,.0f} [{one['low']:,.0f}, {one['high']:,.0f}]"),
               number("peak MiB", "peak_mebibytes", ",")]  # fmt: skip
    said = ("Median [lowest, highest] of {repeats} processes; PNG files of {side} x {side}, one crop of each, degraded as "
            "{protocol}, {images:,} of them; peak with TensorFlow; {hardware}.")  # fmt: skip
    return f"{render(found, columns, style)}\n\n{said.format(**found[0])}"


def readme_tables() -> dict:
    """The READMEs' tables by the name of their marks; map, looks and speed only where they have been measured."""
    records = published.reference_records()
    tables = {"overview": readme_overview(records), "families": families_table(records), "results": results_table(records)}
    if {"jpeg-feedback", "jpeg-unet", "burst-recurrent"} <= {record["run"] for record in records}:
        tables["map"] = map_table(margins.margins(), "markdown")
    if "scale_hyperprior" in {record["restorer"] for record in records}:
        tables["codecs"] = codecs_table(published.codec_records())
    if perceived := published.perception_records("gauss2"):
        tables["looks"] = looks_table(perceived)
    speed = [published.benchmark_records(name) for name in ("train", "scaling")]
    tables |= {"speed": speed_table(*speed)} if all(speed) else {}
    for name, table in {"workers": workers_table, "crops": crops_table}.items():
        measured = published.benchmark_records(name)
        tables |= {name: table(measured, "markdown")} if measured else {}
    return tables


def update_readmes() -> None:
    """Writes the tables of the published records and of the recorded speed between their marks in the READMEs."""
    folder, texts = paths.data_dir().parent, {}
    for name, table in readme_tables().items():
        file, command = WRITTEN[name]
        text = texts.get(file) or (folder / file).read_text(encoding="utf-8")
        texts[file] = address.fill(text, name, command, table, file)
    for file, text in texts.items():
        files.write(folder / file, text.encode())
