"""How fast does it train here, beside stock Keras and PyTorch, and how does the cost grow? Measures; asserts nothing.

Each implementation computes in a process of its own with its own threads, so that none disturbs another: the processes take
turns, one measurement each, round after round. A ratio compares the same round. PyTorch and ONNX Runtime are not among the
project's requirements; without them their rows are missing (``make bench-train`` has them).
"""

import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np

from lstm_ae_lib import checks
from lstm_ae_lib.fast import threads
from lstm_ae_lib.study import reporting

BATCHES = {
    "training step": (32, 64, 256),
    "inference": (1, 64, 1024),
    "sweep step": (64,),
    "step with one batch": (64,),  # again and again: what the next one is to be compared with
    "step with pipeline": (64,),
    "making the pipeline": (10_000,),  # images are degraded once, here
}
# What is compared with each other, and so measured in the same rounds, besides the implementations of one task.
TOGETHER = ("step with one batch", "step with pipeline")
# The sweeps over image positions: 32x32 positions with 16 features, 16 units each way, along the rows, then the columns.
SWEEP_SIZE, SWEEP_UNITS = 32, 16
# Keras runs this many steps between two looks at its callbacks, in the project and in stock Keras alike.
STEPS_PER_EXECUTION = 8
GEMM = (2048, 512, 512)

# Who computes: threads side by side and within one operation, as a function of the cores.
IMPLEMENTATIONS = {
    "project": lambda cores: (cores, 1),
    "gated scan": lambda cores: (cores, cores),  # of the sweeps only: the layer that the flagship sweeps with
    "keras": lambda cores: (cores, cores),  # as TensorFlow comes
    "keras, project's threads": lambda cores: (cores, 1),
    "pytorch": lambda cores: (cores, cores),
    "onnxruntime": lambda cores: (cores, cores),
}


def measure(rounds: int = 7, cores=(1, 2), share: float = 1.0, tasks=()) -> list:
    """Times training steps, inference and sweeps, everything in turn.

    Args:
        rounds: at least 5. Default 7.
        cores: numbers of cores to measure with; those that the machine lacks are left out. Default (1, 2).
        share: of the usual number of repetitions within a measurement, above 0, at most 1. Default 1.
        tasks: what to measure, of :data:`BATCHES`. Default: everything.

    Returns:
        list: records with ``task``, ``implementation``, ``batch``, ``threads``, ``milliseconds``, ``low``, ``high``,
        ``rounds``, ``ratio_to_pytorch`` (with ``ratio_low``, ``ratio_high``), ``ratio_to_keras``, ``gflop``,
        ``fraction_of_gemm``, ``gemm_gflops``, ``hardware``, ``versions``; for a step with the pipeline ``ratio_to_one_batch``
        (with ``ratio_low``, ``ratio_high``).

    Raises:
        ValueError: too few rounds, or an unknown task.
    """
    tasks = tuple(tasks) or tuple(BATCHES)
    for task in tasks:
        checks.choice(task, "tasks", tuple(BATCHES))
    checks.number(rounds, "rounds", 5, 1000, whole=True)
    checks.number(share, "share", 0, 1, above_low=True)
    records = []
    for count in cores:
        if count <= threads.cores():
            records += _measure_with(count, rounds, share, tasks)
    return records


def _measure_with(cores, rounds, share, tasks):
    from lstm_ae_lib.study import runs

    workers = {}
    for name in IMPLEMENTATIONS:
        worker = _Worker(name, cores)
        if worker.ready:
            workers[name] = worker
    groups = [[(task, batch)] for task in tasks if task not in TOGETHER for batch in BATCHES[task]]
    groups += [[(task, batch) for task in TOGETHER if task in tasks for batch in BATCHES[task]]]
    times = {}
    for group in [[("gemm", GEMM[0])], *groups]:
        able = [
            (*what, name) for what in group for name, worker in workers.items() if worker.ask(*what, share=0) is not None
        ]  # fmt: skip
        for _ in range(rounds):
            for *what, name in able:
                times.setdefault((*what, name), []).append(workers[name].ask(*what, share=share))
    for worker in workers.values():
        worker.close()
    gemm = 2e-6 * np.prod(GEMM) / min(statistics.median(found) for (task, _, _), found in times.items() if task == "gemm")
    shared = {
        "threads": cores, "rounds": rounds, "gemm_gflops": round(float(gemm), 1), "hardware": runs.hardware()["summary"],
        "versions": runs.versions() | {name: _version(name) for name in ("torch", "onnxruntime")},
    }  # fmt: skip
    records = []
    for (task, batch, name), found in times.items():
        if task == "gemm":
            continue
        record = {"task": task, "implementation": name, "batch": batch, "milliseconds": statistics.median(found)}
        record |= {"low": min(found), "high": max(found), **_flops(task, batch, record["milliseconds"], gemm)}
        for peer in ("pytorch", "keras"):
            others = times.get((task, batch, peer))
            if others and name != peer:
                ratios = [mine / other for mine, other in zip(found, others, strict=True)]
                record |= {f"ratio_to_{peer}": statistics.median(ratios)}
                record |= {"ratio_low": min(ratios), "ratio_high": max(ratios)} if peer == "pytorch" else {}
        bare = times.get(("step with one batch", batch, name)) if task == "step with pipeline" else None
        if bare:
            ratios = [mine / other for mine, other in zip(found, bare, strict=True)]
            record |= {"ratio_to_one_batch": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios)}
        records.append({key: round(value, 4) if isinstance(value, float) else value for key, value in record.items()} | shared)
    return records


