"""JPEG files with flipped bits, mended by a released network of :mod:`lstm_ae_lib.tasks.row_feedback`."""

import functools
import io

import numpy as np
import PIL.Image
import simplejpeg

from lstm_ae_lib import files, pictures, weights
from lstm_ae_lib.tasks import broken_jpeg, mending

FOLDER, DEFAULT = "jpeg", "default"


def load_mender(name: str = "", folder=None):
    """Released weights, as a function of a side or of ``(height, width)``, multiples of 8, that gives the network; and their card.

    Errors are those of :func:`lstm_ae_lib.weights.read_released`.
    """
    network, description = weights.read_released(name or DEFAULT, folder or weights.released_dir(FOLDER))
    sized = functools.lru_cache(maxsize=4)(
        lambda size: mending.at_size(description["builder"], description["arguments"], network, size)
    )
    return sized, description["card"]


def mend(content: bytes, mender) -> np.ndarray:
    """The picture of a JPEG some of whose bits are flipped, mended. A sound one is changed a little; the card says how much.

    Args:
        content: a baseline JPEG, grey or 4:4:4, in one scan, without restart markers and with an end; else ``ValueError``. All
            of it is in memory at once, some 0.3 GB for a megapixel.
        mender: of a ``(height, width)``, the network for it, as :func:`load_mender` gives it.

    Returns ``(height, width, 3)`` uint8, or ``(height, width)`` of a grey JPEG.
    """
    _, end = broken_jpeg.coded_bytes(content)
    if content[end : end + 2] != b"\xff\xd9":
        raise ValueError("content is cut off: bits that are flipped can be mended, not a part that is missing")
    image, kind = broken_jpeg.decode(content), PIL.Image.open(io.BytesIO(content), formats=("JPEG",)).mode
    if kind not in ("L", "RGB"):
        raise ValueError(f"content must be a grey JPEG or one of three colours, got {kind}")
    try:
        simplejpeg.decode_jpeg(content, strict=False)  # Pillow goes on where nothing at all can be decoded
    except ValueError as error:
        raise ValueError(f"content must be a JPEG that can be decoded: {error}") from None
    height, width = image.shape[:2]
    beyond = [(0, -side % mending.BLOCK) for side in (height, width)]
    whole = np.pad(image, [*beyond, (0, 0)], mode="edge") / np.float32(255)
    mended = np.asarray(mender(whole.shape[:2])(whole[None]))[0, :height, :width]
    return pictures.from_colours(np.clip(mended, 0, 1), image[..., 0] if kind == "L" else image)


def mend_file(source, target, name: str = "", *, quality: int = pictures.QUALITY) -> tuple:
    """Mends a JPEG file and keeps its metadata. ``name`` is that of weights in ``data/weights/jpeg``.

    Returns the shape of what was written. Raises as :func:`mend`, :func:`lstm_ae_lib.pictures.read` and
    :func:`lstm_ae_lib.pictures.write`.
    """
    files.check_source(source)
    pictures.check_target(target, source)
    content, title = files.read(source), pictures.title(source)
    if not content.startswith(b"\xff\xd8"):
        raise ValueError(f"{title} is no JPEG, and only JPEGs with flipped bits are mended")
    mender = load_mender(name)[0]

    def mended(content):
        try:
            return mend(content, mender)
        except ValueError as error:
            raise ValueError(str(error).removeprefix("content ")) from None

    try:
        image, metadata = pictures.read_with_metadata(content, decode_jpeg=mended)
    except ValueError as error:
        raise ValueError(f"{title} {str(error).removeprefix(pictures.title(content)).strip()}") from None
    pictures.write(target, image, metadata, quality)
    return image.shape
