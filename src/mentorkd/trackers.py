"""Experiment trackers: where transformers' own integrations leave something open for many trainings in one process."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

__all__ = ["close_trackers", "tensorboard_in"]


def tensorboard_in(folder: Path, *, fresh: bool) -> TrainerCallback:
    """Writes a training to TensorBoard's event files in `folder`; a `fresh` one in place of what was there.

    By themselves they would go into the checkpoints' folder, under names of host and time, and be removed with it.
    """
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    callback = TensorBoardCallback()
    callback.logging_dir = str(folder)
    return callback


def close_trackers(names: Sequence[str]) -> None:
    """End the runs of a training: W&B and MLflow would otherwise write the next one into the same."""
    if "wandb" in names and (wandb := sys.modules.get("wandb")):
        wandb.finish()
    if "mlflow" in names and (mlflow := sys.modules.get("mlflow")):
        mlflow.end_run()
