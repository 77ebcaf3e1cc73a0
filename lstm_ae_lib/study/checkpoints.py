"""Checkpoints: a training that was killed goes on exactly where it was."""

import contextlib
import hashlib
import inspect
import io
import itertools
import json
import random
import re
import signal
import sys
import threading
import time
from pathlib import Path

import filelock
import numpy as np

from lstm_ae_lib import checks, files
from lstm_ae_lib._backend import keras
from lstm_ae_lib.study import data_parallel

EXIT_TERMINATED = 75  # of a process that SIGTERM ended and that has saved a checkpoint: "try again later" in sysexits.h
_NAME = re.compile(r"\d{6}-\d{8}-([0-9a-f]{64})\.npz")  # epoch, step, SHA-256


class Checkpoints(keras.callbacks.Callback):
    """Checkpoints of everything that a training needs to go on exactly where it was; it goes on from there.

    A training that is killed at any moment and started again with the same arguments ends with the same weights, bit for bit, as
    one left alone, on the same kind of machine with the same threads and versions. A checkpoint holds weights, optimiser, metrics,
    all random states, the state of other callbacks, history and time spent; the order of the images must be a function of seed and
    epoch, as in :func:`lstm_ae_lib.datasets.training_batches`. (Keras' ``BackupAndRestore`` restores weights, optimiser and epoch;
    Orbax would bring JAX with it.) Each is one file, written atomically, with its SHA-256 in its name; where it is damaged the one
    before is taken. On a full disk the training goes on, with a warning. SIGTERM saves and ends the process with
    :data:`EXIT_TERMINATED`. ``steps_per_execution`` must divide an epoch's steps. In mid-epoch only the TensorFlow backend saves.

    Args:
        folder: where the checkpoints lie; made when it is missing.
        seconds: time between checkpoints within an epoch, above 0; one is made after every epoch too.
        steps: make one after so many steps instead of by the clock; 0 for the clock.
        keep: how many of the last ones to keep, at least 1; so is the best, with the smallest ``monitor`` in its logs.
        history: a CSV file that is written anew after every epoch with the logs of all epochs; None for none.
        callbacks: others whose state, but for their constructors' arguments, belongs to the training; before this one in ``fit``.

    The attribute ``epoch`` is where training goes on: ``fit``'s ``initial_epoch``, the pipeline's ``first_epoch``. Raises
    ``ValueError`` for an argument out of range or a checkpoint of another model, ``FloatingPointError`` for a loss or weights that
    are not finite (these are never saved), ``RuntimeError`` where another process trains with this folder.
    """

    def __init__(self, folder, *, seconds=60.0, steps=0, keep=3, monitor="val_loss", history=None, callbacks=()):
        super().__init__()
        self.folder = Path(folder)
        self.seconds = float(checks.number(seconds, "seconds", 0, 1e9, above_low=True))
        self.steps = int(checks.number(steps, "steps", 0, 2**53, whole=True))
        self.keep = int(checks.number(keep, "keep", 1, 10**6, whole=True))
        self.monitor, self.history_file, self.callbacks = str(monitor), history, list(callbacks)
        self._lock = filelock.FileLock(self.folder / ".lock", blocking=False, is_singleton=True)
        self._terminated, self._used, self._muted = False, False, contextlib.ExitStack()
        self._read_latest()

    def _read_latest(self):
        self.epoch, self._first_step, self.seconds_spent, self._rows = 0, 0, 0.0, []
        self._best = self._saved = self._meta = self._arrays = None
        for path in reversed(self.files()):
            try:
                meta, self._arrays = _read(path)
            except (OSError, ValueError) as error:
                path.rename(path.with_name(path.name + ".damaged"))
                damage = f"the checkpoint {path.name[:15]} is damaged ({error}) and was set aside; the one before is taken"
                print(damage, file=sys.stderr)
                continue
            self._saved, self._meta, self.epoch, self._first_step = path, meta, meta["epoch"], meta["step"]
            self.seconds_spent, self._rows, self._best = meta["seconds"], meta["rows"], meta["best"]
            return

    def files(self) -> list:
        """The checkpoints, in the order of training."""
        return sorted(path for path in self.folder.glob("*.npz") if _NAME.fullmatch(path.name))

    def restore_best(self, model) -> int:
        """Give a model the weights of the epoch with the smallest ``monitor``, if there is one; return how many epochs it took."""
        best = f"{self._best['epoch']:06d}-00000000" if self._best else None
        found = [path for path in self.files() if path.name[:15] == best]
        if not found:
            raise FileNotFoundError(f"there is no best checkpoint in {self.folder}: no epoch has ended with a {self.monitor}")
        weights = {id(weight) for weight in model.weights}  # and not the seeds
        own = [pair for pair in zip(model.variables, _read(found[0])[1], strict=False) if id(pair[0]) in weights]
        _assign(*zip(*own, strict=True), found[0])
        return self._best["epoch"]

    def on_train_begin(self, logs=None):
        if self._used:  # a second fit with this object goes on from what the first one has saved
            self._read_latest()
        self._used, self._terminated = True, False
        self._muted.close()  # an error may have ended the fit before
        if self.model.optimizer is not None and not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
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
        main = threading.current_thread() is threading.main_thread()
        self._before = signal.signal(signal.SIGTERM, self._ask_to_stop) if main else None
        for leftover in self.folder.glob(".tmp-*"):  # of a process that was killed while it wrote
            leftover.unlink(missing_ok=True)
        self._started = self._last = time.monotonic()
        self._spent_before, self._steps_done = self.seconds_spent, 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        if self._meta is None:
            return
        if epoch != self.epoch:
            self._release()
            advice = "make the Checkpoints and the pipeline anew before fit, or begin another training in another folder"
            raise ValueError(f"this training goes on with initial_epoch={self.epoch}, got initial_epoch={epoch}; {advice}")
        _set_states(self.callbacks, self._meta["callbacks"], self._arrays)  # only now: the other callbacks have just begun anew
        self._tell_history()
        print(f"going on after epoch {self.epoch}, step {self._first_step}", file=sys.stderr)
        if self._first_step:
            self._skip(self._first_step)
        else:
            self._restore()

    def on_train_batch_end(self, batch, logs=None):
        if batch < self._first_step:  # done before this process started
            if batch + 1 == self._first_step:
                self._muted.close()
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
        self.seconds_spent = self._spent_before + time.monotonic() - self._started
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
            signal.raise_signal(number)

    def _leave_if_asked(self):
        if self._terminated:
            self._release()
            saved = self._saved.name[:15] if self._saved else "nothing"
            print(f"asked to end: saved as {saved} in {self.folder}", file=sys.stderr)
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
            names = dict.fromkeys(name for row in self._rows for name in row if name != "epoch")
            history.epoch = [row["epoch"] for row in self._rows]
            history.history = {name: [row[name] for row in self._rows if name in row] for name in names}

    def _write_history(self):
        """The logs of all epochs as CSV, in one step, with every digit."""
        if self.history_file is not None:
            names = list(dict.fromkeys(["epoch", *(name for row in self._rows for name in row)]))
            lines = [names, *([repr(row[name]) if name in row else "" for name in names] for row in self._rows)]
            files.write(self.history_file, "".join(",".join(line) + "\n" for line in lines).encode())

    def _restore(self):
        meta, arrays, model = self._meta, self._arrays, self.model
        metrics = model.metrics_variables if meta["step"] else []  # an epoch begins with empty metrics anyway
        _assign([*_variables(model), *metrics], arrays[: meta["variables"] + meta["metrics"]], self._saved)
        version, numbers, gauss = meta["python_random"]
        random.setstate((version, tuple(numbers), gauss))
        kind, *numbers = meta["numpy_random"]
        np.random.set_state((kind, arrays[meta["random"]], *numbers))
        if keras.backend.backend() == "torch":  # Keras' dropout draws from PyTorch's generator there
            import torch

            mine, *devices = (torch.from_numpy(array) for array in arrays[meta["random"] + 1 :])
            torch.set_rng_state(mine)
            torch.cuda.set_rng_state_all(devices)
        self._meta = self._arrays = None

    def _skip(self, steps):
        """Draw the batches of the steps that were done before, without learning and without the other callbacks' hearing of it.

        The first of them is run all the same, which makes Keras build its metrics; then everything is put back to where it was.
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
        for callback, name in itertools.product(self.callbacks, ("on_train_batch_begin", "on_train_batch_end")):
            own = vars(callback)
            undo = (own.update, {name: own[name]}) if name in own else (own.pop, name)
            self._muted.callback(*undo)
            own[name] = lambda batch, logs=None: None

    def _save(self, epoch, step):
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        self.seconds_spent = self._spent_before + time.monotonic() - self._started
        state, metrics = _variables(self.model), self.model.metrics_variables if step else []
        arrays = [keras.ops.convert_to_numpy(variable) for variable in [*state, *metrics]]
        for variable, array in zip([*state, *metrics], arrays, strict=True):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                place = f"step {step} of epoch {epoch + 1}" if step else f"epoch {epoch}"
                self._fail(f"{variable.path} is not finite after {place}")
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
        if data_parallel.part()[0]:
            return  # process 0 of those that train together writes
        try:
            self._saved = _write(self.folder, epoch, step, meta, arrays)
        except OSError as error:
            lost = f"no checkpoint after epoch {epoch}, step {step}: {error}"
            print(f"{lost}; training goes on, {self._saved or 'none'} stays the last", file=sys.stderr)
            return
        finally:
            self._last = time.monotonic()
        best = f"{self._best['epoch']:06d}-00000000" if self._best else None
        for path in self.files()[: -self.keep]:
            if path.name[:15] != best:
                path.unlink(missing_ok=True)


def _write(folder, epoch, step, meta, arrays):
    content = io.BytesIO()
    text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    np.savez(content, meta=text, **{f"a{place}": array for place, array in enumerate(arrays)})
    content = content.getbuffer()
    path = folder / f"{epoch:06d}-{step:08d}-{hashlib.sha256(content).hexdigest()}.npz"
    files.write(path, content)
    return path


def _read(path):
    """The description and the arrays of a checkpoint; ``ValueError`` when it is not what was written."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != _NAME.fullmatch(path.name)[1]:
        raise ValueError("its SHA-256 is not the one in its name")
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = [stored[f"a{place}"] for place in range(len(stored.files) - 1)]
        return json.loads(stored["meta"].tobytes()), arrays


