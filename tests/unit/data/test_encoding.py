from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from mentorkd.data.batching import IGNORE_INDEX, Collator, plan_batches
from mentorkd.data.encoding import Example, TextEncoder, training_rows
from mentorkd.data.readers import read_questions, read_rationales
from mentorkd.distillation.objectives.mcc import answer_pairs
from mentorkd.errors import DataError
from mentorkd.models import load_tokenizer
from mentorkd.recipe.learner import Learner, ModelConfig
from mentorkd.recipe.objectives import OBJECTIVES, ObjectiveSpec
from mentorkd.records import GOLD, EncodingCounts, ModelKind, Question, Rationale
from tiny_models import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def encoded(
    rationales: list[Rationale],
    objective: str,
    questions: list[Question] | None = None,
    tokenizer: PreTrainedTokenizerBase = TOKENIZER,
) -> list[Example]:
    learner = Learner(model="unused", prompt="Q: {question}", objective=objective)  # type: ignore[arg-type]
    by_source: dict[str, list[Rationale]] = {}
    for rationale in rationales:
        by_source.setdefault(rationale.source, []).append(rationale)
    return training_rows(by_source, questions or [QUESTION], learner, TextEncoder(tokenizer, "seq2seq", None))[0]


QUESTION = Question.create("How many apples?", "7", "train")
REASONED = [Rationale.create(QUESTION.id, f"3 + 4 = 7, way {n}", "7", "correct", "teacher", n) for n in range(2)]
BARE = Rationale.create(QUESTION.id, "", "7", "correct", GOLD, 0)


def test_step_by_step_makes_two_rows_that_are_a_pair() -> None:
    rows = encoded(REASONED, "step_by_step")
    decode = TOKENIZER.decode
    texts = [(row.task, decode(row.source_ids[:-1]), decode(row.target_ids[:-1])) for row in rows]
    assert texts[:2] == [
        ("predict", "predict: Q: How many apples?", "7"),
        ("explain", "explain: Q: How many apples?", "3 + 4 = 7, way 0"),
    ]
    assert [row.group for row in rows] == [REASONED[0].id] * 2 + [REASONED[1].id] * 2


def test_rows_of_mcc_are_grouped_by_question_with_the_answer_marked() -> None:
    rows = encoded([*REASONED, BARE], "mcc")
    assert [row.group for row in rows] == [QUESTION.id, QUESTION.id, None]
    answers = [TOKENIZER.decode(row.target_ids[slice(*row.answer)]) for row in rows[:2] if row.answer]
    assert [answer.strip() for answer in answers] == ["7", "7"]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_bare_answer_is_one_row_without_a_pair(objective: str) -> None:
    (row,) = encoded([BARE], objective)
    assert TOKENIZER.decode(row.target_ids[:-1]) == "7"
    assert plan_batches([(1,)], epochs=1, seed=0, batch_size=8, groups=[row.group]).batches == [[0]]


@pytest.mark.parametrize(("objective", "spec"), OBJECTIVES.items())
def test_a_rationale_gives_the_rows_that_its_objective_declares(objective: str, spec: ObjectiveSpec) -> None:
    rows = encoded(REASONED[:1], objective)
    assert len(rows) == spec.rows_per_rationale
    assert [row.task for row in rows if row.task] == list(spec.tasks)


# --- own texts --------------------------------------------------------------------------------------------------------


def written(text: str, sample: int = 0, *, finished: bool = True) -> Rationale:
    meta = {"completion": text, "finished": finished}
    return Rationale.create(QUESTION.id, "as it was read", "8", "wrong", "student", sample, meta)


def encoded_own(
    rationales: list[Rationale], kind: ModelKind = "seq2seq", **settings: Any
) -> tuple[list[Example], EncodingCounts]:
    learner = Learner(model="unused", rationales=["teacher", "self"], **{"soft_labels": "mentor", **settings})
    return training_rows({"self": rationales}, [QUESTION], learner, TextEncoder(TOKENIZER, kind, None))


@pytest.mark.parametrize("objective", ["rationale", "mcc"])
@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_an_own_text_that_is_imitated_is_read_as_it_was_written(kind: ModelKind, objective: str) -> None:
    texts = [written("3 + 4 = 8 --> 8"), written("3 + 4 = 7, so 3 + 4", 1, finished=False)]
    rows, counts = encoded_own(texts, kind, objective=objective)
    whole, cut = rows
    assert TOKENIZER.decode(whole.target_ids[:-1]) == "3 + 4 = 8 --> 8"
    assert whole.target_ids[-1] == TOKENIZER.eos_token_id
    assert TOKENIZER.decode(cut.target_ids) == "3 + 4 = 7, so 3 + 4"
    assert TOKENIZER.eos_token_id not in cut.target_ids
    assert [(row.source, row.group, row.answer) for row in rows] == [("self", None, None)] * 2
    assert (counts.kept, counts.unended, counts.without_tokens) == (2, 1, 0)
    labels = Collator(kind, 0, 0 if kind == "seq2seq" else None)(rows)["labels"]
    assert labels[1][labels[1] != IGNORE_INDEX].tolist() == cut.target_ids


