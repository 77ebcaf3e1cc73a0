"""JPEGs with flipped bits: the right bits are flipped, what is left of the picture, and how far one has to see."""

import io

import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest

from lstm_ae_lib import pictures
from lstm_ae_lib.tasks import broken_jpeg


@pytest.fixture(scope="module")
def image():
    return np.ascontiguousarray(pictures.photographs()["astronaut"][:128, :192])


def test_no_flip_changes_nothing_and_a_seed_repeats(image):
    content = broken_jpeg.encode(image)
    assert broken_jpeg.flip_bits(content, 0, 1) == content
    assert np.array_equal(broken_jpeg.damage(image, 0, 1), broken_jpeg.decode(content))
    assert np.abs(broken_jpeg.decode(content).astype(int) - image).mean() < 4  # quality 85
    once, again, other = (broken_jpeg.damage(image, 3, seed) for seed in (5, 5, 6))
    assert np.array_equal(once, again) and not np.array_equal(once, other)
    assert once.shape == image.shape and once.dtype == np.uint8


def test_so_many_bits_of_the_coded_data_are_flipped(image):
    content = broken_jpeg.encode(image)
    start, end = broken_jpeg.coded_bytes(content)
    assert content[end:] == b"\xff\xd9" and b"\xff\xda" in content[start - 16 : start] and end - start > 0.9 * len(content) - 700
    changed = np.frombuffer(content, np.uint8) ^ np.frombuffer(broken_jpeg.flip_bits(content, 4, 0), np.uint8)
    assert np.bitwise_count(changed).sum() == 4 and set(np.flatnonzero(changed)) <= set(range(start, end))


def test_what_is_decoded_before_the_break_is_as_it_was(image):
    sound = broken_jpeg.decode(broken_jpeg.encode(image))
    seen = broken_jpeg.damage(image, 1, 3)
    _, _, first = broken_jpeg._explained(seen, sound)
    before = broken_jpeg._raster(np.arange(16 * 24) < first, 128, 192)
    assert 0 < before.mean() < 1 and np.array_equal(seen * before, sound * before)


def test_one_colour_for_all_blocks_after_the_break_is_found(image):
    """A break made by hand: from block 100 on, two blocks late and 30 grey levels of red more."""
    sound = np.clip(image, 40, 200)
    blocks = broken_jpeg._blocks(sound).copy()
    blocks[102:] = blocks[100:-2]
    blocks[100:] += np.array([30, 0, 0], np.uint8)
    seen = broken_jpeg._image(blocks, 128, 192)
    moved, colour, first = broken_jpeg._explained(seen, sound)
    assert first == 100 and colour.tolist() == [-30, 0, 0]
    after = broken_jpeg._raster(np.arange(16 * 24) >= first, 128, 192)
    wrong = (moved + after * colour != sound).any(axis=-1)
    assert wrong.mean() < 0.01  # the last two blocks are lost


@pytest.mark.parametrize("first", [0, 5, 24, 100, 383])
def test_the_distance_is_that_to_the_nearest_pixel_before_the_break(first):
    sound = broken_jpeg._raster(np.arange(16 * 24) < first, 128, 192)[..., 0]
    found = broken_jpeg._distance(first, 128, 192)[..., 0]
    assert np.array_equal(found == 0, sound)
    y, x = np.nonzero(sound)
    for row, column in ((127, 191), (40, 100), (64, 0), (127, 0)):
        expected = np.maximum(abs(y - row), abs(x - column)).min() if first else 320
        assert found[row, column] == expected or (not first and found[row, column] >= 320)


def test_the_bounds_grow_with_the_reach_and_end_where_all_is_undone(image):
    found = broken_jpeg.bounds({"one": image}, flips=12, reaches=(8, 64, 400), seed=2)
    assert found["trials"] == 12 and found["damaged"] >= found["moved"] > 2 * found["undone"]
    near, far, everywhere = found["reaches"].values()
    assert 0 <= near < far <= everywhere == pytest.approx(10 * np.log10(found["moved"] / found["undone"]), abs=1e-6)


def jpeg(image, **options):
    stream = io.BytesIO()
    PIL.Image.fromarray(image).save(stream, "JPEG", **options)
    return stream.getvalue()


def test_content_whose_bits_cannot_be_flipped_is_refused(image):
    whole = broken_jpeg.encode(image)
    for content, message in (
        (b"", "must be a JPEG, which begins with ff d8, got nothing"),
        (b"\x89PNG", "got 89 50"),
        (whole[:100], "got one that ends before"),
        (jpeg(image, progressive=True), "must be a baseline JPEG, got a progressive one"),
        (jpeg(image, restart_marker_rows=1, subsampling=0), "without restart markers"),
        (jpeg(image), "JPEG of 4:4:4, each block by itself, got sampling 2 x 1 x 1 across, 2 x 1 x 1 down"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            broken_jpeg.coded_bytes(content)
    same = whole.replace(b"\x01\x11\x00\x02\x11\x01\x03\x11\x01", b"\x01\x12\x00\x02\x12\x01\x03\x12\x01")
    assert same != whole
    with pytest.raises(ValueError, match="got sampling 1 x 1 x 1 across, 2 x 2 x 2 down"):
        broken_jpeg.coded_bytes(same)
    scan = whole.index(b"\xff\xda")
    with pytest.raises(ValueError, match="must have its 3 components in one scan, got one with 1"):
        broken_jpeg.coded_bytes(whole[: scan + 4] + b"\x01" + whole[scan + 5 :])
    for marker, kind in ((0xC1, "an extended one"), (0xC9, "an arithmetic-coded one"), (0xC5, "another kind")):
        with pytest.raises(ValueError, match=f"must be a baseline JPEG, got {kind}"):
            broken_jpeg.coded_bytes(whole.replace(b"\xff\xc0", bytes([0xFF, marker])))
    assert [end - len(whole) for end in broken_jpeg.coded_bytes(whole)] == [
        end - len(whole) - 2 for end in broken_jpeg.coded_bytes(whole.replace(b"\xff\xc0", b"\xff\xff\xff\xc0"))
    ]  # fill bytes before a marker
    for cut in (b"\xff\xd8\xff\xda\x00\x0c", whole[: whole.index(b"\xff\xc0") + 8]):
        with pytest.raises(ValueError, match="must be a JPEG with a picture in it, got one that ends before"):
            broken_jpeg.coded_bytes(cut)
    for wrong in (image[:100], image[..., :1], image / 255):
        with pytest.raises(ValueError, match="image must be uint8 .* that 8 divides, got"):
            broken_jpeg.encode(wrong)
    with pytest.raises(ValueError, match="count must be a whole number from 0 to 1000, got -1"):
        broken_jpeg.flip_bits(whole, -1, 0)


def test_a_truncated_one_is_decoded_as_far_as_it_goes_and_what_is_none_says_so(image):
    whole = broken_jpeg.encode(image)
    start, end = broken_jpeg.coded_bytes(whole)
    assert broken_jpeg.coded_bytes(whole[:-2]) == (start, end)  # without its last marker
    half = broken_jpeg.decode(whole[: (start + end) // 2])
    assert half.shape == image.shape and np.array_equal(half[:32], broken_jpeg.decode(whole)[:32])
    assert len(np.unique(half[-8:].reshape(-1, 3), axis=0)) == 1
    with pytest.raises(ValueError, match="must be a JPEG that can be opened"):
        broken_jpeg.decode(whole[:100])
    assert PIL.ImageFile.LOAD_TRUNCATED_IMAGES is False
