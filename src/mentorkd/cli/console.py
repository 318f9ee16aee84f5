"""What the command line shows: progress bars, notes and tables, or JSON lines, or nothing."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from mentorkd.pipeline import records
from mentorkd.pipeline.run import Reporter
from mentorkd.pipeline.run_folder import Stage
from mentorkd.pipeline.shards import whole_name
from mentorkd.printable import printable
from mentorkd.records import Verdict

# Redrawing costs time that small models would rather train in.
_REDRAWS_PER_SECOND = 4
_WIDEST = 1000
_NAMED = 6
"""The most stages that a message names; it counts the others."""


def say(text: str, *, error: bool = False) -> None:
    """Print a line on stdout, or on stderr. Every command prints through here, `show_table` or `show_json`."""
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=True)


def show_json(value: Any) -> None:
    """Print the result of a command as one line of JSON."""
    say(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str))


class ConsoleReporter(Reporter):
    """Shows a live bar for each running stage and prints a line for each finished one. With `quiet` it shows notes alone."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, emoji=False)
        self.quiet = quiet
        self._bars: Progress | None = None
        self._rows: dict[str, tuple[TaskID, str]] = {}
        self._drawn: dict[str, float] = {}
        self._skipped = 0

    def checking(self) -> None:
        """Show that models are being checked, until the first stage starts. It takes seconds, mostly for imports."""
        self._open_bars().add_task("checking models and engines", total=None)

    def replacing(self, stages: Sequence[Stage]) -> None:
        self.console.print(f"[yellow]![/yellow] {escape(replaced([stage.name for stage in stages]))}", soft_wrap=True)

    def started(self, stage: Stage, number: int, total: int) -> None:
        self._show_skipped()
        bars = self._open_bars()
        if not self._rows:
            for row in bars.task_ids:
                bars.remove_task(row)
        place = f"[dim]{number:>2}/{total}[/dim]"
        self._rows[stage.name] = bars.add_task(f"{place} {_safe(stage.name)}", total=None), place

    def _open_bars(self) -> Progress:
        if self._bars is None:
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("[dim]left[/dim]"),
                TimeRemainingColumn(),
                console=self.console,
                refresh_per_second=_REDRAWS_PER_SECOND,
                transient=True,
                disable=self.quiet or not self.console.is_terminal,
            )
            self._bars.start()
        return self._bars

    def progress(self, stage: Stage, done: int, total: int) -> None:
        if self._bars is None:
            return
        now = time.monotonic()
        if done >= total or now - self._drawn.get(stage.name, 0.0) > 1 / _REDRAWS_PER_SECOND:
            self._drawn[stage.name] = now
            self._bars.update(self._rows[stage.name][0], completed=done, total=total)

    def finished(self, stage: Stage, record: records.StageRecord) -> None:
        row, place = self._rows.pop(stage.name)
        if self._bars is not None:
            self._bars.remove_task(row)
        if not self._rows:
            self.close()
        if not self.quiet:
            line = f"[green]✓[/green] {place} {_safe(stage.name):<34} {_describe(record)}"
            self.console.print(line, soft_wrap=True)
            if isinstance(record, records.TrainRecord) and record.own_texts is not None:
                self.console.print(f"[dim]      {_measures(record.own_texts)}[/dim]", soft_wrap=True)

    def skipped(self, stage: Stage) -> None:
        self._skipped += 1

    def note(self, text: str, stage: Stage | None) -> None:
        self.console.print(f"[yellow]![/yellow] {_safe(text)}", soft_wrap=True)

    def close(self) -> None:
        """Take the live bars off the screen."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        self._rows.clear()
        self._show_skipped()

    def _show_skipped(self) -> None:
        if self._skipped and not self.quiet:
            self.console.print(f"[dim]· {self._skipped} finished stages kept[/dim]")
            self._skipped = 0


class JsonReporter(Reporter):
    """Writes one JSON object a line to stderr for each event."""

    def checking(self) -> None:
        self._emit(event="checking")

    def replacing(self, stages: Sequence[Stage]) -> None:
        self._emit(event="replacing", stages=[stage.name for stage in stages])

    def started(self, stage: Stage, number: int, total: int) -> None:
        self._emit(event="started", stage=stage.name, number=number, total=total)

    def finished(self, stage: Stage, record: records.StageRecord) -> None:
        self._emit(event="finished", **record.as_json())

    def skipped(self, stage: Stage) -> None:
        self._emit(event="skipped", stage=stage.name)

    def note(self, text: str, stage: Stage | None) -> None:
        self._emit(event="note", stage=None if stage is None else stage.name, text=text)

    def _emit(self, **fields: Any) -> None:
        say(json.dumps(fields, ensure_ascii=False), error=True)


class _Warnings(logging.Handler):
    """Shows warnings as notes of a reporter."""

    def __init__(self, reporter: ConsoleReporter | JsonReporter) -> None:
        super().__init__(logging.WARNING)
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        self._reporter.note(record.getMessage(), None)


@contextmanager
def open_reporter(*, quiet: bool, as_json: bool) -> Iterator[ConsoleReporter | JsonReporter]:
    """The reporter of a command. While it is open, it also shows what the package's loggers warn of."""
    reporter = JsonReporter() if as_json else ConsoleReporter(quiet=quiet)
    logger, handler = logging.getLogger("mentorkd"), _Warnings(reporter)
    logger.addHandler(handler)
    try:
        with closing(reporter):
            yield reporter
    finally:
        logger.removeHandler(handler)