def test_an_own_text_of_a_self_taught_learner_is_a_rationale() -> None:
    ((row,), counts) = encoded_own([written("3 + 4 = 8 --> 8")], soft_labels=None)
    assert TOKENIZER.decode(row.target_ids[:-1]) == "as it was read --> 7"
    assert (row.source, counts.unended) == ("self", 0)


def test_a_cut_text_without_a_token_is_dropped_and_counted_and_an_ended_one_is_its_end() -> None:
    rows, counts = encoded_own([written("", finished=False), written("", 1)])
    assert [row.target_ids for row in rows] == [[TOKENIZER.eos_token_id]]
    assert (counts.rows, counts.kept, counts.without_tokens) == (2, 1, 1)


# --- sources and weights ----------------------------------------------------------------------------------------------


def weighed(weights: dict[str, dict[str, float]]) -> dict[str, list[float]]:
    questions = [Question.create(f"How many? {n}", "7", "train") for n in range(3)]
    by_source = {
        name: [Rationale.create(q.id, f"way {n}", "7", "correct", name, n) for q in questions for n in range(count)]
        for name, count in (("teacher", 2), ("mentor", 1))
    }
    named = {source: {questions[int(n)].id: weight for n, weight in each.items()} for source, each in weights.items()}
    learner = Learner(model="unused", rationales=list(by_source))
    rows, _ = training_rows(by_source, questions, learner, TextEncoder(TOKENIZER, "seq2seq", None), weights=named)
    return {name: [row.weight for row in rows if row.source == name] for name in by_source}


def test_rows_weigh_as_their_questions_with_a_mean_of_one_in_the_source() -> None:
    assert weighed({}) == {"teacher": [1.0] * 6, "mentor": [1.0] * 3}
    weights = weighed({"teacher": {"0": 0.25, "1": 0.05, "2": 0.15}})
    assert weights["teacher"] == pytest.approx([5 / 3, 5 / 3, 1 / 3, 1 / 3, 1, 1])
    assert weights["mentor"] == [1.0] * 3


def test_a_question_without_a_weight_is_named() -> None:
    with pytest.raises(DataError, match="has no weight, expected one for each question of `teacher`"):
        weighed({"teacher": {"0": 0.25, "1": 0.05}})


def test_the_mean_of_one_is_over_the_rows_that_fit() -> None:
    questions = [QUESTION, Question.create("How many pears? " * 100, "7", "train")]
    rationales = [Rationale.create(each.id, "way", "7", "correct", "teacher", 0) for each in questions]
    learner = Learner(model="unused", training={"max_source_tokens": 50})  # type: ignore[arg-type]
    weights = {"teacher": {questions[0].id: 0.05, questions[1].id: 0.25}}
    encoder = TextEncoder(TOKENIZER, "seq2seq", None)
    ((row,), _) = training_rows({"teacher": rationales}, questions, learner, encoder, weights=weights)
    assert row.weight == 1


def test_answer_spans_of_real_rationales_are_found_and_equal_in_pairs(
    shared_data: Path, shared_tokenizer: Path
) -> None:
    data = shared_data / "mentor-kd"
    questions = read_questions(data / "skeleton/tracking_shuffled_objects_train.json", split="train", kind="choice")
    file = data / "main/tracking_shuffled_objects_3_train.json"
    rationales = read_rationales(file, questions, kind="choice")
    tokenizer = load_tokenizer(ModelConfig(from_config={"model_type": "t5"}, tokenizer=str(shared_tokenizer)))
    rows = encoded(rationales, "mcc", questions, tokenizer)
    assert len(rows) == 1536
    gold = {question.id: question.answer for question in questions}
    found = [
        row.answer and tokenizer.decode(row.target_ids[slice(*row.answer)]) == gold[row.group or ""] for row in rows
    ]
    assert sum(map(bool, found)) >= 0.99 * len(rows)
    groups = [row.group for row in rows]
    pairs = sum(size // 2 for size in Counter(groups).values())
    plan = plan_batches([(1,)] * len(rows), epochs=1, seed=0, batch_size=8, groups=groups)
    assert sum(len(answer_pairs([rows[n] for n in batch])[0]) for batch in plan.batches) == pairs  # one token an answer
