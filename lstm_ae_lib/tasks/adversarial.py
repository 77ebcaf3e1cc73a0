"""Adversarial training of a restorer, which can be any network of this library, for images that look like clean ones."""

from lstm_ae_lib import checks, models, peers, weights
from lstm_ae_lib._backend import keras

ops = keras.ops


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class AdversarialTraining(keras.Model):
    """A generator (the restorer) and a discriminator that train together, with Keras' own ``compile`` and ``fit``.

    The losses are relativistic: of each pair of a restored and a clean image the generator raises, and the discriminator lowers,
    how clean the restored one looks beside the other (Jolicoeur-Martineau, "The relativistic discriminator", 2019). A penalty keeps
    the discriminator smooth around both, because one that separates them too easily leaves the generator no gradient (Huang et al.,
    "The GAN is dead; long live the GAN!", 2024; with finite differences: Lin et al., "Diffusion Adversarial Post-Training", 2025).
    Both train in one step of one optimiser. The discriminator sees the restored images twice, once behind a stop-gradient, so
    that neither loss reaches the other network.

    Args:
        generator, discriminator: degraded image -> restored image; :func:`discriminator`, image and degraded image -> logits.
        weight, penalty: of the adversarial loss, added to that given to ``compile``, and of the smoothness penalty; at least 0.
        noise, seed: standard deviation of the penalty's perturbations, above 0 up to 1, well below what separates clean from
            restored images (0.04 on ``gauss2``), or it hides the detail that the discriminator is for; and their seed.
        features, feature_weight: a frozen network, image -> features, or None; weight of their mean squared error, at least 0.

    Logs ``adversarial``, the generator's loss, and ``discriminator_accuracy``, the share of patches in which the discriminator
    finds the clean image cleaner: 0.5 when it cannot tell, 1 when it has won. Raises ``ValueError`` for an argument out of range.
    """

    PARTS = ("generator", "discriminator", "features")

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
        self._adversarial, self._accuracy = keras.metrics.Mean("adversarial"), keras.metrics.Mean("discriminator_accuracy")

    def build(self, input_shape):
        self.built = True

    def call(self, degraded, training=False):
        return self.generator(degraded, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        real, fake, degraded = (ops.cast(one, "float32") for one in (y, y_pred, x))
        cut = ops.stop_gradient(fake)
        images = [real, fake, cut]
        if training:
            images += [one + self.noise * keras.random.normal(ops.shape(one), seed=self._random) for one in (real, cut)]
        seen = ops.concatenate([ops.concatenate([one, degraded], axis=-1) for one in images], axis=0)
        logits = ops.cast(self.discriminator(seen, training=training), "float32")
        on_real, on_fake, on_cut, *perturbed = ops.split(logits, len(images), axis=0)
        # The value of on_cut, without a gradient for the discriminator.
        through = on_fake - on_cut + ops.stop_gradient(on_cut)
        adversarial = ops.mean(ops.softplus(ops.stop_gradient(on_real) - through))
        self._adversarial.update_state(adversarial)
        self._accuracy.update_state(ops.mean(ops.cast(on_real > on_cut, "float32")))
        if not training:
            return loss
        discriminating = ops.mean(ops.softplus(on_cut - on_real))
        changes = [ops.mean(ops.square(one - other)) for one, other in zip(perturbed, (on_real, on_cut), strict=True)]
        loss = loss + self.weight * adversarial + discriminating + self.penalty / 2 * sum(changes) / self.noise**2
        if self.features is not None and self.feature_weight:
            apart = self.features(fake, training=False) - self.features(real, training=False)
            loss = loss + self.feature_weight * ops.mean(ops.square(ops.cast(apart, "float32")))
        return loss

    def get_config(self):
        parts = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in self.PARTS}
        plain = {name: getattr(self, name) for name in ("weight", "penalty", "noise", "feature_weight", "seed")}
        return super().get_config() | plain | parts

    @classmethod
    def from_config(cls, config):
        return cls(**config | {name: keras.saving.deserialize_keras_object(config[name]) for name in cls.PARTS})


class StopOnDivergence(keras.callbacks.Callback):
    """End an adversarial training that has diverged, and print why.

    It has diverged when the discriminator has won (``discriminator_accuracy`` above 0.98 at the end of ``patience`` epochs in a
    row, 1 to 10,000), or when ``val_mse`` is above ``worst``, the degraded images' MSE. ``reason`` says which; empty for neither.
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
            self.reason = f"the discriminator's accuracy was above {self.WON} for {self.patience} epochs: it has won"
        if not (error := logs.get("val_mse", 0)) <= self.worst:
            self.reason = f"the restored images' MSE of {error:.2e} is above {self.worst:.2e}, the degraded images'"
        if self.reason:
            print(f"adversarial training ended in epoch {epoch + 1}: {self.reason}", flush=True)
            self.model.stop_training = True


@weights.register
def discriminator(image_shape=(32, 32, 3), width: int = 32, name: str = "discriminator"):
    """A patch discriminator, which sees a clean or restored image beside its degraded version.

    Each output is a logit of how clean its surroundings look (Isola et al., "Image-to-Image Translation with Conditional
    Adversarial Networks", 2017). Sides are multiples of 8; the first convolution has ``width`` channels, 1 to 1,024. Returns a
    model: ``(batch, height, width, 2 * channels)`` -> ``(batch, height / 8, width / 8, 1)``.
    """
    checks.number(width, "width", 1, 1024, whole=True)
    peers.check_divides(image_shape, 8)
    hidden = seen = keras.layers.Input((*image_shape[:2], 2 * image_shape[2]), name="seen")
    for place in range(3):
        hidden = models.convolution(width * 2**place, 4, f"conv{place}", strides=2)(hidden)
        hidden = keras.layers.LeakyReLU(0.2, name=f"relu{place}")(hidden)
    hidden = models.convolution(width * 4, 3, "conv3", activation="relu")(hidden)
    return keras.Model(seen, models.convolution(1, 1, "judged", dtype="float32")(hidden), name=name)
