"""Picture files: what comes back is what was written, and what is read is what OpenCV reads."""

import concurrent.futures
import io
import struct
import threading
import zlib

import cv2
import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageFile
import pytest

from lstm_ae_lib import pictures
from lstm_ae_lib.tasks import broken_jpeg


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
    with pytest.warns(pictures.PictureWarning, match="^not kept in it.jpg: 16 bits a sample$"):
        pictures.write(tmp_path / "it.jpg", image)
    found = pictures.read(tmp_path / "it.jpg")
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found.mean(axis=(0, 1)), [60000 / 257, 30000 / 257, 10000 / 257], atol=2)
    with pytest.raises(ValueError, match="must be one of .png, .jpg, .jpeg; got '.bmp'"):
        pictures.write(tmp_path / "it.bmp", image)


def test_one_channel_is_grey_and_alpha_is_no_jpeg(tmp_path):
    grey = smooth()[..., :1]
    for suffix in (".jpg", ".png"):
        pictures.write(tmp_path / f"it{suffix}", grey)
        assert pictures.read(tmp_path / f"it{suffix}").shape == grey.shape[:2]
    with pytest.raises(ValueError, match="a picture has an alpha channel, which JPEG cannot hold: write a .png"):
        pictures.write(tmp_path / "clear.jpg", np.dstack([smooth(), grey]))
    assert not (tmp_path / "clear.jpg").exists()


# --- metadata ---------------------------------------------------------------------------------------------------------------


def smooth(height=24, width=35, channels=3):
    values = np.random.default_rng(0).random((4, 5, channels)).astype(np.float32)
    return (255 * cv2.resize(values, (width, height)).reshape(height, width, channels)).astype(np.uint8)


def chunk(kind, data):
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def saved(image, form="PNG", chunks=(), **options):
    """A file's content, by Pillow; ``chunks`` are put behind the header of a PNG."""
    stream = io.BytesIO()
    image = image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)
    image.save(stream, form, **options)
    content = stream.getvalue()
    return content[:33] + b"".join(chunk(*one) for one in chunks) + content[33:]


def opened(path):
    with PIL.Image.open(path) as image:
        image.load()
        return image


def exif(orientation=6):
    made = PIL.Image.Exif()
    made[274], made[271], made[306] = orientation, "Maker", "2020:01:02 03:04:05"
    made.get_ifd(0x8769)[0x927C] = b"the maker's own"
    made.get_ifd(0x8825)[1] = "N"
    return made


ICC = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6" dc:creator="me"/></x:xmpmeta>'


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_profile_exif_xmp_resolution_and_comment_are_kept(tmp_path, form, suffix):
    packet = b"XML:com.adobe.xmp" + bytes(5) + XMP
    options = {"PNG": {"chunks": [(b"iTXt", packet)]}, "JPEG": {"xmp": XMP, "comment": b"hello"}}[form]
    image, metadata = pictures.read_with_metadata(saved(smooth(), form, icc_profile=ICC, exif=exif(), dpi=(150, 300), **options))
    pictures.write(tmp_path / f"it{suffix}", image, metadata)
    found = opened(tmp_path / f"it{suffix}")
    assert found.size == (24, 35)  # turned
    assert found.info["icc_profile"] == ICC
    assert found.info["dpi"] == pytest.approx((300, 150), abs=0.013)  # a PNG has whole pixels a metre
    assert found.info["xmp"] == XMP.replace(b'"6"', b'"1"')
    read = found.getexif()
    assert read[274] == 1 and read[271] == "Maker" and read[306] == "2020:01:02 03:04:05"
    assert read.get_ifd(0x8769)[0x927C] == b"the maker's own" and read.get_ifd(0x8825)[1] == "N"
    if form == "JPEG":
        assert found.info["comment" if suffix == ".jpg" else "Comment"] in (b"hello", "hello")
    np.testing.assert_array_equal(pictures.read(tmp_path / f"it{suffix}").shape, image.shape)


