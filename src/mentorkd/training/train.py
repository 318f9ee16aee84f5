"""Training a learner: its rows on a schedule, its objective, checkpoints to resume from, and the weights of the best round."""

from __future__ import annotations

import logging
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from operator import itemgetter
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, TrainerCallback, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINER_STATE_NAME

from mentorkd.data.batching import Collator
from mentorkd.data.encoding import Example
from mentorkd.data.splitting import cost_of_part, split_rows
from mentorkd.distillation.hidden_states import head_is_linear
from mentorkd.distillation.mentors import OnlineMentor
from mentorkd.distillation.objectives.base import CrossEntropy, Objective
from mentorkd.errors import TrainingError
from mentorkd.models import LoadedModel
from mentorkd.models.attention import needs_half
from mentorkd.models.memory import keep_freed_memory
from mentorkd.models.quantization import is_quantised
from mentorkd.precision import Precision, autocast
from mentorkd.recipe.learner import TrainingConfig
from mentorkd.records import Progress
from mentorkd.training.checkpoints import discard_old_checkpoints, last_checkpoint
from mentorkd.training.packing import check_packing
from mentorkd.training.phases import Phases
from mentorkd.training.processes import wait_for_others
from mentorkd.training.read_ahead import ReadAhead
from mentorkd.training.schedule import Schedule, rounds_a_validation, schedule_training
from mentorkd.training.sealed_checkpoints import discard_damaged_checkpoints
from mentorkd.training.sharding import ShardedModel
from mentorkd.training.trainer import (
    Batch,
    HistoryFile,
    MentorTrainer,
    PlannedBatches,
    RoundEnds,
    SealedCheckpoints,
    Split,
)
from mentorkd.training.unreached import freeze_unreached

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of a training."""

    history: list[dict[str, float]]
    """One row for each log step and each validation."""
    updates: int
    best_step: int
    """The update whose weights were chosen."""
    validation_accuracy: float | None
    """Accuracy of the chosen weights; None without validation."""
    validate_every: int | None
    """Rounds from one validation to the next; None without validation."""
    phases: Phases
    """The limit of updates, and the plateau."""
    fused: bool
    """Whether the fused loss was used."""


def train(
    loaded: LoadedModel,
    rows: Sequence[Example],
    config: TrainingConfig,
    *,
    seed: int,
    folder: Path,
    precision: Precision,
    objective: Objective | None = None,
    updates: int | None = None,
    part: range | None = None,
    validate: Callable[[], float] | None = None,
    questions: int = 0,
    on_progress: Progress = lambda step, steps: None,
    project: str = "",
    run_name: str = "",
    tensorboard: Path | None = None,
    history: Path | None = None,
    verify: bool = True,
) -> TrainingResult:
    """Train `loaded.model` in place on `rows`; on return it holds the chosen weights.

    Several processes freeze the weights that the rows do not reach.

    Args:
        folder: folder for checkpoints; if it holds one, training resumes from it.
        objective: the loss; None is the cross-entropy.
        updates: number of optimiser steps, on cycled rows; None takes `config.updates`, or else whole epochs.
        part: do only these of the `updates`, which other trainings precede and follow: the learning rate is that of all updates,
            and the optimiser starts without a memory.
        validate: returns the accuracy of the model in its current state; if given, the weights of the best round are restored
            from disk at the end.
        questions: how many `validate` asks, for `validate_every: auto`.
        on_progress: called with (step, steps).
        project, run_name: names of this training for the trackers of `config.report_to`.
        tensorboard: folder for TensorBoard's event files, if `config.report_to` names it.
        history: a file that has the rows of the history while the training runs, as JSON Lines.
        verify: remove checkpoints that have changed since they were written; training resumes from an older one, or starts again.
            Without it, they are read as they are, the best one too.

    Raises TrainingError if the rows lack what the objective needs, for a non-finite loss (before its update on a CPU, elsewhere
    before anything more is logged or saved), for a checkpoint that does not have exactly the model's trained weights, and for
    settings that cannot be combined.
    """
    if not rows:
        raise TrainingError("got no training row, expected at least one; loosen `select` or raise `max_target_tokens`")
    if config.sharding != "none":
        _check_shardable(loaded, config, precision)
    if config.split == "packed" and loaded.kind == "seq2seq":
        raise TrainingError(
            f"got `split: packed` for {type(loaded.model).__name__}, an encoder-decoder model, and it joins the rows of causal "
            "models; set auto or none"
        )
    if needs_half(loaded.model) and precision == "float32":
        raise TrainingError(
            "got `precision: float32` with `attn_implementation: flash_attention_2`, which computes in 16 bits alone; set "
            "bfloat16, or take `sdpa`"
        )
    if precision == "float16" and loaded.device.type == "cpu":
        raise TrainingError("got `precision: float16` on a CPU, where it is slow; set `auto`, bfloat16 or float32")
    if config.patience is not None and validate is None:
        raise TrainingError("got `patience` without validation, which finds the plateau; give `validate`, or remove it")
    keep_freed_memory()
    objective = objective or CrossEntropy()
    if (missing := objective.missing_data(rows)) is not None:
        raise TrainingError(f"got {len(rows)} rows: {missing}; select more rationales, or choose another objective")
    arguments = _arguments(config, seed, folder, precision, validate is not None, loaded.device, project, run_name)
    if config.sharding != "none" and arguments.world_size == 1:
        raise TrainingError(
            "got `sharding: fsdp` in one process, expected several; start them with torchrun, or remove it"
        )
    config = config.model_copy(update={"processes": arguments.world_size})
    schedule = schedule_training(rows, loaded.kind, config, seed=seed, updates=len(part) if part else updates)
    total = updates if part else schedule.updates
    assert total is not None, "a part is one of a number of updates"
    phases = Phases(schedule.updates, config.patience, config.cooldown)
    interval = None
    if validate is not None:
        given = config.validate_every
        interval = rounds_a_validation(schedule, rows, questions) if given == "auto" else given
    arguments.gradient_accumulation_steps = schedule.accumulation
    arguments.warmup_steps = math.ceil(total * config.warmup_ratio)
    arguments.logging_steps = max(1, schedule.updates // 100)
    if arguments.should_save:
        discard_old_checkpoints(folder)
        if verify:
            discard_damaged_checkpoints(folder)
    wait_for_others()
    checkpoint = last_checkpoint(folder)
    if checkpoint is not None:
        # A training that was stopped after its last update has none left, which only the length of its plan tells the Trainer.
        phases.observe(TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).log_history)
        schedule = schedule.until(phases.end, config.processes)
    arguments.max_steps = schedule.updates
    collator = Collator.for_model(loaded.kind, loaded.tokenizer, loaded.model.config)
    # A sharded model exchanges its weights in every part, and processes may have different numbers of parts.
    split = _splitter(loaded, collator) if config.split == "auto" and config.sharding == "none" else None
    if config.split == "packed":
        _check_packing(loaded, objective, rows, schedule, collator, precision)
        collator = replace(collator, packed=True)
    batches = PlannedBatches(rows, schedule.plan, collator, arguments.world_size, split)
    first = {name: value.to(loaded.device) for name, value in batches[0]["parts"][0].items() if name != "rows"}
    with autocast(loaded.device.type, precision if needs_half(loaded.model) else None):
        fused = _can_fuse(loaded, first)
    if arguments.world_size > 1:
        with autocast(loaded.device.type, precision if needs_half(loaded.model) else None):
            freeze_unreached(loaded.model, first)
    if config.torch_compile:
        _compile(loaded)
    callbacks: list[TrainerCallback] = [RoundEnds(schedule.rounds, interval, phases, on_progress), SealedCheckpoints()]
    if tensorboard is not None and "tensorboard" in config.report_to:
        callbacks.append(_tensorboard_in(tensorboard, fresh=checkpoint is None and arguments.process_index == 0))
    if history is not None:
        callbacks.append(HistoryFile(history, lambda log: _history(log, schedule)))
    with (
        _trained_with(loaded, objective.weights, precision if config.sharding == "fsdp" else None) as sharding,
        _read_ahead(batches, objective, loaded.device) as train_dataset,
    ):
        trainer = MentorTrainer(
            model=loaded.model if sharding is None else sharding.sharded,
            args=arguments,
            train_dataset=train_dataset,
            # The Trainer requires one before it calls `evaluate`, which is overridden and generates instead.
            eval_dataset=batches if validate is not None else None,
            data_collator=itemgetter(0),  # an item of the data set is a whole micro-batch
            callbacks=callbacks,
            objective=objective,
            fused=fused,
            precision=precision,
            validate=validate,
            verify=verify,
            learning_rates=range(total) if part is None else range(part.start, total),
            phases=phases,
            sharding=sharding,
        )
        trainer.remove_callback(PrinterCallback)
        if arguments.world_size > 1:  # each process drops out other units
            torch.manual_seed(seed + arguments.process_index)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            _close_trackers(config.report_to)
        if sharding is not None and validate is None:  # the best weights are whole already
            sharding.gather()
    state = trainer.state
    rows_of_history = _history(state.log_history, schedule)
    best = state.best_global_step if validate is not None else state.global_step
    accuracies = (
        row["validation_accuracy"] for row in rows_of_history if row["step"] == best and "validation_accuracy" in row
    )
    loaded.model.eval()
    return TrainingResult(
        rows_of_history,
        state.global_step,
        best or state.global_step,
        next(accuracies, None),
        interval,
        phases,
        trainer.fused,
    )


def _check_packing(
    loaded: LoadedModel,
    objective: Objective,
    rows: Sequence[Example],
    schedule: Schedule,
    collator: Collator,
    precision: Precision,
) -> None:
    """Check the model and its live mentors on the first micro-batch with several rows."""
    pack = next((batch for batch in schedule.plan.batches if len(batch) > 1), None)
    live = [mentor.model for mentor in objective.mentors if isinstance(mentor, OnlineMentor)]
    for model in (loaded.model, *live) if pack else ():
        check_packing(model, [rows[row] for row in pack or ()], collator, precision)


def _splitter(loaded: LoadedModel, collator: Collator) -> Split:
    """Parts of micro-batches that cost this model least on its device."""
    fixed_cost = cost_of_part(loaded.model.num_parameters(), "cpu" if loaded.device.type == "cpu" else "gpu")

    def split(rows: list[Example]) -> list[list[Example]]:
        sides, groups = [row.padded_sides(loaded.kind) for row in rows], [row.group for row in rows]
        parts = split_rows(sides, groups, fixed_cost=fixed_cost, multiple=collator.multiple)
        return [[rows[row] for row in part] for part in parts]

    return split


@contextmanager
def _read_ahead(batches: PlannedBatches, objective: Objective, device: torch.device) -> Iterator[Dataset[Batch]]:
    """The batches, made by a thread where a GPU works meanwhile. On a CPU the thread would take the training's processor time."""
    if device.type != "cuda":
        yield batches
        return
    with closing(ReadAhead(batches, batches.processes, objective.read_ahead)) as made:
        yield made


