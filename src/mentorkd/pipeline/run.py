"""The pipeline: a recipe compiled to stages, run in order, each at most once, one or several at a time (`jobs`).

    prepare    questions of every split, with their faults counted
    annotate   the teacher's rationales
    curate     (if people decided about single ones) those that are left, with edited texts
    for each seed, and each learner after those it learns from:
      budget     (before the first arm) how many updates each arm gets
      score      (if it imitates soft labels) its mentor's distributions on every text that it reads
      train      on the selected rationales of its sources, with CE or (1 - w) CE + w KL
      search     (if several settings are tried) the best of its trials, each of which is a training
      augment    (if another learner reads it) its own rationales for every training question
      evaluate   its answers to the test questions
    report     the results of all stages

`graph` compiles the stages, `stages/` has a file for each kind, and `executors` decides where they run. A changed recipe runs
only the stages that the change reaches, and a killed run goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from mentorkd.data.overlay import misplaced
from mentorkd.errors import DamagedError, RunError, explaining
from mentorkd.files import write_text
from mentorkd.files.seals import Table, read_sealed, write_sealed_table
from mentorkd.pipeline import provenance
from mentorkd.pipeline.executors.executor import CHECKED_KINDS, StageExecutor
from mentorkd.pipeline.executors.inline import InlineExecutor
from mentorkd.pipeline.executors.processes import ProcessExecutor
from mentorkd.pipeline.graph import compile_stages, hub_models
from mentorkd.pipeline.live import LiveFile
from mentorkd.pipeline.outdated import why_outdated
from mentorkd.pipeline.ownership import conflict
from mentorkd.pipeline.records import StageRecord, TrainRecord
from mentorkd.pipeline.resources import room, share_of_cores
from mentorkd.pipeline.run_folder import RunFolder, Stage, role
from mentorkd.pipeline.schedule import Schedule, most_at_once
from mentorkd.recipe.graph import headline_student
from mentorkd.recipe.load import dump_recipe, load_recipe
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.vocabularies import vocabularies

_MOST_JOBS = 64
_NEEDS_OUTDATED = "a training that it needs runs again"
_DERIVED = {"curate", "budget", "report"}
"""Kinds of stages that take seconds and are made from the results of others."""
_DECIDING = {"prepare", "budget"}
"""Kinds of stages whose records decide what the others are: the number of shards, and the fingerprints of arms."""
_SIGNALS: dict[type[BaseException], str] = {KeyboardInterrupt: "interrupted", SystemExit: "terminated"}
"""What ends a run when a signal does."""
_SHARE = 20
"""The manifest of thousands of stages takes long to write. It is written again after 20 times as long, at the earliest."""


@dataclass(frozen=True)
class PlannedStage:
    """A stage and its state: `done`; `resumes` (it was killed while it ran); `runs`; or `may run`: it was done, and stays done
    if the budget, which runs again, gives it the same number of updates."""

    stage: Stage
    state: str
    record: StageRecord | None
    replaces: bool = False
    """Whether it would replace finished results, which take longer than seconds to make."""
    outdated: str | None = None
    """Why a finished stage runs again though its settings are the same; None for all other stages."""


class Reporter:
    """Is called with what the pipeline does. This one shows nothing; those of the command line override its methods."""

    def checking(self) -> None: ...

    def replacing(self, stages: Sequence[Stage]) -> None:
        """Finished results of these stages, made with other settings, are about to be replaced."""

    def started(self, stage: Stage, number: int, total: int) -> None: ...

    def progress(self, stage: Stage, done: int, total: int) -> None: ...

    def finished(self, stage: Stage, record: StageRecord) -> None: ...

    def skipped(self, stage: Stage) -> None: ...

    def note(self, text: str, stage: Stage) -> None: ...

    def close(self) -> None: ...


def open_run(folder: Path, reporter: Reporter | None = None, *, verify: bool = True) -> Pipeline:
    """The pipeline of an existing run folder, from the recipe stored in it; `verify` as for Pipeline."""
    if not RunFolder(folder).recipe.is_file():
        raise RunError(f"{folder} is not a run folder (it has no recipe.yaml); give a folder that `mentorkd run` made")
    return Pipeline(load_recipe(folder / "recipe.yaml", check_files=False), folder, reporter, verify=verify)


class Pipeline:
    """A recipe and its run folder; `verify` checks the outputs of stages against their marks when they are read."""

    def __init__(self, recipe: Recipe, root: Path, reporter: Reporter | None = None, *, verify: bool = True) -> None:
        self.recipe = recipe
        self.folder = RunFolder(root, verify=verify)
        self.reporter = reporter or Reporter()
        self._live = LiveFile(root)
        self._stages: list[Stage] | None = None

    @property
    def stages(self) -> list[Stage]:
        if self._stages is None:
            overlay = self.recipe.teacher.overlay
            if overlay is not None and (fault := misplaced(Path(overlay), self.folder.root)):
                raise RunError(fault)
            self._stages = compile_stages(self.recipe, self.folder.recorded, self.folder.hub_models)
        return self._stages

    def stage_of(self, kind: str, learner: str, seed: int) -> str | None:
        """The name of the stage of a kind that serves a learner, its own or a shared one; None if there is none."""
        return self.stages[-1].inputs.get(role(kind, learner, seed))

    def trained(self, learner: str, seed: int) -> str | None:
        """The name of the finished stage that trained a learner; None if the learner is not trained.

        Raises RunError if it is not finished, or if an earlier version made the weights wrong.
        """
        stage = self.stage_of("train", learner, seed)
        if stage is not None:
            self.folder.record(stage)
            if why := self._why_outdated(stage):
                raise RunError(f"{stage} has to run again, because {why}; use `mentorkd run`")
        return stage

    def headline_student(self) -> str:
        """The learner that the run's report compares with its baseline; for a run without a report, that of the recipe."""
        from mentorkd.reporting.write import read_results

        with suppress(RunError):
            results = read_results(self.folder.root / "report")
            if (number := results["headline"]["comparison"]) is not None:
                student = results["comparisons"][number]["a"]
                if student in self.recipe.learners:
                    return str(student)
        return headline_student(self.recipe)

    def plan(self) -> list[PlannedStage]:
        """Every stage and its state. Changes nothing."""
        return list(self._planned())

    def _planned(self) -> Iterator[PlannedStage]:
        """The stages of `plan`, each with its record, one after the other."""
        with_last_budget: dict[str, Stage] = {}
        if any(stage.kind == "budget" and not self.folder.finished(stage) for stage in self.stages):
            hub = self.folder.hub_models
            last = compile_stages(self.recipe, lambda stage: self.folder.last(stage.name), hub)
            with_last_budget = {stage.name: stage for stage in last}
        outdated, begun = self._outdated(self.stages), self.folder.all_begun()
        forced = {s.name: outdated.get(s.name, _NEEDS_OUTDATED) for s in self._forced(list(outdated))}
        for stage in self.stages:
            again = stage.name in forced
            record, state = None if again else self.folder.finished(stage), "runs"
            if record:
                state = "done"
            elif begun(stage):
                state = "resumes"
            elif not again and stage.name in with_last_budget and self.folder.finished(with_last_budget[stage.name]):
                state = "may run"
            replaces = record is None and stage.kind not in _DERIVED and self.folder.last(stage.name) is not None
            yield PlannedStage(stage, state, record, replaces, forced.get(stage.name))

    def conflict(self) -> str | None:
        """Why `run` would refuse the folder, which belongs to another recipe; None if it would not."""
        return conflict(self.recipe, self.folder, self.stages[0])

    def run(
        self,
        *,
        force: Sequence[str] = (),
        until: str | None = None,
        jobs: int | str = 1,
        on: str | None = None,
        scratch: Path | None = None,
        overwrite: bool = False,
    ) -> dict[str, Any]:
        """Run every stage that is not done, and return the manifest.

        Args:
            force: kinds or names of stages to run again, with all stages that depend on them. Trainings whose weights an earlier
                version made wrong are among them. An annotation that is named here finishes even if most samples get no
                reply.
            until: the kind of stage to stop after; None runs all.
            jobs: how many stages run at the same time, if they do not wait for each other. From 2 on, each runs in its own process
                with a share of the cores and one GPU. `auto` takes as many as the machine and the recipe have work for.
            on: the cluster whose nodes run the stages, instead of this machine's processes: `ray`, or the address of a Ray cluster.
            scratch: a folder of the nodes' own disks, to which each copies the models and soft labels that it reads; for a cluster.
            overwrite: take over a folder that belongs to a recipe of another name or with other questions.

        Raises RunError for a wrong argument, a folder of another recipe, or one that another process writes to, and what a
        stage raises.
        """
        if jobs != 1 and on is not None:
            raise RunError(f"got --jobs {jobs} and --on {on}; a cluster runs as many stages as its nodes have room for")
        if jobs == "auto":
            self._chosen(until, force)  # refuses wrong names
            if not self.folder.finished(self.stages[0]):  # its count of questions decides how many shards there are
                self.run(until="prepare", overwrite=overwrite)
            jobs = min(room(self.recipe), most_at_once(self.stages), _MOST_JOBS)
        if not isinstance(jobs, int) or not 1 <= jobs <= _MOST_JOBS:
            raise RunError(f"got --jobs {jobs}; expected `auto`, or a number from 1 to {_MOST_JOBS}")
        if scratch is not None and on is None:
            raise RunError(f"got --scratch {scratch} without a cluster; it is for the nodes of one, see --on")
        if not overwrite and (why := self.conflict()):
            how = "give another folder with --run, or --overwrite to replace the results there"
            raise RunError(f"{why}; {how}")
        stages, outdated, forced = self._chosen(until, force)
        waiting = [stage for stage in stages if stage in forced or not self.folder.finished(stage)]
        with explaining(folder=self.folder.root), closing(self._executor(jobs, on, scratch, waiting)) as executor:
            if waiting:
                self.reporter.checking()
                self._warn_unsealed(stages)  # here, because each worker would
            # A run whose stages are all finished must not wait for torch.
            if kinds := CHECKED_KINDS & {stage.kind for stage in waiting}:
                executor.check(kinds)
            with self.folder.lock():
                # The checks have loaded configs and tokenizers, so the cache knows the commit of every model and its vocabulary.
                known = self.folder.hub_models.after_use(hub_models(self.recipe), vocabularies(self.recipe))
                self.folder.keep_hub_models(known)
                self._stages = None
                _, outdated, forced = self._chosen(until, force)
                # The last stage first: after a kill in between, no stage may be finished whose inputs are not.
                forgotten: set[str] = set()
                while forced := [stage for stage in self._chosen(until, force)[2] if stage.name not in forgotten]:
                    for stage in reversed(forced):
                        if stage.name in outdated:
                            self.reporter.note(f"{stage.name} runs again: {outdated[stage.name]}", stage)
                        self.folder.forget(stage)
                        forgotten.add(stage.name)
                    self._stages = None  # what was finished as a whole is not any more, and may run in shards
                write_text(self.folder.recipe, dump_recipe(self.recipe))
                with self._watched():
                    ran = self._run_stages(executor, until, jobs, on, force)
                if not ran and self._manifest_is_behind():
                    self._write_manifest(jobs)
                return self.manifest()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Tell those who watch the run when it ends, and why if that is not after its last stage."""
        try:
            yield
        except BaseException as error:
            self._live.end(stopped=_SIGNALS.get(type(error)) or str(error) or type(error).__name__)
            raise

    def _progress(self, stage: Stage, done: int, total: int) -> None:
        self._live.progress(stage, done, total)
        self.reporter.progress(stage, done, total)

    def _note(self, text: str, stage: Stage) -> None:
        self._live.note(text, stage)
        self.reporter.note(text, stage)

    def _chosen(self, until: str | None, force: Sequence[str]) -> tuple[list[Stage], dict[str, str], list[Stage]]:
        """The stages of a run, up to the last of a kind; those outdated among them, each with its reason; and those to run again."""
        stages = self._up_to(until)
        outdated = self._outdated(stages)
        return stages, outdated, self._forced([*force, *outdated])

    def _up_to(self, until: str | None) -> list[Stage]:
        """The stages up to the last of a kind; all with None."""
        if until is None:
            return self.stages
        return self.stages[: 1 + max(number for number, stage in enumerate(self.stages) if stage.kind == until)]

    def _executor(self, jobs: int, on: str | None, scratch: Path | None, waiting: Sequence[Stage]) -> StageExecutor:
        setup = (self.recipe, self.folder, self._progress, self._note)
        if on is not None and waiting:
            from mentorkd.pipeline.executors.cluster import RayExecutor

            return RayExecutor(on, scratch, waiting, *setup)
        threads = share_of_cores(jobs)
        if threads is None or len(waiting) < 2:
            return InlineExecutor(threads, *setup)
        return ProcessExecutor(jobs, threads, *setup, started=min(jobs, most_at_once(waiting)))

    def _run_stages(
        self, executor: StageExecutor, until: str | None, jobs: int, on: str | None, force: Sequence[str]
    ) -> bool:
        """Start each stage up to the last of the kind `until` when all of its needs are finished. One job runs them in the order of
        the plan. Several jobs start the stage first that has the longest chain of stages waiting for it.

        Returns whether any stage ran.
        """
        running: set[str] = set()
        known: set[str] = set()
        announced: set[str] = set()
        manifest = _Throttle(lambda: self._write_manifest(jobs))
        while True:
            stages = self._up_to(until)
            announced |= self._announce_replaced(until, announced)
            schedule = Schedule(stages, running, by_chain=jobs != 1 or on is not None)
            while True:
                for stage in schedule.settle(self.folder.finished):
                    if stage.name not in known:
                        self.reporter.skipped(stage)
                        known.add(stage.name)
                while (first := schedule.start(executor.free)) is not None:
                    running.add(first.name)
                    self.reporter.started(first, schedule.number(first), len(stages))
                    self.folder.log("started", stage=first.name, fingerprint=first.fingerprint)
                    executor.start(replace(first, forced=_is_named(first, force)))
                if not running:
                    manifest.finish()
                    if manifest.called:
                        self._live.end()
                    return manifest.called
                stage, workdir, record = executor.next_finished()
                record = self.folder.publish(stage, workdir, record)
                self.folder.log("finished", stage=stage.name, fingerprint=stage.fingerprint, seconds=record.seconds)
                running.remove(stage.name)
                known.add(stage.name)
                self._live.finished(stage)
                self.reporter.finished(stage, record)
                manifest.call()
                if stage.kind in _DECIDING:
                    self._stages = None
                    break
                schedule.finish(stage)

    def _announce_replaced(self, until: str | None, announced: set[str]) -> set[str]:
        """Say which stages replace results, up to the last of a kind, apart from those that a later budget may leave as they are."""
        replaced = [
            planned.stage
            for planned in islice(self._planned(), len(self._up_to(until)))
            if planned.replaces and planned.state != "may run" and planned.stage.name not in announced
        ]
        if replaced:
            self.reporter.replacing(replaced)
        return {stage.name for stage in replaced}

    def _outdated(self, stages: Sequence[Stage]) -> dict[str, str]:
        """The finished trainings among `stages` whose weights an earlier version may have made wrong, and why."""
        # Of any fingerprint: that of an arm is not known before its budget is finished.
        return {s.name: why for s in stages if s.kind == "train" and (why := self._why_outdated(s.name))}

    def _why_outdated(self, stage: str) -> str | None:
        record = self.folder.last(stage)
        return why_outdated(record, self.folder.root) if isinstance(record, TrainRecord) else None

    def _forced(self, force: Sequence[str]) -> list[Stage]:
        """The stages that `force` names, and all stages that need them."""
        if not force:
            return []
        choices = {name for stage in self.stages for name in (stage.kind, stage.name, stage.whole)}
        for name in force:
            if name not in choices:
                raise RunError(f"got --force {name}; expected one of {', '.join(sorted(choices))}")
        forced: dict[str, Stage] = {}
        for stage in self.stages:
            if _is_named(stage, force) or any(need in forced for need in stage.needs):
                forced[stage.name] = stage
        return list(forced.values())

    def _warn_unsealed(self, stages: Sequence[Stage]) -> None:
        records = filter(None, map(self.folder.finished, stages))
        if self.folder.verify and any(record.files is None for record in records):
            self.folder.warn_unsealed()

    def _manifest_is_behind(self) -> bool:
        """Whether a kill came after a stage finished and before the manifest was written, or the manifest was damaged since."""
        try:
            stages = self.manifest()["stages"]
        except RunError:
            return True
        return set(stages) != {planned.stage.name for planned in self._planned() if planned.record}

    def _write_manifest(self, jobs: int) -> None:
        """Write the manifest with one record at a time in memory: a run may have tens of thousands of stages."""
        names = [planned.stage.name for planned in self._planned() if planned.record]
        report = self.folder.record("report").made_by if "report" in names else None
        seconds, tokens = 0.0, 0
        for record in map(self.folder.record, names):
            seconds, tokens = seconds + record.seconds, tokens + (record.tokens or 0)
        facts = {
            "recipe": self.recipe.name,
            **provenance.summary(map(self.folder.record, names), report),
            "jobs": jobs,
            "hub_commits": {model: commits[-1] for model, commits in self.folder.hub_models.commits.items()},
            "precision": self.folder.precisions or "as the recipe says",
            "seeds": self.recipe.seeds,
            "seconds": round(seconds, 1),
            "tokens": tokens,
        }
        stages = Table(names, lambda name: self.folder.record(name).as_json())
        write_sealed_table(self.folder.root / "manifest.json", facts, "stages", stages)

    def manifest(self) -> dict[str, Any]:
        """The manifest as last written. Raises RunError if there is none, and DamagedError if it has changed since."""
        file = self.folder.root / "manifest.json"
        if not file.is_file():
            raise RunError(f"{self.folder.root} has no manifest.json; run the recipe first")
        try:
            return read_sealed(file)
        except DamagedError as error:
            raise DamagedError(f"{error}; `mentorkd run` writes it again") from None


def _is_named(stage: Stage, names: Sequence[str]) -> bool:
    """Whether one of the names is that of the stage, of its kind, or of the stage that it is a shard of."""
    return not {stage.kind, stage.name, stage.whole}.isdisjoint(names)


class _Throttle:
    """Calls a function again and again, but lets it take a small part of the time."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function, self._next, self._behind = function, 0.0, False
        self.called = False

    def call(self) -> None:
        self.called = self._behind = True
        if (now := time.monotonic()) >= self._next:
            self._function()
            self._behind = False
            self._next = time.monotonic() + _SHARE * (time.monotonic() - now)

    def finish(self) -> None:
        if self._behind:
            self._function()
