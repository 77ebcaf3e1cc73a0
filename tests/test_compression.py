"""Symbols that come back from their bytes, files that are refused, and what a compressor has to beat."""

import contextlib
import hashlib
import io
import math
import sys
import types
import zlib

import cv2
import numpy as np
import pytest

from lstm_ae_lib import __main__, metrics, models, paths, pictures, weights
from lstm_ae_lib._backend import keras
from lstm_ae_lib.tasks import codec, compression

ARGUMENTS = {"latent": 300, "step": 0.25, "width": 0}


@pytest.fixture(scope="module")
def made_codec(sample):
    return codec.fit_codec(compression.compressor(**ARGUMENTS), sample.train_images[:300], {"task": "transform coding"})


@pytest.fixture
def released(made_codec, tmp_path, monkeypatch):
    folder = tmp_path / "compress"
    monkeypatch.setattr(paths, "released_dir", lambda *_: folder)
    weights.write(made_codec.model, folder, "default", "compressor", ARGUMENTS, **codec.described(made_codec))
    return folder


def picture(height=45, width=70):
    ramp = np.linspace(20, 220, height * width * 3).reshape(height, width, 3)
    return (ramp + 20 * np.random.default_rng(0).random((height, width, 1))).astype(np.uint8)


# --- symbols to bytes -----------------------------------------------------------------------------------------------------


def test_numbers_come_back_whatever_the_tables():
    random = np.random.default_rng(0)
    symbols = np.rint(random.laplace(0, np.geomspace(0.02, 300, 50), (40, 50))).astype(int).clip(-1023, 1023)
    symbols[0, :2] = -1023, 1023
    for tables in (codec.choose_tables(symbols), random.integers(0, 64, 50), np.zeros(50, int)):
        content = codec.encode_symbols(symbols, tables)
        np.testing.assert_array_equal(codec.decode_symbols(content, 40, tables), symbols)
    nothing = np.zeros((3, 50), int)
    content = codec.encode_symbols(nothing, np.zeros(50, int))
    assert len(content) <= 1  # zeros at the end are not written
    np.testing.assert_array_equal(codec.decode_symbols(content, 3, np.zeros(50, int)), nothing)
    rare = np.rint(random.laplace(0, np.geomspace(5, 0.05, 768), (300, 768))).astype(int)
    tables = codec.choose_tables(rare)
    for row in rare:
        content = codec.encode_symbols(row[None], tables)
        np.testing.assert_array_equal(codec.decode_symbols(content, 1, tables)[0], row)


def test_the_bytes_are_what_the_distributions_promise():
    """Coding costs what the logarithm of the chosen distributions says, to a few bytes; and no other table costs less."""
    symbols = np.rint(np.random.default_rng(1).laplace(0, 3.0, (500, 20))).astype(int)
    tables = codec.choose_tables(symbols)
    shares = np.stack([codec.distribution(table) for table in range(codec.TABLES)])
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-12)
    promised = -np.log2(shares[tables][np.arange(20), symbols + codec.LARGEST]).sum() / 8
    assert len(codec.encode_symbols(symbols, tables)) == pytest.approx(promised, rel=2e-3)
    assert len(codec.encode_symbols(symbols, tables + 3)) > promised
    # The entropy of a rounded Laplace distribution of that width, worked out by hand: 1 + log2(e * 3) bits, less the rounding.
    assert promised * 8 / symbols.size == pytest.approx(np.log2(2 * np.e * 3), abs=0.03)


def test_the_distributions_are_laplace_distributions_to_the_last_bit():
    """The formula in floating point gives the same to a few units in the last place; the float32 that are coded with are pinned."""
    far = np.abs(np.arange(-codec.LARGEST, codec.LARGEST + 1))
    tables = np.stack([codec.distribution(table) for table in range(codec.TABLES)])
    for table, shares in enumerate(tables):
        width = 0.05 * 2 ** (table / 4)
        tail = 0.5 * np.exp(-(np.maximum(far, 1) - 0.5) / width) * -np.expm1(-1 / width)
        expected = np.where(far == 0, -np.expm1(-0.5 / width), tail) + 2.0**-22
        np.testing.assert_allclose(shares, expected / expected.sum(), rtol=1e-13)
        np.testing.assert_array_equal(shares, shares[::-1])
    coded = tables.astype("<f4").tobytes()
    assert hashlib.sha256(coded).hexdigest() == "1eb4a7a4e85f4bd575b2217edd8a36390b0aab9df4102e650c3a5fb215c387a1"
    for table in (-1, codec.TABLES):
        with pytest.raises(ValueError, match="table must be a whole number from 0 to 63"):
            codec.distribution(table)


