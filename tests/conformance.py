"""One list of every public layer and model, and how to make it. Each check of test_conformance.py runs over all of them;
a public layer or builder that is missing here fails a test."""

import dataclasses
from collections.abc import Callable

from lstm_ae_lib import keras, layers, metrics, models, peers, spectral
from lstm_ae_lib.tasks import (
    adversarial,
    any_rate,
    bursts,
    compression,
    hyperprior,
    mending,
    perception,
    reach,
    recurrent_inference,
    row_feedback,
    variational,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    make: Callable
    input_shape: tuple  # without the batch; of several inputs, a shape for each
    differentiable: bool = True
    output_shape: tuple | None = None  # of a model whose output is not as large as its (first) input
    # How far bfloat16 may be off, in roundings to it (2 ** -8) of the largest value: 4 for sums of rounded products.
    roundings: float = 4
    rate: float = 0.02  # of a step of gradient descent that lowers the loss

    def __str__(self):
        return self.name


ONE = 0.501  # numbers are moved only, and rounded once, to half a step
LAYERS = [
    Case("ImageToRows", lambda **k: layers.ImageToRows(**k), (8, 6, 3), roundings=ONE),
    Case("RowsToImage", lambda **k: layers.RowsToImage(channels=3, **k), (8, 18), roundings=ONE),
    Case("RowsToImage-one-channel", lambda **k: layers.RowsToImage(channels=1, **k), (8, 18), roundings=ONE),
    Case("FastLSTM", lambda **k: layers.FastLSTM(4, return_sequences=True, **k), (8, 5)),
    Case("FastLSTM-last", lambda **k: layers.FastLSTM(4, go_backwards=True, **k), (8, 5)),
    Case("LSTMSweep-rows", lambda **k: layers.LSTMSweep(4, "rows", **k), (8, 6, 3)),
    Case("LSTMSweep-columns", lambda **k: layers.LSTMSweep(4, "columns", **k), (8, 6, 3)),
    Case("GatedScan", lambda **k: layers.GatedScan(4, **k), (8, 6, 3)),
    Case("GatedScan-columns", lambda **k: layers.GatedScan(4, "columns", positive=True, **k), (8, 6, 3)),
    Case("BoundedScan", lambda **k: reach.BoundedScan(4, bound=0.6, **k), (8, 6, 3)),
    Case("RasterAccumulator", lambda **k: mending.RasterAccumulator(4, **k), (8, 6, 3)),
    Case("BlockFeatures", lambda **k: mending.BlockFeatures(**k), (16, 8, 3), roundings=ONE + 4),
    Case("MovedBack", lambda **k: mending.MovedBack(**k), ((16, 8, 3), (2, 1, 9)), output_shape=(2, 1, 192)),
    Case("RowFeedback", lambda **k: row_feedback.RowFeedback(4, 2, 1, **k), ((16, 24, 3), (2, 3, 5)), output_shape=(2, 3, 12)),
    Case("Registration", lambda **k: bursts.Registration(1, **k), (11, 12, 6), output_shape=(2,)),
    Case("ConvLSTMStep", lambda **k: recurrent_inference.ConvLSTMStep(3, **k), (8, 6, 10)),
    Case("SimpleGate", lambda **k: layers.SimpleGate(**k), (8, 6, 4)),
    Case("ChannelScale", lambda **k: layers.ChannelScale(0.5, **k), (8, 6, 3), roundings=ONE),
    Case("ChangeGate", lambda **k: layers.ChangeGate(3, 5.0, **k), (8, 6, 3)),
    Case("DepthToSpace", lambda **k: layers.DepthToSpace(2, **k), (8, 6, 12), roundings=ONE),
    Case("SpectralWiener-dct1", lambda **k: spectral.SpectralWiener("dct1", **k), (8, 6, 3)),
    Case("SpectralWiener-dct2", lambda **k: spectral.SpectralWiener("dct2", **k), (8, 6, 3)),
    Case("SpectralMixture-dct1", lambda **k: spectral.SpectralMixture("dct1", parts=3, bands=4, **k), (8, 6, 3)),
    Case("SpectralMixture-dct2", lambda **k: spectral.SpectralMixture("dct2", parts=2, bands=4, **k), (8, 6, 3)),
    Case("SpectralLatent", lambda **k: compression.SpectralLatent(40, **k), (8, 6, 3)),
    Case("SpectralImage", lambda **k: compression.SpectralImage((8, 6, 3), **k), (40,)),
    # A value on the edge between two steps falls to the other one: 0.02 of values up to 1.
    Case("DivisiveNorm", lambda **k: hyperprior.DivisiveNorm(**k), (4, 6, 5)),
    Case("DivisiveNorm-inverse", lambda **k: hyperprior.DivisiveNorm(True, **k), (4, 6, 5)),
    Case(
        "ScaledQuantize",
        lambda **k: hyperprior.ScaledQuantize(0.02, 1e-4, **k),
        ((4, 6, 5), (4, 6, 5)),
        False,
        roundings=0.02 * 2**8 + 0.5,
    ),
    Case("Quantize", lambda **k: compression.Quantize(0.02, 1e-4, **k), (40,), False, roundings=0.02 * 2**8 + 0.5),
    *(
        Case(
            f"RowContext-{context}",
            lambda context=context, **k: any_rate.RowContext(6, 5, context, **k),
            ((3, 2, 192), (1,)),
            context != "none",
            roundings=ONE,
            output_shape=(3, 2, 384),
        )
        for context in any_rate.CONTEXTS
    ),
    Case("RowQuantize", lambda **k: any_rate.RowQuantize(6, 5, **k), ((3, 2, 192), (1,)), False, roundings=ONE),
    Case("LatentSample", lambda **k: variational.LatentSample(beta=0.01, free_nats=0.1, **k), (8,)),
    Case("LatentSample-prior", lambda **k: variational.LatentSample(True, beta=0.01, kl_warmup_steps=3, **k), (8, 6, 8)),
    Case("GaussianBlur", lambda **k: layers.GaussianBlur(1.5, **k), (8, 6, 3)),
    Case("GaussianBlur-scipy", lambda **k: layers.GaussianBlur(1.0, "reflect", True, **k), (8, 6, 3)),
    Case("GaussianBlur-8-bit", lambda **k: layers.GaussianBlur(1.0, rounding="opencv", **k), (8, 6, 3), False),
    Case("GaussianBlur-truncate", lambda **k: layers.GaussianBlur(1.0, "reflect", True, "truncate", **k), (8, 6, 3), False),
]

SMALL = {"image_shape": (8, 6, 3), "units": (5, 4)}
SMALL_BURST = {"image_shape": (12, 10, 3), "frames": 3, "width": 6, "state": 4, "window": 2}
MODELS = [
    Case("reference_lstm_autoencoder", lambda: models.reference_lstm_autoencoder(**SMALL), (8, 6, 3)),
    Case("reference_lstm_autoencoder-bi", lambda: models.reference_lstm_autoencoder(**SMALL, bidirectional=True), (8, 6, 3)),
    Case("reference_lstm_autoencoder-narrow", lambda: models.reference_lstm_autoencoder(**SMALL, bottleneck=3), (8, 6, 3)),
    Case("dncnn", lambda: peers.dncnn((8, 6, 3), width=4, depth=4), (8, 6, 3)),
    Case("dncnn-linear", lambda: peers.dncnn((8, 6, 3), width=4, depth=4, linear_start="dct1"), (8, 6, 3)),
    Case("dncnn-mixture", lambda: peers.dncnn((8, 6, 3), width=4, depth=4, linear_start="dct1x3"), (8, 6, 3)),
    Case("rednet", lambda: peers.rednet((8, 6, 3), width=4, depth=3), (8, 6, 3)),
    Case("unet", lambda: peers.unet((8, 4, 3), width=3, levels=2), (8, 4, 3)),
    Case("nafnet", lambda: peers.nafnet((8, 4, 3), width=4, encoder=(1, 1), middle=1, decoder=(1, 1)), (8, 4, 3)),
    Case("flagship", lambda: models.flagship((8, 6, 3), width=8, depth=1, latent=4), (8, 6, 3)),
    Case("flagship-lstm", lambda: models.flagship((8, 6, 3), width=8, depth=1, recurrence="lstm", linear_start=""), (8, 6, 3)),
    # Weights that are used twice move the output twice as far: from some random weights 0.02 leaps over the minimum.
    Case("flagship-twice", lambda: models.flagship((8, 6, 3), width=8, depth=1, repeats=2), (8, 6, 3), rate=0.005),
    Case("flagship-gate", lambda: models.flagship((8, 6, 3), width=8, depth=1, gate=True), (8, 6, 3)),
    Case("multiscale_flagship", lambda: models.multiscale_flagship((8, 4, 3), width=6, latent=4), (8, 4, 3), rate=0.005,
         roundings=4 if keras.backend.backend() == "tensorflow" else 7),  # PyTorch and JAX round sums to bfloat16 too
    Case("multiscale_flagship-plain", lambda: models.multiscale_flagship(
        (8, 6, 3), width=6, depths=(1,), recurrence="convolution", attention=False, skips=False, linear_start="dct1"), (8, 6, 3)),
    Case("recurrent_inference", lambda: recurrent_inference.recurrent_inference((8, 6, 3), width=4, iterations=2), (8, 6, 3)),
    Case("bounded_flagship", lambda: reach.bounded_flagship((8, 6, 3), width=8, depth=1, latent=4), (8, 6, 3)),
    *(Case(f"jpeg_mender-{memory}", lambda memory=memory: mending.jpeg_mender((32, 24, 3), memory, 8, 1, 4), (32, 24, 3))
      for memory in mending.MEMORIES),
    # A shift that is measured between two rounded estimates is another shift: the recurrent one is aligned in test_bursts.py only.
    *(Case(f"burst_restorer-{memory}", lambda memory=memory: bursts.burst_restorer(
        **SMALL_BURST, memory=memory, align=memory != "recurrent"), (3, 12, 10, 3), output_shape=(12, 10, 3))
      for memory in bursts.MEMORIES),
    Case("feedback_mender", lambda: row_feedback.feedback_mender((32, 24, 3), 8, 1, 4, 1), (32, 24, 3)),
    Case("block_peer-unet", lambda: mending.block_peer((32, 32, 3), "unet", 8, {"width": 4, "levels": 1}), (32, 32, 3)),
    Case("compressor", lambda: compression.compressor((8, 6, 3), latent=40, step=0.02, width=4), (8, 6, 3), roundings=5),
    Case(  # random components have the largest curvature of all: at 0.02 a step leaps over the minimum
        "compressor of components",
        lambda: compression.compressor((8, 6, 3), latent=40, step=0.02, width=4, transform="components"),
        (8, 6, 3), roundings=5, rate=0.002,
    ),  # fmt: skip
    Case("scale_hyperprior", lambda: hyperprior.scale_hyperprior((8, 16, 3), 4, 6, 1, 0.02, 1e-4), (8, 16, 3), roundings=ONE),
    # Of a latent rounded to steps of 1 to 2, what falls on an edge between two is in bfloat16 another step.
    Case("any_rate_compressor", lambda: any_rate.any_rate_compressor((24, 16, 3), width=4, memory=6, hidden=5),
         ((24, 16, 3), (1,)), roundings=48, rate=0.0005),
    Case("variational_autoencoder", lambda: variational.variational_autoencoder((8, 4, 3), latent=5, width=4), (8, 4, 3)),
    Case("conditional_vae", lambda: variational.conditional_vae((8, 6, 3), width=4, latent=2), ((8, 6, 3), (8, 6, 3))),
    Case("discriminator", lambda: adversarial.discriminator((8, 16, 3), width=2), (8, 16, 6), output_shape=(1, 2, 1)),
    Case("classifier", lambda: perception.classifier((8, 16, 3), width=2, classes=4), (8, 16, 3), output_shape=(4,)),
    Case("linear_filter", lambda: spectral.linear_filter((8, 6, 3), "dct1"), (8, 6, 3)),
    Case("linear_mixture", lambda: spectral.linear_mixture((8, 6, 3), "dct1", 3), (8, 6, 3)),
]

# Modules that may define layers, metrics or builders.
LAYER_MODULES = (layers, spectral, any_rate, bursts, compression, hyperprior, mending, reach, recurrent_inference, variational)
METRIC_MODULES = (metrics, variational)
