import ml_dtypes
import numpy as np
import pytest

from lstm_ae_lib import checks


def test_good_arguments_come_back():
    images = np.zeros((1, 4, 4, 3), np.uint8)
    assert checks.images_uint8(images) is images and checks.images_degraded(images) is images
    assert checks.images_float(images / 255.0).dtype == np.float64
    assert checks.number(3, "n", 0, 3) == 3 and checks.choice("a", "w", ("a", "b")) == "a"
    assert checks.choice(None, "w", ("a", None)) is None and checks.choice(True, "w", (True, False)) is True


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("check", [checks.images_float, checks.images_degraded])
def test_every_float_is_taken_as_float32(check, dtype):
    images = np.array([0.0, 0.25, 1.0], dtype) * np.ones((2, 4, 4, 3), dtype)
    found = check(images)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[1, 2, 3], [0.0, 0.25, 1.0])


@pytest.mark.parametrize("value", [True, "1", None, float("nan"), -1, 4, 1.5, np.array([1]), [1]])
def test_number_refuses(value):
    with pytest.raises(ValueError, match="count must be a whole number from 0 to 3, got"):
        checks.number(value, "count", 0, 3, whole=True)


@pytest.mark.parametrize("value", ["c", None, 1, np.array(["a"]), np.array(["a", "b"]), ["a"], {"a"}, True])
def test_choice_refuses(value):
    with pytest.raises(ValueError, match="word must be one of a, b; got"):
        checks.choice(value, "word", ("a", "b"))
    with pytest.raises(ValueError, match="flip must be one of True, False; got 'no'"):
        checks.choice("no", "flip", (True, False))


@pytest.mark.parametrize("check", [checks.images_uint8, checks.images_float, checks.images_degraded])
@pytest.mark.parametrize("value", [None, "cat.png", [[1, 2], [3]], object(), np.zeros((1, 4, 4, 3), complex), np.array([b"a"])])
def test_what_is_no_array_of_numbers_is_named(check, value):
    with pytest.raises(ValueError, match="^photo must be an array of numbers, got"):
        check(value, "photo")


@pytest.mark.parametrize("check", [checks.images_uint8, checks.images_float, checks.images_degraded])
@pytest.mark.parametrize("dtype", [np.int32, bool])
def test_whole_numbers_are_no_pixels(check, dtype):
    with pytest.raises(ValueError, match=f"^photo must be .*, got {np.dtype(dtype)}"):
        check(np.zeros((1, 4, 4, 3), dtype), "photo")


@pytest.mark.parametrize("check", [checks.images_float, checks.images_degraded])
def test_infinite_images_are_refused(check):
    images = np.zeros((1, 4, 4, 3), np.float32)
    images[0, 0, 0, 0] = np.inf
    with pytest.raises(ValueError, match="degraded must be finite, got 1 values"):
        check(images, "degraded")


def test_shapes_are_compared_whatever_holds_the_numbers():
    checks.same_shape([[1, 2]], np.zeros((1, 2)), "a", "b")
    with pytest.raises(ValueError, match=r"a and b must have the same shape, got \(2,\) and \(3,\)"):
        checks.same_shape([1, 2], (1, 2, 3), "a", "b")
