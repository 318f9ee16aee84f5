"""Training a learner: `transformers.Trainer` with our loss, our batch plan and validation by generation."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch.utils.data import Dataset, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from mentorkd.batching import BatchPlan, Collator, Encoded, plan_batches
from mentorkd.errors import TrainingError
from mentorkd.fused_loss import fused_distillation_loss
from mentorkd.head_tap import head_parameters, tap_is_exact, target_hidden, target_logits
from mentorkd.losses import (
    IGNORE_INDEX,
    Divergence,
    LossSums,
    MentorHidden,
    MentorLogits,
    MentorSide,
    distillation_loss,
)
from mentorkd.models import LoadedModel, hold_products_in_bfloat16
from mentorkd.recipe import TrainingConfig

__all__ = ["Distillation", "OnlineMentor", "SoftLabelSource", "TrainingResult", "last_checkpoint", "train"]

log = logging.getLogger(__name__)

Batch = dict[str, Any]


class SoftLabelSource(Protocol):
    """Gives the mentor's side of the divergence for a batch of rows."""

    def mentor_side(self, rationale_ids: Sequence[str], batch: Batch) -> MentorSide:
        """The mentor's distributions at the target positions of `batch`, row after row in its order."""
        ...


class OnlineMentor:
    """Soft labels from a live mentor: one forward pass a step (`soft_label_store: online`)."""

    def __init__(self, mentor: LoadedModel) -> None:
        self.model = mentor.model.eval().requires_grad_(False)
        self._exact: bool | None = None

    def mentor_side(self, rationale_ids: Sequence[str], batch: Batch) -> MentorSide:
        with torch.no_grad():
            if self._exact is None:
                self._exact = tap_is_exact(self.model, batch)
                if torch.is_autocast_enabled(batch["labels"].device.type):
                    hold_products_in_bfloat16(self.model)
            if not self._exact:
                return MentorLogits(target_logits(self.model, batch))
            return MentorHidden(target_hidden(self.model, batch), *head_parameters(self.model))


@dataclass(frozen=True)
class Distillation:
    """The student's loss, `(1 - kd_weight) CE + kd_weight tau^2 D` (Mentor-KD, section 3.3), and whose soft labels."""

    source: SoftLabelSource
    kd_weight: float
    temperature: float
    tau_squared: bool
    divergence: Divergence


@dataclass(frozen=True)
class TrainingResult:
    """What a training run came to; `history` has a row a log step, a validation, and nothing else."""

    history: list[dict[str, float]]
    updates: int
    best_step: int
    validation_accuracy: float | None
    fused: bool


class PlannedBatches(Dataset[Batch]):
    """The collated micro-batches of a plan, in order.

    Processes take them in turn. Where the last ones would get none, they get one without a label, which counts for
    nothing: the loader itself would begin again at the front, and so change the last update.
    """

    def __init__(self, rows: Sequence[Encoded], plan: BatchPlan, collator: Collator, processes: int) -> None:
        self.rows, self.plan, self.collator = rows, plan, collator
        self.length = math.ceil(len(plan.batches) / processes) * processes

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Batch:
        planned = self.plan.batches[min(index, len(self.plan.batches) - 1)]
        rows = [self.rows[row] for row in planned]
        batch = {**self.collator(rows), "rationale_ids": [row.rationale_id for row in rows]}
        if index >= len(self.plan.batches):
            batch |= {"labels": torch.full_like(batch["labels"], IGNORE_INDEX), "rationale_ids": []}
        return batch


def _only_item(items: Sequence[Batch]) -> Batch:
    """A planned micro-batch is one item of the data set, so the loader's own batches hold exactly one."""
    (batch,) = items
    return batch


SUMS = ("ce", "divergence", "tokens")


