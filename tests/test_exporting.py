"""ONNX files: what ONNX Runtime makes of them is what Keras makes, at any size."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from test_readme import blocks

from lstm_ae_lib import __main__, degradations, layers, models, pictures, restoring, weights
from lstm_ae_lib._backend import keras
from lstm_ae_lib.study import exporting
from lstm_ae_lib.tasks import codec, reach

RESTORERS = weights.released()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def written(folder, name):
    if not (path := folder / f"{name}.onnx").exists():
        exporting.export(name, path)
    return session(path)


@pytest.mark.parametrize("name", RESTORERS)
def test_images_and_a_photograph_are_restored_as_by_keras(folder, name, sample):
    restorer = restoring.load_restorer(name)
    photographs = [pictures.photographs()["astronaut"][None, :136, 40:152]] if name in ("photo", "reference", "blind-cifar") else []
    for clean in (sample.test_images[:100], *photographs):
        degraded = degradations.as_float(degradations.degrade(clean, restorer.card["protocol"]))
        (found,) = written(folder, name).run(None, {"degraded": degraded})
        assert np.abs(np.clip(found, 0, 1) - restorer(degraded)).max() < 1e-4


def test_any_size_that_the_metadata_allows_is_taken(folder):
    """Also smaller than the images that the linear start was fitted to, and not square."""
    restorer, used = restoring.load_restorer("gauss2"), written(folder, "gauss2")
    rule = used.get_modelmeta().custom_metadata_map
    least, stride = int(rule["smallest"]), int(rule["stride"])
    for height, width in ((least, least), (least + stride, 5 * stride), (32, least)):
        image = degradations.as_float(degradations.degrade(pictures.photographs()["coffee"][None, :height, :width], "gauss2"))
        (found,) = used.run(None, {"degraded": image})
        assert found.shape == image.shape and np.abs(np.clip(found, 0, 1) - restorer(image)).max() < 1e-4


def test_a_file_says_where_it_is_from_and_how_it_is_used(folder):
    used = written(folder, "photo")
    about, described = used.get_modelmeta(), weights.read_released("photo")[1]
    rule = about.custom_metadata_map
    assert about.producer_name == "lstm_ae_lib" and about.graph_name == "photo"
    assert rule["weights"] == described["sha256"] and json.loads(rule["card"]) == described["card"]
    assert (int(rule["tile"]), int(rule["overlap"])) == (restoring.TILE, restoring.OVERLAP) and float(rule["most"]) == 2
    assert float(written(folder, "gauss2").get_modelmeta().custom_metadata_map["most"]) == np.inf


def test_only_standard_operators_are_used(folder):
    for name in RESTORERS:
        written(folder, name)
        model = onnx.load(folder / f"{name}.onnx")
        assert [one.domain for one in model.opset_import] == [""] and {node.domain for node in model.graph.node} == {""}
        several = weights.describe_released(name)["builder"] == "multiscale_flagship"
        assert sum(node.op_type == "Scan" for node in model.graph.node) == (12 if several else 8)  # two for each layer


@pytest.mark.parametrize("name", ["default"])
def test_a_compressors_halves_are_the_codecs(folder, name, sample):
    own, clean = codec.load_codec(name), sample.test_images[:50]
    for half in exporting.HALVES:
        exporting.export_codec(name, folder / f"{half}.onnx", half)
    (steps,) = session(folder / "encoder.onnx").run(None, {"clean": clean / np.float32(255)})
    expected = own.encode(clean)
    assert np.mean(np.rint(steps) != expected) < 1e-4  # those that lie between two steps
    assert np.mean(np.rint(steps / np.sqrt(2)) != own.encode(clean, 2)) < 1e-4
    decoder = session(folder / "decoder.onnx")
    (made,) = decoder.run(None, {"symbols": expected.astype(np.float32)})
    assert np.abs(np.rint(np.clip(made, 0, 1) * 255) - own.decode(expected)).max() <= 1
    assert json.loads(decoder.get_modelmeta().custom_metadata_map["tables"]) == own.tables.tolist()


@pytest.mark.parametrize("along", ["rows", "columns", "both"])
@pytest.mark.parametrize("positive", [False, True])
def test_a_scan_runs_along_lines_of_any_length(along, positive, tmp_path):
    inputs = keras.layers.Input((6, 9, 3))
    model = keras.Model(inputs, layers.GatedScan(4, along, positive)(inputs))
    graph = exporting.Graph()
    (made,) = exporting.follow(graph, model, graph.add("Transpose", "x", perm=exporting.FIRST))
    graph.add("Transpose", made, perm=exporting.LAST, output="y")
    graph = graph.model("scan", {"x": ["n", "h", "w", 3]}, {"y": ["n", "h", "w", "c"]}, {})
    used = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for height, width in ((6, 9), (40, 1), (1, 17)):
        image = np.random.default_rng(0).standard_normal((2, height, width, 3)).astype(np.float32)
        layer = layers.GatedScan(4, along, positive)
        layer.build(image.shape)
        layer.set_weights(model.get_weights())
        np.testing.assert_allclose(used.run(None, {"x": image})[0], keras.ops.convert_to_numpy(layer(image)), atol=1e-5)


def test_what_cannot_be_written_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"target must be an \.onnx file, got .*photo\.pb"):
        exporting.export("photo", tmp_path / "photo.pb")
    with pytest.raises(ValueError, match="weights must be one of awgn, .*; got 'phot'"):
        exporting.export("phot", tmp_path / "photo.onnx")
    with pytest.raises(ValueError, match="half must be one of encoder, decoder; got 'both'"):
        exporting.export_codec("default", tmp_path / "half.onnx", "both")
    with pytest.raises(ValueError, match="the layer rows is a ImageToRows, which has no ONNX form here"):
        exporting.follow(exporting.Graph(), models.reference_lstm_autoencoder(), "x")
    bounded = reach.bounded_flagship((16, 16, 3), 8, 1, 8)  # its scan, derived from one that has a form, computes something else
    with pytest.raises(ValueError, match="is a BoundedScan, which has no ONNX form here"):
        exporting.follow(exporting.Graph(), bounded, "x")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match="exporting needs the package onnx: pip install onnx"):
        exporting.export("photo", tmp_path / "photo.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_readmes_program_runs_where_neither_keras_nor_this_library_is(folder):
    written(folder, "photo")
    (program,) = [block for kind, block in blocks("data/README.md") if kind == "python"]
    program += "import sys\nassert not {'keras', 'lstm_ae_lib', 'tensorflow'} & set(sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.stdout == "(1, 128, 200, 3) 8\n", done.stderr


def test_the_command_writes_a_file(tmp_path, capsys):
    assert __main__.main(["export", "fine", str(tmp_path / "fine.onnx"), "--half", "decoder"]) == 0
    size = (tmp_path / "fine.onnx").stat().st_size / 1e6
    assert capsys.readouterr().out == f"{tmp_path / 'fine.onnx'}: compressor, {size:.1f} MB\n"
    assert __main__.main(["export", "fine", str(tmp_path / "fine.onnx")]) == 2
    assert "weights must be one of awgn," in capsys.readouterr().err
