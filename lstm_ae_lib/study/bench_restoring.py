"""How fast are pictures restored here, one after its start, and a folder of them by several workers?"""

import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from lstm_ae_lib import checks, models, pictures, restoring
from lstm_ae_lib.fast import threads
from lstm_ae_lib.study import bench, reporting
from lstm_ae_lib.study.reporting import Column

PICTURES = ((512, 512), (4000, 3000))  # that restore is timed on, width and height
FOLDER = (500, 288)  # how many square pictures, and their side


def restore(repeats: int = 3) -> list:
    """Time and peak memory of the command ``restore`` with its default weights, as a process of its own, start included.

    For each of :data:`PICTURES`, width and height, and each engine, in turn. ``tile_seconds`` is the median for one tile after
    others; ``fraction_of_gemm`` the network's multiply-adds, those of overlapping tiles too, over what matrix products of the size
    :data:`bench.GEMM` would do in that time.
    """
    import cv2

    checks.number(repeats, "repeats", 1, 1000, whole=True)
    with bench.Worker("project", threads.cores()) as worker:
        worker.ready()
        gemm = 2e-6 * np.prod(bench.GEMM) / min(worker.ask("gemm", bench.GEMM[0], measured) for measured in (False, True, True))
    shared = {"repeats": repeats, "gemm_gflops": round(float(gemm), 4), "weights": restoring.DEFAULT, **bench.machine()}
    photograph, released = pictures.photographs()["coffee"], restoring.load_restorer(restoring.DEFAULT)
    steady, found = _tile_seconds(repeats), []
    with tempfile.TemporaryDirectory() as folder:
        for width, height in PICTURES:
            source, target = Path(folder) / "in.jpg", Path(folder) / "out.png"
            pictures.write(source, cv2.resize(photograph, (width, height), interpolation=cv2.INTER_CUBIC))
            measured = {engine: [] for engine in restoring.ENGINES}
            for _ in range(repeats):
                for engine, values in measured.items():
                    values.append(_restore_once(source, target, engine))
            gflop = 2e-9 * _restoring_multiply_adds(released, height, width)
            for engine, values in measured.items():
                seconds, peaks = zip(*values, strict=True)
                share = gflop / statistics.median(seconds) / float(gemm)
                found.append({"width": width, "height": height, "engine": engine, **bench.spread("seconds", seconds),
                              "tile_seconds": steady[engine], "peak_mebibytes": max(peaks), "gflop": gflop,
                              "fraction_of_gemm": share, **shared})  # fmt: skip
    return found


def _tile_seconds(repeats):
    """Engine -> median seconds for a whole tile, after the first."""
    image, times = np.full((1, restoring.TILE, restoring.TILE, 3), 0.5, np.float32), {engine: [] for engine in restoring.ENGINES}
    restorers = {engine: restoring.load_restorer(restoring.DEFAULT, engine=engine) for engine in restoring.ENGINES}
    for _ in range(repeats + 1):
        for engine, restorer in restorers.items():
            times[engine].append(bench.seconds(lambda restorer=restorer: restorer(image)))
    return {engine: statistics.median(values[1:]) for engine, values in times.items()}


def _restoring_multiply_adds(restorer, height, width):
    """Of a picture of that size: those of its tiles, which overlap and are continued where they must."""
    tiles = [restoring._tiles(side, restoring.TILE, restoring.OVERLAP) for side in (height, width)]
    sides = [parts[0].stop + restoring._padding(parts[0].stop) for parts in tiles]
    return models.multiply_adds(restorer._at_size(*sides)) * math.prod(map(len, tiles))


# A process begins with the peak of the one that starts it, so a small one starts it.
_LAUNCH = """
import resource, subprocess, sys, time
started = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, code)
"""


def _restore_once(source, target, engine):
    """Seconds and MiB of one process."""
    command = [sys.executable, "-m", "lstm_ae_lib", "restore", str(source), str(target), "--engine", engine, "--quiet"]
    done = subprocess.run([sys.executable, "-ISc", _LAUNCH, *command], capture_output=True, text=True, check=True)
    seconds, peak, code = done.stdout.split()
    if int(code):
        raise RuntimeError(f"restore ended with {code}")
    return float(seconds), round(int(peak) / (1024 if sys.platform == "linux" else 1024**2))


def workers(repeats: int = 3) -> list:
    """Seconds of the command ``restore IN OUT`` for :data:`FOLDER`, start included: one process on one core; on one core a worker,
    one worker and as many as there are cores. ``speedup`` is over the one worker of the same round."""
    checks.number(repeats, "repeats", 1, 1000, whole=True)
    count, side = FOLDER
    photographs, random = list(pictures.photographs().values()), np.random.default_rng(0)
    measured = {number: [] for number in (0, 1, threads.cores())}
    with tempfile.TemporaryDirectory() as folder:
        for place in range(count):
            photograph = photographs[place % len(photographs)]
            top, left = (random.integers(size - side + 1) for size in photograph.shape[:2])
            pictures.write(Path(folder) / "in" / f"{place:05}.png", photograph[top : top + side, left : left + side])
        for turn in range(repeats):
            for number, values in measured.items():
                values.append(bench.seconds(lambda number=number, turn=turn: _restore_folder(folder, turn, number)))
    shared = {"pictures": count, "side": side, "repeats": repeats, "weights": restoring.DEFAULT, **bench.machine("distributed")}
    found = []
    for number, values in measured.items():
        ratios = bench.spread("speedup", [one / own for one, own in zip(measured[1], values, strict=True)])
        ratios = {"speedup": ratios["speedup"], "speedup_low": ratios["low"], "speedup_high": ratios["high"]}
        rate = count / statistics.median(values)
        found.append({"workers": number, **bench.spread("seconds", values), "pictures_per_second": rate, **ratios, **shared})
    return found


def _restore_folder(folder, turn, workers):
    own = sorted(os.sched_getaffinity(0))[: max(workers, 1)]
    target = Path(folder) / f"out-{turn}-{workers}"
    command = [sys.executable, "-m", "lstm_ae_lib", "restore", str(Path(folder) / "in"), str(target), "--quiet"]
    command += ["--workers", str(workers)] if workers else []
    subprocess.run(command, check=True, capture_output=True, preexec_fn=lambda: os.sched_setaffinity(0, own))


def format_restore(found: list) -> str:
    """Restoring whole pictures as a table."""
    columns = [Column("picture", lambda record: f"{record['width']} x {record['height']}"),
               Column("engine", lambda record: record["engine"]),
               Column("seconds", lambda record: f"{record['seconds']:.1f} [{record['low']:.1f}, {record['high']:.1f}]"),
               reporting.number("a tile, steady", "tile_seconds", ".2f"), reporting.number("peak MiB", "peak_mebibytes", ","),
               reporting.number("of the GEMM rate", "fraction_of_gemm", ".0%")]  # fmt: skip
    said = "median [lowest, highest] of {repeats} processes, engines in turn, {weights}; GEMM {gemm_gflops:.0f} GFLOP/s; {hardware}"
    return f"{reporting.render(found, columns)}\n\n{said.format(**found[0])}"
