"""How fast is it here, beside stock Keras and PyTorch, and how does the cost grow? Measures and prints; asserts nothing.

Everything is measured once a round, round after round, so that a slow spell of the machine slows all of it; a ratio compares the
same round. Each implementation has a process and threads of its own. PyTorch and ONNX Runtime are optional (``make bench-train``).
"""

import contextlib
import functools
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from importlib import metadata
from operator import itemgetter

import numpy as np

from lstm_ae_lib import checks, cifar10, datasets, degradations, files, layers, models
from lstm_ae_lib._backend import keras
from lstm_ae_lib.fast import threads
from lstm_ae_lib.study import bench_flagship, records, reporting, runs
from lstm_ae_lib.study.reporting import Column

# The overview: images to degrade, size of a batch, training steps and batches of the pipeline in one measurement.
IMAGES, BATCH, STEPS, BATCHES = 50_000, 64, 10, 600
# Beside others: task -> sizes of a batch, and images in one measurement. "making the pipeline" degrades its images once.
TASKS = {
    "training step": ((32, 64, 256), 1280), "inference": ((1, 64, 1024), 4096), "sweep step": ((64,), 1280),
    "step with one batch": ((64,), 10_240), "step with pipeline": ((64,), 10_240), "making the pipeline": ((10_000,), 1280),
    **bench_flagship.TASKS,
}  # fmt: skip
TOGETHER = ("step with one batch", "step with pipeline")  # compared, and so measured in the same rounds
IMPLEMENTATIONS = ("project", "gated scan", "flagship", "keras", "keras, project's threads", "pytorch", "onnxruntime")
SWEEP_SIZE, SWEEP_UNITS = 32, 16  # sweeps over 32x32 positions with 16 features, 16 units each way, along rows, then columns
STEPS_PER_EXECUTION = 8  # between two looks at Keras' callbacks, in the project and in stock Keras alike
GEMM = (2048, 512, 512)
SCALES = {"images": (2000, 5000, 10000, 20000, 50000), "side": (32, 64, 128, 256), "units": (32, 64, 128, 256, 512)}


def overview(repeats: int = 7) -> list:
    """Times of the reference model's training step, the pipeline and the degradation of 50,000 images, in at least 3 rounds."""
    checks.number(repeats, "repeats", 3, 1000, whole=True)
    images = np.resize(cifar10.load_cifar10("sample").train_images, (IMAGES, 32, 32, 3))
    degraded = degradations.degrade(images, "gauss2")
    pair = [keras.ops.convert_to_tensor(pixels[:BATCH] / np.float32(255)) for pixels in (images, degraded)]
    tasks = {}  # name, ending in the unit -> a function that does the work once and returns the number
    for bidirectional in (False, True):
        model = models.reference_lstm_autoencoder(bidirectional=bidirectional)
        model.compile(optimizer="adam", loss="mse")
        model.optimizer.build(model.trainable_variables)  # as below: the step is traced once
        step = functools.partial(model.train_on_batch, *pair)
        tasks[f"training step, {model.name}, batch {BATCH}, milliseconds"] = lambda _, step=step: 1000 * seconds(step, STEPS)
    batches = datasets.training_batches(degraded, images, BATCH, seed=0).take(BATCHES)
    # From a standing start: an iterator that waited would hand out what it had prefetched meanwhile.
    tasks["pipeline alone, images per second"] = lambda _: BATCHES * BATCH / seconds(lambda: [None for _ in batches])
    for name, library in (("gauss2", "OpenCV"), ("reference", "SciPy")):
        for way, degrade in ((library, degradations.degrade), ("in the graph", _in_graph)):
            work = functools.partial(degrade, images, name)
            tasks[f"degrading {IMAGES:,} images, {name}, {way}, seconds"] = lambda _, work=work: seconds(work)
    shared = {"repeats": repeats, "batch": BATCH, "threads": threads.intra_op(), **machine()}
    found = _interleaved(tasks, repeats)
    return [{"name": name, "unit": name.rsplit(", ", 1)[1], **spread("median", one), **shared} for name, one in found.items()]


