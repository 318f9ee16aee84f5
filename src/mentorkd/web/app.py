"""The application: its routes, its middleware, and what its pages share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from mentorkd.reporting.drawing import PALETTE
from mentorkd.web.copies import Tables
from mentorkd.web.pages import ask, compare, predictions, rationales, run, runs, tokens
from mentorkd.web.respond import ERRORS, LastResort
from mentorkd.web.runs import Runs
from mentorkd.web.security import Guard, new_token
from mentorkd.web.served import Served

PAGES = (runs, compare, rationales, tokens, predictions, ask, run)


def build_app(folders: Sequence[Path], *, token: str | None, host: str, port: int) -> Starlette:
    """The application over run folders, and folders with runs in them, for a server at `host` and `port`.

    `token`: what a browser has to know; None for an address that only this machine reaches. Raises RunError for a folder that does
    not exist.
    """
    routes = [
        Route("/palette.css", _palette),
        Mount("/static", StaticFiles(packages=[("mentorkd.web", "static")])),
        *(route for page in PAGES for route in page.ROUTES),
    ]
    middleware = [Middleware(Guard, host=host, port=port, token=token), Middleware(LastResort)]
    app = Starlette(routes=routes, middleware=middleware, exception_handlers=ERRORS, lifespan=_lifespan)
    app.state.runs = Runs(folders)
    app.state.cross_site = new_token()
    app.state.served = Served()
    app.state.tables = Tables()
    return app


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    """Unload the models that were asked when the server ends."""
    yield
    app.state.served.close()


def _palette(request: Request) -> Response:
    """The colours of the report, as CSS variables."""
    light, dark = ("".join(f"--{name}:{value};" for name, value in PALETTE[scheme].items()) for scheme in PALETTE)
    css = f":root{{color-scheme:light dark;{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
    return Response(css, media_type="text/css")
