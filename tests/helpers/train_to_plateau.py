"""Trains a tiny student to a plateau of given accuracies; as a script, as one of two processes that leave what came of it in FOLDER."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mentorkd.training.train import TrainingResult
from tiny_training import learner, rows_for, run, weights

__all__ = ["Killed", "train_to_plateau"]

ACCURACIES = {4: 0.2, 8: 0.5, 12: 0.5, 16: 0.4, 20: 0.5, 24: 0.5, 26: 0.6, 28: 0.6}
"""By update: three that are not above that of update 8 make a plateau at update 20."""


class Killed(Exception):
    pass


def train_to_plateau(
    folder: Path, *, killed_at: int = -1, dropout: bool = True, **changes: Any
) -> tuple[TrainingResult, dict[str, torch.Tensor], list[tuple[int, int]]]:
    """The result, the weights, and the progress that was reported."""
    student, steps = learner(seed=2, dropout=dropout), []

    def progress(step: int, total: int) -> None:
        steps.append((step, total))
        if step == killed_at:
            raise Killed

    how = {"updates": 40, "epochs": 10, "patience": 0.25, "cooldown": 0.3, "warmup_ratio": 0.1, **changes}
    how |= {"validate": lambda: ACCURACIES[steps[-1][0]], "on_progress": progress}
    result = run(student, rows_for(student, 12), folder, **how)
    return result, weights(student), steps


def main(folder: Path) -> None:
    result, trained, _ = train_to_plateau(folder / "run", dropout=False)
    if os.environ["RANK"] == "0":
        (folder / "history.json").write_text(json.dumps(result.history))
        save_file({name: value.clone() for name, value in trained.items()}, folder / "trained.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
