"""Report: everything a run came to, as results and pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from mentorkd.files import fingerprint
from mentorkd.pipeline.model_card import describe_model, describe_teacher
from mentorkd.pipeline.run_folder import RunFiles, Stage, role
from mentorkd.recipe.graph import arms
from mentorkd.recipe.learner import Learner
from mentorkd.recipe.schema import LocalSource, OpenAISource, Recipe, RecordedTeacher
from mentorkd.records import TEACHER, Prediction, Question, Rationale
from mentorkd.reporting import (
    LearnerInfo,
    ReportInputs,
    StageCost,
    TaskInfo,
    TeacherAccount,
    build_results,
    write_report,
)

__all__ = ["read_inputs", "report", "report_inputs"]

ByLearner = Mapping[tuple[str, int], Sequence[Any]]

# Training questions whose rationales are shown side by side.
SHOWN_QUESTIONS = 20


def report(folder: Path, inputs: ReportInputs) -> dict[str, Any]:
    """Compute the results and write the report into `folder`; return what is worth recording."""
    write_report(build_results(inputs), folder)
    return {"learners": len(inputs.learners), "test_questions": inputs.task.test}


def read_inputs(recipe: Recipe, files: RunFiles, stage: Stage, manifest: Mapping[str, Any]) -> ReportInputs:
    """What a run's report is made of, read from the finished stages that its stage `report` names."""
    each = [(name, seed) for name in recipe.learners for seed in recipe.seeds]

    def made(kind: str) -> dict[tuple[str, int], str]:
        """The stages of a kind, by the learner and the seed they serve; several may share one."""
        roles = {one: role(kind, *one) for one in each}
        return {one: stage.inputs[part] for one, part in roles.items() if part in stage.inputs}

    trained, written, answered = made("train"), made("augment"), made("evaluate")
    return report_inputs(
        recipe=recipe,
        questions=files.questions("prepare"),
        teacher=files.rationales("annotate"),
        rationales={one: files.rationales(name) for name, one in {n: o for o, n in written.items()}.items()},
        predictions={
            (name, seed): [replace(row, learner=name, seed=seed) for row in files.predictions(stage_name)]
            for (name, seed), stage_name in answered.items()
        },
        metrics={one: files.metrics(name) for one, name in trained.items()},
        trained={one: files.record(name) for one, name in trained.items()},
        serving={one: [name for part in (trained, answered) if (name := part.get(one))] for one in each},
        records={name: files.record(name) for name in stage.needs},
        manifest=manifest,
    )


