"""The application, and the process that serves it until SIGTERM or Ctrl-C."""

import asyncio
import hmac
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match, Mount
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from focallm import __version__

from ...lm.model import SpeechLM
from . import recordings, speech, speech_session
from .errors import ApiError, ErrorBody, add_error_handlers
from .limits import Guard
from .service import Limits, ServedModel, Service, first_model, load_models, service_of

logger = logging.getLogger(__name__)

_HEADER_S = 10.0  # longest time from a connection to the end of the headers of its first request
_UNREAD_S = 60  # longest time that a client may read nothing
_LOGIN = "The password is the key of this server; the user name may be any."
_MAX_MESSAGE = 1 << 20  # bytes of a message in a WebSocket
_ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}}

router = APIRouter()


class ModelDescription(BaseModel):
    """A model of the server."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "focallm"
    tasks: list[str]


class ModelList(BaseModel):
    """All models of the server."""

    object: Literal["list"] = "list"
    data: list[ModelDescription]


class Health(BaseModel):
    """Whether the server takes requests, and how many run and wait."""

    status: Literal["ok", "draining"]
    running: int
    waiting: int


@router.get("/v1/models", responses=_ERRORS)
def list_models(request: Request) -> ModelList:
    """List the models and what each can be used for."""
    return ModelList(data=[_describe(request, model) for model in service_of(request).models.values()])


@router.get("/v1/models/{model_id:path}", responses=_ERRORS)
def get_model(request: Request, model_id: str) -> ModelDescription:
    """Describe one model."""
    models = service_of(request).models
    if model_id not in models:
        names = ", ".join(models)
        raise ApiError(404, f"no model is called {model_id!r}; this server has {names}", "model", "model_not_found")
    return _describe(request, models[model_id])


@router.head("/health", include_in_schema=False)
@router.get("/health", responses=_ERRORS)
def health(request: Request) -> Health:
    """Tell a load balancer whether the server takes requests."""
    service = service_of(request)
    running = service.speech_places.running + service.recording_places.running
    waiting = service.speech_places.waiting + service.recording_places.waiting
    return Health(status="draining" if service.draining.is_set() else "ok", running=running, waiting=waiting)


@router.get("/metrics", response_class=PlainTextResponse, responses=_ERRORS)
def metrics(request: Request) -> PlainTextResponse:
    """Return metrics in the text format of Prometheus."""
    return PlainTextResponse(service_of(request).metrics.render(), media_type="text/plain; version=0.0.4")


def _describe(request: Request, model: ServedModel) -> ModelDescription:
    return ModelDescription(id=model.name, created=request.app.state.started_at, tasks=model.tasks)


def create_app(
    models: dict[str, ServedModel],
    voices: Path,
    api_key: str | None = None,
    limits: Limits | None = None,
    page: bool = False,
) -> FastAPI:
    """Make the ASGI application.

    Args:
        models: Loaded models by name.
        voices: Folder of uploaded voices.
        api_key: What clients must send as `Authorization: Bearer KEY`, if anything.
        limits: How much the server accepts.
        page: Show a page to try the models at /, which needs gradio.
    """
    service = Service(models, voices, limits or Limits())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    # The interactive pages of FastAPI load scripts from another site.
    app = FastAPI(title="focallm", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.state.started_at = int(time.time())
    for part in (router, speech.router, speech_session.router, recordings.router):
        app.include_router(part)
    if page:
        mount_page(app, service, api_key)
    add_error_handlers(app)
    app.add_middleware(
        Guard,
        api_key=api_key,
        max_bytes=round(service.limits.max_upload_mb * 2**20),
        count=service.metrics.count,
        draining=service.draining,
    )
    return app


async def _refuse_unknown(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a path that does not exist, or that takes other methods."""
    if scope["type"] != "http":
        return
    methods = []
    for method in ("GET", "POST", "DELETE"):
        # The path is relative to where the app is mounted.
        whole = {**scope, "method": method, "root_path": ""}
        routes = [route for route in scope["app"].router.routes if not isinstance(route, Mount)]
        if any(route.matches(whole)[0] == Match.FULL for route in routes):
            methods.append(method)
    if methods:
        raise HTTPException(405, headers={"Allow": ", ".join(methods)})
    raise HTTPException(404)


