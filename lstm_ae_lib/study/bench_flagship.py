"""The flagship's training step and inference beside the same network in PyTorch, in float32 and bfloat16: tasks of ``bench train``.

Both without the linear start, which is not trained. PyTorch runs it as it is written, not compiled, channels last
in memory; its scan is a loop over the positions, both ways of an axis at once.
"""

import functools

import numpy as np

from lstm_ae_lib import fast, layers, models
from lstm_ae_lib._backend import keras

SIDE, WIDTH, DEPTH, LATENT = 32, 64, 2, 64  # of the images, and the flagship's own
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}  # of the products; weights and sums are float32 in both
PRODUCT = "gemm, bfloat16"  # beside which a task in bfloat16 is put
TASKS = {"flagship step, float32": ((64,), 640), "flagship step, bfloat16": ((64,), 640),
         "flagship inference, float32": ((64,), 1280), "flagship inference, bfloat16": ((64,), 1280),
         "scans of a step, float32": ((64,), 640), "scans of a step, bfloat16": ((64,), 640)}  # fmt: skip


def multiply_adds(step: bool) -> int:
    """Of one image in the flagship's products: forwards; of a training step also backwards, to all inputs but the image and to all
    weights."""
    model = flagship("float32")
    first = model.get_layer("first").kernel.shape
    forward = models.multiply_adds(model)
    return 3 * forward - (SIDE // 2) ** 2 * int(np.prod(first)) if step else forward


def flagship(precision: str):
    """The Keras model."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(PRECISIONS[precision])
    try:
        return models.flagship((SIDE, SIDE, 3), WIDTH, DEPTH, LATENT, linear_start="")
    finally:
        keras.config.set_dtype_policy(before)


def keras_tasks(training, images, gemm) -> dict:
    """Task -> a function of the size of a batch, giving what to call and the steps in one call. ``training``: of a model and a
    batch of images the same; ``images``: of a size of a batch; ``gemm``: the shapes of a product."""
    import tensorflow as tf

    def inference(precision, batch):
        model, inputs = flagship(precision), tf.constant(images(batch, (SIDE, SIDE, 3)))
        return tf.function(lambda: model(inputs, training=False)), 1

    def product(_):
        left, right = (tf.cast(tf.random.normal(shape), "bfloat16") for shape in (gemm[:2], gemm[1:]))
        return tf.function(lambda: tf.matmul(left, right)), 1

    def step(precision, batch):
        return training(flagship(precision), images(batch, (SIDE, SIDE, 3)))

    def scans(precision, batch):
        """The recurrences alone, without their products, forwards and backwards: what no faster product would shorten."""
        projected, units = tf.cast(images(batch, (SIDE // 2, SIDE // 2, 4 * WIDTH)), precision), WIDTH // 2

        def both(_):
            with tf.GradientTape() as tape:
                tape.watch(projected)
                swept = fast.kernels("scan").scan(projected, units, layers.GatedScan.WAYS["both"], False)
            return tape.gradient(swept, projected)

        return tf.function(lambda: [both(place) for place in range(2 * DEPTH)]), 1

    return _named(step, inference) | _named(scans, what=("scans of a step",)) | {PRODUCT: product}


def torch_tasks(training, images, gemm) -> dict:
    """The same of PyTorch; ``training``: of a model, a batch of images and what each forward pass runs in."""
    import torch

    def inputs(batch):
        return torch.from_numpy(images(batch, (SIDE, SIDE, 3))).permute(0, 3, 1, 2)  # channels last in memory

    def within(precision):
        return functools.partial(torch.autocast, "cpu", torch.bfloat16, precision == "bfloat16")

    def inference(precision, batch):
        model, shown, context = torch_flagship().eval(), inputs(batch), within(precision)

        @torch.inference_mode()
        def call():
            with context():
                return model(shown)

        return call, 1

    def product(_):
        return functools.partial(torch.matmul, *(torch.randn(shape, dtype=torch.bfloat16) for shape in (gemm[:2], gemm[1:]))), 1

    def step(precision, batch):
        return training(torch_flagship(), inputs(batch), within(precision))

    return _named(step, inference) | {PRODUCT: product}


def _named(*makers, what=("flagship step", "flagship inference")):
    return {f"{name}, {precision}": functools.partial(make, precision)
            for name, make in zip(what, makers, strict=True) for precision in PRECISIONS}  # fmt: skip


def torch_flagship():
    """The flagship as a PyTorch module: images ``(batch, 3, height, width)``, channels last in memory -> the same."""
    import torch
    from torch import nn

    def convolution(given, made, side):
        return nn.Conv2d(given, made, side, padding=side // 2)

    class Scan(nn.Module):
        """:class:`lstm_ae_lib.layers.GatedScan`: both ways of an axis side by side, position after position."""

        def __init__(self):
            super().__init__()
            self.project = nn.Linear(WIDTH, 4 * WIDTH)

        def forward(self, hidden):
            hidden = hidden.permute(0, 2, 3, 1)
            projected, swept = self.project(hidden).float(), []
            for axis, part in zip((2, 1), projected.chunk(2, -1), strict=True):
                forwards, backwards = part.chunk(2, -1)
                gates, candidates = torch.stack([forwards, backwards.flip(axis)], -2).chunk(2, -1)
                forget = torch.tanh(gates)
                factors, terms = (values.unbind(axis) for values in (forget, (1 - forget.abs()) * candidates))
                states = [terms[0]]
                for factor, term in zip(factors[1:], terms[1:], strict=True):
                    states.append(torch.addcmul(term, factor, states[-1]))
                forwards, backwards = torch.stack(states, axis).unbind(-2)
                swept += [forwards, backwards.flip(axis)]
            return torch.cat(swept, -1).to(hidden.dtype).permute(0, 3, 1, 2)

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = convolution(WIDTH, WIDTH, 3), convolution(WIDTH, WIDTH, 3)
            self.scan, self.mix = Scan(), convolution(2 * WIDTH, WIDTH, 1)

        def forward(self, hidden):
            hidden = hidden + self.conv2(torch.relu(self.conv1(hidden)))
            return hidden + self.mix(self.scan(hidden))

    class Flagship(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, WIDTH, 6, stride=2, padding=2)
            self.encoder, self.decoder = (nn.ModuleList(Pair() for _ in range(DEPTH)) for _ in range(2))
            self.latent, self.from_latent = convolution(WIDTH, LATENT, 1), convolution(LATENT, WIDTH, 1)
            self.last = convolution(WIDTH, 12, 3)

        def forward(self, images):
            hidden, encoded = self.first(images), []
            for pair in self.encoder:
                hidden = pair(hidden)
                encoded.append(hidden)
            hidden = self.from_latent(self.latent(hidden))
            for pair, skip in zip(self.decoder, reversed(encoded), strict=True):
                hidden = pair(hidden + skip)
            return images + nn.functional.pixel_shuffle(self.last(hidden), 2).float()

    return Flagship().to(memory_format=torch.channels_last)
