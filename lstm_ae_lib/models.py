"""Builders that stack layers into models. A builder's arguments are plain values, so that a saved model is its builder's
name, these arguments and a file of weights."""

import functools
import math

import numpy as np

from lstm_ae_lib import checks, peers
from lstm_ae_lib._backend import keras
from lstm_ae_lib.layers import DepthToSpace, FastLSTM, GatedScan, ImageToRows, LSTMSweep, RowsToImage
from lstm_ae_lib.peers import convolution, relu_convolution

layers = keras.layers


def reference_lstm_autoencoder(
    image_shape=(32, 32, 3), units=(128, 64), bidirectional: bool = False, bottleneck: int = 0, name: str | None = None
):
    """The precursor study's LSTM autoencoder: the rows of the image are the time steps.

    image -> rows -> LSTM(128) -> LSTM(64) -> the same Dense for every row -> image: 170,848 parameters at 32x32x3 (115,200 +
    49,408 + 6,240). The precursor's model lacks the two options.

    Args:
        image_shape: ``(height, width, channels)``. Without a bottleneck the height may be None (any).
        units: hidden units of the encoder's and of the decoder's LSTM, each 1 to 65,536.
        bidirectional: run each LSTM in both directions and concatenate: a row also sees the rows below it.
        bottleneck: width of one latent vector that the image passes through, between the first LSTM's last state and the
            second LSTM, which gets it at every row; at most 65,536, 0 for none.

    Returns a model of ``(batch, height, width, channels)`` in [0, 1] -> the same shape, linear output, not clipped. Raises
    ``ValueError`` for an argument of the wrong kind or out of range.
    """
    if len(image_shape) != 3 or None in tuple(image_shape)[1:] or (bottleneck and image_shape[0] is None):
        raise ValueError(f"image_shape must be (height, width, channels), all known with a bottleneck, got {image_shape!r}")
    if len(units) != 2:
        raise ValueError(f"units must be two numbers (encoder, decoder), got {units!r}")
    for position, value in enumerate(units):
        checks.number(value, f"units[{position}]", 1, 65536, whole=True)
    checks.number(bottleneck, "bottleneck", 0, 65536, whole=True)
    height, width, channels = image_shape

    def sweep(units, return_sequences, name):
        lstm = FastLSTM(units, return_sequences=return_sequences, name=name)
        return layers.Bidirectional(lstm, name=name) if bidirectional else lstm

    degraded = layers.Input(image_shape, name="degraded")
    rows = ImageToRows(name="rows")(degraded)
    hidden = sweep(units[0], not bottleneck, "encoder")(rows)
    if bottleneck:
        hidden = layers.RepeatVector(height, name="repeat")(layers.Dense(bottleneck, name="latent")(hidden))
    hidden = sweep(units[1], True, "decoder")(hidden)
    rows = layers.Dense(width * channels, name="to_rows")(hidden)
    restored = RowsToImage(channels, name="restored")(rows)
    return keras.Model(degraded, restored, name=name or ("reference_bilstm" if bidirectional else "reference_lstm"))


RECURRENCES = ("scan", "lstm", "convolution", "none")


def flagship(
    image_shape=(32, 32, 3), width: int = 64, depth: int = 2, latent: int = 64, recurrence: str = "scan", along: str = "both",
    positive: bool = False, skips: bool = True, repeats: int = 1, linear_start: str = "dct1", gate: bool = False,
    name: str = "flagship",
):  # fmt: skip
    """A recurrent autoencoder for restoration: convolutions see what is near, recurrences what is on the same row and column.

    Half the resolution throughout (a 6x6 convolution with stride 2 in, sub-pixel upsampling out). Encoder and decoder are
    ``depth`` pairs each of a residual block of two 3x3 convolutions and a residual recurrent block, which sweeps over all
    positions both ways along both axes and ends in a 1x1 convolution. Between them is the latent, a map; around it, skips. Every
    residual branch begins at zero, and so does the last layer.

    Args:
        image_shape: ``(height, width, channels)``, both sides even.
        width: channels of the hidden layers, a multiple of 2 from 4 to 4,096.
        depth: pairs of the encoder, and of the decoder, 1 to 64.
        latent: channels of the latent, 1 to 4,096.
        recurrence: ``"scan"`` (:class:`~lstm_ae_lib.layers.GatedScan`, ``width / 2`` units each way), ``"lstm"``
            (:class:`~lstm_ae_lib.layers.LSTMSweep` along rows and along columns, ``width / 4`` units each way),
            ``"convolution"`` (a 3x3 convolution with as many parameters as the scan in its place) or ``"none"``.
        along: of the scan: ``"both"`` axes, or ``"rows"`` or ``"columns"`` only, with twice the units.
        positive: of the scan: coefficients from 0 to 1 only.
        skips: each encoder pair's output is added to the input of its mirror image in the decoder.
        repeats: how often each pair is applied, with the same weights, 1 to 100.
        linear_start, gate: as for :func:`lstm_ae_lib.peers.dncnn`.

    Returns and raises as :func:`lstm_ae_lib.peers.dncnn`.
    """
    checks.number(width, "width", 4, 4096, whole=True)
    if width % 2:
        raise ValueError(f"width must be a multiple of 2, got {width}")
    checks.number(depth, "depth", 1, 64, whole=True)
    checks.number(latent, "latent", 1, 4096, whole=True)
    checks.number(repeats, "repeats", 1, 100, whole=True)
    checks.choice(recurrence, "recurrence", RECURRENCES)
    peers.check_divides(image_shape, 2)
    body = recurrent_body(width, depth, latent, recurrence, along, positive, skips, repeats)
    return peers.residual_model(image_shape, linear_start, body, name, gate)


