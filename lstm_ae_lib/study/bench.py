"""How fast is it here, beside stock Keras and PyTorch, and how does the cost grow? Measures and prints; asserts nothing.

Everything is measured once a round, round after round, so that a machine that slows down for a while slows all of it. Medians
stand beside the lowest and highest round; a ratio compares the same round. Each implementation computes in a process of its own,
with its own threads. PyTorch and ONNX Runtime are no requirements; without them their rows are missing (``make bench-train``).
"""

import contextlib
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from importlib import metadata
from operator import itemgetter

import numpy as np

from lstm_ae_lib import checks, cifar10, datasets, degradations, files, layers, models
from lstm_ae_lib._backend import keras
from lstm_ae_lib.fast import threads
from lstm_ae_lib.study import records, reporting, runs
from lstm_ae_lib.study.reporting import Column

# The overview: images to degrade, size of a batch, training steps and batches of the pipeline in one measurement.
IMAGES, BATCH, STEPS, BATCHES = 50_000, 64, 10, 600
# Beside others: task -> sizes of a batch, and images in one measurement.
TASKS = {
    "training step": ((32, 64, 256), 1280),
    "inference": ((1, 64, 1024), 4096),
    "sweep step": ((64,), 1280),
    "step with one batch": ((64,), 10_240),  # again and again: what the next one is to be compared with
    "step with pipeline": ((64,), 10_240),
    "making the pipeline": ((10_000,), 1280),  # images are degraded once, here
}
TOGETHER = ("step with one batch", "step with pipeline")  # measured in the same rounds
IMPLEMENTATIONS = ("project", "gated scan", "keras", "keras, project's threads", "pytorch", "onnxruntime")
# The sweeps over image positions: 32x32 positions with 16 features, 16 units each way, along the rows, then the columns.
SWEEP_SIZE, SWEEP_UNITS = 32, 16
# Keras runs this many steps between two looks at its callbacks, in the project and in stock Keras alike.
STEPS_PER_EXECUTION = 8
GEMM = (2048, 512, 512)
SCALES = {"images": (2000, 5000, 10000, 20000, 50000), "side": (32, 64, 128, 256), "units": (32, 64, 128, 256, 512)}


def overview(repeats: int = 7) -> list:
    """Times the reference model's training step, the input pipeline and the degradation of 50,000 images.

    The images are the bundled sample, repeated: speed does not depend on which pictures they are.

    Raises ``ValueError`` for fewer than 3 repeats.
    """
    checks.number(repeats, "repeats", 3, 1000, whole=True)
    images = cifar10.load_cifar10("sample").train_images
    values = _interleaved(_overview_tasks(np.resize(images, (IMAGES, *images.shape[1:]))), repeats)
    shared = {"repeats": repeats, "batch": BATCH, "threads": threads.intra_op(), **_machine()}
    return [
        {"name": name, "unit": name.rsplit(", ", 1)[1], **_spread("median", found), **shared} for name, found in values.items()
    ]


def _overview_tasks(images):
    """Name, ending in the unit -> a function that does the work once and returns the number."""
    degraded = degradations.degrade(images, "gauss2")
    pair = [keras.ops.convert_to_tensor(pixels[:BATCH] / np.float32(255)) for pixels in (images, degraded)]
    tasks = {}
    for bidirectional in (False, True):
        model = models.reference_lstm_autoencoder(bidirectional=bidirectional)
        model.compile(optimizer="adam", loss="mse")
        step = functools.partial(model.train_on_batch, *pair)
        tasks[f"training step, {model.name}, batch {BATCH}, milliseconds"] = lambda _, step=step: 1000 * _seconds(step, STEPS)
    batches = datasets.training_batches(degraded, images, BATCH, seed=0).take(BATCHES)
    # From a standing start: an iterator that waited would hand out what it had prefetched meanwhile.
    tasks["pipeline alone, images per second"] = lambda _: BATCHES * BATCH / _seconds(lambda: [None for _ in batches])
    for name in ("gauss2", "reference"):
        library = {"opencv": "OpenCV", "scipy": "SciPy"}[degradations.get_protocol(name).engine]
        for way, degrade in ((library, degradations.degrade), ("in the graph", _in_graph)):
            work = functools.partial(degrade, images, name)
            tasks[f"degrading {IMAGES:,} images, {name}, {way}, seconds"] = lambda _, work=work: _seconds(work)
    return tasks


