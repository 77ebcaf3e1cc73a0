"""The page and the book in real headless Chromium, OpenVINO, and a base installation from scratch: `make test-web`."""

import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from lstm_ae_lib import __main__, degradations, pictures, restoring, weights
from lstm_ae_lib.study import book, page

pytestmark = pytest.mark.web
ROOT = Path(__file__).resolve().parent.parent
SECONDS = 120  # for a picture, on a machine that does something else too
DONE = "#result:not([hidden]), #message:not([hidden])"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("web") / "page"
    assert page.write_page(made)[0] == "photo"
    return made


@pytest.fixture(scope="module")
def address(folder):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.func.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "the page is tested in Chromium: on Debian, apt-get install chromium"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, address):
    """A page that is ready; what it says in the console fails the test."""
    tab, errors = chromium.new_page(viewport={"width": 1000, "height": 900}), []
    tab.set_default_timeout(1000 * SECONDS)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.goto(address)
    tab.wait_for_selector("body[data-ready]")
    yield tab
    tab.close()
    assert not errors


def picture(tmp_path, name="in.png", height=90, width=130, **options):
    path = tmp_path / name
    PIL.Image.fromarray(pictures.photographs()["coffee"][60 : 60 + height, 60 : 60 + width]).save(path, **options)
    return path


def drop(tab, *paths):
    """Drops files, one after the other at once."""
    kinds = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp", ".txt": "text/plain"}
    contents = [[list(path.read_bytes()), path.name, kinds[path.suffix]] for path in paths]
    tab.evaluate("""contents => {
        for (const [bytes, name, type] of contents) {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], name, { type }));
            dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
        }
    }""", contents)  # fmt: skip


def downloaded(tab, tmp_path):
    with tab.expect_download() as found:
        tab.click("#download")
    found.value.save_as(tmp_path / "downloaded.png")
    return found.value.suggested_filename, np.asarray(PIL.Image.open(tmp_path / "downloaded.png"))


@pytest.mark.parametrize(("name", "weights"), [("in.png", "photo"), ("in.jpg", "photo"), ("in.png", "gauss2")])
def test_a_picture_comes_out_as_from_the_command_line_and_goes_nowhere_else(opened, address, tmp_path, name, weights):
    """A picture of several tiles, and of an odd size."""
    asked = []
    opened.on("request", lambda request: asked.append(request.url))
    source = picture(tmp_path, name, 101, 523)
    if weights == "gauss2":  # of a picture that was not blurred so, an inverse filter makes noise out of roundings
        pictures.write(source, degradations.degrade(pictures.read(source)[None], weights)[0])
    opened.select_option("#weights", weights)
    drop(opened, source)
    opened.wait_for_selector(DONE)
    assert "523 x 101 pixels, restored in" in opened.inner_text("#status") and opened.is_hidden("#message")
    suggested, found = downloaded(opened, tmp_path)
    assert suggested == "in-restored.png"
    assert __main__.main(["restore", str(source), str(tmp_path / "out.png"), "--weights", weights, "--quiet"]) == 0
    assert np.abs(found[..., :3].astype(int) - pictures.read(tmp_path / "out.png")).max() <= 1
    assert any(f"models/{weights}.onnx" in url for url in asked)
    assert all(url.startswith((address, f"blob:{address}")) for url in asked)


def test_the_policy_forbids_to_ask_another_server(chromium, address):
    tab = chromium.new_page()
    tab.goto(address)
    tab.wait_for_selector("body[data-ready]")
    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    answer = tab.evaluate(f"fetch('http://127.0.0.1:{other.server_port}/', {{mode: 'no-cors'}}).then(() => 'sent', String)")
    assert answer == "TypeError: Failed to fetch"
    other.server_close()
    tab.close()


def test_the_sample_by_keyboard_on_a_telephone(opened):
    opened.set_viewport_size({"width": 360, "height": 700})
    opened.focus("#sample")
    opened.keyboard.press("Enter")
    opened.wait_for_selector(DONE)
    assert opened.inner_text("#status").startswith("sample.png: 288 x 288 pixels, restored in")
    assert opened.evaluate("document.documentElement.scrollWidth") <= 360
    opened.focus("#slider")
    before = opened.evaluate("document.getElementById('after').style.clipPath")
    opened.keyboard.press("ArrowRight")
    assert opened.evaluate("document.getElementById('after').style.clipPath") == "inset(0px 0px 0px 51%)" != before
    reached = set()
    opened.evaluate("document.activeElement.blur()")
    for _ in range(8):
        opened.keyboard.press("Tab")
        reached.add(opened.evaluate("document.activeElement.id"))
    assert {"file", "sample", "weights", "slider", "download"} <= reached


