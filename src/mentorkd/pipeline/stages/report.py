"""Report: the results of the whole run, and pages that show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mentorkd.files import fingerprint, fingerprint_list
from mentorkd.hub import HubModels
from mentorkd.pipeline import provenance
from mentorkd.pipeline.model_card import describe_model
from mentorkd.pipeline.records import (
    AnnotateRecord,
    CurateRecord,
    EvaluateRecord,
    FilterRow,
    PrepareRecord,
    ReportRecord,
    RoundOutcome,
    SearchRecord,
    StageRecord,
    TeacherUsage,
    TrainRecord,
    best_round,
)
from mentorkd.pipeline.run_folder import RunFolder, Stage, part_role, role
from mentorkd.pipeline.shards import whole_name
from mentorkd.recipe.aliases import drop_unset_later_keys, later_settings, later_training
from mentorkd.recipe.graph import arms, initial_model, links_of
from mentorkd.recipe.learner import Learner, ModelConfig
from mentorkd.recipe.objectives import OBJECTIVES
from mentorkd.recipe.rounds import rounds_of
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.sizes import size_of
from mentorkd.recipe.vocabularies import soft_label_form
from mentorkd.records import TEACHER, Prediction, Question, Rationale
from mentorkd.reporting.build import build_results
from mentorkd.reporting.format import format_range, format_updates
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs, StageCost
from mentorkd.reporting.schema import (
    FrontierResult,
    OwnTextsResult,
    RoundResult,
    SampledResult,
    TeacherAccount,
    TrainingData,
)
from mentorkd.reporting.votes import Sampled, build_sampled, count_ballots
from mentorkd.reporting.write import write_report
from mentorkd.teachers.annotate import open_teacher

if TYPE_CHECKING:
    from mentorkd.pipeline.context import RunContext  # imports torch, which a comparison of reports does not need

Trained = Mapping[tuple[str, int], TrainRecord]
"""What the training of each learner recorded, by learner and seed. Learners that are not trained are missing."""

# Training questions whose rationales are shown side by side.
SHOWN_QUESTIONS = 20


def report(context: RunContext, stage: Stage, workdir: Path) -> ReportRecord:
    """Compute the results of the run and write its report."""
    records = map(context.folder.record, stage.needs)
    manifest = provenance.summary(records, provenance.here())
    inputs = read_inputs(context.recipe, context.folder, stage, manifest)
    write_report(build_results(inputs), workdir / "out")
    return ReportRecord(learners=len(inputs.learners), test_questions=inputs.task["test"])


def read_inputs(recipe: Recipe, folder: RunFolder, stage: Stage, manifest: Mapping[str, Any]) -> ReportInputs:
    """What a run's report is made of, read from the finished stages that its stage `report` names.

    `manifest` has command, git commit, versions and host of the stages, and what differs for the report itself.
    """
    runs = [(name, seed) for name in recipe.learners for seed in recipe.seeds]

    def trainings(run: tuple[str, int]) -> list[str]:
        """The stages that train a learner: one, or one a fold."""
        roles = [part_role(role("train", *run), fold) for fold in range(recipe.learners[run[0]].folds)]
        return [stage.inputs[part] for part in roles if part in stage.inputs]

    def stages_of(kind: str) -> dict[tuple[str, int], str]:
        """The stages of a kind, by the learner and the seed they serve. Learners may share a stage."""
        roles = {run: role(kind, *run) for run in runs}
        return {run: stage.inputs[part] for run, part in roles.items() if part in stage.inputs}

    train, augment, evaluate = stages_of("train"), stages_of("augment"), stages_of("evaluate")
    sample = stages_of("sample")
    trained = {run: folder.record_of(TrainRecord, name) for run, name in train.items()}
    prepared, annotated = folder.record_of(PrepareRecord, "prepare"), folder.record_of(AnnotateRecord, "annotate")
    asked = annotated.asked
    # The rows before the filters of the teacher's rationales: the requested samples and the replies, and what people rejected.
    replies = [] if asked is None else [FilterRow(TEACHER, "replies", asked.samples, asked.replies)]
    of_teacher = "annotate"
    if "curate" in stage.inputs:
        of_teacher, curated = "curate", folder.record_of(CurateRecord, "curate")
        replies.append(FilterRow(TEACHER, "overlay", curated.before, curated.before - curated.rejected))
    questions = [question for question in folder.questions("prepare") if question.labelled]
    labelled, teacher = {question.id for question in questions}, folder.rationales(of_teacher)
    # Where learners share a stage, its rationales are those of the last learner, once.
    rationales = {run: folder.rationales(name) for name, run in {name: run for run, name in augment.items()}.items()}
    assert recipe.task.answer is not None
    dtypes = {name: folder.record_of(EvaluateRecord, stage_name).dtype for (name, _), stage_name in evaluate.items()}
    learners = [_learner(name, recipe, trained, dtypes, folder.hub_models) for name in recipe.learners]
    test = [question for question in questions if question.split == "test"]
    predictions = {
        (name, seed): [replace(row, learner=name, seed=seed) for row in folder.predictions(stage_name)]
        for (name, seed), stage_name in evaluate.items()
    }
    return ReportInputs(
        name=recipe.name,
        task={
            "name": recipe.task.name,
            "kind": recipe.task.answer,
            "train": prepared.questions["train"],
            "validation": prepared.questions["validation"],
            "test": prepared.questions["test"],
        },
        seeds=recipe.seeds,
        learners=learners,
        questions=test,
        predictions=predictions,
        training=_training_data(questions, teacher),
        recipe_digest=recipe_digest(folder),
        match=recipe.match,
        metrics={run: folder.metrics(name) for run, name in train.items()},
        filters=[
            {"learner": name, "seed": seed, **asdict(row)}
            for (name, seed), record in trained.items()
            for row in [*(replies if TEACHER in recipe.learners[name].rationales else []), *record.filters]
        ],
        dropped=[
            {"learner": name, "seed": seed, "reason": reason, "rows": rows}
            for (name, seed), record in trained.items()
            for reason, rows in (
                ("prompt over max_source_tokens", record.encoding.source_too_long),
                ("target over max_target_tokens", record.encoding.target_too_long),
            )
            if rows
        ],
        soft_labels=[
            {"learner": name, "seed": seed, **row}
            for (name, seed), record in trained.items()
            for row in record.soft_labels
        ],
        trials=[
            {
                "learner": name,
                "seed": seed,
                "values": trial.values,
                "validation": trial.validation_accuracy,
                "chosen": trial.values == record.search.chosen,
            }
            for (name, seed), record in trained.items()
            if isinstance(record, SearchRecord)
            for trial in record.search.tried
        ],
        rounds=[row for run, record in trained.items() for row in _rounds(*run, record.rounds or [])],
        sampled=_sampled(recipe, folder, learners, [question.id for question in test], sample, predictions),
        rationales=_side_by_side(questions, teacher, rationales, recipe.seeds[0]),
        written=len({row.question_id for row in chain(teacher, *rationales.values())} & labelled),
        stages=_costs({name: folder.record(name) for name in stage.needs}),
        serving={run: [*trainings(run), *([evaluate[run]] if run in evaluate else [])] for run in runs},
        teacher=None if asked is None else _account(asked, trained),
        faults=[*prepared.faults, *annotated.faults],
        protocol=[*_protocol(recipe, trained), *_unlabelled(recipe, prepared), *_grading(recipe)],
        manifest=manifest,
    )


def _sampled(
    recipe: Recipe,
    folder: RunFolder,
    learners: Sequence[LearnerInfo],
    questions: Sequence[str],
    stages: Mapping[tuple[str, int], str],
    predictions: Mapping[tuple[str, int], Sequence[Prediction]],
) -> list[SampledResult]:
    """The votes and pass@k of the learners that the recipe samples, with `stages` that sampled them."""
    sampled = {}
    for info in learners:
        sampling = recipe.learners[info.name].sampling
        if not sampling.test_samples:
            continue
        alike = [other.name for other in learners if other.model_key == info.model_key and other.rationales]
        runs = {seed: (info.name, seed) for seed in recipe.seeds}
        sampled[info.name] = Sampled(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            ballots={seed: count_ballots(folder.samples(stages[run]), questions) for seed, run in runs.items()},
            greedy={seed: count_ballots(predictions[run], questions) for seed, run in runs.items()},
            peers=[other for other in alike if other != info.name] if info.rationales else [],
        )
    return build_sampled(sampled)


def _rounds(learner: str, seed: int, rounds: Sequence[RoundOutcome]) -> list[RoundResult]:
    """The trainings of one learner and seed; the best is the learner's model."""
    return [
        {
            "learner": learner,
            "seed": seed,
            "round": outcome.number,
            "updates": outcome.updates,
            "target_tokens": outcome.target_tokens,
            "validation": outcome.validation_accuracy,
            "chosen": outcome == best_round(rounds),
            "own_texts": None if outcome.own_texts is None else cast(OwnTextsResult, asdict(outcome.own_texts)),
            "frontier": [cast(FrontierResult, asdict(row)) for row in outcome.frontier or []],
        }
        for outcome in rounds
    ]