def _in_graph(images, protocol):
    import tensorflow as tf

    operator = degradations.operator(protocol)
    operator.build((None, *images.shape[1:]))
    batches = tf.data.Dataset.from_tensor_slices(images).batch(500)
    batches = batches.map(lambda pixels: operator(tf.cast(pixels, tf.float32) / 255.0), num_parallel_calls=tf.data.AUTOTUNE)
    for _ in batches:
        pass


def train(repeats: int = 7, cores=(1, 2), tasks=()) -> list:
    """Times training steps, inference and sweeps of all implementations.

    Args:
        repeats: rounds, at least 5. Default 7.
        cores: numbers of cores to measure with; those that the machine lacks are left out. Default (1, 2).
        tasks: what to measure, of :data:`TASKS`. Default: everything.

    Returns:
        list: records with ``milliseconds`` (``low``, ``high``), ``ratio_to_pytorch`` and for a step with the pipeline
        ``ratio_to_one_batch`` (``ratio_low``, ``ratio_high``), ``ratio_to_keras``, ``fraction_of_gemm``, and what was measured.
    """
    for task in tasks:
        checks.choice(task, "tasks", tuple(TASKS))
    checks.number(repeats, "repeats", 5, 1000, whole=True)
    chosen = [(task, batch) for task in tasks or TASKS for batch in TASKS[task][0]]
    groups = [[("gemm", GEMM[0])], *([what] for what in chosen if what[0] not in TOGETHER)]
    groups.append([what for what in chosen if what[0] in TOGETHER])
    return [record for count in cores if count <= threads.cores() for record in _train_with(count, repeats, groups)]


def _train_with(cores, repeats, groups):
    times = {}
    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(_Worker(name, cores)) for name in IMPLEMENTATIONS}
        workers = {name: worker for name, worker in workers.items() if worker.ready()}
        for group in groups:
            tasks = {(*what, name): functools.partial(workers[name].ask, *what) for what in group for name in workers}
            times |= _interleaved(tasks, repeats)
    gemm = 2e-6 * np.prod(GEMM) / min(statistics.median(found) for (task, *_), found in times.items() if task == "gemm")
    shared = {"threads": cores, "rounds": repeats, "gemm_gflops": round(float(gemm), 1), **_machine("torch", "onnxruntime")}
    found = [_record(times, *key, gemm) for key in times if key[0] != "gemm"]
    return [{key: round(value, 4) if isinstance(value, float) else value for key, value in one.items()} | shared for one in found]


def _record(times, task, batch, name, gemm):
    found = times[task, batch, name]
    record = {"task": task, "implementation": name, "batch": batch, **_spread("milliseconds", found)}
    record |= _flops(task, batch, record["milliseconds"], gemm)
    others = {"pytorch": (task, batch, "pytorch"), "keras": (task, batch, "keras")}
    if task == TOGETHER[1]:
        others["one_batch"] = (TOGETHER[0], batch, name)
    for peer, key in others.items():
        if key in times and peer != name:
            ratios = [mine / other for mine, other in zip(found, times[key], strict=True)]
            ends = {} if peer == "keras" else {"ratio_low": min(ratios), "ratio_high": max(ratios)}
            record |= {f"ratio_to_{peer}": statistics.median(ratios), **ends}
    return record


def _flops(task, batch, milliseconds, gemm):
    """Arithmetic of the matrix products: forwards once, backwards twice, without the gradient to the images."""
    steps, features, units = 32, 96, (128, 64)
    forward = 4 * units[0] * (features + units[0]) + 4 * units[1] * (units[0] + units[1]) + units[1] * features
    products = {"inference": forward, "training step": 3 * forward - 4 * units[0] * features}.get(task)
    if products is None:
        return {}
    gflop = 2e-9 * steps * products * batch
    return {"gflop": gflop, "fraction_of_gemm": gflop / milliseconds * 1000 / float(gemm)}


def scaling(repeats: int = 5) -> list:
    """Time and peak memory of training against the number of images, the side of an image, and the hidden units.

    Each point has a process of its own: ``images`` times one epoch (batch 64, by the pipeline), ``side`` and ``units`` one step
    (batch 8 and 64). The exponent is that of time ~ size ** exponent, fitted over the points; for ``side`` the size is the number
    of pixels, for ``units`` that of multiply-adds.
    """
    found = []
    for what, values in SCALES.items():
        points = [{"what": what, "value": value, **_point(what, value, repeats)} for value in values]
        exponent = np.polyfit(*(np.log([point[key] for point in points]) for key in ("size", "seconds")), 1)[0]
        found += [point | {"exponent": round(float(exponent), 3), **_machine()} for point in points]
    return found


