"""Who may ask what: the Host header, the access token, the cross-site token, and the headers of every reply.

A page of another site can send a browser's requests to a local address, and can give its own host name that address (DNS
rebinding). The host names that are answered, and a token in every form, shut out both. The pages show texts that models wrote:
their Content-Security-Policy allows no script or style but the application's own files, and no request to another machine.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_FORM_BYTES = 1 << 20

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; sandbox"
"""For the reports of runs, which are self-contained pages with their own style and no scripts."""

_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # without a referrer, forms would come from the origin `null`
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def new_token() -> str:
    """A secret for a URL or a form."""
    return secrets.token_urlsafe(24)


class Guard:
    """Middleware: answers only requests to a known host name, with the token if there is one, and not from another site.

    Args:
        host: the address that the server listens on. Of one that is any address of the machine (0.0.0.0), no host name is refused:
            the token keeps others out.
        token: what the URL (`?token=`, once; a cookie keeps it), the cookie or a bearer header has to have; None without.
    """

    def __init__(self, app: ASGIApp, *, host: str, port: int, token: str | None) -> None:
        self.app, self.token = app, token
        self.any_host = not is_loopback(host) and host in ("", "0.0.0.0", "::")
        self.host = host
        self.cookie = f"mentorkd-{port}"  # cookies do not know ports: two servers must not share one

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._refusal(scope) or self.app
        await answer(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that must not reach the application; None for all others."""
        connection = HTTPConnection(scope)
        headers = connection.headers
        if not self._is_known(headers.get("host", "")):
            return _refused(421, f"got the host {headers.get('host', '')!r}; use the address that the command printed")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and _is_foreign(headers):
            return _refused(403, f"got a request from {headers.get('origin')!r}, another site")
        if self.token is None:
            return None
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if _equal(bearer, self.token) or _equal(connection.cookies.get(self.cookie, ""), self.token):
            return None
        if _equal(connection.query_params.get("token", ""), self.token):
            return self._with_cookie(connection)
        return _refused(401, "no token, or a wrong one; use the address that the command printed, with its token")

    def _is_known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:  # a bracket that is not closed, for example
            return False
        return self.any_host or is_loopback(name) or name == self.host.lower()

    def _with_cookie(self, connection: HTTPConnection) -> Response:
        """The same address without the token, so that it is not in the history, with a cookie that has it."""
        assert self.token is not None
        query = urlencode([(key, value) for key, value in connection.query_params.multi_items() if key != "token"])
        path = "/" + connection.url.path.lstrip("/")  # `//` at its start would name another machine
        reply = RedirectResponse(f"{path}?{query}".rstrip("?"), 303)
        reply.set_cookie(self.cookie, self.token, httponly=True, samesite="lax")
        return reply


def _equal(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode(), secret.encode())


def _is_foreign(headers: Headers) -> bool:
    """Whether a browser says that a page of another site sent the request."""
    origin = headers.get("origin")
    try:
        return origin is not None and urlsplit(origin).netloc != headers.get("host")
    except ValueError:
        return True


def _refused(status: int, why: str) -> Response:
    return PlainTextResponse(f"mentorkd: {why}\n", status)


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form that a page of this application sent.

    Raises HTTPException for a form without the cross-site token that the page gave it, or with more than 1 MiB.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_FORM_BYTES:
            raise HTTPException(413, f"got a form of more than {MOST_FORM_BYTES:,} bytes; send a shorter text")
    fields = {
        name: values[-1] for name, values in parse_qs(body.decode(errors="replace"), keep_blank_values=True).items()
    }
    if not _equal(fields.pop("cross_site", ""), request.app.state.cross_site):
        why = "got a form of a page from an earlier start of the server"
        raise HTTPException(403, f"{why}; go back, copy your text, and load the page again")
    return fields
