"""The examples of docs/extending.md: each applies to the package, touches as few files as it says, and works."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mentorkd.records import Rationale, read_jsonl
from places import ROOT, SOURCE
from small_recipe import small_recipe

FILES = {
    "A divergence": 2,
    "A filter": 2,
    "An objective": 4,
    "A teacher backend": 3,
    "An engine": 3,
    "A kind of stage": 4,
}
"""Source files that each addition touches."""

OUTSIDE_REPOSITORIES = {**os.environ, "GIT_CEILING_DIRECTORIES": "/"}
"""So that `git apply` works on the copy as it stands, wherever the copy lies."""

DIFFS = dict(
    re.findall(
        r"^## ([^\n]+)\n.*?^```diff\n(.*?)^```", (ROOT / "docs" / "extending.md").read_text("utf-8"), re.S | re.M
    )
)


def _without_weights(folder: str, names: list[str]) -> set[str]:
    """What the copy leaves out: the nano models, and compiled files."""
    return {"__pycache__", *(["models"] if Path(folder).name == "quickstart" else [])}


@pytest.mark.parametrize("addition", FILES)
def test_an_addition_costs_as_many_files_as_the_page_says(addition: str) -> None:
    assert list(DIFFS) == list(FILES)
    assert DIFFS[addition].count("\n+++ b/src/mentorkd/") == DIFFS[addition].count("\n+++ ") == FILES[addition]


def test_all_examples_together_run_a_recipe_that_uses_them(tmp_path: Path) -> None:
    shutil.copytree(SOURCE, tmp_path / "src" / "mentorkd", ignore=_without_weights)
    for addition, diff in DIFFS.items():
        applied = subprocess.run(
            ["git", "apply", "-"], cwd=tmp_path, input=diff, capture_output=True, text=True, env=OUTSIDE_REPOSITORIES
        )
        assert applied.returncode == 0, f"{addition}: {applied.stderr}"
    recipe = small_recipe(tmp_path, teacher={"kind": "echo", "words": "I say so."})
    model = recipe["learners"]["vanilla"]["model"]
    recipe["learners"]["mentor"]["select"]["no_repeats"] = True
    recipe["learners"]["student"]["divergence"] = "skew_kl"
    recipe["learners"]["weighted"] = {"model": model, "objective": "answer_weighted"}
    recipe["task"] |= {"limit_train": 6, "limit_test": 2}
    recipe["training"]["epochs"] = 1
    recipe["sampling"] = {"samples": 1, "max_new_tokens": 4, "engine": "generate"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mentorkd", "run", "recipe.yaml", "--run", "run", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    stages = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["stages"]
    assert {rationale.text for rationale in read_jsonl(run / "teacher" / "rationales.jsonl", Rationale)} == {
        "I say so."
    }
    assert stages["learners/mentor/seed-1/augment"]["engine"] == "generate"
    assert 0 < stages["learners/mentor/seed-1/lengths"]["longest"] <= 4
    filters = [row["filter"] for row in stages["learners/student/seed-1/train"]["filters"] if row["source"] == "mentor"]
    assert "no_repeats" in filters
    assert stages["learners/student/seed-1/train"]["fused_loss"]
    logs = {
        name: json.loads((run / f"learners/{name}/seed-1/metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
        for name in ("student", "weighted")
    }
    assert logs["student"]["divergence"] > 0
    weighted = logs["weighted"]
    assert weighted["loss"] == pytest.approx(weighted["ce"] + weighted["ce_answer"], rel=1e-4)
