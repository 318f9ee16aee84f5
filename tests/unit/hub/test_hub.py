"""A hub model is its commit: what the local cache says, what a run remembers, and what fingerprints hash."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import constants
from transformers import AutoTokenizer

from mentorkd.hub import UNKNOWN, HubModels, cached_commit
from mentorkd.models import load_model
from mentorkd.pipeline.graph import compile_stages, hub_models
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.learner import ModelConfig
from mentorkd.recipe.load import load_recipe
from mentorkd.recipe.schema import Recipe
from small_recipe import small_recipe
from tiny_models import tiny_llama, tiny_tokenizer

NAME = "someone/tiny-chat"
FIRST, SECOND = "a" * 40, "b" * 40
DATED = "{{ strftime_now('%Y') }}{% for message in messages %}{{ message.content }}{% endfor %}"
PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"

Put = Callable[..., None]


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Puts a commit of the model into a cache of its own, as huggingface_hub lays it out, and lets `main` point to it."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def put(commit: str, *, seed: int = 0, template: str | None = None, name: str = NAME) -> None:
        repository = cache / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
        tokenizer = tiny_tokenizer(append_eos=False)
        tokenizer.chat_template = template
        tiny_llama(tokenizer, seed=seed, num_hidden_layers=1).save_pretrained(repository / "snapshots" / commit)
        tokenizer.save_pretrained(repository / "snapshots" / commit)

    return put


def recipe_of(folder: Path, **learner: Any) -> Recipe:
    raw = small_recipe(folder)
    raw["learners"] = {"vanilla": {"model": NAME, **learner}}
    raw["training"]["epochs"] = 1
    (folder / "recipe.yaml").write_text(yaml.safe_dump(raw))
    return load_recipe(folder / "recipe.yaml")


def fingerprints(recipe: Recipe, hub: HubModels = UNKNOWN) -> dict[str, str]:
    return {stage.kind: stage.fingerprint for stage in compile_stages(recipe, hub=hub)}


def test_the_cache_tells_the_commit_of_a_name(put: Put, tmp_path: Path) -> None:
    assert cached_commit(NAME, None) is None
    put(FIRST)
    assert cached_commit(NAME, None) == cached_commit(NAME, "main") == FIRST
    assert cached_commit(NAME, "v1") is None
    assert cached_commit(NAME, SECOND) == SECOND  # a commit is itself
    assert cached_commit(str(tmp_path), None) is None


def test_another_commit_is_another_model(put: Put, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    unknown = fingerprints(recipe)
    put(FIRST)
    used = UNKNOWN.after_use(hub_models(recipe))
    assert used.commits == {f"{NAME}@main": [FIRST]}
    first = fingerprints(recipe, used)
    assert first == unknown == fingerprints(recipe)  # a run from before commits were recorded stays finished
    put(SECOND)
    second = fingerprints(recipe, used)
    assert {kind for kind in first if first[kind] != second[kind]} == {"budget", "train", "evaluate", "report"}
    used = used.after_use(hub_models(recipe))
    assert used.commits == {f"{NAME}@main": [FIRST, SECOND]}
    assert fingerprints(recipe, used) == second
    put(FIRST)
    assert fingerprints(recipe, used) == first
    assert used.after_use(hub_models(recipe)).commits == {f"{NAME}@main": [FIRST, SECOND, FIRST]}


def test_a_machine_without_the_model_agrees(put: Put, tmp_path: Path) -> None:
    recipe, used = recipe_of(tmp_path), UNKNOWN
    for commit, template in ((FIRST, PLAIN), (SECOND, DATED)):
        put(commit, template=template)
        used = used.after_use(hub_models(recipe))
    here = fingerprints(recipe, used)
    assert here != fingerprints(recipe)
    shutil.rmtree(tmp_path / "cache")
    assert fingerprints(recipe, HubModels(**asdict(used))) == here


def test_a_template_with_todays_date_makes_other_prompts_than_it_did(put: Put, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    put(FIRST, template=PLAIN)
    plain = fingerprints(recipe)
    put(FIRST, template=DATED)
    dated = fingerprints(recipe)
    assert dated["train"] != plain["train"]
    for settings in ({"chat_date": "2025-01-01"}, {"chat_template_kwargs": {"enable_thinking": False}}):
        other = fingerprints(recipe_of(tmp_path, model={"name": NAME, **settings}))
        assert len({other["train"], dated["train"], plain["train"]}) == 3
    same = fingerprints(recipe_of(tmp_path, model={"name": NAME, "chat_date": "2024-07-26"}))
    assert same["train"] == dated["train"]


def test_a_local_teacher_is_its_commit_too(put: Put, tmp_path: Path) -> None:
    raw = small_recipe(tmp_path)

    def annotated(hub: HubModels = UNKNOWN, **settings: Any) -> str:
        teacher = {"kind": "local", "model": NAME, "samples": 2, **settings}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**raw, "teacher": teacher}))
        return fingerprints(load_recipe(tmp_path / "recipe.yaml"), hub)["annotate"]

    unknown = annotated()
    put(FIRST, template=PLAIN)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    used = UNKNOWN.after_use(hub_models(recipe))
    assert annotated(used) == unknown
    put(SECOND, template=PLAIN)
    moved = annotated(used)
    put(SECOND, template=DATED)
    dated = annotated(used)
    variables = annotated(used, chat_template_kwargs={"enable_thinking": False})
    assert len({unknown, moved, dated, variables}) == 4


def local_teacher(folder: Path) -> Recipe:
    raw = small_recipe(folder)
    raw["teacher"] = {"kind": "local", "model": NAME, "samples": 1, "max_tokens": 4, "engine": "transformers"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(raw))
    return load_recipe(folder / "recipe.yaml")


def test_a_dated_teacher_that_the_first_run_downloads_is_asked_once(
    put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = local_teacher(tmp_path), tmp_path / "run"
    (tmp_path / "cache" / "models--someone--tiny-chat").mkdir(parents=True)  # nothing asks whether the hub answers

    def downloading(read: Callable[..., Any]) -> Callable[..., Any]:
        def first(*args: Any, **settings: Any) -> Any:
            if NAME in args and cached_commit(NAME, None) is None:
                put(FIRST, template=DATED)
            return read(*args, **settings)

        return first

    for owner, name in ((AutoTokenizer, "from_pretrained"), (huggingface_hub, "snapshot_download")):
        monkeypatch.setattr(owner, name, downloading(getattr(owner, name)))
    Pipeline(recipe, run).run(until="annotate")
    again = Pipeline(recipe, run)
    assert again.folder.hub_models == HubModels({f"{NAME}@main": [FIRST]}, [f"{NAME}@main"])
    assert {p.stage.kind for p in again.plan() if p.state == "done"} == {"prepare", "annotate"}


def test_a_teacher_runs_the_commit_that_was_hashed(put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(FIRST, template=PLAIN)
    asked: list[str | None] = []

    def moved(model: str, *, revision: str | None, **settings: Any) -> str:
        """The hub, where `main` is another commit now."""
        asked.append(revision)
        return str(tmp_path / "cache" / "models--someone--tiny-chat" / "snapshots" / (revision or SECOND))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", moved)
    Pipeline(local_teacher(tmp_path), tmp_path / "run").run(until="annotate")
    assert asked == [FIRST]


def test_weights_are_those_of_the_commit_that_was_hashed(put: Put) -> None:
    put(FIRST, seed=1)
    put(SECOND, seed=2)
    device = torch.device("cpu")
    heads = [
        load_model(ModelConfig(name=NAME, revision=commit), seed=0, device=device).model.lm_head.weight
        for commit in (FIRST, SECOND, None)
    ]
    assert torch.equal(heads[1], heads[2])
    assert not torch.equal(heads[0], heads[2])


def test_a_run_goes_on_with_the_commit_that_it_finds(put: Put, tmp_path: Path) -> None:
    put(FIRST)
    recipe = recipe_of(tmp_path, rationales=[])
    states = lambda: {planned.stage.kind: planned.state for planned in Pipeline(recipe, tmp_path / "run").plan()}  # noqa: E731
    manifest = Pipeline(recipe, tmp_path / "run").run()
    assert manifest["hub_commits"] == {f"{NAME}@main": FIRST}
    assert set(states().values()) == {"done"}
    put(SECOND, seed=1)
    assert states() == {"prepare": "done", "annotate": "done", "evaluate": "runs", "report": "runs"}
    manifest = Pipeline(recipe, tmp_path / "run").run()
    assert manifest["hub_commits"] == {f"{NAME}@main": SECOND}
    shutil.rmtree(tmp_path / "cache")
    assert set(states().values()) == {"done"}
