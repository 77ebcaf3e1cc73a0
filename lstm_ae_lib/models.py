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
    positive: bool = False, skips: bool = True, repeats: int = 1, linear_start: str = "dct1", name: str = "flagship",
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
        linear_start: as for the peers. Default ``"dct1"``.
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
    return peers.residual_model(image_shape, linear_start, body, name)


def _recurrent_body(width, depth, latent, recurrence="scan", along="both", positive=False, skips=True, repeats=1):
    """The flagship's layers between what it sees and what it adds: a function for :func:`lstm_ae_lib.peers.residual_model`."""

    def convolution(filters, side, name, **options):
        return layers.Conv2D(filters, side, padding="same", name=name, **options)

    def pair(name):
        """A residual block and a recurrent one: layers that are made once and applied ``repeats`` times."""
        one = convolution(width, 3, f"{name}_conv1", activation="relu", kernel_initializer="he_normal")
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
            options = {"activation": "relu", "kernel_initializer": "he_normal"}
            look = convolution(round(0.6 * width), 3, f"{name}_instead", **options)

        def applied(hidden):
            for _ in range(repeats):
                hidden = add1([hidden, two(one(hidden))])
                if recurrence != "none":
                    hidden = add2([hidden, mix(look(hidden))])
            return hidden

        return applied

    def body(features, channels):
        hidden = layers.Conv2D(width, 6, strides=2, padding="same", name="first")(features)
        encoded = []
        for place in range(depth):
            hidden = pair(f"encoder{place}")(hidden)
            encoded.append(hidden)
        hidden = convolution(latent, 1, "latent")(hidden)
        hidden = convolution(width, 1, "from_latent")(hidden)
        for place in reversed(range(depth)):
            if skips:
                hidden = layers.Add(name=f"skip{place}")([hidden, encoded[place]])
            hidden = pair(f"decoder{place}")(hidden)
        missing = convolution(4 * channels, 3, "last", kernel_initializer="zeros")(hidden)
        return DepthToSpace(2, name="shuffle")(missing)

    return body


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
    name: str = "compressor",
):  # fmt: skip
    """A recurrent autoencoder with a bottleneck of whole numbers, for compression.

    clean -> encoder -> cosine transform, of which ``latent`` coefficients are kept -> rounded to steps -> what the
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
    if rate == -1:
        rate = step**2 * math.log(2) / 6 / math.prod(image_shape)

    def half(part):
        return peers.residual_model(image_shape, "", _recurrent_body(width, depth, width), part)

    clean = layers.Input(image_shape, name="clean")
    seen = half("encoder")(clean) if width else clean
    numbers = SpectralLatent(latent, dtype="float32", name="latent")(seen)
    numbers = Quantize(step, rate, dtype="float32", name="quantize")(numbers)
    reconstruction = SpectralImage(image_shape, dtype="float32", name="from_latent")(numbers)
    reconstruction = half("decoder")(reconstruction) if width else reconstruction
    return keras.Model(clean, reconstruction, name=name)


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
    return next((layer for layer in model.layers if isinstance(layer, SpectralWiener | SpectralMixture)), None)


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
    element_wise = layers.BatchNormalization | layers.LayerNormalization | ChannelScale | Quantize
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
