"""Figures from arrays. All panels of pixels are on the same 0 to 1 scale, so that a loss of contrast stays visible."""

import itertools

import matplotlib.pyplot as plt
import numpy as np

from lstm_ae_lib import checks, files

DPI = 80
SMALL, LARGE = 2.1, 5.4  # inches for an image of CIFAR-10, and for a photograph
LARGEST_ERROR = 0.3  # white in a map of |error|
BESIDE = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}  # a legend right of the axes
COLOURS = {
    "degraded": "#888888", "linear filter": "#1f77b4", "mixture of linear filters": "#393b79", "LSTM autoencoder": "#d62728",
    "bidirectional LSTM autoencoder": "#9467bd", "DnCNN": "#2ca02c", "RED-Net": "#17becf", "U-Net": "#ff7f0e", "NAFNet": "#8c564b",
    "flagship": "#e377c2", "recurrent inference": "#7f7f7f", "mean of VAE samples": "#637939", "one VAE sample": "#b5cf6b",
    "flagship against a discriminator": "#843c39", "unsharp mask": "#bcbd22", "Wiener filter": "#aec7e8",
    "Richardson-Lucy": "#c49c94", "total variation": "#98df8a", "non-local means": "#f7b6d2", "wavelets": "#dbdb8d",
    "compressor": "#e377c2", "compressor for all rates": "#8c1a6a", "through the bottleneck": "#e377c2",
    "principal components": "#1f77b4", "sequence-to-sequence LSTM": "#d62728", "JPEG": "#2ca02c", "WebP": "#ff7f0e",
    "AVIF": "#9467bd", "JPEG XL": "#17becf", "scale hyperprior, trained alike": "#7f7f7f", "clean": "black",
}  # fmt: skip


def save(figure, path, dpi: int = DPI) -> None:
    """Writes a figure as PNG, atomically; ``dpi`` of the file, 80 as in the notebooks."""
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi, bbox_inches="tight", format="png")


def image_row(images, titles, scale: float | None = None, columns: int = 6):
    """Single images, each with its title, at most ``columns`` side by side. ``images``: a list of ``(h, w, 3)`` or ``(h, w)``.

    ``scale``: inches for each; by default so many that an image of CIFAR-10 is 160 pixels wide and a photograph 420.
    """
    if len(images) != len(titles) or not len(images):
        raise ValueError(f"images and titles must be as many, at least one; got {len(images)} and {len(titles)}")
    scale = scale or (LARGE if max(np.shape(images[0])[:2], default=0) > 64 else SMALL)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * scale, rows * (scale + 0.25)), dpi=DPI, squeeze=False)
    for axis, image, title in itertools.zip_longest(axes.flat, images, titles):
        axis.axis("off") if image is None else _pixels(axis, image, title)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.04, hspace=0.14)
    return figure


def restorations(degraded, restored, clean, degraded_psnr, restored_psnr, row_titles=None):
    """One row an image: degraded, restored, clean, absolute error, each ``(n, h, w, 3)`` in [0, 1], with PSNR ``(n,)`` in dB.

    The error is the mean over the colours, on a scale from 0 to :data:`LARGEST_ERROR`.
    """
    for images, name in ((degraded, "degraded"), (restored, "restored")):
        checks.same_shape(images, clean, name, "clean")
    figure, axes = plt.subplots(len(clean), 4, figsize=(4 * SMALL, (SMALL + 0.2) * len(clean)), dpi=DPI, squeeze=False)
    for row, (before, after, wanted) in enumerate(zip(degraded, restored, clean, strict=True)):
        error = np.abs(np.asarray(after, np.float32) - np.asarray(wanted, np.float32)).mean(axis=-1)
        panels = [(before, f"degraded {degraded_psnr[row]:.1f} dB"), (after, f"restored {restored_psnr[row]:.1f} dB"),
                  (wanted, "clean"), (error, f"|error|, 0 to {LARGEST_ERROR}", LARGEST_ERROR)]  # fmt: skip
        for axis, panel in zip(axes[row], panels, strict=True):
            _pixels(axis, *panel)
        if row_titles is not None:
            axes[row, 0].text(-0.1, 0.5, row_titles[row], transform=axes[row, 0].transAxes, ha="right", va="center", fontsize=9)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.04, hspace=0.14)
    return figure


def slider(frames: dict, label: str, **options):
    """A slider for Jupyter and Colab over ``frames``: position -> ``(images, titles)`` for :func:`image_row` with ``options``."""
    import ipywidgets

    def draw(position):
        image_row(*frames[position], **options)
        plt.show()

    return ipywidgets.interactive(draw, position=ipywidgets.SelectionSlider(options=list(frames), description=label))


def finished(figure, title="", which="major", fontsize=8, **legend):
    """The figure with a grid on all axes, the legend on the last, and a title above all."""
    for axis in figure.axes:
        axis.grid(alpha=0.3, which=which)
    figure.axes[-1].legend(fontsize=fontsize, **legend)
    figure.suptitle(title, fontsize=10)
    return figure


def _pixels(axis, image, title="", white=1.0):
    image = checks.array(image, "image")
    if image.ndim != 2 and image.shape[2:] != (3,):
        raise ValueError(f"image must have the shape (height, width, 3) or (height, width), got {image.shape}")
    image = image / 255.0 if image.dtype == np.uint8 else np.clip(image, 0, 1)
    image = image if image.dtype == np.float64 else image.astype(np.float32)
    axis.imshow(image, cmap="gray", vmin=0.0, vmax=white, interpolation="nearest")
    axis.set_title(title, fontsize=8)
    axis.axis("off")
