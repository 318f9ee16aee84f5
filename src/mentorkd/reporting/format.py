"""Numbers and names as the report writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mentorkd.recipe.objectives import OBJECTIVES
from mentorkd.records import GOLD
from mentorkd.reporting.schema import Bounds, LearnerResult

__all__ = [
    "format_count",
    "format_points",
    "format_range",
    "format_seconds",
    "format_setting",
    "format_share",
    "format_updates",
    "learns_from",
    "marked",
    "soft_labels_of",
]


def format_points(share: float) -> str:
    """A difference of shares as signed percentage points: `+9.3`, `−1.9`, `0.0`."""
    text = f"{100 * share:+.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")


def format_count(number: float | None) -> str:
    """`1,536`; a dash for what is not known."""
    return "–" if number is None else f"{number:,.0f}"


def format_seconds(seconds: float | None) -> str:
    """`42 s`, `3 min 20 s`, `2 h 5 min`; a dash for what is not known."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def format_updates(updates: Sequence[int]) -> str:
    """`1,160`, or `1,160 / 1,168` where seeds differ."""
    return " / ".join(map(format_count, updates if len(set(updates)) > 1 else updates[:1])) or "–"


def format_setting(value: Any) -> str:
    """A plain value as the recipe would say it; a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def format_range(numbers: Sequence[int]) -> str:
    """`1,510–1,520`, or one number where all are equal."""
    if not numbers:
        return "–"
    low, high = min(numbers), max(numbers)
    return format_count(low) if low == high else f"{format_count(low)}–{format_count(high)}"


def format_share(share: float | None, bounds: Bounds | None = None) -> str:
    """`82.7`, or `82.7 [77.2, 87.0]`, in per cent; a dash for what is not known."""
    if share is None:
        return "–"
    text = f"{100 * share:.1f}"
    return f"{text} [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]" if bounds else text


def learns_from(learner: LearnerResult) -> str:
    """`teacher, mentor + soft labels of mentor`; `gold answers`; `nobody (as it is)`."""
    if not learner["rationales"]:
        return "nobody (as it is)"
    text = ", ".join("gold answers" if source == GOLD else source for source in learner["rationales"])
    if learner["imitates"]:
        text += f" + soft labels of {soft_labels_of(learner)}"
    return text if learner["objective"] == "rationale" else f"{text} ({OBJECTIVES[learner['objective']].label})"


def soft_labels_of(learner: LearnerResult) -> str:
    """`mentor`, or `large 67 %, base 33 %`."""
    shares = learner["imitates"]
    return ", ".join(shares if len(shares) == 1 else (f"{name} {100 * share:.0f} %" for name, share in shares.items()))


def marked(text: str, on_test: bool) -> str:
    """The text with the mark of what was selected on test questions."""
    return f"{text} (TEST)" if on_test else text
