"""Learned compression at any rate: what :func:`lstm_ae_lib.tasks.any_rate.any_rate_compressor` makes of pictures, as files.

Probabilities are computed in fixed-point numbers, so that a file decodes wherever it is read. Keras is not needed for them.
"""

import functools
import hashlib
import itertools
import math
from pathlib import Path

import numpy as np

from lstm_ae_lib import checks, files, restoring
from lstm_ae_lib.fast import runtime
from lstm_ae_lib.tasks import codec

BLOCK = 8  # side in pixels of the blocks that the linear transform takes
GROUPS = (3, 6, 12, 24, 48, 99)  # how many of a block's numbers are coded together, the lowest frequencies first
NUMBERS = sum(GROUPS)
SLICES = tuple(slice(sum(GROUPS[:place]), sum(GROUPS[: place + 1])) for place in range(len(GROUPS)))
HALVES = (slice(0, None, 2), slice(1, None, 2))  # of a row's columns
SIZES = (2, 34)  # of the steps, the smallest and the largest: 0.074 and 1.19
PRICE = 6 / math.log(2)  # of a squared error in steps, in bits: at small steps, what a finer step saves costs as much
KERNEL_BITS, VALUE_BITS, MEAN_BITS = 12, 10, 6  # behind the binary point: of weights, of what layers make, of means
LARGEST_KERNEL, LARGEST_VALUE, LARGEST_MEMORY = 64.0, 256.0, 4.0


def log_step(size: int) -> float:
    """The logarithm to base 2 of the steps of a ``size``, in units of [0, 1]: 1/16 at 0, and twice as large eight sizes further."""
    return size / 8 - 4


@functools.cache
def frequencies() -> np.ndarray:
    """The linear transform of a block, ``(8, 8, 3, 192)`` float32: orthogonal cosines, the lowest frequencies first."""
    rows, colours = _cosines(BLOCK), _cosines(3)
    kernels = np.einsum("ia,jb,kc->abcijk", rows, rows, colours).reshape(BLOCK, BLOCK, 3, -1)
    return kernels[..., codec.lowest_frequencies(BLOCK, BLOCK, NUMBERS)].astype(np.float32)


def _cosines(count):
    """The orthogonal cosine transform of so many numbers, one frequency a row."""
    basis = np.cos(np.pi * (np.arange(count) + 0.5) * np.arange(count)[:, None] / count) * np.sqrt(2 / count)
    return basis * np.where(np.arange(count) == 0, np.sqrt(0.5), 1)[:, None]


def fixed(values, bits: int) -> np.ndarray:
    """Values rounded to multiples of 2^-``bits``, float64."""
    return np.rint(np.asarray(values, np.float64) * 2.0**bits) / 2.0**bits


def thrifty(distance, tables) -> np.ndarray:
    """Symbols of numbers that are ``distance`` steps from their means, int: rounded, but one nearer to zero where the bits that
    saves are worth more than the error it adds (rate-distortion optimised quantisation; :data:`PRICE`)."""
    nearest = np.clip(np.rint(distance), -codec.LARGEST, codec.LARGEST).astype(int)
    lower, bits = nearest - np.sign(nearest), _bits()
    saved = bits[tables, nearest + codec.LARGEST] - bits[tables, lower + codec.LARGEST]
    return np.where(PRICE * ((distance - lower) ** 2 - (distance - nearest) ** 2) < saved, lower, nearest)


@functools.cache
def _bits():
    return -np.log2([codec.distribution(table) for table in range(codec.TABLES)])


