from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from mentorkd.data.batching import IGNORE_INDEX, Collator
from mentorkd.data.encoding import Example, TextEncoder, encode_prompt, encode_rows
from mentorkd.data.examples import TextExample
from mentorkd.distillation.agreement import agreement
from mentorkd.distillation.chunk_scoring import score_chunks
from mentorkd.distillation.chunks import target_tokens
from mentorkd.distillation.inspect import inspect_store
from mentorkd.distillation.objectives.base import Student
from mentorkd.distillation.objectives.soft_labels import Distillation
from mentorkd.distillation.soft_labels import SoftLabelStore, StoredSoftLabels
from mentorkd.errors import ModelError
from mentorkd.models import LoadedModel, tokenizer_digest
from tiny_models import tiny_gpt2, tiny_llama, tiny_t5
from tiny_vocabularies import encoder_of

CPU = torch.device("cpu")
MAKE: dict[str, Any] = {"t5": tiny_t5, "gpt2": tiny_gpt2, "llama": tiny_llama}


def model(family: str, vocabulary: str, seed: int = 1, **sizes: Any) -> LoadedModel:
    tokenizer: Any = encoder_of(vocabulary).tokenizer
    return LoadedModel(
        MAKE[family](tokenizer, seed=seed, **sizes), tokenizer, "seq2seq" if family == "t5" else "causal"
    )


TEXTS = [
    TextExample(
        f"r{n}", "How many?" * (n % 4 + 1), f"Tom has {n} pens and {n % 3 + 1} more. --> {n + n % 3 + 1}" * (n % 3 + 1)
    )
    for n in range(10)
] + [TextExample("empty", "How many?", ""), TextExample("lines", "How many?", "a pen\nA box\n")]
PAIRS = {
    "t5 to llama": ("t5", "metaspace", "llama", "bytes"),
    "llama to t5": ("llama", "bytes", "t5", "metaspace"),
    "t5 with BOS to gpt2": ("t5", "bytes and BOS", "gpt2", "metaspace without the first space"),
    "gpt2 to t5, words": ("gpt2", "bytes", "t5", "wordpiece"),
}


def rows_of(texts: list[TextExample], student: TextEncoder, **limits: int) -> list[Example]:
    return encode_rows(texts, student, **{"max_source_tokens": 300, "max_target_tokens": 300, **limits})[0]


def write(
    mentor: LoadedModel, rows: list[Example], student: TextEncoder, folder: Path, **changes: Any
) -> dict[str, Any]:
    how = {"texts": TEXTS, "bfloat16": False, "tokens_per_batch": 128, "on_progress": lambda done, total: None}
    about = {"mentor_digest": "mentor-1", "target": "arrow"}
    return score_chunks(mentor, rows=rows, student=student, folder=folder, **{**how, **about, **changes})


@torch.no_grad()
def token_log_probs(mentor: LoadedModel, text: TextExample, *, ended: bool = True) -> torch.Tensor:
    """The mentor's log-probabilities of its own tokens of one text alone."""
    encoder = TextEncoder.of(mentor)
    ids = target_tokens(encoder, text.target, ended=ended).ids
    row = Example("a", encode_prompt(mentor.tokenizer, mentor.kind, text.prompt), ids)
    batch = Collator.for_model(mentor.kind, mentor.tokenizer, mentor.model.config)([row])
    logits = mentor.model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    logits = logits[batch["labels"] != IGNORE_INDEX].double()
    return logits.log_softmax(-1)[range(len(ids)), ids]


@pytest.mark.parametrize("pair", PAIRS)
def test_the_likelihoods_of_the_chunks_of_a_text_are_the_texts(pair: str, tmp_path: Path) -> None:
    family, vocabulary, student_family, student_vocabulary = PAIRS[pair]
    mentor, student = model(family, vocabulary), TextEncoder.of(model(student_family, student_vocabulary))
    rows = rows_of(TEXTS, student)
    record = write(mentor, rows, student, tmp_path)
    store = SoftLabelStore(tmp_path)
    assert (record["rows"], record["form"], record["mentor_too_long"]) == (len(TEXTS), "chunks", 0)
    assert record["tokens"] == sum(len(row.target_ids) for row in rows)
    unlabelled = 0
    for row, text in zip(rows, TEXTS, strict=True):
        arrays, exact = store.row(row.rationale_id), token_log_probs(mentor, text)
        assert arrays["tokens"].sum() == len(row.target_ids)
        if np.isnan(arrays["log_probs"]).any():
            unlabelled += int(np.isnan(arrays["log_probs"]).sum())
            assert np.nansum(arrays["log_probs"]) > exact.sum()
        else:
            assert arrays["log_probs"].sum() == pytest.approx(float(exact.sum()), rel=1e-5)
        assert arrays["log_probs"][-1] <= float(exact[-1]) + 1e-4, "the end token is in the last chunk"
        if text.rationale_id != "empty":
            assert arrays["log_probs"][-1] == pytest.approx(float(exact[-1]), rel=1e-4), "and alone"
    assert record["unlabelled_chunks"] == unlabelled


