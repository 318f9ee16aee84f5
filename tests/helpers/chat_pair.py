"""A base tokenizer and a chat tokenizer of one vocabulary, which end their texts with two tokens, as Qwen's and Llama's do."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from tiny_models import tiny_tokenizer

__all__ = ["BASE_END", "CHAT_END", "base_tokenizer", "chat_tokenizer", "save"]

BASE_END, CHAT_END = 1, 3
"""`</s>` and `<s>` of the tiny tokenizer."""

CHAT = "{% for message in messages %}user: {{ message.content }}\n{% endfor %}assistant: "


def base_tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer(append_eos=False)


def chat_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer(append_eos=False)
    tokenizer.eos_token = "<s>"
    tokenizer.chat_template = CHAT
    return tokenizer


def save(tokenizer: PreTrainedTokenizerFast, folder: Path) -> str:
    tokenizer.save_pretrained(folder)
    return str(folder)