def recipe_digest(folder: RunFolder) -> str | None:
    """Digest of the recipe that the run folder was last run with."""
    recipe = folder.root / "recipe.yaml"
    return fingerprint(recipe.read_text(encoding="utf-8")) if recipe.is_file() else None


def _training_data(questions: Sequence[Question], teacher: Sequence[Rationale]) -> TrainingData:
    ids = sorted({question.id for question in questions if question.split == "train"})
    question_of = [rationale.question_id for rationale in teacher]
    places = sorted(range(len(question_of)), key=question_of.__getitem__)
    texts = (
        [question, text]
        for question, of_question in groupby(places, key=question_of.__getitem__)
        for text in sorted({teacher[place].text for place in of_question})
    )
    count, digest = fingerprint_list(texts)
    return {
        "questions": len(ids),
        "questions_digest": fingerprint(ids),
        "rationales": count,
        "rationales_digest": digest,
    }


def _learner(
    name: str, recipe: Recipe, trained: Trained, dtypes: Mapping[str, str | None], hub: HubModels
) -> LearnerInfo:
    learner, variant = recipe.learners[name], recipe.variants.get(name)
    records = [trained[name, seed] for seed in recipe.seeds if (name, seed) in trained]
    searches = [record.search for record in records if isinstance(record, SearchRecord)]
    size = None if records else size_of(initial_model(recipe, name))
    return LearnerInfo(
        name=name,
        model=describe_model(initial_model(recipe, name)),
        model_key=_model_key(initial_model(recipe, name), hub),
        rationales=learner.rationales,
        initial=learner.model.learner,
        folds=learner.folds,
        mentor_weights=learner.mentor_weights,
        scorers=_scorers(recipe, name),
        objective=learner.objective,
        filters={
            source: recipe.filter_of(name, source).model_dump(exclude_defaults=True) for source in learner.rationales
        },
        kd_weight=learner.by_source("kd_weight"),
        temperature=None if _forms(recipe, name, hub) == {"chunks"} else learner.by_source("temperature"),
        parameters=records[0].parameters if records else size.parameters if size else None,
        select_on="last" if _validates_once(learner, records[0] if records else None) else learner.training.select_on,
        rows=[record.rows for record in records],
        updates=[record.updates for record in records],
        target_tokens=[record.target_tokens for record in records],
        epochs=[record.epochs for record in records],
        plateaus=[record.plateau.found for record in records if record.plateau is not None],
        validation=[record.validation_accuracy for record in records],
        searched={key: [search.chosen[key] for search in searches] for key in (searches[0].chosen if searches else ())},
        swept=variant.values if variant else {},
        variant_of=variant.of if variant else None,
        settings=_settings(learner, records[0].precision if records else None) | _sampled_in(dtypes[name]),
        distillation=_distillation(recipe, name, hub),
    )