@pytest.mark.parametrize(
    ("comment", "chunk"), [(b"hello", b"tEXt"), ("Grüße, 東京".encode(), b"iTXt"), ("Grüße".encode("latin-1"), b"tEXt")]
)
def test_a_comment_of_a_jpeg_keeps_its_letters_in_a_png(tmp_path, comment, chunk):
    """A PNG's tEXt is Latin-1, its iTXt UTF-8; a JPEG does not say what it is."""
    pictures.write(tmp_path / "it.png", *pictures.read_with_metadata(saved(smooth(), "JPEG", comment=comment)))
    assert chunk + b"Comment" in (tmp_path / "it.png").read_bytes()
    assert opened(tmp_path / "it.png").info["Comment"] == comment.decode("utf-8" if chunk == b"iTXt" else "latin-1")


def test_a_resolution_that_a_jpeg_cannot_hold_is_named_and_not_kept(tmp_path):
    """It has 16 bits there: Pillow wrote 100,000 dpi as 34,464."""
    image, metadata = pictures.read_with_metadata(saved(smooth(), "PNG", dpi=(100000, 300)))
    with pytest.warns(pictures.PictureWarning, match="^not kept in it.jpg: dpi$"):
        pictures.write(tmp_path / "it.jpg", image, metadata)
    assert "dpi" not in opened(tmp_path / "it.jpg").info


def test_all_of_exif_but_the_orientation_stays_as_it_is():
    """Letters outside ASCII, the thumbnail, and types that Pillow does not write."""
    made = exif()
    made[315], made[33432] = "Jörg Müller", "© 2020 Ä"
    content = made.tobytes()
    order = ">" if content[6:8] == b"MM" else "<"
    _, metadata = pictures.read_with_metadata(saved(smooth(), "JPEG", exif=content + "größer".encode()))
    place = content.index(struct.pack(order + "HHI", 274, 3, 1)) + 8
    expected = content[:place] + struct.pack(order + "H", 1) + content[place + 2 :] + "größer".encode()
    assert metadata["exif"] == expected


@pytest.mark.parametrize("packet", [XMP.replace(b'"', b"'"), XMP + XMP, b"<tiff:Orientation>6</tiff:Orientation>"])
def test_an_orientation_in_xmp_becomes_1_however_it_is_written(packet):
    image, metadata = pictures.read_with_metadata(saved(smooth(), "JPEG", xmp=packet))
    assert image.shape == (35, 24, 3) and b"6" not in metadata["xmp"] and metadata["xmp"].count(b"1") == packet.count(b"6")


def test_comments_of_a_jpeg_are_all_kept_and_an_aspect_of_pixels_is_named(tmp_path):
    content = saved(smooth(), "JPEG", comment=b"second")
    first = b"\xff\xfe" + (2 + len(b"first")).to_bytes(2) + b"first"
    place = content.index(b"JFIF\0") - 4
    content = content[: place + 18] + first + content[place + 18 :]
    image, metadata = pictures.read_with_metadata(content)
    assert metadata["comment"] == b"first\nsecond"
    stretched = content[: place + 11] + b"\0" + (2).to_bytes(2) + (1).to_bytes(2) + content[place + 16 :]
    image, metadata = pictures.read_with_metadata(stretched)
    for suffix in (".png", ".jpg"):
        with pytest.warns(pictures.PictureWarning, match=f"^not kept in it{suffix}: shape of pixels$"):
            pictures.write(tmp_path / f"it{suffix}", image, metadata)


def test_a_jpeg_with_a_broken_profile_is_sound():
    content = bytearray(saved(smooth(), "JPEG", icc_profile=ICC))
    content[content.index(b"ICC_PROFILE\0") + 13] = 2  # one of two
    with pytest.warns(pictures.PictureWarning, match="^the picture: broken and ignored: ICC profile$"):
        image, metadata = pictures.read_with_metadata(bytes(content))
    np.testing.assert_array_equal(image, pictures.read(saved(smooth(), "JPEG")))
    assert "icc_profile" not in metadata
    content[content.index(b"ICC_PROFILE\0") + 12] = 2  # the other one of two
    with pytest.warns(pictures.PictureWarning, match="broken and ignored: ICC profile"):
        np.testing.assert_array_equal(pictures.read(bytes(content)), image)


