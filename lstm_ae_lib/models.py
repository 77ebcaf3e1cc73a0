"""Builders that stack layers into models. A builder's arguments are plain values, so that a saved model is its builder's
name, these arguments and a file of weights."""

import math
from pathlib import Path

import numpy as np

from lstm_ae_lib import checks, files, peers
from lstm_ae_lib._backend import keras
from lstm_ae_lib.degradations import GaussianBlur
from lstm_ae_lib.layers import (
    ChannelScale,
    ConvLSTMStep,
    DepthToSpace,
    FastLSTM,
    GatedScan,
    ImageToRows,
    LatentSample,
    LSTMSweep,
    Quantize,
    RowsToImage,
    SpectralImage,
    SpectralLatent,
    SpectralMixture,
    SpectralWiener,
    linear_layer,
)

layers = keras.layers


def reference_lstm_autoencoder(
    image_shape=(32, 32, 3), units=(128, 64), bidirectional: bool = False, bottleneck: int = 0, name: str | None = None
):
    """The precursor study's LSTM autoencoder: the rows of the image are the time steps.

    image -> rows -> LSTM(128) -> LSTM(64) -> the same Dense for every row -> image. With the defaults it has 170,848
    parameters (115,200 + 49,408 + 6,240 at 32x32x3). Two things the precursor's model lacks can be turned on: with
    ``bidirectional`` a row also sees the rows below it, and with ``bottleneck`` the whole image passes through one vector
    (the first LSTM's last state -> Dense -> repeated for every row -> the second LSTM).

    Args:
        image_shape: ``(height, width, channels)``. Without a bottleneck the height may be None (any).
        units: hidden units of the encoder's and of the decoder's LSTM, each 1 to 65,536. Default (128, 64).
        bidirectional: run each LSTM in both directions and concatenate. Default False.
        bottleneck: width of the latent vector, 0 for none, at most 65,536. Default 0.
        name: the model's name.

    Returns:
        keras.Model: ``(batch, height, width, channels)`` in [0, 1] -> the same shape, linear output, not clipped.

    Raises:
        ValueError: an argument of the wrong kind or out of range.

    Example:
        >>> reference_lstm_autoencoder().count_params()
        170848
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
        latent = layers.Dense(bottleneck, name="latent")(hidden)
        hidden = layers.RepeatVector(height, name="repeat")(latent)
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
    positions both ways along both axes and mixes what it found with a 1x1 convolution. Between them is the latent, a map of
    ``latent`` channels; around it each decoder pair gets what the encoder pair in its mirror image put out. Every residual
    branch begins at zero, and so does the last layer.

    Args:
        image_shape: ``(height, width, channels)``, both sides even.
        width: channels of the hidden layers, a multiple of 2 up to 4,096. Default 64.
        depth: pairs of the encoder, and of the decoder, 1 to 64. Default 2.
        latent: channels of the latent, 1 to 4,096. Default 64.
        recurrence: ``"scan"`` (:class:`~lstm_ae_lib.layers.GatedScan`, ``width / 2`` units each way), ``"lstm"``
            (:class:`~lstm_ae_lib.layers.LSTMSweep` along rows and along columns, ``width / 4`` units each way),
            ``"convolution"`` (a 3x3 convolution with as many parameters as the scan in its place) or ``"none"``.
        along: of the scan: ``"both"`` axes, or ``"rows"`` or ``"columns"`` only, with twice the units. Default ``"both"``.
        positive: of the scan: coefficients from 0 to 1 only. Default False.
        skips: what the encoder's pairs put out goes to the decoder's; without, everything passes through the latent. Default
            True.
        repeats: how often each pair is applied, with the same weights: more computation, no more parameters; 1 to 100.
            Default 1.
        linear_start, gate: as for the peers. Default ``"dct1"``, and False.
        name: the model's name.

    Returns:
        keras.Model: ``(batch, height, width, channels)`` -> the same shape, linear output, not clipped.

    Raises:
        ValueError: an argument out of range.
    """
    checks.number(width, "width", 4, 4096, whole=True)
    checks.number(depth, "depth", 1, 64, whole=True)
    checks.number(latent, "latent", 1, 4096, whole=True)
    checks.number(repeats, "repeats", 1, 100, whole=True)
    checks.choice(recurrence, "recurrence", RECURRENCES)
    peers.check_divides(image_shape, 2)

    body = _recurrent_body(width, depth, latent, recurrence, along, positive, skips, repeats)
    return peers.residual_model(image_shape, linear_start, body, name, gate)


