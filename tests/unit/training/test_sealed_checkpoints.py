from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch

from damage import flip, halve
from mentorkd.errors import TrainingError
from mentorkd.training.sealed_checkpoints import check_checkpoint, discard_damaged_checkpoints
from mentorkd.training.train import TrainingResult
from tiny_training import assert_same, learner, rows_for, run, weights

RNG = random.Random(0)


class Killed(Exception): ...


def training(
    folder: Path, kill_at: int | None = None, *, verify: bool = True
) -> tuple[TrainingResult, dict[str, torch.Tensor]]:
    """Three updates, of which the first is the best."""
    step = 0

    def progress(done: int, steps: int) -> None:
        nonlocal step
        step = done
        if step == kill_at:
            raise Killed

    student = learner(seed=2, dropout=True)
    validate = lambda: 0.9 if step == 1 else 0.5  # noqa: E731
    result = run(
        student, rows_for(student, 4), folder, epochs=3, validate=validate, on_progress=progress, verify=verify
    )
    return result, weights(student)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(Killed):
        training(folder, kill_at=3)
    assert {path.name for path in folder.iterdir()} == {"checkpoint-1", "checkpoint-2"}
    return folder


@pytest.mark.parametrize(
    ("checkpoint", "file", "left"),
    [
        (2, "optimizer.pt", {"checkpoint-1"}),
        (2, "*.safetensors", {"checkpoint-1"}),
        (2, "trainer_state.json", {"checkpoint-1"}),
        (2, ".hashes.json", {"checkpoint-1"}),
        (1, "*.safetensors", set()),  # the later one names it as the best
    ],
)
def test_a_damaged_checkpoint_is_not_resumed_from(
    checkpoint: int, file: str, left: set[str], killed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(killed, folder)
    for state in folder.glob("*/trainer_state.json"):
        assert str(killed) in state.read_text()
    halve(min((folder / f"checkpoint-{checkpoint}").glob(file)))
    discard_damaged_checkpoints(folder)
    assert {path.name for path in folder.iterdir()} == left
    assert f"checkpoint-{checkpoint}" in caplog.text
    caplog.clear()
    discard_damaged_checkpoints(folder)
    assert not caplog.records


def test_the_resumed_training_is_that_of_an_undisturbed_run(tmp_path: Path) -> None:
    undisturbed = training(tmp_path / "undisturbed")
    with pytest.raises(Killed):
        training(tmp_path / "killed", kill_at=3)
    flip(tmp_path / "killed" / "checkpoint-2" / "optimizer.pt", RNG)
    result, trained = training(tmp_path / "killed")
    assert result == undisturbed[0]
    assert_same(trained, undisturbed[1], rtol=0, atol=0)


def test_a_damaged_best_checkpoint_is_told(killed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    shutil.copytree(killed / "checkpoint-1", folder)
    check_checkpoint(folder)
    flip(min(folder.glob("*.safetensors")), RNG)
    with pytest.raises(TrainingError, match=r"has changed since it was written.*run the same command again"):
        check_checkpoint(folder)


def test_an_unchecked_training_takes_a_changed_best_checkpoint(killed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(killed, folder)
    with (folder / "checkpoint-1" / "trainer_state.json").open("a") as state:
        state.write("\n")
    result, _ = training(folder, verify=False)
    assert result.best_step == 1


def test_a_checkpoint_without_hashes_stays(killed: Path, tmp_path: Path) -> None:
    shutil.copytree(killed, tmp_path / "folder", ignore=shutil.ignore_patterns(".hashes.json"))
    discard_damaged_checkpoints(tmp_path / "folder")
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {"checkpoint-1", "checkpoint-2"}
