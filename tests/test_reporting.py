import json

import pytest

from lstm_ae_lib import __main__, classical, degradations, metrics, paths, spectral
from lstm_ae_lib.study import reporting, runs


@pytest.fixture
def run(made, sample, clean, blurred):
    """A run as notebooks 02 and 03 leave it, of the untouched images only."""
    run = runs.start_run("one", {"seed": 3}, sample, "gauss2")
    run.path("history.csv").write_text("epoch,loss\n0,0.5\n")
    run.save_records([run.new_record(restorer="degraded", split="test", summary=metrics.evaluate(clean, blurred))])
    return run


@pytest.fixture
def tracked(monkeypatch, tmp_path):
    """A repository of the test's own: its README, and a metrics file with a record from elsewhere and an old one."""
    folder = tmp_path / "tracked" / "data"
    folder.mkdir(parents=True)
    monkeypatch.setattr(paths, "data_dir", lambda: folder)
    monkeypatch.setattr(paths, "figures_dir", lambda: folder.parent)
    marked = [f"{start}\nold\n{end}\n" for start, end in (reporting.OVERVIEW_MARKS, reporting.README_MARKS)]
    (folder.parent / "README.md").write_text("".join(["above\n", *marked, "below\n"]))
    foreign = dict.fromkeys(runs.RECORD_FIELDS) | {
        "source": "published: a paper", "protocol": "gauss2", "restorer": "reference_lstm", "split": "validation",
        "mse": 0.0014, "data": "full",
    }  # fmt: skip
    (folder / "reference_metrics.json").write_text(json.dumps({"records": [foreign, foreign | {"run": "one"}]}))
    return folder


def test_publishing_replaces_a_runs_records_and_keeps_others(run, tracked):
    run.update(status="finished", process=runs.this_process())
    reporting.publish(["one"])
    assert [record["run"] for record in reporting.reference_records()] == ["one", None]
    assert reporting.reference_records(source="measured") == run.records()
    assert sorted(path.name for path in (tracked / "published" / "one").iterdir()) == ["history.csv", "metrics.json", "run.json"]
    assert "process" not in json.loads((tracked / "published" / "one" / "run.json").read_text())


def test_what_two_runs_measured_alike_is_published_once(run, tracked, sample):
    import shutil

    run.update(status="finished")
    shutil.copytree(run.folder, run.folder.parent / "two")
    runs.open_run("two").save_records([record | {"run": "two"} for record in run.records()])
    reporting.publish(["one", "two"])
    assert [record["run"] for record in reporting.reference_records(source="measured")] == ["one"]
    reporting.publish(["two"])
    assert [record["run"] for record in reporting.reference_records(source="measured")] == ["one"]


def test_publishing_checks_everything_before_it_writes(run, tracked):
    before = sorted(tracked.rglob("*")), (tracked / "reference_metrics.json").read_text()
    with pytest.raises(ValueError, match="only a finished run can be published; 'one' is interactive"):
        reporting.publish(["one"])
    run.update(status="finished")
    run.path("metrics.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no metrics.json"):
        reporting.publish(["one"])
    assert (sorted(tracked.rglob("*")), (tracked / "reference_metrics.json").read_text()) == before


def test_a_run_that_only_trained_is_published_with_its_history(run, tracked):
    run.update(status="finished", notebooks=["02_train_autoencoder"])
    run.path("metrics.json").unlink()
    run.path("history.csv").write_text("epoch,val_psnr,minutes,images\n0,20.5,0.5,640\n1,21.5,1.0,1280\n")
    assert reporting.published_training("one") is None
    assert reporting.publish(["one"]) == []
    found = reporting.published_training("one")
    assert found.pop("run")["name"] == "one"
    assert found == {"images": [640, 1280], "minutes": [0.5, 1.0], "psnr": [20.5, 21.5]}
    run.path("history.csv").unlink()
    with pytest.raises(FileNotFoundError, match="has no history.csv"):
        reporting.publish(["one"])


