"""Which rationales enter training: small filters, each from a list to a shorter list in the same order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from mentorkd.errors import DataError
from mentorkd.grading.arithmetic import check_arithmetic
from mentorkd.recipe.learner import SelectConfig
from mentorkd.records import GOLD, Question, Rationale, content_id, normalise_whitespace

__all__ = [
    "CHARACTERS_PER_TOKEN",
    "FilterCount",
    "Gathered",
    "cap_per_question",
    "drop_duplicates",
    "gather",
    "gold_rationales",
    "jaccard",
    "keep_arithmetic",
    "keep_concluding",
    "keep_correct",
    "keep_diverse",
    "keep_length",
    "keep_likely",
    "sample_questions",
    "select",
    "split_validation",
]


@dataclass(frozen=True, slots=True)
class FilterCount:
    """How many rationales went into a filter, and how many came out."""

    filter: str
    before: int
    after: int


def select(
    rationales: Sequence[Rationale],
    *,
    correct: bool = True,
    deduplicate: bool = True,
    max_per_question: int | None = None,
    question_ratio: float = 1.0,
    seed: int = 0,
    already: Iterable[Rationale] = (),
    tokens: Callable[[str], int] = len,
    min_tokens: int = 0,
    max_tokens: int | None = None,
    conclude: Callable[[Rationale], str | None] | None = None,
    sound: Callable[[str], bool] | None = None,
    nll: Callable[[Sequence[Rationale]], Mapping[str, float]] | None = None,
    drop_unlearnable: float = 0.0,
    diverse: int | None = None,
) -> tuple[list[Rationale], list[FilterCount]]:
    """The rationales that pass the filters asked for, and the count of each of these filters in order.

    The keywords turn filters on and are the arguments of the functions below, which say what each does. Questions are
    sampled first, so that the sample does not depend on the other filters; limits per question come last, so that they
    choose among what is good. With `deduplicate`, rationales that repeat one of `already` (a teacher's, say, when these
    are a mentor's) are dropped too. `nll` is asked about what the filters before it let through, and about no more.
    """
    filters: list[tuple[str, Callable[[Sequence[Rationale]], list[Rationale]]]] = []
    if question_ratio < 1:
        filters.append(("question_ratio", lambda rows: sample_questions(rows, question_ratio, seed)))
    if correct:
        filters.append(("correct", keep_correct))
    if deduplicate:
        filters.append(("deduplicate", lambda rows: drop_duplicates(rows, already)))
    if min_tokens > 0 or max_tokens is not None:
        filters.append(("length", lambda rows: keep_length(rows, tokens, min_tokens, max_tokens)))
    if conclude is not None:
        filters.append(("answer_in_rationale", lambda rows: keep_concluding(rows, conclude)))
    if sound is not None:
        filters.append(("steps_check", lambda rows: keep_arithmetic(rows, sound)))
    if nll is not None and drop_unlearnable > 0:
        filters.append(("learnable", lambda rows: keep_likely(rows, nll(rows), drop_unlearnable)))
    if diverse is not None:
        filters.append(("diverse", lambda rows: keep_diverse(rows, diverse)))
    if max_per_question is not None:
        filters.append(("max_per_question", lambda rows: cap_per_question(rows, max_per_question)))
    kept, counts = list(rationales), []
    for name, keep in filters:
        before, kept = len(kept), keep(kept)
        counts.append(FilterCount(name, before, len(kept)))
    return kept, counts


def keep_correct(rationales: Iterable[Rationale]) -> list[Rationale]:
    """Rationales that arrive at the gold answer (the paper, section 3.1)."""
    return [rationale for rationale in rationales if rationale.verdict == "correct"]


def drop_duplicates(rationales: Iterable[Rationale], already: Iterable[Rationale] = ()) -> list[Rationale]:
    """The first of the rationales of a question that are equal but for whitespace, unless it is among `already`."""
    seen = {_text_of_question(rationale) for rationale in already}
    kept = []
    for rationale in rationales:
        if (mark := _text_of_question(rationale)) not in seen:
            seen.add(mark)
            kept.append(rationale)
    return kept


def cap_per_question(rationales: Sequence[Rationale], limit: int) -> list[Rationale]:
    """The first `limit` rationales of every question by sample number (of equal numbers, the one that comes first)."""
    taken: dict[str, int] = {}
    kept: set[int] = set()
    for index in sorted(range(len(rationales)), key=lambda index: rationales[index].sample):
        question = rationales[index].question_id
        taken[question] = taken.get(question, 0) + 1
        if taken[question] <= limit:
            kept.add(index)
    return [rationale for index, rationale in enumerate(rationales) if index in kept]


def sample_questions(rationales: Sequence[Rationale], ratio: float, seed: int) -> list[Rationale]:
    """The rationales of a share of their questions (the paper's low-resource setting, Figure 5); at least one question.

    Of one seed, a smaller sample is part of a larger one, whatever the order of the rationales.
    """
    questions = {rationale.question_id for rationale in rationales}
    sample = set(_shuffled(questions, "question_ratio", seed)[: max(1, round(ratio * len(questions)))])
    return [rationale for rationale in rationales if rationale.question_id in sample]


def keep_length(
    rationales: Iterable[Rationale], tokens: Callable[[str], int], least: int = 0, most: int | None = None
) -> list[Rationale]:
    """Rationales of at least `least` and at most `most` tokens, as `tokens` counts them."""
    counted = [(rationale, tokens(rationale.text)) for rationale in rationales]
    return [rationale for rationale, length in counted if least <= length and (most is None or length <= most)]


def keep_concluding(rationales: Iterable[Rationale], conclude: Callable[[Rationale], str | None]) -> list[Rationale]:
    """Rationales whose reasoning arrives at the answer that is then given.

    `conclude` reads the answer from the reasoning alone, in the normal form of `predicted`; None, where nothing can be
    read, and a rationale without an answer count as agreement.
    """
    read = [(rationale, conclude(rationale)) for rationale in rationales]
    return [each for each, concluded in read if concluded is None or each.predicted in (None, concluded)]


def keep_arithmetic(rationales: Iterable[Rationale], sound: Callable[[str], bool]) -> list[Rationale]:
    """Rationales of whose text `sound` holds (no equation in it is wrong, as `steps.check_arithmetic` tells)."""
    return [rationale for rationale in rationales if sound(rationale.text)]


def keep_likely(rationales: Sequence[Rationale], nll: Mapping[str, float], drop: float) -> list[Rationale]:
    """All but the share `drop` that a model finds the least likely.

    `nll` is the model's negative log-likelihood a token, by rationale id. Raises DataError if one is missing.
    """
    lacking = [rationale.id for rationale in rationales if rationale.id not in nll]
    if lacking:
        raise DataError(f"{len(lacking)} rationales have no likelihood, the first is {lacking[0]}; score them first")
    ranked = sorted(rationales, key=lambda rationale: (-nll[rationale.id], rationale.id))
    dropped = {rationale.id for rationale in ranked[: int(drop * len(ranked))]}
    return [rationale for rationale in rationales if rationale.id not in dropped]


def keep_diverse(rationales: Sequence[Rationale], most: int, n: int = 3) -> list[Rationale]:
    """At most `most` rationales of every question that differ much, by n-grams of words (after MCC-KD, 2023).

    Greedy: the first one by sample number, then again and again the one whose greatest similarity to those taken is the
    least.
    """
    questions: dict[str, list[int]] = {}
    for index in sorted(range(len(rationales)), key=lambda index: rationales[index].sample):
        questions.setdefault(rationales[index].question_id, []).append(index)
    kept: set[int] = set()
    for indices in questions.values():
        grams = {index: _ngrams(rationales[index].text, n) for index in indices}
        nearest = dict.fromkeys(indices, 0.0)
        for _ in range(min(most, len(indices))):
            taken = min(nearest, key=lambda index: nearest[index])
            kept.add(taken)
            del nearest[taken]
            for index in nearest:
                nearest[index] = max(nearest[index], jaccard(grams[index], grams[taken]))
    return [rationale for index, rationale in enumerate(rationales) if index in kept]


def jaccard(one: Set[object], other: Set[object]) -> float:
    """Size of the intersection over that of the union; 1 for two empty sets."""
    union = len(one | other)
    return len(one & other) / union if union else 1.0


def _ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    """The n-grams of the words of `text` in lower case; of a text with fewer words, all of it."""
    words = text.lower().split()
    return {tuple(words[start : start + n]) for start in range(max(1, len(words) - n + 1))}


def split_validation(questions: Sequence[Question], share: float, seed: int) -> tuple[list[Question], list[Question]]:
    """Training and validation questions; the latter are the given share, at least one unless `share` is 0.

    By id, so that a question that occurs twice is on one side, whatever the order. At least one is left for training.
    """
    ids = {question.id for question in questions}
    count = 0 if share == 0 else min(max(1, round(share * len(ids))), len(ids) - 1)
    held_out = set(_shuffled(ids, "validation", seed)[: max(0, count)])
    training = [question for question in questions if question.id not in held_out]
    validation = [replace(question, split="validation") for question in questions if question.id in held_out]
    return training, validation


def _shuffled(ids: Collection[str], purpose: str, seed: int) -> list[str]:
    """Ids in an order of their own for every purpose and seed; removing some leaves the others in order."""
    return sorted(ids, key=lambda each: content_id(purpose, str(seed), each))


def _text_of_question(rationale: Rationale) -> tuple[str, str]:
    return rationale.question_id, normalise_whitespace(rationale.text)


CHARACTERS_PER_TOKEN = 4
"""For estimates: English text in the T5 vocabulary has 3.5 to 4.5 characters a token on the paper's data."""

# Which questions a low-resource ratio keeps must not depend on the training seed: it is part of the data.
SELECTION_SEED = 0


@dataclass(frozen=True)
class Gathered:
    """The rationales that a learner trains on, and what each filter of each source took away."""

    rationales: list[Rationale]
    filters: list[dict[str, Any]]


def gold_rationales(questions: Sequence[Question]) -> list[Rationale]:
    """Every question's gold answer as a rationale without reasoning."""
    answers = {question.id: question.answer for question in questions}
    return [Rationale.create(each, "", answer, "correct", GOLD, 0) for each, answer in answers.items()]


def gather(
    sources: Mapping[str, Sequence[Rationale]],
    selects: Mapping[str, SelectConfig],
    questions: Sequence[Question],
    *,
    tokens: Callable[[str], int] | None = None,
    conclude: Callable[[str, Question], str | None] | None = None,
    judge: Callable[[str, Sequence[Rationale]], Mapping[str, float]] | None = None,
) -> Gathered:
    """Select from each source in turn; a text that an earlier source has given for the question is not taken again.

    Only rationales of `questions` (the training split) are taken, and of replies that were refused, empty or cut none.
    `tokens` counts a text's tokens as the learner reads them; without it they are estimated, and the count of `length` says so.
    `conclude` reads the answer that a text arrives at, and is needed for `answer_in_rationale` alone; `judge` gives the
    negative log-likelihood a token of rationales by the model that a `perplexity` filter names, and is needed for it alone.
    """
    known = {question.id: question for question in questions}
    taken: list[Rationale] = []
    filters: list[dict[str, Any]] = []
    for name, rationales in sources.items():
        config = selects[name]
        mine = [rationale for rationale in rationales if rationale.question_id in known]
        counts = [FilterCount("training_questions", len(rationales), len(mine))]
        if any("outcome" in rationale.meta for rationale in mine):
            whole = [rationale for rationale in mine if rationale.meta.get("outcome") == "ok"]
            counts.append(FilterCount("whole_replies", len(mine), len(whole)))
            mine = whole
        equations, perplexity = _Equations(), config.perplexity
        kept, more = select(
            mine,
            correct=config.correct,
            deduplicate=config.deduplicate,
            max_per_question=config.max_per_question,
            question_ratio=config.question_ratio,
            seed=SELECTION_SEED,
            already=taken if config.deduplicate else (),
            tokens=tokens or _estimated,
            min_tokens=config.min_tokens,
            max_tokens=config.max_tokens,
            conclude=_conclusion(conclude, known) if config.answer_in_rationale else None,
            sound=equations.hold if config.arithmetic else None,
            nll=None if perplexity is None else partial(_judged_by(judge), perplexity.model),
            drop_unlearnable=0.0 if perplexity is None else perplexity.drop,
            diverse=config.diverse,
        )
        taken += kept
        told: dict[str, dict[str, Any]] = {
            "length": {"counted_in": "characters" if tokens is None else "tokens"},
            "steps_check": {"equations": equations.read + equations.unread, "unread": equations.unread},
        }
        filters += [{"source": name, **asdict(count), **told.get(count.filter, {})} for count in [*counts, *more]]
    return Gathered(taken, filters)


def _estimated(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)


@dataclass
class _Equations:
    """Checks the equations of texts, and counts those that could be read and those that were left alone."""

    read: int = 0
    unread: int = 0

    def hold(self, text: str) -> bool:
        steps = check_arithmetic(text)
        self.read += steps.holding + len(steps.wrong)
        self.unread += steps.unread
        return not steps.wrong


def _judged_by(
    judge: Callable[[str, Sequence[Rationale]], Mapping[str, float]] | None,
) -> Callable[[str, Sequence[Rationale]], Mapping[str, float]]:
    assert judge is not None, "perplexity needs a judge"
    return judge


def _conclusion(
    conclude: Callable[[str, Question], str | None] | None, known: Mapping[str, Question]
) -> Callable[[Rationale], str | None]:
    assert conclude is not None, "answer_in_rationale needs a reader of answers"
    return lambda rationale: conclude(rationale.text, known[rationale.question_id])
