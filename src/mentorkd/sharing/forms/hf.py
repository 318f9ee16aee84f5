"""The form `hf`: the plain Hugging Face folder of the learner's model."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from mentorkd.generation import open_engine
from mentorkd.generation.engine import Engine
from mentorkd.sharing.form import Form
from mentorkd.sharing.source import Source


def _write(source: Source, folder: Path, dtype: str | None) -> None:
    shutil.copytree(source.model(), folder, dirs_exist_ok=True)


def _open(source: Source, folder: Path, dtype: str | None) -> Engine:
    batch_size = source.learner.sampling.batch_size
    return open_engine("transformers", model_dir=folder, device=torch.device("cpu"), batch_size=batch_size)


HF = Form(_write, open=_open)
