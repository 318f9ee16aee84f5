"""What a model reads and what it writes: questions to prompts, rationale and answer to target text and back.

Two forms of target, both the paper's (section 4.1): `{rationale} --> {answer}` for models under 1B, and
`{rationale} Therefore, the answer is {answer}.` for larger ones. `split_target` undoes `render_target` exactly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, Protocol

from mentorkd.errors import DataError

__all__ = [
    "CAUSAL_SEPARATOR",
    "ChatTokenizer",
    "TargetForm",
    "chat_prompt",
    "cut_at",
    "render_prompt",
    "render_target",
    "split_target",
]

TargetForm = Literal["arrow", "therefore"]

CAUSAL_SEPARATOR = "\nAnswer:\n"
"""Between question and rationale for causal models that are not chat models.

Without one the model cannot tell where the question ends. The words survive vocabularies that drop newlines (T5's), and
the newline at the end is where pretrained models start a text without a space before it, as our targets do. Prompt and
target are tokenized apart, so no token spans the border whatever a vocabulary merges.
"""

_ARROW = "-->"
_THEREFORE = "Therefore, the answer is"
_ARROWS = re.compile(r"-{2,}>")


class ChatTokenizer(Protocol):
    """The part of a Hugging Face tokenizer that `chat_prompt` needs."""

    chat_template: str | dict[str, str] | None

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> object: ...


def render_prompt(question_text: str, template: str) -> str:
    """The template with its every `{question}` replaced; other braces are text."""
    return template.replace("{question}", question_text.strip())


def chat_prompt(tokenizer: ChatTokenizer, text: str, separator: str = CAUSAL_SEPARATOR) -> str:
    """What a causal model reads before it writes: `text` as the user's turn of a chat, or followed by a separator.

    The template brings the model's special tokens; tokenize its text with `add_special_tokens=False`.
    """
    if not tokenizer.chat_template:
        return text + separator
    turns = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def cut_at(text: str, stops: Sequence[str]) -> str | None:
    """The text before the first of `stops`; None if it holds none of them."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else None


def render_target(rationale: str, answer: str, target: TargetForm) -> str:
    """The text a model learns to write, of the stripped rationale and answer.

    An arrow inside a rationale is shortened to `->` in the arrow form, where it would end the rationale too early (2 of
    SVAMP's 1953 teacher rationales have one). Raises DataError if the answer itself contains the form's marker.
    """
    rationale, answer = rationale.strip(), answer.strip()
    if (_ARROW if target == "arrow" else _THEREFORE) in answer:
        raise DataError(f"got the answer {answer!r}; expected one without the marker of the target form `{target}`")
    if target == "arrow":
        return f"{_ARROWS.sub('->', rationale)} {_ARROW} {answer}".strip()
    return f"{rationale} {_THEREFORE} {answer}.".strip()


def split_target(text: str, target: TargetForm) -> tuple[str, str | None]:
    """Rationale and answer of a text in the given form, both stripped; without the marker (text, None).

    The first arrow counts, as in the paper's answer rule: rationales have none, and a model that goes on after its
    answer may write more. The LAST "Therefore, the answer is" counts: rationales often close with these words
    themselves ("Therefore, the answer is (C) black ball. Therefore, the answer is C."). One final full stop is no
    part of the answer.
    """
    if target == "arrow":
        rationale, marker, answer = text.partition(_ARROW)
        return rationale.strip(), answer.strip() if marker else None
    rationale, marker, answer = text.rpartition(_THEREFORE)
    if not marker:
        return text.strip(), None
    return rationale.strip(), answer.strip().removesuffix(".").strip()
