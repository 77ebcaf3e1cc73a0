"""Released networks as ONNX files, which run where neither Keras nor this library is: standard operators only, any image size.

Each Keras layer is written as the operators that it stands for, channels first. A :class:`~lstm_ae_lib.layers.GatedScan` becomes
one ``Scan`` an axis, which goes through a line of any length once; a linear start makes its cosine transform, and its filters for
the size at hand, from the size of the picture. Exporters write a graph for one size, with scans unrolled to log2(n) levels.
"""

import functools
import json
from pathlib import Path

import numpy as np

from lstm_ae_lib import checks, files, restoring, spectral, weights
from lstm_ae_lib._backend import keras
from lstm_ae_lib.fast.runtime import HALVES, VERSION
from lstm_ae_lib.tasks import any_rate_codec, codec

OPSET, IR = 17, 8
FIRST, LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # channels first, and last again


class NoFormError(ValueError):
    """A network has a layer that is not known here."""


def export(name: str, target, folder=None) -> dict:
    """Writes a released restorer as an ONNX file: ``degraded`` -> ``restored``, ``(batch, height, width, 3)`` float32, not clipped.

    Sides are multiples of 8 from 16 pixels on. The metadata, text all: ``card``, the JSON of the weights' card; ``weights``, their
    SHA-256; ``name``, ``licence``, ``builder``, ``version``; and how a picture is restored tile by tile: ``stride``, ``smallest``,
    ``tile``, ``overlap``, and ``most``, the change beyond which the network has failed and the image stays as it was.

    Args:
        name: of released weights; ``folder`` is as for :func:`lstm_ae_lib.weights.read_released`.
        target: an ``.onnx`` file to write.

    Returns the metadata. Raises :class:`NoFormError` for a network with a layer that is not known here, ``ValueError`` for another
    target, ``ImportError`` without the package onnx.
    """
    _check(target)
    restorer = restoring.load_restorer(name, folder)
    model, description = restorer.model, weights.describe_released(name, folder)
    graph = Graph()
    (made,) = follow(graph, model, graph.add("Transpose", "degraded", perm=FIRST))
    graph.add("Transpose", made, perm=LAST, output="restored")
    rule = {"stride": restoring.STRIDE, "smallest": 2 * restoring.STRIDE, "tile": restoring.TILE, "overlap": restoring.OVERLAP,
            "most": restorer.most}  # fmt: skip
    shape = ["batch", "height", "width", 3]
    return _write(target, graph, name, {"degraded": shape}, {"restored": shape}, description, rule)


def export_codec(name: str, target, half: str, folder=None) -> dict:
    """Writes one half of a released compressor: ``"encoder"``, ``clean`` ``(batch, 32, 32, 3)`` in [0, 1] -> ``steps`` ``(batch,
    latent)``, float32, which rounded are the symbols; or ``"decoder"``, ``symbols``, float32 -> ``reconstruction``, not clipped.
    Of one for any rate there is a decoder only, ``image`` ``(batch, height, width, 3)``, sides multiples of 8, and ``log_step``
    ``(1,)`` -> ``made``, shaped like the image; its context is no part of it.

    ``folder``: as for :func:`lstm_ae_lib.tasks.codec.load_codec`. The rest is as for :func:`export`; the metadata has ``tables``,
    the distribution of each symbol, too.
    """
    _check(target)
    checks.choice(half, "half", HALVES)
    model, description = weights.read_released(name, folder or weights.released_dir("compress"))
    if description["builder"] == codec.ANY_RATE:
        checks.choice(half, "half", HALVES[1:])
        return _export_any_rate(name, target, model, description)
    own, graph = codec.codec_of(model, description, name), Graph()
    gain = np.asarray(model.get_layer("quantize").gain(), np.float64)
    image, symbols = ["batch", codec.BLOCK, codec.BLOCK, 3], ["batch", len(own.tables)]
    if half == "encoder":
        (latent,) = follow(graph, own.analysis, graph.add("Transpose", "clean", perm=FIRST))
        graph.cast(graph.add("Mul", graph.cast(latent, "DOUBLE"), gain), output="steps")
        ends = {"clean": image}, {"steps": symbols}
    else:
        latent = graph.cast(graph.add("Div", graph.cast("symbols", "DOUBLE"), gain))
        (made,) = follow(graph, own.synthesis, latent)
        graph.add("Transpose", made, perm=LAST, output="reconstruction")
        ends = {"symbols": symbols}, {"reconstruction": image}
    return _write(target, graph, f"{name}-{half}", *ends, description, {"tables": own.tables.tolist()})


