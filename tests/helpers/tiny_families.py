"""Tiny models of every family that all engines serve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from mentorkd.data.encoding import encode_prompt
from mentorkd.models import LoadedModel
from tiny_models import TEXTS, tiny_gpt2, tiny_llama, tiny_qwen2, tiny_t5, tiny_tokenizer

CPU = torch.device("cpu")
PROMPTS = [text[:length] for text in TEXTS for length in (7, 60)]
MAX_NEW_TOKENS = 16


@dataclass(frozen=True)
class Saved:
    """A saved model, and the same loaded."""

    folder: Path
    loaded: LoadedModel

    def reference(self, prompts: list[str], max_new_tokens: int = MAX_NEW_TOKENS) -> list[list[int]]:
        """Token ids that transformers' own greedy `generate` writes, each prompt alone and so without padding."""
        model: Any = self.loaded.model
        ends = model.generation_config.eos_token_id
        settings = GenerationConfig(
            do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=0, decoder_start_token_id=0
        )
        rows = []
        for prompt in prompts:
            ids = torch.tensor([encode_prompt(self.loaded.tokenizer, self.loaded.kind, prompt)])
            written = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)[0]
            rows.append(written[1 if self.loaded.kind == "seq2seq" else ids.shape[1] :].tolist())
        return rows


FINAL_NORM = {"gpt2": "transformer.ln_f", "llama": "model.norm", "qwen2": "model.norm"}


def build(family: str) -> Any:
    tokenizer = tiny_tokenizer(prepend_bos=family == "llama")
    match family:
        case "t5":  # rows of the embedding beyond the vocabulary, as T5 has
            model: Any = tiny_t5(tokenizer, vocab_size=400)
        case "flan-t5":  # gated, unscaled outputs
            model = tiny_t5(tokenizer, tie_word_embeddings=False, feed_forward_proj="gated-gelu")
        case "gpt2":
            model = tiny_gpt2(tokenizer, vocab_size=400)
        case "llama":
            rope = {"rope_type": "default", "rope_theta": 130000.0}
            model = tiny_llama(tokenizer, rope_parameters=rope)
        case "qwen2":
            model = tiny_qwen2(tokenizer)
        case _:
            raise ValueError(family)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:  # random weights of the usual size answer every prompt alike
                parameter.mul_(1.5 if family == "flan-t5" else 3.0)
        if family in FINAL_NORM:  # else nearly all tokens are equally likely, at any temperature
            model.get_submodule(FINAL_NORM[family]).weight.mul_(6.0)
    return model, tokenizer
