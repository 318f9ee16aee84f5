from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from layouts import padded_left
from mentorkd.data.batching import (
    IGNORE_INDEX,
    Batches,
    Collator,
    plan_batches,
    sides_of,
    sorted_batches,
    take_rows,
)
from mentorkd.data.encoding import Example, TextEncoder, encode_prompt, encode_rows, encode_target, token_span
from mentorkd.data.examples import TextExample
from mentorkd.data.prompts import render_target
from mentorkd.errors import ModelError
from tiny_models import tiny_tokenizer

LENGTHS = [5 + 7919 * row % 196 for row in range(137)]  # 5 to 200, in no order
SIDES = [(length,) for length in LENGTHS]


def test_a_plan_has_every_row_once_an_epoch() -> None:
    plan = plan_batches(SIDES, epochs=3, seed=1, batch_size=8)
    start = 0
    for end in plan.epoch_ends:
        rows = [row for batch in plan.batches[start:end] for row in batch]
        assert sorted(rows) == list(range(len(LENGTHS)))
        start = end
    assert start == len(plan.batches)


def test_a_plan_is_a_function_of_its_seed_and_differs_between_epochs() -> None:
    plan = plan_batches(SIDES, epochs=2, seed=1, batch_size=8)
    assert plan == plan_batches(SIDES, epochs=2, seed=1, batch_size=8)
    assert plan != plan_batches(SIDES, epochs=2, seed=2, batch_size=8)
    assert plan.batches[: plan.epoch_ends[0]] != plan.batches[plan.epoch_ends[0] :]


def test_a_longer_plan_begins_as_a_shorter_one() -> None:
    short, long = (plan_batches(SIDES, epochs=n, seed=1, batch_size=8) for n in (2, 5))
    assert long.batches[: len(short.batches)] == short.batches


def test_a_number_of_batches_cycles_the_rows_and_cuts_the_last_epoch() -> None:
    whole = plan_batches(SIDES, epochs=3, seed=1, batch_size=8)
    cut = plan_batches(SIDES, batches=40, seed=1, batch_size=8)
    assert cut.batches == whole.batches[:40]
    assert cut.epoch_ends == whole.epoch_ends == [18, 36, 54]
    assert plan_batches(SIDES, batches=36, seed=1, batch_size=8).epoch_ends == [18, 36]
    seen = Counter(row for batch in cut.batches for row in batch)
    assert set(seen) == set(range(len(LENGTHS)))
    assert set(seen.values()) == {2, 3}


