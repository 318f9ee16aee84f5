"""What the statistics of a report promise, held against simulated reports: intervals, tests, decompositions, detectable effects.

Learners answer 225 questions of uneven hardness (+-30 points). Each training seed moves a learner's accuracy by its own luck; the
scatter is that luck's standard deviation in a DIFFERENCE of two learners, in points.

    python benchmarks/coverage.py --runs 4000        # about three minutes of one core
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import numpy as np

from mentorkd.reporting.statistics import Contrast, compare, contrast, holm, outcome

QUESTIONS, TRUTH = 225, 0.08
DESIGNS = ((1, 2), (2, 2), (3, 2), (5, 2), (3, 4), (3, 6))
"""Seeds, and learners of the report."""
SCATTERS = (0.0, 0.02, 0.05, 0.10)
PARTS = ([0, 1, 0, -1], [0, 0, 1, -1], [1, -1, -1, 1], [1, 0, 0, -1])
"""The parts of a decomposition, as weights of the arms with both, rationales, soft labels and nothing from a mentor."""

Rng = np.random.Generator


def arms(rng: Rng, accuracies: Sequence[float], seeds: int, scatter: float) -> list[np.ndarray]:
    """Verdicts [Q, S] of the learners."""
    hardness = rng.uniform(-0.3, 0.3, (QUESTIONS, 1))
    luck = rng.normal(0, scatter / math.sqrt(2), (len(accuracies), 1, seeds))
    chances = [np.clip(a + hardness + one, 0, 1) for a, one in zip(accuracies, luck, strict=True)]
    return [(rng.random(chance.shape) < chance).astype(int) for chance in chances]


def pair(rng: Rng, difference: float, learners: int, seeds: int, scatter: float) -> Contrast:
    """The comparison of two learners beside others of 50 %."""
    ends = [0.5 + difference / 2, 0.5 - difference / 2]
    a, b, *peers = arms(rng, [*ends, *[0.5] * (learners - 2)], seeds, scatter)
    return compare(a, b, peers=peers)


def shown(result: Contrast) -> bool:
    return outcome(result) != "unclear"


def tests(rng: Rng, runs: int) -> None:
    """Intervals and tests of one pair."""
    print(
        "| seeds | learners | scatter | interval holds the truth | 8 points shown | equals shown | of them with scatter 0 |"
    )
    print("|---|---|---|---|---|---|---|")
    for seeds, learners in DESIGNS:
        for scatter in SCATTERS[: 1 if seeds == 1 else None]:
            gains = [pair(rng, TRUTH, learners, seeds, scatter) for _ in range(runs)]
            equals = [pair(rng, 0.0, learners, seeds, scatter) for _ in range(runs)]
            agreeing = [shown(one) for one in equals if one.factor <= 1 and seeds > 1]
            held = sum(TRUTH in one.interval for one in gains) / runs
            shares = [held, sum(map(shown, gains)) / runs, sum(map(shown, equals)) / runs]
            texts = [f"{100 * one:.1f} %" for one in shares]
            texts.append(f"{100 * np.mean(agreeing):.1f} % of {len(agreeing) / runs:.0%}" if agreeing else "-")
            print(f"| {seeds} | {learners} | {100 * scatter:g} | {' | '.join(texts)} |", flush=True)


def decompositions(rng: Rng, runs: int) -> None:
    """Decompositions of four equal arms that show any part, each part by itself and with Holm."""
    print("\n| seeds | scatter | any part, each by itself | any part, Holm |")
    print("|---|---|---|---|")
    for seeds in (1, 3):
        for scatter in SCATTERS[: 1 if seeds == 1 else 3]:
            alone = together = 0
            for _ in range(runs):
                four = arms(rng, [0.5] * 4, seeds, scatter)
                parts = [contrast(four, weights) for weights in PARTS]
                adjusted = holm([part.p_value for part in parts])
                alone += any(map(shown, parts))
                together += any(
                    outcome(part, p_adjusted=p) != "unclear" for part, p in zip(parts, adjusted, strict=True)
                )
            print(
                f"| {seeds} | {100 * scatter:g} | {100 * alone / runs:.1f} % | {100 * together / runs:.1f} % |",
                flush=True,
            )


def effects(rng: Rng, runs: int) -> None:
    """Minimum detectable effects: each is put to a fresh report with just that difference, which should show it in 80 %."""
    print(
        "\n| seeds | learners | scatter | true effect | median promise | shown at the promise | median range | holds the true effect |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for seeds, learners in ((1, 2), (3, 2), (5, 2), (3, 4), (3, 6)):
        for scatter in SCATTERS[: 1 if seeds == 1 else 3]:
            promises = [pair(rng, 0.0, learners, seeds, scatter) for _ in range(runs)]
            kept = [shown(pair(rng, min(0.9, one.detectable), learners, seeds, scatter)) for one in promises]
            truth = true_effect(rng, runs, learners, seeds, scatter)
            texts = [f"{100 * truth:.1f}", f"{100 * np.median([one.detectable for one in promises]):.1f}"]
            texts.append(f"{100 * np.mean(kept):.0f} %")
            ranges = [one.detectable_interval for one in promises if one.detectable_interval is not None]
            if ranges:
                low, high = np.median([[one.low, one.high] for one in ranges], axis=0)
                held = np.mean([0.95 * one.low <= truth <= 1.05 * one.high for one in ranges])
                texts += [f"{100 * low:.1f} to {100 * high:.1f}", f"{100 * held:.0f} %"]
            else:
                texts += ["-", "-"]
            print(f"| {seeds} | {learners} | {100 * scatter:g} | {' | '.join(texts)} |", flush=True)


def true_effect(rng: Rng, runs: int, learners: int, seeds: int, scatter: float) -> float:
    """The difference that this design shows in 80 % of reports: bisection, with fewer reports where it is coarse."""
    low, high = 0.0, 0.6
    for step in range(9):
        middle = (low + high) / 2
        enough = sum(shown(pair(rng, middle, learners, seeds, scatter)) for _ in range(runs // (8 if step < 4 else 2)))
        low, high = (low, middle) if enough >= 0.8 * (runs // (8 if step < 4 else 2)) else (middle, high)
    return (low + high) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4000)
    runs = parser.parse_args().runs
    for number, table in enumerate((tests, decompositions, effects)):
        table(np.random.default_rng(number), runs)


if __name__ == "__main__":
    main()
