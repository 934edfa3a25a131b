"""Real servers and their clients: OpenAI's, those that go away, slow and broken ones, and nginx in front of two."""

import asyncio
import contextlib
import io
import json
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import wave
from pathlib import Path

import httpx2 as httpx
import numpy as np
import openai
import psutil
import pytest
import soundfile
import websockets

from .conftest import TEXT, ServerProcess, serving

ROOT = Path(__file__).parents[3]
LONG_TEXT = " ".join([TEXT] * 12)
PATIENT_S = 120  # the machine may be busy


def openai_client(server, key="none"):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=PATIENT_S)


def post_speech(server: ServerProcess, text=TEXT, model="tiny", **fields) -> httpx.Response:
    body = {"model": model, "input": text, "response_format": "pcm", **fields}
    return httpx.post(f"{server.url}/v1/audio/speech", json=body, timeout=PATIENT_S)


def wait_until_idle(server: ServerProcess) -> None:
    """Wait until no request runs or waits."""
    deadline = time.monotonic() + PATIENT_S
    while time.monotonic() < deadline:
        health = httpx.get(f"{server.url}/health", timeout=PATIENT_S).json()
        if health["running"] == health["waiting"] == 0:
            return
        time.sleep(0.1)
    raise AssertionError(health)


def test_the_client_of_openai_speaks_and_streams(server):
    client = openai_client(server)
    assert [model.id for model in client.models.list()] == ["mini", "tiny"]
    text = "Good morning, everyone."
    whole = client.audio.speech.create(model="mini", voice="af_heart", input=text, response_format="wav")
    audio, rate = soundfile.read(io.BytesIO(whole.content))
    assert rate == 16000
    assert 0.5 < len(audio) / rate < 5
    options = {"model": "mini", "voice": "af_heart", "input": text}
    with client.audio.speech.with_streaming_response.create(**options, response_format="pcm") as response:
        parts = list(response.iter_bytes())
    assert len(parts) > 2
    assert sum(map(len, parts)) / 2 / 24000 == pytest.approx(len(audio) / rate, abs=1e-3)
    # The default of OpenAI is MP3.
    assert client.audio.speech.create(**options).response.headers["content-type"] == "audio/mpeg"
    with pytest.raises(openai.NotFoundError, match="this server has mini, tiny"):
        client.audio.speech.create(model="tts-1", voice="alloy", input=text)
    with pytest.raises(openai.BadRequestError, match="no voice is called 'alloy'"):
        client.audio.speech.create(model="mini", voice="alloy", input=text)


def test_an_aligned_model_knows_when_it_speaks_and_how_fast(server):
    fields = {"model": "mini", "stream_format": "sse", "timestamp_granularities": ["word", "phoneme"]}
    durations = []
    for speed in (0.5, 1.0, 2.0):
        lines = post_speech(server, "Good morning, everyone.", speed=speed, **fields).text.split("\n\n")
        done = json.loads(lines[-2].removeprefix("data: "))
        assert [word["word"] for word in done["words"]] == ["good", "morning", "everyone"]
        assert done["usage"]["input_tokens"] == len(done["phonemes"])
        ends = [0.0, *(phoneme["end"] for phoneme in done["phonemes"])]
        # Phonemes follow each other without a gap.
        assert [phoneme["start"] for phoneme in done["phonemes"]] == pytest.approx(ends[:-1])
        durations.append(ends[-1])
    assert durations[0] > 1.5 * durations[1] > 2 * durations[2]


def test_the_client_of_openai_makes_a_voice_and_speaks_in_it(server):
    client = openai_client(server)
    sample = (ROOT / "tasks" / "samples" / "speaker.flac").read_bytes()
    voice = client.audio.voices.create(name="eve", audio_sample=("eve.flac", sample), consent="I agree to this test.")
    try:
        options = {"model": "mini", "input": "Good morning.", "response_format": "pcm"}
        imitated = client.audio.speech.create(**options, voice={"id": voice.id}).content
        assert imitated != client.audio.speech.create(**options, voice="af_heart").content
    finally:
        assert client.audio.voices.delete("eve").deleted
    with pytest.raises(openai.NotFoundError, match="no uploaded voice is called"):
        client.audio.voices.delete("eve")


def test_a_recording_is_not_transcribed_by_a_model_that_cannot(server, recording):
    client = openai_client(server)
    assert isinstance(client.audio.transcriptions.create(model="tiny", file=("a.wav", recording)).text, str)
    with pytest.raises(openai.BadRequestError, match="mini was not trained for transcription"):
        client.audio.transcriptions.create(model="mini", file=("a.wav", recording))