def _recurrent_body(width, depth, latent, recurrence="scan", along="both", positive=False, skips=True, repeats=1):
    """The flagship's layers between what it sees and what it adds: a function for :func:`lstm_ae_lib.peers.residual_model`."""

    def pair(name):
        return _pair(width, name, recurrence, along, positive, repeats)

    def body(features, channels):
        hidden = layers.Conv2D(width, 6, strides=2, padding="same", name="first")(features)
        encoded = []
        for place in range(depth):
            hidden = pair(f"encoder{place}")(hidden)
            encoded.append(hidden)
        hidden = _convolution(latent, 1, "latent")(hidden)
        hidden = _convolution(width, 1, "from_latent")(hidden)
        for place in reversed(range(depth)):
            if skips:
                hidden = layers.Add(name=f"skip{place}")([hidden, encoded[place]])
            hidden = pair(f"decoder{place}")(hidden)
        missing = _convolution(4 * channels, 3, "last", kernel_initializer="zeros")(hidden)
        return DepthToSpace(2, name="shuffle")(missing)

    return body


def _convolution(filters, side, name, **options):
    return layers.Conv2D(filters, side, padding="same", name=name, **options)


def _pair(width, name, recurrence="scan", along="both", positive=False, repeats=1):
    """A residual block and a recurrent one: layers that are made once and applied ``repeats`` times."""
    one = _convolution(width, 3, f"{name}_conv1", activation="relu", kernel_initializer="he_normal")
    two = _convolution(width, 3, f"{name}_conv2", kernel_initializer="zeros")
    mix = _convolution(width, 1, f"{name}_mix", kernel_initializer="zeros")
    add1, add2 = layers.Add(name=f"{name}_add1"), layers.Add(name=f"{name}_add2")
    if recurrence == "scan":
        look = GatedScan(width // 2 if along == "both" else width, along, positive, name=f"{name}_scan")
    elif recurrence == "lstm":
        rows, columns = (LSTMSweep(width // 4, along, name=f"{name}_{along}") for along in ("rows", "columns"))
        join = layers.Concatenate(name=f"{name}_sweeps")
        look = lambda hidden: join([rows(hidden), columns(hidden)])  # noqa: E731
    elif recurrence == "convolution":
        # 4 * width ** 2 of the scan and 2 * width ** 2 of its mixture are 10 * width times 3 / 5 of the width.
        options = {"activation": "relu", "kernel_initializer": "he_normal"}
        look = _convolution(round(0.6 * width), 3, f"{name}_instead", **options)

    def applied(hidden):
        for _ in range(repeats):
            hidden = add1([hidden, two(one(hidden))])
            if recurrence != "none":
                hidden = add2([hidden, mix(look(hidden))])
        return hidden

    return applied


def recurrent_inference(
    image_shape=(32, 32, 3), width: int = 64, iterations: int = 3, sigma: float = 2.0, border: str = "reflect_101",
    linear_start: str = "dct1", name: str = "recurrent_inference",
):  # fmt: skip
    """A convolutional LSTM over iterations instead of positions: the same weights improve the estimate again and again.

    Each iteration sees its estimate x, what the blur took from it (y - x) and the data term A(y - A x), which says where
    the estimate, blurred again, is not yet the degraded image; a convolutional LSTM at half the resolution, with a residual
    block behind it, remembers what earlier iterations have seen, and adds to the estimate (a recurrent inference machine:
    Putzky and Welling, 2017).

    Args:
        image_shape: ``(height, width, channels)``, known, both sides even.
        width: channels of the state, 1 to 4,096. Default 64.
        iterations: 1 to 100. Default 3.
        sigma: of the blur A in pixels; 0 where it is not known, then there is no data term. Default 2.
        border: of A: ``"reflect_101"`` or ``"reflect"``.
        linear_start: as for the peers: where the iterations begin, instead of at the degraded image. Default ``"dct1"``.
        name: the model's name.

    Returns:
        keras.Model: ``(batch, height, width, channels)`` -> the same shape, linear output, not clipped.

    Raises:
        ValueError: an argument out of range.
    """
    checks.number(width, "width", 1, 4096, whole=True)
    checks.number(iterations, "iterations", 1, 100, whole=True)
    checks.number(sigma, "sigma", 0, 64)
    peers.check_divides(image_shape, 2)

    degraded = layers.Input(image_shape, name="degraded")
    estimate = degraded
    if linear_start:
        estimate = linear_layer(linear_start, trainable=False, dtype="float32", name="linear")(degraded)
    blur = GaussianBlur(sigma, border, dtype="float32", name="blur") if sigma else None
    difference, join = layers.Subtract(dtype="float32", name="difference"), layers.Concatenate(dtype="float32", name="seen")
    first = layers.Conv2D(width, 6, strides=2, padding="same", activation="relu", name="first")
    step = ConvLSTMStep(width, name="lstm")
    widen = layers.Conv2D(width, 3, padding="same", activation="relu", kernel_initializer="he_normal", name="conv1")
    narrow = layers.Conv2D(width, 3, padding="same", kernel_initializer="zeros", name="conv2")
    last = layers.Conv2D(4 * image_shape[-1], 3, padding="same", kernel_initializer="zeros", name="last")
    residual, shuffle, improve = (
        layers.Add(name="residual"),
        DepthToSpace(2, name="shuffle"),
        layers.Add(dtype="float32", name="add"),
    )
    remember = layers.Concatenate(name="remember")
    state = None
    for _ in range(iterations):
        seen = [estimate, difference([degraded, estimate])]
        if blur is not None:
            seen.append(blur(difference([degraded, blur(estimate)])))
        features = first(join(seen))
        if state is None:
            nothing = keras.ops.zeros_like(features)
            state = remember([nothing, nothing])
        state = step(remember([features, state]))
        hidden = state[..., :width]
        found = residual([hidden, narrow(widen(hidden))])
        estimate = improve([estimate, shuffle(last(found))])
    return keras.Model(degraded, estimate, name=name)


def compressor(
    image_shape=(32, 32, 3), latent: int = 768, step: float = 0.25, width: int = 48, depth: int = 1, rate: float = -1.0,
    transform: str = "cosine", name: str = "compressor",
):  # fmt: skip
    """A recurrent autoencoder with a bottleneck of whole numbers, for compression.

    clean -> encoder -> linear transform, of which ``latent`` coefficients are kept -> rounded to steps -> what the
    coefficients say -> decoder -> clean again. Encoder and decoder are made as the flagship is (convolutions and scans at
    half the resolution) and begin as the identity, so that training starts from transform coding and learns what is worth
    keeping, and what belongs into the gaps. In training the rounding is replaced by noise, and the loss gets what the
    numbers would cost in bits (Ballé et al., "End-to-end Optimized Image Compression", 2017).

    Args:
        image_shape: ``(height, width, 3)``, known, both sides even.
        latent: numbers that pass through the bottleneck, 1 to height x width x 3, the slowest frequencies first. Default 768.
        step: to which they are rounded, in the units of an orthogonal transform of values in [0, 1]; above 0 up to 64. The
            coarser, the fewer bits. Default 0.25.
        width: channels of encoder and decoder, a multiple of 2 up to 4,096; 0 for none: transform coding alone. Default 48.
        depth: pairs of a residual block and a recurrent one on each side of each, 1 to 64. Default 1.
        rate: what one bit more an image costs in the loss; -1 for the price at which a finer step buys as much error
            (``step ** 2 * ln(2) / 6`` of the summed squared error). Default -1.
        transform: ``"cosine"``, which has no weights, or ``"components"``: principal components, which
            :func:`lstm_ae_lib.compression.start_from_components` puts in and no training changes. They hold more of an image
            where few numbers pass, and have ``2 x latent`` numbers for each of the image's. Default ``"cosine"``.
        name: the model's name.

    Returns:
        keras.Model: ``(batch, height, width, 3)`` -> the same shape, linear output, not clipped. Its layer ``latent`` gives
        the coefficients, ``quantize`` rounds them, ``from_latent`` and ``decoder`` lead back.

    Raises:
        ValueError: an argument out of range.
    """
    peers.check_divides(image_shape, 2)
    checks.number(width, "width", 0, 4096, whole=True)
    checks.number(depth, "depth", 1, 64, whole=True)
    checks.number(latent, "latent", 1, math.prod(image_shape), whole=True)
    checks.choice(transform, "transform", ("cosine", "components"))
    if rate == -1:
        rate = step**2 * math.log(2) / 6 / math.prod(image_shape)

    def half(part):
        return peers.residual_model(image_shape, "", _recurrent_body(width, depth, width), part)

    clean = layers.Input(image_shape, name="clean")
    seen = half("encoder")(clean) if width else clean
    if transform == "cosine":
        numbers = SpectralLatent(latent, dtype="float32", name="latent")(seen)
        from_latent = SpectralImage(image_shape, dtype="float32", name="from_latent")
    else:
        numbers = layers.Flatten(dtype="float32", name="all")(seen)
        numbers = layers.Dense(latent, dtype="float32", trainable=False, name="latent")(numbers)
        whole = layers.Dense(math.prod(image_shape), dtype="float32", name="components")
        from_latent = keras.Sequential(
            [layers.Input((latent,)), whole, layers.Reshape(image_shape)], name="from_latent", trainable=False
        )
    numbers = Quantize(step, rate, dtype="float32", name="quantize")(numbers)
    reconstruction = from_latent(numbers)
    reconstruction = half("decoder")(reconstruction) if width else reconstruction
    return keras.Model(clean, reconstruction, name=name)


def variational_autoencoder(
    image_shape=(32, 32, 3), latent: int = 128, width: int = 48, free_nats: float = 0.0, warm_up: int = 0,
    name: str = "variational_autoencoder",
):  # fmt: skip
    """A recurrent variational autoencoder: a vector of ``latent`` numbers that images can be drawn from.

    clean -> encoder -> mean and log variance -> a sample -> decoder -> clean again. Encoder and decoder are pairs of a
    residual block and scans, as the flagship's, at a half and at a quarter of the resolution, and nothing passes them but
    the latent. With :func:`lstm_ae_lib.metrics.gaussian_nats` as the loss, what training minimises is the negative
    evidence lower bound in nats for each of an image's values.

    Args:
        image_shape: ``(height, width, channels)``, known, both sides multiples of 4.
        latent: numbers, 1 to 65,536. Default 128.
        width: channels at half the resolution, twice as many at a quarter; a multiple of 2 up to 2,048. Default 48.
        free_nats, warm_up: of :class:`~lstm_ae_lib.layers.LatentSample`.
        name: the model's name.

    Returns:
        keras.Model: ``(batch, height, width, channels)`` -> the same shape, not clipped. Its parts ``encoder`` (image ->
        mean and log variance) and ``decoder`` (latent -> image) are models of their own.

    Raises:
        ValueError: an argument out of range.
    """
    checks.number(latent, "latent", 1, 65536, whole=True)
    checks.number(width, "width", 4, 2048, whole=True)
    if None in tuple(image_shape):
        raise ValueError(f"image_shape must be known, got {image_shape!r}")
    peers.check_divides(image_shape, 4)
    height, across, channels = image_shape
    narrow = 16  # channels that are flattened

    clean = layers.Input(image_shape, name="image")
    hidden = layers.Conv2D(width, 6, strides=2, padding="same", name="first")(clean)
    hidden = _pair(width, "half")(hidden)
    hidden = layers.Conv2D(2 * width, 4, strides=2, padding="same", name="down")(hidden)
    hidden = _pair(2 * width, "quarter")(hidden)
    hidden = layers.Flatten(name="flat")(_convolution(narrow, 1, "narrow")(hidden))
    statistics = layers.Dense(2 * latent, dtype="float32", name="statistics")(hidden)
    encoder = keras.Model(clean, statistics, name="encoder")

    numbers = layers.Input((latent,), name="numbers")
    hidden = layers.Dense(height // 4 * (across // 4) * narrow, name="wide")(numbers)
    hidden = layers.Reshape((height // 4, across // 4, narrow), name="map")(hidden)
    hidden = _pair(2 * width, "decoder_quarter")(_convolution(2 * width, 1, "widen")(hidden))
    hidden = DepthToSpace(2, name="up")(_convolution(4 * width, 1, "more")(hidden))
    hidden = _pair(width, "decoder_half")(hidden)
    image = DepthToSpace(2, dtype="float32", name="shuffle")(_convolution(4 * channels, 3, "last")(hidden))
    grey = layers.Rescaling(1.0, 0.5, dtype="float32", name="grey")(image)
    decoder = keras.Model(numbers, grey, name="decoder")

    price = 1 / math.prod(image_shape)
    image = layers.Input(image_shape, name="clean")
    sample = LatentSample(False, price, free_nats, warm_up, dtype="float32", name="sample")(encoder(image))
    return keras.Model(image, decoder(sample), name=name)


def conditional_vae(
    image_shape=(32, 32, 3), width: int = 64, latent: int = 4, free_nats: float = 0.0, warm_up: int = 0,
    linear_start: str = "dct1", name: str = "conditional_vae",
):  # fmt: skip
    """A recurrent variational autoencoder that restores: as many restored images for one degraded image as one likes.

    What a degraded image leaves open is a map of ``latent`` numbers at half the resolution. Its prior is read from the
    degraded image; its posterior, in training, from the clean one too. From a sample of it and the degraded image comes what
    is added to the linear estimate (Sohn et al., "Learning Structured Output Representation using Deep Conditional
    Generative Models", 2015). All parts are made of the flagship's pairs.

    Args:
        image_shape: ``(height, width, channels)``, both sides even.
        width: channels of the hidden layers, a multiple of 2 up to 4,096. Default 64.
        latent: channels of the map, 1 to 4,096. Default 4.
        free_nats, warm_up: of :class:`~lstm_ae_lib.layers.LatentSample`.
        linear_start: as for the peers. Default ``"dct1"``.
        name: the model's name.

    Returns:
        keras.Model: degraded and clean images, each ``(batch, height, width, channels)`` -> the same shape, not clipped. Its
        parts are models of their own: ``reader`` (degraded -> start, features, prior), ``posterior`` (clean, start, features
        -> posterior), ``writer`` (start, features, latent -> restored).

    Raises:
        ValueError: an argument out of range.
    """
    checks.number(width, "width", 4, 4096, whole=True)
    checks.number(latent, "latent", 1, 4096, whole=True)
    if None in tuple(image_shape):
        raise ValueError(f"image_shape must be known, got {image_shape!r}")
    peers.check_divides(image_shape, 2)
    height, across, channels = image_shape

    def shrunk(images, name):
        return layers.Conv2D(width, 6, strides=2, padding="same", name=name)(images)

    seen = layers.Input(image_shape, name="seen")
    start, known = peers.linear_features(seen, linear_start)
    features = _pair(width, "reader")(shrunk(known, "first"))
    prior = _convolution(2 * latent, 1, "prior", kernel_initializer="zeros", dtype="float32")(features)
    reader = keras.Model(seen, [start, features, prior], name="reader")

    wanted, given = layers.Input(image_shape, name="wanted"), layers.Input(image_shape, name="start_of_it")
    context = layers.Input((height // 2, across // 2, width), name="context")
    missing = layers.Subtract(dtype="float32", name="missing")([wanted, given])
    hidden = layers.Add(name="both")([shrunk(missing, "first_missing"), context])
    hidden = _pair(width, "comparer")(hidden)
    # Nearly without noise at first: a latent that begins as noise is one that the writer learns to leave alone.
    certain = {"kernel_initializer": "zeros", "bias_initializer": keras.initializers.Constant(-3.0)}
    mean = _convolution(latent, 1, "mean", dtype="float32")(hidden)
    log_variance = _convolution(latent, 1, "log_variance", dtype="float32", **certain)(hidden)
    statistics = layers.Concatenate(dtype="float32", name="statistics")([mean, log_variance])
    posterior = keras.Model([wanted, given, context], statistics, name="posterior")

    numbers = layers.Input((height // 2, across // 2, latent), name="numbers")
    hidden = layers.Add(name="joined")([context, _convolution(width, 1, "from_latent")(numbers)])
    hidden = _pair(width, "writer1")(_pair(width, "writer0")(hidden))
    found = DepthToSpace(2, name="shuffle")(_convolution(4 * channels, 3, "last", kernel_initializer="zeros")(hidden))
    restored = layers.Add(dtype="float32", name="restored")([given, found])
    writer = keras.Model([given, context, numbers], restored, name="writer")

    degraded, clean = layers.Input(image_shape, name="degraded"), layers.Input(image_shape, name="clean")
    start, features, prior = reader(degraded)
    statistics = layers.Concatenate(dtype="float32", name="both")([posterior([clean, start, features]), prior])
    price = 1 / math.prod(image_shape)
    sample = LatentSample(True, price, free_nats, warm_up, dtype="float32", name="sample")(statistics)
    return keras.Model([degraded, clean], writer([start, features, sample]), name=name)


def discriminator(image_shape=(32, 32, 3), width: int = 32, name: str = "discriminator"):
    """Tells clean images from restored ones, by patches; for adversarial training.

    It sees the image beside its degraded version. Three convolutions with stride 2, without normalisation, make it an eighth
    of the side; one number for each position says how clean its surroundings look (Isola et al., "Image-to-Image
    Translation with Conditional Adversarial Networks", 2017).

    Args:
        image_shape: ``(height, width, channels)``; sides multiples of 8.
        width: channels of the first convolution, 1 to 1,024. Default 32.
        name: the model's name.

    Returns:
        keras.Model: ``(batch, height, width, 2 * channels)``, image and degraded image -> ``(batch, height / 8, width / 8, 1)``.

    Raises:
        ValueError: an argument out of range.
    """
    checks.number(width, "width", 1, 1024, whole=True)
    peers.check_divides(image_shape, 8)
    hidden = seen = layers.Input((*image_shape[:2], 2 * image_shape[2]), name="seen")
    for place in range(3):
        hidden = layers.Conv2D(width * 2**place, 4, strides=2, padding="same", name=f"conv{place}")(hidden)
        hidden = layers.LeakyReLU(0.2, name=f"relu{place}")(hidden)
    hidden = _convolution(width * 4, 3, "conv3", activation="relu")(hidden)
    return keras.Model(seen, _convolution(1, 1, "judged", dtype="float32")(hidden), name=name)


def classifier(image_shape=(32, 32, 3), width: int = 32, classes: int = 10, name: str = "classifier"):
    """A small residual network that names an image's class; its features measure how natural restored images look.

    Convolutions with batch normalisation at full, half, quarter and eighth of the resolution, ``width``, twice and four times
    as many channels, residual blocks at half and quarter (in the manner of He et al., "Deep Residual Learning", 2016). The
    mean over all positions, ``4 * width`` numbers, are its features; one dense layer makes classes of them.

    Args:
        image_shape: ``(height, width, channels)``; sides multiples of 8.
        width: channels of the first convolution, 1 to 1,024. Default 32.
        classes: 2 to 65,536. Default 10.
        name: the model's name.

    Returns:
        keras.Model: images in [0, 1] -> ``(batch, classes)``, a softmax's logarithms up to a constant. The layer
        ``features`` gives its features.

    Raises:
        ValueError: an argument out of range.
    """
    checks.number(width, "width", 1, 1024, whole=True)
    checks.number(classes, "classes", 2, 65536, whole=True)
    peers.check_divides(image_shape, 8)

    def block(hidden, filters, name):
        hidden = layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal", name=name)(hidden)
        hidden = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(hidden)
        return layers.ReLU(name=f"{name}_relu")(hidden)

    image = layers.Input(image_shape, name="image")
    hidden = layers.Rescaling(4.0, -2.0, name="spread")(image)
    hidden = block(hidden, width, "full")
    for place, filters in enumerate((2 * width, 4 * width)):
        hidden = layers.MaxPooling2D(name=f"pool{place}")(block(hidden, filters, f"widen{place}"))
        branch = block(block(hidden, filters, f"one{place}"), filters, f"two{place}")
        hidden = layers.Add(name=f"add{place}")([hidden, branch])
    hidden = layers.MaxPooling2D(name="pool2")(block(hidden, 4 * width, "eighth"))
    features = layers.GlobalAveragePooling2D(dtype="float32", name="features")(hidden)
    return keras.Model(image, layers.Dense(classes, dtype="float32", name="classes")(features), name=name)


def linear_filter(image_shape=(32, 32, 3), transform: str = "dct1"):
    """One :class:`~lstm_ae_lib.layers.SpectralWiener` as a model; :func:`lstm_ae_lib.classical.fit_linear_filter` fits it.

    Args:
        image_shape: ``(height, width, 3)``, known.
        transform: ``"dct1"`` or ``"dct2"``.

    Returns:
        keras.Model: ``(batch, height, width, 3)`` -> the same; the identity until it is fitted.
    """
    return keras.Sequential([layers.Input(image_shape), SpectralWiener(transform, name="filter")], name="linear_filter")


def linear_mixture(image_shape=(32, 32, 3), transform: str = "dct1", parts: int = 12):
    """One :class:`~lstm_ae_lib.layers.SpectralMixture` as a model; :func:`lstm_ae_lib.classical.fit_linear_mixture` fits it.

    Args:
        image_shape: ``(height, width, 3)``, known.
        transform: ``"dct1"`` or ``"dct2"``.
        parts: filters.

    Returns:
        keras.Model: ``(batch, height, width, 3)`` -> the same; the identity until it is fitted.
    """
    return keras.Sequential([layers.Input(image_shape), SpectralMixture(transform, parts, name="mixture")], name="linear_mixture")


def linear_start_of(model):
    """The layer with which a model makes its linear estimate; None where it makes none."""
    layers_within = [layer for part in model.layers for layer in getattr(part, "layers", [part])]
    return next((layer for layer in layers_within if isinstance(layer, SpectralWiener | SpectralMixture)), None)


def set_linear_start(model, fitted) -> None:
    """Gives a model that starts from a linear estimate the numbers of a fitted filter, or of a fitted mixture.

    Args:
        model: built with ``linear_start``; one without is left as it is.
        fitted: what :func:`lstm_ae_lib.classical.fit_linear_filter` or
            :func:`~lstm_ae_lib.classical.fit_linear_mixture` returned, in the same transform.

    Raises:
        ValueError: a filter of another transform, another number of parts or another image size.
    """
    layer = linear_start_of(model)
    if layer is None:
        return
    source = linear_start_of(fitted)
    wanted, given = (f"{one.transform}x{one.parts}" if hasattr(one, "parts") else one.transform for one in (layer, source))
    if wanted != given:
        raise ValueError(f"the model starts from {wanted}, the fitted filter is of {given}")
    layer.set_weights(source.get_weights())


BUILDERS = {
    builder.__name__: builder
    for builder in (
        reference_lstm_autoencoder,
        flagship,
        recurrent_inference,
        compressor,
        variational_autoencoder,
        conditional_vae,
        discriminator,
        classifier,
        linear_filter,
        linear_mixture,
        peers.dncnn,
        peers.rednet,
        peers.unet,
        peers.nafnet,
    )
}


def build(builder: str, arguments: dict):
    """Builds a model from its builder's name and arguments, as a run folder records them.

    Raises:
        ValueError: an unknown builder, or arguments that it does not take.
    """
    checks.choice(builder, "builder", BUILDERS)
    try:
        return BUILDERS[builder](**arguments)
    except TypeError as error:
        raise ValueError(f"{builder} does not take these arguments: {error}") from error


def write(model, folder, name: str, builder: str, arguments: dict, **more) -> dict:
    """Writes a model as ``NAME.weights.h5`` and ``NAME.json``: its builder's name, the builder's arguments, the SHA-256.

    Args:
        model: what ``builder`` with ``arguments`` built, trained.
        folder: where to; it is made if it is missing.
        name: of the files.
        builder: a name in :data:`BUILDERS`.
        arguments: what the builder was called with, plain values.
        **more: what else to write down, plain values.

    Returns:
        dict: what stands in the JSON.

    Raises:
        ValueError: an unknown builder.
    """
    checks.choice(builder, "builder", BUILDERS)
    weights = Path(folder) / f"{name}.weights.h5"
    with files.replacing(weights) as temporary:
        model.save_weights(temporary)
    description = {
        "builder": builder, "arguments": arguments, "parameters": int(model.count_params()), "sha256": files.sha256(weights),
        **more,
    }  # fmt: skip
    files.write_json(Path(folder) / f"{name}.json", description)
    return description


def read(folder, name: str) -> tuple:
    """A model that :func:`write` has written, and what stands in its JSON.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: a damaged description, or weights that are not the ones that were written.
    """
    described, weights = Path(folder) / f"{name}.json", Path(folder) / f"{name}.weights.h5"
    for path in (described, weights):
        if not path.is_file():
            raise FileNotFoundError(f"there is no {path}")
    description = files.read_json(described)
    if files.sha256(weights) != description["sha256"]:
        raise ValueError(f"{weights} is damaged: its SHA-256 is not the one in {described.name}")
    model = build(description["builder"], description["arguments"])
    model.load_weights(weights)
    return model, description


def apply(model, inputs, batch_size: int = 500) -> np.ndarray:
    """A model's outputs, as ``predict`` gives them, but without compiling the model first: for one that is used once or twice.

    Args:
        model: of one input and one output.
        inputs: ``(n, ...)``.
        batch_size: inputs at a time; bounds the memory.
    """
    parts = [model(inputs[start : start + batch_size], training=False) for start in range(0, len(inputs), batch_size)]
    return np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])


def multiply_adds(model) -> int:
    """Multiply-adds that one image costs in a model's matrix products (element-wise work is not counted).

    Args:
        model: a built model with a known image size, of the layers that this library's builders use.

    Raises:
        ValueError: a layer with weights whose cost is not known here.
    """
    return sum(_calls(layer) * _cost(layer) for layer in model.layers)


def _calls(layer):
    """How often a model runs a layer: one that shares its weights between iterations, more than once."""
    return max(len(layer._inbound_nodes), 1)


def _cost(layer):
    """Multiply-adds of one call."""
    if isinstance(layer, keras.Model):
        return multiply_adds(layer)
    if isinstance(layer, SpectralLatent | SpectralImage):
        height, width, channels = layer.image_shape
        return height * width * channels * (height + width + channels)
    element_wise = layers.BatchNormalization | layers.LayerNormalization | ChannelScale | Quantize | LatentSample
    if not layer.weights or isinstance(layer, element_wise):
        return 0
    given, made = layer._inbound_nodes[0].input_tensors[0].shape, layer._inbound_nodes[0].output_tensors[0].shape
    if isinstance(layer, layers.LSTM):
        return given[1] * 4 * layer.units * (given[2] + layer.units)
    if isinstance(layer, layers.Bidirectional):
        units = layer.forward_layer.units
        return 2 * given[1] * 4 * units * (given[2] + units)
    if isinstance(layer, LSTMSweep):
        return 2 * math.prod(given[1:3]) * 4 * layer.units * (given[3] + layer.units)
    if isinstance(layer, layers.Conv2DTranspose):
        return math.prod(given[1:3]) * math.prod(layer.kernel.shape)
    if isinstance(layer, GatedScan | ConvLSTMStep | layers.DepthwiseConv2D | layers.Conv2D):
        return math.prod(made[1:3]) * math.prod(layer.kernel.shape)
    if isinstance(layer, layers.Dense):
        return math.prod(given[1:-1]) * math.prod(layer.kernel.shape)
    if isinstance(layer, SpectralWiener):
        _, height, width, channels = given
        return height * width * channels * (2 * (height + width) + channels)
    if isinstance(layer, SpectralMixture):
        _, height, width, channels = given
        transform = height * width * channels * (2 * (height + width) + 2 * channels)
        return transform + height * width * channels * (layer.bands + 2 * layer.parts) + math.prod(layer.kernel.shape)
    raise ValueError(f"the cost of the layer {layer.name} ({type(layer).__name__}) is not known")
