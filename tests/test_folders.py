"""Folders of pictures: mirrored, resumed, and restored alike by this process and by the workers of a Dask cluster."""

import json
import shutil
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from lstm_ae_lib import __main__, files, pictures, restoring, weights
from lstm_ae_lib.study import folders

QUIET = {"quiet": True}


@pytest.fixture
def source(tmp_path):
    """Four pictures in two folders, one that is none, one that is hidden."""
    folder, photograph = tmp_path / "in", pictures.photographs()["coffee"]
    for place, name in enumerate(("a.png", "b.jpg", "deep/c.PNG", "deep/er/d.jpeg", ".hidden/e.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pictures.write(folder / name, photograph[40 * place : 40 * place + 40, :56])
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:300])
    (folder / "notes.txt").write_text("no picture")
    return folder


NAMES = {"a.png", "b.jpg", "deep/c.PNG", "deep/er/d.jpeg"}


def written(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_tree_is_mirrored_and_a_failure_takes_one_line(source, tmp_path, capsys):
    target = tmp_path / "new" / "out"
    assert __main__.main(["restore", str(source), str(target), "--weights", "noisy", "--quiet"]) == 1
    said = capsys.readouterr()
    assert "4 restored in" in said.out and "0 done before" in said.out
    lines = [line for line in said.err.splitlines() if not line.startswith("note: ")]
    assert lines == [
        "failed: broken.png: the picture is damaged: it is cut off, or a checksum is wrong",
        "error: 1 pictures failed: broken.png",
    ]
    assert set(written(target)) == NAMES | {folders.JOURNAL}
    expected = restoring.restore(pictures.read(source / "a.png"), "noisy")
    np.testing.assert_array_equal(pictures.read(target / "a.png"), expected)


def test_what_is_finished_is_left_and_what_has_changed_is_made_again(source, tmp_path):
    target = tmp_path / "out"

    def restore(**options):
        done = folders.restore_folder(source, target, "noisy", **QUIET | options)
        return done["restored"], done["skipped"], list(done["failed"])

    assert restore() == (4, 0, ["broken.png"])
    assert restore() == (0, 4, ["broken.png"])
    shutil.copy(source / "deep/c.PNG", source / "broken.png")  # mended
    (target / "b.jpg").unlink()
    assert restore() == (2, 3, [])
    assert restore(strength=0.5) == (5, 0, []) and restore(strength=0.5) == (0, 5, [])
    journal = (target / folders.JOURNAL).read_text()
    assert {json.loads(line)["name"] for line in journal.splitlines()} == NAMES | {"broken.png"}
    (target / folders.JOURNAL).write_text(journal[:-20])  # as a process that was killed leaves it
    assert restore(strength=0.5) == (1, 4, []) and restore(strength=0.5, ensemble=1) == (0, 5, [])
    assert restore(strength=0.5, ensemble=2) == (5, 0, []) and restore(strength=0.5, ensemble=2) == (0, 5, [])


def test_two_workers_do_what_one_process_does(source, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    alone = folders.restore_folder(source, first, "noisy", **QUIET)
    together = folders.restore_folder(source, second, "noisy", workers=2, **QUIET)
    assert {key: alone[key] for key in ("restored", "failed")} == {key: together[key] for key in ("restored", "failed")}
    one, two = written(first), written(second)
    assert {name: one[name] for name in NAMES} == {name: two[name] for name in NAMES}


def test_the_death_of_a_worker_costs_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    photograph = pictures.photographs()["coffee"]
    for place in range(30):
        pictures.write(tmp_path / "in" / f"{place:02}.png", photograph[place : place + 128, :160])
    command = [sys.executable, "-m", "lstm_ae_lib", "restore", "in", "out", "--workers", "2", "--quiet"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list((tmp_path / "out").glob("*.png")):
            time.sleep(0.02)
        own = psutil.Process(process.pid).children(recursive=True)
        workers = [one for one in own if "spawn_main" in " ".join(one.cmdline())]
        assert len(workers) == 2, [one.cmdline() for one in own]
        workers[0].kill()
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "30 restored in" in out, err
    assert len(list((tmp_path / "out").glob("*.png"))) == 30 and not list((tmp_path / "out").glob(".tmp-*"))


def test_a_worker_with_other_weights_is_refused(source):
    content = (source / "a.png").read_bytes()
    own = weights.describe_released("noisy")["sha256"]
    made, notes = folders.restore_content(content, ".png", "noisy", own, {"engine": "onnx"})
    assert made.startswith(b"\x89PNG") and isinstance(notes, list)
    with pytest.raises(RuntimeError, match="this worker's weights noisy are others than the caller's; it has lstm_ae_lib 0"):
        folders.restore_content(content, ".png", "noisy", "0" * 64, {})


def test_bad_arguments_are_refused_before_anything_is_written(source, tmp_path, monkeypatch, capsys):
    empty, target = tmp_path / "empty", tmp_path / "out"
    empty.mkdir()
    for arguments, options, message in (
        ((source, target, "x"), {}, "weights must be one of awgn, "),
        ((tmp_path / "nowhere", target), {}, "there is no folder"),
        ((source, source / "a.png"), {}, "target must be a folder, as the source is"),
        ((source, source / "out"), {}, "one of the folders lies in the other"),
        ((source / "deep", source), {}, "one of the folders lies in the other"),
        ((source, source), {}, "one of the folders lies in the other"),
        ((empty, target), {}, "there is no picture"),
        ((source, target), {"workers": -1}, "workers must be a whole number from 0 to 1024, got -1"),
        ((source, target), {"quality": 0}, "quality must be a whole number from 1 to 100, got 0"),
        ((source, target), {"strength": 2.0}, "strength must be a number from 0 to 1, got 2.0"),
        ((source, target), {"ensemble": 3}, "ensemble must be one of 1, 2, 4, 8; got 3"),
        ((source, target), {"strict": "no"}, "strict must be one of True, False; got 'no'"),
        ((source, target), {"workers": 2, "scheduler": "tcp://host:1"}, "workers and scheduler exclude each other"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            folders.restore_folder(*arguments, **QUIET, **options)
    assert __main__.main(["restore", str(source), str(target), "--map", "map.png"]) == 2
    assert "map is of one picture, not of a folder" in capsys.readouterr().err
    assert not target.exists()
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"several workers need Dask: pip install 'lstm_ae_lib\[scale\]'"):
        folders.restore_folder(source, target, workers=2, **QUIET)


def test_links_in_the_target_do_not_lead_back_to_the_source(source, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "a.png").symlink_to(source / "a.png")
    (target / "deep").symlink_to(source / "deep")
    before = written(source)
    done = folders.restore_folder(source, target, "noisy", **QUIET)
    assert done["restored"] == 1 and set(done["failed"]) == {"a.png", "deep/c.PNG", "deep/er/d.jpeg", "broken.png"}
    assert "is a link to what is read: restore to another folder" in done["failed"]["a.png"]
    assert written(source) == before
    elsewhere = tmp_path / "elsewhere.png"
    (source / "a.png").rename(elsewhere)
    for folder in (source, target):
        (folder / "a.png").unlink(missing_ok=True)
        (folder / "a.png").symlink_to(elsewhere)
    done = folders.restore_folder(source, target, "noisy", **QUIET)
    assert "is a link to what is read" in done["failed"]["a.png"] and elsewhere.read_bytes() == before["a.png"]


def test_what_was_emptied_is_made_again_and_a_journal_of_other_bytes_is_none(source, tmp_path):
    target = tmp_path / "out"
    folders.restore_folder(source, target, "noisy", **QUIET)
    whole = (target / "a.png").read_bytes()
    (target / "a.png").write_bytes(b"")
    assert folders.restore_folder(source, target, "noisy", **QUIET)["restored"] == 1 and (target / "a.png").read_bytes() == whole
    (target / folders.JOURNAL).write_bytes(b"\xff\xfe\n")
    assert folders.restore_folder(source, target, "noisy", **QUIET)["restored"] == 4


def test_what_cannot_be_read_takes_no_place_beside_workers(source, tmp_path, monkeypatch):
    """More than may be in flight come first; the others still follow."""
    for place in range(folders.IN_FLIGHT + 2):
        (source / f"0{place}.png").write_bytes(b"")
    real = folders.Path.read_bytes

    def read(path):
        if path.name[0] == "0":
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(folders.Path, "read_bytes", read)
    done = folders.restore_folder(source, tmp_path / "out", "noisy", workers=1, **QUIET)
    assert done["restored"] == 4 and len(done["failed"]) == folders.IN_FLIGHT + 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["SOURCE", "-"], "the pictures of a folder go to a folder, got -"),
        (["SOURCE", "OUT.png"], "target must be a folder, as the source is, got"),
        (["", "OUT"], "the picture to read must have a name, got an empty one"),
        (["SOURCE/a.png", "OUT", "--workers", "2"], "workers and scheduler are for a folder of pictures, got the file"),
        (["NOWHERE", "OUT", "--workers", "2"], "there is no file"),
    ],
)
def test_the_command_refuses_what_is_meant_otherwise(source, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    words = [word.replace("SOURCE", str(source)).replace("OUT", str(tmp_path / "out")) for word in words]
    assert __main__.main(["restore", *words, "--quiet"]) in (1, 2)
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_picture_that_cannot_be_written_is_one_failure(source, tmp_path, monkeypatch):
    write = files.write

    def full(path, content):
        if path.name == "b.jpg":
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(files, "write", full)
    done = folders.restore_folder(source, tmp_path / "out", "noisy", **QUIET)
    assert done["restored"] == 3 and set(done["failed"]) == {"b.jpg", "broken.png"}
    assert "No space left on device" in done["failed"]["b.jpg"]
    monkeypatch.undo()
    assert folders.restore_folder(source, tmp_path / "out", "noisy", **QUIET)["restored"] == 1
