"""Prompts and targets: the text that a model reads for a question, and the text that it learns to write.

The paper (section 4.1) has two forms of target: `{rationale} --> {answer}` for models under 1B parameters, and
`{rationale} Therefore, the answer is {answer}.` for larger models. `split_target` is the inverse of `render_target`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from mentorkd.errors import DataError
from mentorkd.records import Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TargetForm = Literal["arrow", "therefore"]

CAUSAL_SEPARATOR = "\nAnswer:\n"
"""The text between question and rationale for causal models without a chat template.

A model cannot see the end of the question without a separator. The words also work for vocabularies that drop newlines
(T5's). Our targets start without a space, as pretrained models start a text after a newline, so the separator ends with
a newline. Prompt and target are tokenized separately, so no token spans the border.
"""

_ARROW = "-->"
_THEREFORE = "Therefore, the answer is"
ARROWS = re.compile(r"-{2,}>")
"""Arrows that `render_target` shortens in a rationale."""
SHORT_ARROW = "->"


def render_prompt(question_text: str, template: str) -> str:
    """The template with every `{question}` replaced; other braces stay as text."""
    return template.replace("{question}", question_text.strip())


def render_gold_prompt(question: Question, template: str) -> str:
    """The prompt with the gold answer after it: what a mentor with `mentor_reads: gold` reads before a text that it scores."""
    return f"{render_prompt(question.text, template)}\nThe correct answer is {question.answer}."


def chat_prompt(tokenizer: PreTrainedTokenizerBase, text: str, separator: str = CAUSAL_SEPARATOR) -> str:
    """The prompt of a causal model: `text` as the user's turn of a chat, or `text` and the separator.

    A chat template adds the model's special tokens itself; tokenize its output with `add_special_tokens=False`.
    """
    if not tokenizer.chat_template:
        return text + separator
    return render_chat(tokenizer, [{"role": "user", "content": text}])


def render_chat(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, str]]) -> str:
    """A chat by the tokenizer's template, up to the next turn of the model. A turn has a `role` and a `content`."""
    return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True))


def cut_at(text: str, stops: Sequence[str]) -> str | None:
    """The text before the first of `stops`; None if the text contains none of them."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else None


def render_target(rationale: str, answer: str, target: TargetForm) -> str:
    """The text that a model learns to write, from the stripped rationale and answer.

    In the arrow form, an arrow inside the rationale would end the rationale too early, so it is shortened to `->` (2 of
    SVAMP's 1953 teacher rationales have one). Raises DataError if the answer contains the marker of the form.
    """
    rationale, answer = rationale.strip(), answer.strip()
    if (_ARROW if target == "arrow" else _THEREFORE) in answer:
        raise DataError(f"got the answer {answer!r}; expected one without the marker of the target form `{target}`")
    if target == "arrow":
        return f"{ARROWS.sub(SHORT_ARROW, rationale)} {_ARROW} {answer}".strip()
    return f"{rationale} {_THEREFORE} {answer}.".strip()


def split_target(text: str, target: TargetForm) -> tuple[str, str | None]:
    """Rationale and answer of a text in the given form, both stripped; (text, None) without the marker.

    The FIRST arrow counts, as in the paper's answer rule: rationales contain no arrow, and a model that continues after
    its answer may write more arrows. The LAST "Therefore, the answer is" counts, because rationales often end with these
    words themselves ("Therefore, the answer is (C) black ball. Therefore, the answer is C."). One final full stop is not
    part of the answer.
    """
    if target == "arrow":
        rationale, marker, answer = text.partition(_ARROW)
        return rationale.strip(), answer.strip() if marker else None
    rationale, marker, answer = text.rpartition(_THEREFORE)
    if not marker:
        return text.strip(), None
    return rationale.strip(), answer.strip().removesuffix(".").strip()
