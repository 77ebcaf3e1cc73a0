"""Networks that mend JPEGs with flipped bits (:mod:`lstm_ae_lib.tasks.broken_jpeg`), with a memory without a limit and without one.

All see the same of each 8x8 block and mend it the same way: it may be moved back, and a colour and pixels are added. What lies
between differs: a recurrence over the blocks in raster order, in which an error of the JPEG spreads, or layers of limited reach.
"""

import json
import math

import numpy as np

from lstm_ae_lib import checks, metrics, models, peers, pictures, weights
from lstm_ae_lib._backend import keras
from lstm_ae_lib.layers import DepthToSpace, FastLSTM, GatedScan, linear_recurrence
from lstm_ae_lib.peers import convolution, relu_convolution
from lstm_ae_lib.tasks.broken_jpeg import BLOCK, damage, distance

layers, ops = keras.layers, keras.ops

PIXELS = 3 * BLOCK**2
MOST_MOVED = 4  # places in raster order by which a network can move a block back
STAYS = 6.0  # how much more likely it is at first, as a logarithm, that a block stays than that it has moved to one place
MOVES = range(-MOST_MOVED, MOST_MOVED + 1)
SEEN = PIXELS + 2 * 3 * (BLOCK + 1) + 4 * len(MOVES)  # numbers of a block: see :class:`BlockFeatures`
MEMORIES = ("accumulator", "lstm", "scan", "mean", "convolution")
SEED = 2011  # of the generators of :func:`crops` and :func:`measure`
FAR = (8, 32, 64, 128, 256)  # pixels
NETWORKS = {"unet": peers.unet, "nafnet": peers.nafnet, "rednet": peers.rednet}


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class RasterAccumulator(keras.layers.Layer):
    """Sums and means along an image in raster order, line after line as one sequence, forwards and backwards.

    Half of the units add: ``h[t] = f[t] * h[t-1] + i[t] * v[t]``, a memory without a limit. The forget gate ``f`` and the input
    gate ``i`` are ``clip(x / 6 + 1 / 2, 0, 1)``, exactly 1 and exactly 0 for many inputs: what was added once can be held to the
    end, and where nothing is to be added nothing is. The state is not squashed. The other half average: ``h[t] = g[t] * h[t-1] +
    (1 - g[t]) * v[t]`` with a logistic ``g``. Gates and candidates ``v`` are affine in the input.

    Weights: ``kernel`` ``(channels, 10 * units)`` and ``bias``: forwards f, i, v, g, v, then backwards.
    Input: ``(batch, height, width, channels)``, channels known (``ValueError``). Output: ``(batch, height, width, 4 * units)``:
    sums and means forwards, then backwards. ``units``: of each kind and way, 1 to 65,536.
    """

    BIAS = (5.0, -4.0, 0.0, 2.0, 0.0)  # at first almost all is held, almost nothing is added, and means are of some ten blocks

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = int(checks.number(units, "units", 1, 65536, whole=True))

    def build(self, input_shape):
        self.compute_output_shape(input_shape)
        draw, shape = keras.initializers.GlorotUniform, (input_shape[-1], self.units)
        side_by_side = lambda _, dtype=None: ops.concatenate([draw()(shape, dtype) for _ in range(10)], -1)  # noqa: E731
        held = lambda _, dtype=None: ops.repeat(ops.array(self.BIAS * 2, dtype), self.units)  # noqa: E731
        self.kernel = self.add_weight(name="kernel", shape=(shape[0], 10 * self.units), initializer=side_by_side)
        self.bias = self.add_weight(name="bias", shape=(10 * self.units,), initializer=held)
        self.built = True

    def call(self, images):
        projected = ops.tensordot(images, self.kernel, axes=1) + self.bias
        exact = ops.cast(projected, keras.backend.result_type(projected.dtype, "float32"))
        batch, height, width, _ = ops.shape(exact)
        swept = []
        for part, reverse in zip(ops.split(exact, 2, axis=-1), (False, True), strict=True):
            part = ops.reshape(part, (batch, height * width, 5 * self.units))
            forget, enter, added, keep, averaged = ops.split(part, 5, axis=-1)
            keep = ops.sigmoid(keep)
            factors = ops.concatenate([ops.hard_sigmoid(forget), keep], -1)
            terms = ops.concatenate([ops.hard_sigmoid(enter) * added, (1 - keep) * averaged], -1)
            swept.append(linear_recurrence(factors, terms, 1, reverse))
        return ops.cast(ops.reshape(ops.concatenate(swept, -1), (batch, height, width, 4 * self.units)), projected.dtype)

    def multiply_adds(self, given, made):
        return math.prod(made[1:3]) * math.prod(self.kernel.shape)

    def get_config(self):
        return {**super().get_config(), "units": self.units}

    def compute_output_shape(self, input_shape):
        if len(input_shape) != 4 or input_shape[3] is None:
            raise ValueError(f"RasterAccumulator needs (batch, height, width, known channels), got {tuple(input_shape)}")
        return (*input_shape[:3], 4 * self.units)


