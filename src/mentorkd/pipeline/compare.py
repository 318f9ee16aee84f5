"""Several finished runs in one report: their learners side by side, on the same test questions.

Nothing is trained or asked again. The report inputs of every run are read from its folder, learners get distinct names, and
one report is built from the inputs of all runs.
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
from mentorkd.pipeline.stages.report import read_inputs
from mentorkd.records import Question, normalise_whitespace
from mentorkd.reporting.build import build_results
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs
from mentorkd.reporting.roles import headline_pairs, is_arm, is_baseline
from mentorkd.reporting.schema import Results


@dataclass(frozen=True)
class Run:
    """A finished run: the inputs of its report, and its training questions and rationales."""

    name: str
    inputs: ReportInputs
    questions: frozenset[str]
    """Ids of the training questions."""
    rationales: frozenset[tuple[str, str]]
    """Question and text of the teacher's rationales."""
    manifest: Mapping[str, Any]
    names: Mapping[str, str]
    """The name of each learner in the run, and of each that a sweep made variants of -> its name in the comparison."""


def compare_runs(folders: Sequence[Path], command: str, *, verify: bool = True) -> Results:
    """The results of several runs as those of one; `command` is the command that the report shows. `verify` checks
    the outputs of their stages against their marks.

    Raises RunError for fewer than two different folders, for a folder without a finished run of this version, and for runs
    with different test questions.
    """
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise RunError(f"got {', '.join(map(str, folders))}; expected two or more different run folders")
    pipelines = [_finished(folder, verify) for folder in folders]
    counts = Counter(name for pipeline in pipelines for name in _names(pipeline))
    runs = [
        _read(pipeline, run, {name: f"{run}/{name}" if counts[name] > 1 else name for name in _names(pipeline)})
        for pipeline, run in zip(pipelines, _distinct_names(folders), strict=True)
    ]
    for other in runs[1:]:
        _check_questions(runs[0], other)
    return build_results(_together(runs, command))


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


def _names(pipeline: Pipeline) -> list[str]:
    """The learners of a run, and the learners that a sweep made variants of."""
    recipe = pipeline.recipe
    return list(dict.fromkeys([*recipe.learners, *(variant.of for variant in recipe.variants.values())]))


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as many parent folders as make them distinct."""
    paths = [folder.resolve().parts for folder in folders]
    depth = next(n for n in range(1, 1 + max(map(len, paths))) if len({path[-n:] for path in paths}) == len(paths))
    return ["/".join(path[-depth:]) for path in paths]


def _read(pipeline: Pipeline, name: str, names: Mapping[str, str]) -> Run:
    folder, manifest = pipeline.folder, pipeline.manifest()
    inputs = read_inputs(pipeline.recipe, folder, pipeline.stages[-1], manifest)
    return Run(
        name,
        _renamed(inputs, name, names),
        frozenset(question.id for question in folder.questions("prepare", "train")),
        frozenset((rationale.question_id, rationale.text) for rationale in folder.rationales("annotate")),
        {
            "folder": folder.root.as_posix(),
            "recipe": pipeline.recipe.name,
            **{key: manifest.get(key) for key in ("command", "versions", "host", "git")},
        },
        names,
    )


def _renamed(inputs: ReportInputs, run: str, names: Mapping[str, str]) -> ReportInputs:
    """The inputs with their learners renamed, and their stages as `RUN:STAGE`. The teacher and gold answers keep their names."""

    def name(one: Any) -> Any:
        return names.get(one, one)

    def row(one: Mapping[str, Any]) -> dict[str, Any]:
        return {key: name(value) if key in ("learner", "source", "mentor") else value for key, value in one.items()}

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
            variant_of=name(info.variant_of),
        )

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
        stages={
            f"{run}:{key}": replace(cost, learner=name(cost.learner), needs=[f"{run}:{need}" for need in cost.needs])
            for key, cost in inputs.stages.items()
        },
        serving={key: [f"{run}:{one}" for one in stages] for key, stages in keyed(inputs.serving).items()},
    )


def _check_questions(first: Run, other: Run) -> None:
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


def _together(runs: Sequence[Run], command: str) -> ReportInputs:
    """The report inputs of all runs as those of one."""
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
        warnings=_different_training_data(runs),
        protocol=_lines(runs, "protocol"),
        manifest=_manifest(runs, command),
        **parts,
        **keyed,
    )


def _headline(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Pairs of learners of the same name in two runs, the later run's first, students before others; then the headline pairs
    of each run.

    If the leading learner of a run has no namesake in the other run, it is compared with the leading learner there. A student
    is always compared with a baseline, in this order.
    """
    known = {info.name: info for run in runs for info in run.inputs.learners}
    rank = {name: place for run in reversed(runs) for place, name in enumerate(_ranked(run))}
    pairs = []
    for one, other in combinations(runs, 2):
        ranked, theirs = _ranked(one), _ranked(other)
        namesakes = {name: name for name in ranked if name in theirs}
        namesakes.setdefault(ranked[0], theirs[0])
        for name, namesake in namesakes.items():
            a, b = other.names[namesake], one.names[name]
            swapped = is_baseline(known[a]) and not is_baseline(known[b])
            pairs.append((rank[name], *((b, a) if swapped else (a, b))))
    pairs.sort(key=lambda pair: pair[0])
    return [*((a, b) for _, a, b in pairs), *(pair for run in runs for pair in headline_pairs(run.inputs.learners))]


