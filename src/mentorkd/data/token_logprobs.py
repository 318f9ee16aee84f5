"""Log-probabilities of the tokens that a teacher sampled: of its reply, of the rationale in it, and of a target text.

A rationale that has them keeps them in `meta["logprobs"]`, as JSON:

    ends    the byte of `Rationale.text` (UTF-8) after each token, ascending; a token that splits a character ends inside it
    values  the natural logarithm of each token's probability at temperature 1; null where it is not known

The tokens cover the text from its beginning. They may end before the text does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from mentorkd.data.prompts import ARROWS, SHORT_ARROW
from mentorkd.errors import DataError, ModelError
from mentorkd.records import Rationale

LOGPROBS = "logprobs"
"""The key in a rationale's `meta`."""
_DECIMALS = 5
"""Decimals in files. The rounding, 5e-6, is far below that of half-precision logits."""
_ROUNDING = 1e-3
"""How far above 0 a log-probability may lie, since endpoints round."""
_NO_MEASUREMENT = -9000.0
"""Values from here down stand for "unlikely": OpenAI and vLLM write -9999, llama.cpp the lowest float."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """How tokens cut the UTF-8 bytes of a text: the byte after each token, and its log-probability (None: not known)."""

    ends: tuple[int, ...]
    values: tuple[float | None, ...]

    @classmethod
    def of_tokens(cls, tokens: Iterable[tuple[bytes, float | None]]) -> TokenLogprobs:
        """From the bytes and the value of each token. The value of a token without bytes is added to the next token's."""
        ends: list[int] = []
        values: list[float | None] = []
        end, value = 0, _CERTAIN
        for text, own in tokens:
            end, value = end + len(text), joint(value, own)
            if text:
                ends.append(end)
                values.append(value)
                value = _CERTAIN
        return cls(tuple(ends), tuple(values))

    @classmethod
    def from_json(cls, fields: Any) -> TokenLogprobs:
        """Read what `to_json` gives. Raises ValueError, with what was got and what is expected."""
        if not isinstance(fields, Mapping) or fields.keys() != {"ends", "values"}:
            got = f"the fields {sorted(map(str, fields))}" if isinstance(fields, Mapping) else type(fields).__name__
            raise ValueError(f"got {got}, expected an object of `ends` and `values`")
        ends, values = fields["ends"], fields["values"]
        if not isinstance(ends, list) or not isinstance(values, list) or len(ends) != len(values):
            raise ValueError("expected two lists of equal length, `ends` and `values`")
        if not all(type(end) is int for end in ends) or any(a >= b for a, b in pairwise([0, *ends])):
            raise ValueError("`ends`: expected ascending whole numbers above 0, the byte of the text after each token")
        return cls(tuple(ends), tuple(map(read_value, values)))

    def to_json(self) -> dict[str, Any]:
        return {"ends": list(self.ends), "values": [None if v is None else round(v, _DECIMALS) for v in self.values]}

    def spans(self) -> Iterator[tuple[int, int, float | None]]:
        """The first byte, the byte after the last, and the value of each token."""
        for (start, end), value in zip(pairwise((0, *self.ends)), self.values, strict=True):
            yield start, end, value

    def part(self, text: bytes, first: int, after: int) -> TokenLogprobs:
        """The tokens of `text` that hold any of its bytes [first, after), counted from `first`.

        A token that reaches out of the part keeps its value if only whitespace lies outside (" First", ".\\n"): stripping
        has removed it. Otherwise the value does not tell how likely the part is.
        """
        inside = [span for span in self.spans() if span[0] < after and span[1] > first]
        return TokenLogprobs(
            tuple(min(end, after) - first for _, end, _ in inside),
            tuple(
                None if (text[start : max(start, first)] + text[min(end, after) : end]).strip() else value
                for start, end, value in inside
            ),
        )


_CERTAIN: float | None = 0.0


def joint(first: float | None, second: float | None) -> float | None:
    """The log-probability of two tokens together."""
    return None if first is None or second is None else first + second