def test_a_plan_takes_little_memory_a_row_and_epoch() -> None:
    sides, epochs = np.array(SIDES * 100, np.int32), 5
    tracemalloc.start()
    plan = plan_batches(sides, epochs=epochs, seed=1, batch_size=8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(map(len, plan.batches)) == len(sides) * epochs
    assert peak < len(sides) * (40 + 8 * epochs)


def test_a_slice_of_batches_is_batches() -> None:
    batches = Batches([[3, 1], [2], [0]])
    assert batches[1:] == Batches([[2], [0]]) == [[2], [0]]
    assert (batches[-1], batches[0], len(batches)) == ([0], [3, 1], 3)
    assert batches != [[3, 1], [2]]
    with pytest.raises(IndexError):
        batches[3]


def test_the_sides_of_rows_are_an_array() -> None:
    rows = [Example("a", [1, 2], [3]), Example("b", [1], [2, 3, 4])]
    assert sides_of(rows, "seq2seq").tolist() == [[2, 1], [1, 3]]
    assert sides_of(rows, "causal").tolist() == [[3], [4]]
    assert sides_of([], "seq2seq").shape == (0, 2)


@pytest.mark.parametrize("limit", [{"batch_size": 8}, {"tokens_per_batch": 900}])
def test_rows_of_a_group_share_a_batch_in_pairs_that_change_every_epoch(limit: dict[str, int]) -> None:
    groups = [None if row % 10 == 0 else f"q{row // 5}" for row in range(len(LENGTHS))]
    plan = plan_batches(SIDES, epochs=4, seed=1, groups=groups, **limit)
    sizes = Counter(group for group in groups if group)
    pairs, start = [], 0
    for end in plan.epoch_ends:
        epoch = plan.batches[start:end]
        assert sorted(row for batch in epoch for row in batch) == list(range(len(LENGTHS)))
        found = [pair for batch in epoch for pair in neighbours(batch, groups)]
        assert Counter(groups[one] for one, _ in found) == {
            group: size // 2 for group, size in sizes.items() if size > 1
        }
        pairs.append({frozenset(pair) for pair in found})
        start = end
    assert len({frozenset(epoch) for epoch in pairs}) == 4
    if "batch_size" in limit:
        assert max(map(len, plan.batches)) == 8
    else:
        assert all(len(batch) * max(LENGTHS[row] for row in batch) <= 900 for batch in plan.batches)


def neighbours(batch: list[int], groups: list[str | None]) -> list[tuple[int, int]]:
    """Neighbours of one group, none in two pairs."""
    pairs, left = [], batch
    while len(left) > 1:
        paired = groups[left[0]] is not None and groups[left[0]] == groups[left[1]]
        if paired:
            pairs.append((left[0], left[1]))
        left = left[2 if paired else 1 :]
    return pairs


def test_a_pair_over_the_limit_is_alone_in_its_batch() -> None:
    plan = plan_batches([(9,)] * 3, epochs=1, seed=0, batch_size=1, groups=["q", "q", None])
    assert sorted(map(len, plan.batches)) == [1, 2]


def test_batches_have_rows_of_about_equal_length() -> None:
    plan = plan_batches(SIDES, epochs=1, seed=1, batch_size=8, window=100)
    assert padded(plan.batches) < 1.1 * sum(LENGTHS)


def test_an_update_has_the_same_random_rows_for_every_split() -> None:
    whole = plan_batches(SIDES, epochs=1, seed=1, batch_size=8).batches
    for split in (2, 4):
        micro = plan_batches(SIDES, epochs=1, seed=1, batch_size=8 // split, window=split).batches
        updates = [micro[start : start + split] for start in range(0, len(micro), split)]
        assert [sorted(row for batch in update for row in batch) for update in updates] == [sorted(b) for b in whole]
        assert padded(micro) < padded(whole)  # lengths within a micro-batch are similar


@pytest.mark.parametrize("window", [2, 3, 5])
def test_windows_follow_one_another_over_the_ends_of_epochs(window: int) -> None:
    plan = plan_batches(SIDES, epochs=3, seed=1, batch_size=8, window=window)
    assert plan.epoch_ends == [18, 36, 54]
    for start in range(0, 54, window):
        if any(start < end < start + window for end in plan.epoch_ends):
            continue  # the rows of two epochs, sorted separately
        spans = sorted((min(held), max(held)) for held in lengths_of(plan.batches[start : start + window]))
        assert all(below[1] <= above[0] for below, above in pairwise(spans))


def padded(batches: list[list[int]]) -> int:
    return sum(len(held) * max(held) for held in lengths_of(batches))


def lengths_of(batches: list[list[int]]) -> list[list[int]]:
    return [[LENGTHS[row] for row in batch] for batch in batches]


def padding(batches: list[list[int]], sides: list[tuple[int, int]]) -> float:
    """Share of padding in the batches, each side padded to its longest."""
    padded = sum(len(batch) * sum(max(sides[row][side] for row in batch) for side in (0, 1)) for batch in batches)
    return padded / sum(map(sum, sides)) - 1


def test_sources_and_targets_of_a_batch_have_similar_lengths_if_padded_separately() -> None:
    make = random.Random(0)
    sides = [(make.randint(20, 70), min(500, round(make.lognormvariate(4.3, 0.6)))) for _ in range(1500)]
    batches = sorted_batches(sides, tokens_per_batch=2048)
    assert sorted(row for batch in batches for row in batch) == list(range(len(sides)))
    assert padding(batches, sides) < 0.09
    assert padding(plan_batches(sides, epochs=1, seed=0, batch_size=8, window=100).batches, sides) < 0.13
    sums = [(sum(pair),) for pair in sides]
    assert padding(sorted_batches(sums, tokens_per_batch=2048), sides) > 0.15  # by sorting by the sum


def test_the_token_limit_holds_for_both_sides() -> None:
    sides = [(length % 50 + 1, length) for length in LENGTHS]
    for batch in plan_batches(sides, epochs=1, seed=1, tokens_per_batch=600).batches:
        assert len(batch) * sum(max(sides[row][side] for row in batch) for side in (0, 1)) <= 600


def test_no_rows_make_no_batches() -> None:
    assert sorted_batches([], tokens_per_batch=4) == []
    assert plan_batches([], epochs=2, seed=0, batch_size=4).batches == []


def test_the_token_limit_includes_padding() -> None:
    plan = plan_batches(SIDES, epochs=2, seed=1, tokens_per_batch=400, window=100)
    assert all(len(batch) * max(LENGTHS[row] for row in batch) <= 400 for batch in plan.batches)
    assert len(plan.batches) < 2 * len(LENGTHS) / 2


def test_a_row_over_the_limit_is_alone_in_its_batch() -> None:
    plan = plan_batches([(10,), (500,), (10,)], epochs=1, seed=0, tokens_per_batch=100)
    assert [1] in plan.batches


def test_inference_batches_are_longest_first() -> None:
    batches = sorted_batches(SIDES, tokens_per_batch=1000)
    widths = [max(LENGTHS[row] for row in batch) for batch in batches]
    assert widths == sorted(widths, reverse=True)
    assert sorted(row for batch in batches for row in batch) == list(range(len(LENGTHS)))


@pytest.mark.parametrize(("positions", "width"), [(None, 136), (256, 136), (250, 129)])
def test_each_side_is_rounded_up_by_its_length_where_positions_suffice(positions: int | None, width: int) -> None:
    config = SimpleNamespace(decoder_start_token_id=0, max_position_embeddings=positions)
    collator = Collator.for_model("seq2seq", tiny_tokenizer(), config)  # type: ignore[arg-type]
    batch = collator([Example("a", [5] * 9, [6] * 129), Example("b", [5] * 2, [6] * 3)])
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "input_ids": (2, 9), "attention_mask": (2, 9), "decoder_input_ids": (2, width), "labels": (2, width)
    }  # fmt: skip
    assert batch["attention_mask"].sum(1).tolist() == [9, 2]
    assert (batch["labels"] != IGNORE_INDEX).sum(1).tolist() == [129, 3]


def test_exactly_one_of_rows_and_tokens_is_required() -> None:
    with pytest.raises(ValueError, match="exactly one of batch_size"):
        plan_batches([1], epochs=1, seed=0)


def test_exactly_one_of_epochs_and_batches_is_required_and_batches_need_rows() -> None:
    for given in ({}, {"epochs": 1, "batches": 1}):
        with pytest.raises(ValueError, match="exactly one of epochs"):
            plan_batches([1], seed=0, batch_size=1, **given)
    with pytest.raises(ValueError, match="no rows"):
        plan_batches([], seed=0, batch_size=1, batches=3)


def test_targets_end_with_the_end_token_once() -> None:
    for append_eos in (True, False):
        tokenizer = tiny_tokenizer(append_eos=append_eos)
        for kind in ("seq2seq", "causal"):
            ids = encode_target(tokenizer, kind, "3 + 4 = 7 --> 7")
            assert ids.count(tokenizer.eos_token_id) == 1
            assert ids[-1] == tokenizer.eos_token_id


def test_causal_prompts_have_no_end_token_and_a_separator() -> None:
    tokenizer = tiny_tokenizer(append_eos=True)
    ids = encode_prompt(tokenizer, "causal", "How many?")
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids).startswith("How many?\n")


