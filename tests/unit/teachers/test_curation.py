"""What decisions make of the teacher's rationales."""

from __future__ import annotations

import pytest

from mentorkd.data.overlay import Decision
from mentorkd.grading.grade import Grader
from mentorkd.records import Question, Rationale
from mentorkd.teachers.curation import EDITED_FROM, Curation

QUESTION = Question.create("How many?", "12", "train")
META = {"outcome": "length", "model": "m", "logprobs": {"values": [-0.5]}}
ROWS = [Rationale.create(QUESTION.id, f"step {n}", "7", "wrong", "teacher", n, META) for n in range(3)]


def curated(*decisions: Decision) -> tuple[list[Rationale], Curation]:
    by_id = {decision.rationale_id: decision for decision in decisions}
    curation = Curation(by_id, {QUESTION.id: QUESTION}, Grader("number"))
    return list(curation.apply(ROWS)), curation


def edit(text: str) -> Decision:
    return Decision.on(ROWS[1], "edit", by="ann", why="", text=text)


def test_a_rejected_rationale_is_left_out() -> None:
    rows, curation = curated(Decision.on(ROWS[0], "reject", by="ann", why=""))
    assert rows == ROWS[1:]
    assert (curation.rejected, curation.edited, curation.unmatched) == (1, 0, [])


@pytest.mark.parametrize(
    ("text", "reasoning", "predicted", "verdict"),
    [
        ("3 * 4 = 12.\nTherefore, the answer is 12.", "3 * 4 = 12.", "12", "correct"),
        ("3 * 4 = 13. #### 13", "3 * 4 = 13. #### 13", "13", "wrong"),
        ("three times four", "three times four", None, "no_answer"),
    ],
)
def test_an_edited_rationale_is_graded_again(text: str, reasoning: str, predicted: str | None, verdict: str) -> None:
    rows, curation = curated(edit(text))
    assert [rows[0], rows[2]] == [ROWS[0], ROWS[2]]
    new = rows[1]
    assert (new.text, new.predicted, new.verdict) == (reasoning, predicted, verdict)
    assert (new.question_id, new.source, new.sample) == (QUESTION.id, "teacher", 1)
    assert new.id != ROWS[1].id
    assert (curation.rejected, curation.edited) == (0, 1)


def test_an_edited_rationale_is_whole_and_has_no_log_probabilities_of_the_old_text() -> None:
    assert curated(edit("new"))[0][1].meta == {"outcome": "ok", "model": "m", EDITED_FROM: ROWS[1].id}


def test_decisions_about_other_rationales_are_told() -> None:
    other = Rationale.create("other", "text", None, "wrong", "teacher", 0)
    rows, curation = curated(Decision.on(other, "reject", by="ann", why=""))
    assert (rows, curation.unmatched) == (ROWS, [other.id])
