"""A step of distillation beside TRL's `GKDTrainer` and `DistillationTrainer`: same models, rows, batches, arithmetic, loss, optimiser.

GKDTrainer runs the teacher in every step and computes the whole logits of both models. With `lmbda: 0` it trains on the rows as its
collator pads them. With `lmbda: 1` the student writes the texts first, in every step; here it is handed the texts of the same rows
in place of samples, laid out as it lays out samples, so its step has all but the sampling. DistillationTrainer always lets the
student write, and is handed the same texts; it computes no whole logits. Ours is what the pipeline calls:
`score` writes the mentor's hidden states of all rows once, and `train` reads them for as many epochs as a round has. So with one
epoch, both sides run the mentor once for each text that is trained on. Scoring is timed on rows that are neighbours in the order in
which all rows would be scored, so that they pad as all rows do, and extrapolated by tokens; all rows share what a pass costs once.

Models are Llamas with random weights; rows are the teacher's rationales of SVAMP in T5's vocabulary. A step's time is the mean of
processor seconds over the timed updates; the first update of a process, which sets up libraries, is left out, and so are saving
and making models. Every measurement is a process of its own, sides in turn; memory is the most that models, optimiser and steps
add to a process that has imported its libraries. The losses of all updates are compared.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from common import Peaks, arguments, in_fresh_process, report
from score import neighbours, tokens
from svamp import data_argument, evenly, tokenizer_and_rows
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
)

from mentorkd.data.batching import IGNORE_INDEX
from mentorkd.data.encoding import Example
from mentorkd.distillation.hidden_states import TOKENS_PER_BATCH
from mentorkd.distillation.objectives.soft_labels import Distillation
from mentorkd.distillation.scoring import score
from mentorkd.distillation.soft_labels import StoredSoftLabels
from mentorkd.models import LoadedModel
from mentorkd.recipe.learner import TrainingConfig
from mentorkd.training.schedule import schedule_training
from mentorkd.training.train import train

OFF_POLICY, ON_POLICY, DISTILLATION, OURS = "GKD lmbda 0", "GKD lmbda 1", "DistillationTrainer", "ours"
LMBDA = {OFF_POLICY: 0.0, ON_POLICY: 1.0}
THEIRS = (*LMBDA, DISTILLATION)
BETA = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.5}
"""Our name of a divergence -> GKDTrainer's `beta`, whose default is 0.5."""
EPOCHS = (1, 3, 20)
BATCH = 8
SHAPES = {
    "256x2": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 2, "num_attention_heads": 4},
    "512x4": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4, "num_attention_heads": 8},
    "512x8": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8},
    "768x12": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12},
}
GIVEN = (
    "batches",
    "data",
    "divergence",
    "gradient_checkpointing",
    "mentor",
    "micro_batches",
    "precision",
    "split",
    "student",
    "threads",
)
VOCABULARY = 32_128