def test_a_title_says_how_a_network_was_trained_where_that_is_unusual(run, tracked):
    run.save_records([record | {"data": "full"} for record in run.records()])
    run.update(status="finished")
    run.save_records([record | {"restorer": "unet", "budget": "4 minutes"} for record in run.records()])
    run.update(parameters=run.record["parameters"] | {"optimizer": "muon", "precision": "bfloat16"})
    reporting.publish(["one"])
    assert "| U-Net, 4 minutes, Muon, bfloat16 |" in (tracked.parent / "README.md").read_text()
    run.update(parameters=run.record["parameters"] | {"optimizer": "adam", "precision": "float32", "linear_parts": 12})
    reporting.publish(["one"])
    assert "| U-Net, 4 minutes, mixture start |" in (tracked.parent / "README.md").read_text()
    run.update(parameters=run.record["parameters"] | {"linear_parts": 1, "options": '{"gate": true}'})
    reporting.publish(["one"])
    assert "| U-Net, 4 minutes, gate |" in (tracked.parent / "README.md").read_text()
    run.update(parameters=run.record["parameters"] | {"options": "{}"})
    reporting.publish(["one"])
    assert "| U-Net, 4 minutes |" in (tracked.parent / "README.md").read_text()


def test_publishing_writes_the_table_into_readme(run, tracked):
    run.save_records([record | {"data": "full"} for record in run.records()])
    run.update(status="finished")
    reporting.publish(["one"])
    text = (tracked.parent / "README.md").read_text()
    assert text.startswith("above\n") and text.endswith("below\n") and "\nold\n" not in text
    record = run.records()[0]
    assert f"| `gauss2` | degraded | {record['mse']:.2e} | {record['psnr']:.2f} [" in text
    assert "LSTM autoencoder, published: a paper, validation images | 1.40e-03 | - | - |" in text
    (tracked.parent / "README.md").write_text("no marks")
    with pytest.raises(ValueError, match="README.md has no marks"):
        reporting.update_readme()


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


def test_readme_shows_compressors_and_not_what_they_are_compared_with(run, tracked):
    run.save_records([
        record | {"data": "full", "protocol": "compress", "restorer": name, "bits_per_pixel": 0.754, "budget": "5 minutes"}
        for record in run.records()
        for name in ("compressor", "jpeg")
    ])  # fmt: skip
    run.update(status="finished")
    reporting.publish(["one"])
    text = (tracked.parent / "README.md").read_text()
    assert "| `compress` | compressor, 0.75 bits per pixel, 5 minutes |" in text and "JPEG" not in text


def test_what_looking_natural_costs_against_the_flagship(run, tracked):
    (record,) = run.records()
    looks = {"kernel_distance": 0.1, "gradient_energy": 0.7, "images": 9}
    records = [
        record | looks | {"restorer": name, "psnr": psnr, "frechet": frechet, "accuracy": accuracy, "setting": setting}
        for name, psnr, frechet, accuracy, setting in (
            ("flagship", 29.0, 8.0, 0.7, None),
            ("gan", 28.5, 4.0, 0.75, 0.003),
            ("clean", None, 0.0, 0.9, None),
        )
    ]
    assert reporting.perception_prices(records) == [
        "flagship against a discriminator, 0.003: -0.50 dB, 0.50 of the Fréchet distance, accuracy +0.050"
    ]
    assert reporting.perception_prices(records[1:]) == []
    assert [title for title, *_ in reporting.perception_points(records)] == ["flagship", "flagship against a discriminator, 0.003"]
    run.save_records([record])
    run.update(status="finished", parameters=run.record["parameters"] | {"feature_weight": 0.01})
    reporting.publish(["one"])
    assert "flagship against a discriminator, 0.003, features: " in reporting.perception_prices(records)[0]
    run.update(parameters=run.record["parameters"] | {"feature_weight": 0.0, "free_nats": 0.05})
    reporting.publish(["one"])
    free = [records[0], records[1] | {"restorer": "vae_mean", "setting": None}]
    assert reporting.perception_prices(free)[0].startswith("mean of VAE samples, free nats: -0.50 dB")


