"""The limits of a client towards its endpoint: rate limits, circuit breaker, back-off, and a hard budget.

Nothing here knows HTTP. The clock and the sleep are parameters, so that tests can simulate time.
"""

from __future__ import annotations

import asyncio
import math
import operator
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal

from mentorkd.errors import BudgetError

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]

PICO = 10**12


@dataclass(frozen=True, slots=True)
class Spending:
    """Requests sent and what they cost. A picodollar is 1e-12 dollars, so that the price of a token is a whole number.

    `unsure_picodollars` is the part that is counted at its worst case, since the outcome of a request is unknown.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    picodollars: int = 0
    unsure_picodollars: int = 0

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def dollars(self) -> float:
        return self.picodollars / PICO

    @property
    def unsure_dollars(self) -> float:
        return self.unsure_picodollars / PICO

    def __add__(self, other: Spending) -> Spending:
        return Spending(*map(operator.add, self.values(), other.values()))

    def __sub__(self, other: Spending) -> Spending:
        return Spending(*map(operator.sub, self.values(), other.values()))

    def values(self) -> tuple[int, ...]:
        """The five counts in order (`dataclasses.astuple` takes twenty times as long)."""
        return self.requests, self.input_tokens, self.output_tokens, self.picodollars, self.unsure_picodollars


def picodollars(dollars: float, *, per: int = 1) -> int:
    """`dollars` / `per` in whole picodollars, exact for the decimal number of a recipe; a remainder is rounded up."""
    return math.ceil(Decimal(str(dollars)) * PICO / per)


def dollars_text(picodollars: int) -> str:
    """Picodollars as dollars for a message."""
    from mentorkd.reporting.format import format_dollars  # loads numpy

    return format_dollars(Decimal(picodollars) / PICO)


def backoff(attempt: int, rng: random.Random, *, base: float = 0.5, longest: float = 60.0) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 0): doubled each time, half of it random."""
    return float(min(longest, base * 2.0**attempt)) * rng.uniform(0.5, 1.0)


class RateLimit:
    """A token bucket: `per_minute` units flow in evenly, and it holds those of `burst` seconds.

    A taker may take more than the bucket holds; the next one then waits until the debt is paid. Small bursts make up for
    late wake-ups and never crowd a second.
    """

    def __init__(self, per_minute: float, *, burst: float = 0.02, clock: Clock = time.monotonic) -> None:
        self._seconds_a_unit = 60.0 / per_minute
        self._burst = burst
        self._clock = clock
        self._paid_at = clock()

    def wait(self) -> float:
        """Seconds until something may be taken."""
        return max(0.0, self._paid_at - self._burst - self._clock())

    def take(self, units: float) -> None:
        self._paid_at = max(self._paid_at, self._clock()) + units * self._seconds_a_unit

    def give_back(self, units: float) -> None:
        """Return what was taken and not used (or, below 0, take what was used beyond)."""
        self._paid_at -= units * self._seconds_a_unit