def leave_at_random(server: ServerProcess, seed: int) -> None:
    """Ask for speech and close the connection somewhere between the request and the end of the response."""
    choices = random.Random(seed)
    body = json.dumps({"model": "tiny", "input": LONG_TEXT, "response_format": "pcm"}).encode()
    head = (
        f"POST /v1/audio/speech HTTP/1.1\r\nHost: {server.address}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENT_S) as connection:
        message = head.encode() + body
        connection.sendall(message[: choices.choice([0, 20, len(head), len(message) - 1, *[len(message)] * 4])])
        for _ in range(choices.randrange(4)):
            connection.settimeout(choices.uniform(0.01, 0.5))
            with contextlib.suppress(TimeoutError):
                connection.recv(4096)


def check_disconnects(server: ServerProcess, count: int) -> None:
    threads = [threading.Thread(target=leave_at_random, args=(server, seed)) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until_idle(server)
    assert post_speech(server).status_code == 200
    assert "Traceback" not in server.log.read_text()


def test_clients_that_go_away_free_their_places(server):
    check_disconnects(server, 24)


@pytest.mark.slow
def test_two_hundred_clients_that_go_away_free_their_places(server):
    check_disconnects(server, 200)


@pytest.mark.parametrize(
    "message",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /%00%ff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    ],
)
def test_broken_requests_are_refused(server, message):
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENT_S) as connection:
        connection.sendall(message)
        answer = connection.recv(4096)
    assert re.match(rb"HTTP/1.1 4\d\d ", answer), answer
    assert b"Traceback" not in answer


def test_a_huge_upload_is_refused_before_it_is_read(server):
    head = (
        f"POST /v1/audio/voices HTTP/1.1\r\nHost: {server.address}\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {10**12}\r\n\r\n"
    )
    before = psutil.Process(server.process.pid).memory_info().rss
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENT_S) as connection:
        connection.sendall(head.encode())
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                connection.sendall(bytes(1 << 20))
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert psutil.Process(server.process.pid).memory_info().rss - before < 32 << 20


def test_response_headers_hold_nothing_that_a_client_sent(server, recording):
    form = {"name": "eve\r\nSet-Cookie: a=b", "consent": "I agree.\r\nSet-Cookie: a=b"}
    files = {"audio_sample": ("a\r\nSet-Cookie: a=b.wav", recording)}
    answer = httpx.post(f"{server.url}/v1/audio/voices", data=form, files=files, timeout=PATIENT_S)
    assert answer.status_code == 400
    answers = [answer, post_speech(server, voice="a\r\nSet-Cookie: a=b"), post_speech(server, model="a\r\nX: b")]
    for answer in answers:
        assert "a=b" not in str(answer.headers)
        assert "x" not in answer.headers


def test_a_stopped_server_finishes_what_it_speaks(tiny_folder, tmp_path):
    with serving(tmp_path, f"tiny={tiny_folder}", "--drain-s", 10 * PATIENT_S) as server:
        expected = post_speech(server, LONG_TEXT).content
        body = {"model": "tiny", "input": LONG_TEXT, "response_format": "pcm"}
        session = asyncio.run(_drain_while_streaming(server, body, expected))
        assert server.process.wait(PATIENT_S) == 0
    assert session == ["audio.start", "audio.done", "session.done", 1001]


async def _drain_while_streaming(server: ServerProcess, body: dict, expected: bytes) -> list:
    """Send SIGTERM while a response and a session stream and a page is open; return what the session got."""
    kinds: list = []
    async with (
        httpx.AsyncClient(timeout=PATIENT_S) as client,
        websockets.connect(f"ws://{server.address}/v1/audio/speech/stream") as session,
        client.stream("POST", f"{server.url}/v1/audio/speech", json=body) as response,
        client.stream("GET", f"{server.url}/gradio_api/heartbeat/page") as page,
    ):
        await session.send(json.dumps({"type": "session.config", "model": "tiny"}))
        await session.send(json.dumps({"type": "input.text", "text": TEXT}))
        parts = response.aiter_bytes()
        content = await anext(parts)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        with pytest.raises(OSError, match="onnect"):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)
        async for part in parts:
            content += part
        assert content == expected
        # An open page does not keep the server, and its connection ends as it should.
        await page.aread()
        # It ends when the server closes the connection as it should.
        async for message in session:
            if isinstance(message, str):
                kinds.append(json.loads(message)["type"])
    return [*kinds, session.close_code]


