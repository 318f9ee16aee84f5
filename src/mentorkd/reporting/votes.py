"""Majority votes and pass@k, from several sampled answers to each question."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mentorkd.errors import RunError
from mentorkd.records import Prediction
from mentorkd.reporting.schema import MajorityVote, PassAtK, SampledResult, SampledShare
from mentorkd.reporting.statistics import Array, accuracy_interval, compare
from mentorkd.reporting.verdicts import bounds


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """The chance that k of the samples, drawn without replacement, hold a correct one; unbiased for k new samples.

    1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, equation 1), in exact integers. Raises ValueError unless
    0 <= correct <= samples and 1 <= k <= samples.
    """
    if not 0 <= correct <= samples or not 1 <= k <= samples:
        raise ValueError(
            f"got k={k}, {correct} correct of {samples}; expected 0 <= correct <= samples, 1 <= k <= samples"
        )
    return 1 - math.comb(samples - correct, k) / math.comb(samples, k)


def majority(answers: Sequence[str | None]) -> int | None:
    """The place of the first sample with the most frequent answer (self-consistency, Wang et al. 2022, arXiv 2203.11171).

    Of equally frequent answers, the one that was sampled first is taken. None (no answer) is no vote. None if nobody votes.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    return answers.index(max(votes, key=votes.__getitem__)) if votes else None


def shown_k(samples: int) -> list[int]:
    """1, 2, 4, ... and the number of samples itself."""
    return [*(2**power for power in range((samples - 1).bit_length())), samples]


@dataclass(frozen=True, slots=True)
class Ballots:
    """The samples of one model (a learner and a seed), counted for each question."""

    samples: int
    correct_Q: Array
    """Correct samples of each question."""
    vote_Q: Array
    """1 where the majority is correct, else 0."""
    ties: int
    """Questions with several most frequent answers."""
    no_answer: int
    """Samples without an answer."""

    def passed_Q(self, k: int) -> Array:
        """pass@k of each question."""
        by_correct = np.array([pass_at_k(correct, self.samples, k) for correct in range(self.samples + 1)])
        passed: Array = by_correct[self.correct_Q]
        return passed


def count_ballots(predictions: Sequence[Prediction], questions: Sequence[str]) -> Ballots:
    """The ballots of one model: as many predictions for each question, given by its id, in the order of the questions.

    Raises RunError for any other predictions.
    """
    samples = len(predictions) // max(1, len(questions))
    expected = [question for question in questions for _ in range(samples)]
    if not samples or [prediction.question_id for prediction in predictions] != expected:
        raise RunError(
            f"got {len(predictions)} answers to {len(questions)} test questions; expected the same number for each, in their "
            "order; make them again (--force evaluate, or --force sample)"
        )
    correct, votes, ties = [], [], 0
    for start in range(0, len(predictions), samples):
        rows = predictions[start : start + samples]
        correct.append(sum(row.verdict == "correct" for row in rows))
        answers = [row.predicted for row in rows]
        place = majority(answers)
        votes.append(0 if place is None else int(rows[place].verdict == "correct"))
        counts = sorted(Counter(answer for answer in answers if answer is not None).values())
        ties += len(counts) > 1 and counts[-1] == counts[-2]
    no_answer = sum(prediction.predicted is None for prediction in predictions)
    return Ballots(samples, np.array(correct), np.array(votes), ties, no_answer)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """The samples of a learner: how they were drawn, and their counts for each seed."""

    temperature: float
    top_p: float
    top_k: int
    ballots: Mapping[int, Ballots]
    """By seed."""
    greedy: Mapping[int, Ballots] = field(default_factory=dict)
    """The one greedy answer to each question, by seed; empty if it is unknown."""
    peers: Sequence[str] = ()
    """Other learners of the same model, whose scatter over seeds contributes to the intervals."""

    @property
    def samples(self) -> int:
        return next(iter(self.ballots.values())).samples

    def passed_QS(self, k: int) -> Array:
        """pass@k by question and seed."""
        return np.stack([ballots.passed_Q(k) for ballots in self.ballots.values()], axis=1)


def build_sampled(sampled: Mapping[str, Sampled], *, vote: bool = True) -> list[SampledResult]:
    """One row for each learner, by name; without `vote`, pass@k alone."""
    return [_learner(name, sampled, vote) for name in sampled]


def _learner(name: str, sampled: Mapping[str, Sampled], vote: bool) -> SampledResult:
    own = sampled[name]
    peers = [
        peer
        for other in own.peers
        if (peer := sampled.get(other)) and (peer.samples, [*peer.ballots]) == (own.samples, [*own.ballots])
    ]
    texts = own.samples * _votes_QS(own.ballots).size
    return {
        "learner": name,
        "seeds": list(own.ballots),
        "samples": own.samples,
        "temperature": own.temperature,
        "top_p": own.top_p,
        "top_k": own.top_k,
        "no_answer": round(sum(ballots.no_answer for ballots in own.ballots.values()) / texts, 6),
        "pass_at_k": [_passed(k, own, peers) for k in shown_k(own.samples)],
        "vote": _vote(own, peers) if vote else None,
    }


def _passed(k: int, own: Sampled, peers: Sequence[Sampled]) -> PassAtK:
    # `samples // k` disjoint groups of k are independent answers; the estimate is never less precise than their mean.
    share = _share(own.passed_QS(k), [peer.passed_QS(k) for peer in peers], own.samples // k)
    return {**share, "k": k}


def _vote(own: Sampled, peers: Sequence[Sampled]) -> MajorityVote:
    vote_QS, others = _votes_QS(own.ballots), [_votes_QS(peer.ballots) for peer in peers]
    ties = sum(ballots.ties for ballots in own.ballots.values()) / vote_QS.size
    gain = gain_interval = None
    if own.greedy:
        contrast = compare(vote_QS, _votes_QS(own.greedy))
        gain, gain_interval = round(contrast.difference, 6), bounds(contrast.interval.low, contrast.interval.high)
    return {**_share(vote_QS, others, 1), "ties": round(ties, 6), "gain": gain, "gain_interval": gain_interval}


def _votes_QS(ballots: Mapping[int, Ballots]) -> Array:
    """1 where the majority is correct, by question and seed."""
    return np.stack([one.vote_Q for one in ballots.values()], axis=1)


def _share(values_QS: Array, peers: Sequence[Array], draws: int) -> SampledShare:
    different = {peer.tobytes(): peer for peer in peers if peer.tobytes() != values_QS.tobytes()}
    interval = accuracy_interval(values_QS, peers=list(different.values()), draws=draws)
    return {
        "share": round(float(values_QS.mean()), 6),
        "interval": bounds(interval.low, interval.high),
        "per_seed": [round(float(share), 6) for share in values_QS.mean(axis=0)],
    }
