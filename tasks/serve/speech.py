"""Routes that speak: one text at a time, or several in a batch."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from ...tokenizer.waveform import Waveform
from ..inference.result import SpeechResult
from .audio_formats import MEDIA_TYPES, AudioEncoder, AudioFormat, encode_audio
from .errors import ApiError, ErrorBody, error_body
from .limits import while_connected
from .models import ServedModel, find_model
from .service import Service, Speech, SpeechJob, service_of

router = APIRouter()

MAX_CHARACTERS = 4096
MAX_BATCH = 32
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


class SpeechRequest(SpeechOptions):
    """Body of POST /v1/audio/speech."""

    input: str = Field(min_length=1, max_length=MAX_CHARACTERS)
    stream_format: Literal["audio", "sse"] = "audio"


class BatchItem(BaseModel):
    """A text of a batch, and what differs from the options of the batch."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: str = Field(min_length=1, max_length=MAX_CHARACTERS)
    voice: str | VoiceId | None = None
    speed: float | None = Field(None, ge=0.5, le=2.0, allow_inf_nan=False)
    seed: int | None = Field(None, ge=0, lt=2**63)


class BatchRequest(SpeechOptions):
    """Body of POST /v1/audio/speech/batch."""

    items: list[BatchItem] = Field(min_length=1, max_length=MAX_BATCH)


class BatchResult(BaseModel):
    """What became of one text of a batch."""

    index: int
    status: Literal["success", "error"]
    audio_data: str | None = Field(None, description="The audio file in base64.")
    media_type: str | None = None
    usage: dict[str, int] | None = None
    words: list[dict[str, Any]] | None = None
    phonemes: list[dict[str, Any]] | None = None
    error: dict[str, Any] | None = None


class BatchResponse(BaseModel):
    """The results of a batch, in the order of its items."""

    id: str
    results: list[BatchResult]
    total: int
    succeeded: int
    failed: int


class SpeechResponse(StreamingResponse):
    """Streams speech, and gives its place back as soon as the client has it all or goes away.

    Args:
        content: The body.
        chunks: The speech from which the body is made.
        media_type: Type of the body.
    """

    def __init__(
        self, content: AsyncGenerator[bytes, None], chunks: AsyncGenerator[Waveform, None], media_type: str
    ) -> None:
        super().__init__(content, media_type=media_type, headers={"Cache-Control": "no-store"})
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._chunks.aclose()


_AUDIO = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in MEDIA_TYPES.values()}


@router.post(
    "/v1/audio/speech",
    response_class=StreamingResponse,
    responses={
        200: {"content": {**_AUDIO, "text/event-stream": {"schema": {"type": "string"}}}, "description": "Speech."},
        "4XX": {"model": ErrorBody},
        "5XX": {"model": ErrorBody},
    },
)
async def create_speech(request: Request, body: SpeechRequest) -> SpeechResponse:
    """Speak a text. The response begins with the first sound."""
    service = service_of(request)
    if body.timestamp_granularities and body.stream_format != "sse":
        raise ApiError(
            400,
            'audio alone cannot hold timestamps: set stream_format to "sse", or call /v1/audio/speech/batch',
            "timestamp_granularities",
        )
    speech = Speech(service, make_job(service, body, body.input))
    chunks = speech.chunks()
    # Until the first sound there is no response, so that an error can still have its own status.
    first = await while_connected(request, anext(chunks))
    if body.stream_format == "sse":
        return SpeechResponse(_events(speech, first, chunks, body), chunks, "text/event-stream")
    content = encoded(speech, first, chunks, body.response_format)
    return SpeechResponse(content, chunks, MEDIA_TYPES[body.response_format])


@router.post(
    "/v1/audio/speech/batch",
    response_model_exclude_none=True,
    responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}},
)
async def create_speech_batch(request: Request, body: BatchRequest) -> BatchResponse:
    """Speak up to 32 texts. One that fails does not keep the others from being spoken."""
    service = service_of(request)
    jobs: list[SpeechJob | ApiError] = []
    for item in body.items:
        changes = item.model_dump(exclude_none=True, exclude={"input"})
        options = SpeechOptions(**{**body.model_dump(exclude={"items"}), **changes})
        try:
            jobs.append(make_job(service, options, item.input))
        except ApiError as error:
            # A wrong model or option of the batch is wrong for all.
            if error.param in ("model", "timestamp_granularities", "instructions"):
                raise
            jobs.append(error)
    service.speech_places.check_room(len(jobs))
    results = await while_connected(request, _speak_all(service, jobs, body))
    succeeded = sum(result.status == "success" for result in results)
    return BatchResponse(
        id=f"batch_{uuid4().hex}",
        results=results,
        total=len(results),
        succeeded=succeeded,
        failed=len(results) - succeeded,
    )


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