def replaced(stages: Sequence[str]) -> str:
    """A line for the user about finished results that other settings replace."""
    return (
        f"replaces finished results of other settings: {_named(stages)}; to keep them, give another folder with --run"
    )


def run_again(stages: Sequence[str], why: str) -> str:
    """A line for the user about finished results that an earlier version made wrong."""
    return f"replaces finished results of an earlier version: {_named(stages)} ({why})"


def _named(stages: Sequence[str]) -> str:
    """The first of the stages, each with all of its shards as one."""
    stages = list(dict.fromkeys(map(whole_name, stages)))
    return ", ".join(stages[:_NAMED]) + (f" and {len(stages) - _NAMED:,} more" if len(stages) > _NAMED else "")


def _safe(text: str) -> str:
    """Text for rich, without control characters and without markup of its own."""
    return escape(printable(text))


def _describe(record: records.StageRecord) -> str:
    """The results of a finished stage, in a few words."""
    parts: list[str] = []
    match record:
        case records.PrepareRecord():
            parts.append(", ".join(f"{count} {split}" for split, count in record.questions.items()))
        case records.AnnotateRecord():
            parts.append(_verdicts(record.rationales, "rationales"))
            if (asked := record.asked) is not None:
                parts.append(f"{asked.requests:,} requests, {asked.cached:,} from the cache")
                parts.append(f"{asked.input_tokens:,} + {asked.output_tokens:,} tokens")
                if asked.dollars is not None:
                    from mentorkd.reporting.format import format_dollars  # loads numpy

                    parts.append(format_dollars(asked.dollars))
        case records.CurateRecord():
            parts.append(_verdicts(record.rationales, "rationales"))
            parts.append(f"{record.rejected:,} rejected, {record.edited:,} edited")
        case records.BudgetRecord():
            units = {"updates": "updates", "tokens": "target tokens", "compute": "floating-point operations"}
            number = f"{record.number:.3g}" if record.match == "compute" else f"{record.number:,}"
            parts.append(f"{number} {units[record.match]} for each of {len(record.arms)} arms")
        case records.TrainRecord():
            parts.append(f"{record.encoding.kept} rows, {record.updates} updates")
            if record.plateau is not None:
                parts.append(record.plateau.text)
            if isinstance(record, records.SearchRecord):
                chosen = ", ".join(f"{key} {value:g}" for key, value in record.search.chosen.items())
                parts.append(f"best of {len(record.search.tried)}: {chosen}")
            if record.rounds:
                first, last = record.rounds[0].number, record.rounds[-1].number
                parts.append(f"best of rounds {first} to {last}: {records.best_round(record.rounds).number}")
            if record.own_texts is not None:
                parts.append(_verdicts(record.own_texts.verdicts, "own texts"))
            if record.validation_accuracy is not None:
                parts.append(f"validation {100 * record.validation_accuracy:.1f} %")
        case records.ScoreRecord():
            parts.append(f"{record.rows} rows, {_chunks(record)}{record.bytes / 2**20:.1f} MB")
        case records.AugmentRecord():
            parts.append(_verdicts(record.rationales, "rationales"))
        case records.EvaluateRecord() | records.SampleRecord():
            parts.append(_verdicts(record.predictions, "predictions"))
    return " · ".join([*parts, f"{record.seconds:.1f} s"])


