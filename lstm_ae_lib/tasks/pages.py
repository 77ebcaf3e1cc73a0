"""Pages to train on beside photographs: text, tables, windows and charts, whose edges no photograph has; scans of such pages, soft
and unevenly lit, and soft photographs, which are to be left as they are; and fills, whose pure colours, black and fine patterns
are rare in photographs."""

from pathlib import Path

import numpy as np

from lstm_ae_lib import checks, pictures

PAGES, SCANS, FILLS, SOFT = 4, 2, 4, 10  # beside twenty photographs: half of the crops
_FONTS = ("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono")  # Matplotlib brings them
_LETTERS = np.array(list("etaoinshrdlcumwfgypbvkjxqzEAINSTR0123456789.,-:"))


def draw_page(place: int) -> np.ndarray:
    """The page of a number, 0 to 999: ``(1200, 1600, 3)`` uint8, RGB. Even ones are light, odd ones dark. One version of Matplotlib
    always draws the same."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    random = np.random.default_rng(checks.number(place, "place", 0, 999, whole=True))
    figure = Figure((16, 12), dpi=100, facecolor=_colour(random, place % 2 == 0))
    canvas = FigureCanvasAgg(figure)
    for column, row in np.ndindex(4, 4):
        (_paragraph, _table, _window, _chart)[(column + row + place) % 4](figure, random, column / 4, row / 4, place % 2 == 0)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def draw_scan(place: int) -> np.ndarray:
    """A printed page as a camera or a scanner sees it, of a number, 0 to 999: ``(1200, 1600, 3)`` uint8, RGB. Its quarters are
    blurred by a Gaussian of 0.7 to 3 pixels and sharpened by an unsharp mask of up to 1.5, the paper has a grain and a tint, and
    the light falls off towards one side to 40 to 90 %."""
    import cv2

    random, page = np.random.default_rng((checks.number(place, "place", 0, 999, whole=True), 2)), draw_page(place // 2 * 2) / 255
    page = page.mean(axis=-1, keepdims=True) * (1 - random.uniform(0, 0.1, 3))
    grain = cv2.GaussianBlur(random.normal(0, 4 / 255, page.shape[:2]), (0, 0), 1)
    for quarter in (page[top : top + 600, left : left + 800] for top in (0, 600) for left in (0, 800)):
        soft = cv2.GaussianBlur(quarter, (0, 0), random.uniform(0.7, 3))
        quarter[:] = soft + random.uniform(0, 1.5) * (soft - cv2.GaussianBlur(soft, (0, 0), 2))
    fall = np.add.outer(*(random.choice((-1, 1)) * np.linspace(0, random.uniform(0.2, 1), length) for length in page.shape[:2]))
    light = 1 - random.uniform(0.1, 0.6) * (fall - fall.min()) / np.ptp(fall)
    return np.rint(255 * np.clip((page + grain[..., None]) * light[..., None], 0, 1)).astype(np.uint8)


def draw_fills(place: int) -> np.ndarray:
    """Twelve squares of a number, 0 to 999: ``(1200, 1600, 3)`` uint8, RGB. Black, white and pure colours, any colour, shades from
    one colour to another, stripes and chequers of 1 to 32 pixels, of pure colours too."""
    random, side = np.random.default_rng((checks.number(place, "place", 0, 999, whole=True), 1)), 400
    across, pures = np.arange(side), random.permutation(8)[:, None] >> np.arange(3) & 1  # the corners of the cube of colours
    page = np.empty((3 * side, 4 * side, 3), np.uint8)
    for cell, (row, column) in enumerate(np.ndindex(3, 4)):
        pure, other = random.permutation(pures)[:2]
        if cell < 5:
            square = np.broadcast_to(pures[(cell + 4 * place) % 8] if cell < 4 else random.random(3), (side, side, 3))
        elif cell < 8:
            share = np.add.outer(*(across * random.uniform(-1, 1) for _ in range(2)))[..., None]
            share = (share - share.min()) / np.ptp(share)
            square = share * pure + (1 - share) * random.random(3)
        else:
            down, right = across // random.choice((1, 2, 3, 8, 32)), across // random.choice((1, 2, 3, 8, 32))
            parity = np.add.outer(down * (cell != 8), right * (cell != 9))[..., None] % 2  # stripes along either axis, chequers
            square = np.where(parity, pure, other if cell < 11 else random.random(3))
        page[row * side : (row + 1) * side, column * side : (column + 1) * side] = np.rint(255 * square)
    return page


def soften(photograph, place: int) -> np.ndarray:
    """A photograph ``(height, width, 3)`` uint8, RGB, as a soft lens or an enlargement leaves it, by a number, 0 to 999:
    ``(600, 800, 3)`` uint8. It is shrunk (pixel areas), enlarged again 1.3 to 4 times (cubic), sharpened by an unsharp mask of up
    to 1, and given a grain of up to 2 of 255."""
    import cv2

    random = np.random.default_rng((checks.number(place, "place", 0, 999, whole=True), 3))
    factor = random.uniform(1.3, 4)
    small = cv2.resize(photograph.astype(np.float32), (round(800 / factor), round(600 / factor)), interpolation=cv2.INTER_AREA)
    soft = cv2.resize(small, (800, 600), interpolation=cv2.INTER_CUBIC)
    soft += random.uniform(0, 1) * (soft - cv2.GaussianBlur(soft, (0, 0), 1.5))
    soft += random.normal(0, random.uniform(0, 2), soft.shape)
    return np.rint(np.clip(soft, 0, 255)).astype(np.uint8)


def write_pages(folder) -> list[Path]:
    """Writes the pages that a folder lacks as ``drawn-0.png``, ``scan-0.png``, ``fills-0.png`` and so on, and ``soft-NAME.png`` of
    every other ``NAME.jpg``, at most ten; returns all their paths."""
    drawn = {f"drawn-{place}.png": lambda place=place: draw_page(place) for place in range(PAGES)}
    drawn |= {f"scan-{place}.png": lambda place=place: draw_scan(place + 500) for place in range(0, 2 * SCANS, 2)}
    drawn |= {f"fills-{place}.png": lambda place=place: draw_fills(place) for place in range(FILLS)}
    for place, photograph in enumerate(sorted(Path(folder).glob("*.jpg"))[::2][:SOFT]):
        drawn[f"soft-{photograph.stem}.png"] = lambda place=place, photograph=photograph: soften(pictures.read(photograph), place)
    for name, draw in drawn.items():
        if not (Path(folder) / name).exists():
            pictures.write(Path(folder) / name, draw())
    return [Path(folder) / name for name in drawn]


def _colour(random, light):
    """A pale colour or a deep one, each third one without a hue."""
    colour = random.uniform(0, 0.25, 1 if random.random() < 1 / 3 else 3) * np.ones(3)
    return tuple(1 - colour if light else colour)


def _words(random, count):
    return " ".join("".join(random.choice(_LETTERS, random.integers(1, 10))) for _ in range(count))


def _paragraph(figure, random, left, bottom, light):
    size, font = random.uniform(6, 22), random.choice(_FONTS)
    colour = _colour(random, not light)
    lines, words = int(290 / (size * 2)), int(420 / (size * 5))
    for line in range(lines):
        height = bottom + 0.24 - (line + 1) * 0.23 / lines
        figure.text(left + 0.01, height, _words(random, words), size=size, family=font, color=colour, clip_on=True,
                    weight=random.choice(("normal", "bold"), p=(0.8, 0.2)))  # fmt: skip


def _table(figure, random, left, bottom, light):
    axes = _axes(figure, random, left, bottom, light)
    axes.set(xticks=range(5), yticks=range(9), xlim=(0, 4), ylim=(0, 8), xticklabels=[], yticklabels=[])
    axes.grid(color=_colour(random, not light), linewidth=random.uniform(0.5, 2))
    for column, row in np.ndindex(4, 8):
        size, colour = random.uniform(7, 11), _colour(random, not light)
        axes.text(column + 0.1, row + 0.3, f"{random.normal(0, 100):.2f}", size=size, color=colour)


def _window(figure, random, left, bottom, light):
    axes = _axes(figure, random, left, bottom, light)
    axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
    for _ in range(random.integers(6, 14)):
        corner, size, colour = random.uniform(0, 0.8, 2), random.uniform(0.05, 0.5, 2), random.random(3)
        axes.add_patch(_rectangle(corner, size, colour, random.uniform(0, 3)))
        text, size = tuple(np.round(1 - colour) if random.random() < 0.7 else random.random(3)), random.uniform(6, 14)
        axes.text(*corner + 0.02, _words(random, 2), size=size, family=random.choice(_FONTS), color=text, clip_on=True)


def _rectangle(corner, size, colour, linewidth):
    from matplotlib.patches import Rectangle

    return Rectangle(corner, *size, facecolor=tuple(colour), edgecolor=tuple(colour / 2), linewidth=linewidth)


def _chart(figure, random, left, bottom, light):
    axes = _axes(figure, random, left, bottom, light)
    for _ in range(random.integers(1, 5)):
        style, width = random.choice(("-", "--", ":", "o-", ".")), random.uniform(0.5, 4)
        axes.plot(np.cumsum(random.normal(0, 1, 30)), style, color=tuple(random.random(3)), linewidth=width, markersize=4)
    axes.bar(range(0, 30, 3), random.normal(0, 3, 10), color=tuple(random.random(3)))
    axes.set_title(_words(random, 3), color=_colour(random, not light), size=9)


def _axes(figure, random, left, bottom, light):
    axes = figure.add_axes((left + 0.02, bottom + 0.02, 0.22, 0.2), facecolor=_colour(random, light))
    axes.tick_params(colors=_colour(random, not light), labelsize=7)
    return axes