async def encoded(
    speech: Speech, first: Waveform, chunks: AsyncGenerator[Waveform, None], audio_format: AudioFormat
) -> AsyncGenerator[bytes, None]:
    """Yield speech as bytes of a format, as they become ready.

    Args:
        speech: The speech.
        first: Its first chunk.
        chunks: The other chunks.
        audio_format: The format.
    """
    encoder = AudioEncoder(audio_format, speech.sampling_rate)
    yield encoder.encode(first)
    async for chunk in chunks:
        yield encoder.encode(chunk)
    yield encoder.finish()


async def _events(
    speech: Speech, first: Waveform, chunks: AsyncGenerator[Waveform, None], body: SpeechRequest
) -> AsyncGenerator[bytes, None]:
    """Yield speech as server-sent events."""
    try:
        async for content in encoded(speech, first, chunks, body.response_format):
            # Some formats hold bytes back.
            if content:
                yield _event("speech.audio.delta", audio=base64.b64encode(content).decode())
        details = timestamps(speech.result, body.timestamp_granularities)
        yield _event("speech.audio.done", usage=usage(speech), **details)
    except ApiError as error:
        yield _event("speech.audio.error", **error.body)
    except Exception:
        yield _event("speech.audio.error", **error_body(500, "internal error: the log of the server describes it"))
        raise


def _event(kind: str, **fields: Any) -> bytes:
    return f"data: {json.dumps({'type': kind, **fields})}\n\n".encode()


def usage(speech: Speech) -> dict[str, int]:
    """Return the number of tokens that were read and written: phonemes or pieces of text, and codes."""
    lm = speech.job.model.lm
    num_read = len(getattr(speech.result, "phonemes", ())) or len(lm.vocabulary.text_ids(speech.job.text))
    num_written = int(speech.result.stats["tokens"])
    return {"input_tokens": num_read, "output_tokens": num_written, "total_tokens": num_read + num_written}


def timestamps(result: SpeechResult, granularities: list[Literal["word", "phoneme"]]) -> dict[str, Any]:
    """Return when each word or phoneme is spoken, in seconds, as far as it was asked for."""
    lists: dict[str, Any] = {}
    if "word" in granularities:
        lists["words"] = [
            {"word": item.text, "start": item.start_s, "end": item.end_s} for item in getattr(result, "words", ())
        ]
    if "phoneme" in granularities:
        phonemes = []
        for item in getattr(result, "phonemes", ()):
            phonemes.append({"phoneme": item.text, "start": item.start_s, "end": item.end_s})
        lists["phonemes"] = phonemes
    return lists


async def _speak_all(service: Service, jobs: list[SpeechJob | ApiError], body: BatchRequest) -> list[BatchResult]:
    """Speak the texts of a batch together."""
    tasks = [asyncio.ensure_future(_speak_one(service, index, job, body)) for index, job in enumerate(jobs)]
    try:
        return await asyncio.gather(*tasks)
    finally:
        # After an error, or when the client has gone away.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _speak_one(service: Service, index: int, job: SpeechJob | ApiError, body: BatchRequest) -> BatchResult:
    try:
        if isinstance(job, ApiError):
            raise job
        speech = Speech(service, job)
        async with aclosing(speech.chunks()) as chunks:
            async for _ in chunks:
                pass
    except ApiError as error:
        return BatchResult(index=index, status="error", error=error.body["error"])
    content = encode_audio(speech.result.audio, body.response_format, speech.sampling_rate)
    return BatchResult(
        index=index,
        status="success",
        audio_data=base64.b64encode(content).decode(),
        media_type=MEDIA_TYPES[body.response_format],
        usage=usage(speech),
        **timestamps(speech.result, body.timestamp_granularities),
    )
