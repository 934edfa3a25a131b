"""One text that a client wants to hear: its options, and its speech, which is made chunk by chunk in a thread."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...lm.continuous_batching import BatchFullError, CancelledError
from ...tokenizer.waveform import Waveform
from ..inference.result import SpeechResult
from ..inference.speak import stream_speech
from .audio_formats import AudioFormat
from .errors import ApiError
from .limits import too_slow
from .service import ServedModel, Service, find_model

MAX_CHARACTERS = 4096
_NUM_NAMES = 8  # voices that an error names


class VoiceId(BaseModel):
    """A voice by its id."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str


class SpeechOptions(BaseModel):
    """How a text is spoken. The fields have the names of OpenAI; `seed` is an addition."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    voice: str | VoiceId | None = None
    response_format: AudioFormat = "mp3"
    speed: float = Field(1.0, ge=0.5, le=2.0, allow_inf_nan=False)
    seed: int = Field(0, ge=0, lt=2**63)
    instructions: str | None = Field(None, max_length=MAX_CHARACTERS)
    timestamp_granularities: list[Literal["word", "phoneme"]] = Field([], max_length=2)


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


def make_job(service: Service, options: SpeechOptions, text: str) -> SpeechJob:
    """Check what a client asks for.

    Raises:
        ApiError: There is no such model or voice, or the model cannot do it.
    """
    model = find_model(service.models, options.model, "speech")
    if options.instructions:
        raise ApiError(400, "no model of this server follows instructions: leave them out", "instructions")
    if not text.strip():
        raise ApiError(400, "the text is empty: give at least one word", "input")
    if options.speed != 1 and not model.is_aligned:
        raise ApiError(
            400,
            f"the model {model.name} does not control how long it speaks a phoneme, so its speed cannot be changed: "
            "use a model trained for tts-aligned, or leave out speed",
            "speed",
        )
    if options.timestamp_granularities and not model.is_aligned:
        raise ApiError(
            400,
            f"the model {model.name} does not know when it speaks which word: use a model trained for tts-aligned",
            "timestamp_granularities",
        )
    name = options.voice.id if isinstance(options.voice, VoiceId) else options.voice
    if name is None or name in model.lm.info.voices:
        return SpeechJob(model, text, name, None, options.speed, options.seed)
    return SpeechJob(model, text, None, _uploaded_voice(service, model, name), options.speed, options.seed)


def _uploaded_voice(service: Service, model: ServedModel, name: str) -> tuple[Waveform, int]:
    """Read the recording of an uploaded voice."""
    if service.voices.find(name) is None:
        known = ", ".join(model.lm.info.voices[:_NUM_NAMES])
        raise ApiError(
            400,
            f"no voice is called {name!r}; the model {model.name} has {known or 'none'} and so on, and "
            "GET /v1/audio/voices lists them all",
            "voice",
            "voice_not_found",
        )
    if not model.imitates:
        raise ApiError(400, f"the model {model.name} cannot speak in the voice of a recording", "voice")
    try:
        return service.voices.read(name)
    except (OSError, ValueError):
        # Another client has just deleted it.
        raise ApiError(400, f"there is no voice {name!r} any more", "voice", "voice_not_found") from None


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
        loop = asyncio.get_running_loop()

        def put(item: Any) -> None:
            # The loop is closed if the server had no time left to wait for this thread.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(items.put_nowait, item)

        timeout_s = service.limits.timeout_s
        await service.speech_places.acquire(timeout_s)
        # The thread does not wait for a client that reads slowly, and gives its place back when it has spoken.
        service.start(partial(_speak, self.job, put, stopped, start + timeout_s), service.speech_places)
        has_begun = False
        try:
            while self._result is None:
                item = await items.get()
                if item is None:
                    raise too_slow(timeout_s)
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
        finally:
            stopped.set()


def _speak(job: SpeechJob, put: Callable[[Any], None], stopped: threading.Event, deadline: float) -> None:
    """Speak in a thread until the client goes away.

    Args:
        job: What to speak.
        put: Takes the chunks, and then the result or the error, or None if it is late.
        stopped: Set when the client has gone away.
        deadline: Monotonic time at which it is late.
    """
    reference, rate = job.reference or (None, None)
    try:
        stream = stream_speech(
            job.text,
            job.model.lm,
            job.voice,
            reference,
            sampling_rate=rate,
            seed=job.seed,
            speed=job.speed,
            generator=job.model.batch,
        )
        chunks = iter(stream)
        try:
            for chunk in chunks:
                if stopped.is_set():
                    return
                if time.monotonic() > deadline:
                    put(None)
                    return
                put(chunk)
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


def usage(speech: Speech) -> dict[str, int]:
    """Return the number of tokens that were read and written: phonemes or pieces of text, and codes."""
    lm = speech.job.model.lm
    num_read = len(speech.result.phonemes) or len(lm.vocabulary.text_ids(speech.job.text))
    num_written = int(speech.result.stats["tokens"])
    return {"input_tokens": num_read, "output_tokens": num_written, "total_tokens": num_read + num_written}


def timestamps(result: SpeechResult, granularities: list[Literal["word", "phoneme"]]) -> dict[str, Any]:
    """Return when each word or phoneme is spoken, in seconds, as far as it was asked for."""
    lists: dict[str, Any] = {}
    if "word" in granularities:
        lists["words"] = [{"word": item.text, "start": item.start_s, "end": item.end_s} for item in result.words]
    if "phoneme" in granularities:
        phonemes = []
        for item in result.phonemes:
            phonemes.append({"phoneme": item.text, "start": item.start_s, "end": item.end_s})
        lists["phonemes"] = phonemes
    return lists
