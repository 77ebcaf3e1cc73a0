"""Learned image compression: the symbols that a compressor's bottleneck gives, entropy-coded, in a file that knows its model.

A range coder (constriction; Bamler 2022) codes each symbol with one of 64 Laplace distributions, chosen for its place in the latent
on training images. A file holds its weights' fingerprint: other weights and damaged files are refused.
"""

import decimal
import functools
import hashlib
import json
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from lstm_ae_lib import checks, files, pictures, restoring, weights
from lstm_ae_lib.fast import runtime

BLOCK = 32  # side of the blocks that a picture is cut into: what the compressors are trained on
LARGEST = 1023  # symbols beyond are clipped to it
TABLES = 64  # distributions to choose from
HEADER = struct.Struct(">4s8sIII")  # kind, fingerprint, height, width, checksum of these and of what follows
KIND = b"LAEC"
SCALED = struct.Struct(">4s8sIIbI")  # the same with the steps' size before the checksum
SCALED_KIND, ANY_RATE_KIND = b"LAE2", b"LAE3"
SIZES = (-8, 24)  # of the steps beside the weights' own: 2 to this quarter
FINEST, COARSEST = 0.1, 3.2  # steps at quality 100 and 0
ANY_RATE = "any_rate_compressor"  # the builder of a network for all rates; `any_rate_codec` has its files
FORMATS = (".jpg", ".webp", ".avif", ".jxl")
GREY = 2**31  # added to the height of a grey picture


class Codec:
    """Pictures <-> files. :func:`load_codec` gives one of its subclasses, each of which says what stands in a file (``_encode`` and
    ``_decode``).

    Args:
        fingerprint: eight bytes of weights and tables, which a file carries.
        card: what is known about it.
    """

    block = BLOCK  # a picture is continued to a multiple of its side
    sizes, usual = SIZES, 0  # of the steps: the smallest and the largest, and where nothing else is said

    def __init__(self, fingerprint: bytes, card: dict | None = None):
        self.fingerprint, self.card = fingerprint, dict(card or {})

    def kind(self, size: int) -> bytes:
        """With which a file begins."""
        return SCALED_KIND if size else KIND

    def compress(self, picture, size: int | None = None) -> bytes:
        """A picture of any size, ``(height, width, 3)`` or, grey, ``(height, width)``, uint8, as the content of a file; ``size``
        of the steps, within ``sizes``, or ``usual``. A ``ValueError`` for anything else, an empty picture or one that is too
        large."""
        size = self.usual if size is None else size
        checks.number(size, "size", *self.sizes, whole=True)
        picture, mark = np.asarray(picture), 0
        if picture.ndim == 2:
            picture, mark = np.repeat(picture[..., None], 3, axis=2), GREY
        picture = checks.images_uint8(picture[None], "picture")[0]
        height, width, _ = picture.shape
        if height * width > pictures.MAX_PIXELS:
            raise ValueError(f"the picture is too large: {width} x {height} pixels, at most {pictures.MAX_PIXELS:,} are allowed")
        filled = np.pad(picture, [(0, -height % self.block), (0, -width % self.block), (0, 0)], mode="edge")
        payload = self._encode(filled, size)
        return _header(self.kind(size), self.fingerprint, height + mark, width, size, payload) + payload

    def decompress(self, content: bytes) -> np.ndarray:
        """The picture, as :meth:`compress` was given it; a ``ValueError`` for damaged content or content of other weights."""
        kind, found, height, width, size, payload = _checked_parts(content)
        if found != self.fingerprint:
            raise ValueError(f"the picture was compressed with other weights ({found.hex()}); these are {self.fingerprint.hex()}")
        mark, height = divmod(height, GREY)
        if not 0 < height * width <= pictures.MAX_PIXELS:
            raise ValueError(f"the picture is {width} x {height} pixels, from 1 to {pictures.MAX_PIXELS:,} are allowed")
        if kind != self.kind(size) or not self.sizes[0] <= size <= self.sizes[1]:
            written = f"the picture is of the kind {kind.decode()} with steps of size {size}"
            raise ValueError(f"{written}, which these weights do not write")
        filled = self._decode(payload, height + -height % self.block, width + -width % self.block, size)[:height, :width]
        return np.rint(filled.mean(axis=2)).astype(np.uint8) if mark else filled.copy()


