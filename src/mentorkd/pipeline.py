"""The pipeline: a recipe compiled to stages, run in order, each at most once.

    prepare    questions of every split, their faults counted
    annotate   the teacher's rationales
    for each seed, and each learner after those it learns from:
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mentorkd import hardware
from mentorkd.errors import DataError, RunError
from mentorkd.recipe import TEACHER, Learner, ModelConfig, Recipe, RecordedTeacher, SelectConfig
from mentorkd.recipe_file import data_path, dump_recipe, learning_order, load_recipe, writers
from mentorkd.store import RunFolder, Stage, digest_path, fingerprint, write_json

if TYPE_CHECKING:
    from mentorkd.work import Work

__all__ = ["Pipeline", "PlannedStage", "Reporter", "compile_stages", "open_run"]

# Raised when a stage's code changes what it makes of the same inputs.
CODE_VERSIONS = {"prepare": 1, "annotate": 1, "score": 2, "train": 2, "augment": 1, "evaluate": 2, "report": 2}

# Settings of a teacher that change how it is asked and not what: they reach no reply.
HOW_TO_ASK = {"select", "cache", "api_key_env", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout"}
HOW_TO_ASK |= {"retries", "max_wait", "tokenizer", "budget", "price", "batch_size"}


@dataclass(frozen=True)
class PlannedStage:
    """A stage and where it stands: `done`, `resumes` (killed in its middle) or `runs`."""

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


def _soft_label_key(learner: Learner, model: Any) -> str:
    """Names the form in which a learner's soft labels are stored; learners with equal keys share them."""
    form: str = learner.soft_label_store
    limits = [learner.prompt, learner.training.max_source_tokens, learner.training.max_target_tokens]
    if form == "top_k":
        form = f"top{learner.top_k}-tau{learner.temperature:g}"
        limits.append(model)  # what is kept lies on the part of the vocabulary that mentor and student share
    return f"{form}-{learner.target}-{fingerprint(limits)[:4]}"


def compile_stages(recipe: Recipe) -> list[Stage]:
    """All stages of a recipe in an order in which each comes after its needs. Reads data and local models to hash them."""
    stages: dict[str, Stage] = {}

    def add(name: str, kind: str, target: str, settings: Any, needs: Iterable[str], **about: Any) -> str:
        if name not in stages:
            inputs = tuple(dict.fromkeys(needs))
            mark = fingerprint([kind, CODE_VERSIONS[kind], settings, [stages[need].fingerprint for need in inputs]])
            stages[name] = Stage(name, kind, target, inputs, mark, **about)
        return name

    task = recipe.task.model_dump()
    files = {part: _file_identity(recipe, task[part]) for part in ("train", "test", "validation") if task[part]}
    prepared = add("prepare", "prepare", "data", [task, files, recipe.data.strict], [])
    annotated = add("annotate", "annotate", "teacher", _teacher_identity(recipe), [prepared])
    models = {name: _model_identity(learner.model) for name, learner in recipe.learners.items()}

    for seed in recipe.seeds:
        folder = {name: f"learners/{name}/seed-{seed}" for name in recipe.learners}
        for name in learning_order(recipe):
            learner = recipe.learners[name]
            authors = [annotated if s == TEACHER else f"{folder[s]}/augment" for s in learner.rationales]
            selects = {s: _filters(recipe.select_of(s)) for s in learner.rationales}
            soft: list[str] = []
            imitation: list[Any] = []
            if (mentor := learner.soft_labels) is not None:
                imitation = [learner.kd_weight, learner.temperature, learner.tau_squared, learner.divergence]
                mentor_model = f"{folder[mentor]}/train"
                soft = [mentor_model]
                if learner.soft_label_store != "online":
                    key = _soft_label_key(learner, models[name])
                    soft = [
                        add(
                            f"{folder[mentor]}/score/{source}.{key}",
                            "score",
                            f"{folder[mentor]}/soft_labels",
                            [key, learner.prompt, selects[source]],
                            [prepared, author, mentor_model],
                            learner=name,
                            seed=seed,
                            source=source,
                        )
                        for source, author in zip(learner.rationales, authors, strict=True)
                    ]
            settings = [
                models[name],
                learner.training.model_dump(exclude={"report_to"}),
                [learner.prompt, learner.target, learner.sampling.max_new_tokens],
                selects,
                imitation,
                seed,
            ]
            trained = add(
                f"{folder[name]}/train",
                "train",
                folder[name],
                settings,
                [prepared, *authors, *soft],
                learner=name,
                seed=seed,
            )
            if name in writers(recipe):
                sampling = [learner.sampling.model_dump(), learner.prompt, learner.target, name, seed]
                add(
                    f"{folder[name]}/augment",
                    "augment",
                    folder[name],
                    sampling,
                    [prepared, trained],
                    learner=name,
                    seed=seed,
                )
            answering = [learner.sampling.max_new_tokens, learner.sampling.engine, learner.prompt, name, seed]
            add(
                f"{folder[name]}/evaluate",
                "evaluate",
                folder[name],
                answering,
                [prepared, trained],
                learner=name,
                seed=seed,
            )
    about = recipe.model_dump(mode="json", exclude={"data": {"root"}})
    add("report", "report", "report", about, list(stages))
    return list(stages.values())


