"""A line for every run, cheap enough for a page with hundreds of them: nothing is compiled, and what was read is kept."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mentorkd.errors import MentorkdError
from mentorkd.pipeline.run_folder import RunFolder
from mentorkd.reporting.schema import Results
from mentorkd.reporting.write import read_results
from mentorkd.web.live import RunState


@dataclass(frozen=True)
class RunRow:
    """One run on the page of all runs."""

    run: str
    """Its address."""
    state: RunState
    task: str | None
    learner: str | None
    """The learner of the headline; None without a report, as in the next fields."""
    accuracy: float | None
    baseline: str | None
    difference: float | None
    """Accuracy of the learner minus that of the baseline."""
    interval: list[float] | None
    outcome: str | None
    """a_better, b_better or unclear."""
    headline: str
    """The verdict as a sentence."""
    seconds: float | None
    """Of all finished stages."""
    dollars: float | None
    changed: float
    """When anything last happened, in seconds since 1970."""
    fault: str | None
    """Why the report cannot be read."""


def summarise(run: str, root: Path) -> RunRow:
    """The line of a run."""
    folder, facts, fault = RunFolder(root), {}, None
    try:
        facts = _headline(root / "report", _version(root / "report" / "results.json"))
    except FileNotFoundError:
        pass
    except (MentorkdError, OSError, KeyError, TypeError, IndexError, AttributeError) as error:
        fault = f"the report cannot be read: {error}"
    seconds, dollars = _cost(root / "manifest.json")
    log = root / "log.jsonl"
    changed = (log if log.is_file() else folder.recipe).stat().st_mtime
    empty: dict[str, Any] = dict.fromkeys(
        ("task", "learner", "accuracy", "baseline", "difference", "interval", "outcome")
    )
    return RunRow(
        run=run,
        state=_state(folder),
        seconds=seconds,
        dollars=dollars,
        changed=changed,
        fault=fault,
        **{**empty, "headline": "", **facts},
    )


def _state(folder: RunFolder) -> RunState:
    """The state without the plan: a run without work in progress that has a report is taken to be finished."""
    if folder.is_running():
        return "running"
    if folder.mark("report").is_file() and not folder.work(""):
        return "finished"
    return "stopped" if folder.marks() or folder.work("") else "new"


def _version(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=4096)
def _headline(report: Path, version: tuple[int, int]) -> dict[str, Any]:
    results: Results = read_results(report)
    facts: dict[str, Any] = {"task": results["task"]["name"], "headline": results["headline"]["statement"]}
    if (number := results["headline"]["comparison"]) is None:
        return facts
    row = results["comparisons"][number]
    accuracies = {learner["name"]: learner["accuracy"] for learner in results["learners"]}
    return facts | {
        "learner": row["a"],
        "accuracy": _number(accuracies[row["a"]]),
        "baseline": row["b"],
        "difference": _number(row["difference"]),
        "interval": [_number(each) for each in row["interval"][:2]],
        "outcome": row["outcome"],
    }


def _cost(manifest: Path) -> tuple[float | None, float | None]:
    """Seconds and dollars of the finished stages; None if they are not known."""
    try:
        return _read_cost(manifest, _version(manifest))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None, None


@lru_cache(maxsize=4096)
def _read_cost(manifest: Path, version: tuple[int, int]) -> tuple[float | None, float | None]:
    value = json.loads(manifest.read_text(encoding="utf-8"))
    usage = (value["stages"].get("annotate") or {}).get("asked") or {}
    dollars = usage.get("dollars")
    return _number(value["seconds"]), None if dollars is None else _number(dollars)


def _number(value: Any) -> float:
    """A number of a file, which anyone may have written. Raises TypeError for what is none, or none that is finite."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"got {value!r}, expected a number")
    return value
