"""The launch settings of the page: loopback unless there is a password, nothing shared, nothing sent home."""

from __future__ import annotations

from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from spf.ui import catalog, theme

QUEUE_SIZE = 32
SESSIONS = 100
MAX_UPLOAD = "20mb"
# What the page would fetch from any other address, the browser refuses. Gradio makes the scripts of components out of text.
POLICY = ("default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
          "form-action 'self'")


class OnlyFromHere:
    """Adds POLICY to every answer."""

    def __init__(self, app: Any):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self._app(scope, receive, send_with_policy)


def launch(demo: gr.Blocks, host: str = "127.0.0.1", port: int | None = None,
           auth: tuple[str, str] | None = None) -> str:
    """Start serving in the background; returns the address. Raises OSError if the port is taken."""
    demo.queue(max_size=QUEUE_SIZE, default_concurrency_limit=1)
    _, url, _ = demo.launch(server_name=host, server_port=port, auth=[auth] if auth else None, **settings())
    return url


def settings() -> dict[str, Any]:
    """Everything that does not depend on flags."""
    home = catalog.home()
    return {
        "_frontend": False,  # else gradio asks its own page once, and gives up where a busy machine answers late
        "quiet": True, "prevent_thread_lock": True, "inbrowser": False, "share": False, "mcp_server": False,
        "strict_cors": True, "show_error": True, "ssr_mode": False, "pwa": False, "run_history": False,
        "footer_links": [],
        "max_file_size": MAX_UPLOAD, "state_session_capacity": SESSIONS,
        "allowed_paths": [str(catalog.outputs())],
        "blocked_paths": [str(home / name) for name in ("runs", "customizations", "datasets", "presets", "studio.sqlite")],
        "app_kwargs": {"middleware": [Middleware(OnlyFromHere)]},
        "theme": theme.theme(), "css": theme.css(),
    }