def _export_any_rate(name, target, model, description):
    part, graph, shape = model.get_layer("decoder"), Graph(), ["batch", "height", "width", 3]
    image = graph.add("Transpose", "image", perm=FIRST)
    batch, _, *sides = graph.add("Split", graph.add("Shape", image), outputs=4)
    plane = graph.add("Add", graph.add("Div", "log_step", np.float32(2)), np.float32(1))
    plane = graph.add("Expand", plane, graph.add("Concat", batch, np.int64([1]), *sides, axis=0))
    seen, (_, missing) = part.get_layer("seen").output, part.get_layer("sum").input
    (missing,) = follow(graph, keras.Model(seen, missing), graph.add("Concat", image, plane, axis=1))
    graph.add("Transpose", graph.add("Add", image, missing), perm=LAST, output="made")
    return _write(target, graph, f"{name}-decoder", {"image": shape, "log_step": [1]}, {"made": shape}, description, {})


def export_released(name: str, folder=None) -> dict:
    """Writes the ``.onnx`` files of released weights beside them, of a compressor its halves, and their SHA-256 into the JSON;
    of one for any rate its context too, as ``NAME-context.npz``.

    ``folder``: by default that of the restorers. Returns what stands in the JSON. Nothing in it changes but ``context``, that
    file's SHA-256, and ``onnx``: file's name, without its suffix -> SHA-256.
    """
    folder = Path(folder or weights.released_dir())
    description = weights.describe_released(name, folder)
    any_rate = description["builder"] == codec.ANY_RATE
    halves = HALVES[1:] if any_rate else HALVES
    parts = {f"{name}-{half}": (half,) for half in halves} if any_rate or "tables" in description else {name: ()}
    for part, half in parts.items():
        (export_codec if half else export)(name, folder / f"{part}.onnx", *half, folder=folder)
    description["onnx"] = {part: files.sha256(folder / f"{part}.onnx") for part in parts}
    if any_rate:
        any_rate_codec.write_context(weights.read_released(name, folder)[0], folder / f"{name}-context.npz")
        description["context"] = files.sha256(folder / f"{name}-context.npz")
    files.write_json(folder / f"{name}.json", description)
    return description


def _check(target):
    _onnx()
    if not str(target).endswith(".onnx"):
        raise ValueError(f"target must be an .onnx file, got {target}")


def _write(target, graph, name, inputs, outputs, description, more):
    metadata = {"version": VERSION, "name": name, "licence": "MIT", "builder": description["builder"],
                "weights": description["sha256"], "card": json.dumps(description["card"]), **more}  # fmt: skip
    model = graph.model(name, inputs, outputs, metadata)
    _onnx().checker.check_model(model, full_check=True)
    with files.replacing(target) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return {key: str(value) for key, value in metadata.items()}


def _onnx():
    try:
        import onnx
    except ModuleNotFoundError:
        raise ImportError("exporting needs the package onnx: pip install onnx") from None
    return onnx


class Graph:
    """An ONNX graph that is written operator by operator; tensors are names, which begin with ``prefix``."""

    def __init__(self, prefix=""):
        self.nodes, self.constants, self._seen, self._prefix = [], [], {}, prefix

    def add(self, kind, *inputs, outputs=1, output="", **attributes):
        """Adds an operator of inputs, names or arrays, and returns its output's name, or the list of names of several."""
        inputs = [one if isinstance(one, str) else self.constant(one) for one in inputs]
        names = [output] if output else [f"{self._prefix}{kind}{len(self.nodes)}_{place}" for place in range(outputs)]
        self.nodes.append(_onnx().helper.make_node(kind, inputs, names, **attributes))
        return names if outputs > 1 else names[0]

    def join(self, kind, values, **attributes):
        """Adds an operator of several inputs, or nothing where there is only one."""
        return self.add(kind, *values, **attributes) if len(values) > 1 else values[0]

    def cast(self, values, kind="FLOAT", output=""):
        return self.add("Cast", values, to=getattr(_onnx().TensorProto, kind), output=output)

    def constant(self, values):
        values = np.asarray(values)
        key = values.dtype.str, values.shape, values.tobytes()
        if key not in self._seen:
            self._seen[key] = f"{self._prefix}constant{len(self._seen)}"
            self.constants.append(_onnx().numpy_helper.from_array(values, self._seen[key]))
        return self._seen[key]

    def model(self, name, inputs, outputs, metadata):
        helper, kind = _onnx().helper, _onnx().TensorProto.FLOAT
        given, made = ([helper.make_tensor_value_info(*one) for one in ((key, kind, shape) for key, shape in ends.items())]
                       for ends in (inputs, outputs))  # fmt: skip
        graph = helper.make_graph(self.nodes, name, given, made, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="lstm_ae_lib")
        helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
        return model


