"""Trains tiny students by live mentors as one of two processes, and leaves what came of it in FOLDER."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import mentorkd.training.train
from mentorkd.training.trainer import MentorTrainer
from tiny_training import LIVE, train_by_a_live_mentor, weights


def main(folder: Path) -> None:
    rank = os.environ["RANK"]
    mentorkd.training.train.cost_of_part = lambda parameters, device: 1
    parts: list[list[int]] = []
    read = MentorTrainer.training_step

    def counted(self: MentorTrainer, model: Any, inputs: Any, *args: Any) -> torch.Tensor:
        parts[-1].append(len(inputs["parts"]))
        return read(self, model, inputs, *args)

    MentorTrainer.training_step = counted
    for family in LIVE:
        parts.append([])
        result, student = train_by_a_live_mentor(family, folder / family, 1)
        if rank == "0":
            (folder / f"{family}.json").write_text(json.dumps(result.history))
            save_file(
                {name: value.clone() for name, value in weights(student).items()}, folder / f"{family}.safetensors"
            )
    (folder / f"parts-{rank}.json").write_text(json.dumps(parts))
    (folder / f"dropout-{rank}").write_text(str(torch.initial_seed()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
