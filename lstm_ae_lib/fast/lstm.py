"""How an LSTM sweeps over a sequence fastest, with a gradient of its own, for the layers in :mod:`lstm_ae_lib.layers`.

TensorFlow on a CPU runs a Keras LSTM as some thirty small operations a time step, forwards and backwards. Here a step is
one fused operation forwards (``LSTMBlockCell``) and one fused operation and two matrix products backwards
(``LSTMBlockCellGrad``); the gradient of the weights is one matrix product over all steps; the batch is cut into one part per
thread, whose independent chains of steps run side by side; and time may be any axis of the input, so an image is swept
without being transposed. The arithmetic is Keras' own: the same gates, the same weights.

The other backends, a GPU, masks and unusual settings have no fast path here: :func:`is_supported` says so, and the layers then
do what Keras does.
"""

from lstm_ae_lib._backend import keras
from lstm_ae_lib.fast import threads

# A longer sweep is left to Keras' loop: every step adds a handful of nodes to the graph.
MAX_STEPS = 256
# Cutting a batch into more parts makes the matrices of a step too small to be worth it.
MAX_PARTS = 8


def is_supported(inputs, cell, steps) -> bool:
    """Whether :func:`sweep` can stand in for Keras' own loop: TensorFlow without a GPU, a known number of steps up to
    :data:`MAX_STEPS`, float32, the standard activations and no recurrent dropout.

    Args:
        inputs: the tensor to sweep over.
        cell: its :class:`keras.layers.LSTMCell`.
        steps: how many, or None.
    """
    return (
        _on_a_cpu()
        and steps is not None
        and 0 < steps <= MAX_STEPS
        and keras.backend.standardize_dtype(inputs.dtype) == cell.compute_dtype == "float32"
        and cell.activation is keras.activations.tanh
        and cell.recurrent_activation is keras.activations.sigmoid
        and not cell.recurrent_dropout
    )


def scan_is_supported(projected) -> bool:
    """Whether :func:`scan_image` can stand in for a loop of Keras operations: TensorFlow without a GPU, float32 or bfloat16."""
    return _on_a_cpu() and keras.backend.standardize_dtype(projected.dtype) in ("float32", "bfloat16")


def sweep(inputs, axis, cells, backwards, states=None, return_sequences=True):
    """Runs LSTMs over one axis of a tensor.

    Args:
        inputs: float32 ``(batch, ..., features)``.
        axis: which of the axes between batch and features is time; its size is known.
        cells: list of built :class:`keras.layers.LSTMCell`, all of one size; each sweeps over all of the input.
        backwards: for each cell, whether it starts at the end.
        states: for each cell its ``(h, c)`` to start from, each ``(batch, units)``; for inputs ``(batch, steps, features)``
            only. Default None: zeros.
        return_sequences: default True. Otherwise the outputs of the last step take the place of all.

    Returns:
        (tensor, list): the outputs ``(batch, ..., units * len(cells))``, where each step's output stands at that step's
        place whichever way the sweep went (one step along ``axis`` without ``return_sequences``), and for each cell its
        last ``(h, c)``.
    """
    import tensorflow as tf

    units = cells[0].units
    weights = []
    for cell in cells:
        kernel = tf.concat([tf.convert_to_tensor(cell.kernel), tf.convert_to_tensor(cell.recurrent_kernel)], 0)
        bias = tf.convert_to_tensor(cell.bias) if cell.use_bias else tf.zeros([4 * units])
        weights += [_swap_gates(tf, kernel), _swap_gates(tf, bias)]
    parts = _parts(inputs.shape[0])
    flat_states = [tensor for state in states or () for tensor in state]

    def run(inputs, *states_and_weights):
        states, weights = states_and_weights[: len(flat_states)], states_and_weights[len(flat_states) :]
        return _Sweep(tf, inputs.shape, axis, units, backwards, return_sequences)(inputs, states, weights)

    if parts == 1:
        outputs, *ends = tf.custom_gradient(run)(inputs, *flat_states, *weights)
        return outputs, list(zip(ends[::2], ends[1::2], strict=True))

    share = tf.shape(inputs)[0] // parts
    sizes = [tf.shape(inputs)[0] - share * (parts - 1)] + [share] * (parts - 1)
    pieces = [_split(tf, tensor, sizes) for tensor in (inputs, *flat_states)]
    done = [tf.custom_gradient(run)(*part, *weights) for part in zip(*pieces, strict=True)]
    outputs, *ends = zip(*done, strict=True)
    joined = _join(tf, outputs, sizes)
    # A part's ends are its sequences'; a part that should be empty has those of one image.
    per_image = tf.shape(ends[0][0])[0] // tf.maximum(sizes[0], 1)
    ends = [_join(tf, tensors, [size * per_image for size in sizes]) for tensors in ends]
    return joined, list(zip(ends[::2], ends[1::2], strict=True))