def test_a_jfif_segment_of_another_revision_may_stand_behind_exif():
    content = saved(smooth(), "JPEG", exif=exif(1))
    jfif, behind = content[2:20], content[20:]
    length = 2 + int.from_bytes(behind[2:4])
    assert jfif[4:9] == b"JFIF\0" and behind[4:8] == b"Exif"
    moved = content[:2] + behind[:length] + jfif[:9] + b"\2\0" + jfif[11:] + behind[length:]
    np.testing.assert_array_equal(pictures.read(moved), pictures.read(content))


def test_a_picture_wider_than_a_jpeg_can_be_is_refused_in_plain_words(tmp_path, capfd):
    with pytest.raises(ValueError, match="a picture has 65501 pixels a side, over 65500, which JPEG cannot hold: write a .png"):
        pictures.write(tmp_path / "wide.jpg", np.zeros((2, 65501, 3), np.uint8))
    assert capfd.readouterr() == ("", "") and not (tmp_path / "wide.jpg").exists()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_with_alpha_stays_grey(dtype):
    grey = (np.random.default_rng(0).random((5, 6)) * np.iinfo(dtype).max).astype(dtype)
    image = np.dstack([grey, grey, grey, grey[::-1]])
    made = pictures.from_colours(np.random.default_rng(1).random((5, 6, 3), np.float32), image)
    assert np.ptp(made[..., :3], axis=2).max() == 0 and len(np.unique(made[..., 0])) > 10
    np.testing.assert_array_equal(made[..., 3], image[..., 3])
    image[0, 0, 0] ^= 1  # colours, if only one
    assert np.ptp(pictures.from_colours(np.random.default_rng(1).random((5, 6, 3), np.float32), image)[..., :3], axis=2).max() > 0


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_colour_chunks_and_text_are_kept_in_a_png_and_named_for_a_jpeg(tmp_path, depth):
    chunks = [(b"gAMA", (100000).to_bytes(4)), (b"cICP", bytes([9, 16, 0, 1])), (b"cHRM", bytes(range(32))), (b"sRGB", b"\0"),
              (b"tEXt", b"Title\0one"), (b"tEXt", b"Author\0me"), (b"bKGD", bytes(6))]  # fmt: skip
    content = cv2.imencode(".png", smooth().astype(depth) * 3)[1].tobytes()
    content = content[:33] + b"".join(chunk(*one) for one in chunks) + content[33:]
    image, metadata = pictures.read_with_metadata(content)
    pictures.write(tmp_path / "it.png", image, metadata)
    written = (tmp_path / "it.png").read_bytes()
    assert all(chunk(*one) in written[: written.index(b"IDAT")] for one in chunks[:-1]) and b"bKGD" not in written
    np.testing.assert_array_equal(pictures.read(tmp_path / "it.png"), image)
    bits = ", 16 bits a sample" if depth == np.uint16 else ""
    with pytest.warns(pictures.PictureWarning, match=f"^not kept in it.jpg: gAMA, cICP, cHRM, tEXt{bits}$"):
        pictures.write(tmp_path / "it.jpg", image, metadata)


def test_a_profile_of_other_colours_is_named_and_not_kept(tmp_path):
    cmyk = bytearray(ICC)
    cmyk[16:20] = b"CMYK"
    content = saved(PIL.Image.fromarray(smooth()).convert("CMYK"), "JPEG", icc_profile=bytes(cmyk))
    image, metadata = pictures.read_with_metadata(content)
    assert image.shape == (24, 35, 3)
    with pytest.warns(pictures.PictureWarning, match=r"not kept in it.png: icc_profile \(CMYK\)"):
        pictures.write(tmp_path / "it.png", image, metadata)
    assert "icc_profile" not in opened(tmp_path / "it.png").info


