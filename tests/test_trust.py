"""Maps of the error to expect: the spread of mirror images, its calibration, and what the command line writes."""

import cv2
import numpy as np
import pytest

from lstm_ae_lib import __main__, degradations, pictures, restoring
from lstm_ae_lib.tasks import photographs, trust


def test_a_restorer_that_does_the_same_to_mirror_images_has_no_spread():
    picture = pictures.photographs()["coffee"][:40, :50]
    restored, variance = trust.spread(picture, lambda batch: batch**2)
    assert variance.shape == (40, 50) and variance.max() == 0
    np.testing.assert_allclose(restored, (picture / 255) ** 2, atol=1e-6)


def test_the_spread_is_the_variance_of_four_results():
    """A restorer that makes the right side brighter gives two results, each twice: their variance is a third of the difference
    squared."""
    ramp = np.linspace(0, 0.4, 50, dtype=np.float32)[:, None]
    _, variance = trust.spread(np.full((40, 50), 100, np.uint8), lambda batch: batch + ramp)
    expected = np.tile((255 * (ramp - ramp[::-1])[:, 0]) ** 2 / 3, (40, 1))
    np.testing.assert_allclose(variance, cv2.GaussianBlur(expected, (0, 0), trust.SMOOTHING), rtol=1e-3, atol=0.01)


def test_the_fit_finds_a_power_and_expects_the_mean_error():
    random = np.random.default_rng(0)
    variance = np.exp(random.uniform(-3, 4, 100_000))
    found = trust.fit(variance, 9 * variance**1.2 * np.exp(random.normal(0, 0.5, variance.shape)))
    assert found["slope"] == pytest.approx(1.2, abs=0.01) and found["offset"] == pytest.approx(np.log(9) + 0.5**2 / 2, abs=0.02)
    # At a variance of 1 the squared error is 9 times the mean of what was multiplied, exp(0.125).
    assert trust.expected(np.ones(1), found)[0] == pytest.approx(3 * np.exp(0.0625), rel=0.02)
    assert trust.fit(np.ones(100), np.full(100, 4.0)) == {"slope": 0, "offset": pytest.approx(np.log(4))}
    with pytest.raises(ValueError, match="bins must be a whole number from 2 to 30, got 50"):
        trust.fit(np.ones(30), np.ones(30))
    assert trust.expected(np.zeros(1), found)[0] == trust.expected(np.full(1, trust.LEAST), found)[0] > 0


def test_the_card_says_how_well_errors_are_told():
    """On halves of photographs that it was not fitted on."""
    card = restoring.load_restorer("photo").card["trust"]
    expected, found = ([one[name] for one in card["bins"]] for name in ("expected", "found"))
    assert card["correlation"] > 0.7 and found == sorted(found) and found[-1] > 5 * found[0]
    assert all(0.6 < told / seen < 1.6 for told, seen in zip(expected, found, strict=True))


def test_the_command_line_writes_a_map(tmp_path, capsys):
    clean = pictures.photographs()["astronaut"][60:156, 180:276]
    degraded = degradations.through_camera(clean, np.random.default_rng(0), **photographs.CASES["Gaussian 2, noise 3"])
    source, target, error = (str(tmp_path / name) for name in ("in.png", "out.png", "map.png"))
    pictures.write(source, degraded)
    assert __main__.main(["restore", source, target, "--map", error, "--quiet"]) == 0
    found, restored = pictures.read(error), pictures.read(target)
    assert found.shape == (96, 96) and found.dtype == np.uint8
    error_now = cv2.GaussianBlur(np.square(restored.astype(np.float32) - clean).mean(axis=2), (0, 0), 2)
    lighter = found > np.median(found)
    assert error_now[lighter].mean() > 2 * error_now[~lighter].mean()
    capsys.readouterr()
    for wrong, said in ((error[:-3] + "jpg", "the suffix of the file to write must be one of"), (source, "write to another file"),
                        (target, "map must be a .png file of its own"), ("-", "map must be a .png file of its own"),
                        (f"{tmp_path}/../{tmp_path.name}/out.png", "map must be a .png file of its own")):  # fmt: skip
        assert __main__.main(["restore", source, target, "--map", wrong]) == 2 and said in capsys.readouterr().err
    assert __main__.main(["restore", source, target, "--map", error, "--weights", "gauss2"]) == 2
    assert "the weights gauss2 have no map of errors; photo has" in capsys.readouterr().err
    with pytest.raises(ValueError, match="the weights blind have no map of errors"):
        trust.error_map(degraded, restoring.load_restorer("blind"))