def mount_page(app: FastAPI, service: Service, api_key: str | None) -> None:
    """Show the page at /, if gradio is installed. With a key, visitors enter it as the password."""
    try:
        import gradio

        from .page import build_page, page_options
    except ImportError:
        return
    speaking = first_model(service.models, "speech")
    models: dict[str, SpeechLM] = {}
    for task, name in (("speech", "tts"), ("enhance", "se"), ("separate", "ss")):
        model = first_model(service.models, task)
        if model is not None:
            models[name] = model.lm
    page = build_page(models, generator=speaking.batch if speaking else None)
    auth = None if api_key is None else lambda user, password: hmac.compare_digest(password.encode(), api_key.encode())
    # The page takes all paths that nothing else takes, and programs need no HTML.
    for prefix in ("/v1", "/audio"):
        app.mount(prefix, _refuse_unknown)
    gradio.mount_gradio_app(app, page, path="/", auth=auth, auth_message=_LOGIN, **page_options())


def serve(
    sources: list[str],
    host: str,
    port: int,
    voices: Path,
    api_key: str | None,
    limits: Limits,
    page: bool,
    drain_s: float,
) -> None:
    """Load models and serve them until the process is told to stop.

    Args:
        sources: Models, as in `load_models`.
        host: Address to listen at.
        port: Port to listen at; 0 for a free one.
        voices: Folder of uploaded voices.
        api_key: As in `create_app`.
        limits: As in `create_app`.
        page: As in `create_app`.
        drain_s: After SIGTERM or Ctrl-C, how long requests may take to end.

    Raises:
        OSError: There is no such model, or the port is in use.
        ValueError: Two models have the same name.
    """
    # A port in use is found before the models are loaded.
    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    models = load_models(sources, limits.max_running)
    app = create_app(models, voices, api_key, limits, page)
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws_max_size=_MAX_MESSAGE,
        log_level="warning",
        timeout_graceful_shutdown=round(drain_s),
    )
    # uvicorn raises the signal again when all requests have ended, which is no failure.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _Server(config).run([listener])


class _Server(uvicorn.Server):
    """A server that lets WebSockets end, which uvicorn would cut, before it waits for all other requests."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say where."""
        await super().startup(sockets)
        app: Any = self.config.app
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            address = f"[{host}]" if ":" in host else host
            print(f"serving {', '.join(app.state.service.models)} at http://{address}:{port}", flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop when requests have ended, and after a second signal at once."""
        self.force_exit = self.should_exit
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: take no new connections, let sessions speak what they have, then end all others."""
        for server in self.servers:
            server.close()
        app: Any = self.config.app
        service: Service = app.state.service
        service.draining.set()
        deadline = time.monotonic() + (self.config.timeout_graceful_shutdown or 0)
        while service.sessions and time.monotonic() < deadline and not self.force_exit:
            await asyncio.sleep(0.05)
        # What the sessions took is not given to the other requests once more.
        self.config.timeout_graceful_shutdown = max(1, round(deadline - time.monotonic()))
        await super().shutdown(sockets)


class _Protocol(H11Protocol):
    """HTTP that closes connections whose first request does not come, or whose client does not read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for a request."""
        super().connection_made(transport)
        # Linux closes a connection that takes no data for so long.
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * _UNREAD_S)
        self.loop.call_later(_HEADER_S, self._close_if_unused)

    def _close_if_unused(self) -> None:
        # A connection that became a WebSocket has another protocol.
        if self.cycle is None and self.transport.get_protocol() is self and not self.transport.is_closing():
            self.transport.close()