@pytest.mark.parametrize("table", [0, 17, 40, 63])
def test_the_range_coder_needs_no_more_than_exact_float32_arithmetic(table):
    """Its integer probabilities follow from the pinned float32 by sums and products, which IEEE 754 rounds alike everywhere."""
    import constriction

    shares = codec.distribution(table).astype(np.float32)
    before = np.concatenate([np.zeros(1, np.float32), np.cumsum(shares, dtype=np.float32)])
    scale = np.float32(2**24 - len(shares)) / before[-1]
    expected = (before[:-1] * scale).astype(np.int64) + np.arange(len(shares))
    for symbol in (0, 1, 900, 1022, 1023, 1024, 1500, 2046):
        encoder = constriction.stream.queue.RangeEncoder()
        encoder.encode(np.array([symbol], np.int32), codec._coder(table))
        lower, size = encoder.pos()[1]
        share = (2**64 - 1) >> 24
        until = expected[symbol + 1] if symbol + 1 < len(shares) else 2**24
        assert (lower // share, size // share) == (expected[symbol], until - expected[symbol])


def test_the_bytes_are_the_same_on_every_machine(monkeypatch):
    """Written bytes are pinned, and no exponential or logarithm of the machine's is asked for them."""
    for cached in (codec.distribution, codec._coder):
        cached.cache_clear()
    for module, names in ((np, ("exp", "expm1", "exp2", "log", "log2", "power", "float_power")), (math, ("exp", "log", "pow"))):
        for name in names:
            monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("a transcendental function of the machine"))
    tables = np.arange(codec.TABLES)
    symbols = (np.arange(30)[:, None] * (tables**3 + 7) % 2047 - 1023) // (1 + np.arange(30)[:, None] * 50)
    content = codec.encode_symbols(symbols, tables)
    np.testing.assert_array_equal(codec.decode_symbols(content, 30, tables), symbols)
    assert hashlib.sha256(content).hexdigest()[:16] == "a1c76e4223d68786"


@pytest.mark.parametrize(
    ("name", "fingerprint"), [("default", "3c3af921c7453f15"), ("coarse", "c788e627759e2130"), ("fine", "a1406a2d14dfce62")]
)
def test_released_codecs_have_the_fingerprints_of_the_files_that_they_wrote(name, fingerprint):
    assert codec.load_codec(name).fingerprint.hex() == fingerprint


def test_images_by_themselves_cost_little_more_than_together():
    symbols = np.rint(np.random.default_rng(2).laplace(0, 2.0, (50, 100))).astype(int)
    tables = codec.choose_tables(symbols)
    alone = codec.image_bytes(symbols, tables)
    assert alone.shape == (50,) and 0 <= alone.sum() - len(codec.encode_symbols(symbols, tables)) <= 50 * 4


@pytest.mark.parametrize("symbols", [np.zeros((2, 3)), np.zeros(3, int), np.full((2, 3), 1024)])
def test_other_numbers_are_refused(symbols):
    for function in (codec.choose_tables, lambda it: codec.encode_symbols(it, [0, 0, 0])):
        with pytest.raises(ValueError, match=r"whole numbers \(n, latent\) from -1023 to 1023, got"):
            function(symbols)


def test_without_the_range_coder_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(ImportError, match="pip install constriction"):
        codec.encode_symbols(np.zeros((1, 3), int), [0, 0, 0])


# --- pictures to files ----------------------------------------------------------------------------------------------------


def test_decoding_gives_what_the_model_gives(made_codec, sample):
    images = sample.test_images[:20]
    through = made_codec.decode(made_codec.encode(images))
    expected = np.rint(made_codec.model.predict(images / np.float32(255), verbose=0).clip(0, 1) * 255)
    assert np.abs(through - expected).max() <= 1
    assert metrics.evaluate(images, through)["psnr"] > 25


