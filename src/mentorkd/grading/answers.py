"""Answers in written text: numbers, choices, yes or no, and short texts. `grade` is the public front.

**Position of the answer.** An answer marker claims the text behind it. The markers, most trusted first:

1. the first `-->` (the target format of small learners; Mentor-KD, reference code): everything after it;
2. the last closed `\\boxed{...}`: its content;
3. `####` on the last line (elsewhere it is a heading): the rest of that line;
4. "the answer is" and similar phrases ("Therefore, the correct answer would be", "Answer:"), in any case: the text after
   the last phrase that a readable answer follows.

After a marker the FIRST candidate counts. A marker without a readable candidate gives no answer, because the text before
the marker was not offered as an answer. A text without a marker gives its LAST candidate.

**Candidates** depend on the kind: see `_number`, `_choice`, `_yes_no` and `_text`.

Every function runs in time linear in the text: no pattern rescans the text, and the context of a match is bounded.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from mentorkd.records import AnswerKind

LETTERS = "ABCDEFGHIJ"
"""Letters that a choice may name when the letters of the question are unknown."""


def find_answer(text: str, kind: AnswerKind, choices: Sequence[str] | None) -> str | None:
    """The normalised answer of a text, or None; see `grade.extract`."""
    find, letters = _FINDERS[kind], _letters(choices)
    if (regions := _marked_regions(text)) is None:
        return find(text, letters, False)
    return next((answer for region in regions if (answer := find(region, letters, True)) is not None), None)


def stated_answer(text: str) -> str | None:
    """The text that the most trusted marker claims, stripped, up to another arrow; all of a text without a marker. None if empty.

    For answers of any form. A final full stop belongs to the answer behind an arrow alone, else to the sentence.
    """
    if (regions := _marked_regions(text)) is None:
        return text.strip() or None
    answer = regions[0].partition("-->")[0].strip()
    return (answer if "-->" in text else answer.removesuffix(".").rstrip()) or None


def normal_form(answer: str, kind: AnswerKind, choices: Sequence[str] | None) -> str | None:
    """The normal form of a string that holds one answer and little else, or None; see `grade.normalise_answer`."""
    return _normal_form(answer, kind, _letters(choices))


@lru_cache(maxsize=1 << 12)  # a question's rationales, which follow each other, state its answer again
def _normal_form(answer: str, kind: AnswerKind, letters: str) -> str | None:
    if kind == "text":
        return _plain_text(answer)
    if _marked_regions(answer) is not None:
        return find_answer(answer, kind, letters)
    if kind == "number":
        answer = _plain_number_text(answer)
        values = {_value(answer, match, first) for match in _numbers(answer) for first in (True, False)} - {None}
        return _show_number(value) if len(values) == 1 and (value := values.pop()) is not None else None
    if kind == "choice":
        match = _LEADING_LETTER.match(answer)
        return match[1].upper() if match and match[1].upper() in letters else None
    return _JUDGEMENTS.get(answer.strip(" \t\n.!\"'").lower())


def describe_answer(kind: AnswerKind, choices: Sequence[str] | None) -> str:
    """What a gold answer of this kind looks like, for error messages."""
    return {
        "number": "one number",
        "choice": f"one of the letters {', '.join(_letters(choices))}, alone or with its text ('A. ignore')",
        "yes_no": "yes, no, true or false",
        "text": "at least one character besides quotes, dots and spaces",
    }[kind]


def option_letters(question_text: str) -> list[str]:
    """The option letters of a question, in order, from "(A) x, (B) y" or "A. x\\nB. y"; empty if it lists no options.

    Options are a run A, B, C, ... of at least two letters. The longest run counts, and the last one of equally long runs.
    """
    best: list[str] = []
    for style in (_BRACKETED_OPTION, _MARKED_OPTION):
        run: list[str] = []
        for letter in style.findall(question_text):
            if letter == "A":
                run = []
            elif not run or ord(letter) != ord(run[-1]) + 1:
                continue
            run.append(letter)
            if len(run) >= max(2, len(best)):
                best = list(run)
    return best


_BRACKETED_OPTION = re.compile(r"[(\[]([A-Z])[)\]]")
_MARKED_OPTION = re.compile(r"(?<!\S)([A-Z])[.):]\s")


def _letters(choices: Sequence[str] | None) -> str:
    return "".join(choices).upper() if choices else LETTERS


_ANSWER_IS = re.compile(
    r"\b(?:the|final|correct)\s(?:final\s|correct\s)?answer(?:\s(?:choice|option))?\s(?:is|(?:would|will|must|should)\sbe)\b"
    r"|(?:^|(?<=[.!?]\s))[ *#]{0,9}(?:the\s)?(?:final\s|correct\s)?answer\**:",
    re.IGNORECASE | re.MULTILINE,
)
_BRACE = re.compile(r"\\[{}]|\\boxed\s?\{|[{}]")
_TEXT_COMMAND = re.compile(r"\\(?:text|math|mbox)[a-z]{0,2}\{([^{}]*)\}")


def _marked_regions(text: str) -> list[str] | None:
    """The parts of `text` that answer markers claim, most trusted first; None without a marker."""
    if "-->" in text:
        return [text.partition("-->")[2]]
    if (boxed := _last_boxed(text)) is not None:
        return [_TEXT_COMMAND.sub(r"\1", boxed)]
    _, hashes, line = text.rstrip().rpartition("####")
    if hashes and "\n" not in line:
        return [line]
    return _after_each(_ANSWER_IS, text) or None


def _after_each(pattern: re.Pattern[str], text: str) -> list[str]:
    """The text between each match of `pattern` and the next match; the last part comes first."""
    starts = [(match.start(), match.end()) for match in pattern.finditer(text)] + [(len(text), len(text))]
    return [text[end:stop] for (_, end), (stop, _) in pairwise(starts)][::-1]


def _last_boxed(text: str) -> str | None:
    """The content of the last closed box; a box that was cut at the token limit does not count."""
    boxed: tuple[int, int] | None = None
    open_braces: list[int] = []  # start of the content for a box, -1 for another brace
    for match in _BRACE.finditer(text):
        if match[0] == "}" and open_braces:
            start = open_braces.pop()
            boxed = (start, match.start()) if start >= 0 else boxed
        elif match[0].endswith("{") and match[0] != "\\{":
            open_braces.append(match.end() if len(match[0]) > 1 else -1)
    return text[slice(*boxed)] if boxed else None


_MOST_DIGITS = 300
"""A longer number is no candidate: it comes from a model that repeats itself. (Python refuses to read 4300 digits.)"""
_MOST_LABELS = 1000
"""After this number of labels in a row, the first label is the answer."""
_SIGNS = str.maketrans(
    {**dict.fromkeys("‐‑‒–—−", "-"), "⁄": "/", "½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4"}
)
_LATEX_MIXED = re.compile(r"(?<=[0-9])(?=\\[dt]?frac)")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s?(?:\{([^{}]*)\}\{([^{}]*)\}|([0-9])([0-9]))")
_LATEX_SPACING = re.compile(r"\\[,!; ]|\\(?=[$%])|\{(?=,\})|(?<=\{,)\}")
_NUMBER = re.compile(
    r"""[0-9]{4}-[0-9]{2}-[0-9]{2}(?![0-9])                 # a date: no number
    | (?P<sign>-?[$€£]?-?)
      (?P<whole>[0-9]{1,9}[ ](?=[0-9]{1,9}/[0-9]))?         # the 1 of 1 1/2
      (?P<run>\.?[0-9]+(?:[.,/:][0-9]+)*)
      (?:[eE](?P<e>[+-]?[0-9]{1,3})(?!\w)|[ ]?(?:[×x*]|\\times)[ ]?10\^\{?(?P<power>-?[0-9]{1,3})(?![0-9]))?""",
    re.VERBOSE,
)
_DECIMAL = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]*\.?[0-9]+")
_OPERATOR = re.compile(r"[+*×÷/=]|(?<![A-Za-z])[xX-](?![A-Za-z])")
_SHARE_OF = re.compile(r"\s?(?:%|percent)?\s?of\s", re.IGNORECASE)
_CLAUSE_END = re.compile(r"[,;!?\n]|\.\s")

_DENIED_BEFORE = re.compile(r"(?:\bnot|n't)\s+(?:option\s|choice\s)?[(\[$]?$", re.IGNORECASE)
_DENIED_AFTER = re.compile(
    r"[)\]]?\sis(?:(?:\snot|n't)\s(?:the\s)?(?:answer|correct|right|true)|\s(?:incorrect|wrong|false))\b", re.IGNORECASE
)
_LABEL_BEFORE = re.compile(r"[^\W\d_]$|[\^_]\{?$|\bstep\s$", re.IGNORECASE)
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b", re.IGNORECASE)
_LINE_START = re.compile(r"(?:^|\n)[ \t*(]*$")
_NUMERAL_END = re.compile(r"[.)]\**\s+\S")
_CLAUSE_START = re.compile(r"[,=;:!?\n]|\.\s|\bequals\b")
_BRACKETED = re.compile(r"\([$€£]?$")
_SUBORDINATE = re.compile(
    r"\b(?:after|before|than|by|since|because|when|while|if|from|during|over|(?<!left\s)(?<!up\s)with"
    r"|(?<!lts\s)(?<!ted\s)(?<!ing\s)in(?!\s(?:all|total)\b))\b|\([^)]*$",
    re.IGNORECASE,
)


def _number(text: str, _: str, first: bool) -> str | None:
    """The first or last number of `text`.

    A minus sign counts only without an operand before it ("10-3" and "10 - 3" contain no -3). Currency and percent signs
    are dropped (50% = 50). "1/2" and "2 1/2" are fractions. A comma groups three digits; any other comma separates
    numbers. Dates, times, ratios (3:2), denied numbers ("not 5") and number words are not numbers.

    Labels ("Step 2", "2nd", "x2", "cm^2", list numerals) and asides (in brackets or after a preposition such as "than",
    "by" or "after") count only if the text has no other number: "So 90 are left after spending 38" is 90. After a marker
    a calculation gives its result: "5 + 3 = 8" is 8, and "20% of 50 = 10" is 10.
    """
    text = _plain_number_text(text)
    matches = _numbers(text)
    second_best: Fraction | None = None
    order = range(len(matches)) if first else range(len(matches) - 1, -1, -1)
    for index in order[:_MOST_LABELS]:
        match = matches[index]
        if _denied(text, match):
            continue
        if _is_label(text, match, numerals=not first):
            second_best = _value(text, match, first) if second_best is None else second_best
            continue
        if (value := _value(text, match, first)) is not None:
            result = _result(text, matches[index:]) if first else None
            return _show_number(value if result is None else result)
    return None if second_best is None else _show_number(second_best)


def _plain_number_text(text: str) -> str:
    """`text` with a single kind of minus sign, and with LaTeX numbers as plain numbers."""
    text = _LATEX_MIXED.sub(" ", text.translate(_SIGNS))
    return _LATEX_SPACING.sub("", _LATEX_FRACTION.sub(r"\1\3/\2\4", text))


def _numbers(text: str) -> list[re.Match[str]]:
    return [match for match in _NUMBER.finditer(text) if match["run"]]


def _value(text: str, match: re.Match[str], first: bool) -> Fraction | None:
    """The number of a match (None for a time, a version, ...); the first or last one of several joined by commas."""
    run, start = match["run"], match.start("run")
    if run[0] == "." and start and (text[start - 1].isalnum() or text[start - 1] in ".)%"):
        run = run[1:]  # the dot ends a sentence
    top, slash, bottom = run.partition("/")
    value = _decimal(top)
    if slash:
        divisor = _decimal(bottom)
        value = value / divisor if value is not None and divisor else None
    elif value is None and "," in run:
        value = _decimal(run.split(",")[0 if first else -1])
    if value is None:
        return None
    if match["whole"]:
        value += int(match["whole"])
    if exponent := match["e"] or match["power"]:
        value *= Fraction(10) ** int(exponent)
    before = text[max(0, match.start() - 3) : match.start()]
    operand = before.rstrip(" ")[-1:]
    joins = before[-1:].isalpha() or operand.isdigit() or operand in tuple(")]}%")  # hyphen or subtraction
    return -value if "-" in match["sign"] and not joins else value


def _decimal(digits: str) -> Fraction | None:
    if len(digits) > _MOST_DIGITS:
        return None
    if digits.isdigit():
        return Fraction(int(digits))
    return Fraction(digits.replace(",", "")) if _DECIMAL.fullmatch(digits) else None


def _denied(text: str, match: re.Match[str]) -> bool:
    """Whether the text states that this candidate is NOT the answer."""
    before, after = text[max(0, match.start() - 16) : match.start()], text[match.end() : match.end() + 24]
    return bool(_DENIED_BEFORE.search(before) or _DENIED_AFTER.match(after))


def _is_label(text: str, match: re.Match[str], numerals: bool) -> bool:
    """Whether a number only names or qualifies something, so that it is not the statement of the sentence."""
    before, after = text[max(0, match.start() - 80) : match.start()], text[match.end() : match.end() + 8]
    if _BRACKETED.search(before) and after[:1] == ")":
        return False  # "eight (8) shelves"
    if _LABEL_BEFORE.search(before) or _ORDINAL.match(after) or _SUBORDINATE.search(_CLAUSE_START.split(before)[-1]):
        return True
    return bool(numerals and _LINE_START.search(before) and _NUMERAL_END.match(after))


def _result(text: str, matches: Sequence[re.Match[str]]) -> Fraction | None:
    """The result of the calculation that starts with `matches[0]`; None if no calculation starts there."""
    result, calculates = None, "/" in matches[0]["run"]
    for left, right in pairwise(matches):
        gap = text[left.end() : min(right.start("run"), left.end() + 41)]
        if len(gap) > 40 or _CLAUSE_END.search(gap) or not (_OPERATOR.search(gap) or _is_share(left, gap)):
            break
        if "=" in gap and calculates:
            result = _value(text, right, True)
        calculates = "=" not in gap or "/" in right["run"]
    return result


def _is_share(left: re.Match[str], gap: str) -> bool:
    """Whether a number is a share of the next one: "20% of 50", "1/4 of 20"."""
    return bool(_SHARE_OF.match(gap)) and ("/" in left["run"] or "%" in gap or "percent" in gap.lower())


def _show_number(value: Fraction) -> str:
    """An integer, else an exact decimal, else a reduced fraction."""
    if value.denominator == 1:
        return str(value.numerator)
    rest, places = value.denominator, 0
    while (shared := math.gcd(rest, 10)) > 1:
        rest, places = rest // shared, places + 1
    if rest != 1:
        return str(value)
    digits = str(abs(value * 10**places).numerator).rjust(places + 1, "0")
    point = len(digits) - places
    return "-" * (value < 0) + digits[:point] + "." * bool(places) + digits[point:]


_LEADING_LETTER = re.compile(r"\s*[(\[]?([A-Za-z])(?:[)\].:]|\s*$)")
_NO_ARTICLE = r"(?!(?<=[Aa])[ ](?!(?:is|was|and|or|because|since)\b)\w|(?<=I)[ ]\w)"
_LETTER = re.compile(
    rf"""(?<!\w)[(\[]\s?([A-Za-z])\s?[)\]]
    | \b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)[ ]([A-Za-z])(?![\w'’-]){_NO_ARTICLE}
    | (?<![\w.&+°-])(?<!\w['’])([A-Z])(?![\w&+\#°]|['’]\w|-\w|\.\w){_NO_ARTICLE}""",
    re.VERBOSE,
)
_SMALL_LETTER = re.compile(r"[\s\"'*$:]*([a-z])(?:[.):,\"'*$]|\s*$)")


def _choice(text: str, letters: str, first: bool) -> str | None:
    """The first or last of the option `letters` that `text` names.

    Accepted forms are "(b)", "option b", "B" alone or before its text ("B: ball", "B ball"), and directly after a marker
    "b" or "b.". Ignored are a letter inside a word or a name, an initial ("J. B."), the article A, the pronoun I, and a
    denied letter ("not (A)", "(A) is wrong"). The text of an option without its letter is not an answer.
    """
    if first and (small := _SMALL_LETTER.match(text)) and small[1].upper() in letters:
        return small[1].upper()
    matches = list(_LETTER.finditer(text))
    for match in matches if first else reversed(matches):
        letter = match[match.lastindex or 0].upper()
        if letter in letters and not _denied(text, match):
            return letter
    return None


_JUDGEMENTS = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
_JUDGEMENT = re.compile(
    r"""\b(?:yes(?:\sor\s|/)no|true(?:\sor\s|/)false)\b     # names both choices
    | (?:(?P<not>(?:\bnot|n['’]t|\bcan(?:not|['’]t)\sbe)\s(?:an?\s|the\s)?["'“‘*]{0,3})|(?<![\w-]))
      (?:(?P<yes>yes)(?![\w-])
      | (?P<no>no)(?![\w-]|\.?\s?[0-9]|[ ](?!because\b|since\b|as\b|it\b)\w)
      | (?P<truth>true|false)(?![\w-]|[ ](?!that\b|because\b|since\b|as\b)\w))""",
    re.VERBOSE | re.IGNORECASE,
)
_FLAT_NO = re.compile(r"\W*no(?![\w-]|\sone\b)", re.IGNORECASE)


def _yes_no(text: str, _: str, first: bool) -> str | None:
    """The first or last yes, no, true or false of `text`, as "yes" or "no"; "not yes" and "not true" are no,
    "not no" and "not false" are yes.

    Ignored are parts of words (know, yesterday), "no" before a word ("no one", "no evidence") unless it directly follows
    a marker or precedes a reason ("no because"), "No. 5", a descriptive true ("a true story"), and "yes or no".
    """
    if first and _FLAT_NO.match(text):
        return "no"
    matches = [match for match in _JUDGEMENT.finditer(text) if match["yes"] or match["no"] or match["truth"]]
    if not matches:
        return None
    match = matches[0 if first else -1]
    word = _JUDGEMENTS[(match["yes"] or match["no"] or match["truth"]).lower()]
    return {"yes": "no", "no": "yes"}[word] if match["not"] else word


_QUOTES = str.maketrans({**dict.fromkeys("“”„«»", '"'), **dict.fromkeys("‘’`´", "'")})
_QUOTED = re.compile(r"""\"([^"\n]*)\"|(?<!\w)'([^'\n]*)'(?!\w)""")
_SENTENCE_END = re.compile(r"(?<!\b\w)(?<!\b(?:St|Mr|Ms|Dr|Jr|Sr))(?<!\bMrs)[.!?]\s")
_LEADS_IN = re.compile(r"[:=]|\b(?:is|are|be|get|us|gives|have|form)\b")


def _text(text: str, _: str, first: bool) -> str | None:
    """The text directly after a marker, or the text that the last words of `text` introduce.

    After a marker: the quoted string that follows, or the first sentence of the first line. Without a marker: the last
    line if it is one word; else the quoted string or the first sentence after the last lead-in (":", "=", "is",
    "we get", ...); else the last quoted string; else the last word.
    """
    text = text.translate(_QUOTES).strip()
    if first:
        return _phrase(text, _QUOTED.match)
    last_line = text[text.rfind("\n") + 1 :]
    if len(last_line.split()) == 1 and (word := _plain_text(last_line)):
        return word
    for part in _after_each(_LEADS_IN, text):
        if phrase := _phrase(part, _QUOTED.search):
            return phrase
    quoted = [match for match in _QUOTED.finditer(text) if _plain_text(match[0])]
    return _plain_text(quoted[-1][0] if quoted else text[text.rfind(" ") + 1 :])


def _phrase(text: str, find_quoted: Callable[[str], re.Match[str] | None]) -> str | None:
    """The quoted string that `find_quoted` finds in the first line of `text`, else the first sentence of that line."""
    line = text.strip(" \t\n*:-").partition("\n")[0]
    quoted = find_quoted(line)
    return _plain_text(quoted[0] if quoted else _SENTENCE_END.split(line, maxsplit=1)[0])


def _plain_text(text: str) -> str | None:
    """`text` in lower case without quotes, dots and spaces (Mentor-KD, reference code); None if nothing remains."""
    plain = unicodedata.normalize("NFC", text).translate(_QUOTES)
    plain = re.sub(r"[\s\"'.]+", "", plain).strip("*_,;:!?()[]{}$").casefold()
    return unicodedata.normalize("NFC", plain) or None  # a letter may now stand beside a mark that a dot kept apart


_FINDERS: dict[AnswerKind, Callable[[str, str, bool], str | None]] = {
    "number": _number,
    "choice": _choice,
    "yes_no": _yes_no,
    "text": _text,
}
