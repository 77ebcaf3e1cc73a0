"""Pipelines of ``(degraded, clean)`` batches, and the split into training and validation images.

A batch is a function of its step, in NumPy; ``tf.data`` makes batches ahead, or without TensorFlow Keras itself. The order of epoch
*e*, and which of its images are mirrored, depend on ``(seed, e)`` alone: the same on every machine and backend, and the same when
training resumes. Every epoch holds every image once; its last batch may be smaller.
"""

import atexit
import functools
import gc
import importlib.util
import math
import sys

import numpy as np

from lstm_ae_lib import checks, degradations, seeding
from lstm_ae_lib.fast import ahead


def split(count: int, validation_share: float = 0.1) -> tuple[slice, slice]:
    """Slices of ``count`` images for training and for validation: the *last* ``validation_share``, above 0, at most 0.9.

    The precursor study held out 0.2. Raises ``ValueError`` for a share that is out of range or leaves one side empty.
    """
    checks.number(count, "count", 0, 2**62, whole=True)
    checks.number(validation_share, "validation_share", 0, 0.9, above_low=True)
    cut = count - round(count * validation_share)
    if not 0 < cut < count:
        raise ValueError(f"validation_share {validation_share} of {count} images leaves one side of the split empty")
    return slice(0, cut), slice(cut, count)


def training_batches(degraded, clean, batch_size: int, seed: int, *, flip: bool = True, turn: bool = False, first_epoch: int = 0,
                     first_step: int = 0, part=(0, 1)):  # fmt: skip
    """Endless shuffled batches of ``(degraded, clean)``, float32 in units of [0, 1]: a :func:`pipeline`.

    Images are degraded once, before (35 us an image at sigma 2); a batch is two look-ups. Give ``fit`` ``steps_per_epoch=``
    (:func:`steps_per_epoch`) and ``shuffle=False``. Raises ``ValueError`` for images of a wrong shape or dtype.

    Args:
        degraded: as :func:`lstm_ae_lib.degradations.degrade` makes them, uint8 or float.
        clean: the same images, ``(n, height, width, 3)`` uint8.
        batch_size: 1 to ``n``.
        seed: of the order and the flips, 0 to 2**31 - 1.
        flip: mirror half of the images left to right, both versions alike; doubles the memory.
        turn: turn half of them upside down, and transpose half: square images, with ``flip`` in all eight ways.
        first_epoch, first_step: where a resumed training starts: after so many epochs, and so many steps more.
        part: of each batch, which of how many equal parts; ``ValueError`` where a batch, or the last one, cannot be divided so.
    """
    look_up, count = _look_up(degraded, clean, mirrored=checks.choice(flip, "flip", (True, False))), len(clean)
    order = Order(count, batch_size, seed, first_epoch, first_step, part)

    def make(step):
        indices, flips, _ = order(step)
        return look_up(indices + count * flips if flip else indices)

    return pipeline(order.turned(make, clean.shape[1:3]) if turn else make, [clean.shape[1:]] * 2, order.first)


def redrawn_batches(clean, protocol, batch_size: int, seed: int, *, flip: bool = True, turn: bool = False, first_index: int = 0,
                    first_epoch: int = 0, first_step: int = 0, part=(0, 1)):  # fmt: skip
    """As :func:`training_batches`, but degraded anew in each epoch by :func:`lstm_ae_lib.degradations.redegrade`.

    A protocol that draws nothing at random is applied once. ``first_index``: position of ``clean[0]`` in its data set.
    """
    clean = checks.images_uint8(clean, "clean")
    checks.number(first_index, "first_index", 0, 2**31, whole=True)
    checks.choice(flip, "flip", (True, False))
    given = {"first_epoch": first_epoch, "first_step": first_step, "part": part}
    if not degradations.is_random(protocol):
        return training_batches(degradations.degrade(clean, protocol), clean, batch_size, seed, flip=flip, turn=turn, **given)
    order = Order(len(clean), batch_size, seed, **given)

    def make(step):
        indices, flips, epoch = order(step)
        degraded = degradations.as_float(degradations.redegrade(clean[indices], protocol, first_index + indices, epoch))
        mirrored = flips[:, None, None, None] & flip
        return [np.where(mirrored, images[:, :, ::-1], images) for images in (degraded, clean[indices] / np.float32(255))]

    return pipeline(order.turned(make, clean.shape[1:3]) if turn else make, [clean.shape[1:]] * 2, order.first)


def evaluation_batches(degraded, clean, batch_size: int, part=(0, 1)):
    """Batches of ``(degraded, clean)``, once through, in order. Arguments as for :func:`training_batches`."""
    look_up = _look_up(degraded, clean)
    checks.number(batch_size, "batch_size", 1, 2**31 - 1, whole=True)
    mine, places = rows_of(len(clean), batch_size, part), np.arange(len(clean))

    def make(step):
        return look_up(places[step * batch_size : (step + 1) * batch_size][mine])

    return pipeline(make, [clean.shape[1:]] * 2, 0, steps_per_epoch(len(clean), batch_size))


