import xml.etree.ElementTree

import pytest

from lstm_ae_lib.study import reporting, runs
from lstm_ae_lib.study.records import publish, variational_runs


def test_a_title_says_how_a_network_was_trained_where_that_is_unusual(run, tracked):
    run.save_records([record | {"data": "full"} for record in run.records()])
    run.update(status="finished")
    run.save_records([record | {"restorer": "unet", "budget": "4 minutes"} for record in run.records()])
    run.update(parameters=run.record["parameters"] | {"optimizer": "muon", "precision": "bfloat16"})
    publish(["one"])
    assert "| U-Net, 4 minutes, Muon, bfloat16, seed 3 |" in (tracked / "published" / "README.md").read_text()
    run.update(parameters=run.record["parameters"] | {"optimizer": "adam", "precision": "float32", "linear_parts": 12})
    publish(["one"])
    assert "| U-Net, 4 minutes, mixture start, seed 3 |" in (tracked / "published" / "README.md").read_text()
    run.update(parameters=run.record["parameters"] | {"linear_parts": 1, "options": '{"gate": true}'})
    publish(["one"])
    assert "| U-Net, 4 minutes, gate, seed 3 |" in (tracked / "published" / "README.md").read_text()
    run.update(parameters=run.record["parameters"] | {"options": '{"recurrence": "lstm"}', "pictures": "photographs", "side": 64})
    publish(["one"])
    text = (tracked / "published" / "README.md").read_text()
    assert "| U-Net, 4 minutes, recurrence lstm, crops of 64 pixels, seed 3 |" in text
    run.update(parameters=run.record["parameters"] | {"options": "{}", "pictures": "", "seed": 0})
    publish(["one"])
    assert "| U-Net, 4 minutes |" in (tracked / "published" / "README.md").read_text()


def test_publishing_writes_the_tables_into_the_readmes(run, tracked):
    run.save_records([record | {"data": "full"} for record in run.records()])
    run.update(status="finished")
    publish(["one"])
    text = (tracked / "published" / "README.md").read_text()
    assert text.startswith("above\n") and text.endswith("below\n") and "\nold\n" not in text
    record = run.records()[0]
    assert f"| `gauss2` | degraded | {record['mse']:.2e} | {record['psnr']:.2f} [" in text
    assert "LSTM autoencoder, published: a paper, validation images | 1.40e-03 | - | - |" in text
    short = (tracked.parent / "README.md").read_text()
    assert f"rounded to 8 bits | {record['psnr']:.2f} / {1000 * record['mse']:#.3g} | - |" in short and "\nold\n" not in short
    before = (tracked / "published" / "README.md").read_text()
    (tracked.parent / "README.md").write_text("no marks")
    with pytest.raises(ValueError, match="README.md has no marks"):
        reporting.update_readmes()
    assert (tracked / "published" / "README.md").read_text() == before


ROWS = [{"name": "a|b", "value": 1.5}, {"name": "<i> & longer", "value": None}]
COLUMNS = [
    reporting.Column("name", lambda row: row["name"]),
    reporting.Column("", lambda row: reporting.shown(row["value"], ".2f")),
]


def test_one_renderer_writes_text_markdown_and_html():
    assert reporting.render(ROWS, COLUMNS) == "name\n------------  ----\na|b           1.50\n<i> & longer  -"
    markdown = "| name | |\n|---|---|\n| a\\|b | 1.50 |\n| <i> & longer | - |"
    assert reporting.render(ROWS, COLUMNS, "markdown") == markdown
    page = xml.etree.ElementTree.fromstring(reporting.render(ROWS, COLUMNS, "html"))
    assert page.tag == "table" and [part.tag for part in page] == ["thead", "tbody"]
    assert [[cell.text for cell in line] for line in page.iter("tr")] == [["name", None], ["a|b", "1.50"], ["<i> & longer", "-"]]
    assert reporting.render([], COLUMNS) == "name\n----"
    with pytest.raises(ValueError, match="style must be one of text, markdown, html; got 'latex'"):
        reporting.render(ROWS, COLUMNS, "latex")


def test_a_notebooks_table_takes_titles_or_columns():
    titles = reporting.table([("one", 1.5), ("two", 2)], ("name", "value")).data
    functions = reporting.table(
        [{"n": "one", "v": 1.5}, {"n": "two", "v": 2}], [("name", "{0[n]}".format), ("value", "{0[v]}".format)]
    ).data
    places = reporting.render([("one", 1.5), ("two", 2)], [("name", "{0[0]}".format), ("value", "{0[1]}".format)], "html")
    assert titles == functions == places
    assert "<td>1.5</td>" in titles


def test_tables_come_as_html_too(run):
    (record,) = run.records()
    page = xml.etree.ElementTree.fromstring(reporting.metrics_table([record], "html"))
    titles, cells = ([cell.text for cell in line] for line in page.iter("tr"))
    assert cells[titles.index("PSNR dB [95 %]")] == f"{record['psnr']:.2f} [{record['psnr_low']:.2f}, {record['psnr_high']:.2f}]"


def test_tables_hold_the_numbers(run):
    (record,) = run.records()
    table = reporting.metrics_table([record])
    for name, style in (("mse", ".2e"), ("psnr", ".2f"), ("ssim", ".3f")):
        value, low, high = (format(record[f"{name}{end}"], style) for end in ("", "_low", "_high"))
        assert f"{value} [{low}, {high}]" in table
    line = reporting.runs_table([run]).splitlines()[-1]
    assert line.split()[:3] == ["one", "interactive", "gauss2"] and f"{record['psnr']:.2f}" in line
    run.save_records([record, record | {"restorer": "my_network", "psnr": 33.25}])
    line = reporting.runs_table([run]).splitlines()[-1]
    assert "my_network" in line and "33.25" in line


