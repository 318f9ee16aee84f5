"""What a recipe will cost: rows and tokens of each stage, estimated from the data before any model is loaded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from mentorkd.data.overlay import Decision, in_effect
from mentorkd.data.prepare import prepare_recipe
from mentorkd.data.rows import Rows
from mentorkd.data.selection import CHARACTERS_PER_TOKEN, Gathered, gather
from mentorkd.pipeline.estimates.lengths import SAMPLE, Text
from mentorkd.pipeline.records import count_splits
from mentorkd.pipeline.run_folder import Stage
from mentorkd.recipe.grader import grader_of
from mentorkd.recipe.graph import initial_model, links_of, matched_arms
from mentorkd.recipe.learner import SelectConfig
from mentorkd.recipe.rounds import of_round, other_sources, own_sampling, share_of
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.search import trials_of
from mentorkd.recipe.sizes import size_of
from mentorkd.records import GOLD, SELF, TEACHER, Rationale, Split
from mentorkd.reporting.compute import READING, TRAINING
from mentorkd.teachers.annotate import open_teacher
from mentorkd.teachers.curation import Curation
from mentorkd.teachers.dry_run import DryRun

T = TypeVar("T")


@dataclass(frozen=True)
class Estimates:
    """Rows, updates and tokens of stages. `notes` say how they are estimated."""

    recipe: Recipe
    questions: Mapping[Split, int]
    """By split."""
    rationales: int
    """Rationales of the teacher."""
    kept: Mapping[str, int]
    """How many of them are selected for each learner that reads the teacher."""
    tokens_per_rationale: int
    tokens_per_question: int
    dry_run: DryRun | None = None
    """What asking the teacher takes; None if nobody is asked."""
    dropped: Sequence[str] = ()
    """Faults in the data, and what the overlay and the filters leave of the teacher's rationales, a line each."""
    sample: Sequence[Text] = ()
    """Some training rows; the rationale is empty if it is yet to be written."""

    @property
    def notes(self) -> list[str]:
        length = "as the teacher's" if self.dry_run is None else "as `teacher.max_tokens` allows"
        notes = [
            f"tokens are estimated as characters / {CHARACTERS_PER_TOKEN}; rationales yet to be written are taken to be as long "
            f"{length}, and all to be kept, so stages that read them may handle fewer"
        ]
        if unlabelled := self.questions.get("unlabelled"):
            readers = [name for name, learner in self.recipe.learners.items() if learner.imitates_own_texts]
            notes.append(f"{unlabelled:,} unlabelled questions, for the own texts of {', '.join(readers)}")
        if self._matched and self.recipe.match == "compute":
            notes += self._compute_notes()
        elif self._matched:
            own = list(map(self._own_updates, self._measured))
            least, most = min(own), max(own)
            unit = "updates" if self.recipe.match == "updates" else "target tokens"
            notes.append(
                f"arms get equal {unit} (`match: {self.recipe.match}`): by their own epochs they would do {least:,} to {most:,} updates"
            )
        if patient := [name for name, learner in self.recipe.learners.items() if learner.training.patience]:
            notes.append(f"a plateau may end these trainings earlier (`patience`): {', '.join(patient)}")
        if self.recipe.variants:
            swept = ", ".join(f"{key} ({len(values)})" for key, values in self.recipe.sweep.items())
            notes.append(
                f"swept: {swept}; that makes {len(self.recipe.variants)} of the {len(self.recipe.learners)} learners"
            )
        if searched := {name: trials_of(learner) for name, learner in self.recipe.learners.items() if learner.search}:
            counts = ", ".join(f"{name} {len(trials)}" for name, trials in searched.items())
            notes.append(f"trials a seed, each trained and validated: {counts}")
        return notes if self.dry_run is None else notes + [f"teacher: {line}" for line in self.dry_run.lines()]

    def _compute_notes(self) -> list[str]:
        before = {name: self._operations_before(name) for name in self._matched}
        each = ", ".join(f"{name} {operations:.3g}" for name, operations in before.items())
        notes = [
            f"arms get equal compute (`match: compute`): about {self._most:.3g} floating-point operations each, training, writing and "
            f"scoring of all that they learn from included: {each}"
        ]
        if over := [name for name, operations in before.items() if operations >= self._most]:
            notes.append(f"`match: compute` leaves nothing for the training of {', '.join(over)}; raise `compute`")
        return notes

    def of(self, stage: Stage) -> dict[str, float]:
        """The `rows` of a stage; the `epochs` and `updates` of a training; and the `tokens` of all epochs that a model reads or
        writes. Empty for kinds that handle no rows of their own. Shards have equal parts of the rows and tokens, and what puts
        their rows together needs no model.
        """
        estimates = self._of_whole(stage)
        if stage.merged:
            return {"rows": estimates["rows"]}
        if stage.shard is None:
            return estimates
        number, shards = stage.shard
        return {key: (number + 1) * value // shards - number * value // shards for key, value in estimates.items()}

    def _of_whole(self, stage: Stage) -> dict[str, float]:
        name = stage.learner
        match stage.kind:
            case "prepare":
                return {"rows": sum(self.questions.values())}
            case "annotate":
                dry_run = self.dry_run
                tokens = {} if dry_run is None else {"tokens": dry_run.input_tokens + dry_run.output_tokens}
                return {"rows": self.rationales, **tokens}
            case "curate":
                return {"rows": self.rationales}
            case "train":
                rows, updates = self._rows_of_stage(stage), self._updates(name)
                if stage.fold is not None:  # mentors are trained by their own epochs
                    updates = self._own_updates(name, rows)
                if stage.round is not None:
                    updates = len(share_of(self.recipe.learners[name], stage.round).of(updates))
                epochs = round(updates / self._updates_an_epoch(name, rows), 1)
                tokens_read = round(rows * epochs * self._tokens_a_row(name))
                return {"rows": rows, "epochs": epochs, "updates": updates, "tokens": tokens_read}
            case "score":
                rows = self._rows_of_stage(stage)
            case "augment":
                rows = self._samples(name, stage.round)
            case "evaluate":
                rows = self.questions["test"]
            case "sample":
                rows = self.questions["test"] * self.recipe.learners[name].sampling.test_samples
            case _:
                return {}
        return {"rows": rows, "tokens": rows * self.tokens_per_rationale}

    def _rows_of_stage(self, stage: Stage) -> int:
        """Rows that a training or a mentor reads, of all its sources; with folds, those of the questions that are its part."""
        learner = of_round(self.recipe.learners[stage.learner], stage.round)
        rows = sum(
            self._written(stage.learner, source) for source in ([stage.source] if stage.source else learner.rationales)
        )
        if stage.fold is None:
            return rows
        folds = self.recipe.learners[stage.mentor or stage.learner].folds
        if stage.kind == "train":
            return round(rows * (folds - 1) / folds)
        unlabelled = self._unlabelled(stage.learner) if stage.source == SELF else 0
        others = round(rows * unlabelled / (self.questions["train"] + unlabelled))  # the first mentor scores them
        return round((rows - others) / folds) + (0 if stage.fold else others)

    def _updates(self, name: str) -> int:
        """Updates of a training; those of arms are matched."""
        if name in self._matched and self.recipe.match == "compute":
            left = self._most - self._operations_before(name)
            return max(0, math.ceil(left / (self._operations_an_update(name) or 1)))
        if self.recipe.learners[name].training.updates is not None or name not in self._matched:
            return self._own_updates(name)
        if self.recipe.match == "updates":
            return int(self._most)
        return math.ceil(self._most / (self.rows_an_update(name) * self._tokens_a_row(name)))

    @cached_property
    def _matched(self) -> list[str]:
        return matched_arms(self.recipe)

    @cached_property
    def _measured(self) -> list[str]:
        """The matched arms with a length of their own. Own texts alone have none, unless `training.updates` gives it."""
        learners = self.recipe.learners
        return [name for name in self._matched if other_sources(learners[name]) or learners[name].training.updates]

    @cached_property
    def _most(self) -> float:
        """The most updates, tokens or operations that a matched arm does by its own settings; or the operations of the recipe."""
        if self.recipe.match == "compute":
            return self.recipe.compute or max(
                self._operations_before(arm) + self._own_updates(arm) * self._operations_an_update(arm)
                for arm in self._matched
            )
        if self.recipe.match == "updates":
            return max(map(self._own_updates, self._measured))
        arms = self._measured
        return max(self._own_updates(arm) * self.rows_an_update(arm) * self._tokens_a_row(arm) for arm in arms)

    def _operations_an_update(self, name: str) -> float:
        """Floating-point operations of an update, as the report counts them."""
        return TRAINING * self._parameters[name] * self.rows_an_update(name) * self._tokens_a_row(name)

    def _operations_before(self, name: str) -> float:
        """Floating-point operations of all that a learner learns from, and of the soft labels on its text."""
        learners, links = self.recipe.learners, links_of(self.recipe)
        needed = [name]
        for reader in needed:  # the list grows by dependencies
            needed += [other for other in links[reader].learners if other not in needed]
        written = {source for reader in needed for source in links[reader].rationales}
        total = 0.0
        for reader in needed:
            learner = learners[reader]
            rows = {source: self._written(reader, source) for source in learner.rationales}
            scored = sum(
                count for source, count in rows.items() if learner.mentor_weights and learner.kd_weight_of(source)
            )
            mentors = [mentor for mentor in learner.mentor_weights if mentor != TEACHER]
            total += sum(READING * self._parameters[mentor] * scored * self._tokens_a_row(reader) for mentor in mentors)
            if reader == name:
                continue
            if learner.rationales:
                share = round(sum(rows.values()) * (learner.folds - 1) / learner.folds) if learner.folds > 1 else None
                trainings = learner.folds * (len(trials_of(learner)) if learner.search else 1)
                total += trainings * self._own_updates(reader, share) * self._operations_an_update(reader)
            if reader in written:
                total += READING * self._parameters[reader] * self._samples(reader, None) * self.tokens_per_rationale
        return total

    @cached_property
    def _parameters(self) -> dict[str, int]:
        """Parameters of every learner; 0 where no config tells them, of which the plan warns."""
        sizes = {name: size_of(initial_model(self.recipe, name)) for name in self.recipe.learners}
        return {name: size.parameters if size else 0 for name, size in sizes.items()}

    def _own_updates(self, name: str, rows: int | None = None) -> int:
        """Updates by a learner's own settings, for its rows without own texts, or for these `rows`."""
        learner = self.recipe.learners[name]
        rows = sum(self._written(name, source) for source in other_sources(learner)) if rows is None else rows
        return learner.training.updates or learner.training.epochs * self._updates_an_epoch(name, rows)

    def _updates_an_epoch(self, name: str, rows: int) -> int:
        return max(1, math.ceil(rows / self.rows_an_update(name)))

    def rows_an_update(self, name: str) -> int:
        """Rows of an optimiser step, in all processes."""
        training = self.recipe.learners[name].training
        rows = training.batch_size
        if training.tokens_per_batch is not None:
            rows = max(1, training.tokens_per_batch // (self.tokens_per_question + self._tokens_a_row(name)))
        return rows * training.gradient_accumulation * training.processes

    def _tokens_a_row(self, name: str) -> int:
        return 1 if self.recipe.learners[name].rationales == [GOLD] else max(1, self.tokens_per_rationale)

    def _written(self, reader: str, source: str) -> int:
        """Rows of a source that a learner reads."""
        if source == TEACHER:
            return self.kept[reader]
        select, questions, samples = self.recipe.filter_of(reader, source), self.questions["train"], 1
        if source == SELF:
            questions, samples = (
                questions + self._unlabelled(reader),
                own_sampling(self.recipe.learners[reader]).samples,
            )
        elif source != GOLD:
            samples = self.recipe.learners[source].sampling.samples
        most = min(filter(None, (samples, select.max_per_question, select.diverse)))
        return round(questions * select.question_ratio) * most

    def _samples(self, name: str, number: int | None) -> int:
        """Texts that a learner writes, for others or for a round of its own."""
        learner = self.recipe.learners[name]
        if number is None:
            return self.questions["train"] * learner.sampling.samples
        return (self.questions["train"] + self._unlabelled(name)) * own_sampling(learner).samples

    def _unlabelled(self, name: str) -> int:
        """Questions without an answer for which a learner writes texts."""
        return self.questions.get("unlabelled", 0) if self.recipe.learners[name].imitates_own_texts else 0


def estimate(recipe: Recipe, root: Path) -> Estimates:
    """Read the recipe's data and count. The run folder `root` may already hold replies of the teacher."""
    questions, faults = prepare_recipe(recipe)
    counts = count_splits(questions)
    training = [question for question in questions if question.split == "train"]
    per_question = round(
        sum(len(question.text) for question in training) / max(1, len(training)) / CHARACTERS_PER_TOKEN
    )
    readers = [name for name, learner in recipe.learners.items() if TEACHER in learner.rationales]
    expected = open_teacher(recipe).estimate(questions, root, roughly=True)
    decisions = in_effect(recipe.teacher.overlay)
    if expected.max_tokens is not None:
        kept = dict.fromkeys(readers, expected.rationales)
        return Estimates(
            recipe,
            counts,
            expected.rationales,
            kept,
            expected.max_tokens,
            per_question,
            expected.dry_run,
            [*faults.lines(), *_overlay_line(decisions.values())],
            [(question.text, "", question.answer) for question in _spread(training)],
        )
    grader = grader_of(recipe.task)
    curation = Curation(decisions, {question.id: question for question in questions}, grader)
    recorded = Rows.of(Rationale, curation.apply(expected.recorded)) if decisions else expected.recorded
    filters = {name: recipe.filter_of(name, TEACHER) for name in readers}
    taken: dict[SelectConfig, int] = {}
    dropped = [*faults.lines(), *expected.faults, *_overlay_line(decisions.values())]
    known = {question.id: question for question in training}
    sample: list[Text] = []
    for select in dict.fromkeys(filters.values()):
        # No model is loaded here to compute likelihoods, and other sources have not written yet.
        first = select.model_copy(update={"perplexity": None, "questions": None})
        gathered = gather({TEACHER: recorded}, {TEACHER: first}, training, conclude=grader.find)
        taken[select] = len(gathered)
        chosen = _spread(gathered.by_source[TEACHER])
        sample = sample or [(known[row.question_id].text, row.text, known[row.question_id].answer) for row in chosen]
        dropped.append(_filtered(gathered, [name for name in readers if filters[name] == select]))
    kept = {name: taken[select] for name, select in filters.items()}
    per_rationale = round(expected.characters / CHARACTERS_PER_TOKEN)
    sample = sample or [(question.text, "", question.answer) for question in _spread(training)]
    lines = list(filter(None, dropped))
    return Estimates(
        recipe, counts, expected.rationales, kept, per_rationale, per_question, dropped=lines, sample=sample
    )


def _spread(rows: Sequence[T]) -> Iterator[T]:
    """At most `SAMPLE` of the rows, from the first to the last."""
    step = math.ceil(len(rows) / SAMPLE) or 1
    return (rows[place] for place in range(0, len(rows), step))


def _overlay_line(decisions: Collection[Decision]) -> list[str]:
    """What people decided about the teacher's rationales; nothing without a decision."""
    actions = Counter(decision.action for decision in decisions)
    return [f"overlay: {actions['reject']:,} rationales rejected, {actions['edit']:,} edited"] if actions else []


def _filtered(gathered: Gathered, readers: Sequence[str]) -> str:
    """What the filters leave of the teacher's rationales for some learners; empty if they leave all."""
    drops = [
        f"`{row['filter']}` {row['before'] - row['after']}" for row in gathered.filters if row["before"] != row["after"]
    ]
    before, after = gathered.filters[0]["before"], len(gathered)
    return (
        f"{', '.join(readers)}: {after} of the teacher's {before} rationales are kept; dropped by {', '.join(drops)}"
        if drops
        else ""
    )
