"""JPEGs with flipped bits, protocol ``broken_jpeg``, and how far one has to see to mend them.

A JPEG codes the mean of each 8x8 block as the difference from the block before, in raster order. One flipped bit changes such a
difference, and with it the colour of all blocks to the end of the picture; often it changes how many bits a block takes, and the
blocks after it move along. ``python -m lstm_ae_lib.tasks.broken_jpeg`` prints :func:`bounds`.
"""

import io
import math

import numpy as np
import PIL.Image
import PIL.ImageFile

from lstm_ae_lib import checks, degradations, pictures

BLOCK, QUALITY = 8, 85
MOST_FLIPS, SOUND_SHARE = 3, 0.15  # of PROTOCOL, for crops of 64 to 256 pixels
QUALITIES = (25, 95)  # of ANY_QUALITY, which is for files of one's own
MOST_SHIFTED = 8  # blocks by which :func:`bounds` looks for those that moved along
_BASELINE, _RESTART, _SCAN, _FILL = 0xC0, 0xDD, 0xDA, 0xFF
_KINDS = {0xC1: "an extended one", 0xC2: "a progressive one", 0xC3: "a lossless one", 0xC9: "an arithmetic-coded one"}


def encode(image, quality: int = QUALITY) -> bytes:
    """A baseline JPEG, 4:4:4, without restart markers, of ``(height, width, 3)`` uint8, sides multiples of 8 (``ValueError``)."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.shape[0] % BLOCK or image.shape[1] % BLOCK:
        raise ValueError(f"image must be uint8 (height, width, 3) with sides that 8 divides, got {image.dtype} {image.shape}")
    stream = io.BytesIO()
    quality = int(checks.number(quality, "quality", 1, 100, whole=True))
    PIL.Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling=0)
    return stream.getvalue()


def coded_bytes(content: bytes) -> tuple[int, int]:
    """Where the entropy-coded data of a JPEG begin and end.

    ``ValueError`` for other content, for a JPEG that is not baseline or has several scans, whose blocks are not coded one after the
    other, for colours whose blocks come in groups (4:2:0 and the like), and for restart markers, at which differences begin anew.
    """
    content, place, components = bytes(content), 2, 0
    if content[:2] != b"\xff\xd8":
        raise ValueError(f"content must be a JPEG, which begins with ff d8, got {content[:2].hex(' ') or 'nothing'}")
    while place + 4 <= len(content) and content[place] == _FILL:
        if content[place + 1] == _FILL:
            place += 1
            continue
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if place + 2 + max(length, 8) > len(content):
            break
        if marker == _SCAN:
            if content[place + 4] != components:
                raise ValueError(f"content must have its {components} components in one scan, got one with {content[place + 4]}")
            start, end = place + 2 + length, content.rfind(b"\xff\xd9")
            return start, end if end > start else len(content)
        if marker == _RESTART and int.from_bytes(content[place + 4 : place + 6], "big"):
            raise ValueError("content must be a JPEG without restart markers, got one with them")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC, _BASELINE):
            raise ValueError(f"content must be a baseline JPEG, got {_KINDS.get(marker, 'another kind')}")
        if marker == _BASELINE:
            components, factors = content[place + 9], content[place + 11 : place + 2 + length : 3]
            if components > 1 and any(factor != 0x11 for factor in factors):
                across, down = (" x ".join(str(factor >> shift & 15) for factor in factors) for shift in (4, 0))
                said = f"got sampling {across} across, {down} down"
                raise ValueError(f"content must be a JPEG of 4:4:4, each block by itself, {said}")
        place += 2 + length
    raise ValueError("content must be a JPEG with a picture in it, got one that ends before")


def flip_bits(content: bytes, count: int, seed) -> bytes:
    """The JPEG with bits flipped ``count`` times, 0 to 1,000, drawn one by one from its entropy-coded data: in a tiny file one may
    be drawn twice, and be right again. ``seed``: as for ``numpy.random.default_rng``. Raises as :func:`coded_bytes`."""
    checks.number(count, "count", 0, 1000, whole=True)
    start, end = coded_bytes(content)
    changed = bytearray(content)
    for place in np.random.default_rng(seed).integers(8 * start, 8 * end, count):
        changed[place // 8] ^= 1 << (place % 8)
    return bytes(changed)


def decode(content: bytes) -> np.ndarray:
    """The picture, ``(height, width, 3)`` uint8, as far as it can be decoded, the rest grey. ``ValueError`` for no JPEG."""
    with pictures.TRUNCATED:
        before, PIL.ImageFile.LOAD_TRUNCATED_IMAGES = PIL.ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            return np.asarray(PIL.Image.open(io.BytesIO(content), formats=("JPEG",)).convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise ValueError(f"content must be a JPEG that can be opened, got one that cannot: {error}") from None
        finally:
            PIL.ImageFile.LOAD_TRUNCATED_IMAGES = before


def damage(image, flips: int, seed, quality: int = QUALITY) -> np.ndarray:
    """What is left of an image when its JPEG has ``flips`` flipped bits; raises as :func:`encode` and :func:`flip_bits`."""
    return decode(flip_bits(encode(image, quality), flips, seed))


def _broken(image, random, quality=QUALITY, sound_share=SOUND_SHARE):
    flips = int(random.integers(1, MOST_FLIPS + 1))
    return damage(image, 0 if random.random() < sound_share else flips, random, quality)


def _broken_anyhow(image, random):
    return _broken(image, random, int(random.integers(QUALITIES[0], QUALITIES[1] + 1)), 2 * SOUND_SHARE)


# Of a whole picture 1 to 10 flips are asked; a crop of 128 pixels is a ninth to a sixteenth of one.
PROTOCOL = degradations.Protocol(
    "broken_jpeg", f"a JPEG of quality {QUALITY} with 1 to {MOST_FLIPS} flipped bits, or, {SOUND_SHARE:.0%}, a sound one",
    "this study's own: PIL.Image.save(quality=85, subsampling=0), bits of the entropy-coded data flipped, decoded by libjpeg",
    made_by=_broken,
)  # fmt: skip
ANY_QUALITY = degradations.Protocol(
    "broken_jpeg", f"a JPEG of quality {QUALITIES[0]} to {QUALITIES[1]} with 1 to {MOST_FLIPS} flipped bits, or, "
    f"{2 * SOUND_SHARE:.0%}, a sound one", PROTOCOL.source, made_by=_broken_anyhow,
)  # fmt: skip


def bounds(photographs=None, flips: int = 60, reaches=(16, 32, 64, 128, 256), seed: int = 0) -> dict:
    """What can be undone of one flipped bit by whoever knows what happened, and by whoever sees so many pixels far.

    The blocks after the break are moved back by the one shift that fits best, then the median of their differences from the sound
    picture is added: one constant colour. A network of reach r can know of the break at pixels with a sound pixel, above or to the
    left of the break, at most r away; there alone the colour is added.

    Args:
        photographs: name -> uint8 ``(height, width, 3)``; None: scikit-image's four.
        flips: trials a picture, from 1.

    Returns ``trials``, and mean squared errors in units of [0, 1]: ``damaged``, ``moved`` (back), ``undone`` (the colour too), and
    ``reaches``, reach -> the gain in dB over ``moved``, as a ratio of mean errors.
    """
    checks.number(flips, "flips", 1, 10**6, whole=True)
    errors, within = [], {reach: [] for reach in reaches}
    for image in (photographs or pictures.photographs()).values():
        height, width = (side // BLOCK * BLOCK for side in image.shape[:2])
        wanted = np.ascontiguousarray(image[:height, :width, :3])
        content = encode(wanted)
        sound, wanted = decode(content), wanted / 255
        for trial in range(flips):
            seen = decode(flip_bits(content, 1, [seed, trial]))
            moved, colour, first = _explained(seen, sound)
            after = _raster(np.arange(height // BLOCK * (width // BLOCK)) >= first, height, width)
            undone = np.clip(moved + after * colour, 0, 255)
            errors.append([np.mean((one / 255 - wanted) ** 2) for one in (seen, moved, undone)])
            far = _distance(first, height, width)
            for reach in reaches:
                within[reach].append(np.mean((np.where(far <= reach, undone, moved) / 255 - wanted) ** 2))
    damaged, moved, undone = np.mean(errors, axis=0).tolist()
    gains = {reach: 10 * math.log10(moved / np.mean(found)) for reach, found in within.items()}
    return {"trials": len(errors), "damaged": damaged, "moved": moved, "undone": undone, "reaches": gains}


def distance(seen, sound) -> np.ndarray:
    """How far each pixel of a broken picture is from the nearest one before the first block that changed, the larger of the two
    axes' distances, 0 before it: ``(height, width, 1)`` whole numbers of pixels, from the picture and its sound version, uint8."""
    changed = np.flatnonzero((_blocks(seen) != _blocks(sound)).any(axis=(1, 2, 3)))
    height, width = seen.shape[:2]
    return _distance(changed[0], height, width) if len(changed) else np.zeros((height, width, 1), int)


