"""Tables as text: Markdown, CSV and LaTeX, and the report's exports in these forms."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mentorkd.reporting.schema import Results

LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{c: f"${c}$" for c in "<>|"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "–": "--",
    "−": "$-$",
    "✓": r"\checkmark",
}


TEST = (
    *("standard_error", "freedom", "factor", "scatter", "detectable"),
    *("p_value", "p_adjusted", "family", "corrected_for"),
)
"""Columns of a test."""


def plain_markdown(text: str) -> str:
    """Text on one line, escaped so that it makes no tag, code, emphasis, link or table cell."""
    return re.sub(r"([\\`*|]|<(?=[A-Za-z/!?])|(?<=\])\()", r"\\\1", " ".join(text.split()))


def markdown_table(rows: Sequence[dict[str, str]]) -> str:
    """Rows with equal keys as a Markdown table of plain text."""
    if not rows:
        return ""
    cells = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(map(plain_markdown, row)) + " |" for row in cells)


def csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with equal keys as CSV; None is an empty cell."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def latex_table(rows: Sequence[Mapping[str, str]], left: int) -> str:
    """Rows with equal keys as a booktabs table for a paper; the first `left` columns are left-aligned."""
    head, *body = [
        " & ".join("".join(LATEX.get(character, character) for character in cell) for cell in row) + r" \\"
        for row in [list(rows[0]), *(list(row.values()) for row in rows)]
    ]
    begin = rf"\begin{{tabular}}{{{'l' * left + 'r' * (len(rows[0]) - left)}}}"
    return "\n".join([begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""])


def learners_csv(results: Results) -> str:
    """One row for each learner and seed, accuracies as shares at full precision."""
    columns = ("seed", "questions", "correct", "no_answer", "cut", "accuracy", "low", "high")
    swept = dict.fromkeys(key for learner in results["learners"] for key in learner["swept"])
    return csv_table(
        [
            {"learner": learner["name"], "model": learner["model"]}
            | _cells(row, columns)
            | {"on_test": learner["on_test"], **{key: learner["swept"].get(key) for key in swept}}
            for learner in results["learners"]
            for row in learner["per_seed"]
        ]
    )


def comparisons_csv(results: Results) -> str:
    """One row for each pair, shares at full precision."""
    columns = ("a", "b", "difference", "low", "high", *TEST, "only_a", "only_b", "questions", "seeds", "outcome")
    more = ("unmatched", "on_test")
    return csv_table([_cells({**row, "seeds": len(row["seeds"])}, (*columns, *more)) for row in results["comparisons"]])


def decomposition_csv(results: Results) -> str:
    """One row for each part of each decomposition, shares at full precision."""
    columns = ("part", "gain", "low", "high", *TEST, "shown", "arms", "on_test")
    return csv_table(
        [
            {"model": decomposition["model"]}
            | _cells({**part, "arms": " ".join(f"{w:+d}*{name}" for name, w in part["arms"].items())}, columns)
            for decomposition in results["decompositions"]
            for part in decomposition["parts"]
        ]
    )


def _cells(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """The columns of a row; `low` and `high` are the ends of its interval."""
    cells = {**row, "low": row["interval"][0], "high": row["interval"][1]}
    return {name: cells[name] for name in columns}
