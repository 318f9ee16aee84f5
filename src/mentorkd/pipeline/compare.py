"""Several finished runs in one report: their learners side by side, on the same test questions.

Nothing is trained or asked again. The report inputs of every run are read from the `results.json` of its report, learners get
distinct names, and one report is built from the inputs of all runs. The stages of a run are read only where its report is of an
earlier version or damaged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from mentorkd.pipeline.finished_runs import (
    Run,
    check_questions,
    different_training_data,
    join_manifests,
    lines_of,
    read_runs,
    unknown_costs,
)
from mentorkd.records import Question
from mentorkd.reporting.build import build_results
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs
from mentorkd.reporting.roles import headline_pairs, is_arm, is_baseline
from mentorkd.reporting.schema import Results


def compare_runs(paths: Sequence[Path], command: str, *, verify: bool = True) -> Results:
    """The results of several runs as those of one; `command` is the command that the report shows. `verify` checks
    the outputs of their stages against their marks.

    A path is a run folder, a folder with only its report (`results.json`, with or without `run.json`), or such a `results.json`.
    Raises RunError for fewer than two different folders, for a folder without a finished run, and for runs with different test
    questions.
    """
    runs = read_runs(paths, verify=verify)
    counts = Counter(name for run in runs for name in _names(run.inputs))
    runs = [_with_distinct_names(run, counts) for run in runs]
    for other in runs[1:]:
        check_questions(runs[0], other)
    return build_results(_together(runs, command))


def _with_distinct_names(run: Run, counts: Mapping[str, int]) -> Run:
    """The run with the names of its run before the learners' names that several runs have."""
    names = {name: f"{run.name}/{name}" if counts[name] > 1 else name for name in _names(run.inputs)}
    return replace(run, inputs=_renamed(run.inputs, run.name, names), names=names)


def _names(inputs: ReportInputs) -> list[str]:
    """The learners of a run, and the learners that a sweep made variants of."""
    swept = [info.variant_of for info in inputs.learners if info.variant_of]
    return list(dict.fromkeys([*(info.name for info in inputs.learners), *swept]))


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
        faults=lines_of(runs, "faults"),
        warnings=[
            *unknown_costs(runs),
            *(line for other in runs[1:] for line in different_training_data(runs[0], other)),
        ],
        protocol=lines_of(runs, "protocol"),
        manifest=join_manifests(runs, command),
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
