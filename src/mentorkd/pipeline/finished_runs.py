"""Finished runs as the inputs of their reports: what comparing runs and pooling their seeds share.

The inputs are read from the `results.json` of a report. The stages of a run are read only where its report is of an earlier version
or damaged.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mentorkd.errors import DamagedError, MentorkdError, RecipeError, RunError
from mentorkd.pipeline.run import Pipeline, open_run
from mentorkd.pipeline.run_folder import RunFolder
from mentorkd.pipeline.stages.report import read_inputs, recipe_digest
from mentorkd.records import Prediction, Question, normalise_whitespace
from mentorkd.reporting.inputs import ReportInputs
from mentorkd.reporting.reread import inputs_of
from mentorkd.reporting.schema import Results, TrainingData
from mentorkd.reporting.write import read_results

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A finished run: the inputs of its report."""

    name: str
    inputs: ReportInputs
    manifest: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)
    """The name of each learner in the run, and of each that a sweep made variants of -> its name in the comparison."""


def folder_of(path: Path) -> Path:
    """The run folder or report folder that a path names: itself, or the folder of a `results.json`.

    Raises RunError for another file.
    """
    if not path.is_file():
        return path
    if path.name != "results.json":
        raise RunError(f"got the file {path}; expected a run folder, the folder of a report, or a results.json")
    return path.parent


def read_runs(paths: Sequence[Path], *, verify: bool) -> list[Run]:
    """The finished runs of these run folders, folders with only a report, or `results.json` files, each with a name of its own.

    Raises RunError for fewer than two different folders, and for a folder without a finished run.
    """
    folders = [folder_of(path) for path in paths]
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise RunError(f"got {', '.join(map(str, paths))}; expected two or more different run folders")
    return [
        _run(folder, _read(folder, verify), name)
        for folder, name in zip(folders, _distinct_names(folders), strict=True)
    ]


def _run(folder: Path, inputs: ReportInputs, name: str) -> Run:
    place = {"folder": folder.as_posix(), "recipe": inputs.name}
    manifest = {key: inputs.manifest.get(key) for key in ("command", "versions", "host", "git")}
    pooled = {key: value for key, value in inputs.manifest.items() if key.startswith("run ")}
    return Run(name, inputs, {**place, **manifest, **pooled})


def _read(folder: Path, verify: bool) -> ReportInputs:
    """The report inputs of a finished run: from its results, or from its stages if these are of an earlier version or damaged.

    Raises the DamagedError of the results if the stages cannot be read either.
    """
    damage: DamagedError | None = None
    run = RunFolder(folder, verify=verify)
    is_run = run.recipe.is_file() and not (folder / "results.json").is_file()  # a recipe may be kept beside its results
    place = folder / "report" if is_run else folder
    if (place / "results.json").is_file() and (not is_run or run.mark("report").is_file()):
        try:
            results = read_results(run.report()) if is_run else read_results(place, run_optional=True)
        except RunError as error:
            if not is_run:
                raise
            damage = error if isinstance(error, DamagedError) else None
        else:
            if not is_run or results["run"]["recipe_digest"] == recipe_digest(run):
                return inputs_of(results, _answers(results, run) if is_run else {})
    try:
        pipeline = _finished(folder, verify)
        inputs = read_inputs(pipeline.recipe, pipeline.folder, pipeline.stages[-1], pipeline.manifest())
    except MentorkdError as error:
        raise damage or error from None
    if damage:
        log.warning("%s; the stages of the run are compared instead of its report", damage)
    return inputs


def _answers(results: Results, folder: RunFolder) -> dict[tuple[str, int], list[Prediction]]:
    """The predictions of each learner and seed that are still in the run folder and have the verdicts of the results."""
    served = {
        (row["learner"], int(seed)): stages[-1]
        for row in results["run"]["spent"]
        for seed, stages in row["stages"].items()
        if stages
    }
    order = [question["id"] for question in results["questions"]]
    answers = {}
    for learner in results["learners"]:
        for row in learner["per_seed"]:
            key = learner["name"], row["seed"]
            try:
                rows = folder.predictions(served[key])
            except DamagedError:
                raise
            except (KeyError, OSError, MentorkdError):
                continue
            marks = "".join(str(int(one.verdict == "correct")) for one in rows)
            if ([one.question_id for one in rows], marks) == (order, row["verdicts"]):
                answers[key] = [replace(one, learner=key[0], seed=key[1]) for one in rows]
    return answers


