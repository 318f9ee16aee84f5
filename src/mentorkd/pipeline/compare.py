"""Several finished runs in one report: their learners side by side, on the same test questions.

Nothing is trained or asked anew. What the report of every run is made of is read from its folder, learners get names that tell
them apart, and all together go the way of any report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from mentorkd.errors import RecipeError, RunError
from mentorkd.pipeline.run import Pipeline, open_run
from mentorkd.pipeline.run_folder import RunFiles
from mentorkd.pipeline.stages.report import read_inputs
from mentorkd.records import Question, normalise_whitespace
from mentorkd.reporting import LearnerInfo, ReportInputs, Results, StageCost, build_results
from mentorkd.reporting.roles import headline_pairs, is_arm, is_baseline

__all__ = ["compare_runs"]


@dataclass(frozen=True)
class Run:
    """A finished run: what its report is made of, and what its learners were taught."""

    name: str
    inputs: ReportInputs
    asked: frozenset[str]
    """Ids of the training questions."""
    taught: frozenset[tuple[str, str]]
    """Question and text of the teacher's rationales."""
    manifest: Mapping[str, Any]
    called: Mapping[str, str]
    """Its learners' names, and those that sweeps made variants of -> what they are called beside the other runs'."""


def compare_runs(folders: Sequence[Path], command: str) -> Results:
    """The results of several runs as those of one; `command` is what asked for them.

    Raises RunError for less than two different folders, one that holds no finished run of this version, or runs that were
    tested on different questions.
    """
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise RunError(f"got {', '.join(map(str, folders))}; expected two or more different run folders")
    opened = [_finished(folder) for folder in folders]
    taken = Counter(name for pipeline in opened for name in _names(pipeline))
    runs = [
        _read(pipeline, name, {one: f"{name}/{one}" if taken[one] > 1 else one for one in _names(pipeline)})
        for pipeline, name in zip(opened, _told_apart(folders), strict=True)
    ]
    for other in runs[1:]:
        _check_questions(runs[0], other)
    return build_results(_together(runs, command))


def _finished(folder: Path) -> Pipeline:
    """The pipeline of a run folder in which all is done, but perhaps the report. Changes nothing."""
    try:
        pipeline = open_run(folder)
    except RecipeError as error:
        raise RunError(
            f"{folder}: its recipe.yaml is none of this version of mentorkd ({error.faults[0]}); run the recipe again"
        ) from None
    left = [p.stage for p in pipeline.plan() if p.state != "done" and p.stage.kind != "report"]
    if not left:
        return pipeline
    count = f"{len(left)} stage{'s' if len(left) > 1 else ''}"
    if any(pipeline.folder.last(stage) for stage in left):
        raise RunError(
            f"{folder} was made by another version of mentorkd, or its recipe, data or models have changed since "
            f"({count} would run, first {left[0].name}); run it again with `mentorkd run {folder / 'recipe.yaml'} --run {folder}`"
        )
    raise RunError(f"{folder} is not finished ({count} left, first {left[0].name}); use `mentorkd run`")


def _names(pipeline: Pipeline) -> list[str]:
    """The learners of a run, and those that a sweep made variants of."""
    recipe = pipeline.recipe
    return list(dict.fromkeys([*recipe.learners, *(variant.of for variant in recipe.variants.values())]))


