"""Chat templates that give the same prompt on every day: with a fixed date, and with values for their variables.

A chat template is a Jinja program. Some ask for today's date (Llama 3.2, SmolLM3, gpt-oss, Granite 3), so the prompts of one run
would change at midnight. The date and the variables are therefore written into the template, in lines before it. A trained model is
saved with that template: whoever loads it gives it the prompts of its training.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from mentorkd.errors import ModelError

DATE = "2024-07-26"
"""The date of templates that ask for today's. Llama 3's template has it as its own default."""

RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "tokenize", "strftime_now"})
"""Names in templates that no variable of a recipe may have: they hold the chat itself, or its date."""

_CLOCK = "strftime_now"
_FIXED = re.compile(r"^\{%- macro strftime_now\(format\) -%\}.*\{%- endmacro %\}\n", re.MULTILINE)
_DIRECTIVES = [f"%{flag}{letter}" for letter in "aAbBdeHIjmMpSUwWyYGVuFTDxXc" for flag in ("-", "")]


def asks_for_date(template: str) -> bool:
    """Whether a template asks for today's date, and gets it from the clock."""
    return _CLOCK in template and not _FIXED.search(template)


def fixed_template(template: str, day: str | None, variables: Mapping[str, Any]) -> str:
    """A template that takes `day` (YYYY-MM-DD) for today, with `variables` as defaults; itself if it has no use for either.

    Without a `day`, a template keeps the date that an earlier call fixed, and others get `DATE`. Raises ModelError for a day or a
    variable that the template does not use.
    """
    lines = []
    for name, value in variables.items():
        if not re.search(rf"\b{re.escape(name)}\b", template):
            raise ModelError(f"the chat template does not use `{name}`; remove it from `chat_template_kwargs`")
        # As a default, so that another caller of the saved template may still choose. Jinja reads Python's literals.
        lines.append(f"{{%- if {name} is not defined %}}{{% set {name} = {value!r} %}}{{% endif %}}\n")
    if _CLOCK not in template:
        if day is not None:
            raise ModelError("the chat template asks for no date; remove `chat_date`")
    elif asks_for_date(template) or day is not None:
        template = _FIXED.sub("", template)
        lines.append(_date_macro(date.fromisoformat(day or DATE)))
    return "".join(lines) + template


def date_of(template: str, day: str | None) -> str | None:
    """The date that `fixed_template` newly gives to a template; None if the template keeps what it has."""
    return (day or DATE) if asks_for_date(template) or (day and _CLOCK in template) else None


def fixed_date(template: str) -> str | None:
    """The date that `fixed_template` gave to a template; None if the template has none."""
    fixed = _FIXED.search(template)
    day = fixed and re.search(r"replace\('%F','([\d-]+)'\)", fixed[0])
    return day[1] if day else None


def _date_macro(day: date) -> str:
    """A Jinja macro in place of the function `strftime_now` of transformers; one line, which leaves no space in the prompt."""
    values = [(directive, day.strftime(directive)) for directive in _DIRECTIVES]
    replaced = "".join(f"|replace({directive!r},{value!r})" for directive, value in [*values, ("%%", "%")])
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{replaced} }}}}{{%- endmacro %}}\n"


def stored_templates(folder: Path) -> Iterator[str]:
    """The chat templates in the folder of a tokenizer, which is not loaded."""
    for file in (folder / "chat_template.jinja", *sorted((folder / "additional_chat_templates").glob("*.jinja"))):
        if file.is_file():
            yield file.read_text(encoding="utf-8")
    file = folder / "tokenizer_config.json"
    try:
        stored = json.loads(file.read_text(encoding="utf-8")).get("chat_template") if file.is_file() else None
    except (ValueError, AttributeError):
        return  # loading the tokenizer tells the fault
    for template in stored if isinstance(stored, list) else [stored]:
        text = template.get("template") if isinstance(template, dict) else template
        if isinstance(text, str):
            yield text
