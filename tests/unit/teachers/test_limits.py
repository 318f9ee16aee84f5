"""Rate limits, circuit breaker, back-off and budget, in simulated time."""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_left
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mentorkd.errors import BudgetError
from mentorkd.teachers.limits import Budget, CircuitBreaker, RateLimiter, Spending, backoff, dollars_text, picodollars


class PlayedTime:
    """A clock that only sleepers move: each sleeps a little too long, as real ones do."""

    def __init__(self, late: float = 0.0) -> None:
        self.now = 1000.0
        self.late = late

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        until = self.now + seconds + self.late
        await asyncio.sleep(0)
        self.now = max(self.now, until)


def busiest_second(times: list[float]) -> int:
    return max(bisect_left(times, t + 1.0) - i for i, t in enumerate(times))


@pytest.mark.parametrize("per_minute", [30, 500, 3000, 12_000, 60_000])
@pytest.mark.parametrize("late", [0.0, 0.004])
def test_rate_is_reached_and_no_second_is_crowded(per_minute: int, late: float) -> None:
    time = PlayedTime(late)

    async def run() -> list[float]:
        limiter = RateLimiter(per_minute, None, clock=time.clock, sleep=time.sleep)
        starts = []
        for _ in range(max(40, per_minute // 20)):
            await limiter.start(0)
            starts.append(time.now)
            if len(starts) == 25:
                time.now += 0.5  # a stall must not be followed by a crowd
        return starts

    starts = asyncio.run(run())
    a_second = per_minute / 60
    assert busiest_second(starts) <= max(1, -(-a_second // 1), 1.1 * a_second)
    rate = (len(starts) - 1) / (starts[-1] - starts[0] - 0.5)
    assert rate >= 0.9 * a_second if late == 0 or per_minute != 500 else rate >= 0.8 * a_second


def test_token_rate_gives_unused_tokens_back() -> None:
    time = PlayedTime()

    async def run(used: int) -> float:
        limiter = RateLimiter(None, 60_000, clock=time.clock, sleep=time.sleep)
        began = time.now
        for _ in range(21):
            await limiter.start(500)
            limiter.settle(500, used)
        return time.now - began

    assert asyncio.run(run(500)) == pytest.approx(10.0, abs=0.1)
    assert asyncio.run(run(100)) == pytest.approx(2.0, abs=0.2)


def test_rate_limiter_keeps_the_order_of_requests() -> None:
    time = PlayedTime()

    async def run() -> list[int]:
        limiter = RateLimiter(600, None, clock=time.clock, sleep=time.sleep)
        order: list[int] = []

        async def one(number: int) -> None:
            await limiter.start(0)
            order.append(number)

        await asyncio.gather(*map(one, range(30)))
        return order

    assert asyncio.run(run()) == list(range(30))


def test_backoff_doubles_with_jitter_up_to_the_longest() -> None:
    rng = random.Random(0)
    waits = [[backoff(attempt, rng, base=0.5, longest=60.0) for _ in range(200)] for attempt in range(12)]
    for attempt, sample in enumerate(waits):
        full = min(60.0, 0.5 * 2**attempt)
        assert full / 2 <= min(sample) < max(sample) <= full
        assert len(set(sample)) == len(sample)
    assert all(max(a) <= 2.0 * min(b) for a, b in pairwise(waits[:7]))


def test_breaker_ignores_a_few_rejections() -> None:
    async def run() -> CircuitBreaker:
        breaker = CircuitBreaker(8)
        for number in range(200):
            epoch = await breaker.enter()
            breaker.leave(epoch, number % 4 != 0)
        return breaker

    breaker = asyncio.run(run())
    assert (breaker.overloads, breaker.open) == (0, 8)


def test_breaker_pauses_then_probes_with_one_request_and_recovers() -> None:
    time = PlayedTime()
    healthy_from = 1010.0
    starts: list[tuple[float, int]] = []
    flying = 0

    async def run() -> CircuitBreaker:
        breaker = CircuitBreaker(32, clock=time.clock, sleep=time.sleep)
        left = iter(range(2000))

        async def worker() -> None:
            nonlocal flying
            for _ in left:
                epoch = await breaker.enter()
                flying += 1
                starts.append((time.now, flying))
                await time.sleep(0.05)
                flying -= 1
                breaker.leave(epoch, time.now >= healthy_from)

        await asyncio.gather(*(worker() for _ in range(32)))
        return breaker

    breaker = asyncio.run(run())
    overloaded = [(at, inside) for at, inside in starts if at < healthy_from - 0.05]
    assert max(inside for _, inside in overloaded[:32]) == 32
    # After the first wave and the seven requests before the breaker opened: single probes, at growing intervals.
    wave = [at for at, _ in overloaded if at < 1000.5]
    probes = [at for at, _ in overloaded if at >= 1000.5]
    assert len(wave) <= 32 + 7
    assert {inside for at, inside in overloaded if at >= 1000.5} == {1}
    assert 2 <= len(probes) <= 5
    gaps = [b - a for a, b in pairwise(probes)]
    assert all(later > 1.5 * earlier for earlier, later in pairwise(gaps))
    assert breaker.open == 32
    assert max(inside for _, inside in starts[-500:]) == 32


def test_breaker_waits_for_the_longest_retry_after() -> None:
    time = PlayedTime()

    async def run() -> float:
        breaker = CircuitBreaker(8, clock=time.clock, sleep=time.sleep)
        epochs = [await breaker.enter() for _ in range(8)]
        waits = [0.0, 7.0, 1.0, 0.0, 3.0, 0.0, 0.0, 0.0]
        assert [breaker.leave(*left) for left in zip(epochs, [False] * 8, waits, strict=True)] == [0.0] * 7 + [7.0]
        await breaker.enter()
        return time.now

    assert asyncio.run(run()) == pytest.approx(1007.0)


def test_money_is_exact() -> None:
    assert picodollars(0.15, per=10**6) == 150_000
    assert picodollars(0.1) == 10**11
    assert 3 * picodollars(0.1) == picodollars(0.3)
    assert picodollars(0.0000001, per=10**6) == 1
    assert dollars_text(picodollars(5)) == "$5.00"
    assert dollars_text(picodollars(0.1)) == "$0.10"
    assert dollars_text(picodollars(0.000421)) == "$0.000421"
    assert dollars_text(0) == "$0.00"


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 400), st.floats(0, 1)), min_size=1, max_size=60), st.integers(100, 3000))
def test_budget_is_never_crossed_in_any_order(costs: list[tuple[int, float]], limit: int) -> None:
    async def run() -> tuple[Budget, int]:
        budget = Budget(Spending(), tokens=limit)
        stops = 0

        async def one(worst_tokens: int, share: float) -> None:
            nonlocal stops
            worst = Spending(1, worst_tokens, 0, 0)
            try:
                await budget.reserve(worst)
            except BudgetError:
                stops += 1
                return
            await asyncio.sleep(0)
            budget.settle(worst, Spending(1, int(worst_tokens * share), 0, 0))
            assert budget.spent.tokens <= limit

        await asyncio.gather(*(one(*cost) for cost in costs))
        return budget, stops

    budget, stops = asyncio.run(run())
    assert budget.spent.requests + stops == len(costs)
    if stops:
        assert budget.spent.tokens + max(worst for worst, _ in costs) > limit


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"requests": 2}, r"budget of 2 requests could be crossed: 2 requests spent.* may take 1 requests; raise"),
        ({"tokens": 250}, r"budget of 250 tokens could be crossed: 200 tokens spent.* may take 100 tokens; raise"),
        ({"dollars": 0.025}, r"budget of \$0\.025 could be crossed: \$0\.02 spent.* may take \$0\.01; raise"),
    ],
)
def test_budget_error_says_what_was_spent_and_how_to_go_on(limits: dict[str, float], said: str) -> None:
    async def run() -> None:
        each = Spending(1, 60, 40, picodollars(0.01))
        budget = Budget(each, **limits)  # type: ignore[arg-type]
        await budget.reserve(each)
        budget.settle(each, each)
        await budget.reserve(each)

    with pytest.raises(BudgetError, match=said):
        asyncio.run(run())
