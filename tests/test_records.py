import json
import math

import pytest

from lstm_ae_lib import __main__, classical, degradations, metrics, spectral
from lstm_ae_lib.study import records, runs


def test_publishing_replaces_a_runs_records_and_keeps_others(run, tracked):
    run.update(status="finished", process=runs.this_process())
    records.publish(["one"])
    assert [record["run"] for record in records.reference_records()] == ["one", None]
    assert records.reference_records(source="measured") == run.records()
    assert sorted(path.name for path in (tracked / "published" / "one").iterdir()) == ["history.csv", "metrics.json", "run.json"]
    assert "process" not in json.loads((tracked / "published" / "one" / "run.json").read_text())


def test_what_two_runs_measured_alike_is_published_once(run, tracked, sample):
    import shutil

    run.update(status="finished")
    shutil.copytree(run.folder, run.folder.parent / "two")
    runs.open_run("two").save_records([record | {"run": "two"} for record in run.records()])
    records.publish(["one", "two"])
    assert [record["run"] for record in records.reference_records(source="measured")] == ["one"]
    records.publish(["two"])
    assert [record["run"] for record in records.reference_records(source="measured")] == ["one"]


def test_a_network_that_does_the_same_in_two_settings_is_published_with_both(run, tracked):
    (record,) = run.records()
    cases = [record | {"restorer": name, "parameters": size, "setting": frames, "drift": 1.0}
             for name, size in (("window", 9), ("degraded", 0)) for frames in (4, 8)]  # fmt: skip
    run.save_records(cases)
    run.update(status="finished")
    published = records.publish([run.name])
    assert [(one["restorer"], one["setting"]) for one in published] == [("degraded", 4), ("window", 4), ("window", 8)]


def test_publishing_checks_everything_before_it_writes(run, tracked):
    before = sorted(tracked.rglob("*")), (tracked / "reference_metrics.json").read_text()
    with pytest.raises(ValueError, match="only a finished run can be published; 'one' is interactive"):
        records.publish(["one"])
    run.update(status="finished")
    run.path("metrics.json").unlink()
    with pytest.raises(FileNotFoundError, match="has no metrics.json"):
        records.publish(["one"])
    assert (sorted(tracked.rglob("*")), (tracked / "reference_metrics.json").read_text()) == before


def test_a_run_that_only_trained_is_published_with_its_history(run, tracked):
    run.update(status="finished", notebooks=["90_train"])
    run.path("metrics.json").unlink()
    run.path("history.csv").write_text("epoch,val_psnr,minutes,images\n0,20.5,0.5,640\n1,21.5,1.0,1280\n")
    assert records.published_training("one") is None
    assert records.publish(["one"]) == []
    found = records.published_training("one")
    assert found.pop("run")["name"] == "one"
    assert found == {"images": [640, 1280], "minutes": [0.5, 1.0], "psnr": [20.5, 21.5]}
    run.path("history.csv").unlink()
    with pytest.raises(FileNotFoundError, match="has no history.csv"):
        records.publish(["one"])


def test_without_names_only_the_tables_are_written_again(tracked, capsys):
    before = (tracked / "reference_metrics.json").read_text()
    assert __main__.main(["publish"]) == 0
    assert json.loads((tracked / "reference_metrics.json").read_text()) == json.loads(before)
    assert "\nold\n" not in (tracked / "published" / "README.md").read_text() + (tracked.parent / "README.md").read_text()


def test_a_history_has_todays_names_and_what_was_not_measured(run, tracked):
    """Records keep the names they were written with; readers find one name."""
    assert records.published_history("one") == {}
    run.path("history.csv").write_text("epoch,told_apart,val_told_apart,val_mse,val_mae\n0,0.5,0.75,NA,\n")
    run.update(status="finished")
    records.publish(["one"])
    found = records.published_history("one")
    assert math.isnan(found.pop("val_mse")[0]) and math.isnan(found.pop("val_mae")[0])
    assert found == {"epoch": [0.0], "discriminator_accuracy": [0.5], "val_discriminator_accuracy": [0.75]}
    run.path("history.csv").write_text("epoch,discriminator_accuracy\n0,0.5\n")
    records.publish(["one"])
    assert records.published_history("one")["discriminator_accuracy"] == [0.5]


def test_the_published_adversarial_trainings_have_the_discriminators_accuracy():
    found = records.published_history("adversarial-001")
    assert len(found["discriminator_accuracy"]) == len(found["val_discriminator_accuracy"]) == len(found["epoch"]) > 30
    assert all(0 <= value <= 1 for value in found["val_discriminator_accuracy"])


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
    (found,) = records.comparisons("gauss2")
    blurred = metrics.per_image(pair.test_images, degradations.degrade(pair.test_images, "gauss2"))
    network = runs.open_run("sharp").load_model("autoencoder")
    seen = degradations.as_float(degradations.degrade(pair.test_images, "gauss2"))
    sharp = metrics.per_image(pair.test_images, network.predict(seen, verbose=0).clip(0, 1))
    assert found["psnr"] == pytest.approx((sharp["psnr"] - blurred["psnr"]).mean(), rel=1e-4)
    assert 0 < found["psnr_low"] < found["psnr"] < found["psnr_high"] and found["images"] == 500
    assert f"sharp against idle: {found['psnr']:+.2f} dB [" in capsys.readouterr().out
    assert records.comparisons("blind") == []
    again = runs.open_run("sharp")
    again.update(
        parameters={name: value for name, value in again.record["parameters"].items() if name not in ("protocol", "sigma")}
    )
    assert records.compare_runs("sharp", "idle")["psnr"] == found["psnr"]  # a task's run has its protocol beside the parameters
    runs.open_run("idle").update(protocol="gauss3")
    assert __main__.main(["compare", "sharp", "idle"]) == 2
    assert "runs of one protocol and the same images can be compared" in capsys.readouterr().err
