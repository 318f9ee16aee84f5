"""The web application in a real browser: `mentorkd view` in a process of its own, and headless Chromium."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["open_browser", "open_page", "viewing"]


@contextmanager
def viewing(*arguments: Path | str) -> Iterator[str]:
    """The address of `mentorkd view` with these arguments, which Ctrl-C ends."""
    command = [sys.executable, "-m", "mentorkd", "view", *map(str, arguments), "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().split()[0].rstrip("/")
        server.send_signal(signal.SIGINT)
        assert server.wait(10) == 0
    finally:
        server.kill()
        server.wait()
        if server.stdout:
            server.stdout.close()


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Headless Chromium; skips the test where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is installed by pip install 'mentorkd[dev]'"
    )
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no browser: neither chromium nor google-chrome is on the PATH")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def open_page(browser: Browser, address: str, **options: object) -> Iterator[Page]:
    """A page in a window of its own. No error may have come to its console, and it may have asked no other machine."""
    context = browser.new_context(base_url=address, **options)  # type: ignore[arg-type]
    context.set_default_timeout(20_000)
    page = context.new_page()
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith((address, "data:")) else errors.append(request.url)
    )
    yield page
    context.close()
    assert errors == []
