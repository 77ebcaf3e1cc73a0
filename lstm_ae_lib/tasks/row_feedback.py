"""A recurrence that mends JPEGs with flipped bits row by row, and is given back what it has mended.

Beside its neighbours a damaged block looks sound: they were moved and coloured as it was. Only where the damage begins does
anything show. Beside the row above **as mended** it shows everywhere, so what has been undone is fed back. Training can begin with
the sound picture in its place, as language models are trained ("teacher forcing"; Williams and Zipser, 1989): :func:`taught`.
"""

import math

import numpy as np

from lstm_ae_lib import checks, weights
from lstm_ae_lib._backend import keras
from lstm_ae_lib.layers import linear_recurrence
from lstm_ae_lib.tasks.mending import MOST_MOVED, MOVES, STAYS, blocks_of, in_blocks, mended_by, residual_block, seen

ops = keras.ops

EVIDENCE = 4 * len(MOVES)


@keras.saving.register_keras_serializable(package="lstm_ae_lib")
class RowFeedback(keras.layers.Layer):
    """Where each block of a damaged picture belongs, and its colour, row after row of blocks, each beside the row above as mended.

    For each block and each ``m`` from -4 to 4, the block ``m`` places before is laid below the mended block above, in the colour
    that holds. Seen of it is how much each colour changes across the edge, in the mean and beyond what the lines beside the edge
    let expect, and how far the pixels are from the mean: 36 numbers. With the features and what holds they enter ``depth``
    recurrences ``h[t] = g[t] * h[t-1] + (1 - g[t]) * v[t]`` along the row, forwards from the last block of the row before, and
    backwards; then they are averaged along it the same way, from zero. For each block this gives gates,
    ``clip(x / 6 + 1 / 2, 0, 1)``, and

    - a score for each ``m``: ``(1 - gate) * held + gate * (affine in what is seen)``, at first the less the rougher the edge. The
      softmax of the scores are the shares of the nine blocks.
    - the colour: ``held - gate * counts * change``, where ``change`` is what the colours change by across the edge, ``counts`` is
      ``clip(|change| / least - 1, 0, 1)``. Natural changes are small: below ``least``, which is learned, nothing is added, exactly.

    Held is what the last block of the row before had: for ever, if nothing changes.

    Inputs, as one list: images ``(batch, height, width, 3)``, sides known and multiples of 8, and features ``(batch, height / 8,
    width / 8, channels)`` (``ValueError``). Two more for training: the sound images, and ``(batch, 1)``, 1 for those of the batch
    whose rows are to be laid below the sound row above. Output: ``(batch, height / 8, width / 8, 12)``: shares, whose sum is 1, and
    the colour to add. ``width``, ``units``: of the layers for a row, 1 to 65,536. ``depth``: 1 to 32.
    """

    ROUGH = 40.0  # a score less per unit of roughness, of :data:`EVIDENCE`, at first
    LEAST = 0.012  # of [0, 1], three levels, at first

    def __init__(self, width=40, units=24, depth=2, **kwargs):
        super().__init__(**kwargs)
        self.width = int(checks.number(width, "width", 1, 65536, whole=True))
        self.units = int(checks.number(units, "units", 1, 65536, whole=True))
        self.depth = int(checks.number(depth, "depth", 1, 32, whole=True))

    def build(self, input_shape):
        self.compute_output_shape(input_shape)
        kinds, given = len(MOVES), input_shape[1][-1] + EVIDENCE + len(MOVES)
        start = np.zeros((self.width + EVIDENCE, 4 + kinds))
        start[-kinds:, 4:] = -self.ROUGH * np.eye(kinds)
        opened = [0, 1, 1, 1, *(STAYS * (moved == 0) for moved in MOVES)]
        some_blocks = np.tile(np.repeat([2.0, 0.0], self.units), 2)  # means of some eight blocks
        self.enter = self._dense("enter", given, self.width)
        self.memories = [self._dense(f"memory{place}", self.width, 4 * self.units, some_blocks) for place in range(self.depth)]
        self.mixes = [self._dense(f"mix{place}", self.width + 2 * self.units, self.width) for place in range(self.depth)]
        self.average = self._dense("average", self.width, 2, [2.0, 2.0])
        self.leave = self._dense("leave", *start.shape, opened, lambda _, dtype=None: ops.array(start, dtype))
        self.least = self.add_weight(name="least", shape=(3,), initializer=keras.initializers.Constant(math.log(self.LEAST)))
        self.built = True

    def _dense(self, name, given, made, bias=0.0, kernel="glorot_uniform"):
        held = lambda shape, dtype=None: ops.zeros(shape, dtype) + ops.array(bias, dtype)  # noqa: E731
        shapes = {"kernel": ((given, made), kernel), "bias": ((made,), held)}
        return [self.add_weight(name=f"{name}_{kind}", shape=shape, initializer=start) for kind, (shape, start) in shapes.items()]

    def call(self, inputs):
        images, features, *teacher = inputs
        _, rows, columns, _ = self.compute_output_shape([one.shape for one in inputs])
        blocks, sound = in_blocks(images), in_blocks(teacher[0]) if teacher else None
        beyond = [(0, 0), (MOST_MOVED, MOST_MOVED), *[(0, 0)] * 3]
        tops, bottoms = (ops.pad(lines, beyond) for lines in (blocks[:, :, :2], blocks[:, :, -2:]))  # two lines at each edge

        def that_may_belong(lines, row):
            first = MOST_MOVED + row * columns
            return ops.stack([lines[:, first - moved : first - moved + columns] for moved in MOVES], 2)

        nothing = 0 * images[:, 0, 0]  # (batch, 3)
        scores = nothing[:, :1] + ops.array([STAYS * (moved == 0) for moved in MOVES], nothing.dtype)
        memories = [ops.repeat(nothing[:, :1], self.units, 1) for _ in range(self.depth)]
        holds, above, found = (scores, nothing, memories), None, []
        for row in range(rows):
            shares, colour, holds = self._row(features[:, row], that_may_belong(tops, row), above, holds)
            above = ops.sum(shares[..., None, None, None] * that_may_belong(bottoms, row), 2) + colour[:, :, None, None]
            if teacher:
                given = sound[:, row * columns : (row + 1) * columns, -2:]
                above = ops.where(teacher[1][:, :, None, None, None] > 0.5, given, above)
            found.append(ops.concatenate([shares, colour], -1))
        return ops.stack(found, 1)

    def _row(self, features, tops, above, holds):
        scores, colour, memories = holds
        columns = features.shape[1]
        evidence = self._evidence(tops, above, colour)
        held = ops.repeat(scores[:, None], columns, 1) / STAYS
        hidden, last = _affine(ops.concatenate([features, evidence, held], -1), self.enter), []
        for memory, mix, start in zip(self.memories, self.mixes, memories, strict=True):
            keep, value, keep_back, value_back = ops.split(_affine(ops.relu(hidden), memory), 4, -1)
            forwards = _averaged(keep, value, start)
            backwards = _averaged(keep_back, value_back, reverse=True)
            hidden = hidden + _affine(ops.concatenate([ops.relu(hidden), forwards, backwards], -1), mix)
            last.append(forwards[:, -1])
        keep, keep_back = ops.split(_affine(ops.relu(hidden), self.average), 2, -1)
        evidence = (_averaged(keep, evidence) + _averaged(keep_back, evidence, reverse=True)) / 2
        left = _affine(ops.concatenate([ops.relu(hidden), evidence], -1), self.leave)
        gates = ops.hard_sigmoid(left[..., :4])
        scores = (1 - gates[..., :1]) * scores[:, None] + gates[..., :1] * left[..., 4:]
        shares = ops.softmax(scores, -1)
        changes = ops.reshape(evidence[..., : 3 * len(MOVES)], (-1, columns, len(MOVES), 3))
        change = ops.sum(shares[..., None] * changes, 2) / 4
        counts = ops.clip(ops.abs(change) / ops.exp(self.least) - 1, 0, 1)
        colour = colour[:, None] - gates[..., 1:] * counts * change
        return shares, colour, (scores[:, -1], colour[:, -1], last)

    def _evidence(self, tops, above, colour):
        """``(batch, columns, 36)``, four times what is seen; 0 in the first row, which has none above."""
        if above is None:
            return ops.zeros_like(ops.reshape(tops[..., 0, :4, 0], (-1, tops.shape[1], EVIDENCE)))
        step = tops[:, :, :, 0] + colour[:, None, None, None] - above[:, :, None, 1]
        slopes = tops[:, :, :, 1] - tops[:, :, :, 0] + (above[:, :, 1] - above[:, :, 0])[:, :, None]
        mean = ops.mean(step - slopes / 2, 3)
        rough = ops.mean(ops.abs(step - ops.mean(step, 3, keepdims=True)), (3, 4))
        return 4 * ops.concatenate([ops.reshape(mean, (-1, tops.shape[1], 3 * len(MOVES))), rough], -1)

    def multiply_adds(self, given, made):
        used = (self.enter, *self.memories, *self.mixes, self.average, self.leave)
        return math.prod(made[1:3]) * sum(math.prod(kernel.shape) for kernel, _ in used)

    def get_config(self):
        return {**super().get_config(), "width": self.width, "units": self.units, "depth": self.depth}

    def compute_output_shape(self, input_shape):
        images, features = (tuple(shape) for shape in input_shape[:2])
        if len(features) != 4 or features[1:3] != blocks_of(images) or features[3] is None:
            raise ValueError(f"RowFeedback needs (batch, height, width, 3) and features of each block, got {images} and {features}")
        return (*features[:3], len(MOVES) + 3)