@contextmanager
def _trained_with(
    loaded: LoadedModel, weights: nn.Module | None, sharded_in: Precision | None
) -> Iterator[ShardedModel | None]:
    """Make an objective's own weights a part of the model, so that one optimiser, gradient clipping and checkpoint have both.

    With `sharded_in`, the precision of a training with sharding, they are a part of the sharded copy, and the model gets a copy of them.
    """
    model, device, sharded, own = loaded.model, loaded.device, None, weights
    if sharded_in is not None:
        own = deepcopy(weights)
        sharded = ShardedModel(model, device, sharded_in, weights)
    if own is not None:
        model.add_module("objective", own)
    try:
        yield sharded
    finally:
        if own is not None:
            del model.objective
        if sharded is not None:
            model.to(device)


def _tensorboard_in(folder: Path, *, fresh: bool) -> TrainerCallback:
    """Writes TensorBoard's event files of a training to `folder`; `fresh` empties it first.

    By default they would go into the checkpoints' folder, named after host and time, and be removed with it.
    """
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    callback = TensorBoardCallback()
    callback.logging_dir = str(folder)
    return callback


def _close_trackers(names: Sequence[str]) -> None:
    """End the tracker runs of a training. Without this, W&B and MLflow would log the next training to the same run."""
    if "wandb" in names and (wandb := sys.modules.get("wandb")):
        wandb.finish()
    if "mlflow" in names and (mlflow := sys.modules.get("mlflow")):
        mlflow.end_run()


