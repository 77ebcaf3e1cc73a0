import numpy as np
import pytest

from lstm_ae_lib import cifar10, datasets, degradations, keras, metrics, models
from lstm_ae_lib.study import checkpoints
from lstm_ae_lib.tasks import adversarial, perception

ops = keras.ops


@pytest.fixture(scope="module")
def pair():
    clean = cifar10.load_cifar10("sample").train_images[:32]
    return degradations.degrade(clean, "gauss2") / np.float32(255), clean / np.float32(255)


def make(weight=0.1, width=4, seed=0, **options):
    keras.utils.set_random_seed(seed)
    # Without recurrence: what trains it does not look inside, and scans take seconds to trace.
    generator = models.flagship(width=width, depth=1, latent=4, recurrence="none", linear_start="")
    return adversarial.AdversarialTraining(generator, adversarial.discriminator(width=4), weight, **options)


def compiled(model, rate=0.01):
    model.compile(keras.optimizers.SGD(rate), loss="mse", metrics=[metrics.PSNR(), keras.metrics.MeanSquaredError("mse")])
    model.optimizer.build(model.trainable_variables)  # else the step is traced twice, once to make these
    return model


def weights(model):
    return [weight.copy() for weight in model.get_weights()]


@pytest.mark.backends
def test_without_weight_the_restorer_trains_as_if_there_were_no_discriminator(pair):
    against, alone = compiled(make(weight=0)), compiled(make(weight=0).generator)
    for _ in range(3):
        against.train_on_batch(*pair)
        alone.train_on_batch(*pair)
    for one, other in zip(against.generator.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.backends
def test_the_generators_loss_does_not_reach_the_discriminator(pair):
    """With any weight the discriminator makes the same first step: it learns from its own loss alone."""
    after = []
    for weight in (0, 1000):
        model = compiled(make(weight, penalty=0.0), 0.001)
        model.train_on_batch(*pair)
        after.append(weights(model.discriminator))
    before = weights(make().discriminator)
    assert any(np.abs(one - old).max() > 0 for one, old in zip(after[0], before, strict=True))
    for one, other in zip(*after, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.mark.backends
def test_the_discriminators_loss_does_not_reach_the_generator(pair):
    after = []
    for penalty in (0.0, 1.0):
        model = compiled(make(0, penalty=penalty), 0.001)
        model.train_on_batch(*pair)
        after.append(weights(model.generator))
    for one, other in zip(*after, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)


def test_the_restorer_follows_the_adversarial_loss(pair):
    """With the discriminator held still, steps of the restorer make what it restores look cleaner."""
    model = make(weight=1.0)
    model.discriminator.trainable = False
    compiled(model, 0.05)
    losses = [model.train_on_batch(*pair, return_dict=True)["adversarial"]]
    for _ in range(10):
        model.reset_metrics()
        losses.append(model.train_on_batch(*pair, return_dict=True)["adversarial"])
    assert losses[-1] < losses[0]


def test_a_discriminator_that_trains_alone_becomes_accurate(pair):
    model = make(weight=0.0, penalty=0.0)
    model.generator.trainable = False
    model.compile(keras.optimizers.Adam(0.01), loss="mse")
    model.optimizer.build(model.trainable_variables)
    history = model.fit(*pair, batch_size=16, epochs=15, verbose=0).history
    assert history["discriminator_accuracy"][-1] > 0.8


def test_the_penalty_keeps_the_discriminator_smooth(pair):
    slopes = []
    for penalty in (0.0, 10.0):
        model = make(weight=0.0, penalty=penalty)
        model.generator.trainable = False
        model.compile(keras.optimizers.Adam(0.01), loss="mse")
        model.optimizer.build(model.trainable_variables)
        model.fit(*pair, batch_size=16, epochs=10, verbose=0)
        seen = np.concatenate([pair[1], pair[0]], axis=-1)
        moved = seen + 0.01 * np.random.default_rng(0).standard_normal(seen.shape).astype(np.float32)
        slopes.append(np.square(models.apply(model.discriminator, seen) - models.apply(model.discriminator, moved)).mean())
    assert slopes[1] < 0.5 * slopes[0]


def test_features_pull_too_and_stay_as_they_are(pair):
    keras.utils.set_random_seed(1)
    network = perception.classifier(width=4)
    features = keras.Model(network.inputs[0], network.get_layer("features").output)
    before = weights(features)
    with_features = compiled(make(0, features=features, feature_weight=1.0))
    without = compiled(make(0))
    for model in (with_features, without):
        model.train_on_batch(*pair)
    assert any(
        np.abs(one - other).max() > 1e-7
        for one, other in zip(weights(with_features.generator), weights(without.generator), strict=True)
    )
    for one, other in zip(weights(features), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_fit_resumes_with_the_same_weights(pair, tmp_path):
    """Checkpoints hold all of it: two epochs at once, and one after the other in a new process's place, end alike."""
    degraded, clean = (np.rint(images * 255).astype(np.uint8) for images in pair)

    def train(folder, epochs):
        model = compiled(make(), 0.01)
        saved = checkpoints.Checkpoints(tmp_path / folder)
        batches = datasets.training_batches(degraded, clean, 16, 0, first_epoch=saved.epoch)
        model.fit(batches, steps_per_epoch=2, epochs=epochs, initial_epoch=saved.epoch, shuffle=False, verbose=0,
                  validation_data=pair, callbacks=[saved])  # fmt: skip
        return weights(model)

    whole = train("whole", 2)
    train("parts", 1)
    for one, other in zip(whole, train("parts", 2), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_training_survives_a_keras_file(pair, tmp_path):
    model = compiled(make())
    model.train_on_batch(*pair)
    model.save(tmp_path / "training.keras")
    again = keras.saving.load_model(tmp_path / "training.keras")
    assert again.weight == model.weight
    np.testing.assert_array_equal(models.apply(again.generator, pair[0]), models.apply(model.generator, pair[0]))
    for one, other in zip(again.discriminator.get_weights(), model.discriminator.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


class Ended:
    stop_training = False


@pytest.mark.parametrize(
    ("logs", "reason"),
    [
        ([{"discriminator_accuracy": 0.99, "val_mse": 0.1}] * 3, "accuracy was above 0.98 for 3 epochs"),
        ([{"discriminator_accuracy": accuracy} for accuracy in (0.99, 0.9, 0.99, 0.99)], ""),
        ([{"discriminator_accuracy": 0.6, "val_mse": 0.3}], "MSE of 3.00e-01 is above 2.00e-01"),
        ([{"discriminator_accuracy": 0.6, "val_mse": float("nan")}], "MSE of nan"),
        ([{"discriminator_accuracy": 0.6, "val_mse": 0.1}] * 5, ""),
    ],
)
def test_a_lost_training_ends_and_says_so(logs, reason, capsys):
    watch = adversarial.StopOnDivergence(worst=0.2, patience=3)
    watch.set_model(Ended())
    for epoch, one in enumerate(logs):
        watch.on_epoch_end(epoch, one)
    assert reason in watch.reason and watch.model.stop_training == bool(reason)
    assert (reason in capsys.readouterr().out) if reason else not watch.reason


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="weight must be a number from 0"):
        make(-1)
    with pytest.raises(ValueError, match="noise must be a number above 0"):
        make(noise=0)
    with pytest.raises(ValueError, match="worst must be a number above 0"):
        adversarial.StopOnDivergence(0)
    with pytest.raises(ValueError, match="patience must be a whole number from 1"):
        adversarial.StopOnDivergence(1.0, 0)
    with pytest.raises(ValueError, match="multiples of 8"):
        adversarial.discriminator((30, 32, 3))