def test_the_meta_names_both_tokenizers_and_batches_are_read(tmp_path: Path) -> None:
    mentor, student = model("llama", "bytes"), model("t5", "metaspace", seed=2)
    rows = rows_of(TEXTS, TextEncoder.of(student))
    write(mentor, rows, TextEncoder.of(student), tmp_path)
    source = StoredSoftLabels(
        [tmp_path], device=CPU, mentors=["mentor-1"], tokenizer=tokenizer_digest(student.tokenizer), target="arrow"
    )
    assert source.meta.mentor_tokenizer == tokenizer_digest(mentor.tokenizer) != source.meta.tokenizer
    batch = Collator.for_model(student.kind, student.tokenizer, student.model.config)(rows[:3])
    reads = Student.forward(student.model, batch, rows[:3], owner=student.model, fused=True)
    sums = Distillation([(1.0, source)], 0.5, 2.0, True, "forward_kl").sums(reads)
    sums.loss["tokens"].backward()
    assert sums.metrics["divergence"][1] > 0
    assert all(weight.grad.isfinite().all() for weight in student.model.parameters() if weight.grad is not None)


def test_a_mentor_that_is_the_student_gives_0(tmp_path: Path) -> None:
    mentor = model("llama", "bytes")
    encoder = TextEncoder.of(mentor)
    rows = rows_of(TEXTS, encoder)
    write(mentor, rows, encoder, tmp_path)
    batch = Collator("causal", mentor.tokenizer.pad_token_id, packed=True)(rows)
    reads = Student.forward(mentor.model, batch, rows, owner=mentor.model, fused=True)
    source = StoredSoftLabels([tmp_path], device=CPU)
    for tau in (None, 1.0, 100.0):
        sums = reads.loss([(1.0, source.targets_for(rows, batch))], chunk_temperature=tau, kd_weight=1.0)
        assert 0 <= sums.loss.item() / sums.tokens < 1e-6
        gradients = torch.autograd.grad(sums.loss, list(mentor.model.parameters()), retain_graph=True)
        assert max(float(each.abs().max()) for each in gradients) < 1e-2 * sums.tokens**0.5


def test_an_unfinished_text_has_no_end(tmp_path: Path) -> None:
    mentor, student = model("t5", "metaspace"), encoder_of("bytes")
    text = TEXTS[0]._replace(ended=False)
    (row,) = rows_of([text], student)
    write(mentor, [row], student, tmp_path, texts=[text])
    arrays = SoftLabelStore(tmp_path).row("r0")
    assert arrays["tokens"].sum() == len(row.target_ids) == len(rows_of(TEXTS[:1], student)[0].target_ids) - 1
    exact = token_log_probs(mentor, TEXTS[0], ended=False)
    assert arrays["log_probs"].sum() == pytest.approx(float(exact.sum()), rel=1e-5)


def test_rows_are_chosen_by_the_student_and_a_text_too_long_for_the_mentor_has_no_labels(tmp_path: Path) -> None:
    mentor, student = model("gpt2", "bytes", n_positions=37), encoder_of("metaspace")
    rows = rows_of(TEXTS, student, max_target_tokens=45)
    assert 4 < len(rows) < len(TEXTS)
    record = write(mentor, rows, student, tmp_path)
    store = SoftLabelStore(tmp_path)
    assert sorted(store.ids) == sorted(row.rationale_id for row in rows)
    whole = [each for each in store.ids if np.isnan(store.row(each)["log_probs"]).all()]
    assert record["mentor_too_long"] == len(whole)
    labels = StoredSoftLabels([tmp_path], device=CPU)
    assert {row.rationale_id for row in rows if labels.part_of(row) is None} == set(whole), "learnt as text alone"
    assert 0 < len(whole) < len(rows)
    assert record["unlabelled_chunks"] == sum(len(store.row(each)["tokens"]) for each in whole)
    described = inspect_store(tmp_path, sample=1)
    assert described["unlabelled_chunks"] == record["unlabelled_chunks"]
    assert described["nll"] > 0


