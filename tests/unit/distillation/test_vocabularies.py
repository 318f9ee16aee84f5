"""A base student reads a chat mentor of its family: one vocabulary, two end tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from chat_pair import BASE_END, CHAT_END, base_tokenizer, chat_tokenizer
from mentorkd.data.batching import IGNORE_INDEX, Collator
from mentorkd.data.encoding import Example, TextEncoder, encode_rows
from mentorkd.distillation.losses import MentorTopK
from mentorkd.distillation.mentors import OnlineMentor
from mentorkd.distillation.objectives.build import MentorFiles, objective_of
from mentorkd.distillation.scoring import score
from mentorkd.distillation.soft_labels import StoredSoftLabels
from mentorkd.distillation.vocabularies import EndTokens, end_tokens
from mentorkd.errors import ModelError, StoreError
from mentorkd.files import digest_path
from mentorkd.models import LoadedModel, save_model
from mentorkd.recipe.learner import Learner
from tiny_models import tiny_llama, tiny_tokenizer

CPU = torch.device("cpu")
TEXTS = [(f"r{n}", "How many?" * (n % 3 + 1), f"{n} + 1 = {n + 1}." * (n % 2 + 1)) for n in range(5)]


def learner(tokenizer: Any, seed: int) -> LoadedModel:
    return LoadedModel(tiny_llama(tokenizer, seed=seed, eos_token_id=tokenizer.eos_token_id), tokenizer, "causal")


def rows_of(loaded: LoadedModel) -> list[Example]:
    encoder = TextEncoder(loaded.tokenizer, loaded.kind)
    return encode_rows(TEXTS, encoder, max_source_tokens=99, max_target_tokens=99)[0]


def batch_of(loaded: LoadedModel, rows: list[Example]) -> dict[str, torch.Tensor]:
    return Collator.for_model(loaded.kind, loaded.tokenizer, loaded.model.config)(rows)


@torch.no_grad()
def exact(mentor: LoadedModel, row: Example) -> torch.Tensor:
    """The mentor's own distributions on its own row, with the columns of the two ends exchanged."""
    batch = batch_of(mentor, [row])
    logits = mentor.model(input_ids=batch["input_ids"]).logits[batch["labels"] != IGNORE_INDEX]
    logits[:, [BASE_END, CHAT_END]] = logits[:, [CHAT_END, BASE_END]]
    return logits


@pytest.fixture(scope="module")
def pair() -> tuple[LoadedModel, LoadedModel]:
    return learner(chat_tokenizer(), 1), learner(base_tokenizer(), 2)


def files(mentor: LoadedModel, folder: Path, form: str) -> MentorFiles:
    """The mentor saved, and scored as the stage does it."""
    save_model(mentor, folder / "model", card="# card\n")
    if form == "online":
        return MentorFiles(folder / "model")
    about = {"mentor_digest": digest_path(folder / "model"), "target": "arrow", "on_progress": lambda done, total: None}
    how = {"mode": form, "top_k": 5, "temperature": 1.0, "bfloat16": False}
    score(mentor, rows_of(mentor), folder=folder / "store", **how, **about)
    return MentorFiles(folder / "model", {"teacher": [folder / "store"]})


@pytest.mark.parametrize("form", ["hidden", "top_k", "online"])
def test_the_mentors_end_is_read_as_the_students(
    form: str, pair: tuple[LoadedModel, LoadedModel], tmp_path: Path
) -> None:
    mentor, student = pair
    settings = {"soft_labels": "mentor", "soft_label_store": form, "top_k": 5}
    config = Learner(model="m", rationales=["teacher"], **settings)
    objective = objective_of(config, student, {"mentor": [files(mentor, tmp_path, form)]}, seed=0)
    rows, own = rows_of(student), rows_of(mentor)
    assert rows[0].target_ids[-1] == BASE_END
    assert own[0].target_ids[-1] == CHAT_END
    [source] = objective.mentors
    for row, theirs in zip(rows, own, strict=True):
        if form == "online":  # a live mentor reads the student's prompt
            theirs = Example(row.rationale_id, row.source_ids, theirs.target_ids)
        targets, expected = source.targets_for([row], batch_of(student, [row])), exact(mentor, theirs)
        if isinstance(targets, MentorTopK):
            kept = expected.log_softmax(-1).topk(5)
            torch.testing.assert_close(targets.log_probs_NK, kept.values, rtol=1e-4, atol=1e-5)
            assert torch.equal(targets.indices_NK, kept.indices)
        else:
            torch.testing.assert_close(targets.logits(), expected, rtol=0, atol=0.02 * float(expected.abs().max()))
            torch.testing.assert_close(
                targets.logits().softmax(-1)[:, BASE_END], expected.softmax(-1)[:, BASE_END], rtol=0.05, atol=1e-6
            )


def test_a_student_with_the_end_of_its_mentor_reads_it_unchanged(pair: tuple[LoadedModel, LoadedModel]) -> None:
    mentor, _ = pair
    row = rows_of(mentor)[0]
    targets = OnlineMentor(mentor).targets_for([row], batch_of(mentor, [row]))
    assert targets.weight_VE is mentor.model.get_output_embeddings().weight
    weight = torch.randn(7, 2)
    assert EndTokens(2, 2).columns(weight, 0) is weight


def test_without_the_exchange_the_store_is_refused(pair: tuple[LoadedModel, LoadedModel], tmp_path: Path) -> None:
    mentor, student = pair
    row = rows_of(student)[0]
    labels = StoredSoftLabels(files(mentor, tmp_path, "hidden").stores["teacher"], device=CPU)
    with pytest.raises(StoreError, match="target tokens"):
        labels.targets_for([row], batch_of(student, [row]))


def test_ends_and_padding_may_differ_and_no_other_token() -> None:
    base, chat = base_tokenizer(), chat_tokenizer()
    assert end_tokens(chat, base) == EndTokens(mentor=CHAT_END, student=BASE_END)
    assert not end_tokens(base, base).differ
    added = chat_tokenizer()
    added.add_special_tokens({"eos_token": "<|im_end|>", "pad_token": "<|pad|>"})
    assert end_tokens(added, base) == EndTokens(mentor=len(base), student=BASE_END)
    added.add_tokens(["<tool>"])
    with pytest.raises(ModelError, match=rf"different vocabularies \({len(base) + 2} is '<tool>' and None\)"):
        end_tokens(added, base)
    # A token that one side uses as padding is a token that the other side can emit.
    used = base_tokenizer()
    used.pad_token = used.convert_ids_to_tokens(40)
    assert not end_tokens(used, base).differ
    other = tiny_tokenizer(["entirely different words"], append_eos=False)
    with pytest.raises(ModelError, match=r"and [\d,]+ more"):
        end_tokens(other, base)
