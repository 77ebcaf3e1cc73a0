"""LSTMs over one axis of a tensor, by TensorFlow's fused operations, with a gradient of their own.

TensorFlow on a CPU runs a Keras LSTM as some thirty small operations a time step. Here a step is one fused operation forwards
(``LSTMBlockCell``), and one fused operation and two matrix products backwards (``LSTMBlockCellGrad``); the gradient of the
weights is one matrix product over all steps; the batch is cut into one part per thread, whose chains of steps run side by side;
and time may be any axis, so an image is swept without being transposed. Gates and weights are Keras'.
"""

import tensorflow as tf

from lstm_ae_lib._backend import keras
from lstm_ae_lib.fast import threads

MAX_STEPS = 256  # a longer sweep is left to Keras' loop: every step adds a handful of nodes to the graph
MAX_PARTS = 8  # of a batch: with more the matrices of a step are too small to be worth it


def is_supported(inputs, cell, steps) -> bool:
    """Whether :func:`sweep` can do what a :class:`keras.layers.LSTMCell` does over so many steps (None: unknown)."""
    return (
        steps is not None and 0 < steps <= MAX_STEPS and not cell.recurrent_dropout
        and keras.backend.standardize_dtype(inputs.dtype) == cell.compute_dtype == "float32"
        and cell.activation is keras.activations.tanh and cell.recurrent_activation is keras.activations.sigmoid
    )  # fmt: skip