def _in_graph(images, protocol):
    import tensorflow as tf

    operator = degradations.operator(protocol)
    operator.build((None, *images.shape[1:]))
    batches = tf.data.Dataset.from_tensor_slices(images).batch(500)
    for _ in batches.map(lambda pixels: operator(tf.cast(pixels, tf.float32) / 255.0), num_parallel_calls=tf.data.AUTOTUNE):
        pass


def train(repeats: int = 7, cores=(1, 2), tasks=()) -> list:
    """Times of :data:`TASKS`, by default all, by all implementations on as many cores as there are of ``cores``; 5 rounds or more.

    Records have ``milliseconds`` (``low``, ``high``), ``ratio_to_pytorch`` and for a step with the pipeline ``ratio_to_one_batch``
    (``ratio_low``, ``ratio_high``), ``ratio_to_keras``, ``fraction_of_gemm``, and what was measured.
    """
    for task in tasks:
        checks.choice(task, "tasks", tuple(TASKS))
    checks.number(repeats, "repeats", 5, 1000, whole=True)
    chosen = [(task, batch) for task in tasks or TASKS for batch in TASKS[task][0]]
    products = ("gemm", bench_flagship.PRODUCT)
    groups = [[(product, GEMM[0]) for product in products], *([what] for what in chosen if what[0] not in TOGETHER)]
    groups.append([what for what in chosen if what[0] in TOGETHER])
    done = []
    for count in (count for count in cores if count <= threads.cores()):
        times = {}
        with contextlib.ExitStack() as stack:
            workers = {name: stack.enter_context(Worker(name, count)) for name in IMPLEMENTATIONS}
            workers = {name: worker for name, worker in workers.items() if worker.ready()}
            for group in groups:
                asked = {(*what, name): functools.partial(workers[name].ask, *what) for what in group for name in workers}
                times |= _interleaved(asked, repeats)
        fastest = {}
        for (task, *_), found in times.items():
            fastest[task] = min(fastest.get(task, np.inf), statistics.median(found))
        rates = {product: 2e-6 * float(np.prod(GEMM)) / fastest[product] for product in products}
        shared = {"threads": count, "rounds": repeats, **machine("torch", "onnxruntime")}
        for record in (_record(times, *key, rates) for key in times if key[0] not in products):
            done.append({key: round(value, 4) if isinstance(value, float) else value for key, value in record.items()} | shared)
    return done


def _record(times, task, batch, name, rates):
    found = times[task, batch, name]
    gemm = rates[bench_flagship.PRODUCT if task.endswith("bfloat16") else "gemm"]
    record = {"task": task, "implementation": name, "batch": batch, "gemm_gflops": gemm, **spread("milliseconds", found)}
    # Arithmetic of the matrix products: forwards once, backwards twice, without the gradient to the images.
    forward = 4 * 128 * (96 + 128) + 4 * 64 * (128 + 64) + 64 * 96  # at each of 32 steps
    if products := {"inference": forward, "training step": 3 * forward - 4 * 128 * 96}.get(task):
        record["gflop"] = 2e-9 * 32 * products * batch
    elif "flagship" in task:
        record["gflop"] = 2e-9 * bench_flagship.multiply_adds("step" in task) * batch
    if "gflop" in record:
        record["fraction_of_gemm"] = record["gflop"] / record["milliseconds"] * 1000 / gemm
    peers = {"pytorch": (task, batch, "pytorch"), "keras": (task, batch, "keras")}
    peers |= {"one_batch": (TOGETHER[0], batch, name)} if task == TOGETHER[1] else {}
    for peer, key in peers.items():
        if key in times and peer != name:
            ratios = [mine / other for mine, other in zip(found, times[key], strict=True)]
            ends = {} if peer == "keras" else {"ratio_low": min(ratios), "ratio_high": max(ratios)}
            record |= {f"ratio_to_{peer}": statistics.median(ratios), **ends}
    return record