def sweep_image(inputs, axis, cells, backwards):
    """Runs LSTMs over one axis of a batch of images: :func:`sweep` from zero states, for short sequences and few units.

    What is small enough for :mod:`lstm_ae_lib.fast.scan` is done there, outside TensorFlow's graph: such a model cannot be
    exported as a SavedModel. Everything else is :func:`sweep`'s.

    Args:
        inputs, axis, cells, backwards: as for :func:`sweep`.

    Returns:
        tensor: the outputs ``(batch, ..., units * len(cells))``.
    """
    import tensorflow as tf

    from lstm_ae_lib.fast import scan

    units = cells[0].units
    if not scan.is_supported(inputs.shape[-1], units):
        return sweep(inputs, axis, cells, backwards)[0]
    weights = []
    for cell in cells:
        bias = tf.convert_to_tensor(cell.bias) if cell.use_bias else tf.zeros([4 * units])
        weights.append(tf.concat([tf.convert_to_tensor(cell.kernel), tf.convert_to_tensor(cell.recurrent_kernel), bias[None]], 0))

    @tf.custom_gradient
    def run(inputs, *weights):
        def forward(inputs, *weights):
            return scan.sweep(inputs, axis, weights, backwards)

        def backward(inputs, outputs, saved, gradient, *weights):
            to_inputs, to_weights = scan.sweep_gradient(inputs, axis, weights, backwards, outputs, saved, gradient)
            return [to_inputs, *to_weights]

        outputs, saved = tf.numpy_function(forward, [inputs, *weights], [tf.float32] * 2, stateful=False)
        outputs.set_shape([*inputs.shape[:-1], units * len(cells)])

        def gradient(to_outputs, variables=None):
            wanted = [tf.float32] * (1 + len(weights))
            done = tf.numpy_function(backward, [inputs, outputs, saved, to_outputs, *weights], wanted, stateful=False)
            for tensor, like in zip(done, (inputs, *weights), strict=True):
                tensor.set_shape(like.shape)
            return done

        return outputs, gradient

    return run(inputs, *weights)


def scan_image(projected, units, ways, positive):
    """Runs gated linear recurrences over a batch of images by :func:`lstm_ae_lib.fast.scan.scan`, outside TensorFlow's graph:
    such a model cannot be exported as a SavedModel. Arguments and result as there, but tensors."""
    import tensorflow as tf

    from lstm_ae_lib.fast import scan

    @tf.custom_gradient
    def run(projected):
        def forward(projected):
            return scan.scan(projected, units, ways, positive)

        def backward(projected, outputs, gradient):
            return scan.scan_gradient(projected, units, ways, positive, outputs, gradient)

        outputs = tf.numpy_function(forward, [projected], projected.dtype, stateful=False)
        outputs.set_shape([*projected.shape[:-1], units * len(ways)])

        def gradient(to_outputs):
            to_projected = tf.numpy_function(backward, [projected, outputs, to_outputs], projected.dtype, stateful=False)
            to_projected.set_shape(projected.shape)
            return to_projected

        return outputs, gradient

    return run(projected)


def _split(tf, tensor, sizes):
    """Cuts along the batch. A part that would be empty gets one row of zeros, which the fused operations insist on."""
    parts = tf.split(tensor, tf.stack(sizes), 0, num=len(sizes))
    rest = [[0, 0]] * (len(tensor.shape) - 1)
    # Where nothing is to be added, tf.pad passes its input on as it is; so does tf.slice where nothing is cut off.
    return [tf.pad(part, [[0, tf.maximum(1 - size, 0)], *rest]) for part, size in zip(parts, sizes, strict=True)]


def _join(tf, parts, sizes):
    rest = len(parts[0].shape) - 1
    joined = tf.concat([tf.slice(part, [0] * (rest + 1), [size] + [-1] * rest) for part, size in zip(parts, sizes, strict=True)], 0)
    joined.set_shape([None, *parts[0].shape[1:]])  # which a slice of unknown size forgets
    return joined


