"""What the routes share: the models, the voices, the places, and the threads that do the work."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Request

from ...lm.continuous_batching import BatchFullError, CancelledError
from ...tokenizer.waveform import Waveform
from ..inference.result import SpeechResult
from ..inference.speak import stream_speech
from .errors import ApiError
from .limits import Places
from .metrics import Metrics
from .models import ServedModel
from .voices import VoiceStore

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
# Recordings that are processed at the same time. A model needs all cores for one of them.
_MAX_RECORDINGS = 2


@dataclass(frozen=True)
class Limits:
    """How much a server accepts.

    Args:
        max_running: Texts that are spoken at the same time.
        max_waiting: Requests that wait for a place.
        max_upload_mb: Longest body of a request.
        max_recording_s: Longest recording in a request.
        timeout_s: Longest time from a request to its last byte.
    """

    max_running: int = 16
    max_waiting: int = 64
    max_upload_mb: float = 25.0
    max_recording_s: float = 120.0
    timeout_s: float = 300.0

    def __post_init__(self) -> None:
        for name in ("max_running", "max_upload_mb", "max_recording_s", "timeout_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, found {getattr(self, name)}")
        if self.max_waiting < 0:
            raise ValueError(f"max_waiting cannot be negative, found {self.max_waiting}")


@dataclass(frozen=True)
class SpeechJob:
    """A text that a client wants to hear.

    Args:
        model: The model.
        text: The text.
        voice: Name of a voice of the model.
        reference: Recording (T,) of another voice and its rate in Hz.
        speed: How many times faster than usual.
        seed: Seed of the sampling.
    """

    model: ServedModel
    text: str
    voice: str | None = None
    reference: tuple[Waveform, int] | None = None
    speed: float = 1.0
    seed: int = 0


class Service:
    """Does the work of the routes in threads.

    Args:
        models: Loaded models by name.
        voices: Folder of uploaded voices.
        limits: How much the server accepts.
    """

    def __init__(self, models: dict[str, ServedModel], voices: Path, limits: Limits) -> None:
        self.models = models
        self.voices = VoiceStore(voices)
        self.limits = limits
        self.speech_places = Places(limits.max_running, limits.max_waiting)
        self.recording_places = Places(_MAX_RECORDINGS, limits.max_waiting)
        self.metrics = Metrics({"speech": self.speech_places, "recordings": self.recording_places})
        # Open sessions of WebSockets.
        self.sessions: set[Any] = set()
        # Set when the server has been told to stop.
        self.draining = asyncio.Event()
        self._threads = ThreadPoolExecutor(limits.max_running + _MAX_RECORDINGS, "focallm-serve")

    def close(self) -> None:
        """End all work."""
        for model in self.models.values():
            if model.batch is not None:
                model.batch.close()
        self._threads.shutdown(cancel_futures=True)

    async def run(self, work: Callable[[], _T]) -> _T:
        """Process a recording in a thread when there is a place.

        Args:
            work: Function without arguments. Its `ValueError` is a mistake of the client.

        Raises:
            ApiError: The queue is full, the work failed because of what the client sent, or took too long.
        """
        async with self.recording_places.take():
            future = asyncio.get_running_loop().run_in_executor(self._threads, work)
            try:
                return await asyncio.wait_for(asyncio.shield(future), self.limits.timeout_s)
            except asyncio.TimeoutError:
                raise self._too_slow() from None
            except ValueError as error:
                raise ApiError(400, str(error)) from None
            finally:
                # A thread cannot be stopped, and its place is not free before it ends.
                await asyncio.wait([future])

    def _too_slow(self) -> ApiError:
        return ApiError(503, f"the request took more than {self.limits.timeout_s:g} s", code="timeout")


class Speech:
    """Speech that is made chunk by chunk for one client.

    Args:
        service: The service.
        job: What to speak.
    """

    def __init__(self, service: Service, job: SpeechJob) -> None:
        self.job = job
        self.sampling_rate = job.model.lm.audio_tokenizer.output_sampling_rate
        self._service = service
        self._result: SpeechResult | None = None

    @property
    def result(self) -> SpeechResult:
        """The whole speech, after the last chunk."""
        assert self._result is not None
        return self._result

    async def chunks(self) -> AsyncGenerator[Waveform, None]:
        """Wait for a place and yield chunks (T,). Closing the generator gives the place back.

        Raises:
            ApiError: The queue is full, the model cannot speak the text, or the time is over.
        """
        service = self._service
        start = time.monotonic()
        items: asyncio.Queue[Any] = asyncio.Queue()
        stopped = threading.Event()
        has_begun = False
        loop = asyncio.get_running_loop()

        def put(item: Any) -> None:
            # The loop is closed if the server had no time left to wait for this thread.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(items.put_nowait, item)

        async with service.speech_places.take():
            future = loop.run_in_executor(service._threads, _speak, self.job, put, stopped)
            try:
                while self._result is None:
                    remaining_s = start + service.limits.timeout_s - time.monotonic()
                    item = await asyncio.wait_for(items.get(), remaining_s)
                    if isinstance(item, Exception):
                        raise item
                    if isinstance(item, SpeechResult):
                        self._result = item
                        continue
                    if not has_begun:
                        has_begun = True
                        service.metrics.time_to_first_audio.observe(time.monotonic() - start)
                    service.metrics.audio_seconds.inc(len(item) / self.sampling_rate)
                    yield item
            except asyncio.TimeoutError:
                raise service._too_slow() from None
            finally:
                stopped.set()
                await asyncio.wait([future])


def _speak(job: SpeechJob, put: Callable[[Any], None], stopped: threading.Event) -> None:
    """Speak in a thread: put chunks and then the result, or else the error, until the client goes away."""
    reference, rate = job.reference or (None, None)
    try:
        stream = stream_speech(
            job.text,
            job.model.lm,
            job.voice,
            reference,
            sampling_rate=rate,
            seed=job.seed,
            generator=job.model.batch,
            **({} if job.speed == 1 else {"speed": job.speed}),
        )
        chunks = iter(stream)
        try:
            for chunk in chunks:
                put(chunk)
                if stopped.is_set():
                    return
        finally:
            chunks.close()
        put(stream.result)
    except ValueError as error:
        put(ApiError(400, str(error), "input"))
    except BatchFullError:
        # Visitors of the page speak with the same batch.
        put(
            ApiError(429, "the server is busy: try again in a second", code="server_busy", headers={"Retry-After": "1"})
        )
    except CancelledError:
        put(ApiError(503, "the server stops", code="server_stops"))
    except Exception as error:
        put(error)


def service_of(request: Request) -> Service:
    """Return the service of the app that answers a request."""
    return request.app.state.service