def pipeline(make, shapes, first: int = 0, last: int | None = None, threads: int = 1, dtypes=("float32", "float32")):
    """The batches ``make(step)`` from step ``first`` to before ``last``, or without end, made ahead of their use.

    ``make`` returns arrays of ``dtypes`` and of ``shapes``, the batch's axis left out; ``threads`` or more call it, also at once.
    A ``tf.data.Dataset``; without TensorFlow a ``keras.utils.PyDataset``, which can be iterated, too, and has ``take``.
    """
    if importlib.util.find_spec("tensorflow") is None:
        return ahead.keras_batches()(make, first, last, threads)
    import tensorflow as tf

    made_ahead = ahead.Ahead(make, last, threads)

    def load(step):
        made = tf.numpy_function(made_ahead, [step], [tf.as_dtype(dtype) for dtype in dtypes])
        return tuple(tf.ensure_shape(one, (None, *shape)) for one, shape in zip(made, shapes, strict=True))

    options = tf.data.Options()
    options.autotune.enabled = False  # one thread looks up tens of thousands of images a second; one that tunes would disturb
    return tf.data.Dataset.range(first, tf.int64.max if last is None else last).map(load).prefetch(2).with_options(options)


class Order:
    """Which images make the batch of a step: ``order(step)`` gives their positions, which of them are mirrored, and the epoch.

    Arguments as for :func:`training_batches`; ``first`` is the step where training starts, counted from that of the first epoch.
    """

    def __init__(self, count, batch_size, seed, first_epoch=0, first_step=0, part=(0, 1)):
        checks.number(batch_size, "batch_size", 1, count, whole=True)
        checks.number(seed, "seed", 0, 2**31 - 1, whole=True)
        for name, value in (("first_epoch", first_epoch), ("first_step", first_step)):
            checks.number(value, name, 0, 2**62, whole=True)
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.steps, self.mine = steps_per_epoch(count, batch_size), rows_of(count, batch_size, part)
        self.first = first_epoch * self.steps + first_step
        self._drawn = functools.lru_cache(maxsize=2)(self._draw)

    def _draw(self, epoch):
        # Streams of random numbers that never meet: epochs count up from 0, their mirror images down from -1.
        order = np.argsort(seeding.uniform((self.count,), self.seed, epoch), kind="stable")
        return order, seeding.uniform((self.count,), self.seed, -1 - epoch) < 0.5

    def __call__(self, step):
        epoch, place = divmod(int(step), self.steps)
        order, flips = self._drawn(epoch)
        indices = order[place * self.batch_size : (place + 1) * self.batch_size][self.mine]
        return indices, flips[indices], epoch

    def turned(self, make, sides):
        """``make``, half of its images turned upside down and half transposed, both versions alike, drawn from seed and step."""
        if sides[0] != sides[1]:
            raise ValueError(f"turn needs square images, got {sides[0]} x {sides[1]}")

        def turn(step):
            drawn = seeding.uniform((self.batch_size, 2), 2**32 + self.seed, int(step))[self.mine] < 0.5
            pair = make(step)
            down, across = drawn[: len(pair[0]), :, None, None, None].swapaxes(0, 1)
            pair = [np.where(down, images[:, ::-1], images) for images in pair]
            return [np.where(across, images.swapaxes(1, 2), images) for images in pair]

        return turn


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Batches in one epoch of ``count`` images, the last, smaller one included."""
    checks.number(batch_size, "batch_size", 1, 2**62, whole=True)
    return math.ceil(checks.number(count, "count", 1, 2**62, whole=True) / batch_size)


def images_seen(count: int, batch_size: int, steps: int) -> int:
    """Images in the first ``steps`` batches of :func:`training_batches` from ``count`` images, repetitions counted."""
    epochs, more = divmod(checks.number(steps, "steps", 0, 2**62, whole=True), steps_per_epoch(count, batch_size))
    return epochs * count + more * batch_size


def rows_of(count, batch_size, part):
    """The rows of a batch that belong to a part of it."""
    place, parts = part
    checks.number(parts, "the number of parts", 1, 2**20, whole=True)
    checks.number(place, "the part's place", 0, parts - 1, whole=True)
    rest = count % batch_size or batch_size
    if rest % parts or (batch_size % parts and batch_size < count):
        raise ValueError(f"a batch must divide into {parts} equal parts: batches are of {batch_size} images, the last of {rest}")
    return slice(place, None, parts)


def _look_up(degraded, clean, mirrored=False):
    """Pairs of images as a function of their positions.

    With ``mirrored`` all are followed by their mirror images: mirroring a batch costs more than the rest of the pipeline.
    """
    degraded, clean = checks.images_degraded(degraded), checks.images_uint8(clean, "clean")
    degraded = degraded if degraded.dtype == np.uint8 else degraded.astype(np.float32, copy=False)
    checks.same_shape(degraded, clean, "degraded", "clean")
    arrays = [np.concatenate([array, array[:, :, ::-1]]) if mirrored else array for array in (degraded, clean)]
    return lambda indices: [array[indices] / np.float32(255) if array.dtype == np.uint8 else array[indices] for array in arrays]


@atexit.register
def _free_iterators():
    """Ends the threads of all pipelines: one that comes back to Python's code while Python ends would hang or abort the process."""
    if tf := sys.modules.get("tensorflow"):
        for iterator in [one for one in gc.get_objects() if tf.data.Iterator in type(one).__mro__]:
            vars(iterator).clear()