def _file_identity(recipe: Recipe, value: str) -> str:
    """Content hash of a data file; a hub data set is known by its name."""
    path = data_path(recipe, value)
    if path.startswith("hub:"):
        local = Path(path.removeprefix("hub:").split("@")[0].split(":")[0])
        return f"{path} {digest_path(local)}" if local.is_dir() else path
    if not Path(path).is_file():
        raise RunError(f"{path} is not there; put it back, or say where it is with `data.root=DIR`")
    return digest_path(Path(path))


def _teacher_identity(recipe: Recipe) -> list[Any]:
    """What decides the teacher's rationales: a file's content, or all that is asked and of whom."""
    teacher = recipe.teacher
    if isinstance(teacher, RecordedTeacher):
        return [teacher.model_dump(exclude={"select"}), _file_identity(recipe, teacher.rationales)]
    settings = teacher.model_dump(exclude=HOW_TO_ASK)
    if teacher.exemplars not in (None, "train"):
        settings["exemplars"] = _file_identity(recipe, teacher.exemplars)
    if teacher.template is not None and teacher.template.startswith("file:"):
        settings["template"] = digest_path(Path(teacher.template.removeprefix("file:")))
    if teacher.kind == "local" and Path(teacher.model).exists():
        settings["model"] = digest_path(Path(teacher.model))
    return [settings]


def _filters(select: SelectConfig) -> dict[str, Any]:
    """The filters of a source; those that came later are named only where they are on, so that old runs stay finished."""
    first = {"correct", "deduplicate", "max_per_question", "question_ratio"}
    return select.model_dump(include=first) | select.model_dump(exclude=first, exclude_defaults=True)


def _model_identity(config: ModelConfig) -> Any:
    """A model's settings, with local folders and files replaced by their content."""
    settings = config.model_dump()
    for part in ("name", "tokenizer"):
        if settings[part] and Path(settings[part]).exists():
            settings[part] = digest_path(Path(settings[part]))
    return settings


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
            self._stages = compile_stages(self.recipe)
        return self._stages

    def plan(self) -> list[PlannedStage]:
        """Every stage and whether it is done; changes nothing."""
        planned = []
        for stage in self.stages:
            record = self.folder.finished(stage)
            state = "done" if record else "resumes" if self.folder.begun(stage) else "runs"
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
        forced = self._forced(force)
        waiting = [stage for stage in stages if stage in forced or not self.folder.finished(stage)]
        if any(stage.kind == "annotate" for stage in waiting):
            from mentorkd.stages.ask import check_teacher

            check_teacher(self.recipe)
        if any(stage.kind == "train" for stage in waiting):
            # Planning, and finding that all is done, must not wait for torch.
            from mentorkd.preflight import check_models

            check_models(self.recipe)
        with self.folder.lock():
            # Last first: a kill in between must not leave a stage finished whose inputs are to be made anew.
            for stage in reversed(forced):
                self.folder.forget(stage)
            waiting = [stage for stage in stages if not self.folder.finished(stage)]
            (self.folder.root / "recipe.yaml").write_text(dump_recipe(self.recipe), encoding="utf-8")
            if waiting:
                from mentorkd.work import Work

                work = Work(self.recipe, self.folder, self.reporter.progress, self.reporter.note)
            for number, stage in enumerate(stages, 1):
                if stage in waiting:
                    self._run_stage(stage, work, number, len(stages))
                    self._write_manifest(command)
                else:
                    self.reporter.skipped(stage)
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
        record = {**made, "seconds": cost.seconds, "peak_memory_mb": cost.peak_memory_mb}
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