@pytest.mark.parametrize("size", [(32, 32), (45, 70), (1, 1), (64, 31)])
def test_a_picture_of_any_size_comes_back(made_codec, size):
    image = picture(*size)
    content = made_codec.compress(image)
    again = made_codec.decompress(content)
    assert again.shape == image.shape and again.dtype == np.uint8
    assert np.abs(again.astype(int) - image).mean() < 12
    np.testing.assert_array_equal(made_codec.decompress(made_codec.compress(image)), again)


def test_a_file_of_other_weights_is_refused(made_codec, sample):
    other = codec.fit_codec(compression.compressor(**ARGUMENTS | {"step": 0.5}), sample.train_images[:300])
    assert other.fingerprint != made_codec.fingerprint
    own, theirs = made_codec.fingerprint.hex(), other.fingerprint.hex()
    with pytest.raises(ValueError, match=f"other weights \\({own}\\); these are {theirs}"):
        other.decompress(made_codec.compress(picture()))


@pytest.mark.parametrize("size", [0, -3])
def test_no_changed_byte_and_no_cut_goes_unseen(made_codec, size):
    content = made_codec.compress(picture(40, 33), size)
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 + place % 255
        with pytest.raises(ValueError, match="not a compressed picture|damaged"):
            made_codec.decompress(bytes(changed))
        with pytest.raises(ValueError, match="not a compressed picture|damaged"):
            made_codec.decompress(content[:place])
    with pytest.raises(ValueError, match="damaged"):
        made_codec.decompress(content + b"x")


def test_random_bytes_never_crash(made_codec):
    random = np.random.default_rng(0)
    for length in (0, 3, 24, 25, 400):
        for start in (b"", codec.KIND, codec.SCALED_KIND):
            with pytest.raises(ValueError, match="not a compressed picture|damaged"):
                made_codec.decompress(start + random.bytes(length))


def test_numbers_nobody_encoded_are_no_crash_either(made_codec):
    """Even where the checksum is forged, what comes out is a picture, or is refused."""
    random, seen = np.random.default_rng(0), set()
    for length in [300, 1, 0] * 20:
        payload = random.bytes(length)
        content = codec._header(made_codec.kind(length % 7), made_codec.fingerprint, 40, 40, length % 7, payload) + payload
        try:
            seen.add(made_codec.decompress(content).shape)
        except ValueError as error:
            assert "the bytes say nothing" in str(error)
    assert seen == {(40, 40, 3)}
    for height, width in ((0, 5), (2**31, 2)):
        with pytest.raises(ValueError, match="pixels, from 1 to"):
            made_codec.decompress(codec._header(codec.KIND, made_codec.fingerprint, height, width, 0, payload) + payload)


def test_a_released_codec_is_the_same_again(made_codec, released):
    again = codec.load_codec("default")
    assert again.fingerprint == made_codec.fingerprint and again.card == {"task": "transform coding"}
    content = made_codec.compress(picture())
    np.testing.assert_array_equal(again.decompress(content), made_codec.decompress(content))
    with pytest.raises(ValueError, match="weights must be one of default; got 'magic'"):
        codec.load_codec("magic")
    described = released / "default.json"
    described.write_text(described.read_text().replace(made_codec.fingerprint.hex(), "0" * 16))
    with pytest.raises(ValueError, match="its tables are not those of the weights"):
        codec.load_codec("default")
    with pytest.raises(FileNotFoundError, match="there are no released weights in"):
        codec.load_codec("default", released / "nowhere")


def test_by_the_command_line(released, tmp_path, capsys):
    source, packed, target = (str(tmp_path / name) for name in ("in.png", "packed.laec", "out.png"))
    cv2.imwrite(source, picture()[..., ::-1])
    assert __main__.main(["compress", source, packed]) == 0
    assert __main__.main(["decompress", packed, target]) == 0
    out = capsys.readouterr().out
    assert "70 x 45 pixels" in out and "bits per pixel" in out
    assert cv2.imread(target).shape == (45, 70, 3)
    assert __main__.main(["decompress", source, str(tmp_path / "never.png")]) == 2
    assert "error: this is not a compressed picture" in capsys.readouterr().err
    assert not (tmp_path / "never.png").exists()
    assert __main__.main(["decompress", packed, str(tmp_path / "never.gif")]) == 2
    assert __main__.main(["decompress", str(tmp_path / "nothing"), target]) == 2
    cv2.imwrite(source, np.zeros((8, 8, 4), np.uint8))
    assert __main__.main(["compress", source, packed]) == 2
    assert "has an alpha channel, which `compress` cannot hold" in capsys.readouterr().err
    cv2.imwrite(source, np.zeros((16, 16), np.uint16))
    assert __main__.main(["compress", source, packed]) == 0
    assert "not kept in packed.laec: 16 bits a sample" in capsys.readouterr().err


