"""Convolutional networks for restoration, the alternatives to a recurrent autoencoder, each faithful to its paper.

Each adds its output, at first zero, to the degraded image or, with ``linear_start``, to a linear estimate of the clean one, whose
numbers are fitted, not trained (:func:`lstm_ae_lib.spectral.set_linear_start`). A blur is nearly linear: without this start a
short training is spent on what a closed form gives."""

import functools

from lstm_ae_lib import checks
from lstm_ae_lib._backend import keras
from lstm_ae_lib.layers import ChangeGate, ChannelScale, DepthToSpace, SimpleGate
from lstm_ae_lib.spectral import linear_layer

layers = keras.layers


def convolution(filters, side, name, kind=layers.Conv2D, **options):
    return kind(filters, side, padding="same", name=name, **options)


def relu_convolution(filters, side, name):
    return convolution(filters, side, name, activation="relu", kernel_initializer="he_normal")


def dncnn(image_shape=(32, 32, 3), width: int = 64, depth: int = 10, linear_start: str = "", gate: bool = False,
          name: str = "dncnn"):  # fmt: skip
    """DnCNN: convolutions with batch normalisation that predict the residual (Zhang et al., "Beyond a Gaussian Denoiser", 2017).

    convolution, ReLU -> (depth - 2) x (convolution without bias, batch normalisation, ReLU) -> convolution, all 3x3. The
    paper has 17 to 20 layers of width 64; 10 of them have 300,483 parameters (1,792 + 8 x 37,120 + 1,731).

    Args:
        image_shape: ``(height, width, channels)``; the first two may be None without ``linear_start``.
        width, depth: channels of the hidden layers, 1 to 4,096; convolutions, 3 to 100.
        linear_start: ``"dct1"`` or ``"dct2"``: start from the linear estimate in that transform; ``"dct1x12"``: from that of
            a mixture of 12 linear filters, for an unknown, varying blur; empty: from the degraded image.
        gate: multiply what the layers add by how far the linear estimate changed the image around each pixel
            (:class:`~lstm_ae_lib.layers.ChangeGate`). Needs a ``linear_start``.

    Returns a model of images -> images of the same shape, not clipped. Raises ``ValueError`` for an argument out of range.
    """
    checks.number(width, "width", 1, 4096, whole=True)
    checks.number(depth, "depth", 3, 100, whole=True)

    def body(features, channels):
        hidden = relu_convolution(width, 3, "first")(features)
        for place in range(2, depth):
            hidden = convolution(width, 3, f"conv{place}", use_bias=False, kernel_initializer="he_normal")(hidden)
            hidden = layers.ReLU(name=f"relu{place}")(layers.BatchNormalization(momentum=0.9, name=f"norm{place}")(hidden))
        return convolution(channels, 3, "last", kernel_initializer="zeros")(hidden)

    return residual_model(image_shape, linear_start, body, name, gate)


def rednet(image_shape=(32, 32, 3), width: int = 64, depth: int = 5, linear_start: str = "", gate: bool = False,
           name: str = "rednet"):  # fmt: skip
    """RED-Net: convolutions, as many transposed convolutions, and a skip from every second one to its mirror image (Mao et
    al., "Image Restoration Using Very Deep Convolutional Encoder-Decoder Networks with Symmetric Skip Connections", 2016).

    All 3x3 at full resolution, each followed by a ReLU; a skip is added before it. The paper's RED10, ``depth`` 5 + 5, has 298,947
    parameters (1,792 + 8 x 36,928 + 1,731); its RED30 has 15 + 15. ``depth`` is 2 to 50; the rest as for :func:`dncnn`.
    """
    checks.number(width, "width", 1, 4096, whole=True)
    checks.number(depth, "depth", 2, 50, whole=True)
    def body(features, channels):
        hidden, skips = features, []
        for place in range(1, depth + 1):
            hidden = relu_convolution(width, 3, f"conv{place}")(hidden)
            skips.append(hidden)
        for place in range(depth, 1, -1):
            hidden = convolution(width, 3, f"deconv{place}", layers.Conv2DTranspose, kernel_initializer="he_normal")(hidden)
            if (depth - place) % 2:  # the skip is from the convolution before this layer's mirror image
                hidden = layers.Add(name=f"skip{place}")([hidden, skips[place - 2]])
            hidden = layers.ReLU(name=f"relu{place}")(hidden)
        return convolution(channels, 3, "deconv1", layers.Conv2DTranspose, kernel_initializer="zeros")(hidden)

    return residual_model(image_shape, linear_start, body, name, gate)


