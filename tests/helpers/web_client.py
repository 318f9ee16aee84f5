"""Requests to the web application, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from mentorkd.web.app import build_app

__all__ = ["ADDRESS", "cross_site", "web_client"]

ADDRESS = "http://127.0.0.1:8000"


def web_client(*folders: Path, token: str | None = None, host: str = "127.0.0.1", **options: Any) -> TestClient:
    """A browser, nearly, that looks at these folders."""
    app = build_app(folders, token=token, host=host, port=8000)
    return TestClient(app, base_url=options.pop("base_url", ADDRESS), follow_redirects=False, **options)


def cross_site(client: TestClient) -> str:
    """The token that forms need."""
    return str(client.app.state.cross_site)  # type: ignore[attr-defined]
