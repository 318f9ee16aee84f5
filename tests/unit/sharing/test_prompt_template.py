from __future__ import annotations

import pytest

from mentorkd.data.prompts import CAUSAL_SEPARATOR, render_chat, render_prompt
from mentorkd.sharing.prompt_template import PromptTemplate, prompt_template
from tiny_models import tiny_tokenizer

PROMPTS = ["{question}", 'Solve {{this}}:\n{question}\n"Show" \\steps, é', "{question} Again: {question}"]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("bos", [False, True])
def test_a_chat_template_gives_the_prompt_of_the_training(prompt: str, bos: bool) -> None:
    tokenizer = tiny_tokenizer(append_eos=False)
    template = prompt_template(tokenizer, prompt)
    tokenizer.chat_template = template.jinja(bos=bos)
    turns = [{"role": "user", "content": "an earlier one"}, {"role": "user", "content": " What is 3 + 4?\n"}]
    expected = render_prompt("What is 3 + 4?", prompt) + CAUSAL_SEPARATOR
    assert render_chat(tokenizer, turns) == ("<s>" if bos else "") + expected


def test_a_model_with_a_chat_template_keeps_its_turns() -> None:
    tokenizer = tiny_tokenizer(append_eos=False)
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}[{{ m.content }}]{% endfor %}"
    assert prompt_template(tokenizer, "Q: {question}").texts == ["[Q: ", "]"]
    assert prompt_template(tokenizer, "Q: {question}", bos=True).texts == ["<s>[Q: ", "]"]


def test_braces_are_text_for_go() -> None:
    assert PromptTemplate(["{{a}} ", " b"]).go() == '{{ "{{" }}a}} {{ .Prompt }} b'