class BlockCodec(Codec):
    """A :func:`lstm_ae_lib.tasks.compression.compressor`'s halves with their entropy coder: blocks by themselves, one rate or near
    it.

    Args:
        analyse: images ``(n, 32, 32, 3)``, float32 in [0, 1] -> the latent in steps, ``(n, latent)``, not rounded.
        synthesise: the same, rounded -> images, not clipped.
        tables: ``(latent,)``, the :func:`distribution` of each number of the latent.
        fingerprint, card: as for :class:`Codec`.
    """

    def __init__(self, analyse, synthesise, tables, fingerprint: bytes, card: dict | None = None):
        super().__init__(fingerprint, card)
        self.analyse, self.synthesise, self.tables = analyse, synthesise, np.asarray(tables, int)

    def tables_of(self, size: int) -> np.ndarray:
        """The tables of symbols whose steps are 2^(``size`` / 4) times as large: distributions that are as many times narrower."""
        checks.number(size, "size", *SIZES, whole=True)
        return np.clip(self.tables - size, 0, TABLES - 1)

    def encode(self, images, size: int = 0) -> np.ndarray:
        """Images ``(n, 32, 32, 3)``, uint8 -> symbols ``(n, latent)``, int32, from -1023 to 1023. Their steps are 2^(``size`` / 4)
        times as large as the network was trained for, -8 to 24."""
        checks.number(size, "size", *SIZES, whole=True)
        images = checks.images_uint8(images)
        if images.shape[1:3] != (BLOCK, BLOCK):
            raise ValueError(f"images must be {BLOCK}x{BLOCK} pixels, got {images.shape[1]}x{images.shape[2]}")
        steps = self.analyse(images / np.float32(255)) / 2 ** (size / 4)
        return np.clip(np.rint(steps), -LARGEST, LARGEST).astype(np.int32)

    def decode(self, symbols, size: int = 0) -> np.ndarray:
        """Symbols ``(n, latent)`` -> images ``(n, 32, 32, 3)``, uint8; ``size`` as they were encoded."""
        steps = np.asarray(symbols) * 2 ** (checks.number(size, "size", *SIZES, whole=True) / 4)
        return np.rint(np.clip(self.synthesise(steps), 0, 1) * 255).astype(np.uint8)

    def measure(self, images, size: int = 0) -> tuple:
        """What a decoder makes of images, and the bytes of each by itself, without a header: ``(n, 32, 32, 3)`` uint8, ``(n,)``."""
        symbols = self.encode(images, size)
        return self.decode(symbols, size), image_bytes(symbols, self.tables_of(size))

    def _encode(self, filled, size):
        rows, columns = filled.shape[0] // BLOCK, filled.shape[1] // BLOCK
        blocks = filled.reshape(rows, BLOCK, columns, BLOCK, 3).swapaxes(1, 2).reshape(-1, BLOCK, BLOCK, 3)
        return encode_symbols(self.encode(blocks, size), self.tables_of(size))

    def _decode(self, payload, height, width, size):
        rows, columns = height // BLOCK, width // BLOCK
        blocks = self.decode(decode_symbols(payload, rows * columns, self.tables_of(size)), size)
        return blocks.reshape(rows, columns, BLOCK, BLOCK, 3).swapaxes(1, 2).reshape(height, width, 3)


class KerasCodec(BlockCodec):
    """The codec of a Keras network: ``model``, a :func:`lstm_ae_lib.tasks.compression.compressor` for 32x32 images.

    ``analysis`` and ``synthesis``: the model's halves, images in [0, 1] -> latent -> images, without the rounding.
    """

    def __init__(self, model, tables, card: dict | None = None):
        from lstm_ae_lib import models
        from lstm_ae_lib._backend import keras

        tables = np.asarray(tables, int)
        parts = [np.ascontiguousarray(weight, "<f4").tobytes() for weight in model.get_weights()]
        fingerprint = hashlib.sha256(b"".join([json.dumps(tables.tolist()).encode(), *parts])).digest()[:8]
        self.model, self.analysis = model, keras.Model(model.inputs[0], model.get_layer("latent").output)
        latent = keras.layers.Input((len(tables),))
        image = model.get_layer("from_latent")(latent)
        if any(layer.name == "decoder" for layer in model.layers):
            image = model.get_layer("decoder")(image)
        self.synthesis, quantize = keras.Model(latent, image), model.get_layer("quantize")
        super().__init__(
            lambda images: models.apply(self.analysis, images) * quantize.gain(),
            lambda steps: models.apply(self.synthesis, quantize.values(steps)), tables, fingerprint, card,
        )  # fmt: skip