def report_inputs(
    *,
    recipe: Recipe,
    questions: Sequence[Question],
    teacher: Sequence[Rationale],
    rationales: Mapping[tuple[str, int], Sequence[Rationale]],
    predictions: Mapping[tuple[str, int], Sequence[Prediction]],
    metrics: ByLearner,
    trained: Mapping[tuple[str, int], Mapping[str, Any]],
    serving: Mapping[tuple[str, int], Sequence[str]],
    records: Mapping[str, Mapping[str, Any]],
    manifest: Mapping[str, Any],
) -> ReportInputs:
    """What a run's report is made of.

    Args:
        trained: what the training of every learner recorded; nothing of one that is not trained.
        serving: the names of the stages that trained and tested every learner; learners may share stages.
        records: what the finished stages recorded, by stage name.
        manifest: command, git commit, versions and host of the stages, and what the report has different.
    """
    assert recipe.task.answer is not None
    counts, asked = records["prepare"]["questions"], records["annotate"].get("asked")
    return ReportInputs(
        name=recipe.name,
        task=TaskInfo(
            name=recipe.task.name,
            kind=recipe.task.answer,
            train=counts["train"],
            validation=counts["validation"],
            test=counts["test"],
        ),
        seeds=recipe.seeds,
        learners=[_learner(name, recipe, trained) for name in recipe.learners],
        questions=[question for question in questions if question.split == "test"],
        predictions=predictions,
        match=recipe.match,
        metrics=metrics,
        filters=[
            {"learner": name, "seed": seed, **row}
            for (name, seed), record in trained.items()
            for row in [*_replies(asked, recipe.learners[name]), *record["filters"]]
        ],
        dropped=[
            {"learner": name, "seed": seed, "reason": reason, "rows": record["encoding"][key]}
            for (name, seed), record in trained.items()
            for key, reason in (
                ("source_too_long", "prompt over max_source_tokens"),
                ("target_too_long", "target over max_target_tokens"),
            )
            if record["encoding"][key]
        ],
        soft_labels=[
            {"learner": name, "seed": seed, **row}
            for (name, seed), record in trained.items()
            for row in record.get("soft_labels", ())
        ],
        trials=[
            {
                "learner": name,
                "seed": seed,
                "values": tried["values"],
                "validation": tried["validation_accuracy"],
                "chosen": tried["values"] == record["search"]["chosen"],
            }
            for (name, seed), record in trained.items()
            for tried in record.get("search", {}).get("tried", ())
        ],
        rationales=_side_by_side(questions, teacher, rationales, recipe.seeds[0]),
        written=len({row.question_id for rows in (teacher, *rationales.values()) for row in rows}),
        stages={name: _cost(record) for name, record in records.items()},
        serving=serving,
        teacher=None if asked is None else _account(asked, [record["filters"] for record in trained.values()]),
        faults=[*records["prepare"]["faults"], *records["annotate"]["faults"]],
        protocol=_protocol(recipe, trained),
        manifest=manifest,
    )


def _learner(name: str, recipe: Recipe, trained: Mapping[tuple[str, int], Mapping[str, Any]]) -> LearnerInfo:
    learner, variant = recipe.learners[name], recipe.variants.get(name)
    records = [trained[name, seed] for seed in recipe.seeds if (name, seed) in trained]
    first = records[0] if records else {}
    return LearnerInfo(
        name=name,
        model=describe_model(learner.model),
        model_key=fingerprint(learner.model.model_dump()),
        rationales=learner.rationales,
        mentor_weights=learner.mentor_weights,
        scorers=_judges(recipe, name),
        objective=learner.objective,
        filters={
            source: recipe.filter_of(name, source).model_dump(exclude_defaults=True) for source in learner.rationales
        },
        kd_weight=learner.kd_weight if learner.mentor_weights else None,
        temperature=learner.temperature if learner.mentor_weights else None,
        parameters=first.get("parameters"),
        select_on="last" if _validates_once(learner) else learner.training.select_on,
        rows=[record["rows"] for record in records],
        updates=[record["updates"] for record in records],
        target_tokens=[record["target_tokens"] for record in records],
        epochs=[record["epochs"] for record in records],
        validation=[record["validation_accuracy"] for record in records],
        searched={
            key: [record["search"]["chosen"][key] for record in records]
            for key in first.get("search", {}).get("chosen", ())
        },
        swept=variant.values if variant else {},
        variant_of=variant.of if variant else None,
        settings=_settings(learner, first.get("precision")),
        distillation=_distillation(learner),
    )


def _judges(recipe: Recipe, name: str) -> list[str]:
    """The learners of the recipe that judge what a learner reads."""
    filters = [recipe.filter_of(name, source).learnable for source in recipe.learners[name].rationales]
    return sorted({judge.model for judge in filters if judge and judge.model in recipe.learners})


def _replies(asked: Mapping[str, Any] | None, learner: Learner) -> list[dict[str, Any]]:
    """What stands before the filters of an asked teacher's rationales: samples that were asked for, and replies."""
    if asked is None or TEACHER not in learner.rationales:
        return []
    return [{"source": TEACHER, "filter": "replies", "before": asked["samples"], "after": asked["replies"]}]


