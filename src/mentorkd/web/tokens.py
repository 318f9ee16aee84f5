"""Where a student does not follow its mentors: the divergence at each token of a rationale, from soft labels and its own forward pass.

At each target token, KL(mentor || student) in nats: at temperature 1 where the mentor's whole distribution is stored or computed; of a
`top_k` store at its temperature, over the kept tokens and the rest as one event, a lower bound; of chunks, the divergence of the two
events "this text" and "another", which stands at the last token of the chunk.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mentorkd.data.batching import IGNORE_INDEX, Collator
from mentorkd.data.encoding import Example, TextEncoder, encode_rows
from mentorkd.data.examples import text_examples
from mentorkd.distillation.chunk_losses import MentorChunks, binary_divergence, label_log_probs
from mentorkd.distillation.chunks import target_tokens
from mentorkd.distillation.hidden_states import target_logits
from mentorkd.distillation.losses import (
    RULED_OUT,
    LossSettings,
    MentorLogits,
    MentorTargets,
    MentorTopK,
    temperature_scaled,
    token_divergence,
)
from mentorkd.distillation.mentors import SoftLabelSource
from mentorkd.errors import RunError, StoreError
from mentorkd.files import digest_path
from mentorkd.models import LoadedModel, load_folder
from mentorkd.pipeline.context import RunContext
from mentorkd.pipeline.opened import OpenedRun
from mentorkd.pipeline.run_folder import Stage
from mentorkd.pipeline.stages.train import objective_for
from mentorkd.records import Question, Rationale

LIKELIEST = 5
"""Tokens that are shown of a distribution."""
_MOST_LOADED = 2


@dataclass(frozen=True, slots=True)
class Likely:
    """A token and its probability."""

    token: str
    probability: float


@dataclass(frozen=True)
class MentorView:
    """What a mentor would write at a token."""

    name: str
    kl: float | None
    """KL(mentor || student) in nats; None inside a chunk, and for a chunk without a label."""
    log_prob: float | None
    """Of the token that stands there, or of the chunk that ends there; None where it is not stored."""
    likeliest: Sequence[Likely]
    """None of chunks."""


@dataclass(frozen=True)
class TokenView:
    """A target token, as the student and its mentors see it."""

    text: str
    log_prob: float
    """The student's, in nats."""
    likeliest: Sequence[Likely]
    mentors: Sequence[MentorView] = ()

    @property
    def kl(self) -> float | None:
        """The mean over the mentors that have one."""
        known = [mentor.kl for mentor in self.mentors if mentor.kl is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class TextView:
    """A rationale as training text, token by token."""

    prompt: str
    tokens: Sequence[TokenView]
    notes: Sequence[str] = ()
    """What is not shown, and why."""
    temperature: float | None = None
    """Of `top_k` stores."""

    @property
    def kl(self) -> float | None:
        """The mean over the tokens that have one; for chunks their sum a token."""
        known = [token.kl for token in self.tokens if token.kl is not None]
        return sum(known) / len(self.tokens) if known else None


@dataclass
class Student:
    """A trained learner with the soft labels of its mentors, ready to look at texts, one at a time."""

    context: RunContext
    stage: Stage
    loaded: LoadedModel
    mentors: Sequence[tuple[str, SoftLabelSource]]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, context: RunContext, stage: Stage) -> Student:
        """The learner that the training `stage` made. Raises ModelError or DamagedError for what cannot be loaded."""
        learner = context.learner(stage)
        loaded = load_folder(context.folder.model(stage.name), device=context.device)
        loaded.model.eval()
        in_place = learner.model_copy(update={"shuffle_soft_labels": False})
        objective = objective_for(context, stage, in_place, loaded, ())
        mentors = zip(
            learner.mentor_weights, objective.mentors, strict=False
        )  # `hidden_states` compares layers, and has none
        return cls(context, stage, loaded, list(mentors))

    def source_of(self, written_by: str) -> str:
        """The name by which the learner knows what a stage wrote. Raises RunError if it does not read it."""
        for role, need in self.stage.inputs.items():
            if role.startswith("rationales/") and written_by in (need, "annotate" if need == "curate" else need):
                return role.removeprefix("rationales/")
        raise RunError(f"{self.stage.learner} does not read what {written_by} wrote")

    @torch.inference_mode()
    def look(self, rationale: Rationale, question: Question, source: str) -> TextView:
        """Each token of the rationale as the learner learns it. Raises RunError for a text that is too long for the learner."""
        learner, encoder = self.context.learner(self.stage), TextEncoder.of(self.loaded)
        text = text_examples(rationale, question, learner, source)[-1]  # of Step-by-Step, the explanation
        limits = {name: getattr(learner.training, name) for name in ("max_source_tokens", "max_target_tokens")}
        rows, _ = encode_rows([text], encoder, **limits)
        if not rows:
            raise RunError(f"the text is longer than {self.stage.learner} reads ({limits}), so it was not trained on")
        texts = _texts(encoder, text.target, rows[0], ended=text.ended)
        batch = self._collate(rows[0])
        with self._lock:
            student_NV = target_logits(self.loaded.model, batch, exact=True).float().clamp(min=RULED_OUT)
            labels_N = batch["labels"][batch["labels"] != IGNORE_INDEX]
            targets, notes = self._targets(rows[0], batch)
        log_probs_N = label_log_probs(student_NV, labels_N)
        likeliest = _likeliest(student_NV.log_softmax(-1), self.loaded.tokenizer)
        views = [self._mentor(name, each, student_NV, labels_N, log_probs_N) for name, each in targets]
        tokens = [
            TokenView(piece, float(log_prob), likely, [view[number] for view in views])
            for number, (piece, log_prob, likely) in enumerate(zip(texts, log_probs_N, likeliest, strict=True))
        ]
        temperatures = [each.temperature for _, each in targets if isinstance(each, MentorTopK)]
        return TextView(text.prompt, tokens, notes, temperatures[0] if temperatures else None)

    def _collate(self, row: Example) -> dict[str, Tensor]:
        collate = Collator.for_model(self.loaded.kind, self.loaded.tokenizer, self.loaded.model.config)
        return {name: value.to(self.loaded.device) for name, value in collate([row]).items()}

    def _targets(
        self, row: Example, batch: dict[str, Tensor]
    ) -> tuple[list[tuple[str, MentorTargets | MentorChunks]], list[str]]:
        """What each mentor gives for a row, and why others give nothing."""
        targets: list[tuple[str, MentorTargets | MentorChunks]] = []
        notes = []
        for name, mentor in self.mentors:
            try:
                part = mentor.part_of(row)
            except StoreError:  # a filter had dropped it before the mentor read it
                part = None
            if part is None:
                notes.append(f"{name} has no soft labels of this text")
            else:
                targets.append((name, mentor.targets_for([row], batch)))
        return targets, notes

    def _mentor(
        self,
        name: str,
        targets: MentorTargets | MentorChunks,
        student_NV: Tensor,
        labels_N: Tensor,
        log_probs_N: Tensor,
    ) -> list[MentorView]:
        if isinstance(targets, MentorChunks):
            return _of_chunks(name, targets, log_probs_N)
        vocabulary = min(student_NV.shape[1], targets.vocab_size)
        temperature = targets.temperature if isinstance(targets, MentorTopK) else 1.0
        settings = LossSettings(1.0, temperature, False, "forward_kl", 0.5)
        student_NV = temperature_scaled(student_NV[:, :vocabulary], settings)
        if isinstance(targets, MentorTopK):
            kl_N = token_divergence(student_NV, targets, settings)
            kept, ids_NK = targets.log_probs_NK.topk(min(LIKELIEST, targets.log_probs_NK.shape[1]))
            likeliest = _named(kept, targets.indices_NK.gather(1, ids_NK), self.loaded.tokenizer)
            return [MentorView(name, float(kl), None, top) for kl, top in zip(kl_N, likeliest, strict=True)]
        mentor_NV = targets.logits(vocabulary).float().clamp(min=RULED_OUT)
        kl_N = token_divergence(student_NV, MentorLogits(mentor_NV), settings)
        own_N = label_log_probs(mentor_NV, labels_N)
        likeliest = _likeliest(mentor_NV.log_softmax(-1), self.loaded.tokenizer)
        return [
            MentorView(name, float(kl), float(own), top) for kl, own, top in zip(kl_N, own_N, likeliest, strict=True)
        ]


