"""Files are written as a whole or not at all, with the mode of the umask."""

import os

import pytest
import torch

from focallm.tokenizer import AudioTokenizer
from focallm.tokenizer.configs import read_yaml
from focallm.tokenizer.files import first_not_finite, whole_file, whole_files, write_whole


def test_yaml_reads_numbers_as_they_are_written(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: 1e-3\nb: 2.5E+4\nc: 1e3x\nd: [-1e2, 7]\n")
    assert read_yaml(path) == {"a": 0.001, "b": 25000.0, "c": "1e3x", "d": [-100.0, 7]}
    path.write_text("a: [")
    with pytest.raises(ValueError, match=r"a\.yaml is not YAML"):
        read_yaml(path)
    with pytest.raises(FileNotFoundError, match=r"there is no YAML file .*missing\.yaml: check the path"):
        read_yaml(tmp_path / "missing.yaml")


def _fail(place):
    (place / "a" if place.is_dir() else place).write_bytes(b"ha")
    raise RuntimeError("in the middle")


def test_a_failed_write_leaves_only_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, b"old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        _fail(temporary)
    with pytest.raises(TypeError):
        write_whole(path, "no bytes")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a.txt": b"old"}


def test_all_files_of_a_folder_are_written_or_none(tmp_path):
    folder = tmp_path / "new"
    with pytest.raises(RuntimeError), whole_files(folder) as temporary:
        _fail(temporary)
    assert list(tmp_path.iterdir()) == []
    with whole_files(folder) as temporary:
        (temporary / "a").touch()
        assert not folder.exists()
    assert [file.name for file in folder.iterdir()] == ["a"]
    with pytest.raises(RuntimeError), whole_files(folder) as temporary:
        _fail(temporary)
    with whole_files(folder) as temporary:
        (temporary / "below").mkdir()
        (temporary / "below" / "b").touch()
    with whole_files(folder) as temporary:
        (temporary / "below").mkdir()
        (temporary / "below" / "b").write_bytes(b"new")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "below", "new"]
    assert (folder / "below" / "b").read_bytes() == b"new"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_get_the_mode_of_the_umask(tmp_path, umask, mode):
    previous = os.umask(umask)
    try:
        with whole_file(tmp_path / "single") as temporary:
            temporary.touch(0o600)
        with whole_files(tmp_path / "folder") as temporary:
            (temporary / "a").touch(0o600)
            (temporary / "below").mkdir()
            (temporary / "below" / "b").touch(0o600)
    finally:
        os.umask(previous)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert [path.name for path in files] == ["a", "b", "single"]
    assert {path.stat().st_mode & 0o777 for path in files} == {mode}


@pytest.mark.parametrize("name", ["focalcodec", "bigcodec", "dac"])
def test_saved_codecs_can_be_read_by_others(tmp_path, tiny_codec, name):
    previous = os.umask(0o022)
    try:
        AudioTokenizer(tiny_codec(name)).save_pretrained(tmp_path)
    finally:
        os.umask(previous)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert "model.safetensors" in modes
    assert set(modes.values()) == {0o644}


def test_the_first_tensor_that_is_not_finite_is_named():
    fine = {"count": torch.tensor(3), "empty": torch.zeros(0), "unread": torch.full((2,), torch.nan, device="meta")}
    assert first_not_finite(fine) is None
    for value in (torch.nan, torch.inf, -torch.inf):
        assert first_not_finite({**fine, "a": torch.zeros(2), "b": torch.tensor([0, value]).half()}) == "b"


def test_two_processes_that_write_one_new_folder_both_end_well(tmp_path):
    with whole_files(tmp_path / "model") as slow:
        (slow / "weights").write_bytes(b"slow")
        with whole_files(tmp_path / "model") as fast:
            (fast / "weights").write_bytes(b"fast")
            (fast / "card").write_bytes(b"fast")
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert files == {"weights": b"slow", "card": b"fast"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