DRAWN = (np.indices((20, 40)).sum(0)[..., None] * np.array([3, 2, 1]) % 256).astype(np.uint8)
# What `compress` wrote of it, with the weights `default`, by Keras on TensorFlow.
WRITTEN = bytes.fromhex(
    "4c4145433c3af921c7453f15000000140000002812af806c7ffe76ce0d3648ef882fec18b2903f923cec05f30589944b9837293c519138e64301a8e2d94307f1"
    "fa01bb3d51efc32ae404bd4478c1af74123802beb80371bc893707b42452"
)


# The same with steps 2^(3/4) times as large.
SCALED = bytes.fromhex(
    "4c4145323c3af921c7453f15000000140000002803c024654c7ffe36f25832a07c8ecc6de937819e4d491a7bd1857050706cb0273a6c99dc9234192a085139b6"
    "de472d"
)


@pytest.mark.backends
@pytest.mark.parametrize("engine", ["keras", "onnx"])
def test_a_file_with_larger_steps_decodes_to_the_same_symbols_whatever_computes(engine):
    if engine == "onnx":
        pytest.importorskip("onnxruntime")
    own = codec.load_codec("default", engine=engine)
    *_, size, payload = codec._checked_parts(SCALED)
    symbols = codec.decode_symbols(payload, 2, own.tables_of(size))
    found = hashlib.sha256(symbols.astype("<i4").tobytes()).hexdigest()
    assert size == 3 and found == "705a2cb89d323ffbb452b0d95767d77274e6577d32dc427b2f570c524b8573f3"
    psnr = [metrics.per_image(DRAWN[None], own.decompress(one)[None] / np.float32(255))["psnr"][0] for one in (WRITTEN, SCALED)]
    assert 20 < psnr[1] < psnr[0] and codec.written_with(SCALED) == "default"


@pytest.mark.backends
@pytest.mark.parametrize("engine", ["keras", "onnx"])
def test_a_file_of_before_decodes_to_the_same_symbols_whatever_computes(engine):
    if engine == "onnx":
        pytest.importorskip("onnxruntime")
    own = codec.load_codec("default", engine=engine)
    symbols = codec.decode_symbols(WRITTEN[codec.HEADER.size :], 2, own.tables)
    found = hashlib.sha256(symbols.astype("<i4").tobytes()).hexdigest()
    assert found == "32428b8806e49d71f62e05e626007b12a3b7ae7628f3c17a7969523fd242d693"
    made = own.decompress(WRITTEN)
    assert made.shape == DRAWN.shape and metrics.per_image(DRAWN[None], made[None] / np.float32(255))["psnr"][0] > 24


def test_a_file_names_its_weights_and_those_that_are_not_here_are_named(tmp_path, capsys):
    assert codec.written_with(WRITTEN) == "default"
    (tmp_path / "it.laec").write_bytes(WRITTEN)
    assert __main__.main(["decompress", str(tmp_path / "it.laec"), str(tmp_path / "it.png")]) == 0
    damaged = WRITTEN[:4] + bytes(8) + WRITTEN[12:]
    with pytest.raises(ValueError, match="damaged"):
        codec.written_with(damaged)
    payload = WRITTEN[codec.HEADER.size :]
    (tmp_path / "it.laec").write_bytes(codec._header(codec.KIND, bytes(8), 20, 40, 0, payload) + payload)
    assert __main__.main(["decompress", str(tmp_path / "it.laec"), str(tmp_path / "other.png")]) == 2
    told = capsys.readouterr().err
    assert "compressed with the weights 0000000000000000, which are not here; here are any_rate " in told
    assert ", coarse c788e627759e2130, default 3c3af9" in told
    assert not (tmp_path / "other.png").exists()