def multiscale_flagship(
    image_shape=(32, 32, 3), width: int = 40, growth: float = 1.4, depths=(1, 2), latent: int = 48, recurrence: str = "scan",
    attention: bool = True, skips: bool = True, linear_start: str = "", gate: bool = False, name: str = "multiscale_flagship",
):  # fmt: skip
    """The flagship over several resolutions, each half of the one before: recurrences there are cheap, and see far.

    At half the resolution (a 6x6 convolution with stride 2 in, sub-pixel upsampling out) and at each level below it (2x2
    convolutions with stride 2, 1x1 convolutions and sub-pixel upsampling back), encoder and decoder have the flagship's pairs of a
    residual and a recurrent block, here with channel attention. The latent lies between them at the lowest resolution. 427,000
    parameters and 41,900 multiply-adds a pixel.

    Args:
        image_shape: ``(height, width, channels)``, both sides multiples of ``2 ** len(depths)``.
        width: channels at half the resolution, the network's size: a multiple of 2 from 4 to 1,024.
        growth: how many times as many channels each level has as the one above it, from 0.5 to 4, made even.
        depths: pairs of the encoder on each of 1 to 6 levels, and of the decoder, each 0 to 16.
        attention: multiply each channel in a residual block by a number, -1 to 1, that all means decide (Chen et al., 2022).
        latent, recurrence, skips, linear_start, gate: as for :func:`flagship`.

    Returns and raises as :func:`lstm_ae_lib.peers.dncnn`.
    """
    checks.number(width, "width", 4, 1024, whole=True)
    if width % 2:
        raise ValueError(f"width must be a multiple of 2, got {width}")
    checks.number(growth, "growth", 0.5, 4)
    if not 1 <= len(depths) <= 6:
        raise ValueError(f"depths must have 1 to 6 levels, got {depths!r}")
    for count in depths:
        checks.number(count, "the pairs of a level", 0, 16, whole=True)
    checks.number(latent, "latent", 1, 4096, whole=True)
    checks.choice(recurrence, "recurrence", RECURRENCES)
    peers.check_divides(image_shape, 2 ** len(depths))
    widths = [2 * max(2, round(width * growth**level / 2)) for level in range(len(depths))]

    def pair(hidden, level, name):
        return block_pair(widths[level], f"{name}{level}", recurrence, attention=attention)(hidden)

    def body(features, channels):
        hidden, encoded = layers.Conv2D(width, 6, strides=2, padding="same", name="first")(features), {}
        for level, count in enumerate(depths):
            hidden = layers.Conv2D(widths[level], 2, strides=2, name=f"down{level}")(hidden) if level else hidden
            for place in range(count):
                hidden = encoded[level, place] = pair(hidden, level, f"encoder{place}_")
        hidden = convolution(widths[-1], 1, "from_latent")(convolution(latent, 1, "latent")(hidden))
        for level in reversed(range(len(depths))):
            for place in reversed(range(depths[level])):
                hidden = layers.Add(name=f"skip{place}_{level}")([hidden, encoded[level, place]]) if skips else hidden
                hidden = pair(hidden, level, f"decoder{place}_")
            if level:
                hidden = DepthToSpace(2, name=f"up{level}")(convolution(4 * widths[level - 1], 1, f"widen{level}")(hidden))
        missing = convolution(4 * channels, 3, "last", kernel_initializer="zeros")(hidden)
        return DepthToSpace(2, name="shuffle")(missing)

    return peers.residual_model(image_shape, linear_start, body, name, gate)