def _of_chunks(name: str, chunks: MentorChunks, log_probs_N: Tensor) -> list[MentorView]:
    """A chunk's divergence and likelihood stand at its last token."""
    student_C = torch.segment_reduce(log_probs_N.float(), "sum", lengths=chunks.tokens_C, unsafe=True)
    mentor_C = chunks.log_probs_C.float()
    divergences_C = binary_divergence(-student_C, -mentor_C.clamp(min=RULED_OUT), 1.0)
    views = [MentorView(name, None, None, ())] * len(log_probs_N)
    ends = chunks.tokens_C.cumsum(0).tolist()
    for end, kl, log_prob in zip(ends, divergences_C.tolist(), mentor_C.tolist(), strict=True):
        if end and log_prob == log_prob:  # NaN: no label
            views[end - 1] = MentorView(name, kl, log_prob, ())
    return views


def _likeliest(log_probs_NV: Tensor, tokenizer: PreTrainedTokenizerBase) -> list[list[Likely]]:
    values, ids = log_probs_NV.topk(min(LIKELIEST, log_probs_NV.shape[1]))
    return _named(values, ids, tokenizer)


def _named(log_probs_NK: Tensor, ids_NK: Tensor, tokenizer: PreTrainedTokenizerBase) -> list[list[Likely]]:
    rows = zip(log_probs_NK.exp().tolist(), ids_NK.tolist(), strict=True)
    return [[Likely(_shown(tokenizer, id), value) for value, id in zip(*row, strict=True)] for row in rows]


