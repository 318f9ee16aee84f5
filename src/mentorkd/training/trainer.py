"""`transformers.Trainer` with the losses of objectives, a fixed plan of batches, and validation by generation."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback
from transformers.trainer import SCHEDULER_NAME

from mentorkd.data.batching import IGNORE_INDEX, BatchPlan, Collator
from mentorkd.data.encoding import Example
from mentorkd.distillation.hidden_states import POSITIONS, target_positions
from mentorkd.distillation.objectives.base import Objective, Student
from mentorkd.errors import TrainingError
from mentorkd.files.seals import seal_folder
from mentorkd.models.attention import attention_for_generation
from mentorkd.models.device import on_device, runs_behind
from mentorkd.precision import Precision, autocast
from mentorkd.records import Progress
from mentorkd.training.checkpoints import load_weights, save_weights
from mentorkd.training.finite import CHECK_EVERY, FiniteLosses
from mentorkd.training.phases import Phases
from mentorkd.training.processes import wait_for_others
from mentorkd.training.sealed_checkpoints import check_checkpoint
from mentorkd.training.sharding import ShardedModel

Batch = dict[str, Any]
Row = dict[str, float]
Split = Callable[[list[Example]], list[list[Example]]]

NO_FAULT = 2**62
"""In place of the update of a loss that is not finite; a training has fewer."""


class PlannedBatches(Dataset[Batch]):
    """The micro-batches of a plan, in order: the collated `parts` of each, with their `rows`.

    Processes take them in turn. In the last turn, a process without a micro-batch gets one without labels, which adds nothing to
    the loss; the loader would take one from the start of the plan, and so change the last update. An empty micro-batch of the
    plan also becomes one without labels. `split` gives the parts in which the rows of one are read.
    """

    def __init__(
        self, rows: Sequence[Example], plan: BatchPlan, collator: Collator, processes: int, split: Split | None = None
    ) -> None:
        self.rows, self.plan, self.collator, self.processes = rows, plan, collator, processes
        self.split = split or (lambda rows: [rows])

    def __len__(self) -> int:
        return math.ceil(len(self.plan.batches) / self.processes) * self.processes

    def __getitem__(self, index: int) -> Batch:
        rows = [self.rows[row] for row in self.plan.batches[index]] if index < len(self.plan.batches) else []
        if rows:
            return {"parts": [_located(self.collator(part), part) for part in self.split(rows)]}
        batch = self.collator(self.rows[:1])
        return {"parts": [_located({**batch, "labels": torch.full_like(batch["labels"], IGNORE_INDEX)}, [])]}


def _located(batch: Batch, rows: list[Example]) -> Batch:
    """A collated batch with its rows and target positions, which a device would have to be waited for to tell."""
    return {**batch, POSITIONS: target_positions(batch), "rows": rows}


class MentorTrainer(Trainer):
    """A Trainer whose loss is a sum over target positions, divided by their number in the whole optimiser step.

    So the loss and its gradient do not depend on padding, on the split of a step into micro-batches, or on the number of
    processes.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        fused: bool,
        precision: Precision,
        validate: Callable[[], float] | None,
        verify: bool = True,
        learning_rates: range | None = None,
        phases: Phases | None = None,
        sharding: ShardedModel | None = None,
        **kwargs: Any,
    ) -> None:
        """`learning_rates`: the updates of a longer schedule whose learning rates these are, the last of which ends it; None for
        one that starts and ends with this training. `phases`: they may cool the rates down. `sharding`: the model to train is its
        sharded copy."""
        super().__init__(**kwargs)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise TrainingError(
                "got FSDP or DeepSpeed in the settings of accelerate, whose checkpoints are not mentorkd's; remove them, and set "
                "`training.sharding: fsdp`"
            )
        if sharding is not None:  # it needs no wrapper that averages gradients
            self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)
        self.learning_rates, self.phases, self.sharding, self.fused = learning_rates, phases, sharding, fused
        self.whole = self.model if sharding is None else sharding.whole
        self.objective, self.precision, self.validate, self.verify = objective, precision, validate, verify
        # compute_loss divides by the positions of the whole step; the Trainer must not divide again.
        self.loss_is_scaled_for_ga = True
        self._kinds = list(objective.counts([]))
        self._losses = FiniteLosses(runs_behind=runs_behind(self.args.device))
        self._metrics: defaultdict[tuple[str, str], torch.Tensor | float] = defaultdict(float)
        self._positions: defaultdict[str, int] = defaultdict(int)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """The Trainer's schedule over all updates, entered where this training begins, with its cool-down."""
        updates = self.learning_rates or range(num_training_steps)
        scheduler = super().create_scheduler(updates.stop, optimizer)
        phases = self.phases or Phases(updates.stop)
        if updates.start or phases.cooldown:
            for group in scheduler.optimizer.param_groups:
                group["lr"] = group["initial_lr"]
            rates: list[Callable[[int], float]] = [
                partial(_rate, rate, updates.start, phases) for rate in scheduler.lr_lambdas
            ]
            self.lr_scheduler = LambdaLR(scheduler.optimizer, rates)
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """The micro-batches of one optimiser step, and their target positions of every kind over all processes."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = self.objective.counts([row for batch in samples for part in batch["parts"] for row in part["rows"]])
        positions = on_device(torch.tensor([counts[kind] for kind in self._kinds]), device)
        if self.args.world_size > 1:
            positions = self.accelerator.reduce(positions, "sum")
        return samples, positions

    def training_step(self, model: torch.nn.Module, inputs: Batch, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Add the gradients of a micro-batch, part by part, and return its loss. Processes exchange gradients in the last part
        alone, because they may have different numbers of parts."""
        *first, last = inputs["parts"]
        with self.accelerator.no_sync(model):
            losses = [super(MentorTrainer, self).training_step(model, part, *args, **kwargs) for part in first]
        losses.append(super().training_step(model, last, *args, **kwargs))
        return torch.stack(losses).sum()

    def floating_point_ops(self, inputs: Batch) -> int:
        return sum(super(MentorTrainer, self).floating_point_ops(part) for part in inputs["parts"])

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        batch = dict(inputs)
        rows: list[Example] = batch.pop("rows")
        assert isinstance(num_items_in_batch, torch.Tensor)
        step = dict(zip(self._kinds, num_items_in_batch, strict=True))
        with autocast(self.args.device.type, self.precision):
            student = Student.forward(
                model,
                batch,
                rows,
                owner=self.model,
                fused=self.fused,
                layers=self.objective.layers,
                label_smoothing=self.objective.label_smoothing,
            )
            sums = self.objective.sums(student)
        terms = [total / step[kind].clamp(min=1) for kind, total in sums.loss.items()]
        loss: torch.Tensor = torch.stack(terms).sum()
        self._losses.add(self.state.global_step + 1, rows, loss)
        for name, (kind, total) in sums.metrics.items():
            self._metrics[name, kind] += total
        for kind, count in self.objective.counts(rows).items():
            self._positions[kind] += count
        # DistributedDataParallel averages gradients over processes, and the loss is a sum over them.
        return loss * int(self.args.world_size)

    def _check_losses(self) -> None:
        """Raise TrainingError for a loss since the last check that is not finite. Processes agree, so that none of them saves."""
        fault = self._losses.first_fault(self.state.global_step)
        if self.args.world_size > 1:
            own = torch.tensor([NO_FAULT if fault is None else fault.update], device=self.args.device)
            first = int(self.accelerator.gather(own).min())
            if first < int(own):
                wait_for_others()  # its process ends the others when it has told its rows
                raise TrainingError(f"the loss of another process was not finite at step {first}")
        if fault is not None:
            raise fault.error

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validation accuracy by generation, and the value that selects the best round: of equal accuracies, the later wins."""
        assert self.validate is not None
        self.whole.eval()
        with (
            nullcontext() if self.sharding is None else self.sharding.gathered(),
            torch.compiler.set_stance("force_eager"),  # generation would compile for every length
            attention_for_generation(self.whole),
        ):
            accuracy = self.validate()
        metrics = {
            "eval_accuracy": accuracy,
            "eval_selection": accuracy + 1e-6 * self.state.global_step / max(1, self.state.max_steps),
        }
        self.log(dict(metrics))
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with a loss, the means of the objective's metrics since the last log, and the target tokens, over all processes."""
        if "loss" in logs:
            values = [*self._metrics.values(), *(self._positions[kind] for kind in self._kinds)]
            tensor = torch.tensor([float(value) for value in values], device=self.args.device)
            totals = self.accelerator.reduce(tensor, "sum").tolist()
            positions = dict(zip(self._kinds, totals[len(self._metrics) :], strict=True))
            for (name, kind), total in zip(self._metrics, totals, strict=False):
                logs[name] = total / max(1, positions[kind])
            logs["tokens"] = positions["tokens"]
            self._metrics.clear()
            self._positions.clear()
        super().log(logs, start_time)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        control = self.control
        if self._losses.runs_behind and (
            control.should_log
            or control.should_evaluate
            or control.should_save
            or self.state.global_step % CHECK_EVERY == 0
        ):
            self._check_losses()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    # Hooks of the Trainer, whose own files and keys are those of `from_pretrained`, and it reads them without conversion.

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the trained weights, an objective's own among them."""
        if self.sharding is not None:
            self.sharding.gather()
        if self.args.should_save:
            save_weights(self.whole, Path(output_dir or self.args.output_dir))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.sharding is None:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        self.sharding.save_optimizer(self.optimizer.optimizer, Path(output_dir) / "optimizer")
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.sharding is None or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        self.sharding.load_optimizer(self.optimizer.optimizer, Path(checkpoint) / "optimizer")
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    def _save_rng_state(self, output_dir: str) -> None:
        """Save this process's random state, and wait for the others': the Trainer's state comes next and completes the checkpoint."""
        super()._save_rng_state(output_dir)
        wait_for_others()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        load_weights(self.whole, Path(resume_from_checkpoint))
        if self.sharding is not None:
            self.sharding.scatter()

    def _load_best_model(self) -> None:
        # The state has the path that the folder had when the checkpoint was written.
        best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
        if self.verify:
            check_checkpoint(best)
        load_weights(self.whole, best)


