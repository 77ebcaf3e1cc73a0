"""The twenty most likely mistakes, and what each is told: what came, and what is allowed."""

import numpy as np
import pytest

from lstm_ae_lib import __main__, cifar10, datasets, degradations, layers, metrics, models, restoring, seeding, weights
from lstm_ae_lib.fast import threads
from lstm_ae_lib.study import runs

BYTES = np.zeros((2, 16, 16, 3), np.uint8)
FLOATS = np.zeros((2, 16, 16, 3), np.float32)

PYTHON = {
    "a misspelt data set": (lambda: cifar10.load_cifar10("samples"), "data must be one of full, sample; got 'samples'"),
    "a misspelt protocol": (
        lambda: degradations.degrade(BYTES, "gaus2"),
        "protocol must be one of reference, gauss1, gauss2, gauss3, blind, noisy, cold, cold8, awgn15, awgn25, awgn50, awgn, "
        "camera, photo, photo_blurred; got 'gaus2'",
    ),
    "floats where bytes are degraded": (
        lambda: degradations.degrade(FLOATS, "gauss2"),
        "images must be uint8 (0 to 255), got float32",
    ),
    "one image where a batch is wanted": (
        lambda: degradations.degrade(BYTES[0], "gauss2"),
        "images must have the shape (batch, height, width, 3) with no empty axis, got (16, 16, 3)",
    ),
    "grey levels where 0 to 1 is wanted": (
        lambda: metrics.evaluate(FLOATS, FLOATS + 200),
        "restored must lie in [0, 1], got values from 200 to 200",
    ),
    "two sets of different images": (
        lambda: metrics.evaluate(BYTES, BYTES[:1]),
        "clean and restored must have the same shape, got (2, 16, 16, 3) and (1, 16, 16, 3)",
    ),
    "NaN": (
        lambda: metrics.evaluate(BYTES, FLOATS * np.nan),
        "restored must be finite, got 1536 values that are NaN or infinite",
    ),
    "a picture of 32-bit whole numbers": (
        lambda: restoring.restore(BYTES[0].astype(np.int32), lambda images: images),
        "image must be uint8, uint16, or floating in [0, 1], got int32",
    ),
    "misspelt weights": (
        lambda: restoring.load_restorer("gaus2"),
        f"weights must be one of {', '.join(weights.released())}; got 'gaus2'",
    ),
    "a path where a name is wanted": (
        lambda: restoring.load_restorer("../gauss2"),
        "weights must be 1 to 100 letters, digits, '.', '_' or '-', starting with neither '.' nor '-'; got '../gauss2'",
    ),
    "a negative seed": (lambda: seeding.set_seed(-1), "seed must be a whole number from 0 to 2.14748e+09, got -1"),
    "no threads": (lambda: threads.set_threads(0), "inter_op must be a whole number from 1 to 1024, got 0"),
    "half a unit": (lambda: layers.GatedScan(0.5), "units must be a whole number from 1 to 65536, got 0.5"),
    "an image without channels": (
        lambda: models.reference_lstm_autoencoder((32, 32)),
        "image_shape must be (height, width, channels), all known with a bottleneck, got (32, 32)",
    ),
    "a batch larger than the data": (
        lambda: datasets.training_batches(BYTES, BYTES, 64, 0),
        "batch_size must be a whole number from 1 to 2, got 64",
    ),
}

COMMANDS = {
    "a file that is not there": (["restore", "IN/nothing.png", "IN/out.png"], "there is no file IN/nothing.png"),
    "a text where a picture is wanted": (["restore", "IN/text.png", "IN/out.png"], "text.png is neither a PNG nor a JPEG picture"),
    "another format": (
        ["restore", "IN/text.png", "IN/out.gif"],
        "the suffix of the file to write must be one of .png, .jpg, .jpeg; got '.gif'",
    ),
    "a folder that is not there": (["restore", "IN/picture.png", "IN/nowhere/out.png"], "there is no folder IN/nowhere"),
    "a misspelt parameter": (
        ["run", "-p", "epoch", "3"],
        "there is no parameter 'epoch' (did you mean 'epochs'?); the parameters are:",
    ),
    "a word where a number is wanted": (["run", "-p", "epochs", "abc"], "the parameter epochs must be int, got 'abc'"),
    "a number out of range": (["run", "-p", "epochs", "0"], "the parameter epochs must be from 1 to 10000, got 0"),
    "a misspelt preset": (["run", "--preset", "quik"], "preset must be one of flagship, full, photo, precursor, quick; got 'quik'"),
    "a run that is not there": (["runs", "nothing"], "there is no run 'nothing' in"),
    "a misspelt sweep": (["sweep", "nothing"], "there is no sweep file 'nothing'; those of the study: "),
}


@pytest.mark.parametrize("mistake", PYTHON)
def test_python_names_what_came_and_what_is_allowed(mistake):
    call, message = PYTHON[mistake]
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole message is compared
        call()
    assert str(raised.value) == message


@pytest.mark.parametrize("mistake", COMMANDS)
def test_the_command_line_says_it_in_one_line_and_leaves_no_file(mistake, made, tmp_path, capsys):
    command, message = COMMANDS[mistake]
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "picture.png").write_bytes(_png())
    before = sorted(tmp_path.rglob("*"))
    assert __main__.main([word.replace("IN/", f"{tmp_path}/") for word in command]) == 2
    said = capsys.readouterr().err.replace(f"{tmp_path}/", "IN/")
    assert said.startswith(f"error: {message}") and (said.count("\n") == 1 or message.endswith(":")), said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LSTM_AE_DATA", str(tmp_path / "file"))
    with pytest.raises(OSError, match="cannot write a run: Not a directory: '.*file/runs"):
        runs.start_run("one", {"seed": 0}, cifar10.load_cifar10("sample"), "gauss2")


def _png():
    import cv2

    return cv2.imencode(".png", BYTES[0])[1].tobytes()
