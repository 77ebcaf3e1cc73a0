"""Pages drawn to train on: the same each time, light and dark in turn, written once."""

import cv2
import numpy as np
import pytest

from lstm_ae_lib.tasks import pages, photographs


def test_a_page_is_drawn_once_and_always_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "PAGES", 1)
    (written,) = pages.write_pages(tmp_path)
    page = cv2.imread(str(written))[..., ::-1]
    assert written.name == "drawn-0.png" and page.shape == (1200, 1600, 3)
    assert (np.abs(np.diff(page.astype(int), axis=1)).max(axis=-1) > 60).mean() > 0.01  # it is full of edges
    assert np.ptp(page.astype(int), axis=-1).max() > 100 and np.median(page) > 200  # has colours, and a light ground
    written.write_bytes(b"mine")
    assert pages.write_pages(tmp_path) == [written] and written.read_bytes() == b"mine"
    np.testing.assert_array_equal(pages.draw_page(0), page)


def test_every_other_page_is_dark():
    colours = [[pages._colour(np.random.default_rng(seed), light) for seed in range(20)] for light in (True, False)]
    assert np.min(colours[0]) >= 0.75 and np.max(colours[1]) <= 0.25 and np.allclose(1 - np.array(colours[0]), colours[1])


@pytest.mark.parametrize("place", [-1, 1000, 0.5])
def test_other_numbers_are_refused(place):
    with pytest.raises(ValueError, match="place must be a whole number from 0 to 999"):
        pages.draw_page(place)


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
