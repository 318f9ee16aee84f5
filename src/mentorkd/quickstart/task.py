"""The quickstart's data files, as a user would bring them: JSON Lines with generic column names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from mentorkd.quickstart.problems import Problem, generate_problems
from mentorkd.quickstart.teacher import annotate

__all__ = ["MODELS", "RECIPE", "write_own_recipe", "write_recipe", "write_task"]

RECIPE = Path(__file__).with_name("recipe.yaml")
"""The quickstart's recipe, as `write_recipe` copies it."""

MODELS = RECIPE.with_name("models")
"""The folder of the tiny models, which recipes name as `nano-t5-small` and the like."""

OWN = """\
# The quickstart's recipe for your own data: edit the four lines marked "yours", then `mentorkd run` this file.
# Files are JSON Lines, JSON, CSV or Parquet, or `hub:NAME`. A tenth of the training questions is held out to choose the best
# epoch (`validation: FILE` under `task` names questions of their own). The models are the package's tiny ones, which need no
# download; for text of the real world put google/flan-t5-small and google/flan-t5-large in their places.
"""


def write_task(
    folder: Path,
    *,
    seed: int = 0,
    train: int = 1000,
    validation: int = 100,
    test: int = 400,
    annotated: int = 400,
    samples: int = 3,
) -> Path:
    """Write the generated task into `folder` (made if absent) and return it.

    `train.jsonl`, `validation.jsonl` and `test.jsonl` hold `{question, answer}`, no question twice; `teacher.jsonl`
    holds `{question, rationale, completion, answer}`: `samples` rationales for each of the first `annotated` training
    questions, which is all that the teacher's budget bought. Equal arguments give equal bytes.
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
    return folder


def write_recipe(path: Path) -> Path:
    """Write the quickstart's recipe to `path`, which is returned: for the task's files beside it."""
    path.write_text(_beside(RECIPE.read_text(encoding="utf-8")), encoding="utf-8")
    return path


def write_own_recipe(path: Path, name: str) -> Path:
    """Write the same recipe to `path`, which is returned, as a run `name` on the user's own files beside it."""
    text = RECIPE.read_text(encoding="utf-8").partition("name: quickstart\n")[2]
    text = re.sub(r"  validation: .*\n", "", text).replace("  name: running-totals\n", f"  name: {name}\n")
    path.write_text(f"{OWN}name: {name}\n{_beside(text)}", encoding="utf-8")
    return path


def _beside(text: str) -> str:
    """The recipe for data that lies beside it."""
    return text.replace("root: data ", "root: .    ")


def _row(problem: Problem) -> dict[str, str]:
    return {"question": problem.question, "answer": str(problem.answer)}


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
