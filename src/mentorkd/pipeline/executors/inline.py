"""Stages one after the other, in this process."""

from __future__ import annotations

from collections.abc import Set
from functools import partial

from mentorkd.pipeline.executors.executor import Finished, Note, StageProgress
from mentorkd.pipeline.executors.imports import import_stages
from mentorkd.pipeline.executors.run_stage import run_stage
from mentorkd.pipeline.resources import wanted
from mentorkd.pipeline.run_folder import RunFolder, Stage
from mentorkd.recipe.schema import Recipe


class InlineExecutor:
    """Carries out one stage at a time, in this process."""

    def __init__(
        self, threads: int | None, recipe: Recipe, folder: RunFolder, progress: StageProgress, note: Note
    ) -> None:
        """`threads`: of a stage for which the recipe gives none; None leaves them to the libraries."""
        self.threads, self.recipe, self.folder, self.progress, self.note = threads, recipe, folder, progress, note
        self._stage: Stage | None = None

    def check(self, kinds: Set[str]) -> None:
        import_stages()
        from mentorkd.pipeline.preflight import check

        check(self.recipe, kinds)

    def free(self, stage: Stage) -> bool:
        return self._stage is None

    def start(self, stage: Stage) -> None:
        self._stage = stage

    def next_finished(self) -> Finished:
        stage = self._stage
        assert stage is not None, "a stage is started before it finishes"
        workdir = self.folder.begin(stage)
        record = run_stage(
            stage,
            self.recipe,
            self.folder,
            workdir,
            threads=wanted(self.recipe, stage).cpus or self.threads,
            progress=partial(self.progress, stage),
            note=lambda text: self.note(text, stage),
        )
        self._stage = None
        return Finished(stage, workdir, record)

    def close(self) -> None: ...
