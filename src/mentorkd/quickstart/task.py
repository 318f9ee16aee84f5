"""The data files and recipes of the quickstart, in the form of a user's own files: JSON Lines with generic columns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from mentorkd.quickstart.problems import Problem, generate_problems
from mentorkd.quickstart.teacher import annotate

RECIPE = Path(__file__).with_name("recipe.yaml")
"""The recipe of the quickstart, which `write_recipe` copies."""

MODELS = RECIPE.with_name("models")
"""The folder of the tiny models, which recipes name `nano-t5-small` and `nano-t5-large`."""

OWN = """\
# The quickstart's recipe for your own data: edit the four lines marked "yours", then `mentorkd plan` and `mentorkd run` this
# file. Files are JSON Lines, JSON, CSV or Parquet, or `hub:NAME`. A tenth of the training questions is held out to choose the best
# epoch; to use a file of validation questions instead, write `validation: FILE` under `task`. The models are the package's
# tiny ones and need no download; for real-world text replace them with google/flan-t5-small and google/flan-t5-large.
"""


def write_task(
    folder: Path,
    *,
    seed: int = 0,
    train: int = 1000,
    validation: int = 100,
    test: int = 1200,
    annotated: int = 200,
    samples: int = 3,
) -> Path:
    """Write the generated task into `folder`, which is created if missing, and return `folder`.

    `train.jsonl`, `validation.jsonl` and `test.jsonl` hold rows `{question, answer}` without repeated questions.
    `teacher.jsonl` holds rows `{question, rationale, completion, answer}`: `samples` rationales for each of the first
    `annotated` training questions, because the teacher's budget paid for no more. `teacher-spread.jsonl` holds as many of the same
    teacher, spread over all training questions: one each, then second ones in order. Equal arguments give equal bytes.
    """
    if not 0 < annotated <= train:
        raise ValueError(f"annotated must lie between 1 and train ({train}), got {annotated}")
    folder.mkdir(parents=True, exist_ok=True)
    problems = generate_problems(seed)
    questions = list(islice(problems, train))
    _write(folder / "train.jsonl", map(_row, questions))
    _write(folder / "validation.jsonl", map(_row, islice(problems, validation)))
    _write(folder / "test.jsonl", map(_row, islice(problems, test)))
    _write(folder / "teacher.jsonl", map(asdict, annotate(questions[:annotated], samples=samples, seed=seed)))
    spread = list(islice(cycle(questions), annotated * samples))
    _write(folder / "teacher-spread.jsonl", map(asdict, annotate(spread, samples=1, seed=seed)))
    return folder


def write_recipe(path: Path) -> Path:
    """Write the quickstart's recipe, for data files beside it, to `path` and return `path`."""
    path.write_text(_beside(RECIPE.read_text(encoding="utf-8")), encoding="utf-8")
    return path


def write_own_recipe(path: Path, name: str) -> Path:
    """Write the recipe, for a run `name` on the user's own files beside it, to `path` and return `path`."""
    text = RECIPE.read_text(encoding="utf-8").partition("name: quickstart\n")[2]
    quoted = json.dumps(name, ensure_ascii=False)  # a folder may be called 2024 or no
    text = re.sub(r"  validation: .*\n", "", text).replace("  name: running-totals\n", f"  name: {quoted}\n")
    path.write_text(f"{OWN}name: {quoted}\n{_beside(text)}", encoding="utf-8")
    return path


def _beside(text: str) -> str:
    """The recipe for data files beside it."""
    return text.replace("root: data ", "root: .    ")


def _row(problem: Problem) -> dict[str, str]:
    return {"question": problem.question, "answer": str(problem.answer)}


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
