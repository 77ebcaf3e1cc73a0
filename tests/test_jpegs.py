"""JPEG files with flipped bits: what is mended, what is refused, and what of a file is kept."""

import io

import numpy as np
import PIL.Image
import pytest

from lstm_ae_lib import files, pictures
from lstm_ae_lib.__main__ import main
from lstm_ae_lib.tasks import broken_jpeg, jpegs, mending


@pytest.fixture(scope="module")
def photograph():
    return next(iter(pictures.photographs().values()))


def jpeg(image, **options):
    stream = io.BytesIO()
    PIL.Image.fromarray(image).save(stream, "JPEG", **{"quality": 85, "subsampling": 0} | options)
    return stream.getvalue()


def undecodable(content):
    """Without its quantization tables: its header can be read, and nothing of the picture."""
    while (place := content.find(b"\xff\xdb")) >= 0:
        content = content[:place] + content[place + 2 + int.from_bytes(content[place + 2 : place + 4]) :]
    return content


def four_colours(image):
    stream = io.BytesIO()
    PIL.Image.fromarray(image).convert("CMYK").save(stream, "JPEG", subsampling=0)
    return stream.getvalue()


def lighter(size):
    """A mender that adds a tenth, at any size that it may be asked for."""
    assert all(side % 8 == 0 for side in size)
    return lambda images: images + np.float32(0.1)


@pytest.mark.parametrize("height, width", [(64, 64), (61, 83), (8, 16), (3, 5)])
def test_any_size_is_mended(photograph, height, width):
    content = jpeg(photograph[:height, :width])
    found, seen = jpegs.mend(content, lighter), broken_jpeg.decode(content)
    assert found.shape == (height, width, 3) and found.dtype == np.uint8
    assert np.abs(found - np.minimum(seen + 25.5, 255)).max() <= 0.51


def test_a_grey_jpeg_stays_grey(photograph):
    found = jpegs.mend(jpeg(photograph[:40, :48, 0]), lighter)
    assert found.shape == (40, 48) and found.dtype == np.uint8