class _Sweep:
    """The sweep over one part of the batch, as what ``tf.custom_gradient`` wants: outputs, and the function of their
    gradients."""

    def __init__(self, tf, shape, axis, units, backwards, return_sequences):
        self.tf, self.axis, self.units, self.backwards = tf, axis, units, backwards
        self.rank, self.steps, self.features = len(shape), shape[axis], shape[-1]
        self.return_sequences = return_sequences
        self.no_peephole = {"wci": tf.zeros([units]), "wcf": tf.zeros([units]), "wco": tf.zeros([units]), "use_peephole": False}

    def __call__(self, inputs, states, weights):
        tf = self.tf
        steps = self._from_image(inputs, self.steps, self.features)
        shape = tf.shape(inputs)
        given = len(states)
        states = states or [tf.zeros([tf.shape(steps[0])[0], self.units])] * (2 * len(self.backwards))
        chains = [
            self._forward(steps, states[2 * k], states[2 * k + 1], weights[2 * k], weights[2 * k + 1], reverse)
            for k, reverse in enumerate(self.backwards)
        ]
        hidden = [[step.h for step in chain] for chain in chains]
        together = [tf.concat(each, 1) if len(each) > 1 else each[0] for each in zip(*hidden, strict=True)]
        last = [(0 if reverse else self.steps - 1) for reverse in self.backwards]
        if not self.return_sequences:
            # What a sweep's reader sees last, whichever way it went.
            ends = [hidden[k][t] for k, t in enumerate(last)]
            together = [tf.concat(ends, 1) if len(ends) > 1 else ends[0]]
        outputs = self._to_image(together, shape)
        ends = [tensor for k, t in enumerate(last) for tensor in (chains[k][t].h, chains[k][t].cs)]

        def gradient(*gradients, variables=None):
            per_step = self._from_image(gradients[0], len(together), together[0].shape[-1])
            input_gradients, state_gradients, weight_gradients = [], [], []
            for k, reverse in enumerate(self.backwards):
                own = [step[:, k * self.units : (k + 1) * self.units] if len(chains) > 1 else step for step in per_step]
                if not self.return_sequences:
                    own = [own[0] if t == last[k] else None for t in range(self.steps)]
                to_steps, to_states, to_weights = self._backward(
                    steps, states[2 * k], states[2 * k + 1], weights[2 * k], weights[2 * k + 1], reverse,
                    chains[k], own, gradients[1 + 2 * k], gradients[2 + 2 * k],
                )  # fmt: skip
                input_gradients.append(to_steps)
                state_gradients += to_states
                weight_gradients += to_weights
            summed = [tf.add_n(each) if len(each) > 1 else each[0] for each in zip(*input_gradients, strict=True)]
            return self._to_image(summed, shape), *state_gradients[:given], *weight_gradients

        return (outputs, *ends), gradient

    def _order(self, reverse):
        return range(self.steps - 1, -1, -1) if reverse else range(self.steps)

    def _forward(self, steps, h, c, weight, bias, reverse):
        chain = [None] * self.steps
        for t in self._order(reverse):
            chain[t] = self.tf.raw_ops.LSTMBlockCell(
                x=steps[t], cs_prev=c, h_prev=h, w=weight, b=bias, forget_bias=0.0, cell_clip=-1.0, **self.no_peephole
            )
            h, c = chain[t].h, chain[t].cs
        return chain

    def _backward(self, steps, h_first, c_first, weight, bias, reverse, chain, gradients, h_last, c_last):
        tf = self.tf
        order = list(self._order(reverse))
        h_gradient, c_gradient = h_last, c_last
        recurrent = weight[self.features :]
        gates, before = [None] * self.steps, [None] * self.steps
        for position in range(self.steps - 1, -1, -1):
            t = order[position]
            step, previous = chain[t], chain[order[position - 1]] if position else None
            before[t] = previous.h if position else h_first
            if gradients[t] is not None:
                h_gradient = h_gradient + gradients[t]
            through = tf.raw_ops.LSTMBlockCellGrad(
                x=steps[t], cs_prev=previous.cs if position else c_first, h_prev=before[t], w=weight, b=bias, i=step.i, cs=step.cs,
                f=step.f, o=step.o, ci=step.ci, co=step.co, cs_grad=c_gradient, h_grad=h_gradient, **self.no_peephole,
            )  # fmt: skip
            gates[t], c_gradient = through.dicfo, through.cs_prev_grad
            h_gradient = tf.matmul(gates[t], recurrent, transpose_b=True)
        every_gate = tf.concat(gates, 0)
        to_weight = tf.concat(
            [tf.matmul(tf.concat(inputs, 0), every_gate, transpose_a=True) for inputs in (steps, before)], 0
        )  # fmt: skip
        to_steps = [tf.matmul(gate, weight[: self.features], transpose_b=True) for gate in gates]
        return to_steps, [h_gradient, c_gradient], [to_weight, tf.reduce_sum(every_gate, 0)]

    def _to_image(self, steps, shape):
        """Matrices of one step each, back at their places along the axis of time."""
        if self.rank > 3:
            one = self.tf.concat([shape[: self.axis], shape[self.axis + 1 : -1], [steps[0].shape[-1]]], 0)
            steps = [self.tf.reshape(step, one) for step in steps]
        return self.tf.stack(steps, axis=self.axis)

    def _from_image(self, image, steps, features):
        """Every step as a matrix ``(sequences, features)``: what lies between batch and features joins the batch."""
        parts = self.tf.unstack(image, steps, self.axis)
        return [self.tf.reshape(part, [-1, features]) for part in parts] if self.rank > 3 else parts


def _swap_gates(tf, weights):
    """From Keras' order of gates (input, forget, cell, output) to the fused operation's (input, cell, forget, output)."""
    i, f, c, o = tf.split(weights, 4, axis=-1)
    return tf.concat([i, c, f, o], -1)


def _parts(batch):
    """How many independent parts a batch is cut into: one per thread that runs operations side by side."""
    parts = min(threads.inter_op(), MAX_PARTS)
    return parts if batch is None else max(1, min(parts, batch // 8))


def _on_a_cpu():
    """TensorFlow, without a GPU."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.config.list_physical_devices("GPU")