def test_compressed_images_are_listed_and_drawn_by_their_rate(run):
    (record,) = run.records()
    records = [
        record | {"restorer": name, "bits_per_pixel": rate, "bits_per_pixel_in_file": rate + 2, "psnr": 20 + rate, "setting": 7}
        for name, rate in (("jpeg", 1.5), ("pca", 0.75), ("jpeg", 0.5))
    ]
    ssim = record["ssim"]
    curves = {"JPEG": ([0.5, 1.5], [20.5, 21.5], [ssim, ssim]), "principal components": ([0.75], [20.75], [ssim])}
    assert reporting.rate_curves(records) == curves
    again = records[0] | {"run": "another"}  # what two runs measured alike is shown once
    lines = reporting.rate_table([*records, again]).splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["principal", "JPEG", "JPEG"]
    assert "1.500           3.500" in lines[2]


def test_one_way_to_compress_beside_the_others_at_its_rate(run):
    (record,) = run.records()
    points = (("jpeg", 2.0, 24.0), ("compressor", 1.0, 25.0), ("jpeg", 0.5, 21.0), ("compressor", 0.25, 20.0), ("webp", 1.5, 23.0))
    records = [record | {"restorer": name, "bits_per_pixel": rate, "psnr": psnr} for name, rate, psnr in points]
    low, high = reporting.rate_gains([*records, records[1]])
    assert low == {"bits_per_pixel": 0.25, "psnr": 20.0, "others": {}}  # nothing else was measured at so few bits
    assert high == {"bits_per_pixel": 1.0, "psnr": 25.0, "others": {"JPEG": 22.0}}


def test_the_highest_codec_at_each_rate_is_bold(run):
    (record,) = run.records()
    points = (("jpeg", 0.3, 20.0), ("jpeg", 2.0, 27.1), ("avif", 0.9, 27.0), ("avif", 1.1, 27.0),
              *(("any_rate_compressor", rate, 20 + 7 * rate) for rate in (0.3, 0.5, 1.0, 3.0)))  # fmt: skip
    records = [record | {"restorer": name, "bits_per_pixel": rate, "psnr": psnr} for name, rate, psnr in points]
    head, _, *lines = reporting.codecs_table(records).splitlines()
    assert head.startswith("| bits per pixel | compressor for all rates | scale hyperprior, trained alike |")
    assert head.endswith("| WebP | JPEG |")
    cells = [line.strip("| ").split(" | ") for line in lines]
    assert [line[:2] for line in cells] == [["0.50", "**23.50**"], ["1.00", "**27.00**"]]  # as high as AVIF, and named first
    assert cells[0].count("-") == 7 and cells[0][-1] == "20.84" and cells[1][6] == "27.00"


def test_bottlenecks_are_drawn_by_their_size(run):
    (record,) = run.records()
    records = [
        record | {"restorer": name, "latent": size, "psnr": psnr}
        for name, size, psnr in (("pca", 64, 21.0), ("compressor", 16, 18.5), ("pca", 16, 18.0), ("compressor", 64, 22.0))
    ]
    assert reporting.bottleneck_curves(records) == ([16, 64], {"principal components": [18.0, 21.0], "compressor": [18.5, 22.0]})
    with pytest.raises(ValueError, match=r"principal components was measured at \[16\] numbers, not at \[16, 64\]"):
        reporting.bottleneck_curves(records[1:])
    blurred = [
        record | {"restorer": "bottleneck_restorer", "latent": size, "psnr": 17.0, "linear_filter_psnr": 27.0} for size in (16, 64)
    ]
    assert reporting.bottleneck_curves(records + blurred)[1]["linear filter of the blurred"] == [27.0, 27.0]
    longer = records[-1] | {"psnr": 22.5, "images_seen": records[-1]["images_seen"] + 1}
    assert reporting.bottleneck_curves([longer, *records])[1]["compressor"] == [18.5, 22.5]


def test_the_table_of_all_runs_shows_compressors_and_not_what_they_are_compared_with(run, tracked):
    run.save_records([
        record | {"data": "full", "protocol": "compress", "restorer": name, "bits_per_pixel": 0.754, "budget": "5 minutes"}
        for record in run.records()
        for name in ("compressor", "jpeg")
    ])  # fmt: skip
    run.update(status="finished")
    publish(["one"])
    text = (tracked / "published" / "README.md").read_text()
    assert "| `compress` | compressor, 0.75 bits per pixel, 5 minutes, seed 3 |" in text and "JPEG" not in text


def test_variational_runs_are_the_published_ones_that_have_bounds(run, tracked):
    assert variational_runs() == []
    part = {"bits": 4.5, "bits_low": 4.4, "bits_high": 4.6, "latent_bits": 0.25, "used": 30, "latent": 32}
    run.update(status="finished", variational={"drawing": part, "restoring": part})
    publish(["one"])
    (found,) = variational_runs()
    assert (found["name"], found["variational"]["drawing"]) == ("one", part)


def test_a_restorer_without_a_title_is_shown_by_its_name(run, tracked):
    (record,) = run.records()
    run.save_records([record | {"restorer": "my_network", "data": "full"}])
    run.update(status="finished")
    publish(["one"])
    assert "| `gauss2` | my_network |" in (tracked / "published" / "README.md").read_text()


def test_a_damaged_run_is_listed_as_such(run):
    run.path("run.json").write_text("{")
    assert "damaged" in reporting.runs_table(runs.list_runs())
