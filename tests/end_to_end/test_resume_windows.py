"""Kills that random moments miss: after a stage has made its outputs, and between the renames of its publication."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mentorkd.pipeline.run import Pipeline
from mentorkd.pipeline.run_folder import RunFolder, Stage
from mentorkd.recipe.load import load_recipe


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


@pytest.fixture(scope="module")
def undisturbed(small_run: Path) -> tuple[Path, bytes]:
    return small_run / "recipe.yaml", (small_run / "run" / "report" / "results.json").read_bytes()


@pytest.mark.parametrize("moment", ["publish", "_roll_forward"])
def test_killed_before_every_publication_the_result_is_the_same(
    undisturbed: tuple[Path, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    recipe, expected = undisturbed
    killed: set[str] = set()
    original = getattr(RunFolder, moment)

    def die_once(self: RunFolder, where: Stage | Path, *rest: object) -> object:
        name = where.name if isinstance(where, Stage) else where.name.partition("@")[0]
        if name not in killed:
            killed.add(name)
            raise Killed
        return original(self, where, *rest)

    monkeypatch.setattr(RunFolder, moment, die_once)
    pipeline = Pipeline(load_recipe(recipe), tmp_path / "run")
    for _ in range(3 * len(pipeline.stages)):
        try:
            pipeline.run()
            break
        except Killed:
            continue
    assert len(killed) == len(pipeline.stages)
    assert (tmp_path / "run" / "report" / "results.json").read_bytes() == expected
    assert not list((tmp_path / "run" / ".work").iterdir())
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert set(manifest["stages"]) == {stage.name for stage in pipeline.stages}


def test_work_left_by_a_kill_during_its_removal_is_cleaned(undisturbed: tuple[Path, bytes]) -> None:
    recipe, _ = undisturbed
    run = recipe.parent / "run"
    stage = Pipeline(load_recipe(recipe), run).stages[0]
    left = run / ".work" / f"{stage.name}@{stage.fingerprint}"
    left.mkdir()
    (left / "big").write_text("x")
    Pipeline(load_recipe(recipe), run).run()
    assert not left.exists()


def test_a_refused_recipe_leaves_the_finished_run_as_it_was(undisturbed: tuple[Path, bytes]) -> None:
    recipe, _ = undisturbed
    run = recipe.parent / "run"
    before = (run / "recipe.yaml").read_bytes()
    with pytest.raises(Exception, match="vllm"):
        Pipeline(load_recipe(recipe, ["sampling.engine=vllm", "learners.vanilla.training.epochs=9"]), run).run()
    assert (run / "recipe.yaml").read_bytes() == before
    assert all(planned.state == "done" for planned in Pipeline(load_recipe(recipe), run).plan())
