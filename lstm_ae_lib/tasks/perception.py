"""Perceptual quality of restored images, measured with a small classifier of clean CIFAR-10 images trained in this study.

None of its numbers compares an image with its own clean version pixel by pixel. The features are *this* classifier's: the
distances do not compare with the FID and KID that other work reports from the Inception network.
"""

import functools

import numpy as np

from lstm_ae_lib import checks, datasets, metrics, models, peers, seeding, weights
from lstm_ae_lib._backend import keras


class Classifier:
    """A trained :func:`classifier` and its features. :func:`load_classifier` makes a released one; ``card`` says what is known."""

    def __init__(self, model, card: dict | None = None):
        self.model, self.card = model, dict(card or {})
        features = model.get_layer("features").output
        self._both = keras.Model(model.inputs[0], keras.layers.Concatenate()([features, model.output]))
        self._width = features.shape[-1]

    def look(self, images, batch_size: int = 500) -> tuple:
        """The features ``(n, d)``, float64, and the predicted classes ``(n,)`` of images ``(n, height, width, 3)``, uint8 or float
        in [0, 1], of the size it was trained on, ``batch_size`` at a time."""
        images = checks.images_uint8(images) / np.float32(255) if np.asarray(images).dtype == np.uint8 else images
        images = checks.images_float(images, "images").astype(np.float32, copy=False)
        wanted = tuple(self.model.inputs[0].shape[1:])
        if images.shape[1:] != wanted:
            raise ValueError(f"the classifier sees images of {wanted}, got {images.shape[1:]}")
        seen = models.apply(self._both, images, batch_size)
        return seen[:, : self._width].astype(np.float64), np.argmax(seen[:, self._width :], axis=1)


def frechet_distance(features, others) -> float:
    """Fréchet distance of two normal distributions with the means and covariances of two sets of features.

    ``|m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2))`` (Dowson and Landau 1982; used so by Heusel et al. 2017), for ``(n, d)`` and
    ``(m, d)``, finite, at least two of each. It is biased upwards for few images and many features: compare equal numbers only.
    """
    features, others = _checked_features(features, others)
    means = [one.mean(axis=0) for one in (features, others)]
    covariances = [np.atleast_2d(np.cov(one, rowvar=False)) for one in (features, others)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    crossed = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariances[1] @ root), 0)).sum()
    apart = np.square(means[0] - means[1]).sum() + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * crossed
    return float(max(apart, 0.0))


