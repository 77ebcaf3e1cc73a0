"""Batches from a folder of pictures: which crops, in which order, and what becomes of files that cannot be used."""

import io
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from lstm_ae_lib import datasets, degradations, pictures
from lstm_ae_lib.tasks import picture_folder

SIDE, CROPS, BATCH, SEED = 16, 3, 7, 5


def photograph(number, height=40, width=50):
    """Red tells the file, green the column, blue the row."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = number, 5 * np.arange(width) % 256, 6 * np.arange(height)[:, None] % 256
    return image


def save(path, image, form="PNG", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)
    image.save(path, form, **options)


@pytest.fixture
def full(tmp_path):
    """Twenty pictures of different sizes, in two groups of taking turns; the seventh is broken, the last is too small."""
    for number in range(20):
        save(tmp_path / "all" / f"{number:02d}.png", photograph(number, 40 + number, 90 - number))
    (tmp_path / "all" / "06.png").write_bytes((tmp_path / "all" / "06.png").read_bytes()[:-30])
    save(tmp_path / "all" / "19.png", photograph(19, 40, SIDE - 1))
    return tmp_path / "all"


def folder_of(path, **options):
    return picture_folder.PictureFolder(path, **{"side": SIDE, "crops": CROPS, "shrink": 3.0} | options)


def batches_of(path, steps, protocol="camera", **options):
    found = picture_folder.picture_batches(folder_of(path), protocol, BATCH, SEED, **options).take(steps)
    return [tuple(images.numpy() for images in pair) for pair in found]


def test_parts_of_batches_make_the_whole(full):
    # 20 files of 3 crops in batches of 7, the last of 4: only 1 divides both.
    with pytest.raises(ValueError, match="a batch must divide into 2 equal parts: batches are of 7 images, the last of 4"):
        batches_of(full, 1, part=(0, 2))
    made = {}
    for part in ((0, 1), (0, 2), (1, 2)):
        batches = picture_folder.picture_batches(folder_of(full), "camera", 6, SEED, part=part, first_step=7).take(5)
        made[part] = [tuple(images.numpy() for images in pair) for pair in batches]
    for both, *halves in zip(*made.values(), strict=True):
        for column in (0, 1):
            for place in (0, 1):
                np.testing.assert_array_equal(both[column][place::2], halves[place][column])


def expected_epoch(epoch, flip=True):
    """What the twenty pictures give, one crop after the other, as the docstrings say it."""
    order = np.random.default_rng((picture_folder.SEED, SEED, epoch, 2**32 - 1)).permutation(20)
    clean, positions = [], []
    for group in (order[:16], order[16:]):
        for number in range(CROPS):
            for place in group:
                image = photograph(used := {6: 7, 19: 0}.get(place, place), 40 + used, 90 - used)
                draws = np.random.default_rng((picture_folder.SEED, SEED, epoch, place)).random((CROPS, 4))[number]
                size = round(SIDE + draws[0] ** 2 * (min(3.0 * SIDE, 40 + used, 90 - used) - SIDE))
                top, left = int(draws[1] * (40 + used - size + 1)), int(draws[2] * (90 - used - size + 1))
                crop = cv2.resize(image[top : top + size, left : left + size], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
                clean.append(np.fliplr(crop) if flip and draws[3] < 0.5 else crop)
                positions.append(place * CROPS + number)
    return np.array(clean), np.array(positions)


@pytest.mark.parametrize(("flip", "threads"), [(True, 1), (False, 4)])
def test_batches_are_those_of_a_plain_loop(full, flip, threads):
    found = batches_of(full, 18, flip=flip, threads=threads)
    assert [len(clean) for _, clean in found] == ([7] * 8 + [4]) * 2
    assert datasets.steps_per_epoch(20 * CROPS, BATCH) == 9
    for epoch in range(2):
        degraded, clean = (np.concatenate(images) for images in zip(*found[9 * epoch : 9 * epoch + 9], strict=True))
        wanted, positions = expected_epoch(epoch, flip)
        np.testing.assert_array_equal(clean, wanted / np.float32(255))
        np.testing.assert_array_equal(degraded, degradations.redegrade(wanted, "camera", positions, epoch) / np.float32(255))
        assert degraded.dtype == clean.dtype == np.float32


@pytest.mark.parametrize("start", [{"first_step": 4}, {"first_step": 8}, {"first_epoch": 1, "first_step": 7}, {"first_step": 9}])
def test_training_resumes_in_the_middle_of_an_epoch(full, start):
    """Also behind the first group of 16 pictures (step 7), which is not decoded again."""
    first = 9 * start.get("first_epoch", 0) + start["first_step"]
    for wanted, found in zip(batches_of(full, 20)[first:], batches_of(full, 20 - first, **start), strict=True):
        np.testing.assert_array_equal(found[0], wanted[0])
        np.testing.assert_array_equal(found[1], wanted[1])


@pytest.mark.parametrize("first_step", [0, 4, 7])
def test_an_epoch_reads_each_picture_once_and_on_resuming_only_from_its_group_on(full, monkeypatch, first_step):
    cut, keys = picture_folder.PictureFolder.cut, []
    monkeypatch.setattr(picture_folder.PictureFolder, "cut", lambda *given: keys.append(given[3]) or cut(*given))
    batches_of(full, 18 - first_step, "gauss1", first_step=first_step)
    places = [[int(place) for _, epoch, place in keys if epoch == wanted] for wanted in (0, 1)]
    order = np.random.default_rng((picture_folder.SEED, SEED, 0, 2**32 - 1)).permutation(20)
    assert sorted(places[0]) == sorted(order[16:] if first_step == 7 else order) and sorted(places[1]) == list(range(20))


def test_an_epoch_has_as_many_crops_of_each_picture_mixed_in_each_batch(tmp_path):
    for number in range(8):
        save(tmp_path / f"{number}.png", photograph(number))
    folder = folder_of(tmp_path, crops=4, shrink=1)
    batches = [
        np.rint(clean.numpy() * 255).astype(int) for _, clean in picture_folder.picture_batches(folder, "awgn25", 8, 1).take(8)
    ]
    orders = [batch[:, 0, 0, 0].tolist() for batch in batches]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert orders[0] == orders[3] != orders[4] == orders[7]  # another order in the next epoch
    columns, places = np.diff(np.concatenate(batches)[:, 0, :, 1], axis=1), set()
    assert set(columns.ravel()) == {-5, 5} and 16 < (columns[:, 0] < 0).sum() < 48
    for crop in np.concatenate(batches):
        crop = crop[:, ::-1] if crop[0, 0, 1] > crop[0, 1, 1] else crop
        left, top = crop[0, 0, 1] // 5, crop[0, 0, 2] // 6
        np.testing.assert_array_equal(crop, photograph(crop[0, 0, 0])[top : top + SIDE, left : left + SIDE])
        places.add((left, top))
    assert len(places) > 50
    other = next(iter(picture_folder.picture_batches(folder, "awgn25", 8, 2)))[1].numpy()
    assert not np.array_equal(np.rint(other * 255), batches[0])


def test_without_a_protocol_both_are_the_clean_crops(tmp_path):
    save(tmp_path / "one.png", photograph(1, 60, 70))
    folder = folder_of(tmp_path, side=24, crops=5)
    pairs, beside = (next(iter(picture_folder.picture_batches(folder, protocol, 5, 0))) for protocol in (None, "gauss1"))
    np.testing.assert_array_equal(*pairs)
    np.testing.assert_array_equal(pairs[1], beside[1])


@pytest.mark.parametrize("protocol", ["gauss1", "noisy"])
def test_any_protocol_degrades_crops_of_any_side(tmp_path, protocol):
    save(tmp_path / "one.png", photograph(1, 60, 70))
    batches = picture_folder.picture_batches(folder_of(tmp_path, side=24, crops=5), protocol, 5, 0)
    assert [(spec.dtype.name, tuple(spec.shape)) for spec in batches.element_spec] == [("float32", (None, 24, 24, 3))] * 2
    degraded, clean = (images.numpy() for images in next(iter(batches)))
    wanted = degradations.degrade(np.rint(clean * 255).astype(np.uint8), protocol)
    np.testing.assert_array_equal(degraded, degradations.as_float(wanted))


def test_a_process_ends_while_a_pipeline_works(tmp_path):
    """Its threads are ended first: of those that wake up in a Python that has ended, some make the process hang or abort."""
    save(tmp_path / "one.png", photograph(0))
    code = """
