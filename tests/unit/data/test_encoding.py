from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from mentorkd.data.batching import plan_batches
from mentorkd.data.encoding import Example, TextEncoder, training_rows
from mentorkd.data.readers import read_questions, read_rationales
from mentorkd.distillation.objectives.mcc import answer_pairs
from mentorkd.models import load_tokenizer
from mentorkd.recipe.learner import Learner, ModelConfig
from mentorkd.recipe.objectives import OBJECTIVES, ObjectiveSpec
from mentorkd.records import GOLD, Question, Rationale
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
