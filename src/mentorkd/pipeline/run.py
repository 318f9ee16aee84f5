"""The pipeline: a recipe compiled to stages, run in order, each at most once; several at a time if asked for (`jobs`).

    prepare    questions of every split, their faults counted
    annotate   the teacher's rationales
    for each seed, and each learner after those it learns from:
      budget     (before the first learner that is compared) how many updates each of these gets
      score      (if it imitates soft labels) its mentor's distributions on every text it will read
      train      on the selected rationales of its sources, with CE or (1 - w) CE + w KL
      augment    (if another learner reads it) its own rationales for every training question
      evaluate   its answers to the test questions
    report     what all of it came to

A stage's fingerprint covers its part of the recipe, its inputs' fingerprints and its code version, so a changed recipe
runs only what the change reaches, and a killed run goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mentorkd.errors import RunError
from mentorkd.files import write_json
from mentorkd.pipeline import provenance
from mentorkd.pipeline.executors import InlineExecutor, ProcessExecutor, StageExecutor
from mentorkd.pipeline.graph import compile_stages
from mentorkd.pipeline.records import StageRecord
from mentorkd.pipeline.run_folder import RunFolder, Stage, role
from mentorkd.recipe.load import dump_recipe, load_recipe
from mentorkd.recipe.schema import Recipe

__all__ = ["Pipeline", "PlannedStage", "Reporter", "open_run"]

MOST_JOBS = 64


@dataclass(frozen=True)
class PlannedStage:
    """A stage and where it stands: `done`, `resumes` (killed in its middle), `runs`, or `may run`: it was done, and a
    budget that is to be made anew will tell whether it stays so."""

    stage: Stage
    state: str
    record: StageRecord | None


class Reporter(Protocol):
    """Hears what the pipeline does; the command line shows it."""

    def checking(self) -> None: ...

    def started(self, stage: Stage, number: int, total: int) -> None: ...

    def progress(self, stage: Stage, done: int, total: int) -> None: ...

    def finished(self, stage: Stage, record: StageRecord) -> None: ...

    def skipped(self, stage: Stage) -> None: ...

    def note(self, text: str, stage: Stage) -> None: ...


class Quiet:
    """A Reporter that says nothing."""

    def checking(self) -> None: ...

    def started(self, stage: Stage, number: int, total: int) -> None: ...

    def progress(self, stage: Stage, done: int, total: int) -> None: ...

    def finished(self, stage: Stage, record: StageRecord) -> None: ...

    def skipped(self, stage: Stage) -> None: ...

    def note(self, text: str, stage: Stage) -> None: ...


def open_run(folder: Path, reporter: Reporter | None = None) -> Pipeline:
    """The pipeline of an existing run folder, from the recipe stored in it."""
    if not (folder / "recipe.yaml").is_file():
        raise RunError(f"{folder} is no run folder (it has no recipe.yaml); give the folder that `mentorkd run` made")
    return Pipeline(load_recipe(folder / "recipe.yaml", check_files=False), folder, reporter)


class Pipeline:
    """A recipe and its run folder."""

    def __init__(self, recipe: Recipe, root: Path, reporter: Reporter | None = None) -> None:
        self.recipe = recipe
        self.folder = RunFolder(root)
        self.reporter: Reporter = reporter or Quiet()
        self._stages: list[Stage] | None = None

    @property
    def stages(self) -> list[Stage]:
        if self._stages is None:
            self._stages = compile_stages(self.recipe, self.folder.finished)
        return self._stages

    def made(self, kind: str, learner: str, seed: int) -> str | None:
        """The name of the stage of a kind that serves a learner, its own or a shared one; None where there is none."""
        return self.stages[-1].inputs.get(role(kind, learner, seed))

    def plan(self) -> list[PlannedStage]:
        """Every stage and whether it is done; changes nothing."""
        as_before: dict[str, Stage] = {}
        if any(stage.kind == "budget" and not self.folder.finished(stage) for stage in self.stages):
            as_before = {stage.name: stage for stage in compile_stages(self.recipe, self.folder.last)}
        planned = []
        for stage in self.stages:
            record, state = self.folder.finished(stage), "runs"
            if record:
                state = "done"
            elif self.folder.begun(stage):
                state = "resumes"
            elif stage.name in as_before and self.folder.finished(as_before[stage.name]):
                state = "may run"
            planned.append(PlannedStage(stage, state, record))
        return planned

    def run(self, *, force: Sequence[str] = (), until: str | None = None, jobs: int = 1) -> dict[str, Any]:
        """Run every stage that is not done, and return the manifest.

        Args:
            force: kinds or names of stages to run again, with all that depends on them.
            until: the kind of stage to stop after; null runs all.
            jobs: how many stages to carry out at a time, of those that do not wait for each other; from 2 on each in a process of
                its own, with its share of the cores and one of the GPUs.
        """
        if not 1 <= jobs <= MOST_JOBS:
            raise RunError(f"got --jobs {jobs}; expected a number from 1 to {MOST_JOBS}")
        stages = self.stages
        if until is not None:
            stages = stages[: 1 + max(number for number, stage in enumerate(stages) if stage.kind == until)]
        total = len(stages)
        forced = self._forced(force)
        waiting = [stage for stage in stages if stage in forced or not self.folder.finished(stage)]
        with closing(self._executor(min(jobs, len(waiting)))) as executor:
            if waiting:
                self.reporter.checking()
            executor.check({stage.kind for stage in waiting})
            with self.folder.lock():
                # Last first: a kill in between must not leave a stage finished whose inputs are to be made anew.
                for stage in reversed(forced):
                    self.folder.forget(stage)
                self._stages = None
                (self.folder.root / "recipe.yaml").write_text(dump_recipe(self.recipe), encoding="utf-8")
                if not self._run_stages(executor, total, jobs) and self._manifest_is_behind():
                    self._write_manifest(jobs)
                return self.manifest()

    def _executor(self, jobs: int) -> StageExecutor:
        about = (self.recipe, self.folder, self.reporter.progress, self.reporter.note)
        return ProcessExecutor(jobs, *about) if jobs > 1 else InlineExecutor(*about)

    def _run_stages(self, executor: StageExecutor, total: int, jobs: int) -> bool:
        """Start each of the first `total` stages once all that it needs is finished: one at a time in the order of the plan,
        several with those first that most has to wait for. Returns whether there was any to start."""
        finished: set[str] = set()
        running: set[str] = set()
        ran = False
        while True:
            ready = []
            for number, stage in enumerate(self.stages[:total], 1):
                if stage.name in finished | running or not finished.issuperset(stage.needs):
                    continue
                if self.folder.finished(stage):
                    finished.add(stage.name)
                    self.reporter.skipped(stage)
                else:
                    ready.append((number, stage))
            if jobs > 1:
                behind = _chains(self.stages)
                ready.sort(key=lambda item: -behind[item[1].name])
            for number, stage in ready:
                if executor.free:
                    running.add(stage.name)
                    self.reporter.started(stage, number, total)
                    executor.start(stage)
            if ran:
                self._write_manifest(jobs)
            if not running:
                return ran
            stage, record = executor.next_finished()
            ran = True
            running.remove(stage.name)
            finished.add(stage.name)
            self.reporter.finished(stage, record)
            if stage.kind == "budget":
                self._stages = None  # what it gave settles the fingerprints of the arms

    def _forced(self, force: Sequence[str]) -> list[Stage]:
        """The stages that `force` names, and of all that need them."""
        known = {s.name for s in self.stages} | {s.kind for s in self.stages}
        for wanted in force:
            if wanted not in known:
                raise RunError(f"got --force {wanted}; expected one of {', '.join(sorted(known))}")
        reached: dict[str, Stage] = {}
        for stage in self.stages:
            if stage.kind in force or stage.name in force or any(need in reached for need in stage.needs):
                reached[stage.name] = stage
        return list(reached.values())

    def _manifest_is_behind(self) -> bool:
        """Whether a kill came between the last stage and the manifest that tells of it."""
        try:
            told = self.manifest()["stages"]
        except RunError:
            return True
        return set(told) != {p.stage.name for p in self.plan() if p.record}

    def _write_manifest(self, jobs: int) -> None:
        records = {p.stage.name: p.record for p in self.plan() if p.record}
        report = records.get("report")
        manifest = {
            "recipe": self.recipe.name,
            **provenance.summarised(records.values(), None if report is None else report.made_by),
            "jobs": jobs,
            "precision": self.folder.precisions or "as the recipe says",
            "seeds": self.recipe.seeds,
            "seconds": round(sum(record.seconds for record in records.values()), 1),
            "tokens": sum(record.tokens or 0 for record in records.values()),
            "stages": {name: record.as_json() for name, record in records.items()},
        }
        write_json(self.folder.root / "manifest.json", manifest)

    def manifest(self) -> dict[str, Any]:
        """The manifest as last written."""
        file = self.folder.root / "manifest.json"
        if not file.is_file():
            raise RunError(f"{self.folder.root} has no manifest.json; run the recipe first")
        return dict(json.loads(file.read_text(encoding="utf-8")))


def _chains(stages: Sequence[Stage]) -> dict[str, int]:
    """For each stage the longest chain of stages that have to wait for it."""
    chains = {stage.name: 0 for stage in stages}
    for stage in reversed(stages):
        for need in stage.needs:
            chains[need] = max(chains[need], chains[stage.name] + 1)
    return chains
