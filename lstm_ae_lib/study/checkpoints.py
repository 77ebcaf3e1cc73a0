"""Checkpoints: a training that was killed goes on exactly where it was."""

import hashlib
import inspect
import io
import itertools
import json
import os
import random
import re
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

from lstm_ae_lib import checks, files
from lstm_ae_lib._backend import keras

ops = keras.ops

# How a process ends that was asked to (SIGTERM) and has saved a checkpoint: "try again later" in sysexits.h.
EXIT_TERMINATED = 75


class Checkpoints(keras.callbacks.Callback):
    """Saves everything that a training needs to go on exactly where it was, and goes on from there.

    A training that is killed at any moment and started again with the same arguments ends with the same weights, bit for
    bit, as one that was left alone, on the same kind of machine with the same threads and versions. A checkpoint holds the
    weights, the optimiser, the metrics, all random states, the state of other callbacks, the history and the time spent; the
    order of the images must be a function of the seed and the epoch, as in :func:`lstm_ae_lib.datasets.training_batches`.
    (Keras' ``BackupAndRestore`` restores weights, optimiser and epoch; Orbax would bring JAX with it.)

    Each checkpoint is one file, written beside its name, forced to the disk, renamed; the name holds its SHA-256. When it is
    damaged the one before is taken. Weights that are not finite are never saved, and a loss that is not finite stops the
    training at its step. When the disk is full the training goes on, with a warning, and the last good checkpoints stay.
    SIGTERM saves and ends the process with :data:`EXIT_TERMINATED`.

    With ``compile(steps_per_execution=N)``, N must divide the steps of an epoch. Checkpoints in mid-epoch need the TensorFlow
    backend; on the others they are made between epochs.

    Args:
        folder: where the checkpoints lie; made when it is missing.
        seconds: time between checkpoints within an epoch, above 0. Default 60. One is made after every epoch too.
        steps: make one after so many steps instead of by the clock, 0 for the clock. Default 0.
        keep: how many of the last ones to keep, at least 1; the best is kept besides. Default 3.
        monitor: the checkpoint with the smallest value of this in its epoch's logs is the best. Default ``"val_loss"``.
        history: a CSV file that is written anew after every epoch with the logs of all epochs; None for none.
        callbacks: other callbacks whose state belongs to the training (``EarlyStopping``, ``ReduceLROnPlateau``). In
            ``fit`` they stand before this one. Their constructors' arguments are no state: those given now are used.

    Attributes:
        epoch: where training goes on, the ``initial_epoch`` for ``fit`` and the ``first_epoch`` of the pipeline; 0 for a new one.
        seconds_spent: time spent on training, earlier parts included.

    Raises:
        ValueError: an argument out of range; when training starts, a checkpoint of another model.
        FloatingPointError: while training, a loss or weights that are not finite; with the step and the last good file.
        RuntimeError: another process trains with this folder.
    """

    def __init__(self, folder, *, seconds=60.0, steps=0, keep=3, monitor="val_loss", history=None, callbacks=()):
        super().__init__()
        import filelock

        self.folder = Path(folder)
        self.seconds = float(checks.number(seconds, "seconds", 0, 1e9, above_low=True))
        self.steps = int(checks.number(steps, "steps", 0, 2**53, whole=True))
        self.keep = int(checks.number(keep, "keep", 1, 10**6, whole=True))
        self.monitor = str(monitor)
        self.history_file = history
        self.callbacks = list(callbacks)
        self._lock = filelock.FileLock(self.folder / ".lock", blocking=False, is_singleton=True)
        self._terminated = False
        self._used = False
        self._muted = []
        self._read_latest()

    def _read_latest(self):
        self.epoch, self._first_step, self.seconds_spent = 0, 0, 0.0
        self._rows, self._best = [], None
        self._saved, self._meta, self._arrays = None, None, None
        for path in reversed(self.files()):
            try:
                meta, self._arrays = _read(path)
            except (OSError, ValueError) as error:
                path.rename(path.with_name(path.name + ".damaged"))
                _say(f"the checkpoint {path.name[:15]} is damaged ({error}) and was set aside; the one before is taken")
                continue
            self._saved, self._meta, self.epoch, self._first_step = path, meta, meta["epoch"], meta["step"]
            self.seconds_spent, self._rows, self._best = meta["seconds"], meta["rows"], meta["best"]
            return

    def files(self) -> list:
        """The checkpoints, in the order of training."""
        return sorted(path for path in self.folder.glob("*.npz") if _NAME.fullmatch(path.name))

    def restore_best(self, model) -> int:
        """Give a model the weights of the epoch with the smallest ``monitor``, and return how many epochs that took.

        Raises ``FileNotFoundError`` where no epoch was monitored to its end, ``ValueError`` for a damaged one or another model.
        """
        found = [path for path in self.files() if self._best and _place(path) == (self._best["epoch"], 0)]
        if not found:
            raise FileNotFoundError(f"there is no best checkpoint in {self.folder}: no epoch has ended with a {self.monitor}")
        weights = {id(weight) for weight in model.weights}  # and not the seeds
        own = [pair for pair in zip(model.variables, _read(found[0])[1], strict=False) if id(pair[0]) in weights]
        _assign(*zip(*own, strict=True), found[0])
        return self._best["epoch"]

    def on_train_begin(self, logs=None):
        import filelock

        if self._used:  # a second fit with this object goes on from what the first one has saved
            self._read_latest()
        self._used = True
        self._unmute()  # an error may have ended the fit before
        optimizer = self.model.optimizer
        if optimizer is not None and not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        if self._meta is not None:
            _assign(_variables(self.model), self._arrays[: self._meta["variables"]], self._saved)
            names, stored = ([type(one).__name__ for one in self.callbacks], [one["class"] for one in self._meta["callbacks"]])
            if names != stored:
                raise ValueError(f"the checkpoint holds the states of the callbacks {stored}, got callbacks={names}")
            self._tell_history()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except filelock.Timeout:
            raise RuntimeError(f"another process trains with the checkpoints in {self.folder}; this one is refused") from None
        except OSError as error:
            raise OSError(error.errno, f"cannot write checkpoints: {error.strerror or error}", str(self.folder)) from error
        self._terminated, self._before = False, None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._ask_to_stop)
        for leftover in self.folder.glob(".tmp-*"):  # of a process that was killed while it wrote
            leftover.unlink(missing_ok=True)
        self._started = self._last = time.monotonic()
        self._spent_before = self.seconds_spent
        self._steps_done = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        if self._meta is None:
            return
        if epoch != self.epoch:
            self._release()
            raise ValueError(
                f"this training goes on with initial_epoch={self.epoch}, got initial_epoch={epoch}; make the Checkpoints and "
                "the pipeline anew before fit, or begin another training in another folder"
            )
        # Only now, because the other callbacks have just begun anew.
        _set_states(self.callbacks, self._meta["callbacks"], self._arrays)
        self._tell_history()
        _say(f"going on after epoch {self.epoch}, step {self._first_step}")
        if self._first_step:
            self._skip(self._first_step)
        else:
            self._restore()

    def on_train_batch_end(self, batch, logs=None):
        if batch < self._first_step:  # done before this process started
            if batch + 1 == self._first_step:
                self._unmute()
            return
        loss = float(logs["loss"]) if logs and "loss" in logs else 0.0
        if not np.isfinite(loss):
            first = batch + 2 - self.model.steps_per_execution
            where = f"step {batch + 1}" if first > batch else f"one of the steps {first} to {batch + 1}"
            self._fail(f"the loss became {loss} in {where} of epoch {self._epoch + 1}")
        before, self._steps_done = self._steps_done, self._steps_done + self.model.steps_per_execution
        due = self._steps_done // self.steps > before // self.steps if self.steps else time.monotonic() - self._last >= self.seconds
        if (due or self._terminated) and keras.backend.backend() == "tensorflow":
            self._save(self._epoch, batch + 1)
        self._leave_if_asked()

    def on_epoch_end(self, epoch, logs=None):
        self._first_step = 0
        self._rows.append({"epoch": epoch, **{name: float(value) for name, value in (logs or {}).items()}})
        value = (logs or {}).get(self.monitor)
        if value is not None and np.isfinite(value) and (self._best is None or value < self._best["value"]):
            self._best = {"epoch": epoch + 1, "value": float(value)}
        self._save(epoch + 1, 0)
        self._write_history()
        self._leave_if_asked()

    def on_train_end(self, logs=None):
        self._note_time()
        self._tell_history()
        self._write_history()
        self._release()

    def _ask_to_stop(self, number, frame):
        while frame is not None and frame.f_code.co_name != "fit":
            frame = frame.f_back
        if frame is not None:
            self._terminated = True
        else:  # an error ended fit, and nobody put the signal's own handler back
            signal.signal(number, self._before)
            os.kill(os.getpid(), number)

    def _leave_if_asked(self):
        if self._terminated:
            self._release()
            _say(f"asked to end: saved as {self._saved.name[:15] if self._saved else 'nothing'} in {self.folder}")
            raise SystemExit(EXIT_TERMINATED)

    def _release(self):
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None
        self._lock.release(force=True)

    def _fail(self, what):
        self._release()
        kept = f"the last good checkpoint is {self._saved}" if self._saved else "there is no checkpoint yet"
        raise FloatingPointError(f"{what}; {kept}")

    def _tell_history(self):
        """Keras' own ``History``, which begins anew with every ``fit``, gets the epochs of before too."""
        history = getattr(self.model, "history", None)
        if history is not None:
            history.epoch = [row["epoch"] for row in self._rows]
            history.history = {name: [row[name] for row in self._rows if name in row] for name in _columns(self._rows)[1:]}

    def _write_history(self):
        """The logs of all epochs as CSV, in one step, with every digit."""
        if self.history_file is None:
            return
        names = _columns(self._rows)
        lines = [",".join(names), *(",".join(repr(row[name]) if name in row else "" for name in names) for row in self._rows)]
        with files.replacing(self.history_file) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _note_time(self):
        self.seconds_spent = self._spent_before + time.monotonic() - self._started

    def _restore(self):
        meta, arrays, model = self._meta, self._arrays, self.model
        metrics = model.metrics_variables if meta["step"] else []  # an epoch begins with empty metrics anyway
        _assign([*_variables(model), *metrics], arrays[: meta["variables"] + meta["metrics"]], self._saved)
        _set_random_states(meta, arrays)
        self._meta = self._arrays = None

    def _skip(self, steps):
        """The steps of the first epoch that were done before: their batches are drawn and not learned from, and the other
        callbacks do not hear of them.

        The first of them is run all the same, because it is the first step that makes Keras build its metrics; then
        everything is put back to where it was.
        """
        model, real = self.model, self.model.train_function
        calls = [0]

        def train_function(iterator):
            calls[0] += 1
            if calls[0] == 1:
                real(iterator)
            else:
                for _ in range(model.steps_per_execution):
                    next(iterator)
            if calls[0] == steps // model.steps_per_execution:
                model.train_function = real
                self._restore()
            return model.get_metrics_result()

        model.train_function = train_function
        self._muted = [
            (vars(callback), name, vars(callback).get(name))
            for callback in self.callbacks
            for name in ("on_train_batch_begin", "on_train_batch_end")
        ]
        for own, name, _ in self._muted:
            own[name] = lambda batch, logs=None: None

    def _unmute(self):
        while self._muted:
            own, name, before = self._muted.pop()
            del own[name]
            if before is not None:
                own[name] = before

    def _save(self, epoch, step):
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        self._note_time()
        state = _variables(self.model)
        metrics = self.model.metrics_variables if step else []
        variables = [*state, *metrics]
        arrays = [ops.convert_to_numpy(variable) for variable in variables]
        for variable, array in zip(variables, arrays, strict=True):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                self._fail(f"{variable.path} is not finite after step {step} of epoch {epoch + 1}" if step else
                           f"{variable.path} is not finite after epoch {epoch}")  # fmt: skip
        states = [_get_state(callback, arrays) for callback in self.callbacks]
        numpy_random = np.random.get_state()
        meta = {
            "format": 1, "epoch": epoch, "step": step, "seconds": self.seconds_spent, "rows": self._rows, "best": self._best,
            "variables": len(state), "metrics": len(metrics), "callbacks": states,
            "random": len(arrays), "python_random": random.getstate(), "numpy_random": [numpy_random[0], *numpy_random[2:]],
        }  # fmt: skip
        arrays.append(numpy_random[1])
        if keras.backend.backend() == "torch":
            import torch

            arrays += [state.numpy() for state in (torch.get_rng_state(), *torch.cuda.get_rng_state_all())]
        try:
            self._saved = _write(self.folder, epoch, step, meta, arrays)
        except OSError as error:
            kept = self._saved or "none"
            _say(f"no checkpoint after epoch {epoch}, step {step}: {error}; training goes on, {kept} stays the last")
            return
        finally:
            self._last = time.monotonic()
        for path in self.files()[: -self.keep]:
            if self._best is None or _place(path) != (self._best["epoch"], 0):
                path.unlink(missing_ok=True)


