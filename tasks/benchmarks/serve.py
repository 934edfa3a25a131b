"""Measure a server as its clients see it: the time to the first sound, the real-time factor, and failures."""

import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException

PCM_BYTES_PER_S = 2 * 24_000
SENTENCES = (
    "Good morning, everyone.",
    "She opened the door and looked outside.",
    "They went to the market to buy some bread.",
    "The train will leave in twenty minutes from platform nine.",
)
_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Answer:
    """What a client saw of one request.

    Args:
        first_s: Seconds to the first sound.
        total_s: Seconds to the last one.
        audio_s: Duration of the speech.
    """

    first_s: float
    total_s: float
    audio_s: float


def benchmark_serve(model: str, concurrency: str, requests: int) -> str:
    """Start a server and return a Markdown table with a row for each number of clients.

    Args:
        model: "mini", a folder or a hub id.
        concurrency: Numbers of clients that ask at the same time, such as "1,4,16".
        requests: Requests of each client, one after the other.

    Raises:
        ValueError: A number is not a positive integer.
        OSError: The server did not start.
    """
    counts = []
    for word in concurrency.split(","):
        if not word.strip().isdecimal() or int(word) < 1:
            raise ValueError(f"concurrency is a list of positive integers such as 1,4,16, found {concurrency!r}")
        counts.append(int(word))
    if requests < 1:
        raise ValueError(f"requests must be at least 1, found {requests}")
    lines = [
        f"{model}, PCM, {requests} requests of each client, {len(SENTENCES)} sentences in turn",
        "",
        "| clients | first sound, median s | 95 % | real-time factor, median | speech, s per second | failures |",
        "|---|---|---|---|---|---|",
    ]
    with running_server(model, max(counts)) as port:
        # The first request computes what later ones reuse.
        ask(port, SENTENCES[0])
        for count in counts:
            lines.append(_measure(port, count, requests))
    return "\n".join(lines)


@contextmanager
def running_server(model: str, max_running: int) -> Iterator[int]:
    """Run a server with a model named "model" in another process, and yield its port."""
    command = [sys.executable, "-m", f"{__package__.rpartition('.')[0]}", "serve", f"model={model}", "--port", "0"]
    command += ["--no-page", "--max-running", str(max_running), "--timeout-s", str(_TIMEOUT_S)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        if found is None:
            raise OSError("the server did not start, see above")
        yield int(found[1])
    finally:
        process.terminate()
        process.wait()


def ask(port: int, text: str) -> Answer:
    """Ask a server of this machine to speak.

    Raises:
        OSError: The server refused, or broke off.
    """
    body = json.dumps({"model": "model", "input": text, "response_format": "pcm"})
    connection = HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        start = time.perf_counter()
        connection.request("POST", "/v1/audio/speech", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise OSError(f"status {response.status}: {response.read(200)!r}")
        num_bytes = len(response.read1())
        first_s = time.perf_counter() - start
        num_bytes += len(response.read())
        return Answer(first_s, time.perf_counter() - start, num_bytes / PCM_BYTES_PER_S)
    except HTTPException as error:
        raise OSError(f"the response broke off: {error!r}") from None
    finally:
        connection.close()


def _measure(port: int, clients: int, requests: int) -> str:
    """Return a row of the table."""
    answers: list[Answer] = []
    failures: list[OSError] = []

    def use(client: int) -> None:
        for i in range(requests):
            try:
                answers.append(ask(port, SENTENCES[(client + i) % len(SENTENCES)]))
            except OSError as error:
                failures.append(error)

    threads = [threading.Thread(target=use, args=(client,)) for client in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed_s = time.perf_counter() - start
    if not answers:
        return f"| {clients} | - | - | - | - | {len(failures)}: {failures[0]} |"
    firsts = sorted(answer.first_s for answer in answers)
    slowest = firsts[min(len(firsts) - 1, round(0.95 * len(firsts)))]
    factor = statistics.median(answer.total_s / answer.audio_s for answer in answers)
    throughput = sum(answer.audio_s for answer in answers) / elapsed_s
    return (
        f"| {clients} | {statistics.median(firsts):.2f} | {slowest:.2f} | {factor:.2f} | {throughput:.1f} | "
        f"{len(failures)} of {clients * requests} |"
    )
