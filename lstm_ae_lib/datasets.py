"""CIFAR-10: find it, fetch it, prove it is the right one, split it, and feed it to a model.

The 60,000 images are found or fetched once (:func:`fetch_cifar10`), checked against SHA-256 hashes of their *content*, so
that every source gives the same arrays in the same order, and kept as one ``.npz`` that is read without pickle. A
stratified sample of 2,500 of them is tracked in the repository for quick runs. Which of the two a caller gets is the
caller's choice and is written on the result; one never stands in for the other.

Source of the images: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

import math

import numpy as np

from lstm_ae_lib import checks, degradations


def split(count: int, validation_share: float = 0.1) -> tuple[slice, slice]:
    """Splits the training images: the *last* share of them is for validation.

    Args:
        count: how many training images there are.
        validation_share: the share that is held out, above 0, at most 0.9. Default 0.1, the last 5,000 of 50,000; the
            precursor study held out 0.2. The bundled sample is laid out so that the same share cuts it at the same place.

    Returns:
        (slice, slice): of the training and of the validation images.

    Raises:
        ValueError: the share is out of range or leaves one side empty.

    Example:
        >>> split(50000)
        (slice(0, 45000, None), slice(45000, 50000, None))
    """
    checks.number(validation_share, "validation_share", 0, 0.9, above_low=True)
    cut = count - round(count * validation_share)
    if not 0 < cut < count:
        raise ValueError(f"validation_share {validation_share} of {count} images leaves one side of the split empty")
    return slice(0, cut), slice(cut, count)


# --- the tf.data pipeline ------------------------------------------------------------------------------------------------


def training_batches(
    clean, protocol, batch_size: int, seed: int, *, degraded=None, flip: bool = True, redraw: bool = False, first_index: int = 0,
    first_epoch: int = 0, first_step: int = 0
):  # fmt: skip
    """An endless ``tf.data`` pipeline of shuffled ``(degraded, clean)`` batches, one epoch after the other.

    The order of epoch *e* and which of its images are mirrored are functions of ``(seed, e)`` and nothing else: the same
    on every machine and in every process, new in each epoch, and the same again when training resumes at ``first_epoch`` or
    ``first_step``. Every epoch holds every image once; its last batch may be smaller. Use :func:`steps_per_epoch` for
    ``fit(steps_per_epoch=...)``.

    Args:
        clean: ``(n, height, width, 3)`` uint8.
        protocol: name of a protocol of :mod:`lstm_ae_lib.degradations`, or a ``Protocol``; not used where ``degraded`` is given.
        batch_size: images per batch, at least 1.
        seed: of the order and the flips, 0 to 2**31 - 1.
        degraded: the same images degraded, as :func:`lstm_ae_lib.degradations.degrade` makes them, uint8 or float.
            Default None: they are made here. Every protocol gives an image the same degradation each time, and mirroring
            commutes with it or follows it; so it is done once (35 us an image at sigma 2), and a batch is two look-ups.
        flip: mirror half of the images left to right, both versions alike; doubles the memory. Default True.
        redraw: degrade the images in each epoch anew (:func:`lstm_ae_lib.degradations.redegrade`), so that a network meets no
            sigma and no noise twice; in the first epoch as the protocol does. Without effect where the protocol draws nothing;
            ``degraded`` is not used where it does. Default False.
        first_index: position of ``clean[0]`` in its data set, by which ``redraw`` draws. Default 0.
        first_epoch, first_step: where to start, for a resumed training: after so many epochs, and so many steps more.

    Returns:
        tf.data.Dataset: of ``(degraded, clean)``, float32 ``(batch, height, width, 3)`` in [0, 1].

    Raises:
        ValueError: images of a wrong shape or dtype, a batch size or seed out of range, an unknown protocol.
    """
    import tensorflow as tf

    clean = checks.images_uint8(clean, "clean")
    count = len(clean)
    first_epoch, first_step = _start(count, batch_size, seed, first_epoch, first_step)
    checks.number(first_index, "first_index", 0, 2**31, whole=True)
    if redraw and degradations.draws(protocol):
        return _redrawn(clean, protocol, flip, first_index, _shuffled(count, batch_size, seed, first_epoch, first_step))
    pixels = _pairs(clean, degraded, protocol, mirrored=flip)

    def load(indices, flips, epoch):
        if flip:
            indices += count * tf.cast(flips, indices.dtype)
        return _looked_up(pixels, indices)

    return _shuffled(count, batch_size, seed, first_epoch, first_step).map(load).prefetch(2).with_options(_quiet())


def _redrawn(clean, protocol, flip, first_index, places):
    import tensorflow as tf

    def pair(indices, flips, epoch):
        degraded = degradations.as_float(degradations.redegrade(clean[indices], protocol, first_index + indices, int(epoch)))
        both = [degraded, clean[indices] / np.float32(255)]
        turned = flips[:, None, None, None] & flip
        return [np.where(turned, images[:, :, ::-1], images) for images in both]

    def load(indices, flips, epoch):
        both = tf.numpy_function(pair, [indices, flips, epoch], [tf.float32, tf.float32])
        return tuple(tf.ensure_shape(images, (None, *clean.shape[1:])) for images in both)

    return places.map(load).prefetch(2).with_options(_quiet())


def labelled_batches(images, labels, batch_size: int, seed: int, *, shift: int = 4, first_epoch: int = 0, first_step: int = 0):
    """An endless ``tf.data`` pipeline of shuffled ``(images, labels)`` batches to train a classifier with.

    Half of the images are mirrored, and each is moved by up to ``shift`` pixels each way, its border mirrored. Order,
    mirroring and moves are functions of the seed and the epoch, as in :func:`training_batches`.

    Args:
        images: ``(n, height, width, 3)`` uint8.
        labels: ``(n,)``, whole numbers.
        batch_size, seed, first_epoch, first_step: as for :func:`training_batches`.
        shift: pixels, 0 to 16. Default 4.

    Returns:
        tf.data.Dataset: of images, float32 ``(batch, height, width, 3)`` in [0, 1], and labels, int32 ``(batch,)``.

    Raises:
        ValueError: images of a wrong shape or dtype, another number of labels, an argument out of range.
    """
    import tensorflow as tf

    images, labels = checks.images_uint8(images), np.asarray(labels)
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be {len(images)} whole numbers, got {labels.dtype} {labels.shape}")
    checks.number(shift, "shift", 0, 16, whole=True)
    count, height, width, _ = images.shape
    first_epoch, first_step = _start(count, batch_size, seed, first_epoch, first_step)
    wider = np.pad(images, [(0, 0), (shift, shift), (shift, shift), (0, 0)], mode="reflect")
    with tf.device("CPU:0"):
        pixels, names = tf.constant(wider.reshape(-1, 3)), tf.constant(labels.astype(np.int32))

    def load(indices, flips, moves, epoch):
        moves = tf.cast(tf.floor(moves * (2 * shift + 1)), tf.int32)
        rows = moves[:, :1] + tf.range(height)
        columns = moves[:, 1:] + tf.where(flips[:, None], tf.range(width)[::-1], tf.range(width))
        numbers = (indices[:, None, None] * (height + 2 * shift) + rows[:, :, None]) * (width + 2 * shift) + columns[:, None]
        return tf.cast(tf.gather(pixels, numbers), tf.float32) / 255, tf.gather(names, indices)

    batches = _shuffled(count, batch_size, seed, first_epoch, first_step, moves=True)
    return batches.map(load).prefetch(2).with_options(_quiet())


def _start(count, batch_size, seed, first_epoch, first_step):
    """The checked place where batches begin: epochs, and steps within the next one."""
    checks.number(batch_size, "batch_size", 1, count, whole=True)
    checks.number(seed, "seed", 0, 2**31 - 1, whole=True)
    checks.number(first_step, "first_step", 0, 2**62, whole=True)
    more_epochs, first_step = divmod(first_step, steps_per_epoch(count, batch_size))
    return first_epoch + more_epochs, first_step


def _shuffled(count, batch_size, seed, first_epoch, first_step, moves=False):
    """Batches without end of the images' numbers, of which are mirrored, with ``moves`` of two numbers from 0 to 1 each, and the
    epoch."""
    import tensorflow as tf

    def epoch_batches(epoch):
        # Streams of random numbers that never meet: epochs count up from 0, their mirror images down from -1, and their moves
        # have a seed of their own.
        stream = lambda shape, first, second: tf.random.stateless_uniform(shape, tf.stack([tf.constant(first, tf.int64), second]))  # noqa: E731
        order = tf.argsort(stream([count], seed, epoch), stable=True)
        drawn = [stream([count], seed, -1 - epoch) < 0.5]
        if moves:
            drawn.append(stream([count, 2], -1 - seed, epoch))
        batches = tf.data.Dataset.from_tensor_slices(order).batch(batch_size)
        return batches.map(lambda indices: (indices, *(tf.gather(numbers, indices) for numbers in drawn), epoch))

    return tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(epoch_batches).skip(first_step)


def evaluation_batches(clean, protocol, batch_size: int, *, degraded=None):
    """A ``tf.data`` pipeline of ``(degraded, clean)`` batches, once through, in order. Arguments as in :func:`training_batches`."""
    import tensorflow as tf

    clean = checks.images_uint8(clean, "clean")
    checks.number(batch_size, "batch_size", 1, 2**31 - 1, whole=True)
    pixels = _pairs(clean, degraded, protocol)
    batches = tf.data.Dataset.range(len(clean)).batch(batch_size)
    return batches.map(lambda indices: _looked_up(pixels, indices)).prefetch(2).with_options(_quiet())


def with_clean(batches):
    """Batches of ``(degraded, clean)`` as ``((degraded, clean), clean)``: for a network that sees the clean image in training."""
    return batches.map(lambda degraded, clean: ((degraded, clean), clean))


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Batches in one epoch, the last, smaller one included."""
    return math.ceil(count / batch_size)