def test_another_choice_of_weights_restores_the_same_picture_again(opened, tmp_path):
    opened.click("#sample")
    opened.wait_for_selector(DONE)
    _, first = downloaded(opened, tmp_path)
    opened.select_option("#weights", "awgn")
    opened.wait_for_selector("#result[hidden]", state="attached")
    opened.wait_for_selector(DONE)
    assert opened.inner_text("#task").startswith("For Gaussian noise of 0 to 55/255")
    assert (downloaded(opened, tmp_path)[1] != first).any()


def test_a_picture_is_turned_as_its_camera_says(opened, tmp_path):
    exif = PIL.Image.Exif()
    exif[0x112] = 6  # orientation: a quarter turn
    drop(opened, picture(tmp_path, "turned.jpg", exif=exif))
    opened.wait_for_selector(DONE)
    assert "90 x 130 pixels" in opened.inner_text("#status")


def test_what_is_no_picture_is_told(opened, tmp_path):
    files = {"text.png": b"no picture", "empty.png": b"", "page.txt": b"hello"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in ("half.png", "half.jpg"):
        whole = picture(tmp_path, name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    PIL.Image.new("RGB", (1, 1)).save(tmp_path / "one.png")
    PIL.Image.new("L", (10000, 10000)).save(tmp_path / "huge.png")
    for name, told in {
        "text.png": "cannot be read: it is damaged, or not a PNG, JPEG or WebP picture.",
        "empty.png": "cannot be read: it is damaged, or not a PNG, JPEG or WebP picture.",
        "page.txt": "is not a PNG, JPEG or WebP picture.", "half.png": "is damaged: it cannot be decoded.",
        "half.jpg": "is damaged: it cannot be decoded.",
        "one.png": "is too small: 1 x 1 pixels, at least 2 x 2 are needed.",
        "huge.png": "is too large: 10000 x 10000 pixels, at most 24 megapixels are allowed.",
    }.items():  # fmt: skip
        drop(opened, tmp_path / name)
        opened.get_by_text(f"{name} {told}", exact=True).wait_for()
    drop(opened, picture(tmp_path))
    opened.wait_for_selector("#result:not([hidden])")
    assert opened.is_hidden("#message")


def test_a_very_wide_picture_is_restored(opened, tmp_path):
    path = tmp_path / "wide.png"
    PIL.Image.fromarray(np.tile(pictures.photographs()["coffee"][:10, :500], (1, 20, 1))).save(path)
    drop(opened, path)
    opened.wait_for_selector(DONE)
    assert "10000 x 10 pixels" in opened.inner_text("#status")


def test_of_two_pictures_dropped_at_once_the_last_is_restored(opened, tmp_path):
    drop(opened, picture(tmp_path, "first.png", 300, 400), picture(tmp_path, "last.png"))
    opened.wait_for_selector(DONE)
    assert opened.inner_text("#status").startswith("last.png: 130 x 90 pixels")
    time.sleep(1)
    assert opened.inner_text("#status").startswith("last.png")


def test_a_picture_can_be_cancelled(opened, tmp_path):
    large = tmp_path / "large.png"
    PIL.Image.fromarray(np.tile(pictures.photographs()["coffee"], (3, 3, 1))).save(large)
    drop(opened, large)
    opened.locator("#status", has_text="Tile").wait_for()
    opened.click("#cancel")
    assert opened.inner_text("#status") == "Cancelled." and opened.is_hidden("#working") and opened.is_hidden("#result")
    opened.click("#sample")
    opened.wait_for_selector("#result:not([hidden])")


def test_a_lost_worker_and_a_damaged_network_are_told(chromium, address, folder):
    tab = chromium.new_page()
    tab.set_default_timeout(1000 * SECONDS)
    damaged = bytearray((folder / "models/photo.onnx").read_bytes())
    damaged[5000] ^= 1
    tab.route("**/worker.js", lambda route: route.abort())
    tab.goto(address)
    tab.wait_for_selector("body[data-ready]")
    tab.click("#sample")
    tab.wait_for_selector("#message:not([hidden])")
    assert tab.inner_text("#message").startswith("The worker stopped, perhaps for want of memory.")
    tab.unroute("**/worker.js")
    tab.route("**/models/photo.onnx", lambda route: route.fulfill(body=bytes(damaged)))
    tab.click("#sample")
    tab.locator("#message", has_text="is damaged: its SHA-256").wait_for()
    tab.unroute("**/models/photo.onnx")
    tab.click("#sample")
    tab.wait_for_selector("#result:not([hidden])")
    assert tab.is_hidden("#message")
    tab.close()


def test_a_browser_without_simd_is_told(chromium, address):
    tab = chromium.new_page()
    tab.add_init_script("WebAssembly.validate = () => false")
    tab.goto(address)
    tab.wait_for_selector("#message:not([hidden])")
    assert tab.inner_text("#message").startswith("This page needs a browser with WebAssembly SIMD")
    tab.close()


def test_a_page_without_its_runtime_or_its_folder_is_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="target must be a folder, got"):
        page.write_page(tmp_path / "file")
    with pytest.raises(ValueError, match="is damaged, or not onnxruntime-web@"):
        page.write_page(tmp_path / "page", tmp_path / "file")
    monkeypatch.setenv("LSTM_AE_DATA", str(tmp_path))
    monkeypatch.setattr(page.shutil, "which", lambda name: None)
    assert __main__.main(["page", str(tmp_path / "page")]) == 2
    assert "ONNX Runtime Web is missing, and so is the command npm" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


def test_the_book_is_whole_and_asks_no_other_server(chromium, tmp_path):
    """Its builder fails on any warning, such as a link to nothing."""
    book.write_book(tmp_path / "book")
    tab, asked = chromium.new_page(viewport={"width": 390, "height": 800}), []
    tab.on("request", lambda request: asked.append(request.url))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "book")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}/"
        for name in ("index", "README", "notebooks/02_train_autoencoder", "notebooks/11_remove_noise", "api/layers"):
            tab.goto(f"{root}{name}.html")
            assert tab.evaluate("document.documentElement.scrollWidth") <= 390, name
        assert tab.locator("math").count() == 0 and "GatedScan" in tab.inner_text("article")
        tab.goto(f"{root}search.html?q=bootstrap")
        tab.locator("#search-results li").first.wait_for()
        tab.goto(f"{root}restore.html")
        tab.get_by_role("link", name="open the page").click()
        tab.wait_for_selector("body[data-ready]")
        tab.close()
        server.shutdown()
    assert all(url.startswith((root, "data:")) for url in asked)


