"""Files at any rate: the same numbers on any machine, pictures of any size that come back, and what is refused."""

import hashlib
import itertools
import math

import cv2
import numpy as np
import pytest

from lstm_ae_lib import __main__, metrics, paths, pictures, restoring, weights
from lstm_ae_lib._backend import keras
from lstm_ae_lib.study import exporting
from lstm_ae_lib.tasks import any_rate, any_rate_codec, codec, compression

SMALL = {"width": 4, "memory": 6, "hidden": 5, "sizes": [6, 30]}


def network(kind="recurrent", seed=0, **more):
    """Networks whose every weight matters, and how they are described; the decoder is nearly the identity."""
    keras.utils.set_random_seed(seed)
    arguments = SMALL | {"context": kind} | more
    model, random = any_rate.any_rate_compressor(**arguments), np.random.default_rng(seed)
    for name, scale in (("quantize", 0.05), ("decoder", 0.003)):
        for weight in model.get_layer(name).trainable_weights:
            weight.assign_add(scale * random.standard_normal(weight.shape))
    return model, {"builder": "any_rate_compressor", "arguments": arguments}


@pytest.fixture(scope="module")
def made(sample):
    model, description = network()
    any_rate.start_from_images(model, sample.train_images[:200])
    return any_rate_codec.codec_of(model, description | {"card": {"task": "any rate"}})


@pytest.fixture
def released(made, sample, tmp_path, monkeypatch):
    """A folder with weights for one rate, ``default``, and for any, ``free``."""
    folder = tmp_path / "compress"
    monkeypatch.setattr(paths, "released_dir", lambda *_: folder)
    one = codec.fit_codec(compression.compressor(latent=300, width=0), sample.train_images[:100], {"task": "one rate"})
    weights.write(one.model, folder, "default", "compressor", {"latent": 300, "step": 0.25, "width": 0}, **codec.described(one))
    model, description = network()
    any_rate.start_from_images(model, sample.train_images[:200])
    weights.write(model, folder, "free", **description, **codec.described(made))
    return folder


def picture(height=45, width=70):
    ramp = np.linspace(20, 220, height * width * 3).reshape(height, width, 3)
    return (ramp + 20 * np.random.default_rng(0).random((height, width, 1))).astype(np.uint8)


# --- fixed-point numbers --------------------------------------------------------------------------------------------------


def walked(context, latent, step):
    """Numbers, means and tables, in the order of coding."""
    seen = []

    def exchange(row, columns, group, means, tables):
        seen.append((row, columns, group, means.copy(), tables.copy()))
        return np.clip(np.rint(latent[:, row, columns, group] - means), -1023, 1023)

    return context.walk(latent.shape[:3], step, exchange), seen


@pytest.mark.parametrize("kind", any_rate.CONTEXTS)
def test_the_context_is_that_of_the_network(kind, sample):
    model, description = network(kind)
    any_rate.start_from_images(model, sample.train_images[:200])
    own = any_rate_codec.codec_of(model, description)
    assert own.context.kind == kind
    step = any_rate_codec.log_step(14)
    numbers, seen = walked(own.context, own.latent(sample.test_images[:3], 14), step)
    given = [numbers.astype(np.float32), np.full((3, 1), step, np.float32)]
    means, widths = np.split(keras.ops.convert_to_numpy(model.get_layer("quantize").context(given)), 2, axis=-1)
    chosen, tables = np.full((2, *means.shape), np.nan)
    for row, columns, group, *found in seen:
        chosen[:, row, columns, group], tables[:, row, columns, group] = found
    assert np.abs(chosen - means).max() < 0.02  # means are multiples of 1/64
    assert np.abs(tables - np.clip(widths, 0, 63)).max() < 0.52
    assert (np.abs(means).max() > 0.1) == (kind != "none")


def test_no_sum_is_ever_rounded():
    """The largest weights and values there can be, in the longest sum there is, fit in the 53 bits of float64."""
    kernel = any_rate_codec.LARGEST_KERNEL * 2**any_rate_codec.KERNEL_BITS
    latent = 2 * codec.LARGEST / 4 * 2 ** (any_rate_codec.MEAN_BITS + 2)
    value = any_rate_codec.LARGEST_VALUE * 2**any_rate_codec.VALUE_BITS
    longest = 3 * (192 + 2 * 99)  # memory, lower groups and the same
    assert longest * kernel * max(latent, value) * 2 < 2**53


