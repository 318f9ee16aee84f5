"""Several finished runs in one report: their learners side by side, on the same test questions.

Nothing is trained or asked again. The report inputs of every run are read from the `results.json` of its report, learners get
distinct names, and one report is built from the inputs of all runs. The stages of a run are read only where its report is of an
earlier version or damaged.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from mentorkd.errors import DamagedError, MentorkdError, RecipeError, RunError
from mentorkd.pipeline.run import Pipeline, open_run
from mentorkd.pipeline.run_folder import RunFolder
from mentorkd.pipeline.stages.report import read_inputs, recipe_digest
from mentorkd.records import Prediction, Question, normalise_whitespace
from mentorkd.reporting.build import build_results
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs
from mentorkd.reporting.reread import inputs_of
from mentorkd.reporting.roles import headline_pairs, is_arm, is_baseline
from mentorkd.reporting.schema import Results
from mentorkd.reporting.write import read_results

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A finished run: the inputs of its report."""

    name: str
    inputs: ReportInputs
    manifest: Mapping[str, Any]
    names: Mapping[str, str]
    """The name of each learner in the run, and of each that a sweep made variants of -> its name in the comparison."""


def compare_runs(folders: Sequence[Path], command: str, *, verify: bool = True) -> Results:
    """The results of several runs as those of one; `command` is the command that the report shows. `verify` checks
    the outputs of their stages against their marks.

    A folder is a run folder, or a folder with only its report. Raises RunError for fewer than two different folders, for a folder
    without a finished run, and for runs with different test questions.
    """
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise RunError(f"got {', '.join(map(str, folders))}; expected two or more different run folders")
    inputs = [_read(folder, verify) for folder in folders]
    counts = Counter(name for one in inputs for name in _names(one))
    runs = [
        _run(folder, one, run, {name: f"{run}/{name}" if counts[name] > 1 else name for name in _names(one)})
        for folder, one, run in zip(folders, inputs, _distinct_names(folders), strict=True)
    ]
    for other in runs[1:]:
        _check_questions(runs[0], other)
    return build_results(_together(runs, command))


def _read(folder: Path, verify: bool) -> ReportInputs:
    """The report inputs of a finished run: from its results, or from its stages if these are of an earlier version or damaged.

    Raises the DamagedError of the results if the stages cannot be read either.
    """
    damage: DamagedError | None = None
    run = RunFolder(folder, verify=verify)
    is_run = run.recipe.is_file()
    place = folder / "report" if is_run else folder
    if (place / "results.json").is_file() and (not is_run or run.mark("report").is_file()):
        try:
            results = read_results(run.report() if is_run else place)
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


def _names(inputs: ReportInputs) -> list[str]:
    """The learners of a run, and the learners that a sweep made variants of."""
    swept = [info.variant_of for info in inputs.learners if info.variant_of]
    return list(dict.fromkeys([*(info.name for info in inputs.learners), *swept]))


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as many parent folders as make them distinct."""
    paths = [folder.resolve().parts for folder in folders]
    depth = next(n for n in range(1, 1 + max(map(len, paths))) if len({path[-n:] for path in paths}) == len(paths))
    return ["/".join(path[-depth:]) for path in paths]


def _run(folder: Path, inputs: ReportInputs, name: str, names: Mapping[str, str]) -> Run:
    manifest = {key: inputs.manifest.get(key) for key in ("command", "versions", "host", "git")}
    place = {"folder": folder.as_posix(), "recipe": inputs.name}
    return Run(name, _renamed(inputs, name, names), {**place, **manifest}, names)


def _renamed(inputs: ReportInputs, run: str, names: Mapping[str, str]) -> ReportInputs:
    """The inputs with their learners renamed, and their stages as `RUN:STAGE`. The teacher and gold answers keep their names."""

    def name(one: Any) -> Any:
        return names.get(one, one)

    def row(one: Mapping[str, Any]) -> dict[str, Any]:
        return {key: name(value) if key in ("learner", "source", "mentor") else value for key, value in one.items()}

    def by_source(value: Any) -> Any:
        """A setting with one value, or with one for each source."""
        return {name(source): each for source, each in value.items()} if isinstance(value, Mapping) else value

    def keyed(values: Mapping[tuple[str, int], Any]) -> dict[tuple[str, int], Any]:
        return {(name(learner), seed): value for (learner, seed), value in values.items()}

    def learner(info: LearnerInfo) -> LearnerInfo:
        return replace(
            info,
            name=name(info.name),
            run=run,
            rationales=[name(source) for source in info.rationales],
            initial=name(info.initial),
            kd_weight=by_source(info.kd_weight),
            temperature=by_source(info.temperature),
            distillation={key: by_source(value) for key, value in info.distillation.items()},
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
        seed_results=keyed(inputs.seed_results),
        textless=frozenset((name(learner), seed) for learner, seed in inputs.textless),
        metrics=keyed(inputs.metrics),
        filters=[row(one) for one in inputs.filters],
        dropped=[row(one) for one in inputs.dropped],
        soft_labels=[row(one) for one in inputs.soft_labels],
        trials=[row(one) for one in inputs.trials],
        rounds=[
            {**row(one), "frontier": [{**each, "source": name(each["source"])} for each in one["frontier"]]}
            for one in inputs.rounds
        ],
        sampled=[row(one) for one in inputs.sampled],
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
        for part in ("learners", "filters", "dropped", "soft_labels", "trials", "rounds", "sampled")
    }
    keyed: dict[str, Any] = {
        part: {key: one for run in runs for key, one in getattr(run.inputs, part).items()}
        for part in ("predictions", "seed_results", "metrics", "stages", "serving")
    }
    return ReportInputs(
        name=" against ".join(run.name for run in runs),
        task=first.task,
        seeds=list(dict.fromkeys(seed for run in runs for seed in run.inputs.seeds)),
        questions=first.questions,
        headline=_headline(runs),
        textless=frozenset(key for run in runs for key in run.inputs.textless),
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
    lines = []
    for other in runs[1:]:
        mine, theirs = runs[0].inputs.training, other.inputs.training
        if mine is None or theirs is None:
            raise RunError(f"got a comparison of several runs among {runs[0].name}, {other.name}; expected single runs")
        for fact, count, digest in (
            ("Trained on different questions", "questions", "questions_digest"),
            ("Different rationales of the teacher", "rationales", "rationales_digest"),
        ):
            counts: list[dict[str, Any]] = [dict(mine), dict(theirs)]
            if counts[0][digest] != counts[1][digest]:
                lines.append(f"{fact}: {runs[0].name} {counts[0][count]:,}, {other.name} {counts[1][count]:,}.")
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
