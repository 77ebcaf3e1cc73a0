"""Restoring and compressing on ONNX Runtime: the released files, the command line without Keras, and files that are no good."""

import copy
import json
import pickle
import shutil
import subprocess
import sys
import types

import numpy as np
import onnx
import pytest

from lstm_ae_lib import __main__, degradations, files, pictures, restoring, weights
from lstm_ae_lib.fast import runtime
from lstm_ae_lib.study import exporting
from lstm_ae_lib.tasks import any_rate_codec, codec

RESTORERS, CODECS = weights.released(), weights.released(weights.released_dir("compress"))
# What a base installation has.
PACKAGES = {"numpy", "onnxruntime", "PIL", "simplejpeg", "tqdm", "constriction"}


@pytest.mark.parametrize("name", RESTORERS)
def test_released_weights_have_a_file_that_gives_what_keras_gives(name, sample):
    """An odd size too, which is continued at its border alike."""
    keras_, onnx_ = (restoring.load_restorer(name, engine=engine) for engine in restoring.ENGINES)
    assert isinstance(onnx_, runtime.OnnxRestorer) and onnx_.card == keras_.card and onnx_.most == keras_.most
    degraded = degradations.as_float(degradations.degrade(sample.test_images[:20], keras_.card["protocol"]))
    for images in (degraded, degraded[:3, :, :27]):
        assert np.abs(onnx_(images) - keras_(images)).max() < 1e-4


@pytest.mark.parametrize("name", CODECS)
def test_a_picture_compressed_on_one_engine_is_decompressed_on_the_other(name):
    picture = pictures.photographs()["astronaut"][:100, :70]
    keras_, onnx_ = (codec.load_codec(name, engine=engine) for engine in restoring.ENGINES)
    assert type(onnx_) in (codec.BlockCodec, any_rate_codec.AnyRateCodec)
    assert onnx_.fingerprint == keras_.fingerprint and onnx_.card == keras_.card
    content = onnx_.compress(picture)
    assert abs(len(content) - len(keras_.compress(picture))) <= 4  # a number between two steps may be rounded otherwise
    first, second = (one.decompress(content).astype(int) for one in (keras_, onnx_))
    assert first.shape == picture.shape and np.abs(first - second).max() <= 1 and np.mean(first != second) < 1e-3


def test_every_file_beside_the_weights_is_the_one_that_would_be_written_today(tmp_path):
    for name in ("photo", "noisy"):
        exporting.export(name, tmp_path / f"{name}.onnx")
        new, old = (onnx.load(folder / f"{name}.onnx") for folder in (tmp_path, weights.released_dir()))
        assert new.graph == old.graph


CLI = """
import sys
for name in ("keras", "tensorflow", "scipy", "cv2", "skimage", "matplotlib", "numba", "h5py"):
    sys.modules[name] = None  # importing it would fail
from lstm_ae_lib.__main__ import main
def do(*arguments):
    code = main([*arguments])
    assert code == 0, (arguments, code)
do("restore", "in.png", "out.png", "--quiet")
do("restore", "in.png", "gauss2.jpg", "--weights", "gauss2", "--strength", "0.5", "--quiet")
do("restore", "in.png", "again.png", "--map", "map.png", "--quiet")
do("compress", "in.png", "out.laec")
do("decompress", "out.laec", "decoded.png")
from_packages = {name.partition(".")[0] for name, module in sys.modules.items()
                 if "site-packages" in (getattr(module, "__file__", None) or "")}
print(*sorted(from_packages))
assert main(["restore", "in.png", "none.png", "--engine", "keras"]) == 1
assert main(["protocols"]) == 1
"""


