"""Likelihood: how likely a model finds rationales, for the filter `perplexity`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F

from mentorkd.data.batching import Collator, sorted_batches
from mentorkd.data.encoding import TextEncoder, encode_rows
from mentorkd.data.prompts import TargetForm, render_prompt, render_target
from mentorkd.distillation.hidden_states import (
    TOKENS_PER_BATCH,
    arithmetic,
    head_is_linear,
    logits_in_parts,
    on_device,
    states_at_targets,
)
from mentorkd.files import digest_path, fingerprint
from mentorkd.models import LoadedModel, cast_linear_layers, load_folder, load_model
from mentorkd.recipe.learner import Learner, ModelConfig
from mentorkd.records import Progress, Question, Rationale, content_id

__all__ = ["PerplexityScorer", "likelihoods", "perplexity_scorer"]


@dataclass(frozen=True)
class PerplexityScorer:
    """A model that judges rationales as texts to be learnt: each with the gold answer behind it, after its question."""

    load: Callable[[], LoadedModel]
    """Called only if something is yet to be judged."""
    journal: Path
    """File in which its judgements are kept, so that none is made twice. It belongs to these weights alone."""
    prompt: str = "{question}"
    target: TargetForm = "therefore"
    bfloat16: bool = False


def perplexity_scorer(
    name: str, learner: Learner | None, folder: Path | None, *, device: torch.device, bfloat16: bool, journals: Path
) -> PerplexityScorer:
    """The judge that a filter names: a learner, which reads as it was taught and whose model is in `folder`; or any model, by
    its hub name or folder. Its journal lies in the folder `journals`.
    """
    if learner is None:
        config = ModelConfig(name=name, dtype="bfloat16" if bfloat16 else "auto")
        identity = digest_path(Path(name)) if Path(name).is_dir() else name
        judge = PerplexityScorer(partial(load_model, config, seed=0, device=device), Path(), bfloat16=bfloat16)
    else:
        assert folder is not None, "a learner's model lies in a folder"
        identity = digest_path(folder)
        load = partial(load_folder, folder, device=device)
        judge = PerplexityScorer(load, Path(), learner.prompt, learner.target, bfloat16)
    return replace(judge, journal=journals / f"likelihoods-{fingerprint([identity, bfloat16])}.jsonl")


def likelihoods(
    judge: PerplexityScorer, rationales: Sequence[Rationale], questions: Sequence[Question], *, on_progress: Progress
) -> dict[str, float]:
    """The judge's mean negative log-likelihood of a target token (the end token is one), in nats, by rationale id.

    Infinite for a text that is longer than the judge has positions for.
    """
    asked = {question.id: question for question in questions}
    texts = {rationale.id: _text(judge, rationale, asked[rationale.question_id]) for rationale in rationales}
    keys = {each: content_id(*text) for each, text in texts.items()}
    known = _whole_lines(judge.journal)
    missing = {keys[each]: text for each, text in texts.items() if keys[each] not in known}
    if missing:
        judge.journal.parent.mkdir(parents=True, exist_ok=True)
        with judge.journal.open("a", encoding="utf-8") as file:
            for found in _judged(judge.load(), missing, judge.bfloat16):
                file.writelines(json.dumps([key, nll]) + "\n" for key, nll in found.items())
                file.flush()
                known |= found
                on_progress(sum(key in known for key in missing), len(missing))
    return {each: math.inf if (nll := known[key]) is None else nll for each, key in keys.items()}


def _text(judge: PerplexityScorer, rationale: Rationale, question: Question) -> tuple[str, str]:
    return render_prompt(question.text, judge.prompt), render_target(rationale.text, question.answer, judge.target)


def _whole_lines(journal: Path) -> dict[str, float | None]:
    """What a journal holds; half a line that a kill has left is cut off, or the next one would be glued to it."""
    if not journal.exists():
        return {}
    text = journal.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        journal.write_text(whole, encoding="utf-8")
    return dict(json.loads(line) for line in whole.splitlines())


@torch.inference_mode()
def _judged(
    loaded: LoadedModel, texts: Mapping[str, tuple[str, str]], bfloat16: bool
) -> Iterator[dict[str, float | None]]:
    """Negative log-likelihoods of (prompt, target) by their keys, batch after batch; None for what is too long."""
    encoder = TextEncoder.of(loaded)
    rows, _ = encode_rows(
        [(key, prompt, target) for key, (prompt, target) in texts.items()],
        encoder.tokenizer,
        encoder.kind,
        max_source_tokens=sys.maxsize,
        max_target_tokens=sys.maxsize,
        positions=encoder.positions if encoder.kind == "causal" else None,
    )
    yield dict.fromkeys(texts.keys() - {row.rationale_id for row in rows})
    collate = Collator.for_model(loaded.kind, loaded.tokenizer, loaded.model.config)
    exact: bool | None = None
    for numbers in sorted_batches([row.padded_sides(loaded.kind) for row in rows], tokens_per_batch=TOKENS_PER_BATCH):
        part = [rows[number] for number in numbers]
        batch = on_device(loaded.device, collate(part))
        if exact is None:
            with arithmetic(loaded, bfloat16):
                exact = head_is_linear(loaded.model, batch)
            if bfloat16:
                cast_linear_layers(loaded.model)
        states = states_at_targets(loaded, batch, exact=exact, bfloat16=bfloat16)
        pieces = [
            F.cross_entropy(logits, labels, reduction="none")
            for logits, labels in logits_in_parts(loaded, batch, states, exact=exact)
        ]
        lengths = [len(row.target_ids) for row in part]
        means = [tokens.mean().item() for tokens in torch.split_with_sizes(torch.cat(pieces).cpu(), lengths)]
        yield {row.rationale_id: mean for row, mean in zip(part, means, strict=True)}