def _model_key(config: ModelConfig, hub: HubModels) -> str:
    """A digest that is the same for one model in all runs: a branch or tag on the hub stands for the commit that the run used."""
    settings = config.model_dump()
    drop_unset_later_keys(settings)
    for part in ("name", "tokenizer"):
        source = settings[part]
        if source and (commit := hub.used(source, config.revision)):
            settings |= {part: f"{source}@{commit}", "revision": None}
    return fingerprint(settings)


def _scorers(recipe: Recipe, name: str) -> list[str]:
    """The learners of the recipe whose likelihoods or questions filter the rationales of a learner."""
    links = links_of(recipe)[name]
    return sorted(
        {*links.perplexity_models, *(source for source in links.questions.values() if source in recipe.learners)}
    )


def _account(asked: TeacherUsage, trained: Trained) -> TeacherAccount:
    """The teacher's account with the rationales that training kept: of learners whose filters differ, the most."""
    last = [
        next((row.after for row in reversed(record.filters) if row.source == TEACHER), 0) for record in trained.values()
    ]
    kept = max(last, default=0)
    per_kept = asked.dollars / kept if asked.dollars is not None and kept else None
    return cast(TeacherAccount, {**asdict(asked), "kept": kept, "dollars_per_kept": per_kept})


def _costs(records: Mapping[str, StageRecord]) -> dict[str, StageCost]:
    """The cost of each stage; those of its shards and of what puts their rows together are one."""
    costs: dict[str, StageCost] = {}
    for name, record in records.items():
        whole, cost = whole_name(name), _cost(record)
        costs[whole] = _sum(costs[whole], cost) if whole in costs else cost
    return {
        name: replace(cost, needs=[need for need in dict.fromkeys(map(whole_name, cost.needs)) if need != name])
        for name, cost in costs.items()
    }