@pytest.mark.parametrize("size", [0, 5])
def test_ten_thousand_altered_files_decode_to_nothing(made_codec, size):
    """Bytes changed, added, left out, or moved; whatever still decodes must be what was written."""
    content, random = made_codec.compress(picture(), size), np.random.default_rng(0)
    whole, refused = made_codec.decompress(content), 0
    for _ in range(10_000):
        altered = bytearray(content)
        for _ in range(random.integers(1, 4)):
            place, way = random.integers(len(altered)), random.integers(4)
            if way == 0:
                altered[place] = random.integers(256)
            elif way == 1:
                del altered[place : place + random.integers(1, 9)]
            elif way == 2:
                altered[place:place] = random.bytes(random.integers(1, 9))
            else:
                altered[place:] = altered[place:][::-1]
            altered = altered or bytearray(1)
        try:
            made = made_codec.decompress(bytes(altered))
        except ValueError:
            refused += 1
        else:
            assert bytes(altered) == content and (made == whole).all()
    assert refused > 9_900


@pytest.mark.parametrize("size", [-8, -3, 2, 9, 24])
def test_steps_of_another_size_need_fewer_bytes_or_err_less(made_codec, sample, size):
    """As the same network of that step would, with the tables that it would have chosen."""
    images = sample.test_images[:60]
    other = codec.fit_codec(compression.compressor(**ARGUMENTS | {"step": 0.25 * 2 ** (size / 4)}), images)
    symbols = made_codec.encode(images, size)
    np.testing.assert_array_equal(symbols, other.encode(images))
    np.testing.assert_array_equal(made_codec.decode(symbols, size), other.decode(symbols))
    cost = [len(codec.encode_symbols(symbols, tables)) for tables in (made_codec.tables_of(size), other.tables, made_codec.tables)]
    assert cost[0] < 1.06 * cost[1] + 12 and (cost[2] > cost[0] or abs(size) < 4)
    np.testing.assert_array_equal(codec.decode_symbols(codec.encode_symbols(symbols, made_codec.tables_of(size)), 60,
                                                       made_codec.tables_of(size)), symbols)  # fmt: skip


def test_steps_of_a_size_that_is_not_allowed_are_refused(made_codec):
    for size in (-9, 25, 1.5, "2"):
        with pytest.raises(ValueError, match="size must be a whole number from -8 to 24, got"):
            made_codec.compress(picture(), size)
    payload = made_codec.compress(picture(), 1)[codec.SCALED.size :]
    for size in (-9, 25, 127):
        with pytest.raises(ValueError, match=f"steps of size {size}, which these weights do not write"):
            made_codec.decompress(codec._header(b"LAE2", made_codec.fingerprint, 45, 70, size, payload) + payload)
    with pytest.raises(ValueError, match="of the kind LAE3 with steps of size 1"):
        made_codec.decompress(codec._header(b"LAE3", made_codec.fingerprint, 45, 70, 1, payload) + payload)


def test_quality_chooses_weights_and_the_size_of_their_steps(tmp_path, monkeypatch):
    assert [codec.choose(quality) for quality in (0, 50, 100)] == [("photo", 34), ("photo", 18), ("photo", 2)]
    steps, released = {}, weights.released_dir("compress")
    for name in ("coarse", "default", "fine"):  # without those for any rate
        steps[name] = weights.describe_released(name, released)["arguments"]["step"]
        for suffix in (".json", ".weights.h5"):
            (tmp_path / f"{name}{suffix}").symlink_to(released / f"{name}{suffix}")
    monkeypatch.setattr(weights, "released_dir", lambda *_: tmp_path)
    chosen = [codec.choose(quality) for quality in range(101)]
    made = [steps[name] * 2 ** (size / 4) for name, size in chosen]
    assert made == sorted(made, reverse=True) and made[-1] == pytest.approx(0.1, rel=0.1) and made[0] == pytest.approx(3.2, rel=0.1)
    assert {name for name, _ in chosen} == set(steps) and min(size for _, size in chosen) == -4
    assert codec.choose(80) == ("fine", 0) and codec.choose(0, name="fine") == ("fine", 16)
    assert codec.choose(100, name="coarse") == ("coarse", -8)  # as far as its steps go
    for quality in (-1, 101, 50.5, None):
        with pytest.raises(ValueError, match="quality must be a whole number from 0 to 100"):
            codec.choose(quality)