def recurrent_body(width, depth, latent, recurrence="scan", along="both", positive=False, skips=True, repeats=1):
    """The flagship's layers between what it sees and what it adds: a function for :func:`lstm_ae_lib.peers.residual_model`."""
    pair = functools.partial(block_pair, width, recurrence=recurrence, along=along, positive=positive, repeats=repeats)

    def body(features, channels):
        hidden = layers.Conv2D(width, 6, strides=2, padding="same", name="first")(features)
        encoded = []
        for place in range(depth):
            hidden = pair(f"encoder{place}")(hidden)
            encoded.append(hidden)
        hidden = convolution(width, 1, "from_latent")(convolution(latent, 1, "latent")(hidden))
        for place in reversed(range(depth)):
            if skips:
                hidden = layers.Add(name=f"skip{place}")([hidden, encoded[place]])
            hidden = pair(f"decoder{place}")(hidden)
        missing = convolution(4 * channels, 3, "last", kernel_initializer="zeros")(hidden)
        return DepthToSpace(2, name="shuffle")(missing)

    return body


def block_pair(width, name, recurrence="scan", along="both", positive=False, repeats=1, attention=False):
    """A residual block and a recurrent one: layers that are made once and applied ``repeats`` times."""
    one = relu_convolution(width, 3, f"{name}_conv1")
    two = convolution(width, 3, f"{name}_conv2", kernel_initializer="zeros")
    mix = convolution(width, 1, f"{name}_mix", kernel_initializer="zeros")
    add1, add2 = layers.Add(name=f"{name}_add1"), layers.Add(name=f"{name}_add2")
    if recurrence == "scan":
        look = GatedScan(width // 2 if along == "both" else width, along, positive, name=f"{name}_scan")
    elif recurrence == "lstm":
        rows, columns = (LSTMSweep(width // 4, along, name=f"{name}_{along}") for along in ("rows", "columns"))
        join = layers.Concatenate(name=f"{name}_sweeps")
        look = lambda hidden: join([rows(hidden), columns(hidden)])  # noqa: E731
    elif recurrence == "convolution":
        # 4 * width ** 2 of the scan and 2 * width ** 2 of its mixture are 10 * width times 3 / 5 of the width.
        look = relu_convolution(round(0.6 * width), 3, f"{name}_instead")

    if attention:
        mean = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_mean")
        bounded = {"activation": "hard_tanh", "bias_initializer": "ones"}  # or a picture unlike those of the training explodes
        weigh = convolution(width, 1, f"{name}_attention", kernel_initializer="zeros", **bounded)
        attend = layers.Multiply(name=f"{name}_attend")

    def applied(hidden):
        for _ in range(repeats):
            inner = one(hidden)
            inner = attend([inner, weigh(mean(inner))]) if attention else inner
            hidden = add1([hidden, two(inner)])
            if recurrence != "none":
                hidden = add2([hidden, mix(look(hidden))])
        return hidden

    return applied


def apply(model, inputs, batch_size: int = 500) -> np.ndarray:
    """The outputs of a model of one input and one output, ``batch_size`` inputs at a time: ``predict`` without compiling it."""
    parts = [model(inputs[start : start + batch_size], training=False) for start in range(0, len(inputs), batch_size)]
    return np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])


def multiply_adds(model) -> int:
    """Multiply-adds of one image in a model's matrix products; the image size must be known. A layer counts as often as it is
    called, and may have a method ``multiply_adds(input_shape, output_shape)``.

    Raises ``ValueError`` for a layer with weights whose cost is not known here.
    """
    graph = getattr(model, "_functional", None) or model
    calls = [node for nodes in graph._nodes_by_depth.values() for node in nodes if not node.is_input]
    return sum(_cost(node.operation, node.input_tensors[0].shape, node.outputs[0].shape) for node in calls)


def _cost(layer, given, made):
    if isinstance(layer, keras.Model):
        return multiply_adds(layer)
    if hasattr(layer, "multiply_adds"):
        return layer.multiply_adds(given, made)
    if not getattr(layer, "weights", ()) or isinstance(layer, layers.BatchNormalization | layers.LayerNormalization):
        return 0
    if isinstance(layer, layers.LSTM):
        return given[1] * 4 * layer.units * (given[2] + layer.units)
    if isinstance(layer, layers.Bidirectional):
        units = layer.forward_layer.units
        return 2 * given[1] * 4 * units * (given[2] + units)
    if isinstance(layer, layers.Conv2DTranspose):
        return math.prod(given[1:3]) * math.prod(layer.kernel.shape)
    if isinstance(layer, layers.DepthwiseConv2D | layers.Conv2D):
        return math.prod(made[1:3]) * math.prod(layer.kernel.shape)
    if isinstance(layer, layers.Dense):
        return math.prod(given[1:-1]) * math.prod(layer.kernel.shape)
    raise ValueError(f"the cost of the layer {layer.name} ({type(layer).__name__}) is not known")
