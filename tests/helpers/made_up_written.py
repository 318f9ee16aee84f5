"""Rationales of a made-up run as files, for the tables of the web application."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from mentorkd.files.seals import FileSeal
from mentorkd.pipeline.written import Author, Reader, RunFile, TextFile, Written
from mentorkd.records import Question, Rationale, write_jsonl
from mentorkd.web.copies import Making, Tables
from mentorkd.web.table import RationaleTable

__all__ = ["WORDS", "made_up_written", "opened", "run_file"]

WORDS = ("apples", "Äpfel", "sum", "100%", "it's", "a_b", "→", "nothing")


def opened(tables: Tables, written: Written) -> RationaleTable:
    """The table of `written`, when its copy is made."""
    table = tables.get(written)
    while isinstance(table, Making):
        table.wait()
        table = tables.get(written)
    return table


def run_file(path: Path) -> RunFile:
    """A file as a stage would have published it."""
    seal = FileSeal.of(path)
    return RunFile(path.stem, path, seal.sha256, seal)


def made_up_written(
    folder: Path, questions: int = 8, samples: int = 3
) -> tuple[Written, list[Question], list[Rationale], list[str]]:
    """A teacher with `samples` rationales a question, two seeds of a mentor with one each, and a student that read the teacher and the
    mentor's first seed.

    The first rationale of the teacher was rejected and the second edited. Of all others that the student read, wrong ones were dropped by
    `correct`; others have a likelihood. The folder's name has signs that mean something in patterns and in SQL.

    Returns the questions, all rationales in the order of the files, and the student's outcomes (empty for what it did not read).
    """
    folder = folder / "a [run]* 'x'"
    folder.mkdir()
    rng = random.Random(0)
    asked = [
        Question.create(f"How many {rng.choice(WORDS)}, {number}?", str(number), "train") for number in range(questions)
    ]

    def write(source: str, number: int) -> list[Rationale]:
        return [
            Rationale.create(
                question.id,
                " ".join(rng.choices(WORDS, k=rng.randint(0, 6))),
                None,
                rng.choice(("correct", "wrong")),
                source,
                sample,
                {"note": "\u2028\n"},
            )
            for question in asked
            for sample in range(number)
        ]

    files = {"teacher": write("teacher", samples), "mentor-1": write("mentor", 1), "mentor-2": write("mentor", 1)}
    _, second, *others = files["teacher"]
    edited = Rationale.create(second.question_id, "edited", None, "correct", "teacher", 1, {"edited_from": second.id})
    selection, outcomes = [], ["overlay", "kept"]
    for rationale in [*others, *files["mentor-1"]]:
        if rationale.verdict == "wrong":
            selection.append({"rationale_id": rationale.id, "dropped_by": "correct"})
        else:
            selection.append({"rationale_id": rationale.id, "nll": float(len(rationale.text))})
        outcomes.append("correct" if rationale.verdict == "wrong" else "kept")
    outcomes += [""] * len(files["mentor-2"])
    write_jsonl(folder / "questions.jsonl", asked)
    for name, rationales in [*files.items(), ("curated", [edited, *others])]:
        write_jsonl(folder / f"{name}.jsonl", rationales)
    (folder / "selection.jsonl").write_text("".join(json.dumps(line) + "\n" for line in selection))

    def text(name: str, author: Author) -> TextFile:
        return TextFile(run_file(folder / f"{name}.jsonl"), author, len(files[name]))

    written = Written(
        run_file(folder / "questions.jsonl"),
        [text("teacher", Author("teacher")), *(text(f"mentor-{n}", Author("mentor", n)) for n in (1, 2))],
        run_file(folder / "curated.jsonl"),
        [Reader("student", 1, "train", run_file(folder / "selection.jsonl"), frozenset({0, 1}), curated=True)],
        [],
    )
    every: Sequence[Rationale] = [rationale for rationales in files.values() for rationale in rationales]
    return written, asked, list(every), outcomes
