"""Pages drawn to train on: the same each time, light and dark in turn, written once."""

import itertools

import cv2
import numpy as np
import pytest

from lstm_ae_lib import pictures
from lstm_ae_lib.tasks import pages, photographs


def test_a_page_is_drawn_once_and_always_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "PAGES", 1)
    monkeypatch.setattr(pages, "SCANS", 0)
    monkeypatch.setattr(pages, "FILLS", 0)
    (written,) = pages.write_pages(tmp_path)
    page = cv2.imread(str(written))[..., ::-1]
    assert written.name == "drawn-0.png" and page.shape == (1200, 1600, 3)
    assert (np.abs(np.diff(page.astype(int), axis=1)).max(axis=-1) > 60).mean() > 0.01  # it is full of edges
    assert np.ptp(page.astype(int), axis=-1).max() > 100 and np.median(page) > 200  # has colours, and a light ground
    written.write_bytes(b"mine")
    assert pages.write_pages(tmp_path) == [written] and written.read_bytes() == b"mine"
    np.testing.assert_array_equal(pages.draw_page(0), page)


def test_fills_hold_every_pure_colour_flat_and_fine_patterns(tmp_path, monkeypatch):
    """Twelve squares of 400 pixels a page; black alone made released weights explode that had seen no large black area."""
    monkeypatch.setattr(pages, "PAGES", 0)
    monkeypatch.setattr(pages, "SCANS", 0)
    written = pages.write_pages(tmp_path)
    assert [path.name for path in written] == ["fills-0.png", "fills-1.png", "fills-2.png", "fills-3.png"]
    drawn = [cv2.imread(str(path))[..., ::-1] for path in written]
    np.testing.assert_array_equal(drawn[0], pages.draw_fills(0))
    squares = np.concatenate([photographs.squares(page, 400) for page in drawn])
    flat = [tuple(square[0, 0].tolist()) for square in squares if np.ptp(square, axis=(0, 1)).max() == 0]
    assert set(flat) > set(itertools.product((0, 255), repeat=3))
    jumps = [np.abs(np.diff(square.astype(int), axis=axis)).max(-1) > 100 for square in squares for axis in (0, 1)]
    assert sum(jump.mean() > 0.9 for jump in jumps) >= 2  # patterns of single pixels


def test_scans_are_softer_than_pages_and_unevenly_lit(tmp_path, monkeypatch):
    """Sharpening a soft scan, as if it were a blurred page, is what they are to prevent."""
    monkeypatch.setattr(pages, "PAGES", 0)
    monkeypatch.setattr(pages, "FILLS", 0)
    written = pages.write_pages(tmp_path)  # where no photographs are
    assert [path.name for path in written] == ["scan-0.png", "scan-2.png"]
    scans = [cv2.imread(str(path))[..., ::-1].astype(float) for path in written]
    np.testing.assert_array_equal(scans[0], pages.draw_scan(500))
    for scan, place in zip(scans, (500, 502), strict=True):
        page = pages.draw_page(place).mean(axis=-1)
        steps = [np.abs(np.diff(picture, axis=1)) for picture in (scan.mean(axis=-1), page)]
        assert scan.shape == (1200, 1600, 3) and steps[0].max() < 0.8 * steps[1].max()
        ground = [np.median(square) for square in photographs.squares(scan, 400)]  # the page's own is one colour
        assert 1.1 < max(ground) / min(ground) < 3
        assert (np.abs(steps[0]) > 0).mean() > 0.5  # the grain


def test_soft_photographs_keep_the_light_and_lose_the_fine_detail(tmp_path, monkeypatch):
    """Sharpening a photograph that was always soft is what they are to prevent; grain tells that it was never blurred since."""
    for count in ("PAGES", "SCANS", "FILLS"):
        monkeypatch.setattr(pages, count, 0)
    sharp = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
    for number in range(21):
        pictures.write(tmp_path / f"{number:02}.jpg", sharp)
    written = pages.write_pages(tmp_path)
    assert [path.name for path in written] == [f"soft-{number:02}.png" for number in range(0, 20, 2)]
    grains = []
    for place, path in enumerate(written):
        soft = pictures.read(path)
        np.testing.assert_array_equal(soft, pages.soften(pictures.read(tmp_path / f"{2 * place:02}.jpg"), place))
        assert soft.shape == (600, 800, 3)
        assert np.abs(soft.mean(axis=(0, 1)) - sharp.mean(axis=(0, 1))).max() < 2
        spectrum = np.abs(np.fft.rfft(soft[..., 1].astype(float) - soft[..., 1].mean(), axis=1)).mean(axis=0)
        assert spectrum[-40:].mean() < 0.3 * spectrum[20:80].mean()
        grains.append(spectrum[-40:].mean())
    assert max(grains) / min(grains) > 10  # it is white


def test_every_other_page_is_dark():
    colours = [[pages._colour(np.random.default_rng(seed), light) for seed in range(20)] for light in (True, False)]
    assert np.min(colours[0]) >= 0.75 and np.max(colours[1]) <= 0.25 and np.allclose(1 - np.array(colours[0]), colours[1])


@pytest.mark.parametrize("place", [-1, 1000, 0.5])
def test_other_numbers_are_refused(place):
    with pytest.raises(ValueError, match="place must be a whole number from 0 to 999"):
        pages.draw_page(place)
    with pytest.raises(ValueError, match="place must be a whole number from 0 to 999"):
        pages.draw_scan(place)
    with pytest.raises(ValueError, match="place must be a whole number from 0 to 999"):
        pages.soften(np.zeros((8, 8, 3), np.uint8), place)


def test_photographs_come_with_pages_and_a_folder_of_ones_own_without(tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "verified", lambda: tmp_path)
    asked = []
    monkeypatch.setattr(photographs, "write_pages", asked.append)
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture)
    for folder in (tmp_path, "photographs"):
        photographs.load_crops(folder, 16, 0.25, count=20)
    assert asked == [tmp_path]


def test_a_soft_photograph_is_held_out_with_its_own(tmp_path, monkeypatch):
    """Validation on a softer version of what is trained on would not be on other photographs."""
    monkeypatch.setattr(photographs, "verified", lambda: tmp_path)
    monkeypatch.setattr(photographs, "write_pages", lambda folder: None)
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    names = {f"{name}.jpg" for name in "abcdefgh"} | {"soft-c.png", "soft-g.png", "soft-gone.png"}
    for name in names:
        pictures.write(tmp_path / name, picture)
    held = []

    def crops(part, count, seed):
        held.append(part.files)
        return np.zeros((count, 16, 16, 3), np.uint8)

    for seed in range(8):
        monkeypatch.setattr(photographs, "picture_crops", crops)
        _, trained = photographs.load_crops("photographs", 16, 0.25, seed, 20)
        assert held[-2] == trained.files and sorted(trained.files + held[-1]) == sorted(names - {"soft-gone.png"})
        for soft in ("soft-c.png", "soft-g.png"):
            assert (soft in trained.files) == (f"{soft[5]}.jpg" in trained.files)
    assert any("soft-c.png" in part for part in held[1::2]) and any("soft-c.png" in part for part in held[::2])