def _account(asked: Mapping[str, Any], filters: Sequence[Sequence[Mapping[str, Any]]]) -> TeacherAccount:
    """The teacher's account with what training kept: of learners whose filters differ, the most."""
    kept = max((next((r["after"] for r in reversed(rows) if r["source"] == TEACHER), 0) for rows in filters), default=0)
    dollars = asked["dollars"]
    per_kept = dollars / kept if dollars is not None and kept else None
    return cast(TeacherAccount, {**asked, "kept": kept, "dollars_per_kept": per_kept})


def _cost(record: Mapping[str, Any]) -> StageCost:
    told = ("learner", "seed", "seconds", "cpu_seconds", "gpu_seconds", "tokens", "peak_memory_mb", "accelerator")
    return StageCost(
        kind=record["kind"],
        needs=record.get("needs", ()),
        dollars=record.get("asked", {}).get("dollars"),
        **{key: record.get(key) for key in told},
    )


def _protocol(recipe: Recipe, trained: Mapping[tuple[str, int], Mapping[str, Any]]) -> list[str]:
    """What a reader must know to judge the comparison."""
    learned = [name for name, learner in recipe.learners.items() if learner.rationales]
    updates = {name: [trained[name, seed]["updates"] for seed in recipe.seeds] for name in learned}
    lines = [PAPER] if recipe.protocol == "paper" else []
    lines += [*_teacher(recipe.teacher), f"Optimiser updates: {_ranges(updates)}.", *_matching(recipe, trained)]
    for searched, use in ((False, "only measured"), (True, "chose the trial, and no epoch")):
        once = [
            name
            for name in learned
            if _validates_once(recipe.learners[name]) and bool(recipe.learners[name].search) == searched
        ]
        if once:
            lines.append(f"Only one epoch of {', '.join(once)} was validated, the last: validation {use}.")
    if len(recipe.seeds) == 1:
        lines.append("One seed: the intervals cover the choice of test questions, not the luck of training.")
    return lines


PAPER = (
    "The paper's protocol (protocol: paper): equal epochs, epochs chosen on the test set, no validation questions held out, "
    "wherever the recipe does not say otherwise."
)

MATCHED = {
    "updates": "the same number of optimiser updates, the most that any of them would do by its own epochs",
    "tokens": "as many target tokens, the most that any of them would see by its own epochs",
    "epochs": "as many passes over its own rows as the recipe says",
}


def _matching(recipe: Recipe, trained: Mapping[tuple[str, int], Mapping[str, Any]]) -> list[str]:
    """What was held equal between arms, and why their updates are unequal where they are."""
    compared = arms(recipe)
    if len(compared) < 2:
        return []
    told = {name: updates for name in compared if (updates := recipe.learners[name].training.updates) is not None}
    matched = [name for name in compared if name not in told]
    lines = []
    if len(matched) > 1:
        cycled = "" if recipe.match == "epochs" else "; rows are cycled"
        lines.append(
            f"Matched by {recipe.match}: each of {', '.join(matched)} is trained for {MATCHED[recipe.match]}{cycled}."
        )
    if told:
        lines.append(
            "As many optimiser updates as the recipe says (`training.updates`), rows cycled: "
            f"{_ranges({name: [updates] for name, updates in told.items()})}."
        )
    counts = {trained[name, seed]["updates"] for name in compared for seed in recipe.seeds}
    return [*lines, *([_why_unequal(recipe, trained)] if len(counts) > 1 and recipe.match == "epochs" else [])]


def _why_unequal(recipe: Recipe, trained: Mapping[tuple[str, int], Mapping[str, Any]]) -> str:
    """A sentence on what made the numbers of updates unequal."""
    learners = {name: recipe.learners[name] for name in arms(recipe)}
    epochs = {name: [learner.training.epochs] for name, learner in learners.items()}
    rows = {name: [trained[name, seed]["encoding"]["kept"] for seed in recipe.seeds] for name in learners}
    batches = {_batch(learner) for learner in learners.values()}
    reasons = []
    if _differ(epochs.values()):
        reasons.append(f"different numbers of epochs ({_ranges(epochs)})")
    if _differ(rows.values()):
        reasons.append(f"different numbers of rows ({_ranges(rows)})")
    if len(batches) > 1:
        reasons.append("batches of different sizes")
    equal = "" if _differ(epochs.values()) else f"the same number of epochs ({next(iter(epochs.values()))[0]}) over "
    return f"Numbers of updates are unequal: training took {equal}{' and '.join(reasons) or 'rows of unequal lengths'}."


