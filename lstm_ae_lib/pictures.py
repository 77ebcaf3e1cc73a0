"""PNG and JPEG pictures, grey or colours, with or without alpha, 8 or 16 bits, and their metadata.

Metadata is a dictionary with Pillow's names (``icc_profile``, ``exif``, ``xmp``, ``dpi``, ``comment``) and those of PNG chunks and
JPEG segments. It is the upright picture's: EXIF's and XMP's orientation is 1.
"""

import contextlib
import io
import os
import re
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import PIL.Image

from lstm_ae_lib import checks, files

MAX_PIXELS = 2**26
FORMATS = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg")}
SUFFIXES = (*FORMATS["PNG"], *FORMATS["JPEG"])
QUALITY, LARGEST_SIDE = 95, 65500  # of a JPEG; libjpeg's
_XMP = b"XML:com.adobe.xmp" + bytes(5)  # what begins a PNG's text that is XMP, not compressed
_CHUNKS = {
    "icc_profile": lambda profile: (b"iCCP", b"ICC\0\0" + zlib.compress(profile)), "xmp": lambda packet: (b"iTXt", _XMP + packet),
    "dpi": lambda dpi: (b"pHYs", struct.pack(">IIB", *(round(x / 0.0254) for x in dpi), 1)), "exif": lambda x: (b"eXIf", x[6:]),
    "comment": lambda text: (b"tEXt", b"Comment\0" + text) if text.isascii() or text.decode(errors="ignore").encode() != text
               else (b"iTXt", b"Comment" + bytes(5) + text),  # tEXt is Latin-1, iTXt UTF-8
}  # fmt: skip
_TITLES = {"icc_profile": "ICC profile", "exif": "EXIF", "xmp": "XMP", "APP2 MPF": "further pictures", "tRNS": "transparency"}
_KEPT_CHUNKS = {"cICP", "gAMA", "cHRM", "sRGB", "mDCV", "cLLI", "pHYs", "tEXt", "zTXt", "iTXt"}
_PIXEL_CHUNKS = {"bKGD", "hIST", "sBIT", "sPLT", "tIME", "acTL", "fcTL", "fdAT"}  # of the file's own samples
_LARGEST = 2**24  # of what a chunk holds, inflated: a few bytes can become billions
_PIXELS = {"IHDR", "PLTE", "tRNS", "IDAT", "IEND"}
TRUNCATED = threading.RLock()  # Pillow's LOAD_TRUNCATED_IMAGES is one for all threads: who sets it, or counts on it, holds this


class PictureWarning(UserWarning, ValueError):
    """What a person should know about a picture that was read, restored or written; with ``strict`` an error."""


def read(source, quiet: bool = False) -> np.ndarray:
    """A PNG or JPEG picture as an array, ``(height, width)`` or ``(height, width, 3 or 4)``, RGB, uint8 or uint16, upright.

    ``source`` is as for :func:`lstm_ae_lib.files.read`; of several pictures in a JPEG the first is read. Raises
    ``FileNotFoundError``, and ``ValueError`` for no picture, or an empty, animated, damaged or too large one.
    """
    return read_with_metadata(source, quiet)[0]


def read_with_metadata(source, quiet: bool = False, decode_jpeg=None) -> tuple:
    """The picture as from :func:`read`, and its metadata; what is broken there is left out, with a :class:`PictureWarning`
    unless ``quiet``. ``decode_jpeg``: what makes an image of a JPEG's bytes; None: libjpeg, to which damage is an error."""
    content, name = files.read(source), title(source)
    try:
        if not content.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
            raise ValueError("is neither a PNG nor a JPEG picture" if content else "is empty")
        read_header, decode = (_png_header, _decode_png) if content[:1] == b"\x89" else (_jpeg_header, decode_jpeg or _decode_jpeg)
        height, width, metadata, broken, content = read_header(content)
        if width * height > MAX_PIXELS:
            raise ValueError(f"is too large: {width} x {height} pixels, at most {MAX_PIXELS:,} are allowed")
        with contextlib.nullcontext() if decode_jpeg else TRUNCATED:
            image = decode(content)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None
    orientation = _take_orientation(metadata, broken)
    warn(f"{name}: broken and ignored", [] if quiet else broken)
    if orientation > 4 and "dpi" in metadata:
        metadata["dpi"] = metadata["dpi"][::-1]
    space = metadata.get("icc_profile", b"")[16:20]
    if space not in (b"", b"GRAY" if image.ndim == 2 else b"RGB "):
        metadata[f"icc_profile ({space.decode('latin-1').strip()})"] = metadata.pop("icc_profile")
    image = image[:, ::-1] if orientation in (2, 4, 5, 7) else image  # EXIF's eight ways: mirrored or not, then turned
    return np.ascontiguousarray(np.rot90(image, {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0))), metadata


