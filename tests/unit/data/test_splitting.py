"""Parts of a micro-batch: what they hold, that they cost least, and how little padding is left on the paper's data."""

from __future__ import annotations

import json
import random
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from mentorkd.data.padding import padded_width
from mentorkd.data.prompts import render_target
from mentorkd.data.splitting import cost_of_part, split_rows

SIDES = st.lists(st.tuples(st.integers(1, 90), st.integers(1, 200)), min_size=1, max_size=9)


def padded(sides: list[tuple[int, ...]], part: list[int], multiple: int = 8) -> int:
    return len(part) * sum(
        padded_width(max(sides[row][side] for row in part), multiple) for side in range(len(sides[0]))
    )


def cost(sides: list[tuple[int, ...]], parts: list[list[int]], fixed_cost: int) -> int:
    return sum(fixed_cost + padded(sides, part) for part in parts)


@given(SIDES, st.integers(0, 300), st.randoms())
def test_parts_hold_each_row_once_and_groups_together(
    sides: list[tuple[int, ...]], fixed_cost: int, rng: random.Random
) -> None:
    groups = [rng.choice(["a", "b", None]) for _ in sides]
    parts = split_rows(sides, groups, fixed_cost=fixed_cost, multiple=8)
    assert sorted(row for part in parts for row in part) == list(range(len(sides)))
    for name in "ab":
        assert sum(any(groups[row] == name for row in part) for part in parts) <= 1
    assert cost(sides, parts, fixed_cost) <= cost(sides, [list(range(len(sides)))], fixed_cost)


@given(st.lists(st.tuples(st.integers(1, 200)), min_size=1, max_size=8), st.integers(0, 300))
def test_rows_with_one_side_are_divided_at_the_least_cost(sides: list[tuple[int, ...]], fixed_cost: int) -> None:
    order = sorted(range(len(sides)), key=sides.__getitem__)
    divisions = []
    for cuts in range(1 << (len(order) - 1)):
        places = [0, *(place for place in range(1, len(order)) if cuts >> (place - 1) & 1), len(order)]
        divisions.append([order[start:end] for start, end in pairwise(places)])
    best = min(cost(sides, parts, fixed_cost) for parts in divisions)
    assert cost(sides, split_rows(sides, [None] * len(sides), fixed_cost=fixed_cost, multiple=8), fixed_cost) == best


def test_the_longest_part_is_first_and_a_high_cost_keeps_rows_together() -> None:
    sides = [(10, 10), (10, 90), (11, 11), (11, 91)]
    assert split_rows(sides, [None] * 4, fixed_cost=20, multiple=1) == [[1, 3], [0, 2]]
    assert split_rows(sides, [None] * 4, fixed_cost=1000, multiple=1) == [[0, 2, 1, 3]]
    assert split_rows(sides, ["a", "a", None, None], fixed_cost=20, multiple=1) == [[0, 1, 3], [2]]


def test_a_thousand_rows_are_divided_in_little_time() -> None:
    rng = random.Random(0)
    sides = [(rng.randint(1, 300), rng.randint(1, 300)) for _ in range(1024)]
    start = time.process_time()
    assert len(split_rows(sides, [None] * 1024, fixed_cost=55, multiple=8)) > 10
    assert time.process_time() - start < 3


@pytest.mark.parametrize(("longest", "width"), [(1, 1), (31, 31), (33, 34), (65, 68), (129, 136), (400, 400)])
def test_rounding_pads_by_a_sixteenth_at_most(longest: int, width: int) -> None:
    assert padded_width(longest) == width
    assert padded_width(longest, 1) == longest
    assert width - longest < max(1, longest / 16)


@pytest.mark.parametrize("task", ["svamp", "tracking_shuffled_objects"])
@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_updates_of_eight_random_rows_are_padded_by_13_percent_at_most(task: str, kind: str, shared_data: Path) -> None:
    vocabulary = SentencePieceProcessor(model_file=str(shared_data.parent / "tokenizers/t5/spiece.model"))
    rows = json.loads((shared_data / f"mentor-kd/main/{task}_3_train.json").read_text(encoding="utf-8"))
    rng = random.Random(0)
    tokens = all_padded = 0
    for _ in range(100):
        texts = [
            (row["input"], render_target(row["chain"].strip(), str(row["answer"]), "arrow"))
            for row in rng.sample(rows, 8)
        ]
        sides = [tuple(len(vocabulary.encode(side)) + 1 for side in text) for text in texts]
        sides = sides if kind == "seq2seq" else [(sum(side),) for side in sides]
        parts = split_rows(sides, [None] * 8, fixed_cost=cost_of_part(60_000_000, "cpu"), multiple=8)
        tokens += sum(map(sum, sides))
        all_padded += sum(padded(sides, part) for part in parts)
    assert all_padded / tokens <= 1.13