def test_variational_runs_are_shown_with_their_bounds(run, tracked):
    assert reporting.variational_runs() == []
    part = {"bits": 4.5, "bits_low": 4.4, "bits_high": 4.6, "latent_bits": 0.25, "used": 30, "latent": 32}
    more = {"rank_correlation": 0.5, "rank_correlation_images": 0.75}
    run.update(status="finished", variational={"drawing": part, "restoring": part | more})
    run.update(parameters=run.record["parameters"] | {"free_nats": 0.05})
    reporting.publish(["one"])
    found = reporting.variational_runs()
    assert [record["name"] for record in found] == ["one"]
    line = reporting.variational_table(found).splitlines()[-1]
    assert line.split()[:2] == ["one", "0.05"] and line.count("4.500 [4.400, 4.600]") == 2 and line.count("30 of 32") == 2
    assert line.split()[-2:] == ["0.500", "0.750"]


def test_a_restorer_without_a_title_is_shown_by_its_name(run, tracked):
    (record,) = run.records()
    run.save_records([record | {"restorer": "my_network", "data": "full"}])
    run.update(status="finished")
    reporting.publish(["one"])
    assert "| `gauss2` | my_network |" in (tracked.parent / "README.md").read_text()


def test_a_damaged_run_is_listed_as_such(run):
    run.path("run.json").write_text("{")
    assert "damaged" in reporting.runs_table(runs.list_runs())


def test_figures_are_published_by_copying(run, tracked):
    run.path("figures").mkdir()
    for name in ("01_a.png", "03_b.png"):
        run.path("figures").joinpath(name).write_bytes(b"png")
    assert reporting.publish_figures(run) == ["01_a.png", "03_b.png"]
    assert (tracked.parent / "03_b.png").read_bytes() == b"png"


@pytest.fixture
def pair(made, sample):
    """Two runs on the sample: of the untouched images, and of the linear filter's estimate of them."""
    blurred = degradations.degrade(sample.train_images, "gauss2")
    fitted = {
        "idle": spectral.linear_filter((32, 32, 3), "dct1"),
        "sharp": classical.fit_linear_filter(blurred, sample.train_images, "dct1"),
    }
    for name, model in fitted.items():
        run = runs.start_run(name, {"protocol": "gauss2", "sigma": 0.0, "seed": 0}, sample, "gauss2")
        run.save_model("autoencoder", model, "linear_filter", {"transform": "dct1"})
    return sample


def test_two_runs_are_compared_image_by_image(pair, tracked, capsys):
    assert __main__.main(["compare", "sharp", "idle", "--save"]) == 0
    assert __main__.main(["compare", "sharp", "idle", "--save"]) == 0
    (found,) = reporting.comparisons("gauss2")
    blurred = metrics.per_image(pair.test_images, degradations.degrade(pair.test_images, "gauss2"))
    network = runs.open_run("sharp").load_model("autoencoder")
    seen = degradations.as_float(degradations.degrade(pair.test_images, "gauss2"))
    sharp = metrics.per_image(pair.test_images, network.predict(seen, verbose=0).clip(0, 1))
    assert found["psnr"] == pytest.approx((sharp["psnr"] - blurred["psnr"]).mean(), rel=1e-4)
    assert 0 < found["psnr_low"] < found["psnr"] < found["psnr_high"] and found["images"] == 500
    assert f"sharp against idle: {found['psnr']:+.2f} dB [" in capsys.readouterr().out
    assert reporting.comparisons("blind") == []
    runs.open_run("idle").update(protocol="gauss3")
    assert __main__.main(["compare", "sharp", "idle"]) == 2
    assert "runs of one protocol and the same images can be compared" in capsys.readouterr().err