def _told_apart(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as many of their parents as it takes."""
    paths = [folder.resolve().parts for folder in folders]
    depth = next(n for n in range(1, 1 + max(map(len, paths))) if len({path[-n:] for path in paths}) == len(paths))
    return ["/".join(path[-depth:]) for path in paths]


def _read(pipeline: Pipeline, name: str, called: Mapping[str, str]) -> Run:
    files, report = RunFiles(pipeline.folder), pipeline.stages[-1]
    manifest = pipeline.manifest()
    inputs = read_inputs(pipeline.recipe, files, report, manifest)
    about = {"folder": pipeline.folder.root.as_posix(), "recipe": pipeline.recipe.name}
    return Run(
        name,
        _renamed(inputs, name, called),
        frozenset(question.id for question in files.questions("prepare", "train")),
        frozenset((rationale.question_id, rationale.text) for rationale in files.rationales("annotate")),
        about | {key: manifest.get(key) for key in ("command", "versions", "host", "git")},
        called,
    )


def _renamed(inputs: ReportInputs, run: str, called: Mapping[str, str]) -> ReportInputs:
    """The inputs with learners as they are called, and stages as `RUN:STAGE`. The teacher and gold answers stay what they are."""

    def name(one: str) -> str:
        return called.get(one, one)

    def row(one: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: name(value) if key in ("learner", "source", "mentor") and value else value
            for key, value in one.items()
        }

    def keyed(values: Mapping[tuple[str, int], Any]) -> dict[tuple[str, int], Any]:
        return {(name(learner), seed): value for (learner, seed), value in values.items()}

    def learner(info: LearnerInfo) -> LearnerInfo:
        return replace(
            info,
            name=name(info.name),
            run=run,
            rationales=[name(source) for source in info.rationales],
            mentor_weights={name(mentor): weight for mentor, weight in info.mentor_weights.items()},
            scorers=[name(scorer) for scorer in info.scorers],
            filters={name(source): filters for source, filters in info.filters.items()},
            variant_of=info.variant_of and name(info.variant_of),
        )

    def stage(cost: StageCost) -> StageCost:
        needs = [f"{run}:{need}" for need in cost.needs]
        return replace(cost, learner=cost.learner and name(cost.learner), needs=needs)

    return replace(
        inputs,
        learners=[learner(info) for info in inputs.learners],
        predictions={
            key: [replace(one, learner=key[0]) for one in rows] for key, rows in keyed(inputs.predictions).items()
        },
        metrics=keyed(inputs.metrics),
        filters=[row(one) for one in inputs.filters],
        dropped=[row(one) for one in inputs.dropped],
        soft_labels=[row(one) for one in inputs.soft_labels],
        trials=[row(one) for one in inputs.trials],
        rationales=[
            (question, [replace(one, source=name(one.source)) for one in written])
            for question, written in inputs.rationales
        ],
        stages={f"{run}:{key}": stage(cost) for key, cost in inputs.stages.items()},
        serving={key: [f"{run}:{one}" for one in stages] for key, stages in keyed(inputs.serving).items()},
    )


def _check_questions(first: Run, other: Run) -> None:
    """RunError where two runs were not tested on the same questions with the same gold answers."""
    mine, theirs = (Counter(question.id for question in run.inputs.questions) for run in (first, other))
    gold = {question.id: question.answer for question in first.inputs.questions}
    regraded = [q for q in other.inputs.questions if q.id in gold and gold[q.id] != q.answer]
    told = []
    for run, extra in ((first, mine - theirs), (other, theirs - mine)):
        if extra:
            total = len(run.inputs.questions)
            told.append(f"{extra.total()} of {total} only in {run.name} ({_shortened(_find(run, next(iter(extra))))})")
    if regraded:
        one = regraded[0]
        told.append(
            f"{len(regraded)} with other gold answers ({_shortened(one)}: {gold[one.id]!r} in {first.name}, {one.answer!r} "
            f"in {other.name})"
        )
    if first.inputs.task.kind != other.inputs.task.kind:
        told.append(
            f"graded as {first.inputs.task.kind} in {first.name} and as {other.inputs.task.kind} in {other.name}"
        )
    if told:
        raise RunError(
            f"the test questions of {first.name} and {other.name} differ: {', '.join(told)}; runs are compared on the same "
            "questions with the same answers"
        )


def _find(run: Run, question_id: str) -> Question:
    return next(question for question in run.inputs.questions if question.id == question_id)


def _shortened(question: Question) -> str:
    text = normalise_whitespace(question.text)
    return repr(text if len(text) <= 40 else text[:39] + "…")


def _together(runs: Sequence[Run], command: str) -> ReportInputs:
    """All runs as one."""
    first = runs[0].inputs
    accounts = [run.inputs.teacher for run in runs if run.inputs.teacher is not None]
    parts: dict[str, Any] = {
        part: [one for run in runs for one in getattr(run.inputs, part)]
        for part in ("learners", "filters", "dropped", "soft_labels", "trials")
    }
    keyed: dict[str, Any] = {
        part: {key: one for run in runs for key, one in getattr(run.inputs, part).items()}
        for part in ("predictions", "metrics", "stages", "serving")
    }
    return ReportInputs(
        name=" against ".join(run.name for run in runs),
        task=first.task,
        seeds=list(dict.fromkeys(seed for run in runs for seed in run.inputs.seeds)),
        questions=first.questions,
        headline=_headline(runs),
        match=None,
        rationales=_side_by_side(runs),
        teacher=accounts[0] if accounts and all(account == accounts[0] for account in accounts) else None,
        faults=_lines(runs, "faults"),
        warnings=_taught_unlike(runs),
        protocol=_lines(runs, "protocol"),
        manifest=_manifest(runs, command),
        **parts,
        **keyed,
    )


def _headline(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Learners of one name in two runs, the later run's first, students before others; then the headline pairs of each run.

    Where the learner that leads a run has no namesake, it is held against the one that leads the other; a student always
    against a baseline.
    """
    known = {info.name: info for run in runs for info in run.inputs.learners}
    rank = {name: place for run in reversed(runs) for place, name in enumerate(_ranked(run))}
    across = []
    for one, other in combinations(runs, 2):
        ranked, theirs = _ranked(one), _ranked(other)
        alike = {name: name for name in ranked if name in theirs}
        alike.setdefault(ranked[0], theirs[0])
        for name, namesake in alike.items():
            a, b = other.called[namesake], one.called[name]
            turned = is_baseline(known[a]) and not is_baseline(known[b])
            across.append((rank[name], *((b, a) if turned else (a, b))))
    across.sort(key=lambda found: found[0])
    return [*((a, b) for _, a, b in across), *(pair for run in runs for pair in headline_pairs(run.inputs.learners))]


def _ranked(run: Run) -> list[str]:
    """The learners of a run by their own names: those of its headline first, then its arms, the trained and the others."""
    learners = run.inputs.learners
    leading = dict.fromkeys(name for pair in headline_pairs(learners) for name in pair)
    order = sorted(learners, key=lambda info: (not is_arm(info, learners), not info.rationales))
    own = {called: name for name, called in run.called.items()}
    return [own[name] for name in dict.fromkeys([*leading, *(info.name for info in order)])]


def _side_by_side(runs: Sequence[Run]) -> list[tuple[Question, list[Any]]]:
    """Training questions with what was written about them in all runs; the same text of one teacher once."""
    shown: dict[str, tuple[Question, dict[tuple[str, str], Any]]] = {}
    for run in runs:
        for question, written in run.inputs.rationales:
            told = shown.setdefault(question.id, (question, {}))[1]
            for rationale in written:
                told.setdefault((rationale.source, rationale.text), rationale)
    return [(question, list(told.values())) for question, told in shown.values()]


def _taught_unlike(runs: Sequence[Run]) -> list[str]:
    """A sentence for each run whose learners were taught from other questions or rationales than the first one's."""
    first, lines = runs[0], []
    for other in runs[1:]:
        if first.asked != other.asked:
            lines.append(
                f"Trained on different questions: {first.name} {len(first.asked):,}, {other.name} {len(other.asked):,}, "
                f"{len(first.asked & other.asked):,} of them the same."
            )
        if first.taught != other.taught:
            lines.append(
                f"Different rationales of the teacher: {first.name} {len(first.taught):,}, {other.name} "
                f"{len(other.taught):,}, {len(first.taught & other.taught):,} of them the same."
            )
    return lines


def _lines(runs: Sequence[Run], part: str) -> list[str]:
    """The sentences of all runs, each with the runs that say it, unless all do."""
    said: dict[str, list[str]] = {}
    for run in runs:
        for line in getattr(run.inputs, part):
            said.setdefault(line, []).append(run.name)
    return [line if len(names) == len(runs) else f"{', '.join(names)}: {line}" for line, names in said.items()]


def _manifest(runs: Sequence[Run], command: str) -> dict[str, Any]:
    """What was said of every run, and once what all have in common."""
    common = {
        key: runs[0].manifest[key]
        for key in ("versions", "host", "git")
        if all(run.manifest[key] == runs[0].manifest[key] for run in runs)
    }
    return {
        "command": command,
        **common,
        **{
            f"run {run.name}": {key: value for key, value in run.manifest.items() if value and key not in common}
            for run in runs
        },
    }
