from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import mentorkd.training.train
from layouts import padded_left
from mentorkd.data.batching import IGNORE_INDEX, Collator
from mentorkd.data.encoding import Example
from mentorkd.distillation.fused_losses import fused_distillation_loss
from mentorkd.distillation.hidden_states import head_parameters, target_hidden, target_logits
from mentorkd.distillation.losses import MentorHidden, distillation_loss
from mentorkd.distillation.objectives.base import Objective
from mentorkd.distillation.objectives.mcc import Consistency
from mentorkd.distillation.objectives.step_by_step import StepByStep
from mentorkd.errors import TrainingError
from mentorkd.models import load_model
from mentorkd.recipe.learner import LoraConfig, ModelConfig
from mentorkd.training.checkpoints import WEIGHTS, last_checkpoint
from mentorkd.training.train import TrainingResult, train
from mentorkd.training.trainer import MentorTrainer
from tiny_models import tiny_tokenizer
from tiny_training import (
    FAMILIES,
    LIVE,
    assert_same,
    learner,
    losses,
    online,
    rows_for,
    run,
    settings,
    train_by_a_live_mentor,
    weights,
)
from two_processes import start_two

# --- training reduces the loss ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_falls(family: str, tmp_path: Path) -> None:
    loaded = learner(family, dropout=True)
    result = run(loaded, rows_for(loaded, 16), tmp_path, epochs=8, precision="float32")
    first, last = losses(result)[0], losses(result)[-1]
    assert last < 0.7 * first
    assert (result.updates, result.best_step, result.fused) == (32, 32, True)
    assert not loaded.model.training


@pytest.mark.parametrize("family", FAMILIES)
def test_distillation_moves_the_student_towards_the_mentor(family: str, tmp_path: Path) -> None:
    mentor, student = learner(family, seed=1), learner(family, seed=2)
    result = run(student, rows_for(student, 16), tmp_path, epochs=8, objective=online(mentor, kd_weight=1.0))
    divergence = [row["divergence"] for row in result.history]
    assert divergence[-1] < 0.6 * divergence[0]
    assert min(divergence) >= 0