def scaling(repeats: int = 5) -> list:
    """Time and peak memory of training against the number of images, the side of an image, and the hidden units.

    Each point has its own process: ``images`` times one epoch (batch 64, by the pipeline), ``side`` and ``units`` one step (batch
    8 and 64). The exponent is that of time ~ size ** exponent, with images, pixels or multiply-adds as the size.
    """
    checks.number(repeats, "repeats", 3, 1000, whole=True)
    found = []
    for what, values in SCALES.items():
        points = []
        for value in values:
            with Worker("project", threads.cores()) as worker:
                worker.ready()
                times = _interleaved({what: functools.partial(worker.ask, what, value)}, 1 if what == "images" else repeats)[what]
                cost = {"seconds": statistics.median(times) / 1000, "peak_mebibytes": worker.ask("peak", 0, True)}
            size = {"images": value, "side": value**2}.get(what) or models.multiply_adds(_scaled(what, value)[0])
            points.append({"what": what, "value": value, "size": size, **cost})
        exponent = np.polyfit(*(np.log([point[key] for point in points]) for key in ("size", "seconds")), 1)[0]
        found += [point | {"exponent": round(float(exponent), 3), **machine()} for point in points]
    return found


def _scaled(what, value):
    """The reference model, images and size of a batch at one point of a scale."""
    images, side, units, batch = {"images": (value, 32, 128, 64), "side": (64, value, 128, 8), "units": (1024, 32, value, 64)}[what]
    return models.reference_lstm_autoencoder((side, side, 3), (units, max(units // 2, 1))), (images, side, side, 3), batch


def _interleaved(tasks, repeats):
    """Each task's number in every round, after a first call that traces and allocates; a task that gives None then is left out."""
    able = {name: task for name, task in tasks.items() if task(False) is not None}
    rounds = [[task(True) for task in able.values()] for _ in range(repeats)]
    return dict(zip(able, zip(*rounds, strict=True), strict=True))


def spread(name, values):
    return {name: statistics.median(values), "low": min(values), "high": max(values)}


def seconds(call, calls=1):
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) / calls


def machine(*packages):
    versions = runs.versions() | dict.fromkeys(packages)
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {"hardware": runs.hardware()["summary"], "versions": versions}


def run(what: str, repeats: int = 7, tasks=()) -> tuple:
    """Records and text of ``overview``, ``train`` (of some tasks: the others' records as saved before), ``scaling``, ``restore``,
    ``workers`` or ``crops``."""
    if tasks and what != "train":
        raise ValueError(f"tasks are of train, got {', '.join(tasks)} with {what}")
    if what in ("restore", "workers", "crops"):
        from lstm_ae_lib.study import bench_crops, bench_restoring

        module = bench_crops if what == "crops" else bench_restoring
        found = getattr(module, what)(repeats)
        text = {"restore": bench_restoring.format_restore, "workers": reporting.workers_table, "crops": reporting.crops_table}[what]
        return found, text(found)
    if what != "train":
        found, text = (overview(repeats), format_overview) if what == "overview" else (scaling(repeats), format_scaling)
        return found, text(found)
    found = train(repeats, tasks=tasks)
    measured = {record["task"] for record in found}
    kept = [record for record in records.benchmark_records("train") if record["task"] not in measured]
    return sorted(found + kept, key=lambda record: list(TASKS).index(record["task"])), format_train(found)


def save(name: str, found: list):
    """Writes records to ``data/benchmarks/NAME.json`` and returns its path."""
    files.write_json(records.benchmark_file(name), {"records": found})
    return records.benchmark_file(name)


def format_overview(found: list) -> str:
    """The overview as a table, and what follows from it."""
    columns = [Column("what", itemgetter("name")),
               Column("median", lambda record: f"{record['median']:,{'.3g' if record['median'] < 1000 else '.0f'}}"),
               Column("lowest to highest", lambda record: f"{record['low']:,.4g} to {record['high']:,.4g}")]  # fmt: skip
    medians = {record["name"].removesuffix(", images per second"): record["median"] for record in found}
    training = BATCH * 1000 / next(value for name, value in medians.items() if name.startswith("training step, reference_lstm"))
    return "\n".join([
        reporting.render(found, columns), "", f"training the reference model: {training:,.0f} images per second",
        *(f"{name}: {rate / training:.1f} times as fast" for name, rate in medians.items() if name.startswith("pipeline")),
        f"{found[0]['repeats']} interleaved repetitions, {found[0]['threads']} threads, {found[0]['hardware']}",
    ])  # fmt: skip


def format_train(found: list) -> str:
    """The times beside the other implementations' as a table."""
    columns = [*(Column(field, itemgetter(field)) for field in ("task", "threads", "batch", "implementation")),
               Column("ms", lambda record: f"{record['milliseconds']:.2f} [{record['low']:.2f}, {record['high']:.2f}]"),
               Column("of PyTorch's time", reporting.ratio),
               Column("of Keras' time", lambda record: reporting.shown(record.get("ratio_to_keras"), ".2f")),
               Column("of the GEMM rate", lambda record: reporting.shown(record.get("fraction_of_gemm"), ".0%"))]  # fmt: skip
    rates = dict.fromkeys(f"{record['gemm_gflops']:.0f} GFLOP/s with {record['threads']} thread(s)"
                          + ", bfloat16" * record["task"].endswith("bfloat16") for record in found)  # fmt: skip
    lines = [f"GEMM rate: {'; '.join(rates)}",
             f"median [lowest, highest] of {found[0]['rounds']} interleaved rounds; {found[0]['hardware']}"]  # fmt: skip
    if not any(record["versions"].get("torch") for record in found):
        lines.append("PyTorch is not installed here: `make bench-train` measures it too")
    return "\n".join([reporting.render(found, columns), "", *lines])


def format_scaling(found: list) -> str:
    """The growth of the cost as a table."""
    fields = (("value", "value", ","), ("seconds", "seconds", ".4g"), ("peak MiB", "peak_mebibytes", ","),
              ("fitted exponent", "exponent", ".2f"))  # fmt: skip
    table = reporting.render(found, [Column("what", itemgetter("what")), *(reporting.number(*field) for field in fields)])
    return f"{table}\n\none epoch for images, one step for side (batch 8) and units (batch 64); {found[0]['hardware']}"


class Worker(subprocess.Popen):
    """A process that computes on request: a line of JSON in, a line of JSON out; text in it is an error."""

    def __init__(self, name, cores):
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("TF_NUM_", "OMP_"))}
        own = "1" if "project" in name else str(cores)  # the others as they come
        environment |= {"KERAS_BACKEND": "tensorflow", "TF_NUM_INTEROP_THREADS": str(cores), "TF_NUM_INTRAOP_THREADS": own}
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
    """Of a task, a size of a batch and whether it is measured, not warmed up: milliseconds a step; None for a task it lacks."""
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
        return seconds(call, 1 if task in SCALES else calls) / steps * 1000

    return answer


