"""Local teachers: the prompts, records and rounds of an endpoint's, by an engine."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from asking import graded, sums
from mentorkd.generation.engine import Completion, SamplingParams
from mentorkd.recipe.teacher import LocalTeacherConfig
from mentorkd.teachers.cache import RequestCache
from mentorkd.teachers.local import annotate_local
from mentorkd.teachers.prompting import Prompter


class AddingEngine:
    """Adds, and errs at random; dies at a given call."""

    name = "adding"

    def __init__(self, dies_at: int = 10**9, batch_size: int = 2) -> None:
        self.calls: list[tuple[int, int, float, int]] = []
        self.dies_at, self.batch_size = dies_at, batch_size

    def sample(
        self,
        prompts: Sequence[str],
        params: SamplingParams,
        *,
        seed: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        assert params.temperature > 0 or params.n == 1
        if len(self.calls) == self.dies_at:
            raise KeyboardInterrupt
        self.calls.append((len(prompts), params.n, params.temperature, seed))
        rng = random.Random(seed)
        return [[self.write(prompt, rng) for _ in range(params.n)] for prompt in prompts]

    def close(self) -> None:
        """It holds nothing outside of this process."""

    def write(self, prompt: str, rng: random.Random) -> Completion:
        a, b = map(int, re.findall(r"What is (\d+) \+ (\d+)\?", prompt)[-1])
        if prompt.endswith("Therefore, the answer is"):
            return Completion(re.findall(r"= (\d+)", prompt)[-1], 1, "stop")
        if a % 5 == 4:
            return Completion("So we have", 9, "length")
        total = a + b + rng.choice([0, 0, 1])
        return Completion(f"{a} + {b} = {total}.\nTherefore, the answer is {total}.", 9, "stop")


def local(**settings: object) -> LocalTeacherConfig:
    return LocalTeacherConfig.model_validate({"model": "m", **settings})


ONE_CALL = Prompter("zero_shot_cot", answer_kind="number")


def test_local_records_are_those_of_an_endpoint(tmp_path: Path) -> None:
    engine = AddingEngine()
    with RequestCache(tmp_path / "c") as cache:
        done = annotate_local(sums(20), local(), engine, ONE_CALL, cache, grade=graded)
        again = annotate_local(sums(20), local(), engine, ONE_CALL, cache, grade=graded)
    assert [(r.question_id, r.sample) for r in done.rationales] == [(q.id, s) for q in sums(20) for s in range(3)]
    assert done.account()["cut"] == 12
    assert done.account()["correct"] == sum(r.verdict == "correct" for r in done.rationales) > 20
    assert {len(r.text.splitlines()) for r in done.rationales} == {1}
    assert [r.id for r in again.rationales] == [r.id for r in done.rationales]
    assert (again.traffic["sampled"], again.traffic["cached"]) == (0, 60)
    assert all(r.meta["cached"] for r in again.rationales)
    assert [(count, n) for count, n, _, _ in engine.calls] == [(5, 3)] * 4


def test_further_rounds_have_new_seeds(tmp_path: Path) -> None:
    engine = AddingEngine(batch_size=100)
    teacher = local(samples=1, until_correct={"want": 1, "tries": 6})
    with RequestCache(tmp_path / "c") as cache:
        done = annotate_local(sums(20), teacher, engine, ONE_CALL, cache, grade=graded)
    solved = {r.question_id for r in done.rationales if r.verdict == "correct"}
    assert len(solved) == 16
    assert sum(r.meta["outcome"] == "length" for r in done.rationales) == 4 * 6
    assert len({seed for *_, seed in engine.calls}) == len(engine.calls)


def test_second_call_is_greedy_and_left_out_after_a_cut(tmp_path: Path) -> None:
    engine = AddingEngine(batch_size=100)
    with RequestCache(tmp_path / "c") as cache:
        prompter = Prompter("two_stage")
        done = annotate_local(sums(10), local(), engine, prompter, cache, grade=graded)
    assert [(count, n, temperature) for count, n, temperature, _ in engine.calls] == [(10, 3, 0.7), (24, 1, 0.0)]
    assert {len(r.meta["requests"]) for r in done.rationales if r.meta["outcome"] == "ok"} == {2}


def test_kill_loses_the_last_chunk_only(tmp_path: Path) -> None:
    with RequestCache(tmp_path / "c") as cache, pytest.raises(KeyboardInterrupt):
        annotate_local(sums(40), local(), AddingEngine(dies_at=4), ONE_CALL, cache, grade=graded)
    with RequestCache(tmp_path / "c") as cache:
        done = annotate_local(sums(40), local(), AddingEngine(), ONE_CALL, cache, grade=graded)
        assert done.traffic == {"cached": 4 * 15, "sampled": 4 * 15}
        other = annotate_local(sums(40), local(), AddingEngine(), ONE_CALL, cache, grade=graded, weights="new weights")
    assert len(done.rationales) == 120
    assert other.traffic["cached"] == 0
