"""The protocol of a generation engine: prompts in, completions out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from mentorkd.errors import MentorkdError

EngineDtype = Literal["float32", "bfloat16", "float16", "int8"]
FinishReason = Literal["stop", "length"]

LEAST_TEMPERATURE = 0.001
"""Logits that are divided by much less are no longer numbers."""

OnPrompts = Callable[[int], None]
"""Called with the number of prompts that were completed since its last call."""


def ignore(count: int) -> None:
    """No report of progress."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How text is drawn from a model.

    Temperature 0 is greedy decoding, and `n` must then be 1. `top_k` 0 and `top_p` 1 turn these filters off; with both
    filters on, the nucleus is taken among the k likeliest tokens. Raises MentorkdError for values out of range.
    """

    n: int = 1
    """Completions of each prompt."""
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 512
    """Longest completion, in tokens, the end token included."""

    def __post_init__(self) -> None:
        checks = [
            (self.n < 1, f"n={self.n}, expected at least 1"),
            (
                self.temperature != 0 and not self.temperature >= LEAST_TEMPERATURE,
                f"temperature={self.temperature}, expected 0 (greedy), or at least {LEAST_TEMPERATURE}",
            ),
            (self.temperature == 0 and self.n > 1, f"n={self.n} greedy samples, which are equal; set a temperature"),
            (not 0 < self.top_p <= 1, f"top_p={self.top_p}, expected over 0 and at most 1"),
            (self.top_k < 0, f"top_k={self.top_k}, expected 0 (off) or more"),
            (self.max_new_tokens < 1, f"max_new_tokens={self.max_new_tokens}, expected at least 1"),
        ]
        if faults := [message for is_wrong, message in checks if is_wrong]:
            raise MentorkdError(f"cannot sample: got {'; '.join(faults)}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def drawing(self) -> tuple[float, float, int]:
        """Temperature, top_p and top_k; those of greedy texts are all alike."""
        return (0.0, 1.0, 0) if self.greedy else (self.temperature, self.top_p, self.top_k)


@dataclass(frozen=True, slots=True)
class Completion:
    """The text that a model wrote after a prompt, without the prompt and without special tokens.

    `tokens` counts the generated tokens, including the end token and excluding padding. `finish_reason` is `stop` when
    the model wrote an end token or one of the engine's stop texts, and `length` when the text was cut at
    `max_new_tokens`.
    """

    text: str
    tokens: int
    finish_reason: FinishReason


class Engine(Protocol):
    """Writes text after prompts.

    `sample` returns `params.n` completions for each prompt, in the order of the prompts; samples of one prompt are
    interchangeable. `params` alone shape the distribution: sampling settings in a model's own generation config have no
    effect. Prompts are encoded as in training and never cut. The same call gives the same result.
    Raises ModelError if the longest prompt and `max_new_tokens` exceed the positions of a causal model.
    """

    name: str
    batch_size: int
    """Sequences that it writes together, at most."""

    def sample(
        self, prompts: Sequence[str], params: SamplingParams, *, seed: int, on_progress: OnPrompts = ignore
    ) -> list[list[Completion]]: ...

    def close(self) -> None:
        """Free what the engine holds outside of this process. A later call would open it again."""
        ...