def test_quality_and_bytes_by_the_command_line(tmp_path, capsys):
    source, packed, target = (str(tmp_path / name) for name in ("in.png", "packed.laec", "out.png"))
    image = pictures.photographs()["coffee"][100:196, 200:328]
    cv2.imwrite(source, image[..., ::-1])
    found = {}
    for quality in (0, 40, 85, 100):
        assert __main__.main(["compress", source, packed, "--quality", str(quality)]) == 0
        found[quality] = (tmp_path / "packed.laec").stat().st_size
        assert __main__.main(["decompress", packed, target]) == 0  # the file says which weights
        psnr = metrics.per_image(image[None], cv2.imread(target)[None, ..., ::-1])["psnr"][0]
        assert psnr > {0: 20, 40: 25, 85: 29, 100: 30}[quality]
    assert list(found.values()) == sorted(found.values()) and found[100] > 8 * found[0]
    most = found[40] + 3
    assert __main__.main(["compress", source, packed, "--bytes", str(most)]) == 0
    assert found[40] <= (tmp_path / "packed.laec").stat().st_size <= most
    assert __main__.main(["compress", source, packed, "--bytes", str(most), "--weights", "fine"]) == 0
    assert (tmp_path / "packed.laec").stat().st_size <= most
    assert codec.written_with((tmp_path / "packed.laec").read_bytes()) == "fine"
    before = (tmp_path / "packed.laec").read_bytes()
    with pytest.raises(FileNotFoundError, match="there are no released weights in"):
        codec.choose(50, tmp_path)
    capsys.readouterr()
    for options, message in (
        (["--bytes", "50"], f"at most 50 bytes are asked for, and quality 0 takes {found[0]}"),
        (["--bytes", "0"], "bytes must be a whole number from 1"),
        (["--quality", "101"], "quality must be a whole number from 0 to 100, got 101"),
        (["--quality", "5", "--bytes", "900"], "quality and bytes exclude each other, got 5 and 900"),
    ):
        assert __main__.main(["compress", source, packed, *options]) == 2
        assert message in capsys.readouterr().err and (tmp_path / "packed.laec").read_bytes() == before


def test_a_grey_picture_comes_back_grey_and_its_file_differs_in_one_bit(made_codec):
    grey = picture()[..., 0]
    content, coloured = made_codec.compress(grey), made_codec.compress(np.repeat(grey[..., None], 3, axis=2))
    assert [one ^ other for one, other in zip(content[12:20], coloured[12:20], strict=True)] == [128, 0, 0, 0, 0, 0, 0, 0]
    assert content[24:] == coloured[24:]
    again = made_codec.decompress(content)
    assert again.shape == grey.shape and again.dtype == np.uint8
    np.testing.assert_array_equal(again, np.rint(made_codec.decompress(coloured).mean(axis=2)))


@pytest.mark.parametrize("kind", ["jpeg", "sixteen bits"])
def test_a_grey_file_comes_back_grey(made_codec, tmp_path, kind):
    grey = picture()[..., 0]
    source = str(tmp_path / ("in.jpg" if kind == "jpeg" else "in.png"))
    cv2.imwrite(source, grey if kind == "jpeg" else grey.astype(np.uint16) * 257)
    lost = pytest.warns(pictures.PictureWarning, match="16 bits a sample") if kind == "sixteen bits" else contextlib.nullcontext()
    with lost:
        shape, _ = codec.compress_file(source, tmp_path / "it.laec", made_codec)
    assert shape == (45, 70) == codec.decompress_file(tmp_path / "it.laec", tmp_path / "out.png", made_codec)
    found = cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED)
    assert found.shape == grey.shape and np.abs(found.astype(int) - grey).mean() < 12