def _header(kind, fingerprint, height, width, size, payload):
    packed, given = (HEADER, ()) if kind == KIND else (SCALED, (size,))
    given = kind, fingerprint, height, width, *given
    return packed.pack(*given, zlib.crc32(packed.pack(*given, 0) + payload))


def _checked_parts(content):
    """Kind, fingerprint, height, width, size of the steps and payload of a compressed picture; ``ValueError`` where it is none, or
    damaged."""
    kind = bytes(content[:4])
    packed = {KIND: HEADER, SCALED_KIND: SCALED, ANY_RATE_KIND: SCALED}.get(kind)
    if packed is None or len(content) < packed.size:
        raise ValueError("this is not a compressed picture: it does not begin as `compress` writes it")
    _, found, height, width, *size, _ = packed.unpack_from(content)
    payload, size = content[packed.size :], (size or [0])[0]
    if content != _header(kind, found, height, width, size, payload) + payload:
        raise ValueError("the compressed picture is damaged: bytes are missing or changed")
    return kind, found, height, width, size, payload


@functools.cache
def distribution(table: int) -> np.ndarray:
    """A Laplace distribution of the symbols from -1023 to 1023: ``(2047,)``, float64, of sum 1.

    Its width is 0.05 * 2^(``table`` / 4) symbols; at the narrowest, anything but zero costs some ten bits and more. Encoder and
    decoder must have the same bits on any machine, and the exponentials of two C libraries may differ in the last: these have 50
    decimal digits. The range coder only adds, multiplies and divides them in float32, which is the same everywhere.
    """
    checks.number(table, "table", 0, TABLES - 1, whole=True)
    with decimal.localcontext(decimal.Context(prec=50)):
        width = (decimal.Decimal(2) ** table).sqrt().sqrt() / 20
        half, step = (-1 / (2 * width)).exp(), (-1 / width).exp()
        shares = [1 - half, half * (1 - step) / 2]
        while len(shares) <= LARGEST:
            shares.append(shares[-1] * step)
        shares = [share + decimal.Decimal(2) ** -22 for share in shares]  # nothing is impossible
        total = shares[0] + 2 * sum(shares[1:])
        positive = [float(share / total) for share in shares]
    return np.array([*positive[:0:-1], *positive])


def _constriction():
    try:
        import constriction
    except ImportError as error:
        raise ImportError("the range coder is missing: `pip install constriction` (Colab does not have it)") from error
    return constriction


@functools.cache
def _coder(table):
    return _constriction().stream.model.Categorical(distribution(table).astype(np.float32), perfect=False)


def choose_tables(symbols) -> np.ndarray:
    """The tables that code training images' symbols, ``(n, latent)``, from -1023 to 1023, in the fewest bits: ``(latent,)``."""
    bits = -np.log2([distribution(table) for table in range(TABLES)]).T
    counts = np.stack([np.bincount(column + LARGEST, minlength=2 * LARGEST + 1) for column in _checked_symbols(symbols).T])
    return np.argmin(counts @ bits, axis=1)


