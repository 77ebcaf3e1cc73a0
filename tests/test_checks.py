import numpy as np
import pytest

from lstm_ae_lib import checks


def test_good_arguments_come_back():
    images = np.zeros((1, 4, 4, 3), np.uint8)
    assert checks.images_uint8(images) is images
    assert checks.images_float(images / np.float32(255)).dtype == np.float32
    assert checks.images_float(images / 255.0).dtype == np.float64
    assert checks.number(3, "n", 0, 3) == 3 and checks.choice("a", "w", ("a", "b")) == "a"


@pytest.mark.parametrize("value", [True, "1", None, float("nan"), -1, 4, 1.5])
def test_number_refuses(value):
    with pytest.raises(ValueError, match="count must be a whole number from 0 to 3, got"):
        checks.number(value, "count", 0, 3, whole=True)


def test_infinite_images_are_refused():
    images = np.zeros((1, 4, 4, 3), np.float32)
    images[0, 0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="degraded must be finite, got 1 values"):
        checks.images_float(images, "degraded")
