"""Sampling survives a kill and keeps the samples of older code; grading reads option letters from the question."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mentorkd.generation.engine import Completion, SamplingParams
from mentorkd.generation.resumable import sample_resumably
from mentorkd.grading.grade import Grader
from mentorkd.records import Question


class Echo:
    """An engine that answers with its prompt and seed, and dies on demand."""

    name = "echo"

    def __init__(self, *, dies_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.dies_after = dies_after

    def sample(
        self,
        prompts: Sequence[str],
        params: SamplingParams,
        *,
        seed: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            raise KeyboardInterrupt
        self.asked += prompts
        if on_progress is not None:
            on_progress(len(prompts))
        return [[Completion(f"{prompt}/{seed}/{i}", 1, "stop") for i in range(params.n)] for prompt in prompts]


PROMPTS = [f"question {'x' * (i % 5)} {i}" for i in range(20)]
PARAMS = SamplingParams(n=2, temperature=0.7)


def run(engine: Echo, journal: Path, prompts: Sequence[str] = PROMPTS, seed: int = 1) -> list[list[str]]:
    progress: list[tuple[int, int]] = []
    results = sample_resumably(
        engine, prompts, PARAMS, seed=seed, journal=journal, chunk=6, on_progress=lambda *p: progress.append(p)
    )
    assert progress[-1] == (len(prompts), len(prompts))
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
    return [[completion.text for completion in completions] for completions in results]


def test_results_are_in_the_order_of_the_prompts(tmp_path: Path) -> None:
    results = run(Echo(), tmp_path / "journal")
    assert [texts[0].split("/")[0] for texts in results] == PROMPTS
    assert all(len(texts) == 2 for texts in results)


def test_a_killed_call_resumes_and_gives_the_result_of_an_undisturbed_one(tmp_path: Path) -> None:
    whole = run(Echo(), tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run(Echo(dies_after=12), tmp_path / "b")
    rest = Echo()
    assert run(rest, tmp_path / "b") == whole
    assert len(rest.asked) == 20 - 12


def test_a_line_torn_by_a_kill_is_sampled_again(tmp_path: Path) -> None:
    whole = run(Echo(), tmp_path / "a")
    text = (tmp_path / "a").read_text()
    (tmp_path / "a").write_text(text[: -len(text.splitlines()[-1]) // 2])
    again = Echo()
    assert run(again, tmp_path / "a") == whole
    assert 0 < len(again.asked) < 20
    assert run(Echo(dies_after=0), tmp_path / "a") == whole


def test_a_journal_of_older_code_is_read(tmp_path: Path) -> None:
    whole = run(Echo(), tmp_path / "a")
    text = re.sub(r"\t.*", "", (tmp_path / "a").read_text()).replace('"finish_reason": "stop"', '"finished": true')
    assert text.count('"finished": true') == 2 * len(PROMPTS)
    (tmp_path / "a").write_text(text)
    assert run(Echo(dies_after=0), tmp_path / "a") == whole


def test_the_seed_of_a_chunk_is_that_of_older_code(tmp_path: Path) -> None:
    """The number was computed before `SamplingParams` existed; another one would change every sampled rationale."""
    [[first, _], _] = run(Echo(), tmp_path / "a", ["a", "b"], seed=42)
    assert first == "a/1797894472/0"


def test_another_seed_is_not_answered_from_the_journal(tmp_path: Path) -> None:
    first = run(Echo(), tmp_path / "a", seed=1)
    assert run(Echo(), tmp_path / "a", seed=2) != first


def test_no_prompts(tmp_path: Path) -> None:
    assert sample_resumably(Echo(), [], PARAMS, seed=1, journal=tmp_path / "a", chunk=6, on_progress=print) == []


def test_option_letters_come_from_the_question_unless_the_task_gives_them() -> None:
    question = Question.create("Who? Answer choices: (A) x, (B) y.", "B", "test")
    assert Grader("choice")("It is (B).", question).verdict == "correct"
    assert Grader("choice")("It is (C).", question).verdict == "no_answer"
    assert Grader("choice", ["A", "B", "C"])("It is (C).", question).verdict == "wrong"
