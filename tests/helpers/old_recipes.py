"""Recipes whose stages are fingerprinted by the fixture `fingerprints.json`: between them, every setting that a fingerprint covers.

Each is a change to the small recipe. They name models of a hub, which are hashed by name, so that nothing is loaded.
"""

from __future__ import annotations

import copy
from typing import Any

__all__ = ["OLD_RECIPES", "old_recipe"]

MODEL = {"name": "google/flan-t5-small"}

BASE: dict[str, Any] = {
    "name": "old",
    "task": {
        "name": "totals",
        "train": "train.jsonl",
        "validation": "validation.jsonl",
        "test": "test.jsonl",
        "answer": "number",
    },
    "teacher": {"kind": "recorded", "rationales": "teacher.jsonl"},
    "learners": {
        "mentor": {"model": {"name": "google/flan-t5-large"}},
        "vanilla": {"model": MODEL},
        "student": {"model": MODEL, "rationales": ["teacher", "mentor"], "soft_labels": "mentor", "temperature": 2.0},
    },
    "training": {"epochs": 3, "batch_size": 8, "learning_rate": 1e-2, "precision": "float32"},
    "sampling": {"samples": 2, "max_new_tokens": 24, "engine": "transformers"},
    "seeds": [1],
}

STUDENT: dict[str, dict[str, Any]] = {
    **{f"divergence {name}": {"divergence": name} for name in ("forward_kl", "reverse_kl", "jsd", "mse", "soft_ce")},
    "hidden states": {"divergence": "hidden_states", "soft_label_store": "online", "layers": {1: 2, 8: 24}},
    "top k": {"soft_label_store": "top_k", "top_k": 16},
    "online": {"soft_label_store": "online"},
    "weights": {"kd_weight": 0.7, "tau_squared": False, "target": "therefore", "prompt": "Q: {question}"},
    "step by step": {"objective": "step_by_step", "objective_weight": 0.3, "soft_labels": None},
    "mcc": {"objective": "mcc", "objective_temperature": 2.0},
    "lora": {
        "model": {**MODEL, "lora": {"r": 8, "target_modules": ["q", "v"]}, "dtype": "bfloat16", "revision": "abc"}
    },
    "own training": {
        "training": {"epochs": 5, "warmup_ratio": 0.1, "schedule": "linear", "tokens_per_batch": 512, "updates": 7}
    },
    "reads": {"reads": {"mentor": {"question_ratio": 0.5, "max_per_question": 2}, "teacher": {"correct": False}}},
    "gold": {"rationales": ["gold", "teacher"]},
    "ensemble": {"soft_labels": {"mentor": 2.0, "vanilla": 1.0}},
}

FILTERS: dict[str, dict[str, Any]] = {
    "length": {"min_tokens": 3, "max_tokens": 90},
    "answer": {"answer_in_rationale": True, "deduplicate": False},
    "false equations": {"steps": True},
    "perplexity of a learner": {"learnable": {"model": "vanilla", "drop": 0.2}},
    "perplexity of a model": {"learnable": {"model": "google/flan-t5-base"}},
    "diverse": {"diverse": 2},
}

TEACHERS: dict[str, dict[str, Any]] = {
    "openai": {
        "kind": "openai",
        "model": "gpt-4o-mini",
        "samples": 3,
        "temperature": 0.7,
        "budget": {"dollars": 1.0, "requests": 10},
        "price": {"input": 1.0, "output": 2.0},
    },
    "openai exemplars": {
        "kind": "openai",
        "model": "m",
        "base_url": "http://localhost:1/v1",
        "exemplars": "train",
        "until_correct": {"want": 2, "tries": 4},
    },
    "local": {"kind": "local", "model": "google/flan-t5-base", "samples": 2},
}

WHOLE: dict[str, dict[str, Any]] = {
    # Since then, `protocol: paper` samples from 50 tokens. The recipe that a run keeps has the old value.
    "paper": {"protocol": "paper", "sampling": {**BASE["sampling"], "top_k": 0}},
    "match tokens": {"match": "tokens"},
    "match epochs": {"match": "epochs"},
    "seeds": {"seeds": [1, 2]},
    "limits": {"task": {**BASE["task"], "limit_train": 20, "limit_test": 5, "columns": {"text": "question"}}},
    "choices": {"task": {**BASE["task"], "answer": "choice", "choices": ["A", "B"]}},
    "strict": {"data": {"strict": True}},
    "sampling": {"sampling": {"samples": 4, "temperature": 1.0, "top_p": 0.9, "top_k": 50, "engine": "ctranslate2"}},
    "search": {"search": {"learning_rate": [1e-3, 3e-4], "trials": 2}},
    "sweep": {"sweep": {"student.kd_weight": [0.1, 0.5]}},
    "untrained": {"learners": {**BASE["learners"], "zero": {"model": MODEL, "rationales": []}}},
    "chain": {
        "learners": {
            **BASE["learners"],
            "second": {"model": MODEL, "rationales": ["student"], "soft_labels": "student"},
        }
    },
    "from config": {
        "learners": {
            "vanilla": {
                "model": {"tokenizer": "google/flan-t5-small", "from_config": {"model_type": "t5", "d_model": 16}}
            },
        }
    },
}


def _all() -> dict[str, dict[str, Any]]:
    recipes = {"base": copy.deepcopy(BASE)}
    for name, change in STUDENT.items():
        recipe = copy.deepcopy(BASE)
        if name in ("hidden states", "step by step"):
            del recipe["learners"]["student"]["temperature"]
        recipe["learners"]["student"] |= change
        recipes[name] = recipe
    for name, select in FILTERS.items():
        recipe = copy.deepcopy(BASE)
        recipe["learners"]["mentor"]["select"] = select
        recipes[f"filter {name}"] = recipe
    for name, teacher in TEACHERS.items():
        recipes[f"teacher {name}"] = {**copy.deepcopy(BASE), "teacher": teacher}
    for name, change in WHOLE.items():
        recipes[name] = {**copy.deepcopy(BASE), **change}
    return recipes


OLD_RECIPES = _all()


def old_recipe(name: str, root: str) -> dict[str, Any]:
    """A recipe by name, over data in the folder `root`."""
    recipe = copy.deepcopy(OLD_RECIPES[name])
    recipe["data"] = {"root": root, **recipe.get("data", {})}
    return recipe
