"""An upload is a file like any other."""

import io
import types

import numpy as np
import PIL.Image
import pytest

from lstm_ae_lib.study import uploads


def test_an_upload_is_read_in_both_forms_that_widgets_have_had():
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    stream = io.BytesIO()
    PIL.Image.fromarray(image).save(stream, "PNG")
    chosen = {"name": "it.png", "content": memoryview(stream.getvalue())}
    for value in ((chosen,), {"it.png": chosen}):
        np.testing.assert_array_equal(uploads.picture(types.SimpleNamespace(value=value)), image)
    with pytest.raises(ValueError, match="no picture was chosen"):
        uploads.picture(uploads.button())
    with pytest.raises(ValueError, match="the picture is neither a PNG nor a JPEG"):
        uploads.picture(types.SimpleNamespace(value=({"content": b"text"},)))
