"""The whole way, on CPU, with two-layer models: it runs, resumes, and redoes only what a change reaches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from mentorkd import precision
from mentorkd.errors import RecipeError, RunError
from mentorkd.pipeline.graph import compile_stages
from mentorkd.pipeline.run import Pipeline, open_run
from mentorkd.recipe.load import load_recipe
from mentorkd.records import Prediction, Rationale, read_jsonl
from places import HELPERS
from small_recipe import small_recipe, write_small_recipe
from tiny_models import tiny_t5, tiny_tokenizer

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@pytest.fixture(scope="module")
def finished(small_run: Path) -> tuple[Path, Path]:
    """A finished run of the small recipe: (recipe file, run folder)."""
    return small_run / "recipe.yaml", small_run / "run"


def test_a_run_leaves_the_folder_of_the_design(finished: tuple[Path, Path]) -> None:
    _, run = finished
    for name in (
        "recipe.yaml",
        "manifest.json",
        "log.jsonl",
        "teacher/rationales.jsonl",
        "report/index.html",
        "report/report.md",
    ):
        assert (run / name).is_file(), name
    for learner in ("mentor", "vanilla", "student"):
        place = run / "learners" / learner / "seed-1"
        assert {"model", "metrics.jsonl", "predictions.jsonl"} <= {path.name for path in place.iterdir()}
    assert (run / "learners/mentor/seed-1/rationales.jsonl").is_file()
    assert len(list((run / "learners/mentor/seed-1/soft_labels").iterdir())) == 2
    assert not (run / "learners/vanilla/seed-1/rationales.jsonl").exists()


def test_models_are_plain_hugging_face_folders(finished: tuple[Path, Path]) -> None:
    folder = finished[1] / "learners/student/seed-1/model"
    assert (folder / "model.safetensors").is_file()
    assert (folder / "README.md").read_text().startswith("---\nlibrary_name: transformers")
    AutoModelForSeq2SeqLM.from_pretrained(folder)
    AutoTokenizer.from_pretrained(folder)


def test_counts_add_up(finished: tuple[Path, Path]) -> None:
    _, run = finished
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    written = read_jsonl(run / "learners/mentor/seed-1/rationales.jsonl", Rationale)
    train = stages["prepare"]["questions"]["train"]
    assert len(written) == 2 * train == sum(stages["learners/mentor/seed-1/augment"]["rationales"].values())
    assert Counter(r.question_id for r in written) == dict.fromkeys({r.question_id for r in written}, 2)
    student = stages["learners/student/seed-1/train"]
    for source in ("teacher", "mentor"):
        rows = [row for row in student["filters"] if row["source"] == source]
        assert all(row["after"] <= row["before"] for row in rows)
        assert all(one["after"] == two["before"] for one, two in pairwise(rows))
    last = {row["source"]: row["after"] for row in student["filters"]}
    assert sum(last.values()) == student["encoding"]["rows"]
    scored = [record["rows"] for name, record in stages.items() if "/score/" in name]
    assert sum(scored) == student["encoding"]["kept"]
    predictions = read_jsonl(run / "learners/student/seed-1/predictions.jsonl", Prediction)
    assert len(predictions) == stages["prepare"]["questions"]["test"]


def test_training_lowers_the_loss(finished: tuple[Path, Path]) -> None:
    for learner in ("mentor", "vanilla", "student"):
        rows = [
            json.loads(line)
            for line in (finished[1] / f"learners/{learner}/seed-1/metrics.jsonl").read_text().splitlines()
        ]
        losses = [row["loss"] for row in rows if "loss" in row]
        assert losses[-1] < 0.9 * losses[0]


def test_a_finished_recipe_runs_nothing_and_loads_no_model(finished: tuple[Path, Path]) -> None:
    recipe, run = finished
    code = (
        "import sys\nfrom pathlib import Path\nfrom mentorkd.pipeline.run import Pipeline\nfrom mentorkd.recipe.load import load_recipe\n"
        f"Pipeline(load_recipe(Path({str(recipe)!r})), Path({str(run)!r})).run()\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    before = (run / "log.jsonl").read_bytes()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=10)
    assert (run / "log.jsonl").read_bytes() == before


def reached(recipe: Path, run: Path, *overrides: str) -> set[str]:
    """Stages that would run after a change, by learner and kind."""
    planned = Pipeline(load_recipe(recipe, overrides), run).plan()
    return {
        "/".join(part for part in p.stage.name.split("/") if part not in ("learners", "seed-1"))
        for p in planned
        if p.state == "runs"
    }


def test_a_change_redoes_only_what_it_reaches(finished: tuple[Path, Path]) -> None:
    recipe, run = finished
    assert reached(recipe, run) == set()
    assert reached(recipe, run, "learners.student.kd_weight=0.9") == {"student/train", "student/evaluate", "report"}
    longer = reached(recipe, run, "learners.vanilla.training.epochs=4")  # the student's train may run, and will not
    assert longer == {"budget", "vanilla/train", "vanilla/evaluate", "report"}
    resampled = reached(recipe, run, "learners.mentor.sampling.temperature=1.0")
    assert {"mentor/augment", "student/train", "student/evaluate", "report"} <= resampled
    assert not {"mentor/train", "vanilla/train", "mentor/evaluate"} & resampled
    assert len(reached(recipe, run, "task.limit_train=20")) == len(Pipeline(load_recipe(recipe), run).stages)


def test_reports_of_trackers_change_no_result(finished: tuple[Path, Path]) -> None:
    assert reached(*finished, "training.report_to=[tensorboard]") == {"report"}


def test_forcing_a_stage_runs_it_and_all_after_it(tmp_path: Path, finished: tuple[Path, Path]) -> None:
    pipeline = open_run(finished[1])
    forced = {stage.kind for stage in pipeline._forced(["evaluate"])}
    assert forced == {"evaluate", "report"}
    with pytest.raises(RunError, match="got --force nothing"):
        pipeline._forced(["nothing"])


def test_every_stage_comes_after_its_needs_and_names_are_unique(finished: tuple[Path, Path]) -> None:
    stages = compile_stages(load_recipe(finished[0], ["seeds=[1,2]"]))
    seen: set[str] = set()
    for stage in stages:
        assert set(stage.needs) <= seen
        assert stage.name not in seen
        seen.add(stage.name)
    assert sum(stage.kind == "train" for stage in stages) == 6


def test_equal_learners_share_soft_labels(tmp_path: Path) -> None:
    raw = small_recipe(tmp_path)
    raw["learners"]["warm"] = {**raw["learners"]["student"], "temperature": 4.0, "kd_weight": 0.9}
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(raw))
    stages = compile_stages(load_recipe(path))
    assert sum(stage.kind == "score" for stage in stages) == 2
    raw["learners"]["warm"]["soft_label_store"] = "top_k"
    path.write_text(json.dumps(raw))
    assert sum(stage.kind == "score" for stage in compile_stages(load_recipe(path))) == 4


def test_probabilities_kept_at_a_temperature_serve_no_other(tmp_path: Path) -> None:
    raw = small_recipe(tmp_path)
    raw["learners"]["student"] |= {"soft_label_store": "top_k", "temperature": 2.0}
    for temperature, stages in ((2.0, 2), (4.0, 4)):
        raw["learners"]["other"] = {**raw["learners"]["student"], "kd_weight": 0.9, "temperature": temperature}
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(raw))
        assert sum(stage.kind == "score" for stage in compile_stages(load_recipe(path))) == stages


def test_the_arithmetic_is_measured_once_and_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = small_recipe(tmp_path)
    raw["training"] |= {"precision": "auto", "epochs": 1}
    raw["learners"] = {"vanilla": raw["learners"]["vanilla"]}
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(raw))
    for gain in (7.0, 0.5):  # the second run measures float32, and must not change to it
        monkeypatch.setattr(precision, "bfloat16_gain", lambda device_type, gain=gain: gain)
        pipeline = Pipeline(load_recipe(path, ["device=cpu"]), tmp_path / "run")
        manifest = pipeline.run(force=["train"])
        told = "measured on cpu: a layer trains 7.0 times as fast in bfloat16 as in float32"
        assert manifest["precision"] == {"cpu": ["bfloat16", told]}
        assert manifest["stages"]["learners/vanilla/seed-1/train"]["precision"] == "bfloat16"


def test_mentors_of_another_vocabulary_are_refused_before_anything_runs(tmp_path: Path) -> None:
    raw = small_recipe(tmp_path)
    other = tiny_tokenizer(["other words entirely " * 3], vocab_size=300)
    tiny_t5(other).save_pretrained(tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    raw["learners"]["mentor"]["model"] = str(tmp_path / "other")
    raw["learners"]["student"]["soft_label_store"] = "hidden"
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(raw))
    with pytest.raises(
        RecipeError, match=r"learners.student.soft_labels: mentor and student have different vocabularies"
    ):
        Pipeline(load_recipe(path), tmp_path / "run").run()
    assert not (tmp_path / "run" / "data").exists()


def test_killed_at_ten_random_moments_the_result_is_that_of_an_undisturbed_run(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path)
    driver = HELPERS / "kill_driver.py"
    told = subprocess.run(
        [sys.executable, str(driver), str(recipe), str(tmp_path / "killed"), "10", "5"],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr[-3000:]
    summary = json.loads(told.stdout.splitlines()[-1])
    assert summary["last"] == 0, told.stderr[-3000:]
    assert summary["hits"] >= 3  # all ten on a quiet machine; fewer where the run got faster than it was when timed
    disturbed, undisturbed = (
        (tmp_path / name / "report" / "results.json").read_bytes() for name in ("killed", "undisturbed")
    )
    assert disturbed == undisturbed
    done: set[str] = set()
    for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "started":
            assert event["stage"] not in done, f"{event['stage']} had finished and ran again"
        else:
            done.add(event["stage"])
    assert not list((tmp_path / "killed" / ".work").iterdir())
