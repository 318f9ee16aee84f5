"""report.md: the content of the page as Markdown for repositories and issues."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mentorkd.reporting import rows, views
from mentorkd.reporting.own_texts import TIME, round_notes, round_tables, round_time_rows
from mentorkd.reporting.schema import Example, Results
from mentorkd.reporting.tables import markdown_table, plain_markdown

FEW = 5
"""Number of examples of each kind."""

METHOD = (
    "Interval and p: Student's t over questions, each with all its seeds; the standard error grows where seeds disagree. Scatter: "
    "standard deviation of the difference from seed to seed, in points, with the range that these seeds allow."
)


def render_markdown(results: Results, plots: Mapping[str, str]) -> str:
    """The report; `plots` maps a title to the path of its file, relative to the report."""
    task = results["task"]
    seeds = ", ".join(map(str, results["seeds"]))
    parts = [
        f"# {plain_markdown(results['name'])}",
        f"Task {plain_markdown(task['name'])} ({task['kind']} answers): {task['train']} training, {task['validation']} "
        f"validation, {task['test']} test questions. Seeds: {seeds}.",
        *(f"> **WARNING.** {plain_markdown(line)}" for line in results["warnings"]),
        f"**{plain_markdown(results['headline']['statement'])}.**",
        *(f"{plain_markdown(line)}." for line in views.control_lines(results)),
        "## Learners",
        markdown_table(rows.learner_rows(results)),
        "Accuracy on the test questions, mean over seeds, with Wilson's 95 % interval. Cut: answers truncated at "
        "max_new_tokens.",
        *map(plain_markdown, views.cut_lines(results)),
    ]
    if results["comparisons"]:
        parts += [
            "## Comparisons",
            markdown_table(rows.pair_rows(results)),
            f"Points: percentage points of accuracy. Detectable: minimum detectable effect at 80 % power, in points. {METHOD} "
            f"{views.pair_note(results)}".rstrip(),
        ]
    for decomposition in results["decompositions"]:
        parts += [
            f"## Where the gain comes from: {plain_markdown(decomposition['model'])}",
            f"{plain_markdown(decomposition['statement'])}.",
            markdown_table(rows.decomposition_rows(decomposition)),
            *(f"Not estimated: {plain_markdown(line)}." for line in decomposition["missing"]),
        ]
    parts += [f"![{title}]({file})" for title, file in plots.items()]
    shared = ", ".join(f"{name} {value}" for name, value in rows.shared_settings(results).items())
    for title, table, note in (
        ("Votes and pass@k", rows.sampled_rows(results), views.SAMPLED),
        ("Sweep", rows.sweep_rows(results), ""),
        ("Search", rows.trial_rows(results), "Settings tried, on validation questions only."),
        (
            "Fairness",
            rows.fairness_rows(results),
            "Length of training of each arm, and number of validations to select from.",
        ),
        ("Settings", rows.settings_rows(results), f"Equal for all trained learners: {shared}." if shared else ""),
        ("Rationales after each filter", rows.funnel_rows(results), " ".join(views.funnel_notes(results))),
        ("Soft labels", rows.soft_label_rows(results), views.SOFT_LABELS),
        ("Cost of a learner", rows.learner_cost_rows(results), views.COSTS),
        ("Cost of the stages", rows.cost_rows(results), ""),
    ):
        if table:
            parts += [f"## {title}", markdown_table(table), *([plain_markdown(note)] if note else [])]
    parts += _own_texts(results)
    parts += _listed(
        "The teacher", [f"{name}: {text}" for name, text in rows.teacher_rows(results["run"]["teacher"]).items()]
    )
    parts += _listed("Dropped training rows", views.dropped_lines(results))
    parts += _listed("Faults in the data", results["faults"])
    for examples in (results["differing"], results["written"]):
        if examples["entries"]:
            parts += [
                f"## {examples['title']}",
                f"{plain_markdown(examples['note'])} The first {min(FEW, len(examples['entries']))}:",
            ]
            parts += [_example(example) for example in examples["entries"][:FEW]]
    parts += _listed("Protocol", results["protocol"])
    parts += _listed("This run", [f"{name}: {value}" for name, value in rows.manifest_rows(results)])
    return "\n\n".join(parts) + "\n"


def _own_texts(results: Results) -> list[str]:
    tables = round_tables(results)
    parts = _listed("Own texts", round_notes(tables))
    for name, table in tables.items():
        parts += [f"### Rounds of {plain_markdown(name)}", markdown_table(table)]
    return parts + ([TIME, markdown_table(times)] if (times := round_time_rows(results)) else [])


def _listed(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "\n".join(f"- {plain_markdown(line)}" for line in lines)] if lines else []


def _example(example: Example) -> str:
    parts = [f"**Question** (answer {plain_markdown(example['answer'])})", _fenced(example["question"])]
    for answer in example["answers"]:
        grade = "no answer" if answer["predicted"] is None else f"{answer['predicted']}, {answer['verdict']}"
        parts += [f"*{plain_markdown(answer['source'])}*: {plain_markdown(grade)}", _fenced(answer["text"])]
    return "\n\n".join(parts)


def _fenced(text: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"
