"""The replaying engine answers as an engine does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mentorkd.errors import MentorkdError, ModelError
from mentorkd.generation.engine import Completion, Engine, SamplingParams
from replay_engine import ReplayEngine

GREEDY = SamplingParams(max_new_tokens=8)
SAMPLED = replace(GREEDY, n=2, temperature=0.7)


def test_recorded_texts_come_back_in_the_order_of_the_prompts() -> None:
    engine: Engine = ReplayEngine({"a": ["one two", "three"], "b": ["four"]})
    assert engine.sample(["b", "a"], GREEDY, seed=0) == [
        [Completion("four", 2, "stop")],
        [Completion("one two", 3, "stop")],
    ]
    assert [[c.text for c in samples] for samples in engine.sample(["b", "a"], SAMPLED, seed=0)] == [
        ["four", "four"],
        ["one two", "three"],
    ]


def test_seeds_turn_the_samples_and_leave_greedy_answers() -> None:
    engine = ReplayEngine({"a": ["x", "y", "z"]})
    assert engine.sample(["a"], SAMPLED, seed=1) != engine.sample(["a"], SAMPLED, seed=0)
    assert engine.sample(["a"], GREEDY, seed=1) == engine.sample(["a"], GREEDY, seed=0)


def test_long_texts_are_cut_and_not_finished() -> None:
    [[cut]] = ReplayEngine({"a": ["1 2 3 4"]}).sample(["a"], replace(GREEDY, max_new_tokens=3), seed=0)
    assert cut == Completion("1 2 3", 3, "length")
    [[cut]] = ReplayEngine({"a": ["1 2 3"]}).sample(["a"], replace(GREEDY, max_new_tokens=3), seed=0)
    assert cut == Completion("1 2 3", 3, "length")


def test_calls_are_kept_and_progress_is_reported() -> None:
    engine, counts = ReplayEngine({"a": ["x"], "b": ["y"]}), []
    engine.sample(["a", "b"], SAMPLED, seed=0, on_progress=counts.append)
    assert sum(counts) == 2
    assert engine.calls == [(("a", "b"), SAMPLED)]


def test_unknown_prompts_and_impossible_requests_are_refused() -> None:
    with pytest.raises(ModelError, match="no text for the prompt 'b'"):
        ReplayEngine({"a": ["x"]}).sample(["b"], GREEDY, seed=0)
    with pytest.raises(MentorkdError, match="cannot sample"):
        ReplayEngine({"a": ["x"]}).sample(["a"], replace(GREEDY, n=2), seed=0)