def title(source) -> str:
    """What messages call a picture."""
    return "the picture" if isinstance(source, bytes) else "standard input" if str(source) == "-" else Path(source).name


def warn(text, names) -> None:
    """A :class:`PictureWarning` about metadata, if there are any ``names``."""
    if names:
        warnings.warn(f"{text}: {', '.join(_TITLES.get(name, name) for name in names)}", PictureWarning, stacklevel=4)


def _png_header(content):
    height, width, depth, colours, interlaced, metadata, broken, place, kind, pixels = 0, 0, 0, -1, 0, {}, [], 8, "", [content[:8]]
    while kind != "IEND":
        size = int.from_bytes(content[place : place + 4])
        kind, data = content[place + 4 : place + 8].decode("latin-1"), content[place + 8 : place + 8 + size]
        if content[place + 8 + size : place + 12 + size] != zlib.crc32(content[place + 4 : place + 8 + size]).to_bytes(4):
            raise ValueError("is damaged: it is cut off, or a checksum is wrong")
        if kind in _PIXELS:
            pixels.append(content[place : place + 12 + size])
        place += 12 + size
        if kind == "acTL" and (frames := int.from_bytes(data[:4])) > 1:
            raise ValueError(f"is animated ({frames} frames): save the frame to restore as a picture")
        try:
            if kind == "IHDR":
                width, height, depth, colours, interlaced = struct.unpack_from(">IIBBxxB", data)
            elif kind == "iCCP":
                metadata["icc_profile"] = zlib.decompressobj().decompress(data[data.index(b"\0") + 2 :], _LARGEST)
            elif kind == "pHYs" and data[8] == 1:
                metadata["dpi"] = tuple(side * 0.0254 for side in struct.unpack_from(">II", data))
            elif data.startswith(b"Raw profile type exif\0\0"):  # ImageMagick's: hexadecimal digits below three lines
                lines = zlib.decompressobj().decompress(data[23:], _LARGEST).split(b"\n")
                metadata["exif"] = bytes.fromhex(b"".join(lines[3:]).decode())
            elif kind == "eXIf":
                metadata["exif"] = b"Exif\0\0" + data
            elif kind == "iTXt" and data.startswith(_XMP):
                metadata["xmp"] = data[len(_XMP) :]
            elif kind[0].islower() and kind not in _PIXEL_CHUNKS and (kind != "tRNS" or colours == 0):
                metadata.setdefault(kind, []).append(data)
        except (ValueError, IndexError, struct.error, zlib.error):
            broken.append(kind)
    bits = width * depth * {2: 3, 4: 2, 6: 4}.get(colours, 1)
    stream, count, packed = zlib.decompressobj(), 0, b"".join(chunk[8:-4] for chunk in pixels if chunk[4:8] == b"IDAT")
    with contextlib.suppress(zlib.error):  # of which Pillow tells; missing rows it would make black
        while packed and not stream.eof and depth in (1, 2, 4, 8, 16) and width * height <= MAX_PIXELS:
            count, packed = count + len(stream.decompress(packed, _LARGEST)), stream.unconsumed_tail
        if stream.eof and count < (height * bits // 8 if interlaced else height * (1 + -(-bits // 8))):
            raise ValueError("is damaged: pixels are missing")
    return height, width, metadata, broken, b"".join(pixels)


def _jpeg_header(content):
    with warnings.catch_warnings(action="ignore"):  # of pictures that are large, which is said elsewhere
        try:
            header = PIL.Image.open(io.BytesIO(content), formats=("JPEG",))
        except PIL.Image.DecompressionBombError as error:
            raise ValueError(f"is too large: {error}") from None
        except (OSError, SyntaxError, ValueError, struct.error):
            raise ValueError("is damaged: its header cannot be read") from None
    names = ("icc_profile", "exif", "xmp", *(["dpi"] if header.info.get("jfif_unit") else []))
    metadata = {name: header.info[name] for name in names if header.info.get(name)}
    known = (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0", b"JFIF\0", b"Adobe\0")
    others = [(kind, data) for kind, data in header.applist if kind != "COM" and not data.startswith(known)]
    metadata |= {f"{kind} {data.split(bytes(1))[0][:20].decode('ascii', 'replace')}": data for kind, data in others}
    if comments := [data for kind, data in header.applist if kind == "COM"]:
        metadata["comment"] = b"\n".join(comments)
    if len(set(header.info.get("jfif_density", ()))) > 1 and "dpi" not in metadata:
        metadata["shape of pixels"] = header.info["jfif_density"]
    has_profile = any(data.startswith(b"ICC_PROFILE\0") for _, data in header.applist)
    return *header.size[::-1], metadata, ["icc_profile"] * (has_profile and "icc_profile" not in metadata), content


def _take_orientation(metadata, broken):
    """EXIF's, or else XMP's orientation, 1 to 8, which becomes 1 there. EXIF that Pillow cannot read is left out."""
    orientation, exif, said = 1, PIL.Image.Exif(), []
    if tag := re.search(rb"""(tiff:Orientation(?:=["']|>))([1-8])""", metadata.get("xmp", b"")):
        orientation = int(tag[2])
        metadata["xmp"] = re.sub(tag.re, rb"\g<1>1", tag.string)  # wherever it stands
    try:
        with warnings.catch_warnings(record=True, action="always") as said:
            exif.load(metadata.get("exif", b""))
            orientation = found if (found := exif.get(274, orientation)) in range(1, 9) else orientation
            if exif.get(274, 1) != 1:
                metadata["exif"] = _with_orientation_1(metadata["exif"])
    except Exception:  # of whatever kind Pillow's parser runs into
        said = ["cannot be read"]
    if said:
        del metadata["exif"]
        broken.append("exif")
    return orientation


def _with_orientation_1(exif):
    """EXIF's bytes with another orientation in its first directory, and nothing else."""
    order, changed = "<" if exif[6:8] == b"II" else ">", bytearray(exif)
    start = 6 + struct.unpack_from(f"{order}I", exif, 10)[0]
    for place in range(start + 2, start + 2 + 12 * struct.unpack_from(f"{order}H", exif, start)[0], 12):
        if struct.unpack_from(f"{order}H", exif, place) == (274,):
            struct.pack_into(f"{order}HHIHH", changed, place, 274, 3, 1, 1, 0)
    return bytes(changed)


def _decode_jpeg(content):
    """With libjpeg's warnings as errors: it goes on over damage, and tells of it nowhere else. It sees no ICC profile, which may be
    broken while the pixels are sound, and JFIF's revision as 1.2, since it warns of others."""
    import simplejpeg

    kept, place = [content[:2]], 2
    while content[place : place + 1] == b"\xff" and (kind := content[place + 1 : place + 2]) not in (b"", b"\xff", b"\xda"):
        segment = content[place : (place := place + 2 + int.from_bytes(content[place + 2 : place + 4]))]
        segment = segment[:9] + b"\1\2" + segment[11:] if segment[4:9] == b"JFIF\0" else segment
        kept += [segment] * (kind != b"\xe2" or not segment[4:].startswith(b"ICC_PROFILE\0"))
    content = b"".join(kept) + content[place:]
    try:
        colours = simplejpeg.decode_jpeg_header(content)[2]
        image = simplejpeg.decode_jpeg(content, {"Gray": "GRAY", "CMYK": "CMYK", "YCCK": "CMYK"}.get(colours, "RGB"))
        if image.shape[2] == 4:
            return np.asarray(PIL.Image.open(io.BytesIO(content), formats=("JPEG",)).convert("RGB"))
    except (ValueError, OSError) as error:
        raise ValueError(f"is damaged: {error}") from None
    return image[..., 0] if image.shape[2] == 1 else image


def _decode_png(content):
    try:
        image, low = (PIL.Image.open(io.BytesIO(content), formats=("PNG",)) for _ in range(2))
        if image.mode == "I;16" or content[24] < 16:  # bits a sample
            return np.asarray(image.convert("L")) if image.mode in ("1", "L") else as_array(image)
        if content[25] == 4:  # grey and alpha, two bytes each: as bytes these are four channels
            header = _chunk(b"IHDR", content[16:24] + b"\x08\6" + content[26:29])
            image = PIL.Image.open(io.BytesIO(content[:8] + header + content[33:]), formats=("PNG",))
            return np.asarray(image).view(">u2").astype(np.uint16)[..., [0, 0, 0, 1]]
        # Of colours Pillow keeps the high byte: told that it comes second, the low one.
        low.tile = [tile._replace(args=tile.args.replace(";16B", ";16L")) for tile in low.tile]
        deep = np.asarray(image).astype(np.uint16) * 256 + np.asarray(low)
    except (OSError, SyntaxError, ValueError, AssertionError, struct.error, zlib.error) as error:  # asserted: a palette is there
        raise ValueError(f"is damaged: {str(error).split(' <')[0] or 'it has no palette'}") from None
    clear = image.info.get("transparency")
    return deep if clear is None else np.dstack([deep, np.where((deep == clear).all(axis=2), 0, 65535).astype(np.uint16)])


def _chunk(kind, data):
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def check_target(target, source=b"", suffixes=SUFFIXES) -> None:
    """Raises an error for a file that cannot be written: another suffix, no folder, read-only, or ``source`` by another name."""
    if str(target) == "-":
        return
    checks.choice(Path(target).suffix.lower(), "the suffix of the file to write", suffixes)
    path = Path(os.path.realpath(target))
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} to")
    if path.exists() and not isinstance(source, bytes) and Path(source).exists() and path.samefile(source):
        raise ValueError(f"{target} is what is read: write to another file")
    files.check_writable(path)


def check_holds(image, suffix: str, name: str) -> None:
    """Raises ``ValueError`` for a picture, called ``name``, that has alpha or is too large, and is to be a JPEG."""
    if suffix.lower() in FORMATS["JPEG"] and (image.shape[2:] == (4,) or max(image.shape[:2]) > LARGEST_SIDE):
        said = "an alpha channel" if image.shape[2:] == (4,) else f"{max(image.shape[:2])} pixels a side, over {LARGEST_SIDE}"
        raise ValueError(f"{name} has {said}, which JPEG cannot hold: write a .png")


def write(path, image, metadata=None, quality: int = QUALITY) -> None:
    """Writes a picture, as from :func:`read_with_metadata`, whole or not at all. In a JPEG 16 bits become 8.

    ``path`` ends as :data:`SUFFIXES`, a missing folder is made; or it is ``-``, a PNG on standard output. ``quality``, of a JPEG,
    is 1 to 100; its colours have the full resolution. A :class:`PictureWarning` names what the format cannot hold. Raises
    ``ValueError`` for another suffix, a quality out of range, or a picture that cannot be written.
    """
    suffix, metadata = ".png" if str(path) == "-" else Path(path).suffix.lower(), metadata or {}
    checks.choice(suffix, "the suffix of the file to write", SUFFIXES)
    checks.number(quality, "quality", 1, 100, whole=True)
    if image.dtype not in (np.uint8, np.uint16) or np.atleast_3d(image).shape[2:] not in ((1,), (3,), (4,)):
        raise ValueError(f"a picture to write has 1, 3 or 4 channels of uint8 or uint16, got {image.dtype}, shape {image.shape}")
    check_holds(image, suffix, "a picture")
    content, kept = _jpeg(image, metadata, quality) if suffix in FORMATS["JPEG"] else _png(image, metadata)
    files.write(path, content)
    shallow = ["16 bits a sample"] * (image.dtype == np.uint16 and suffix in FORMATS["JPEG"])
    warn(f"not kept in {Path(path).name}", [*(name for name in metadata if name not in kept), *shallow])


def _png(image, metadata):
    """A file's content, and the names of the metadata that it holds."""
    height, width, channels = np.atleast_3d(image).shape
    depth = image.dtype.itemsize
    rows = np.ascontiguousarray(image, f">u{depth}").view(np.uint8).reshape(height, -1)
    lines = np.empty((height, 1 + rows.shape[1]), np.uint8)
    lines[:, 0], lines[:, 1:] = 1, rows  # 1: bytes are stored as differences to the pixel before
    lines[:, 1 + depth * channels :] -= rows[:, : -depth * channels]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * depth, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0))]
    chunks += [_CHUNKS[name](value) for name, value in metadata.items() if name in _CHUNKS]
    chunks += [(name.encode(), value) for name in metadata if name in _KEPT_CHUNKS for value in metadata[name]]
    chunks += [(b"IDAT", zlib.compress(lines, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks), {*_CHUNKS, *_KEPT_CHUNKS}


def _jpeg(image, metadata, quality):
    image = np.rint(image / 257).astype(np.uint8) if image.dtype == np.uint16 else image
    sizes = {name: max(value) if name == "dpi" else len(value) for name, value in metadata.items() if name in _CHUNKS}
    kept = {name: metadata[name] for name, size in sizes.items() if name == "icc_profile" or size < 65000}
    image, stream = image[..., 0] if image.shape[2:] == (1,) else image, io.BytesIO()
    PIL.Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling=0, **kept)
    return stream.getvalue(), {*kept, "sRGB"}  # which a JPEG without a profile is


def as_array(image) -> np.ndarray:
    """An array; of a PIL image its pixels as grey, RGB or RGBA, with 16 bits where it has them."""
    if not hasattr(image, "getbands") or image.mode in ("I", "F"):
        return np.asarray(image)
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "L" if image.mode in ("1", "L") else "RGB"))