def _finished(folder: Path, verify: bool) -> Pipeline:
    """The pipeline of a run folder whose stages are all done, except perhaps the report. Changes nothing."""
    try:
        pipeline = open_run(folder, verify=verify)
    except RecipeError as error:
        raise RunError(
            f"{folder}: its recipe.yaml is not of this version of mentorkd ({error.faults[0]}); run the recipe again"
        ) from None
    missing = [p.stage for p in pipeline.plan() if p.state != "done" and p.stage.kind != "report"]
    if not missing:
        return pipeline
    count = f"{len(missing)} stage{'s' if len(missing) > 1 else ''}"
    if any(pipeline.folder.mark(stage.name).is_file() for stage in missing):
        raise RunError(
            f"{folder} was made by another version of mentorkd, or its recipe, data or models have changed since "
            f"({count} would run, first {missing[0].name}); run it again with `mentorkd run {folder / 'recipe.yaml'} --run {folder}`"
        )
    raise RunError(f"{folder} is not finished ({count} left, first {missing[0].name}); use `mentorkd run`")


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as many parent folders as make them distinct."""
    paths = [folder.resolve().parts for folder in folders]
    depth = next(n for n in range(1, 1 + max(map(len, paths))) if len({path[-n:] for path in paths}) == len(paths))
    return ["/".join(path[-depth:]) for path in paths]


def check_questions(first: Run, other: Run) -> None:
    """Raise RunError if two runs were not tested on the same questions with the same gold answers."""
    mine, theirs = (Counter(question.id for question in run.inputs.questions) for run in (first, other))
    gold = {question.id: question.answer for question in first.inputs.questions}
    regraded = [q for q in other.inputs.questions if q.id in gold and gold[q.id] != q.answer]
    differences = []
    for run, extra in ((first, mine - theirs), (other, theirs - mine)):
        if extra:
            one = next(question for question in run.inputs.questions if question.id in extra)
            differences.append(f"{extra.total()} of {len(run.inputs.questions)} only in {run.name} ({_shortened(one)})")
    if regraded:
        one = regraded[0]
        differences.append(
            f"{len(regraded)} with other gold answers ({_shortened(one)}: {gold[one.id]!r} in {first.name}, {one.answer!r} "
            f"in {other.name})"
        )
    kinds = [run.inputs.task["kind"] for run in (first, other)]
    if kinds[0] != kinds[1]:
        differences.append(f"graded as {kinds[0]} in {first.name} and as {kinds[1]} in {other.name}")
    if differences:
        raise RunError(
            f"the test questions of {first.name} and {other.name} differ: {', '.join(differences)}; "
            "only runs with the same questions and answers can be compared"
        )


def _shortened(question: Question) -> str:
    text = normalise_whitespace(question.text)
    return repr(text if len(text) <= 40 else text[:39] + "…")


def training_data(run: Run) -> TrainingData:
    """What the learners of a run learn from. Raises RunError for a comparison of several runs."""
    if run.inputs.training is None:
        raise RunError(f"{run.name} is a comparison of several runs; expected single runs")
    return run.inputs.training


def different_training_data(first: Run, other: Run) -> list[str]:
    """A sentence for each of training questions and rationales in which the other run differs from the first.

    Raises RunError for a comparison of several runs.
    """
    mine, theirs = training_data(first), training_data(other)
    lines = []
    for fact, count, digest in (
        ("Trained on different questions", "questions", "questions_digest"),
        ("Different rationales of the teacher", "rationales", "rationales_digest"),
    ):
        counts: list[dict[str, Any]] = [dict(mine), dict(theirs)]
        if counts[0][digest] != counts[1][digest]:
            lines.append(f"{fact}: {first.name} {counts[0][count]:,}, {other.name} {counts[1][count]:,}.")
    return lines


def unknown_costs(runs: Sequence[Run]) -> list[str]:
    """A sentence on the runs whose costs are not known, for all of their seeds or for some, if there are any."""
    parts = []
    for run in runs:
        predictions, serving = run.inputs.predictions, run.inputs.serving
        if missing := [key for key in predictions if key not in serving]:
            whole = len(missing) == len(predictions)
            seeds = ", ".join(str(seed) for seed in run.inputs.seeds if any(seed == one for _, one in missing))
            parts.append(run.name if whole else f"{run.name} (seed{'s' if ',' in seeds else ''} {seeds})")
    return (
        [f"Costs and environment of {' and '.join(parts)} are not known (no run.json); no cost includes them."]
        if parts
        else []
    )


def lines_of(runs: Sequence[Run], part: str) -> list[str]:
    """The sentences of all runs, each with the names of its runs, unless all runs have it."""
    names_of: dict[str, list[str]] = {}
    for run in runs:
        for line in getattr(run.inputs, part):
            names_of.setdefault(line, []).append(run.name)
    return [line if len(names) == len(runs) else f"{', '.join(names)}: {line}" for line, names in names_of.items()]


def join_manifests(runs: Sequence[Run], command: str) -> dict[str, Any]:
    """The manifest of every run; facts that are equal in all runs stand there once."""
    common = {
        key: runs[0].manifest[key]
        for key in ("versions", "host", "git")
        if runs[0].manifest[key] and all(run.manifest[key] == runs[0].manifest[key] for run in runs)
    }
    own = {
        f"run {run.name}": {key: value for key, value in run.manifest.items() if value and key not in common}
        for run in runs
    }
    return {"command": command, **common, **own}