def test_through_standard_streams(released, tmp_path, monkeypatch, capsysbinary):
    cv2.imwrite(str(tmp_path / "in.png"), picture()[..., ::-1])
    content = (tmp_path / "in.png").read_bytes()
    for command in ("compress", "decompress"):
        monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))
        assert __main__.main([command, "-", "-"]) == 0
        content, said = capsysbinary.readouterr()
        assert b"-: 70 x 45 pixels" in said
    assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED).shape == (45, 70, 3)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("in.jpg", "in.jpg", "the suffix of the file to write must be one of .laec; got '.jpg'"),
        ("in.jpg", "it.jpg", "the suffix of the file to write must be one of .laec; got '.jpg'"),
        ("in.jpg", "nowhere/it.laec", "there is no folder"),
        ("cut.jpg", "it.laec", "error: cut.jpg is damaged"),
        ("in.png", "it.laec", "note: not kept in it.laec: gAMA\n"),
    ],
)
def test_what_compress_refuses_or_leaves_out_takes_one_line(released, tmp_path, capfd, source, target, message):
    content = cv2.imencode(".jpg", picture())[1].tobytes()
    (tmp_path / "in.jpg").write_bytes(content)
    (tmp_path / "cut.jpg").write_bytes(content[:-900] + content[-500:])
    png, chunk = cv2.imencode(".png", picture())[1].tobytes(), b"gAMA" + (100_000).to_bytes(4)
    (tmp_path / "in.png").write_bytes(png[:33] + (4).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4) + png[33:])
    code = __main__.main(["compress", str(tmp_path / source), str(tmp_path / target)])
    said = capfd.readouterr().err
    assert message in said and said.count("\n") == 1 and code == (0 if said.startswith("note") else 2)
    assert (tmp_path / "in.jpg").read_bytes() == content and (tmp_path / "it.laec").exists() == (code == 0)


def test_decompress_writes_a_jpeg_of_the_quality_that_is_asked_for(released, tmp_path):
    cv2.imwrite(str(tmp_path / "in.png"), picture()[..., ::-1])
    assert __main__.main(["compress", str(tmp_path / "in.png"), str(tmp_path / "it.laec")]) == 0
    sizes = []
    for quality in ("5", "95"):
        assert __main__.main(["decompress", str(tmp_path / "it.laec"), str(tmp_path / "it.jpg"), "--quality", quality]) == 0
        sizes.append((tmp_path / "it.jpg").stat().st_size)
    assert sizes[0] < 0.7 * sizes[1]
    assert __main__.main(["decompress", str(tmp_path / "it.laec"), str(tmp_path / "it.laec")]) == 2


def test_a_codec_leaves_the_cost_of_its_compressor(made_codec):
    """A codec makes two more graphs of the same layers, which are not the compressor's own."""
    model = compression.compressor(width=8)
    before = models.multiply_adds(model)
    for _ in range(2):
        codec.KerasCodec(model, np.zeros(768))
    assert models.multiply_adds(model) == before == 2_934_784


# --- what it is compared with ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", codec.FORMATS)
def test_image_formats_decode_and_count_their_bytes(suffix, sample):
    images = sample.test_images[:10]
    coarse, fine = (codec.image_format(images, suffix, quality) for quality in (10, 80))
    for decoded, whole, scan in (coarse, fine):
        assert decoded.shape == images.shape and (scan > 0).all() and (scan < whole).all()
    assert metrics.evaluate(images, coarse[0])["psnr"] < metrics.evaluate(images, fine[0])["psnr"] - 3
    assert coarse[2].mean() < fine[2].mean()
    if suffix == ".jpg":
        content = cv2.imencode(suffix, images[0][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80, cv2.IMWRITE_JPEG_OPTIMIZE, 1])[1]
        assert fine[1][0] == content.size
        assert content.tobytes()[codec._before_the_scan(content.tobytes()) - 3 :].startswith(b"\x00\x3f\x00")


def test_principal_components_are_orthogonal_and_the_best_few(sample):
    images = sample.train_images[:400, ::4, ::4]
    mean, components = compression.fit_pca(images)
    np.testing.assert_allclose(components @ components.T, np.eye(192), atol=1e-4)
    flat = images.reshape(400, -1) / 255 - mean
    kept = ((flat @ components.T) ** 2).sum(axis=0)
    assert (np.diff(kept) <= 1e-6).all()
    _, values, _ = np.linalg.svd(flat, full_matrices=False)
    np.testing.assert_allclose(kept[:50], values[:50] ** 2, rtol=1e-4)
    few = compression.fit_pca(images[:60])[1]
    assert few.shape == (59, 192)  # about their mean, sixty images differ in one direction less
    np.testing.assert_allclose(few @ few.T, np.eye(59), atol=1e-4)


# --- the compressor -------------------------------------------------------------------------------------------------------