def _ranked(run: Run) -> list[str]:
    """The learners of a run by their names there: those of its headline first, then arms, trained learners and others."""
    learners = run.inputs.learners
    leading = dict.fromkeys(name for pair in headline_pairs(learners) for name in pair)
    order = sorted(learners, key=lambda info: (not is_arm(info, learners), not info.rationales))
    own = {renamed: name for name, renamed in run.names.items()}
    return [own[name] for name in dict.fromkeys([*leading, *(info.name for info in order)])]


def _side_by_side(runs: Sequence[Run]) -> list[tuple[Question, list[Any]]]:
    """Training questions with the rationales of all runs. A text that a source wrote in several runs is there once."""
    shown: dict[str, tuple[Question, dict[tuple[str, str], Any]]] = {}
    for run in runs:
        for question, written in run.inputs.rationales:
            texts = shown.setdefault(question.id, (question, {}))[1]
            for rationale in written:
                texts.setdefault((rationale.source, rationale.text), rationale)
    return [(question, list(texts.values())) for question, texts in shown.values()]


def _different_training_data(runs: Sequence[Run]) -> list[str]:
    """A sentence for each run with other training questions or rationales than the first run."""
    first, lines = runs[0], []
    for other in runs[1:]:
        for fact, mine, theirs in (
            ("Trained on different questions", first.questions, other.questions),
            ("Different rationales of the teacher", first.rationales, other.rationales),
        ):
            if mine != theirs:
                counts = f"{first.name} {len(mine):,}, {other.name} {len(theirs):,}"
                lines.append(f"{fact}: {counts}, {len(mine & theirs):,} of them the same.")
    return lines


def _lines(runs: Sequence[Run], part: str) -> list[str]:
    """The sentences of all runs, each with the names of its runs, unless all runs have it."""
    names_of: dict[str, list[str]] = {}
    for run in runs:
        for line in getattr(run.inputs, part):
            names_of.setdefault(line, []).append(run.name)
    return [line if len(names) == len(runs) else f"{', '.join(names)}: {line}" for line, names in names_of.items()]


def _manifest(runs: Sequence[Run], command: str) -> dict[str, Any]:
    """The manifest of every run; facts that are equal in all runs stand there once."""
    common = {
        key: runs[0].manifest[key]
        for key in ("versions", "host", "git")
        if all(run.manifest[key] == runs[0].manifest[key] for run in runs)
    }
    own = {
        f"run {run.name}": {key: value for key, value in run.manifest.items() if value and key not in common}
        for run in runs
    }
    return {"command": command, **common, **own}
