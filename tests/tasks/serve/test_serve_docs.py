"""The examples of docs/serve.md, with a real server."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from focallm.tasks.demo import OTHER_SPEAKER, SAMPLE
from focallm.tokenizer import read_audio, write_audio

PAGE = (Path(__file__).parents[3] / "docs" / "serve.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def place(server, tmp_path, monkeypatch):
    """A folder with the files that the examples name."""
    monkeypatch.chdir(tmp_path)
    audio, rate = read_audio(SAMPLE)
    for name in ("noisy.wav", "mixture.wav"):
        write_audio(tmp_path / name, audio[:rate], rate)
    shutil.copy(OTHER_SPEAKER, tmp_path / "speaker.flac")
    return tmp_path


def test_python(server, place):
    names: dict = {}
    for block in blocks("py"):
        exec(compile(block.replace("127.0.0.1:8000", server.address), "docs/serve.md", "exec"), names)
    assert read_audio(place / "hello.wav")[1] == 16000


def test_curl(server, place):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    _, *scripts = blocks("sh")
    # The server of the tests has a random model for what mini-rewriting does.
    script = "".join(scripts).replace("127.0.0.1:8000", server.address).replace("mini-rewriting", "tiny")
    subprocess.run(["bash", "-ec", script.replace("curl ", "curl --fail-with-body -sS ")], check=True, cwd=place)
    assert len(read_audio(place / "hello.ogg")[0]) > 8000
    for name in ("clean", "speakers", "converted"):
        assert len(read_audio(place / f"{name}.wav")[0]) == 16000
