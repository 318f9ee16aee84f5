"""Likelihood: a model's negative log-likelihood of rationales, for the filter `perplexity`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F

from mentorkd.data.batching import Collator, sides_of, sorted_batches
from mentorkd.data.encoding import TextEncoder, encode_rows
from mentorkd.data.prompts import TargetForm, render_prompt, render_target
from mentorkd.distillation.hidden_states import FrozenModel, scoring_tokens
from mentorkd.files import digest_path, fingerprint, journal_line, read_journal
from mentorkd.hub import UNKNOWN, cached_commit
from mentorkd.hub.chat import DATE
from mentorkd.models import LoadedModel, load_folder, load_model
from mentorkd.recipe.learner import Learner, ModelConfig
from mentorkd.records import Progress, Question, Rationale, content_id


@dataclass(frozen=True)
class PerplexityScorer:
    """A model that scores rationales as training texts: each with the gold answer appended, after its question."""

    load: Callable[[], LoadedModel]
    """Called only if a text has no score yet."""
    journal: Path
    """File in which scores are kept, so that no text is scored twice. It belongs to these weights alone."""
    prompt: str = "{question}"
    target: TargetForm = "therefore"
    bfloat16: bool = False


def perplexity_scorer(
    name: str, learner: Learner | None, folder: Path | None, *, device: torch.device, bfloat16: bool, journals: Path
) -> PerplexityScorer:
    """The scorer that a filter names: a learner, with the prompt and target of its training and its model in `folder`; or, if
    `learner` is None, any model by its hub name or folder. Its journal lies in the folder `journals`."""
    if learner is None:
        config = ModelConfig(name=name, dtype="bfloat16" if bfloat16 else "auto")
        identity = digest_path(Path(name)) if Path(name).exists() else f"{name}@{cached_commit(name, None)}"
        scorer = PerplexityScorer(partial(load_model, config, seed=0, device=device), Path(), bfloat16=bfloat16)
    else:
        assert folder is not None, "a learner's model lies in a folder"
        identity = digest_path(folder)
        load = partial(load_folder, folder, device=device)
        scorer = PerplexityScorer(load, Path(), learner.prompt, learner.target, bfloat16)
    dated = [DATE] if UNKNOWN.asks_for_date(str(folder or name), None) else []
    return replace(scorer, journal=journals / f"likelihoods-{fingerprint([identity, bfloat16, *dated])}.jsonl")


def likelihoods(
    scorer: PerplexityScorer, rationales: Sequence[Rationale], questions: Sequence[Question], *, on_progress: Progress
) -> dict[str, float]:
    """Mean negative log-likelihood of a target token (the end token is one), in nats, by rationale id; inf for too long a text."""
    by_id = {question.id: question for question in questions}
    texts = {}
    for rationale in rationales:
        question = by_id[rationale.question_id]
        target = render_target(rationale.text, question.answer, scorer.target)
        texts[rationale.id] = render_prompt(question.text, scorer.prompt), target
    keys = {rationale_id: content_id(*text) for rationale_id, text in texts.items()}
    scores: dict[str, float | None] = dict(read_journal(scorer.journal))
    missing = {keys[each]: text for each, text in texts.items() if keys[each] not in scores}
    if missing:
        scorer.journal.parent.mkdir(parents=True, exist_ok=True)
        with scorer.journal.open("a", encoding="utf-8") as file:
            for batch_scores in _score(scorer.load(), missing, scorer.bfloat16):
                file.writelines(journal_line([key, nll]) for key, nll in batch_scores.items())
                file.flush()
                scores |= batch_scores
                on_progress(sum(key in scores for key in missing), len(missing))
    return {each: math.inf if (nll := scores[key]) is None else nll for each, key in keys.items()}


@torch.inference_mode()
def _score(
    loaded: LoadedModel, texts: Mapping[str, tuple[str, str]], bfloat16: bool
) -> Iterator[dict[str, float | None]]:
    """Negative log-likelihoods of (prompt, target) by their keys, batch after batch; None for a text that is too long."""
    rows, _ = encode_rows(
        [(key, prompt, target) for key, (prompt, target) in texts.items()],
        TextEncoder.of(loaded),
        max_source_tokens=sys.maxsize,
        max_target_tokens=sys.maxsize,
    )
    yield dict.fromkeys(texts.keys() - {row.rationale_id for row in rows})
    if not rows:
        return
    collate = Collator.for_model(loaded.kind, loaded.tokenizer, loaded.model.config)
    batches = sorted_batches(sides_of(rows, loaded.kind), tokens_per_batch=scoring_tokens(loaded))
    model = FrozenModel(loaded, collate([rows[batches[0][0]]]), bfloat16=bfloat16)
    for numbers in batches:
        part = [rows[number] for number in numbers]
        logits_and_labels = model.logits(collate(part))
        nll_N = torch.cat([F.cross_entropy(logits, labels, reduction="none") for logits, labels in logits_and_labels])
        lengths = [len(row.target_ids) for row in part]
        means = [tokens.mean().item() for tokens in torch.split_with_sizes(nll_N.cpu(), lengths)]
        yield {row.rationale_id: mean for row, mean in zip(part, means, strict=True)}
