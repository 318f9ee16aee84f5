"""Faults of models and engines that are told before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mentorkd.errors import RecipeError
from mentorkd.pipeline import preflight
from mentorkd.pipeline.preflight import check_models
from mentorkd.recipe.load import load_recipe
from small_recipe import small_recipe, write_small_recipe

GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}


def check(folder: Path, engine: str, model: dict[str, Any] | None = None) -> None:
    raw = small_recipe(folder)
    learner = {**raw["learners"]["vanilla"], "sampling": {"engine": engine}}
    if model is not None:
        learner["model"] = {**learner["model"], "from_config": model}
    (folder / "recipe.yaml").write_text(json.dumps({**raw, "learners": {"vanilla": learner}}))
    check_models(load_recipe(folder / "recipe.yaml"))


def test_an_engine_that_does_not_serve_the_model_is_refused_before_it_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "find_spec", lambda name: object())
    with pytest.raises(RecipeError, match=r"learners.vanilla.sampling.engine: vllm serves causal models only"):
        check(tmp_path, "vllm")
    check(tmp_path, "vllm", GPT2)
    check(tmp_path, "ctranslate2")


@pytest.mark.parametrize("engine", ["vllm", "ctranslate2"])
def test_an_engine_that_is_not_installed_is_told_with_its_extra(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=rf"{engine} is not installed; .* pip install 'mentorkd\[{engine}\]'"):
        check(tmp_path, engine, GPT2)
    check(tmp_path, "auto")


def test_what_is_said_of_all_learners_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    recipe = load_recipe(write_small_recipe(tmp_path), ["sampling.engine=vllm"])
    with pytest.raises(RecipeError) as caught:
        check_models(recipe)
    [fault] = caught.value.faults
    assert fault.key == ", ".join(f"learners.{name}.sampling.engine" for name in ("mentor", "vanilla", "student"))


def test_adapters_of_tied_weights_are_refused_before_anything_runs(tmp_path: Path) -> None:
    raw = small_recipe(tmp_path)
    raw["learners"]["student"]["model"]["lora"] = {"target_modules": ["q", "lm_head"]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(raw))
    with pytest.raises(RecipeError) as caught:
        check_models(load_recipe(tmp_path / "recipe.yaml"))
    [fault] = caught.value.faults
    assert fault.key == "learners.student.model"
    assert "got `lora.target_modules` with lm_head" in fault.message
