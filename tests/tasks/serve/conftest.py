"""A tiny model, an application that serves it, and real server processes."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from focallm.lm import SpeechLM
from focallm.tokenizer import write_audio

# All these tests need the extra serve and its clients.
_NEEDED = ("fastapi", "prometheus_client", "openai", "websockets", "schemathesis")
collect_ignore_glob = [] if all(map(find_spec, _NEEDED)) else ["test_*.py"]

TASKS = ("tts", "zero-shot", "se", "ss", "asr")
TEXT = "ann nona bob an on bonna ban"  # words of letters that the tiny model knows


@pytest.fixture(scope="session")
def tiny_folder(speech_lm, tmp_path_factory) -> Path:
    """A random model for all tasks of the server, as a folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    speech_lm(*TASKS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def recording(tmp_path_factory) -> bytes:
    """An audio file: half a second of noise at 22,050 Hz."""
    path = tmp_path_factory.mktemp("recordings") / "noise.wav"
    write_audio(path, 0.1 * np.random.default_rng(0).standard_normal(11025), 22050)
    return path.read_bytes()


@pytest.fixture(scope="session")
def tiny_lm(tiny_folder) -> SpeechLM:
    """The same model, loaded."""
    return SpeechLM.from_pretrained(tiny_folder)


@contextlib.contextmanager
def application_client(lm: SpeechLM, voices: Path, source: str | Path, **options):
    """Serve a model in this process, and yield a client."""
    from fastapi.testclient import TestClient

    from focallm.tasks.serve.server import create_app
    from focallm.tasks.serve.service import prepare_model

    models = {"tiny": prepare_model("tiny", source, lm)}
    with TestClient(create_app(models, voices, **options), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def make_client(tiny_lm, tiny_folder, tmp_path):
    """`make_client(api_key=..., limits=...)` is a client of an application of its own."""
    with contextlib.ExitStack() as stack:

        def make(source: str | Path = tiny_folder, **options):
            return stack.enter_context(application_client(tiny_lm, tmp_path / "voices", source, **options))

        yield make


@pytest.fixture(scope="session")
def client(tiny_lm, tiny_folder, tmp_path_factory):
    """A client of an application without a key."""
    with application_client(tiny_lm, tmp_path_factory.mktemp("client") / "voices", tiny_folder) as shared:
        yield shared


class ServerProcess:
    """A running `focallm serve`.

    Args:
        process: The process.
        address: Host and port.
        log: File with its standard error.
    """

    def __init__(self, process: subprocess.Popen, address: str, log: Path) -> None:
        self.process = process
        self.address = address
        self.url = f"http://{address}"
        self.log = log

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.address.rpartition(":")[2])


@contextlib.contextmanager
def serving(folder: Path, *arguments: object) -> Iterator[ServerProcess]:
    """Run a server on a free port of this machine."""
    log = folder / "server.log"
    command = [sys.executable, "-m", "focallm.tasks", "serve", *map(str, arguments), "--port", "0", "--no-page"]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, "--voices", str(folder / "voices")], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        line = process.stdout.readline()
        found = re.search(r"http://(127\.0\.0\.1:\d+)", line)
        assert found, f"{line}{log.read_text()}"
        yield ServerProcess(process, found[1], log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def server(tiny_folder, tmp_path_factory):
    """A server with the model of the package, which aligns text and speech, and a tiny one."""
    with serving(tmp_path_factory.mktemp("server"), "mini", f"tiny={tiny_folder}") as running:
        yield running
