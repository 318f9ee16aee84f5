"""What the engines share: encoded prompts, batches, seeds, and completions from token ids."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from mentorkd.data.encoding import encode_prompt
from mentorkd.data.prompts import CAUSAL_SEPARATOR, cut_at
from mentorkd.errors import ModelError
from mentorkd.generation.engine import Completion
from mentorkd.records import ModelKind, content_id


@dataclass(frozen=True, slots=True)
class Piece:
    """Samples `first` to `first + count - 1` of one prompt, which are generated together."""

    prompt: int
    first: int
    count: int


def group(
    lengths: Sequence[int], n: int, max_new_tokens: int, *, rows: int, tokens: int | None = None
) -> Iterator[list[Piece]]:
    """Batches of `n` samples for prompts of these lengths, in tokens.

    The longest prompts come first, so that a lack of memory shows at once. A batch holds at most `rows` sequences, or at
    most `tokens` padded tokens if given, and always at least one sequence. All pieces of a batch have the same `count`.
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
    """Token ids of each prompt; ModelError if the longest and `max_new_tokens` exceed the positions of a causal model."""
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
    """Every token that ends a text: the tokenizer's own, which training appends, and those of the generation config."""
    configured = getattr(generation_config, "eos_token_id", None)
    ids = set(configured if isinstance(configured, list) else [configured]) | {tokenizer.eos_token_id}
    return sorted(i for i in ids if i is not None)


def saved_end_token_ids(model_dir: Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """`end_token_ids` of a saved model, which may have no generation config."""
    has_config = (model_dir / "generation_config.json").exists()
    return end_token_ids(tokenizer, GenerationConfig.from_pretrained(model_dir) if has_config else None)


def prompt_seeds(prompts: Sequence[str], seed: int) -> list[random.Random]:
    """A source of seeds for each prompt: a function of `seed`, the prompt, and the number of its earlier occurrences.

    The samples of a prompt therefore do not depend on other prompts, and equal prompts get different samples.
    """
    seen: Counter[str] = Counter()
    sources = []
    for prompt in prompts:
        sources.append(random.Random(content_id(str(seed), prompt, str(seen[prompt]))))
        seen[prompt] += 1
    return sources


def stopper(tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> Callable[[Sequence[int]], bool] | None:
    """A function that tells whether generated ids spell one of the texts `stop`; None without such texts.

    The function is called after every token. It decodes the last tokens first, because decoding the whole text after
    every token is slow.
    """
    if not stop:
        return None
    # A text has at most as many tokens as bytes.
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
    """The completion of generated ids; ids behind the first end token are padding."""
    end = next((place for place, i in enumerate(ids) if i in end_ids), None)
    generated = list(ids) if end is None else list(ids[: end + 1])
    # Clean-up would remove spaces, as in "3 + 4 .", and so change the text that is graded and trained on.
    text = tokenizer.decode(generated, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    before = cut_at(text, stop)
    stopped = end is not None or before is not None
    return Completion(text if before is None else before, len(generated), "stop" if stopped else "length")
