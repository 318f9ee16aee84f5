"""Grade the recorded model outputs of the paper and print the tables of docs/results/grading.md.

    python scripts/grade_recorded.py DATA                                      # prints the tables
    python scripts/grade_recorded.py DATA --write docs/results/grading.md      # writes them into the document

DATA is the folder with `mentor-kd/` and `mcc-kd/`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mentorkd.grading.grade import Graded, choices_of, extract, grade, normalise_answer
from mentorkd.records import AnswerKind

START, END = "<!-- tables: scripts/grade_recorded.py -->\n", "<!-- end of tables -->"
KINDS: dict[str, AnswerKind] = {
    "svamp": "number",
    "gsm8k": "number",
    "date_understanding": "choice",
    "tracking_shuffled_objects": "choice",
    "commonsense_qa": "choice",
    "last_letter_concatenation": "text",
}


@dataclass(frozen=True)
class RecordedOutput:
    """One recorded output with its recorded verdict and ours."""

    file: str
    index: int
    gold: str
    completion: str
    recorded: bool
    graded: Graded

    @property
    def agrees(self) -> bool:
        """Records are only correct or not, so "no answer" agrees with a recorded False."""
        return (self.graded.verdict == "correct") == self.recorded


def kind_of(file: Path) -> AnswerKind:
    """The kind of answer of a data file, from its name or the name of its folder."""
    return next(kind for task, kind in KINDS.items() if task in f"{file.parent.name}/{file.name}".lower())


def mentor_rows(data: Path) -> Iterator[RecordedOutput]:
    """The outputs of mentors, in their form `{chain} --> {completion}`."""
    for file in sorted((data / "mentor-kd" / "aug").glob("*/*.json")):
        yield from _rows(file, "{chain} --> {completion}")


def teacher_rows(data: Path) -> Iterator[RecordedOutput]:
    """The teacher's answers to the test questions: its second call continued after "Therefore, the answer is"."""
    for file in sorted((data / "mentor-kd" / "main").glob("*_test.json")):
        yield from _rows(file, "{chain}\nTherefore, the answer is{completion}")


def _rows(file: Path, form: str) -> Iterator[RecordedOutput]:
    kind = kind_of(file)
    for index, row in enumerate(_read(file)):
        if row.get("completion"):
            graded = grade(form.format(**row), row["answer"], kind, choices_of(row["input"], kind))
            name = f"{file.parent.name}/{file.stem}"
            yield RecordedOutput(name, index, row["answer"], row["completion"], row["initial_correct"], graded)


def unmarked_rationales(data: Path) -> Iterator[tuple[str, AnswerKind, str, str, Sequence[str] | None]]:
    """(file, kind, text, gold, option letters) of every teacher rationale without a completion."""
    folder = data / "mentor-kd"
    files = [*sorted(folder.glob("main/*_train.json")), *sorted(folder.glob("prompt/*.json"))]
    for file in [*files, data / "mcc-kd" / "SVAMP" / "train.json"]:
        kind = kind_of(file)
        for row in _read(file):
            question, gold = row.get("input") or row["instruction"], row.get("answer") or row["label"]
            for text in [row["chain"]] if "chain" in row else row["output"]:
                yield f"{file.parent.name}/{file.stem}", kind, text, gold, choices_of(question, kind)


def plain_last(text: str, kind: AnswerKind, letters: Sequence[str] | None) -> str | None:
    """The last candidate by a plain rule: the last option letter, the last number, or the last word."""
    if kind == "choice":
        candidates = re.findall(f"[{''.join(letters or [])}]", text)
    elif kind == "number":
        candidates = re.findall(r"-?[0-9]+(?:\.[0-9]+)?", text.replace(",", ""))
    else:
        candidates = text.split()
    return normalise_answer(candidates[-1], kind, letters) if candidates else None


