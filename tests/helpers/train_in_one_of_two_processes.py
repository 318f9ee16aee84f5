"""Trains tiny students by live mentors as one of two processes, and leaves what came of it in FOLDER."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tiny_training import LIVE, train_by_a_live_mentor, weights


def main(folder: Path) -> None:
    rank = os.environ["RANK"]
    for family in LIVE:
        result, student = train_by_a_live_mentor(family, folder / family, 1)
        if rank == "0":
            (folder / f"{family}.json").write_text(json.dumps(result.history))
            save_file(
                {name: value.clone() for name, value in weights(student).items()}, folder / f"{family}.safetensors"
            )
    (folder / f"dropout-{rank}").write_text(str(torch.initial_seed()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
