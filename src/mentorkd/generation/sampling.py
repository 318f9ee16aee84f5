"""What the engines share: the request, its batches, and turning token ids into completions."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mentorkd.data.encoding import encode_prompt
from mentorkd.data.prompts import CAUSAL_SEPARATOR, cut_at
from mentorkd.errors import MentorkdError, ModelError
from mentorkd.generation.engine import Completion
from mentorkd.records import ModelKind, content_id

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

__all__ = ["Piece", "Request", "completion", "encode_prompts", "end_token_ids", "group", "prompt_seeds", "stopper"]


@dataclass(frozen=True, slots=True)
class Request:
    """The settings of one `sample` call, checked."""

    n: int
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    seed: int

    def __post_init__(self) -> None:
        faults = [
            (self.n < 1, f"n={self.n}, expected at least 1"),
            (self.temperature < 0, f"temperature={self.temperature}, expected 0 (greedy) or more"),
            (self.temperature == 0 and self.n > 1, f"n={self.n} greedy samples, which are equal; set a temperature"),
            (not 0 < self.top_p <= 1, f"top_p={self.top_p}, expected over 0 and at most 1"),
            (self.top_k < 0, f"top_k={self.top_k}, expected 0 (off) or more"),
            (self.max_new_tokens < 1, f"max_new_tokens={self.max_new_tokens}, expected at least 1"),
        ]
        if found := [message for wrong, message in faults if wrong]:
            raise MentorkdError(f"cannot sample: got {'; '.join(found)}")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


@dataclass(frozen=True, slots=True)
class Piece:
    """`count` samples of one prompt, from the `first` on, that are generated together."""

    prompt: int
    first: int
    count: int


def group(
    lengths: Sequence[int], n: int, max_new_tokens: int, *, rows: int, tokens: int | None = None
) -> Iterator[list[Piece]]:
    """Batches of `n` samples for prompts of these lengths, longest prompts first: memory runs short at once or never.

    A batch holds at most `rows` sequences, or at most `tokens` padded tokens if given; always at least one sequence.
    All pieces of a batch have the same count, so a batch is a rectangle.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        room = rows if tokens is None else max(1, tokens // (lengths[order[start]] + max_new_tokens))
        if room < n:
            for first in range(0, n, room):
                yield [Piece(order[start], first, min(room, n - first))]
            start += 1
        else:
            chosen = order[start : start + room // n]
            yield [Piece(prompt, 0, n) for prompt in chosen]
            start += len(chosen)


def encode_prompts(
    prompts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    kind: ModelKind,
    config: PretrainedConfig,
    max_new_tokens: int,
    *,
    separator: str = CAUSAL_SEPARATOR,
) -> list[list[int]]:
    """Token ids of each prompt. Raises ModelError if a causal model lacks the positions for prompt and text."""
    encoded = [encode_prompt(tokenizer, kind, prompt, separator=separator) for prompt in prompts]
    positions = getattr(config, "max_position_embeddings", None) if kind == "causal" else None
    longest = max(map(len, encoded), default=0)
    if positions is not None and longest + max_new_tokens > positions:
        raise ModelError(
            f"the longest prompt ({longest} tokens) and {max_new_tokens} new tokens do not fit the model's {positions} "
            f"positions; set `sampling.max_new_tokens` to at most {max(positions - longest, 0)}"
        )
    return encoded


def end_token_ids(tokenizer: PreTrainedTokenizerBase, generation_config: GenerationConfig | None) -> list[int]:
    """Every token that ends a text: the tokenizer's, which training appends, and those of the generation config."""
    configured = getattr(generation_config, "eos_token_id", None)
    ids = set(configured if isinstance(configured, list) else [configured]) | {tokenizer.eos_token_id}
    return sorted(i for i in ids if i is not None)


def prompt_seeds(prompts: Sequence[str], seed: int) -> list[random.Random]:
    """A source of seeds for each prompt: a function of `seed`, the prompt, and how often it stood before in the list.

    So a prompt's samples do not depend on the other prompts, and prompts that are equal still get different samples.
    """
    seen: Counter[str] = Counter()
    sources = []
    for prompt in prompts:
        sources.append(random.Random(content_id(str(seed), prompt, str(seen[prompt]))))
        seen[prompt] += 1
    return sources


def stopper(tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> Callable[[Sequence[int]], bool] | None:
    """Tells whether generated ids spell one of the texts `stop`; None where there are none.

    To be asked after every token: the end is looked at first, since reading all of a text again and again is slow.
    """
    if not stop:
        return None
    # No text has more tokens than bytes.
    near = max(len(text.encode()) for text in stop) + 1

    def stopped(ids: Sequence[int]) -> bool:
        return all(
            cut_at(tokenizer.decode(part, clean_up_tokenization_spaces=False), stop) is not None
            for part in (ids[-near:], ids)
        )

    return stopped


def completion(
    ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, end_ids: Collection[int], stop: Sequence[str] = ()
) -> Completion:
    """The completion of generated ids; what stands behind the first end token is padding."""
    end = next((place for place, i in enumerate(ids) if i in end_ids), None)
    kept = list(ids) if end is None else list(ids[: end + 1])
    # Spaces are left as written: cleaning would change "3 + 4 ." and with it what is graded and trained on.
    text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    before = cut_at(text, stop)
    return Completion(text if before is None else before, len(kept), end is not None or before is not None)