import atexit, sys
atexit.register(lambda: print(vars(batches)))  # registered first, called last
from lstm_ae_lib import datasets
from lstm_ae_lib.tasks import picture_folder
batches = iter(picture_folder.picture_batches(picture_folder.PictureFolder(sys.argv[1], 16), "camera", 32, 0))
print(next(batches)[0].shape)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "(32, 16, 16, 3)\n{}\n"), done.stderr


# --- files of all kinds -----------------------------------------------------------------------------------------------------


def test_files_are_found_in_folders_below_and_in_capitals_and_hidden_ones_are_not(tmp_path):
    for name in ("b.PNG", "a/c.Jpeg", "a/B/d.jpg", ".hidden.png", ".git/e.png", "a/._b.png"):
        save(tmp_path / name, photograph(0), "PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    assert folder_of(tmp_path).files == ["a/B/d.jpg", "a/c.Jpeg", "b.PNG"]


def test_linked_folders_are_followed_and_none_into_itself(tmp_path):
    for name in ("in/a/one.png", "elsewhere/two.png"):
        save(tmp_path / name, photograph(0), "PNG")
    (tmp_path / "in" / "album").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "a" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "in" / "a")
    found = picture_folder.names_in(tmp_path / "in")
    assert found == ["a/one.png", "album/back/one.png", "album/two.png"]


