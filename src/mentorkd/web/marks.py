"""What a page marks in a text: sentences with a false equation, and where a search was found."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

from mentorkd.grading.arithmetic import check_arithmetic
from mentorkd.reporting.examples import SENTENCE

Span = tuple[int, int]

_ROW = 280
"""Characters that a row of a table shows, about."""


@lru_cache(maxsize=1 << 12)  # a page is often asked for again, and the check is most of its time
def false_sentences(text: str) -> Sequence[Span]:
    """Start and end of each sentence with a false equation; none unless the whole text has one, too."""
    matches = (match for match in SENTENCE.finditer(text) if "=" in match.group() or "equal" in match.group())
    spans = [match.span() for match in matches if check_arithmetic(match.group()).wrong]
    return spans if spans and check_arithmetic(text).wrong else ()


def excerpt(text: str, search: str = "") -> str:
    """Whole sentences of a text that is longer than a row of a table can show: its first ones, or those around what was searched for."""
    if len(text) <= _ROW:
        return text
    sentences = [match.span() for match in SENTENCE.finditer(text)]
    hit = next(iter(found(text, search)), (0, 0))
    first = 0 if hit[1] <= _ROW else max((start for start, _ in sentences if start <= hit[0]), default=0)
    last = next((end for _, end in sentences if end >= first + _ROW), len(text))
    return ("…" if first else "") + text[first:last] + ("…" if last < len(text) else "")


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