@pytest.mark.parametrize("name", weights.released())
def test_openvino_restores_from_the_same_file(name, sample):
    import openvino

    restorer, core = restoring.load_restorer(name, engine="onnx"), openvino.Core()
    network = core.compile_model(
        core.read_model(weights.released_dir() / f"{name}.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    photographs = [pictures.photographs()["astronaut"][None, :136, 40:152]] if name in ("photo", "reference") else []
    for clean in (sample.test_images[:100], *photographs):
        degraded = degradations.as_float(degradations.degrade(clean, restorer.card["protocol"]))
        found = np.clip(network(degraded)[0], 0, 1)
        assert np.abs(found - restorer(degraded)).max() < 1e-4


def test_a_base_installation_from_scratch(tmp_path):
    """As a user installs it, not from the checkout: what it restores with is in the package."""
    python = tmp_path / "base" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "base"], check=True)
    started = time.monotonic()
    shutil.copytree(ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(".*", "raw", "runs", "build", "*.egg-info"))
    subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", tmp_path / "source"], check=True)
    print(f"installed in {time.monotonic() - started:.0f} s")
    listed = subprocess.run([python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True, text=True)
    assert not {"tensorflow", "keras", "scipy", "opencv-python"} & {one["name"] for one in json.loads(listed.stdout)}
    size = sum(file.stat().st_size for file in (tmp_path / "base").rglob("*") if file.is_file() and not file.is_symlink())
    print(f"{size / 1e6:.0f} MB, pip and setuptools with it")
    assert size <= 250e6
    source = picture(tmp_path)
    for arguments in (["restore", "in.png", "out.png"], ["compress", "in.png", "out.laec"], ["decompress", "out.laec", "back.png"]):
        started = time.monotonic()
        done = subprocess.run([python, "-m", "lstm_ae_lib", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and not done.stderr, done.stderr
        print(f"{arguments[0]}: {time.monotonic() - started:.1f} s")
    assert __main__.main(["restore", str(source), str(tmp_path / "own.png"), "--engine", "keras", "--quiet"]) == 0
    restored, own = (pictures.read(tmp_path / name).astype(int) for name in ("out.png", "own.png"))
    assert np.abs(restored - own).max() <= 1