def _flops(task, batch, milliseconds, gemm):
    """Arithmetic of the matrix products: forwards once, backwards twice, without the gradient to the images."""
    steps, features, units = 32, 96, (128, 64)
    layers = [4 * units[0] * (features + units[0]), 4 * units[1] * (units[0] + units[1]), units[1] * features]
    forward = steps * sum(layers)
    products = {"inference": forward, "training step": 3 * forward - steps * 4 * units[0] * features}.get(task)
    if products is None:
        return {}
    gflop = 2e-9 * products * batch
    return {"gflop": gflop, "fraction_of_gemm": gflop / milliseconds * 1000 / float(gemm)}


def _version(package):
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


class _Worker:
    """A process that computes on request: a line of JSON in, a line of JSON out."""

    def __init__(self, name, cores):
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("TF_NUM_", "OMP_"))}
        inter_op, intra_op = IMPLEMENTATIONS[name](cores)
        environment |= {
            "TF_NUM_INTEROP_THREADS": str(inter_op),
            "TF_NUM_INTRAOP_THREADS": str(intra_op),
            "KERAS_BACKEND": "tensorflow",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lstm_ae_lib.study.bench_train", name, str(cores)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        self.ready = self.process.stdout.readline() == "ready\n"
        if not self.ready:
            self.close()

    def ask(self, task, batch, share):
        print(json.dumps([task, batch, share]), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.communicate()


def format_results(records: list) -> str:
    """The measurements as a table."""

    def ratio(record):
        if "ratio_to_pytorch" not in record:
            return "-"
        return f"{record['ratio_to_pytorch']:.2f} [{record['ratio_low']:.2f}, {record['ratio_high']:.2f}]"

    first = records[0]
    table = reporting.format_table(records, [
        ("task", lambda record: record["task"]), ("threads", lambda record: str(record["threads"])),
        ("batch", lambda record: str(record["batch"])), ("implementation", lambda record: record["implementation"]),
        ("ms", lambda record: f"{record['milliseconds']:.2f} [{record['low']:.2f}, {record['high']:.2f}]"),
        ("of PyTorch's time", ratio),
        ("of Keras' time", lambda record: f"{record['ratio_to_keras']:.2f}" if "ratio_to_keras" in record else "-"),
        ("of the GEMM rate", lambda record: f"{record['fraction_of_gemm']:.0%}" if "fraction_of_gemm" in record else "-"),
    ])  # fmt: skip
    rates = {record["threads"]: record["gemm_gflops"] for record in records}
    lines = [f"GEMM rate: {', '.join(f'{rate:.0f} GFLOP/s with {count} thread(s)' for count, rate in rates.items())}",
             f"median [lowest, highest] of {first['rounds']} interleaved rounds; {first['hardware']}"]  # fmt: skip
    if not any(record["implementation"] == "pytorch" for record in records):
        lines.append("PyTorch is not installed here: `make bench-train` measures it too")
    return "\n".join([table, "", *lines])


# --- how the cost grows ---------------------------------------------------------------------------------------------------

SCALES = {
    "images": (2000, 5000, 10000, 20000, 50000),
    "side": (32, 64, 128, 256),
    "units": (32, 64, 128, 256, 512),
}


def scaling() -> list:
    """Time and peak memory of training against the number of images, the side of an image, and the hidden units.

    Each point is a process of its own: ``images`` times one epoch (batch 64, by the pipeline), ``side`` and
    ``units`` one step (batch 8 and 64). The exponent is that of time ~ size ** exponent, fitted over the points; for
    ``side`` the size is the number of pixels, for ``units`` that of multiply-adds.

    Returns:
        list: records with ``what``, ``value``, ``size``, ``seconds``, ``peak_mebibytes``, ``exponent``.
    """
    from lstm_ae_lib.study import runs

    records = []
    for what, values in SCALES.items():
        points = []
        for value in values:
            command = [sys.executable, "-m", "lstm_ae_lib.study.bench_train", "scaling", what, str(value)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"measuring {what} {value} failed: {done.stderr.strip().splitlines()[-1]}")
            points.append({"what": what, "value": value, **json.loads(done.stdout)})
        exponent = np.polyfit(*(np.log([point[key] for point in points]) for key in ("size", "seconds")), 1)[0]
        records += [point | {"exponent": round(float(exponent), 3)} for point in points]
    return [record | {"hardware": runs.hardware()["summary"], "versions": runs.versions()} for record in records]


def _scale(what, value):
    import resource

    threads.set_threads()
    from lstm_ae_lib import datasets, degradations, models

    images, side, units, batch = 1024, 32, 128, 64
    if what == "images":
        images = value
    elif what == "side":
        images, side, batch = 64, value, 8
    else:
        units = value
    clean = np.random.default_rng(0).integers(0, 256, (images, side, side, 3), dtype=np.uint8)
    model = models.reference_lstm_autoencoder((side, side, 3), (units, max(units // 2, 1)))
    model.compile("adam", "mse")
    steps = datasets.steps_per_epoch(images, batch)
    model.make_train_function()
    iterator = iter(datasets.training_batches(degradations.degrade(clean, "gauss2"), clean, batch, 0))
    for _ in range(2):
        model.train_function(iterator)
    epochs = []
    for _ in range(1 if what == "images" else 5):
        started = time.perf_counter()
        for _ in range(steps):
            model.train_function(iterator)
        epochs.append((time.perf_counter() - started) / (1 if what == "images" else steps))
    size = {"images": images, "side": side * side, "units": models.multiply_adds(model)}[what]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    return {"size": size, "seconds": statistics.median(epochs), "peak_mebibytes": round(peak)}


def format_scaling(records: list) -> str:
    """The growth of the cost as a table."""
    table = reporting.format_table(records, [
        ("what", lambda record: record["what"]), ("value", lambda record: f"{record['value']:,}"),
        ("seconds", lambda record: f"{record['seconds']:.4g}"), ("peak MiB", lambda record: f"{record['peak_mebibytes']:,}"),
        ("fitted exponent", lambda record: f"{record['exponent']:.2f}"),
    ])  # fmt: skip
    return f"{table}\n\none epoch for images, one step for side (batch 8) and units (batch 64); {records[0]['hardware']}"


# --- the processes that compute -------------------------------------------------------------------------------------------


def _serve(name, cores):
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    make = {"pytorch": _pytorch, "onnxruntime": _onnxruntime}.get(name, lambda cores: _keras(name))
    prepare = make(cores)
    print("ready", flush=True)
    prepared = {}
    for line in sys.stdin:
        task, batch, share = json.loads(line)
        if (task, batch) not in prepared:
            prepared[task, batch] = prepare(task, batch)
        call, steps = prepared[task, batch] or (None, 0)
        if call is None:
            print("null", flush=True)
            continue
        images = {"inference": 4096, "gemm": 2048 * 20, **dict.fromkeys(TOGETHER, 10_240)}.get(task, 1280)
        calls = min(400, max(2, round(share * images / (batch * steps))))  # with a share of 0: to warm up
        started = time.perf_counter()
        for _ in range(calls):
            call()
        print((time.perf_counter() - started) / (calls * steps) * 1000, flush=True)


def _images(batch):
    return np.random.default_rng(0).random((batch, 32, 32, 3), dtype=np.float32)


def _keras(name):
    import tensorflow as tf

    from lstm_ae_lib import datasets, degradations, keras, layers, models

    fast = name == "project"

    def stock(layer):
        config = layer.get_config()
        return keras.layers.LSTM.from_config(config) if isinstance(layer, layers.FastLSTM) else type(layer).from_config(config)

    def reference():
        model = models.reference_lstm_autoencoder()
        return model if fast else keras.models.clone_model(model, clone_function=stock)

    def sweeps():
        inputs = hidden = keras.layers.Input((SWEEP_SIZE, SWEEP_SIZE, SWEEP_UNITS))
        if name in ("project", "gated scan"):
            layer = layers.LSTMSweep if fast else layers.GatedScan
            for along in ("rows", "columns"):
                hidden = layer(SWEEP_UNITS, along)(hidden)
        else:
            for features in (SWEEP_UNITS, 2 * SWEEP_UNITS):
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

    def prepare(task, batch):
        if task == "gemm":
            left, right = (tf.random.normal(shape) for shape in (GEMM[:2], GEMM[1:]))
            product = tf.function(lambda: tf.matmul(left, right))
            return product, 1
        if name == "gated scan" and task != "sweep step":
            return None
        if task == "inference":
            model, images = reference(), tf.constant(_images(batch))
            restore = tf.function(lambda: model(images, training=False))
            return restore, 1
        if task == "sweep step":
            inputs = np.random.default_rng(0).random((batch, SWEEP_SIZE, SWEEP_SIZE, SWEEP_UNITS), dtype=np.float32)
            return training(sweeps(), tf.data.Dataset.from_tensors((inputs, inputs[..., :3])).repeat(), 1)
        if task in ("training step", "step with one batch"):
            return training(reference(), tf.data.Dataset.from_tensors((_images(batch),) * 2).repeat())
        if not fast:
            return None
        clean = (np.resize(_images(1024), (10000, 32, 32, 3)) * 255).astype(np.uint8)
        if task == "making the pipeline":
            return (lambda: datasets.training_batches(degradations.degrade(clean[:batch], "gauss2"), clean[:batch], 1, 0)), 1
        return training(reference(), datasets.training_batches(degradations.degrade(clean, "gauss2"), clean, batch, 0))

    return prepare


def _torch_model():
    import torch

    class Reference(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.LSTM(96, 128, batch_first=True)
            self.decoder = torch.nn.LSTM(128, 64, batch_first=True)
            self.to_rows = torch.nn.Linear(64, 96)

        def forward(self, images):
            rows = self.to_rows(self.decoder(self.encoder(images.reshape(-1, 32, 96))[0])[0])
            return rows.reshape(-1, 32, 32, 3)

    class Sweeps(torch.nn.Module):
        def __init__(self):
            super().__init__()
            units = SWEEP_UNITS
            self.sweeps = torch.nn.ModuleList(
                torch.nn.LSTM(features, units, batch_first=True, bidirectional=True) for features in (units, 2 * units)
            )
            self.to_colours = torch.nn.Linear(2 * units, 3)

        def forward(self, hidden):
            for sweep in self.sweeps:
                hidden = sweep(hidden.reshape(-1, SWEEP_SIZE, hidden.shape[-1]))[0]
                hidden = hidden.reshape(-1, SWEEP_SIZE, SWEEP_SIZE, 2 * SWEEP_UNITS).transpose(1, 2)
            return self.to_colours(hidden)

    return Reference, Sweeps


def _pytorch(cores):
    import torch

    torch.set_num_threads(cores)
    reference, sweeps = _torch_model()

    def training(model, inputs, targets):
        optimizer = torch.optim.Adam(model.parameters())

        def step():
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()

        return step, 1

    def prepare(task, batch):
        if task == "gemm":
            left, right = (torch.randn(shape) for shape in (GEMM[:2], GEMM[1:]))
            return (lambda: left @ right), 1
        if task == "training step":
            images = torch.from_numpy(_images(batch))
            return training(reference(), images, images)
        if task == "inference":
            model, images = reference().eval(), torch.from_numpy(_images(batch))

            def restore():
                with torch.inference_mode():
                    model(images)

            return restore, 1
        if task == "sweep step":
            inputs = torch.rand(batch, SWEEP_SIZE, SWEEP_SIZE, SWEEP_UNITS)
            return training(sweeps(), inputs, inputs[..., :3])
        return None

    return prepare


def _onnxruntime(cores):
    import io
    import warnings

    import onnx  # noqa: F401 - the export needs it
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores

    def prepare(task, batch):
        if task != "inference":
            return None
        images, content = _images(batch), io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(_torch_model()[0]().eval(), torch.from_numpy(images), content, input_names=["images"], dynamo=False)
        session = onnxruntime.InferenceSession(content.getvalue(), options, providers=["CPUExecutionProvider"])
        return (lambda: session.run(None, {"images": images})), 1

    return prepare


if __name__ == "__main__":
    if sys.argv[1] == "scaling":
        print(json.dumps(_scale(sys.argv[2], int(sys.argv[3]))))
    else:
        _serve(sys.argv[1], int(sys.argv[2]))
