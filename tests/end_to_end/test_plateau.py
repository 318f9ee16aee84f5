"""Arms that are trained to their plateau: a whole run of models that learn to say one answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mentorkd.pipeline.plan import estimate
from mentorkd.pipeline.records import TrainRecord
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.load import load_recipe
from mentorkd.reporting.write import read_results
from small_recipe import write_small_recipe

LIMIT = 80
TRAINING = {"updates": LIMIT, "epochs": 20, "patience": 0.25, "cooldown": 0.25, "batch_size": 8, "learning_rate": 1e-2}


def always_seven(data: Path) -> None:
    """Give every question the answer 7, and every rationale the same text."""
    for file in data.glob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        said = {"rationale": "It is 7.", "completion": "7"}
        rows = [{**row, **(said if "rationale" in row else {}), "answer": "7"} for row in rows]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("plateau")
    path = write_small_recipe(folder, match="plateau", training={**TRAINING, "precision": "float32"})
    always_seven(folder / "data")
    pipeline = Pipeline(load_recipe(path, ["learners.student.training.patience=0.99"]), folder / "run")
    notes = estimate(pipeline.recipe, folder / "run").notes
    assert "a plateau may end these trainings earlier (`patience`): mentor, vanilla, student" in notes
    pipeline.run()
    return pipeline


@pytest.mark.slow
def test_arms_end_at_their_plateau_or_at_the_limit(pipeline: Pipeline) -> None:
    assert not any(stage.kind == "budget" for stage in pipeline.stages)
    records = {
        name: pipeline.folder.record_of(TrainRecord, pipeline.stage_of("train", name, 1))  # type: ignore[arg-type]
        for name in ("vanilla", "student")
    }
    vanilla, student = records["vanilla"], records["student"]
    assert vanilla.plateau is not None
    assert vanilla.plateau.found is not None
    assert vanilla.validation_accuracy == 1.0
    assert vanilla.updates == vanilla.plateau.found + -(-vanilla.plateau.found // 4) < LIMIT
    assert student.plateau is not None
    assert (student.plateau.limit, student.plateau.found, student.updates) == (LIMIT, None, LIMIT)
    card = (pipeline.folder.root / "learners/vanilla/seed-1/model/README.md").read_text(encoding="utf-8")
    assert f"; plateau at update {vanilla.plateau.found}\n" in card
    assert "(constant, then a cool-down)" in card


@pytest.mark.slow
def test_the_report_tells_it(pipeline: Pipeline) -> None:
    results = read_results(pipeline.folder.root / "report")
    told = {learner["name"]: learner["plateaus"] for learner in results["learners"]}
    assert told["student"] == [None]
    assert told["vanilla"] != [None]
    assert any("before their plateau: student." in line for line in results["warnings"])
    assert any(f"no plateau by the limit of {LIMIT}" in line for line in results["protocol"])
    assert any(
        line.startswith("Matched by plateau: each of vanilla, student is trained until") for line in results["protocol"]
    )
    assert (pipeline.folder.root / "report/plots/curves-compute.svg").is_file()
    student, vanilla = (next(c for c in results["curves"] if c["learner"] == name) for name in ("student", "vanilla"))
    assert student["validation"][0]["flops"] > vanilla["validation"][0]["flops"]  # type: ignore[operator]
