"""Damaged files of a run: flipped bits and halves of every kind of file are told in one line or healed, and never used."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from pathlib import Path

import pytest

from command_line import Cli
from damage import finished_artefacts, flip, halve, outcomes, unfinished_artefacts
from finished import copy_run
from mentorkd.errors import DamagedError
from mentorkd.files import write_json
from mentorkd.pipeline.run import Pipeline, open_run
from mentorkd.recipe.load import load_recipe
from mentorkd.teachers.cache import Reply, RequestCache

MENTOR = "learners/mentor/seed-1"


def assert_found(counts: Counter[str], name: str) -> None:
    assert set(counts) <= {"told", "same", "half: told", "half: same"}, f"{name}: {dict(counts)}"


@pytest.mark.parametrize("flips", [1, pytest.param(25, marks=pytest.mark.slow)])
def test_damage_to_a_finished_run_is_found(flips: int, small_run: Path, tmp_path: Path) -> None:
    for artefact in finished_artefacts(copy_run(small_run / "run", tmp_path / "run")):
        assert_found(outcomes(artefact, flips), artefact.name)


@pytest.mark.parametrize("flips", [1, pytest.param(25, marks=pytest.mark.slow)])
def test_damage_to_an_unfinished_run_is_found(flips: int, small_run: Path, tmp_path: Path) -> None:
    for artefact in unfinished_artefacts(tmp_path, small_run / "run", checkpoints=flips > 1):
        assert_found(outcomes(artefact, flips), artefact.name)


def test_a_stage_is_not_fed_half_of_a_file(small_run: Path, tmp_path: Path) -> None:
    """Removing the file, as the message says, makes it again, and nothing else."""
    run = copy_run(small_run / "run", tmp_path / "run")
    pipeline = Pipeline(load_recipe(small_run / "recipe.yaml"), run)
    file = run / MENTOR / "rationales.jsonl"
    before = file.read_bytes()
    lines = before.splitlines(keepends=True)
    file.write_bytes(b"".join(lines[: len(lines) // 2]))  # whole lines: every reader takes them
    force = ["learners/student/seed-1/train"]
    with pytest.raises(
        DamagedError, match=r"mentor/seed-1/rationales.jsonl has [0-9,]+ bytes, expected [0-9,]+; remove"
    ):
        pipeline.run(force=force)
    file.unlink()
    again = Pipeline(load_recipe(small_run / "recipe.yaml"), run)
    assert f"{MENTOR}/augment" in [planned.stage.name for planned in again.plan() if planned.state == "runs"]
    again.run(until="augment")
    assert file.read_bytes() == before


def test_an_unchecked_read_takes_what_is_there(small_run: Path, tmp_path: Path) -> None:
    run = copy_run(small_run / "run", tmp_path / "run")
    file = run / MENTOR / "rationales.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:5]))
    assert len(open_run(run, verify=False).folder.rationales(f"{MENTOR}/augment")) == 5
    with pytest.raises(DamagedError):
        open_run(run).folder.rationales(f"{MENTOR}/augment")


def test_a_file_is_checked_once_a_process(small_run: Path, tmp_path: Path) -> None:
    run = copy_run(small_run / "run", tmp_path / "run")
    folder = open_run(run).folder
    first = folder.predictions("learners/student/seed-1/evaluate")
    file = run / "learners/student/seed-1/predictions.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:1]))
    assert folder.predictions("learners/student/seed-1/evaluate") == first[:1]


def test_the_model_card_is_the_users(small_run: Path, tmp_path: Path) -> None:
    run = copy_run(small_run / "run", tmp_path / "run")
    (run / MENTOR / "model" / "README.md").unlink()
    pipeline = open_run(run)
    assert {planned.state for planned in pipeline.plan()} == {"done"}
    assert pipeline.folder.model(f"{MENTOR}/train").is_dir()


def test_marks_without_hashes_are_accepted_and_said_so_once(
    small_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, cli: Cli
) -> None:
    run = copy_run(small_run / "run", tmp_path / "run")
    for mark in (run / ".stages").glob("*.json"):
        fields = json.loads(mark.read_text())
        del fields["files"], fields["seal"]
        mark.write_text(json.dumps(fields))
    with caplog.at_level(logging.WARNING):
        Pipeline(load_recipe(small_run / "recipe.yaml"), run).run(force=["report"])
    assert [record.getMessage() for record in caplog.records] == [
        f"{run}: outputs of an earlier version have no hashes, and are read without a check"
    ]
    verified = cli("verify", run)
    assert verified.code == 0
    assert "outputs of another version have no hashes" in verified.out


# --- mentorkd verify ----------------------------------------------------------------------------------------------


def test_verify_finds_nothing_in_a_whole_run(small_run: Path, cli: Cli) -> None:
    verified = cli("verify", small_run / "run", "--json")
    assert (verified.code, verified.err) == (0, "")
    result = json.loads(verified.out)
    assert (result["damaged"], result["unchecked"]) == ({}, [])
    assert result["files"] > 40


def test_verify_names_each_damaged_file(small_run: Path, tmp_path: Path, cli: Cli) -> None:
    run, rng = copy_run(small_run / "run", tmp_path / "run"), random.Random(0)
    labels = next((run / MENTOR / "soft_labels").iterdir())
    flip(labels / "hidden.bin", rng)
    flip(run / MENTOR / "model" / "model.safetensors", rng)
    halve(run / "manifest.json")
    halve(run / "report" / "index.html")
    halve(run / ".stages" / "prepare.json")
    (run / "learners/student/seed-1/predictions.jsonl").unlink()
    verified = cli("verify", run, "--json")
    assert verified.code == 2
    assert "6 of " in verified.err
    assert len(verified.err.splitlines()) == 1
    assert json.loads(verified.out)["damaged"].keys() == {
        labels.relative_to(run).as_posix(),
        f"{MENTOR}/model/model.safetensors",
        "manifest.json",
        "report/index.html",
        ".stages/prepare.json",
        "learners/student/seed-1/predictions.jsonl",
    }
    shown = cli("verify", run).out
    assert (
        "has changed since it was written (its SHA-256 differs); remove it and `mentorkd run` makes it again" in shown
    )
    assert "manifest.json: is damaged (no JSON); the next run writes it again" in shown
    assert ".stages/prepare.json: is damaged (no JSON); remove it and its stage runs again" in shown


def test_verify_leaves_model_cards_to_the_user(small_run: Path, tmp_path: Path, cli: Cli) -> None:
    run = copy_run(small_run / "run", tmp_path / "run")
    cards = [run / MENTOR / "model" / "README.md", run / "learners/student/seed-1/model/README.md"]
    cards[0].write_text("My model.")
    cards[1].unlink()
    verified = cli("verify", run, "--json")
    assert (verified.code, verified.err) == (0, "")
    result = json.loads(verified.out)
    assert (result["damaged"], set(result["edited"])) == ({}, {card.relative_to(run).as_posix() for card in cards})
    assert f"{MENTOR}/model/README.md: has 9 bytes" in cli("verify", run).out


def test_verify_says_what_heals_by_itself(small_run: Path, tmp_path: Path, cli: Cli) -> None:
    run = copy_run(small_run / "run", tmp_path / "run")
    journal = run / ".work" / "learners.student.seed-1.evaluate@f" / "journal.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text("{\n")
    verified = cli("verify", run)
    assert verified.code == 2
    assert "journal.jsonl: has damaged lines (1), whose work the next run does again" in verified.out
    assert "remove" not in verified.out + verified.err


def test_verify_checks_the_replies_of_a_teacher(small_run: Path, tmp_path: Path, cli: Cli) -> None:
    run = copy_run(small_run / "run", tmp_path / "run")
    file = run / "teacher" / "requests.sqlite"
    with RequestCache(file) as cache:
        for sample in range(2):
            cache.put({"model": "m"}, sample, Reply("It is 5.", "stop", 3, 4)).result()
    before = file.read_bytes()
    assert cli("verify", run).code == 0
    file.write_bytes(before.replace(b"It is 5.", b"It is 6.", 1))
    verified = cli("verify", run, "--json")
    assert verified.code == 2
    [damage] = json.loads(verified.out)["damaged"].values()
    assert "a row with a damaged request or reply" in damage
    halve(file)
    assert "teacher/requests.sqlite: " in cli("verify", run).out
    assert list(file.parent.glob("requests.sqlite*")) == [file]


def test_verify_lists_what_another_version_published(small_run: Path, tmp_path: Path, cli: Cli) -> None:
    run = copy_run(small_run / "run", tmp_path / "run")
    mark = run / ".stages" / "prepare.json"
    write_json(mark, {"kind": "no more", "target": "data", "outputs": ["questions.jsonl"]})
    result = json.loads(cli("verify", run, "--json").out)
    assert (result["damaged"], result["unchecked"]) == ({}, ["data/questions.jsonl"])


def test_verify_needs_a_run(tmp_path: Path, cli: Cli) -> None:
    assert cli("verify", tmp_path).code == 2


def test_a_damaged_manifest_is_written_again(small_run: Path, tmp_path: Path) -> None:
    run = copy_run(small_run / "run", tmp_path / "run")
    before = json.loads((run / "manifest.json").read_text())
    halve(run / "manifest.json")
    manifest = Pipeline(load_recipe(small_run / "recipe.yaml"), run).run()
    assert manifest["stages"] == before["stages"]
