"""Selection of the rationales for training: filters, each from a sequence to a shorter one in the same order.

A list gives a list, and `Rows` on the disk give `Rows`, so the texts of a large run are never all in memory.

A new filter is a function here, a line in `filters_of`, and a key of `SelectConfig` in `recipe/learner.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from types import MappingProxyType
from typing import Any

from mentorkd.data.rows import Rows, choose, where
from mentorkd.errors import DataError
from mentorkd.grading.arithmetic import check_arithmetic
from mentorkd.recipe.learner import SelectConfig
from mentorkd.records import GOLD, Question, Rationale, content_id, normalise_whitespace

CHARACTERS_PER_TOKEN = 4
"""For estimates: English text in the T5 vocabulary has 3.5 to 4.5 characters per token on the paper's data."""

SELECTION_SEED = 0
"""The questions of a low-resource ratio are part of the data, so they do not depend on the training seed."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A named step of a selection."""

    name: str
    keep: Callable[[Sequence[Rationale]], Sequence[Rationale]]
    """Returns the rationales that pass, in their order."""
    facts: Callable[[], dict[str, Any]] = dict
    """Called after `keep`: further facts to record beside the counts."""


@dataclass(frozen=True, slots=True)
class Each:
    """A `Filter.keep` that looks at each rationale alone. `select` applies several of them in one reading of the rationales."""

    passes: Callable[[Rationale], bool]

    def __call__(self, rationales: Sequence[Rationale]) -> Sequence[Rationale]:
        return where(rationales, self.passes)


@dataclass(frozen=True, slots=True)
class FilterCount:
    """The number of rationales before and after a filter."""

    filter: str
    before: int
    after: int
    facts: dict[str, Any] = field(default_factory=dict)


Dropped = Callable[[str, Rationale], None]
"""Called with the name of a filter and a rationale that it dropped."""


def select(
    rationales: Sequence[Rationale], filters: Sequence[Filter], dropped: Dropped | None = None
) -> tuple[Sequence[Rationale], list[FilterCount]]:
    """The rationales that pass all filters, which are applied in order, and the count of each filter.

    The functions of this module are ready-made filters:

        select(rationales, [Filter("correct", keep_correct), Filter("deduplicate", drop_duplicates())])
    """
    kept, counts = rationales, []
    for steps in _readings(filters):
        before = len(kept)
        kept, passed = _apply(kept, steps, dropped)
        for step, after in zip(steps, passed, strict=True):
            counts.append(FilterCount(step.name, before, after, step.facts()))
            before = after
    return kept, counts


def _readings(filters: Sequence[Filter]) -> Iterator[list[Filter]]:
    """The filters that one reading of the rationales can apply: neighbours that are `Each`, or a single one of the others."""
    for of_each, steps in groupby(filters, lambda step: isinstance(step.keep, Each)):
        group = list(steps)
        yield from [group] if of_each else ([step] for step in group)


def _apply(
    rationales: Sequence[Rationale], steps: Sequence[Filter], dropped: Dropped | None
) -> tuple[Sequence[Rationale], list[int]]:
    """The rationales that pass all steps, and how many pass the first, the first two, and so on."""
    tests = [(number, step.name, step.keep.passes) for number, step in enumerate(steps) if isinstance(step.keep, Each)]
    if not tests:
        kept = steps[0].keep(rationales)
        if dropped is not None and len(kept) < len(rationales):
            ids = {rationale.id for rationale in kept}
            for rationale in rationales:
                if rationale.id not in ids:
                    dropped(steps[0].name, rationale)
        return kept, [len(kept)]
    passed = [0] * len(tests)

    def passes(rationale: Rationale) -> bool:
        for number, name, test in tests:
            if not test(rationale):
                if dropped is not None:
                    dropped(name, rationale)
                return False
            passed[number] += 1
        return True

    return where(rationales, passes), passed


keep_correct = Each(lambda rationale: rationale.verdict == "correct")
"""Rationales with the gold answer (the paper, section 3.1)."""


