"""The form `hf`: the plain Hugging Face folder of the learner's model."""

from __future__ import annotations

import shutil
from pathlib import Path

from mentorkd.generation import open_engine
from mentorkd.generation.engine import Engine
from mentorkd.models import resolve_device
from mentorkd.sharing.form import Form
from mentorkd.sharing.source import Source


def _write(source: Source, folder: Path, dtype: str | None) -> None:
    shutil.copytree(source.model(), folder, dirs_exist_ok=True)


def _open(source: Source, folder: Path, dtype: str | None) -> Engine:
    device = resolve_device(source.pipeline.recipe.device)
    return open_engine("transformers", model_dir=folder, device=device, batch_size=source.learner.sampling.rows)


HF = Form(_write, open=_open, served=True)