def in_blocks(images):
    """``(batch, height, width, 3)`` -> ``(batch, blocks in raster order, 8, 8, 3)``; sides known and multiples of 8."""
    rows, columns = (side // BLOCK for side in images.shape[1:3])
    cut = ops.transpose(ops.reshape(images, (-1, rows, BLOCK, columns, BLOCK, 3)), (0, 1, 3, 2, 4, 5))
    return ops.reshape(cut, (-1, rows * columns, BLOCK, BLOCK, 3))


def blocks_of(images_shape):
    """Rows and columns of blocks in images ``(batch, height, width, 3)``, or None for another shape."""
    if len(images_shape) != 4 or images_shape[3] != 3 or any(side is None or side % BLOCK for side in images_shape[1:3]):
        return None
    return tuple(side // BLOCK for side in images_shape[1:3])


def later(line, places: int):
    """The value ``places`` further along axis 1 of ``(batch, steps, ...)``, or before, where negative; 0 beyond the ends."""
    steps, before, after = line.shape[1], max(-places, 0), max(places, 0)
    padded = ops.pad(line, [(0, 0), (before, after), *[(0, 0)] * (len(line.shape) - 2)])
    return padded[:, after : after + steps]


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class BlockFeatures(keras.layers.Layer):
    """What a mending network sees of each 8x8 block.

    Its 192 pixels less 1/2; four times what changes across its left and its upper edge, pixel by pixel and in the mean (54); and
    four times what would change across its upper edge if the block belonged ``m`` places further on in raster order, ``m`` from -4
    to 4: the mean of each colour, and how far the pixels are from it in the mean (36). 0 at the border of the image.

    Input: ``(batch, height, width, 3)`` in [0, 1], sides known and multiples of 8 (``ValueError``). Output: ``(batch, height / 8,
    width / 8, 282)``.
    """

    def call(self, images):
        _, rows, columns, _ = self.compute_output_shape(images.shape)
        blocks, places = in_blocks(images), np.arange(rows * columns)
        first_column = (places % columns == 0)[:, None, None]
        left = ops.where(first_column, 0.0, blocks[:, :, :, 0] - later(blocks[:, :, :, -1], -1))
        edges = []  # across the upper one, for each place that the block may belong to
        for moved in (0, *MOVES):
            above = places - columns + moved
            known = ((above >= 0) & (above < len(places)) & (places >= columns))[:, None, None]
            edges.append(ops.where(known, blocks[:, :, 0] - later(blocks[:, :, -1], moved - columns), 0.0))
        means = [ops.mean(edge, axis=2) for edge in (left, *edges)]
        rough = [ops.mean(ops.abs(edge - mean[:, :, None]), axis=(2, 3)) for edge, mean in zip(edges[1:], means[2:], strict=True)]
        flat = [ops.reshape(edge, (-1, len(places), 3 * BLOCK)) for edge in (left, edges[0])]
        changes = ops.concatenate([*flat, *means, ops.stack(rough, -1)], -1)
        seen = ops.concatenate([ops.reshape(blocks, (-1, len(places), PIXELS)) - 0.5, 4 * changes], -1)
        return ops.reshape(seen, (-1, rows, columns, SEEN))

    def compute_output_shape(self, input_shape):
        if blocks_of(input_shape) is None:
            raise ValueError(f"BlockFeatures needs (batch, height, width, 3), sides multiples of {BLOCK}, got {tuple(input_shape)}")
        return (input_shape[0], *blocks_of(input_shape), SEEN)


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class MovedBack(keras.layers.Layer):
    """Blocks as means of their neighbours in raster order: block ``t`` is the sum of ``w[t, m] * block[t - m]``, ``m`` from -4 to
    4. Where the only weight is 1, at ``m``, blocks that had moved ``m`` places towards the beginning are moved back.

    Inputs, as one list: images ``(batch, height, width, 3)``, sides known and multiples of 8, and weights ``(batch, height / 8,
    width / 8, 9)`` (``ValueError``). Output: ``(batch, height / 8, width / 8, 192)``.
    """

    def call(self, inputs):
        images, moves = inputs
        self.compute_output_shape((images.shape, moves.shape))
        rows, columns = moves.shape[1:3]
        blocks = ops.reshape(in_blocks(images), (-1, rows * columns, PIXELS))
        shares = ops.reshape(moves, (-1, rows * columns, len(MOVES)))
        back = sum(later(blocks, -moved) * shares[:, :, place : place + 1] for place, moved in enumerate(MOVES))
        return ops.reshape(back, (-1, rows, columns, PIXELS))

    def compute_output_shape(self, input_shape):
        images_shape, moves_shape = input_shape
        if blocks_of(images_shape) is None or tuple(moves_shape[1:]) != (*blocks_of(images_shape), len(MOVES)):
            raise ValueError(f"MovedBack needs (batch, height, width, 3) and {len(MOVES)} weights for each block, got "
                             f"{tuple(images_shape)} and {tuple(moves_shape)}")  # fmt: skip
        return (*moves_shape[:3], PIXELS)


@weights.register
def jpeg_mender(image_shape=(128, 128, 3), memory: str = "accumulator", width: int = 66, depth: int = 3, units: int = 24,
                name: str = "jpeg_mender"):  # fmt: skip
    """Blocks as positions: residual blocks of two 3x3 convolutions over them, ``depth`` times a memory between.

    Args:
        image_shape: ``(height, width, 3)``, sides multiples of 8.
        memory: what looks beyond the neighbours. ``"accumulator"``: a :class:`RasterAccumulator`; ``"lstm"``: a bidirectional
            LSTM in raster order; ``"scan"``: a :class:`~lstm_ae_lib.layers.GatedScan` along rows and columns; ``"mean"``: the mean
            of all blocks; ``"convolution"``: nothing, another 3x3 convolution.
        width, units: channels, 1 to 4,096, and units of a recurrent memory each way, 1 to 4,096.
        depth: 1 to 32.

    Returns a model of images -> images of the same shape, not clipped. Raises ``ValueError`` for an argument out of range.
    """
    checks.choice(memory, "memory", MEMORIES)
    for argument, value, most in (("width", width, 4096), ("units", units, 4096), ("depth", depth, 32)):
        checks.number(value, argument, 1, most, whole=True)

    def look(hidden, name):
        if memory == "accumulator":
            return RasterAccumulator(units, name=name)(hidden)
        if memory == "scan":
            return GatedScan(units, name=name)(hidden)
        if memory == "lstm":
            rows, columns = image_shape[0] // BLOCK, image_shape[1] // BLOCK
            line = layers.Reshape((rows * columns, width), name=f"{name}_line")(hidden)
            swept = layers.Bidirectional(FastLSTM(units, return_sequences=True), name=name)(line)
            return layers.Reshape((rows, columns, 2 * units), name=f"{name}_back")(swept)
        if memory == "mean":
            mean = layers.GlobalAveragePooling2D(keepdims=True, name=name)(hidden)
            return layers.UpSampling2D((image_shape[0] // BLOCK, image_shape[1] // BLOCK), name=f"{name}_spread")(mean)
        return relu_convolution(units, 3, name)(hidden)

    def body(hidden):
        hidden = residual_block(hidden, width, "block0")
        for place in range(1, depth + 1):
            both = layers.Concatenate(name=f"both{place}")([hidden, look(hidden, f"{memory}{place}")])
            mixed = convolution(width, 1, f"mix{place}", kernel_initializer="zeros")(both)
            hidden = residual_block(layers.Add(name=f"add{place}")([hidden, mixed]), width, f"block{place}")
        return hidden

    return _mender(image_shape, width, body, name)


@weights.register
def block_peer(image_shape=(128, 128, 3), network: str = "unet", channels: int = 48, options: dict | None = None,
               name: str = "block_peer"):  # fmt: skip
    """A network of :mod:`lstm_ae_lib.peers` over blocks instead of pixels, so that it reaches eight times as far.

    Args:
        image_shape: ``(height, width, 3)``, sides multiples of 8 times what the network needs.
        network: ``"unet"``, ``"nafnet"`` or ``"rednet"``.
        channels: of what it is given and adds to, 1 to 4,096.
        options: further arguments of its builder.

    Returns and raises as :func:`jpeg_mender`.
    """
    checks.choice(network, "network", NETWORKS)
    checks.number(channels, "channels", 1, 4096, whole=True)
    shape = (image_shape[0] // BLOCK, image_shape[1] // BLOCK, channels)
    return _mender(image_shape, channels, NETWORKS[network](shape, name=network, **(options or {})), name)


def described(memory: str, image_shape, width: int, options: str = "{}") -> tuple:
    """The builder's name and the arguments of the network whose memory, or which altogether, has this name: ``"feedback"``, or one
    of :data:`MEMORIES` or :data:`NETWORKS`. ``options``: further arguments, as JSON. ``ValueError`` for an unknown name, and for
    options of another form."""
    checks.choice(memory, "memory", ("feedback", *MEMORIES, *NETWORKS))
    if not isinstance(json.loads(options), dict):
        raise ValueError(f"options must be names and values in JSON, such as {{}}, got {options!r}")
    if memory == "feedback":
        return "feedback_mender", {"image_shape": list(image_shape), "width": width, **json.loads(options)}
    builder, what, size = ("jpeg_mender", "memory", "width") if memory in MEMORIES else ("block_peer", "network", "channels")
    return builder, {"image_shape": list(image_shape), what: memory, size: width, **json.loads(options)}


def residual_block(hidden, width, name):
    inner = relu_convolution(width, 3, f"{name}_conv1")(hidden)
    inner = convolution(width, 3, f"{name}_conv2", kernel_initializer="zeros")(inner)
    return layers.Add(name=f"{name}_add")([hidden, inner])


def seen(image_shape, width):
    damaged = layers.Input(image_shape, name="damaged")
    return damaged, convolution(width, 1, "seen")(BlockFeatures(name="blocks")(damaged))


def _mender(image_shape, width, body, name):
    """Blocks' features, ``body``, and what it says of each block: where it belongs, and a colour and pixels to add to it."""
    damaged, hidden = seen(image_shape, width)
    hidden = body(hidden)
    stays = keras.initializers.Constant([STAYS if moved == 0 else 0.0 for moved in MOVES])
    moves = convolution(len(MOVES), 1, "moves", kernel_initializer="zeros", bias_initializer=stays)(hidden)
    colour = convolution(3, 1, "colour", kernel_initializer="zeros")(hidden)
    return mended_by(damaged, hidden, layers.Softmax(name="shares", dtype="float32")(moves), colour, name)


def mended_by(damaged, hidden, shares, colour, name):
    """What all networks do to a picture: blocks are moved back by ``shares``, a colour and, from ``hidden``, pixels are added."""
    back = MovedBack(name="moved_back")([damaged, shares])
    inside = convolution(PIXELS, 1, "inside", kernel_initializer="zeros")(hidden)
    pixels = DepthToSpace(BLOCK, name="pixels")(layers.Add(name="add_inside")([back, inside]))
    mended = layers.Add(dtype="float32", name="mended")([pixels, layers.UpSampling2D(BLOCK, name="spread")(colour)])
    return keras.Model(damaged, mended, name=name)


def loss(clean, mended):
    """``log(MSE + 1e-4)`` of each image, ``(batch, height, width, 3)`` twice -> ``(batch,)``: what training lowers. A picture that
    a bit has ruined weighs no more than one that it has scratched; 1e-4 is what the JPEG itself loses."""
    error = ops.square(ops.cast(clean, "float32") - ops.cast(mended, "float32"))
    return ops.log(ops.mean(error, axis=(1, 2, 3)) + 1e-4)


def at_size(builder: str, arguments: dict, trained, size):
    """A mending network for images of ``(height, width)``, or of that height and width, with the weights of one for others."""
    height, width = size if np.ndim(size) else (size, size)
    network = weights.build(builder, arguments | {"image_shape": [height, width, 3]})
    network.set_weights(trained.get_weights())
    return network


def crops(side: int, count: int, seed: int = 0) -> np.ndarray:
    """``count`` squares, at random places of scikit-image's photographs in turn, those that are too small left out, or, where all
    are, continued by their mirror images: ``(count, side, side, 3)`` uint8. ``side``: a multiple of 8 up to 2048
    (``ValueError``)."""
    checks.number(count, "count", 1, 10**6, whole=True)
    if checks.number(side, "side", BLOCK, 2048, whole=True) % BLOCK:
        raise ValueError(f"side must be a multiple of {BLOCK}, got {side}")
    photographs = [image[..., :3] for image in pictures.photographs().values()]
    large = [image for image in photographs if min(image.shape[:2]) >= side]
    if not large:
        missing = [[(0, max(0, side - length)) for length in image.shape[:2]] for image in photographs]
        large = [np.pad(image, [*pair, (0, 0)], mode="symmetric") for image, pair in zip(photographs, missing, strict=True)]
    random, cut = np.random.default_rng((SEED, seed, side)), []
    for place in range(count):
        image = large[place % len(large)]
        top, left = (random.integers(length - side + 1) for length in image.shape[:2])
        cut.append(image[top : top + side, left : left + side])
    return np.stack(cut)


def measure(network, clean, flips: int = 1, seed: int = 0) -> dict:
    """What a network does to pictures whose JPEG has ``flips`` flipped bits, and to sound ones.

    ``clean``: ``(n, height, width, 3)`` uint8, of the size that the network takes. Returns ``damaged`` and ``mended``,
    ``(n, height, width, 3)`` float32 in [0, 1]; ``gains``, each picture's in dB; ``sound``, the mean PSNR of mended sound JPEGs
    to themselves; and ``far``, for each of the distances :data:`FAR` from the first damaged block, in pixels as
    :func:`~lstm_ae_lib.tasks.broken_jpeg.bounds` counts them, the mean squared errors before and after, or None.
    """
    sound = np.stack([damage(image, 0, 0) for image in clean])
    damaged = np.stack([damage(image, flips, (SEED, seed, place)) for place, image in enumerate(clean)])
    both = [np.clip(models.apply(network, images / np.float32(255), batch_size=4), 0, 1) for images in (sound, damaged)]
    wanted, damaged_unit = clean / np.float32(255), damaged / np.float32(255)
    before, after = (np.square(images - wanted).mean(-1) for images in (damaged_unit, both[1]))
    distances = np.stack([distance(*pair)[..., 0] for pair in zip(damaged, sound, strict=True)])
    far, low = [], 0
    for high in (*FAR, math.inf):
        there = (distances > low) & (distances <= high)
        far.append([float(error[there].mean()) for error in (before, after)] if there.any() else None)
        low = high
    means = [error.mean((1, 2)) for error in (before, after)]
    return {
        "damaged": damaged_unit, "mended": both[1], "gains": 10 * np.log10(means[0] / means[1]), "far": far,
        "sound": float(np.mean(metrics.per_image(sound, both[0])["psnr"])),
    }  # fmt: skip
