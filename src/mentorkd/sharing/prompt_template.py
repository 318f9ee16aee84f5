"""The prompt of a causal learner in the template languages of other programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from mentorkd.data.prompts import chat_prompt, render_prompt

_QUESTION = "\u27e8question\u27e9"


@dataclass(frozen=True)
class PromptTemplate:
    """The texts around a question, special tokens among them. The question is between each two."""

    texts: Sequence[str]

    def jinja(self, *, bos: bool) -> str:
        """A chat template that asks the last message; `bos` begins it with the BOS token."""
        parts = ' + messages[-1]["content"] | trim + '.join(json.dumps(text, ensure_ascii=False) for text in self.texts)
        return ("{{ bos_token }}" if bos else "") + "{{ " + parts + " }}"

    def go(self) -> str:
        """A template of Go, as the Modelfile of Ollama has it."""
        return "{{ .Prompt }}".join(text.replace("{{", '{{ "{{" }}') for text in self.texts)


def prompt_template(tokenizer: PreTrainedTokenizerBase, eval_prompt: str, *, bos: bool = False) -> PromptTemplate:
    """The prompt in which a causal learner was trained: `eval_prompt`, in the chat template of its model or before the separator.

    `bos` keeps a BOS token in front, which most programs add themselves.
    """
    rendered = chat_prompt(tokenizer, render_prompt(_QUESTION, eval_prompt))
    return PromptTemplate((rendered if bos else rendered.removeprefix(tokenizer.bos_token or "")).split(_QUESTION))