def check_nothing_grows(server: ServerProcess, count: int, max_bytes: int) -> None:
    """Send requests of all kinds, and compare memory and open files before and after."""
    process = psutil.Process(server.process.pid)
    recording = io.BytesIO()
    with wave.open(recording, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((3000 * np.random.default_rng(0).standard_normal(8000)).astype("<i2").tobytes())

    def send(number: int) -> None:
        if number % 10 == 0:
            files = {"audio": ("a.wav", recording.getvalue())}
            url = f"{server.url}/audio/transformations"
            assert httpx.post(url, data={"model": "tiny"}, files=files, timeout=PATIENT_S).status_code == 200
        elif number % 10 == 1:
            assert post_speech(server, voice="nobody").status_code == 400
        else:
            assert post_speech(server, "ann bob", response_format=["wav", "opus", "mp3"][number % 3]).status_code == 200

    for number in range(count // 5):
        send(number)
    wait_until_idle(server)
    files_before = process.num_fds()
    memory_before = process.memory_info().rss
    for number in range(count):
        send(number)
    wait_until_idle(server)
    assert process.num_fds() <= files_before + 2
    assert process.memory_info().rss - memory_before < max_bytes


def test_forty_requests_leave_no_open_files(server):
    check_nothing_grows(server, 40, 200 << 20)


@pytest.mark.slow
def test_a_thousand_requests_leave_no_memory_and_no_open_files(tiny_folder, tmp_path):
    with serving(tmp_path, f"tiny={tiny_folder}") as server:
        check_nothing_grows(server, 1000, 24 << 20)


@pytest.mark.slow
def test_connections_without_a_request_are_closed(server):
    for start in (b"", b"POST /v1/audio/speech HTTP/1.1\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENT_S) as connection:
            connection.sendall(start)
            assert connection.recv(100) == b""


@pytest.mark.slow
def test_a_slow_upload_is_ended(server):
    head = (
        f"POST /v1/audio/speech HTTP/1.1\r\nHost: {server.address}\r\nContent-Type: application/json\r\n"
        "Content-Length: 1000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENT_S) as connection:
        connection.sendall(head.encode())
        answer = b""
        connection.settimeout(2)
        for _ in range(60):
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(4096)
                break
            connection.sendall(b" ")
    assert answer.startswith(b"HTTP/1.1 408 ")


@contextlib.contextmanager
def nginx(folder: Path, servers: list[ServerProcess]):
    """Run nginx with the configuration of docs/serve.md in front of servers, and yield its port."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("nginx is not installed")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    text = re.search(r"```nginx\n(.*?)```", (ROOT / "docs" / "serve.md").read_text(), re.DOTALL)[1]
    for number, server in enumerate(servers, 1):
        assert f"127.0.0.1:800{number}" in text
        text = text.replace(f"127.0.0.1:800{number}", server.address)
    text = text.replace("listen 80;", f"listen 127.0.0.1:{port};")
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path = folder / "nginx.conf"
    path.write_text(
        f"daemon off; user root; pid {folder}/pid; error_log {folder}/errors warn; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{text} }}\n"
    )
    process = subprocess.Popen([program, "-p", str(folder), "-c", str(path), "-e", str(folder / "start")])
    try:
        deadline = time.monotonic() + PATIENT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
def test_two_servers_behind_nginx_lose_no_request_when_one_stops(tiny_folder, tmp_path):
    folders = [tmp_path / name for name in ("first", "second", "nginx")]
    for folder in folders:
        folder.mkdir()
    options = (f"tiny={tiny_folder}", "--drain-s", PATIENT_S)
    with (
        serving(folders[0], *options) as first,
        serving(folders[1], *options) as second,
        nginx(folders[2], [first, second]) as port,
    ):
        expected = post_speech(first, LONG_TEXT).content
        first_sizes: list[int] = []
        failures: list = []

        def ask(count: int) -> None:
            body = {"model": "tiny", "input": LONG_TEXT, "response_format": "pcm"}
            url = f"http://127.0.0.1:{port}/v1/audio/speech"
            for _ in range(count):
                try:
                    with httpx.stream("POST", url, json=body, timeout=PATIENT_S) as response:
                        parts = list(response.iter_bytes())
                    first_sizes.append(len(parts[0]))
                    if b"".join(parts) != expected:
                        failures.append((response.status_code, sum(map(len, parts))))
                except httpx.HTTPError as error:
                    failures.append(error)

        threads = [threading.Thread(target=ask, args=(6,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(2)
        first.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert first.process.wait(PATIENT_S) == 0
        assert failures == []
        assert len(first_sizes) == 48
        # nginx passes on the first chunk, and does not wait for the end.
        assert max(first_sizes) < len(expected)
        asyncio.run(_session_through(port))


async def _session_through(port: int) -> None:
    async with websockets.connect(f"ws://127.0.0.1:{port}/v1/audio/speech/stream") as session:
        await session.send(json.dumps({"type": "session.config", "model": "tiny"}))
        await session.send(json.dumps({"type": "input.text", "text": "ann. bob."}))
        await session.send(json.dumps({"type": "input.done"}))
        messages = [message async for message in session]
    assert json.loads(messages[-1]) == {"type": "session.done", "total_sentences": 2}