class MentorTrainer(Trainer):
    """A Trainer whose loss is a sum over target tokens divided by the target tokens of the whole optimiser step.

    So the loss and its gradient do not depend on padding, on how a step is split into micro-batches, or on the number
    of processes.
    """

    def __init__(
        self,
        *,
        distillation: Distillation | None,
        fused: bool,
        autocast: torch.dtype | None,
        validate: Callable[[], float] | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Shards of a weight are no head to compute with.
        self.fused = fused and not (self.is_fsdp_enabled or self.is_deepspeed_enabled)
        self.distillation, self.autocast, self.validate = distillation, autocast, validate
        # compute_loss divides by the tokens of the whole step; the Trainer must not divide again.
        self.loss_is_scaled_for_ga = True
        self._sums: dict[str, float | torch.Tensor] = dict.fromkeys(SUMS, 0.0)

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """The micro-batches of one optimiser step and their number of target tokens, over all processes.

        Labels are aligned with predictions for every kind of model, unlike those the Trainer would count itself.
        """
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        tokens = sum(((batch["labels"] != IGNORE_INDEX).sum() for batch in samples), start=torch.tensor(0)).to(device)
        if self.args.world_size > 1:
            tokens = self.accelerator.gather(tokens).sum()
        return samples, tokens

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        batch = dict(inputs)
        ids: list[str] = batch.pop("rationale_ids")
        assert num_items_in_batch is not None
        device = self.args.device.type
        with torch.autocast(device, self.autocast) if self.autocast else nullcontext():
            sums = self._loss_sums(model, batch, ids)
        if not torch.isfinite(sums.loss):
            raise TrainingError(
                f"the loss became {sums.loss.item()} at step {self.state.global_step + 1}, before its update; rationales in the "
                f"batch: {', '.join(ids)}. Lower the learning rate or set `precision: float32`; finished epochs are kept"
            )
        self._sums["ce"] += sums.ce
        self._sums["divergence"] += sums.divergence
        self._sums["tokens"] += sums.tokens
        # DistributedDataParallel averages gradients over processes; the loss is a sum over them.
        loss: torch.Tensor = sums.loss * self.args.world_size / num_items_in_batch
        return loss

    def _loss_sums(self, model: torch.nn.Module, batch: Batch, ids: list[str]) -> LossSums:
        labels = batch["labels"][batch["labels"] != IGNORE_INDEX]
        options: dict[str, Any] = {}
        if (kd := self.distillation) is not None and len(labels):
            options = {
                "mentor": kd.source.mentor_side(ids, batch),
                "kd_weight": kd.kd_weight,
                "temperature": kd.temperature,
                "tau_squared": kd.tau_squared,
                "divergence": kd.divergence,
            }
        if not self.fused:
            return distillation_loss(target_logits(model, batch, tapped=self.model), labels, **options)
        hidden = target_hidden(model, batch, tapped=self.model)
        weight, bias = head_parameters(self.model)
        return fused_distillation_loss(hidden, weight, labels, bias=bias, **options)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validation accuracy by generation. Ties go to the later epoch, hence the selection value beside it."""
        assert self.validate is not None
        self.model.eval()
        with torch.compiler.set_stance("force_eager"):  # generation would compile anew for every length
            accuracy = self.validate()
        metrics = {
            "eval_accuracy": accuracy,
            "eval_selection": accuracy + 1e-6 * self.state.global_step / max(1, self.state.max_steps),
        }
        self.log(dict(metrics))
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            sums = torch.tensor(
                [float(self._sums[name]) for name in SUMS], dtype=torch.float32, device=self.args.device
            )
            ce, divergence, tokens = self.accelerator.reduce(sums, "sum").tolist()
            logs |= {"ce": ce / tokens, "tokens": tokens}
            if self.distillation is not None:
                logs["divergence"] = divergence / tokens
            self._sums = dict.fromkeys(SUMS, 0.0)
        super().log(logs, start_time)


class _EpochEnds(TrainerCallback):
    """Logs, validates and saves at the ends of epochs, and tells progress."""

    def __init__(
        self, ends: Sequence[int], every: int, validate: bool, on_progress: Callable[[int, int], None]
    ) -> None:
        self.saves = set(ends)
        self.validations = {
            end for number, end in enumerate(ends, 1) if validate and (number % every == 0 or end == ends[-1])
        }
        self.on_progress = on_progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on_progress(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on_progress(state.global_step, state.max_steps)
        if state.global_step in self.saves:
            control.should_log = control.should_save = True
        if state.global_step in self.validations:
            control.should_evaluate = True


NEVER = 10**9
"""A step number no run reaches: saving and validating follow the plan's epochs, not the Trainer's counters."""


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was wholly written (the Trainer writes its state last)."""
    found: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        try:
            step = json.loads((path / "trainer_state.json").read_text())["global_step"]
        except (OSError, ValueError, KeyError):
            continue
        found.append((step, path))
    return max(found)[1] if found else None


def train(
    loaded: LoadedModel,
    rows: Sequence[Encoded],
    config: TrainingConfig,
    *,
    seed: int,
    folder: Path,
    precision: Literal["float32", "bfloat16", "float16"],
    distillation: Distillation | None = None,
    validate: Callable[[], float] | None = None,
    on_progress: Callable[[int, int], None] = lambda step, steps: None,
    run_name: str = "",
) -> TrainingResult:
    """Train `loaded.model` in place on `rows`; on return it holds the chosen weights.

    Args:
        folder: checkpoints go here; if it holds one, training goes on from it.
        validate: accuracy of the model as it stands; given, the best epoch's weights are restored from disk at the end.
        on_progress: called with (step, steps).

    Raises TrainingError for no rows, and before the update that a non-finite loss would make.
    """
    if not rows:
        raise TrainingError("no training row is left; loosen `select` or raise `max_target_tokens`")
    if precision == "float16" and loaded.device.type == "cpu":
        raise TrainingError("got `precision: float16` on a CPU, which is slow at it; set `auto`, bfloat16 or float32")
    plan = plan_batches(
        [row.padded_sides(loaded.kind) for row in rows],
        epochs=config.epochs,
        seed=seed,
        batch_size=None if config.tokens_per_batch else config.batch_size,
        tokens_per_batch=config.tokens_per_batch,
    )
    arguments = _arguments(config, plan, seed, folder, precision, validate is not None, loaded.device, run_name)
    per_step = config.gradient_accumulation * arguments.world_size
    ends = [math.ceil(end / per_step) for end in plan.epoch_ends]
    collator = Collator.for_model(loaded.kind, loaded.tokenizer, loaded.model.config)
    batches = PlannedBatches(rows, plan, collator, arguments.world_size)
    exact = _tap_is_exact(loaded, batches[0])
    if config.torch_compile:
        _compile(loaded)
    trainer = MentorTrainer(
        model=loaded.model,
        args=arguments,
        train_dataset=batches,
        # The Trainer asks for one before it will call `evaluate`, which here generates instead.
        eval_dataset=batches if validate is not None else None,
        data_collator=_only_item,
        callbacks=[_EpochEnds(ends, config.validate_every, validate is not None, on_progress)],
        distillation=distillation,
        fused=exact,
        autocast=None if precision == "float32" else getattr(torch, precision),
        validate=validate,
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = last_checkpoint(folder)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    state = trainer.state
    history = [_history_row(row, ends) for row in state.log_history if "loss" in row or "eval_accuracy" in row]
    best = state.best_global_step if validate is not None else state.global_step
    chosen = [row["validation_accuracy"] for row in history if row["step"] == best and "validation_accuracy" in row]
    loaded.model.eval()
    accuracy = chosen[0] if chosen else None
    return TrainingResult(history, state.global_step, best or state.global_step, accuracy, trainer.fused)


def _tap_is_exact(loaded: LoadedModel, batch: Batch) -> bool:
    tensors = {name: value.to(loaded.device) for name, value in batch.items() if name != "rationale_ids"}
    exact = tap_is_exact(loaded.model, tensors)
    if not exact:
        log.warning(
            "%s changes its logits after the head: training goes on with the plain loss, which needs more memory",
            type(loaded.model).__name__,
        )
    return exact


def _compile(loaded: LoadedModel) -> None:
    """Compile the stacks below the head, in place: the head stays free for the tap, and weights keep their names."""
    model = loaded.model.get_base_model() if hasattr(loaded.model, "get_base_model") else loaded.model
    stacks = [model.get_encoder(), model.get_decoder()] if loaded.kind == "seq2seq" else [model.base_model]
    for stack in stacks:
        stack.compile(dynamic=True)


def _history_row(row: dict[str, float], ends: Sequence[int]) -> dict[str, float]:
    """A log row in our terms; the Trainer sees the whole plan as one epoch, so epochs are counted here."""
    step = row["step"]
    whole = sum(end <= step for end in ends)
    start, end = ([0, *ends][whole], ends[whole]) if whole < len(ends) else (step, step + 1)
    named = {"step": step, "epoch": round(whole + (step - start) / (end - start), 4)}
    if "eval_accuracy" in row:
        return {**named, "validation_accuracy": row["eval_accuracy"]}
    kept = ("loss", "ce", "divergence", "tokens", "grad_norm", "learning_rate")
    return {**named, **{key: row[key] for key in kept if key in row}}


def _checkpointing_argument() -> str:
    """Newer transformers call `gradient_checkpointing` otherwise, and warn of the old name."""
    names = {field.name for field in fields(TrainingArguments)}
    return "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"


def _arguments(
    config: TrainingConfig,
    plan: BatchPlan,
    seed: int,
    folder: Path,
    precision: str,
    validates: bool,
    device: torch.device,
    run_name: str,
) -> TrainingArguments:
    schedule = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}[config.schedule]
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        lr_scheduler_type=schedule,
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
        remove_unused_columns=False,
        disable_tqdm=True,
        seed=seed,
        report_to=config.report_to or "none",
        run_name=run_name or None,
        **{_checkpointing_argument(): config.gradient_checkpointing},
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # several GPUs are for several processes, not for DataParallel
    steps = math.ceil(len(plan.batches) / (config.gradient_accumulation * arguments.world_size))
    arguments.max_steps = steps
    arguments.warmup_steps = math.ceil(steps * config.warmup_ratio)
    arguments.logging_steps = max(1, steps // 100)
    return arguments
