"""What is written appears whole, or not at all."""

import pytest

from focallm.tokenizer.files import read_yaml, whole_file, whole_files, write_whole


def test_yaml_reads_numbers_as_they_are_written(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: 1e-3\nb: 2.5E+4\nc: 1e3x\nd: [-1e2, 7]\n")
    assert read_yaml(path) == {"a": 0.001, "b": 25000.0, "c": "1e3x", "d": [-100.0, 7]}
    path.write_text("a: [")
    with pytest.raises(ValueError, match=r"a\.yaml is not YAML"):
        read_yaml(path)


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