def read_value(value: Any) -> float | None:
    """A log-probability in JSON; None for null and for what endpoints write where they have none. Raises ValueError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= _ROUNDING:
        raise ValueError(f"got the log-probability {str(value)[:40]!r}, expected a number of at most 0, or null")
    return min(float(value), 0.0) if value > _NO_MEASUREMENT else None


def rationale_logprobs(logprobs: TokenLogprobs, reply: str, text: str) -> dict[str, Any]:
    """`meta["logprobs"]` of a rationale, from those of its whole reply, of which `text` is the stripped beginning."""
    raw, wanted = reply.encode(), text.encode()
    first = len(raw) - len(reply.lstrip().encode())
    assert raw.startswith(wanted, first), "a rationale is the beginning of its reply"
    return logprobs.part(raw, first, first + len(wanted)).to_json()


def read_logprobs(fields: Any, text: str) -> TokenLogprobs:
    """Read the log-probabilities of a text. Raises ValueError for anything else, and for tokens that exceed the text."""
    logprobs, length = TokenLogprobs.from_json(fields), len(text.encode())
    if logprobs.ends and logprobs.ends[-1] > length:
        raise ValueError(f"the last of `ends` is {logprobs.ends[-1]}, and the text has {length} bytes")
    return logprobs


@dataclass(frozen=True, slots=True)
class TargetLogprobs:
    """How a teacher's tokens cut a target text: the character after each piece, and its log-probability.

    The pieces cover the target: the last edge is its length. A piece is a token, or several that share a character, with the
    sum of their values. NaN masks what the teacher did not write (the appended answer, an arrow that `render_target`
    shortened), and what it wrote without a known value.
    """

    edges: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def masked(self) -> int:
        """The characters in masked pieces."""
        pieces = zip(pairwise((0, *self.edges)), self.values, strict=True)
        return sum(end - start for (start, end), value in pieces if math.isnan(value))


def target_logprobs(rationale: Rationale, target: str) -> TargetLogprobs | None:
    """The teacher's tokens in a target that begins with the rationale; None for a rationale without log-probabilities.

    A target without the rationale (an answer alone) is one masked piece. Raises DataError if `meta` holds something else.
    """
    if LOGPROBS not in rationale.meta:
        return None
    try:
        logprobs = read_logprobs(rationale.meta[LOGPROBS], rationale.text)
    except ValueError as error:
        raise DataError(f"rationale {rationale.id}, `meta.logprobs`: {error}; annotate again, or remove it") from None
    edges: list[int] = []
    values: list[float] = []
    arrows = _shortened(rationale.text, target)
    if arrows is not None:
        for start, end, value in _in_characters(logprobs, rationale.text, arrows):
            shorter = sum(after - first - len(SHORT_ARROW) for first, after in arrows if after <= end)
            touched = any(start < after and first < end for first, after in arrows)
            edges.append(end - shorter)
            values.append(math.nan if value is None or touched else value)
    if not edges or edges[-1] < len(target):
        edges.append(len(target))
        values.append(math.nan)
    return TargetLogprobs(tuple(edges), tuple(values))


def check_has_logprobs(rationales: Iterable[Rationale]) -> None:
    """Raise ModelError if no rationale of a teacher whose soft labels a learner imitates has log-probabilities."""
    if not any(LOGPROBS in rationale.meta for rationale in rationales):
        raise ModelError(
            "no rationale of the teacher has log-probabilities, so there are no soft labels of it; set `teacher.logprobs: true`, "
            "give recorded rationales with a field `logprobs`, or name a learner in `soft_labels`"
        )


_Spans = Sequence[tuple[int, int]]


def _shortened(text: str, target: str) -> _Spans | None:
    """The arrows of a rationale that its target has in short form; None if the target does not begin with the rationale."""

    def begins_with(text: str) -> bool:
        return target.startswith(text) and target[len(text) : len(text) + 1] in ("", " ")

    if begins_with(text):
        return ()
    arrows = [arrow.span() for arrow in ARROWS.finditer(text)]
    return arrows if arrows and begins_with(ARROWS.sub(SHORT_ARROW, text)) else None


def _in_characters(logprobs: TokenLogprobs, text: str, arrows: _Spans) -> Iterator[tuple[int, int, float | None]]:
    """The tokens as characters of `text`. Tokens that meet inside a character or inside an arrow are one."""
    places = accumulate((len(character.encode()) for character in text), initial=0)
    character_at = {byte: character for character, byte in enumerate(places)}
    start, value = 0, _CERTAIN
    for _, end, own in logprobs.spans():
        value = joint(value, own)
        at = character_at.get(end)
        if at is not None and not any(first < at < after for first, after in arrows):
            yield start, at, value
            start, value = at, _CERTAIN
