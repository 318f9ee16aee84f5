"""How what finished stages have made is read from a run folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from mentorkd.errors import RunError
from mentorkd.files import write_json
from mentorkd.precision import Precision, choose_precision
from mentorkd.records import Prediction, Question, Rationale, Split, read_jsonl
from mentorkd.store import RunFolder

__all__ = ["RunFiles"]


class RunFiles:
    """The files of one run, by the names of the stages that made them."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.root = folder, folder.root

    @property
    def engines(self) -> Path:
        """What engines make of models, kept from run to run."""
        return self.root / ".engines"

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Wait until no other stage is at `what`: something that the stages of a run share, and the first one makes."""
        self.engines.mkdir(parents=True, exist_ok=True)
        with FileLock(self.engines / f".{what}.lock"):
            yield

    def precision(self, device_type: str) -> Precision:
        """The arithmetic measured to be fast on this kind of device when the run began on one; measured now if it has not."""
        file = self.root / ".stages" / "precision.json"
        with self.alone("precision"):
            known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            if device_type not in known:
                known[device_type] = list(choose_precision(device_type))
                write_json(file, known)
        chosen: Precision = known[device_type][0]
        return chosen

    def record(self, stage: str) -> dict[str, Any]:
        """What a stage recorded. Raises RunError if it is not finished."""
        return self.folder.record(stage)

    def outputs(self, stage: str) -> Path:
        """The folder of a stage's outputs. Raises RunError if it is not finished."""
        return self.root / str(self.record(stage)["target"])

    def model(self, stage: str) -> Path:
        """The model that a stage trained, as a Hugging Face folder. Raises RunError if it is not there."""
        folder = self.outputs(stage) / "model"
        if not folder.is_dir():
            raise RunError(f"{folder} is not there; `mentorkd run` makes it anew")
        return folder

    def questions(self, stage: str, split: Split | None = None) -> list[Question]:
        """The questions of a split, or all."""
        questions = read_jsonl(self.outputs(stage) / "questions.jsonl", Question)
        return [question for question in questions if split in (None, question.split)]

    def rationales(self, stage: str) -> list[Rationale]:
        """All rationales that a stage asked the teacher for, or sampled from a learner."""
        return read_jsonl(self.outputs(stage) / "rationales.jsonl", Rationale)

    def predictions(self, stage: str) -> list[Prediction]:
        """Answers to the test questions."""
        return read_jsonl(self.outputs(stage) / "predictions.jsonl", Prediction)

    def metrics(self, stage: str) -> list[dict[str, Any]]:
        """The log of a training."""
        text = (self.outputs(stage) / "metrics.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def soft_labels(self, stage: str) -> Path:
        """The store that a score stage wrote."""
        record = self.record(stage)
        return self.root / str(record["target"]) / str(record["outputs"][0])
