"""List the wordings that user-facing text should not contain, as `file:line: phrase: the line`.

    python scripts/check_words.py                     # README, changelog, docs, recipes, benchmarks and src/mentorkd
    python scripts/check_words.py README.md docs      # these files and folders only

It reads Markdown, comments of YAML files, Jinja templates, and the strings and docstrings of Python files (not their comments). In Python
files it also looks for private names. It prints nothing and exits with 0 when the text is clean, otherwise it exits with 1.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs", "recipes", "benchmarks", "src/mentorkd")
OLD_NAMES = "src/mentorkd/recipe/aliases.py"
"""The file that maps names of earlier versions; it may contain those of filters."""
GENERATED = (
    "docs/results/decomposition/",
    "docs/results/any-tokenizer/",
    "docs/results/own-texts/",
    "docs/results/self-taught/",
    "docs/results/quickstart/",
    "docs/results/training-length/",
    "src/mentorkd/quickstart/problems.py",
)
"""Committed pages of one run, and the word problems of the quickstart: data, not prose."""

DIGITS = (
    r"(?:\d[\d.,]*|(?:two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|thirty|forty|fifty|sixty|hundred)\b)"
)
PHRASES = re.compile(
    "|".join(
        (
            r"\bof whose\b",
            r"\banew\b",
            r"\bcomes? to\b(?! (?:a|an) (?:stop|halt|end)\b)",
            r"\b(?:go|goes|going|gone|went) on with\b",
            r"\b(?:is|are|was|were|be|been|being) (?:(?:not|never|also|only|all|then) )?told\b(?! apart)",
            r"\bso many\b(?!(?: \w+){1,6} that\b)",
            r"\blikewise\b",
            rf"\bsome {DIGITS}",
            r"\bpupils?\b",
            # "distributions, which `hidden_states` has not", but not "which the student has not seen"
            r"\bwhich (?:[\w`'./-]+ ){1,4}(?:has|have|had) not(?=[.,;:)]|$)",
            r"\bcould have seen\b",
            r"\b(?:rationales|samples|replies|questions|rows|answers) (?:is|are|were) there\b",
            r"\bof each [\w`]+ there (?:is|are)\b",
            r"\b(?:is|are) to be (?:made|done)\b",
            r"\banswers alike\b",
            r"\bshouted\b",
            # filters under names of earlier versions, except where the text tells of the renaming
            r"\bsteps_check\b",
            r"(?<!was `)\blearnable\b(?!` are called)",
            r"\b(?:Crew|Workbench|PerToken|MentorSide|Pacer|purse|storms|carry_out|head_tap)\b",
        )
    ),
    re.IGNORECASE,
)
NAMES = re.compile(
    r"_*(Breaker|Crew|Encoded|Judge|Lost|MentorSide|Pace|Pacer|PerToken|Workbench|blame_sweep|carry_out|check_steps|hasten"
    r"|head_tap|hold_products_in_bfloat16|idle_settings|judge_of|keep_sound|lack|mentor_side|name_strangers|purse|storms"
    r"|tap_is_exact|tell|told)"
)
"""Private names that have a standard term of the field. A leading underscore does not matter."""


def main(roots: list[str]) -> int:
    findings = [finding for root in roots or ROOTS for file in files_in(ROOT / root) for finding in check(file)]
    print(*dict.fromkeys(findings), sep="\n", end="\n" if findings else "")
    return 1 if findings else 0


def files_in(root: Path) -> list[Path]:
    """The readable files of a root, without generated ones."""
    files = [file for file in ([root] if root.is_file() else sorted(root.rglob("*"))) if file.suffix in READERS]
    if not files:
        sys.exit(f"check_words: {root}: expected a file or folder of {', '.join(READERS)} files, found none")
    return [file for file in files if not file.as_posix().startswith(tuple(f"{ROOT}/{name}" for name in GENERATED))]


def check(file: Path) -> Iterator[str]:
    """The findings of a file, each with the first source line of the text that contains the phrase."""
    source = file.read_text(encoding="utf-8")
    lines = source.splitlines()
    place = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    for phrase, first, last in sorted(READERS[file.suffix](source), key=lambda finding: finding[1]):
        if place.as_posix() == OLD_NAMES and phrase in ("steps_check", "learnable"):
            continue
        start = phrase.split()[0]
        number = next((n for n in range(first, last + 1) if phrase in lines[n - 1]), None)
        number = number or next((n for n in range(first, last + 1) if lines[n - 1].rstrip().endswith(start)), first)
        yield f"{place}:{number}: {phrase}: {lines[number - 1].strip()}"


Finding = tuple[str, int, int]
"""A phrase, and the first and last line of the text around it."""


def phrases(text: str, first: int, last: int) -> Iterator[Finding]:
    """The phrases of a text, also those with a line break inside."""
    yield from ((match.group(), first, last) for match in PHRASES.finditer(" ".join(text.split())))


def in_prose(source: str) -> Iterator[Finding]:
    """Markdown and templates, by paragraph."""
    for paragraph in re.finditer(r"(?:^.*\S.*\n?)+", source, re.MULTILINE):
        first = source.count("\n", 0, paragraph.start()) + 1
        yield from phrases(paragraph.group(), first, first + paragraph.group().rstrip("\n").count("\n"))


def in_yaml(source: str) -> Iterator[Finding]:
    for number, line in enumerate(source.splitlines(), start=1):
        if comment := re.search(r"(?:^|\s)#(.*)", line):
            yield from phrases(comment.group(1), number, number)


def in_python(source: str) -> Iterator[Finding]:
    """Strings, docstrings and names. An f-string is one text, with a mark in the place of each value."""
    parts_of_f_strings = set()
    for node in ast.walk(ast.parse(source)):  # breadth first, so an f-string comes before its parts
        if isinstance(node, ast.JoinedStr):
            parts_of_f_strings |= {id(part) for part in node.values}
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "`value`" for part in node.values)
            yield from phrases(text, node.lineno, node.end_lineno or node.lineno)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts_of_f_strings:
            yield from phrases(node.value, node.lineno, node.end_lineno or node.lineno)
        for field in ("id", "attr", "name", "arg"):
            name = getattr(node, field, None)
            # `file.tell()` is the standard library's.
            if isinstance(name, str) and NAMES.fullmatch(name) and (field, name) != ("attr", "tell"):
                line = getattr(node, "lineno", 1)
                yield name, line, line


READERS = {".md": in_prose, ".jinja": in_prose, ".yaml": in_yaml, ".py": in_python}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
