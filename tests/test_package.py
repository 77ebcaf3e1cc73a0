"""Importing the package: what it costs and what it prints."""

import subprocess
import sys

import lstm_ae_lib


def python(code, **environment):
    import os

    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


def test_importing_the_package_loads_nothing_heavy_and_makes_nothing(tmp_path):
    code = "import sys, lstm_ae_lib.paths; print([name for name in ('keras', 'tensorflow', 'cv2', 'scipy') if name in sys.modules])"
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


def test_keras_starts_without_a_word_on_standard_error():
    done = python("from lstm_ae_lib import keras; keras.layers.Dense(2)(keras.ops.ones((1, 2))); print('ready')")
    assert done.stdout == "ready\n" and done.stderr == ""


def test_a_failing_import_still_says_why():
    done = python("from lstm_ae_lib import keras", KERAS_BACKEND="no_such_backend")
    assert done.returncode == 1 and "no_such_backend" in done.stderr


def test_layers_models_and_metrics_import_without_tensorflow():
    """On a machine that has another backend only, TensorFlow must not be asked for."""
    code = """
import sys
from lstm_ae_lib import keras
before = 'tensorflow' in sys.modules
import lstm_ae_lib.layers, lstm_ae_lib.models, lstm_ae_lib.metrics, lstm_ae_lib.degradations, lstm_ae_lib.classical
import ast, pathlib
for module in ('layers', 'models', 'metrics', 'degradations', 'classical', 'checks', 'seeding', 'study/runs', 'datasets'):
    tree = ast.parse(pathlib.Path(sys.modules['lstm_ae_lib'].__path__[0], module + '.py').read_text())
    for node in tree.body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, 'module', '') or '']
        assert not any(name.startswith('tensorflow') for name in names), module
print('fine')
"""
    done = python(code)
    assert done.stdout == "fine\n", done.stderr
