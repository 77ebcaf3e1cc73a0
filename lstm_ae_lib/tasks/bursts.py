"""Bursts: frames of one image from a camera that drifts, in two variants, and networks that restore the last one.

Frames are time: a recurrent network takes any number of them, at a fixed cost and memory a frame. Its state has to follow the
drift: :class:`Registration` measures it, :func:`shifted` moves what was remembered.
"""

import dataclasses

import numpy as np

from lstm_ae_lib import checks, datasets, models, peers, weights
from lstm_ae_lib._backend import keras
from lstm_ae_lib.layers import DepthToSpace, GaussianBlur
from lstm_ae_lib.peers import convolution, relu_convolution

layers, ops = keras.layers, keras.ops

SEED = 2018  # of the generators of drifts and noise, beside it: epoch, the image's position
LONGEST = 64  # frames
REACH = 3.0  # pixels by which a shift can be measured and undone
MEMORIES = ("recurrent", "window", "average", "pooling")


@dataclasses.dataclass(frozen=True)
class Variant:
    """What happens to each frame, in pixels and in units of [0, 1]."""

    name: str
    sigma: float  # of a Gaussian blur
    noise: float  # standard deviation
    drift: float = 1.0  # from a frame to the next at most, each axis, uniform


VARIANTS = {one.name: one for one in (Variant("burst", 1.2, 20 / 255), Variant("burst50", 0.0, 50 / 255))}


def degrade(images, variant, frames: int = 8, *, drift: float = 1.0, positions=None, epoch: int = 0, every: bool = False):
    """Frames of drifting images: shifted, blurred, with noise, 8 bits; all by OpenCV, which shifts by whole 32nds of a pixel
    (cubic, mirrored at the border).

    The drift is a random walk that ends at 0: the last frame is where the image is, and the last k of n frames are the same for
    every n.

    Args:
        images: ``(n, height, width, 3)`` uint8.
        variant: a name in :data:`VARIANTS`.
        frames: 1 to 64.
        drift: times as fast as the variant's, 0 to 10.
        positions, epoch: ``(n,)`` whole numbers, by default 0 to n - 1, and one: random numbers are drawn from both.
        every: return also the clean image as each frame has it.

    Returns ``(n, frames, height, width, 3)`` uint8, oldest first; with ``every`` a pair of such arrays. Raises ``ValueError``.
    """
    import cv2

    images, variant = checks.images_uint8(images), VARIANTS[checks.choice(variant, "variant", VARIANTS)]
    checks.number(frames, "frames", 1, LONGEST, whole=True)
    checks.number(drift, "drift", 0, 10)
    count, height, width, _ = images.shape
    positions = np.arange(count) if positions is None else checks.array(positions, "positions")
    if positions.shape != (count,) or positions.dtype.kind not in "iu":
        raise ValueError(f"positions must be {count} whole numbers, got {positions.dtype} {positions.shape}")
    seen = np.empty((count, frames, height, width, 3), np.uint8)
    clean = np.empty_like(seen)
    border = {"borderMode": cv2.BORDER_REFLECT_101, "flags": cv2.INTER_CUBIC}
    for place, (image, position) in enumerate(zip(images, positions, strict=True)):
        walk, random = (np.random.default_rng((SEED, int(epoch), int(position), which)) for which in (0, 1))
        away = np.zeros(2)
        for frame in reversed(range(frames)):
            moved = image if not away.any() else cv2.warpAffine(image, np.c_[np.eye(2), away], (width, height), **border)
            clean[place, frame] = moved
            values = moved / np.float32(255)
            if variant.sigma:
                values = cv2.GaussianBlur(values, (0, 0), variant.sigma, borderType=cv2.BORDER_REFLECT_101)
            values = values + np.float32(variant.noise) * random.standard_normal(values.shape, np.float32)
            seen[place, frame] = np.rint(np.clip(values, 0, 1) * 255)
            away = away + walk.uniform(-1, 1, 2) * variant.drift * drift
    return (seen, clean) if every else seen


def shortened(frames, lengths):
    """Bursts ``(n, frames, ...)`` of which only the last ``lengths``, ``(n,)``, are known: earlier ones are the oldest of them."""
    oldest = frames.shape[1] - np.asarray(lengths)
    places = np.maximum(np.arange(frames.shape[1]), oldest[:, None])
    return frames[np.arange(len(frames))[:, None], places]


