"""Whether learners were trained equally long, in the unit that the recipe matches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mentorkd.reporting.format import format_magnitudes, format_range
from mentorkd.reporting.inputs import LearnerInfo, Match

SAME_TOKENS = 0.02
"""Learners matched by tokens or by operations may differ by this share, because training ends with a complete update."""


def training_lengths(learners: Sequence[LearnerInfo], match: Match) -> tuple[Mapping[str, Sequence[float]], str]:
    """The lengths of the trained learners, one number for each seed, and their unit. With `match: plateau` updates need not be equal."""
    trained = [info for info in learners if info.updates]
    if match == "tokens":
        return {info.name: info.target_tokens for info in trained}, "target tokens"
    if match == "compute":
        return {info.name: info.operations for info in trained}, "floating-point operations"
    return {info.name: info.updates for info in trained}, "optimiser updates"


def format_lengths(lengths: Sequence[float], match: Match) -> str:
    """The lengths of one learner: `1,510–1,520`; operations as `1.51e+12`."""
    return format_magnitudes(lengths) if match == "compute" else format_range(lengths)


def without_plateau(learners: Sequence[LearnerInfo]) -> list[str]:
    """The trained learners that were not all trained to a plateau, as `star (1 of 3 seeds)` if some seeds were."""
    names = []
    for info in learners:
        missing = sum(found is None for found in info.plateaus) if info.plateaus else len(info.updates)
        if missing:
            several = len(info.updates) > missing
            names.append(f"{info.name} ({missing} of {len(info.updates)} seeds)" if several else info.name)
    return names


def are_unequal(learners: Sequence[LearnerInfo], match: Match) -> bool:
    """Whether the trained ones among the learners have unequal lengths; with `match: plateau`, whether any has no plateau."""
    if match == "plateau":
        return bool(without_plateau(learners))
    counts, _ = training_lengths(learners, match)
    lengths = [count for row in counts.values() for count in row]
    if not lengths:
        return False
    if match in ("tokens", "compute"):
        return max(lengths) - min(lengths) > SAME_TOKENS * max(lengths)
    return len({frozenset(row) for row in counts.values()}) > 1


def unequal_training(learners: Sequence[LearnerInfo], match: Match) -> str | None:
    """`optimiser updates: star 3,780, vanilla 1,160`, or `without a plateau: star`; None where training is equal."""
    if not are_unequal(learners, match):
        return None
    if match == "plateau":
        return f"without a plateau: {', '.join(without_plateau(learners))}"
    counts, unit = training_lengths(learners, match)
    return f"{unit}: {', '.join(f'{name} {format_lengths(row, match)}' for name, row in counts.items())}"
