"""Picture files and pictures of any kind: grey, colours, alpha, 8 or 16 bits, upright or not."""

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np

from lstm_ae_lib import checks, files

MAX_PIXELS = 2**26
FORMATS = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg")}


def read(source) -> np.ndarray:
    """A PNG or JPEG picture as an array, ``(height, width)`` or ``(height, width, 3 or 4)``, RGB, uint8 or uint16, upright.

    Args:
        source: a path, or the bytes of a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no picture, a damaged, animated, empty or too large one.
    """
    import cv2
    import PIL.Image

    if isinstance(source, bytes):
        name, content = "the picture", source
    elif Path(source).is_file():
        name, content = Path(source).name, Path(source).read_bytes()
    else:
        raise FileNotFoundError(f"there is no file {source}")
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")  # of pictures that are large, which the header says below
        try:
            header = stack.enter_context(PIL.Image.open(io.BytesIO(content), formats=tuple(FORMATS)))
        except PIL.Image.DecompressionBombError as error:
            raise ValueError(f"{name} is too large: {error}") from None
        except (OSError, SyntaxError, ValueError):
            what = "is empty" if not content else "is neither a PNG nor a JPEG picture"
            raise ValueError(f"{name} {what}") from None
        width, height = header.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"{name} is too large: {width} x {height} pixels, at most {MAX_PIXELS:,} are allowed")
        if getattr(header, "is_animated", False):
            raise ValueError(f"{name} is animated ({header.n_frames} frames): save the frame to restore as a picture")
        try:
            orientation = header.getexif().get(274, 1)
            header.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{name} is damaged: {error}") from None
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError(f"{name} is damaged: OpenCV cannot read it")
    return _upright(_swap_red_and_blue(image), orientation)


def check_target(path) -> None:
    """Raises ``ValueError`` for a file to write that is neither PNG nor JPEG by its suffix."""
    suffixes = [suffix for group in FORMATS.values() for suffix in group]
    checks.choice(Path(path).suffix.lower(), "the suffix of the file to write", suffixes)


def write(path, image) -> None:
    """Writes a picture, whole or not at all; 16 bits become 8 in a JPEG.

    Args:
        path: ``.png``, ``.jpg`` or ``.jpeg``; missing folders are made.
        image: as :func:`read` returns it.

    Raises:
        ValueError: another suffix, or a picture that OpenCV cannot write.
    """
    import cv2

    path = Path(path)
    check_target(path)
    if path.suffix.lower() in FORMATS["JPEG"] and image.dtype == np.uint16:
        image = np.rint(image / 257).astype(np.uint8)
    written, content = cv2.imencode(path.suffix, _swap_red_and_blue(image))
    if not written:
        raise ValueError(f"OpenCV could not write {path.name}")
    with files.replacing(path) as temporary:
        temporary.write_bytes(content.tobytes())


def upload_button():
    """A button, in Jupyter and Colab, with which a person chooses a picture; :func:`uploaded` reads it."""
    import ipywidgets

    return ipywidgets.FileUpload(accept=".png,.jpg,.jpeg", multiple=False)


def uploaded(button) -> np.ndarray:
    """The picture that was chosen with an :func:`upload_button`, as :func:`read` returns it.

    Raises:
        ValueError: none was chosen, or it is no picture.
    """
    chosen = button.value
    # A tuple of files since ipywidgets 8; before, as on Colab, a dictionary by name.
    chosen = list(chosen.values() if isinstance(chosen, dict) else chosen)
    if not chosen:
        raise ValueError("no picture was chosen: use the button above, then run this cell again")
    return read(bytes(chosen[0]["content"]))


def to_colours(image) -> tuple:
    """A picture as a restorer takes it, and the way back.

    Args:
        image: ``(height, width)`` or ``(height, width, channels)`` with 1 (grey), 3 (RGB) or 4 (RGBA) channels; uint8, uint16,
            or floating in [0, 1].

    Returns:
        tuple: ``(height, width, 3)`` float32 in [0, 1], grey as three equal colours; and a function that makes of such an
        image one of the picture's own shape and dtype, with its alpha.

    Raises:
        ValueError: another shape or dtype, an empty image, values out of range.
    """
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)) or min(image.shape, default=0) < 1:
        raise ValueError(f"image must be (height, width) or (height, width, 1, 3 or 4 channels), not empty, got {image.shape}")
    if min(image.shape[:2]) < 2:
        raise ValueError(f"image must be at least 2 pixels high and wide, got {image.shape[0]} x {image.shape[1]}")
    if image.dtype.kind == "f":
        scale = 1.0
        if not np.isfinite(image).all() or image.min() < 0 or image.max() > 1:
            raise ValueError(f"image must lie in [0, 1], got values from {image.min():g} to {image.max():g}")
    elif image.dtype in (np.uint8, np.uint16):
        scale = float(np.iinfo(image.dtype).max)
    else:
        raise ValueError(f"image must be uint8, uint16, or floating in [0, 1], got {image.dtype}")
    grey = image.ndim == 2 or image.shape[2] == 1
    colours = (image.reshape(*image.shape[:2], -1)[..., :3] / np.float32(scale)).astype(np.float32, copy=False)
    colours = np.repeat(colours, 3, axis=2) if grey else colours

    def back(restored):
        restored = restored.mean(axis=2, keepdims=True) if grey else restored
        restored = restored * np.float32(scale)
        restored = (np.rint(restored) if scale > 1 else restored).astype(image.dtype)
        if image.ndim == 3 and image.shape[2] == 4:
            restored = np.concatenate([restored, image[..., 3:]], axis=2)
        return restored.reshape(image.shape)

    return colours, back


def eight_bit_colours(image) -> np.ndarray:
    """A picture of any kind that :func:`to_colours` takes, as ``(height, width, 3)`` uint8: what can be degraded and compared.

    Raises:
        ValueError: as :func:`to_colours`.
    """
    colours, _ = to_colours(np.asarray(image))
    return np.rint(colours * 255).astype(np.uint8)


def _swap_red_and_blue(image):
    """From RGB to what OpenCV writes, and back."""
    if image.ndim == 2 or image.shape[2] == 1:
        return image
    return np.ascontiguousarray(image[..., [2, 1, 0, *range(3, image.shape[2])]])


def _upright(image, orientation):
    """EXIF's eight ways to hold a camera: mirrored or not, then turned."""
    image = image[:, ::-1] if orientation in (2, 4, 5, 7) else image
    return np.ascontiguousarray(np.rot90(image, {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)))


def photographs() -> dict:
    """Photographs that come with scikit-image, of 300 to 640 pixels: what a restorer trained on 32x32 meets in use.

    Returns:
        dict: title -> ``(height, width, 3)`` uint8, RGB.
    """
    import skimage.data

    return {title: getattr(skimage.data, title)() for title in ("astronaut", "chelsea", "coffee", "rocket")}