def _cost(record: StageRecord) -> StageCost:
    asked = record.asked if isinstance(record, AnnotateRecord) else None
    costs = {field.name: getattr(record, field.name) for field in fields(StageCost) if field.name != "dollars"}
    return StageCost(**costs, dollars=None if asked is None else asked.dollars)


def _sum(cost: StageCost, other: StageCost) -> StageCost:
    """The cost of two shards of a stage."""

    def known(key: str) -> list[Any]:
        return [value for each in (cost, other) if (value := getattr(each, key)) is not None]

    counted = ("seconds", "cpu_seconds", "gpu_seconds", "tokens", "dollars")
    sums: dict[str, Any] = {key: round(sum(known(key)), 6) if known(key) else None for key in counted}
    return replace(
        cost,
        **sums,
        needs=[*cost.needs, *other.needs],
        peak_memory_mb=max(known("peak_memory_mb"), default=None),
        accelerator=cost.accelerator or other.accelerator,
    )


def _protocol(recipe: Recipe, trained: Trained) -> list[str]:
    """Sentences that a reader needs to judge the comparison."""
    names = [name for name, learner in recipe.learners.items() if learner.rationales]
    updates = {name: [trained[name, seed].updates for seed in recipe.seeds] for name in names}
    lines = [PAPER] if recipe.protocol == "paper" else []
    name, sampling = open_teacher(recipe).describe()
    lines += [f"The teacher: {name}; {sampling}."] if sampling else []
    lines += [f"Optimiser updates: {_ranges(updates)}.", *_matching(recipe, trained)]
    lines += _plateaus(recipe, trained) + _own_texts(recipe, trained) + _weights(recipe)
    once = [name for name in names if _validates_once(recipe.learners[name], trained.get((name, recipe.seeds[0])))]
    for searched, use in ((False, "chose nothing"), (True, "chose the trial, not the epoch")):
        if alike := [name for name in once if bool(recipe.learners[name].search) == searched]:
            lines.append(f"Only one epoch of {', '.join(alike)} was validated, the last: validation {use}.")
    if len(recipe.seeds) == 1:
        lines.append(ONE_SEED)
    return lines


