"""Check of the equations in a rationale: a parser of arithmetic in prose.

Each `=` (or "equals") is an equation between the arithmetic that ends before it and the arithmetic that starts after it,
so "a + b = c - d = e" has two equations. Units, currency signs, thousands commas, percent and remarks in brackets are
skipped: "5 books x $3 per book = $15". An equation is

- `wrong` only if every reading of it is false and nothing about it is ambiguous;
- `unread` if one side has no arithmetic ("Total = 15", "x + 2 = 5", "March 1 + 2 days = March 3"), or if it is false but
  may mean something else (a remainder, 25 cents + $1, the dash of a list read as a minus). Unread equations never count
  as wrong.

A result may be rounded or cut at its last decimal. A result without decimals must be exact.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, takewhile
from typing import Literal


@dataclass(frozen=True, slots=True)
class EquationCounts:
    """The equations of a text: the number that hold, the text of each wrong one, and the number that were not read."""

    holding: int
    wrong: tuple[str, ...]
    unread: int


Verdict = Literal["holds", "wrong", "unread"]

_SIDE_TOKENS = 60
"""Longest side, in tokens, that is parsed. Real equations are far shorter."""
_UNIT_WORDS = 4

_REMARK = re.compile(r"\((?![^()]*[\d=])[^()]*\)")
_MARKUP = re.compile(r"(?<!\d)\*\*|\*\*(?!\d)|\\[()\[\]]|`|\$\$|\\(?=\$)|<<[^<>]*>>")
_REWRITTEN = [
    (re.compile(r"\\times|×|⋅|·|\bmultiplied by\b|\btimes\b", re.IGNORECASE), "*"),
    (re.compile(r"\\div|÷|\bdivided by\b", re.IGNORECASE), "/"),
    (re.compile(r"[−–]|\bminus\b", re.IGNORECASE), "-"),
    (re.compile(r"\bplus\b", re.IGNORECASE), "+"),
    (re.compile(r"(?<![\w.])[xX](?=\s*[\d$(.])|(?<=\d)[xX](?=\s*[\d$(.])"), "*"),
    (re.compile(r"\bequals\b|\bis equal to\b", re.IGNORECASE), "="),
]
_EQUALS = re.compile(r"(?<![<>=!:~])=(?![=>])")
_TOKEN = re.compile(
    r"(?P<date>\d+/\d+/\d+|\d{4}-\d+-\d+|0\d+(?![.\d]))"
    r"|(?P<number>(?:[$€£]\s?)?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[$€£]?\.\d+)(?P<percent>\s?%)?"
    r"|(?P<unit>/(?=[A-Za-z])|[$€£¢])"
    r"|(?P<operator>[-+*/])"
    r"|(?P<bracket>[()])"
    r"|(?P<word>[A-Za-z](?:[A-Za-z'’-]*[A-Za-z])?)"
    r"|(?P<border>\n|[.,;?\"“”•#](?=\s|$)|(?<!\s):(?=\s|$)|[\"“”])"
    r"|(?P<space>[^\S\n]+)"
    r"|(?P<other>.)"
)
_JOINING = frozenset(
    {"and", "or", "so", "then", "to", "from", "which", "is", "are", "was", "were", "has", "have", "had"}
)
_DOUBTED_BEFORE = frozenset({"of", "by", "than", "half", "twice", "double", "triple", "less", "more", "between", "not"})
_REMAINING = frozenset({"remainder", "rem", "r", "with", "left", "leftover", "remaining"})
_MULTIPLYING = frozenset({"dozen", "hundred", "thousand", "million", "billion"})
_SCALES = {
    unit: scale
    for scale, units in {
        "money": "$ dollar cent ¢ penny pennie nickel dime quarter",
        "time": "second minute hour day week month year min hr sec",
        "length": "inch inche foot feet ft yard mile meter metre cm mm km m centimeter kilometer",
        "weight": "gram g kg kilogram pound lb ounce oz ton",
        "volume": "liter litre ml gallon quart pint cup",
        "count": "dozen pair couple",
    }.items()
    for unit in units.split(" ")
}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    percent: bool = False
    spaced: bool = False
    """Whether there is a space before it."""


@dataclass(frozen=True, slots=True)
class _Side:
    """One reading of a side of an equation."""

    value: Fraction
    tokens: Sequence[_Token]
    sure: bool
    """Whether other readings of the side are implausible."""

    @property
    def operators(self) -> int:
        """The number of binary operators; a sign does not count."""
        between = pairwise(self.tokens)
        return sum(
            token.kind == "operator" and before.kind != "operator" and before.text != "(" for before, token in between
        )

    @property
    def places(self) -> int:
        """Decimal places of the last number."""
        number = next((token.text for token in reversed(self.tokens) if token.kind == "number"), "")
        return len(number.partition(".")[2])


def check_arithmetic(text: str) -> EquationCounts:
    """Check every equation of `text`."""
    equations = list(_equations(text))
    number = Counter(verdict for verdict, _ in equations)
    wrong = tuple(equation for verdict, equation in equations if verdict == "wrong")
    return EquationCounts(number["holds"], wrong, number["unread"])


def _equations(text: str) -> Iterator[tuple[Verdict, str]]:
    text = _REMARK.sub(" ", _MARKUP.sub(" ", text))
    for pattern, plain in _REWRITTEN:
        text = pattern.sub(plain, text)
    segments = [_tokens(segment.strip()) for segment in _EQUALS.split(text)]
    last = len(segments) - 1
    for index, (before, after) in enumerate(pairwise(segments)):
        left = _endings(before, inner=index > 0)
        right = _beginnings(after, inner=index + 1 < last)
        verdict = _verdict(left, right)
        yield verdict, f"{_written(left)} = {_written(right)}" if verdict == "wrong" else ""


def _tokens(segment: str) -> list[_Token]:
    tokens: list[_Token] = []
    spaced = False
    for match in _TOKEN.finditer(segment):
        kind = match.lastgroup or ""
        kind = {"percent": "number", "date": "other"}.get(kind, kind)
        if kind == "space":
            spaced = True
            continue
        word = match.group()
        glued = bool(tokens) and tokens[-1].kind == "number" and not spaced
        if kind == "word" and ((len(word) == 1 and word != "a") or (glued and word in ("st", "nd", "rd", "th"))):
            kind = "other"  # a variable, or an ordinal
        elif word == "of" and tokens and (tokens[-1].percent or (len(tokens) > 2 and tokens[-2].text == "/")):
            kind = "operator"  # a percentage or fraction of something
        tokens.append(_Token(kind, match["number"] or word, bool(match["percent"]), spaced))
        spaced = False
    return tokens


def _endings(tokens: Sequence[_Token], inner: bool) -> list[_Side]:
    """The readings of the text before an `=`, the longest first. Each reading extends to the `=`."""
    run = list(takewhile(lambda token: token.kind != "border", reversed(tokens[-_SIDE_TOKENS:])))[::-1]
    sides: list[_Side] = []
    for start in range(len(run)):
        value = _value(run[start:])
        if value is None:
            continue
        side = _Side(
            value, run[start:], not sides and not _is_doubted_start(run, start) and not _is_new_sentence(run[start:])
        )
        if not sides:
            whole = inner and len(run) == len(tokens) == len(side.tokens)
            if not side.operators and not (whole and all(token.kind != "word" for token in run)):
                return []  # "3 books = 15" is no arithmetic, like "Cost = 15"
            sides.append(side)
        elif run[start - 1].text == "-" and run[start - 1].spaced and run[start].spaced:
            sides.append(side)  # "Step 1 - 15 + 18 = 33": the dash may start an item of a list
    return sides


def _beginnings(tokens: Sequence[_Token], inner: bool) -> list[_Side]:
    """The readings of the text after an `=`, the longest first. Each reading starts at the `=`."""
    run = list(takewhile(lambda token: token.kind != "border", tokens[:_SIDE_TOKENS]))
    sides: list[_Side] = []
    for end in range(len(run), 0, -1):
        value = _value(run[:end])
        if value is None:
            continue
        follows = run[end : end + 1]
        if not sides:
            sides.append(_Side(value, run[:end], not _is_doubted_end(run, end)))
        elif any(token.kind == "operator" and (not inner or (token.text == "-" and token.spaced)) for token in follows):
            sides.append(_Side(value, run[:end], False))  # "= 33 caps - 5 of them": the dash may be punctuation
    return sides


def _is_doubted_start(run: Sequence[_Token], start: int) -> bool:
    if start == 0:
        return False
    before = run[start - 1]
    if run[start].text == "(" and not run[start].spaced:
        return True  # ceil(3/99)
    if before.kind in ("operator", "number", "other", "unit") or before.text == ")":
        return True
    return before.text.lower() in _DOUBTED_BEFORE and any(token.kind == "number" for token in run[:start])


def _is_doubted_end(run: Sequence[_Token], end: int) -> bool:
    if end == len(run):
        return False
    if run[end - 1].kind == "number":  # a mixed number: 2 1/3, 2 and 1/3
        beyond = run[end + 1 : end + 2] if run[end].text == "and" else run[end : end + 1]
        if any(token.kind == "number" for token in beyond):
            return True
    return run[end].kind in ("other", "operator") or run[end].text == "("


def _is_new_sentence(side: Sequence[_Token]) -> bool:
    """Whether a sentence may start inside the side, because a newline was lost: "= 60 - 8 Number of birds ="."""
    return any(token.kind == "word" and token.text[0].isupper() for token in side)


def _verdict(left: Sequence[_Side], right: Sequence[_Side]) -> Verdict:
    if not left or not right or not (left[0].operators or right[0].operators):
        return "unread"
    pairs = [(one, other) for one in left for other in right]
    if any(one.sure and other.sure and _agree(one, other) for one, other in pairs):
        return "holds"
    first, second = left[0], right[0]
    if _agree(first, second):
        return "holds"
    if not (first.sure and second.sure) or any(_agree(one, other) for one, other in pairs):
        return "unread"
    return "unread" if _may_differ(first, second) else "wrong"


def _agree(one: _Side, other: _Side) -> bool:
    """Whether the sides are equal, up to the decimals of a side that is a single number; 25 % is 0.25 or 25."""
    scales = [Fraction(1)]
    if any(token.percent for token in (*one.tokens, *other.tokens)):
        scales += [Fraction(100), Fraction(1, 100)]
    return any(
        one.value * scale == other.value
        or _is_rounded(other, one.value * scale)
        or _is_rounded(one, other.value / scale)
        for scale in scales
    )


def _is_rounded(side: _Side, exact: Fraction) -> bool:
    """Whether the side is a single decimal number that equals `exact` after rounding or cutting."""
    if side.operators or not side.places:
        return False
    last_place = Fraction(1, 10**side.places)
    return abs(side.value - exact) <= last_place / 2 or 0 <= abs(exact) - abs(side.value) < last_place


def _may_differ(one: _Side, other: _Side) -> bool:
    """Whether the sides may be equal although their numbers differ: units, dates, percentages of a base, rounded parts."""
    tokens = (*one.tokens, *other.tokens)
    units: dict[str, set[str]] = {}
    for token in tokens:
        name = "$" if token.text.startswith("$") else token.text.lower().removesuffix("s")
        if name in _SCALES:
            units.setdefault(_SCALES[name], set()).add(name)
    if any(len(names) > 1 for names in units.values()):
        return True
    words = {token.text.lower() for token in tokens if token.kind == "word"}
    signs = {token.text for token in tokens if token.kind == "operator"}
    adding = signs & {"+", "-"}
    if words & _MULTIPLYING or ("/" in signs and (words & _REMAINING or ("time" in units and adding))):
        return True  # 7 / 2 = 3 with 1 left, or 9/7 - 1 week = 8/31
    if adding and any(token.percent for token in tokens):
        return True
    computing = [side for side in (one, other) if side.operators]
    rounded = any("." in token.text for side in computing for token in side.tokens if token.kind == "number")
    return rounded and abs(one.value - other.value) <= abs(other.value) / 100


def _written(sides: Sequence[_Side]) -> str:
    return "".join(
        (" " if token.spaced or token.kind in ("operator", "word") else "")
        + token.text
        + ("%" if token.percent else "")
        for token in sides[0].tokens
    ).strip()


def _value(tokens: Sequence[_Token]) -> Fraction | None:
    """The value of tokens that form one whole expression, else None."""
    value, end = _sum(tokens, 0)
    return value if end == len(tokens) else None


def _sum(tokens: Sequence[_Token], at: int) -> tuple[Fraction | None, int]:
    total, at = _product(tokens, at)
    while total is not None and at < len(tokens) and tokens[at].text in ("+", "-"):
        sign = 1 if tokens[at].text == "+" else -1
        term, end = _product(tokens, at + 1)
        if term is None:
            return total, at
        total, at = total + sign * term, end
    return total, at


def _product(tokens: Sequence[_Token], at: int) -> tuple[Fraction | None, int]:
    value, at = _factor(tokens, at)
    while value is not None and at < len(tokens):
        implied = tokens[at].text == "(" and not tokens[at].spaced and tokens[at - 1].kind != "word"
        if not implied and not (tokens[at].kind == "operator" and tokens[at].text in ("*", "/", "of")):
            break
        factor, end = _factor(tokens, at if implied else at + 1)
        if factor is None or (tokens[at].text == "/" and factor == 0):
            return value, at
        value, at = value / factor if tokens[at].text == "/" else value * factor, end
    return value, at


def _factor(tokens: Sequence[_Token], at: int) -> tuple[Fraction | None, int]:
    if at == len(tokens):
        return None, at
    token = tokens[at]
    if token.text == "-":
        glued = at + 1 < len(tokens) and not tokens[at + 1].spaced
        value, end = _factor(tokens, at + 1) if glued else (None, at)
        return (None if value is None else -value), end
    if token.text == "(":
        value, end = _sum(tokens, at + 1)
        if value is None or end == len(tokens) or tokens[end].text != ")":
            return None, at
        return value, _skip_unit(tokens, end + 1)
    if token.kind != "number":
        return None, at
    value = Fraction(token.text.lstrip("$€£ ").replace(",", "")) / (100 if token.percent else 1)
    return value, _skip_unit(tokens, at + 1)


def _skip_unit(tokens: Sequence[_Token], at: int) -> int:
    """The position after the words of a unit: "red balls per box", "/hour"."""
    for end, token in enumerate(tokens[at : at + 2 * _UNIT_WORDS], start=at):
        if token.kind not in ("word", "unit") or token.text.lower() in _JOINING:
            return end
    return min(at + 2 * _UNIT_WORDS, len(tokens))
