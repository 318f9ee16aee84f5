"""What a page marks in a text: sentences with a false equation, and where a search was found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from mentorkd.grading.arithmetic import check_arithmetic
from mentorkd.reporting.examples import SENTENCE

Span = tuple[int, int]


def false_sentences(text: str) -> list[Span]:
    """Start and end of each sentence with a false equation; none unless the whole text has one, too."""
    if "=" not in text and "equal" not in text:
        return []
    if not check_arithmetic(text).wrong:
        return []
    sentences = (match for match in SENTENCE.finditer(text) if match.group().strip())
    return [match.span() for match in sentences if check_arithmetic(match.group()).wrong]


def found(text: str, search: str) -> list[Span]:
    """Where a text contains another; upper and lower case are the same."""
    return [match.span() for match in re.finditer(re.escape(search), text, re.IGNORECASE)] if search else []


def pieces(text: str, search: str = "") -> Iterator[tuple[str, str]]:
    """The text in pieces, each with its CSS classes: `false`, `found`, both or none."""
    marks = {"false": false_sentences(text), "found": found(text, search)}
    edges = sorted({0, len(text), *(edge for spans in marks.values() for span in spans for edge in span)})
    for start, end in pairwise(edges):
        names = [name for name, spans in marks.items() if any(first <= start < last for first, last in spans)]
        yield text[start:end], " ".join(names)
