"""Where things lie in a run folder, and how finished ones are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mentorkd.errors import RunError
from mentorkd.recipe import TEACHER
from mentorkd.records import Prediction, Question, Rationale, Split, read_jsonl
from mentorkd.store import Stage

__all__ = ["RunFiles"]


class RunFiles:
    """The files of one run."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def engines(self) -> Path:
        """What engines make of models, kept from run to run."""
        return self.root / ".engines"

    @property
    def precision(self) -> Path:
        """The arithmetic that was measured to be fast when the run began."""
        return self.root / ".stages" / "precision.json"

    def learner(self, name: str, seed: int) -> Path:
        """The folder of a learner's outputs."""
        return self.root / "learners" / name / f"seed-{seed}"

    def model(self, name: str, seed: int) -> Path:
        """A trained learner, as a Hugging Face folder. Raises RunError if it is not trained yet."""
        folder = self.learner(name, seed) / "model"
        if not folder.is_dir():
            raise RunError(f"{name} is not trained yet with seed {seed} ({folder} is not there); use `mentorkd run`")
        return folder

    def questions(self, split: Split | None = None) -> list[Question]:
        """The questions of a split, or all."""
        questions = read_jsonl(self.root / "data" / "questions.jsonl", Question)
        return [question for question in questions if split in (None, question.split)]

    def rationales(self, source: str, seed: int) -> list[Rationale]:
        """All rationales of the teacher, or of a learner that writes."""
        folder = self.root / "teacher" if source == TEACHER else self.learner(source, seed)
        return read_jsonl(folder / "rationales.jsonl", Rationale)

    def predictions(self, name: str, seed: int) -> list[Prediction]:
        """A learner's answers to the test questions."""
        return read_jsonl(self.learner(name, seed) / "predictions.jsonl", Prediction)

    def metrics(self, name: str, seed: int) -> list[dict[str, Any]]:
        """The log of a learner's training."""
        text = (self.learner(name, seed) / "metrics.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def soft_labels(self, score_stages: list[str]) -> list[Path]:
        """The stores that score stages of these names have written."""
        return [self.root / name.replace("/score/", "/soft_labels/") for name in score_stages]

    def records(self, stage: Stage) -> dict[str, dict[str, Any]]:
        """What the finished stages that `stage` needs have recorded, by name."""
        marks = self.root / ".stages"
        return {
            name: json.loads((marks / f"{name.replace('/', '.')}.json").read_text(encoding="utf-8"))
            for name in stage.needs
        }