def tables(data: Path) -> str:
    """All tables, as Markdown."""
    parts = ["### Mentor outputs, `{chain} --> {completion}`", *_verdict_table(list(mentor_rows(data)))]
    parts += ["", "### Teacher answers to the test questions, `{chain} Therefore, the answer is{completion}`"]
    parts += _verdict_table(list(teacher_rows(data)))
    parts += ["", "### Teacher rationales without marker", *_unmarked_table(data)]
    return "\n".join([*parts, "", "### Letters the chain does not conclude", *_letter_table(data)])


def _verdict_table(rows: list[RecordedOutput]) -> list[str]:
    lines = [
        "",
        "| file | rows | recorded right | correct | wrong | no answer | agree |",
        "|---|---|---|---|---|---|---|",
    ]
    for file in [*dict.fromkeys(row.file for row in rows), None]:
        part = [row for row in rows if file in (row.file, None)]
        count = Counter(row.graded.verdict for row in part)
        verdicts = f"{count['correct']} | {count['wrong']} | {count['no_answer']}"
        agree = sum(row.agrees for row in part)
        recorded = sum(row.recorded for row in part)
        lines.append(
            f"| {file or '**all**'} | {len(part)} | {recorded} | {verdicts} | {agree} ({agree / len(part):.2%}) |"
        )
    lines += ["", "Rows that disagree, and rows recorded as wrong that hold no answer:", ""]
    lines += ["| file | row | gold | completion | recorded | ours |", "|---|---|---|---|---|---|"]
    for row in rows:
        if not row.agrees or row.graded.verdict == "no_answer":
            verdict = "right" if row.recorded else "wrong"
            lines.append(
                f"| {row.file} | {row.index} | {row.gold} | `{row.completion}` | {verdict} | {row.graded.verdict} |"
            )
    return lines


def _unmarked_table(data: Path) -> list[str]:
    counts: dict[str, Counter[str]] = {}
    for file, kind, text, gold, letters in unmarked_rationales(data):
        count = counts.setdefault(file, Counter())
        count[grade(text, gold, kind, letters).verdict] += 1
        count["plain"] += plain_last(text, kind, letters) == normalise_answer(gold, kind, letters)
    lines = [
        "",
        "| file | rationales | correct | wrong | no answer | plain last candidate |",
        "|---|---|---|---|---|---|",
    ]
    for file, count in counts.items():
        total = count["correct"] + count["wrong"] + count["no_answer"]
        shares = f"{count['correct']} ({count['correct'] / total:.1%}) | {count['wrong']} | {count['no_answer']}"
        lines.append(f"| {file} | {total} | {shares} | {count['plain']} ({count['plain'] / total:.1%}) |")
    return lines


def _letter_table(data: Path) -> list[str]:
    """Shuffled rows with another option in the chain than in the record: is the recorded one the last letter there?"""
    lines = [
        "",
        "| file | rows | chain names another letter | recorded letter is the last capital there |",
        "|---|---|---|---|",
    ]
    folder = data / "mentor-kd"
    for file in [*folder.glob("main/tracking*_train.json"), *sorted(folder.glob("aug/*/tracking*.json"))]:
        rows, other, explained = _read(file), 0, 0
        for row in rows:
            letters = choices_of(row["input"], "choice")
            named, recorded = extract(row["chain"], "choice", letters), row.get("completion", row["answer"])
            if named is not None and named != recorded:
                other += 1
                explained += plain_last(row["chain"], "choice", letters) == recorded
        lines.append(f"| {file.parent.name}/{file.stem} | {len(rows)} | {other} | {explained} |")
    return lines


def _read(file: Path) -> list[dict[str, Any]]:
    return list(json.loads(file.read_text(encoding="utf-8")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--write", type=Path, help="document in which the tables are replaced")
    arguments = parser.parse_args()
    text = tables(arguments.data)
    if arguments.write is None:
        print(text)
        return
    before, _, rest = arguments.write.read_text(encoding="utf-8").partition(START)
    _, end, after = rest.partition(END)
    if not end:
        parser.error(f"{arguments.write} lacks the lines {START.strip()!r} and {END.strip()!r}")
    arguments.write.write_text(f"{before}{START}\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
