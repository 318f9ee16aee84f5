from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import Gemma2Config, Gemma2ForCausalLM

from mentorkd.data.batching import IGNORE_INDEX, Collator
from mentorkd.data.encoding import Example, TextEncoder, encode_rows
from mentorkd.distillation import hidden_states
from mentorkd.distillation.inspect import inspect_store
from mentorkd.distillation.mentors import OnlineMentor, SoftLabelSource
from mentorkd.distillation.objectives.soft_labels import Distillation
from mentorkd.distillation.scoring import score
from mentorkd.distillation.soft_labels import SoftLabelStore, StoredSoftLabels
from mentorkd.errors import ModelError
from mentorkd.models import LoadedModel, tokenizer_digest
from mentorkd.recipe.learner import TrainingConfig
from mentorkd.training.train import train
from tiny_models import tiny_gpt2, tiny_llama, tiny_t5, tiny_tokenizer

CPU = torch.device("cpu")
MAKE: dict[str, Callable[..., Any]] = {"t5": tiny_t5, "gpt2": tiny_gpt2, "llama": tiny_llama}


def model(family: str, seed: int, **sizes: Any) -> LoadedModel:
    tokenizer = tiny_tokenizer()
    return LoadedModel(
        MAKE[family](tokenizer, seed=seed, **sizes), tokenizer, "seq2seq" if family == "t5" else "causal"
    )


def rows_for(loaded: LoadedModel, count: int = 12) -> list[Example]:
    texts = [(f"r{n}", "How many?" * (n % 4 + 1), f"{n} + {n % 7} = {n + n % 7}." * (n % 3 + 1)) for n in range(count)]
    return encode_rows(texts, TextEncoder(loaded.tokenizer, loaded.kind), max_source_tokens=300, max_target_tokens=300)[
        0
    ]


def write(mentor: LoadedModel, rows: list[Example], folder: Path, **changes: Any) -> dict[str, Any]:
    how = {"mode": "hidden", "top_k": 8, "temperature": 2.0, "bfloat16": False, "tokens_per_batch": 128}
    about = {"mentor_digest": "mentor-1", "target": "arrow", "on_progress": lambda done, total: None}
    return score(mentor, rows, folder=folder, **{**how, **about, **changes})


def batch_of(loaded: LoadedModel, rows: list[Example]) -> dict[str, torch.Tensor]:
    return Collator.for_model(loaded.kind, loaded.tokenizer, loaded.model.config)(rows)


@torch.no_grad()
def exact_logits(mentor: LoadedModel, row: Example) -> torch.Tensor:
    """The model's own logits of one row alone, without this package's code."""
    batch = batch_of(mentor, [row])
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return mentor.model(**inputs).logits[batch["labels"] != IGNORE_INDEX]


@pytest.mark.parametrize(
    ("free", "vocabulary", "tokens"),
    [(0, 384, 2048), (10e9, 32128, 8192), (130e9, 32128, 32768), (130e9, 256000, 8192)],
)
def test_batches_grow_with_the_free_memory_of_a_gpu_alone(
    free: float, vocabulary: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hidden_states, "free_memory_of", lambda device: free)
    monkeypatch.setattr(hidden_states, "head_parameters", lambda model: (torch.empty(vocabulary, 0), None))
    on_gpu = SimpleNamespace(device=torch.device("cuda"), model=None)
    assert hidden_states.scoring_tokens(on_gpu) == tokens
    assert hidden_states.scoring_tokens(model("t5", seed=1)) == 2048


# --- what the store holds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", MAKE)
def test_stored_hidden_states_give_the_mentors_own_logits(family: str, tmp_path: Path) -> None:
    mentor = model(family, seed=1)
    rows = rows_for(mentor)
    record = write(mentor, rows, tmp_path)
    labels = StoredSoftLabels(
        [tmp_path], device=CPU, mentors=["mentor-1"], tokenizer=tokenizer_digest(mentor.tokenizer)
    )
    assert record["rows"] == len(rows)
    assert record["tokens"] == sum(len(row.target_ids) for row in rows)
    for row in rows:
        targets = labels.targets_for([row], batch_of(mentor, [row]))
        logits = targets.hidden_NE @ targets.weight_VE.T
        own = exact_logits(mentor, row)
        assert (logits - own).abs().max() < 2**-7 * own.abs().max()  # bfloat16 keeps 8 digits
        assert (logits - own).abs().max() > 0


