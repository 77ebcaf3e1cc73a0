"""The tasks' layers and models under Keras' mixed precision: as without it but for rounding, and trained to finite weights."""

import conformance
import numpy as np
import pytest
from test_conformance import as_array, batch, each_input

from lstm_ae_lib import models
from lstm_ae_lib._backend import keras
from lstm_ae_lib.tasks import adversarial, compression, perception, variational

ops = keras.ops
POLICIES = {"mixed_bfloat16": "bfloat16", "mixed_float16": "float16"}
TASKS = "lstm_ae_lib.tasks"
layers = pytest.mark.parametrize(
    "case", [case for case in conformance.LAYERS if type(case.make()).__module__.startswith(TASKS)], ids=str
)
builders = ("recurrent", "compressor", "any_rate", "scale", "variational", "conditional", "discriminator", "classifier")
all_models = pytest.mark.parametrize("case", [case for case in conformance.MODELS if case.name.startswith(builders)], ids=str)


@pytest.fixture(params=POLICIES)
def policy(request):
    before = keras.config.dtype_policy()
    keras.utils.set_random_seed(0)  # in half precision some first weights overflow, and the first step is then left out
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


def test_both_lists_hold_every_layer_and_builder_of_the_tasks():
    assert len(layers.args[1]) >= 6 and {case.name.split("-")[0].split()[0] for case in all_models.args[1]} == {
        "recurrent_inference", "compressor", "any_rate_compressor", "scale_hyperprior", "variational_autoencoder",
        "conditional_vae", "discriminator", "classifier"
    }  # fmt: skip


@layers
@pytest.mark.parametrize("training", [False, True])
def test_a_layer_computes_the_same_and_its_loss_too(case, training, policy):
    images, made = batch(case, 4), [case.make(dtype=dtype) for dtype in ("float32", policy)]
    for layer in made:
        layer.build(each_input(case, lambda shape: (4, *shape)))
    made[1].set_weights(made[0].get_weights())
    outputs = [layer(images, training=True) if training and layer._call_has_training_arg else layer(images) for layer in made]
    assert keras.backend.standardize_dtype(outputs[1].dtype) == POLICIES[policy]
    np.testing.assert_allclose(as_array(outputs[1]), as_array(outputs[0]), atol=0.05)
    assert all(keras.backend.standardize_dtype(loss.dtype) == "float32" for loss in made[1].losses)
    np.testing.assert_allclose(*([as_array(loss) for loss in layer.losses] for layer in made), rtol=0.01)


def trained(model, images, clean):
    """Two steps, by hand: tracing these graphs takes longer than running them."""
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse", run_eagerly=True)
    before = [weight.copy() for weight in model.get_weights()]
    for _ in range(2):
        assert np.isfinite(model.train_on_batch(images, clean, return_dict=True)["loss"])
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert any((old != new).any() for old, new in zip(before, model.get_weights(), strict=True))


@all_models
def test_a_model_trains(case, policy):
    model = case.make()
    trained(model, batch(case, 4), np.random.default_rng(1).random((4, *model.output_shape[1:])).astype(np.float32))


def test_a_restorer_trains_against_a_discriminator(policy):
    generator = models.flagship((8, 8, 3), width=8, depth=1, latent=4, linear_start="")
    features = perception.classifier((8, 8, 3), width=2)
    options = {"features": keras.Model(features.inputs[0], features.get_layer("features").output), "feature_weight": 1.0}
    training = adversarial.AdversarialTraining(generator, adversarial.discriminator((8, 8, 3), width=2), 0.1, **options)
    trained(training, *np.random.default_rng(0).random((2, 4, 8, 8, 3)).astype(np.float32))


def test_rounding_is_exact_whatever_the_dtype(policy):
    """What the layer rounds is its input in its own dtype; the symbols are those of the same input in float32."""
    latent = ops.cast(np.random.default_rng(0).uniform(-100, 100, (1, 2000)).astype(np.float32), POLICIES[policy])
    mixed, exact = (compression.Quantize(0.25, dtype=dtype) for dtype in (policy, "float32"))
    expected = ops.cast(exact(as_array(latent)), POLICIES[policy])
    np.testing.assert_array_equal(as_array(mixed(latent)), as_array(expected))


def test_the_warm_up_counts_beyond_the_digits_of_its_dtype(policy):
    layer = variational.LatentSample(beta=1.0, kl_warmup_steps=1000, dtype=policy)
    statistics = np.concatenate([np.full((2, 3), 2.0), np.zeros((2, 3))], axis=-1).astype(np.float32)  # 2 nats each
    layer(statistics)
    layer.steps.assign(498.0)
    for share in (0.499, 0.5, 0.501):
        layer(statistics, training=True)
        assert float(sum(layer.losses)) == pytest.approx(6 * share, rel=1e-5)


def test_a_divergence_above_the_largest_half_precision_number_is_finite(policy):
    layer = variational.LatentSample(dtype=policy)
    layer(np.full((1, 200), 60.0, np.float32), training=True)  # 1,800 nats each, and e^8 of the log variance
    assert float(sum(layer.losses)) > 65504
