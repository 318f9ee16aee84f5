"""From generated tokens to text, piece by piece: what is final of it, and the bytes of each token."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mentorkd.data.prompts import cut_at

_UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are not a whole character yet."""
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "▁"


class Detokenizer:
    """Decodes one text as it grows. The pieces add up to what the tokenizer decodes at once, without special tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._special = special_ids(tokenizer)
        self._ids: list[int] = []
        """The last tokens: one or more of which the text is known, as context, and behind them those of an unfinished character."""
        self._context = 0

    @property
    def unfinished(self) -> bool:
        """Whether the last tokens are a part of a character."""
        return len(self._ids) > self._context

    def push(self, ids: Sequence[int]) -> str:
        """The text that further tokens add, up to its last whole character."""
        self._ids += [token for token in ids if token not in self._special]
        text = self._piece()
        if text.endswith(_UNFINISHED):
            return ""
        self._ids, self._context = self._ids[self._context :] or self._ids, 0
        self._context = len(self._ids)
        return text

    def finish(self) -> str:
        """The rest of the text: marks for a character that has stayed unfinished."""
        return self._piece()

    def _piece(self) -> str:
        """The text behind the context. A decoder treats the first token in its own way, so the context is decoded both times."""
        return self._decode(self._ids)[len(self._decode(self._ids[: self._context])) :]

    def _decode(self, ids: Sequence[int]) -> str:
        # As `sampling.completion` does.
        return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))


class StopTexts:
    """Holds back what may be the beginning of a text that ends the whole, and cuts off what begins with one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """What is certain to belong to the whole."""
        self._held += text
        if (before := cut_at(self._held, self._stop)) is not None:
            self.found, self._held = True, ""
            return before
        certain = len(self._held) - self._beginning()
        text, self._held = self._held[:certain], self._held[certain:]
        return text

    def finish(self) -> str:
        """What was held back, of a whole that has ended."""
        return self._held

    def _beginning(self) -> int:
        """The length of the longest end of the text that a stop text begins with."""
        longest = min(max(map(len, self._stop), default=1) - 1, len(self._held))
        ends = (self._held[-length:] for length in range(longest, 0, -1))
        return next((len(end) for end in ends if any(stop.startswith(end) for stop in self._stop)), 0)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that decoding leaves out."""
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(tokenizer.all_special_ids) | {number for number, token in added if token.special}


class Spelling:
    """The bytes that each token of a vocabulary stands for, alone."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._special = special_ids(tokenizer)
        decoder = tokenizer.backend_tokenizer.decoder if tokenizer.is_fast else None
        of_bytes = decoder is not None and b"ByteLevel" in decoder.__getstate__()
        self._bytes = {character: byte for byte, character in bytes_to_unicode().items()} if of_bytes else {}

    def __call__(self, token: int) -> bytes:
        """Nothing for a special token, and for an id beyond the vocabulary."""
        text = self._tokenizer.convert_ids_to_tokens(token)
        if text is None or token in self._special:
            return b""
        if self._bytes:
            return bytes(self._bytes[character] for character in text if character in self._bytes)
        if byte := _BYTE.fullmatch(text):
            return bytes.fromhex(byte[1])
        return str(text).replace(_SPACE, " ").encode()
