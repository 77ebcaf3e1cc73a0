"""What ``compile`` and ``fit`` need beyond Keras."""

from lstm_ae_lib import checks
from lstm_ae_lib._backend import keras

ops = keras.ops


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class Cooldown(keras.optimizers.schedules.LearningRateSchedule):
    """A constant learning rate that falls linearly to zero over the last part of training.

    The reference model is still learning fast when a 20-epoch training ends: a rate that falls from the start (cosine) gives
    it too few large steps, one that stays constant ends on noise.

    Args:
        learning_rate: the constant rate, above 0, at most 1.
        steps: of the whole training, at least 1.
        share: of the steps over which the rate falls, above 0, at most 1. Default 0.25.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> rate = Cooldown(0.002, steps=100)
        >>> [round(float(rate(step)), 6) for step in (0, 74, 90, 100)]
        [0.002, 0.002, 0.0008, 0.0]
    """

    def __init__(self, learning_rate, steps, share=0.25):
        self.learning_rate = float(checks.number(learning_rate, "learning_rate", 0, 1, above_low=True))
        self.steps = int(checks.number(steps, "steps", 1, 2**53, whole=True))
        self.share = float(checks.number(share, "share", 0, 1, above_low=True))

    def __call__(self, step):
        left = (self.steps - ops.cast(step, "float32")) / (self.share * self.steps)
        return self.learning_rate * ops.clip(left, 0.0, 1.0)

    def get_config(self):
        return {"learning_rate": self.learning_rate, "steps": self.steps, "share": self.share}
