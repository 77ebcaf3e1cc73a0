"""Importing the package: what it costs and what it prints."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import conformance
import numpy as np
import processes
import pytest
from test_conformance import each_input

import lstm_ae_lib


def python(code, imported=False, **changes):
    """Runs ``code`` in a new process; where Keras is imported first anyway, in one that has it already."""
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"} | changes
    if imported:
        return processes.run(["-c", code], env=environment)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)


def test_importing_the_package_loads_nothing_heavy_and_makes_nothing(tmp_path):
    code = """
import sys, time
start = time.perf_counter()
import lstm_ae_lib.paths
assert time.perf_counter() - start < 0.1
print([name for name in ('keras', 'tensorflow', 'numpy', 'numba', 'cv2', 'scipy') if name in sys.modules])
"""
    done = python(code, LSTM_AE_DATA=str(tmp_path / "made"))
    assert done.stdout == "[]\n" and done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_every_public_name_can_be_had():
    for name in lstm_ae_lib.__all__:
        assert getattr(lstm_ae_lib, name) is not None
        assert name in dir(lstm_ae_lib)


def test_an_unknown_name_is_an_attribute_error():
    try:
        lstm_ae_lib.no_such_name  # noqa: B018
    except AttributeError as error:
        assert "no_such_name" in str(error)
    else:
        raise AssertionError("no error")


def test_whoever_asks_for_tensorflows_log_gets_it():
    done = python("from lstm_ae_lib import keras; print('ready')", TF_CPP_MIN_LOG_LEVEL="0", KERAS_BACKEND="tensorflow")
    assert done.stdout == "ready\n" and "oneDNN" in done.stderr


@pytest.mark.parametrize("start", ["import sys; sys.stderr = None", "import os; os.close(2)"])
def test_keras_starts_without_standard_error(start):
    done = python(f"{start}\nfrom lstm_ae_lib import keras; print('ready')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")


@pytest.mark.parametrize(
    ("tensorflow", "expected"),
    [
        # A log line is held back unless the import fails; what is no log line is shown all the same.
        ("os.write(2, b'I0000 a log line\\n'); raise KeyError('the rest')", "I0000 a log line"),
        ("os.write(2, b'F0000 no AVX512\\n'); os.abort()", "F0000 no AVX512"),
        ("os.write(2, b'F0000 half a line'); os.abort()", "F0000 half a line"),
    ],
)
def test_what_was_held_back_is_shown_when_tensorflow_fails_or_ends_the_process(tmp_path, tensorflow, expected):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(f"import os\n{tensorflow}\n")
    done = python(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from lstm_ae_lib import keras", KERAS_BACKEND="tensorflow")
    assert done.returncode != 0 and expected in done.stderr


def test_keras_starts_without_a_log_line_and_what_is_none_is_shown():
    code = """
import builtins, os
real = builtins.__import__
def noisy(name, *rest, **options):
    if name == "keras" and "shown" not in os.environ:
        os.environ["shown"] = ""
        os.write(2, b"I0000 a log line\\nE0000 another\\nlibcudart is missing\\n")
    return real(name, *rest, **options)
builtins.__import__ = noisy
from lstm_ae_lib import keras
keras.layers.Dense(2)(keras.ops.ones((1, 2)))
print('ready')
"""
    done = python(code)
    assert done.stdout == "ready\n" and done.stderr == "libcudart is missing\n"


def test_a_failing_import_still_says_why():
    done = python("from lstm_ae_lib import keras", KERAS_BACKEND="no_such_backend")
    assert done.returncode == 1 and "no_such_backend" in done.stderr


@pytest.mark.parametrize("backend", ["jax", "torch", "tensorflow"])
def test_a_backend_that_is_not_installed_is_one_line(backend):
    done = python(f"import sys; sys.modules[{backend!r}] = None\nfrom lstm_ae_lib import keras", KERAS_BACKEND=backend)
    lines = done.stderr.splitlines()
    assert lines[-1] == f"ImportError: KERAS_BACKEND is {backend}, but the package {backend} is not installed"
    assert sum(not line.startswith(" ") for line in lines) == 2  # one error, whose cause is not shown as well


def test_channels_first_is_refused_and_a_gpu_that_tensorflow_does_not_use_is_said():
    code = """
import os, warnings
real = os.path.exists
os.path.exists = lambda path: path == "/proc/driver/nvidia/version" or real(path)
from lstm_ae_lib import _backend, keras
import tensorflow as tf
said = []
for chosen in ("0", "-1"):
    os.environ["CUDA_VISIBLE_DEVICES"] = chosen
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _backend._import_keras()
    said.append(any("does not use this machine's GPU" in str(warning.message) for warning in caught))
