"""One answer in three forms: a page of a template, or its value as JSON or CSV (`?format=json`, `?format=csv`)."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mentorkd.errors import MentorkdError
from mentorkd.printable import printable
from mentorkd.reporting.format import (
    format_count,
    format_dollars,
    format_points,
    format_seconds,
    format_setting,
    format_share,
)
from mentorkd.reporting.statistics import format_p

log = logging.getLogger(__name__)

FORMATS = ("json", "csv")
_NUMBER = r"[+-][0-9][0-9,]*(\.[0-9]+)?"


def _shown(value: Any) -> Any:
    """A value as a page shows it: of texts, control characters and marks that reverse their direction are escaped."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _raw(text: str) -> Markup:
    """A text as the value of a field, which sends it back as it is: escaped for HTML alone, but for lone surrogates."""
    return Markup(escape(text.encode(errors="backslashreplace").decode()).replace("\r", Markup("&#13;")))


_environment = Environment(
    loader=PackageLoader("mentorkd.web"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {"count": format_count, "points": format_points, "share": format_share, "p": format_p}
_environment.filters |= {"seconds": format_seconds, "setting": format_setting, "dollars": format_dollars}
_environment.filters["raw"] = _raw
_environment.filters |= {
    "clock": lambda seconds: datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S"),
    "iso": lambda seconds: datetime.fromtimestamp(seconds, UTC).isoformat(),
}


def respond(
    request: Request, template: str, value: Mapping[str, Any], *, status: int = 200, **context: Any
) -> Response:
    """The page of a template, which sees the keys of `value` and `context` by name.

    With `?format=json` the answer is `value`, and with `?format=csv` its `rows`, one mapping a row: both are of plain values.
    `status` is that of the HTTP answer. Raises HTTPException for another format.
    """
    form = request.query_params.get("format")
    if form is None:
        return HTMLResponse(render(request, template, **value, **context), status)
    if form == "json":
        return Response(json.dumps(value, ensure_ascii=False, indent=1), status, media_type="application/json")
    if form == "csv":
        return Response(to_csv(value.get("rows", [])), status, media_type="text/csv")
    raise HTTPException(400, f"got format={form}; expected one of {', '.join(FORMATS)}")


def render(request: Request, template: str, **context: Any) -> str:
    """The text of a template. It can call `here(key=value)`: this address with other query parameters (None: without one)."""
    return _environment.get_template(template).render(
        request=request, here=lambda **changes: here(request, **changes), run_url=run_url, formats=FORMATS, **context
    )


def here(request: Request, **changes: Any) -> str:
    """The address of a request with other query parameters; None leaves one out."""
    query = [(key, value) for key, value in request.query_params.multi_items() if key not in changes]
    return "?" + urlencode([*query, *((key, value) for key, value in changes.items() if value is not None)])


def run_url(run: str, page: str = "") -> str:
    """The address of a page of a run; without `page` that of the run's own page."""
    return f"/run/{quote(run)}/{page}"


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header of all their keys; a value that is a list or a mapping is JSON."""
    rows = list(rows)
    file = io.StringIO()
    keys = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(file, keys, lineterminator="\r\n")
    writer.writerow({key: _cell(key) for key in keys})
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return file.getvalue()


def _cell(value: Any) -> Any:
    """A value as a cell. A spreadsheet computes texts that begin like a formula, wherever they come from: they get a `'` before them.

    https://owasp.org/www-community/attacks/CSV_Injection
    """
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | dict) else value
    if not isinstance(text, str):
        return text
    is_formula = text.startswith(("=", "+", "-", "@", "\t", "\r")) and not re.fullmatch(_NUMBER, text)
    return "'" * is_formula + printable(text)


def read_page(request: Request, pages: int) -> int:
    """The number of the page that an address asks for, from 1. Raises HTTPException for one that there is not."""
    text = request.query_params.get("page", "1")
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text, re.ASCII):
        raise HTTPException(400, f"got page={text if len(text) < 20 else text[:20] + '…'}; expected a number from 1")
    if (number := int(text)) > pages:
        raise HTTPException(404, f"got page {number}; there {'are' if pages > 1 else 'is'} {pages}")
    return number


def show_error(request: Request, error: Exception) -> Response:
    """The page that says what is wrong: of a wrong address, an error of mentorkd's own tree, or a file that cannot be read."""
    status = error.status_code if isinstance(error, HTTPException) else 409
    text = _detail(request, error) if isinstance(error, HTTPException) else str(error)
    value = {"error": text, "rows": [{"error": text}]}
    try:
        return respond(request, "error.html.jinja", value, status=status)
    except HTTPException:  # a wrong format is among the errors
        return HTMLResponse(render(request, "error.html.jinja", **value), status)


def _detail(request: Request, error: HTTPException) -> str:
    """What an error says; of those that the routes raise, the address and what to do."""
    if error.detail != HTTPStatus(error.status_code).phrase:
        return error.detail
    path = request.url.path
    if error.status_code == 405:
        expected = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        return f"got {request.method} {path}; expected {expected}; start at the page of all runs"
    return f"got the address {path}, which is none here; start at the page of all runs"


class LastResort:
    """Middleware: an error that no handler expects is logged, and gives the page of errors, so that the connection lives on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = False

        async def send_noting(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self.app(scope, receive, send_noting)
        except Exception as error:
            if scope["type"] != "http" or began:
                raise
            log.exception("a fault of mentorkd, at %s", printable(scope["path"]))
            text = f"a fault of mentorkd ({type(error).__name__}: {error}); the terminal shows where, please report it"
            await show_error(Request(scope), HTTPException(500, text))(scope, receive, send)


ERRORS: dict[Any, Any] = {HTTPException: show_error, MentorkdError: show_error, OSError: show_error}
"""The handlers of errors, for the application."""