def test_a_long_profile_is_kept_and_long_exif_is_named(tmp_path):
    profile = len(ICC[4:] + bytes(200_000)).to_bytes(4) + ICC[4:] + bytes(200_000)
    metadata = {"icc_profile": profile, "exif": b"Exif\0\0MM\0*" + bytes(70_000)}
    with pytest.warns(pictures.PictureWarning, match="not kept in it.jpg: EXIF"):
        pictures.write(tmp_path / "it.jpg", smooth(), metadata)
    assert opened(tmp_path / "it.jpg").info["icc_profile"] == profile
    assert pictures.read_with_metadata(tmp_path / "it.jpg")[1]["icc_profile"] == profile


@pytest.mark.parametrize("broken", [b"MM\0*", b"II*\0\x08\0\0\0\xff\xff\x12\x01", b"??"])
def test_broken_exif_is_left_out_with_one_line_and_the_pixels_are_sound(broken):
    with pytest.warns(pictures.PictureWarning, match="^the picture: broken and ignored: EXIF$"):
        image, metadata = pictures.read_with_metadata(saved(smooth(), chunks=[(b"eXIf", broken)]))
    np.testing.assert_array_equal(image, smooth())
    assert metadata == {}
    with pytest.warns(pictures.PictureWarning, match="EXIF"):
        pictures.read(saved(smooth(), "JPEG", exif=b"Exif\0\0" + broken))


def test_other_broken_metadata_is_left_out_too():
    chunks = [(b"iCCP", b"no zero byte"), (b"iCCP", b"a\0\0no zlib"), (b"pHYs", b"123456789"[:8]), (b"gAMA", bytes(4))]
    with pytest.warns(pictures.PictureWarning, match="broken and ignored: iCCP, iCCP, pHYs"):
        image, metadata = pictures.read_with_metadata(saved(smooth(), chunks=chunks))
    np.testing.assert_array_equal(image, smooth())
    assert list(metadata) == ["gAMA"]


def test_orientation_in_the_ways_that_older_programs_write_it():
    digits = exif(8).tobytes().hex().encode()
    raw = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n      99\n" + digits[:72] + b"\n" + digits[72:] + b"\n")
    image, metadata = pictures.read_with_metadata(saved(smooth(), chunks=[(b"zTXt", raw)]))
    np.testing.assert_array_equal(image, np.rot90(smooth()))
    assert "zTXt" not in metadata
    packet = b"XML:com.adobe.xmp" + bytes(5) + XMP
    np.testing.assert_array_equal(pictures.read(saved(smooth(), chunks=[(b"iTXt", packet)])), np.rot90(smooth(), 3))


# --- what is in a file --------------------------------------------------------------------------------------------------------


def test_of_several_pictures_in_a_jpeg_the_first_is_read(tmp_path):
    first, second = (PIL.Image.fromarray(image) for image in (smooth(), 255 - smooth()))
    content = saved(first, "MPO", save_all=True, append_images=[second])
    image, metadata = pictures.read_with_metadata(content)
    np.testing.assert_array_equal(image, np.asarray(PIL.Image.open(io.BytesIO(content))))
    with pytest.warns(pictures.PictureWarning, match="not kept in it.jpg: further pictures"):
        pictures.write(tmp_path / "it.jpg", image, metadata)
    with pytest.raises(ValueError, match=r"the picture is animated \(2 frames\)"):
        pictures.read(saved(first, "PNG", save_all=True, append_images=[second]))


def test_damage_that_the_decoder_reports_is_refused_and_its_lines_are_held_back(capfd):
    sound, random, refused = saved(smooth(100, 120), "JPEG", quality=95), np.random.default_rng(0), 0
    for _ in range(60):
        content = bytearray(sound)
        for place in random.integers(sound.index(b"\xff\xda") + 14, len(sound) - 2, 4):
            content[place] ^= 1 << random.integers(8)
        image = cv2.imdecode(np.frombuffer(bytes(content), np.uint8), cv2.IMREAD_UNCHANGED)
        said = capfd.readouterr().err
        if image is None or said:
            refused += 1
            with pytest.raises(ValueError, match="^the picture is damaged: "):
                pictures.read(bytes(content))
        else:
            pictures.read(bytes(content))
        assert capfd.readouterr().err == ""
    assert 15 < refused < 60


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_no_cut_goes_unseen(form, capfd):
    content = saved(smooth(), form)
    for length in (*range(3, 40), *range(40, len(content), 50), len(content) - 2, len(content) - 1):
        with pytest.raises(ValueError, match="is damaged|is neither a PNG nor"):
            pictures.read(content[:length])
    assert capfd.readouterr().err == ""


