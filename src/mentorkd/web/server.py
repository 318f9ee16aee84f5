"""The server: a socket, an address that is printed, a browser, and an end by Ctrl-C."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import closing, suppress

import uvicorn
from starlette.types import ASGIApp

from mentorkd.errors import RunError

_LAST_SECONDS = 1
"""How long open streams may go on after Ctrl-C."""
_KEEP_ALIVE_SECONDS = 65
"""How long an idle connection stays open: more than clients and proxies keep one, so that none sends into a closing one."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address; port 0 is any free one. Raises RunError for a port in use, or an unknown address."""
    try:
        [family, kind, protocol, _, address], *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
            sock.listen(128)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        free = "give another --port, or none for any free one"
        why = {
            errno.EADDRINUSE: f"which is in use; {free}",
            errno.EACCES: f"which only the administrator may listen on; {free}",
        }
        raise RunError(
            f"got the address {host}:{port}, {why.get(error.errno or 0, f'where no server can listen ({error})')}"
        ) from None
    return sock


def url_of(sock: socket.socket, host: str, token: str | None = None) -> str:
    """The address of a server for a browser of this machine, with the token that lets it in."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{sock.getsockname()[1]}/" + (f"?token={token}" if token else "")


def shared_url(sock: socket.socket, host: str, token: str | None) -> str | None:
    """The address for browsers of other machines, of a server that listens on every address of this one; None for others."""
    if host not in ("0.0.0.0", "::"):
        return None
    family, elsewhere = (socket.AF_INET6, "2001:db8::1") if host == "::" else (socket.AF_INET, "192.0.2.1")
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))  # sends nothing: it only chooses the address that others see
            name = probe.getsockname()[0]
    except OSError:
        name = socket.gethostname()
    return url_of(sock, name, token)


class _Server(uvicorn.Server):
    """Ends what writes streams before it waits for the streams to end."""

    def __init__(self, config: uvicorn.Config, end: Callable[[], None]) -> None:
        super().__init__(config)
        self._end = end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await asyncio.to_thread(self._end)
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what is cut off from here on is no fault
        await super().shutdown(sockets)


def run_server(app: ASGIApp, sock: socket.socket, end: Callable[[], None] = lambda: None) -> None:
    """Answer requests until Ctrl-C. Then `end`, called in a thread, stops what open streams wait for."""
    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=_LAST_SECONDS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
    with closing(sock), suppress(KeyboardInterrupt):
        _Server(config, end).run(sockets=[sock])


def open_browser(url: str) -> None:
    """Show an address in the user's browser, if there is one with a window."""
    with suppress(webbrowser.Error):
        browser = webbrowser.get()
        if type(browser) is not webbrowser.GenericBrowser:  # which is one in the terminal
            threading.Thread(target=browser.open, args=[url], daemon=True).start()