def _affine(values, kernel_and_bias):
    return ops.tensordot(values, kernel_and_bias[0], axes=1) + kernel_and_bias[1]


def _averaged(keep, values, start=None, reverse=False):
    """``h[t] = g[t] * h[t-1] + (1 - g[t]) * values[t]`` along axis 1, ``g = sigmoid(keep)``, from ``start`` or from zero."""
    keep = ops.sigmoid(keep) + ops.zeros_like(values)
    terms = (1 - keep) * values
    if start is not None:
        terms = ops.concatenate([terms[:, :1] + keep[:, :1] * start[:, None], terms[:, 1:]], 1)
    return linear_recurrence(keep, terms, 1, reverse)


@weights.register
def feedback_mender(image_shape=(128, 128, 3), width: int = 40, depth: int = 2, units: int = 24, memories: int = 2,
                    name: str = "feedback_mender"):  # fmt: skip
    """Residual blocks of two 3x3 convolutions over 8x8 blocks, then a :class:`RowFeedback`.

    Args:
        image_shape: ``(height, width, 3)``, sides multiples of 8.
        width, units: channels, and units of the recurrences along a row, 1 to 4,096.
        depth, memories: of the residual blocks, and of those recurrences, 1 to 32.

    Returns and raises as :func:`~lstm_ae_lib.tasks.mending.jpeg_mender`.
    """
    for argument, value, most in (("width", width, 4096), ("units", units, 4096), ("depth", depth, 32), ("memories", memories, 32)):
        checks.number(value, argument, 1, most, whole=True)
    damaged, hidden = seen(image_shape, width)
    for place in range(depth):
        hidden = residual_block(hidden, width, f"block{place}")
    told = RowFeedback(width, units, memories, name="rows")([damaged, hidden])
    return mended_by(damaged, hidden, told[..., : len(MOVES)], told[..., len(MOVES) :], name)