def test_a_folder_that_cannot_be_read_takes_a_line_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    for name in ("locked/one.png", "two.png"):
        save(tmp_path / name, photograph(0), "PNG")
    listed = Path.iterdir

    def iterdir(folder):
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert picture_folder.names_in(tmp_path) == ["two.png"]
    assert capsys.readouterr().err == f"skipped the folder {tmp_path / 'locked'}: Permission denied\n"


def test_grey_alpha_sixteen_bits_palette_and_turned_pictures_become_eight_bit_colours(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    alpha = np.dstack([image, image[..., :1]])
    kinds = {
        "grey": (image[..., 0], np.dstack([image[..., 0]] * 3)), "alpha": (alpha, image),
        "deep": (257 * image.astype(np.uint16), image),
        "deep grey": (257 * image[..., 1].astype(np.uint16), np.dstack([image[..., 1]] * 3)),
        "deep alpha": (257 * alpha.astype(np.uint16), image),
    }  # fmt: skip
    for kind, (stored, _) in kinds.items():
        pictures.write(tmp_path / f"{kind}.png", stored)
    palette = PIL.Image.fromarray(image).quantize(8)
    save(tmp_path / "palette.png", palette)
    kinds["palette"] = (palette, np.asarray(palette.convert("RGB")))
    folder = folder_of(tmp_path)
    for place, name in enumerate(folder.files):
        np.testing.assert_array_equal(folder.cut(place, 1, (0,))[0], kinds[name.removesuffix(".png")][1], name)
    assert folder.skipped == {} and len(folder.files) == 6


def test_cmyk_and_turned_jpegs_have_the_right_colours(tmp_path):
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8), (32, 32), interpolation=cv2.INTER_CUBIC)
    turn = PIL.Image.Exif()
    turn[274] = 6
    save(tmp_path / "cmyk.jpg", PIL.Image.fromarray(image).convert("CMYK"), "JPEG", quality=98)
    save(tmp_path / "turned.jpg", image, "JPEG", quality=98, subsampling=0, exif=turn)
    folder = folder_of(tmp_path, side=32)
    for place, wanted in enumerate((image, np.rot90(image, 3))):
        assert np.abs(folder.cut(place, 1, (0,))[0] - wanted.astype(int)).mean() < 3


def test_broken_metadata_is_not_mentioned(tmp_path, capfd):
    save(tmp_path / "it.jpg", photograph(0), "JPEG", exif=b"Exif\0\0broken")
    with pytest.warns(pictures.PictureWarning, match="EXIF"):
        pictures.read(tmp_path / "it.jpg")
    with warnings.catch_warnings(action="error"):
        folder_of(tmp_path)
    assert capfd.readouterr().err == ""


