"""What augment and evaluate share: sampling that survives a kill, and grading against a question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mentorkd.generation.engine import Completion, Engine
from mentorkd.records import Progress, content_id

__all__ = ["Decoding", "sample_resumably"]


@dataclass(frozen=True)
class Decoding:
    """How text is drawn from a model; temperature 0 is greedy."""

    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 512


def sample_resumably(
    engine: Engine,
    prompts: Sequence[str],
    decoding: Decoding,
    *,
    seed: int,
    journal: Path,
    chunk: int,
    on_progress: Progress,
) -> list[list[Completion]]:
    """Sample for all prompts in chunks of about equal length, each chunk appended to `journal` when it is done.

    Called again with the same arguments after a kill, it goes on behind the last whole chunk. A chunk's samples depend
    on the seed and the chunk alone, so the result is that of an undisturbed call.
    """
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), prompts[i], i))
    done: dict[str, list[list[Completion]]] = {}
    if journal.exists():
        whole = [line for line in journal.read_text(encoding="utf-8").split("\n")[:-1] if line]
        # A line torn by the kill has no line end; without cutting it off the next one would be glued to it.
        journal.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")
        for line in whole:
            row = json.loads(line)
            done[row["key"]] = [[Completion(**c) for c in completions] for completions in row["completions"]]
    results: list[list[Completion]] = [[] for _ in prompts]
    for start in range(0, len(order), chunk):
        part = order[start : start + chunk]
        texts = [prompts[i] for i in part]
        key = content_id(str(seed), str(decoding), *texts)
        if key not in done:
            before = start
            count = 0

            def advance(finished: int, before: int = before) -> None:
                nonlocal count
                count += finished
                on_progress(before + count, len(prompts))

            done[key] = engine.sample(texts, seed=int(key, 16) % 2**31, on_progress=advance, **asdict(decoding))
            row = {"key": key, "completions": [[asdict(c) for c in completions] for completions in done[key]]}
            with journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        for i, completions in zip(part, done[key], strict=True):
            results[i] = completions
        on_progress(min(start + chunk, len(prompts)), len(prompts))
    return results