def _point(what, value, repeats):
    with _Worker("project", threads.cores()) as worker:
        worker.ready()
        times = _interleaved({what: functools.partial(worker.ask, what, value)}, 1 if what == "images" else repeats)
        peak = worker.ask("peak", 0, True)
    size = {"images": value, "side": value**2}.get(what) or models.multiply_adds(_scaled(what, value)[0])
    return {"size": size, "seconds": statistics.median(times[what]) / 1000, "peak_mebibytes": peak}


def _scaled(what, value):
    """The reference model, images and size of a batch at one point of a scale."""
    images, side, units, batch = {"images": (value, 32, 128, 64), "side": (64, value, 128, 8), "units": (1024, 32, value, 64)}[what]
    return models.reference_lstm_autoencoder((side, side, 3), (units, max(units // 2, 1))), (images, side, side, 3), batch


def _interleaved(tasks, repeats):
    """Each task's number in every round, after a first call that traces and allocates; a task that gives None then is left out."""
    able = {name: task for name, task in tasks.items() if task(False) is not None}
    rounds = [[task(True) for task in able.values()] for _ in range(repeats)]
    return dict(zip(able, zip(*rounds, strict=True), strict=True))


def _spread(name, values):
    return {name: statistics.median(values), "low": min(values), "high": max(values)}


def _seconds(call, calls=1):
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) / calls


def _machine(*packages):
    versions = runs.versions() | dict.fromkeys(packages)
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {"hardware": runs.hardware()["summary"], "versions": versions}


def run(what: str, repeats: int = 7, tasks=()) -> tuple:
    """Measures ``overview``, ``train`` or ``scaling``; returns its records and the text to print.

    Of a ``train`` of some tasks only, the records of the others are those that were saved before.
    """
    if what == "overview":
        return (found := overview(repeats)), format_overview(found)
    if what == "scaling":
        return (found := scaling()), format_scaling(found)
    found = train(repeats, tasks=tasks)
    measured = {record["task"] for record in found}
    kept = [record for record in records.benchmark_records("train") if record["task"] not in measured]
    return found + kept, format_train(found)


def save(name: str, found: list):
    """Writes records to ``data/benchmarks/NAME.json`` and returns its path."""
    files.write_json(records.benchmark_file(name), {"records": found})
    return records.benchmark_file(name)


def format_overview(found: list) -> str:
    """The overview as a table, and what follows from it."""
    table = reporting.render(found, [
        Column("what", itemgetter("name")),
        Column("median", lambda record: f"{record['median']:,.3g}" if record["median"] < 1000 else f"{record['median']:,.0f}"),
        Column("lowest to highest", lambda record: f"{record['low']:,.4g} to {record['high']:,.4g}"),
    ])  # fmt: skip
    by_name = {record["name"]: record["median"] for record in found}
    training = BATCH * 1000 / next(value for name, value in by_name.items() if name.startswith("training step, reference_lstm"))
    pipelines = {name.removesuffix(", images per second"): rate for name, rate in by_name.items() if name.startswith("pipeline")}
    return "\n".join([
        table, "", f"training the reference model: {training:,.0f} images per second",
        *(f"{name}: {rate / training:.1f} times as fast" for name, rate in pipelines.items()),
        f"{found[0]['repeats']} interleaved repetitions, {found[0]['threads']} threads, {found[0]['hardware']}",
    ])  # fmt: skip


def format_train(found: list) -> str:
    """The times beside the other implementations' as a table."""
    table = reporting.render(found, [
        *(Column(field, itemgetter(field)) for field in ("task", "threads", "batch", "implementation")),
        Column("ms", lambda record: f"{record['milliseconds']:.2f} [{record['low']:.2f}, {record['high']:.2f}]"),
        Column("of PyTorch's time", reporting.ratio),
        Column("of Keras' time", lambda record: reporting.shown(record.get("ratio_to_keras"), ".2f")),
        Column("of the GEMM rate", lambda record: reporting.shown(record.get("fraction_of_gemm"), ".0%")),
    ])  # fmt: skip
    rates = {record["threads"]: record["gemm_gflops"] for record in found}
    lines = [f"GEMM rate: {', '.join(f'{rate:.0f} GFLOP/s with {count} thread(s)' for count, rate in rates.items())}",
             f"median [lowest, highest] of {found[0]['rounds']} interleaved rounds; {found[0]['hardware']}"]  # fmt: skip
    if not any(record["implementation"] == "pytorch" for record in found):
        lines.append("PyTorch is not installed here: `make bench-train` measures it too")
    return "\n".join([table, "", *lines])


def format_scaling(found: list) -> str:
    """The growth of the cost as a table."""
    fields = {"value": ("value", ","), "seconds": ("seconds", ".4g"), "peak MiB": ("peak_mebibytes", ",")}
    fields["fitted exponent"] = ("exponent", ".2f")
    columns = [Column("what", itemgetter("what")), *(reporting.number(title, *field) for title, field in fields.items())]
    steps = "one epoch for images, one step for side (batch 8) and units (batch 64)"
    return f"{reporting.render(found, columns)}\n\n{steps}; {found[0]['hardware']}"


class _Worker(subprocess.Popen):
    """A process that computes on request: a line of JSON in, a line of JSON out; text in it is an error."""

    def __init__(self, name, cores):
        own = {"KERAS_BACKEND": "tensorflow", "TF_NUM_INTEROP_THREADS": str(cores)}
        own["TF_NUM_INTRAOP_THREADS"] = "1" if "project" in name else str(cores)  # the others as they come
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("TF_NUM_", "OMP_"))} | own
        command = [sys.executable, "-m", "lstm_ae_lib.study.bench", name, str(cores)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        super().__init__(command, **pipes, text=True, env=environment)
        self.name = name

    def ready(self):
        """Whether what it needs is installed."""
        return self._answer("starting")

    def ask(self, task, batch, measured):
        print(json.dumps([task, batch, measured]), file=self.stdin, flush=True)
        return self._answer(f"measuring {task} {batch}")

    def _answer(self, doing):
        answer = json.loads(self.stdout.readline() or '"its process has ended"')
        if isinstance(answer, str):
            raise RuntimeError(f"{doing} by {self.name} failed: {answer}")
        return answer


def _serve(name, cores):
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    answer = None
    with contextlib.suppress(ModuleNotFoundError):
        answer = _answering(name, cores)
    print(json.dumps(answer is not None), flush=True)
    for line in sys.stdin:
        try:
            said = answer(*json.loads(line))
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        print(json.dumps(said), flush=True)


def _answering(name, cores):
    """A worker's function of task, size of a batch and whether it is measured, not warmed up: milliseconds a step, or None for a
    task that this implementation lacks."""
    makers = {"pytorch": _pytorch, "onnxruntime": _onnxruntime}.get(name, lambda _: _keras(name))(cores)
    made = functools.cache(lambda task, batch: makers[task](batch))

    def answer(task, batch, measured):
        if task == "peak":  # memory, in MiB
            return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2))
        if task not in makers:
            return None
        call, steps = made(task, batch)
        images = TASKS[task][1] if task in TASKS else 20 * batch
        calls = min(400, max(2, round(images / (batch * steps)))) if measured else 2
        return _seconds(call, 1 if task in SCALES else calls) / steps * 1000

    return answer


