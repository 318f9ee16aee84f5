"""An engine that replays recorded texts, for tests of the code above an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mentorkd.errors import ModelError
from mentorkd.generation.engine import Completion, OnPrompts, SamplingParams, ignore

__all__ = ["ReplayEngine"]


class ReplayEngine:
    """Answers each prompt with its first `n` recorded texts, and starts over when they run out.

    `calls` keeps the prompts and parameters of every call. `seed` rotates the texts of a prompt, as another seed changes
    samples; a greedy call always gets the first text. A text counts its words and one end token. A text of
    `max_new_tokens` words or more is cut there, with `finish_reason` `length`.
    Raises ModelError for a prompt without texts.
    """

    name = "replay"
    batch_size = 32

    def __init__(self, texts_by_prompt: Mapping[str, Sequence[str]]) -> None:
        self.texts_by_prompt = {prompt: list(texts) for prompt, texts in texts_by_prompt.items()}
        self.calls: list[tuple[tuple[str, ...], SamplingParams]] = []

    def sample(
        self, prompts: Sequence[str], params: SamplingParams, *, seed: int, on_progress: OnPrompts = ignore
    ) -> list[list[Completion]]:
        self.calls.append((tuple(prompts), params))
        first = 0 if params.greedy else seed
        results = []
        for prompt in prompts:
            texts = self.texts_by_prompt.get(prompt)
            if not texts:
                raise ModelError(f"no text for the prompt {prompt!r}; add it to the engine's `texts_by_prompt`")
            samples = (texts[(first + number) % len(texts)] for number in range(params.n))
            results.append([_completion(text, params.max_new_tokens) for text in samples])
            on_progress(1)
        return results

    def close(self) -> None:
        """It holds nothing outside of this process."""


def _completion(text: str, max_new_tokens: int) -> Completion:
    words = text.split(" ")
    if len(words) < max_new_tokens:
        return Completion(text, len(words) + 1, "stop")
    return Completion(" ".join(words[:max_new_tokens]), max_new_tokens, "length")
