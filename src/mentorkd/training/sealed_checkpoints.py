"""Checkpoints are known by the hashes of their files, so that a training never resumes from damaged weights or optimiser states."""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import suppress
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME

from mentorkd.errors import TrainingError
from mentorkd.files.seals import damage_in

log = logging.getLogger(__name__)


def check_checkpoint(folder: Path) -> None:
    """Raises TrainingError for a checkpoint that has changed since it was written."""
    if damage := damage_in(folder):
        raise TrainingError(f"{damage}; run the same command again, and training goes on from an undamaged checkpoint")


def discard_damaged_checkpoints(folder: Path) -> None:
    """Remove checkpoints that have changed since they were written, and those whose best checkpoint is lost, and warn.

    Training then resumes from an older one, or starts again. Checkpoints without hashes, as earlier versions wrote them, stay.
    """
    damages = {path: damage for path in sorted(folder.glob("checkpoint-*")) if (damage := damage_in(path))}
    for path in folder.glob("checkpoint-*"):
        best = _best_of(path)
        if best is not None and folder / best.name in damages:
            damages.setdefault(path, f"{path}: its best checkpoint is lost")
    for path, damage in damages.items():
        log.warning("%s; training goes on from an older checkpoint, or starts again", damage)
        aside = path.with_name(f".{path.name}.damaged")
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _best_of(checkpoint: Path) -> Path | None:
    """The best checkpoint at the time of this one, which is loaded when training ends."""
    with suppress(OSError, ValueError, AttributeError):
        best = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8")).get("best_model_checkpoint")
        return None if best is None else Path(best)
    return None