print(*said, bool(tf.config.list_physical_devices("GPU")))
keras.config.set_image_data_format("channels_first")
try:
    _backend._import_keras()
except ValueError as error:
    print(error)
"""
    told, refused = python(code, True, CUDA_VISIBLE_DEVICES="0").stdout.splitlines()
    assert told in ("True False False", "False False True")
    assert refused.startswith("image_data_format must be channels_last,") and refused.endswith("got channels_first")


@pytest.mark.backends
def test_modules_import_and_layers_compute_where_tensorflow_is_not():
    """On a machine that has another backend only, TensorFlow must not be asked for."""
    code = """
import sys
if "tensorflow" == BACKEND:
    from lstm_ae_lib import keras
sys.modules["tensorflow"] = None  # importing it fails from here on
from lstm_ae_lib import checks, classical, datasets, degradations, metrics, models, peers, seeding, training, weights
from lstm_ae_lib.tasks import adversarial, codec, uncertainty
if "tensorflow" != BACKEND:
    import numpy as np
    assert tuple(models.flagship((8, 6, 3), width=8, depth=1)(np.zeros((2, 8, 6, 3), "float32")).shape) == (2, 8, 6, 3)
print("fine")
"""
    done = python(code.replace("BACKEND", repr(lstm_ae_lib.keras.backend.backend())))
    assert done.stdout == "fine\n", done.stderr


def registered():
    """Every class and function that the library registers with Keras, by reading its source."""
    library = Path(lstm_ae_lib.__file__).parent
    for path in sorted(library.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            for decorator in getattr(node, "decorator_list", ()):
                if "register_keras_serializable" in ast.unparse(decorator):
                    yield ".".join(path.relative_to(library).with_suffix("").parts), node.name


def test_everything_that_is_registered_can_be_found_by_name():
    listed = {(module, name) for module, names in lstm_ae_lib._REGISTERED.items() for name in names.split()}
    assert listed == set(registered())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A .keras file for each registered name."""
    from lstm_ae_lib import keras, metrics, training
    from lstm_ae_lib.tasks import adversarial, variational

    folder = tmp_path_factory.mktemp("saved")
    for case in conformance.LAYERS:
        inputs = each_input(case, keras.layers.Input)
        keras.Model(inputs, case.make()(inputs)).save(folder / f"{case.name.split('-')[0]}.keras")
    for name, options in {
        "PSNR": {"metrics": [metrics.PSNR()]},
        "Cooldown": {"optimizer": keras.optimizers.SGD(training.Cooldown(0.1, 10))},
        "Muon": {"optimizer": training.Muon(0.1)},
        "gaussian_nll": {"loss": variational.gaussian_nll},
        "log_mse": {"loss": metrics.log_mse},
    }.items():
        model = keras.Sequential([keras.layers.Input((4, 4, 3)), keras.layers.Dense(3)])
        model.compile(**{"optimizer": "sgd", "loss": "mse"} | options)
        model.train_on_batch(np.zeros((2, 4, 4, 3)), np.zeros((2, 4, 4, 3)))
        model.save(folder / f"{name}.keras")
    generator = keras.Sequential([keras.layers.Input((8, 16, 3)), keras.layers.Dense(3)])
    model = adversarial.AdversarialTraining(generator, adversarial.discriminator((8, 16, 3), width=2), weight=0.1)
    model(np.zeros((2, 8, 16, 3), np.float32))
    model.save(folder / "AdversarialTraining.keras")
    assert {path.stem for path in folder.iterdir()} == {name for _, name in registered()}
    return folder


@pytest.mark.parametrize(
    "imports",
    [
        "import lstm_ae_lib, keras",
        "import keras, lstm_ae_lib",
        "import lstm_ae_lib.metrics, keras",  # the library imports Keras
    ],
)
def test_saved_models_load_in_a_new_process(saved, imports):
    code = f"""
{imports}
import pathlib, sys
for path in sorted(pathlib.Path({str(saved)!r}).iterdir()):
    keras.models.load_model(path)
    print(path.stem)
    # The next one finds as little imported as this one did.
    for name in [name for name in sys.modules if name.startswith("lstm_ae_lib.") and not name.endswith("._backend")]:
        del sys.modules[name]
    keras.saving.get_custom_objects().clear()
    lstm_ae_lib._register(keras)
"""
    done = python(code, imports.startswith("import keras"), PYTHONWARNINGS="ignore")
    assert done.stdout.split() == sorted(path.stem for path in saved.iterdir()), done.stderr
