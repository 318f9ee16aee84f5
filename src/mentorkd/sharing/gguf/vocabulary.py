"""A byte-level BPE tokenizer in the terms of a GGUF file: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from mentorkd.errors import ModelError

_PRINTED = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {_PRINTED % r"\p{N}": "qwen2", _PRINTED % r"\p{N}{1,3}": "llama-bpe"}
"""Regular expressions that split text before byte-level BPE, with the names that llama.cpp has for them."""


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file holds of a tokenizer."""

    tokens: Sequence[str]
    """As many as the embedding has rows; rows without a token are spelled `[PAD<id>]`."""
    types: Sequence[int]
    """llama.cpp's type of each token: 1 normal, 3 control, 4 user-defined, 5 unused."""
    merges: Sequence[str]
    pre: str
    """The name of the rule by which text is split."""
    special: Mapping[str, int]
    """Ids of the special tokens: bos, eos, unk, pad."""
    adds_bos: bool
    """Whether a plain text begins with the BOS token."""


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int) -> Vocabulary:
    """The vocabulary of a model whose embedding has `rows`. Raises ModelError for a tokenizer that is no byte-level BPE, or that
    splits text by a rule for which llama.cpp has no name."""
    if not tokenizer.is_fast:
        raise _refusal(type(tokenizer).__name__)
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    if core["model"]["type"] != "BPE" or (core["decoder"] or {}).get("type") != "ByteLevel":
        raise _refusal(f"a {core['model']['type']} with the decoder {(core['decoder'] or {}).get('type')}")
    normalizer = (core["normalizer"] or {"type": "NFC"})["type"]
    if normalizer != "NFC":  # llama.cpp leaves out Qwen's, which changes no usual text
        raise _refusal(f"one with the normalizer {normalizer}")
    added = {index: 3 if token.special else 4 for index, token in tokenizer.added_tokens_decoder.items()}
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    unused = range(len(tokens), rows)
    names = ("bos", "eos", "unk", "pad")
    special = {name: index for name in names if (index := getattr(tokenizer, f"{name}_token_id")) is not None}
    begun = tokenizer("a")["input_ids"][:1]
    return Vocabulary(
        tokens=[*tokens, *(f"[PAD{index}]" for index in unused)],
        types=[*(added.get(index, 1) for index in range(len(tokens))), *(5 for _ in unused)],
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in core["model"]["merges"]],
        pre=_rule(core["pre_tokenizer"]),
        special=special,
        adds_bos=begun == [special.get("bos")],
    )


def _rule(pre: Mapping[str, Any]) -> str:
    """llama.cpp's name of a pre-tokenizer of the library `tokenizers`."""
    steps = pre["pretokenizers"] if pre["type"] == "Sequence" else [pre]
    *before, last = steps
    if last["type"] == "ByteLevel" and not last["add_prefix_space"]:
        match before:
            case [] if last["use_regex"]:
                return "gpt-2"
            case [{"type": "Digits", "individual_digits": True}] if last["use_regex"]:
                return "smollm"
            case [{"type": "Split", "behavior": "Isolated", "invert": False, "pattern": {"Regex": regex}}]:
                if regex in _SPLITS and not last["use_regex"]:
                    return _SPLITS[regex]
    raise _refusal(
        f"one that splits text by {' and '.join(step['type'] for step in steps)} in a way that llama.cpp has no name for"
    )


def _refusal(what: str) -> ModelError:
    return ModelError(
        f"the model's tokenizer is {what}; a GGUF file takes byte-level BPE as GPT-2, SmolLM, Qwen and Llama 3 have it: export "
        "it with `--as hf` or `--as ctranslate2`"
    )