ONE_SEED = "One seed: the intervals cover the choice of test questions, not the randomness of training."


def _unlabelled(recipe: Recipe, prepared: PrepareRecord) -> list[str]:
    """A sentence on the questions without answers, if there are any."""
    readers = ", ".join(name for name, learner in recipe.learners.items() if learner.imitates_own_texts)
    count = prepared.questions.get("unlabelled")
    return [f"Unlabelled questions, for the own texts of {readers}: {count:,}."] if count else []


PAPER = (
    "The paper's protocol (protocol: paper): equal epochs, epochs chosen on the test set, no validation questions held out, "
    "unless the recipe says otherwise."
)

MATCHED = {
    "updates": "for the same number of optimiser updates, the most that any of them would do by its own epochs",
    "tokens": "for the same number of target tokens, the most that any of them would see by its own epochs",
    "compute": "for the number of updates with which it and all that it learns from (training, writing, scoring) take the same number of "
    "floating-point operations, at least",
    "epochs": "for as many passes over its own rows as the recipe says",
    "plateau": "until its validation accuracy has a plateau, within the same limit of optimiser updates",
}


def _grading(recipe: Recipe) -> list[str]:
    """A sentence on a grader of the user's."""
    if recipe.task.grader is None:
        return []
    return [
        f"Answers are graded by the recipe's own function {Path(recipe.task.grader).name}; accuracy is its share of `correct`."
    ]


def _matching(recipe: Recipe, trained: Trained) -> list[str]:
    """Sentences on what was held equal between arms, and on the reasons for unequal updates."""
    compared = arms(recipe)
    if len(compared) < 2:
        return []
    patient = any(recipe.learners[name].training.patience for name in compared)
    given = {name: recipe.learners[name].training.updates for name in compared}
    kept = recipe.match not in ("plateau", "compute")
    fixed = {name: updates for name, updates in given.items() if updates is not None and kept}
    matched = [name for name in compared if name not in fixed]
    lines = []
    if len(matched) > 1:
        cycled = "" if recipe.match == "epochs" else "; rows are cycled"
        early = "; a plateau may end it earlier" if patient and recipe.match != "plateau" else ""
        lines.append(
            f"Matched by {recipe.match}: each of {', '.join(matched)} is trained {MATCHED[recipe.match]}{cycled}{early}."
        )
    if fixed:
        lines.append(
            "The recipe fixes the number of optimiser updates (`training.updates`), rows are cycled: "
            f"{_ranges({name: [updates] for name, updates in fixed.items()})}."
        )
    counts = {trained[name, seed].updates for name in compared for seed in recipe.seeds}
    unexplained = len(counts) > 1 and recipe.match == "epochs" and not patient
    return [*lines, *([_why_unequal(recipe, trained)] if unexplained else [])]


def _plateaus(recipe: Recipe, trained: Trained) -> list[str]:
    """Sentences on the learners that are trained to a plateau: the rule, and what each seed found."""
    lines = []
    for name, training in ((name, learner.training) for name, learner in recipe.learners.items()):
        if training.patience is None:
            continue
        ends = [plateau.text for seed in recipe.seeds if (plateau := trained[name, seed].plateau)]
        cooldown = f", then a cool-down of {100 * training.cooldown:g} % of these" if training.cooldown else ""
        lines.append(
            f"{name} is trained until the best validation accuracy is older than {100 * training.patience:g} % of the updates so far"
            f"{cooldown}: {', '.join(dict.fromkeys(ends))}."
        )
    return lines


