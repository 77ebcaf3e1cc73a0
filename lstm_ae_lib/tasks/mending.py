"""Networks that mend JPEGs with flipped bits (:mod:`lstm_ae_lib.tasks.broken_jpeg`), with a memory without a limit and without one.

All see the same of each 8x8 block and add to it the same way. What lies between differs: a recurrence over the blocks in raster
order, in which an error of the JPEG spreads, or layers with a limited reach.
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
SEEN = PIXELS + 2 * 3 * (BLOCK + 1)  # of a block: pixels, and what changes across its left and its upper edge, with the means
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


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class BlockFeatures(keras.layers.Layer):
    """What a mending network sees of each 8x8 block: its pixels less 1/2, and, four times, what changes across its left and its
    upper edge, pixel by pixel and in the mean; 0 at the border of the image.

    Input: ``(batch, height, width, 3)`` in [0, 1], sides known and multiples of 8 (``ValueError``). Output: ``(batch, height / 8,
    width / 8, 246)``.
    """

    def call(self, images):
        _, rows, columns, _ = self.compute_output_shape(images.shape)
        inner = ops.transpose(ops.reshape(images, (-1, rows, BLOCK, columns, BLOCK, 3)), (0, 1, 3, 2, 4, 5))
        before = ops.pad(inner[:, :, :-1, :, -1], [(0, 0), (0, 0), (1, 0), (0, 0), (0, 0)])
        above = ops.pad(inner[:, :-1, :, -1], [(0, 0), (1, 0), (0, 0), (0, 0), (0, 0)])
        first_column, first_row = ops.arange(columns) == 0, ops.arange(rows) == 0
        left = ops.where(first_column[:, None, None], 0.0, inner[..., 0, :] - before)
        top = ops.where(first_row[:, None, None, None], 0.0, inner[:, :, :, 0] - above)
        flat = [ops.reshape(part, (-1, rows, columns, part.shape[-2] * 3)) for part in (left, top)]
        means = [ops.mean(part, axis=-2) for part in (left, top)]
        pixels = ops.reshape(inner, (-1, rows, columns, PIXELS)) - 0.5
        return ops.concatenate([pixels, *(4 * part for part in (*flat, *means))], -1)

    def compute_output_shape(self, input_shape):
        if len(input_shape) != 4 or input_shape[3] != 3 or any(side is None or side % BLOCK for side in input_shape[1:3]):
            raise ValueError(f"BlockFeatures needs (batch, height, width, 3), sides multiples of {BLOCK}, got {tuple(input_shape)}")
        return (input_shape[0], input_shape[1] // BLOCK, input_shape[2] // BLOCK, SEEN)


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

    def residual(hidden, name):
        inner = relu_convolution(width, 3, f"{name}_conv1")(hidden)
        inner = convolution(width, 3, f"{name}_conv2", kernel_initializer="zeros")(inner)
        return layers.Add(name=f"{name}_add")([hidden, inner])

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
        hidden = residual(hidden, "block0")
        for place in range(1, depth + 1):
            both = layers.Concatenate(name=f"both{place}")([hidden, look(hidden, f"{memory}{place}")])
            mixed = convolution(width, 1, f"mix{place}", kernel_initializer="zeros")(both)
            hidden = residual(layers.Add(name=f"add{place}")([hidden, mixed]), f"block{place}")
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
    """The builder's name and the arguments of the network whose memory, or which altogether, has this name: one of
    :data:`MEMORIES` or :data:`NETWORKS`. ``options``: further arguments, as JSON. ``ValueError`` for an unknown name."""
    checks.choice(memory, "memory", (*MEMORIES, *NETWORKS))
    builder, what, size = ("jpeg_mender", "memory", "width") if memory in MEMORIES else ("block_peer", "network", "channels")
    return builder, {"image_shape": list(image_shape), what: memory, size: width, **json.loads(options)}


def _mender(image_shape, width, body, name):
    """Blocks' features, ``body``, and what it says to add to each block: a colour, and a value for each pixel."""
    damaged = layers.Input(image_shape, name="damaged")
    hidden = body(convolution(width, 1, "seen")(BlockFeatures(name="blocks")(damaged)))
    colour = layers.UpSampling2D(BLOCK, name="spread")(convolution(3, 1, "colour", kernel_initializer="zeros")(hidden))
    pixels = DepthToSpace(BLOCK, name="pixels")(convolution(PIXELS, 1, "inside", kernel_initializer="zeros")(hidden))
    mended = layers.Add(dtype="float32", name="mended")([damaged, colour, pixels])
    return keras.Model(damaged, mended, name=name)


def loss(clean, mended):
    """``log(MSE + 1e-4)`` of each image, ``(batch, height, width, 3)`` twice -> ``(batch,)``: what training lowers. A picture that
    a bit has ruined weighs no more than one that it has scratched; 1e-4 is what the JPEG itself loses."""
    error = ops.square(ops.cast(clean, "float32") - ops.cast(mended, "float32"))
    return ops.log(ops.mean(error, axis=(1, 2, 3)) + 1e-4)


def at_size(builder: str, arguments: dict, trained, side: int):
    """A mending network for square images of ``side`` pixels, with the weights of one trained on others."""
    network = weights.build(builder, arguments | {"image_shape": [side, side, 3]})
    network.set_weights(trained.get_weights())
    return network


def crops(side: int, count: int, seed: int = 0) -> np.ndarray:
    """``count`` squares, at random places of scikit-image's photographs in turn, those that are too small left out:
    ``(count, side, side, 3)`` uint8. ``ValueError`` where all are too small."""
    checks.number(count, "count", 1, 10**6, whole=True)
    large = [image for image in pictures.photographs().values() if min(image.shape[:2]) >= side]
    if side % BLOCK or not large:
        raise ValueError(f"side must be a multiple of {BLOCK} that a photograph has, got {side}")
    random, cut = np.random.default_rng((SEED, seed, side)), []
    for place in range(count):
        image = large[place % len(large)]
        top, left = (random.integers(length - side + 1) for length in image.shape[:2])
        cut.append(image[top : top + side, left : left + side, :3])
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
