"""Curation in a run: what a decision reaches, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from finished import copy_run
from mentorkd.data.overlay import Decision, append_decision
from mentorkd.errors import DataError, RecipeError, RunError
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.plan import estimate
from mentorkd.pipeline.records import CurateRecord
from mentorkd.pipeline.run import Pipeline
from mentorkd.pipeline.stages.curate import curate
from mentorkd.recipe.load import load_recipe
from mentorkd.records import Rationale, read_jsonl
from mentorkd.reporting.write import read_results


@pytest.fixture
def recipe(small_run: Path, tmp_path: Path) -> Path:
    """The recipe of the small run with an overlay that is not there yet."""
    raw = yaml.safe_load((small_run / "recipe.yaml").read_text())
    raw["teacher"]["overlay"] = "curated.jsonl"
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(raw, sort_keys=False))
    return file


def states(pipeline: Pipeline) -> dict[str, str]:
    return {planned.stage.name: planned.state for planned in pipeline.plan()}


def decide(recipe: Path, run: Path) -> list[Rationale]:
    """Reject the teacher's first rationale and edit the second; all of them as they were."""
    rationales = read_jsonl(run / "teacher" / "rationales.jsonl", Rationale)
    overlay = recipe.parent / "curated.jsonl"
    append_decision(overlay, Decision.on(rationales[0], "reject", by="ann", why="wrong"))
    append_decision(overlay, Decision.on(rationales[1], "edit", by="ann", why="shorter", text="It is 5."))
    return rationales


def test_without_a_decision_a_finished_run_stays_finished(recipe: Path, small_run: Path, tmp_path: Path) -> None:
    run = copy_run(small_run / "run", tmp_path / "run")
    assert set(states(Pipeline(load_recipe(recipe), run)).values()) == {"done"}
    rationale = read_jsonl(run / "teacher" / "rationales.jsonl", Rationale)[0]
    for action in ("reject", "restore"):
        append_decision(tmp_path / "curated.jsonl", Decision.on(rationale, action, by="ann", why=""))  # type: ignore[arg-type]
    assert set(states(Pipeline(load_recipe(recipe), run)).values()) == {"done"}


def test_a_decision_redoes_what_it_reaches(recipe: Path, small_run: Path, tmp_path: Path) -> None:
    run = copy_run(small_run / "run", tmp_path / "run")
    before = decide(recipe, run)
    pipeline = Pipeline(load_recipe(recipe), run)
    planned = states(pipeline)
    assert [name for name, state in planned.items() if state == "done"] == ["prepare", "annotate"]
    assert planned["curate"] == "runs"

    pipeline.run(until="curate")
    record = pipeline.folder.record_of(CurateRecord, "curate")
    assert (record.before, record.rejected, record.edited, record.unmatched) == (len(before), 1, 1, 0)
    after = read_jsonl(run / "teacher" / "curated" / "rationales.jsonl", Rationale)
    assert after[1:] == before[2:]
    assert (after[0].text, after[0].predicted, after[0].meta["edited_from"]) == ("It is 5.", "5", before[1].id)
    assert read_jsonl(run / "teacher" / "rationales.jsonl", Rationale) == before, "what the teacher wrote stays"


@pytest.mark.slow  # it trains again
def test_the_report_counts_what_people_rejected(recipe: Path, small_run: Path, tmp_path: Path) -> None:
    run = copy_run(small_run / "run", tmp_path / "run")
    before = len(decide(recipe, run))
    pipeline = Pipeline(load_recipe(recipe), run)
    pipeline.run()
    assert set(states(pipeline).values()) == {"done"}
    filters = read_results(pipeline.folder.report())["filters"]
    rows = [row for row in filters if (row["learner"], row["source"]) == ("vanilla", "teacher")]
    assert [(row["filter"], row["before"], row["after"]) for row in rows[:2]] == [
        ("overlay", before, before - 1),
        ("training_questions", before - 1, before - 1),
    ]


def test_plan_tells_of_decisions(recipe: Path, small_run: Path) -> None:
    before = decide(recipe, small_run / "run")
    estimates = estimate(load_recipe(recipe), small_run / "run")
    assert "overlay: 1 rationales rejected, 1 edited" in estimates.dropped
    assert estimates.kept["vanilla"] < len(before)


def test_decisions_that_changed_since_the_run_began_are_not_applied(
    recipe: Path, small_run: Path, tmp_path: Path
) -> None:
    decide(recipe, small_run / "run")
    pipeline = Pipeline(load_recipe(recipe), small_run / "run")
    stage = next(stage for stage in pipeline.stages if stage.kind == "curate")
    (tmp_path / "curated.jsonl").write_text((tmp_path / "curated.jsonl").read_text().splitlines()[0])
    with pytest.raises(RunError, match="has changed since the run began; run the recipe again"):
        curate(RunContext(pipeline.recipe, pipeline.folder), stage, tmp_path)


def test_a_faulty_overlay_ends_a_plan_with_its_row(recipe: Path, small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "curated.jsonl").write_text("nothing\n")
    with pytest.raises(DataError, match=r"curated.jsonl, row 1: not JSON"):
        Pipeline(load_recipe(recipe), small_run / "run").plan()


def test_an_overlay_in_the_run_folder_ends_a_plan(recipe: Path, small_run: Path) -> None:
    overlay = small_run / "run" / "curated.jsonl"
    with pytest.raises(RunError, match=r"curated.jsonl lies in the run folder"):
        Pipeline(load_recipe(recipe, [f"teacher.overlay={overlay}"]), small_run / "run").plan()


def test_an_overlay_is_a_file_of_json_lines(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"got '.*/\.bashrc'; expected a file of JSON Lines, NAME.jsonl"):
        load_recipe(recipe, ["teacher.overlay=.bashrc"])
    with pytest.raises(RecipeError, match=r"no folder .*/decided for the overlay; make it"):
        load_recipe(recipe, ["teacher.overlay=decided/curated.jsonl"])
    (tmp_path / "curated.jsonl").mkdir()
    with pytest.raises(RecipeError, match=r"curated.jsonl is a folder or a device; expected a file of decisions"):
        load_recipe(recipe)