def _images(batch):
    return np.random.default_rng(0).random((batch, 32, 32, 3), dtype=np.float32)


def _keras(name):
    """Task -> a function of the size of a batch, giving what to call and the steps in one call. So the next two."""
    import tensorflow as tf

    def stock(layer):
        config = layer.get_config()
        return keras.layers.LSTM.from_config(config) if isinstance(layer, layers.FastLSTM) else type(layer).from_config(config)

    def reference():
        model = models.reference_lstm_autoencoder()
        return model if name == "project" else keras.models.clone_model(model, clone_function=stock)

    def sweeps():
        inputs = hidden = keras.layers.Input((SWEEP_SIZE, SWEEP_SIZE, SWEEP_UNITS))
        own = {"project": layers.LSTMSweep, "gated scan": layers.GatedScan}.get(name)
        for along, features in (("rows", SWEEP_UNITS), ("columns", 2 * SWEEP_UNITS)):
            if own:
                hidden = own(SWEEP_UNITS, along)(hidden)
                continue
            hidden = keras.ops.reshape(hidden, (-1, SWEEP_SIZE, features))
            hidden = keras.layers.Bidirectional(keras.layers.LSTM(SWEEP_UNITS, return_sequences=True))(hidden)
            hidden = keras.ops.reshape(hidden, (-1, SWEEP_SIZE, SWEEP_SIZE, 2 * SWEEP_UNITS))
            hidden = keras.ops.transpose(hidden, (0, 2, 1, 3))  # along the columns, and back
        return keras.Model(inputs, keras.layers.Dense(3)(hidden))

    def training(model, batches, steps=STEPS_PER_EXECUTION):
        model.compile("adam", "mse", steps_per_execution=steps)
        model.make_train_function()
        iterator = iter(batches)
        return (lambda: model.train_function(iterator)), steps

    def pairs(clean, batch):
        return datasets.training_batches(degradations.degrade(clean, "gauss2"), clean, batch, 0)

    def one_batch(batch):
        return training(reference(), tf.data.Dataset.from_tensors((_images(batch),) * 2).repeat())

    def sweep(batch):
        inputs = np.random.default_rng(0).random((batch, SWEEP_SIZE, SWEEP_SIZE, SWEEP_UNITS), dtype=np.float32)
        return training(sweeps(), tf.data.Dataset.from_tensors((inputs, inputs[..., :3])).repeat(), 1)

    def inference(batch):
        model, images = reference(), tf.constant(_images(batch))
        return tf.function(lambda: model(images, training=False)), 1

    def gemm(_):
        left, right = (tf.random.normal(shape) for shape in (GEMM[:2], GEMM[1:]))
        return tf.function(lambda: tf.matmul(left, right)), 1

    def scale(what, value):
        model, shape, batch = _scaled(what, value)
        clean = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        step, _ = training(model, pairs(clean, batch), 1)
        steps = datasets.steps_per_epoch(shape[0], batch)
        return (lambda: [step() for _ in range(steps)] and None), 1 if what == "images" else steps

    if name == "gated scan":  # the layer that the flagship sweeps with
        return {"gemm": gemm, "sweep step": sweep}
    makers = {"gemm": gemm, "sweep step": sweep, "inference": inference, "training step": one_batch, TOGETHER[0]: one_batch}
    if name != "project":
        return makers
    clean = (np.resize(_images(1024), (10000, 32, 32, 3)) * 255).astype(np.uint8)
    return makers | {what: functools.partial(scale, what) for what in SCALES} | {
        "step with pipeline": lambda batch: training(reference(), pairs(clean, batch)),
        "making the pipeline": lambda batch: ((lambda: pairs(clean[:batch], 1)), 1),
    }  # fmt: skip