class FixedContext:
    """:class:`lstm_ae_lib.tasks.any_rate.RowContext` in fixed-point numbers, the same to the last bit on any machine.

    Weights are multiples of 2^-12 up to 64, what layers make are multiples of 2^-10 up to 256. So a product needs 37 bits, and a
    sum of 1,024 of them 47: float64 has 53, no sum is ever rounded, and the order of adding does not matter. What is rounded, is
    rounded by one operation each (Ballé et al., "Integer Networks for Data Compression with Latent-Variable Models", 2019, for the
    reason).

    ``weights``: names -> arrays, as ``RowContext`` has them; ``ValueError`` for one beyond 64.
    """

    def __init__(self, weights: dict):
        for name, value in weights.items():
            if not np.abs(value).max(initial=0) <= LARGEST_KERNEL:
                got = f"{name} has {np.abs(value).max():.3g}"
                raise ValueError(f"the context's weights must be at most {LARGEST_KERNEL:g} in size, {got}")
        w = {name: fixed(value, KERNEL_BITS) for name, value in weights.items()}
        self.slope, self.start = w["slope"], w["start"]
        self.kind = "none" if "look" not in w else "window" if w["remember"].shape[0] == 2 else "recurrent"
        if self.kind == "none":
            return
        places = range(len(GROUPS))
        self.look, self.remember_bias = _matrix(w["look"]), w["remember_bias"]
        self.remember = _matrix(w["remember"])
        self.above = np.concatenate([_matrix(w[f"above{place}"]) for place in places], axis=1)
        self.lower = [_matrix(w[f"lower{place}"]) if place else None for place in places]
        self.beside = [_matrix(w[f"beside{place}"]) for place in places]
        self.bias = [(w[f"bias{place}"], w[f"step{place}"]) for place in places]
        self.second = [(_matrix(w[f"second{place}"]), w[f"second_bias{place}"]) for place in places]
        self.last = [_matrix(w[f"last{place}"]) for place in places]
        self.memory, self.hidden = w["remember"].shape[2], len(w["bias0"])

    def walk(self, shape, log_step: float, exchange) -> np.ndarray:
        """Numbers of a latent in the order of coding: ``shape`` is ``(n, rows, columns)``.

        ``exchange(row, columns, group, means, tables)`` is called for each row's groups, first for every other column, then for
        those between; ``columns`` and ``group`` are slices, the others are ``(n, columns, size)``. It returns the symbols: how many
        steps the numbers are from their means. Returns the numbers, in steps, ``(n, rows, columns, 192)`` float64. """
        count, rows, columns = shape
        numbers = np.zeros((count, rows, columns, NUMBERS))
        held = [np.zeros((count, columns, self.memory))] * 2 if self.kind != "none" else None
        widths = self.start + self.slope * log_step
        for row in range(rows):
            own, above = numbers[:, row], self._above(held)
            for place, group in enumerate(SLICES):
                hidden = self._seen(above, own, place, log_step)
                for half in HALVES[:columns]:
                    shift, table = 0.0, widths[group]
                    if self.kind != "none":
                        if half.start:  # zeros yet in its own columns
                            hidden = hidden + _beside(own[..., group] / 4) @ self.beside[place]
                        shift, more = self._made(hidden[:, half], place)
                        table = table + 4 * more
                    part = own[:, half, group]
                    means = np.broadcast_to(np.clip(fixed(2 * shift, MEAN_BITS), -codec.LARGEST, codec.LARGEST), part.shape)
                    tables = np.broadcast_to(np.clip(np.rint(table), 0, codec.TABLES - 1).astype(int), part.shape)
                    own[:, half, group] = means + exchange(row, half, group, means, tables)
            if self.kind != "none":
                held = self._remembered(held, own / 4)
        return numbers

    def _above(self, held):
        """What each group's first layer makes of the rows above."""
        if self.kind == "none":
            return None
        memory = held[-1]
        if self.kind == "window":
            memory = _relu(np.concatenate(held, -1) @ self.remember + self.remember_bias)
        return np.split(_beside(memory) @ self.above, len(GROUPS), axis=-1)

    def _seen(self, above, own, place, log_step):
        """What it makes of the rows above, the step and the lower groups."""
        if self.kind == "none":
            return None
        bias, slope = self.bias[place]
        hidden = above[place] + (bias + slope * log_step)
        return hidden + _beside(own[..., : SLICES[place].start] / 4) @ self.lower[place] if place else hidden

    def _made(self, hidden, place):
        kernel, bias = self.second[place]
        return np.split(_relu(_relu(hidden) @ kernel + bias) @ self.last[place], 2, axis=-1)

    def _remembered(self, held, row):
        seen = _relu(_beside(row) @ self.look)
        if self.kind == "window":
            return [held[1], seen]
        gate, new = np.split(seen @ self.remember + self.remember_bias, 2, axis=-1)
        keep = fixed(np.clip(gate / 4 + 0.5, 0, 1), VALUE_BITS)
        new = fixed(np.clip(new, -LARGEST_MEMORY, LARGEST_MEMORY), VALUE_BITS)
        return [fixed(keep * held[-1] + (1 - keep) * new, VALUE_BITS)]


