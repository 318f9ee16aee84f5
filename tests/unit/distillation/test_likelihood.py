"""The likelihood of rationales: a model's own numbers, computed once."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mentorkd.data.encoding import encode_prompt, encode_target
from mentorkd.distillation.likelihood import PerplexityScorer, likelihoods, perplexity_scorer
from mentorkd.models import LoadedModel
from mentorkd.recipe.learner import Learner
from mentorkd.records import Question, Rationale
from tiny_models import tiny_gpt2, tiny_llama, tiny_t5, tiny_tokenizer

CPU = torch.device("cpu")
MAKE: dict[str, Callable[..., Any]] = {"t5": tiny_t5, "gpt2": tiny_gpt2, "llama": tiny_llama}
QUESTIONS = [Question.create(f"How many are {n} and {n % 7}?", str(n + n % 7), "train") for n in range(12)]
RATIONALES = [
    Rationale.create(q.id, f"{n} + {n % 7} = {q.answer}. " * (n % 4), q.answer, "correct", "teacher", 0)
    for n, q in enumerate(QUESTIONS)
]


def model(family: str, seed: int = 1, **sizes: Any) -> LoadedModel:
    tokenizer = tiny_tokenizer()
    return LoadedModel(
        MAKE[family](tokenizer, seed=seed, **sizes), tokenizer, "seq2seq" if family == "t5" else "causal"
    )


def scores(scorer: PerplexityScorer, rationales: list[Rationale] = RATIONALES) -> dict[str, float]:
    return likelihoods(scorer, rationales, QUESTIONS, on_progress=lambda done, total: None)


def never() -> LoadedModel:
    raise AssertionError("it was scored before")


@torch.no_grad()
def own_loss(loaded: LoadedModel, prompt: str, target: str) -> float:
    """The model's own mean loss of one row alone."""
    source = encode_prompt(loaded.tokenizer, loaded.kind, prompt)
    labels = encode_target(loaded.tokenizer, loaded.kind, target)
    if loaded.kind == "seq2seq":
        return float(loaded.model(input_ids=torch.tensor([source]), labels=torch.tensor([labels])).loss)
    logits = loaded.model(input_ids=torch.tensor([source + labels])).logits[0, len(source) - 1 : -1]
    return F.cross_entropy(logits, torch.tensor(labels)).item()


@pytest.mark.parametrize("family", MAKE)
@pytest.mark.parametrize("form", ["arrow", "therefore"])
def test_it_is_the_models_own_loss_of_rationale_and_answer(family: str, form: Any, tmp_path: Path) -> None:
    loaded = model(family)
    nll = scores(PerplexityScorer(lambda: loaded, tmp_path / "j", prompt="Q: {question}", target=form))
    ends = {"arrow": "{} --> {}", "therefore": "{} Therefore, the answer is {}."}
    for question, rationale in zip(QUESTIONS, RATIONALES, strict=True):
        target = ends[form].format(rationale.text, question.answer).strip()
        assert nll[rationale.id] == pytest.approx(own_loss(loaded, f"Q: {question.text}", target), rel=1e-4)
    assert len(set(nll.values())) > 6


def test_nothing_is_scored_twice_whatever_was_killed(tmp_path: Path) -> None:
    loaded, journal = model("t5"), tmp_path / "sub" / "j"
    whole = scores(PerplexityScorer(lambda: loaded, journal))
    assert scores(PerplexityScorer(never, journal)) == whole
    again = RATIONALES[0]
    renamed = Rationale.create(again.question_id, again.text, None, "wrong", "mentor", 5)
    assert scores(PerplexityScorer(never, journal), [renamed]) == {renamed.id: whole[again.id]}
    with pytest.raises(AssertionError, match="scored before"):
        scores(PerplexityScorer(never, journal, prompt="Else: {question}"))
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join(lines[:5]) + "\n" + lines[5][:9])  # a kill tore the sixth
    assert scores(PerplexityScorer(lambda: loaded, journal)) == pytest.approx(whole, rel=1e-4)
    assert scores(PerplexityScorer(never, journal)) == pytest.approx(whole, rel=1e-4)


def test_a_text_too_long_for_the_model_is_the_least_likely(tmp_path: Path) -> None:
    loaded = model("gpt2", n_positions=64)
    long = Rationale.create(QUESTIONS[0].id, "and on " * 40, "0", "correct", "teacher", 1)
    nll = scores(PerplexityScorer(lambda: loaded, tmp_path / "j"), [RATIONALES[1], long])
    assert math.isinf(nll[long.id])
    assert math.isfinite(nll[RATIONALES[1].id])
    assert scores(PerplexityScorer(never, tmp_path / "j"), [long]) == {long.id: math.inf}


def test_a_scorer_is_a_learner_with_its_own_prompt_and_target_or_any_model(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    loaded = model("t5")
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    settings: dict[str, Any] = {"device": CPU, "bfloat16": False, "journals": tmp_path / "journals"}
    learner = Learner.model_validate({"model": "m", "prompt": "P {question}", "target": "arrow"})
    taught = perplexity_scorer("mentor", learner, folder, **settings)
    other = perplexity_scorer(str(folder), None, None, **settings)
    assert (taught.prompt, taught.target) == ("P {question}", "arrow")
    assert (other.prompt, other.target) == ("{question}", "therefore")
    assert taught.journal == other.journal  # the same weights; their texts differ
    assert perplexity_scorer("mentor", learner, folder, **settings | {"bfloat16": True}).journal != taught.journal
    assert scores(taught) != scores(other)
    assert scores(other) == pytest.approx(scores(PerplexityScorer(lambda: loaded, tmp_path / "j")), rel=1e-4)
