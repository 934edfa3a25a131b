"""Commands that serve models to browsers and programs. Heavy libraries are imported inside."""

from collections.abc import Callable


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
    from ..serve.page_tasks import Limits, load_models

    page = build_page(load_models(model), limits=Limits(max_seconds, max_characters))
    _, url, _ = page.launch(server_name=host, server_port=port, quiet=True, prevent_thread_lock=True, **page_options())
    print(f"open {url} in a browser; Ctrl-C ends the server", flush=True)
    page.block_thread()


COMMANDS: dict[str, Callable[..., str | None]] = {
    "app": app,
}
