"""The command `serve`: the learners of a run behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import Annotated

import typer

from mentorkd.cli.console import say
from mentorkd.cli.options import NoVerify, RunPath
from mentorkd.errors import MissingExtraError, RunError


def serve(
    folder: RunPath,
    learner: Annotated[str | None, typer.Option(help="The learner to serve. Default: all learners.")] = None,
    seed: Annotated[int | None, typer.Option(help="Its seed. Default: all seeds.")] = None,
    host: Annotated[
        str,
        typer.Option(help="The address to listen on. Others can reach any but 127.0.0.1, and need the token."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes any free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="MENTORKD_TOKEN",
            help="The key that clients must send (OPENAI_API_KEY). Default: none on 127.0.0.1, a new one on other addresses.",
        ),
    ] = None,
    no_verify: NoVerify = False,
) -> None:
    """Serve the trained learners of a run to OpenAI clients: models, completions and chat completions. Ctrl-C ends it."""
    if token == "":
        raise RunError("got an empty --token, which keeps nobody out; give a key, or leave it out")
    if not (find_spec("starlette") and find_spec("uvicorn")):
        raise MissingExtraError("`mentorkd serve`", "serve")
    from mentorkd.web.endpoint import build_endpoint
    from mentorkd.web.security import is_loopback, new_token
    from mentorkd.web.server import listen, run_server, url_of
    from mentorkd.web.serving import ServedLearners

    served = ServedLearners(folder, learner=learner, seed=seed, verify=not no_verify)
    sock = listen(host, port)
    try:
        if token is None and not is_loopback(host):
            token = new_token()
        asyncio.run(served.load(served.models()[0]))  # faults show here, and the first client does not wait
        for line in served.unfinished:
            say(f"! not served: {line}", error=True)
        key = "any" if token is None else token
        say(f"base_url {url_of(sock, host)}v1 · api_key {key} · models {', '.join(served.models())}  (Ctrl-C ends)")
        app = build_endpoint(served, token=token, host=host, port=sock.getsockname()[1])
        run_server(app, sock, served.close)
    finally:
        sock.close()
        served.close()
