"""The replaying engine answers as an engine does."""

from __future__ import annotations

from typing import Any

import pytest

from mentorkd.errors import MentorkdError, ModelError
from mentorkd.generation.engine import Completion, Engine
from mentorkd.generation.replay import ReplayEngine

GREEDY: dict[str, Any] = {"n": 1, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 8, "seed": 0}
SAMPLED: dict[str, Any] = {**GREEDY, "n": 2, "temperature": 0.7}


def test_recorded_texts_come_back_in_the_order_of_the_prompts() -> None:
    engine: Engine = ReplayEngine({"a": ["one two", "three"], "b": ["four"]})
    assert engine.sample(["b", "a"], **GREEDY) == [[Completion("four", 2, True)], [Completion("one two", 3, True)]]
    assert [[c.text for c in samples] for samples in engine.sample(["b", "a"], **SAMPLED)] == [
        ["four", "four"],
        ["one two", "three"],
    ]


def test_seeds_turn_the_samples_and_leave_greedy_answers() -> None:
    engine = ReplayEngine({"a": ["x", "y", "z"]})
    assert engine.sample(["a"], **{**SAMPLED, "seed": 1}) != engine.sample(["a"], **SAMPLED)
    assert engine.sample(["a"], **{**GREEDY, "seed": 1}) == engine.sample(["a"], **GREEDY)


def test_long_texts_are_cut_and_not_finished() -> None:
    [[cut]] = ReplayEngine({"a": ["1 2 3 4"]}).sample(["a"], **{**GREEDY, "max_new_tokens": 3})
    assert cut == Completion("1 2 3", 3, False)
    [[cut]] = ReplayEngine({"a": ["1 2 3"]}).sample(["a"], **{**GREEDY, "max_new_tokens": 3})
    assert cut == Completion("1 2 3", 3, False)


def test_calls_are_kept_and_progress_is_told() -> None:
    engine, counts = ReplayEngine({"a": ["x"], "b": ["y"]}), []
    engine.sample(["a", "b"], **SAMPLED, on_progress=counts.append)
    assert sum(counts) == 2
    [(prompts, request)] = engine.calls
    assert (prompts, request.n, request.temperature) == (("a", "b"), 2, 0.7)


def test_unknown_prompts_and_impossible_requests_are_refused() -> None:
    with pytest.raises(ModelError, match="no text for the prompt 'b'"):
        ReplayEngine({"a": ["x"]}).sample(["b"], **GREEDY)
    with pytest.raises(MentorkdError, match="cannot sample"):
        ReplayEngine({"a": ["x"]}).sample(["a"], **{**GREEDY, "n": 2})