def unet(image_shape=(32, 32, 3), width: int = 13, levels: int = 3, linear_start: str = "", gate: bool = False, name: str = "unet"):
    """U-Net: two convolutions a level, half the resolution and twice the channels from each to the next, and back with the
    features of the way down beside those of the way up (Ronneberger et al., 2015).

    It departs from the paper in three things: convolutions keep the size (the paper's lose the border), there are 3 levels
    below full resolution instead of 4 (a 32x32 image is 4x4 then), and the output is added to what the network starts from.

    ``width`` is of the first level, 1 to 1,024; ``levels`` is how often the resolution is halved, 1 to 8: height and width must be
    multiples of ``2 ** levels``. The rest as for :func:`dncnn`.
    """
    checks.number(width, "width", 1, 1024, whole=True)
    checks.number(levels, "levels", 1, 8, whole=True)
    check_divides(image_shape, 2**levels)

    def twice(hidden, channels, name):
        one, two = (relu_convolution(channels, 3, f"{name}_conv{place}") for place in (1, 2))
        return two(one(hidden))

    def body(features, channels):
        hidden, skips = features, []
        for level in range(levels):
            skips.append(twice(hidden, width * 2**level, f"down{level}"))
            hidden = layers.MaxPooling2D(name=f"pool{level}")(skips[-1])
        hidden = twice(hidden, width * 2**levels, "bottom")
        for level in reversed(range(levels)):
            hidden = layers.Conv2DTranspose(width * 2**level, 2, strides=2, name=f"up{level}")(hidden)
            joined = layers.Concatenate(name=f"skip{level}")([skips[level], hidden])
            hidden = twice(joined, width * 2**level, f"back{level}")
        return layers.Conv2D(channels, 1, kernel_initializer="zeros", name="last")(hidden)

    return residual_model(image_shape, linear_start, body, name, gate)


