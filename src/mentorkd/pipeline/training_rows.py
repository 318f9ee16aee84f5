"""The rows that a learner is trained on: what its sources wrote, filtered and encoded.

Three stages read them: train; budget, which counts them; and score, whose mentor reads what its student is taught.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from mentorkd.data.encoding import Example, TextEncoder, training_rows
from mentorkd.data.selection import gather, gold_rationales
from mentorkd.data.weights import frontier_weights
from mentorkd.distillation.likelihood import likelihoods, perplexity_scorer
from mentorkd.errors import TrainingError
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.records import FilterRow, FrontierCounts
from mentorkd.pipeline.run_folder import Stage
from mentorkd.pipeline.selection_log import TOO_LONG, SelectionLog
from mentorkd.recipe.learner import Learner, SelectConfig
from mentorkd.recipe.rounds import in_reading_order, of_round
from mentorkd.records import GOLD, SELF, EncodingCounts, Question, Rationale


class TrainingRows(NamedTuple):
    """A learner's encoded rows, the counts of the encoding and of each filter of each source, and the weights of questions."""

    rows: Sequence[Example]
    counts: EncodingCounts
    filters: list[FilterRow]
    frontier: list[FrontierCounts]


def read_training_rows(
    context: RunContext,
    stage: Stage,
    name: str,
    reader: TextEncoder,
    *,
    scored: str | None = None,
    log: SelectionLog | None = None,
) -> TrainingRows:
    """What the learner `name` is taught, from the rationales that the stage reads.

    With `scored`, all rows of this one source that may enter training: the filters that look at each rationale alone. `log` gets
    what each filter, and the encoding, drops.

    Raises TrainingError where no row is left to train on.
    """
    learner = of_round(context.recipe.learners[name], stage.round or 0)
    questions = _questions(context, stage, learner, scored)
    sources = {
        source: gold_rationales(questions)
        if source == GOLD
        else context.folder.rationales(stage.inputs[f"rationales/{source}"])
        for source in ([scored] if scored else in_reading_order(learner))
    }
    if not sources:
        return TrainingRows([], EncodingCounts(0, 0, 0, 0, 0, 0), [], [])
    selects = {source: context.recipe.filter_of(name, source) for source in sources}
    if scored:
        selects = {source: select.of_each() for source, select in selects.items()}

    def nll(model: str, rationales: Sequence[Rationale]) -> dict[str, float]:
        """Negative log-likelihoods under the model that a filter names: a learner's, or one of the hub."""
        scoring = context.recipe.learners.get(model)
        folder = context.model_folder(model, stage.seed, stage.inputs.get(f"scorer/{model}")) if scoring else None
        bfloat16 = context.precision(scoring or learner) == "bfloat16"
        scorer = perplexity_scorer(
            model, scoring, folder, device=context.device, bfloat16=bfloat16, journals=context.folder.engines
        )
        with context.folder.alone(scorer.journal.name):
            scores = likelihoods(scorer, rationales, questions, on_progress=context.progress)
        if log is not None:
            log.score(scores)
        return scores

    gathered = gather(
        sources,
        selects,
        questions,
        tokens=reader.count,
        conclude=context.grader.find,
        nll=nll,
        limits=_limits(context, stage, name, selects, questions, reader),
        dropped=None if log is None else log.drop,
    )
    if not len(gathered) and not scored:
        written = ", ".join(f"{len(rationales):,} of {source}" for source, rationales in sources.items())
        raise TrainingError(
            f"{name}: `select` keeps none of the rationales of its sources ({written}); "
            "look at their texts and verdicts in the sources' rationales.jsonl, then loosen `select` or improve the source"
        )
    weights = {}
    if SELF in sources and not scored:
        frontier = frontier_weights(sources[SELF])
        weights = {source: frontier for source, select in selects.items() if select.weight == "frontier"}
    by_question = {source: each.by_question for source, each in weights.items()}
    rows, counts = training_rows(gathered.by_source, questions, learner, reader, weights=by_question)
    if log is not None and counts.kept < counts.rows:
        encoded = {row.rationale_id for row in rows}
        for rationale in chain(*gathered.by_source.values()):
            if rationale.id not in encoded:
                log.drop(TOO_LONG, rationale)
    if not rows and not scored:
        raise TrainingError(
            f"{name}: no training row is left of {len(gathered)} selected rationales "
            f"({counts.source_too_long} prompts and {counts.target_too_long} targets were too long); loosen `select`, "
            "or raise `max_source_tokens` or `max_target_tokens`"
        )
    return TrainingRows(
        rows,
        counts,
        [FilterRow(**row) for row in gathered.filters],
        [FrontierCounts(source, len(each.by_question), each.at_floor) for source, each in weights.items()],
    )


def _limits(
    context: RunContext,
    stage: Stage,
    name: str,
    selects: Mapping[str, SelectConfig],
    questions: Sequence[Question],
    reader: TextEncoder,
) -> dict[str, set[str]]:
    """By source, the questions that the filter `questions` keeps: those of which the source that it names has a rationale."""
    limits = {}
    for source, other in ((source, select.questions) for source, select in selects.items()):
        if other is not None:
            written = (
                gold_rationales(questions)
                if other == GOLD
                else context.folder.rationales(stage.inputs[f"questions/{other}"])
            )
            select = context.recipe.filter_of(name, other).of_each()
            kept = gather(
                {other: written}, {other: select}, questions, tokens=reader.count, conclude=context.grader.find
            )
            limits[source] = {rationale.question_id for rationale in kept.by_source[other]}
    return limits


def _questions(context: RunContext, stage: Stage, learner: Learner, scored: str | None) -> list[Question]:
    """The questions whose rationales a stage reads: those of training, and with own texts that are imitated the unlabelled ones.

    A fold's training reads all but those of the fold. Its mentor scores those of the fold, and the first mentor scores the others.
    """
    questions = context.questions(stage, "train")
    if learner.imitates_own_texts and scored in (None, SELF):
        questions += context.questions(stage, "unlabelled")
    if stage.fold is None:
        return questions
    folds = context.folds(stage, stage.mentor or stage.learner)
    return [question for question in questions if (folds.get(question.id, 0) == stage.fold) == bool(scored)]
