"""What is written appears whole, or not at all."""

import pytest

from focallm.tokenizer.files import whole_file, whole_files, write_whole


def _fail(place):
    (place / "a" if place.is_dir() else place).write_bytes(b"ha")
    raise RuntimeError("in the middle")


def test_a_file_that_fails_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, b"old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        _fail(temporary)
    with pytest.raises(TypeError):
        write_whole(path, "no bytes")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a.txt": b"old"}


def test_a_folder_gets_all_files_or_none(tmp_path):
    folder = tmp_path / "new"
    with pytest.raises(RuntimeError), whole_files(folder) as temporary:
        _fail(temporary)
    assert list(folder.iterdir()) == []
    with whole_files(folder) as temporary:
        (temporary / "a").touch()
    assert [file.name for file in folder.iterdir()] == ["a"]
