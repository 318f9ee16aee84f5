"""Tokens: the divergence at each of them is that of two whole distributions, whatever form the soft labels have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mentorkd.data.batching import IGNORE_INDEX
from mentorkd.data.encoding import Example
from mentorkd.distillation.chunk_losses import MentorChunks
from mentorkd.distillation.hidden_states import Batch, target_logits
from mentorkd.distillation.losses import MentorTargets, top_k_of
from mentorkd.distillation.mentors import OnlineMentor
from mentorkd.errors import RunError
from mentorkd.models import load_folder
from mentorkd.pipeline.opened import OpenedRun
from mentorkd.records import Question, Rationale
from mentorkd.web.tokens import LIKELIEST, Student, Students, TextView

TRAINING = "learners/student/seed-1/train"


@pytest.fixture(scope="module")
def run(small_run: Path) -> OpenedRun:
    return OpenedRun(small_run / "run")


@pytest.fixture(scope="module")
def student(run: OpenedRun) -> Student:
    return Students().get(run, TRAINING)


@pytest.fixture(scope="module")
def rationale(run: OpenedRun, student: Student) -> Rationale:
    """One that the student was trained on."""
    source = student.mentors[0][1]
    rows = [each for each in run.folder.rationales("annotate") if each.verdict == "correct"]
    return next(each for each in rows if source.part_of(Example(each.id, [], [], source="teacher")) is not None)


@pytest.fixture(scope="module")
def question(run: OpenedRun, rationale: Rationale) -> Question:
    return next(each for each in run.folder.questions("prepare") if each.id == rationale.question_id)


@pytest.fixture(scope="module")
def mentor(run: OpenedRun) -> OnlineMentor:
    return OnlineMentor(load_folder(run.folder.model("learners/mentor/seed-1/train"), device=torch.device("cpu")))


class Given:
    """A mentor whose distributions are given in another form."""

    def __init__(self, mentor: OnlineMentor, form: str) -> None:
        self.mentor, self.form = mentor, form

    def part_of(self, row: Example) -> int:
        return 0

    @torch.no_grad()
    def targets_for(self, rows: list[Example], batch: Batch) -> MentorTargets | MentorChunks:
        logits_NV = target_logits(self.mentor.model, batch, exact=True)
        if self.form == "top_k":
            return top_k_of(logits_NV, logits_NV.shape[1] - 1, temperature=1.0)
        labels_N = batch["labels"][batch["labels"] != IGNORE_INDEX]
        log_probs_N = logits_NV.log_softmax(-1).gather(1, labels_N[:, None])[:, 0]
        pairs = len(log_probs_N) // 2  # chunks of two tokens, the first without a label, and the rest in one
        lengths_C = torch.tensor([2] * (pairs - 1) + [len(log_probs_N) - 2 * (pairs - 1)])
        log_probs_C = torch.segment_reduce(log_probs_N, "sum", lengths=lengths_C)
        log_probs_C[0] = torch.nan
        return MentorChunks(log_probs_C, lengths_C)


def exact(student: Student, mentor: OnlineMentor, rationale: Rationale, question: Question) -> torch.Tensor:
    """KL(mentor || student) at each token, on whole distributions."""
    seen: list[Batch] = []

    class Seeing(Given):
        def targets_for(self, rows: list[Example], batch: Batch) -> MentorTargets | MentorChunks:
            seen.append(batch)
            return super().targets_for(rows, batch)

    replace(student, mentors=[("m", Seeing(mentor, "top_k"))]).look(rationale, question, "teacher")
    with torch.no_grad():
        mentor_NV, student_NV = (
            target_logits(model, seen[0], exact=True).double().log_softmax(-1)
            for model in (mentor.model, student.loaded.model)
        )
    return (mentor_NV.exp() * (mentor_NV - student_NV)).sum(-1)


def kl_of(view: TextView) -> torch.Tensor:
    return torch.tensor([token.kl for token in view.tokens], dtype=torch.float64)


def test_stored_hidden_states_give_the_divergence_of_the_two_models(
    student: Student, mentor: OnlineMentor, rationale: Rationale, question: Question
) -> None:
    view = student.look(rationale, question, student.source_of("annotate"))
    expected_N = exact(student, mentor, rationale, question)
    assert len(view.tokens) == len(expected_N)
    torch.testing.assert_close(kl_of(view), expected_N, atol=5e-3, rtol=2e-2)  # hidden states are stored in bfloat16
    assert view.kl == pytest.approx(float(kl_of(view).mean()))
    assert view.notes == []
    # Labels and the likeliest tokens are those of the same pass.
    own = view.tokens[0].mentors[0]
    assert own.log_prob is not None
    assert len(own.likeliest) == len(view.tokens[0].likeliest) == LIKELIEST
    probabilities = [each.probability for each in own.likeliest]
    assert probabilities == sorted(probabilities, reverse=True)


def test_kept_tokens_give_the_same(
    student: Student, mentor: OnlineMentor, rationale: Rationale, question: Question
) -> None:
    view = replace(student, mentors=[("m", Given(mentor, "top_k"))]).look(rationale, question, "teacher")
    torch.testing.assert_close(kl_of(view), exact(student, mentor, rationale, question), atol=1e-4, rtol=1e-3)
    assert view.temperature == 1.0


def test_a_chunk_has_the_divergence_of_two_events_at_its_last_token(
    student: Student, mentor: OnlineMentor, rationale: Rationale, question: Question
) -> None:
    view = replace(student, mentors=[("m", Given(mentor, "chunks"))]).look(rationale, question, "teacher")
    assert [token.kl for token in view.tokens[:3]] == [None] * 3, "the first chunk has no label"
    second = view.tokens[2:4]
    log_p, log_q = second[1].mentors[0].log_prob, sum(token.log_prob for token in second)
    assert log_p is not None
    p, q = torch.tensor([log_p, log_q], dtype=torch.float64).exp()
    expected = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert second[1].kl == pytest.approx(float(expected), abs=1e-4)
    assert view.kl == pytest.approx(sum(token.kl or 0.0 for token in view.tokens) / len(view.tokens))


def test_tokens_are_the_text(student: Student, rationale: Rationale, question: Question) -> None:
    view = student.look(rationale, question, "teacher")
    text = "".join(token.text for token in view.tokens)
    assert text.startswith(rationale.text)
    assert text.endswith(question.answer)
    assert view.tokens[-1].text == ""
    assert question.text in view.prompt


def test_a_text_without_soft_labels_has_the_students_surprise_alone(student: Student, question: Question) -> None:
    other = Rationale.create(question.id, "Something else.", None, "wrong", "teacher", 9)
    view = student.look(other, question, "teacher")
    assert view.kl is None
    assert view.notes == ["mentor has no soft labels of this text"]
    assert all(token.log_prob < 0 for token in view.tokens)


def test_what_cannot_be_looked_at_is_told(student: Student, run: OpenedRun, question: Question) -> None:
    long = Rationale.create(question.id, "very " * 5000, None, "wrong", "teacher", 9)
    with pytest.raises(RunError, match="the text is longer than student reads"):
        student.look(long, question, "teacher")
    with pytest.raises(RunError, match="student does not read what elsewhere wrote"):
        student.source_of("elsewhere")


def test_a_student_is_loaded_once_while_its_training_is_the_same(run: OpenedRun) -> None:
    students = Students()
    assert students.get(run, TRAINING) is students.get(OpenedRun(run.root), TRAINING)
