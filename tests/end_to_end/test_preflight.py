"""Faults of models and engines that are told before anything runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from chat_pair import base_tokenizer, chat_tokenizer, save
from mentorkd.errors import RecipeError, install_command
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
    with pytest.raises(RecipeError, match=rf"{engine} is not installed; .*{re.escape(install_command(engine))}"):
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


def check_pair(folder: Path, mentor: dict[str, Any], student: dict[str, Any], **learner: Any) -> None:
    raw = small_recipe(folder)
    learners = {"mentor": {"model": mentor}, "student": {"model": student, "soft_labels": "mentor", **learner}}
    (folder / "recipe.yaml").write_text(json.dumps({**raw, "learners": learners}))
    check_models(load_recipe(folder / "recipe.yaml"))


def test_a_mentor_that_changes_its_logits_is_told_before_it_is_trained(tmp_path: Path) -> None:
    small_recipe(tmp_path)
    tokenizer = str(tmp_path / "tokenizer")
    student = {"tokenizer": tokenizer, "from_config": {"model_type": "gemma2"}}
    for model, setting in (
        ({"model_type": "gemma2"}, "final_logit_softcapping: 30"),
        ({"model_type": "cohere"}, "logit_scale: 0.0625"),
        ({"model_type": "granite", "logits_scaling": 8.0}, "logits_scaling: 8"),
        ({"model_type": "gemma3n_text"}, "final_logit_softcapping: 30"),
    ):
        mentor = {"tokenizer": tokenizer, "from_config": model}
        with pytest.raises(
            RecipeError, match=rf"student.soft_label_store: the mentor mentor .*\({setting}\).* `top_k` or"
        ):
            check_pair(tmp_path, mentor, student)
        for store in ("top_k", "online"):
            check_pair(tmp_path, mentor, student, soft_label_store=store)
    t5gemma = {"tokenizer": tokenizer, "from_config": {"model_type": "t5gemma", "encoder": {}, "decoder": {}}}
    with pytest.raises(RecipeError, match=r"final_logit_softcapping: 30"):
        check_pair(tmp_path, t5gemma, t5gemma)


def test_a_mentor_with_another_end_is_named_and_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base, chat = save(base_tokenizer(), tmp_path / "base"), save(chat_tokenizer(), tmp_path / "chat")
    models = [{"tokenizer": folder, "from_config": GPT2} for folder in (chat, base)]
    check_pair(tmp_path, *models)
    [record] = caplog.records
    assert "the mentor mentor ends its texts with '<s>' (3), student with '</s>' (1)" in record.getMessage()
    small = {"tokenizer": base, "from_config": {**GPT2, "vocab_size": 384}}
    added = chat_tokenizer()
    added.add_special_tokens({"eos_token": "<|im_end|>"})
    large = {"tokenizer": save(added, tmp_path / "added"), "from_config": GPT2}
    with pytest.raises(RecipeError, match="one of their heads has only 384 tokens"):
        check_pair(tmp_path, large, small)


def test_settings_of_a_chat_template_are_checked(tmp_path: Path) -> None:
    raw = small_recipe(tmp_path)
    for settings in ({"chat_template_kwargs": {"x": 1}}, {"chat_date": "2024-01-01"}):
        learner = {"model": {**raw["learners"]["vanilla"]["model"], **settings}}
        (tmp_path / "recipe.yaml").write_text(json.dumps({**raw, "learners": {"vanilla": learner}}))
        with pytest.raises(RecipeError, match=rf"has no chat template; remove `{next(iter(settings))}`"):
            check_models(load_recipe(tmp_path / "recipe.yaml"))


def test_a_loss_that_balances_experts_is_told_to_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for model, told in (
        ({"model_type": "mixtral"}, "router_aux_loss_coef: 0.001"),
        ({"model_type": "dbrx"}, "moe_loss_weight: 0.01"),
        ({"model_type": "mixtral", "router_aux_loss_coef": 0.0}, None),
        (GPT2, None),
    ):
        caplog.clear()
        check(tmp_path, "auto", model)
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == (told is not None)
        assert told is None or f"({told}); mentorkd trains without that loss" in messages[0]


def test_several_processes_cannot_train_a_model_that_skips_layers(tmp_path: Path) -> None:
    raw = small_recipe(tmp_path)
    model = {**raw["learners"]["vanilla"]["model"], "from_config": {"model_type": "m2m_100", "d_model": 16}}
    learner = {**raw["learners"]["vanilla"], "model": model}
    (tmp_path / "recipe.yaml").write_text(json.dumps({**raw, "device": "cpu", "learners": {"vanilla": learner}}))
    check_models(load_recipe(tmp_path / "recipe.yaml"))
    with pytest.raises(RecipeError) as caught:
        check_models(load_recipe(tmp_path / "recipe.yaml", ["learners.vanilla.training.processes=2"]))
    [fault] = caught.value.faults
    assert fault.key == "learners.vanilla.training.processes"
    assert fault.message == (
        "got 2 processes, each of which would skip other layers of the model (encoder_layerdrop: 0.05); set 1, or set the "
        "model's `encoder_layerdrop` to 0"
    )