def taught(network):
    """The same network, a :func:`feedback_mender`, for training beside a teacher. Of its three inputs, the damaged images, the
    sound ones and ``(batch, 1)``, the last is 1 for the images whose rows are to be laid below the sound row above. Keras cannot
    write layers that are used twice into a ``.keras`` file: save the weights."""
    rows = network.get_layer("rows")
    damaged, hidden = rows.input
    sound, helped = keras.layers.Input(damaged.shape[1:], name="sound"), keras.layers.Input((1,), name="helped")
    told = rows([damaged, hidden, sound, helped])
    head = keras.Model([damaged, hidden, rows.output], network.output)
    return keras.Model([damaged, sound, helped], head([damaged, hidden, told]), name=f"{network.name}_taught")


def taught_batches(batches, share: float):
    """``tf.data`` batches of (damaged, sound) for :func:`taught`, the first ``share`` of each, 0 to 1, with the teacher."""
    import tensorflow as tf

    checks.number(share, "share", 0, 1)

    def beside(damaged, sound):
        helped = tf.range(tf.shape(damaged)[0]) < tf.cast(share * tf.cast(tf.shape(damaged)[0], tf.float32), tf.int32)
        return (damaged, sound, tf.cast(helped, tf.float32)[:, None]), sound

    return batches.map(beside)