def images_seen(count: int, batch_size: int, steps: int) -> int:
    """Images in the first ``steps`` batches of :func:`training_batches`, repetitions counted."""
    epochs, more = divmod(steps, steps_per_epoch(count, batch_size))
    return epochs * count + more * batch_size


def _pairs(clean, degraded, protocol, mirrored=False):
    """The arrays to look up, degraded and clean, as tensors.

    With ``mirrored`` each array is followed by its mirror image, so that mirroring is a look-up too: turning a batch round
    costs TensorFlow more than all the rest of the pipeline.
    """
    import tensorflow as tf

    degraded = checks.images_degraded(degradations.degrade(clean, protocol) if degraded is None else degraded)
    degraded = degraded if degraded.dtype == np.uint8 else degraded.astype(np.float32, copy=False)
    checks.same_shape(degraded, clean, "degraded", "clean")
    arrays = [degraded, clean]
    if mirrored:
        arrays = [np.concatenate([array, array[:, :, ::-1]]) for array in arrays]
    with tf.device("CPU:0"):  # where the pipeline runs; on a machine with a GPU they would go there
        return [tf.constant(array) for array in arrays]


def _quiet():
    """One thread looks up, tens of thousands of images a second. More, or one that tunes them, only disturb the training."""
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def _looked_up(arrays, indices):
    import tensorflow as tf

    batches = [tf.gather(array, indices) for array in arrays]
    return tuple(tf.cast(batch, tf.float32) / 255.0 if batch.dtype == tf.uint8 else batch for batch in batches)


# --- the store and its sources -------------------------------------------------------------------------------------------


# --- the bundled sample --------------------------------------------------------------------------------------------------
