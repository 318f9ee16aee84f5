"""Prompts of chat models do not depend on the day, and the recipe's variables reach the template."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers.utils import chat_template_utils

from mentorkd.data.prompts import chat_prompt
from mentorkd.errors import ModelError
from mentorkd.hub.chat import DATE, asks_for_date, fixed_date, fixed_template, stored_templates
from mentorkd.models import load_folder, load_model, load_tokenizer, save_model
from mentorkd.recipe.learner import ModelConfig
from tiny_models import tiny_llama, tiny_tokenizer

CHAT = "{% for message in messages %}<s>{{ message.role }}\n{{ message.content }}{% endfor %}<s>assistant\n"
# How each family asks for the date.
LLAMA = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
"""
SMOLLM = """{% set today = strftime_now("%d %B %Y") %}Today Date: {{ today }}
"""
GPT_OSS = """{%- macro system() %}
    {{- "Current date: " + strftime_now("%Y-%m-%d") + "\\n" }}
{%- endmacro %}
  {{ system() }}"""
GRANITE = """Today's Date: {{ strftime_now('%B %-d, %Y') }}.
"""
DATED = {
    "llama": (LLAMA, "26 Jul 2024", "03 Feb 2030"),
    "smollm": (SMOLLM, "26 July 2024", "03 February 2030"),
    "gpt-oss": (GPT_OSS, "2024-07-26", "2030-02-03"),
    "granite": (GRANITE, "July 26, 2024", "February 3, 2030"),
}
THINKING = "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"


def save_tokenizer(folder: Path, template: str | None) -> Path:
    tokenizer = tiny_tokenizer(append_eos=False)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def prompt(folder: Path, **settings: Any) -> str:
    return chat_prompt(load_tokenizer(ModelConfig(name=str(folder), **settings)), "How many?")


def on_day(patch: pytest.MonkeyPatch, *day: int) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(*day)

    patch.setattr(chat_template_utils, "datetime", Clock)


@pytest.mark.parametrize("family", DATED)
def test_a_prompt_is_the_same_after_midnight(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template, default, other = DATED[family]
    folder = save_tokenizer(tmp_path, template + CHAT)
    prompts = []
    for day in ((2025, 12, 31), (2026, 1, 1)):
        on_day(monkeypatch, *day)
        prompts.append(prompt(folder))
    assert prompts[0] == prompts[1]
    assert default in prompts[0]
    # Apart from the date, the prompt is the one that transformers makes: no space is added or lost.
    on_day(monkeypatch, 2024, 7, 26)
    tokenizer = tiny_tokenizer(append_eos=False)
    tokenizer.chat_template = template + CHAT
    assert prompts[0] == chat_prompt(tokenizer, "How many?")
    assert prompt(folder, chat_date="2030-02-03") == prompts[0].replace(default, other)
    assert fixed_date(load_tokenizer(ModelConfig(name=str(folder))).chat_template) == DATE
    assert fixed_date(template) is None


def test_a_template_without_date_stays_byte_for_byte(tmp_path: Path) -> None:
    assert load_tokenizer(ModelConfig(name=str(save_tokenizer(tmp_path, CHAT)))).chat_template == CHAT
    assert fixed_template("  {{ x }}", None, {}) == "  {{ x }}"


def test_a_saved_model_keeps_its_date_and_its_variables(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path / "base", SMOLLM + THINKING + CHAT)
    tiny_llama(tiny_tokenizer(append_eos=False)).save_pretrained(folder)
    settings = {"chat_date": "2030-02-03", "chat_template_kwargs": {"enable_thinking": False}}
    config = ModelConfig(name=str(folder), **settings)
    loaded = load_model(config, seed=0, device=torch.device("cpu"))
    save_model(loaded, tmp_path / "trained", card="# card\n")
    trained = load_folder(tmp_path / "trained", device=torch.device("cpu")).tokenizer
    expected = chat_prompt(loaded.tokenizer, "How many?")
    assert "03 February 2030" in expected
    assert "<think></think>" in expected
    assert chat_prompt(trained, "How many?") == expected
    assert trained.chat_template == loaded.tokenizer.chat_template  # nothing is written a second time
    assert [asks_for_date(each) for each in stored_templates(tmp_path / "trained")] == [False]
    # A recipe may give a model that was trained here another date; and callers may think again.
    assert "01 March 2031" in prompt(tmp_path / "trained", chat_date="2031-03-01")
    turns = [{"role": "user", "content": "How many?"}]
    text = trained.apply_chat_template(turns, tokenize=False, enable_thinking=True)
    assert "<think></think>" not in text


def test_variables_of_all_types_reach_the_template(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path, "{{ a }}|{{ b[0].c }}|{{ d is none }}|{{ e + 1 }}|" + CHAT)
    values = {"a": 'it\'s "ü"\n{{ x }}', "b": [{"c": True}], "d": None, "e": 1.5}
    text = prompt(folder, chat_template_kwargs=values)
    assert text.startswith('it\'s "ü"\n{{ x }}|True|True|2.5|')


def test_settings_that_a_template_does_not_use_are_refused(tmp_path: Path) -> None:
    chat, bare = save_tokenizer(tmp_path / "chat", THINKING + CHAT), save_tokenizer(tmp_path / "bare", None)
    with pytest.raises(ModelError, match="does not use `enable_thinkin`; remove it from `chat_template_kwargs`"):
        prompt(chat, chat_template_kwargs={"enable_thinkin": False})
    with pytest.raises(ModelError, match="asks for no date; remove `chat_date`"):
        prompt(chat, chat_date="2024-01-01")
    for settings in ({"chat_date": "2024-01-01"}, {"chat_template_kwargs": {"x": 1}}):
        with pytest.raises(ModelError, match=rf"has no chat template; remove `{next(iter(settings))}`"):
            prompt(bare, **settings)


def test_faulty_settings_are_told_by_the_recipe() -> None:
    for value in ("tomorrow", "2024-13-01", 7):
        with pytest.raises(ValidationError, match="expected a date as YYYY-MM-DD"):
            ModelConfig(name="m", chat_date=value)
    with pytest.raises(ValidationError, match="put dates in quotes"):
        ModelConfig(name="m", chat_template_kwargs={"x": datetime(2024, 1, 1)})
    for name in ("messages", "add_generation_prompt", "not a name"):
        with pytest.raises(ValidationError, match=f"`{name}` cannot be a variable"):
            ModelConfig(name="m", chat_template_kwargs={name: 1})


def test_named_templates_are_fixed_where_they_are_used(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path, SMOLLM + CHAT)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(CHAT)
    assert "26 July 2024" in prompt(folder)
    assert len(list(stored_templates(folder))) == 2


def test_templates_of_older_folders_are_found(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer_config.json"
    for stored in (SMOLLM, [{"name": "default", "template": SMOLLM}]):
        file.write_text(json.dumps({"chat_template": stored}))
        assert list(stored_templates(tmp_path)) == [SMOLLM]
    file.write_text("{")
    assert list(stored_templates(tmp_path)) == []


def test_the_default_date_is_one() -> None:
    assert datetime.fromisoformat(DATE)