def _images(batch, shape=(32, 32, 3)):
    return np.random.default_rng(0).random((batch, *shape), dtype=np.float32)


def _keras(name):
    """Task -> a function of the size of a batch, giving what to call and the steps in one call. So the next two."""
    import tensorflow as tf

    def stock(layer):
        return (keras.layers.LSTM if isinstance(layer, layers.FastLSTM) else type(layer)).from_config(layer.get_config())

    def reference():
        model = models.reference_lstm_autoencoder()
        return model if name == "project" else keras.models.clone_model(model, clone_function=stock)

    def sweep_step(batch):
        images = _images(batch, (SWEEP_SIZE, SWEEP_SIZE, SWEEP_UNITS))
        inputs = hidden = keras.layers.Input(images.shape[1:])
        own = {"project": layers.LSTMSweep, "gated scan": layers.GatedScan}.get(name)
        for along in ("rows", "columns"):
            if own:
                hidden = own(SWEEP_UNITS, along)(hidden)
                continue
            hidden = keras.ops.reshape(hidden, (-1, *hidden.shape[2:]))
            hidden = keras.layers.Bidirectional(keras.layers.LSTM(SWEEP_UNITS, return_sequences=True))(hidden)
            hidden = keras.ops.reshape(hidden, (-1, SWEEP_SIZE, SWEEP_SIZE, 2 * SWEEP_UNITS))
            hidden = keras.ops.transpose(hidden, (0, 2, 1, 3))  # along the columns, and back
        return training(keras.Model(inputs, keras.layers.Dense(3)(hidden)), images, 1)

    def training(model, batches, steps=STEPS_PER_EXECUTION):  # an array is one batch again and again
        if isinstance(batches, np.ndarray):
            batches = tf.data.Dataset.from_tensors((batches, batches[..., :3])).repeat()
        model.compile("adam", "mse", steps_per_execution=steps)
        model.optimizer.build(model.trainable_variables)  # or the step would be traced twice, once to make these
        model.make_train_function()
        return functools.partial(model.train_function, iter(batches)), steps

    def pairs(clean, batch):
        return datasets.training_batches(degradations.degrade(clean, "gauss2"), clean, batch, 0)

    def inference(batch):
        model, images = reference(), tf.constant(_images(batch))
        return tf.function(lambda: model(images, training=False)), 1

    def gemm(_):
        left, right = (tf.random.normal(shape) for shape in (GEMM[:2], GEMM[1:]))
        return tf.function(lambda: tf.matmul(left, right)), 1

    def scale(what, value):
        model, shape, batch = _scaled(what, value)
        clean = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        step, steps = training(model, pairs(clean, batch), 1)[0], datasets.steps_per_epoch(shape[0], batch)
        return (lambda: [step() for _ in range(steps)]), 1 if what == "images" else steps

    if name == "flagship":
        return bench_flagship.keras_tasks(training, _images, GEMM)
    if name == "gated scan":  # the layer that the flagship sweeps with
        return {"gemm": gemm, "sweep step": sweep_step}
    one_batch = dict.fromkeys(("training step", TOGETHER[0]), lambda batch: training(reference(), _images(batch)))
    makers = {"gemm": gemm, "sweep step": sweep_step, "inference": inference, **one_batch}
    if name != "project":
        return makers
    images = _images(1024)
    clean = (np.resize(images, (10000, *images.shape[1:])) * 255).astype(np.uint8)
    return makers | {what: functools.partial(scale, what) for what in SCALES} | {
        "step with pipeline": lambda batch: training(reference(), pairs(clean, batch)),
        "making the pipeline": lambda batch: (functools.partial(pairs, clean[:batch], 1), 1),
    }  # fmt: skip


