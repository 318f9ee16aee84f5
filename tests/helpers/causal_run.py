"""A finished run of a small recipe whose learners are causal models with trained tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.load import load_recipe
from small_recipe import small_recipe

__all__ = ["finish_causal_run"]

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}


def finish_causal_run(folder: Path, prompt: str = "Q: {question}") -> Path:
    """A run of one Llama, `student`, which is trained for a few updates on its teacher's rationales."""
    folder.mkdir(exist_ok=True)
    recipe: dict[str, Any] = small_recipe(folder)
    model = {"tokenizer": str(folder / "tokenizer"), "from_config": LLAMA}
    recipe |= {"name": "causal", "learners": {"student": {"model": model, "prompt": prompt}}}
    recipe["training"] |= {"epochs": 1}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    Pipeline(load_recipe(folder / "recipe.yaml"), folder / "run").run()
    return folder / "run"
