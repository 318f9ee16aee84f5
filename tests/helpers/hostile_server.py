"""An OpenAI-compatible server that misbehaves on purpose, and keeps statistics on its clients.

It answers "What is A + B?" by arithmetic. What a prompt gets is fixed by A (wrong, refused, empty, cut, filtered), so
a hostile and a friendly server give the same answers; what happens to a request on the way is random. The n-th reply
that is delivered for a prompt says so ("Way n"), so replies that were paid for twice show in the rationales.

    python hostile_server.py PROFILE [SEED]      prints its port; GET /statistics returns what was asked
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

PROFILES: dict[str, dict[str, float]] = {
    "immediate": {},
    "friendly": {"delay": 0.02},
    "hostile": {
        "delay": 0.05,
        "429 with wait": 0.04,
        "429": 0.02,
        "500": 0.02,
        "503": 0.02,
        "slow": 0.002,
        "trickle": 0.002,
        "drop": 0.02,
        "cut": 0.02,
        "half json": 0.02,
        "not json": 0.01,
        "no choices": 0.02,
        "error in 200": 0.01,
        "no usage": 0.1,
    },
    "unmetered": {"delay": 0.01, "half json": 0.03, "drop": 0.03, "500": 0.03, "no usage": 0.3},
    "overload": {"delay": 0.01, "overload seconds": 2.0},
    "dead": {"500": 1.0},
    "wait": {"delay": 0.0, "429 with wait": 0.5},
    "locked": {"401": 1.0},
    "echo": {"echo": 1.0},
    "echo 500": {"echo 500": 1.0},
    "echo 400": {"echo 400": 1.0},
    "bankrupt": {"no credit": 1.0},
    "rambling": {"ramble": 1.0},
    "steady": {"delay": 0.5},
    "refusing": {"400": 1.0},
    "babbling": {"not json": 1.0},
    "mostly refusing": {"400": 0.8},
    "hidden prompt": {"delay": 0.05, "hidden tokens": 5000},
    "hidden prompt, half broken": {"delay": 0.05, "hidden tokens": 5000, "no choices": 0.5},
    "silent about usage": {"delay": 0.02, "no usage": 1.0},
    "dying": {"dies after": 12},
    "stuck": {"slow": 1.0},
    "overloaded": {"429": 1.0},
    "closed for an hour": {"429 for an hour": 1.0},
    "endless": {"endless": 1.0},
    "endless 500": {"endless 500": 1.0},
    "redirecting": {"redirect": 1.0},
    "moved": {"moved": 1.0},
    "other model": {"other model": 1.0},
    "without logprobs": {"delay": 0.02, "no logprobs": 1.0},
    "with some logprobs": {"no logprobs": 0.5},
    "refusing logprobs": {"delay": 0.02, "refuse logprobs": 1.0},
}
NO_FATES = {
    "delay",
    "overload seconds",
    "no usage",
    "ramble",
    "hidden tokens",
    "dies after",
    "no logprobs",
    "refuse logprobs",
}
RETRY_AFTER = 0.3
SLOW = 3.0
RAMBLING = "\nQ: What is 1 + 1?\nA: 1 + 1 = 2.\nTherefore, the answer is 2.\nQ: What"
"""How a base model continues if `stop` is ignored."""


def solution(a: int, b: int, way: int) -> tuple[str, str]:
    """The text and finish reason for a question."""
    kind = a % 50
    if kind == 7:
        return "I cannot help with that.", "content_filter"
    if kind == 8:
        return "", "stop"
    if kind == 9:
        return f"Way {way}. We start with {a} and", "length"
    total = a + b + (1 if kind == 10 else 0)
    if kind == 17:
        return f"\n  Wäy {way}. {a} 🍎 + {b} 🍎 --> {total} 🍎.\n\nTherefore, the answer is {total}.", "stop"
    return f"Way {way}. {a} + {b} = {total}.\nTherefore, the answer is {total}.", "stop"


def tokens(text: str) -> list[tuple[bytes, float]]:
    """Three bytes each, so that characters are split, and how likely they are."""
    raw = text.encode()
    pieces = [raw[at : at + 3] for at in range(0, len(raw), 3)]
    return [(piece, -sum(piece) / 256) for piece in pieces] + [(b"<end>", -0.5)]


def in_content(text: str) -> dict[str, Any]:
    """The shape of chats, as OpenAI and llama.cpp write it."""
    spelled = [(piece.decode(errors="replace"), list(piece), value) for piece, value in tokens(text)]
    return {"content": [{"token": t, "bytes": b, "logprob": v, "top_logprobs": []} for t, b, v in spelled]}


def in_tokens(text: str) -> dict[str, Any]:
    """The shape of completions, where a token that splits a character is spelled wrong."""
    spelled = [(piece.decode(errors="replace"), value) for piece, value in tokens(text)]
    return {
        "tokens": [token for token, _ in spelled],
        "token_logprobs": [value for _, value in spelled],
        "top_logprobs": None,
    }


class Server:
    def __init__(self, profile: dict[str, float], seed: int) -> None:
        self.profile = profile
        self.random = random.Random(seed)
        self.arrivals: list[float] = []
        self.waits: list[tuple[str, float, float]] = []
        self.attempts: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self.fates: Counter[str] = Counter()
        self.stalled = 0
        self.stops: list[Any] = []
        self.in_flight = self.most_in_flight = 0
        self.input_tokens = self.output_tokens = 0

    def fate(self) -> str:
        # An overload begins with the first request, however long its client took to start.
        if time.monotonic() - self.arrivals[0] < self.profile.get("overload seconds", 0.0):
            return "429"
        if len(self.arrivals) > self.profile.get("dies after", float("inf")):
            return "500"
        chance = self.random.random()
        for name, share in self.profile.items():
            if name in NO_FATES:
                continue
            chance -= share
            if chance < 0:
                return name
        return "ok"

    async def ask(self, request: web.Request) -> web.StreamResponse:
        self.arrivals.append(time.monotonic())
        self.in_flight += 1
        self.most_in_flight = max(self.in_flight, self.most_in_flight)
        try:
            return await self.answer(request)
        except ConnectionError:  # the client was killed, or had enough
            return web.Response()
        finally:
            self.in_flight -= 1

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        self.attempts[prompt] += 1
        self.stops.append(body.get("stop"))
        fate = self.fate()
        self.fates[fate] += 1
        if delay := self.profile.get("delay"):
            await asyncio.sleep(self.random.uniform(0, 2 * delay))
        match fate:
            case "429 with wait":
                self.waits.append((prompt, time.monotonic(), RETRY_AFTER))
                return web.json_response(error("slow down"), status=429, headers={"Retry-After": str(RETRY_AFTER)})
            case "429 for an hour":
                return web.json_response(error("quota of the day"), status=429, headers={"Retry-After": "3600"})
            case "redirect":  # the same server by another name
                port = request.url.port
                raise web.HTTPTemporaryRedirect(f"http://localhost:{port}{request.path}")
            case "moved" if not request.path.startswith("/v1/moved"):
                raise web.HTTPTemporaryRedirect(request.path.replace("/v1/", "/v1/moved/"))
            case "endless" | "endless 500":
                endless = web.StreamResponse(status=500 if fate.endswith("500") else 200)
                await endless.prepare(request)
                while True:
                    await endless.write(b" " * 2**20)
            case "429" | "500" | "503" | "401" | "400":
                return web.json_response(error(f"fate {fate}"), status=int(fate))
            case "no credit":
                return web.json_response(error("You exceeded your current quota", "insufficient_quota"), status=429)
            case "error in 200":
                return web.json_response(error("upstream", 502))
            case "echo 500" | "echo 400":
                return web.json_response(error(request.headers["Authorization"]), status=int(fate[-3:]))
        if body.get("logprobs") and self.profile.get("refuse logprobs"):
            return web.json_response(error("logprobs are not supported with this model"), status=400)
        numbers = re.findall(r"What is (\d+) \+ (\d+)\?", prompt)
        a, b = map(int, numbers[-1])
        if a % 50 == 11:
            return web.json_response(error("filtered", "content_filter"), status=400)
        text, reason = solution(a, b, self.delivered[prompt])
        if fate == "echo":
            text = f"{request.headers['Authorization']} {text}"
        if reason == "stop" and self.profile.get("ramble"):
            text, reason = text + RAMBLING, "length"
        read = len(prompt.split()) + 9 + int(self.profile.get("hidden tokens", 0))
        usage = {"prompt_tokens": read, "completion_tokens": len(text.split())}
        # From here on the model has written, and the provider charges.
        self.input_tokens += usage["prompt_tokens"]
        self.output_tokens += usage["completion_tokens"]
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        choice |= {"text": text} if "prompt" in body else {"message": {"role": "assistant", "content": text}}
        if body.get("logprobs") and self.random.random() >= self.profile.get("no logprobs", 0.0):
            choice["logprobs"] = in_content(text) if "messages" in body else in_tokens(text)
            usage["completion_tokens"] = len(tokens(text))
        reply: dict[str, Any] = {"id": "x", "object": "x", "created": 1, "model": body["model"], "choices": [choice]}
        if fate == "other model":
            reply["model"] = "a-cheaper-one"
        if self.random.random() >= self.profile.get("no usage", 0.0):
            reply["usage"] = usage
        match fate:
            case "slow":
                self.stalled += 1
                await asyncio.sleep(SLOW)
                return web.json_response(reply)
            case "drop":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case "cut" | "half json":
                whole = json.dumps(reply).encode()
                half = web.StreamResponse(headers={"Content-Type": "application/json"})
                half.content_length = len(whole) if fate == "cut" else len(whole) // 2
                await half.prepare(request)
                await half.write(whole[: len(whole) // 2])
                if fate == "cut" and request.transport is not None:
                    request.transport.abort()
                return half
            case "trickle":
                self.stalled += 1
                endless = web.StreamResponse(headers={"Content-Type": "application/json"})
                await endless.prepare(request)
                for _ in range(200):
                    await endless.write(b" ")
                    await asyncio.sleep(0.1)
                return endless
            case "not json":
                return web.Response(text="<html>Bad gateway</html>", content_type="text/html")
            case "no choices":
                return web.json_response(reply | {"choices": []})
        self.delivered[prompt] += 1
        return web.json_response(reply)

    async def statistics(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "arrivals": self.arrivals,
                "waits": self.waits,
                "attempts": self.attempts,
                "delivered": self.delivered,
                "fates": self.fates,
                "stalled": self.stalled,
                "stops": self.stops,
                "most_in_flight": self.most_in_flight,
                "input_tokens": self.input_tokens,
                "output_tokens": self.output_tokens,
            }
        )


def error(message: str, code: Any = None) -> dict[str, Any]:
    return {"error": {"message": message, "code": code}}


async def serve(profile: str, seed: int) -> None:
    server = Server(PROFILES[profile], seed)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.ask)
    app.router.add_post("/v1/completions", server.ask)
    app.router.add_post("/v1/moved/chat/completions", server.ask)
    app.router.add_get("/statistics", server.statistics)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


class Running:
    """A server in its own process, as the tests see it."""

    def __init__(self, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}"
        self.url = f"{self.root}/v1"

    def statistics(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.root}/statistics", timeout=30) as reply:
            return dict(json.load(reply))


@contextlib.contextmanager
def running(profile: str, seed: int = 0) -> Iterator[Running]:
    """Start a server, stop it at the end."""
    command = [sys.executable, str(Path(__file__)), profile, str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Running(int(process.stdout.readline()))
        finally:
            process.terminate()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("profile", choices=PROFILES)
    arguments.add_argument("seed", type=int, nargs="?", default=0)
    given = arguments.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(given.profile, given.seed))
