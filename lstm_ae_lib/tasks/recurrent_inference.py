"""A recurrent inference machine for restoration: a convolutional LSTM over iterations."""

import math

import numpy as np

from lstm_ae_lib import checks, layers, models, peers, spectral, weights
from lstm_ae_lib._backend import keras

ops = keras.ops


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class ConvLSTMStep(keras.layers.Layer):
    """One step of a convolutional LSTM: gates by a convolution over input and state (Shi et al., "Convolutional LSTM Network",
    2015; without the peepholes). Unlike Keras' ``ConvLSTM2D`` it does not need to know the whole sequence beforehand.

    Weights: ``kernel`` ``(kernel_size, kernel_size, channels + filters, 4 * filters)``, 1 to 65,536 filters and an odd size of 1 to
    31, and ``bias`` ``(4 * filters,)``; the gates in Keras' order (input, forget, cell, output), the forget gate's bias 1 at first.

    Input: ``(batch, height, width, channels + 2 * filters)``, the features, then hidden and cell state. Output: the new state
    ``(batch, height, width, 2 * filters)``. Raises ``ValueError`` for an argument out of range, or an input of too few channels.
    """

    def __init__(self, filters, kernel_size=3, **kwargs):
        super().__init__(**kwargs)
        self.filters = int(checks.number(filters, "filters", 1, 65536, whole=True))
        self.kernel_size = int(checks.number(kernel_size, "kernel_size", 1, 31, whole=True))
        if not self.kernel_size % 2:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")

    def build(self, input_shape):
        self.compute_output_shape(input_shape)
        side, channels = self.kernel_size, input_shape[-1] - self.filters
        self.kernel = self.add_weight(name="kernel", shape=(side, side, channels, 4 * self.filters), initializer="glorot_uniform")
        forget = keras.initializers.Constant(np.repeat([0.0, 1.0, 0.0, 0.0], self.filters))
        self.bias = self.add_weight(name="bias", shape=(4 * self.filters,), initializer=forget)
        self.built = True

    def call(self, inputs):
        gates = ops.conv(inputs[..., : -self.filters], self.kernel, padding="same") + self.bias
        input_gate, forget, candidate, output = ops.split(gates, 4, axis=-1)
        cell = ops.sigmoid(forget) * inputs[..., -self.filters :] + ops.sigmoid(input_gate) * ops.tanh(candidate)
        return ops.concatenate([ops.sigmoid(output) * ops.tanh(cell), cell], -1)

    def multiply_adds(self, given, made):
        return math.prod(made[1:3]) * math.prod(self.kernel.shape)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters, "kernel_size": self.kernel_size}

    def compute_output_shape(self, input_shape):
        if len(input_shape) != 4 or input_shape[-1] is None or input_shape[-1] <= 2 * self.filters:
            wanted = f"(batch, height, width, more than {2 * self.filters} channels)"
            raise ValueError(f"ConvLSTMStep needs {wanted}, got {tuple(input_shape)}")
        return (*input_shape[:3], 2 * self.filters)


@weights.register
def recurrent_inference(image_shape=(32, 32, 3), width: int = 64, iterations: int = 3, sigma: float = 2.0,
                        border: str = "reflect_101", linear_start: str = "dct1", name: str = "recurrent_inference"):  # fmt: skip
    """A recurrent inference machine: a convolutional LSTM improves the estimate again and again with the same weights.

    Each iteration sees its estimate x, the residual y - x and the data term A(y - A x), which shows where the estimate, blurred
    again, differs from the degraded image y. A convolutional LSTM at half the resolution, with a residual block behind it, adds
    to the estimate (Putzky and Welling, "Recurrent Inference Machines for Solving Inverse Problems", 2017).

    Args:
        image_shape: ``(height, width, channels)``, known, both sides even.
        width, iterations: channels of the state, 1 to 4,096; 1 to 100.
        sigma, border: of the blur A: up to 64 pixels, 0 for no data term; ``"reflect_101"`` or ``"reflect"``.
        linear_start: as for the peers: where the iterations begin, instead of at the degraded image.

    Returns a model with the images' shape, linear output, not clipped. Raises ``ValueError`` for an argument out of range.
    """
    checks.number(width, "width", 1, 4096, whole=True)
    checks.number(iterations, "iterations", 1, 100, whole=True)
    checks.number(sigma, "sigma", 0, 64)
    peers.check_divides(image_shape, 2)

    degraded = estimate = keras.layers.Input(image_shape, name="degraded")
    if linear_start:
        estimate = spectral.linear_layer(linear_start, trainable=False, dtype="float32", name="linear")(degraded)
    blur = layers.GaussianBlur(sigma, border, dtype="float32", name="blur") if sigma else None
    subtract = keras.layers.Subtract(dtype="float32", name="difference")
    join = keras.layers.Concatenate(dtype="float32", name="seen")
    first = models.convolution(width, 6, "first", strides=2, activation="relu")
    step, remember = ConvLSTMStep(width, name="lstm"), keras.layers.Concatenate(name="remember")
    widen = models.convolution(width, 3, "conv1", activation="relu", kernel_initializer="he_normal")
    narrow = models.convolution(width, 3, "conv2", kernel_initializer="zeros")
    last = models.convolution(4 * image_shape[-1], 3, "last", kernel_initializer="zeros")
    residual, shuffle = keras.layers.Add(name="residual"), layers.DepthToSpace(2, name="shuffle")
    improve, state = keras.layers.Add(dtype="float32", name="add"), None
    for _ in range(iterations):
        seen = [estimate, subtract([degraded, estimate])] + ([blur(subtract([degraded, blur(estimate)]))] if blur else [])
        features = first(join(seen))
        state = step(remember([features, remember([ops.zeros_like(features)] * 2) if state is None else state]))
        hidden = state[..., :width]
        estimate = improve([estimate, shuffle(last(residual([hidden, narrow(widen(hidden))])))])
    return keras.Model(degraded, estimate, name=name)
