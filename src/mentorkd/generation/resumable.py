"""Sampling that survives a kill: finished chunks are kept in a journal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mentorkd.files import journal_line, read_journal
from mentorkd.generation.engine import Completion, Engine, SamplingParams
from mentorkd.records import Progress, content_id

CHUNK_BATCHES = 8
"""Batches in a chunk of sampling. A kill loses one chunk: about a minute's work, yet long enough to be sorted by length."""


def sample_resumably(
    engine: Engine,
    prompts: Sequence[str],
    params: SamplingParams,
    *,
    seed: int,
    journal: Path,
    chunk: int,
    on_progress: Progress,
) -> list[list[Completion]]:
    """Sample all prompts in chunks of `chunk` prompts of similar length, and append each finished chunk to `journal`.

    The same call after a kill resumes behind the last whole chunk. The samples of a chunk depend on the seed and the
    chunk alone, so the result equals that of an undisturbed call.
    """
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), prompts[i], i))
    done = {
        row["key"]: [[_completion(record) for record in samples] for samples in row["completions"]]
        for row in read_journal(journal)
    }
    results: list[list[Completion]] = [[] for _ in prompts]
    for start in range(0, len(order), chunk):
        indices = order[start : start + chunk]
        texts = [prompts[i] for i in indices]
        key = content_id(str(seed), _identity(params), *texts)
        if key not in done:
            before = start

            def advance(count: int) -> None:
                nonlocal before
                before += count
                on_progress(before, len(prompts))

            done[key] = engine.sample(texts, params, seed=int(key, 16) % 2**31, on_progress=advance)
            row = {"key": key, "completions": [[asdict(c) for c in completions] for completions in done[key]]}
            with journal.open("a", encoding="utf-8") as file:
                file.write(journal_line(row))
        for i, completions in zip(indices, done[key], strict=True):
            results[i] = completions
        on_progress(min(start + chunk, len(prompts)), len(prompts))
    return results


def _identity(params: SamplingParams) -> str:
    """The parameters as text, for the key of a chunk.

    The key is also the seed of the chunk, so this text decides which samples are drawn. It therefore keeps the form that
    it had when the class was called `Decoding`: another form would change every sampled rationale.
    """
    return (
        f"Decoding(n={params.n!r}, temperature={params.temperature!r}, top_p={params.top_p!r}, "
        f"top_k={params.top_k!r}, max_new_tokens={params.max_new_tokens!r})"
    )


def _completion(record: Mapping[str, Any]) -> Completion:
    """A completion of a journal; journals written before `finish_reason` existed hold a boolean `finished`."""
    if "finished" in record:
        return Completion(record["text"], record["tokens"], "stop" if record["finished"] else "length")
    return Completion(**record)