def _own_texts(recipe: Recipe, trained: Trained) -> list[str]:
    """Sentences on the rounds of learners with own texts: their updates, and the round that each seed took."""
    learners = {name: learner for name, learner in recipe.learners.items() if learner.own_texts is not None}
    if not learners:
        return []
    counts = ", ".join(f"{name} {len(rounds_of(learner))}" for name, learner in learners.items())
    lines = [
        f"Own texts: a learner's trainings ({counts}) have equal shares of its updates, so those on own texts are part of the updates "
        "above and are not added to them. The optimiser starts fresh in each training, and the learning-rate schedule runs "
        "over all of them."
    ]
    for place, how in CHOSEN_BY.items():
        chosen = {
            name: [best_round(trained[name, seed].rounds or []).number for seed in recipe.seeds]
            for name, learner in learners.items()
            if learner.training.select_on == place
        }
        if chosen:
            rounds = ", ".join(f"{name} {format_updates(numbers)}" for name, numbers in chosen.items())
            each = " (one number for each seed, where seeds differ)" if len(recipe.seeds) > 1 else ""
            lines.append(f"Round whose model is the learner, {how}: {rounds}{each}.")
    return lines


CHOSEN_BY = {
    "validation": "with the best validation accuracy",
    "test": "CHOSEN ON THE TEST SET",
    "last": "which is the last",
}
"""How the round of a learner with own texts is chosen, by `select_on`."""


def _weights(recipe: Recipe) -> list[str]:
    """Sentences on learners that start from trained weights, and on those that are trained in folds."""
    initial = [f"{name} from {one.model.learner}" for name, one in recipe.learners.items() if one.model.learner]
    folds = [f"{name} {one.folds} folds" for name, one in recipe.learners.items() if one.folds > 1]
    lines = (
        [f"Initial weights: {', '.join(initial)}, after its training, whose updates are not counted again."]
        if initial
        else []
    )
    if folds:
        lines.append(
            f"Cross-fitting ({', '.join(folds)}): each model is trained without one part of the training questions, and writes and "
            "scores for this part. Numbers of such a learner are those of the first of its models."
        )
    return lines


def _why_unequal(recipe: Recipe, trained: Trained) -> str:
    """A sentence on the reasons for unequal numbers of updates."""
    learners = {name: recipe.learners[name] for name in arms(recipe)}
    epochs = {name: [learner.training.epochs] for name, learner in learners.items()}
    rows = {name: [trained[name, seed].encoding.kept for seed in recipe.seeds] for name in learners}
    trainings = [learner.training for learner in learners.values()]
    batches = {
        (
            None if one.tokens_per_batch else one.batch_size,
            one.tokens_per_batch,
            one.gradient_accumulation * one.processes,
        )
        for one in trainings
    }
    reasons = [
        f"different numbers of {unit} ({_ranges(counts)})"
        for unit, counts in (("epochs", epochs), ("rows", rows))
        if _differ(counts.values())
    ]
    if len(batches) > 1:
        reasons.append("batches of different sizes")
    equal = "" if _differ(epochs.values()) else f"the same number of epochs ({next(iter(epochs.values()))[0]}) over "
    return f"Numbers of updates are unequal: training took {equal}{' and '.join(reasons) or 'rows of unequal lengths'}."


def _differ(counts: Iterable[Sequence[int]]) -> bool:
    return len({count for row in counts for count in row}) > 1


def _ranges(counts: Mapping[str, Sequence[int]]) -> str:
    """`mentor 1,534, student 4,020–4,031`."""
    return ", ".join(f"{name} {format_range(row)}" for name, row in counts.items())