def test_inspect_tells_the_mentors_nll_a_token_of_the_student(tmp_path: Path) -> None:
    mentor, student = model("t5", "metaspace"), encoder_of("bytes")
    rows = rows_of(TEXTS, student)
    record = write(mentor, rows, student, tmp_path)
    described = inspect_store(tmp_path, sample=1)
    total = -sum(float(token_log_probs(mentor, text).sum()) for text in TEXTS)
    assert described["nll"] == pytest.approx(total / record["tokens"], rel=1e-3)
    assert (described["tokens"], described["chunks"]) == (record["tokens"], record["chunks"])
    assert described["bytes_per_token"] == pytest.approx(6 * record["chunks"] / record["tokens"], abs=1e-3)
    assert described["mentor_tokenizer"] == tokenizer_digest(mentor.tokenizer)
    write(mentor, [], student, tmp_path / "nothing")
    assert inspect_store(tmp_path / "nothing", sample=1)["nll"] is None


def test_agreement_tells_the_likelihoods(tmp_path: Path) -> None:
    mentor, student = model("llama", "bytes"), model("t5", "metaspace", seed=2)
    rows = rows_of(TEXTS, TextEncoder.of(student))
    write(mentor, rows, TextEncoder.of(student), tmp_path)
    objective = Distillation([(1.0, StoredSoftLabels([tmp_path], device=CPU))], 0.5, 2.0, True, "forward_kl")
    (row,) = agreement(student, rows, objective, ["large"])
    assert row["mentor_nll"] == pytest.approx(inspect_store(tmp_path, sample=1)["nll"], abs=1e-3)
    assert row["agreement"] is None
    assert row["student_nll"] > 0


def test_a_model_that_changes_its_logits_is_scored_by_the_changed_ones(tmp_path: Path) -> None:
    tokenizer = encoder_of("bytes").tokenizer
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=0.05,
    )
    mentor = LoadedModel(Gemma2ForCausalLM(config).eval(), tokenizer, "causal")
    student = encoder_of("metaspace")
    write(mentor, rows_of(TEXTS[:1], student), student, tmp_path)
    exact = token_log_probs(mentor, TEXTS[0])
    assert SoftLabelStore(tmp_path).row("r0")["log_probs"].sum() == pytest.approx(float(exact.sum()), rel=1e-5)


class Killed(Exception):
    pass


@pytest.mark.parametrize("torn", [False, True], ids=["between batches", "within a row"])
def test_a_killed_score_goes_on_without_computing_again(
    torn: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mentor, student = model("gpt2", "bytes", n_positions=48), encoder_of("metaspace")
    rows = rows_of(TEXTS, student)
    forwarded: list[int] = []
    mentor.model.register_forward_pre_hook(
        lambda module, args, kwargs: forwarded.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    whole = write(mentor, rows, student, tmp_path / "whole")
    assert whole["mentor_too_long"] > 0
    readable = len(rows) - whole["mentor_too_long"]
    assert sum(forwarded) == readable + 1  # the row on which the head is examined

    def kill(done: int, total: int) -> None:
        if done >= 6:
            raise Killed

    forwarded.clear()
    with pytest.raises(Killed):
        write(mentor, rows, student, tmp_path / "killed", on_progress=kill)
    finished = sum(forwarded) - 1
    assert 0 < finished < readable
    if torn:
        with (tmp_path / "killed" / "tokens.bin").open("ab") as stream:
            stream.write(b"\0\0\0")
        with (tmp_path / "killed" / "index.jsonl").open("a") as stream:
            stream.write('["r')
    forwarded.clear()
    with caplog.at_level(logging.WARNING):
        assert write(mentor, rows, student, tmp_path / "killed") == whole
    assert sum(forwarded) == readable - finished + 1
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "killed" / file.name).read_bytes() == file.read_bytes(), file.name


def test_rows_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    rows = rows_of(TEXTS[:1], encoder_of("wordpiece"))
    with pytest.raises(
        ModelError, match=r"the target tokens of rationale r0 are not those that .* makes of its text"
    ) as caught:
        write(model("t5", "metaspace"), rows, encoder_of("bytes"), tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