def _chunks(scored: records.ScoreRecord) -> str:
    """The chunks of a store, and how many of them have no likelihood; nothing for stores of distributions."""
    if scored.chunks is None:
        return ""
    unlabelled = f" ({scored.unlabelled_chunks:,} without a likelihood)" if scored.unlabelled_chunks else ""
    return f"{scored.chunks:,} chunks{unlabelled}, "


def _measures(own: records.OwnTexts) -> str:
    """What a learner's texts of a round are like, and how the training changed it on them: writer → trained."""
    known = own.writer_kl is not None and own.trained_kl is not None
    kl = [f"KL to the mentor {own.writer_kl:.3f} → {own.trained_kl:.3f}"] if known else []
    overlap = [] if own.overlap is None else [f"overlap {100 * own.overlap:.0f} %"]
    length = f"{own.mean_tokens:.0f} tokens", f"{100 * own.unfinished:.0f} % no end"
    entropy = f"entropy {own.writer_entropy:.3f} → {own.trained_entropy:.3f}"
    return " · ".join([*length, *kl, entropy, *overlap, f"staleness {own.staleness:.3f}"])


def _verdicts(counts: Mapping[Verdict, int], noun: str) -> str:
    total, ungraded = sum(counts.values()), counts.get("ungraded", 0)
    graded = total - ungraded
    of = f" of {graded} graded" if ungraded else ""
    share = f" ({100 * counts['correct'] / graded:.1f} %{of} correct)" if graded else ""
    return f"{total} {noun}{share}"


def show_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, whole: bool = False, numbers: bool = True
) -> None:
    """Print a table; the first column is text, and the others are if they are not `numbers`.

    Cells are folded to the terminal's width. With `whole` they are not, so that they can be copied.
    """
    table = Table(title=_safe(title), title_justify="left", header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(_safe(column), justify="right" if number and numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(highlight=False, emoji=False, width=_WIDEST if whole else None).print(table)


def show_across(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows with many cells as columns of a table, under their first cells."""
    first, *others = rows[0]
    show_table(title, [first, *(row[first] for row in rows)], [[cell, *(row[cell] for row in rows)] for cell in others])


def show_results(report: Path, as_json: bool) -> None:
    """Print the results of a report folder: the learners, the warnings and the verdict; as JSON, all of them."""
    from mentorkd.reporting.rows import sampled_rows, summary_rows
    from mentorkd.reporting.views import control_lines
    from mentorkd.reporting.write import read_results

    results = read_results(report)
    if as_json:
        show_json(results)
        return
    # A report of an earlier version has no samples.
    sampled = sampled_rows(results) if results.get("sampled") else []
    if rows := summary_rows(results):
        show_table(results["name"], list(rows[0]), [list(row.values()) for row in rows])
    if sampled:
        show_across("votes and pass@k", sampled)
    for warning in results["warnings"]:
        say(f"! {warning}")
    say(results["headline"]["statement"])
    for line in control_lines(results):
        say(line)
    say(f"report: {report / 'index.html'}")


def ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers in short: 1, 2, 3, 5 is `1-3, 5`."""
    groups = groupby(enumerate(numbers), key=lambda item: item[1] - item[0])
    runs = [[number for _, number in group] for _, group in groups]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
