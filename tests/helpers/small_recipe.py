"""A whole recipe small enough for tests: generated word problems, two-layer models, a tokenizer trained on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from mentorkd.quickstart.task import write_task
from tiny_models import tiny_tokenizer

__all__ = ["small_recipe", "write_small_recipe"]


def small_recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    """Write data and tokenizer into `folder` and return a recipe over them: mentor, vanilla, student."""
    write_task(folder / "data", seed=7, train=40, validation=6, test=10, annotated=24, samples=2)
    texts = [json.loads(line)["question"] for line in (folder / "data" / "train.jsonl").read_text().splitlines()]
    tiny_tokenizer(texts).save_pretrained(folder / "tokenizer")

    def model(width: int) -> dict[str, Any]:
        sizes = {
            "d_model": width,
            "d_ff": 2 * width,
            "d_kv": 8,
            "num_heads": 2,
            "num_layers": 1,
            "num_decoder_layers": 1,
        }
        return {"tokenizer": str(folder / "tokenizer"), "from_config": {"model_type": "t5", **sizes}}

    recipe: dict[str, Any] = {
        "name": "small",
        "data": {"root": str(folder / "data")},
        "task": {
            "name": "totals",
            "train": "train.jsonl",
            "validation": "validation.jsonl",
            "test": "test.jsonl",
            "answer": "number",
        },
        "teacher": {"kind": "recorded", "rationales": "teacher.jsonl"},
        "learners": {
            # Untrained models are never right; their text is taken as it is, so that there is something to learn from.
            "mentor": {"model": model(24), "select": {"correct": False, "deduplicate": False}},
            "vanilla": {"model": model(16)},
            "student": {
                "model": model(16),
                "rationales": ["teacher", "mentor"],
                "soft_labels": "mentor",
                "temperature": 2.0,
            },
        },
        "training": {"epochs": 3, "batch_size": 8, "learning_rate": 1e-2, "precision": "float32"},
        "sampling": {"samples": 2, "max_new_tokens": 24, "batch_size": 8, "engine": "transformers"},
        "seeds": [1],
    }
    return recipe | changes


def write_small_recipe(folder: Path, **changes: Any) -> Path:
    """The small recipe as a file."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(small_recipe(folder, **changes), sort_keys=False), encoding="utf-8")
    return path
