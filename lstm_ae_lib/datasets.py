"""``tf.data`` pipelines of ``(degraded, clean)`` batches, and the split into training and validation images.

The order of epoch *e*, and which of its images are mirrored, depend on ``(seed, e)`` alone: the same on every machine, and the same
when training resumes. Every epoch holds every image once; its last batch may be smaller. Images are arrays, or crops of the
pictures in a folder.
"""

import atexit
import gc
import math
import sys

import numpy as np

from lstm_ae_lib import checks, degradations

INTERLEAVED = 16  # pictures whose crops take turns: a batch of 32 shows all of them twice


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


def training_batches(
    degraded, clean, batch_size: int, seed: int, *, flip: bool = True, first_epoch: int = 0, first_step: int = 0, part=(0, 1)
):  # fmt: skip
    """Endless shuffled batches of ``(degraded, clean)``, a ``tf.data.Dataset`` of float32 in units of [0, 1].

    Images are degraded once, before (35 us an image at sigma 2); a batch is two look-ups. Give ``fit`` ``steps_per_epoch=``
    (:func:`steps_per_epoch`) and ``shuffle=False``. Raises ``ValueError`` for images of a wrong shape or dtype.

    Args:
        degraded: as :func:`lstm_ae_lib.degradations.degrade` makes them, uint8 or float.
        clean: the same images, ``(n, height, width, 3)`` uint8.
        batch_size: 1 to ``n``.
        seed: of the order and the flips, 0 to 2**31 - 1.
        flip: mirror half of the images left to right, both versions alike; doubles the memory.
        first_epoch, first_step: where a resumed training starts: after so many epochs, and so many steps more.
        part: of each batch, which of how many equal parts; ``ValueError`` where a batch, or the last one, cannot be divided so.
    """
    import tensorflow as tf

    look_up, count = _look_up(degraded, clean, mirrored=checks.choice(flip, "flip", (True, False))), len(clean)

    def load(indices, flips, epoch):
        return look_up(indices + count * tf.cast(flips, indices.dtype) if flip else indices)

    return quiet(shuffled(count, batch_size, seed, first_epoch, first_step, part=part).map(load))


def redrawn_batches(
    clean, protocol, batch_size: int, seed: int, *, flip: bool = True, first_index: int = 0, first_epoch: int = 0,
    first_step: int = 0, part=(0, 1)
):  # fmt: skip
    """As :func:`training_batches`, but degraded anew in each epoch by :func:`lstm_ae_lib.degradations.redegrade`.

    A protocol that draws nothing at random is applied once. ``first_index``: position of ``clean[0]`` in its data set.
    """
    import tensorflow as tf

    clean = checks.images_uint8(clean, "clean")
    checks.number(first_index, "first_index", 0, 2**31, whole=True)
    checks.choice(flip, "flip", (True, False))
    order = {"batch_size": batch_size, "seed": seed, "first_epoch": first_epoch, "first_step": first_step, "part": part}
    if not degradations.is_random(protocol):
        return training_batches(degradations.degrade(clean, protocol), clean, flip=flip, **order)

    def pair(indices, flips, epoch):
        degraded = degradations.as_float(degradations.redegrade(clean[indices], protocol, first_index + indices, int(epoch)))
        mirrored = flips[:, None, None, None] & flip
        return [np.where(mirrored, images[:, :, ::-1], images) for images in (degraded, clean[indices] / np.float32(255))]

    def load(indices, flips, epoch):
        both = tf.numpy_function(pair, [indices, flips, epoch], [tf.float32, tf.float32])
        return tuple(tf.ensure_shape(images, (None, *clean.shape[1:])) for images in both)

    return quiet(shuffled(len(clean), **order).map(load))


