"""Limits of a server: who may call it, how much a request may send, and how many requests run and wait."""

import asyncio
import hmac
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar
from uuid import uuid4

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError, error_response

UPLOAD_S = 60.0  # longest time that a client may take to send a request
_LINGER_S = 2.0  # how long a refused upload is still read, so that the client can read why it was refused
_JSON = "application/json"
_FORM = "multipart/form-data"
# What the bodies of requests to these paths must be.
_BODY_TYPES = {
    "/v1/audio/speech": _JSON,
    "/v1/audio/speech/batch": _JSON,
    "/v1/audio/voices": _FORM,
    "/v1/audio/transcriptions": _FORM,
    "/audio/transformations": _FORM,
    "/audio/transform": _FORM,
}
# What needs the key. Load balancers ask for /health without one, and the page has a form for the key.
_KEY_PATHS = ("/v1/", "/audio/", "/metrics", "/openapi.json")
# An open page holds a request to this path as long as it is open.
_HEARTBEAT = "/gradio_api/heartbeat/"
_T = TypeVar("_T")


class Guard:
    """ASGI middleware that refuses a request before the server does any work for it.

    Args:
        app: The application.
        api_key: What clients must send as `Authorization: Bearer KEY`, if anything.
        max_bytes: Longest body.
        count: Called with the scope and the status of each response.
        draining: Is set when the server ends, which must not wait for open pages.
        upload_s: Longest time to receive a body.
    """

    def __init__(
        self,
        app: ASGIApp,
        api_key: str | None,
        max_bytes: int,
        count: Callable[[Scope, int], None],
        draining: asyncio.Event,
        upload_s: float = UPLOAD_S,
    ) -> None:
        self.app = app
        self.count = count
        self.draining = draining
        self.api_key = api_key
        self.max_bytes = max_bytes
        self.upload_s = upload_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        request_id = uuid4().hex

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
                self.count(scope, message["status"])
            await send(message)

        headers = Headers(scope=scope)
        try:
            self._check_origin(headers)
            self._check_key(scope["path"], headers)
            if scope["type"] == "http":
                self._check_body(scope, headers)
        except ApiError as error:
            await self._refuse(error, scope, receive, send_with_id)
            return
        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
            return
        response = self.app(scope, self._limited(receive), send_with_id)
        if scope["path"].startswith(_HEARTBEAT):
            await self._until_draining(response, send)
        else:
            await response

    async def _until_draining(self, response: Awaitable[None], send: Send) -> None:
        """Send a response that has begun, and end it when the server ends."""
        work = asyncio.ensure_future(response)
        stop = asyncio.ensure_future(self.draining.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            if work.cancel():
                await asyncio.gather(work, return_exceptions=True)
        if work.cancelled():
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            work.result()

    def _check_origin(self, headers: Headers) -> None:
        """Refuse requests that a page of another site makes through the browser of a user."""
        origin = headers.get("origin")
        if origin and origin.partition("://")[2] != headers.get("host"):
            raise ApiError(
                403,
                "the request comes from a page of another host: behind a proxy, let it pass on the header Host",
                code="cross_origin",
            )

    def _check_key(self, path: str, headers: Headers) -> None:
        if self.api_key is None or not path.startswith(_KEY_PATHS):
            return
        sent = headers.get("authorization", "").removeprefix("Bearer ")
        # A comparison that stops at the first difference would tell how much of a guess is right. Headers are decoded
        # as Latin-1, whatever the client sent.
        if not hmac.compare_digest(sent.encode("latin-1"), self.api_key.encode()):
            raise ApiError(
                401,
                "the server has a key, and this request has none or another one: send Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _check_body(self, scope: Scope, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.max_bytes:
            raise self._too_large()
        expected = _BODY_TYPES.get(scope["path"])
        found = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and expected and found != expected:
            raise ApiError(
                415, f"the body must be {expected}, found {found or 'no Content-Type'}", code="unsupported_media_type"
            )

    def _too_large(self) -> ApiError:
        return ApiError(
            413,
            f"the body is larger than {self.max_bytes / 2**20:g} MB, the limit of this server",
            code="body_too_large",
        )

    def _limited(self, receive: Receive) -> Receive:
        """Return a `receive` that stops a body that is too large or too slow."""
        deadline = time.monotonic() + self.upload_s
        num_bytes = 0
        is_complete = False

        async def limited() -> Message:
            nonlocal num_bytes, is_complete
            # After the body, this waits for the end of the connection.
            if is_complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), deadline - time.monotonic())
            except asyncio.TimeoutError:
                raise ApiError(
                    408, f"the body did not arrive within {self.upload_s:g} s", code="upload_timeout"
                ) from None
            num_bytes += len(message.get("body", b""))
            if num_bytes > self.max_bytes:
                raise self._too_large()
            is_complete = not message.get("more_body", False)
            return message

        return limited

    async def _refuse(self, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        response = error_response(error)
        if scope["type"] == "websocket":
            await response(scope, receive, send)
            return
        response.headers["connection"] = "close"
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        # A connection that is closed with unread data is reset, and the client may not see the response.
        deadline = time.monotonic() + _LINGER_S
        more_body = True
        while more_body and time.monotonic() < deadline:
            try:
                message = await asyncio.wait_for(receive(), deadline - time.monotonic())
            except asyncio.TimeoutError:
                break
            more_body = message.get("more_body", False)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Places:
    """Places for requests that run, and a bounded queue of those that wait for one.

    Args:
        max_running: Number of places.
        max_waiting: Length of the queue. Requests beyond it are refused with status 429.
    """

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self.max_running = max_running
        self.max_waiting = max_waiting
        self.running = 0
        self.waiting = 0
        self._free = asyncio.Semaphore(max_running)
        self._mean_s = 1.0  # of the last requests

    def check_room(self, count: int = 1) -> None:
        """Raise an `ApiError` with status 429 unless so many requests can run or wait."""
        if self.running + self.waiting + count <= self.max_running + self.max_waiting:
            return
        rounds = (self.running + self.waiting + count) / self.max_running
        seconds = min(60, math.ceil(rounds * self._mean_s))
        raise ApiError(
            429,
            f"the server is busy: {self.running} requests run and {self.waiting} wait; try again in {seconds} s",
            code="server_busy",
            headers={"Retry-After": str(seconds)},
        )

    async def acquire(self, timeout_s: float) -> None:
        """Wait for a place. Whoever gets one calls `release` at the end.

        Args:
            timeout_s: Longest time to wait.

        Raises:
            ApiError: The queue is full, or the time is over.
        """
        self.check_room()
        self.waiting += 1
        try:
            await asyncio.wait_for(self._free.acquire(), timeout_s)
        except asyncio.TimeoutError:
            raise too_slow(timeout_s) from None
        finally:
            self.waiting -= 1
        self.running += 1

    def release(self, seconds: float) -> None:
        """Give a place back after so many seconds."""
        self.running -= 1
        self._free.release()
        self._mean_s += 0.1 * (seconds - self._mean_s)


def too_slow(timeout_s: float) -> ApiError:
    """Return the error for a request that takes too long."""
    return ApiError(503, f"the request took more than {timeout_s:g} s", code="timeout")


async def while_connected(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """Run something for a client, and cancel it when the client goes away.

    Args:
        request: The request, whose body has been read.
        work: What to run.

    Raises:
        ClientDisconnect: The client went away.
    """

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait([task, watcher], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect()
        return task.result()
    finally:
        for unfinished in (task, watcher):
            unfinished.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)