def training_batches(clean, variant, batch_size: int, seed: int, *, frames: int = 8, every: bool = True, first_step: int = 0):
    """Endless shuffled batches of bursts, drawn anew in each epoch, float32 in [0, 1].

    ``every``: with each frame's clean image, ``(batch, frames, height, width, 3)`` twice; otherwise of 1 to ``frames`` known frames
    (:func:`shortened`), with the last one's clean image. Other arguments as for
    :func:`lstm_ae_lib.datasets.training_batches`; images are not mirrored: a drift has no side.
    """
    clean = checks.images_uint8(clean, "clean")
    order = datasets.Order(len(clean), batch_size, seed, first_step=first_step)

    def burst(step):
        indices, _, epoch = order(step)
        seen, wanted = degrade(clean[indices], variant, frames, positions=indices, epoch=epoch, every=True)
        if not every:
            lengths = np.random.default_rng((SEED, epoch, *map(int, indices[:2]))).integers(1, frames + 1, len(indices))
            seen, wanted = shortened(seen, lengths), wanted[:, -1]
        return [part / np.float32(255) for part in (seen, wanted)]

    shape = (frames, *clean.shape[1:])
    return datasets.pipeline(burst, [shape, shape if every else clean.shape[1:]], order.first, threads=2)


def evaluation_batches(seen, wanted, batch_size: int):
    """Batches of bursts and clean images, uint8 both, once through, in order, as float32 in [0, 1]."""

    def make(step):
        return [part[step * batch_size : (step + 1) * batch_size] / np.float32(255) for part in (seen, wanted)]

    shapes = [part.shape[1:] for part in (seen, wanted)]
    return datasets.pipeline(make, shapes, 0, datasets.steps_per_epoch(len(seen), batch_size))


def shifted(images, shifts):
    """Images, each moved by its own shift, to fractions of a pixel: ``moved[y, x] = image[y + d_y, x + d_x]``, by cubic convolution
    (Keys, 1981, a = -1/2) along each axis, mirrored at the border.

    Images ``(batch, height, width, channels)``, sides known, from 5 pixels on, and shifts ``(batch, 2)`` in pixels, along height
    and width, -3 to 3: beyond, the image fades. Returns the images' shape.
    """
    for axis, equation in ((1, "bij,bjwc->biwc"), (2, "bij,bhjc->bhic")):
        length, margin = images.shape[axis], [(0, 0)] * 4
        margin[axis] = (4, 4)
        where = ops.cast(shifts[:, axis - 1 : axis], "float32") + ops.arange(0.0, length)  # what may be symbolic stands first: JAX
        distance = ops.abs(where[..., None] - ops.arange(-4.0, length + 4))  # (batch, length, length + 8)
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        taps = ops.where(distance < 1, near, ops.where(distance < 2, far, 0.0))
        images = ops.einsum(equation, ops.cast(taps, images.dtype), ops.pad(images, margin, mode="reflect"))
    return images


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class Registration(keras.layers.Layer):
    """By how much an image has moved as a whole: the shift ``d`` for which ``before[y + d_y, x + d_x]`` is nearest to ``now``.

    Gauss-Newton steps on the squared difference (Lucas and Kanade, "An Iterative Image Registration Technique", 1981), both images
    blurred by a Gaussian of 1 pixel before. Without weights.

    Args:
        steps: 1 to 100.

    Input: ``(batch, height, width, 6)``, sides known and from 9 pixels on, ``before`` beside ``now``. Output: ``(batch, 2)`` in
    pixels, along height and width, -3 to 3. Raises ``ValueError`` for another shape.
    """

    def __init__(self, steps=3, **kwargs):
        super().__init__(**kwargs)
        self.steps = int(checks.number(steps, "steps", 1, 100, whole=True))
        self.smooth = GaussianBlur(1.0, dtype="float32")

    def build(self, input_shape):
        self.compute_output_shape(input_shape)
        self.smooth.build((*input_shape[:3], 3))
        self.built = True

    def call(self, images):
        before, now = (self.smooth(ops.cast(half, "float32")) for half in ops.split(images, 2, axis=-1))
        found = ops.mean(now[..., :2], axis=(1, 2)) * 0
        for _ in range(self.steps):
            moved = shifted(before, found)
            # What comes from beyond the border says nothing.
            down = (moved[:, 2:, 1:-1] - moved[:, :-2, 1:-1])[:, 3:-3, 3:-3] / 2
            right = (moved[:, 1:-1, 2:] - moved[:, 1:-1, :-2])[:, 3:-3, 3:-3] / 2
            left_over = (now - moved)[:, 4:-4, 4:-4]
            total = lambda one, other: ops.sum(one * other, axis=(1, 2, 3))  # noqa: E731
            a, b, c = total(down, down) + 1e-3, total(down, right), total(right, right) + 1e-3
            u, v = total(down, left_over), total(right, left_over)
            step = ops.stack([c * u - b * v, a * v - b * u], -1) / (a * c - b * b)[:, None]
            found = ops.clip(found + ops.clip(step, -1, 1), -REACH, REACH)
        return ops.cast(found, self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "steps": self.steps}

    def compute_output_shape(self, input_shape):
        if len(input_shape) != 4 or None in input_shape[1:] or min(input_shape[1:3]) < 9 or input_shape[3] != 6:
            raise ValueError(f"Registration needs (batch, height, width, 6), sides from 9 pixels on, got {tuple(input_shape)}")
        return (input_shape[0], 2)


