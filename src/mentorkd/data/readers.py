"""Questions and rationales from any supported source.

A row has a `question` and its gold `answer`. It may have a `rationale` (one text or a list of texts), a `completion`
(the text that states the answer), whether the completion was `correct`, and the `logprobs` of its rationale's tokens (see
`mentorkd.data.token_logprobs`). One table of names covers every shape:

    {input, answer}                                      the reference's skeleton/
    {input, chain, answer, initial_correct}              main/: teacher rationales
    {input, chain, completion, answer, initial_correct}  aug/: mentor rationales
    {instruction, output: [...], label}                  prompt/ and MCC-KD; its dev files have `output: ""`
    {question, answer, rationale, completion}            JSON Lines, CSV, Parquet, hub; `columns` maps other names

Names match without regard to capitals and outer spaces (` Question `) where no field has the exact name. Rows may have an
`id` of their own; a rationale with the id of a question belongs to it, and need not repeat the question's text and answer.

JSON Lines that this package wrote (`Question`, `Rationale`) are read unchanged. The fields decide the shape, not the
name of the file. Readers translate rows exactly or raise a DataError with file, row, field and fix. Faults of content
(duplicates, overlap, empty rationales, ...) are left to `audit`, which sees all data at once.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

from mentorkd.data.sources import SourceRow, SourceRows, read_rows, type_name
from mentorkd.data.token_logprobs import LOGPROBS, TokenLogprobs, rationale_logprobs, read_logprobs
from mentorkd.errors import DataError
from mentorkd.grading.grade import Graded, Grader, OwnVerdict, choices_of, grade, normalise_answer
from mentorkd.printable import half_character
from mentorkd.records import AnswerKind, Question, Rationale, Split, Verdict, content_id

logger = logging.getLogger(__name__)

_NAMES = {
    "question": ("question", "input", "instruction"),
    "answer": ("answer", "label"),
    "rationale": ("rationale", "chain", "output"),
    "completion": ("completion",),
    "correct": ("initial_correct",),
    "id": ("question_id", "id"),
    "logprobs": ("logprobs",),
}
_REQUIRED = ("question", "answer")
_MAPPABLE = ("question", "answer", "rationale", "completion", "id", "logprobs")
_QUESTION = {f.name for f in fields(Question)}
_RATIONALE = {f.name for f in fields(Rationale)}
_LONGEST_ANSWER = 80
"""In characters."""
_MARKER = re.compile(r"-->|####|therefore,? the answer is:?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SourceQuestions:
    """The questions of a source, in its order."""

    questions: list[Question]
    rows: list[int]
    """The row of each question."""
    ids: dict[str, str]
    """`Question.id` by the source's own id. An id that several questions share is left out."""


def columns_of(source: str | Path, columns: Mapping[str, str] | None = None) -> dict[str, str]:
    """The fields of the source that are read as `question`, `answer`, `rationale`, `completion`, `correct`, `id` and `logprobs`.

    The key `rationale` is present only if some row has a rationale.
    """
    rows = read_rows(source)
    if _are_records(rows, _QUESTION):
        return {"question": "text", "answer": "answer"}
    return {"rationale": "text"} if _are_records(rows, _RATIONALE) else _resolve(rows, columns)


