"""Commands that serve models to browsers and programs. Heavy libraries are imported inside."""

import os
from collections.abc import Callable
from pathlib import Path


def serve(
    models: list[str],
    host: str = "127.0.0.1",
    port: int = 8000,
    voices: Path = Path("voices"),
    api_key: str | None = None,
    page: bool = True,
    max_running: int = 16,
    max_waiting: int = 64,
    max_upload_mb: float = 25.0,
    max_recording_s: float = 120.0,
    timeout_s: float = 300.0,
    drain_s: float = 30.0,
) -> None:
    """Serve models over HTTP: the speech API of OpenAI, voices, transcriptions and transformations.

    Args:
        models: Names, folders or hub ids, also as NAME=FOLDER. The default is mini and mini-rewriting.
        host: Address to listen at. Only this machine reaches the default.
        port: Port to listen at; 0 for a free one.
        voices: Folder of uploaded voices.
        api_key: Key that clients must send. The default is the variable FOCALLM_API_KEY, which other users of this
            machine cannot see.
        page: Show a page to try the models at /, if gradio is installed.
        max_running: Texts that are spoken at the same time.
        max_waiting: Requests that wait for a place. More are refused with status 429.
        max_upload_mb: Longest body of a request, in MB.
        max_recording_s: Longest recording in a request, in seconds.
        timeout_s: Longest time that a request may take, in seconds.
        drain_s: Time that running requests get to end after SIGTERM or Ctrl-C, in seconds.
    """
    try:
        from ..serve.server import serve as serve_models
        from ..serve.service import Limits
    except ModuleNotFoundError as error:
        raise ImportError(f"serve needs {error.name}: pip install 'focallm[serve]'") from None

    limits = Limits(max_running, max_waiting, max_upload_mb, max_recording_s, timeout_s)
    key = api_key or os.environ.get("FOCALLM_API_KEY")
    serve_models(models, host, port, voices, key, limits, page, drain_s)


def app(
    model: str = "mini",
    host: str = "127.0.0.1",
    port: int = 7860,
    max_seconds: float = 30.0,
    max_characters: int = 1000,
) -> None:
    """Serve a page to speak, enhance, separate, convert and encode with the microphone, files and texts.

    Args:
        model: mini, a folder or a hub id. The page has a tab for each task that the model was trained for.
        host: Address to listen at; 0.0.0.0 lets other machines in.
        port: Port to listen at.
        max_seconds: Longest recording that the page takes.
        max_characters: Longest text that the page takes.
    """
    from ..serve.page import build_page, page_options
    from ..serve.page_tasks import PageLimits, load_page_models

    page = build_page(load_page_models(model), limits=PageLimits(max_seconds, max_characters))
    _, url, _ = page.launch(server_name=host, server_port=port, quiet=True, prevent_thread_lock=True, **page_options())
    print(f"open {url} in a browser; Ctrl-C ends the server", flush=True)
    page.block_thread()


COMMANDS: dict[str, Callable[..., str | None]] = {
    "serve": serve,
    "app": app,
}