_NAME = re.compile(r"(\d{6})-(\d{8})-([0-9a-f]{64})\.npz")


def _place(path):
    epoch, step, _ = _NAME.fullmatch(path.name).groups()
    return int(epoch), int(step)


def _write(folder, epoch, step, meta, arrays):
    content = io.BytesIO()
    text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    np.savez(content, meta=text, **{f"a{place}": array for place, array in enumerate(arrays)})
    content = content.getbuffer()
    path = folder / f"{epoch:06d}-{step:08d}-{hashlib.sha256(content).hexdigest()}.npz"
    with files.replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def _read(path):
    """The description and the arrays of a checkpoint; ``ValueError`` when it is not what was written."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != _NAME.fullmatch(path.name).group(3):
        raise ValueError("its SHA-256 is not the one in its name")
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = [stored[f"a{place}"] for place in range(len(stored.files) - 1)]
        return json.loads(stored["meta"].tobytes()), arrays


def _variables(model):
    """What training changes, the metrics apart: the model's weights and seeds, then the optimiser's variables."""
    metrics = model.metrics_variables
    own = [variable for variable in model.variables if not any(variable is metric for metric in metrics)]
    return own + (list(model.optimizer.variables) if model.optimizer is not None else [])


def _set_random_states(meta, arrays):
    version, numbers, gauss = meta["python_random"]
    random.setstate((version, tuple(numbers), gauss))
    kind, *numbers = meta["numpy_random"]
    np.random.set_state((kind, arrays[meta["random"]], *numbers))
    if keras.backend.backend() == "torch":  # Keras' dropout draws from PyTorch's generator there
        import torch

        mine, *devices = (torch.from_numpy(array) for array in arrays[meta["random"] + 1 :])
        torch.set_rng_state(mine)
        torch.cuda.set_rng_state_all(devices)


def _assign(variables, arrays, path):
    mine, its = ([(tuple(one.shape), str(one.dtype)) for one in ones] for ones in (variables, arrays))
    if mine != its:
        pairs = itertools.zip_longest(mine, its, fillvalue="nothing")
        place, (here, there) = next((place, pair) for place, pair in enumerate(pairs) if pair[0] != pair[1])
        here = f"{variables[place].path} {here}" if place < len(mine) else here
        raise ValueError(
            f"the checkpoint {path} is of another model or optimiser: {len(its)} variables against {len(mine)} here; the first "
            f"difference is {here} here, {there} there. Use another folder, or the model that it was made with"
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _arguments(callback):
    """The names of a callback's constructor arguments, those of the classes that it is derived from included."""
    return {name for kind in type(callback).__mro__ for name in inspect.signature(kind.__init__).parameters}


