"""One process at a time writes to a folder, what killed ones left is removed, and completion is a record."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from focallm.tokenizer.files import whole_file, whole_files
from focallm.tokenizer.runs import is_finished, locked, write_finished

HOLD = """
import os, sys, time
from pathlib import Path
from focallm.tokenizer.files import whole_file, whole_files
from focallm.tokenizer.runs import locked
run = Path(sys.argv[1])
with locked(run), whole_file(run / "a.bin") as a, whole_files(run / "model") as b, whole_files(run) as c:
    for path in (a, b / "w", c / "w"):
        path.write_bytes(b"half")
    # A worker such as those that load data outlives its parent for some seconds. When it prints, it holds no lock.
    if not os.fork():
        print("holds", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds `tmp_path/run` and writes to it. It is killed at the end of a test at the latest."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout.readline() == "holds\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_second_process_is_refused_until_the_first_is_dead(holder, tmp_path):
    run = tmp_path / "run"
    expected = rf"run is in use: process {holder.pid} on .* writes to it\. Wait.*name another folder"
    with pytest.raises(OSError, match=expected), locked(run):
        pass
    holder.kill()
    assert holder.wait() == -signal.SIGKILL
    assert any(name.startswith(".saving-") for name in _names(run))
    with locked(run):
        assert _names(run) == [".lock-0"]
    assert _names(run) == []


def test_files_that_a_process_is_writing_are_left_alone(holder, tmp_path):
    run = tmp_path / "run"
    before = _names(run)
    with whole_file(run / "a.bin") as file:
        file.write_bytes(b"whole")
    with whole_files(run) as folder:
        (folder / "b").touch()
    assert _names(run) == sorted([*before, "a.bin", "b"])


def test_what_a_killed_process_left_is_removed_by_the_next_write(holder, tmp_path):
    run = tmp_path / "run"
    holder.kill()
    holder.wait()
    with whole_file(run / "a.bin") as file:
        assert file.read_bytes() == b""
        file.write_bytes(b"whole")
    with whole_files(run / "model") as folder:
        (folder / "w").write_bytes(b"whole")
    assert [name for name in _names(run) if not name.startswith(".lock")] == ["a.bin", "model", "w"]


def test_a_file_is_locked_beside_it(tmp_path):
    record = tmp_path / "r.jsonl"
    expected = rf"r\.jsonl is in use: process {os.getpid()} on.*name another file"
    lock = tmp_path / ".r.jsonl.lock"
    with locked(record, lock), pytest.raises(OSError, match=expected), locked(record, lock):
        pass
    assert _names(tmp_path) == []


def test_each_of_the_processes_that_train_together_has_a_lock(tmp_path, monkeypatch):
    with locked(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with locked(tmp_path):
            assert _names(tmp_path) == [".lock-0", ".lock-1"]


def test_a_run_is_finished_if_its_result_is_what_it_wrote(tmp_path):
    result = tmp_path / "model"
    assert not is_finished(tmp_path, result)
    with whole_files(result) as folder:
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")
    assert not is_finished(tmp_path, result)
    write_finished(tmp_path, result)
    assert is_finished(tmp_path, result)
    for name in ("README.md", "notes.txt"):
        (result / name).write_text("by its owner")
        assert is_finished(tmp_path, result)
    (result / "model.safetensors").write_bytes(b"weight")
    assert not is_finished(tmp_path, result)
    (result / "model.safetensors").unlink()
    assert not is_finished(tmp_path, result)
    for damaged in ("{", "{}", "[]"):
        (tmp_path / "finished.json").write_text(damaged)
        assert not is_finished(tmp_path, result)
