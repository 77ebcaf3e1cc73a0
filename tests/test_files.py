import os

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