def test_history_rows_have_their_step_and_epoch(tmp_path: Path) -> None:
    loaded = learner()
    rows = rows_for(loaded, 10)
    result = run(loaded, rows, tmp_path, epochs=2, batch_size=4, validate=lambda: 0.5)
    steps = [row for row in result.history if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    assert [row["epoch"] for row in steps] == [pytest.approx(n / 3, abs=1e-3) for n in range(1, 7)]
    assert sum(row["tokens"] for row in steps) == 2 * sum(len(row.target_ids) for row in rows)
    assert all(row["ce"] == pytest.approx(row["loss"], rel=1e-5) for row in steps)
    validations = [row for row in result.history if "validation_accuracy" in row]
    assert validations == [
        {"step": 3, "epoch": 1.0, "validation_accuracy": 0.5},
        {"step": 6, "epoch": 2.0, "validation_accuracy": 0.5},
    ]


def test_the_logged_loss_is_the_weighted_sum_of_its_parts(tmp_path: Path) -> None:
    student = learner(seed=2)
    how = online(learner(seed=1), kd_weight=0.3, temperature=2.0)
    for row in run(student, rows_for(student, 8), tmp_path, objective=how).history:
        assert row["loss"] == pytest.approx(0.7 * row["ce"] + 0.3 * 4 * row["divergence"], rel=1e-4)


def test_progress_is_reported_at_every_step(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    loaded = learner()
    run(loaded, rows_for(loaded, 8), tmp_path, on_progress=lambda step, total: steps.append((step, total)))
    assert steps == [(0, 2), (1, 2), (2, 2)]


# --- the loss does not depend on the layout of batches ----------------------------------------------------------


def loss_and_gradient(
    family: str,
    batches: list[list[Example]],
    *,
    fused: bool = True,
    layout: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] = dict,
    **options: Any,
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss a token and its gradient for a layout of rows in batches."""
    student, mentor = learner(family, seed=2), learner(family, seed=1)
    start = student.model.config.decoder_start_token_id if student.kind == "seq2seq" else None
    collate = Collator(student.kind, student.tokenizer.pad_token_id, start, **options)
    tokens = sum(len(row.target_ids) for rows in batches for row in rows)
    total = 0.0
    for rows in batches:
        batch = layout(collate(rows))
        labels = batch["labels"][batch["labels"] != IGNORE_INDEX]
        with torch.no_grad():
            side = MentorHidden(target_hidden(mentor.model, batch), *head_parameters(mentor.model))
        how = {"kd_weight": 0.5, "temperature": 2.0}
        if fused:
            hidden = target_hidden(student.model, batch)
            sums = fused_distillation_loss(hidden, head_parameters(student.model)[0], labels, side, **how)
        else:
            sums = distillation_loss(target_logits(student.model, batch), labels, side, **how)
        (sums.loss / tokens).backward()
        total += sums.loss.item() / tokens
    return total, {name: p.grad for name, p in student.model.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("change", ["left", "order", "split", "alone", "plain", "packed"])
def test_loss_and_gradient_do_not_depend_on_the_batch(family: str, change: str) -> None:
    rows = rows_for(learner(family), 8)
    batches, options = [rows], {}
    match change:
        case "left":
            options = {"layout": padded_left}
        case "order":
            batches = [rows[::-1]]
        case "split":
            batches = [rows[:1], rows[1:6], rows[6:]]
        case "alone":  # no padding at all
            batches = [[row] for row in rows]
        case "plain":
            options = {"fused": False}
        case "packed":
            # An encoder-decoder's cross-attention would mix packed rows; it gets more padding instead.
            options = {"multiple": 8} if family == "t5" else {"packed": True}
    loss, gradient = loss_and_gradient(family, [rows])
    changed_loss, changed_gradient = loss_and_gradient(family, batches, **options)
    assert changed_loss == pytest.approx(loss, rel=1e-5)
    assert_same(changed_gradient, gradient, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_accumulation_does_not_change_training(family: str, tmp_path: Path) -> None:
    results = {}
    for accumulation in (1, 2, 4):
        student = learner(family, seed=2)
        rows, how = rows_for(student, 8), online(learner(family, seed=1))
        changes = {"epochs": 3, "batch_size": 8 // accumulation, "gradient_accumulation": accumulation}
        result = run(student, rows, tmp_path / str(accumulation), objective=how, **changes)
        assert result.updates == 3
        results[accumulation] = losses(result), [row["grad_norm"] for row in result.history], weights(student)
    for accumulation in (2, 4):
        assert results[accumulation][0] == pytest.approx(results[1][0], rel=1e-4)
        assert results[accumulation][1] == pytest.approx(results[1][1], rel=1e-3)
        assert_same(results[accumulation][2], results[1][2], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_are_read_in_parts_train_alike(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mentorkd.training.train, "cost_of_part", lambda parameters, device: 5)
    results, parts = {}, {}
    read = MentorTrainer.training_step

    def counted(self: MentorTrainer, model: Any, inputs: Any, *args: Any) -> torch.Tensor:
        parts[split] = parts.get(split, 0) + len(inputs["parts"])
        return read(self, model, inputs, *args)

    monkeypatch.setattr(MentorTrainer, "training_step", counted)
    for split in ("auto", "none"):
        student = learner(family, seed=2)
        rows, how = rows_for(student, 16), online(learner(family, seed=1))
        result = run(student, rows, tmp_path / split, objective=how, epochs=3, batch_size=8, split=split)
        assert result.updates == 6
        tokens = [row["tokens"] for row in result.history]
        results[split] = losses(result), [row["grad_norm"] for row in result.history], weights(student), tokens
    assert parts["none"] == 6 < parts["auto"] - 3
    assert results["auto"][0] == pytest.approx(results["none"][0], rel=1e-4)
    assert results["auto"][1] == pytest.approx(results["none"][1], rel=1e-3)
    assert_same(results["auto"][2], results["none"][2], rtol=1e-3, atol=1e-4)
    assert results["auto"][3] == results["none"][3]


def test_epochs_that_do_not_fill_an_accumulation_step_are_trained_completely(tmp_path: Path) -> None:
    loaded = learner()
    rows = rows_for(loaded, 10)  # 5 micro-batches an epoch, 10 in all, 4 a step
    result = run(loaded, rows, tmp_path, epochs=2, batch_size=2, gradient_accumulation=4)
    assert result.updates == 3
    assert sum(row["tokens"] for row in result.history) == 2 * sum(len(row.target_ids) for row in rows)


@pytest.mark.slow
def test_two_processes_train_as_one_does_with_accumulation(tmp_path: Path) -> None:
    """The two read micro-batches in parts, at some updates in different numbers of them."""
    two = start_two("train_in_one_of_two_processes.py", tmp_path / "two")
    one = {family: train_by_a_live_mentor(family, tmp_path / "one" / family, 2) for family in LIVE}
    assert [process.wait(timeout=200) for process in two] == [0, 0]
    for family, (result, student) in one.items():
        assert result.updates == 5
        assert_same(load_file(tmp_path / "two" / f"{family}.safetensors"), weights(student), rtol=1e-3, atol=1e-4)
        history = json.loads((tmp_path / "two" / f"{family}.json").read_text())
        assert len(history) == len(result.history)
        for of_two, of_one in zip(history, result.history, strict=True):
            assert of_two == {name: pytest.approx(value, rel=1e-4) for name, value in of_one.items()}
    assert [(tmp_path / f"two/dropout-{rank}").read_text() for rank in (0, 1)] == ["0", "1"]
    parts = [json.loads((tmp_path / f"two/parts-{rank}.json").read_text()) for rank in (0, 1)]
    assert parts[0] != parts[1]


# --- resume, best checkpoint, errors ------------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("killed_at", "kept", "length"),
    [(5, 3, {}), (3, None, {}), (6, 4, {"updates": 8}), (5, 3, {"tokens_per_batch": 60, "updates": 6})],
)
def test_a_resumed_run_gives_the_losses_and_weights_of_an_undisturbed_one(
    killed_at: int, kept: int | None, length: dict[str, int], tmp_path: Path
) -> None:
    """With dropout: the state of the random generators is restored too."""

    def start(folder: str, on_progress: Callable[[int, int], None]) -> tuple[TrainingResult, dict[str, torch.Tensor]]:
        student = learner(seed=2, dropout=True)
        how = online(learner(seed=1))
        changes = {"epochs": 2, "schedule": "linear", "objective": how, "validate": lambda: 0.5, **length}
        history = tmp_path / f"{folder}.jsonl"
        result = run(
            student, rows_for(student, 12), tmp_path / folder, on_progress=on_progress, history=history, **changes
        )
        assert [json.loads(line) for line in history.read_text().splitlines()] == result.history
        return result, weights(student)

    def kill(step: int, steps: int) -> None:
        if step == killed_at:
            raise Killed

    undisturbed = start("undisturbed", lambda step, steps: None)
    with pytest.raises(Killed):
        start("killed", kill)
    torch.manual_seed(99)
    checkpoint = last_checkpoint(tmp_path / "killed")
    assert (checkpoint.name if checkpoint else None) == (kept and f"checkpoint-{kept}")
    resumed = start("killed", lambda step, steps: None)
    assert resumed[0] == undisturbed[0]
    assert_same(resumed[1], undisturbed[1], rtol=0, atol=0)


def test_an_incomplete_checkpoint_is_ignored(tmp_path: Path) -> None:
    for step, state in {2: '{"global_step": 2}', 9: "{", 11: None}.items():
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
        (tmp_path / f"checkpoint-{step}" / WEIGHTS).touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert last_checkpoint(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("accuracies", "best"), [([0.1, 0.9, 0.3], 2), ([0.9, 0.5, 0.1], 1), ([0.5, 0.9, 0.9], 3), ([0.0, 0.0, 0.0], 3)]
)
def test_the_best_epoch_is_restored_and_the_later_wins_ties(accuracies: list[float], best: int, tmp_path: Path) -> None:
    loaded = learner(dropout=True)
    seen: list[dict[str, torch.Tensor]] = []

    def validate() -> float:
        assert not loaded.model.training
        seen.append(weights(loaded))
        return accuracies[len(seen) - 1]

    result = run(loaded, rows_for(loaded, 8), tmp_path, epochs=3, validate=validate)
    assert len(seen) == 3
    assert (result.best_step, result.validation_accuracy) == (2 * best, accuracies[best - 1])
    assert_same(weights(loaded), seen[best - 1], rtol=0, atol=0)
    on_disk = load_file(tmp_path / f"checkpoint-{2 * best}" / WEIGHTS)
    assert_same(on_disk, {name: seen[best - 1][name] for name in on_disk}, rtol=0, atol=0)
    other = seen[0] if best != 1 else seen[1]
    assert any(not torch.equal(other[name], value) for name, value in weights(loaded).items())


def test_validation_follows_its_interval_and_the_end(tmp_path: Path) -> None:
    loaded = learner()
    result = run(loaded, rows_for(loaded, 4), tmp_path, epochs=5, validate_every=2, validate=lambda: 0.5)
    assert [row["step"] for row in result.history if "validation_accuracy" in row] == [2, 4, 5]


@pytest.mark.parametrize("given", ["recipe", "pipeline"])
def test_a_given_number_of_updates_cycles_the_rows_and_validates_at_equal_distances(given: str, tmp_path: Path) -> None:
    loaded = learner()
    rows = rows_for(loaded, 10)  # 3 micro-batches an epoch
    how: dict[str, Any] = {"updates": 8} if given == "pipeline" else {}
    config = settings(epochs=4, validate_every=2, updates=8 if given == "recipe" else None)
    options = {"seed": 0, "precision": "float32", "folder": tmp_path, "validate": lambda: 0.5}
    result = train(loaded, rows, config, **options, **how)
    assert result.updates == 8
    steps = [row for row in result.history if "loss" in row]
    assert [row["epoch"] for row in steps] == [pytest.approx(n / 3, abs=1e-3) for n in range(1, 9)]
    whole = sum(len(row.target_ids) for row in rows)
    assert 2 * whole < sum(row["tokens"] for row in steps) < 3 * whole
    assert [row["step"] for row in result.history if "validation_accuracy" in row] == [4, 8]


def test_without_validation_the_last_weights_are_kept(tmp_path: Path) -> None:
    loaded = learner()
    result = run(loaded, rows_for(loaded, 8), tmp_path, epochs=2)
    assert (result.best_step, result.validation_accuracy) == (4, None)
    on_disk = load_file(tmp_path / "checkpoint-4" / WEIGHTS)
    assert_same(on_disk, {name: weights(loaded)[name] for name in on_disk}, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("objective", "what"),
    [(StepByStep(), "no row has the task predict"), (Consistency(), "two rationales with the same answer")],
)
def test_rows_without_what_the_objective_needs_are_refused(objective: Objective, what: str, tmp_path: Path) -> None:
    loaded = learner()
    with pytest.raises(TrainingError, match=what):
        run(loaded, rows_for(loaded, 4), tmp_path, objective=objective)


def test_no_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="got no training row"):
        run(learner(), [], tmp_path)


@pytest.mark.parametrize("fused", [True, False])
def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_its_rationales(
    fused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mentorkd.training.train, "head_is_linear", lambda model, batch: fused)
    loaded = learner(tie_word_embeddings=False)
    rows = rows_for(loaded, 8)
    with torch.no_grad():  # as after a bad update
        loaded.model.decoder.final_layer_norm.weight[0] = torch.inf
    before = weights(loaded)
    with pytest.raises(TrainingError, match=r"the loss became (nan|inf) at step 1") as caught:
        run(loaded, rows, tmp_path, batch_size=2)
    assert_same(weights(loaded), before, rtol=0, atol=0, equal_nan=True)
    named = {row.rationale_id for row in rows if f"{row.rationale_id}," in str(caught.value).replace(".", ",")}
    assert len(named) == 2
    assert "learning rate" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_float16_needs_an_accelerator(tmp_path: Path) -> None:
    loaded = learner()
    with pytest.raises(TrainingError, match="float16"):
        run(loaded, rows_for(loaded, 4), tmp_path, precision="float16")


def test_a_sharded_training_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    loaded = learner()
    for other in ({"torch_compile": True}, {"precision": "float16"}):
        with pytest.raises(TrainingError, match=f"got `sharding: fsdp` with `{next(iter(other))}.*`"):
            run(loaded, rows_for(loaded, 4), tmp_path, sharding="fsdp", **other)


# --- ways to compute the loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_fused_and_plain_loss_train_alike(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    results = {}
    for exact in (True, False):
        monkeypatch.setattr(mentorkd.training.train, "head_is_linear", lambda model, batch, exact=exact: exact)
        student = learner(family, seed=2, dropout=True)
        with caplog.at_level(logging.WARNING, logger="mentorkd"):
            caplog.clear()
            how = online(learner(family, seed=1))
            result = run(student, rows_for(student, 8), tmp_path / str(exact), epochs=3, objective=how)
        assert result.fused is exact
        assert ("plain loss" in caplog.text) is not exact
        results[exact] = losses(result)
    assert results[True] == pytest.approx(results[False], rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_trains_near_float32(family: str, tmp_path: Path) -> None:
    results = {}
    for precision in ("float32", "bfloat16"):
        student = learner(family, seed=2)
        how = online(learner(family, seed=1))
        result = run(student, rows_for(student, 8), tmp_path / precision, epochs=3, objective=how, precision=precision)
        assert {p.dtype for p in student.model.parameters()} == {torch.float32}
        results[precision] = losses(result)
    assert results["bfloat16"] == pytest.approx(results["float32"], rel=2e-2)
    assert results["bfloat16"] != pytest.approx(results["float32"], rel=1e-6)


def test_adapters_are_trained_and_their_best_epoch_restored(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    sizes = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    model = ModelConfig(from_config=sizes, tokenizer=str(tmp_path / "tokenizer"), lora=LoraConfig(r=4, dropout=0.1))
    loaded = load_model(model, seed=0, device=torch.device("cpu"))
    before = weights(loaded)
    seen: list[dict[str, torch.Tensor]] = []

    def validate() -> float:
        seen.append(weights(loaded))
        return [0.2, 0.8, 0.1][len(seen) - 1]

    result = run(loaded, rows_for(loaded, 8), tmp_path / "run", epochs=3, validate=validate)
    assert (result.best_step, result.fused) == (4, True)
    after = weights(loaded)
    assert_same(after, seen[1], rtol=0, atol=0)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert all("lora_" in name for name in changed)


def test_gradient_checkpointing_trains_alike(tmp_path: Path) -> None:
    results = []
    for on in (False, True):
        loaded = learner()
        results.append(losses(run(loaded, rows_for(loaded, 8), tmp_path / str(on), gradient_checkpointing=on)))
    assert results[0] == pytest.approx(results[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.filterwarnings("default")  # torch.compile causes warnings
@pytest.mark.parametrize("family", FAMILIES)
def test_a_compiled_model_trains_alike_and_saves_plain_names(family: str, tmp_path: Path) -> None:
    results, names = [], []
    for on in (False, True):
        student = learner(family, seed=2)
        how = online(learner(family, seed=1))
        changes = {"epochs": 2, "torch_compile": on, "validate": lambda: 0.5}
        result = run(student, rows_for(student, 12), tmp_path / str(on), objective=how, **changes)
        assert result.fused
        results.append(losses(result))
        names.append(load_file(tmp_path / str(on) / "checkpoint-6" / WEIGHTS).keys())
    assert results[0] == pytest.approx(results[1], rel=1e-3)
    assert names[0] == names[1]