def test_a_sum_is_the_same_in_whole_numbers_and_in_any_order():
    model, _ = network()
    names = {weight.name: weight.numpy() for weight in model.get_layer("quantize").context.weights}
    context = any_rate_codec.FixedContext(names)
    random = np.random.default_rng(0)
    row = any_rate_codec.fixed(random.laplace(0, 40, (1, 7, 576)), 8)
    found = row @ context.look
    one, other = (np.rint(values * 2**bits).astype(np.int64).astype(object) for values, bits in ((row, 8), (context.look, 12)))
    whole = one @ other
    np.testing.assert_array_equal(found * 2**20, whole.astype(np.float64))
    order = random.permutation(576)
    np.testing.assert_array_equal(row[..., order] @ context.look[order], found)


def test_a_weight_that_is_too_large_is_refused():
    model, description = network()
    model.get_layer("quantize").context.slope.assign(np.full(192, -65.0))
    with pytest.raises(ValueError, match="weights must be at most 64 in size, slope has 65"):
        any_rate_codec.codec_of(model, description)
    model.get_layer("quantize").context.slope.assign(np.full(192, np.nan))
    with pytest.raises(ValueError, match="weights must be at most 64 in size, slope has nan"):
        any_rate_codec.codec_of(model, description)


def test_written_bytes_are_the_same_on_every_machine(monkeypatch):
    """From weights and numbers that are whole multiples: bytes are pinned, and no exponential of the machine's is asked for."""
    for cached in (codec.distribution, codec._coder):
        cached.cache_clear()
    for module, names in ((np, ("exp", "exp2", "log", "log2", "tanh", "power")), (math, ("exp", "log", "pow"))):
        for name in names:
            monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("a transcendental function of the machine"))
    count, shapes = itertools.count(1), {"look": (1, 3, 192, 6), "remember": (1, 1, 6, 12), "remember_bias": (12,)}
    for place, size in enumerate(any_rate_codec.GROUPS):
        lower = {f"lower{place}": (1, 3, sum(any_rate_codec.GROUPS[:place]), 5)} if place else {}
        shapes |= lower | {
            f"above{place}": (1, 3, 6, 5),
            f"beside{place}": (1, 3, size, 5),
            f"second{place}": (1, 1, 5, 5),
            f"last{place}": (1, 1, 5, 2 * size),
        }
        shapes |= dict.fromkeys((f"step{place}", f"bias{place}", f"second_bias{place}"), (5,))
    made = {name: (np.arange(math.prod(shape)) * 7919 * next(count) % 513 - 256).reshape(shape) / 1024
            for name, shape in shapes.items()}  # fmt: skip
    made |= {"start": np.arange(192) % 30 + 4.0, "slope": np.full(192, -4.0)}
    latent = (np.arange(2 * 3 * 192) * 104729 % 257 - 128).reshape(1, 2, 3, 192) / 16
    numbers, seen = walked(any_rate_codec.FixedContext(made), latent, -2.5)
    runs = []
    for row, columns, group, means, tables in seen:
        symbols = np.rint(latent[:, row, columns, group] - means).astype(int)
        runs += [(int(table), symbols[tables == table]) for table in np.unique(tables)]
    digests = [hashlib.sha256(content).hexdigest()[:16] for content in (numbers.tobytes(), codec.encode_runs(runs))]
    assert digests == ["3c2c2b1004bf0a91", "e584e9ed6f52a39d"]


# --- pictures to files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, size", [("recurrent", 6), ("recurrent", 30), ("window", 21), ("none", 10)])
def test_a_file_decodes_to_what_was_measured(kind, size, sample):
    model, description = network(kind)
    any_rate.start_from_images(model, sample.train_images[:200])
    own = any_rate_codec.codec_of(model, description)
    decoded, counted = own.measure(sample.test_images[:4], size)
    for image, expected, count in zip(sample.test_images[:4], decoded, counted, strict=True):
        content = own.compress(image, size)
        assert content[:4] == b"LAE3" and len(content) == count + codec.SCALED.size
        np.testing.assert_array_equal(own.decompress(content), expected)


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (9, 40), (45, 70), (70, 3)])
def test_pictures_of_any_size_in_colours_and_grey(made, shape):
    colours = picture(*shape)
    error = [np.mean((made.decompress(made.compress(colours, size)).astype(float) - colours) ** 2) for size in (6, 30)]
    assert error[0] < error[1] or error[1] < 2
    grey = made.decompress(made.compress(colours[..., 0], 6))
    assert grey.shape == shape and grey.dtype == np.uint8
    assert np.abs(grey.astype(float) - colours[..., 0]).mean() < 12