def follow(graph, model, *inputs):
    """Writes what a Keras model makes of ``inputs``, names of tensors, channels first; returns the list of its outputs' names."""

    def write(operation):
        if isinstance(operation, keras.Model):
            return lambda *within, **_: follow(graph, operation, *within)
        kind = type(operation).__name__
        if kind not in WRITERS:  # a class derived from one that is may compute something else
            raise NoFormError(f"the layer {operation.name} is a {kind}, which has no ONNX form here")
        return functools.partial(WRITERS[kind], graph, operation)

    return keras.tree.flatten(model._run_through_graph(list(inputs), write))


# --- layers -----------------------------------------------------------------------------------------------------------


def _convolution(graph, layer, image):
    if layer.groups != 1 or tuple(layer.dilation_rate) != (1, 1):
        raise NoFormError(f"the layer {layer.name} has groups or dilation, which have no ONNX form here")
    kernel = np.transpose(layer.get_weights()[0], (3, 2, 0, 1))
    bias = layer.get_weights()[1:]
    padding = {"same": "SAME_UPPER", "valid": "VALID"}[layer.padding]
    made = graph.add("Conv", image, kernel, *bias, strides=layer.strides, auto_pad=padding, kernel_shape=layer.kernel_size)
    return _activation(graph, layer, made)


def _activation(graph, layer, values):
    match layer.activation.__name__:
        case "linear":
            return values
        case "relu":
            return graph.add("Relu", values)
        case "hard_tanh":
            return graph.add("Clip", values, np.float32(-1), np.float32(1))
        case other:
            raise NoFormError(f"the activation {other} of the layer {layer.name} has no ONNX form here")


def _batch_normalization(graph, layer, values, **_):
    if not (layer.scale and layer.center and layer.axis in (-1, 3)):
        raise NoFormError(f"the layer {layer.name} normalises without scale or centre, or another axis: it has no ONNX form here")
    return graph.add("BatchNormalization", values, *map(np.asarray, layer.get_weights()), epsilon=layer.epsilon)


def _join(kind):
    return lambda graph, layer, values: functools.reduce(functools.partial(graph.add, kind), values)


def _split(graph, operation, values):
    if operation.axis not in (-1, 3) or not isinstance(operation.indices_or_sections, int):
        raise NoFormError(f"{operation.name} is no split into equal parts of the channels: it has no ONNX form here")
    return graph.add("Split", values, outputs=operation.indices_or_sections, axis=1)


def _change_gate(graph, layer, change):
    square = graph.add("ReduceMean", graph.add("Mul", change, change), axes=[1], keepdims=1)
    around = graph.add("AveragePool", square, kernel_shape=[layer.size] * 2, auto_pad="SAME_UPPER", count_include_pad=0)
    root = graph.add("Sqrt", graph.add("Add", around, np.float32(layer.FLOOR)))
    return graph.add("Tanh", graph.add("Mul", root, np.float32(layer.slope)))


