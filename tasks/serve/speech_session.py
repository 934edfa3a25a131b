"""WebSocket sessions: text comes in parts, as a language model writes it, and each sentence is spoken at once.

The client sends `session.config`, then any number of `input.text`, then `input.done`. The server answers each sentence
with `audio.start`, binary frames and `audio.done`, and at last sends `session.done`.
"""

import asyncio
import json
import re
from contextlib import aclosing, suppress
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from ...tokenizer.files import printable
from .audio_formats import AudioEncoder, AudioFormat
from .errors import ApiError, from_validation
from .service import Service
from .speech_job import MAX_CHARACTERS, Speech, SpeechOptions, make_job, timestamps, usage

router = APIRouter()

MAX_SESSION_CHARACTERS = 32 * MAX_CHARACTERS
_IDLE_S = 60.0  # longest time between two messages of a client
_CLOSE_POLICY = 1008
_CLOSE_GOING_AWAY = 1001
_CLOSE_BUSY = 1013
# A period after these ends no sentence.
_ABBREVIATIONS = r"(?<!\bMr\.)(?<!\bMrs\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\bvs\.)(?<!\b[A-Z]\.)"
_SENTENCE_END = re.compile(rf"(?:(?<=[.!?…]){_ABBREVIATIONS}|(?<=[.!?…][\"”')\]]))\s+|\n+")


class SessionConfig(SpeechOptions):
    """The message `session.config`. Its fields are those of a request for speech."""

    response_format: AudioFormat = "pcm"


@router.websocket("/v1/audio/speech/stream")
async def speech_stream(websocket: WebSocket) -> None:
    """Speak the sentences of a text that arrives in parts."""
    service: Service = websocket.app.state.service
    await websocket.accept()
    if len(service.sessions) >= service.limits.max_running + service.limits.max_waiting:
        await websocket.close(_CLOSE_BUSY, "the server is busy: try again later")
        return
    session = _Session(websocket, service)
    service.sessions.add(session)
    try:
        # The client may go away at any time.
        with suppress(WebSocketDisconnect):
            await session.run()
    finally:
        service.sessions.discard(session)


def split_sentences(text: str) -> tuple[list[str], str]:
    """Split a text that may go on into whole sentences and the rest."""
    *sentences, rest = _SENTENCE_END.split(text)
    return [sentence for sentence in sentences if sentence.strip()], rest


