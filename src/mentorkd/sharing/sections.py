"""Sections of a card, which begin with a heading of the second level."""

from __future__ import annotations

import re


def replace_section(card: str, title: str, text: str) -> str:
    """The card with `text` as its section of this title, in the place of an older one, or else at the end."""
    section = f"## {title}\n\n{text.strip()}\n"
    older = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    if older.search(card):
        return older.sub(lambda _: section + "\n", card, count=1).rstrip() + "\n"
    return f"{card.rstrip()}\n\n{section}"
