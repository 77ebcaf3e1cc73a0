"""A compressor for pictures of any size at any rate: its networks. :mod:`lstm_ae_lib.tasks.any_rate_codec` writes their files."""

import math

import numpy as np

from lstm_ae_lib import checks, models, peers, seeding, weights
from lstm_ae_lib._backend import keras
from lstm_ae_lib.layers import linear_recurrence
from lstm_ae_lib.tasks import any_rate_codec
from lstm_ae_lib.tasks.any_rate_codec import BLOCK, GROUPS, LARGEST_MEMORY, NUMBERS

ops = keras.ops

CONTEXTS = ("recurrent", "window", "none")
_STEPS = 2**20  # added to the seed of the order of images: a stream of its own for their steps


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class RowContext(keras.layers.Layer):
    """Where each number of a latent is to be expected, and how closely, from the numbers decoded before it.

    They are decoded row by row, within a row group by group (:data:`GROUPS`), and of each group every other column first. The rows
    above are known by a memory, a gated linear recurrence from top to bottom (an LSTM whose gate sees the input only, with hard
    gates, which fixed-point numbers can follow; van den Oord et al., "Pixel Recurrent Neural Networks", 2016, for the row as a
    step); the row's lower groups, and for the second half of the columns their own group beside them, by convolutions along it
    (Minnen and Singh 2020, for groups; He et al., "Checkerboard Context Model", 2021, for every other place first).

    Args:
        memory, hidden: channels of the memory and of each group's layers, 1 to 65,536.
        context: ``"recurrent"``; ``"window"``, a convolution over the two rows above in place of the memory; ``"none"``, of which
            only the step is known.

    Inputs, a list: ``(batch, rows, columns, 192)``, in steps, and ``(batch, 1)``, the logarithm to base 2 of the step in units of
    [0, 1]. Output: ``(batch, rows, columns, 384)``: means, in steps, and widths, as the numbers of tables
    (:func:`lstm_ae_lib.tasks.codec.distribution`), not rounded. It computes in float32: bfloat16 has 8 bits, of which a symbol may
    need 11. Raises ``ValueError`` for a latent of another width.
    """

    def __init__(self, memory=192, hidden=96, context="recurrent", **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.memory = checks.number(memory, "memory", 1, 65536, whole=True)
        self.hidden = checks.number(hidden, "hidden", 1, 65536, whole=True)
        self.context = checks.choice(context, "context", CONTEXTS)

    def build(self, input_shape):
        self.compute_output_shape(input_shape)
        self.start = self.add_weight(name="start", shape=(NUMBERS,), initializer="zeros", autocast=False)
        # A step twice as large makes distributions half as wide, which are four tables.
        self.slope = self.add_weight(name="slope", shape=(NUMBERS,), initializer=keras.initializers.Constant(-4.0), autocast=False)
        if self.context == "none":
            return
        self.look = self.add_weight(name="look", shape=(1, 3, NUMBERS, self.memory), autocast=False)
        kernel = (1, 1, self.memory, 2 * self.memory) if self.context == "recurrent" else (2, 1, self.memory, self.memory)
        self.remember = self.add_weight(name="remember", shape=kernel, autocast=False)
        self.remember_bias = self.add_weight(name="remember_bias", shape=kernel[-1:], initializer="zeros", autocast=False)
        self.groups = [self._group(place) for place in range(len(GROUPS))]

    def _group(self, place):
        lower = sum(GROUPS[:place])
        kernels = {"above": (1, 3, self.memory, self.hidden), "beside": (1, 3, GROUPS[place], self.hidden),
                   "second": (1, 1, self.hidden, self.hidden), "last": (1, 1, self.hidden, 2 * GROUPS[place])}  # fmt: skip
        kernels |= {"lower": (1, 3, lower, self.hidden)} if lower else {}
        shapes = kernels | dict.fromkeys(("step", "bias", "second_bias"), (self.hidden,))
        begun = {name: "glorot_uniform" if name in kernels and name != "last" else "zeros" for name in shapes}
        return {
            name: self.add_weight(name=f"{name}{place}", shape=shapes[name], initializer=begun[name], autocast=False) for name in
            shapes
        }

    def call(self, inputs):
        latent, log_step = (ops.cast(one, self.variable_dtype) for one in inputs)
        log_step = log_step[:, None, None, :]
        mean = ops.zeros_like(latent)
        width = self.start + self.slope * log_step + mean
        if self.context != "none":
            made = self._foretold(latent / 4, log_step)  # in the numbers that layers like
            mean, width = 2 * made[0], width + 4 * made[1]
        return ops.cast(ops.concatenate([mean, width], -1), self.compute_dtype)

    def _foretold(self, latent, log_step):
        above, made, lower = self._above(latent), [], 0
        later = ops.cast(ops.arange(ops.shape(latent)[2]) % 2, latent.dtype)[:, None]  # 1 in the columns that come second
        for size, group in zip(GROUPS, self.groups, strict=True):
            hidden = ops.conv(above, group["above"], padding="same") + (group["bias"] + group["step"] * log_step)
            if lower:
                hidden = hidden + ops.conv(latent[..., :lower], group["lower"], padding="same")
            first = latent[..., lower : lower + size] * (1 - later)
            hidden = hidden + later * ops.conv(first, group["beside"], padding="same")
            hidden = ops.relu(ops.conv(ops.relu(hidden), group["second"]) + group["second_bias"])
            made.append(ops.split(ops.conv(hidden, group["last"]), 2, axis=-1))
            lower += size
        return [ops.concatenate(parts, -1) for parts in zip(*made, strict=True)]

    def _above(self, latent):
        """What is known of the rows above each row."""
        seen = ops.relu(ops.conv(latent, self.look, padding="same"))
        if self.context == "window":
            seen = ops.pad(seen, [[0, 0], [2, 0], [0, 0], [0, 0]])[:, :-1]
            return ops.relu(ops.conv(seen, self.remember, padding="valid") + self.remember_bias)
        gate, new = ops.split(ops.conv(seen, self.remember) + self.remember_bias, 2, axis=-1)
        keep, new = ops.clip(gate / 4 + 0.5, 0, 1), ops.clip(new, -LARGEST_MEMORY, LARGEST_MEMORY)
        held = linear_recurrence(keep, (1 - keep) * new, axis=1)
        return ops.pad(held, [[0, 0], [1, 0], [0, 0], [0, 0]])[:, :-1]

    def multiply_adds(self, given, made):
        return math.prod(made[1:3]) * sum(math.prod(weight.shape) for weight in self.weights if len(weight.shape) == 4)

    def get_config(self):
        return {**super().get_config(), "memory": self.memory, "hidden": self.hidden, "context": self.context}

    def compute_output_shape(self, input_shape):
        latent, _ = input_shape
        if len(latent) != 4 or latent[-1] != NUMBERS:
            raise ValueError(f"RowContext needs (batch, rows, columns, {NUMBERS}), got {tuple(latent)}")
        return (*latent[:3], 2 * NUMBERS)


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class RowQuantize(keras.layers.Layer):
    """Rounds each number of a latent to whole steps from its mean, which a :class:`RowContext` says, and counts the bits.

    Rounded as a codec does it (:func:`lstm_ae_lib.tasks.any_rate_codec.thrifty`), but all numbers at once: the context first sees
    them rounded to whole steps, then as they came out. What is passed on has no gradient, for the latent is given. In training the
    mean of the bits of a number is added to the loss: widths learn from the bits of the symbols, means from those with uniform
    noise in place of the rounding, which is where a symbol has no slope. ``memory``, ``hidden`` and ``context``: as for
    :class:`RowContext`.

    Inputs: those of :class:`RowContext`, but the latent in units of [0, 1]. Output: shaped like the latent."""

    def __init__(self, memory=192, hidden=96, context="recurrent", seed=0, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.seed = checks.number(seed, "seed", 0, 2**31 - 1, whole=True)
        self.context = RowContext(memory, hidden, context, dtype="float32", name="context")
        self._noise = keras.random.SeedGenerator(seed)

    def build(self, input_shape):
        self.context.build(input_shape)

    def call(self, inputs, training=False):
        latent, log_step = (ops.cast(one, self.variable_dtype) for one in inputs)
        step = ops.power(2.0, log_step)[:, None, None, :]
        exact, seen = latent / step, ops.round(latent / step)
        for _ in range(2):
            mean, width = ops.split(self.context([seen, log_step]), 2, axis=-1)
            symbols = ops.stop_gradient(_thrifty(exact - mean, width))
            seen = ops.stop_gradient(mean) + symbols
        if training:
            noise = keras.random.uniform(ops.shape(exact), -0.5, 0.5, exact.dtype, self._noise)
            noisy = laplace_bits(exact + noise - mean, ops.stop_gradient(width))
            self.add_loss(ops.mean(laplace_bits(symbols, width) + noisy - ops.stop_gradient(noisy)))
        return ops.cast(seen * step, self.compute_dtype)

    def multiply_adds(self, given, made):
        return self.context.multiply_adds(given, made)

    def get_config(self):
        own = {key: self.context.get_config()[key] for key in ("memory", "hidden", "context")}
        return {**super().get_config(), **own, "seed": self.seed}

    def compute_output_shape(self, input_shape):
        return input_shape[0]


def _thrifty(distance, width):
    """:func:`lstm_ae_lib.tasks.any_rate_codec.thrifty`, with widths that are not rounded."""
    nearest = ops.round(distance)
    lower = nearest - ops.sign(nearest)
    saved = laplace_bits(nearest, width) - laplace_bits(lower, width)
    lost = ops.square(distance - lower) - ops.square(distance - nearest)
    return ops.where(any_rate_codec.PRICE * lost < saved, lower, nearest)


def laplace_bits(distance, width):
    """Minus the logarithm to base 2 of the probability within half a step of ``distance``, in steps, in a Laplace distribution of
    the ``width`` with that table's number."""
    far, sharp = ops.abs(distance), 20 * ops.power(2.0, -ops.clip(width, -8, 71) / 4)  # a little beyond the tables there are
    tail = ops.exp(-(ops.maximum(far, 0.5) - 0.5) * sharp) * (1 - ops.exp(-sharp)) / 2
    near = ops.minimum(far, 0.5)
    middle = 1 - (ops.exp(-(0.5 + near) * sharp) + ops.exp(-(0.5 - near) * sharp)) / 2
    return -ops.log(ops.maximum(ops.where(far < 0.5, middle, tail), 1e-7)) / math.log(2)


@weights.register
def any_rate_compressor(image_shape=(32, 32, 3), width: int = 48, depth: int = 1, memory: int = 192, hidden: int = 96,
                        context: str = "recurrent", sizes=any_rate_codec.SIZES, name: str = "any_rate_compressor"):  # fmt: skip
    """A compressor with a recurrent decoder and a recurrent context, one for all rates.

    clean -> cosine transform of blocks of 8x8 pixels -> rounding in steps -> inverse -> decoder -> reconstruction. The decoder is
    built as the flagship is, begins as the identity, and sees the size of the step, which is an input: at each it minimises
    distortion plus rate (one network with a step drawn for each image: Toderici et al. 2016 and Choi et al. 2019 have the aim). It
    sees the whole picture: no part is cut at a block's border. An encoder network before the transform gained nothing in trials of
    10 minutes each.

    Args:
        image_shape: known sides, multiples of 8.
        width, depth: channels, 2 to 4,096; pairs of blocks, 1 to 64; of the decoder.
        memory, hidden, context: of the :class:`RowContext`.
        sizes: for which steps it is trained, the smallest and the largest (:func:`lstm_ae_lib.tasks.any_rate_codec.log_step`).

    Returns a model with the inputs ``clean`` and ``log_step``, ``(batch, 1)``, and the images' shape as its output, not clipped;
    its layer ``decoder`` takes what comes from the inverse in place of ``clean``. Raises ``ValueError`` for an argument out of
    range.
    """
    peers.check_divides(image_shape, BLOCK)
    checks.number(width, "width", 2, 4096, whole=True)
    checks.number(depth, "depth", 1, 64, whole=True)
    low = checks.number(sizes[0], "the smallest of sizes", 0, 64, whole=True)
    checks.number(sizes[1], "the largest of sizes", low, 64, whole=True)
    clean, log_step = (keras.layers.Input(shape, name=name) for shape, name in ((image_shape, "clean"), ((1,), "log_step")))
    to_latent = keras.layers.Conv2D(NUMBERS, BLOCK, BLOCK, trainable=False, dtype="float32", name="latent")
    from_latent = keras.layers.Conv2DTranspose(3, BLOCK, BLOCK, trainable=False, dtype="float32", name="from_latent")
    quantize = RowQuantize(memory, hidden, context, dtype="float32", name="quantize")
    coarse = from_latent(quantize([to_latent(clean), log_step]))
    kernel = any_rate_codec.frequencies()
    to_latent.set_weights([kernel, -0.5 * kernel.sum((0, 1, 2))])
    from_latent.set_weights([kernel, np.full(3, 0.5, np.float32)])
    return keras.Model([clean, log_step], _decoder(image_shape, width, depth)([coarse, log_step]), name=name)


def _decoder(image_shape, width, depth):
    """An image, and a step -> the image and what is missing."""
    image, log_step = keras.layers.Input(image_shape), keras.layers.Input((1,))
    plane = keras.layers.Reshape((1, 1, 1), dtype="float32", name="as_plane")(log_step / 2 + 1)
    plane = keras.layers.UpSampling2D(image_shape[:2], dtype="float32", name="plane")(plane)
    seen = keras.layers.Concatenate(dtype="float32", name="seen")([image, plane])
    missing = models.recurrent_body(width, depth, width)(seen, image_shape[-1])
    return keras.Model([image, log_step], keras.layers.Add(dtype="float32", name="sum")([image, missing]), name="decoder")


def start_from_images(model, clean) -> None:
    """Set, in a new :func:`any_rate_compressor`, how wide each number's distribution is: its mean size in images ``(n, height,
    width, 3)``, uint8, of the model's size."""
    clean = checks.images_uint8(clean, "clean") / np.float32(255)
    latent = ops.convert_to_numpy(model.get_layer("latent")(clean))
    model.get_layer("quantize").context.start.assign(4 * np.log2(np.abs(latent).mean((0, 1, 2)) * 20))


def rated_batches(batches, seed: int, sizes=any_rate_codec.SIZES):
    """Batches with steps drawn for their images: ``((clean, log_step), clean, weight)``, for :func:`any_rate_compressor`.

    The logarithm of an image's step is even between those of the two ``sizes``, drawn from ``seed`` and the batch's place.
    ``weight`` makes a mean squared error as many bits a number as a finer step would cost to save it. ``batches``: a
    ``tf.data.Dataset`` of pairs, of which the second is clean, as :func:`lstm_ae_lib.datasets.training_batches` gives them.
    """
    import tensorflow as tf

    low, high = (any_rate_codec.log_step(size) for size in sizes)

    def draw(place, count):
        drawn = low + (high - low) * seeding.uniform((count, 1), seed + _STEPS, int(place))
        return drawn.astype(np.float32), (any_rate_codec.PRICE / 4.0**drawn).astype(np.float32)[:, None]  # a weight for each row

    def rate(place, pair):
        clean = pair[1]
        log_step, weight = tf.numpy_function(draw, [place, tf.shape(clean)[0]], [tf.float32] * 2)
        return (clean, tf.ensure_shape(log_step, (None, 1))), clean, tf.ensure_shape(weight, (None, 1, 1))

    return batches.enumerate().map(rate)
