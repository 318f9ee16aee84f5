"""Score chunks: a mentor's likelihoods of texts that a student of another vocabulary learns, in one pass, into a store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mentorkd.data.batching import Collator, sorted_batches
from mentorkd.data.encoding import Example, TextEncoder, encode_prompt
from mentorkd.data.examples import TextExample
from mentorkd.data.token_logprobs import target_logprobs
from mentorkd.distillation.chunk_losses import label_log_probs
from mentorkd.distillation.chunks import Chunk, TargetTokens, align, target_tokens
from mentorkd.distillation.hidden_states import FrozenModel, scoring_tokens
from mentorkd.distillation.soft_labels import SoftLabelWriter, StoreMeta
from mentorkd.errors import ModelError
from mentorkd.models import LoadedModel, tokenizer_digest
from mentorkd.records import Progress, Rationale


@dataclass(frozen=True, slots=True)
class _AlignedRow:
    """A text as the mentor reads it, and its chunks."""

    example: Example
    chunks: list[Chunk]
    readable: bool
    """False for a text that exceeds the mentor's positions, or of which it has no token."""

    def arrays(self, log_probs_N: Tensor | None = None) -> dict[str, npt.NDArray[Any]]:
        """The store's arrays, from the mentor's log-probabilities of its tokens; None leaves every chunk without a label."""
        tokens = np.array([chunk.student_tokens for chunk in self.chunks], np.uint16)
        if log_probs_N is None:
            return {"log_probs": np.full(len(tokens), np.nan, np.float32), "tokens": tokens}
        parts = torch.split_with_sizes(log_probs_N.double(), [chunk.mentor_tokens for chunk in self.chunks])
        sums = [part.sum().item() if chunk.known else np.nan for part, chunk in zip(parts, self.chunks, strict=True)]
        return {"log_probs": np.array(sums, np.float32), "tokens": tokens}


def score_chunks(
    mentor: LoadedModel,
    texts: Sequence[TextExample],
    rows: Sequence[Example],
    student: TextEncoder,
    *,
    folder: Path,
    mentor_digest: str,
    target: str,
    bfloat16: bool,
    on_progress: Progress,
    tokens_per_batch: int | None = None,
) -> dict[str, Any]:
    """Write the mentor's chunk likelihoods of `rows`; rows that an earlier, killed call finished are not computed again.

    Args:
        texts: the text of each row, found by its rationale id. The mentor reads its own encoding of prompt and target.
        rows: the texts as `student` encoded them. They alone choose what is scored: a text that exceeds the mentor's positions
            stays in the store without labels, and `mentor_too_long` counts it.
        bfloat16: run the forward pass in bfloat16 autocast; the mentor's linear weights are left in bfloat16.

    Chunks with a token that is unknown to one of the vocabularies have no label either; `unlabelled_chunks` counts all.
    Raises ModelError for a tokenizer without offsets, and if rows are not the student's encoding of their texts.
    """
    by_id = {text.rationale_id: text for text in texts}
    encoder = TextEncoder.of(mentor)
    aligned = [_aligned(row, by_id[row.rationale_id], encoder, student) for row in rows]
    readable = [row for row in aligned if row.readable]
    meta = StoreMeta(
        form="chunks",
        mentor=mentor_digest,
        tokenizer=tokenizer_digest(student.tokenizer),
        target=target,
        vocab_size=len(mentor.tokenizer),
        width=1,
        mentor_tokenizer=tokenizer_digest(mentor.tokenizer),
    )
    collate = Collator.for_model(mentor.kind, mentor.tokenizer, mentor.model.config)
    sides = [row.example.padded_sides(mentor.kind) for row in readable]
    model = FrozenModel(mentor, collate([readable[0].example]) if readable else None, bfloat16=bfloat16)
    tokens = tokens_per_batch or scoring_tokens(mentor)
    batches = [[readable[number] for number in numbers] for numbers in sorted_batches(sides, tokens_per_batch=tokens)]
    with closing(SoftLabelWriter(folder, meta)) as writer:
        for row in aligned:
            if not row.readable and row.example.rationale_id not in writer.done:
                writer.append([(row.example.rationale_id, row.arrays())])
        for batch in batches:
            part = [row for row in batch if row.example.rationale_id not in writer.done]
            if part:
                log_probs = _log_probs(model, collate, part)
                writer.append(
                    [(row.example.rationale_id, row.arrays(each)) for row, each in zip(part, log_probs, strict=True)]
                )
            on_progress(len(writer.done), len(rows))
        writer.finish()
    return _counts(writer, rows, folder) | {
        "unlabelled_chunks": sum(not (row.readable and chunk.known) for row in aligned for chunk in row.chunks),
        "mentor_too_long": len(aligned) - len(readable),
    }