@pytest.mark.parametrize("family", MAKE)
def test_stored_top_k_are_the_mentors_likeliest_tokens(family: str, tmp_path: Path) -> None:
    mentor = model(family, seed=1)
    rows = rows_for(mentor)
    write(mentor, rows, tmp_path, mode="top_k", top_k=8, temperature=2.0)
    store = SoftLabelStore(tmp_path)
    for row in rows:
        arrays = store.row(row.rationale_id)
        own = exact_logits(mentor, row)
        kept, indices = (own / 2.0).log_softmax(-1).topk(8)
        np.testing.assert_array_equal(arrays["indices"], indices)
        np.testing.assert_allclose(arrays["log_probs"], kept, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(np.exp(arrays["log_tail"]), 1 - kept.exp().sum(-1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            arrays["nll"], F.cross_entropy(own, torch.tensor(row.target_ids), reduction="none"), rtol=1e-4
        )


def test_nothing_to_score_is_an_empty_store(tmp_path: Path) -> None:
    for mode in ("hidden", "top_k"):
        write(model("t5", seed=1), [], tmp_path / mode, mode=mode)
        assert SoftLabelStore(tmp_path / mode).rows == 0


def capped_mentor() -> LoadedModel:
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "head_dim": 8,
    }
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = Gemma2Config(vocab_size=len(tokenizer), num_key_value_heads=2, final_logit_softcapping=0.05, **sizes)
    return LoadedModel(Gemma2ForCausalLM(config).eval(), tokenizer, "causal")


def test_a_model_that_changes_its_logits_cannot_be_stored_by_hidden_states(tmp_path: Path) -> None:
    mentor = capped_mentor()
    with pytest.raises(ModelError, match="Gemma2ForCausalLM changes its logits after the head"):
        write(mentor, rows_for(mentor), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_that_changes_its_logits_is_stored_by_the_changed_ones(tmp_path: Path) -> None:
    mentor = capped_mentor()
    rows = rows_for(mentor)
    write(mentor, rows, tmp_path, mode="top_k", top_k=8, temperature=1.0)
    row = SoftLabelStore(tmp_path).row(rows[3].rationale_id)
    own = exact_logits(mentor, rows[3])
    assert own.abs().max() <= 0.05
    np.testing.assert_allclose(row["log_probs"], own.log_softmax(-1).topk(8).values, rtol=1e-4)


@pytest.mark.parametrize("mode", ["hidden", "top_k"])
def test_bfloat16_is_near(mode: str, tmp_path: Path) -> None:
    mentor = model("t5", seed=1)
    rows = rows_for(mentor)
    figures = {}
    for bfloat16 in (False, True):
        write(mentor, rows, tmp_path / str(bfloat16), mode=mode, bfloat16=bfloat16)
        figures[bfloat16] = inspect_store(tmp_path / str(bfloat16), sample=99)["nll"]
    assert figures[True] == pytest.approx(figures[False], rel=1e-2)
    assert figures[True] != figures[False]


def test_a_mentor_scores_twice_in_bfloat16(tmp_path: Path) -> None:
    """The first time leaves its products' weights in bfloat16."""
    mentor = model("t5", seed=1)
    rows = rows_for(mentor)
    for name in ("a", "b"):
        write(mentor, rows, tmp_path / name, bfloat16=True)
    assert (tmp_path / "a" / "hidden.bin").read_bytes() == (tmp_path / "b" / "hidden.bin").read_bytes()


# --- killed and resumed ---------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.parametrize("mode", ["hidden", "top_k"])
@pytest.mark.parametrize("torn", [False, True], ids=["between batches", "within a row"])
def test_a_killed_score_goes_on_without_computing_again(mode: str, torn: bool, tmp_path: Path) -> None:
    mentor = model("t5", seed=1)
    rows = rows_for(mentor)
    forwarded: list[int] = []
    mentor.model.encoder.register_forward_pre_hook(
        lambda module, args, kwargs: forwarded.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    write(mentor, rows, tmp_path / "whole", mode=mode)
    tried = 1  # the row on which the head is examined
    assert sum(forwarded) == len(rows) + tried

    def kill(done: int, total: int) -> None:
        assert total == len(rows)
        if done >= 5:
            raise Killed

    forwarded.clear()
    with pytest.raises(Killed):
        write(mentor, rows, tmp_path / "killed", mode=mode, on_progress=kill)
    finished = sum(forwarded) - tried
    assert 5 <= finished < len(rows)
    if torn:
        with (tmp_path / "killed" / "labels.bin").open("ab") as stream:
            stream.write(b"\0\0\0\0\0")
        with (tmp_path / "killed" / "index.jsonl").open("a") as stream:
            stream.write('["r')

    forwarded.clear()
    progress: list[int] = []
    write(mentor, rows, tmp_path / "killed", mode=mode, on_progress=lambda done, total: progress.append(done))
    assert sum(forwarded) == len(rows) - finished + tried
    assert progress[-1] == len(rows)
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "killed" / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_finished_score_computes_nothing_again(tmp_path: Path) -> None:
    mentor = model("t5", seed=1)
    rows = rows_for(mentor)
    write(mentor, rows, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    mentor.model.decoder.register_forward_hook(
        lambda *args: pytest.fail("computed again") if len(forwards) else forwards.append(1)
    )
    forwards: list[int] = []  # the first one examines the head
    write(mentor, rows, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


# --- training from the store is training from the mentor ----------------------------------------------------------


def losses(
    source: SoftLabelSource, folder: Path, *, steps: int, student: LoadedModel, rows: list[Example]
) -> list[float]:
    config = TrainingConfig(epochs=steps * 4 // len(rows), batch_size=4, learning_rate=1e-3)
    how = Distillation([(1.0, source)], kd_weight=0.9, temperature=2.0, tau_squared=True, divergence="forward_kl")
    result = train(student, rows, config, seed=0, folder=folder, precision="float32", objective=how)
    assert result.updates == steps
    return [row["loss"] for row in result.history]


@pytest.mark.parametrize("family", ["t5", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_fifty_steps_from_stored_hidden_states_are_fifty_steps_from_the_live_mentor(
    family: str, tmp_path: Path
) -> None:
    mentor = model(family, seed=1)
    rows = rows_for(mentor, 8)
    write(mentor, rows, tmp_path / "store")
    sources = {"online": OnlineMentor(mentor), "stored": StoredSoftLabels([tmp_path / "store"], device=CPU)}
    curves = {
        name: losses(source, tmp_path / name, steps=50, student=model(family, seed=2), rows=rows)
        for name, source in sources.items()
    }
    assert curves["stored"] == pytest.approx(curves["online"], rel=2**-8)
    assert curves["stored"] != curves["online"]
    assert curves["online"][-1] < 0.9 * curves["online"][0]


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_top_k_of_the_whole_vocabulary_trains_as_the_live_mentor_does(family: str, tmp_path: Path) -> None:
    mentor = model(family, seed=1)
    rows = rows_for(mentor, 8)
    write(mentor, rows, tmp_path / "store", mode="top_k", top_k=10**6)
    assert SoftLabelStore(tmp_path / "store").meta.width == mentor.model.config.vocab_size
    sources = {"online": OnlineMentor(mentor), "stored": StoredSoftLabels([tmp_path / "store"], device=CPU)}
    online, stored = (
        losses(source, tmp_path / name, steps=10, student=model(family, seed=2), rows=rows)
        for name, source in sources.items()
    )
    assert stored == pytest.approx(online, rel=1e-4)


@pytest.mark.parametrize("mode", ["hidden", "top_k"])
@pytest.mark.parametrize("entries", [320, 384, 448], ids=["smaller", "equal", "larger"])
def test_a_students_head_may_be_padded_otherwise(mode: str, entries: int, tmp_path: Path) -> None:
    """One tokenizer of 300 tokens; the mentor's head has 384 entries."""
    tokenizer = tiny_tokenizer(vocab_size=300)
    mentor, student = (
        LoadedModel(tiny_t5(tokenizer, seed=seed, vocab_size=size), tokenizer, "seq2seq")
        for seed, size in ((1, 384), (2, entries))
    )
    rows = rows_for(mentor, 8)
    write(mentor, rows, tmp_path / "store", mode=mode, top_k=10**6, vocab_size=entries)
    source = StoredSoftLabels([tmp_path / "store"], device=CPU)
    if mode == "top_k":
        assert source.meta.vocab_size == min(384, entries)
    curve = losses(source, tmp_path / "run", steps=2, student=student, rows=rows)

    fresh = LoadedModel(tiny_t5(tokenizer, seed=2, vocab_size=entries, dropout_rate=0.0), tokenizer, "seq2seq")
    online = losses(OnlineMentor(mentor), tmp_path / "online", steps=2, student=fresh, rows=rows)
    assert all(np.isfinite(curve))
    again = LoadedModel(tiny_t5(tokenizer, seed=2, vocab_size=entries, dropout_rate=0.0), tokenizer, "seq2seq")
    assert losses(source, tmp_path / "again", steps=2, student=again, rows=rows) == pytest.approx(online, rel=2**-8)


# --- what `inspect` tells -----------------------------------------------------------------------------------------


def direct(mentor: LoadedModel, rows: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """All logits and labels, row after row."""
    logits = torch.cat([exact_logits(mentor, row) for row in rows])
    return logits, torch.cat([torch.tensor(row.target_ids) for row in rows])


def test_inspect_tells_the_mentors_nll_of_hidden_states(tmp_path: Path) -> None:
    mentor = model("t5", seed=1)
    rows = rows_for(mentor)
    write(mentor, rows, tmp_path)
    logits, labels = direct(mentor, rows)
    statistics = inspect_store(tmp_path, sample=len(rows))
    assert statistics["nll"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=5e-3)
    log_probs = logits.log_softmax(-1)
    assert statistics["entropy"] == pytest.approx(-(log_probs.exp() * log_probs).sum(-1).mean().item(), rel=5e-3)
    assert (statistics["rationales"], statistics["tokens"], statistics["sampled_tokens"]) == (
        len(rows),
        len(labels),
        len(labels),
    )
    assert statistics["bytes_per_token"] == 4 + 2 * 32
    assert statistics["bytes"] == sum(file.stat().st_size for file in tmp_path.iterdir())
    some = inspect_store(tmp_path, sample=3)
    assert 0 < some["sampled_tokens"] < len(labels)


def test_inspect_tells_what_top_k_kept_and_lost(tmp_path: Path) -> None:
    mentor = model("t5", seed=1)
    rows = rows_for(mentor)
    write(mentor, rows, tmp_path, mode="top_k", top_k=8, temperature=2.0)
    logits, labels = direct(mentor, rows)
    exact = (logits / 2.0).log_softmax(-1)
    kept, indices = exact.exp().topk(8)
    spread = ((1 - kept.sum(-1, keepdim=True)) / (exact.shape[-1] - 8)).expand_as(exact).scatter(1, indices, kept)
    statistics = inspect_store(tmp_path, sample=64)
    assert statistics["nll"] == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-4)
    assert statistics["mass_kept"] == pytest.approx(kept.sum(-1).mean().item(), abs=1e-5)
    assert statistics["lost"] == pytest.approx((exact.exp() * (exact - spread.log())).sum(-1).mean().item(), abs=1e-5)
    assert statistics["lost"] > 1e-3
    hits = (indices == labels[:, None]).any(-1).float().mean().item()
    assert (statistics["k"], statistics["temperature"], statistics["targets_among_kept"]) == (
        8,
        2.0,
        pytest.approx(hits, abs=1e-4),
    )


def test_top_k_of_everything_loses_nothing(tmp_path: Path) -> None:
    mentor = model("t5", seed=1)
    write(mentor, rows_for(mentor), tmp_path, mode="top_k", top_k=10**6)
    statistics = inspect_store(tmp_path, sample=1)
    assert (statistics["mass_kept"], statistics["lost"], statistics["targets_among_kept"]) == (
        1.0,
        pytest.approx(0, abs=1e-6),
        1.0,
    )


@pytest.mark.parametrize("mode", ["hidden", "top_k"])
def test_inspect_of_an_empty_store_tells_so(mode: str, tmp_path: Path) -> None:
    write(model("t5", seed=1), [], tmp_path, mode=mode)
    assert inspect_store(tmp_path, sample=4)["tokens"] == 0
