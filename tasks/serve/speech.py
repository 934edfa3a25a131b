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
from .audio_formats import MEDIA_TYPES, AudioEncoder, AudioFormat, encode_audio
from .errors import ApiError, ErrorBody, error_body
from .limits import while_connected
from .service import Service, service_of
from .speech_job import MAX_CHARACTERS, Speech, SpeechJob, SpeechOptions, VoiceId, make_job, timestamps, usage

router = APIRouter()

MAX_BATCH = 32


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
    audio_data: str | None = Field(default=None, description="The audio file in base64.")
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
        # Readers of the schema disagree on whether it would describe a whole stream or each of its events.
        200: {"content": {**_AUDIO, "text/event-stream": {}}, "description": "Speech."},
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
