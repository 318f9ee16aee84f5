"""Finished trainings whose weights an earlier version may have restored wrongly run again, and no others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from command_line import Cli
from finished import copy_run
from mentorkd.errors import DamagedError
from mentorkd.pipeline.outdated import CONVERTED
from mentorkd.pipeline.run import Pipeline, Reporter
from mentorkd.pipeline.run_folder import Stage
from mentorkd.recipe.load import load_recipe

VANILLA = "learners/vanilla/seed-1"


def aged(run: Path, learner: str, model_type: str) -> None:
    """Make the finished training of a learner one of an earlier version, of a model of this type."""
    mark = run / f".stages/learners.{learner}.seed-1.train.json"
    record = json.loads(mark.read_text())
    assert record.pop("checkpoint_format", 2) == 2
    for later in ("seal", "files"):
        record.pop(later, None)
    mark.write_text(json.dumps(record))
    config = run / f"learners/{learner}/seed-1/model/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": model_type}))


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    return copy_run(small_run / "run", tmp_path / "run")


def pipeline_of(run: Path, reporter: Reporter | None = None) -> Pipeline:
    return Pipeline(load_recipe(run / "recipe.yaml"), run, reporter)


def waiting(pipeline: Pipeline) -> list[str]:
    return [planned.stage.name for planned in pipeline.plan() if planned.state != "done"]


class Notes(Reporter):
    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []
        self.ran: list[str] = []

    def note(self, text: str, stage: Stage) -> None:
        self.notes.append((stage.name, text))

    def started(self, stage: Stage, number: int, total: int) -> None:
        self.ran.append(stage.name)


def test_an_old_training_of_a_converted_family_runs_again_with_all_that_needs_it(run: Path) -> None:
    reporter = Notes()
    pipeline = pipeline_of(run, reporter)
    before = {stage.name: stage.fingerprint for stage in pipeline.stages}
    assert waiting(pipeline) == []

    aged(run, "vanilla", "t5")
    assert waiting(pipeline) == []

    aged(run, "vanilla", "gpt_neox")
    mine = [f"{VANILLA}/train", f"{VANILLA}/evaluate", "report"]
    assert waiting(pipeline) == mine
    pipeline.run()
    assert reporter.ran == mine
    assert reporter.notes == [
        (f"{VANILLA}/train", f"{VANILLA}/train runs again: an earlier version restored other weights")
    ]
    assert waiting(pipeline) == []
    assert {stage.name: stage.fingerprint for stage in pipeline.stages} == before

    aged(run, "mentor", "mixtral")
    assert set(waiting(pipeline)) == {name for name in before if not name.startswith(("prepare", "annotate"))}


def test_t5gemma_of_a_version_without_its_decoder_mask_runs_again(run: Path) -> None:
    aged(run, "vanilla", "t5gemma")
    [training] = [planned for planned in pipeline_of(run).plan() if planned.stage.name == f"{VANILLA}/train"]
    assert (training.state, training.outdated) == ("runs", "an earlier version trained it with a wrong decoder mask")


def test_stages_after_the_last_one_asked_for_are_not_forgotten(run: Path) -> None:
    aged(run, "vanilla", "gpt_neox")
    reporter = Notes()
    pipeline = pipeline_of(run, reporter)
    pipeline.run(until="annotate")
    assert (reporter.ran, reporter.notes) == ([], [])
    assert pipeline.folder.last(f"{VANILLA}/train") is not None
    assert waiting(pipeline) == [f"{VANILLA}/train", f"{VANILLA}/evaluate", "report"]


def test_plan_tells_what_is_replaced_and_why(run: Path, cli: Cli) -> None:
    aged(run, "vanilla", "gpt_neox")
    planned = json.loads(cli("plan", run / "recipe.yaml", "--run", run, "--json").out)
    assert {s["stage"] for s in planned["stages"] if s["replaces"]} == {f"{VANILLA}/train", f"{VANILLA}/evaluate"}
    start = "replaces finished results of an earlier version: "
    assert planned["notes"][:2] == [
        f"{start}{VANILLA}/train (an earlier version restored other weights)",
        f"{start}{VANILLA}/evaluate (a training that it needs runs again)",
    ]


@pytest.mark.parametrize("command", [("ask",), ("evaluate", "--questions")])
def test_wrong_weights_answer_no_question(run: Path, small_run: Path, cli: Cli, command: tuple[str, ...]) -> None:
    aged(run, "vanilla", "gpt_neox")
    given = "What is 1 + 2?" if command[0] == "ask" else small_run / "data" / "test.jsonl"
    outcome = cli(command[0], run, *command[1:], given, "--learner", "vanilla")
    assert outcome.code == 2
    assert f"{VANILLA}/train has to run again, because an earlier version restored other weights" in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_config_is_named_with_what_to_do(run: Path, text: str) -> None:
    aged(run, "vanilla", "t5")
    model = run / VANILLA / "model"
    (model / "config.json").write_text(text)
    for use in (Pipeline.plan, Pipeline.run):
        with pytest.raises(DamagedError, match=r"config.json is damaged .*; remove the folder .*/model and") as error:
            use(pipeline_of(run))
        assert "\n" not in str(error.value)
    shutil.rmtree(model)
    assert f"{VANILLA}/train" in waiting(pipeline_of(run))


@pytest.mark.parametrize("name", ["t5", "mt5", "gpt2", "llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3"])
def test_families_without_conversion_are_not_in_the_list(name: str) -> None:
    assert name not in CONVERTED