def _check_shardable(loaded: LoadedModel, config: TrainingConfig, precision: Precision) -> None:
    others = {
        "torch_compile": config.torch_compile,
        "precision: float16": precision == "float16",
        "lora.bits": is_quantised(loaded.model),
    }
    for other in [name for name, given in others.items() if given]:
        raise TrainingError(f"got `sharding: fsdp` with `{other}`, which cannot be combined; remove one of them")


def _can_fuse(loaded: LoadedModel, batch: Batch) -> bool:
    """Whether the fused loss is exact: it needs a model whose logits are its head's output."""
    fused = head_is_linear(loaded.model, batch)
    if not fused:
        log.warning(
            "%s changes its logits after the head: training uses the plain loss, which needs more memory",
            type(loaded.model).__name__,
        )
    return fused


def _compile(loaded: LoadedModel) -> None:
    """Compile the stacks below the head, in place: the fused loss still reads the head's input, and weights keep their names."""
    model = loaded.model.get_base_model() if hasattr(loaded.model, "get_base_model") else loaded.model
    stacks = [model.get_encoder(), model.get_decoder()] if loaded.kind == "seq2seq" else [model.base_model]
    for stack in stacks:
        stack.compile(dynamic=True)


def _history(log: Sequence[dict[str, float]], schedule: Schedule) -> list[dict[str, float]]:
    """The history from the Trainer's log, which has other rows too."""
    return [_history_row(row, schedule) for row in log if "loss" in row or "eval_accuracy" in row]


