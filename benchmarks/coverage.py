"""How often the 95 % interval of a difference holds the truth, by simulation.

Learners of 58 % (the first) and 50 % (all others) answer 225 questions of uneven hardness (+-30 points). Each training
seed moves a learner's accuracy by its own luck; the scatter is that luck's standard deviation in a DIFFERENCE, in points.

    python benchmarks/coverage.py --runs 2000
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from mentorkd.statistics import Interval, compare, sign_flip

QUESTIONS, TRUTH = 225, 0.08
SCATTERS = (0.0, 0.02, 0.05, 0.10)
DESIGNS = ((1, 2), (2, 2), (3, 2), (3, 4), (5, 4))


def arms(rng: np.random.Generator, first: float, learners: int, seeds: int, scatter: float) -> list[np.ndarray]:
    """Verdicts [Q, S] of the learners."""
    hardness = rng.uniform(-0.3, 0.3, (QUESTIONS, 1))
    accuracies = [first] + [0.5] * (learners - 1)
    luck = rng.normal(0, scatter / math.sqrt(2), (learners, 1, seeds))
    chances = [np.clip(a + hardness + one, 0, 1) for a, one in zip(accuracies, luck, strict=True)]
    return [(rng.random(chance.shape) < chance).astype(int) for chance in chances]


def hierarchical(difference: np.ndarray, rng: np.random.Generator, resamples: int = 1000) -> Interval:
    """The alternative: questions and seeds both resampled with replacement."""
    Q, S = difference.shape
    questions = rng.multinomial(Q, [1 / Q] * Q, size=resamples) / Q
    seeds = rng.multinomial(S, [1 / S] * S, size=resamples) / S
    low, high = np.quantile(((questions @ difference) * seeds).sum(axis=1), [0.025, 0.975])
    return Interval(float(low), float(high))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    runs = parser.parse_args().runs
    rng = np.random.default_rng(0)
    print(
        "| seeds | learners | scatter | interval holds the truth | hierarchical bootstrap | p < 0.05 of equals | questions alone |"
    )
    print("|---|---|---|---|---|---|---|")
    for seeds, learners in DESIGNS:
        for scatter in SCATTERS[: 1 if seeds == 1 else None]:
            held = other = called = plain = 0
            for _ in range(runs):
                a, b, *peers = arms(rng, 0.5 + TRUTH, learners, seeds, scatter)
                held += TRUTH in compare(a, b, peers=peers, resamples=500).interval
                other += learners == 2 and seeds > 1 and TRUTH in hierarchical(a - b, rng)
                a, b, *peers = arms(rng, 0.5, learners, seeds, scatter)
                called += compare(a, b, peers=peers, resamples=10).p_value < 0.05
                plain += sign_flip(a - b) < 0.05
            shares = [f"{100 * count / runs:.1f} %" for count in (held, other, called, plain)]
            shares[1] = shares[1] if learners == 2 and seeds > 1 else "-"
            print(f"| {seeds} | {learners} | {100 * scatter:g} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main()
