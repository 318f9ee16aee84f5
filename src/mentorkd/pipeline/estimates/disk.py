"""Bytes that a finished run leaves on the disk, and what its trainings need beside that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mentorkd.pipeline.estimates.lengths import Lengths
from mentorkd.pipeline.run_folder import Stage
from mentorkd.recipe.learner import Learner
from mentorkd.recipe.sizes import ModelSize

_ROW_BYTES = 300
"""Ids, answers and verdict of a text in JSON Lines."""
_CHARACTERS = 4
"""Characters of a token."""
_CHECKPOINTS = 2
"""The best one and the last one, until a training ends."""


@dataclass(frozen=True)
class Disk:
    """Bytes by part. Checkpoints of running trainings are removed when these end."""

    models: float
    soft_labels: float
    texts: float
    checkpoints: float

    @property
    def total(self) -> float:
        return self.models + self.soft_labels + self.texts + self.checkpoints


def label_bytes(learner: Learner, form: str, mentor: ModelSize | None) -> float:
    """Bytes of a target token in a store of soft labels (distillation/soft_labels.py)."""
    if form == "top_k":
        return 16 + learner.top_k * (6 if mentor is None or mentor.vocabulary <= 2**16 else 8)
    if form == "chunks":
        return 6
    return 4 + 2 * (mentor.width if mentor else 0)


def disk_of(
    stages: Iterable[Stage],
    rows: Mapping[str, float],
    learners: Mapping[str, Learner],
    sizes: Mapping[str, ModelSize | None],
    lengths: Mapping[str, Lengths],
) -> Disk:
    """The disk of stages. `rows` has those of each stage; models of unknown size count nothing."""
    models = labels = texts = checkpoints = 0.0
    for stage in stages:
        name, count = stage.learner, rows.get(stage.name, 0.0)
        size = sizes.get(name)
        if stage.kind == "train" and size is not None:
            learner = learners[name]
            models += (2 if learner.model.dtype in ("bfloat16", "float16") else 4) * size.parameters
            trained = size.parameters if learner.model.lora is None else size.adapters(learner.model.lora)
            checkpoints = max(checkpoints, _CHECKPOINTS * 12.0 * trained)
        elif stage.kind == "score" and not stage.merged:
            mentor = sizes.get(stage.mentor)
            labels += count * lengths[name].target * label_bytes(learners[name], stage.form, mentor)
            if stage.form == "hidden" and mentor is not None:
                labels += 2 * mentor.head
        elif stage.kind in ("annotate", "augment", "evaluate", "sample") and lengths:
            target = lengths[name].target if name in lengths else next(iter(lengths.values())).target
            texts += count * (_ROW_BYTES + _CHARACTERS * target)
    return Disk(models, labels, texts, checkpoints)