class _Session:
    """One connection."""

    def __init__(self, websocket: WebSocket, service: Service) -> None:
        self._websocket = websocket
        self._service = service
        self._sentences: asyncio.Queue[str | None] = asyncio.Queue()
        self._unfinished = ""  # text after the last whole sentence
        self._num_characters = 0
        self._input_is_done = False

    async def run(self) -> None:
        """Answer a client until all is spoken, or until the server stops."""
        try:
            config = SessionConfig(**await self._receive("session.config"))
            # Find mistakes before the first text.
            make_job(self._service, config, "text")
        except ValidationError as error:
            await self._refuse(from_validation(error.errors()))
            return
        except ApiError as error:
            await self._refuse(error)
            return

        listener = asyncio.create_task(self._listen())
        speaker = asyncio.create_task(self._speak(config))
        stop = asyncio.create_task(self._service.draining.wait())
        try:
            await asyncio.wait({listener, speaker, stop}, return_when=asyncio.FIRST_COMPLETED)
            if listener.done():
                # The client is gone, or has sent what it must not.
                await self._refuse(listener.result())
                return
            if not speaker.done():
                # The server stops: what was sent so far is still spoken.
                listener.cancel()
                self._end_input()
            await speaker
            await self._websocket.close(_CLOSE_GOING_AWAY if stop.done() else 1000)
        finally:
            for task in (listener, speaker, stop):
                task.cancel()
            await asyncio.gather(listener, speaker, stop, return_exceptions=True)

    async def _listen(self) -> ApiError:
        """Queue the sentences of a client until it goes away; return its mistake if it makes one."""
        try:
            while True:
                message = await self._receive("input.text", "input.done")
                if self._input_is_done:
                    raise ApiError(400, "there is no input after input.done: open another session", "type")
                if "text" not in message:
                    self._end_input()
                    continue
                text = message["text"]
                # JSON can hold halves of surrogate pairs, which no text can.
                if not isinstance(text, str) or printable(text) != text:
                    raise ApiError(400, "text: a string of valid Unicode is needed", "text")
                self._num_characters += len(text)
                sentences, self._unfinished = split_sentences(self._unfinished + text)
                longest = max(map(len, [*sentences, self._unfinished]))
                if longest > MAX_CHARACTERS or self._num_characters > MAX_SESSION_CHARACTERS:
                    raise ApiError(
                        400,
                        f"a sentence has up to {MAX_CHARACTERS} characters and a session up to "
                        f"{MAX_SESSION_CHARACTERS}: send less",
                        "text",
                    )
                for sentence in sentences:
                    self._sentences.put_nowait(sentence)
        except ApiError as error:
            return error

    def _end_input(self) -> None:
        if not self._input_is_done:
            self._input_is_done = True
            self._sentences.put_nowait(self._unfinished)
            self._sentences.put_nowait(None)

    async def _receive(self, *kinds: str) -> dict[str, Any]:
        """Return the fields of the next message, without its type.

        Raises:
            ApiError: The message is not JSON or of another kind, or none came for too long.
            WebSocketDisconnect: The client is gone.
        """
        timeout_s = None if self._input_is_done else _IDLE_S
        try:
            event = await asyncio.wait_for(self._websocket.receive(), timeout_s)
        except asyncio.TimeoutError:
            raise ApiError(408, f"no message came for {_IDLE_S:g} s", code="idle") from None
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", 1000))
        try:
            message = json.loads(event.get("text") or "")
        except (ValueError, RecursionError):
            message = None
        kind = message.pop("type", None) if isinstance(message, dict) else None
        if kind not in kinds or (kind == "input.text") != ("text" in message):
            expected = " or ".join(kinds)
            raise ApiError(400, f"expected JSON with the type {expected} (input.text has a text)", "type")
        return message

    async def _speak(self, config: SessionConfig) -> None:
        """Speak the sentences one after the other."""
        index = 0
        while (sentence := await self._sentences.get()) is not None:
            if not sentence.strip():
                continue
            await self._speak_sentence(config, index, sentence)
            index += 1
        await self._send("session.done", total_sentences=index)

    async def _speak_sentence(self, config: SessionConfig, index: int, sentence: str) -> None:
        num_bytes = 0
        details: dict[str, Any] = {"error": False}
        try:
            speech = Speech(self._service, make_job(self._service, config, sentence))
            encoder = AudioEncoder(config.response_format, speech.sampling_rate)
            await self._send(
                "audio.start",
                sentence_index=index,
                sentence_text=sentence,
                format=config.response_format,
                sample_rate=encoder.sampling_rate,
            )
            async with aclosing(speech.chunks()) as chunks:
                async for chunk in chunks:
                    num_bytes += await self._send_bytes(encoder.encode(chunk))
            num_bytes += await self._send_bytes(encoder.finish())
            details.update(usage=usage(speech), **timestamps(speech.result, config.timestamp_granularities))
        # The next sentence may be spoken all the same.
        except ApiError as error:
            details["error"] = True
            await self._send("error", **error.body)
        await self._send("audio.done", sentence_index=index, total_bytes=num_bytes, **details)

    async def _send(self, kind: str, **fields: Any) -> None:
        await self._websocket.send_json({"type": kind, **fields})

    async def _send_bytes(self, content: bytes) -> int:
        """Send bytes, and return how many."""
        if content:
            await self._websocket.send_bytes(content)
        return len(content)

    async def _refuse(self, error: ApiError) -> None:
        """Tell a client its mistake, and end the session."""
        await self._send("error", **error.body)
        await self._websocket.close(_CLOSE_POLICY)
