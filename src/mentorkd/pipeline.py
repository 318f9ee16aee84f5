"""The pipeline: a recipe compiled to stages, run in order, each at most once.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mentorkd import hardware
from mentorkd.errors import DataError, RunError
from mentorkd.recipe import Recipe
from mentorkd.recipe_file import dump_recipe, load_recipe
from mentorkd.stage_graph import compile_stages
from mentorkd.store import RunFolder, Stage, role, write_json

if TYPE_CHECKING:
    from mentorkd.work import Work

__all__ = ["Pipeline", "PlannedStage", "Reporter", "open_run"]


@dataclass(frozen=True)
class PlannedStage:
    """A stage and where it stands: `done`, `resumes` (killed in its middle), `runs`, or `may run`: it was done, and a
    budget that is to be made anew will tell whether it stays so."""

    stage: Stage
    state: str
    record: Mapping[str, Any] | None


class Reporter(Protocol):
    """Hears what the pipeline does; the command line shows it."""

    def started(self, stage: Stage, number: int, total: int) -> None: ...

    def progress(self, done: int, total: int) -> None: ...

    def finished(self, stage: Stage, record: Mapping[str, Any]) -> None: ...

    def skipped(self, stage: Stage) -> None: ...

    def note(self, text: str) -> None: ...


class Quiet:
    """A Reporter that says nothing."""

    def started(self, stage: Stage, number: int, total: int) -> None: ...

    def progress(self, done: int, total: int) -> None: ...

    def finished(self, stage: Stage, record: Mapping[str, Any]) -> None: ...

    def skipped(self, stage: Stage) -> None: ...

    def note(self, text: str) -> None: ...


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

    def run(
        self, *, force: Sequence[str] = (), command: Sequence[str] = (), until: str | None = None
    ) -> dict[str, Any]:
        """Run every stage that is not done, and return the manifest.

        Args:
            force: kinds or names of stages to run again, with all that depends on them.
            command: the command line, for the manifest.
            until: the kind of stage to stop after; null runs all.
        """
        stages = self.stages
        if until is not None:
            stages = stages[: 1 + max(number for number, stage in enumerate(stages) if stage.kind == until)]
        total = len(stages)
        forced = self._forced(force)
        waiting = [stage for stage in stages if stage in forced or not self.folder.finished(stage)]
        if any(stage.kind == "annotate" for stage in waiting):
            from mentorkd.stages.ask import check_teacher

            check_teacher(self.recipe)
        if any(stage.kind in ("train", "evaluate") for stage in waiting):
            # Planning, and finding that all is done, must not wait for torch.
            from mentorkd.preflight import check_models

            check_models(self.recipe)
        with self.folder.lock():
            # Last first: a kill in between must not leave a stage finished whose inputs are to be made anew.
            for stage in reversed(forced):
                self.folder.forget(stage)
            self._stages = None
            waiting = [stage for stage in self.stages[:total] if not self.folder.finished(stage)]
            (self.folder.root / "recipe.yaml").write_text(dump_recipe(self.recipe), encoding="utf-8")
            if waiting:
                from mentorkd.work import Work

                work = Work(self.recipe, self.folder, self.reporter.progress, self.reporter.note)
            for number in range(total):
                stage = self.stages[number]
                if self.folder.finished(stage):
                    self.reporter.skipped(stage)
                    continue
                self._run_stage(stage, work, number + 1, total)
                if stage.kind == "budget":
                    self._stages = None  # what it gave settles the fingerprints of the arms
                self._write_manifest(command)
            if not waiting and self._manifest_is_behind():
                self._write_manifest(command)
            return self.manifest()

    def _run_stage(self, stage: Stage, work: Work, number: int, total: int) -> None:
        self.reporter.started(stage, number, total)
        self.folder.log("started", stage=stage.name, fingerprint=stage.fingerprint)
        place = self.folder.begin(stage)
        do: Callable[[Stage, Path], dict[str, Any]] = getattr(work, stage.kind)
        try:
            with hardware.measured() as cost:
                made = do(stage, place)
        except DataError:
            self.folder.discard_if_empty(stage)
            raise
        record = {**made, **asdict(cost)}
        published = self.folder.publish(stage, record)
        self.folder.log("finished", stage=stage.name, fingerprint=stage.fingerprint, seconds=cost.seconds)
        self.reporter.finished(stage, published)

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

    def _write_manifest(self, command: Sequence[str]) -> None:
        records = {p.stage.name: dict(p.record) for p in self.plan() if p.record}
        precision = self.folder.root / ".stages" / "precision.json"
        manifest = {
            "recipe": self.recipe.name,
            "command": list(command) or hardware.command_line(),
            "versions": hardware.versions(),
            "git": hardware.git_commit(),
            "host": hardware.describe_host(),
            "precision": json.loads(precision.read_text(encoding="utf-8"))
            if precision.is_file()
            else "as the recipe says",
            "seeds": self.recipe.seeds,
            "seconds": round(sum(record["seconds"] for record in records.values()), 1),
            "tokens": sum(record.get("tokens") or 0 for record in records.values()),
            "stages": records,
        }
        write_json(self.folder.root / "manifest.json", manifest)

    def manifest(self) -> dict[str, Any]:
        """The manifest as last written."""
        file = self.folder.root / "manifest.json"
        if not file.is_file():
            raise RunError(f"{self.folder.root} has no manifest.json; run the recipe first")
        return dict(json.loads(file.read_text(encoding="utf-8")))
