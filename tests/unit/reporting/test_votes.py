"""Majority votes and pass@k: the estimator against counting, ties, intervals, and the table of a report."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import unescape
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from made_up_run import make_inputs
from mentorkd.errors import RunError
from mentorkd.records import Prediction
from mentorkd.reporting.build import build_results
from mentorkd.reporting.reread import inputs_of
from mentorkd.reporting.rows import sampled_shares
from mentorkd.reporting.statistics import compare, wilson_interval
from mentorkd.reporting.votes import Ballots, Sampled, build_sampled, count_ballots, majority, pass_at_k, shown_k
from mentorkd.reporting.write import read_results, write_report

GOLD = "7"


def predictions(answers: Sequence[Sequence[str | None]]) -> list[Prediction]:
    """Sampled answers by question; "7" is correct."""
    rows = []
    for number, samples in enumerate(answers):
        for answer in samples:
            verdict = "no_answer" if answer is None else "correct" if answer == GOLD else "wrong"
            rows.append(Prediction(f"q{number}", "student", 1, f"--> {answer}", answer, verdict, 3, True))
    return rows


def ballots(answers: Sequence[Sequence[str | None]]) -> Ballots:
    return count_ballots(predictions(answers), [f"q{number}" for number in range(len(answers))])


def drawn(rng: np.random.Generator, chance_Q: np.ndarray, samples: int) -> Ballots:
    """Samples that are correct with a chance for each question, and otherwise state one of three answers."""
    correct_Qk = rng.random((len(chance_Q), samples)) < chance_Q[:, None]
    wrong_Qk = rng.integers(0, 3, correct_Qk.shape)
    return ballots(
        [[GOLD if c else str(w) for c, w in zip(*row, strict=True)] for row in zip(correct_Qk, wrong_Qk, strict=True)]
    )


@pytest.mark.parametrize("samples", [1, 2, 5, 7])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(samples: int) -> None:
    for correct in range(samples + 1):
        verdicts = [place < correct for place in range(samples)]
        for k in range(1, samples + 1):
            subsets = list(combinations(verdicts, k))
            assert pass_at_k(correct, samples, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-15)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_pass_at_k_is_unbiased(k: int) -> None:
    for p in (0.05, 0.5, 0.9):
        chances = [math.comb(8, c) * p**c * (1 - p) ** (8 - c) for c in range(9)]
        mean = math.fsum(chance * pass_at_k(c, 8, k) for c, chance in enumerate(chances))
        assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


def test_pass_at_k_of_many_samples_is_exact() -> None:
    assert pass_at_k(1, 10_000, 100) == pytest.approx(0.01, abs=1e-12)
    assert pass_at_k(0, 10_000, 100) == 0.0


@pytest.mark.parametrize(("correct", "samples", "k"), [(0, 4, 0), (0, 4, 5), (5, 4, 1), (-1, 4, 1)])
def test_pass_at_k_of_what_cannot_be_is_refused(correct: int, samples: int, k: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= correct <= samples"):
        pass_at_k(correct, samples, k)


@pytest.mark.parametrize(
    ("answers", "place"),
    [
        (["1", "7", "7"], 1),
        (["1", "7", "7", "1"], 0),  # a tie: sampled first
        (["7", "1", "1", "7"], 0),
        (["3", "1", "2"], 0),
        ([None, "7", None], 1),  # no answer is no vote
        ([None, None], None),
        ([], None),
    ],
)
def test_the_majority_and_what_was_sampled_first(answers: list[str | None], place: int | None) -> None:
    assert majority(answers) == place


def test_the_shown_numbers_are_powers_of_two_and_the_last() -> None:
    assert {samples: shown_k(samples) for samples in (1, 2, 3, 8, 10)} == {
        1: [1],
        2: [1, 2],
        3: [1, 2, 3],
        8: [1, 2, 4, 8],
        10: [1, 2, 4, 8, 10],
    }


def test_ballots_count_correct_samples_votes_ties_and_texts_without_an_answer() -> None:
    counted = ballots([["7", "7", "1"], ["1", "7", None], ["7", "1", None], [None, None, None], ["2", "2", "7"]])
    assert counted.samples == 3
    assert counted.correct_Q.tolist() == [2, 1, 1, 0, 1]
    assert counted.vote_Q.tolist() == [1, 0, 1, 0, 0]
    assert (counted.ties, counted.no_answer) == (2, 5)
    assert counted.passed_Q(1).tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 3, 0, 1 / 3])
    assert counted.passed_Q(3).tolist() == [1, 1, 1, 0, 1]


def test_answers_that_lack_a_sample_or_have_another_order_are_refused() -> None:
    rows = predictions([["7", "1"], ["7", "1"]])
    for wrong in (rows[:3], [rows[0], rows[2], rows[1], rows[3]], []):
        with pytest.raises(RunError, match="expected the same number for each, in their order"):
            count_ballots(wrong, ["q0", "q1"])


def sampled(
    by_seed: dict[int, Ballots], greedy: dict[int, Ballots] | None = None, peers: Sequence[str] = ()
) -> Sampled:
    return Sampled(temperature=0.7, top_p=1.0, top_k=0, ballots=by_seed, greedy=greedy or {}, peers=peers)


def test_a_row_has_the_vote_and_each_k_with_intervals() -> None:
    votes = ballots([["7", "7", "1", None]] * 6 + [["7", "1", "1", "7"]] * 2 + [["1", "1", "7", "2"]] * 2)
    greedy = ballots([["7"]] * 5 + [["1"]] * 5)
    [row] = build_sampled({"student": sampled({1: votes}, {1: greedy})})
    assert (row["learner"], row["seeds"], row["samples"], row["no_answer"]) == ("student", [1], 4, 6 / 40)
    assert [one["k"] for one in row["pass_at_k"]] == [1, 2, 4]
    assert [one["share"] for one in row["pass_at_k"]] == pytest.approx(
        [18 / 40, (8 * 5 / 6 + 2 / 2) / 10, 1.0], abs=1e-6
    )
    for one in (*row["pass_at_k"], row["vote"]):
        assert one is not None
        assert 0 <= one["interval"][0] <= one["share"] <= one["interval"][1] <= 1
        assert one["per_seed"] == [one["share"]]
    vote = row["vote"]
    assert vote is not None
    assert (vote["share"], vote["ties"]) == (0.8, 0.2)
    whole = wilson_interval(8, 10)
    assert vote["interval"] == pytest.approx([whole.low, whole.high], abs=1e-6)  # one seed: that of an accuracy
    contrast = compare(votes.vote_Q[:, None], greedy.vote_Q[:, None])
    assert vote["gain"] == pytest.approx(0.3)
    assert vote["gain_interval"] == pytest.approx([contrast.interval.low, contrast.interval.high], abs=1e-6)
    [alone] = build_sampled({"student": sampled({1: votes})}, vote=False)
    assert alone["vote"] is None
    assert [*sampled_shares([alone])[0]] == [
        "samples",
        "temperature",
        *(f"pass@{k} % [95 %]" for k in (1, 2, 4)),
        "no answer %",
    ]


def test_without_a_greedy_answer_there_is_no_gain() -> None:
    [row] = build_sampled({"student": sampled({1: ballots([["7", "7"], ["1", "1"]])})})
    assert row["vote"] is not None
    assert row["vote"]["gain"] is row["vote"]["gain_interval"] is None


def test_more_samples_make_pass_at_1_more_certain_and_not_beyond_what_questions_allow() -> None:
    rng = np.random.default_rng(0)
    uneven = rng.uniform(0.1, 0.9, 200)
    widths = []
    for samples in (1, 4, 64):
        [row] = build_sampled({"student": sampled({1: drawn(rng, uneven, samples)})})
        low, high = row["pass_at_k"][0]["interval"]
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]
    # The questions are a sample too: with endless samples, their chances' standard deviation remains.
    assert widths[2] > 2 * 1.96 * uneven.std() / math.sqrt(200) * 0.95


def test_peers_of_other_numbers_of_samples_do_not_count() -> None:
    rng = np.random.default_rng(1)
    seeds = {seed: drawn(rng, rng.uniform(0.2, 0.8, 50), 4) for seed in (1, 2, 3)}
    other = {seed: drawn(rng, rng.uniform(0.2, 0.8, 50), 2) for seed in (1, 2, 3)}
    alike = {seed: drawn(rng, rng.uniform(0.2, 0.8, 50), 4) for seed in (1, 2, 3)}
    alone = build_sampled({"a": sampled(seeds)})[0]
    assert build_sampled({"a": sampled(seeds, peers=["b", "gone"]), "b": sampled(other)})[0] == alone
    with_peer = build_sampled({"a": sampled(seeds, peers=["b"]), "b": sampled(alike)})[0]
    assert with_peer["vote"] is not None
    assert alone["vote"] is not None
    assert with_peer["vote"]["share"] == alone["vote"]["share"]
    assert with_peer["vote"]["interval"] != alone["vote"]["interval"]


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_hold_the_truth(seeds: int) -> None:
    """Questions with chances from 0.1 to 0.7; the truth of pass@k is the mean of 1 - (1 - p)^k over all such questions."""
    rng = np.random.default_rng(seeds)
    grid = np.linspace(0.1, 0.7, 10_001)
    truth = {k: float((1 - (1 - grid) ** k).mean()) for k in (1, 2, 4)}
    held, runs, nothing = dict.fromkeys(truth, 0), 200, np.zeros(60, dtype=np.int64)
    for _ in range(runs):
        chance_Q = rng.uniform(0.1, 0.7, 60)
        by_seed = {seed: Ballots(4, rng.binomial(4, chance_Q), nothing, 0, 0) for seed in range(seeds)}
        [row] = build_sampled({"a": sampled(by_seed)}, vote=False)
        for one in row["pass_at_k"]:
            low, high = one["interval"]
            held[one["k"]] += low <= truth[one["k"]] <= high
    assert all(count / runs >= 0.90 for count in held.values()), held  # 0.95, less three standard errors of 200 runs


def report_rows() -> list[dict[str, object]]:
    rng = np.random.default_rng(3)
    chance_Q = rng.uniform(0.3, 0.9, 40)
    by_seed = {
        name: {seed: drawn(rng, chance_Q, samples) for seed in (42, 43, 44)}
        for name, samples in (("vanilla", 4), ("student", 6))
    }
    greedy = {seed: drawn(rng, chance_Q, 1) for seed in (42, 43, 44)}
    return [dict(row) for row in build_sampled({name: sampled(one, greedy) for name, one in by_seed.items()})]


def test_the_report_has_the_table_and_comes_back_from_its_files(tmp_path: Path) -> None:
    inputs = make_inputs(size=40, sampled=report_rows())
    results = build_results(inputs)
    write_report(results, tmp_path)
    stored = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["sampled"]
    assert [(row["learner"], row["samples"]) for row in stored] == [("vanilla", 4), ("student", 6)]
    student = stored[1]
    share = f"{100 * student['vote']['share']:.1f} [{100 * student['vote']['interval'][0]:.1f}"
    markdown, page = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.md", "index.html"))
    for text in (markdown, unescape(page)):
        assert share in text
        assert "Votes and pass@k" in text
        assert "pass@6 % [95 %]" in text
        assert "sampled first" in text
    assert (tmp_path / "sampled.tex").read_text(encoding="utf-8").startswith(r"\begin{tabular}")
    assert build_results(inputs_of(read_results(tmp_path), {}))["sampled"] == results["sampled"]


def test_a_report_without_samples_does_not_mention_them(tmp_path: Path) -> None:
    write_report(build_results(make_inputs(size=40)), tmp_path)
    assert "pass@" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "pass@" not in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not (tmp_path / "sampled.tex").exists()