def test_no_changed_bit_of_a_png_goes_unseen(capfd):
    content, random = saved(smooth(), exif=exif()), np.random.default_rng(0)
    for place in random.integers(0, len(content), 200):
        changed = bytearray(content)
        changed[place] ^= 1 << random.integers(8)
        with pytest.raises(ValueError, match="is damaged|is neither a PNG nor"):
            pictures.read(bytes(changed))
    assert capfd.readouterr().err == ""


def png(samples, kind, bits, transparent=b""):
    """A PNG file of ``(height, width, channels)`` whole numbers: ``kind`` and ``bits`` as its header has them."""
    def chunk(name, data):
        return len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)

    height, width = samples.shape[:2]
    digits = (samples.reshape(height, -1, 1) >> np.arange(bits)[::-1]) & 1
    lines = b"".join(b"\0" + np.packbits(line).tobytes() for line in digits.astype(np.uint8))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    content += chunk(b"PLTE", bytes(range(3 * min(2**bits, 64)))) if kind == 3 else b""
    content += chunk(b"tRNS", transparent) if transparent else b""
    return content + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # of a PNG's kinds of colour


@pytest.mark.parametrize("kind, bits", [(kind, bits) for kind, depths in DEPTHS.items() for bits in depths])
@pytest.mark.parametrize("transparent", [False, True])
def test_every_kind_of_png_is_read_as_opencv_reads_it(kind, bits, transparent):
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    samples = np.random.default_rng(bits).integers(0, min(2**bits, 64) if kind == 3 else 2**bits, (9, 7, channels))
    chosen = {0: samples[2, 3].astype(">u2").tobytes(), 2: samples[2, 3].astype(">u2").tobytes(), 3: b"\x80\x10"}.get(kind, b"")
    content = png(samples, kind, bits, chosen if transparent else b"")
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    expected = expected[..., [2, 1, 0, 3][: expected.shape[2]]] if expected.ndim == 3 else expected
    found = pictures.read(content)
    assert found.dtype == expected.dtype == (np.uint16 if bits == 16 else np.uint8)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 20, "optimize": True}])
def test_a_jpeg_is_read_as_opencv_reads_it(subsampling, options):
    for image in (smooth(37, 51), smooth(channels=1)[..., 0]):
        content = saved(image, "JPEG", **options, **({"subsampling": subsampling} if image.ndim == 3 else {}))
        expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(pictures.read(content), expected[..., ::-1] if expected.ndim == 3 else expected)
        other = content.replace(b"JFIF\0\1\1", b"JFIF\0\7\7")  # another revision is no damage
        assert other != content
        np.testing.assert_array_equal(pictures.read(other), pictures.read(content))


def test_what_is_no_picture_is_not_written(tmp_path):
    for image in (np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4), np.int16)):
        for suffix in (".png", ".jpg"):
            with pytest.raises(ValueError, match="1, 3 or 4 channels of uint8 or uint16, got"):
                pictures.write(tmp_path / f"it{suffix}", image)
    assert not list(tmp_path.iterdir())


def test_a_transparent_grey_is_named(tmp_path):
    image, metadata = pictures.read_with_metadata(saved(smooth(channels=1)[..., 0], transparency=100))
    with pytest.warns(pictures.PictureWarning, match="not kept in it.png: transparency"):
        pictures.write(tmp_path / "it.png", image, metadata)