def encode_runs(runs) -> bytes:
    """Encode pairs of a table and its symbols, whole numbers ``(n,)`` from -1023 to 1023, one after the other, as bytes."""
    encoder = _constriction().stream.queue.RangeEncoder()
    for table, symbols in runs:
        encoder.encode(np.ascontiguousarray(np.asarray(symbols).ravel() + LARGEST, np.int32), _coder(table))
    # Any number in the coder's last interval says the same, and the decoder puts zeros back at the end: the fewest bytes will do.
    words, (lowest, span) = encoder.pos()
    whole = 4 * (words + 2)  # bytes: words that are written, and the coder's state, of the most significant first
    number = int.from_bytes(encoder.get_compressed().astype(">u4").tobytes().ljust(whole, b"\0"))
    first = number - (number - lowest) % 2**64
    for length in range(whole - 8, whole + 1):  # the state has eight
        unit = 256 ** (whole - length)
        if (shortest := -(-first // unit)) * unit < first + span and shortest < 256**length:
            return shortest.to_bytes(length).rstrip(b"\0")
    raise AssertionError("the coder's own bytes must be in its last interval")


class RunReader:
    """Decodes what :func:`encode_runs` has encoded, run by run. Bytes that nobody has encoded raise a ``ValueError``, or give
    symbols without a meaning: the caller has to check them."""

    def __init__(self, content: bytes):
        words = np.frombuffer(content + b"\0" * (-len(content) % 4), ">u4").astype(np.uint32)
        self._decoder = _constriction().stream.queue.RangeDecoder(words)

    def read(self, table: int, count: int) -> np.ndarray:
        """The next run's symbols, ``(count,)`` int32."""
        try:
            return self._decoder.decode(_coder(table), count) - LARGEST
        except AssertionError as error:
            raise ValueError("the bytes say nothing in these tables") from error


def encode_symbols(symbols, tables) -> bytes:
    """Encode symbols ``(n, latent)`` as bytes, each column with its table, all columns of the lowest table first."""
    symbols, tables = _checked_symbols(symbols), np.asarray(tables)
    return encode_runs((int(table), symbols[:, tables == table]) for table in np.unique(tables))


def decode_symbols(content: bytes, count: int, tables) -> np.ndarray:
    """Decode what :func:`encode_symbols` has encoded: ``(count, latent)``, int32; other bytes as for :class:`RunReader`."""
    tables, reader = np.asarray(tables), RunReader(content)
    symbols = np.empty((count, len(tables)), np.int32)
    for table in np.unique(tables):
        chosen = tables == table
        symbols[:, chosen] = reader.read(int(table), count * int(chosen.sum())).reshape(count, -1)
    return symbols


def image_bytes(symbols, tables) -> np.ndarray:
    """Bytes of each image encoded by itself, without a header: symbols ``(n, latent)`` -> ``(n,)``."""
    return np.array([len(encode_symbols(row[None], tables)) for row in _checked_symbols(symbols)])


def _checked_symbols(symbols):
    symbols = np.asarray(symbols)
    if symbols.ndim != 2 or symbols.dtype.kind != "i" or np.abs(symbols).max(initial=0) > LARGEST:
        got = f"{symbols.dtype} {symbols.shape}"
        raise ValueError(f"symbols must be whole numbers (n, latent) from {-LARGEST} to {LARGEST}, got {got}")
    return symbols


def fit_codec(model, clean, card: dict | None = None) -> KerasCodec:
    """A codec of a trained compressor, with the tables that code the training images ``clean``, ``(n, 32, 32, 3)``, uint8, best."""
    latent = model.get_layer("latent").output.shape[-1]
    return KerasCodec(model, choose_tables(KerasCodec(model, np.zeros(latent)).encode(clean)), card)


def load_codec(name: str, folder=None, engine: str = "keras") -> Codec:
    """A released codec; ``folder``: default ``data/weights/compress``. ``engine`` and errors as for
    :func:`lstm_ae_lib.restoring.load_restorer`."""
    folder = folder or weights.released_dir("compress")
    description = weights.describe_released(name, folder)
    if checks.choice(engine or runtime.engine_for(description), "engine", restoring.ENGINES) == "keras":
        return codec_of(*weights.read_released(name, folder), name)
    if description["builder"] == ANY_RATE:
        from lstm_ae_lib.tasks import any_rate_codec

        return any_rate_codec.open_codec(name, description, folder)
    halves = runtime.open_halves(name, description, folder)
    return BlockCodec(*halves, description["tables"], bytes.fromhex(description["fingerprint"]), description["card"])


def written_with(content: bytes, folder=None) -> str:
    """The released codec, by name, that a compressed picture was written with; ``ValueError`` where it is not here, or the picture
    is damaged."""
    folder, fingerprint = folder or weights.released_dir("compress"), _checked_parts(content)[1].hex()
    known = {name: weights.describe_released(name, folder)["fingerprint"] for name in weights.released(folder)}
    for name, own in known.items():
        if own == fingerprint:
            return name
    here = ", ".join(f"{name} {own}" for name, own in known.items())
    raise ValueError(f"the picture was compressed with the weights {fingerprint}, which are not here; here are {here}")


def codec_of(model, description: dict, name: str) -> Codec:
    """The codec of a compressor's weights and JSON; a ``ValueError`` where its tables or its fingerprint are not those of the
    weights."""
    if description["builder"] == ANY_RATE:
        from lstm_ae_lib.tasks import any_rate_codec

        return any_rate_codec.codec_of(model, description, name)
    codec = KerasCodec(model, description["tables"], description.get("card"))
    if codec.fingerprint.hex() != description["fingerprint"]:
        raise ValueError(f"{name}.json is damaged: its tables are not those of the weights")
    return codec


def described(codec: Codec) -> dict:
    """A codec's part of the JSON beside its weights, for :func:`lstm_ae_lib.weights.write`."""
    tables = {"tables": codec.tables.tolist()} if isinstance(codec, BlockCodec) else {}
    return tables | {"fingerprint": codec.fingerprint.hex(), "card": codec.card}


def choose(quality: int, folder=None, name: str = "") -> tuple:
    """The released weights for a quality of 0 to 100, and the size of their steps.

    Weights for any rate, which come first where there are some, and of them those trained on pictures, take all of their sizes in
    turn, the largest at 0. Of the others, steps are 0.1 at 100 and 32 times as large at 0, to the nearest of the sizes: coarser
    steps than a network was trained for cost little, finer ones bring little, so of those whose own steps are not larger it is the
    one with the largest, or where all are larger the one with the smallest. ``name``: these weights, whose sizes may end before
    the quality does. ``FileNotFoundError`` where there are none.
    """
    checks.number(quality, "quality", 0, 100, whole=True)
    folder = folder or weights.released_dir("compress")
    found = {one: weights.describe_released(one, folder) for one in ([name] if name else weights.released(folder))}
    if not found:
        raise FileNotFoundError(f"there are no released weights in {folder}")
    free = {one: description for one, description in found.items() if description["builder"] == ANY_RATE}
    if free:
        best = max(free, key=lambda one: free[one]["card"].get("data", {}).get("kind") == "pictures")
        low, high = free[best]["arguments"]["sizes"]
        return best, round(high + (low - high) * quality / 100)
    own, step = {one: found[one]["arguments"]["step"] for one in found}, FINEST * (COARSEST / FINEST) ** (1 - quality / 100)
    best = max((one for one in own if own[one] <= 1.001 * step), key=own.get, default=min(own, key=own.get))
    return best, int(np.clip(round(4 * math.log2(step / own[best])), *SIZES))


def compress_file(source, target, codec="", engine: str = "", quality: int | None = None, most_bytes: int | None = None) -> tuple:
    """Compress a PNG or JPEG file, grey or in colours, of 8 or 16 bits (8 are kept); returns the picture's shape and the bytes.

    ``target``: a ``.laec`` file, written whole or not at all, or ``-`` for standard output; ``codec``: a :class:`Codec`, or a
    released one's name, with an ``engine`` as for :func:`load_codec`. ``quality`` as for :func:`choose`, which chooses the weights
    where none are named; or the best quality whose file has at most ``most_bytes``; with neither, a quality of 50, or where
    weights are named their own steps. Raises ``OSError`` for a missing or read-only file or folder; ``ValueError`` for a source
    that is damaged, animated, empty, too large or has alpha, an unknown codec, a target of another suffix or the source itself,
    and too few bytes.
    """
    pictures.check_target(target, source, (".laec",))
    if quality is not None and most_bytes is not None:
        raise ValueError(f"quality and bytes exclude each other, got {quality} and {most_bytes}")
    image, metadata = pictures.read_with_metadata(source)
    if image.ndim == 3 and image.shape[2] == 4:
        raise ValueError(f"{pictures.title(source)} has an alpha channel, which `compress` cannot hold: save it without")
    picture = pictures.eight_bit_colours(image)
    picture = picture[..., 0] if image.ndim == 2 else picture
    load = functools.cache(lambda name: load_codec(name, engine=engine))
    with_steps = functools.cache(lambda name, size: load(name).compress(picture, size))
    if isinstance(codec, Codec) and (quality, most_bytes) != (None, None):
        raise ValueError("quality and bytes are for released weights, given by name or chosen")
    if most_bytes is not None:
        content = _best_within(lambda quality: with_steps(*choose(quality, name=codec)), most_bytes)
    elif quality is not None or not codec:
        content = with_steps(*choose(50 if quality is None else quality, name=codec))
    else:
        content = (codec if isinstance(codec, Codec) else load(codec)).compress(picture)
    files.write(target, content)
    lost = [*(name for name in metadata if name != "sRGB"), *["16 bits a sample"] * (image.dtype == np.uint16)]
    pictures.warn(f"not kept in {Path(target).name}", lost)
    return image.shape, len(content)


def _best_within(compressed, most):
    """What ``compressed`` makes at the best quality of 0 to 100 that takes at most so many bytes."""
    checks.number(most, "bytes", 1, 2**40, whole=True)
    best = compressed(0)
    if len(best) > most:
        raise ValueError(f"at most {most:,} bytes are asked for, and quality 0 takes {len(best):,}")
    low, high = 0, 101  # the file grows with the quality: low fits, high is not known to
    while high - low > 1:
        middle = (low + high) // 2
        if len(content := compressed(middle)) <= most:
            low, best = middle, content
        else:
            high = middle
    return best


def decompress_file(source, target, codec="", quality: int = pictures.QUALITY, engine: str = "") -> tuple:
    """Write what :func:`compress_file` has compressed as a PNG or JPEG file (of a ``quality`` of 1 to 100); returns its shape.

    ``codec`` as there; none: :func:`written_with`. Raises ``OSError`` as :func:`compress_file`, and ``ValueError`` as
    :meth:`Codec.decompress`, or for a target of another format.
    """
    pictures.check_target(target, source)
    content = files.read(source)
    codec = codec or written_with(content)
    picture = (load_codec(codec, engine=engine) if isinstance(codec, str) else codec).decompress(content)
    pictures.write(target, picture, quality=quality)
    return picture.shape


def lowest_frequencies(height: int, width: int, count: int) -> np.ndarray:
    """The ``count`` lowest frequencies' places in a flattened cosine transform ``(height, width, 3)``, brightness before colour."""
    checks.number(count, "latent", 1, height * width * 3, whole=True)
    rows, columns = np.arange(height)[:, None, None] / height, np.arange(width)[:, None] / width
    # In CIFAR-10 the colour differences have as little energy as brightness has at some three and five times the frequency.
    distance = np.sqrt(rows**2 + columns**2 + 1e-6) * np.array([1.0, 3.0, 5.0])
    return np.argsort(distance.ravel(), kind="stable")[:count]


def image_format(images, suffix: str, quality: int) -> tuple:
    """Images in a format that people use, to compare a compressor with: OpenCV's JPEG (with optimised Huffman tables), WebP and
    AVIF (at speed 6), and libjxl's JPEG XL (at effort 7).

    Images ``(n, height, width, 3)``, uint8; a suffix of :data:`FORMATS`; a quality of 1 to 100. Returns the decoded images; the
    bytes of each, ``(n,)``; and those without what all pictures of a size share: of a JPEG all but the scan, of a WebP 30 bytes, of
    an AVIF all but its ``mdat`` box's content, of a JPEG XL 4 bytes.
    """
    images = checks.images_uint8(images)
    checks.choice(suffix, "suffix", FORMATS)
    checks.number(quality, "quality", 1, 100, whole=True)
    write, read = _jpeg_xl(quality) if suffix == ".jxl" else _by_opencv(suffix, quality)
    written = [write(image) for image in images]
    shared = {".jpg": lambda file: _before_the_scan(file) + 2, ".webp": lambda file: 30, ".avif": _beside_the_data,
              ".jxl": lambda file: 4}  # fmt: skip
    whole = np.array([len(file) for file in written])
    return np.stack([read(file) for file in written]), whole, whole - [shared[suffix](file) for file in written]


def _by_opencv(suffix, quality):
    import cv2

    options = {".jpg": [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1],
               ".webp": [cv2.IMWRITE_WEBP_QUALITY, quality],
               ".avif": [cv2.IMWRITE_AVIF_QUALITY, quality, cv2.IMWRITE_AVIF_SPEED, 6]}[suffix]  # fmt: skip
    return (lambda image: cv2.imencode(suffix, image[..., ::-1], options)[1].tobytes(),
            lambda file: cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])  # fmt: skip


def _jpeg_xl(quality):
    import imagecodecs

    return lambda image: imagecodecs.jpegxl_encode(image, level=quality, effort=7), imagecodecs.jpegxl_decode


def _beside_the_data(content):
    """Bytes of an AVIF file but the content of its ``mdat`` box: boxes begin with their size and their kind, four bytes each."""
    at = 0
    while content[at + 4 : at + 8] != b"mdat":
        at += int.from_bytes(content[at : at + 4], "big")
    return len(content) - int.from_bytes(content[at : at + 4], "big") + 8


def _before_the_scan(content):
    """Where a JPEG's entropy-coded part begins; behind it stand two more bytes, the end."""
    start = content.index(b"\xff\xda")
    return start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
