"""Whether learners were trained equally long, in the unit that the recipe matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mentorkd.reporting.format import format_range
from mentorkd.reporting.inputs import LearnerInfo, Match

SAME_TOKENS = 0.02
"""Learners matched by tokens may differ by this share, because training ends with a complete update."""


def training_lengths(learners: Sequence[LearnerInfo], match: Match) -> tuple[Mapping[str, Sequence[int]], str]:
    """The lengths of the trained learners, one number for each seed, and their unit."""
    trained = [info for info in learners if info.updates]
    if match == "tokens":
        return {info.name: info.target_tokens for info in trained}, "target tokens"
    return {info.name: info.updates for info in trained}, "optimiser updates"


def are_unequal(learners: Sequence[LearnerInfo], match: Match) -> bool:
    """Whether the trained ones among the learners have unequal lengths."""
    counts, _ = training_lengths(learners, match)
    lengths = [count for row in counts.values() for count in row]
    if not lengths:
        return False
    if match == "tokens":
        return max(lengths) - min(lengths) > SAME_TOKENS * max(lengths)
    return len({frozenset(row) for row in counts.values()}) > 1


def unequal_training(learners: Sequence[LearnerInfo], match: Match) -> str | None:
    """`optimiser updates: star 3,780, vanilla 1,160`; None where the lengths are equal."""
    if not are_unequal(learners, match):
        return None
    counts, unit = training_lengths(learners, match)
    return f"{unit}: {', '.join(f'{name} {format_range(row)}' for name, row in counts.items())}"
