"""report.md: the same findings as the page, as Markdown that pastes well into a repository."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mentorkd.reporting.schema import Results
from mentorkd.reporting.schema_details import Example
from mentorkd.reporting.sections import (
    decomposition_rows,
    fairness_rows,
    pair_note,
    pair_rows,
    soft_label_rows,
    spent_rows,
    sweep_rows,
    trial_rows,
)
from mentorkd.reporting.tables import learner_rows, markdown_table, plain_markdown
from mentorkd.reporting.views import (
    cost_rows,
    cut_lines,
    dropped_lines,
    funnel_notes,
    funnel_rows,
    manifest_rows,
    settings_rows,
    shared_settings,
    teacher_rows,
)

__all__ = ["METHOD", "SOFT_LABELS", "SPENT", "render_markdown"]

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
            markdown_table(pair_rows(results)),
            f"Points = percentage points of accuracy. {METHOD} {pair_note(results)}".rstrip(),
        ]
    for found in results["decompositions"]:
        parts += [
            f"## Where the gain comes from: {plain_markdown(found['model'])}",
            f"{plain_markdown(found['statement'])}.",
            markdown_table(decomposition_rows(found)),
            *(f"Not told: {plain_markdown(line)}." for line in found["missing"]),
        ]
    parts += [f"![{title}]({file})" for title, file in plots.items()]
    for title, rows, note in (
        ("Sweep", sweep_rows(results), ""),
        ("Search", trial_rows(results), "Settings tried, on validation questions alone."),
        ("Equal terms", fairness_rows(results), "How long each arm was trained, and how often it could be chosen."),
        ("Settings", settings_rows(results), _shared(results)),
        ("Rationales through the filters", funnel_rows(results), plain_markdown(" ".join(funnel_notes(results)))),
        ("Soft labels", soft_label_rows(results), SOFT_LABELS),
        ("Cost of a learner", spent_rows(results), SPENT),
        ("Cost of the stages", cost_rows(results), ""),
    ):
        if rows:
            parts += [f"## {title}", markdown_table(rows), *([note] if note else [])]
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


SOFT_LABELS = (
    "Mentor and trained student on the same target tokens, a sample of the student's training rows; nats per token at "
    "temperature 1."
)

SPENT = (
    "Mean over seeds. What a learner stands on (the teacher's rationales, its mentors' training, writing and scoring) is "
    "counted in full, as if it were made for this learner alone."
)


def _shared(results: Results) -> str:
    """The settings that no learner has for itself, in a line."""
    told = ", ".join(f"{name} {value}" for name, value in shared_settings(results).items())
    return plain_markdown(f"The same for all trained learners: {told}.") if told else ""


METHOD = (
    "Interval: paired bootstrap over questions, all seeds of a question together. p: exact sign-flip test over "
    "questions (McNemar's with one seed). Both are widened where seeds disagree."
)


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