def read_questions(
    source: str | Path,
    *,
    split: Split,
    kind: AnswerKind,
    choices: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[Question]:
    """The questions of a source, in its order; see `read_source`."""
    return read_source(source, split=split, kind=kind, choices=choices, columns=columns).questions


def read_source(
    source: str | Path,
    *,
    split: Split,
    kind: AnswerKind,
    choices: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> SourceQuestions:
    """The questions of a source with their rows and ids.

    Gold answers are normalised ("A. ignore" becomes A, "... #### 1,000" becomes 1000). Answers of kind text stay as
    written, and so do strings that are not an answer of the kind, which `audit` finds.

    A source with one rationale per row repeats its questions; repetitions with the same answer are one question. Among
    `Question` records only those of `split` are read. `split` is also the split of a hub name without one. Without
    `choices`, the option letters are read from each question.

    Questions of the split `unlabelled` need no answer. Answers that they have are ignored, with a warning.
    """
    rows, labelled = read_rows(source, split=split), split != "unlabelled"
    if _are_records(rows, _RATIONALE):
        raise DataError(f"{source}: got rationale records, expected questions; give the file of the questions")
    if _are_records(rows, _QUESTION):
        names = {"question": "text", "answer": "answer", "id": "id", "split": "split"}
    else:
        names = _resolve(rows, columns, required=_REQUIRED if labelled else ("question",))
    ignored = None if labelled else names.pop("answer", None)
    questions: list[Question] = []
    numbers: list[int] = []
    ids: dict[str, str] = {}
    shared: set[str] = set()
    seen: set[tuple[str, str]] = set()
    for row in rows:
        if "split" in names and _text(row, names["split"]) != split:
            continue
        if ignored and row.fields.get(ignored) not in (None, ""):
            _warn_of_answers(str(source), ignored)
        text, gold = _text(row, names["question"]), _answer(row, names["answer"]) if labelled else ""
        # Text answers become training targets as written, because their normal form has no spaces and capitals.
        answer = gold if kind == "text" else _normalised(gold, text, kind, choices) or gold
        question = Question.create(text, answer, split)
        repeats = "rationale" in names and isinstance(row.fields.get(names["rationale"]), str)
        if not (repeats and (question.id, question.answer) in seen):
            questions.append(question)
            numbers.append(row.number)
        if "rationale" in names:
            seen.add((question.id, question.answer))
        if (own := _own_id(row, names)) is not None and ids.setdefault(own, question.id) != question.id:
            shared.add(own)
    if not questions:
        raise DataError(f"{source}: no question of the split `{split}` in {len(rows)} records; give another file")
    return SourceQuestions(questions, numbers, {own: each for own, each in ids.items() if own not in shared})


@functools.cache  # one warning a file, which a run reads several times
def _warn_of_answers(source: str, field: str) -> None:
    logger.warning("%s: the answers in `%s` are ignored, since this is a file of unlabelled questions", source, field)


def read_rationales(
    source: str | Path,
    questions: Sequence[Question],
    *,
    kind: AnswerKind,
    choices: Sequence[str] | None = None,
    own: OwnVerdict | None = None,
    columns: Mapping[str, str] | None = None,
    ids: Callable[[], Mapping[str, str]] = dict,
    source_name: str = "teacher",
    needs_logprobs: bool = False,
) -> list[Rationale]:
    """The rationales of a source, in its order; see `stream_rationales`."""
    return list(
        stream_rationales(
            source,
            questions,
            kind=kind,
            choices=choices,
            own=own,
            columns=columns,
            ids=ids,
            source_name=source_name,
            needs_logprobs=needs_logprobs,
        )
    )


def stream_rationales(
    source: str | Path,
    questions: Sequence[Question],
    *,
    kind: AnswerKind,
    choices: Sequence[str] | None = None,
    own: OwnVerdict | None = None,
    columns: Mapping[str, str] | None = None,
    ids: Callable[[], Mapping[str, str]] = dict,
    source_name: str = "teacher",
    needs_logprobs: bool = False,
) -> Iterator[Rationale]:
    """The rationales of a source, in its order, graded against the gold answers of `questions`.

    The fields of a row decide how its rationale is graded. With a `completion`, the completion is graded as the text
    after the paper's `-->`. With `initial_correct` alone, true means that the stated answer was the row's gold answer,
    and false means another, unknown answer (wrong, nothing predicted). Otherwise the rationale's own text is graded; its
    closing `--> y`, `#### y` or `Therefore, the answer is y.` is then removed, so that `text` holds the reasoning alone.
    `own` grades completions and texts instead of the comparison with the gold answer.
    `Rationale` records keep their answer and verdict.

    `ids` gives `Question.id` by the questions' own ids; it is called only if the source has ids. A row belongs to the question
    of its text. A row without a known text belongs to the question of its id, unless the texts of other rows contradict
    these ids, so that the two sources must be numbered independently.

    Log-probabilities that are not as `mentorkd.data.token_logprobs` says are left out, with one warning a file; with
    `needs_logprobs` they are a DataError.

    They include empty rationales, and rationales of questions outside `questions` (graded against the answer of
    their row): `audit` counts and drops them. `meta["row"]` is the row number in the source.
    """
    rows = read_rows(source)
    if _are_records(rows, _QUESTION):
        raise DataError(f"{source}: got question records, expected rationales; give the file of the rationales")
    if _are_records(rows, _RATIONALE):
        items = _recorded(rows, needs_logprobs)
    else:
        own_ids = _resolve(rows, columns, required=()).get("id")
        known_ids = ids() if own_ids else {}
        names = _resolve(rows, columns, required=() if known_ids else _REQUIRED)
        if "rationale" not in names:
            raise DataError(
                f"{source}: no rationale in {len(rows)} rows, got the fields {rows.names}; if one of these fields "
                "holds rationales, name it with columns: {rationale: NAME}"
            )
        by_id = {q.id: q for q in reversed(questions)}
        known_ids, grader = _agreeing(known_ids, rows, names, by_id), Grader(kind, choices, own)
        items = _graded(rows, names, by_id, known_ids, grader, needs_logprobs)
    samples: dict[str, int] = {}
    for identity, text, graded, meta in items:
        sample = samples.get(identity, 0)
        samples[identity] = sample + 1
        yield Rationale.create(identity, text, graded.predicted, graded.verdict, source_name, sample, meta)


_Item = tuple[str, str, Graded, dict[str, Any]]
"""A rationale before it gets a source and a sample number: question id, text, grade, `meta`."""


def _graded(
    rows: SourceRows,
    names: Mapping[str, str],
    known: Mapping[str, Question],
    ids: Mapping[str, str],
    grader: Grader,
    needs_logprobs: bool,
) -> Iterator[_Item]:
    kind, choices = grader.kind, grader.choices
    by_text = {question.text: question for question in known.values()}  # a lookup is faster than making the text's id
    asked_by = _previous(
        partial(_asked, names=names, known=known, by_text=by_text, ids=ids, kind=kind, choices=choices), names
    )
    for row in rows:
        asked, letters, stated, gold = asked_by(row)
        completion = _completion(row, names["completion"]) if "completion" in names else None
        correct = _correct(row, names["correct"]) if "correct" in names else None
        texts = _rationales(row, names["rationale"])
        for raw, logprobs in zip(texts, _logprobs(row, names.get("logprobs"), texts, needs_logprobs), strict=True):
            text = raw
            if gold is None:
                graded = Graded(None, "no_answer")  # no gold answer to compare with; `audit` drops the question
            elif grader.own is not None and (completion is not None or correct is None):
                graded = grader(text if completion is None else f"--> {completion}", asked)
                text = _reasoning(text) if completion is None else text
            elif completion is not None:
                graded = _grade_completion(completion, gold, kind, letters)
            elif correct is not None:
                graded = Graded(stated, "correct" if stated == gold else "wrong") if correct else Graded(None, "wrong")
            else:
                graded = grade(text, gold, kind, letters)
                text = _reasoning(text)
            meta = {} if logprobs is None else {LOGPROBS: rationale_logprobs(logprobs, raw, text.strip())}
            yield asked.id, text, graded, {"row": row.number, **meta}  # the one string for all rationales of a question


@functools.lru_cache(maxsize=1 << 12)  # the completions of a question, which follow each other, are mostly alike
def _grade_completion(completion: str, gold: str, kind: AnswerKind, choices: tuple[str, ...] | None) -> Graded:
    return grade(f"--> {completion}", gold, kind, choices)


class _Asked(NamedTuple):
    """What a row says of its question."""

    question: Question
    """The one of the run, if it is known."""
    letters: tuple[str, ...] | None
    """The question's option letters."""
    stated: str | None
    """The row's own gold answer, normalised."""
    gold: str | None
    """The question's gold answer, normalised."""


def _asked(
    row: SourceRow,
    names: Mapping[str, str],
    known: Mapping[str, Question],
    by_text: Mapping[str, Question],
    ids: Mapping[str, str],
    kind: AnswerKind,
    choices: Sequence[str] | None,
) -> _Asked:
    own = _own_id(row, names) if ids else None
    question = _stated_question(row, names, own, by_text)
    if own is not None and question.id not in known:
        question = known.get(ids.get(own, ""), question)
    asked, letters = known.get(question.id, question), choices_of(question.text, kind, choices)
    answer = _answer(row, names["answer"]) if names.get("answer") in row.fields else asked.answer
    return _Asked(
        asked,
        None if letters is None else tuple(letters),
        normalise_answer(answer, kind, letters),
        normalise_answer(asked.answer, kind, letters),
    )


def _previous(read: Callable[[SourceRow], _Asked], names: Mapping[str, str]) -> Callable[[SourceRow], _Asked]:
    """`read`, once for rows of one question that follow each other."""
    fields = [names[ours] for ours in ("question", "answer", "id") if ours in names]
    last: list[Any] = [None, None]

    def once(row: SourceRow) -> _Asked:
        cells = [row.fields.get(name, ...) for name in fields]
        key = [*cells, *map(type, cells)]  # 1 and true are equal, but not as answers
        if key != last[0]:
            last[:] = key, read(row)
        asked: _Asked = last[1]
        return asked

    return once


def _stated_question(
    row: SourceRow, names: Mapping[str, str], own: str | None, by_text: Mapping[str, Question]
) -> Question:
    """The question that a row repeats; the one in `by_text`, if there is one. A row with the `own` id of a question may leave out
    text and answer."""
    if own is not None:
        if names.get("question") not in row.fields:
            return Question(content_id("id", own), "", "", "train")
        if names.get("answer") not in row.fields:
            return Question.create(_text(row, names["question"]), "", "train")
    if lacking := [ours for ours in _REQUIRED if ours not in names]:
        raise row.error(f"no {' and no '.join(lacking)}, and no id that names a question; give the row one of them")
    text, answer = _text(row, names["question"]), _answer(row, names["answer"])
    return by_text.get(text) or Question.create(text, answer, "train")


def _agreeing(
    ids: Mapping[str, str], rows: SourceRows, names: Mapping[str, str], known: Mapping[str, Question]
) -> Mapping[str, str]:
    """`ids` if no row contradicts them, else nothing: a row whose text is a known question, under another question's id."""
    if not ids or "question" not in names:
        return ids
    for row in rows:
        text = row.fields.get(names["question"])
        stated = Question.create(text, "", "train").id if isinstance(text, str) else None
        if stated in known and ids.get(_own_id(row, names) or "", stated) != stated:
            logger.warning(
                "%s, row %s: `%s` is the id of another question, so rows are matched by their text alone",
                row.source,
                row.number,
                names["id"],
            )
            return {}
    return ids


def _own_id(row: SourceRow, names: Mapping[str, str]) -> str | None:
    value = row.fields.get(names["id"]) if "id" in names else None
    return str(value).strip() or None if isinstance(value, str | int) else None


def _reasoning(text: str) -> str:
    """`text` without a closing answer marker and its answer; a marker with more text than an answer behind it stays."""
    markers = list(_MARKER.finditer(text))
    if not markers:
        return text
    answer = text[markers[-1].end() :].strip()
    return text if "\n" in answer or len(answer) > _LONGEST_ANSWER else text[: markers[-1].start()]


def _recorded(rows: SourceRows, needs_logprobs: bool) -> Iterator[_Item]:
    for row in rows:
        predicted, verdict, meta = row.fields["predicted"], row.fields["verdict"], row.fields["meta"]
        if predicted is not None and not isinstance(predicted, str):
            raise row.error(f"field `predicted`: got {type_name(predicted)}, expected text or null")
        if verdict not in get_args(Verdict):
            raise row.error(f"field `verdict`: got {verdict!r}, expected one of {', '.join(get_args(Verdict))}")
        if not isinstance(meta, dict):
            raise row.error(f"field `meta`: got {type_name(meta)}, expected an object")
        text = _string(row, "text", row.fields["text"])
        if LOGPROBS in meta:
            read = _read_logprobs(row, f"meta.{LOGPROBS}", meta[LOGPROBS], text, needs_logprobs)
            if read is None:
                meta = {key: value for key, value in meta.items() if key != LOGPROBS}
            else:
                meta = meta | {LOGPROBS: rationale_logprobs(read, text, text.strip())}
        yield _text(row, "question_id"), text, Graded(predicted, verdict), {"row": row.number, **meta}


def _resolve(
    rows: SourceRows, columns: Mapping[str, str] | None, required: Sequence[str] = _REQUIRED
) -> dict[str, str]:
    """Our fields mapped to the fields of the source, from `columns` or else from `_NAMES`; the mapping is logged."""
    source, columns, present = rows.source, columns or {}, rows.names
    for ours in columns:
        if ours not in _MAPPABLE:
            raise DataError(f"{source}: columns: got `{ours}`, expected {', '.join(_MAPPABLE)}")
    names: dict[str, str] = {}
    for ours, usual in _NAMES.items():
        # A field that `columns` maps to one of our fields is no guess for an optional one.
        guesses = [n for n in _matches(usual, present, _folded) if ours in _REQUIRED or n not in columns.values()]
        candidates = _matches([columns[ours]], present, str.strip) if ours in columns else guesses
        if len(candidates) > 1 and ours != "id":
            raise DataError(
                f"{source}: {' and '.join(f'`{n}`' for n in candidates)} could each be the {ours}; "
                f"choose one with columns: {{{ours}: {candidates[0]}}}"
            )
        if not candidates and ours in required:
            expected = f"`{columns[ours]}`, as columns says" if ours in columns else f"one of {', '.join(usual)}"
            raise DataError(
                f"{source}: no field for the {ours}: got {present}, expected {expected}; "
                f"name it with columns: {{{ours}: NAME}}"
            )
        if candidates:
            names[ours] = candidates[0]
    if "rationale" in names and not any(row.fields.get(names["rationale"]) for row in rows):
        del names["rationale"]
    logger.info("%s: %s", source, ", ".join(f"{ours} from `{theirs}`" for ours, theirs in names.items()))
    return names


def _folded(name: str) -> str:
    return name.strip().casefold()


def _matches(wanted: Sequence[str], present: Sequence[str], plain: Callable[[str], str]) -> list[str]:
    """The fields with a wanted name; if there is none, those that have it in the form that `plain` gives."""
    exact = [name for name in wanted if name in present]
    return exact or [name for name in present if plain(name) in map(plain, wanted)]


def _are_records(rows: SourceRows, names: set[str]) -> bool:
    if (first := rows.first).fields.keys() != names:
        return False
    for row in rows:
        if row.fields.keys() != names:
            raise row.error(f"got the fields {sorted(row.fields)}, expected {sorted(names)} as in row {first.number}")
    return True


def _normalised(answer: str, question: str, kind: AnswerKind, choices: Sequence[str] | None) -> str | None:
    return normalise_answer(answer, kind, choices_of(question, kind, choices))


def _value(row: SourceRow, name: str, *, optional: bool = False) -> Any:
    if name not in row.fields:
        way = "; write null for no value" if optional else ""
        raise row.error(f"field `{name}` is missing, got {list(row.fields)}; every row needs this field{way}")
    value = row.fields[name]
    return None if value != value else value  # tables write a missing value as NaN


def _text(row: SourceRow, name: str) -> str:
    value = _string(row, name, _value(row, name))
    if not value.strip():
        raise row.error(f"field `{name}`: empty, expected text; fill it in or remove the row")
    return value


def _string(row: SourceRow, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise row.error(f"field `{name}`: got {type_name(value)}, expected text")
    if fault := half_character(value):
        raise row.error(f"field `{name}`: {fault}")
    return value


def _answer(row: SourceRow, name: str) -> str:
    value = _value(row, name)
    return str(value) if isinstance(value, bool | int | float) else _text(row, name)


def _rationales(row: SourceRow, name: str) -> list[str]:
    value = _value(row, name, optional=True)
    if value is None:
        return []
    if isinstance(value, list):
        return [_string(row, f"{name}[{index}]", item) for index, item in enumerate(value)]
    return [_string(row, name, value)]


def _logprobs(row: SourceRow, name: str | None, texts: Sequence[str], needed: bool) -> Sequence[TokenLogprobs | None]:
    """The log-probabilities of each of a row's rationales; None where it has none."""
    value = None if name is None or (not needed and name not in row.fields) else _value(row, name, optional=True)
    if name is None or value is None:
        return [None] * len(texts)
    values = value if isinstance(value, list) else [value]
    if len(values) != len(texts):
        what = f"got {len(values)} entries for {len(texts)} rationales, expected one each, or null"
        _refuse_logprobs(row, name, what, needed)
        return [None] * len(texts)
    return [_read_logprobs(row, name, each, text, needed) for each, text in zip(values, texts, strict=True)]


def _read_logprobs(row: SourceRow, name: str, fields: Any, text: str, needed: bool) -> TokenLogprobs | None:
    try:
        return None if fields is None else read_logprobs(fields, text)
    except ValueError as error:
        _refuse_logprobs(row, name, str(error), needed)
        return None


def _refuse_logprobs(row: SourceRow, name: str, what: str, needed: bool) -> None:
    """For log-probabilities that cannot be read: a DataError where they are needed, else one warning a file."""
    if needed:
        raise row.error(f"field `{name}`: {what}")
    _warn_of_logprobs(str(row.source), name)


@functools.cache  # as for answers
def _warn_of_logprobs(source: str, field: str) -> None:
    what = "expected the `ends` and `values` of a rationale's tokens"
    logger.warning("%s: what `%s` has in another form is ignored, %s, which no learner needs", source, field, what)


def _completion(row: SourceRow, name: str) -> str | None:
    value = _value(row, name, optional=True)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    raise row.error(f"field `{name}`: got {type_name(value)}, expected the text that states the answer, or null")


def _correct(row: SourceRow, name: str) -> bool | None:
    value = _value(row, name, optional=True)
    if isinstance(value, str):  # CSV has no booleans
        value = {"true": True, "false": False}.get(value.lower(), value)
    if value is None or isinstance(value, bool):
        return value
    raise row.error(f"field `{name}`: got {value!r}, expected true or false")
