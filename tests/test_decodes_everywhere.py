"""A file decodes to the symbols it was written with on any backend, with any number of threads and on older processors, over all
pairs.

With PyTorch: `make test-backends`, whose environment has it. A processor is made to look older by what its libraries may use of it.
"""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

ENGINES = [name for name in ("tensorflow", "torch", "jax", "onnxruntime") if importlib.util.find_spec(name)]
PROCESSORS = {
    "this": {},
    "older": {"ONEDNN_MAX_CPU_ISA": "SSE41", "OPENBLAS_CORETYPE": "Nehalem",
              "NPY_DISABLE_CPU_FEATURES": " ".join(np.show_config("dicts")["SIMD Extensions"].get("found", []))},
}  # fmt: skip
THREADS = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"

# Writes a file with each codec, waits, and reads all files that are there by then: the symbols as they are coded, the numbers that
# a context makes of them, and the picture.
WORKER = """
import hashlib, json, sys
from pathlib import Path
import numpy as np
from lstm_ae_lib import pictures
from lstm_ae_lib.tasks import codec

folder, name, engine = Path(sys.argv[1]), *sys.argv[2:]
codecs = {one: codec.load_codec(one, engine=engine) for one in ("photo", "default")}
picture, seen = pictures.photographs()["coffee"][100:145, 200:270], {"symbols": [], "numbers": []}
encode, read, walk = codec.encode_runs, codec.RunReader.read, codecs["photo"].context.walk
codec.encode_runs = lambda runs: encode((table, note("symbols", symbols)) for table, symbols in runs)
codec.RunReader.read = lambda *given: note("symbols", read(*given))
codecs["photo"].context.walk = lambda *given: note("numbers", walk(*given))

def note(kind, values):
    seen[kind].append(np.asarray(values, np.float64).tobytes())
    return values

def counted():
    made = [hashlib.sha256(b"".join(parts)).hexdigest() for parts in seen.values()]
    seen["symbols"], seen["numbers"] = [], []
    return made

written = {}
for one, made in codecs.items():
    file = folder / f"{name}.{one}.laec"
    file.write_bytes(made.compress(picture))
    written[file.name] = counted()
print(json.dumps(written), flush=True)
sys.stdin.readline()
found = {}
for file in sorted(folder.glob("*.laec")):
    decoded = codecs[file.name.split(".")[-2]].decompress(file.read_bytes())
    found[file.name] = counted(), int(np.abs(decoded.astype(int) - picture).mean()), decoded[::9, ::9].tolist()
print(json.dumps(found), flush=True)
"""


@pytest.fixture
def started():
    processes = {}
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


@pytest.mark.scale
@pytest.mark.backends
def test_what_is_written_anywhere_decodes_to_the_same_symbols_everywhere(started, tmp_path):
    assert {"tensorflow", "jax", "onnxruntime"} <= set(ENGINES)
    for place, (engine, (processor, features)) in enumerate((engine, one) for engine in ENGINES for one in PROCESSORS.items()):
        threads = str(1 + (place + place // 2) % 2)  # each engine and each processor with one and with two
        backend = "tensorflow" if engine == "onnxruntime" else engine
        environment = os.environ | {"KERAS_BACKEND": backend} | dict.fromkeys(THREADS, threads) | features
        name = f"{engine}-{processor}-{threads}"
        command = [sys.executable, "-c", WORKER, str(tmp_path), name, "onnx" if engine == "onnxruntime" else "keras"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started[name] = subprocess.Popen(command, env=environment, **pipes)
    written = {}
    for name, process in started.items():
        line = process.stdout.readline()
        assert line, f"{name}: {process.communicate()[1]}"
        written |= json.loads(line)
    assert len(written) == 2 * len(started)
    pictures = {}
    for name, process in started.items():
        said, errors = process.communicate("\n")
        assert said, f"{name}: {errors}"
        found = json.loads(said)
        assert {file: symbols for file, (symbols, _, _) in found.items()} == written, name
        for file, (_, apart, decoded) in found.items():
            assert apart < 8
            assert np.abs(np.subtract(pictures.setdefault(file, decoded), decoded)).max() <= 1, (name, file)
