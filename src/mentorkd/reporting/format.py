"""How the report writes numbers and names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from mentorkd.recipe.objectives import OBJECTIVES
from mentorkd.records import GOLD, SELF
from mentorkd.reporting.schema import Bounds, ComparisonResult, LearnerResult
from mentorkd.reporting.statistics import signed_points


def format_points(share: float, bounds: Bounds | None = None) -> str:
    """A difference of shares as signed percentage points: `+9.3`, `−1.9`, `0.0`, or `+9.3 [+5.1, +13.6]`."""
    text = signed_points(share).replace("-", "−")
    return f"{text} [{', '.join(map(format_points, bounds))}]" if bounds else text


def format_count(number: float | None) -> str:
    """`1,536`; a dash for an unknown number."""
    return "–" if number is None else f"{number:,.0f}"


def format_dollars(dollars: float | Decimal | None) -> str:
    """`$12.30`; below one dollar with as many digits as the sum needs, `$0.10` or `$0.000421`; a dash for an unknown cost."""
    if dollars is None:
        return "–"
    return f"${dollars:,.2f}" if dollars >= 1 or not dollars else f"${dollars:.6f}".rstrip("0").ljust(5, "0")


def format_seconds(seconds: float | None) -> str:
    """`42 s`, `3 min 20 s`, `2 h 5 min`; a dash for an unknown duration."""
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
    """A plain value as a recipe writes it, a mapping as `teacher 0.3, self 1`; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {format_setting(each)}" for key, each in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def format_range(numbers: Sequence[float], digits: int = 0) -> str:
    """`1,510–1,520`, or one number where all are equal; a dash without numbers."""
    if not numbers:
        return "–"
    low, high = (f"{end:,.{digits}f}" for end in (min(numbers), max(numbers)))
    return low if low == high else f"{low}–{high}"


def format_magnitudes(numbers: Sequence[float]) -> str:
    """`1.51e+12–1.52e+12`, or one number where all have the same three digits; a dash without numbers."""
    low, high = (f"{end:.3g}" for end in (min(numbers, default=0), max(numbers, default=0)))
    return "–" if not numbers else low if low == high else f"{low}–{high}"


def format_share(share: float | None, bounds: Bounds | None = None) -> str:
    """`82.7`, or `82.7 [77.2, 87.0]`, in per cent; a dash for an unknown share."""
    if share is None:
        return "–"
    text = f"{100 * share:.1f}"
    return f"{text} [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]" if bounds else text


def learns_from(learner: LearnerResult) -> str:
    """`teacher, own texts + soft labels of mentor + weights of base`; `gold answers`; `none (untrained)`."""
    if not learner["rationales"]:
        return "none (untrained)"
    text = sources_of(learner)
    if learner["imitates"]:
        shuffled = "shuffled " if learner.get("distillation", {}).get("shuffle_soft_labels") else ""
        text += f" + {shuffled}soft labels of {soft_labels_of(learner)}"
    if learner.get("initial"):  # reports of earlier versions do not say
        text += f" + weights of {learner['initial']}"
    return text if learner["objective"] == "rationale" else f"{text} ({OBJECTIVES[learner['objective']].label})"


def sources_of(learner: LearnerResult) -> str:
    """`teacher, gold answers, own texts`."""
    words = {GOLD: "gold answers", SELF: "own texts"}
    return ", ".join(words.get(source, source) for source in learner["rationales"])


def soft_labels_of(learner: LearnerResult) -> str:
    """`mentor`, or `large 67 %, base 33 %`."""
    shares = learner["imitates"]
    return ", ".join(shares if len(shares) == 1 else (f"{name} {100 * share:.0f} %" for name, share in shares.items()))


def pair_of(row: ComparisonResult) -> tuple[str, str]:
    """The names of a pair: of two learners, or with one seed of `this student` and `this vanilla`, two trained models."""
    this = "this " if len(row["seeds"]) == 1 else ""
    return f"{this}{row['a']}", f"{this}{row['b']}"


def mark_on_test(text: str, on_test: bool) -> str:
    """The text; with the mark ` (TEST)` where the number was selected on test questions. A dash has no mark."""
    return f"{text} (TEST)" if on_test and text != "–" else text