def test_it_begins_as_transform_coding(sample):
    images = sample.test_images[:8] / np.float32(255)
    plain, learned = (compression.compressor(latent=500, step=0.3, width=width) for width in (0, 8))
    np.testing.assert_allclose(learned.predict(images, verbose=0), plain.predict(images, verbose=0), atol=1e-5)


def test_it_begins_as_principal_components(sample):
    mean, components = compression.fit_pca(sample.train_images[:400])
    images = sample.test_images[:8] / np.float32(255)
    flat = images.reshape(8, -1) - mean
    model = compression.compressor(latent=60, step=0.02, width=4, transform="components")
    compression.start_from_components(model, mean, components)
    expected = (flat @ components[:60].T @ components[:60] + mean).reshape(images.shape)
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=0.05)
    assert not model.get_layer("latent").trainable_weights and not model.get_layer("from_latent").trainable_weights
    made_codec = codec.fit_codec(model, sample.train_images[:50])
    restored = made_codec.decompress(made_codec.compress(sample.test_images[0]))
    assert np.square(restored / 255 - expected[0]).mean() < 1e-4
    with pytest.raises(ValueError, match=r'transform is "cosine"'):
        compression.start_from_components(compression.compressor(latent=60, width=0), mean, components)
    with pytest.raises(ValueError, match=r"needs 60 components of 3072 values each, got an array of shape \(59, 3072\)"):
        compression.start_from_components(model, mean, components[:59])


def test_all_numbers_and_a_fine_step_give_the_image_back(sample):
    images = sample.test_images[:4] / np.float32(255)
    model = compression.compressor(latent=3072, step=1e-3, width=0)
    np.testing.assert_allclose(model.predict(images, verbose=0), images, atol=2e-3)


def test_an_error_in_the_latent_is_as_large_in_the_image(sample):
    images = sample.test_images[:4] / np.float32(255)
    latent = compression.compressor(latent=3072, width=0).get_layer("latent")
    energy = np.square(keras.ops.convert_to_numpy(latent(images))).sum(axis=1)
    np.testing.assert_allclose(energy, np.square(images - 0.5).sum(axis=(1, 2, 3)), rtol=1e-5)


def test_the_loss_holds_the_rate(sample):
    """In training the bits are added to the loss, and are what the learned widths promise."""
    keras.utils.set_random_seed(0)
    images = sample.train_images[:64] / np.float32(255)
    model = compression.compressor(latent=300, step=0.25, width=0, rate=1e-5)
    model.compile(keras.optimizers.SGD(0.0), loss="mse")
    with_rate = model.train_on_batch(images, images)
    model.get_layer("quantize").rate = 0.0
    assert model.get_layer("quantize").get_config()["rate"] == 0.0
    model.compile(keras.optimizers.SGD(0.0), loss="mse")
    bits = (with_rate - model.train_on_batch(images, images)) / 1e-5
    layer = model.get_layer("quantize")
    steps = keras.ops.convert_to_tensor(np.rint(model.get_layer("latent")(images) * layer.gain()).astype(np.float32))
    promised = keras.ops.convert_to_numpy(layer._bits(steps)).sum(axis=1).mean()
    assert bits == pytest.approx(promised, rel=0.1) and promised > 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent": 0}, "latent must be a whole number from 1"),
        ({"latent": 3073}, "latent must be a whole number from 1 to 3072, got 3073"),
        ({"step": 0}, "step must be a number above 0 up to 64, got 0"),
        ({"width": -2}, "width must be a whole number from 0 to 4096"),
        ({"width": 7}, "width must be a multiple of 2, got 7"),
        ({"image_shape": (31, 32, 3)}, "multiples of 2"),
        ({"transform": "sine"}, "transform must be"),
        ({"rate": -3.0}, "rate must be a number from 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        compression.compressor(**arguments)


def test_lines_and_points_are_where_they_belong():
    lines = {"JPEG": ([0.5, 1.0], [25.0, 27.0], [0.7, 0.8]), "WebP": ([0.6], [26.0], [0.75])}
    figure = compression.rate_distortion(lines, "title")
    assert [[line.get_xydata().tolist() for line in axis.get_lines()] for axis in figure.axes] == [
        [[[0.5, 25.0], [1.0, 27.0]], [[0.6, 26.0]]], [[[0.5, 0.7], [1.0, 0.8]], [[0.6, 0.75]]]
    ]  # fmt: skip
