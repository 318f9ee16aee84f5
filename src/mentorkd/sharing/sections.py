"""Sections of a card, which begin with a heading of the second level."""

from __future__ import annotations

import re
from pathlib import Path


def section_of(card: Path, title: str) -> str | None:
    """The text of a section of a card; None if there is no such card or section."""
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    found = re.search(rf"^## {re.escape(title)}\n\n(.*?)\s*(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return None if found is None else found[1]


def replace_section(card: str, title: str, text: str) -> str:
    """The card with `text` as its section of this title, in the place of an older one, or else at the end."""
    section = f"## {title}\n\n{text.strip()}\n"
    older = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if older.search(card):
        return older.sub(lambda _: section + "\n", card, count=1).rstrip() + "\n"
    return f"{card.rstrip()}\n\n{section}"
