"""The table of learners in the forms people paste: rows of text, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from mentorkd.reporting.schema import Bounds, LearnerResult, Results

__all__ = [
    "format_share",
    "learner_rows",
    "learners_csv",
    "learners_latex",
    "learns_from",
    "markdown_table",
    "plain_markdown",
    "summary_rows",
]

LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


def format_share(share: float | None, bounds: Bounds | None = None) -> str:
    """`82.7`, or `82.7 [77.2, 87.0]`, in per cent; a dash for what is not known."""
    if share is None:
        return "–"
    text = f"{100 * share:.1f}"
    return f"{text} [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]" if bounds else text


def learns_from(learner: LearnerResult) -> str:
    """`teacher, mentor + soft labels of mentor`."""
    text = ", ".join(learner["rationales"])
    return f"{text} + soft labels of {learner['soft_labels']}" if learner["soft_labels"] else text


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
            "accuracy % [95 %]": format_share(learner["accuracy"], learner["interval"])
            + (" (TEST)" if learner["select_on"] == "test" and learner["per_seed"] else ""),
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


def learners_csv(results: Results) -> str:
    """One row for each learner and seed, accuracies as shares at full precision."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["learner", "model", "seed", "questions", "correct", "no_answer", "cut", "accuracy", "low", "high"])
    for learner in results["learners"]:
        for row in learner["per_seed"]:
            counts = [
                row["seed"],
                row["questions"],
                row["correct"],
                row["no_answer"],
                row["cut"],
                row["accuracy"],
                *row["interval"],
            ]
            writer.writerow([learner["name"], learner["model"], *counts])
    return file.getvalue()


def learners_latex(results: Results) -> str:
    """The table of learners for a paper that uses booktabs."""
    rows = learner_rows(results)
    lines = [
        [re.sub(r"[\\&%$#_{}~^]", lambda m: LATEX[m[0]], cell) for cell in row]
        for row in [list(rows[0]), *map(dict.values, rows)]
    ]
    body = [" & ".join(line).replace("±", r"$\pm$").replace("–", "--") + r" \\" for line in lines]
    columns = "l" * 3 + "r" * (len(rows[0]) - 3)
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