def _gated_scan(graph, layer, images):
    """One ``Scan`` along each axis, both ways at once, over steps that lie side by side in memory: the axis comes first. The gates
    are made within it, while a step is in the cache; a product for each way comes before it."""
    ways, units = layer.WAYS[layer.along], layer.units
    kernel, bias = (np.asarray(weight).reshape(-1, len(ways), 2, units) for weight in layer.get_weights())  # 2: gate, candidate
    channels, swept = len(kernel), []
    for axis in dict.fromkeys(axis for axis, _ in ways):  # of the images as Keras has them; here it is one more
        order = (axis + 1, 0, 1, 4 - axis)
        moved = graph.add("Transpose", images, perm=order)
        length, batch, _, across = graph.add("Split", graph.add("Shape", moved), outputs=4)
        lines = graph.add("Reshape", moved, graph.add("Concat", np.int64([-1, channels]), across, axis=0))
        projected = []
        for place in (place for place, way in enumerate(ways) if way[0] == axis):
            both = [weight[:, place].reshape(len(weight), 2 * units) for weight in (kernel, bias)]
            made = graph.add("Conv", lines, both[0].T[:, :, None], both[1][0], kernel_shape=[1])
            shape = graph.add("Concat", length, batch, np.int64([2 * units]), across, axis=0)
            projected.append(graph.add("Reshape", made, shape))
        first = graph.add("ConstantOfShape", graph.add("Concat", batch, np.int64([units]), across, axis=0),
                          value=_onnx().numpy_helper.from_array(np.zeros(1, np.float32)))  # fmt: skip
        directions = [int(backwards) for own, backwards in ways if own == axis]
        outputs = graph.add(
            "Scan", *[first] * len(projected), *projected, outputs=2 * len(projected), num_scan_inputs=len(projected),
            scan_input_directions=directions, scan_output_directions=directions, body=_recurrence(len(projected), layer.positive),
        )  # fmt: skip
        states = graph.join("Concat", outputs[len(projected) :], axis=2)
        swept.append(graph.add("Transpose", states, perm=[order.index(place) for place in range(4)]))
    return graph.join("Concat", swept, axis=1)


def _recurrence(count, positive):
    """The body of a ``Scan``: ``h = a * h + (1 - |a|) * candidate``, ``a`` of a gate, for so many states side by side."""
    onnx, graph, after, out = _onnx(), Graph("step_"), [], []  # names of a graph within another must differ from its names
    before, entering = [[f"{what}{place}" for place in range(count)] for what in ("before", "entering")]
    for state, pair in zip(before, entering, strict=True):
        gate, candidate = graph.add("Split", pair, outputs=2, axis=1)
        forget = graph.add("Sigmoid" if positive else "Tanh", gate)
        term = graph.add("Mul", graph.add("Sub", np.float32(1), graph.add("Abs", forget)), candidate)
        after.append(graph.add("Add", graph.add("Mul", forget, state), term))
        out.append(graph.add("Identity", after[-1]))
    given, made = ([onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * 3) for name in names]
                   for names in (before + entering, after + out))  # fmt: skip
    return onnx.helper.make_graph(graph.nodes, "recurrence", given, made, graph.constants)


# --- linear starts: of a picture's height and width, which the graph reads from it ----------------------------------------