def drop_duplicates(already: Iterable[Rationale] = ()) -> Each:
    """The first of the rationales of a question that differ only in whitespace, unless `already` has its text.

    It is for one selection: it remembers what it has seen.
    """
    seen = set(map(_text_key, already))

    def is_first(rationale: Rationale) -> bool:
        key = _text_key(rationale)
        if key in seen:
            return False
        seen.add(key)
        return True

    return Each(is_first)


def cap_per_question(rationales: Sequence[Rationale], limit: int) -> Sequence[Rationale]:
    """The first `limit` rationales of every question by sample number, and by position for equal numbers."""
    return choose(rationales, sorted(index for each in _by_question(rationales) for index in each[:limit]))


def sample_questions(rationales: Sequence[Rationale], ratio: float, seed: int) -> Sequence[Rationale]:
    """The rationales of a share of the questions (the paper's low-resource setting, Figure 5); at least one question.

    With one seed, a smaller sample is part of a larger one, for any order of the rationales.
    """
    questions = {rationale.question_id for rationale in rationales}
    sample = set(_shuffled(questions, "question_ratio", seed)[: max(1, round(ratio * len(questions)))])
    return where(rationales, lambda rationale: rationale.question_id in sample)


def keep_questions(ids: Collection[str]) -> Each:
    """Rationales of these questions."""
    known = frozenset(ids)
    return Each(lambda rationale: rationale.question_id in known)


def keep_length(tokens: Callable[[str], int], least: int = 0, most: int | None = None) -> Each:
    """Rationales of at least `least` and at most `most` tokens; `tokens` counts the tokens of a text."""
    longest = math.inf if most is None else most
    return Each(lambda rationale: least <= tokens(rationale.text) <= longest)


def keep_concluding(conclude: Callable[[Rationale], str | None]) -> Each:
    """Rationales whose reasoning leads to the answer that they state.

    `conclude` reads the answer from the reasoning alone, in the normal form of `predicted`. A rationale is kept if
    `conclude` returns None (no answer can be read) or if the rationale states no answer.
    """

    def concludes(rationale: Rationale) -> bool:
        answer = conclude(rationale)
        return answer is None or rationale.predicted in (None, answer)

    return Each(concludes)


def keep_arithmetic(is_sound: Callable[[str], bool]) -> Each:
    """Rationales with sound text; `is_sound` tells whether a text has no wrong equation (see `check_arithmetic`)."""
    return Each(lambda rationale: is_sound(rationale.text))


def keep_likely(rationales: Sequence[Rationale], nll: Mapping[str, float], drop: float) -> Sequence[Rationale]:
    """The rationales without the share `drop` that is least likely under a model.

    `nll` is the model's negative log-likelihood in nats per token, by rationale id. Raises DataError if one is missing.
    """
    missing = [rationale.id for rationale in rationales if rationale.id not in nll]
    if missing:
        raise DataError(f"{len(missing)} rationales have no likelihood, the first is {missing[0]}; score them first")
    ranked = sorted((-nll[rationale.id], rationale.id) for rationale in rationales)
    dropped = {rationale_id for _, rationale_id in ranked[: int(drop * len(ranked))]}
    return where(rationales, lambda rationale: rationale.id not in dropped)


def keep_diverse(rationales: Sequence[Rationale], most: int, n: int = 3) -> Sequence[Rationale]:
    """At most `most` rationales of every question, chosen to differ in their n-grams of words (after MCC-KD, 2023).

    The choice is greedy: first the rationale with the lowest sample number, then repeatedly the rationale whose largest
    similarity to the chosen ones is smallest.
    """
    kept: list[int] = []
    for indices in _by_question(rationales):
        grams = {index: _ngrams(rationales[index].text, n) for index in indices}
        nearest = dict.fromkeys(indices, 0.0)
        for _ in range(min(most, len(indices))):
            chosen = min(nearest, key=lambda index: nearest[index])
            kept.append(chosen)
            del nearest[chosen]
            for index in nearest:
                nearest[index] = max(nearest[index], jaccard(grams[index], grams[chosen]))
    return choose(rationales, sorted(kept))


