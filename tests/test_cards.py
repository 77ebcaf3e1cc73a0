"""Cards of released weights: read from their JSON, as a model hub reads them."""

import re

import pytest
import yaml

from lstm_ae_lib import __main__, files, weights
from lstm_ae_lib.study import cards

NAMES = [f"{kind}/{name}".lstrip("/") for kind in cards.KINDS for name in weights.released(weights.released_dir(kind))]


@pytest.mark.parametrize("name", NAMES)
def test_the_card_beside_the_weights_is_what_their_json_says(name):
    kind, _, own = name.rpartition("/")
    folder = weights.released_dir(kind)
    text, known = (folder / f"{own}.md").read_text(encoding="utf-8"), files.read_json(folder / f"{own}.json")
    assert text == cards.card(name)
    _, header, body = text.split("---\n", 2)
    header = yaml.safe_load(header)
    assert header["license"] == "mit" and header["library_name"] == "keras"
    assert header["pipeline_tag"] in ("image-to-image", "image-classification")
    (measured,) = header["model-index"][0]["results"]
    assert {one["type"] for one in measured["metrics"]} == set(header["metrics"]) and header["metrics"]
    for sha256 in (known["sha256"], *known.get("onnx", {}).values()):
        assert sha256 in body
    assert known["card"]["limits"] in body and known["card"]["run"] in body


def test_the_numbers_of_the_header_are_the_networks_own():
    header = yaml.safe_load(cards.card("gauss2").split("---\n")[1])
    numbers = files.read_json(weights.released_dir() / "gauss2.json")["card"]["numbers"]
    (psnr,) = (one["value"] for one in header["model-index"][0]["results"][0]["metrics"] if one["type"] == "psnr")
    assert psnr == pytest.approx(numbers["flagship"]["psnr"], abs=1e-5) and psnr > numbers["linear"]["psnr"]


@pytest.mark.parametrize("name", ["photo", "compress/default", "lstm/gauss2"])
def test_the_program_of_a_card_loads_the_weights(name):
    (program,) = re.findall(r"```python\n(.*?)```", cards.card(name), re.DOTALL)
    found = {}
    exec(program, found)
    assert {"restorer", "codec", "model"} & set(found)


def test_the_command_prints_a_card_and_refuses_unknown_weights(capsys):
    assert __main__.main(["card", "compress/fine"]) == 0
    assert capsys.readouterr().out == cards.card("compress/fine")
    assert __main__.main(["card", "nothing"]) == 2
    assert "weights must be one of awgn," in capsys.readouterr().err
    assert __main__.main(["card", "webp/photo"]) == 2
    assert "weights must be a NAME, or one of lstm/NAME, burst/NAME, jpeg/NAME, compress/NAME" in capsys.readouterr().err
