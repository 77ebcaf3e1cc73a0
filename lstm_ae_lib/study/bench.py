"""How fast is it here? Measures, interleaved, and prints; asserts nothing.

Every measurement is repeated in rounds, each round measuring everything once, so that a machine that slows down for a
while slows all of them. Medians stand beside the lowest and highest value.
"""

import statistics
import time

import numpy as np

from lstm_ae_lib import cifar10, datasets, degradations, files, models, paths
from lstm_ae_lib._backend import keras
from lstm_ae_lib.fast import threads
from lstm_ae_lib.study import reporting, runs

BATCH = 64
IMAGES = 50_000


def measure(repeats: int = 7) -> list:
    """Times the reference model's training step, the input pipeline and the degradation of 50,000 images.

    The images are the bundled sample, repeated: speed does not depend on which pictures they are.

    Args:
        repeats: rounds, at least 3. Default 7.

    Returns:
        list: one record a measurement: ``name``, ``unit``, ``median``, ``low``, ``high``, ``repeats``, ``batch``,
        ``threads``, ``hardware``, ``versions``.

    Raises:
        ValueError: too few repeats.
    """
    from lstm_ae_lib import checks

    checks.number(repeats, "repeats", 3, 1000, whole=True)
    images = cifar10.load_cifar10("sample").train_images
    images = np.concatenate([images] * (IMAGES // len(images)))
    values = {}
    tasks = _tasks(images)
    for task in tasks.values():  # the first call traces and allocates
        task()
    for _ in range(repeats):
        for name, task in tasks.items():
            values.setdefault(name, []).append(task())
    shared = {
        "repeats": repeats, "batch": BATCH, "threads": threads.intra_op(), "hardware": runs.hardware()["summary"],
        "versions": runs.versions(),
    }  # fmt: skip
    return [
        {"name": name, "unit": name.rsplit(", ", 1)[1], "median": statistics.median(found), "low": min(found), "high": max(found)}
        | shared
        for name, found in values.items()
    ]


def _tasks(images):
    """Name, ending in the unit -> a function that does the work once and returns the number."""
    degraded = degradations.degrade(images, "gauss2")
    pairs = [(images[:BATCH] / np.float32(255)), degraded[:BATCH] / np.float32(255)]
    pairs = [keras.ops.convert_to_tensor(pixels) for pixels in pairs]
    tasks = {}
    for bidirectional in (False, True):
        model = models.reference_lstm_autoencoder(bidirectional=bidirectional)
        model.compile(optimizer="adam", loss="mse")
        tasks[f"training step, {model.name}, batch {BATCH}, milliseconds"] = lambda model=model: _training_step(model, pairs)
    batches = datasets.training_batches(degraded, images, BATCH, seed=0)
    tasks["pipeline alone, images per second"] = lambda: _rate(batches, 600)
    for name in ("gauss2", "reference"):
        library = {"opencv": "OpenCV", "scipy": "SciPy"}[degradations.get_protocol(name).engine]
        tasks[f"degrading {IMAGES:,} images, {name}, {library}, seconds"] = lambda name=name: _seconds(
            lambda: degradations.degrade(images, name)
        )
        tasks[f"degrading {IMAGES:,} images, {name}, in the graph, seconds"] = lambda name=name: _seconds(
            lambda: _in_graph(images, name)
        )
    return tasks


def _seconds(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _training_step(model, pairs, steps=10):
    return _seconds(lambda: [model.train_on_batch(*pairs) for _ in range(steps)]) / steps * 1000


def _rate(batches, count):
    # From a standing start: an iterator that waited would hand out what it had prefetched meanwhile.
    return count * BATCH / _seconds(lambda: [None for _ in batches.take(count)])


def _in_graph(images, protocol):
    import tensorflow as tf

    operator = degradations.operator(protocol)
    operator.build((None, *images.shape[1:]))
    batches = tf.data.Dataset.from_tensor_slices(images).batch(500)
    batches = batches.map(lambda pixels: operator(tf.cast(pixels, tf.float32) / 255.0), num_parallel_calls=tf.data.AUTOTUNE)
    for _ in batches:
        pass


def format_results(records: list) -> str:
    """The measurements as a table, and what follows from them."""
    table = reporting.format_table(records, [
        ("what", lambda record: record["name"]),
        ("median", lambda record: f"{record['median']:,.3g}" if record["median"] < 1000 else f"{record['median']:,.0f}"),
        ("lowest to highest", lambda record: f"{record['low']:,.4g} to {record['high']:,.4g}"),
    ])  # fmt: skip
    by_name = {record["name"]: record["median"] for record in records}
    step = next(value for name, value in by_name.items() if name.startswith("training step, reference_lstm"))
    training = BATCH / step * 1000
    lines = [f"training the reference model: {training:,.0f} images per second"]
    lines += [f"{name.removesuffix(', images per second')}: {value / training:.1f} times as fast"
              for name, value in by_name.items() if name.startswith("pipeline")]  # fmt: skip
    first = records[0]
    lines.append(f"{first['repeats']} interleaved repetitions, {first['threads']} threads, {first['hardware']}")
    return "\n".join([table, "", *lines])


def load(name: str) -> list:
    """The records of ``data/benchmarks/NAME.json``; none when there is no such file."""
    path = _file(name)
    return files.read_json(path)["records"] if path.is_file() else []


def save(name: str, records: list):
    """Writes the records to ``data/benchmarks/NAME.json`` and returns its path."""
    path = _file(name)
    files.write_json(path, {"records": records})
    return path


def _file(name):
    return paths.data_dir() / "benchmarks" / f"{name}.json"