def _torch_model(features=96, units=(128, 64), outputs=96, sweep=False):
    """The reference model; with ``sweep`` LSTMs both ways, along the rows, then the columns, of positions."""
    import torch

    class Stack(torch.nn.Module):
        def __init__(self):
            super().__init__()
            sizes = [features, *((1 + sweep) * number for number in units)]
            pairs = zip(sizes[:-1], units, strict=True)
            self.lstms = torch.nn.ModuleList(torch.nn.LSTM(*pair, batch_first=True, bidirectional=sweep) for pair in pairs)
            self.dense = torch.nn.Linear(sizes[-1], outputs)

        def forward(self, images):
            hidden = images if sweep else images.reshape(-1, 32, features)
            for lstm in self.lstms:
                hidden = lstm(hidden.reshape(-1, *hidden.shape[-2:]))[0]
                hidden = hidden.reshape(*images.shape[:3], -1).transpose(1, 2) if sweep else hidden
            return self.dense(hidden).reshape(*images.shape[:3], -1)

    return Stack()


def _pytorch(cores):
    import torch

    torch.set_num_threads(cores)

    def training(model, inputs, targets):
        optimizer = torch.optim.Adam(model.parameters())

        def step():
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()

        return step, 1

    def training_step(batch):
        images = torch.from_numpy(_images(batch))
        return training(_torch_model(), images, images)

    def sweep(batch):
        inputs = torch.rand(batch, SWEEP_SIZE, SWEEP_SIZE, SWEEP_UNITS)
        return training(_torch_model(SWEEP_UNITS, (SWEEP_UNITS, SWEEP_UNITS), 3, sweep=True), inputs, inputs[..., :3])

    def inference(batch):
        model, images = _torch_model().eval(), torch.from_numpy(_images(batch))
        return torch.inference_mode()(lambda: model(images)), 1

    def gemm(_):
        left, right = (torch.randn(shape) for shape in (GEMM[:2], GEMM[1:]))
        return (lambda: left @ right), 1

    return {"gemm": gemm, "training step": training_step, "sweep step": sweep, "inference": inference}


def _onnxruntime(cores):
    import io
    import warnings

    import onnx  # noqa: F401 - the export needs it
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores

    def inference(batch):
        images, content = _images(batch), io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(_torch_model().eval(), torch.from_numpy(images), content, input_names=["images"], dynamo=False)
        session = onnxruntime.InferenceSession(content.getvalue(), options, providers=["CPUExecutionProvider"])
        return (lambda: session.run(None, {"images": images})), 1

    return {"inference": inference}


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
