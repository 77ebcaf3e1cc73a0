"""Where recurrence pays: task by task, a recurrent network beside the best of its size with a limited reach, from the records.

Further seeds of a run, which see as many training images as the first in whatever time, have names that end in ``-seed1``,
``-seed2`` ...; the first has none. Intervals are over the seeds of each network and over the images, which are the same for all.
"""

import math
import re

import numpy as np

from lstm_ae_lib import checks, paths
from lstm_ae_lib.study import records

CODEC_RATE = 1.0
BURSTS = (("burst50", "noise of 50", 1), ("burst50", "noise of 50", 12), ("burst", "blur of 1.2 pixels, noise of 20", 12))
JPEG_SIDES = (128, 384)
JPEG_RECURRENT, JPEG_OTHERS = "feedback", ("unet", "nafnet", "rednet", "convolution", "mean")
ONE_PIECE = "nothing: all of the image is in reach"


def margins() -> list:
    """A dictionary for each task, from the least to be remembered to the most.

    ``task``, ``remembered``: words. ``recurrence``, ``best``: the networks' titles; ``runs``: their names, of the first seeds.
    ``with``, ``without``, ``margin``: PSNR in dB, or of JPEGs the mean gain in dB, means over seeds. ``low``, ``high``: 95 %
    interval of the margin over seeds and images, of JPEGs over bits and crops of three or four photographs; over seeds alone where
    images have not been recorded one by one, and None where there is but one. ``seeds``: of each of both. ``images``: how many.
    ``seen``: how many of the other's training images the recurrent network saw, as a ratio.
    """
    found = [
        _validated("blur of 2 pixels, 32x32 (`gauss2`)", ("design-scan", "gated scans"), ("design-convolution", "convolutions")),
        _validated("a camera's blur, noise and JPEG, 32x32 (`camera`)", ("camera-multiscale", "gated scans"),
                   ("camera-convolution", "convolutions")),
        _validated("the same (`camera`), beside the best peer", ("camera-multiscale", "gated scans"), ("camera-nafnet", "NAFNet")),
    ]  # fmt: skip
    found += [_of_codecs(CODEC_RATE), *(_of_bursts(*burst) for burst in BURSTS)]
    return [*found, *(_of_jpegs(side) for side in JPEG_SIDES)]


def interval(first, second, confidence: float = 0.95, resamples: int = 5000, seed: int = 0) -> tuple[float, float]:
    """Interval of the mean of ``first`` less that of ``second``, ``(seeds, images)`` each, of the same images.

    A hierarchical bootstrap: images are drawn for both at once, and to each mean an error of its seeds is added, drawn from
    Student's distribution: two or three seeds, drawn again and again, vary less than seeds do. One seed, or one image, stays as it
    is.
    """
    first, second = (np.asarray(values, np.float64) for values in (first, second))
    if first.ndim != 2 or second.ndim != 2 or not first.size or first.shape[1] != second.shape[1]:
        raise ValueError(f"both must be (seeds, images), of the same images, got {first.shape} and {second.shape}")
    checks.number(confidence, "confidence", 0.5, 0.9999)
    checks.number(resamples, "resamples", 100, 10**6, whole=True)
    random, differences = np.random.default_rng(seed), first.mean(0) - second.mean(0)
    means = np.array([random.choice(differences, len(differences)).mean() for _ in range(resamples)])
    for values in (first, second):
        if (seeds := len(values)) > 1:
            means += np.std(values.mean(1), ddof=1) / math.sqrt(seeds) * random.standard_t(seeds - 1, resamples)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def first_seed(run: str) -> str:
    """The name of a run without its seed."""
    return re.sub(r"-seed\d+$", "", run)


def _validated(task, *pair):
    """On validation images, at the end of the training; of these images only the mean is recorded."""
    names = sorted(path.name for path in paths.published_dir().iterdir())
    found = [[_validation(name) for name in names if first_seed(name) == run] for run, _ in pair]
    psnr, seen = ([[one[place] for one in seeds] for seeds in found] for place in (0, 1))
    images = int(records.published_parameters(pair[0][0])["validation_images"])
    values = [np.array(one)[:, None] for one in psnr]
    return _row(task, ONE_PIECE, [title for _, title in pair], [run for run, _ in pair], values, images, seen)


