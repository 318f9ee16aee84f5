"""The engines' twin that gives back texts it was built with, for tests of what stands above an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mentorkd.errors import ModelError
from mentorkd.generation.engine import Completion
from mentorkd.generation.sampling import Request

__all__ = ["ReplayEngine"]


class ReplayEngine:
    """Answers each prompt with its recorded texts, the first `n` of them, starting over when they run out.

    Keeps what it was asked in `calls`. `seed` turns the order of a prompt's texts, as another seed changes samples;
    greedy calls always get the first. Tokens are counted as words plus the end token, and a text of `max_new_tokens`
    words or more is cut there and not finished. Raises ModelError for a prompt without texts.
    """

    name = "replay"

    def __init__(self, texts_by_prompt: Mapping[str, Sequence[str]]) -> None:
        self.texts_by_prompt = {prompt: list(texts) for prompt, texts in texts_by_prompt.items()}
        self.calls: list[tuple[tuple[str, ...], Request]] = []

    def sample(
        self,
        prompts: Sequence[str],
        *,
        n: int,
        temperature: float,
        top_p: float,
        top_k: int,
        max_new_tokens: int,
        seed: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        request = Request(n, temperature, top_p, top_k, max_new_tokens, seed)
        self.calls.append((tuple(prompts), request))
        results = []
        for prompt in prompts:
            texts = self.texts_by_prompt.get(prompt)
            if not texts:
                raise ModelError(f"no text for the prompt {prompt!r}; add it to the engine's `texts_by_prompt`")
            first = 0 if request.greedy else seed
            results.append([_completion(texts[(first + place) % len(texts)], max_new_tokens) for place in range(n)])
            if on_progress is not None:
                on_progress(1)
        return results


def _completion(text: str, max_new_tokens: int) -> Completion:
    words = text.split(" ")
    if len(words) < max_new_tokens:
        return Completion(text, len(words) + 1, True)
    return Completion(" ".join(words[:max_new_tokens]), max_new_tokens, False)
