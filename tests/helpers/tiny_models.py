"""Models of a few thousand weights, and a tokenizer trained in the test: real classes, small enough for every test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

__all__ = ["ONE_LAYER", "TEXTS", "memorise", "tiny_gpt2", "tiny_llama", "tiny_qwen2", "tiny_t5", "tiny_tokenizer"]

ONE_LAYER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
"""Settings of a model with one layer, for families that are named as Llama and Gemma are."""

TEXTS = [
    "Tom has 3 apples and buys 4 more. How many apples does he have now?",
    "Tom starts with 3 apples. He buys 4 more, so he has 3 + 4 = 7 apples. --> 7",
    "A box holds 12 pens. Anna takes 5 pens out. How many pens are left in the box?",
    "There are 12 pens and 5 are taken out, so 12 - 5 = 7 pens are left. --> 7",
    "Alice, Bob, and Claire are playing a game. Alice has a red ball, Bob has a blue ball, Claire has a green ball.",
    "Alice and Bob swap balls. Then Bob and Claire swap balls. Therefore, the answer is (B).",
]


def tiny_tokenizer(
    texts: Sequence[str] | None = None, *, vocab_size: int = 384, append_eos: bool = True, prepend_bos: bool = False
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (it decodes every text exactly): `<pad>` 0, `</s>` 1, `<unk>` 2, `<s>` 3.

    It ends an encoding with `</s>` as T5's does unless `append_eos` is False.
    """
    specials = ["<pad>", "</s>", "<unk>", "<s>"]
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        list(texts or TEXTS),
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    start, end = ("<s> " if prepend_bos else ""), (" </s>" if append_eos else "")
    if start or end:
        core.post_processor = processors.TemplateProcessing(
            single=f"{start}$A{end}", pair=f"{start}$A{end} $B{end}", special_tokens=[("<s>", 3), ("</s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
        clean_up_tokenization_spaces=False,
    )


def tiny_t5(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0, **overrides: Any) -> T5ForConditionalGeneration:
    """A T5 of width 32 with 2 + 2 layers and random weights, in evaluation mode."""
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
    return _build(T5ForConditionalGeneration, T5Config(**{**sizes, **overrides}), seed)


def tiny_gpt2(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0, **overrides: Any) -> GPT2LMHeadModel:
    """A GPT-2 of width 32 with 2 layers, 1024 positions and random weights, in evaluation mode."""
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 1024,
        "bos_token_id": 3,
        "eos_token_id": 1,
    }
    return _build(GPT2LMHeadModel, GPT2Config(**{**sizes, **overrides}), seed)


def tiny_llama(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0, **overrides: Any) -> LlamaForCausalLM:
    """A Llama of width 32 with 2 layers, grouped key-value heads and random weights, in evaluation mode."""
    return _build(LlamaForCausalLM, LlamaConfig(**{**_llama_sizes(tokenizer), **overrides}), seed)


def tiny_qwen2(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0, **overrides: Any) -> Qwen2ForCausalLM:
    """A Qwen 2 of width 32 with 2 layers (biases on q, k, v) and random weights, in evaluation mode."""
    return _build(Qwen2ForCausalLM, Qwen2Config(**{**_llama_sizes(tokenizer), **overrides}), seed)


def memorise(model: Any, tokenizer: PreTrainedTokenizerFast, texts: Sequence[tuple[str, str]]) -> None:
    """Train a causal model until it continues each prompt with its given text."""
    rows = []
    for prompt, text in texts:
        source, target = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (prompt, text))
        rows.append((torch.tensor([source + target]), torch.tensor([[-100] * len(source) + target])))
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(1000):
        known = True
        for ids, labels in rows:
            output = model(input_ids=ids, labels=labels)
            output.loss.backward()
            place = labels[0, 1:] != -100
            known &= output.loss.item() < 0.05 and bool(
                (output.logits[0, :-1].argmax(-1) == labels[0, 1:])[place].all()
            )
        if known:
            return
        optimiser.step()
        optimiser.zero_grad()
    raise AssertionError("a thousand steps did not make the model memorise the texts")


def _llama_sizes(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "bos_token_id": 3,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }


def _build(kind: Any, config: Any, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(config).eval()