def _variables(model):
    """What training changes, the metrics apart: the model's weights and seeds, then the optimiser's variables."""
    metrics = model.metrics_variables
    own = [variable for variable in model.variables if not any(variable is metric for metric in metrics)]
    return own + (list(model.optimizer.variables) if model.optimizer is not None else [])


def _assign(variables, arrays, path):
    mine, its = ([(tuple(one.shape), str(one.dtype)) for one in ones] for ones in (variables, arrays))
    if mine != its:
        pairs = itertools.zip_longest(mine, its, fillvalue="nothing")
        place, (here, there) = next((place, pair) for place, pair in enumerate(pairs) if pair[0] != pair[1])
        here = f"{variables[place].path} {here}" if place < len(mine) else here
        sizes = f"{len(its)} variables against {len(mine)} here; the first difference is {here} here, {there} there"
        advice = "Use another folder, or the model that it was made with"
        raise ValueError(f"the checkpoint {path} is of another model or optimiser: {sizes}. {advice}")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _state_among(callback, values):
    """Those of a callback's values that are state: no constructor's argument, inherited or not, and no private note."""
    arguments = {name for kind in type(callback).__mro__ for name in inspect.signature(kind.__init__).parameters}
    return {name: value for name, value in values.items() if name not in arguments and not name.startswith("_")}


def _get_state(callback, arrays):
    """A callback's state: its plain values, and lists of arrays (the best weights), which go to ``arrays``."""
    state = {"class": type(callback).__name__, "values": {}, "arrays": {}}
    for name, value in _state_among(callback, vars(callback)).items():
        value = value.item() if isinstance(value, np.generic) else value
        if value is None or isinstance(value, (bool, int, float, str)):
            state["values"][name] = value
        elif isinstance(value, list) and value and all(isinstance(array, np.ndarray) for array in value):
            state["arrays"][name] = [len(arrays), len(value)]
            arrays.extend(value)
    return state


def _set_states(callbacks, states, arrays):
    for callback, state in zip(callbacks, states, strict=True):
        values = state["values"] | {name: arrays[start : start + count] for name, (start, count) in state["arrays"].items()}
        vars(callback).update(_state_among(callback, values))  # checkpoints of before hold arguments and private notes too