def _by_question(rationales: Sequence[Rationale]) -> Iterator[list[int]]:
    """The positions of the rationales of each question, by sample number and then by position."""
    places = [(rationale.question_id, rationale.sample) for rationale in rationales]
    for _, indices in groupby(sorted(range(len(places)), key=places.__getitem__), lambda index: places[index][0]):
        yield list(indices)


def jaccard(one: Set[object], other: Set[object]) -> float:
    """The size of the intersection divided by the size of the union; 1 for two empty sets."""
    union = len(one | other)
    return len(one & other) / union if union else 1.0


def _ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    """The n-grams of the words of `text` in lower case; a text of fewer than n words is one n-gram."""
    words = text.lower().split()
    return {tuple(words[start : start + n]) for start in range(max(1, len(words) - n + 1))}


def split_validation(questions: Sequence[Question], share: float, seed: int) -> tuple[list[Question], list[Question]]:
    """Training and validation questions. Validation gets the given share, and at least one question unless `share` is 0.

    The split is by question id, so a repeated question is on one side only, for any order. At least one question
    remains for training.
    """
    ids = {question.id for question in questions}
    count = 0 if share == 0 else min(max(1, round(share * len(ids))), len(ids) - 1)
    held_out = set(_shuffled(ids, "validation", seed)[: max(0, count)])
    training = [question for question in questions if question.id not in held_out]
    validation = [replace(question, split="validation") for question in questions if question.id in held_out]
    return training, validation


def split_folds(questions: Iterable[Question], folds: int) -> dict[str, int]:
    """The fold of each question, by its id: random, of equal sizes, and the same for every seed of a recipe."""
    ids = {question.id for question in questions}
    return {each: number % folds for number, each in enumerate(_shuffled(ids, "folds", SELECTION_SEED))}


def _shuffled(ids: Collection[str], purpose: str, seed: int) -> list[str]:
    """Ids in a random order for each purpose and seed; the removal of ids does not change the order of the others."""
    return sorted(ids, key=lambda each: content_id(purpose, str(seed), each))


def _text_key(rationale: Rationale) -> int:
    """A number in the place of question and text, which would take the memory of all texts; the same in one process only."""
    return hash((rationale.question_id, normalise_whitespace(rationale.text)))


@dataclass(frozen=True, slots=True)
class Gathered:
    """The rationales that a learner trains on, and the counts of each filter of each source, as a stage records them."""

    by_source: dict[str, Sequence[Rationale]]
    filters: list[dict[str, Any]]

    def __len__(self) -> int:
        """Those of all sources together."""
        return sum(map(len, self.by_source.values()))


def gold_rationales(questions: Iterable[Question]) -> Rows[Rationale]:
    """The gold answer of each labelled question as a rationale without reasoning."""
    answers = {question.id: question.answer for question in questions if question.labelled}
    written = (Rationale.create(each, "", answer, "correct", GOLD, 0) for each, answer in answers.items())
    return Rows.of(Rationale, written)


def gather(
    sources: Mapping[str, Sequence[Rationale]],
    selects: Mapping[str, SelectConfig],
    questions: Sequence[Question],
    *,
    tokens: Callable[[str], int] | None = None,
    conclude: Callable[[str, Question], str | None] | None = None,
    nll: Callable[[str, Sequence[Rationale]], Mapping[str, float]] | None = None,
    limits: Mapping[str, Collection[str]] = MappingProxyType({}),
    dropped: Dropped | None = None,
) -> Gathered:
    """Select rationales from each source in turn.

    A text that an earlier source has given for the same question is a duplicate. Rationales of questions outside
    `questions` (the training split) are dropped, and so are refused, empty and cut replies of a teacher. The other
    filters are those of `filters_of`, which explains `tokens`, `conclude` and `nll`. `limits` has the ids of the questions of each
    source with the filter `questions`. `dropped` is called for each rationale that a filter drops.
    """
    known = {question.id: question for question in questions}
    taken: dict[str, Sequence[Rationale]] = {}
    counts: list[dict[str, Any]] = []
    of_training = Filter("training_questions", Each(lambda row: row.question_id in known))
    for source, rationales in sources.items():
        replies = 0

        def is_whole(row: Rationale) -> bool:
            nonlocal replies
            replies += "outcome" in row.meta
            return bool(row.meta.get("outcome", "ok") == "ok")

        filters = filters_of(
            selects[source],
            known,
            already=chain(*taken.values()),
            tokens=tokens,
            conclude=conclude,
            nll=nll,
            limit=limits.get(source),
        )
        taken[source], steps = select(
            rationales, [of_training, Filter("whole_replies", Each(is_whole)), *filters], dropped
        )
        counts += [
            {"source": source, "filter": each.filter, "before": each.before, "after": each.after, **each.facts}
            for each in steps
            if replies or each.filter != "whole_replies"
        ]
    return Gathered(taken, counts)


