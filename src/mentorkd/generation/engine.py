"""What an engine is: it writes text after prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["Completion", "Engine", "EngineDtype", "EngineName"]

EngineName = Literal["auto", "transformers", "ctranslate2", "vllm"]
EngineDtype = Literal["float32", "bfloat16", "float16", "int8"]


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote after a prompt: the new text alone, without special tokens.

    `tokens` counts what was generated, the end token included and padding not. `finished` tells whether the model
    ended the text itself, or came to one that the engine stops at; False means that it was cut at `max_new_tokens`.
    """

    text: str
    tokens: int
    finished: bool


class Engine(Protocol):
    """Writes text after prompts.

    `sample` returns `n` completions for each prompt, in the order of the prompts; samples of one prompt are
    interchangeable. Temperature 0 is greedy, and then `n` must be 1. `top_k` 0 and `top_p` 1 switch these filters off;
    with both, the nucleus is taken among the k likeliest. Nothing else shapes the distribution, whatever sampling
    settings a model's own generation config carries. Prompts are encoded as for training and never cut.
    The same call gives the same result. `on_progress` gets the number of prompts that have just been completed.
    Raises ModelError for a causal model whose positions do not hold the longest prompt and `max_new_tokens`.
    """

    name: str

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
    ) -> list[list[Completion]]: ...