class _Spectrum:
    """What the writers of both linear starts share: the size of the images, and matrices for it."""

    def __init__(self, graph, layer, images):
        self.graph, self.layer = graph, layer
        self.sides = [graph.add("Gather", graph.add("Shape", images), np.int64(axis)) for axis in (2, 3)]
        shape = layer.get_weights()[0].shape  # of filters for one size
        self.own = shape[:2] if isinstance(layer, spectral.SpectralWiener) else shape[1:3]
        self.bases = [self._basis(side) for side in self.sides]
        same = graph.add("And", *(graph.add("Equal", side, np.int64(own)) for side, own in zip(self.sides, self.own, strict=True)))
        self.same = graph.cast(same)

    def _range(self, side):
        return self.graph.add("Range", np.int64(0), side, np.int64(1))

    def _basis(self, side):
        """:func:`lstm_ae_lib.spectral.cosine_basis` as a pair of matrices; angles are reduced to one turn as whole numbers."""
        add, index = self.graph.add, self._range(side)
        column, row = (add("Unsqueeze", index, np.array([axis])) for axis in (1, 0))
        first = self.layer.transform == "dct1"
        if first:
            half = add("Sub", side, np.int64(1))  # samples that make half a turn
        else:
            half, row = add("Mul", side, np.int64(2)), add("Add", add("Mul", row, np.int64(2)), np.int64(1))
        turned = self.graph.cast(add("Mod", add("Mul", column, row), add("Mul", half, np.int64(2))), "DOUBLE")
        cosines = self.graph.cast(add("Cos", add("Div", add("Mul", turned, np.float64(np.pi)), self.graph.cast(half, "DOUBLE"))))
        length = self.graph.cast(half if first else side)
        scaled = add("Mul", cosines, add("Sqrt", add("Div", np.float32(2), length)))
        if first:
            ends = add("Or", add("Equal", index, np.int64(0)), add("Equal", index, half))
            forward = add("Mul", scaled, add("Where", ends, np.float32(0.5), np.float32(1)))
            return forward, forward
        forward = add("Mul", scaled, add("Where", add("Equal", column, np.int64(0)), np.float32(np.sqrt(0.5)), np.float32(1)))
        return forward, add("Transpose", forward, perm=(1, 0))

    def transform(self, images, direction):
        rows, columns = (pair[direction] for pair in self.bases)
        return self.graph.add("MatMul", self.graph.add("MatMul", rows, images), self.graph.add("Transpose", columns, perm=(1, 0)))

    def resized(self, values):
        """Filters ``(..., height, width)``, an array, interpolated as :func:`lstm_ae_lib.spectral.resized_filter` does."""
        add, made, dimensions = self.graph.add, np.ascontiguousarray(values, np.float32), values.ndim
        for axis, side, own in zip((dimensions - 2, dimensions - 1), self.sides, self.own, strict=True):
            known, asked = (own - 1, add("Sub", side, np.int64(1))) if self.layer.transform == "dct1" else (own, side)
            step = add("Div", np.float64(known), self.graph.cast(asked, "DOUBLE"))
            place = add("Min", add("Mul", self.graph.cast(self._range(side), "DOUBLE"), step), np.float64(own - 1))
            below = add("Min", self.graph.cast(place, "INT64"), np.int64(own - 2))
            share = self.graph.cast(add("Sub", place, self.graph.cast(below, "DOUBLE")))
            share = add("Unsqueeze", share, np.array([dimensions - 1 - axis]))
            before, after = (add("Gather", made, where, axis=axis) for where in (below, add("Add", below, np.int64(1))))
            made = add("Add", add("Mul", before, add("Sub", np.float32(1), share)), add("Mul", after, share))
        return made

    def offset(self, values):
        """Offsets ``(..., height, width)``, an array: at another size only their mean is kept."""
        add, values = self.graph.add, np.ascontiguousarray(values, np.float32)
        lengths = [add("ReduceSum", add("Gather", forward, np.int64(0)), keepdims=0) for forward, _ in self.bases]
        known = np.prod([spectral.cosine_basis(own, self.layer.transform)[0][0].sum() for own in self.own])
        mean = add("Mul", values[..., :1, :1], add("Div", add("Mul", *lengths), np.float32(known)))
        padded = []
        for part, (height, width) in ((values, self.own), (mean, (1, 1))):
            more = [add("Unsqueeze", add("Sub", side, np.int64(own)), np.array([0]))
                    for side, own in zip(self.sides, (height, width), strict=True)]  # fmt: skip
            pads = add("Concat", np.zeros(2 * values.ndim - 2, np.int64), *more, axis=0)
            padded.append(add("Pad", part, pads))
        return add("Add", add("Mul", padded[0], self.same), add("Mul", padded[1], add("Sub", np.float32(1), self.same)))

    def rings(self, bands):
        """:func:`lstm_ae_lib.spectral.frequency_bands`, as ``(height * width, bands)``."""
        add = self.graph.add
        places = []
        for axis, side in zip((1, 0), self.sides, strict=True):
            length = add("Sub", side, np.int64(1)) if self.layer.transform == "dct1" else side
            place = add("Div", self.graph.cast(self._range(side), "DOUBLE"), self.graph.cast(length, "DOUBLE"))
            places.append(add("Unsqueeze", add("Mul", place, place), np.array([axis])))
        radius = add("Sqrt", add("Div", add("Add", *places), np.float64(2)))
        ring = add("Min", self.graph.cast(add("Mul", radius, np.float64(bands)), "INT64"), np.int64(bands - 1))
        flat = add("Reshape", ring, np.array([-1, 1]))
        member = self.graph.cast(add("Equal", flat, np.arange(bands)[None]))
        count = add("Shape", flat, start=0, end=1)
        mean_brightness = add("Unsqueeze", add("Equal", add("Range", np.int64(0), add("Squeeze", count), np.int64(1)), np.int64(0)),
                              np.array([1]))  # fmt: skip
        member = add("Where", mean_brightness, np.float32(0), member)
        total = add("ReduceSum", member, np.array([0]), keepdims=1)
        return add("Div", member, add("Max", total, np.float32(1)))