def test_palettes_and_cmyk_in_files_are_colours():
    palette = PIL.Image.fromarray(smooth()).quantize(16)
    np.testing.assert_array_equal(pictures.read(saved(palette)), np.asarray(palette.convert("RGB")))
    content = saved(PIL.Image.fromarray(smooth()).convert("CMYK"), "JPEG")
    expected = np.asarray(PIL.Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.abs(pictures.read(content).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I;16B", "F"])
def test_a_pil_image_of_any_mode_is_an_array(mode):
    image = PIL.Image.fromarray(smooth())
    if mode.startswith("I;16"):
        image = PIL.Image.fromarray(smooth(channels=1)[..., 0].astype(np.uint16) * 257)
        expected = np.asarray(image)
        image = image if mode == "I;16" else image.convert("I").convert(mode)
    elif mode == "F":
        expected = smooth(channels=1)[..., 0] / np.float32(255)
        image = PIL.Image.fromarray(expected)
    else:
        image = image.convert("RGBA" if mode == "PA" else mode).convert(mode)
        expected = np.asarray(image.convert({"1": "L", "L": "L", "LA": "RGBA", "PA": "RGBA", "RGBA": "RGBA"}.get(mode, "RGB")))
    found = pictures.as_array(image)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert image.mode == mode and pictures.eight_bit_colours(image).shape == (24, 35, 3)


def test_a_pil_image_with_a_transparent_colour_has_alpha_and_one_of_integers_is_refused():
    palette = PIL.Image.fromarray(smooth()).quantize(16)
    palette.info["transparency"] = 3
    np.testing.assert_array_equal(pictures.as_array(palette), np.asarray(palette.convert("RGBA")))
    with pytest.raises(ValueError, match="image must be uint8, uint16, or floating in .0, 1., got int32"):
        pictures.eight_bit_colours(PIL.Image.new("I", (5, 5)))


# --- what is written ----------------------------------------------------------------------------------------------------------


def test_a_jpeg_has_its_colours_at_the_full_resolution_and_the_quality_that_is_asked_for(tmp_path):
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, ::2, 0], image[:, 1::2, 2] = 255, 255
    sizes = []
    for quality in (1, 50, 95, 100):
        pictures.write(tmp_path / "it.jpg", image, quality=quality)
        found = opened(tmp_path / "it.jpg")
        assert [layer[1:3] for layer in found.layer] == [(1, 1)] * 3
        assert found.quantization == PIL.Image.open(io.BytesIO(saved(image, "JPEG", quality=quality))).quantization
        sizes.append((tmp_path / "it.jpg").stat().st_size)
    assert sizes == sorted(sizes)
    assert np.abs(pictures.read(tmp_path / "it.jpg").astype(int) - image).max() <= 3
    for quality in (0, 101, 9.5):
        with pytest.raises(ValueError, match="quality must be a whole number from 1 to 100"):
            pictures.write(tmp_path / "it.jpg", image, quality=quality)


def test_standard_output_gets_a_png(capsysbinary):
    pictures.write("-", smooth())
    np.testing.assert_array_equal(pictures.read(capsysbinary.readouterr().out), smooth())


def test_a_target_is_checked_before_anything_is_done(tmp_path):
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    source.write_bytes(b"a picture")
    (tmp_path / "hard.png").hardlink_to(source)
    (tmp_path / "soft.png").symlink_to(source)
    for name in ("in.png", "hard.png", "soft.png", "../" + tmp_path.name + "/in.png"):
        with pytest.raises(ValueError, match="is what is read: write to another file"):
            pictures.check_target(tmp_path / name, source)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere to write out.png to"):
        pictures.check_target(tmp_path / "nowhere" / "out.png", source)
    with pytest.raises(ValueError, match="the suffix of the file to write must be one of .laec; got '.png'"):
        pictures.check_target(target, source, (".laec",))
    pictures.check_target(target, source)
    pictures.check_target("-", source)
    target.mkdir()
    with pytest.raises(OSError, match="out.png is a folder"):
        pictures.check_target(target, source)
    target.rmdir()
    target.write_bytes(b"")
    target.chmod(0o444)
    with pytest.raises(PermissionError, match="cannot write .*out.png: it is read-only"):
        pictures.check_target(target, source)


# --- damage -------------------------------------------------------------------------------------------------------------------


def png_of(width, height, colours, rows, depth=8, interlaced=0, header=True):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, interlaced)) * header
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (png_of(8, 64, 2, bytes(25 * 60)), "pixels are missing"),  # four rows of 64
        (png_of(8, 8, 0, bytes(17 * 7), depth=16), "pixels are missing"),
        (png_of(8, 8, 6, bytes(100), interlaced=1), "pixels are missing"),
        (png_of(8, 8, 3, bytes(72)), "it has no palette"),
        (png_of(8, 8, 2, bytes(200), header=False), "is damaged"),
        (png_of(8, 8, 5, bytes(200)), "cannot identify image file$"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"tRNS", bytes(6)) + chunk(b"IEND", b""), "cannot identify image file$"),
        (png_of(1000, 1000, 6, bytes(10**6), depth=255), "cannot identify image file$|is damaged"),
    ],
)
def test_what_is_no_whole_png_is_damaged(content, reason):
    with pytest.raises(ValueError, match=reason):
        pictures.read(content)
    assert pictures.read(png_of(8, 8, 2, bytes(200))).shape == (8, 8, 3)
    assert pictures.read(png_of(3, 5, 0, bytes(10), depth=1)).shape == (5, 3)