def _validates_once(learner: Learner, record: TrainRecord | None) -> bool:
    """Whether there was only one validation, or no training, so that no epoch could be chosen."""
    interval = learner.training.validate_every
    if interval == "auto":
        interval = 1 if record is None or record.validate_every is None else record.validate_every
    many = interval < learner.training.epochs or learner.own_texts is not None
    return not learner.rationales or not (many or learner.training.select_on == "last")


def _sampled_in(dtype: str | None) -> dict[str, Any]:
    """The type of weights that answered the test questions, where it is not that of the saved model."""
    return {} if dtype is None else {"sampling_dtype": dtype}


def _settings(learner: Learner, precision: str | None) -> dict[str, Any]:
    """Settings that a fair comparison holds equal. Settings that only change speed or memory are left out."""
    if precision is None:
        return {"prompt": learner.prompt, "max_new_tokens": learner.sampling.max_new_tokens}
    unused = "batch_size" if learner.training.tokens_per_batch else "tokens_per_batch"
    speed = {"report_to", "torch_compile", "gradient_checkpointing", "processes", "sharding", "split", unused}
    accumulation = learner.training.gradient_accumulation * learner.training.processes
    return {
        **later_training(learner.training.model_dump(exclude=speed)),
        "gradient_accumulation": accumulation,  # of all processes
        "precision": precision,
        "target": learner.target,
        "prompt": learner.eval_prompt,
        "max_new_tokens": learner.sampling.max_new_tokens,
        **later_settings({"label_smoothing": learner.label_smoothing}),
        **({} if learner.objective == "rationale" else {"objective": learner.objective, "alpha": learner.alpha}),
        **(
            {"objective_temperature": learner.objective_temperature}
            if "objective_temperature" in OBJECTIVES[learner.objective].settings
            else {}
        ),
    }


def _forms(recipe: Recipe, name: str, hub: HubModels) -> set[str]:
    """The forms of a learner's soft labels."""
    return {soft_label_form(recipe, name, mentor, hub) for mentor in recipe.learners[name].mentor_weights}


def _distillation(recipe: Recipe, name: str, hub: HubModels) -> dict[str, Any]:
    """Settings of a learner's soft labels and own texts, in the form that its soft labels have."""
    learner = recipe.learners[name]
    keys = {"tau_squared", "soft_label_store"}
    keys |= {"top_k"} if learner.soft_label_store == "top_k" else set()
    keys |= {"layers"} if learner.layers else set()
    own: dict[str, Any] = (
        {}
        if learner.own_texts is None
        else {f"own_texts.{key}": value for key, value in learner.own_texts.model_dump().items()}
    )
    if not learner.mentor_weights:
        return own
    settings = later_settings(learner.model_dump(include=keys | {"mentor_reads", "shuffle_soft_labels"}))
    settings["divergence"] = learner.by_source("divergence")
    if "chunks" in (forms := _forms(recipe, name, hub)):
        limit = "limit" if learner.chunk_temperature is None else learner.chunk_temperature
        settings |= {"soft_label_store": " and ".join(sorted(forms)), "chunk_temperature": limit}
    if forms == {"chunks"}:  # likelihoods of chunks have one divergence, and their own temperature
        del settings["divergence"], settings["tau_squared"]
    return settings | own


def _side_by_side(
    questions: Sequence[Question],
    teacher: Sequence[Rationale],
    rationales: Mapping[tuple[str, int], Sequence[Rationale]],
    seed: int,
) -> list[tuple[Question, list[Rationale]]]:
    """The first training questions with the rationales of the teacher and of each mentor."""
    shown: dict[str, tuple[Question, list[Rationale]]] = {}
    by_id = {question.id: question for question in questions}
    for rationale in chain(teacher, *(rows for (_, s), rows in rationales.items() if s == seed)):
        if rationale.question_id in by_id and (rationale.question_id in shown or len(shown) < SHOWN_QUESTIONS):
            shown.setdefault(rationale.question_id, (by_id[rationale.question_id], []))[1].append(rationale)
    return list(shown.values())