def _wiener(graph, layer, images):
    matrices, offset = layer.get_weights()
    made = _Spectrum(graph, layer, images)
    spectrum = graph.add("Unsqueeze", made.transform(images, 0), np.array([2]))  # (batch, colour, 1, height, width)
    mixed = graph.add("Mul", spectrum, made.resized(np.moveaxis(matrices, (2, 3), (0, 1))))
    filtered = graph.add("ReduceSum", mixed, np.array([1]), keepdims=0)
    return made.transform(graph.add("Add", filtered, made.offset(np.moveaxis(offset, 2, 0))), 1)


def _mixture(graph, layer, images):
    filters, offsets, kernel, bias = layer.get_weights()
    add, made = graph.add, _Spectrum(graph, layer, images)
    colours = np.asarray(layer._colours, np.float32)
    spectrum = add("Conv", made.transform(images, 0), colours[:, :, None, None])
    flat = add("Reshape", add("Mul", spectrum, spectrum), np.array([0, 3, -1]))
    brightness, first, second = add("Split", add("MatMul", flat, made.rings(layer.bands)), outputs=3, axis=1)
    difference = add("Mul", add("Add", first, second), np.float32(0.5))
    energy = add("Squeeze", add("Concat", brightness, difference, axis=2), np.array([1]))
    features = add("Log", add("Add", energy, np.float32(layer.FLOOR)))
    shares = add("Softmax", add("Add", add("MatMul", features, kernel), bias), axis=-1)
    parts = [made.resized(np.moveaxis(filters, 3, 1)), made.offset(np.moveaxis(offsets, 3, 1))]
    mixed = (add("MatMul", shares, add("Reshape", part, np.array([layer.parts, -1]))) for part in parts)
    factor, term = (add("Reshape", part, add("Shape", images)) for part in mixed)
    restored = add("Add", add("Mul", factor, spectrum), term)
    return made.transform(add("Conv", restored, np.ascontiguousarray(colours.T)[:, :, None, None]), 1)


# --- the transforms of compressors, for blocks of one size ------------------------------------------------------------------


def _latent(graph, layer, images):
    rows, columns, colours = (np.asarray(basis, np.float32) for basis in layer._bases)
    spectrum = graph.add("Conv", graph.add("Sub", images, np.float32(0.5)), colours[:, :, None, None])
    spectrum = graph.add("MatMul", graph.add("MatMul", rows, spectrum), np.ascontiguousarray(columns.T))
    flat = graph.add("Reshape", graph.add("Transpose", spectrum, perm=LAST), np.array([0, -1]))
    return graph.add("Gather", flat, np.asarray(layer._kept, np.int64), axis=1)


def _image(graph, layer, latent):
    rows, columns, colours = (np.asarray(basis, np.float32) for basis in layer._bases)
    padded = graph.add("Pad", latent, np.array([0, 0, 0, 1]))
    flat = graph.add("Gather", padded, np.asarray(layer._position, np.int64), axis=1)
    spectrum = graph.add("Transpose", graph.add("Reshape", flat, np.array([-1, *layer.image_shape])), perm=FIRST)
    images = graph.add("MatMul", graph.add("MatMul", np.ascontiguousarray(rows.T), spectrum), columns)
    return graph.add("Add", graph.add("Conv", images, np.ascontiguousarray(colours.T)[:, :, None, None]), np.float32(0.5))


WRITERS = {
    "Conv2D": _convolution,
    "BatchNormalization": _batch_normalization,
    "ReLU": lambda graph, layer, values: graph.add("Relu", values),
    "Add": _join("Add"),
    "Multiply": _join("Mul"),
    "Subtract": _join("Sub"),
    "Concatenate": lambda graph, layer, values: graph.add("Concat", *values, axis=1),
    "GlobalAveragePooling2D": lambda graph, layer, values: graph.add("GlobalAveragePool", values),
    "DepthToSpace": lambda graph, layer, values: graph.add("DepthToSpace", values, blocksize=layer.factor, mode="DCR"),
    "Split": _split,
    "ChangeGate": _change_gate,
    "GatedScan": _gated_scan,
    "SpectralWiener": _wiener,
    "SpectralMixture": _mixture,
    "SpectralLatent": _latent,
    "SpectralImage": _image,
}  # by the name of a Keras class, so that a layer of this library and an operation of Keras are found alike