def nafnet(image_shape=(32, 32, 3), width: int = 25, encoder=(2, 2), middle: int = 2, decoder=(2, 2), linear_start: str = "",
           gate: bool = False, name: str = "nafnet"):  # fmt: skip
    """NAFNet: a U-shaped network of blocks without activation functions: gates and channel attention instead (Chen et al.,
    "Simple Baselines for Image Restoration", 2022).

    A block is two residual branches, each scaled by weights that begin at 0: layer norm, 1x1 to twice the channels,
    depthwise 3x3, gate, channel attention, 1x1; and layer norm, 1x1 to twice the channels, gate, 1x1. Between levels 2x2
    convolutions with stride 2 double the channels, and 1x1 convolutions with sub-pixel upsampling halve them. The paper's
    network for deblurring has 36 blocks in 4 levels; this one departs from it only in size.

    Args:
        width: channels of the first level, 1 to 1,024.
        encoder, middle, decoder: blocks on each of the 1 to 8 levels of the way down, at the lowest resolution, and on each level
            of the way up, each at most 64. Height and width must be multiples of ``2 ** len(encoder)``.
        image_shape, linear_start, gate, name: as for :func:`dncnn`, also what is returned and raised.
    """
    checks.number(width, "width", 1, 1024, whole=True)
    checks.number(middle, "middle", 0, 64, whole=True)
    if len(encoder) != len(decoder) or not 1 <= len(encoder) <= 8:
        raise ValueError(f"encoder and decoder must have the same number of levels, 1 to 8, got {encoder!r} and {decoder!r}")
    for count in (*encoder, *decoder):
        checks.number(count, "the blocks of a level", 0, 64, whole=True)
    check_divides(image_shape, 2 ** len(encoder))

    def block(hidden, name):
        channels = hidden.shape[-1]
        for half, scale in ((1, "beta"), (2, "gamma")):
            branch = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm{half}")(hidden)
            branch = layers.Conv2D(2 * channels, 1, name=f"{name}_widen{half}")(branch)
            if half == 1:
                branch = layers.DepthwiseConv2D(3, padding="same", name=f"{name}_depthwise")(branch)
            branch = SimpleGate(name=f"{name}_gate{half}")(branch)
            if half == 1:
                mean = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_mean")(branch)
                attention = layers.Conv2D(channels, 1, name=f"{name}_attention")(mean)
                branch = layers.Multiply(name=f"{name}_attend")([branch, attention])
            branch = layers.Conv2D(channels, 1, name=f"{name}_narrow{half}")(branch)
            hidden = layers.Add(name=f"{name}_add{half}")([hidden, ChannelScale(name=f"{name}_{scale}")(branch)])
        return hidden

    def blocks(hidden, count, name):
        return functools.reduce(block, (f"{name}_{place}" for place in range(count)), hidden)

    def body(features, channels):
        hidden, skips = convolution(width, 3, "first")(features), []
        for level, count in enumerate(encoder):
            skips.append(blocks(hidden, count, f"down{level}"))
            hidden = layers.Conv2D(width * 2 ** (level + 1), 2, strides=2, name=f"down{level}")(skips[-1])
        hidden = blocks(hidden, middle, "middle")
        for level, count in zip(reversed(range(len(encoder))), decoder, strict=True):
            hidden = layers.Conv2D(width * 2 ** (level + 2), 1, use_bias=False, name=f"up{level}")(hidden)
            hidden = DepthToSpace(2, name=f"shuffle{level}")(hidden)
            hidden = blocks(layers.Add(name=f"skip{level}")([hidden, skips[level]]), count, f"up{level}")
        return convolution(channels, 3, "last", kernel_initializer="zeros")(hidden)

    return residual_model(image_shape, linear_start, body, name, gate)


def residual_model(image_shape, linear_start, body, name, gate=False):
    """A model that adds what ``body(features, channels)`` says is missing to what it starts from: ``body`` gets the features of
    :func:`linear_features` and the number of channels to return. The rest as for :func:`dncnn`."""
    if gate and not linear_start:
        raise ValueError("gate needs a linear_start: without one nothing is taken away")
    degraded = layers.Input(image_shape, name="degraded")
    start, features = linear_features(degraded, linear_start)
    missing = body(features, image_shape[-1])
    if gate:
        _, taken = keras.ops.split(features, 2, axis=-1)
        missing = layers.Multiply(dtype="float32", name="gated")([missing, ChangeGate(dtype="float32", name="gate")(taken)])
    restored = layers.Add(dtype="float32", name="restored")([start, missing])
    return keras.Model(degraded, restored, name=name)


def linear_features(degraded, linear_start: str) -> tuple:
    """What a network starts from and sees: the linear estimate, and it beside what it took away; or both times the image."""
    if not linear_start:
        return degraded, degraded
    # In bfloat16 the linear estimate, and what it took away, would lose more than a network can put back.
    start = linear_layer(linear_start, trainable=False, dtype="float32", name="linear")(degraded)
    taken = layers.Subtract(dtype="float32", name="taken")([degraded, start])
    return start, layers.Concatenate(dtype="float32", name="start")([start, taken])


def check_divides(image_shape, factor) -> None:
    """Raises a ``ValueError`` where a known height or width is no multiple of ``factor``."""
    if any(size is not None and size % factor for size in tuple(image_shape)[:2]):
        raise ValueError(f"image_shape must have a height and width that are multiples of {factor}, got {image_shape!r}")