def _shown(tokenizer: PreTrainedTokenizerBase, id: int) -> str:
    """A token with its space, which decoding would drop at the start."""
    token = tokenizer.convert_ids_to_tokens(id)
    if not isinstance(token, str):  # a padded head has more rows than the vocabulary
        return f"[{id}]"
    text = tokenizer.decode([id])
    spaced = token.startswith(("▁", "Ġ"))
    return f" {text.lstrip()}" if spaced else text or token


def _texts(encoder: TextEncoder, text: str, row: Example, *, ended: bool) -> list[str]:
    """The part of the text that each token covers; nothing for the end token, and for bytes of a character before its last."""
    tokens = target_tokens(encoder, text, ended=ended)
    edges = [0, *tokens.edges]
    return [text[start:end] for start, end in zip(edges, tokens.edges, strict=False)][: len(row.target_ids)]


class Students:
    """The students that a server has loaded; the last two stay."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: OrderedDict[tuple[str, str], Student] = OrderedDict()

    def get(self, run: OpenedRun, training: str) -> Student:
        """The student that a stage trained. Raises RunError if the run's stages are not known here, and as `Student.open`."""
        if run.fault is not None:
            raise RunError(f"the stages of this run are not known here, so no model can be opened: {run.fault}")
        key = str(run.root), digest_path(run.folder.mark(training))
        with self._lock:
            if key not in self._loaded:
                stage = next(planned.stage for planned in run.planned if planned.stage.name == training)
                self._loaded[key] = Student.open(RunContext(run.recipe, run.folder), stage)
            self._loaded.move_to_end(key)
            while len(self._loaded) > _MOST_LOADED:
                self._loaded.popitem(last=False)
            return self._loaded[key]
