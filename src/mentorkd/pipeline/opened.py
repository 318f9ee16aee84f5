"""A run as it is now: its recipe, its stages and what they recorded. Reading needs no lock and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path

from mentorkd.errors import MentorkdError
from mentorkd.files.seals import read_sealed
from mentorkd.pipeline.records import StageRecord, read_record
from mentorkd.pipeline.run import Pipeline, PlannedStage
from mentorkd.pipeline.run_folder import RunFolder, Stage
from mentorkd.recipe.load import load_recipe
from mentorkd.recipe.schema import Recipe

_TRAININGS = ("search", "rounds", "train")
"""Kinds of stages that make the model of a learner, the last that runs first."""


class OpenedRun:
    """One run, opened for one request. Raises RecipeError for a recipe that cannot be read."""

    def __init__(self, root: Path) -> None:
        file = root / "recipe.yaml"
        stat = file.stat()
        self.root, self.recipe = root, _recipe(file, stat.st_mtime_ns, stat.st_size)
        self.folder = RunFolder(root)
        self.fault: str | None = None
        """Why the stages that are left are not known: the run lies on another machine than its data, for example."""
        try:
            pipeline = Pipeline(self.recipe, root)
            self.planned = pipeline.plan()
        except (MentorkdError, OSError) as error:
            self.fault, self.planned = str(error), _finished(self.folder)

    @cached_property
    def records(self) -> Mapping[str, StageRecord]:
        """What the finished stages recorded, by name."""
        return {planned.stage.name: planned.record for planned in self.planned if planned.record}

    @cached_property
    def published(self) -> Mapping[str, StageRecord]:
        """What the stages recorded when they were last published, by name: those too that the next `mentorkd run` runs again."""
        names = (planned.stage.name for planned in self.planned)
        found = {name: self.records.get(name) or self.folder.last(name) for name in names}
        return {name: record for name, record in found.items() if record is not None}

    def stage(self, kind: str, learner: str, seed: int) -> str | None:
        """The name of the published stage of a kind (`train`, `augment`, `evaluate`) that serves a learner; None without one."""
        report = self.planned[-1].stage if self.planned else None
        if self.fault is None and report is not None:
            name = report.inputs.get(f"{kind}/{learner}/{seed}")
            return name if name in self.published else None
        kinds = _TRAININGS if kind == "train" else (kind,)
        names = (f"learners/{learner}/seed-{seed}/{each}" for each in kinds)
        return next((name for name in names if name in self.published), None)


@lru_cache(maxsize=256)
def _recipe(file: Path, changed: int, size: int) -> Recipe:
    return load_recipe(file, check_files=False)


def _finished(folder: RunFolder) -> list[PlannedStage]:
    """The stages that ever finished, by their marks, in the order in which they did."""
    marks = sorted(folder.marks(), key=lambda mark: mark.stat().st_mtime_ns)
    records = [record for mark in marks if (record := read_record(read_sealed(mark))) is not None]
    return [PlannedStage(_stage(record), "done", record) for record in records]


def _stage(record: StageRecord) -> Stage:
    inputs = {need: need for need in record.needs}
    own = record.learner or "", record.seed or 0
    return Stage(record.stage, record.kind, record.target, inputs, record.fingerprint, *own)