@pytest.mark.parametrize("content, said", [
    (lambda image: jpeg(image, progressive=True), "must be a baseline JPEG, got a progressive one"),
    (lambda image: jpeg(image, subsampling=2), "must be a JPEG of 4:4:4, each block by itself, got sampling 2 x 1 x 1 across"),
    (lambda image: undecodable(jpeg(image)), "must be a JPEG that can be decoded: "),
    (lambda image: four_colours(image), "must be a grey JPEG or one of three colours, got CMYK"),
    (lambda image: jpeg(image, restart_marker_rows=1), "without restart markers, got one with them"),
    (lambda image: jpeg(image)[:-400], "is cut off: bits that are flipped can be mended, not a part that is missing"),
    (lambda image: jpeg(image)[:200], "is damaged: its header cannot be read"),
    (lambda image: pictures._png(image, {})[0], "is no JPEG, and only JPEGs with flipped bits are mended"),
    (lambda image: b"", "is no JPEG, and only JPEGs with flipped bits are mended"),
])  # fmt: skip
def test_what_cannot_be_mended_is_told_with_its_name(photograph, content, said, tmp_path, capsys):
    (tmp_path / "it.jpg").write_bytes(content(photograph[:64, :64]))
    assert main(["restore", str(tmp_path / "it.jpg"), str(tmp_path / "out.png"), "--weights", "jpeg"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: it.jpg ") and error.count("\n") == 1
    import re

    assert re.search(said, error), error
    assert not (tmp_path / "out.png").exists()


def test_flipped_bits_alone_never_make_a_jpeg_that_is_refused(photograph):
    content = jpeg(photograph[:64, :64])
    for seed in range(100):
        assert jpegs.mend(broken_jpeg.flip_bits(content, 3, [1, seed]), lighter).shape == (64, 64, 3)


def test_a_picture_without_colours_in_a_jpeg_of_three_keeps_them_and_its_profile(photograph, tmp_path):
    import PIL.ImageCms

    profile = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    grey = np.repeat(photograph[:64, :64, :1], 3, axis=2)
    (tmp_path / "it.jpg").write_bytes(jpeg(grey, icc_profile=profile))
    assert main(["restore", str(tmp_path / "it.jpg"), str(tmp_path / "out.png"), "--weights", "jpeg"]) == 0
    found, metadata = pictures.read_with_metadata(tmp_path / "out.png")
    assert found.shape == (64, 64, 3) and metadata["icc_profile"] == profile


def test_several_files_and_folders_are_refused(photograph, tmp_path, capsys):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(jpeg(photograph[:64, :64]))
    out = str(tmp_path / "out.png")
    assert main(["restore", str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg"), out, "--weights", "jpeg"]) == 2
    assert "JPEGs with flipped bits are mended one by one, got 2 files" in capsys.readouterr().err
    assert main(["restore", str(tmp_path), out, "--weights", "jpeg"]) == 2
    assert "mended one by one, got a folder" in capsys.readouterr().err
    assert main(["restore", str(tmp_path / "a.jpg"), out, "--weights", "jpeg", "--workers", "2"]) == 2
    assert "without --workers" in capsys.readouterr().err


def test_a_pipe_is_read_once_and_named(photograph, tmp_path, capsys):
    import os
    import threading

    os.mkfifo(tmp_path / "it.jpg")
    for content, code in ((jpeg(photograph[:64, :64]), 0), (jpeg(photograph[:64, :64], progressive=True), 2)):
        writer = threading.Thread(target=(tmp_path / "it.jpg").write_bytes, args=(content,))
        writer.start()
        assert main(["restore", str(tmp_path / "it.jpg"), str(tmp_path / "out.png"), "--weights", "jpeg"]) == code
        writer.join()
    assert "error: it.jpg must be a baseline JPEG, got a progressive one" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [["--strict"], ["--strength", "0.5"], ["--ensemble", "2"], ["--map", "m.png"], ["--engine", "onnx"]]
)
def test_options_of_other_weights_are_refused(photograph, option, tmp_path, capsys):
    (tmp_path / "it.jpg").write_bytes(jpeg(photograph[:64, :64]))
    assert main(["restore", str(tmp_path / "it.jpg"), str(tmp_path / "out.png"), "--weights", "jpeg", *option]) == 2
    assert f"a JPEG with flipped bits is mended without {option[0]}" in capsys.readouterr().err


def test_released_weights_mend_a_file_turned_by_its_exif_and_keep_its_metadata(photograph, tmp_path, capsys):
    """A photograph on its side: blocks are mended in the order of the file, then the picture is turned."""
    exif = PIL.Image.Exif()
    exif[274], exif[271] = 6, "a camera"
    image = photograph[:256, :320]
    sound = jpeg(image, exif=exif.tobytes(), dpi=(300, 300))
    wanted, before, after = pictures.read(sound) / 255, [], []
    for seed in range(6):
        (tmp_path / "it.jpg").write_bytes(broken_jpeg.flip_bits(sound, 1, [7, seed]))
        assert main(["restore", str(tmp_path / "it.jpg"), str(tmp_path / "out.png"), "--weights", "jpeg"]) == 0
        assert "out.png: 256 x 320 pixels, mended as a JPEG with flipped bits" in capsys.readouterr().out
        found, metadata = pictures.read_with_metadata(tmp_path / "out.png")
        damaged = np.rot90(broken_jpeg.decode(files.read(tmp_path / "it.jpg")), -1) / 255
        before.append(np.square(damaged - wanted).mean())
        after.append(np.square(found / 255 - wanted).mean())
    assert np.mean(after) < 0.7 * np.mean(before)
    assert metadata["dpi"] == pytest.approx((300, 300), abs=0.01)
    kept = PIL.Image.Exif()
    kept.load(metadata["exif"])
    assert kept[271] == "a camera" and kept[274] == 1


def test_released_weights_leave_sound_photographs_nearly_alone():
    """At least 45 dB in the mean at the quality of the protocol, 42 at a lower one; single pictures fare worse: see the card."""
    mender, card = jpegs.load_mender()
    for quality, least in ((85, 45), (50, 42)):
        files = [jpeg(image, quality=quality) for image in mending.crops(256, 12)]
        sound = np.stack([broken_jpeg.decode(content) for content in files])
        mended = np.rint(255 * np.clip(mender((256, 256))(sound / np.float32(255)), 0, 1))  # all at once: faster than file by file
        assert np.abs(jpegs.mend(files[0], mender) - mended[0]).max() <= 1
        psnr = 10 * np.log10(255**2 / np.maximum(np.square(mended - sound).mean((1, 2, 3)), 1e-4))
        assert np.mean(psnr) > least and min(psnr) > least - 7, (quality, psnr)
        assert card["sound"][str(quality)] == pytest.approx(np.mean(psnr), abs=0.5)
    assert card["protocol"] == "broken_jpeg"