def _counts(writer: SoftLabelWriter, rows: Sequence[Example], folder: Path) -> dict[str, Any]:
    """What every finished store of chunks records; the writer's tokens are the chunks."""
    return {
        "rows": len(writer.done),
        "tokens": sum(len(row.target_ids) for row in rows),
        "form": "chunks",
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "chunks": writer.tokens,
    }


def _aligned(row: Example, text: TextExample, mentor: TextEncoder, student: TextEncoder) -> _AlignedRow:
    tokens = target_tokens(student, text.target, ended=text.ended)
    if tokens.ids != row.target_ids:
        raise ModelError(
            f"the target tokens of rationale {row.rationale_id} are not those that {type(student.tokenizer).__name__} makes of "
            "its text; encode the rows with the student's tokenizer"
        )
    read = target_tokens(mentor, text.target, ended=text.ended)
    example = Example(row.rationale_id, encode_prompt(mentor.tokenizer, mentor.kind, text.prompt), read.ids)
    fits = mentor.positions is None or example.length - 1 <= mentor.positions
    return _AlignedRow(example, align(read, tokens), readable=fits and bool(read.ids))


@torch.inference_mode()
def _log_probs(model: FrozenModel, collate: Collator, rows: Sequence[_AlignedRow]) -> Sequence[Tensor]:
    """The mentor's log-probabilities of each row's target tokens."""
    batch = collate([row.example for row in rows])
    log_probs_N = torch.cat([label_log_probs(logits, labels) for logits, labels in model.logits(batch)]).cpu()
    return torch.split_with_sizes(log_probs_N, [len(row.example.target_ids) for row in rows])


def write_teacher_chunks(
    texts: Sequence[tuple[Rationale, TextExample]],
    rows: Sequence[Example],
    student: TextEncoder,
    *,
    folder: Path,
    annotation: str,
    target: str,
) -> dict[str, Any]:
    """Write the chunk likelihoods of a teacher's own rationales, from the log-probabilities that came with its replies.

    Args:
        texts: each rationale with its text, of which the teacher wrote a part: chunks of the rest have no label.
        rows: the texts as `student` encoded them, which choose what is written.
        annotation: what the store is known by, in place of the digest of a mentor's model.
    """
    by_id = {rationale.id: (rationale, text) for rationale, text in texts}
    meta = StoreMeta(
        "chunks", annotation, tokenizer_digest(student.tokenizer), target, 0, 1, mentor_tokenizer="teacher"
    )
    unlabelled = without = 0
    with closing(SoftLabelWriter(folder, meta)) as writer:
        for row in rows:
            rationale, text = by_id[row.rationale_id]
            tokens = target_tokens(student, text.target)
            logprobs = target_logprobs(rationale, text.target)
            without += logprobs is None
            edges, values = (logprobs.edges, logprobs.values) if logprobs else ((len(text.target),), (math.nan,))
            # What the teacher would give for the end of the text is not known.
            read = TargetTokens(list(range(len(edges) + 1)), [*edges, len(text.target) + 1], [False] * (len(edges) + 1))
            chunks = align(read, tokens)
            arrays = _AlignedRow(row, chunks, readable=True).arrays(torch.tensor([*values, math.nan]))
            unlabelled += int(np.isnan(arrays["log_probs"]).sum())
            if row.rationale_id not in writer.done:
                writer.append([(row.rationale_id, arrays)])
        writer.finish()
    return _counts(writer, rows, folder) | {
        "unlabelled_chunks": unlabelled,
        "without_logprobs": without,
    }
