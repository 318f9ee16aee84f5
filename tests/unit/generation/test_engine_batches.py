"""Batches, seeds, end tokens and completions: the pure part of the engines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

from mentorkd.generation.engine import Completion, FinishReason
from mentorkd.generation.sampling import completion, end_token_ids, group, prompt_seeds
from tiny_models import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


@given(
    lengths=st.lists(st.integers(1, 60), max_size=30),
    n=st.integers(1, 9),
    rows=st.integers(1, 20),
    tokens=st.none() | st.integers(1, 800),
)
def test_batches_hold_every_sample_once_within_the_limit(
    lengths: list[int], n: int, rows: int, tokens: int | None
) -> None:
    batches = list(group(lengths, n, 10, rows=rows, tokens=tokens))
    samples = [(p.prompt, s) for batch in batches for p in batch for s in range(p.first, p.first + p.count)]
    assert sorted(samples) == [(prompt, sample) for prompt in range(len(lengths)) for sample in range(n)]
    for batch in batches:
        count = sum(piece.count for piece in batch)
        longest = max(lengths[piece.prompt] for piece in batch)
        assert len({piece.count for piece in batch}) == 1
        assert count <= rows if tokens is None else count == 1 or count * (longest + 10) <= tokens
    order = [lengths[piece.prompt] for batch in batches for piece in batch]
    assert order == sorted(order, reverse=True)


def test_a_batch_by_tokens_holds_more_short_prompts() -> None:
    batches = list(group([90, 90, 10, 10, 10, 10], 1, 10, rows=1, tokens=200))
    assert [len(batch) for batch in batches] == [2, 4]


def test_seeds_depend_on_the_prompt_and_its_turn_alone() -> None:
    def first(prompts: list[str], seed: int) -> list[int]:
        return [source.getrandbits(63) for source in prompt_seeds(prompts, seed)]

    a, b, again = first(["a", "b", "a"], 1)
    assert first(["b", "a", "a"], 1) == [b, a, again]
    assert len({a, b, again, *first(["a", "b"], 2)}) == 5


def test_every_end_token_counts() -> None:
    assert end_token_ids(TOKENIZER, None) == [1]
    assert end_token_ids(TOKENIZER, GenerationConfig()) == [1]
    assert end_token_ids(TOKENIZER, GenerationConfig(eos_token_id=7)) == [1, 7]
    assert end_token_ids(TOKENIZER, GenerationConfig(eos_token_id=[9, 7, 1])) == [1, 7, 9]


@pytest.mark.parametrize(
    ("after", "tokens", "reason"),
    [
        ([], 0, "length"),
        ([1], 1, "stop"),
        ([1, 0, 0], 1, "stop"),
        ([1, 1, 1], 1, "stop"),
        ([0, 1], 2, "stop"),
        ([3], 1, "length"),
    ],
)
def test_completions_count_the_end_token_and_no_padding(after: list[int], tokens: int, reason: FinishReason) -> None:
    text = "Tom has  3 + 4 ."
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert completion([*ids, *after], TOKENIZER, [1]) == Completion(text, len(ids) + tokens, reason)


def test_nothing_written() -> None:
    assert completion([1], TOKENIZER, [1]) == Completion("", 1, "stop")
