"""Trains tiny models with sharded weights as one of two processes, and leaves what came of it in FOLDER."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from safetensors.torch import save_file

from mentorkd.distillation.objectives.hidden_states import HiddenMatching
from mentorkd.distillation.objectives.mcc import Consistency
from mentorkd.models import LoadedModel
from mentorkd.recipe.learner import LoraConfig
from mentorkd.training.train import TrainingResult
from tiny_architectures import build
from tiny_training import learner, online, paired_rows, rows_for, run, weights

__all__ = ["BFLOAT16", "CASES", "LAYER_NORMS", "train_case"]

CASES = ADAPTERS, OBJECTIVE, RESUMED, SEEING, CHECKPOINTED, BFLOAT16, LAYER_NORMS = (
    "llama with adapters",
    "t5 with an objective's own weights",
    "t5, killed and resumed",
    "gemma3 with a vision tower, killed and resumed",
    "gpt2 with gradient checkpointing",
    "llama in bfloat16",
    "gpt2 in bfloat16",
)


class Killed(Exception):
    pass


def train_case(case: str, folder: Path, *, sharded: bool) -> tuple[TrainingResult, LoadedModel]:
    """One training, in two processes with sharded weights or in one process with twice the accumulation."""
    folder.mkdir(parents=True, exist_ok=True)
    changes = {"processes": 2, "sharding": "fsdp"} if sharded else {"gradient_accumulation": 2}
    changes |= {"epochs": 2, "batch_size": 2, "max_grad_norm": 1.0, "schedule": "linear"}

    def start(killed_at: int | None = None) -> tuple[TrainingResult, LoadedModel]:
        now = 0

        def on_progress(step: int, steps: int) -> None:
            nonlocal now
            now = step
            if step == killed_at:
                raise Killed

        place = folder / f"tokenizer-{os.environ.get('RANK')}"  # each process has a tokenizer file of its own
        if case == ADAPTERS:
            loaded = build("llama", place, lora=LoraConfig(r=2, dropout=0.0))
            return run(loaded, rows_for(loaded, 10), folder, **changes), loaded
        if case == SEEING:
            loaded = build("gemma3", place)
            return run(loaded, rows_for(loaded, 10), folder, on_progress=on_progress, **changes), loaded
        family = {CHECKPOINTED: "gpt2", BFLOAT16: "llama", LAYER_NORMS: "gpt2"}.get(case, "t5")
        loaded, mentor = learner(family, seed=2), learner(family, seed=1)
        if case == OBJECTIVE:
            objective = Consistency(0.5, base=HiddenMatching(loaded, mentor, kd_weight=0.5))
            return run(loaded, paired_rows(loaded, 10), folder, objective=objective, **changes), loaded
        if case in (BFLOAT16, LAYER_NORMS):
            return run(loaded, rows_for(loaded, 10), folder, precision="bfloat16", **changes), loaded
        best = 3 if case == CHECKPOINTED else 5  # the ends of the epochs
        options = {
            "objective": online(mentor),
            "validate": lambda: 0.5 if now == best else 0.2,
            "on_progress": on_progress,
            "gradient_checkpointing": case == CHECKPOINTED,
        }
        return run(loaded, rows_for(loaded, 10), folder, **options, **changes), loaded

    if case in (RESUMED, SEEING) and sharded:
        try:
            start(killed_at=4)
        except Killed:
            pass
        else:
            raise AssertionError("it was not killed")
    return start()


def main(folder: Path) -> None:
    for case in CASES:
        result, loaded = train_case(case, folder / case, sharded=True)
        if os.environ["RANK"] == "0":
            (folder / f"{case}.json").write_text(json.dumps(result.history))
            save_file({name: value.clone() for name, value in weights(loaded).items()}, folder / f"{case}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
