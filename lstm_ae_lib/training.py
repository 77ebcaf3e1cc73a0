"""What ``compile`` and ``fit`` need beyond Keras: a schedule, an optimiser, and progress."""

import math
import os
import re
import sys
import time

from lstm_ae_lib import checks
from lstm_ae_lib._backend import keras

ops = keras.ops
WORDS = {"loss": "training loss {:.2e}", "val_loss": "validation loss {:.2e}", "val_psnr": "validation PSNR {:.2f} dB"}


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class Cooldown(keras.optimizers.schedules.LearningRateSchedule):
    """A constant learning rate that falls linearly to zero over the last ``share`` of a training's ``steps``.

    After 20 epochs the reference model still learns fast: a cosine schedule gives it too few large steps, a constant rate ends on
    noise. ``learning_rate`` and ``share`` are above 0, at most 1.
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


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class Muon(keras.optimizers.Muon):
    """Keras' Muon for convolution kernels too, as matrices of inputs times outputs.

    The momentum of each matrix is replaced by the nearest orthogonal one: all directions move alike. Biases, scales, depthwise
    kernels, and weights with a pattern of ``exclude_layers`` in their path, get Adam's step (the default misses RED-Net's first
    and last layers, and U-Net's first). Both steps are as large as Adam's (Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982).
    """

    def __init__(self, learning_rate=0.001, exclude_layers=("first", "last"), **options):
        if isinstance(exclude_layers, str):
            raise ValueError(f"exclude_layers must be a list of patterns, got the text {exclude_layers!r}")
        no_decay = {"weight_decay": None, "adam_weight_decay": None}
        super().__init__(learning_rate, exclude_layers=list(exclude_layers), **(no_decay | options))

    def _should_use_adamw(self, variable):
        no_matrix = len(variable.shape) not in (2, 4) or 1 in (variable.shape[-1], math.prod(variable.shape[:-1]))
        return no_matrix or any(re.search(pattern, variable.path) for pattern in self.exclude_layers)

    def _muon_update_step(self, gradient, variable, lr, m):
        self.assign(m, self.momentum * m + gradient)
        step = gradient + self.momentum * m if self.nesterov else m
        matrix = ops.reshape(step, (-1, variable.shape[-1]))
        update = self.lr_adjust(lr * self.zeropower_via_newtonschulz5(matrix, self.ns_steps))
        self.assign_sub(variable, ops.reshape(update, variable.shape))


def steps_per_execution(steps: int, most: int = 10) -> int:
    """The largest divisor of an epoch's ``steps`` that is ``most`` or less, for ``compile(steps_per_execution=...)``. Between two
    calls callbacks and logs cost a millisecond, of a step of 17. On PyTorch 1: Keras allows no other number there."""
    checks.number(steps, "steps", 1, 2**53, whole=True)
    most = 1 if keras.backend.backend() == "torch" else checks.number(most, "most", 1, 2**53, whole=True)
    return max(number for number in range(1, min(steps, most) + 1) if steps % number == 0)


class Progress(keras.callbacks.Callback):
    """Progress of a training: images per second, time left, validation PSNR. Give ``fit`` ``verbose=0`` beside it.

    Args:
        images: in an epoch, at least 1.
        bar: a bar for the whole training, or a line an epoch. None: a bar in a terminal and in Jupyter; lines elsewhere, in a
            kernel that papermill or nbval started, and wherever the environment says ``LSTM_AE_PROGRESS=lines``.
        budget: the callback that ends the training, a :class:`lstm_ae_lib.study.budgets.TimeBudget`, if one does.
    """

    def __init__(self, images, bar=None, budget=None):
        super().__init__()
        if budget is not None and not hasattr(budget, "minutes"):
            raise ValueError(f"budget must be a TimeBudget or None, got {type(budget).__name__}")
        self.budget = budget
        self.images = int(checks.number(images, "images", 1, 2**53, whole=True))
        if checks.choice(bar, "bar", (True, False, None)) is None:
            bar = (sys.stdout.isatty() or _in_jupyter()) and os.environ.get("LSTM_AE_PROGRESS") != "lines"
        self.bar, self._bar = bool(bar), None

    def on_train_begin(self, logs=None):
        self._started, self._first = time.monotonic(), None

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._epoch_started = epoch, time.monotonic()
        if self._first is None:
            self._first = epoch
            if self.bar:
                import tqdm

                total = None if self.budget else self.images * self.params["epochs"]
                self._bar = tqdm.tqdm(total=total, initial=epoch * self.images, unit=" images", file=sys.stdout, mininterval=0.5,
                                      bar_format="{l_bar}{bar:20}| {rate_fmt}, {remaining} left{postfix}")  # fmt: skip

    def on_train_batch_end(self, batch, logs=None):
        if self._bar is not None:
            done = (self._epoch + (batch + 1) / self.params["steps"]) * self.images
            self._bar.update(round(done) - self._bar.n)

    def on_epoch_end(self, epoch, logs=None):
        now = time.monotonic()
        numbers = ", ".join(text.format(logs[name]) for name, text in WORDS.items() if name in (logs or {})) or "no logs"
        left = (now - self._started) / (epoch + 1 - self._first) * (self.params["epochs"] - epoch - 1)
        where = f"epoch {epoch + 1}/{self.params['epochs']}"
        if self.budget:
            left, where = max(60 * self.budget.minutes - self.budget.seconds, 0.0), f"part {epoch + 1}"
        if self._bar is not None:
            self._bar.set_postfix_str(f"{where}, {numbers}", refresh=False)
            self._bar.update(self.images * (epoch + 1) - self._bar.n)
        else:
            rate = self.images / max(now - self._epoch_started, 1e-9)
            print(f"{where}: {numbers}, {rate:,.0f} images/s, {left / 60:.1f} min left", flush=True)

    def on_train_end(self, logs=None):
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _in_jupyter():
    """Whether this is a kernel that a person's front end started, and not papermill, nbval, nbconvert or the runner."""
    if "ipykernel" not in sys.modules:
        return False
    import IPython
    import psutil

    if IPython.get_ipython() is None:
        return False
    try:
        started_by = " ".join(psutil.Process().parent().cmdline())
    except (AttributeError, psutil.Error):
        return True
    return not any(name in started_by for name in ("papermill", "pytest", "nbconvert", "lstm_ae_lib"))