def test_smaller_steps_are_nearer_and_take_more_bytes(made, sample):
    found = [made.measure(sample.test_images[:20], size) for size in range(6, 31, 4)]
    counted = [counts.mean() for _, counts in found]
    psnr = [np.mean(metrics.per_image(sample.test_images[:20], decoded)["psnr"]) for decoded, _ in found]
    assert counted == sorted(counted, reverse=True) and psnr == sorted(psnr, reverse=True)


def test_a_large_picture_is_taken_in_tiles_that_do_not_show(made, monkeypatch):
    one = made.decompress(made.compress(picture(96, 160), 10)).astype(int)
    monkeypatch.setattr(restoring, "TILE", 96)
    tiled = made.decompress(made.compress(picture(96, 160), 10)).astype(int)
    assert np.abs(tiled - one).max() <= 12 and np.abs(tiled - one).mean() < 1


def test_images_that_do_not_fit_are_named(made):
    with pytest.raises(ValueError, match="sides that are multiples of 8, got 12 x 16"):
        made.latent(np.zeros((1, 12, 16, 3), np.uint8), 10)
    for size in (5, 31, 2.5):
        with pytest.raises(ValueError, match=f"size must be a whole number from 6 to 30, got {size}"):
            made.compress(picture(), size)


def test_files_that_are_damaged_or_of_another_kind_are_refused(made, sample):
    content = made.compress(picture(), 10)
    random = np.random.default_rng(0)
    for place in random.choice(len(content), 60, replace=False):
        damaged = content[:place] + bytes([content[place] ^ random.integers(1, 256)]) + content[place + 1 :]
        with pytest.raises(ValueError, match="damaged|not a compressed picture"):
            made.decompress(damaged)
    other, description = network(seed=1)
    with pytest.raises(ValueError, match="compressed with other weights"):
        any_rate_codec.codec_of(other, description).decompress(content)
    payload = content[codec.SCALED.size :]
    for kind, size, said in ((b"LAE2", 10, "kind LAE2 with steps of size 10"), (b"LAE3", 31, "kind LAE3 with steps of size 31")):
        with pytest.raises(ValueError, match=f"{said}, which these weights do not write"):
            made.decompress(codec._header(kind, made.fingerprint, 45, 70, size, payload) + payload)


def test_numbers_nobody_encoded_are_no_crash_either(made):
    """Even where the checksum is forged, what comes out is a picture, or is refused."""
    random = np.random.default_rng(0)
    for length in [200, 1, 0] * 8:
        payload = random.bytes(length)
        content = codec._header(b"LAE3", made.fingerprint, 20, 30, 6 + length % 9, payload) + payload
        try:
            assert made.decompress(content).shape == (20, 30, 3)
        except ValueError as error:
            assert "the bytes say nothing" in str(error)


@pytest.mark.scale
def test_ten_thousand_altered_files_are_refused_or_have_a_forged_checksum():
    """A byte changed, the end cut off, bytes put in; and, of every tenth, a payload changed with the checksum made to fit: none is
    decoded without a checksum that holds, nothing but a ``ValueError`` comes, and what is decoded has the size that the file
    says."""
    own, random, decoded = codec.load_codec("photo", engine="onnx"), np.random.default_rng(0), 0
    content = own.compress(picture(20, 30), 14)
    for place in range(10_000):
        altered = bytearray(content)
        where, forged = int(random.integers(len(altered))), place % 10 == 9
        if forged:
            payload = bytearray(content[codec.SCALED.size :][: int(random.integers(1, len(content)))])
            payload[int(random.integers(len(payload)))] ^= int(random.integers(1, 256))
            altered = codec._header(b"LAE3", own.fingerprint, 20, 30, int(random.integers(*own.sizes)), bytes(payload)) + payload
        elif place % 3 == 0:
            altered[where] ^= int(random.integers(1, 256))
        else:
            altered[where:] = b"" if place % 3 == 1 else random.bytes(int(random.integers(1, 9))) + altered[where:]
        try:
            assert own.decompress(bytes(altered)).shape == (20, 30, 3) and forged
            decoded += 1
        except ValueError as error:
            assert str(error)
    assert 0 < decoded <= 1000


