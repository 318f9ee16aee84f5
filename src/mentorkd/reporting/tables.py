"""The table of learners in the forms people paste: rows of text, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mentorkd.reporting.format import format_share, learns_from, marked
from mentorkd.reporting.schema import Results

__all__ = [
    "comparisons_csv",
    "csv_table",
    "decomposition_csv",
    "latex_table",
    "learner_rows",
    "learners_csv",
    "learners_latex",
    "markdown_table",
    "plain_markdown",
    "summary_rows",
]

LATEX = (
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {c: f"${c}$" for c in "<>|"}
    | {
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
    }
)


def summary_rows(results: Results) -> list[dict[str, str]]:
    """What fits a terminal: one mapping a learner, column heading -> text; the keys are the same in every row."""
    wide = ("model", "learns from", "± over seeds")
    return [{name: text for name, text in row.items() if name not in wide} for row in learner_rows(results)]


def learner_rows(results: Results) -> list[dict[str, str]]:
    """The whole table of learners, in the form of `summary_rows`."""
    return [
        {
            "learner": learner["name"],
            "model": learner["model"],
            "learns from": learns_from(learner),
            "accuracy % [95 %]": marked(
                format_share(learner["accuracy"], learner["interval"]), learner["on_test"] and bool(learner["per_seed"])
            ),
            "± over seeds": format_share(learner["standard_error"]),
            "no answer %": format_share(learner["no_answer"]),
            "cut %": format_share(learner["cut"]),
            "tokens/answer": "–" if learner["tokens_per_answer"] is None else f"{learner['tokens_per_answer']:.0f}",
        }
        for learner in results["learners"]
    ]


def plain_markdown(text: str) -> str:
    """Text on one line that makes no tag, code, emphasis, link or table cell."""
    return re.sub(r"([\\`*|]|<(?=[A-Za-z/!?])|(?<=\])\()", r"\\\1", " ".join(text.split()))


def markdown_table(rows: Sequence[dict[str, str]]) -> str:
    """Rows with equal keys as a Markdown table of plain text."""
    if not rows:
        return ""
    cells = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(map(plain_markdown, row)) + " |" for row in cells)


def csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with equal keys as CSV; null is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(list(rows[0]) if rows else [])
    writer.writerows([["" if cell is None else cell for cell in row.values()] for row in rows])
    return file.getvalue()


def latex_table(rows: Sequence[Mapping[str, str]], left: int) -> str:
    """Rows with equal keys for a paper that uses booktabs; the first `left` columns are set left."""
    lines = [
        [re.sub(r"[\\&%$#_{}~^<>|]", lambda m: LATEX[m[0]], cell) for cell in row]
        for row in [list(rows[0]), *(list(row.values()) for row in rows)]
    ]
    body = [_symbols(" & ".join(line)) + r" \\" for line in lines]
    columns = "l" * left + "r" * (len(rows[0]) - left)
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            body[0],
            r"\midrule",
            *body[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _symbols(text: str) -> str:
    for sign, command in {"±": r"$\pm$", "–": "--", "−": "$-$", "✓": r"\checkmark"}.items():
        text = text.replace(sign, command)
    return text


def learners_csv(results: Results) -> str:
    """One row for each learner and seed, accuracies as shares at full precision."""
    told = ("seed", "questions", "correct", "no_answer", "cut", "accuracy")
    return csv_table(
        [
            {"learner": learner["name"], "model": learner["model"]}
            | {name: row[name] for name in told}  # type: ignore[literal-required]
            | {"low": row["interval"][0], "high": row["interval"][1], "on_test": learner["on_test"]}
            | {key: learner["swept"].get(key) for key in _swept(results)}
            for learner in results["learners"]
            for row in learner["per_seed"]
        ]
    )


def _swept(results: Results) -> list[str]:
    return list(dict.fromkeys(key for learner in results["learners"] for key in learner["swept"]))


def comparisons_csv(results: Results) -> str:
    """One row for each pair, shares at full precision."""
    told = ["a", "b", "difference", "p_value", "p_adjusted", "corrected_for", "detectable", "inflation"]
    told += ["only_a", "only_b", "questions"]
    return csv_table(
        [
            {name: row[name] for name in told}  # type: ignore[literal-required]
            | {"low": row["interval"][0], "high": row["interval"][1], "seeds": len(row["seeds"])}
            | {"outcome": row["outcome"], "on_test": row["on_test"]}
            for row in results["comparisons"]
        ]
    )


def decomposition_csv(results: Results) -> str:
    """One row for each part of each decomposition, shares at full precision."""
    return csv_table(
        [
            {"model": found["model"], "part": part["part"], "gain": part["gain"]}
            | {"low": part["interval"][0], "high": part["interval"][1]}
            | {"p": part["p"], "shown": part["shown"]}
            | {"arms": " ".join(f"{weight:+d}*{name}" for name, weight in part["arms"].items())}
            | {"on_test": part["on_test"]}
            for found in results["decompositions"]
            for part in found["parts"]
        ]
    )


def learners_latex(results: Results) -> str:
    """The table of learners for a paper."""
    return latex_table(learner_rows(results), 3)
