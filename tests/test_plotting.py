import matplotlib.pyplot as plt
import ml_dtypes
import numpy as np
import pytest

from lstm_ae_lib import plotting


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def drawn(figure):
    return [image for axis in figure.axes for image in axis.get_images()]


def test_every_panel_is_on_one_fixed_scale_and_in_order(unit):
    figure = plotting.restorations(unit[:2] * 0.5, unit[:2] * 0.9, unit[:2], [20.0, 21.0], [25.0, 26.0], ["best", "worst"])
    panels = drawn(figure)
    assert [panel.get_clim() for panel in panels] == 2 * [(0.0, 1.0), (0.0, 1.0), (0.0, 1.0), (0.0, 0.3)]
    np.testing.assert_allclose(panels[0].get_array(), unit[0] * 0.5)  # a loss of contrast stays visible
    np.testing.assert_allclose(panels[1].get_array(), unit[0] * 0.9)
    np.testing.assert_allclose(panels[2].get_array(), unit[0])
    np.testing.assert_allclose(panels[3].get_array(), (0.1 * unit[0]).mean(axis=-1), atol=1e-6)
    titles = [axis.get_title() for axis in figure.axes[:4]]
    assert titles[:3] == ["degraded 20.0 dB", "restored 25.0 dB", "clean"] and titles[3] == "|error|, 0 to 0.3"


def test_eight_bit_and_float_pixels_look_the_same(clean, unit):
    first, second = drawn(plotting.image_row([clean[0], unit[0]], ["a", "b"]))
    np.testing.assert_allclose(first.get_array(), second.get_array(), atol=1e-6)


def test_pixels_are_large_enough_to_see_a_blur(clean):
    for images, columns, width in ((clean[:8], 6, 150), (np.zeros((2, 100, 150, 3)), 2, 400)):
        figure = plotting.image_row(list(images), [""] * len(images))
        figure.canvas.draw()
        panels = drawn(figure)
        assert all(panel.get_window_extent().width >= width for panel in panels)
        assert len({round(panel.get_window_extent().x0) for panel in panels}) == columns


def test_save_writes_a_picture_in_a_new_folder(tmp_path):
    import cv2

    path = tmp_path / "figures" / "01_x.png"
    plotting.save(plotting.image_row([np.zeros((4, 4, 3))], ["black"]), path)
    assert cv2.imread(str(path)).shape[2] == 3
    assert [entry.name for entry in path.parent.iterdir()] == ["01_x.png"]


def test_a_slider_draws_the_frame_it_stands_at(unit, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append([axis.get_title() for axis in plt.gcf().axes]))
    frames = {1.0: ([unit[0], unit[1]], ["degraded", "restored"]), 2.0: ([unit[2], unit[3]], ["more", "less"])}
    slider = plotting.slider(frames, "sigma", columns=1)
    assert slider.children[0].options == (1.0, 2.0) and slider.children[0].description == "sigma"
    slider.children[0].value = 2.0
    slider.update()
    assert shown[-1] == ["more", "less"] and plt.gcf().axes[0].get_gridspec().ncols == 1
    np.testing.assert_allclose(drawn(plt.gcf())[1].get_array(), unit[3])


PIXELS = np.zeros((2, 8, 8, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plotting.image_row([PIXELS[0]], []), "images and titles must be as many, at least one; got 1 and 0"),
        (lambda: plotting.image_row([PIXELS], ["two"]), r"image must have the shape \(height, width, 3\) .*, got \(2, 8, 8, 3\)"),
        (lambda: plotting.image_row(["cat.png"], ["cat"]), "image must be an array of numbers, got"),
        (lambda: plotting.restorations(PIXELS[:1], PIXELS, PIXELS, [1, 2], [1, 2]), "degraded and clean must have the same shape"),
    ],
)
def test_the_argument_that_is_wrong_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_short_floats_are_pixels(unit, dtype):
    (panel,) = drawn(plotting.image_row([unit[0].astype(dtype)], ["a"]))
    np.testing.assert_allclose(panel.get_array(), unit[0], atol=2e-3)