def _blocks(image):
    """``(blocks in raster order, 8, 8, 3)``."""
    height, width = image.shape[:2]
    return image.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3).swapaxes(1, 2).reshape(-1, BLOCK, BLOCK, 3)


def _image(blocks, height, width):
    return blocks.reshape(height // BLOCK, width // BLOCK, BLOCK, BLOCK, 3).swapaxes(1, 2).reshape(height, width, 3)


def _raster(values, height, width):
    """A value for each block as ``(height, width, 1)``."""
    return np.kron(values.reshape(height // BLOCK, width // BLOCK), np.ones((BLOCK, BLOCK), values.dtype))[..., None]


def _explained(seen, sound):
    """The picture with its blocks moved back, the colour that was added to them all, and the first one that changed."""
    blocks, right = _blocks(seen).astype(float), _blocks(sound).astype(float)
    changed = np.flatnonzero((blocks != right).any(axis=(1, 2, 3)))
    first = changed[0] if len(changed) else len(blocks)
    tail, best = np.arange(first, len(blocks)), (math.inf, blocks, np.zeros(3))
    for shift in range(-MOST_SHIFTED, MOST_SHIFTED + 1) if len(tail) else ():
        moved = blocks.copy()
        moved[tail] = blocks[np.clip(tail + shift, first, len(blocks) - 1)]
        colour = np.median((right[tail] - moved[tail]).mean(axis=(1, 2)), axis=0)
        error = np.sum((np.clip(moved[tail] + colour, 0, 255) - right[tail]) ** 2)
        best = min(best, (error, moved, colour), key=lambda one: one[0])
    return _image(best[1], *seen.shape[:2]), best[2], first


def _distance(first, height, width):
    """Of each pixel to the nearest one before the break, the larger of the two axes' distances; ``(height, width, 1)``."""
    row, column = divmod(first, width // BLOCK)
    y, x = np.arange(height)[:, None], np.arange(width)
    above = y - (BLOCK * row - 1) if row else np.full((height, 1), height + width)
    left = np.maximum(x - (BLOCK * column - 1), y - (BLOCK * (row + 1) - 1)) if column else np.full((1, width), height + width)
    return np.clip(np.minimum(above, left), 0, None)[..., None]


if __name__ == "__main__":
    found = bounds()
    print(f"{found['trials']} trials of one flipped bit. MSE: damaged {found['damaged']:.2e}, blocks moved back "
          f"{found['moved']:.2e}, colour undone too {found['undone']:.2e}")  # fmt: skip
    gains = (f"{reach}: {gain:+.1f} dB" for reach, gain in found["reaches"].items())
    print("undone only within so many pixels: " + ", ".join(gains))
