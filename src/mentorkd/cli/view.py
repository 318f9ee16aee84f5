"""The command `view`: look at runs in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mentorkd.cli.console import say
from mentorkd.errors import MissingExtraError, RunError


def view(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN]...", help="Run folders, or folders with runs in them. Default: runs.", show_default=False
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(help="The address to listen on. Others can reach any but 127.0.0.1, and need the printed token."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes any free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, and open no browser.")] = False,
) -> None:
    """Look at runs in the browser: progress, rationales, tokens, predictions; ask the learners. Ctrl-C ends it."""
    folders = folders or [Path("runs")]
    for folder in folders:
        if not folder.is_dir():
            raise RunError(f"got {folder}, which is no folder; expected a run folder, or a folder with runs in it")
    try:
        import duckdb  # noqa: F401
        import pyarrow  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtraError("`mentorkd view`", "view") from None
    from mentorkd.web.app import build_app
    from mentorkd.web.runs import Runs
    from mentorkd.web.security import is_loopback, new_token
    from mentorkd.web.server import listen, open_browser, run_server, shared_url, url_of

    left_out: list[str] = []
    if next(Runs(folders).find(left_out), None) is None:
        got = ", ".join(map(str, folders))
        raise RunError("; ".join([f"got {got}, with no run in it; `mentorkd run RECIPE` makes one", *left_out]))
    host = host.removeprefix("[").removesuffix("]")
    sock = listen(host, port)
    token = None if is_loopback(host) else new_token()
    app = build_app(folders, token=token, host=host, port=sock.getsockname()[1])
    url = url_of(sock, host, token)
    say(f"{url}  (Ctrl-C ends)")
    if shared := shared_url(sock, host, token):
        say(f"{shared}  (for other machines)")
    if not no_browser:
        open_browser(url)
    run_server(app, sock)
