"""The first page: every run."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mentorkd.web.respond import respond


def show_runs(request: Request) -> Response:
    """The runs in the given folders."""
    rows = [{"run": run, "folder": str(folder)} for run, folder in request.app.state.runs.find()]
    return respond(request, "runs.html.jinja", {"rows": rows})


ROUTES = [Route("/", show_runs)]
