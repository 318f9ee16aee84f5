"""The whole way on real questions and real GPT-3.5 rationales, with T5's own vocabulary, at the smallest size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.load import load_recipe
from mentorkd.records import Rationale, read_jsonl
from places import RECIPES

SMALL = [
    "task.limit_train=12",
    "task.limit_test=6",
    "training.epochs=1",
    "training.precision=float32",
    "sampling.samples=2",
    "sampling.max_new_tokens=12",
    *(f"learners.{name}.model.from_config.{key}={value}" for name in ("mentor", "vanilla", "student") for key, value in {
        "d_model": 16, "d_ff": 32, "d_kv": 8, "num_heads": 2, "num_layers": 1, "num_decoder_layers": 1}.items()),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("store", ["hidden", "top_k", "online"])
def test_shuffled_goes_the_whole_way(shared_data: Path, shared_tokenizer: Path, tmp_path: Path, store: str) -> None:
    overrides = [f"data.root={shared_data / 'mentor-kd'}", f"learners.student.soft_label_store={store}", *SMALL]
    overrides += [f"learners.{name}.model.tokenizer={shared_tokenizer}" for name in ("mentor", "vanilla", "student")]
    manifest = Pipeline(load_recipe(RECIPES / "shuffled-from-scratch.yaml", overrides), tmp_path).run()
    stages = manifest["stages"]
    assert stages["prepare"]["questions"] == {"train": 11, "validation": 1, "test": 6}
    teacher = read_jsonl(tmp_path / "teacher" / "rationales.jsonl", Rationale)
    assert len({rationale.question_id for rationale in teacher}) <= 12
    assert {rationale.verdict for rationale in teacher} == {"correct"}
    assert sum(stages["learners/mentor/seed-42/augment"]["rationales"].values()) == 22
    assert ("learners/mentor/seed-42/score/" in " ".join(stages)) == (store != "online")
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert [learner["name"] for learner in results["learners"]] == ["mentor", "vanilla", "student"]