def check_pixels(image) -> None:
    """Raises ``ValueError`` but for ``(height, width)`` or ``(height, width, 1, 3 or 4)``, uint8, uint16, or floats in [0, 1]."""
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)) or min(image.shape, default=0) < 1:
        raise ValueError(f"image must be (height, width) or (height, width, 1, 3 or 4 channels), not empty, got {image.shape}")
    if min(image.shape[:2]) < 2:
        raise ValueError(f"image must be at least 2 pixels high and wide, got {image.shape[0]} x {image.shape[1]}")
    if image.dtype.kind != "f" and image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"image must be uint8, uint16, or floating in [0, 1], got {image.dtype}")
    if image.dtype.kind == "f" and not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(f"image must lie in [0, 1], got values from {image.min():g} to {image.max():g}")


def to_colours(image) -> np.ndarray:
    """What :func:`check_pixels` allows as ``(height, width, 3)`` float32 in [0, 1], grey as three equal colours, without alpha."""
    check_pixels(image)
    colours = (image.reshape(*image.shape[:2], -1)[..., :3] / _scale(image)).astype(np.float32, copy=False)
    return np.repeat(colours, 3, axis=2) if colours.shape[2] == 1 else colours


def from_colours(colours, image) -> np.ndarray:
    """``image`` with other colours, clipped to [0, 1]: :func:`to_colours` back. ``ValueError`` for what is not finite."""
    if wrong := np.count_nonzero(~np.isfinite(colours)):
        raise ValueError(f"restored must be finite, got {wrong} values that are NaN or infinite")
    result = image.copy()
    channels = result.reshape(*image.shape[:2], -1)[..., :3]
    grey = channels.shape[2] == 1 or (image.shape[2:] == (4,) and not np.any(channels[..., 1:] != channels[..., :1]))
    for rows in (slice(top, top + 256) for top in range(0, len(image), 256)):  # all at once would take as much memory again
        part = np.clip(colours[rows], 0, 1)
        part = (part.mean(axis=2, keepdims=True) if grey else part) * _scale(image)
        channels[rows] = part if image.dtype.kind == "f" else np.rint(part)
    return result


def _scale(image):
    return np.float32(1 if image.dtype.kind == "f" else np.iinfo(image.dtype).max)


def eight_bit_colours(image) -> np.ndarray:
    """A picture of any kind that :func:`to_colours` takes, as ``(height, width, 3)`` uint8: what can be degraded and compared."""
    return np.rint(to_colours(as_array(image)) * 255).astype(np.uint8)


def photographs() -> dict:
    """Photographs that come with scikit-image, of 300 to 640 pixels: title -> ``(height, width, 3)`` uint8, RGB."""
    import skimage.data

    return {title: getattr(skimage.data, title)() for title in ("astronaut", "chelsea", "coffee", "rocket")}
