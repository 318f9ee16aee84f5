"""The small recipe with short-answer sentences, which a grader beside the recipe compares by their words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from small_recipe import small_recipe

__all__ = ["GRADER", "write_own_task"]

GRADER = '''\
from mentorkd import Question


def grade(question: Question, answer: str) -> bool:
    """Whether at least half of the words agree: an F1 of 0.5."""
    said, gold = set(answer.lower().split()), set(question.answer.lower().split())
    return 2 * len(said & gold) / (len(said) + len(gold)) >= 0.5
'''


def write_own_task(folder: Path, grader: str = GRADER, **changes: Any) -> Path:
    """The recipe, with `overlap.py` beside it; the gold answers are sentences of five words."""
    raw = small_recipe(folder, **changes)
    for name in ("train", "validation", "test", "teacher"):
        file = folder / "data" / f"{name}.jsonl"
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            for key in {"answer", "completion"} & row.keys():
                row[key] = f"there are {row[key]} in all"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    raw["task"] |= {"answer": "text", "grader": "overlap:grade"}
    (folder / "overlap.py").write_text(grader, encoding="utf-8")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return path