def _torch_model(sweep=False):
    """The reference model; with ``sweep`` LSTMs both ways, along the rows, then the columns, of positions."""
    import torch

    features, units, outputs = (SWEEP_UNITS, (SWEEP_UNITS, SWEEP_UNITS), 3) if sweep else (96, (128, 64), 96)
    sizes = [features, *((1 + sweep) * number for number in units)]

    class Stack(torch.nn.Module):
        def __init__(self):
            super().__init__()
            lstm = functools.partial(torch.nn.LSTM, batch_first=True, bidirectional=sweep)
            self.lstms = torch.nn.ModuleList(map(lstm, sizes, units))
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

    def training(model, inputs, within=contextlib.nullcontext):
        optimizer, targets = torch.optim.Adam(model.parameters()), inputs if inputs.shape[1] == 3 else inputs[..., :3]

        def step():
            optimizer.zero_grad()
            with within():
                loss = torch.nn.functional.mse_loss(model(inputs), targets)
            loss.backward()
            optimizer.step()

        return step, 1

    def inference(batch):
        model, images = _torch_model().eval(), torch.from_numpy(_images(batch))
        return torch.inference_mode()(lambda: model(images)), 1

    return {
        "inference": inference,
        "gemm": lambda _: (functools.partial(torch.matmul, torch.randn(GEMM[:2]), torch.randn(GEMM[1:])), 1),
        "training step": lambda batch: training(_torch_model(), torch.from_numpy(_images(batch))),
        "sweep step": lambda batch: training(_torch_model(sweep=True), torch.rand(batch, SWEEP_SIZE, SWEEP_SIZE, SWEEP_UNITS)),
        **bench_flagship.torch_tasks(training, _images, GEMM),
    }  # fmt: skip


def _onnxruntime(cores):
    import onnx  # noqa: F401 - the export needs it
    import onnxruntime
    import torch

    def inference(batch):
        images, content, options = _images(batch), io.BytesIO(), onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(_torch_model().eval(), torch.from_numpy(images), content, input_names=["images"], dynamo=False)
        session = onnxruntime.InferenceSession(content.getvalue(), options, providers=["CPUExecutionProvider"])
        return functools.partial(session.run, None, {"images": images}), 1

    return {"inference": inference}


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