def sweep(inputs, axis, cells, backwards, states=None, return_sequences=True):
    """Runs LSTMs over one axis of a tensor.

    Args:
        inputs: float32 ``(batch, ..., features)``.
        axis: which of the axes between batch and features is time; its size is known.
        cells, backwards: built :class:`keras.layers.LSTMCell`, all of one size, and for each whether it starts at the end.
        states: for each cell its first ``(h, c)``, of the inputs' shape without time and ``units`` features; None for zeros.

    Returns the outputs ``(batch, ..., units * len(cells))``, each step's at that step's place whichever way the sweep went, the
    last step only without ``return_sequences``; and for each cell its last ``(h, c)``.
    """
    if states is None:
        shape = tf.shape(inputs)
        zeros = tf.zeros(tf.concat([shape[:axis], shape[axis + 1 : -1], [cells[0].units]], 0))
        states = [(zeros, zeros)] * len(cells)
    states = [tensor for pair in states for tensor in pair]
    weights = [tensor for cell in cells for tensor in _weights(cell)]

    @tf.custom_gradient
    def run(inputs, *others):
        return _sweep(inputs, axis, backwards, return_sequences, others[: len(states)], others[len(states) :])

    # One part of the batch for each thread that runs operations side by side.
    parts, batch = min(threads.inter_op(), MAX_PARTS), tf.shape(inputs)[0]
    if inputs.shape[0] is not None:
        parts = max(1, min(parts, inputs.shape[0] // 8))
    if parts == 1:
        outputs, *ends = run(inputs, *states, *weights)
    else:
        spare = tf.maximum(parts - batch, 0)  # every part has a row: the fused operations insist on one
        share = (batch + spare) // parts
        sizes = tf.stack([batch + spare - share * (parts - 1), *[share] * (parts - 1)])
        padded = [tf.pad(tensor, [[0, spare], *[[0, 0]] * (len(tensor.shape) - 1)]) for tensor in (inputs, *states)]
        pieces = zip(*(tf.split(tensor, sizes, 0, num=parts) for tensor in padded), strict=True)
        done = [run(*piece, *weights) for piece in pieces]
        outputs, *ends = (tf.concat(each, 0)[:batch] for each in zip(*done, strict=True))
    return outputs, list(zip(ends[::2], ends[1::2], strict=True))


def _weights(cell):
    """Kernel over recurrent kernel, and bias, in the fused operation's order of the gates."""
    kernel = tf.concat([tf.convert_to_tensor(cell.kernel), tf.convert_to_tensor(cell.recurrent_kernel)], 0)
    bias = tf.convert_to_tensor(cell.bias) if cell.use_bias else tf.zeros([4 * cell.units])
    for weight in (kernel, bias):
        input_, forget, candidate, output = tf.split(weight, 4, axis=-1)
        yield tf.concat([input_, candidate, forget, output], -1)


def _sweep(inputs, axis, backwards, return_sequences, states, weights):
    """The sweep over one part of the batch: its results, and the function of their gradients for ``tf.custom_gradient``."""
    shape, units = tf.shape(inputs), states[0].shape[-1]
    steps = _split(inputs, axis, inputs.shape[axis])
    matrices = [tf.reshape(state, [-1, units]) for state in states]
    ways = [-1 if backward else 1 for backward in backwards]
    pairs = [slice(2 * k, 2 * k + 2) for k in range(len(ways))]
    arguments = [(steps[::way], *matrices[pair], *weights[pair]) for way, pair in zip(ways, pairs, strict=True)]
    chains = [_forward(*each) for each in arguments]
    shown = slice(None) if return_sequences else slice(-1, None)
    hidden = [[step.h for step in chain[shown]][::way] for way, chain in zip(ways, chains, strict=True)]
    outputs = _join([tf.concat(each, 1) for each in zip(*hidden, strict=True)], axis, shape)
    last = [tensor for chain in chains for tensor in (chain[-1].h, chain[-1].cs)]
    ends = [tf.reshape(tensor, tf.shape(state)) for tensor, state in zip(last, states, strict=True)]

    def gradient(to_outputs, *to_ends):
        to_ends = [tf.reshape(tensor, [-1, units]) for tensor in to_ends]
        to_hidden = _split(to_outputs, axis, len(hidden[0]))
        to_inputs, to_states, to_weights = [], [], []
        for k, way in enumerate(ways):
            own = [step[:, k * units : (k + 1) * units] for step in to_hidden][::way]
            own = [None] * (len(steps) - len(own)) + own
            to_steps, *others = _backward(*arguments[k], chains[k], own, *to_ends[pairs[k]], way)
            to_inputs.append(to_steps[::way])
            to_states += others[:2]
            to_weights += others[2:]
        summed = [tf.add_n(each) for each in zip(*to_inputs, strict=True)]
        to_states = [tf.reshape(tensor, tf.shape(state)) for tensor, state in zip(to_states, states, strict=True)]
        return _join(summed, axis, shape), *to_states, *to_weights

    return (outputs, *ends), gradient


def _forward(steps, h, c, weight, bias):
    chain, options = [], {"forget_bias": 0.0, "cell_clip": -1.0, **_no_peephole(c)}
    for x in steps:
        chain.append(tf.raw_ops.LSTMBlockCell(x=x, cs_prev=c, h_prev=h, w=weight, b=bias, **options))
        h, c = chain[-1].h, chain[-1].cs
    return chain


def _backward(steps, h, c, weight, bias, chain, to_hidden, to_h, to_c, way):
    """Gradients of the inputs of each step, of the states, and of the weights."""
    features, gates, options = steps[0].shape[-1], [], _no_peephole(c)
    h_before, c_before = [h, *(step.h for step in chain[:-1])], [c, *(step.cs for step in chain[:-1])]
    for x, h, c, step, own in reversed(list(zip(steps, h_before, c_before, chain, to_hidden, strict=True))):
        through = tf.raw_ops.LSTMBlockCellGrad(
            x=x, cs_prev=c, h_prev=h, w=weight, b=bias, i=step.i, cs=step.cs, f=step.f, o=step.o, ci=step.ci, co=step.co,
            cs_grad=to_c, h_grad=to_h if own is None else to_h + own, **options,
        )  # fmt: skip
        gates.insert(0, through.dicfo)
        to_c, to_h = through.cs_prev_grad, tf.matmul(through.dicfo, weight[features:], transpose_b=True)
    every_gate = tf.concat(gates[::way], 0)
    seen = [tf.concat(each[::way], 0) for each in (steps, h_before)]
    to_weight = tf.concat([tf.matmul(each, every_gate, transpose_a=True) for each in seen], 0)
    to_steps = [tf.matmul(gate, weight[:features], transpose_b=True) for gate in gates]
    return to_steps, to_h, to_c, to_weight, tf.reduce_sum(every_gate, 0)


def _no_peephole(state):
    return {**dict.fromkeys(("wci", "wcf", "wco"), tf.zeros([state.shape[-1]])), "use_peephole": False}


def _split(tensor, axis, count):
    """Every step as a matrix ``(sequences, features)``: what lies between batch and features joins the batch."""
    steps = tf.unstack(tensor, count, axis)
    return [tf.reshape(step, [-1, tensor.shape[-1]]) for step in steps] if len(tensor.shape) > 3 else steps


def _join(steps, axis, shape):
    """Matrices of one step each, back at their places along the axis of time."""
    if shape.shape[0] > 3:
        one = tf.concat([shape[:axis], shape[axis + 1 : -1], [steps[0].shape[-1]]], 0)
        steps = [tf.reshape(step, one) for step in steps]
    return tf.stack(steps, axis)