def main() -> None:
    parser = arguments(__doc__)
    data_argument(parser)
    parser.add_argument("--batches", type=int, help="timed updates of a process (default 4; short 1)")
    parser.add_argument("--student", choices=SHAPES, help="width x layers (default 512x8; short 256x2)")
    parser.add_argument("--mentor", choices=SHAPES, help="width x layers (default 768x12; short 512x4)")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--divergence", choices=BETA, default="forward_kl")
    parser.add_argument("--micro-batches", type=int, default=1, help="of an update, on both sides (default 1)")
    parser.add_argument(
        "--gradient-checkpointing",
        type=int,
        choices=[0, 1],
        default=0,
        help="of their trainers, whose own default is 1",
    )
    parser.add_argument(
        "--split", choices=["none", "auto"], default="auto", help="training.split of our side (default auto)"
    )
    parser.add_argument("--side", choices=[*THEIRS, OURS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.batches = options.batches or (1 if options.short else 4)
    options.student = options.student or ("256x2" if options.short else "512x8")
    options.mentor = options.mentor or ("512x4" if options.short else "768x12")
    options.repeats = min(options.repeats, 1 if options.short else 5)
    options.threads = options.threads or 1
    torch.set_num_threads(options.threads)
    if options.side:
        print(json.dumps(measure(options)))
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Measure all sides in turn, each in a fresh process, and report."""
    flags = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in GIVEN]
    taken: dict[str, list[dict[str, Any]]] = {side: [] for side in (*THEIRS, OURS)}
    for _ in range(options.repeats):
        for side, measured in taken.items():
            measured.append(json.loads(in_fresh_process(__file__, [f"--side={side}", *flags]).splitlines()[-1]))
    seconds = {side: [each["step_seconds"] for each in taken[side]] for side in THEIRS}
    for epochs in EPOCHS:
        seconds[ours_after(epochs)] = [each["step_seconds"] + each["scoring_seconds"] / epochs for each in taken[OURS]]
    peaks = {side: max(each["peak_bytes"] for each in measured) for side, measured in taken.items()}
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    report(
        "against_trl",
        seconds,
        reference=ON_POLICY,
        ours=ours_after(1),
        peak_bytes={**{side: peaks[side] for side in THEIRS}, **{ours_after(epochs): peaks[OURS] for epochs in EPOCHS}},
        as_json=options.json,
        seconds_are="processor time of an update of eight rows, with the scoring of their texts shared among the epochs",
        times_as_fast={
            f"{theirs} / {ours_after(epochs)}": round(medians[theirs] / medians[ours_after(epochs)], 2)
            for theirs in THEIRS
            for epochs in EPOCHS
        },
        ours_apart={
            part: statistics.median(each[part] for each in taken[OURS]) for part in ("step_seconds", "scoring_seconds")
        },
        largest_relative_difference_of_losses=max(
            abs(theirs / ours - 1)
            for side in THEIRS
            for theirs, ours in zip(taken[side][0]["losses"], taken[OURS][0]["losses"], strict=True)
        ),
        settings={name: getattr(options, name) for name in GIVEN if name != "data"},
    )


def ours_after(epochs: int) -> str:
    return f"ours, epochs: {epochs}"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One side, in this process: seconds of a step, and of scoring the rows of one update; the losses of all updates; peak memory."""
    if options.side in THEIRS:
        import_module("trl" if options.side == DISTILLATION else "trl.experimental.gkd")
    bench, peaks = Bench(options), Peaks()
    sides = {OURS: bench.ours, DISTILLATION: bench.distillation_trainer}
    measured = peaks.of(options.side, sides.get(options.side, bench.gkd_trainer))
    return {**measured, "peak_bytes": peaks[options.side]}


class Clock(TrainerCallback):
    """Processor seconds at the end of every update."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.process_time())


class Bench:
    """The rows, and the training settings that both sides have."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.tokenizer, rows = tokenizer_and_rows(options.data, "causal")
        self.rows, self.all_rows = evenly(rows, (options.batches + 1) * BATCH), len(rows)
        self.scored = neighbours(rows, len(self.rows), TOKENS_PER_BATCH, "causal")
        self.config = TrainingConfig(
            epochs=1,
            batch_size=BATCH // options.micro_batches,
            gradient_accumulation=options.micro_batches,
            split=options.split,
            learning_rate=1e-4,
        )

    def ours(self) -> dict[str, Any]:
        mentor = llama(self.options.mentor, self.tokenizer, 1)
        clock: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            self._score(mentor, self.rows, Path(folder, "store"))  # sets up libraries
            scoring = self._scoring_seconds(mentor, Path(folder))
            del mentor
            gc.collect()
            stored = StoredSoftLabels([Path(folder, "store")], device=torch.device("cpu"))
            result = train(
                llama(self.options.student, self.tokenizer, 0),
                self.rows,
                self.config,
                seed=0,
                folder=Path(folder, "run"),
                precision=self.options.precision,
                objective=Distillation([(1.0, stored)], 1.0, 1.0, False, self.options.divergence),
                on_progress=lambda step, steps: clock.append(time.process_time()) if step else None,
            )
        losses = [row["loss"] for row in result.history if "loss" in row]
        step = (clock[-1] - clock[0]) / self.options.batches
        return {"step_seconds": step, "scoring_seconds": scoring, "losses": losses}

    def _scoring_seconds(self, mentor: LoadedModel, folder: Path) -> float:
        """Seconds of scoring the rows of an update; each row has its share of what a pass costs once, such as saving the head."""

        def spent(name: str, rows: Sequence[Example]) -> float:
            start = time.process_time()
            self._score(mentor, rows, folder / name)
            return time.process_time() - start

        once = spent("nothing", [])
        timed = sum(spent(f"timed-{number}", rows) - once for number, rows in enumerate(self.scored))
        a_token = timed / sum(map(tokens, self.scored))
        return BATCH * (a_token * tokens(self.rows) / len(self.rows) + once / self.all_rows)

    def _score(self, mentor: LoadedModel, rows: Sequence[Example], folder: Path) -> None:
        score(
            mentor,
            rows,
            folder=folder,
            mode="hidden",
            top_k=1,
            temperature=1.0,
            mentor_digest="random",
            target="arrow",
            bfloat16=self.options.precision == "bfloat16",
            on_progress=lambda done, total: None,
        )

    def gkd_trainer(self) -> dict[str, Any]:
        from datasets import Dataset
        from trl.experimental.gkd import GKDConfig, GKDTrainer

        with tempfile.TemporaryDirectory() as folder:
            config = GKDConfig(
                folder, lmbda=LMBDA[self.options.side], train_sampling_strategy="sequential", **self._theirs()
            )
            rows = Dataset.from_list([tokens_of(row) for row in self._planned()])
            trainer = GKDTrainer(*self._models(), config, train_dataset=rows, processing_class=self.tokenizer)
            trainer.generate_on_policy_outputs = texts_in_place_of_samples(self.tokenizer.pad_token_id)
            return self._timed(trainer)

    def distillation_trainer(self) -> dict[str, Any]:
        from datasets import Dataset
        from trl import DistillationConfig, DistillationTrainer

        rows = self._planned()
        with tempfile.TemporaryDirectory() as folder:
            config = DistillationConfig(folder, shuffle_dataset=False, temperature=1.0, **self._theirs())
            trainer = DistillationTrainer(
                *self._models(),
                config,
                train_dataset=Dataset.from_list([{"prompt": str(number)} for number in range(len(rows))]),
                processing_class=self.tokenizer,
            )

            def texts(numbers: Sequence[str]) -> tuple[Any, ...]:
                asked = [rows[int(number)] for number in numbers]
                return [row.source_ids for row in asked], [row.target_ids for row in asked], None, None, None

            trainer._generate = texts
            return self._timed(trainer)

    def _planned(self) -> list[Example]:
        """The rows in the order in which both sides train on them."""
        plan = schedule_training(self.rows, "causal", self.config, seed=0).plan
        return [self.rows[row] for row in chain(*plan.batches)]

    def _models(self) -> tuple[PreTrainedModel, PreTrainedModel]:
        return llama(self.options.student, self.tokenizer, 0).model, llama(self.options.mentor, self.tokenizer, 1).model

    def _theirs(self) -> dict[str, Any]:
        """The settings that their trainers have in common."""
        return {
            "beta": BETA[self.options.divergence],
            "max_steps": self.options.batches + 1,
            "per_device_train_batch_size": self.config.batch_size,
            "gradient_accumulation_steps": self.config.gradient_accumulation,
            "learning_rate": self.config.learning_rate,
            "lr_scheduler_type": "constant",
            "weight_decay": self.config.weight_decay,
            "max_grad_norm": self.config.max_grad_norm,
            "optim": "adamw_torch_fused",
            "bf16": self.options.precision == "bfloat16",
            "gradient_checkpointing": bool(self.options.gradient_checkpointing),
            "use_cpu": True,
            "dataloader_pin_memory": False,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }

    def _timed(self, trainer: Trainer) -> dict[str, Any]:
        trainer.add_callback(clock := Clock())
        trainer.train()
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        return {"step_seconds": (clock.ends[-1] - clock.ends[0]) / self.options.batches, "losses": losses}


def tokens_of(row: Example) -> dict[str, Any]:
    """A row as GKDTrainer's collator takes it."""
    mask = [0] * len(row.source_ids) + [1] * len(row.target_ids)
    return {"prompt": "", "input_ids": [*row.source_ids, *row.target_ids], "completion_mask": mask}


def texts_in_place_of_samples(padding: int) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """A function for GKDTrainer's `generate_on_policy_outputs`: prompts padded on the left, then the batch's own texts on the right."""

    def outputs(model: Any, inputs: dict[str, Tensor], generation_config: Any) -> tuple[Tensor, Tensor, Tensor]:
        prompts_BS = inputs["prompts"]
        texts = [labels[labels != IGNORE_INDEX] for labels in inputs["labels"]]
        texts_BT = pad_sequence(texts, batch_first=True, padding_value=IGNORE_INDEX)
        written_BT = texts_BT != IGNORE_INDEX
        return (
            torch.cat([prompts_BS, texts_BT.where(written_BT, padding)], 1),
            torch.cat([inputs["prompt_attention_mask"], written_BT.long()], 1),
            torch.cat([torch.full_like(prompts_BS, IGNORE_INDEX), texts_BT], 1),
        )

    return outputs


def llama(shape: str, tokenizer: PreTrainedTokenizerBase, seed: int) -> LoadedModel:
    """A Llama of this shape with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        return LoadedModel(
            LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **SHAPES[shape], **ends)), tokenizer, "causal"
        )


if __name__ == "__main__":
    main()