def last_psnr(clean, restored):
    """A metric: the mean PSNR in dB of the last frame, of bursts or single images, clipped to [0, 1]."""
    last = [images[:, -1] if len(images.shape) == 5 else images for images in (clean, restored)]
    error = ops.mean(ops.square(last[0] - ops.clip(ops.cast(last[1], "float32"), 0.0, 1.0)), axis=(1, 2, 3))
    return -10 / np.log(10) * ops.mean(ops.log(ops.maximum(error, 1e-10)))


def for_frames(arguments: dict, trained, frames: int):
    """A :func:`burst_restorer` that takes so many frames and returns the last, with the weights of one that was trained on others,
    built from ``arguments``. A window that is longer takes the oldest frame several times."""
    window = arguments.get("window", 4) if arguments.get("memory") == "window" else 1
    network = burst_restorer(**(arguments | {"frames": max(frames, window), "window": window, "every": False}))
    network.set_weights(trained.get_weights())
    return network


def restore(network, frames, batch_size: int = 100) -> np.ndarray:
    """What a network of :func:`for_frames` makes of bursts, ``(n, frames, height, width, 3)`` uint8 -> ``(n, height, width, 3)``
    float32 in [0, 1]."""
    missing = network.input_shape[1] - frames.shape[1]
    known = np.concatenate([np.repeat(frames[:, :1], missing, 1), frames], 1) if missing > 0 else frames
    return np.clip(models.apply(network, known / np.float32(255), batch_size), 0, 1)


def _stages(width, depth, made):
    """What all burst restorers have: functions from full resolution to half, through residual blocks, and back to ``made``
    channels."""
    first = layers.Conv2D(width, 6, strides=2, padding="same", activation="relu", name="first")
    ones = [relu_convolution(width, 3, f"block{place}_conv1") for place in range(depth)]
    twos = [convolution(width, 3, f"block{place}_conv2", kernel_initializer="zeros") for place in range(depth)]
    last, shuffle = convolution(4 * made, 3, "last", kernel_initializer="zeros"), DepthToSpace(2, name="shuffle")

    def deep(hidden, blocks=None):
        for one, two in list(zip(ones, twos, strict=True))[blocks or slice(None)]:
            hidden = hidden + two(one(hidden))
        return hidden

    return first, deep, lambda hidden: shuffle(last(hidden))


def _recurrence(colours, width, state, depth, align):
    """One step of a recurrent burst restorer, with its layers: a frame, the estimate so far and what is remembered -> both anew."""
    first, deep, last = _stages(width, depth, colours + 1 + 2 * state)
    join = layers.Concatenate(name="join")
    measure = Registration(dtype="float32", name="measure") if align else None

    def advance(frame, estimate, remembered, known=True):
        if measure and known:
            shift = measure(ops.stop_gradient(join([estimate, frame])))  # a measurement: nothing is learned through it
            estimate, remembered = ops.split(shifted(join([estimate, remembered]), shift), [colours], axis=-1)
        new = frame - estimate
        out = last(deep(first(join([frame, estimate, new, remembered]))))
        more, trust, forget, candidate = ops.split(out, [colours, colours + 1, colours + 1 + state], axis=-1)
        # What comes back to the network is bounded, or one bright frame could grow from frame to frame.
        estimate = estimate + ops.sigmoid(trust) * new + ops.tanh(more)
        forget = ops.sigmoid(forget)
        return estimate, forget * remembered + (1 - forget) * ops.tanh(candidate)

    return advance


