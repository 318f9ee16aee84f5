"""One thread that owns an engine and writes the texts of several clients together."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from mentorkd.errors import MentorkdError, ModelError
from mentorkd.generation.engine import SamplingParams
from mentorkd.generation.live import LiveEngine, LiveRow, Token, explaining_engine

MOST_WAITING = 4096
"""Texts that may wait for their first token. A request beyond them is refused at once, since it would wait for minutes."""

MOST_ATTENTION = 64 * 512**2
"""Pairs of prompt tokens that are read together: rows times the square of the longest prompt. Attention needs memory for each."""

GATHER_SECONDS, GATHER_SECONDS_FIXED = 0.005, 0.02
"""An idle engine begins when no row has come for this time, since requests that are sent at once arrive milliseconds apart. It is
longer for an engine of fixed batches, where a row that is late waits for a whole batch."""


class OverloadedError(MentorkdError):
    """More texts are asked for than may wait."""


class Batcher:
    """Runs a `LiveEngine` in a thread of its own, for coroutines of any event loop."""

    def __init__(self, engine: LiveEngine, *, most_waiting: int = MOST_WAITING) -> None:
        self._engine = engine
        self._most_waiting = most_waiting
        self._changed = threading.Condition()
        self._waiting: deque[LiveRow] = deque()
        self._begun: list[LiveRow] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"{engine.name} engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a thread inside a model's library must not outlive the interpreter

    def begin(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        seed: int | None = None,
        likeliest: int | None = None,
        at_once: bool = False,
    ) -> LiveRequest:
        """Ask for `params.n` texts after a prompt. Close the request in every case.

        `seed` makes the texts repeatable, and `likeliest` asks for log-probabilities (see `LiveRow`). With `at_once`, tokens come when a
        text is complete, which is cheaper. Raises OverloadedError if too many texts wait.
        """
        request = LiveRequest(self._drop, at_once=at_once)
        request.rows = [
            LiveRow(
                prompt_ids,
                replace(params, n=1),
                self._engine.end_ids,
                request.of_sample(sample),
                request.fail,
                request=request,
                sample=sample,
                seed=seed,
                likeliest=likeliest,
            )
            for sample in range(params.n)
        ]
        with self._changed:
            if self._closed:
                raise ModelError("the model is no longer served")
            if len(self._waiting) + params.n > self._most_waiting:
                raise OverloadedError(
                    f"{len(self._waiting):,} texts wait already, of at most {self._most_waiting:,}; ask again later"
                )
            self._waiting += request.rows
            self._changed.notify()
        return request

    def close(self) -> None:
        """Stop the thread. Texts that are not complete fail."""
        with self._changed:
            self._closed = True
            self._fail([*self._begun, *self._waiting], ModelError("the model is no longer served"))
            self._changed.notify()
        self._thread.join()
        atexit.unregister(self.close)

    def _drop(self) -> None:
        """Take cancelled rows out of the queue."""
        with self._changed:
            self._waiting = deque(row for row in self._waiting if not row.cancelled)

    def _take(self, live: int) -> list[LiveRow]:
        """The engine's `Take`."""
        with self._changed:
            self._begun = [row for row in self._begun if not (row.ended or row.cancelled)]
            room = self._engine.batch_size - live
            while not live:
                self._wait(room)
                if self._waiting or self._closed:
                    break
            rows: list[LiveRow] = []
            longest = 0
            while self._waiting and len(rows) < room and not self._closed:
                longest = max(longest, len(self._waiting[0].prompt_ids))
                if rows and (len(rows) + 1) * longest**2 > MOST_ATTENTION:
                    break
                rows.append(self._waiting.popleft())
            self._begun += rows
            return rows

    def _wait(self, room: int) -> None:
        """Wait for a row, and for those that come right behind it."""
        while not (self._waiting or self._closed):
            self._changed.wait()
        seconds = GATHER_SECONDS if self._engine.joins else GATHER_SECONDS_FIXED
        while not self._closed and len(self._waiting) < room:
            before = len(self._waiting)
            self._changed.wait(seconds)
            if len(self._waiting) <= before:
                break

    def _run(self) -> None:
        while not self._closed:
            try:
                with explaining_engine(self._engine.name):
                    self._engine.stream(self._take)
            except MentorkdError as error:
                self._recover(error)

    def _recover(self, error: MentorkdError) -> None:
        """Tell the clients whose texts are lost. An engine that did not even begin fails its next client."""
        with self._changed:
            if all(row.ended or row.cancelled for row in self._begun):
                self._wait(1)
                self._begun, self._waiting = list(self._waiting), deque()
            self._fail(self._begun, error)

    def _fail(self, rows: Sequence[LiveRow], error: MentorkdError) -> None:
        for row in rows:
            row.fail(error)


class LiveRequest:
    """The texts of one request: what an engine's thread hands to a client's coroutine."""

    def __init__(self, drop_cancelled: Callable[[], None], *, at_once: bool) -> None:
        self.rows: Sequence[LiveRow] = ()
        self._drop_cancelled, self._at_once = drop_cancelled, at_once
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._tokens: deque[tuple[int, Token]] = deque()
        self._error: MentorkdError | None = None

    async def tokens(self) -> list[tuple[int, Token]]:
        """What has come since the last call, each token with the number of its text. Waits if nothing has.

        Raises ModelError if the engine fails.
        """
        while not self._tokens:
            await self._arrived.wait()
            self._arrived.clear()
            if self._error is not None:
                raise self._error
        return [self._tokens.popleft() for _ in range(len(self._tokens))]

    def cancel(self, sample: int) -> None:
        """End one text. A few more of its tokens may still come."""
        self.rows[sample].cancelled = True

    def close(self) -> None:
        """End all texts."""
        if not all(row.ended for row in self.rows):
            for row in self.rows:
                row.cancelled = True
            self._drop_cancelled()

    def of_sample(self, sample: int) -> Callable[[Token], None]:
        """What the row of a text calls with each token."""

        def put(token: Token) -> None:
            self._tokens.append((sample, token))
            if token.finish_reason is not None or not self._at_once:
                self._wake()

        return put

    def fail(self, error: MentorkdError) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if not self._arrived.is_set():
            with suppress(RuntimeError):  # the client's event loop is closed
                self._loop.call_soon_threadsafe(self._arrived.set)
