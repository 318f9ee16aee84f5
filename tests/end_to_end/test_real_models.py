"""GGUF files and cut models in recipes: checked before anything runs, trained, saved, told in cards and reports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from transformers import AutoModelForCausalLM

from gguf_files import write_gguf
from mentorkd.errors import RecipeError
from mentorkd.pipeline.graph import compile_stages
from mentorkd.pipeline.preflight import check_models
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.load import dump_recipe, load_recipe
from mentorkd.recipe.schema import Recipe
from mentorkd.reporting.write import read_results
from small_recipe import small_recipe
from tiny_models import tiny_llama, tiny_tokenizer

pytest.importorskip("gguf", reason="the extra `gguf` is not installed")


def recipe(folder: Path, model: Any, **changes: Any) -> Recipe:
    raw = small_recipe(folder, **changes)
    raw["training"] |= {"epochs": 1, "learning_rate": 1e-3}
    raw["learners"] = {
        "untrained": {"model": model, "rationales": []},
        "student": {"model": {**model, "layers": [0, 2]}},
    }
    (folder / "recipe.yaml").write_text(json.dumps(raw), encoding="utf-8")
    return load_recipe(folder / "recipe.yaml")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    tokenizer = tiny_tokenizer(append_eos=False)
    return write_gguf(tmp_path / "tiny.gguf", tiny_llama(tokenizer, num_hidden_layers=3), tokenizer, kind="Q4_1")


def test_a_gguf_file_is_cut_and_trained(file: Path, tmp_path: Path) -> None:
    small = recipe(tmp_path, {"name": str(file)})
    pipeline = Pipeline(small, tmp_path / "run")
    pipeline.run()
    folder = pipeline.folder.model(pipeline.trained("student", 1))
    assert AutoModelForCausalLM.from_pretrained(folder).config.num_hidden_layers == 2
    told = "tiny.gguf, dequantised 4-bit weights (Q4_1), cut to layers 0, 2"
    assert f"- weights before training: {told}\n" in (folder / "README.md").read_text(encoding="utf-8")
    rows = {row["name"]: row["model"] for row in read_results(tmp_path / "run" / "report")["learners"]}
    assert rows == {"untrained": "tiny.gguf, dequantised 4-bit weights (Q4_1)", "student": told}
    (card,) = (tmp_path / "run").rglob("untrained-*/README.md")
    assert "tiny.gguf, dequantised 4-bit weights (Q4_1)" in card.read_text(encoding="utf-8")
    (tmp_path / "again.yaml").write_text(dump_recipe(small), encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml").learners == small.learners


def test_a_file_is_known_by_its_content(file: Path, tmp_path: Path) -> None:
    def fingerprints(model: dict[str, Any]) -> set[str]:
        stages = compile_stages(recipe(tmp_path, model))
        return {stage.fingerprint for stage in stages if stage.kind != "report"}  # which shows the file's name

    first = fingerprints({"name": str(file)})
    assert fingerprints({"name": str(tmp_path), "gguf_file": file.name}) == first
    moved = Path(shutil.move(file, tmp_path / "moved.gguf"))
    assert fingerprints({"name": str(moved)}) == first
    write_gguf(moved, tiny_llama(tiny_tokenizer(append_eos=False), num_hidden_layers=3, seed=5), tiny_tokenizer())
    assert fingerprints({"name": str(moved)}) != first


def test_faults_are_told_before_anything_runs(file: Path, tmp_path: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(RecipeError) as caught:
        check_models(recipe(tmp_path, {"name": str(file)}))
    [fault] = caught.value.faults
    assert fault.key == "learners.untrained.model, learners.student.model"
    assert "is damaged or no GGUF file" in fault.message
    with pytest.raises(RecipeError, match=r"learners.student.model.name: no file or folder at .*absent.gguf"):
        recipe(tmp_path, {"name": "absent.gguf"})
    with pytest.raises(RecipeError, match=r"learners.student.model: got `layers` with 2, but the last encoder layer"):
        check_models(recipe(tmp_path, small_recipe(tmp_path)["learners"]["student"]["model"]))
