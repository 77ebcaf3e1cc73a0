import io
import os
import stat
import types

import pytest

from lstm_ae_lib import files


def test_the_new_content_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "folder" / "value.json"
    for value in ({"a": 1}, {"a": [2.5, None]}):
        files.write_json(path, value)
        assert files.read_json(path) == value
    assert [entry.name for entry in path.parent.iterdir()] == ["value.json"]


def test_a_failure_leaves_the_old_content_and_no_litter(tmp_path):
    path = tmp_path / "value.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half-way"), files.replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError("half-way")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["value.txt"]


def test_the_file_can_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_json(tmp_path / "value.json", 1)
    finally:
        os.umask(before)
    assert (tmp_path / "value.json").stat().st_mode & 0o777 == 0o640


def test_nan_is_refused_and_the_old_file_stays(tmp_path):
    files.write_json(tmp_path / "value.json", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "value.json", float("nan"))
    assert files.read_json(tmp_path / "value.json") == 1


def test_damaged_json_names_the_file(tmp_path):
    (tmp_path / "value.json").write_text("{")
    with pytest.raises(ValueError, match="value.json is not valid JSON"):
        files.read_json(tmp_path / "value.json")


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write value.json"):
        files.write_json(tmp_path / "file" / "value.json", 1)


def test_the_umask_of_other_threads_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", None)
    files.write_json(tmp_path / "value.json", 1)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755])
def test_a_file_keeps_its_mode(tmp_path, mode):
    path = tmp_path / "value.json"
    path.write_text("old")
    path.chmod(mode)
    files.write_json(path, 1)
    assert path.stat().st_mode & 0o777 == mode and files.read_json(path) == 1


def test_a_read_only_file_stays(tmp_path):
    path = tmp_path / "value.json"
    path.write_text("old")
    path.chmod(0o444)
    with pytest.raises(PermissionError, match="cannot write .*value.json: it is read-only"):
        files.write_json(path, 1)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_pipe_or_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OSError, match="it is a pipe or a device, no file"):
            files.write(tmp_path / name, b"x")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    with pytest.raises(OSError, match="it is a pipe or a device, no file"):
        files.check_writable(os.devnull)


@pytest.mark.parametrize("name", ["n" * 251 + ".png", "ä" * 120 + ".json"])
def test_a_name_as_long_as_a_name_can_be(tmp_path, name):
    files.write(tmp_path / name, b"x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    target, link, dangling = tmp_path / "there" / "target.json", tmp_path / "link.json", tmp_path / "dangling.json"
    target.write_text("old")
    link.symlink_to("there/target.json")
    dangling.symlink_to("there/new.json")
    for path in (link, dangling):
        files.write_json(path, 1)
        assert path.is_symlink() and files.read_json(path) == 1
    assert files.read_json(target) == 1
    assert sorted(path.name for path in target.parent.iterdir()) == ["new.json", "target.json"]


def test_bytes_pipes_and_standard_streams(tmp_path, monkeypatch, capsysbinary):
    content = bytes(range(256)) * 1000
    assert files.read(content) == content
    files.write(tmp_path / "a", content)
    assert files.read(tmp_path / "a") == content
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))
    assert files.read("-") == content
    files.write("-", content)
    assert capsysbinary.readouterr().out == content
    reading, writing = os.pipe()
    os.write(writing, content[:1000])
    os.close(writing)
    assert files.read(f"/dev/fd/{reading}") == content[:1000]
    os.close(reading)
    for missing in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            files.read(missing)
