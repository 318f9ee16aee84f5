"""Experiment trackers of a training: TensorBoard, W&B, MLflow."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback


def tensorboard_in(folder: Path, *, fresh: bool) -> TrainerCallback:
    """Writes TensorBoard's event files of a training to `folder`; `fresh` empties it first.

    By default they would go into the checkpoints' folder, named after host and time, and be removed with it.
    """
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    callback = TensorBoardCallback()
    callback.logging_dir = str(folder)
    return callback


def close_trackers(names: Sequence[str]) -> None:
    """End the tracker runs of a training. Without this, W&B and MLflow would log the next training to the same run."""
    if "wandb" in names and (wandb := sys.modules.get("wandb")):
        wandb.finish()
    if "mlflow" in names and (mlflow := sys.modules.get("mlflow")):
        mlflow.end_run()