def unusable(path):
    """Files that cannot be used: name -> what is said of it."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    stream = io.BytesIO()
    PIL.Image.fromarray(noise).save(stream, "JPEG")
    contents = {"cut.jpg": stream.getvalue()[:-200], "empty.png": b"", "text.jpg": b"no picture at all"}
    path.mkdir(exist_ok=True)
    for name, content in contents.items():
        (path / name).write_bytes(content)
    frames = [PIL.Image.fromarray(photograph(number)) for number in range(3)]
    save(path / "animated.png", frames[0], save_all=True, append_images=frames[1:])
    save(path / "small.png", photograph(1, SIDE - 1, 50))
    return {
        "animated.png": "is animated (3 frames)", "cut.jpg": "is damaged", "empty.png": "is empty",
        "small.png": "is smaller than a crop of 16 pixels: 50 x 15", "text.jpg": "is neither a PNG nor a JPEG picture",
    }  # fmt: skip


def test_files_that_cannot_be_used_are_skipped_with_one_line_and_counted(tmp_path, capfd):
    reasons = unusable(tmp_path)
    for number in (10, 20, 30):
        save(tmp_path / f"z{number}.png", photograph(number))
    folder = folder_of(tmp_path)
    batches = picture_folder.picture_batches(folder, "gauss1", 8, 0)
    red = np.concatenate([np.rint(clean.numpy()[:, 0, 0, 0] * 255) for _, clean in batches.take(6)])
    assert dict(zip(*np.unique(red, return_counts=True), strict=True)) == {10: 36, 20: 6, 30: 6}  # the first takes the places
    lines = capfd.readouterr().err.splitlines()
    assert sorted(line.split(":")[0] for line in lines) == [f"skipped {name}" for name in reasons]
    assert list(folder.skipped) == [line.split(":")[0].removeprefix("skipped ") for line in lines]
    for name, reason in reasons.items():
        assert folder.skipped[name].startswith(reason)


def test_a_file_that_cannot_be_opened_is_skipped(tmp_path, monkeypatch, capsys):
    save(tmp_path / "a.png", photograph(1))
    save(tmp_path / "b.png", photograph(2))
    read = pictures.files.read

    def refuse(path):
        if path.name == "a.png":
            raise PermissionError(13, "Permission denied", "a.png")
        return read(path)

    monkeypatch.setattr(pictures.files, "read", refuse)
    folder = folder_of(tmp_path)
    assert folder.cut(0, 1, (0,))[0, 0, 0, 0] == 2
    assert capsys.readouterr().err == "skipped a.png: [Errno 13] Permission denied: 'a.png'\n"


# --- bad input --------------------------------------------------------------------------------------------------------------


def test_folders_without_a_picture_to_use_are_refused(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        folder_of(tmp_path / "nowhere")
    (tmp_path / "in.gif").write_bytes(b"GIF89a")
    with pytest.raises(FileNotFoundError, match="there is no folder .*in.gif"):
        folder_of(tmp_path / "in.gif")
    with pytest.raises(ValueError, match=r"folder must hold pictures \(.png, .jpg, .jpeg\), got none in "):
        folder_of(tmp_path)
    save(tmp_path / "one.png", photograph(0, 15, 100))
    message = "folder must hold a picture to use, got none in .* among 1: one.png is smaller than a crop of 16 pixels: 100 x 15"
    with pytest.raises(ValueError, match=message):
        folder_of(tmp_path)
    unusable(tmp_path / "more")
    with pytest.raises(ValueError, match="among 6: more/animated.png is animated .*; more/cut.jpg is damaged: .*; more/empty.p"):
        folder_of(tmp_path)
    assert len(capsys.readouterr().err.splitlines()) == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": 7}, "side must be a whole number from 8 to 1024, got 7"),
        ({"side": "64"}, "side must be a whole number from 8 to 1024, got '64'"),
        ({"crops": 0}, "crops must be a whole number from 1 to 4096, got 0"),
        ({"shrink": 0.5}, "shrink must be a number from 1 to 64, got 0.5"),
    ],
)
def test_bad_crops_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        folder_of(tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number from 1 to 3, got 0"),
        ({"batch_size": 4}, "batch_size must be a whole number from 1 to 3, got 4"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"flip": 1.0}, "flip must be one of True, False; got 1.0"),
        ({"threads": 0}, "threads must be a whole number from 1 to 64, got 0"),
        ({"first_epoch": -1}, "first_epoch must be a whole number from 0"),
        ({"first_step": 0.5}, "first_step must be a whole number from 0"),
        ({"protocol": "gauss9"}, "protocol must be one of"),
    ],
)
def test_bad_batches_are_refused(tmp_path, options, message):
    save(tmp_path / "one.png", photograph(0))
    with pytest.raises(ValueError, match=message):
        picture_folder.picture_batches(
            **{"folder": folder_of(tmp_path), "protocol": "camera", "batch_size": 2, "seed": 0} | options
        )


# --- validation -------------------------------------------------------------------------------------------------------------


def test_a_folder_is_split_into_different_files(full, capsys):
    folder = folder_of(full)
    training, validation = folder.split(0.3, seed=2)
    assert (len(training.files), len(validation.files)) == (14, 6) and sorted(training.files + validation.files) == folder.files
    assert training.files == sorted(training.files) and training.files != folder.files[:14]
    again, other = folder.split(0.3, seed=2)[1], folder.split(0.3, seed=3)[1]
    assert validation.files == again.files != other.files
    assert (validation.side, validation.crops) == (SIDE, CROPS)
    red = {crop[0, 0, 0] for crop in picture_folder.picture_crops(validation, 6, 0)}
    assert red <= {int(name[:2]) for name in validation.files} and len(folder.files) == 20


def test_a_folder_that_cannot_be_split_is_refused(tmp_path, capsys):
    save(tmp_path / "one.png", photograph(0))
    with pytest.raises(ValueError, match="validation_share 0.5 of 1 images leaves one side of the split empty"):
        folder_of(tmp_path).split(0.5)
    (tmp_path / "two.png").write_bytes(b"")
    with pytest.raises(ValueError, match="got none in .* among 1: two.png is empty"):
        folder_of(tmp_path).split(0.5)
    with pytest.raises(ValueError, match="seed must be a whole number from 0"):
        folder_of(tmp_path).split(0.5, -1)


def test_crops_to_validate_with_are_always_the_same_and_evenly_from_all_files(tmp_path):
    for number in range(4):
        save(tmp_path / f"{number}.png", photograph(number))
    folder = folder_of(tmp_path)
    crops = picture_folder.picture_crops(folder, 10, 3)
    assert crops.dtype == np.uint8 and crops.shape == (10, SIDE, SIDE, 3)
    assert np.bincount(crops[:, 0, 0, 0]).tolist() == [3, 2, 3, 2]
    assert len(np.unique(crops.reshape(10, -1), axis=0)) == 10
    np.testing.assert_array_equal(picture_folder.picture_crops(folder_of(tmp_path, crops=1), 10, 3), crops)
    assert not np.array_equal(picture_folder.picture_crops(folder, 10, 4), crops)
    assert picture_folder.picture_crops(folder, 2, 0)[:, 0, 0, 0].tolist() == [0, 2]
    batches = list(datasets.evaluation_batches(degradations.degrade(crops, "camera"), crops, 8))
    np.testing.assert_array_equal(np.concatenate([clean for _, clean in batches]), crops / np.float32(255))
    for wrong in ({"count": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a whole number from"):
            picture_folder.picture_crops(**{"folder": folder, "count": 4, "seed": 0} | wrong)


@pytest.mark.parametrize(("files", "crops", "batch", "threads"), [(3, 16, 16, 8), (20, 1, 8, 2), (17, 2, 5, 3)])
def test_each_file_is_decoded_once_an_epoch_whatever_the_threads(tmp_path, monkeypatch, files, crops, batch, threads):
    for number in range(files):
        save(tmp_path / f"{number:02d}.png", photograph(number))
    folder, cut, read = folder_of(tmp_path, crops=crops), [], picture_folder.PictureFolder.cut
    monkeypatch.setattr(picture_folder.PictureFolder, "cut", lambda own, *given: (cut.append(given[2]), read(own, *given))[1])
    steps = 3 * datasets.steps_per_epoch(files * crops, batch)
    seen = [clean.numpy() for _, clean in picture_folder.picture_batches(folder, "gauss1", batch, 0, threads=threads).take(steps)]
    whole = [key for key in cut if key[1] < 3]
    assert len(np.concatenate(seen)) == 3 * files * crops and len(whole) == len(set(whole)) == 3 * files
