"""Where recurrence pays: task by task, a recurrent network beside the best of its size with a limited reach, from the records."""

import math

import numpy as np

from lstm_ae_lib import metrics
from lstm_ae_lib.study import records

BURST_FRAMES, JPEG_SIDES = (1, 12), (128, 384)
ONE_PIECE = "nothing: all of the image is in reach"


def margins() -> list:
    """A dictionary for each task, from the least to be remembered to the most.

    ``task``, ``remembered``: words. ``recurrence``, ``best``: the networks' titles; ``runs``: their names. ``with``, ``without``,
    ``margin``: PSNR in dB, or of JPEGs the mean gain in dB. ``low``, ``high``: 95 % interval of the margin over images, of JPEGs
    over bits and crops of three or four photographs; None where images have not been recorded one by one. ``images``: how many.
    ``seen``: how many of the other's training images the recurrent network saw, as a ratio.
    """
    found = [
        _validated("blur of 2 pixels, 32x32 (`gauss2`)", ("design-scan", "gated scans"), ("design-convolution", "convolutions")),
        _validated("a camera's blur, noise and JPEG, 32x32 (`camera`)", ("camera-multiscale", "gated scans"),
                   ("camera-convolution", "convolutions")),
    ]  # fmt: skip
    found += [_of_bursts(frames) for frames in BURST_FRAMES]
    return [*found, *(_of_jpegs(side) for side in JPEG_SIDES)]


def _validated(task, *pair):
    """On validation images, at the end of the training; of these images only the mean is recorded."""
    psnr = [records.published_history(run)["val_psnr"][-1] for run, _ in pair]
    seen = [max(part["images_seen"] for part in records.published_training(run)["run"]["training"].values()) for run, _ in pair]
    images = int(records.published_parameters(pair[0][0])["validation_images"])
    return _row(task, ONE_PIECE, [title for _, title in pair], [run for run, _ in pair], psnr, None, images, seen)


def _of_bursts(frames):
    """On test images; the interval is of two means that are not paired, so wider than it needs to be."""
    pair = []
    for recurrent in (True, False):
        kind = "recurrent" if recurrent else "window"
        ones = records.reference_records(protocol="burst50", split="test", setting=frames, drift=1.0, restorer=kind)
        pair.append(max(ones, key=lambda one: one["psnr"]))
    window = records.published_parameters(pair[1]["run"])["window"]
    titles = ["frame by frame, aligned", f"window of {window}" + ", aligned" * (window > 1)]
    task = f"noise of 50, {frames} frames" if frames > 1 else "noise of 50, 1 frame"
    half = math.hypot(*((one["psnr_high"] - one["psnr_low"]) / 2 for one in pair))
    numbers = [[one[field] for one in pair] for field in ("run", "psnr", "images_seen")]
    remembered = "what all frames have shown" if frames > 1 else "nothing: there is one frame"
    return _row(task, remembered, titles, *numbers[:2], half, pair[0]["images"], numbers[2])


def _of_jpegs(side):
    """On crops of scikit-image's photographs, the same for all networks."""
    ones = [one for one in records.reference_records(protocol="broken_jpeg", split="test", setting=side) if "gains" in one]
    recurrent = next(one for one in ones if one["run"] == "jpeg-feedback")  # the one that had as many minutes as the others
    others = [one for one in ones if one["restorer"] in ("unet", "nafnet", "rednet", "convolution", "mean")]
    pair = [recurrent, max(others, key=lambda one: np.mean(one["gains"]))]
    gains = [np.array(one["gains"]) for one in pair]
    titles = [records.restorer_title(one) for one in pair]
    names, seen = ([one[field] for one in pair] for field in ("run", "images_seen"))
    task, remembered = f"JPEG with a flipped bit, {side}x{side}", "shift and colour, since the bit flipped"
    row = _row(task, remembered, titles, names, [gain.mean() for gain in gains], None, len(gains[0]), seen)
    low, high = metrics.bootstrap_interval(gains[0] - gains[1])
    return row | {"low": low, "high": high}


def _row(task, remembered, titles, names, values, half, images, seen):
    margin = float(values[0] - values[1])
    return {
        "task": task, "remembered": remembered, "recurrence": titles[0], "best": titles[1], "runs": names, "with": float(values[0]),
        "without": float(values[1]), "margin": margin, "low": half and margin - half, "high": half and margin + half,
        "images": images, "seen": seen[0] / seen[1],
    }  # fmt: skip
