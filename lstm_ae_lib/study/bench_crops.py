"""How many pictures can a folder to train on hold? Time to open it, crops a second, and memory, as it grows."""

import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from lstm_ae_lib import checks, pictures
from lstm_ae_lib.study import bench

COUNTS, SIDE = (10_000, 100_000, 1_000_000), 64  # files of a folder, and their sides in pixels
DISTINCT, IMAGES, BATCH = 10_000, 20_000, 64  # other pictures, then the same again; images of a measurement
PROTOCOL = "blind"
_MEASURE = """
import json, resource, sys, time
from lstm_ae_lib.tasks import picture_folder
folder, side, images, batch, protocol = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
started = time.perf_counter()
opened = picture_folder.PictureFolder(folder, side, crops=1)
seconds = time.perf_counter() - started
batches = iter(picture_folder.picture_batches(opened, protocol, batch, 0))
next(batches)
started = time.perf_counter()
for _ in range(images // batch):
    next(batches)
rate = images // batch * batch / (time.perf_counter() - started)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
print(json.dumps([len(opened.files), seconds, rate, peak]))
"""


def crops(repeats: int = 3) -> list:
    """A folder of :data:`COUNTS` pictures to train on: seconds to open it, crops a second of the pipeline alone, with their
    degradation, and the peak of the process, TensorFlow with it. 9 GB are written to the temporary folder."""
    checks.number(repeats, "repeats", 1, 1000, whole=True)
    found, rounds = [], {}
    with tempfile.TemporaryDirectory() as place:
        contents = _contents()
        for before, count in itertools.pairwise((0, *COUNTS)):
            _write(Path(place), contents, range(before, count))
            command = [sys.executable, "-c", _MEASURE, place, *map(str, (SIDE, IMAGES, BATCH)), PROTOCOL]
            for _ in range(repeats):
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                rounds.setdefault(count, []).append(json.loads(done.stdout.splitlines()[-1]))
        for values in rounds.values():
            files, seconds, rates, peaks = zip(*values, strict=True)
            found.append({"files": files[0], "side": SIDE, "open_seconds": float(np.median(seconds)), **bench.spread("rate", rates),
                          "peak_mebibytes": round(max(peaks)), "images": IMAGES, "protocol": PROTOCOL, "repeats": repeats,
                          **bench.machine()})  # fmt: skip
    return found


def _contents():
    """PNG files' contents, crops of scikit-image's photographs."""
    photographs, random, contents = list(pictures.photographs().values()), np.random.default_rng(0), []
    with tempfile.TemporaryDirectory() as place:
        for number in range(min(DISTINCT, max(COUNTS))):
            photograph = photographs[number % len(photographs)]
            top, left = (random.integers(size - SIDE) for size in photograph.shape[:2])
            pictures.write(Path(place) / "one.png", photograph[top : top + SIDE, left : left + SIDE])
            contents.append((Path(place) / "one.png").read_bytes())
    return contents


def _write(place, contents, numbers):
    """The files of these numbers, a thousand in a folder."""
    for number in numbers:
        folder = place / f"{number // 1000:04}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number:07}.png").write_bytes(contents[number % len(contents)])
