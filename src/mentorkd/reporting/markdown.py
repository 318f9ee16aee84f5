"""report.md: the same findings as the page, as Markdown that pastes well into a repository."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mentorkd.reporting.schema import Example, Results
from mentorkd.reporting.tables import format_share, learner_rows, markdown_table, plain_markdown
from mentorkd.reporting.views import (
    cost_rows,
    cut_lines,
    dropped_lines,
    format_points,
    funnel_rows,
    manifest_rows,
    settings_rows,
    teacher_rows,
)
from mentorkd.statistics import format_p

__all__ = ["render_markdown"]

FEW = 5


def render_markdown(results: Results, plots: Mapping[str, str]) -> str:
    """The report; `plots` maps a title to the file it is in, relative to the report."""
    task = results["task"]
    seeds = ", ".join(map(str, results["seeds"]))
    parts = [
        f"# {plain_markdown(results['name'])}",
        f"Task {plain_markdown(task['name'])} ({task['kind']} answers): {task['train']} training, {task['validation']} "
        f"validation, {task['test']} test questions. Seeds: {seeds}.",
        *(f"> **WARNING.** {plain_markdown(line)}" for line in results["warnings"]),
        f"**{plain_markdown(results['headline']['statement'])}.**",
        "## Learners",
        markdown_table(learner_rows(results)),
        "Accuracy on the test questions, mean over seeds, with Wilson's 95 % interval. Cut: answers that reached "
        "max_new_tokens.",
        *map(plain_markdown, cut_lines(results)),
    ]
    if results["comparisons"]:
        parts += [
            "## Comparisons",
            markdown_table(_pairs(results)),
            "Points = percentage points of accuracy. " + METHOD,
        ]
    parts += [f"![{title}]({file})" for title, file in plots.items()]
    for title, rows in (
        ("Settings", settings_rows(results)),
        ("Rationales through the filters", funnel_rows(results)),
        ("Cost", cost_rows(results)),
    ):
        if rows:
            parts += [f"## {title}", markdown_table(rows)]
    parts += _listed(
        "The teacher", [f"{name}: {text}" for name, text in teacher_rows(results["run"]["teacher"]).items()]
    )
    parts += _listed("Training rows dropped", dropped_lines(results))
    parts += _listed("Faults found in the data", results["faults"])
    for examples in (results["differing"], results["written"]):
        if examples["entries"]:
            parts += [
                f"## {examples['title']}",
                f"{plain_markdown(examples['note'])} The first {min(FEW, len(examples['entries']))}:",
            ]
            parts += [_example(example) for example in examples["entries"][:FEW]]
    parts += _listed("Protocol", results["protocol"])
    parts += _listed("This run", [f"{name}: {value}" for name, value in manifest_rows(results)])
    return "\n\n".join(parts) + "\n"


METHOD = (
    "Interval: paired bootstrap over questions, all seeds of a question together. p: exact sign-flip test over "
    "questions (McNemar's with one seed), corrected by Holm over all pairs. Both are widened where seeds disagree."
)


def _pairs(results: Results) -> list[dict[str, str]]:
    return [
        {
            "pair": f"{row['a']} − {row['b']}",
            "difference in points [95 %]": format_points(row["difference"])
            + " [{}, {}]".format(*map(format_points, row["interval"])),
            "p": format_p(row["p_adjusted"]),
            "verdict": {"a_better": f"{row['a']} is better", "b_better": f"{row['b']} is better"}.get(
                row["outcome"], "no difference can be shown"
            ),
            "only one right": f"{row['only_a']} : {row['only_b']}",
            "detectable": format_share(row["detectable"]) if row["detectable"] <= 1 else "none",
        }
        for row in results["comparisons"]
    ]


def _listed(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "\n".join(f"- {plain_markdown(line)}" for line in lines)] if lines else []


def _example(example: Example) -> str:
    parts = [f"**Question** (answer {plain_markdown(example['answer'])})", _fenced(example["question"])]
    for answer in example["answers"]:
        found = "no answer" if answer["predicted"] is None else f"{answer['predicted']}, {answer['verdict']}"
        parts += [f"*{plain_markdown(answer['source'])}*: {plain_markdown(found)}", _fenced(answer["text"])]
    return "\n\n".join(parts)


def _fenced(text: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"
