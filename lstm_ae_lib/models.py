"""Builders that stack layers into models. A builder's arguments are plain values, so that a saved model is its builder's
name, these arguments and a file of weights."""

import math

from lstm_ae_lib import checks, peers
from lstm_ae_lib._backend import keras
from lstm_ae_lib.layers import ChannelScale, FastLSTM, GatedScan, ImageToRows, LSTMSweep, RowsToImage, SpectralWiener

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


def linear_filter(image_shape=(32, 32, 3), transform: str = "dct1"):
    """One :class:`~lstm_ae_lib.layers.SpectralWiener` as a model; :func:`lstm_ae_lib.classical.fit_linear_filter` fits it.

    Args:
        image_shape: ``(height, width, 3)``, known.
        transform: ``"dct1"`` or ``"dct2"``.

    Returns:
        keras.Model: ``(batch, height, width, 3)`` -> the same; the identity until it is fitted.
    """
    return keras.Sequential([layers.Input(image_shape), SpectralWiener(transform, name="filter")], name="linear_filter")


def set_linear_start(model, fitted) -> None:
    """Gives a model that starts from a linear estimate the numbers of a fitted filter.

    Args:
        model: built with ``linear_start``; one without is left as it is.
        fitted: what :func:`lstm_ae_lib.classical.fit_linear_filter` returned, in the same transform.

    Raises:
        ValueError: a filter of another transform or another image size.
    """
    for layer in model.layers:
        if isinstance(layer, SpectralWiener):
            source = next(other for other in fitted.layers if isinstance(other, SpectralWiener))
            if layer.transform != source.transform:
                raise ValueError(f"the model starts from {layer.transform}, the fitted filter is of {source.transform}")
            layer.set_weights(source.get_weights())


BUILDERS = {
    builder.__name__: builder
    for builder in (reference_lstm_autoencoder, linear_filter, peers.dncnn, peers.rednet, peers.unet, peers.nafnet)
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


def multiply_adds(model) -> int:
    """Multiply-adds that one image costs in a model's matrix products (element-wise work is not counted).

    Args:
        model: a built model with a known image size, of the layers that this library's builders use.

    Raises:
        ValueError: a layer with weights whose cost is not known here.
    """
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            total += multiply_adds(layer)
        elif isinstance(layer, layers.LSTM):
            total += layer.input.shape[1] * 4 * layer.units * (layer.input.shape[2] + layer.units)
        elif isinstance(layer, layers.Bidirectional):
            steps, features = layer.input.shape[1:]
            units = layer.forward_layer.units
            total += 2 * steps * 4 * units * (features + units)
        elif isinstance(layer, LSTMSweep):
            _, height, width, channels = layer.input.shape
            total += 2 * height * width * 4 * layer.units * (channels + layer.units)
        elif isinstance(layer, GatedScan):
            total += math.prod(layer.input.shape[1:3]) * math.prod(layer.kernel.shape)
        elif isinstance(layer, layers.DepthwiseConv2D):
            total += math.prod(layer.output.shape[1:3]) * math.prod(layer.kernel.shape)
        elif isinstance(layer, layers.Conv2DTranspose):
            total += math.prod(layer.input.shape[1:3]) * math.prod(layer.kernel.shape)
        elif isinstance(layer, layers.Conv2D):
            total += math.prod(layer.output.shape[1:3]) * math.prod(layer.kernel.shape)
        elif isinstance(layer, layers.BatchNormalization | layers.LayerNormalization | ChannelScale):
            pass  # element-wise
        elif isinstance(layer, layers.Dense):
            total += math.prod(layer.input.shape[1:-1]) * layer.kernel.shape[0] * layer.kernel.shape[1]
        elif isinstance(layer, SpectralWiener):
            _, height, width, channels = layer.input.shape
            total += height * width * channels * (2 * (height + width) + channels)
        elif layer.weights:
            raise ValueError(f"the cost of the layer {layer.name} ({type(layer).__name__}) is not known")
    return total