def test_a_base_installation_restores_compresses_and_decompresses(tmp_path):
    """Neither Keras nor anything else of the study is imported, and what is missing is said in one line."""
    pictures.write(tmp_path / "in.png", pictures.photographs()["astronaut"][:96, :120])
    done = subprocess.run([sys.executable, "-c", CLI], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    used = set(done.stdout.splitlines()[-1].split())
    allowed = PACKAGES | {"flatbuffers", "google", "packaging", "_distutils_hack"}  # what ONNX Runtime and setuptools bring along
    assert {one for one in used if not one.startswith("__editable__")} <= allowed, used
    refused = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(refused) == 2 and all("pip install 'lstm_ae_lib[study]'" in line for line in refused)
    restored = pictures.read(tmp_path / "out.png")
    expected = restoring.restore(pictures.read(tmp_path / "in.png"), "photo", engine="keras")
    assert np.abs(restored.astype(int) - expected).max() <= 1 and not (tmp_path / "none.png").exists()
    assert pictures.read(tmp_path / "map.png").shape == (96, 120) and pictures.read(tmp_path / "decoded.png").shape == (96, 120, 3)


@pytest.fixture
def store(tmp_path):
    for suffix in ("json", "weights.h5", "onnx"):
        shutil.copy(weights.released_dir() / f"noisy.{suffix}", tmp_path)
    return tmp_path


def described(store, **changes):
    description = files.read_json(store / "noisy.json") | changes
    files.write_json(store / "noisy.json", description)
    return description


def resaved(store, change):
    """``noisy.onnx`` altered, and its new hash in the JSON."""
    model = onnx.load(store / "noisy.onnx")
    change(model)
    onnx.save(model, store / "noisy.onnx")
    described(store, onnx={"noisy": files.sha256(store / "noisy.onnx")})


def set_metadata(key, value):
    def change(model):
        next(entry for entry in model.metadata_props if entry.key == key).value = value

    return change


def test_a_file_that_does_not_fit_is_refused(store):
    def load():
        return restoring.load_restorer("noisy", store, "onnx")

    load()
    content = (store / "noisy.onnx").read_bytes()
    for damaged in (content[:-1000], content[:5000] + bytes([content[5000] ^ 1]) + content[5001:], b""):
        (store / "noisy.onnx").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"noisy\.onnx is damaged: its SHA-256 is not the one that the weights' JSON has"):
            load()
    (store / "noisy.onnx").write_bytes(content[:-1000])
    described(store, onnx={"noisy": files.sha256(store / "noisy.onnx")})
    with pytest.raises(ValueError, match=r"noisy\.onnx cannot be opened by ONNX Runtime \d"):
        load()
    (store / "noisy.onnx").write_bytes(content)
    resaved(store, set_metadata("version", "2"))
    with pytest.raises(ValueError, match=r"noisy\.onnx must have version 1, got 2: export it again"):
        load()
    (store / "noisy.onnx").write_bytes(content)
    resaved(store, set_metadata("weights", "0" * 64))
    with pytest.raises(ValueError, match=r"noisy\.onnx was made from other weights than those beside it"):
        load()
    (store / "noisy.onnx").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no .*noisy\.onnx; the engine keras needs none"):
        load()


def test_weights_without_a_file_are_left_to_keras(store):
    description = described(store)
    assert runtime.engine_for(description) == "onnx"
    del description["onnx"]
    files.write_json(store / "noisy.json", description)
    assert runtime.engine_for(description) == "keras"
    assert isinstance(restoring.load_restorer("noisy", store, ""), restoring.ReleasedRestorer)
    with pytest.raises(FileNotFoundError, match=r"there is no .*noisy\.onnx"):
        restoring.load_restorer("noisy", store, "onnx")
    written = exporting.export_released("noisy", store)
    assert json.loads((store / "noisy.json").read_text()) == written and list(written["onnx"]) == ["noisy"]
    assert isinstance(restoring.load_restorer("noisy", store, ""), runtime.OnnxRestorer)


def test_a_restorer_can_be_pickled():
    own = restoring.load_restorer("gauss2", engine="onnx")
    image = np.random.default_rng(0).random((1, 16, 24, 3), np.float32)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(own))(image), own(image))
    np.testing.assert_array_equal(copy.deepcopy(own)(image), own(image))


def test_without_onnx_runtime_keras_computes(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name: None)
    assert runtime.engine_for({"onnx": {"photo": ""}}) == "keras"
    with pytest.raises(ImportError, match="the engine onnx needs the package onnxruntime: pip install onnxruntime"):
        restoring.load_restorer("photo", engine="onnx")


def test_an_unknown_engine_is_refused(tmp_path, capsys):
    for load in (restoring.load_restorer, lambda *name, engine: codec.load_codec("default", engine=engine)):
        with pytest.raises(ValueError, match="engine must be one of keras, onnx; got 'torch'"):
            load("photo", engine="torch")
    with pytest.raises(SystemExit):
        __main__.main(["restore", "in.png", "out.png", "--engine", "torch"])
    assert "invalid choice: 'torch'" in capsys.readouterr().err


def test_the_command_writes_the_files_beside_the_weights(store, monkeypatch, capsys):
    monkeypatch.setattr(weights, "released_dir", lambda kind="": store)
    assert __main__.main(["export", "noisy"]) == 0
    assert capsys.readouterr().out == f"noisy.onnx: SHA-256 {files.sha256(store / 'noisy.onnx')}\n"


def test_an_encoder_that_rounds_is_to_be_exported_again(monkeypatch):
    """As they were written before steps had sizes."""
    older = types.SimpleNamespace(get_outputs=lambda: [types.SimpleNamespace(name="symbols")])
    monkeypatch.setattr(runtime, "open_session", lambda *_: older)
    analyse, _ = runtime.open_halves("mine", {}, None)
    with pytest.raises(ValueError, match="mine-encoder.onnx gives symbols, rounded, not steps: export mine again"):
        analyse(np.zeros((1, 32, 32, 3), np.float32))
