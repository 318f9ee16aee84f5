"""Which stage starts next: needs first, then the order of the plan or the longest chain."""

from __future__ import annotations

import random

import pytest

from mentorkd.pipeline.run_folder import Stage
from mentorkd.pipeline.schedule import Schedule, most_at_once


def stage(name: str, *needs: str) -> Stage:
    return Stage(name, "train", name, {str(number): need for number, need in enumerate(needs)}, name)


GRAPH = [stage("a"), stage("b"), stage("c", "a"), stage("d", "b"), stage("e", "d"), stage("f", "c", "e")]


def run(stages: list[Stage], *, finished: set[str] = frozenset(), by_chain: bool = False) -> list[str]:  # type: ignore[assignment]
    schedule, order = Schedule(stages, (), by_chain=by_chain), []
    while True:
        order += [f"({each.name})" for each in schedule.settle(lambda each: each.name in finished or None)]
        if (first := schedule.start(lambda each: True)) is None:
            return order
        order.append(first.name)
        schedule.finish(first)


def test_stages_start_in_the_order_of_the_plan() -> None:
    assert run(GRAPH) == list("abcdef")


def test_the_longest_chain_starts_first() -> None:
    assert run(GRAPH, by_chain=True) == list("badcef")


def test_finished_stages_are_passed_over_and_free_those_that_wait() -> None:
    assert run(GRAPH, finished={"a", "c"}) == ["(a)", "(c)", *"bdef"]


def test_nothing_starts_before_its_needs_or_twice() -> None:
    schedule = Schedule(GRAPH, {"b"}, by_chain=False)
    assert list(schedule.settle(lambda each: None)) == []
    assert schedule.start(lambda each: True) is GRAPH[0]
    assert schedule.start(lambda each: True) is None
    schedule.finish(GRAPH[0])
    list(schedule.settle(lambda each: None))
    assert schedule.start(lambda each: True) is GRAPH[2]


def test_a_stage_whose_place_is_taken_does_not_hold_up_the_others() -> None:
    stages = [stage(name) for name in "abc"]
    schedule = Schedule(stages, (), by_chain=False)
    list(schedule.settle(lambda each: None))
    assert schedule.start(lambda each: each.name != "a") is stages[1]
    assert schedule.start(lambda each: False) is None
    assert schedule.start(lambda each: True) is stages[0]
    assert schedule.start(lambda each: True) is stages[2]


@pytest.mark.parametrize("seed", range(20))
def test_every_stage_of_a_random_graph_runs_once_after_its_needs(seed: int) -> None:
    rng = random.Random(seed)
    names = [f"s{number}" for number in range(30)]
    stages = [stage(name, *rng.sample(names[:number], min(number, 3))) for number, name in enumerate(names)]
    done = {name for name in names if rng.random() < 0.3}
    order = [name.strip("()") for name in run(stages, finished=done, by_chain=bool(seed % 2))]
    assert sorted(order) == sorted(names)
    places = {name: number for number, name in enumerate(order)}
    assert all(places[need] < places[each.name] for each in stages for need in each.needs)


def test_the_width_of_a_graph_is_how_many_stages_run_at_once() -> None:
    assert most_at_once(GRAPH) == 2
    assert most_at_once(GRAPH[:1]) == 1
    assert most_at_once([]) == 0
    assert most_at_once([stage("a"), *(stage(f"b{n}", "a") for n in range(9)), stage("c", "b1")]) == 9
