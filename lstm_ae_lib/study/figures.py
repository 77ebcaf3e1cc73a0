"""README's pictures, from released weights: ``python -m lstm_ae_lib.study.figures`` writes them to ``figures/``;
and what drivers draw."""

import itertools
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from lstm_ae_lib import cifar10, degradations, metrics, paths, pictures, plotting, restoring
from lstm_ae_lib.study import releasing
from lstm_ae_lib.tasks import photographs

CASE = "Gaussian 2, noise 3"  # of photographs.CASES
PART = slice(20, 276), slice(110, 366)  # of the photograph: rows and columns shown, twice enlarged
QUANTILES = {"lower quartile": 0.25, "upper quartile": 0.75}


def loss_curves(epochs, curves: dict, baselines: dict):
    """Losses by epoch, and horizontal lines for what they must beat. Log scale, MSE in [0, 1] units."""
    figure, axis = plt.subplots(figsize=(6.4, 3.2), dpi=plotting.DPI)
    for (name, values), style in zip(curves.items(), itertools.cycle(("-", "--", ":")), strict=False):
        axis.plot(epochs, values, style, color=plotting.COLOURS["LSTM autoencoder"], label=name)
    for name, value in baselines.items():
        axis.axhline(value, color=plotting.COLOURS.get(name, "black"), linewidth=1, label=f"{name} ({value:.2e})")
    axis.set(xlabel="epoch", ylabel="MSE", yscale="log", title="Training and validation loss")
    axis.xaxis.get_major_locator().set_params(integer=True)
    return plotting.finished(figure, which="both")


def main() -> int:
    """Writes ``photograph.png``, ``cifar.png``, and ``blurred.png``, the degraded photograph for readers to restore."""
    matplotlib.use("Agg")
    restorer = restoring.load_restorer("gauss2")
    linear = releasing.linear_part(restorer)
    clean = pictures.photographs()["astronaut"]
    degraded = degradations.through_camera(clean, np.random.default_rng(0), **photographs.CASES[CASE])
    pictures.write(paths.figures_dir() / "blurred.png", degraded)
    found = {"blurred, noisy": degraded, "restored": restoring.restore(degraded, "photo")}
    titles = [f"{title}: {metrics.per_image(clean[None], image[None])['psnr'][0]:.1f} dB" for title, image in found.items()]
    figure = plotting.image_row([image[PART] for image in found.values()], titles, scale=512 / plotting.DPI)
    _save(figure, "photograph.png", fontsize=14)
    _save(_cifar(restorer, linear), "cifar.png", fontsize=10)
    return 0


def _cifar(restorer, linear):
    """Two test images of the sample, chosen by the flagship's PSNR: degraded, linear filter, flagship, clean."""
    clean = cifar10.load_cifar10("sample").test_images
    degraded = degradations.as_float(degradations.degrade(clean, "gauss2"))
    shown = {"degraded": degraded, "linear filter": linear(degraded), "flagship": restorer(degraded)}
    psnr = {name: metrics.per_image(clean, images)["psnr"] for name, images in shown.items()}
    ranks = np.argsort(psnr["flagship"], kind="stable")
    chosen = {title: ranks[round(share * (len(ranks) - 1))] for title, share in QUANTILES.items()}
    panels = [(images[place], f"{name} {psnr[name][place]:.1f} dB") for place in chosen.values() for name, images in shown.items()]
    for row, (title, place) in enumerate(chosen.items()):
        panels.insert(row * 4 + 3, (clean[place], f"clean ({title})"))
    return plotting.image_row(*zip(*panels, strict=True), columns=4)


def _save(figure, name, fontsize):
    for axis in figure.axes:
        axis.title.set_fontsize(fontsize)
    plotting.save(figure, paths.figures_dir() / name)
    print(paths.figures_dir() / name)


if __name__ == "__main__":
    sys.exit(main())