def _batch(learner: Learner) -> tuple[int | None, ...]:
    config = learner.training
    rows = config.batch_size if config.tokens_per_batch is None else None
    return rows, config.tokens_per_batch, config.gradient_accumulation


def _differ(counts: Iterable[Sequence[int]]) -> bool:
    return len({count for row in counts for count in row}) > 1


def _ranges(counts: Mapping[str, Sequence[int]]) -> str:
    """`mentor 1,534, student 4,020-4,031`."""
    return ", ".join(
        f"{name} {min(row):,}" + (f"-{max(row):,}" if max(row) > min(row) else "") for name, row in counts.items()
    )


def _validates_once(learner: Learner) -> bool:
    """Whether there was one validation, or no training, so nothing to choose from."""
    many = learner.training.validate_every < learner.training.epochs
    return not learner.rationales or not (many or learner.training.select_on == "last")


def _settings(learner: Learner, precision: str | None) -> dict[str, Any]:
    """What a fair comparison holds equal. Left out: what changes speed or memory alone."""
    if precision is None:
        return learner.model_dump(include={"prompt"}) | {"max_new_tokens": learner.sampling.max_new_tokens}
    unused = "batch_size" if learner.training.tokens_per_batch else "tokens_per_batch"
    speed = {"report_to", "torch_compile", "gradient_checkpointing", unused}
    return {
        **learner.training.model_dump(exclude=speed),
        "precision": precision,
        "target": learner.target,
        "prompt": learner.eval_prompt,
        "max_new_tokens": learner.sampling.max_new_tokens,
        **({} if learner.objective == "rationale" else {"objective": learner.objective, "alpha": learner.alpha}),
        **({"objective_temperature": learner.objective_temperature} if learner.objective == "mcc" else {}),
    }


def _distillation(learner: Learner) -> dict[str, Any]:
    if not learner.mentor_weights:
        return {}
    told = {
        "tau_squared",
        "divergence",
        "soft_label_store",
        *(["top_k"] if learner.soft_label_store == "top_k" else []),
        *(["layers"] if learner.layers else []),
    }
    return learner.model_dump(include=told)


def _teacher(teacher: RecordedTeacher | OpenAISource | LocalSource) -> list[str]:
    """Whom the first rationales come from, if an LLM was asked."""
    if isinstance(teacher, RecordedTeacher):
        return []
    until = teacher.until_correct
    more = "" if until is None else f", up to {until.tries} until {until.want} are right"
    how = f"{teacher.samples} samples a question{more}, temperature {teacher.temperature:g}, prompt {teacher.prompt}"
    return [f"The teacher: {describe_teacher(teacher)}; {how}."]


def _side_by_side(
    questions: Sequence[Question],
    teacher: Sequence[Rationale],
    rationales: Mapping[tuple[str, int], Sequence[Rationale]],
    seed: int,
) -> list[tuple[Question, list[Rationale]]]:
    """The first training questions with what the teacher and each mentor wrote for them."""
    shown: dict[str, tuple[Question, list[Rationale]]] = {}
    asked = {question.id: question for question in questions}
    written = [*teacher, *(r for (_, s), rows in rationales.items() if s == seed for r in rows)]
    for rationale in written:
        if rationale.question_id in asked and (rationale.question_id in shown or len(shown) < SHOWN_QUESTIONS):
            shown.setdefault(rationale.question_id, (asked[rationale.question_id], []))[1].append(rationale)
    return list(shown.values())