class RateLimiter:
    """Lets requests start in the order they came, as the rates of requests and of tokens allow."""

    def __init__(
        self,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        *,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        # Under 50 a second there is time to wake up, and a burst of even one request would show in a second's count.
        burst = 0.02 if requests_per_minute is not None and requests_per_minute >= 3000 else 0.0
        self._requests = (
            None if requests_per_minute is None else RateLimit(requests_per_minute, burst=burst, clock=clock)
        )
        self._tokens = None if tokens_per_minute is None else RateLimit(tokens_per_minute, clock=clock)
        self._sleep = sleep
        self._turn = asyncio.Lock()

    async def start(self, tokens: int) -> None:
        """Wait until a request of `tokens` may be sent, prompt and longest reply together."""
        limits = [limit for limit in (self._requests, self._tokens) if limit is not None]
        if not limits:
            return
        async with self._turn:
            while (wait := max(limit.wait() for limit in limits)) > 0:
                await self._sleep(min(wait, 0.05))  # settled tokens may shorten the wait
            if self._requests is not None:
                self._requests.take(1)
            if self._tokens is not None:
                self._tokens.take(tokens)

    def settle(self, tokens: int, used: int) -> None:
        """Replace the tokens that a request reserved by those it used."""
        if self._tokens is not None:
            self._tokens.give_back(tokens - used)


class CircuitBreaker:
    """Bounds the requests in flight, and slows the whole client down while the endpoint is overloaded.

    When half of the recent requests were rejected for overload, no request starts for a pause, which is at least the
    longest Retry-After of them and doubles from overload to overload. Then a single request probes. Successes raise the
    limit as in TCP: by one each up to half of the limit before the overload, then by one a round.
    """

    def __init__(
        self,
        concurrency: int,
        *,
        pause: float = 1.0,
        longest: float = 60.0,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.concurrency = concurrency
        self.overloads = 0
        self._pause = pause
        self._longest = longest
        self._clock = clock
        self._sleep = sleep
        self._open = float(concurrency)
        self._threshold = float(concurrency)
        self._in_flight = 0
        self._epoch = 0
        self._streak = 0
        self._until = clock()
        self._recent: deque[tuple[bool, float]] = deque(maxlen=16)
        self._changed = asyncio.Event()

    @property
    def open(self) -> int:
        """Requests that may be in flight together at the moment."""
        return int(self._open)

    async def enter(self) -> int:
        """Wait for room; give the result to `leave`, which must follow."""
        while self._in_flight >= self.open or (wait := self._until - self._clock()) > 0:
            if self._in_flight >= self.open:
                self._changed.clear()
                await self._changed.wait()
            else:
                await self._sleep(wait)
        self._in_flight += 1
        return self._epoch

    def leave(self, epoch: int, outcome: bool | None, retry_after: float = 0.0) -> float:
        """Note that a request has ended: True with a reply, False rejected by an overloaded endpoint, None otherwise.

        Returns the seconds of the pause that begins with it; 0 if none does.
        """
        self._in_flight -= 1
        self._changed.set()
        # A request that started before the last overload was noted says nothing about the time after it.
        if outcome is None or epoch != self._epoch:
            return 0.0
        self._recent.append((outcome, retry_after))
        if outcome:
            self._open = min(
                float(self.concurrency), self._open + (1.0 if self._open < self._threshold else 1.0 / self._open)
            )
            if self._open >= self._threshold:
                self._streak = 0
        elif self._is_overloaded():
            return self._trip()
        return 0.0

    def _is_overloaded(self) -> bool:
        probing = self._open < 2.0 and self._streak > 0
        rejected = sum(not outcome for outcome, _ in self._recent)
        return probing or (len(self._recent) >= 8 and 2 * rejected >= len(self._recent))

    def _trip(self) -> float:
        longest_wait = max(retry_after for _, retry_after in self._recent)
        pause = max(longest_wait, min(self._longest, self._pause * 2.0**self._streak))
        self._until = self._clock() + pause
        self._threshold = max(self._threshold / 2.0 if self._streak else self._open / 2.0, 1.0)
        self._open = 1.0
        self._streak += 1
        self.overloads += 1
        self._epoch += 1
        self._recent.clear()
        return pause


class Budget:
    """A hard stop before the request that could cross a limit: its worst cost is reserved, its real cost settled.

    `spent` is what was spent before; limits that are None do not bind. `hint` ends the error's message.
    """

    def __init__(
        self,
        spent: Spending,
        *,
        requests: int | None = None,
        tokens: int | None = None,
        dollars: float | None = None,
        hint: str = "raise the budget and run again",
    ) -> None:
        self.spent = spent
        self._limits = {
            "requests": requests,
            "tokens": tokens,
            "dollars": None if dollars is None else math.floor(Decimal(str(dollars)) * PICO),
        }
        self._hint = hint
        self._reserved = Spending()
        self._freed = asyncio.Event()

    async def reserve(self, worst: Spending) -> None:
        """Reserve `worst`; if there is no room at the moment, wait for other reservations to be settled.

        Raises BudgetError if there is no room after that either.
        """
        while (short := self._short(worst)) is not None:
            if not self._reserved.requests:
                raise BudgetError(self._message(short, worst))
            self._freed.clear()
            await self._freed.wait()
        self._reserved += worst

    def settle(self, worst: Spending, cost: Spending) -> None:
        """Replace a reservation by the real cost."""
        self._reserved -= worst
        self.spent += cost
        self._freed.set()

    def _short(self, worst: Spending) -> str | None:
        """The first limit that `worst` could cross."""
        after = _sums(self.spent + self._reserved + worst)
        return next((name for name, limit in self._limits.items() if limit is not None and after[name] > limit), None)

    def _message(self, name: str, worst: Spending) -> str:
        show = dollars_text if name == "dollars" else (lambda count: f"{count:,} {name}")
        limit, spent, next_cost = (
            show(n or 0) for n in (self._limits[name], _sums(self.spent)[name], _sums(worst)[name])
        )
        return (
            f"stopped before the budget of {limit} could be crossed: "
            f"{spent} spent, and the next request may take {next_cost}; {self._hint}"
        )


def _sums(spending: Spending) -> dict[str, int]:
    return {"requests": spending.requests, "tokens": spending.tokens, "dollars": spending.picodollars}