@pytest.mark.parametrize("stored", [b"6\0", 9, 0])
def test_an_orientation_that_is_none_is_left_out(stored):
    exif = PIL.Image.Exif()
    exif[274] = 6
    content = exif.tobytes()
    kind = (2, 2, stored + bytes(2)) if isinstance(stored, bytes) else (3, 1, stored.to_bytes(2) + bytes(2))
    order = ">" if content[6:8] == b"MM" else "<"
    if order == "<" and not isinstance(stored, bytes):
        kind = (3, 1, stored.to_bytes(2, "little") + bytes(2))
    place = content.index(struct.pack(order + "H", 274))
    content = content[:place] + struct.pack(order + "HHI", 274, *kind[:2]) + kind[2] + content[place + 12 :]
    image, metadata = pictures.read_with_metadata(saved(PIL.Image.fromarray(smooth()), "JPEG", exif=content, dpi=(72, 300)))
    assert image.shape == smooth().shape and metadata["dpi"] == (72, 300)
    kept = PIL.Image.Exif()
    kept.load(metadata.get("exif", b""))
    assert kept.get(274, 1) == 1


def test_xmp_tells_the_orientation_where_exif_has_none_that_is_one():
    exif = PIL.Image.Exif()
    exif[274] = 9
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    image, _ = pictures.read_with_metadata(saved(PIL.Image.fromarray(smooth()), "JPEG", exif=exif.tobytes(), xmp=packet))
    assert image.shape[:2] == smooth().shape[1::-1]


def test_a_truncated_png_is_refused_while_a_broken_jpeg_is_decoded_elsewhere(monkeypatch):
    """Pillow's switch for truncated files is one for all threads; a PNG waits until it is off again."""
    rows = np.random.default_rng(0).bytes(25 * 64)
    head = png_of(8, 64, 2, rows)[:33]
    short = head + chunk(b"IDAT", zlib.compress(rows)[:800]) + chunk(b"IEND", b"")
    clean = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    opening, go_on, real = threading.Event(), threading.Event(), PIL.Image.open

    def slow(source, formats=None):
        if formats == ("JPEG",):
            opening.set()
            assert go_on.wait(60)
        return real(source, formats=formats)

    monkeypatch.setattr(PIL.Image, "open", slow)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        broken = pool.submit(broken_jpeg.damage, clean, 3, 0)
        assert opening.wait(60) and PIL.ImageFile.LOAD_TRUNCATED_IMAGES
        refused = pool.submit(pictures.read, short)
        assert concurrent.futures.wait([refused], timeout=0.5).not_done
        go_on.set()
        assert broken.result().shape == clean.shape
        with pytest.raises(ValueError, match="is damaged"):
            refused.result()
    assert PIL.ImageFile.LOAD_TRUNCATED_IMAGES is False
