"""HTTP to an endpoint: JSON is posted to it and to no other host, and a reply is read up to a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mentorkd.teachers.wire import Fault

if TYPE_CHECKING:
    import httpx

MOST_BYTES = 8 * 2**20
"""Longest reply, decompressed. 100,000 tokens of reasoning, all of them escaped in JSON, take 3 MiB."""
MOST_BYTES_WITH_LOGPROBS = 32 * 2**20
"""The same with log-probabilities: a token with one alternative takes up to 300 bytes, and 100,000 of them 29 MiB."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Response:
    """A reply as it came."""

    status: int
    headers: Mapping[str, str]
    """Their names can be looked up in lower case."""
    content: bytes


class Transport:
    """Connections to one endpoint. Nothing is sent twice here: retries are the client's.

    Args:
        key: the bearer token; None for an endpoint that needs none.
        timeout: seconds without a byte; a reply that trickles in is cut off after twice this time.
        connections: how many are kept open.
        most_bytes: longest reply that is read.
    """

    def __init__(self, key: str | None, *, timeout: float, connections: int, most_bytes: int = MOST_BYTES) -> None:
        import httpx

        self._most_bytes = most_bytes
        self._timeout = timeout
        self._client = httpx.AsyncClient(
            # Servers that need no key may want to see one nevertheless.
            headers={"Authorization": f"Bearer {key or 'none'}", "User-Agent": "mentorkd"},
            timeout=timeout,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=connections),
            follow_redirects=True,
            event_hooks={"response": [_stay_at_the_host]},
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def post(self, url: str, body: Mapping[str, Any]) -> Response | Fault:
        """The reply to one request, of any status; every way in which it can fail to come becomes a Fault."""
        import httpx

        try:
            return await asyncio.wait_for(self._exchange(url, body), 2 * self._timeout)
        except _OtherHostError as error:
            return Fault("fatal", str(error))
        except (TimeoutError, httpx.TimeoutException) as error:
            never_sent = isinstance(error, (httpx.ConnectTimeout, httpx.PoolTimeout))
            return Fault("timeout", f"no reply within {self._timeout:g} s", billed=not never_sent)
        except (httpx.DecodingError, httpx.TooManyRedirects) as error:
            return Fault("malformed", f"{type(error).__name__}: {error}", billed=True)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            kind = type(error).__name__
            return Fault("connection", f"the connection failed ({kind}: {error})", billed=kind != "ConnectError")

    async def _exchange(self, url: str, body: Mapping[str, Any]) -> Response | Fault:
        content = bytearray()
        async with self._client.stream("POST", url, json=body) as response:
            async for part in response.aiter_bytes():
                content += part
                if len(content) > self._most_bytes:
                    most = f"{self._most_bytes // 2**20} MiB"
                    what = f"HTTP {response.status_code}: got a reply of more than {most} and read no further"
                    return Fault("malformed", what, billed=True)
        return Response(response.status_code, response.headers, bytes(content))


class _OtherHostError(Exception):
    """A redirect leads to another host."""


async def _stay_at_the_host(response: httpx.Response) -> None:
    """Refuse a redirect to another host: what was asked, and what is paid for, would go to somebody unknown."""
    if not response.has_redirect_location:
        return
    asked, target = response.request.url, response.request.url.join(response.headers["location"])
    # A change from http to https at the same host is no other host; one from https to http would show the key.
    if (asked.scheme, target.scheme) != ("https", "http") and _place(asked)[0] == _place(target)[0]:
        upgrade = (_place(asked)[1], _place(target)[1]) == (_DEFAULT_PORTS["http"], _DEFAULT_PORTS["https"])
        if _place(asked) == _place(target) or upgrade:
            return
    origin = f"{target.scheme}://{target.netloc.decode('ascii', 'replace')}"
    raise _OtherHostError(
        f"HTTP {response.status_code}: the endpoint redirects from {asked.host} to {origin}, which gets nothing; "
        "if you trust that host, set `base_url` to its address"
    )


def _place(url: httpx.URL) -> tuple[str, int | None]:
    return url.host, url.port or _DEFAULT_PORTS.get(url.scheme)
