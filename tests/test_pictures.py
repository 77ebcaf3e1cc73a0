"""Picture files: what comes back is what was written, and an upload is a file like any other."""

import io
import types

import numpy as np
import PIL.Image
import pytest

from lstm_ae_lib import pictures


def test_any_picture_becomes_eight_bit_colours():
    grey = np.array([[0, 65535], [32768, 257]], np.uint16)
    expected = np.repeat(np.array([[0, 255], [128, 1]], np.uint8)[..., None], 3, axis=2)
    np.testing.assert_array_equal(pictures.eight_bit_colours(grey), expected)
    alpha = (np.random.default_rng(0).random((4, 5, 4)) * 255).astype(np.uint8)
    np.testing.assert_array_equal(pictures.eight_bit_colours(alpha), alpha[..., :3])
    with pytest.raises(ValueError, match="uint8, uint16"):
        pictures.eight_bit_colours(np.zeros((4, 4), np.int32))


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 3), (9, 7, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_png_comes_back_as_it_was_written(tmp_path, shape, dtype):
    image = (np.random.default_rng(0).random(shape) * np.iinfo(dtype).max).astype(dtype)
    pictures.write(tmp_path / "new" / "it.png", image)
    found = pictures.read(tmp_path / "new" / "it.png")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, image)


def test_a_jpeg_has_eight_bits(tmp_path):
    image = np.full((16, 16, 3), [60000, 30000, 10000], np.uint16)
    pictures.write(tmp_path / "it.jpg", image)
    found = pictures.read(tmp_path / "it.jpg")
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found.mean(axis=(0, 1)), [60000 / 257, 30000 / 257, 10000 / 257], atol=2)
    with pytest.raises(ValueError, match="must be one of .png, .jpg, .jpeg; got '.bmp'"):
        pictures.write(tmp_path / "it.bmp", image)


def test_an_upload_is_read_in_both_forms_that_widgets_have_had():
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    stream = io.BytesIO()
    PIL.Image.fromarray(image).save(stream, "PNG")
    chosen = {"name": "it.png", "content": memoryview(stream.getvalue())}
    for value in ((chosen,), {"it.png": chosen}):
        np.testing.assert_array_equal(pictures.uploaded(types.SimpleNamespace(value=value)), image)
    with pytest.raises(ValueError, match="no picture was chosen"):
        pictures.uploaded(pictures.upload_button())
    with pytest.raises(ValueError, match="the picture is neither a PNG nor a JPEG"):
        pictures.uploaded(types.SimpleNamespace(value=({"content": b"text"},)))