def test_chat_prompts_use_the_template() -> None:
    tokenizer = tiny_tokenizer()
    turns = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    tokenizer.chat_template = turns + "{% if add_generation_prompt %} [bot]{% endif %}"
    assert tokenizer.decode(encode_prompt(tokenizer, "causal", "How many?")) == "[user] How many? [bot]"


def test_rows_that_do_not_fit_are_dropped_and_counted_never_cut() -> None:
    tokenizer = tiny_tokenizer()
    rows = [("a", "short", "7 --> 7"), ("b", "long " * 50, "7 --> 7"), ("c", "short", "step " * 50 + "--> 7")]
    kept, counts = encode_rows(rows, TextEncoder(tokenizer, "seq2seq"), max_source_tokens=40, max_target_tokens=40)
    assert [row.rationale_id for row in kept] == ["a"]
    assert (counts.rows, counts.kept, counts.source_too_long, counts.target_too_long) == (3, 1, 1, 1)
    assert counts.target_tokens == len(kept[0].target_ids)


def test_prompt_and_target_must_fit_the_positions_together() -> None:
    tokenizer = tiny_tokenizer(append_eos=False)
    rows = [("a", "short", "7 --> 7"), ("b", "short", "step " * 10 + "--> 7")]
    whole, _ = encode_rows(rows, TextEncoder(tokenizer, "causal"), max_source_tokens=99, max_target_tokens=99)
    limit = whole[1].length - 1
    assert (
        encode_rows(rows, TextEncoder(tokenizer, "causal", limit), max_source_tokens=99, max_target_tokens=99)[0]
        == whole
    )
    shorter = TextEncoder(tokenizer, "causal", limit - 1)
    kept, counts = encode_rows(rows, shorter, max_source_tokens=99, max_target_tokens=99)
    assert kept == whole[:1]
    assert counts.target_too_long == 1


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
@pytest.mark.parametrize("form", ["arrow", "therefore"])
@pytest.mark.parametrize("answer", ["7", "(B)", "1,234.5", "n k y z"])
def test_the_tokens_of_an_answer_are_found(kind: str, form: str, answer: str) -> None:
    tokenizer = tiny_tokenizer()
    target = render_target(f"the answer is not {answer} yet", answer, form)  # type: ignore[arg-type]
    start = target.rindex(answer)
    row = TextExample("a", "How many?", target, answer=(start, start + len(answer)))
    (example,), _ = encode_rows([row], TextEncoder(tokenizer, kind), max_source_tokens=99, max_target_tokens=99)  # type: ignore[arg-type]
    assert example.answer is not None
    decoded = tokenizer.decode(example.target_ids[slice(*example.answer)])
    assert answer in decoded
    assert decoded.strip(" .") == answer
    assert tokenizer.eos_token_id not in example.target_ids[slice(*example.answer)]