def frechet_interval(features, others, confidence: float = 0.95, resamples: int = 100, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of the Fréchet distance of two versions of the same images, ``(n, d)`` each in the same order.

    A resampled set repeats images, which biases its distance upwards: the resampled distances are shifted to the distance itself
    as their mean. Other arguments: as for :func:`lstm_ae_lib.metrics.bootstrap_interval`.
    """
    features, others = _checked_features(features, others, paired=True)
    checks.number(confidence, "confidence", 0.5, 0.9999)
    checks.number(resamples, "resamples", 10, 100_000, whole=True)
    generator, distance = np.random.default_rng(seed), frechet_distance(features, others)
    chosen = (generator.integers(0, len(features), len(features)) for _ in range(resamples))
    found = np.array([frechet_distance(features[rows], others[rows]) for rows in chosen])
    low, high = np.quantile(found - found.mean(), [(1 - confidence) / 2, (1 + confidence) / 2])
    return max(distance + float(low), 0.0), distance + float(high)


def kernel_distances(features, others, block: int = 1000) -> np.ndarray:
    """Squared maximum mean discrepancy of two versions of the same images, one unbiased estimate for each block of images.

    The kernel is ``(x y / d + 1)^3`` (Bińkowski et al., "Demystifying MMD GANs", 2018). The estimate is Gretton's for pairs
    (2012, lemma 6), in which no image meets itself or its other version; it can be negative, and is 0 for copies. Arguments:
    ``(n, d)`` in the same order. Images that do not fill a ``block``, of at least 2, are left out, unless none does.
    """
    means = [[(kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1)) for kernel in kernels]
             for kernels in _kernel_blocks(features, others, block)]  # fmt: skip
    return np.array([first + second - 2 * crossed for first, second, crossed in means])


def kernel_interval(features, others, block: int = 1000) -> tuple:
    """95 % bootstrap interval over images of the mean of :func:`kernel_distances`; (None, None) from fewer than 10 images.

    To first order an image adds to a block's estimate twice the mean over its own pairs less the estimate (Hoeffding 1948): these
    values are resampled. For two equal distributions the interval is too wide, by the square root of 2.
    """
    values = []
    for first, second, crossed in _kernel_blocks(features, others, block):
        pairs = first + second - crossed - crossed.T
        own = (pairs.sum(axis=1) - np.diagonal(pairs)) / (len(pairs) - 1)
        values.extend(2 * own - own.mean())
    return metrics.bootstrap_interval(values) if len(values) >= 10 else (None, None)


def _kernel_blocks(features, others, block):
    """The kernel between the images of each block: of the first versions, of the second, and from the first to the second."""
    features, others = _checked_features(features, others, paired=True)
    size = min(checks.number(block, "block", 2, 2**31, whole=True), len(features))
    for start in range(0, len(features) - size + 1, size):
        one, two = features[start : start + size], others[start : start + size]
        yield tuple((left @ right.T / left.shape[1] + 1) ** 3 for left, right in ((one, one), (two, two), (one, two)))


def gradient_energy(images) -> np.ndarray:
    """Mean squared difference of neighbouring pixels of each image: ``(n, height, width, 3)``, uint8 or in [0, 1] -> ``(n,)``."""
    images = checks.images_uint8(images) / 255.0 if np.asarray(images).dtype == np.uint8 else checks.images_float(images, "images")
    return sum(np.square(np.diff(images, axis=axis)).mean(axis=(1, 2, 3)) for axis in (1, 2)) / 2


def evaluate(classifier: Classifier, clean, restored, labels, clean_features=None) -> dict:
    """Perceptual quality of restored images: a dict of each number, with its 95 % bootstrap interval over the images.

    ``clean``, ``restored``: ``(n, height, width, 3)``, uint8 or float in [0, 1], in the same order; ``labels``: ``(n,)``, their
    classes; ``clean_features``: where they are known already. Returns ``accuracy`` (0 to 1), ``frechet``, ``kernel_distance``,
    ``..._low`` and ``..._high`` of each (None from too few images); and ``gradient_energy``, the ratio to that of the clean images.
    """
    checks.same_shape(np.asarray(clean), np.asarray(restored), "clean", "restored")
    labels = np.asarray(labels)
    if labels.shape != (len(clean),):
        raise ValueError(f"labels must be one for each of the {len(clean)} images, got the shape {labels.shape}")
    clean_features = classifier.look(clean)[0] if clean_features is None else clean_features
    features, classes = classifier.look(restored)
    right, pair = (classes == labels).astype(float), (features, clean_features)
    numbers = {"accuracy": (right.mean(), metrics.bootstrap_interval(right)),
               "frechet": (frechet_distance(*pair), frechet_interval(*pair)),
               "kernel_distance": (kernel_distances(*pair).mean(), kernel_interval(*pair))}  # fmt: skip
    found = {"gradient_energy": float(gradient_energy(restored).mean() / gradient_energy(clean).mean())}
    for name, (value, (low, high)) in numbers.items():
        found |= {name: float(value), f"{name}_low": low, f"{name}_high": high}
    return found


def _checked_features(features, others, paired=False):
    pair = [np.asarray(one, np.float64) for one in (features, others)]
    for one in pair:
        if one.ndim != 2 or len(one) < 2 or not np.isfinite(one).all():
            raise ValueError(f"features must be finite numbers (images, features), at least two images; got shape {one.shape}")
    if pair[0].shape[1] != pair[1].shape[1]:
        raise ValueError(f"both must have the same features, got {pair[0].shape[1]} and {pair[1].shape[1]}")
    if paired:
        checks.same_shape(*pair, "features", "others")
    return pair


def labelled_batches(images, labels, batch_size: int, seed: int, *, shift: int = 4, first_epoch: int = 0, first_step: int = 0):
    """Endless shuffled batches to train a classifier with: images, float32 in [0, 1], and labels, int32 ``(batch,)``.

    Half of the images are mirrored, and each is moved by up to ``shift`` pixels, 0 to 16, each way, its border mirrored. Given are
    ``(n, height, width, 3)`` uint8 and ``(n,)`` whole numbers; other arguments as for
    :func:`lstm_ae_lib.datasets.training_batches`.
    """
    images, labels = checks.images_uint8(images), checks.array(labels, "labels")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be {len(images)} whole numbers, got {labels.dtype} {labels.shape}")
    checks.number(shift, "shift", 0, 16, whole=True)
    count, height, width, _ = images.shape
    wider = np.pad(images, [(0, 0), (shift, shift), (shift, shift), (0, 0)], mode="reflect")
    order = datasets.Order(count, batch_size, seed, first_epoch, first_step)
    drawn = functools.lru_cache(maxsize=2)(lambda epoch: seeding.uniform((count, 2), -1 - seed, epoch))

    def make(step):
        indices, flips, epoch = order(step)
        moves = (drawn(epoch)[indices] * (2 * shift + 1)).astype(int)
        rows = moves[:, :1] + np.arange(height)
        columns = moves[:, 1:] + np.where(flips[:, None], np.arange(width)[::-1], np.arange(width))
        shown = wider[indices[:, None, None], rows[:, :, None], columns[:, None]]
        return shown / np.float32(255), labels[indices].astype(np.int32)

    return datasets.pipeline(make, [images.shape[1:], ()], order.first, dtypes=("float32", "int32"))


@weights.register
def classifier(image_shape=(32, 32, 3), width: int = 32, classes: int = 10, name: str = "classifier"):
    """A small residual network that predicts an image's class; its features measure perceptual quality.

    Convolutions with batch normalisation at full, half, quarter and eighth of the resolution, with ``width``, twice and four
    times as many channels, and residual blocks at half and quarter (in the manner of He et al., "Deep Residual Learning", 2016);
    global average pooling gives ``4 * width`` features. Sides are multiples of 8, ``width`` is 1 to 1,024, ``classes`` 2 to 65,536.
    Returns a model: images in [0, 1] -> logits ``(batch, classes)``; its layer ``features`` gives the features. Raises
    ``ValueError`` for an argument out of range.
    """
    checks.number(width, "width", 1, 1024, whole=True)
    checks.number(classes, "classes", 2, 65536, whole=True)
    peers.check_divides(image_shape, 8)

    def block(hidden, filters, name):
        hidden = models.convolution(filters, 3, name, use_bias=False, kernel_initializer="he_normal")(hidden)
        hidden = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(hidden)
        return keras.layers.ReLU(name=f"{name}_relu")(hidden)

    image = keras.layers.Input(image_shape, name="image")
    hidden = block(keras.layers.Rescaling(4.0, -2.0, name="spread")(image), width, "full")
    for place, filters in enumerate((2 * width, 4 * width)):
        hidden = keras.layers.MaxPooling2D(name=f"pool{place}")(block(hidden, filters, f"widen{place}"))
        branch = block(block(hidden, filters, f"one{place}"), filters, f"two{place}")
        hidden = keras.layers.Add(name=f"add{place}")([hidden, branch])
    hidden = keras.layers.MaxPooling2D(name="pool2")(block(hidden, 4 * width, "eighth"))
    features = keras.layers.GlobalAveragePooling2D(dtype="float32", name="features")(hidden)
    return keras.Model(image, keras.layers.Dense(classes, dtype="float32", name="classes")(features), name=name)


def load_classifier(name: str = "default", folder=None) -> Classifier:
    """A released one; ``folder``: default ``data/weights/classify``. Errors as :func:`lstm_ae_lib.weights.read_released`."""
    model, description = weights.read_released(name, folder or weights.released_dir("classify"))
    return Classifier(model, description["card"])
