"""A mentor whose adapters are trained on 4-bit weights: its model is read by every later stage as any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from mentorkd.models import load_folder
from mentorkd.pipeline.records import ScoreRecord, TrainRecord
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.load import load_recipe
from small_recipe import small_recipe
from tiny_models import tiny_t5

pytest.importorskip("bitsandbytes")


def test_a_mentor_in_four_bits_is_read_by_every_later_stage(tmp_path: Path) -> None:
    raw = small_recipe(tmp_path)
    del raw["learners"]["vanilla"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    for part in (tiny_t5(tokenizer), tokenizer):
        part.save_pretrained(tmp_path / "base")
    raw["learners"]["mentor"]["model"] = {"name": str(tmp_path / "base"), "lora": {"r": 4, "bits": 4}}
    raw["training"] |= {"epochs": 1, "select_on": "last"}
    raw["sampling"] |= {"samples": 1, "max_new_tokens": 6}
    (tmp_path / "recipe.yaml").write_text(json.dumps(raw))
    pipeline = Pipeline(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "run")
    pipeline.run()
    folder = pipeline.folder.model("learners/mentor/seed-1/train")
    assert "LoRA r=4 on weights in 4 bits (NF4)" in (folder / "README.md").read_text()
    plain = load_folder(folder, device=torch.device("cpu"))
    record = pipeline.folder.record_of(TrainRecord, "learners/mentor/seed-1/train")
    assert record.parameters > plain.parameter_count  # with the adapters
    scored = [stage.name for stage in pipeline.stages if stage.kind == "score"]
    assert all(pipeline.folder.record_of(ScoreRecord, name).rows for name in scored)
    assert len(scored) == 2