def test_characters_without_a_token_are_not_found_and_slow_tokenizers_are_refused() -> None:
    assert token_span(tiny_tokenizer(), "causal", "7 --> 8", (9, 10)) is None
    with pytest.raises(ModelError, match="fast tokenizer"):
        token_span(SimpleNamespace(is_fast=False), "causal", "7 --> 8", (6, 7))  # type: ignore[arg-type]


ROWS = [Example("a", [5, 6, 7, 1], [8, 9, 1]), Example("b", [5, 1], [8, 9, 10, 11, 1])]


@pytest.mark.parametrize("side", ["left", "right"])
def test_seq2seq_labels_are_the_targets_and_inputs_are_shifted(side: str) -> None:
    batch = Collator("seq2seq", pad_token_id=0, decoder_start_token_id=0)(ROWS)
    batch = padded_left(batch) if side == "left" else batch
    keep = batch["labels"] != IGNORE_INDEX
    assert batch["labels"][keep].tolist() == [8, 9, 1, 8, 9, 10, 11, 1]
    assert batch["decoder_input_ids"][keep].tolist() == [0, 8, 9, 0, 8, 9, 10, 11]
    assert batch["attention_mask"].sum(1).tolist() == [4, 2]


@pytest.mark.parametrize("side", ["left", "right"])
def test_causal_labels_are_what_each_position_predicts_and_prompts_have_none(side: str) -> None:
    batch = Collator("causal", pad_token_id=0)(ROWS)
    batch = padded_left(batch) if side == "left" else batch
    keep = batch["labels"] != IGNORE_INDEX
    assert batch["labels"][keep].tolist() == [8, 9, 1, 8, 9, 10, 11, 1]
    # The last prompt token predicts the first target token; every target token but the last is an input.
    assert batch["input_ids"][keep].tolist() == [1, 8, 9, 1, 8, 9, 10, 11]
    assert torch.equal(batch["attention_mask"].sum(1), torch.tensor([6, 6]))