def _get_state(callback, arrays):
    """What of a callback is state: its plain values, and lists of arrays (the best weights; to ``arrays``).

    Not its constructor's arguments; and not what begins with an underscore: what it notes for itself, such as when the last
    step ended, means nothing in the process that goes on. What Keras' callbacks derive from their arguments in the first
    epoch, a comparison and the sign of ``min_delta``, they derive anew.
    """
    state = {"class": type(callback).__name__, "values": {}, "arrays": {}}
    for name, value in vars(callback).items():
        if name.startswith("_") or name in _arguments(callback):
            continue
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, (bool, int, float, str)):
            state["values"][name] = value
        elif isinstance(value, list) and value and all(isinstance(array, np.ndarray) for array in value):
            state["arrays"][name] = [len(arrays), len(value)]
            arrays.extend(value)
    return state


def _set_states(callbacks, states, arrays):
    for callback, state in zip(callbacks, states, strict=True):
        values = state["values"] | {name: arrays[start : start + count] for name, (start, count) in state["arrays"].items()}
        # Checkpoints of before hold arguments and private notes too.
        skipped = _arguments(callback)
        vars(callback).update({name: value for name, value in values.items() if name not in skipped and not name.startswith("_")})


def _say(text):
    print(text, file=sys.stderr)


def _columns(rows):
    return list(dict.fromkeys(["epoch", *(name for row in rows for name in row)]))
