"""How a restorer is trained against a discriminator, so that what it restores looks like clean images.

The restorer stays what it was, any network of this library; what is here stands round it while it trains.
"""

from lstm_ae_lib import checks, models, peers, weights
from lstm_ae_lib._backend import keras

ops = keras.ops


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class AdversarialTraining(keras.Model):
    """A restorer (the generator) and a discriminator that train together, with Keras' own ``compile`` and ``fit``.

    The loss given to ``compile`` is the distortion. To it comes ``weight`` times the adversarial loss: in each pair of a
    restored and a clean image the restored one should look cleaner to the discriminator, which learns the opposite
    (Jolicoeur-Martineau, "The relativistic discriminator", 2019). Where it tells them apart too easily it would leave the
    restorer nothing to follow; so it must not change much when its images change little, clean or restored (Huang et al.,
    "The GAN is dead; long live the GAN!", 2024, with the gradients taken as differences: Lin et al., "Diffusion Adversarial
    Post-Training", 2025).

    Both train in one step of one optimiser. What the restorer's loss would ask of the discriminator is taken out of it: the
    discriminator judges the restored images twice, once cut off from the restorer, and the difference of both is zero but
    for the restorer's gradient. So there is no training step of its own here, and what works with ``fit`` works: callbacks,
    checkpoints, any backend.

    Args:
        generator: the restorer, degraded image -> restored image.
        discriminator: :func:`lstm_ae_lib.tasks.adversarial.discriminator`, image and degraded image -> numbers.
        weight: of the adversarial loss, at least 0.
        penalty: on the discriminator's changes, at least 0. Default 0.003.
        noise: the standard deviation of the changes, above 0 up to 1. Default 0.01, well below what separates clean from
            restored images (0.04 on ``gauss2``): from noise of that size a discriminator that sees detail cannot look away.
        features: a frozen network, image -> features, in which restored and clean image should agree too; None for none.
        feature_weight: of the mean squared difference of those, at least 0. Default 0.
        seed: of the changes. Default 0.

    In the logs, beside the distortion: ``adversarial``, that loss of the restorer; and ``discriminator_accuracy``, the share of patches
    in which the discriminator finds the clean image cleaner: 0.5 when it cannot tell, 1 when it has won.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> training = AdversarialTraining(restorer, adversarial.discriminator(), weight=1e-3)  # doctest: +SKIP
        >>> training.compile(keras.optimizers.Adam(2e-4, beta_1=0.5), loss="mse")          # doctest: +SKIP
        >>> training.fit(batches, steps_per_epoch=100)                                     # doctest: +SKIP
    """

    def __init__(self, generator, discriminator, weight, penalty=0.003, noise=0.01, features=None, feature_weight=0.0, seed=0,
                 **kwargs):  # fmt: skip
        super().__init__(**kwargs)
        self.generator, self.discriminator, self.features = generator, discriminator, features
        self.weight = checks.number(weight, "weight", 0, 1e6)
        self.penalty = checks.number(penalty, "penalty", 0, 1e6)
        self.noise = checks.number(noise, "noise", 0, 1, above_low=True)
        self.feature_weight = checks.number(feature_weight, "feature_weight", 0, 1e6)
        self.seed = checks.number(seed, "seed", 0, 2**31 - 1, whole=True)
        if features is not None:
            features.trainable = False
        self._random = keras.random.SeedGenerator(seed)
        self._adversarial, self._discriminator_accuracy = keras.metrics.Mean("adversarial"), keras.metrics.Mean("discriminator_accuracy")

    def build(self, input_shape):
        self.built = True

    def call(self, degraded, training=False):
        return self.generator(degraded, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        real, fake, beside = (ops.cast(one, "float32") for one in (y, y_pred, x))
        cut = ops.stop_gradient(fake)
        images = [real, fake, cut]
        if training:
            images += [one + self.noise * keras.random.normal(ops.shape(one), seed=self._random) for one in (real, cut)]
        seen = ops.concatenate([ops.concatenate([one, beside], axis=-1) for one in images], axis=0)
        judged = ops.cast(self.discriminator(seen, training=training), "float32")
        real_says, fake_says, cut_says, *shaken = ops.split(judged, len(images), axis=0)
        # The value of the last, and for the discriminator no gradient.
        through = fake_says - cut_says + ops.stop_gradient(cut_says)
        adversarial = ops.mean(ops.softplus(ops.stop_gradient(real_says) - through))
        self._adversarial.update_state(adversarial)
        self._discriminator_accuracy.update_state(ops.mean(ops.cast(real_says > cut_says, "float32")))
        if not training:
            return loss
        judging = ops.mean(ops.softplus(cut_says - real_says))
        changes = [ops.mean(ops.square(one - other)) for one, other in zip(shaken, (real_says, cut_says), strict=True)]
        loss = loss + self.weight * adversarial + judging + self.penalty / 2 * sum(changes) / self.noise**2
        if self.features is not None and self.feature_weight:
            apart = self.features(fake, training=False) - self.features(real, training=False)
            loss = loss + self.feature_weight * ops.mean(ops.square(ops.cast(apart, "float32")))
        return loss

    def get_config(self):
        parts = {"generator": self.generator, "discriminator": self.discriminator, "features": self.features}
        return {
            **super().get_config(), "weight": self.weight, "penalty": self.penalty, "noise": self.noise,
            "feature_weight": self.feature_weight, "seed": self.seed,
            **{name: part and keras.saving.serialize_keras_object(part) for name, part in parts.items()},
        }  # fmt: skip

    @classmethod
    def from_config(cls, config):
        parts = ("generator", "discriminator", "features")
        return cls(**config | {name: config[name] and keras.saving.deserialize_keras_object(config[name]) for name in parts})


class StopOnDivergence(keras.callbacks.Callback):
    """Ends an adversarial training that has failed, and says so.

    It has failed when the discriminator has won (``discriminator_accuracy`` above 0.98 at the end of so many epochs in a row), or when
    what is restored is further from the clean images than the degraded images were. A loss that is not finite is
    :class:`lstm_ae_lib.study.checkpoints.Checkpoints`' matter.

    Args:
        worst: the largest ``val_mse`` that is allowed, above 0: the degraded images'.
        patience: epochs in a row, 1 to 10,000. Default 5.

    Attributes:
        reason: why training was ended; empty where it was not.

    Raises:
        ValueError: an argument out of range.
    """

    WON = 0.98

    def __init__(self, worst: float, patience: int = 5):
        super().__init__()
        self.worst = float(checks.number(worst, "worst", 0, 1e6, above_low=True))
        self.patience = int(checks.number(patience, "patience", 1, 10_000, whole=True))
        self.lost, self.reason = 0, ""

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        self.lost = self.lost + 1 if logs.get("discriminator_accuracy", 0) > self.WON else 0
        if self.lost >= self.patience:
            self.reason = f"the discriminator has told clean from restored for {self.patience} epochs: the restorer is lost"
        error = logs.get("val_mse", 0)
        if not error <= self.worst:
            self.reason = f"the restored images' MSE of {error:.2e} is above {self.worst:.2e}, the degraded images'"
        if self.reason:
            print(f"adversarial training ended in epoch {epoch + 1}: {self.reason}", flush=True)
            self.model.stop_training = True


@weights.register
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
    hidden = seen = keras.layers.Input((*image_shape[:2], 2 * image_shape[2]), name="seen")
    for place in range(3):
        hidden = keras.layers.Conv2D(width * 2**place, 4, strides=2, padding="same", name=f"conv{place}")(hidden)
        hidden = keras.layers.LeakyReLU(0.2, name=f"relu{place}")(hidden)
    hidden = models.convolution(width * 4, 3, "conv3", activation="relu")(hidden)
    return keras.Model(seen, models.convolution(1, 1, "judged", dtype="float32")(hidden), name=name)