def picture_batches(
    folder, protocol, batch_size: int, seed: int, *, flip: bool = True, first_epoch: int = 0, first_step: int = 0,
    threads: int = 2, part=(0, 1)
):  # fmt: skip
    """Endless batches of ``(degraded, clean)`` crops of pictures, as :func:`redrawn_batches` gives them of images; ``folder`` is a
    :class:`lstm_ae_lib.tasks.picture_folder.PictureFolder`.

    An epoch decodes each file once, in a new order, and has ``len(folder.files) * folder.crops`` images. They depend on the files,
    ``seed`` and the epoch alone, not on ``threads``, 1 to 64. Memory, whatever the folder holds: the crops of 36 pictures (110 MB
    for 64 of 128 x 128), and as many whole pictures and twice as many batches as there are threads.
    """
    import tensorflow as tf

    protocol, files, crops, side = degradations.get_protocol(protocol), len(folder.files), folder.crops, folder.side
    start, first_step = _start(files * crops, batch_size, seed, first_epoch, first_step)
    mine = _part(files * crops, batch_size, part)
    checks.choice(flip, "flip", (True, False))
    checks.number(threads, "threads", 1, 64, whole=True)
    group = INTERLEAVED * crops

    def cut(place, epoch):
        return folder.cut(place, crops, (seed, epoch, place), flip)

    def pair(clean, positions, epoch):
        return [degradations.as_float(images) for images in (degradations.redegrade(clean, protocol, positions, epoch), clean)]

    def load(place, epoch):
        images = tf.ensure_shape(tf.numpy_function(cut, [place, epoch], tf.uint8), (crops, side, side, 3))
        return images, place * crops + tf.range(crops, dtype=tf.int64)

    def one_epoch(epoch):
        # Pictures take turns in groups, and a group is used up before the next: those before the first step are not even decoded.
        done = tf.where(epoch == start, tf.constant(first_step * batch_size, tf.int64), 0)
        places = tf.ensure_shape(tf.numpy_function(folder.order, [seed, epoch], tf.int64), (files,))
        places = tf.data.Dataset.from_tensor_slices(places).skip(done // group * INTERLEAVED)
        loaded = places.map(lambda place: load(place, epoch), num_parallel_calls=threads)  # in interleave, more would be read ahead
        images = loaded.interleave(lambda *one: tf.data.Dataset.from_tensor_slices(one), INTERLEAVED).skip(done % group)
        return images.batch(batch_size).map(lambda clean, positions: (clean[mine], positions[mine], epoch))

    def degrade(*batch):
        both = tf.numpy_function(pair, batch, [tf.float32, tf.float32])
        return tuple(tf.ensure_shape(images, (None, side, side, 3)) for images in both)

    # While one group of pictures is used, the next is decoded.
    batches = tf.data.Dataset.range(start, tf.int64.max).flat_map(one_epoch).prefetch(max(1, group // batch_size))
    return quiet(batches.map(degrade, num_parallel_calls=threads))


def evaluation_batches(degraded, clean, batch_size: int, part=(0, 1)):
    """Batches of ``(degraded, clean)``, once through, in order. Arguments as for :func:`training_batches`."""
    import tensorflow as tf

    look_up = _look_up(degraded, clean)
    checks.number(batch_size, "batch_size", 1, 2**31 - 1, whole=True)
    mine = _part(len(clean), batch_size, part)
    return quiet(tf.data.Dataset.range(len(clean)).batch(batch_size).map(lambda indices: look_up(indices[mine])))


def turned(batches, batch_size: int, seed: int, first_step: int = 0, part=(0, 1)):
    """Batches of square ``(degraded, clean)`` images, half of them turned upside down and half transposed, both versions alike:
    with mirrored images, all eight ways to lay a square. Drawn from ``seed`` and the step; arguments as for the batches."""
    import tensorflow as tf

    def turn(step, pair):
        drawn = tf.random.stateless_uniform([batch_size, 2], [2**32 + seed, step])[slice(part[0], None, part[1])] < 0.5
        down, transposed = tf.unstack(drawn[: tf.shape(pair[0])[0], None, None], axis=-1)
        pair = [tf.where(down[..., None], images[:, ::-1], images) for images in pair]
        return tuple(tf.where(transposed[..., None], tf.transpose(images, (0, 2, 1, 3)), images) for images in pair)

    return quiet(batches.enumerate(first_step).map(turn))


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Batches in one epoch of ``count`` images, the last, smaller one included."""
    checks.number(batch_size, "batch_size", 1, 2**62, whole=True)
    return math.ceil(checks.number(count, "count", 1, 2**62, whole=True) / batch_size)


def images_seen(count: int, batch_size: int, steps: int) -> int:
    """Images in the first ``steps`` batches of :func:`training_batches` from ``count`` images, repetitions counted."""
    epochs, more = divmod(checks.number(steps, "steps", 0, 2**62, whole=True), steps_per_epoch(count, batch_size))
    return epochs * count + more * batch_size


def _start(count, batch_size, seed, first_epoch, first_step):
    """The first batch's epoch, and its place there, of what all shuffled pipelines are given."""
    checks.number(batch_size, "batch_size", 1, count, whole=True)
    checks.number(seed, "seed", 0, 2**31 - 1, whole=True)
    for name, value in (("first_epoch", first_epoch), ("first_step", first_step)):
        checks.number(value, name, 0, 2**62, whole=True)
    more_epochs, first_step = divmod(first_step, steps_per_epoch(count, batch_size))
    return first_epoch + more_epochs, first_step


def _part(count, batch_size, part):
    """The rows of a batch that belong to a part of it."""
    place, parts = part
    checks.number(parts, "the number of parts", 1, 2**20, whole=True)
    checks.number(place, "the part's place", 0, parts - 1, whole=True)
    rest = count % batch_size or batch_size
    if rest % parts or (batch_size % parts and batch_size < count):
        raise ValueError(f"a batch must divide into {parts} equal parts: batches are of {batch_size} images, the last of {rest}")
    return slice(place, None, parts)


def shuffled(count, batch_size, seed, first_epoch, first_step, moves=False, part=(0, 1)):
    """Endless batches of: positions of images, which are mirrored, with ``moves`` two numbers from 0 to 1 for each, the epoch."""
    import tensorflow as tf

    start, first_step = _start(count, batch_size, seed, first_epoch, first_step)
    mine = _part(count, batch_size, part)

    def stream(shape, first, second):
        return tf.random.stateless_uniform(shape, tf.stack([tf.constant(first, tf.int64), second]))

    def epoch_batches(epoch):
        # Streams of random numbers that never meet: epochs count up from 0, their mirror images down from -1, and their moves
        # have a seed of their own.
        order = tf.argsort(stream([count], seed, epoch), stable=True)
        drawn = [stream([count], seed, -1 - epoch) < 0.5]
        if moves:
            drawn.append(stream([count, 2], -1 - seed, epoch))
        batches = tf.data.Dataset.from_tensor_slices(order).batch(batch_size).map(lambda indices: indices[mine])
        return batches.map(lambda indices: (indices, *(tf.gather(numbers, indices) for numbers in drawn), epoch))

    return tf.data.Dataset.range(start, tf.int64.max).flat_map(epoch_batches).skip(first_step)


def _look_up(degraded, clean, mirrored=False):
    """Pairs of images as a function of their positions.

    With ``mirrored`` all are followed by their mirror images: mirroring a batch costs more than the rest of the pipeline.
    """
    import tensorflow as tf

    degraded, clean = checks.images_degraded(degraded), checks.images_uint8(clean, "clean")
    degraded = degraded if degraded.dtype == np.uint8 else degraded.astype(np.float32, copy=False)
    checks.same_shape(degraded, clean, "degraded", "clean")
    arrays = [np.concatenate([array, array[:, :, ::-1]]) if mirrored else array for array in (degraded, clean)]
    with tf.device("CPU:0"):  # where the pipeline runs; on a machine with a GPU they would go there
        arrays = [tf.constant(array) for array in arrays]

    def look_up(indices):
        batches = [tf.gather(array, indices) for array in arrays]
        return tuple(tf.cast(batch, tf.float32) / 255.0 if batch.dtype == tf.uint8 else batch for batch in batches)

    return look_up


def quiet(batches):
    """One thread looks up tens of thousands of images a second; more, or one that tunes them, only disturb the training."""
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(2).with_options(options)


@atexit.register
def _free_iterators():
    """Ends the threads of all pipelines: one that comes back to Python's code while Python ends would hang or abort the process."""
    if tf := sys.modules.get("tensorflow"):
        for iterator in [one for one in gc.get_objects() if tf.data.Iterator in type(one).__mro__]:
            vars(iterator).clear()