def step_of(arguments: dict, trained, image_shape):
    """One step of a recurrent :func:`burst_restorer` that was built from ``arguments`` and trained, for images of a shape.

    Returns a model ``[frame, estimate, remembered]`` -> ``[estimate, remembered]``, of ``(batch, height, width, 3)`` and
    ``(batch, height, width, state)``: before the first frame, the estimate is that frame, and 0 is remembered. Memory and cost of a
    frame do not depend on how many there were. Raises ``ValueError`` for a network with another memory.
    """
    if arguments.get("memory", "recurrent") != "recurrent":
        raise ValueError(f"a step needs memory 'recurrent', got {arguments['memory']!r}")
    parts = {name: arguments.get(name, default) for name, default in (("width", 48), ("state", 16), ("depth", 2), ("align", True))}
    peers.check_divides(image_shape, 2)
    frame, estimate = (layers.Input(image_shape, name=name) for name in ("frame", "estimate"))
    remembered = layers.Input((*image_shape[:2], parts["state"]), name="remembered")
    network = keras.Model([frame, estimate, remembered], list(_recurrence(image_shape[-1], **parts)(frame, estimate, remembered)))
    for layer in network.layers:
        if layer.weights:
            layer.set_weights(trained.get_layer(layer.name).get_weights())
    return network


@weights.register
def burst_restorer(
    image_shape=(32, 32, 3), frames: int = 8, memory: str = "recurrent", align: bool = True, width: int = 48, state: int = 16,
    depth: int = 2, window: int = 4, every: bool = False, name: str = "burst_restorer",
):  # fmt: skip
    """Frames -> the last one restored, at half the resolution by residual blocks of two 3x3 convolutions.

    Args:
        image_shape: ``(height, width, 3)``, even.
        frames: of a burst, 1 to 64.
        memory: ``"recurrent"``: frame after frame, with a state and the estimate so far; ``"window"``: the last ``window`` frames
            side by side; ``"average"``: the mean of all frames beside the last one; ``"pooling"``: features of each frame, averaged
            (Aittala and Durand, "Burst Image Deblurring Using Permutation Invariant Convolutional Neural Networks", 2018), to
            change the mean of all frames by; the others change the last frame.
        align: move what was before to where the new frame is, by :class:`Registration`; without it, all stays where it was.
        width, depth: channels and residual blocks, 1 to 4,096 and 1 to 32.
        state: channels that a recurrent network remembers, 1 to 4,096.
        window: 1 to ``frames``.
        every: of a recurrent network: return the estimate after each frame, ``(batch, frames, height, width, 3)``.

    Returns a model ``(batch, frames, height, width, 3)`` -> ``(batch, height, width, 3)``, not clipped. Raises ``ValueError``.
    """
    checks.choice(memory, "memory", MEMORIES)
    for argument, value, most in (
        ("frames", frames, LONGEST), ("width", width, 4096), ("state", state, 4096), ("depth", depth, 32),
        ("window", window, frames if memory == "window" else LONGEST),
    ):  # fmt: skip
        checks.number(value, argument, 1, most, whole=True)
    if every and memory != "recurrent":
        raise ValueError(f"every needs memory 'recurrent', got {memory!r}")
    peers.check_divides(image_shape, 2)
    colours = image_shape[-1]
    burst = layers.Input((frames, *image_shape), name="burst")
    seen = [burst[:, place] for place in range(frames)]
    if memory == "recurrent":
        advance = _recurrence(colours, width, state, depth, align)
        estimate, remembered, estimates = seen[0], ops.zeros_like(seen[0][..., :1] * ops.ones((state,))), []
        for place, frame in enumerate(seen):
            estimate, remembered = advance(frame, estimate, remembered, known=place > 0)
            estimates.append(estimate)
        outputs = ops.stack(estimates, 1) if every else estimate
        return keras.Model(burst, outputs, name=name)

    first, deep, last = _stages(width, depth, colours)
    join = layers.Concatenate(name="join")
    if align:
        measure = Registration(dtype="float32", name="measure")
        total, moved = None, [seen[-1]]  # each frame to the last one, by the shifts from frame to frame
        for frame, after in zip(reversed(seen[:-1]), reversed(seen[1:]), strict=True):
            step = measure(ops.stop_gradient(join([frame, after])))
            total = step if total is None else total + step
            moved.insert(0, shifted(frame, ops.clip(total, -REACH, REACH)))
        seen = moved
    if memory == "window":
        features = deep(first(join(seen[-window:]) if window > 1 else seen[-1]))
    elif memory == "average":
        features = deep(first(join([sum(seen) / frames, seen[-1]])))
    else:
        half = depth // 2
        features = [deep(first(frame), slice(0, half)) for frame in seen] if half else [first(frame) for frame in seen]
        features = deep(sum(features) / frames, slice(half, None))
    # Pooled features do not know the last frame's noise.
    base = sum(seen) / frames if memory == "pooling" else seen[-1]
    restored = layers.Add(dtype="float32", name="restored")([base, last(features)])
    return keras.Model(burst, restored, name=name)