def _validation(run):
    """A published run's PSNR at the end, and images seen."""
    seen = max(part["images_seen"] for part in records.published_training(run)["run"]["training"].values())
    return records.published_history(run)["val_psnr"][-1], seen


def _of_codecs(rate):
    """On test images; of these only means are recorded."""
    runs = ["compress-any-recurrent", "compress-any-window"]
    ones = [records.reference_records(run=run, restorer="any_rate_compressor")[0] for run in runs]
    values, seen = [np.array([[records.psnr_at(run, rate)]]) for run in runs], [[one["images_seen"]] for one in ones]
    task, remembered = f"compression, {rate:g} bit per pixel, 32x32", "nothing beyond two rows of blocks"
    return _row(task, remembered, ["all rows above", "two rows above"], runs, values, ones[0]["images"], seen)


def _of_bursts(protocol, degradation, frames):
    """On test images. The interval is of two means that are not paired, so wider than it needs to be; and over seeds."""
    pair = []
    for kind in ("recurrent", "window"):
        networks = {}
        for one in records.reference_records(protocol=protocol, split="test", setting=frames, drift=1.0, restorer=kind):
            networks.setdefault(first_seed(one["run"]), []).append(one)
        pair.append(max(networks.values(), key=lambda ones: np.mean([one["psnr"] for one in ones])))
    window = records.published_parameters(pair[1][0]["run"])["window"]
    titles = ["frame by frame, aligned", f"window of {window}" + ", aligned" * (window > 1)]
    task = f"{degradation}, {frames} frame" + "s" * (frames > 1)
    remembered = "what all frames have shown" if frames > 1 else "nothing: there is one frame"
    values, seen = ([np.array([[one[field]] for one in ones]) for ones in pair] for field in ("psnr", "images_seen"))
    row = _row(task, remembered, titles, [first_seed(ones[0]["run"]) for ones in pair], values, pair[0][0]["images"], seen)
    halves = [np.mean([one["psnr_high"] - one["psnr_low"] for one in ones]) / 2 for ones in pair]
    half = math.hypot(*halves, (row["high"] - row["low"]) / 2 if row["low"] is not None else 0)
    return row | {"low": row["margin"] - half, "high": row["margin"] + half}


def _of_jpegs(side):
    """On crops of scikit-image's photographs, the same for all networks and seeds."""
    networks = {}  # run -> its records, a seed each
    for one in records.reference_records(protocol="broken_jpeg", split="test", setting=side):
        if "gains" in one and one["restorer"] in (JPEG_RECURRENT, *JPEG_OTHERS):
            networks.setdefault(first_seed(one["run"]), []).append(one)
    gains = {run: np.array([one["gains"] for one in ones]) for run, ones in networks.items()}
    others = [run for run, ones in networks.items() if ones[0]["restorer"] in JPEG_OTHERS]
    pair = [f"jpeg-{JPEG_RECURRENT}", max(others, key=lambda run: gains[run].mean())]
    titles = [records.restorer_title(networks[run][0]) for run in pair]
    seen = [[one["images_seen"] for one in networks[run]] for run in pair]
    task, remembered = f"JPEG with a flipped bit, {side}x{side}", "shift and colour, since the bit flipped"
    values = [gains[run] for run in pair]
    return _row(task, remembered, titles, pair, values, values[0].shape[1], seen)


def _row(task, remembered, titles, names, values, images, seen):
    """``values``: of each of both, ``(seeds, images)``; ``seen``: of each, for each seed."""
    means, seeds = [float(one.mean()) for one in values], [len(one) for one in values]
    drawn = max(values[0].shape) > 1 and max(values[1].shape) > 1
    low, high = interval(*values) if drawn else (None, None)
    return {
        "task": task, "remembered": remembered, "recurrence": titles[0], "best": titles[1], "runs": names, "with": means[0],
        "without": means[1], "margin": means[0] - means[1], "low": low, "high": high, "seeds": seeds, "images": images,
        "seen": float(np.mean(seen[0]) / np.mean(seen[1])),
    }  # fmt: skip
