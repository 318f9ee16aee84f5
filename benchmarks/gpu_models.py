"""Models of `gpu.py` from their configs, with random weights, and their rows, prompts and tokenizer: nothing is fetched."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from mentorkd.data.encoding import Example
from mentorkd.models import LoadedModel
from mentorkd.records import ModelKind

__all__ = ["SHAPES", "Shape", "flops", "prompts", "rows_of", "with_ends"]

PAD, END, UNKNOWN = 0, 1, 2
FIRST = 3
"""The first token that is a word."""


@dataclass(frozen=True)
class Shape:
    """A model's config, of a Llama or a T5."""

    kind: ModelKind
    vocabulary: int
    config: dict[str, Any]

    def load(self, seed: int, device: torch.device) -> LoadedModel:
        special = {"pad_token_id": PAD, "eos_token_id": END}
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
            torch.manual_seed(seed)
            if self.kind == "seq2seq":
                t5 = T5Config(
                    vocab_size=self.vocabulary,
                    feed_forward_proj="gated-gelu",
                    tie_word_embeddings=False,
                    decoder_start_token_id=PAD,
                    **self.config,
                    **special,
                )
                return LoadedModel(T5ForConditionalGeneration(t5), _tokenizer(self.vocabulary), "seq2seq")
            llama = LlamaConfig(
                vocab_size=self.vocabulary, max_position_embeddings=4096, bos_token_id=None, **self.config, **special
            )
            return LoadedModel(LlamaForCausalLM(llama), _tokenizer(self.vocabulary), "causal")


def _t5(width: int, heads: int, layers: int, inner: int, vocabulary: int = 32_128) -> Shape:
    config = {"d_model": width, "d_kv": 64, "num_heads": heads, "num_layers": layers, "d_ff": inner}
    return Shape("seq2seq", vocabulary, config)


def _llama(width: int, heads: int, key_heads: int, layers: int, inner: int, vocabulary: int = 49_152) -> Shape:
    config = {"hidden_size": width, "num_attention_heads": heads, "num_key_value_heads": key_heads}
    config |= {"num_hidden_layers": layers, "intermediate_size": inner, "tie_word_embeddings": True}
    return Shape("causal", vocabulary, config)


SHAPES = {
    "flan-t5-small": _t5(512, 6, 8, 1024),
    "flan-t5-large": _t5(1024, 16, 24, 2816),
    "135M": _llama(576, 9, 3, 30, 1536),
    "360M": _llama(960, 15, 5, 32, 2560),
    "1B": _llama(2048, 32, 8, 16, 8192, 128_256),
    "1.7B": _llama(2048, 32, 32, 24, 8192),
    "tiny-t5": _t5(64, 2, 2, 128, 512),
    "tiny": _llama(64, 4, 2, 2, 128, 512),
}
"""FlanT5's shapes, SmolLM2's (135M, 360M, 1.7B) and Llama 3.2's (1B)."""


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A word a token."""
    words = {"<pad>": PAD, "</s>": END, "<unk>": UNKNOWN, **{f"w{i}": i for i in range(FIRST, vocabulary)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="right"
    )


def rows_of(shape: Shape, count: int, length: int | None, seed: int = 0) -> list[Example]:
    """Rows of exactly `length` tokens, an eighth of them source; None: 20 to 60 of source and 20 to 160 of target, as SVAMP's rows."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        source, target = (draw.randint(20, 60), draw.randint(20, 160)) if length is None else (length // 8, 0)
        target = target or length - source  # type: ignore[operator]
        words = [draw.randrange(FIRST, shape.vocabulary) for _ in range(source + target - 1)]
        rows.append(Example(f"row-{number}", words[:source], [*words[source:], END]))
    return rows


def prompts(shape: Shape, count: int) -> list[str]:
    """Prompts of 20 to 60 tokens."""
    draw = random.Random(1)
    return [
        " ".join(f"w{draw.randrange(FIRST, shape.vocabulary)}" for _ in range(draw.randint(20, 60)))
        for _ in range(count)
    ]


def with_ends(loaded: LoadedModel, mean: int) -> LoadedModel:
    """The model with one token in `mean` an end token: with random weights, the lengths of its texts are about geometric."""
    words = range(FIRST, loaded.model.config.vocab_size)
    ends = random.Random(2).sample(words, max(1, len(words) // mean))
    loaded.model.generation_config.eos_token_id = [END, *ends]
    loaded.model.generation_config.pad_token_id = PAD
    return loaded


def flops(loaded: LoadedModel, source: int, target: int) -> float:
    """Operations of forward and backward on `source` and `target` tokens: 6 a weight and token. An encoder's weights read the source
    alone, and a decoder's the target."""
    weights: int = loaded.model.num_parameters()
    if loaded.kind == "causal":
        return 6.0 * weights * (source + target)
    embedding: int = loaded.model.get_input_embeddings().weight.numel()
    encoder: int = sum(weight.numel() for weight in loaded.model.get_encoder().parameters()) - embedding
    return 6.0 * (encoder * source + (weights - encoder - embedding) * target)
