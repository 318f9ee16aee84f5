"""The first recipe for a model that a user names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mentorkd.errors import ModelError
from mentorkd.recipe.advice import rates_for
from mentorkd.recipe.graph import initial_model
from mentorkd.recipe.load import parse_recipe
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.starter import starter_recipe

STUDENTS = ["google/flan-t5-small", "Qwen/Qwen3-0.6B", "gpt2", "HuggingFaceTB/SmolLM2-135M-Instruct", "nano-t5-small"]


def recipe_for(model: str, folder: Path) -> tuple[Recipe, str, str]:
    starter = starter_recipe("mine 2024", model)
    return parse_recipe(starter.text, source="recipe.yaml", base=folder), starter.text, starter.assumed


@pytest.mark.parametrize("model", STUDENTS)
def test_the_recipe_loads_and_every_setting_has_its_reason(model: str, tmp_path: Path) -> None:
    recipe, text, assumed = recipe_for(model, tmp_path)
    assert recipe.name == "mine 2024"
    assert assumed.startswith(f"{model}: ")
    training = text.split("\ntraining:\n")[1].split("\n\n")[0].splitlines()
    assert all(len(line.split(" # ")) == 2 for line in training)
    assert text.count("yours") == 5  # the four lines, and the sentence that names them
    student, mentor = (initial_model(recipe, name).name for name in ("student", "mentor"))
    assert student != mentor


def test_rates_and_lengths_fit_the_model(tmp_path: Path) -> None:
    small, qwen, nano = (recipe_for(model, tmp_path)[0] for model in (STUDENTS[0], STUDENTS[1], STUDENTS[4]))
    rates = [recipe.learners["student"].training.learning_rate for recipe in (small, qwen, nano)]
    assert rates == [3e-4, 5e-5, 1e-3]
    assert small.learners["mentor"].model.name == "google/flan-t5-large"
    assert (
        small.learners["student"].training.max_target_tokens == small.learners["student"].sampling.max_new_tokens == 256
    )
    assert qwen.learners["student"].model.chat_template_kwargs == {"enable_thinking": False}
    assert qwen.learners["mentor"].model.lora is not None
    assert qwen.learners["mentor"].training.gradient_checkpointing


def test_a_large_model_of_unknown_name_gets_adapters_by_the_number_in_its_name(tmp_path: Path) -> None:
    recipe, text, assumed = recipe_for("someone/Model-3B-chat", tmp_path)
    assert assumed == (
        "someone/Model-3B-chat: a decoder-only model of 3 B weights, by the number in its name and the family that its name suggests"
    )
    assert recipe.learners["student"].model.lora is not None
    assert recipe.learners["student"].training.learning_rate == rates_for(3e9, "causal", lora=True).usual
    assert "all weights would take 48 GB" in text
    assert "the same model: none is known" in text


def test_a_folder_gets_its_path_its_kind_and_no_more_tokens_than_positions(tmp_path: Path) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "gpt2", "n_embd": 64, "n_head": 2, "n_positions": 300})
    )
    recipe, _, assumed = recipe_for(str(folder), tmp_path)
    learner = recipe.learners["student"]
    assert learner.model.name == str(folder)
    assert "by its config.json" in assumed
    assert learner.training.max_source_tokens + learner.training.max_target_tokens <= 300


@pytest.mark.parametrize("model", ["./absent", "some/folder/absent", "absent.gguf"])
def test_a_path_with_nothing_there_is_refused(model: str) -> None:
    with pytest.raises(ModelError, match=r"no file or folder at /.*absent"):
        starter_recipe("mine", model)


def test_a_gguf_file_is_named_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "qwen2.5-0.5b-q8_0.gguf"
    file.write_bytes(b"GGUF")
    recipe, _, assumed = recipe_for(str(file), tmp_path)
    assert recipe.learners["student"].model.name == str(file)
    assert "a decoder-only model of 0.5 B weights, by the number in its name" in assumed