def _history_row(row: dict[str, float], schedule: Schedule) -> dict[str, float]:
    """A row of the history from a row of the Trainer's log, for which the whole plan is one epoch."""
    place = {"step": row["step"], "epoch": round(schedule.epoch_at(int(row["step"])), 4)}
    if "eval_accuracy" in row:
        return {**place, "validation_accuracy": row["eval_accuracy"]}
    # In this order, because a checkpoint's log has it: so a resumed training writes the bytes of an undisturbed one.
    return {**place, **{name: value for name, value in sorted(row.items()) if name not in place}}


NEVER = 10**9
"""A step number that no training reaches: the schedule decides when to save and validate, not the Trainer's counters."""


def _arguments(
    config: TrainingConfig,
    seed: int,
    folder: Path,
    precision: str,
    validates: bool,
    device: torch.device,
    project: str,
    run_name: str,
) -> TrainingArguments:
    # Newer transformers rename the argument for gradient checkpointing and warn about the old name.
    renamed = any(field.name == "activation_checkpointing" for field in fields(TrainingArguments))
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        lr_scheduler_type="constant_with_warmup" if config.schedule == "constant" else config.schedule,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch" if device.type == "mps" else "adamw_torch_fused",
        fp16=precision == "float16",
        ddp_find_unused_parameters=False,
        eval_strategy="steps" if validates else "no",
        eval_steps=NEVER,
        save_strategy="steps",
        save_steps=NEVER,
        save_total_limit=1,
        load_best_model_at_end=validates,
        metric_for_best_model="eval_selection" if validates else None,
        greater_is_better=True if validates else None,
        logging_nan_inf_filter=False,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type == "cuda",
        accelerator_config={"non_blocking": device.type == "cuda"},
        remove_unused_columns=False,
        disable_tqdm=True,
        seed=seed,
        report_to=[name for name in config.report_to if name != "tensorboard"] or "none",
        project=project or "mentorkd",
        run_name=run_name or None,
        **{"activation_checkpointing" if renamed else "gradient_checkpointing": config.gradient_checkpointing},
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # more GPUs need more processes; DataParallel is not used
    return arguments
