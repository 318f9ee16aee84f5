"""Learners with objectives other than text and the soft labels of one mentor: their settings, and a whole run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open

from finished import copy_run
from mentorkd.errors import RecipeError
from mentorkd.models import vocabulary_size
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.learner import Learner, ModelConfig
from mentorkd.recipe.load import dump_recipe, load_recipe, parse_recipe
from mentorkd.recipe.schema import Recipe
from mentorkd.records import Prediction, read_jsonl
from small_recipe import small_recipe


def parse(**learner: Any) -> Recipe:
    """A recipe with two mentors and a student of these settings."""
    raw = {
        "name": "demo",
        "task": {"name": "svamp", "train": "train.json", "test": "test.json"},
        "teacher": {"rationales": "rationales.json"},
        "learners": {"one": {"model": "a"}, "two": {"model": "b"}, "student": {"model": "c", **learner}},
    }
    return parse_recipe(yaml.safe_dump(raw, sort_keys=False), source="test", base=Path("/recipes"))


LIVE = {"soft_labels": "one", "soft_label_store": "online", "divergence": "hidden_states"}
GOOD: list[dict[str, Any]] = [
    {"objective": "step_by_step", "objective_weight": 0.3},
    {"objective": "mcc", "objective_weight": 2, "objective_temperature": 1.3},
    {"objective": "mcc", "soft_labels": "one", "kd_weight": 0.5},
    {"soft_labels": {"one": 3, "two": 1}, "divergence": "jsd"},
    {**LIVE, "layers": {1: 3, 2: 6}},
    LIVE,
]


@pytest.mark.parametrize("settings", GOOD)
def test_a_dumped_recipe_loads_back_equal_and_without_unused_settings(settings: dict[str, Any]) -> None:
    recipe = parse(**settings)
    dumped = dump_recipe(recipe)
    assert parse_recipe(dumped, source="test", base=Path("/")) == recipe
    written = yaml.safe_load(dumped)["learners"]["student"]
    assert set(settings) <= set(written)
    assert ("layers" in written) == (settings.get("divergence") == "hidden_states")
    assert ("objective_temperature" in written) == (settings.get("objective") == "mcc")
    assert ("objective_weight" in written) == ("objective" in settings)


@pytest.mark.parametrize(
    ("settings", "key", "what"),
    [
        ({"objective_weight": 0.3}, "objective_weight", "has no effect without `objective: step_by_step` or `mcc`"),
        (
            {"objective": "step_by_step", "objective_temperature": 2},
            "objective_temperature",
            "without `objective: mcc`",
        ),
        ({"objective": "step_by_step", "objective_weight": 1.5}, "objective_weight", "got 1.5; .* at most 1"),
        ({"objective": "step_by_step", "soft_labels": "one"}, "soft_labels", "learns from text alone"),
        ({"objective": "mcc", "rationales": ["gold"]}, "objective", "`mcc` learns from rationales"),
        ({"objective": "dpo"}, "objective", "expected one of rationale, step_by_step, mcc"),
        ({"soft_labels": {}}, "soft_labels", "empty"),
        ({"soft_labels": {"one": 0}}, "soft_labels.one", "above 0"),
        ({"soft_labels": {"one": 1, "tow": 1}}, "soft_labels", "there is no learner `tow`; did you mean `two`"),
        ({"soft_labels": "one", "layers": {1: 1}}, "layers", "has no effect without `divergence: hidden_states`"),
        ({**LIVE, "soft_label_store": "hidden"}, "divergence", "a live mentor; set `soft_label_store: online`"),
        ({**LIVE, "soft_labels": {"one": 1, "two": 1}}, "soft_labels", "got 2 mentors"),
        ({**LIVE, "temperature": 2}, "temperature", "has no effect without a divergence of distributions"),
        ({**LIVE, "layers": {0: 1}}, "layers.0", "at least 1"),
    ],
)
def test_settings_that_do_not_go_together_are_reported(settings: dict[str, Any], key: str, what: str) -> None:
    with pytest.raises(RecipeError, match=what) as caught:
        parse(**settings)
    assert f"learners.student.{key}" in {fault.key for fault in caught.value.faults}


def test_an_unknown_objective_is_the_only_fault_of_its_learner() -> None:
    with pytest.raises(RecipeError) as caught:
        parse(objective="dpo", objective_weight=0.3, objective_temperature=2)
    assert [fault.key for fault in caught.value.faults] == ["learners.student.objective"]


@pytest.mark.parametrize("role", ["rationales", "soft_labels"])
def test_a_learner_that_answers_without_reasoning_teaches_nobody(role: str) -> None:
    named: Any = ["student"] if role == "rationales" else "student"
    raw = yaml.safe_load(dump_recipe(parse(objective="step_by_step")))
    raw["learners"]["other"] = {"model": "c", role: named}
    with pytest.raises(RecipeError, match="`student` answers without reasoning") as caught:
        parse_recipe(yaml.safe_dump(raw), source="test", base=Path("/"))
    assert [fault.key for fault in caught.value.faults] == [f"learners.other.{role}"]


def test_weights_of_mentors_are_shares_and_weights_of_objectives_have_published_defaults() -> None:
    assert Learner(model="a", soft_labels={"one": 3, "two": 1}).mentor_weights == {"one": 0.75, "two": 0.25}
    assert Learner(model="a", soft_labels="one").mentor_weights == {"one": 1.0}
    alphas = [Learner(model="a", objective=name).alpha for name in ("step_by_step", "mcc")]  # type: ignore[arg-type]
    assert alphas == [0.5, 0.1]
    assert Learner(model="a", objective="step_by_step").eval_prompt == "predict: {question}"


def test_layers_that_do_not_exist_are_reported_before_anything_runs(tmp_path: Path) -> None:
    raw = small_recipe(tmp_path)
    raw["learners"]["student"] = {"model": raw["learners"]["student"]["model"], **LIVE, "soft_labels": "mentor"}
    raw["learners"]["student"] |= {"layers": {1: 2}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(RecipeError, match=r"learners.student.layers: got `layers: \{1: 2\}`; .* the mentor 1 to 1"):
        Pipeline(load_recipe(path), tmp_path / "run").run()
    assert not (tmp_path / "run" / "data").exists()


@pytest.mark.slow
def test_learners_of_every_objective_run_to_the_end(small_run: Path, tmp_path: Path) -> None:
    copy_run(small_run / "run", tmp_path / "run")
    raw = small_recipe(tmp_path)
    mentor, student = raw["learners"]["mentor"], raw["learners"]["student"]["model"]
    raw["learners"] = {
        "mentor": {**mentor, "rationales": ["teacher"]},
        "second": {"model": mentor["model"], "training": {"epochs": 1}},
        "steps": {"model": student, "objective": "step_by_step"},
        "mcc": {"model": student, "objective": "mcc", "objective_weight": 0.5, "objective_temperature": 1.5},
        "layers": {"model": student, **LIVE, "soft_labels": "mentor"},
        "ensemble": {"model": student, "soft_labels": {"mentor": 2, "second": 1}},
        "link": {"model": student, "soft_labels": "mentor", "select": {"correct": False}},  # learns, and then teaches
        "chain": {"model": student, "rationales": ["link"], "soft_labels": "link"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(raw))
    pipeline = Pipeline(load_recipe(path), tmp_path / "run")
    stages = pipeline.run(until="evaluate")["stages"]
    assert sorted(name.split("/")[1] for name in stages if "/score/" in name) == ["link", "mentor", "second"]
    order = {name: number for number, name in enumerate(stages)}
    steps = ("mentor/seed-1/train", "link/seed-1/train", "link/seed-1/augment", "chain/seed-1/train")
    assert sorted(steps, key=lambda step: order[f"learners/{step}"]) == list(steps)
    filters = [row for row in stages["learners/chain/seed-1/train"]["filters"] if row["source"] == "link"]
    assert filters[-1]["after"] == stages["learners/chain/seed-1/train"]["rows"] > 0
    metrics = {
        name: [
            json.loads(line)
            for line in (tmp_path / f"run/learners/{name}/seed-1/metrics.jsonl").read_text().splitlines()
        ]
        for name in ("steps", "mcc", "layers", "ensemble", "link", "chain")
    }
    parts = {name: {key for row in rows for key in row} for name, rows in metrics.items()}
    assert {"ce_predict", "ce_explain"} <= parts["steps"]
    assert "consistency" in parts["mcc"]
    assert "divergence" in parts["layers"] & parts["ensemble"] & parts["link"] & parts["chain"]
    for name in metrics:
        folder = tmp_path / f"run/learners/{name}/seed-1"
        with safe_open(folder / "model/model.safetensors", "pt") as weights:
            assert not [key for key in weights.keys() if "objective" in key]  # noqa: SIM118
        assert len(read_jsonl(folder / "predictions.jsonl", Prediction)) == 10
    card = (tmp_path / "run/learners/steps/seed-1/model/README.md").read_text()
    assert "prompt = 'predict: {question}'" in card
    assert "of the selected rationales (2 rows per rationale; 1 for a bare answer)" in card


def test_top_k_labels_of_mentors_with_differently_padded_heads_use_the_shared_vocabulary(tmp_path: Path) -> None:
    raw = small_recipe(tmp_path)
    raw["training"]["epochs"] = 1
    student = raw["learners"]["student"]["model"]

    def padded(by: int) -> dict[str, Any]:
        size = vocabulary_size(ModelConfig.model_validate(student)) + by
        return {**student, "from_config": {**student["from_config"], "vocab_size": size}}

    raw["learners"] = {
        "wide": {"model": padded(16)},
        "wider": {"model": padded(32)},
        "student": {
            "model": padded(64),
            "soft_labels": {"wide": 2, "wider": 1},
            "soft_label_store": "top_k",
            "top_k": 4,
        },
        "alone": {"model": padded(64), "soft_labels": "wider", "soft_label_store": "top_k", "top_k": 4},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(raw))
    pipeline = Pipeline(load_recipe(path), tmp_path / "run")
    pipeline.run(until="train")
    shared = vocabulary_size(ModelConfig.model_validate(padded(16)))
    stores = [
        json.loads(file.read_text())["vocab_size"] for file in (tmp_path / "run").rglob("soft_labels/*/meta.json")
    ]
    assert sorted(stores) == [shared, shared, shared + 16]
    lines = (tmp_path / "run/learners/student/seed-1/metrics.jsonl").read_text().splitlines()
    divergences = [row["divergence"] for row in map(json.loads, lines) if "divergence" in row]
    assert divergences
    assert min(divergences) > 0