def test_a_description_that_is_not_the_weights_own_is_refused():
    model, description = network()
    with pytest.raises(ValueError, match="any_rate_compressor.json is damaged: its fingerprint is not that of the weights"):
        any_rate_codec.codec_of(model, description | {"fingerprint": "00" * 8})


# --- released weights -----------------------------------------------------------------------------------------------------


def test_quality_takes_the_weights_for_any_rate_first(released):
    assert [codec.choose(quality) for quality in (0, 50, 100)] == [("free", 30), ("free", 18), ("free", 6)]
    assert codec.choose(50, name="default")[0] == "default"
    sizes = [codec.choose(quality)[1] for quality in range(101)]
    assert sizes == sorted(sizes, reverse=True) and set(sizes) == set(range(6, 31))


def test_the_commands_write_and_read_files_of_any_rate(released, tmp_path, capsys):
    pictures.write(tmp_path / "it.png", picture())
    sizes = {}
    for words in (["--quality", "10"], ["--quality", "90"], ["--bytes", "900"], ["--weights", "free"]):
        target = tmp_path / "it.laec"
        assert __main__.main(["compress", str(tmp_path / "it.png"), str(target), *words]) == 0
        assert target.read_bytes()[:4] == b"LAE3" and codec.written_with(target.read_bytes()) == "free"
        assert __main__.main(["decompress", str(target), str(tmp_path / "back.png")]) == 0
        back, sizes[words[1]] = cv2.imread(str(tmp_path / "back.png"))[..., ::-1], target.stat().st_size
        assert back.shape == (45, 70, 3) and np.abs(back.astype(float) - picture()).mean() < 40
    assert sizes["10"] < sizes["free"] < sizes["90"] and sizes["900"] <= 900
    words = ["compress", str(tmp_path / "it.png"), str(target), "--weights", "free", "--engine", "onnx"]
    assert __main__.main(words) == 2 and "free-context.npz; the engine keras needs none" in capsys.readouterr().err


def test_a_file_is_the_same_whether_keras_or_onnx_runtime_wrote_it(released, sample, monkeypatch):
    """What one engine has written the other decodes, to the same symbols and, but for a grey level, to the same pixels."""
    exporting.export_released("free", released)
    engines = [codec.load_codec("free", engine=engine) for engine in ("keras", "onnx")]
    assert engines[0].fingerprint == engines[1].fingerprint and engines[1].card == engines[0].card
    for image in (*sample.test_images[:3], picture(40, 72)):
        for writer in engines:
            content, read = writer.compress(image, 12), []
            for reader in engines:
                with monkeypatch.context() as patched:
                    walk, seen = reader.context.walk, []
                    patched.setattr(reader.context, "walk", lambda *given, go=walk, seen=seen: seen.append(go(*given)) or seen[-1])
                    read.append((reader.decompress(content).astype(int), seen[0]))
            np.testing.assert_array_equal(read[0][1], read[1][1])
            assert np.abs(read[0][0] - read[1][0]).max() <= 1
    (released / "free-context.npz").write_bytes(b"other")
    with pytest.raises(ValueError, match="free-context.npz is damaged: its SHA-256 is not the one that the weights' JSON has"):
        codec.load_codec("free", engine="onnx")


@pytest.mark.parametrize("size", [8, 14])
def test_a_photograph_is_above_jpeg_and_webp_of_the_same_bytes(size):
    """In PSNR and in SSIM, whole files, on a photograph that no training has seen."""
    photograph = pictures.photographs()["chelsea"]

    def looks(decoded):
        return np.array([metrics.per_image(photograph[None], decoded[None])[name][0] for name in ("psnr", "ssim")])

    own = codec.load_codec("photo", engine="onnx")
    content = own.compress(photograph, size)
    reached = looks(own.decompress(content))
    for suffix, psnr in ((".jpg", 2.5), (".webp", 1.0)):
        tried = [codec.image_format(photograph[None], suffix, quality) for quality in (1, 10, 20, 40, 60, 80)]
        counted, rivals = [int(whole[0]) for _, whole, _ in tried], np.transpose([looks(decoded[0]) for decoded, _, _ in tried])
        assert counted[0] < len(content) < counted[-1]
        rival = [np.interp(len(content), counted, values) for values in rivals]
        assert (reached - rival > (psnr, 0.01)).all()
