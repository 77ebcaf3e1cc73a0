"""How long a training may take, where networks of different cost are compared in the same minutes."""

import time

from lstm_ae_lib import checks, datasets
from lstm_ae_lib._backend import keras
from lstm_ae_lib.fast import threads


class TimeBudget(keras.callbacks.Callback):
    """Ends a training when its minutes are used up; over the last ``share`` of them the learning rate falls to zero.

    For comparing networks of different cost, each with a whole schedule. Only training steps count: not building the graph in the
    first call, validation, saving or other callbacks. The logs get ``minutes`` and ``images`` seen. Given to
    :class:`lstm_ae_lib.study.checkpoints.Checkpoints` too (``callbacks=``), it resumes with the minutes that are left.

    Args:
        minutes: above 0.
        learning_rate: before it falls, above 0, at most 1.
        images: in the training set, at least 1.
        batch_size: images per step.
        share: of the minutes over which the rate falls, above 0, at most 1.
        clock: ``"wall"``, or ``"cpu"``: this process' processor time divided by its cores, the fair one on a shared machine.
    """

    def __init__(self, minutes, learning_rate, images, batch_size, share=0.25, clock="wall"):
        super().__init__()
        self.minutes = float(checks.number(minutes, "minutes", 0, 1e6, above_low=True))
        self.learning_rate = float(checks.number(learning_rate, "learning_rate", 0, 1, above_low=True))
        self.images = int(checks.number(images, "images", 1, 2**53, whole=True))
        self.batch_size = int(checks.number(batch_size, "batch_size", 1, self.images, whole=True))
        self.share = float(checks.number(share, "share", 0, 1, above_low=True))
        self.clock = checks.choice(clock, "clock", ("wall", "cpu"))
        self.seconds, self.steps = 0.0, 0

    def _now(self):
        return time.monotonic() if self.clock == "wall" else time.process_time() / threads.cores()

    def on_train_begin(self, logs=None):
        self._first = True

    def on_train_batch_begin(self, batch, logs=None):
        self._begun = self._now()

    def on_train_batch_end(self, batch, logs=None):
        self.seconds += 0.0 if self._first else self._now() - self._begun
        self._first = False
        self.steps += self.model.steps_per_execution
        left = 1 - self.seconds / (60 * self.minutes)
        self.model.optimizer.learning_rate = self.learning_rate * min(max(left / self.share, 0.0), 1.0)
        if left <= 0:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:  # the same dictionary goes to the callbacks after this one
            logs["minutes"] = self.seconds / 60
            logs["images"] = datasets.images_seen(self.images, self.batch_size, self.steps)
