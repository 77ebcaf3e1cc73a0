"""Models as files: what was written comes back, nothing else is accepted."""

import json

import numpy as np
import processes
import pytest

from lstm_ae_lib import models, spectral, weights

ARGUMENTS = {"image_shape": [8, 6, 3], "transform": "dct2"}


@pytest.fixture
def written(tmp_path):
    model = spectral.linear_filter(**ARGUMENTS)
    model.set_weights([np.random.default_rng(0).random(weight.shape) for weight in model.get_weights()])
    return model, weights.write(model, tmp_path, "it", "linear_filter", ARGUMENTS, card={"task": "a test"})


def test_what_was_written_is_read(written, tmp_path):
    model, description = written
    again, read = weights.read(tmp_path, "it")
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert read == description and read["parameters"] == 8 * 6 * 12 and read["card"] == {"task": "a test"}
    assert weights.released(tmp_path) == ["it"] and weights.read_released("it", tmp_path)[1] == description


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": None}, "is damaged: it lacks sha256"),
        ({"builder": 3, "arguments": []}, "is damaged: it lacks builder, arguments"),
        ({"sha256": "0" * 64}, "it.weights.h5 is damaged: its SHA-256 is not the one in it.json"),
        ({"builder": "os.system"}, "builder must be one of reference_lstm_autoencoder, .*; got 'os.system'"),
        ({"arguments": {"depth": 3}}, "linear_filter does not take these arguments"),
        ({"card": None}, "it.json is damaged: it lacks card"),
    ],
)
def test_a_damaged_description_is_refused(written, tmp_path, change, message):
    description = {key: value for key, value in (written[1] | change).items() if value is not None}
    (tmp_path / "it.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=message):
        weights.read_released("it", tmp_path)


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}"])
def test_a_description_of_another_kind_is_refused(written, tmp_path, text):
    (tmp_path / "it.json").write_text(text)
    with pytest.raises(ValueError, match="it.json is damaged: it lacks builder, arguments, sha256"):
        weights.read(tmp_path, "it")


def test_what_is_missing_is_said(written, tmp_path):
    with pytest.raises(ValueError, match="weights must be one of it; got 'other'"):
        weights.read_released("other", tmp_path)
    (tmp_path / "it.weights.h5").unlink()
    with pytest.raises(FileNotFoundError, match="there is no .*it.weights.h5"):
        weights.read(tmp_path, "it")
    with pytest.raises(FileNotFoundError, match="there are no released weights in"):
        weights.read_released("it", tmp_path / "empty")


def test_unknown_builders_and_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="builder must be one of reference_lstm_autoencoder, flagship, .*; got 'gan'"):
        weights.build("gan", {})
    with pytest.raises(ValueError, match="does not take these arguments"):
        weights.build("linear_filter", {"depth": 3})
    with pytest.raises(ValueError, match="builder must be one of"):
        weights.write(models.flagship((8, 8, 3), 8, 1), tmp_path, "it", "gan", {})
    assert not list(tmp_path.iterdir())


def test_builders_of_the_tasks_are_known_in_a_new_process():
    code = """
from lstm_ae_lib import weights
model = weights.build("recurrent_inference", {"image_shape": [8, 8, 3], "width": 4})
print(model.output_shape)
"""
    done = processes.run(["-c", code])
    assert done.stdout == "(None, 8, 8, 3)\n", done.stderr


def test_arguments_have_their_names_of_before_as_well():
    for builder, renamed in weights.RENAMED_ARGUMENTS.items():
        for old, new in renamed.items():
            for name in (old, new):
                model = weights.build(builder, {"image_shape": (8, 8, 3), "width": 4, name: 7})
                assert [getattr(layer, new) for layer in model._flatten_layers() if hasattr(layer, new)] == [7]