def test_packed_rows_follow_one_another() -> None:
    batch = Collator("causal", pad_token_id=0, packed=True)(ROWS)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 1, 8, 9, 5, 1, 8, 9, 10, 11]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]]
    assert batch["labels"][batch["labels"] != IGNORE_INDEX].tolist() == [8, 9, 1, 8, 9, 10, 11, 1]
    assert batch["labels"].shape == batch["input_ids"].shape


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("numbers", [[2, 0], [1], [0, 1, 2]])
def test_rows_are_taken_from_a_batch_in_a_given_order(is_packed: bool, numbers: list[int]) -> None:
    rows = [*ROWS, Example("c", [4], [1])]
    collate = Collator("causal", pad_token_id=0, packed=is_packed)
    batch = collate(rows)
    taken, moved = take_rows(batch, numbers, [row.length - 1 for row in rows])
    expected = (
        collate([rows[number] for number in numbers])
        if is_packed
        else {name: tensor[numbers] for name, tensor in batch.items()}
    )
    assert taken.keys() == expected.keys()
    assert all(torch.equal(taken[name], expected[name]) for name in expected)
    places = (batch["labels"].flatten() != IGNORE_INDEX).nonzero()[:, 0].split([len(row.target_ids) for row in rows])
    now = torch.cat([places[number] - by for number, by in zip(numbers, moved, strict=True)])
    assert torch.equal(now, (taken["labels"].flatten() != IGNORE_INDEX).nonzero()[:, 0])


@hypothesis.given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.booleans(), st.integers(0, 9))
def test_packs_hold_each_row_once_an_epoch_and_are_full(lengths: list[int], in_pairs: bool, seed: int) -> None:
    sides = [(length,) for length in lengths]
    groups = [f"q{row // 2}" for row in range(len(lengths))] if in_pairs else None
    plan = plan_batches(sides, seed=seed, epochs=2, tokens_per_batch=100, groups=groups, packed=True)
    first, second = plan.batches[: plan.epoch_ends[0]], plan.batches[plan.epoch_ends[0] :]
    for packs in (first, second):
        assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
        sizes = [sum(lengths[row] for row in pack) for pack in packs]
        assert all(size <= 100 or len(pack) == 1 + in_pairs for size, pack in zip(sizes, packs, strict=True))
        longest = max(lengths) * (1 + in_pairs)
        assert sum(size <= 100 - longest for size in sizes) <= 1  # only the last has room for any other row
    by_rows = plan_batches(sides, seed=seed, epochs=1, batch_size=4, packed=True).batches
    assert Counter(map(len, by_rows)) - Counter({len(lengths) % 4: 1}) == Counter(
        {4: len(lengths) // 4} if len(lengths) > 3 else {}
    )
