"""Packed rows: they train as padded ones do, no row sees another, and models that cannot are refused."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

from mentorkd.data.batching import Collator
from mentorkd.data.encoding import Example
from mentorkd.distillation.hidden_states import target_logits
from mentorkd.distillation.objectives.base import CrossEntropy, Objective
from mentorkd.distillation.objectives.hidden_states import HiddenMatching
from mentorkd.distillation.objectives.mcc import Consistency
from mentorkd.distillation.objectives.soft_labels import Distillation
from mentorkd.distillation.objectives.step_by_step import StepByStep
from mentorkd.distillation.scoring import score
from mentorkd.distillation.soft_labels import StoredSoftLabels
from mentorkd.errors import TrainingError
from mentorkd.models import LoadedModel
from mentorkd.training.packing import check_packing
from one_step import gradients, loss_of
from tiny_architectures import build
from tiny_models import tiny_qwen2, tiny_tokenizer
from tiny_training import (
    BY_SOURCE,
    assert_same,
    learner,
    losses,
    mixed_rows,
    online,
    paired_rows,
    rows_for,
    run,
    weights,
)

HOW: dict[str, Any] = {"kd_weight": 0.5, "temperature": 2.0, "tau_squared": True, "divergence": "forward_kl"}


def double(family: str, seed: int) -> LoadedModel:
    if family == "qwen2":
        tokenizer = tiny_tokenizer()
        loaded = LoadedModel(tiny_qwen2(tokenizer, seed=seed), tokenizer, "causal")
    else:
        loaded = learner(family, seed=seed)
    loaded.model.double()
    return loaded


def stored(
    mentor: LoadedModel, rows: list[Example], folder: Path, form: Literal["hidden", "top_k"] = "hidden", **changes: Any
) -> Distillation:
    about: dict[str, Any] = {"mentor_digest": "m", "target": "arrow", "bfloat16": False}
    score(
        mentor,
        rows,
        folder=folder,
        mode=form,
        top_k=8,
        temperature=2.0,
        on_progress=lambda done, total: None,
        **about,
    )
    return Distillation([(1.0, StoredSoftLabels([folder], device=torch.device("cpu")))], **HOW | changes)


SLOW = pytest.mark.slow
READERS = [("llama", "sdpa"), ("gpt2", "eager")]
MORE = [("llama", "eager"), ("qwen2", "sdpa"), ("qwen2", "eager"), ("gpt2", "sdpa")]


@pytest.mark.parametrize(("family", "attention"), [*READERS, *(pytest.param(*each, marks=SLOW) for each in MORE)])
def test_the_gradient_of_packed_rows_is_that_of_padded_ones(family: str, attention: str, tmp_path: Path) -> None:
    student = double(family, 2)
    student.model.set_attn_implementation(attention)
    rows = rows_for(student, 8)
    objective = stored(double(family, 1), rows, tmp_path)
    loss = loss_of(student, [rows], objective)
    expected = gradients(student)
    # The eager attention of Llama and Qwen has its softmax in float32.
    rounding = 1e-5 if attention == "eager" and family != "gpt2" else 1e-9
    for fused in (True, False):
        for batches in ([rows], [rows[:3], rows[3:]]):
            assert loss_of(student, batches, objective, fused=fused, packed=True) == pytest.approx(loss, rel=rounding)
            assert_same(gradients(student), expected, rtol=rounding, atol=1e-4 * rounding)


@pytest.mark.parametrize("form", ["top_k", "online"])
def test_pairs_of_several_sources_are_packed_with_the_soft_labels_of_their_own(form: str, tmp_path: Path) -> None:
    student, mentor = double("llama", 2), double("llama", 1)
    by_source, names = {"kd_weight": BY_SOURCE["kd_weight"]}, [*BY_SOURCE["kd_weight"]]
    rows = [replace(row, source=names[n % len(names)]) for n, row in enumerate(paired_rows(student, 8))]
    base = online(mentor, **by_source) if form == "online" else stored(mentor, rows, tmp_path, "top_k", **by_source)
    objective = Consistency(0.5, base=base)
    assert objective.counts(rows)["answers"] > 0
    for batches in ([rows], [rows[:2], rows[2:]]):
        loss, expected = loss_of(student, batches, objective), gradients(student)
        assert loss_of(student, batches, objective, packed=True) == pytest.approx(loss, rel=1e-9)
        assert_same(gradients(student), expected, rtol=1e-9, atol=1e-13)


@torch.no_grad()
@pytest.mark.parametrize(("family", "attention"), READERS)
def test_a_token_of_a_row_does_not_change_another_rows_loss(family: str, attention: str) -> None:
    student = learner(family)
    student.model.set_attn_implementation(attention)
    rows = rows_for(student, 4)
    collate = Collator("causal", 0, packed=True)

    def logits(rows: list[Example]) -> list[torch.Tensor]:
        return list(target_logits(student.model, collate(rows)).split([len(row.target_ids) for row in rows]))

    before = logits(rows)
    for changed, row in enumerate(rows):
        other = replace(row, source_ids=[5, *row.source_ids[1:]])
        after = logits([*rows[:changed], other, *rows[changed + 1 :]])
        assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [n != changed for n in range(4)]


OBJECTIVES = {
    "sources with settings of their own": (lambda student, mentor: online(mentor, **BY_SOURCE), mixed_rows),
    "pairs of rationales, and hidden states": (
        lambda student, mentor: Consistency(0.5, base=HiddenMatching(student, mentor, kd_weight=0.5)),
        paired_rows,
    ),
    "cross-entropy": (lambda student, mentor: CrossEntropy(), rows_for),
    "tasks": (lambda student, mentor: StepByStep(), partial(paired_rows, step_by_step=True)),
}


@pytest.mark.parametrize("name", [next(iter(OBJECTIVES)), *(pytest.param(n, marks=SLOW) for n in [*OBJECTIVES][1:])])
def test_packed_batches_train_as_padded_ones(name: str, tmp_path: Path) -> None:
    make, rows_of = OBJECTIVES[name]
    results = {}
    for split in ("none", "packed"):
        student, mentor = learner("llama", seed=2), learner("llama", seed=1)
        objective: Objective = make(student, mentor)
        # An update has all 12 rationales. Its micro-batches are of other rows if they are packed.
        changes = {"epochs": 2, "batch_size": 4, "gradient_accumulation": 3, "split": split}
        result = run(student, rows_of(student, 12), tmp_path / split, objective=objective, **changes)
        results[split] = result, weights(student)
    (padded, of_padded), (packed, of_packed) = results.values()
    assert (packed.updates, packed.fused) == (padded.updates, True) == (2, True)
    assert losses(packed) == pytest.approx(losses(padded), rel=1e-5)
    assert [row["tokens"] for row in packed.history] == [row["tokens"] for row in padded.history]
    assert_same(of_packed, of_padded, rtol=1e-3, atol=1e-5)


@SLOW
def test_a_resumed_training_of_packs_is_the_undisturbed_one(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(step: int, steps: int) -> None:
        if step == 5:
            raise Killed

    def start(folder: str, **changes: Any) -> tuple[Any, dict[str, torch.Tensor]]:
        student = learner("gpt2", seed=2, dropout=True)
        how = {"split": "packed", "tokens_per_batch": 110, "epochs": 3, "validate": lambda: 0.5}
        return run(student, rows_for(student, 10), tmp_path / folder, **how, **changes), weights(student)

    whole, of_whole = start("undisturbed")
    assert whole.updates > 6
    with pytest.raises(Killed):
        start("killed", on_progress=kill)
    resumed, of_resumed = start("killed")
    assert resumed == whole
    assert_same(of_resumed, of_whole, rtol=0, atol=0)


@pytest.mark.parametrize(
    "family", ["jamba", *(pytest.param(name, marks=SLOW) for name in ("mamba", "qwen3_next", "opt"))]
)
def test_a_model_that_does_not_keep_packed_rows_apart_is_refused(family: str, tmp_path: Path) -> None:
    """Of a random Jamba, the hidden states change by three millionths."""
    loaded = build(family, tmp_path / "tokenizer")
    what = r"got `split: packed`, but \w+ \(\w+ attention\) does not keep packed rows apart: a row sees the rows before it; set"
    with pytest.raises(TrainingError, match=what):
        run(loaded, rows_for(loaded, 4), tmp_path / "run", split="packed")


@SLOW
@pytest.mark.parametrize("family", ["mistral", "gemma3_text", "qwen3_moe", "gpt_neox"])
def test_families_that_keep_packed_rows_apart_are_not_refused(family: str, tmp_path: Path) -> None:
    loaded = build(family, tmp_path / "tokenizer")
    check_packing(loaded.model, rows_for(loaded, 5), Collator("causal", 0), "float32")


def test_a_model_that_ignores_positions_or_takes_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = learner("gpt2")
    rows, forward = rows_for(loaded, 4), loaded.model.transformer.wpe.forward
    from_the_start = lambda ids: forward(torch.arange(ids.shape[1])[None])  # noqa: E731
    monkeypatch.setattr(loaded.model.transformer.wpe, "forward", from_the_start)
    with pytest.raises(TrainingError, match=r"its hidden states change by 1\.\d+ of their size, expected rounding"):
        check_packing(loaded.model, rows, Collator("causal", 0), "float32")
    own = loaded.model.forward
    without = lambda input_ids, attention_mask=None, use_cache=None: own(input_ids, attention_mask=attention_mask)  # noqa: E731
    monkeypatch.setattr(loaded.model, "forward", without)
    with pytest.raises(TrainingError, match="it takes no position ids"):
        check_packing(loaded.model, rows, Collator("causal", 0), "float32")


def test_a_live_mentor_reads_packed_rows_too(tmp_path: Path) -> None:
    mentor, student = build("jamba", tmp_path / "tokenizer"), learner("llama")
    with pytest.raises(TrainingError, match=r"JambaForCausalLM .* does not keep packed rows apart"):
        run(student, rows_for(student, 4), tmp_path / "run", split="packed", objective=online(mentor))


def test_what_cannot_be_packed_or_needs_16_bits_is_refused(tmp_path: Path) -> None:
    loaded = learner("t5")
    with pytest.raises(TrainingError, match="got `split: packed` for T5ForConditionalGeneration, an encoder-decoder"):
        run(loaded, rows_for(loaded, 4), tmp_path, split="packed")
    loaded = learner("llama")
    loaded.model.config._attn_implementation_internal = "flash_attention_2"  # as where it is installed
    with pytest.raises(TrainingError, match="got `precision: float32` with `attn_implementation: flash_attention_2`"):
        run(loaded, rows_for(loaded, 4), tmp_path)


def test_variable_length_attention_finds_the_rows_by_their_positions() -> None:
    """transformers reads them so for flash attention, where there is no mask."""
    rows = rows_for(learner("llama"), 4)
    positions = Collator("causal", 0, packed=True)(rows)["position_ids"]
    (starts, _), (longest, _) = prepare_fa_kwargs_from_position_ids(positions)
    lengths = [row.length - 1 for row in rows]
    assert starts.tolist() == [0, *accumulate(lengths)]
    assert longest == max(lengths)


@pytest.mark.gpu
@pytest.mark.parametrize("attention", ["sdpa", "flex_attention", "flash_attention_2"])
def test_packed_rows_train_as_padded_ones_on_a_gpu(attention: str, tmp_path: Path) -> None:
    if attention == "flash_attention_2":
        pytest.importorskip("flash_attn")
    history = {}
    for split in ("none", "packed"):
        sizes = {"hidden_size": 64, "head_dim": 16}
        student = learner("llama", seed=2, **sizes)
        student.model.set_attn_implementation(attention if split == "packed" else "sdpa")
        student.model.to("cuda")
        changes = {"epochs": 3, "batch_size": 12, "split": split, "precision": "bfloat16"}
        history[split] = losses(run(student, rows_for(student, 12), tmp_path / split, **changes))
    assert history["packed"] == pytest.approx(history["none"], rel=2e-2)