def filters_of(
    config: SelectConfig,
    questions: Mapping[str, Question],
    *,
    already: Iterable[Rationale] = (),
    tokens: Callable[[str], int] | None = None,
    conclude: Callable[[str, Question], str | None] | None = None,
    nll: Callable[[str, Sequence[Rationale]], Mapping[str, float]] | None = None,
    limit: Collection[str] | None = None,
) -> list[Filter]:
    """The filters that a recipe turns on, in the order in which they are applied.

    Questions are chosen first, so that the sample is independent of the other filters. Limits per question come last,
    so that they choose among good rationales. `questions` maps ids to questions, and `already` holds the rationales of
    earlier sources. `tokens` counts the tokens of a text; without it they are estimated from characters, and the count
    of `length` says so. `conclude` reads the answer of a text for `answer_in_rationale`. `nll` gives the negative
    log-likelihood (nats per token) of rationales by a named model for `perplexity`; it is called only with rationales
    that passed the filters before. `limit` has the ids of the questions that `questions` keeps.
    """
    filters: list[Filter] = []

    def add(name: str, keep: Callable[[Sequence[Rationale]], Sequence[Rationale]], **options: Any) -> None:
        filters.append(Filter(name, keep, **options))

    if config.questions is not None:
        assert limit is not None, "`questions` needs `limit`"
        add("questions", keep_questions(limit))
    if config.question_ratio < 1:
        add("question_ratio", lambda rows: sample_questions(rows, config.question_ratio, SELECTION_SEED))
    if config.correct:
        add("correct", keep_correct)
    if config.deduplicate:
        add("deduplicate", drop_duplicates(already))
    if config.min_tokens > 0 or config.max_tokens is not None:
        add(
            "length",
            keep_length(tokens or characters_as_tokens, config.min_tokens, config.max_tokens),
            facts=lambda: {"counted_in": "characters" if tokens is None else "tokens"},
        )
    if config.answer_in_rationale:
        assert conclude is not None, "`answer_in_rationale` needs `conclude`"
        add(
            "answer_in_rationale",
            keep_concluding(lambda row: conclude(row.text, questions[row.question_id])),
        )
    if config.arithmetic:
        seen = {"equations": 0, "unread": 0}

        def is_sound(text: str) -> bool:
            equations = check_arithmetic(text)
            seen["equations"] += equations.holding + len(equations.wrong) + equations.unread
            seen["unread"] += equations.unread
            return not equations.wrong

        add("arithmetic", keep_arithmetic(is_sound), facts=lambda: dict(seen))
    if (perplexity := config.perplexity) is not None:
        assert nll is not None, "`perplexity` needs `nll`"
        add("perplexity", lambda rows: keep_likely(rows, nll(perplexity.model, rows), perplexity.drop))
    if (most := config.diverse) is not None:
        add("diverse", lambda rows: keep_diverse(rows, most))
    if (cap := config.max_per_question) is not None:
        add("max_per_question", lambda rows: cap_per_question(rows, cap))
    return filters


def characters_as_tokens(text: str) -> int:
    """A rough count of tokens."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)