def _rate(rate: Callable[[int], float], start: int, phases: Phases, update: int) -> float:
    return rate(start + update) * phases.rate(update)


class RoundEnds(TrainerCallback):
    """Logs and saves at the ends of rounds, validates after every `validate_every` rounds (None: never), reports progress.

    It ends the training where its phases end, which is a round's end like the others.
    """

    def __init__(self, ends: Sequence[int], validate_every: int | None, phases: Phases, on_progress: Progress) -> None:
        self.saves, self.validates, self.phases = set(ends), validate_every is not None, phases
        self.validations = set(ends[validate_every - 1 :: validate_every]) if validate_every else set()
        self.on_progress = on_progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on_progress(state.global_step, self.phases.end)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, last = state.global_step, state.global_step == self.phases.end
        self.on_progress(step, self.phases.end)
        if last or step in self.saves:
            control.should_log = control.should_save = True
        if step in self.validations or (last and self.validates):
            control.should_evaluate = True
        if last:
            control.should_training_stop = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.phases.observe(state.log_history)
        if state.global_step == self.phases.end:  # a plateau without a cool-down
            control.should_training_stop = True


class SealedCheckpoints(TrainerCallback):
    """Seals every checkpoint when it is complete."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.should_save:
            seal_folder(Path(args.output_dir, f"checkpoint-{state.global_step}"))


class HistoryFile(TrainerCallback):
    """Keeps the history of a running training in a file. A resumed training begins with the rows of its checkpoint.

    No training stops because the file cannot be written.
    """

    def __init__(self, file: Path, rows: Callable[[list[Row]], list[Row]]) -> None:
        """`rows`: the rows of the history from those of the Trainer's log."""
        self.file, self.rows = file, rows

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write("w", state.log_history, state)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write("a", state.log_history[-1:], state)

    def _write(self, mode: str, log: list[Row], state: Any) -> None:
        if state.is_world_process_zero:
            with suppress(OSError), self.file.open(mode, encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in self.rows(log))