def _matrix(kernel):
    return kernel.reshape(-1, kernel.shape[-1])


def _relu(values):
    return fixed(np.clip(values, 0, LARGEST_VALUE), VALUE_BITS)


def _beside(row):
    """Each column beside its two neighbours, zeros beyond the ends: ``(n, columns, 3 * channels)``."""
    padded = np.pad(row, [(0, 0), (1, 1), (0, 0)])
    return np.concatenate([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], axis=-1)


class AnyRateCodec(codec.Codec):
    """A decoder and a context with their entropy coder: pictures <-> files, with steps of any size.

    Args:
        finish: the decoder: images ``(n, height, width, 3)``, float32 around [0, 1], sides multiples of 8, and the logarithm to
            base 2 of the step -> the same shape.
        context: of the numbers, in fixed-point arithmetic.
        sizes: of the steps, the smallest and the largest that the networks were trained for.
        fingerprint, card: as for :class:`lstm_ae_lib.tasks.codec.Codec`.
    """

    block = BLOCK

    def __init__(self, finish, context: FixedContext, sizes, fingerprint: bytes, card: dict | None = None):
        super().__init__(fingerprint, card)
        self.finish, self.context = finish, context
        self.sizes = tuple(sizes)
        self.usual = sum(self.sizes) // 2

    def kind(self, size: int) -> bytes:
        return codec.ANY_RATE_KIND

    def latent(self, images, size: int) -> np.ndarray:
        """Images ``(n, height, width, 3)``, uint8, sides multiples of 8 -> ``(n, height / 8, width / 8, 192)``, in steps, not
        rounded."""
        images, step = checks.images_uint8(images), log_step(checks.number(size, "size", *self.sizes, whole=True))
        count, height, width, _ = images.shape
        if height % BLOCK or width % BLOCK:
            raise ValueError(f"images must have sides that are multiples of {BLOCK}, got {height} x {width}")
        parts = images.reshape(count, height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3).swapaxes(2, 3)
        blocks = parts / np.float32(255) - np.float32(0.5)
        return blocks.reshape(*blocks.shape[:3], -1) @ frequencies().reshape(-1, NUMBERS) / 2.0**step

    def images(self, numbers, size: int) -> np.ndarray:
        """The images, uint8, of numbers as :meth:`latent` gives them, but as :class:`FixedContext` walks through them."""
        count, rows, columns, _ = numbers.shape
        blocks = (numbers * 2.0 ** log_step(size)).astype(np.float32) @ frequencies().reshape(-1, NUMBERS).T
        coarse = blocks.reshape(count, rows, columns, BLOCK, BLOCK, 3).swapaxes(2, 3) + np.float32(0.5)
        made = _in_tiles(self.finish, coarse.reshape(count, rows * BLOCK, columns * BLOCK, 3), log_step(size))
        return np.rint(np.clip(made, 0, 1) * 255).astype(np.uint8)

    def encode(self, images, size: int) -> tuple:
        """Images as for :meth:`latent` -> symbols, from -1023 to 1023, and their tables, whole numbers ``(n, rows, columns,
        192)``; and the numbers that a decoder gets of them, in steps."""
        latent = self.latent(images, size)
        symbols, tables = np.zeros(latent.shape, np.int32), np.zeros(latent.shape, np.int8)

        def exchange(row, columns, group, means, chosen):
            place = (slice(None), row, columns, group)
            symbols[place], tables[place] = thrifty(latent[place] - means, chosen), chosen
            return symbols[place]

        return symbols, tables, self.context.walk(latent.shape[:3], log_step(size), exchange)

    def measure(self, images, size: int) -> tuple:
        """What a decoder makes of images, and the bytes of each by itself, without a header: uint8 as they are, ``(n,)``."""
        symbols, tables, numbers = self.encode(images, size)
        return self.images(numbers, size), np.array([len(codec.encode_runs(_runs(*one))) for one in zip(symbols, tables,
        strict=True)])

    def _encode(self, filled, size):
        symbols, tables, _ = self.encode(filled[None], size)
        return codec.encode_runs(_runs(symbols[0], tables[0]))

    def _decode(self, payload, height, width, size):
        reader = codec.RunReader(payload)

        def exchange(row, columns, group, means, chosen):
            symbols = np.zeros(means.shape)
            for table in np.unique(chosen):
                symbols[chosen == table] = reader.read(int(table), np.count_nonzero(chosen == table))
            return symbols

        numbers = self.context.walk((1, height // BLOCK, width // BLOCK), log_step(size), exchange)
        return self.images(numbers, size)[0]


def _runs(symbols, tables):
    """Of one image, in the order of coding: each row's groups, of each every other column first, and the symbols of each table."""
    for row, group, columns in itertools.product(range(len(symbols)), SLICES, HALVES[: symbols.shape[1]]):
        own, chosen = symbols[row, columns, group], tables[row, columns, group]
        for table in np.unique(chosen):
            yield int(table), own[chosen == table]


def _in_tiles(decoder, images, step):
    """What the decoder makes of images, tile by tile where they are large: memory grows with them, not with the
    layers."""
    if max(images.shape[1:3]) <= restoring.TILE:
        return decoder(images, step)
    made, sides = np.zeros_like(images), images.shape[1:3]
    parts = (restoring.blended(side, restoring.TILE, restoring.OVERLAP) for side in sides)
    for (rows, down), (columns, across) in itertools.product(*parts):
        made[:, rows, columns] += down[:, None, None] * across[:, None] * decoder(images[:, rows, columns], step)
    return made


def codec_of(model, description: dict, name: str = "any_rate_compressor") -> AnyRateCodec:
    """The codec of a Keras model of :func:`lstm_ae_lib.tasks.any_rate.any_rate_compressor`, and of the ``arguments`` that built it.

    Raises ``ValueError`` where ``description`` has a ``fingerprint`` that is not the weights', or a weight of the context is too
    large for it.
    """
    from lstm_ae_lib import weights
    from lstm_ae_lib._backend import keras

    @functools.lru_cache(maxsize=4)
    def at_size(height, width):
        if model.inputs[0].shape[1:3] == (height, width):
            return model
        other = weights.build(description["builder"], {**description["arguments"], "image_shape": (height, width, 3)})
        other.set_weights(model.get_weights())
        return other

    def finish(images, step):
        layer = at_size(*images.shape[1:3]).get_layer("decoder")
        return _run(lambda part, step: keras.ops.convert_to_numpy(layer([part, np.tile(step, (len(part), 1))])), images, step)

    parts = [np.ascontiguousarray(weight, "<f4").tobytes() for weight in model.get_weights()]
    fingerprint = hashlib.sha256(b"".join(parts)).digest()[:8]
    if description.get("fingerprint", fingerprint.hex()) != fingerprint.hex():
        raise ValueError(f"{name}.json is damaged: its fingerprint is not that of the weights")
    return _made(finish, _context_of(model), description, fingerprint)


def _context_of(model):
    """The arrays of a model that its file's reader needs besides the decoder."""
    from lstm_ae_lib._backend import keras

    return {weight.name: keras.ops.convert_to_numpy(weight) for weight in model.get_layer("quantize").context.weights}


def _made(finish, context, description, fingerprint):
    sizes = description["arguments"].get("sizes", SIZES)
    return AnyRateCodec(finish, FixedContext(context), sizes, fingerprint, description.get("card"))


def write_context(model, path) -> None:
    """Writes what :func:`open_codec` needs besides ``.onnx`` files, an ``.npz`` file, whole or not at all."""
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **_context_of(model))


def open_codec(name: str, description: dict, folder) -> AnyRateCodec:
    """A released codec on ONNX Runtime, from ``NAME-decoder.onnx`` and ``NAME-context.npz``; errors as for
    :func:`lstm_ae_lib.fast.runtime.open_session`."""
    path = Path(folder) / f"{name}-context.npz"
    if "context" not in description or not path.is_file():
        raise FileNotFoundError(f"there is no {path}; the engine keras needs none")
    if files.sha256(path) != description["context"]:
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one that the weights' JSON has")
    with np.load(path) as content:
        own = {name: content[name] for name in content.files}
    _, decoder = runtime.open_halves(name, description, folder)
    return _made(functools.partial(_run, decoder), own, description, bytes.fromhex(description["fingerprint"]))


def _run(decoder, images, step, at_once=500):
    parts = (images[first : first + at_once] for first in range(0, len(images), at_once))
    return np.concatenate([decoder(part, np.float32([step])) for part in parts])
