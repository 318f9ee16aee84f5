"""Equations in prose: which hold, which are wrong, which are left alone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mentorkd.grading.arithmetic import EquationCounts, check_arithmetic

HOLDING = [
    "Danny found a total of 15 + 18 = 33 bottle caps and wrappers.",
    "15+18=33",
    "15 + 18 - 1 = 40 - 8 = 32",
    "2 + 3 * 4 = 14",
    "(2 + 3) * 4 = 20",
    "2(3 + 4) = 14",
    "(1 + 2)(3 + 4) = 21",
    "-5 + 3 = -2",
    "5 - -3 = 8",
    "80 × 26 = 2080, 36 ÷ 12 = 3 and 7 · 2 = 14",
    "9 – 3 = 6 and 9 − 3 = 6",
    "3 x 12 = 36",
    "3x12 = 36",
    "70 x .6 = 42",
    "1,000 + 234 = 1,234",
    "5 books x $3 per book = $15",
    "22 pages/day x 569 days = 12,518 pages",
    "$1.5/sandwich * 8 sandwiches = $12",
    "$ 51 - $ 8 = $ 43",
    "50% of 20 = 10",
    "1/4 = 25%",
    "5 / 20 * 100 = 25%",
    "2/5 of 20 = 8 coins",
    "10 / 3 = 3.33",
    "10 / 6 = 1.66, cut rather than rounded",
    "10 / 4 = 2.5 dollars",
    "22 (original amount) - 15 (amount he ate) = 7 (sweet cookies Paco had left)",
    "He has 3 bags (2 + 4 = 6 apples).",
    "**15 + 18 = 33**",
    r"\(15 \times 2 = 30\)",
    "48/2 = <<48/2=24>>24 clips",
    "15 plus 18 equals 33",
    "8 times .25 equals 2",
    "36 divided by 12 is equal to 3",
    "Total number of kids = 644997 + 893835\n= 1538832",
    "33 = 15 + 18 = 33",
    "1. 5 + 3 = 8 2. 8 - 1 = 7",
    "15 + 18 = 33. 3 of them are red.",
    "60 / 15 = 4 (15 minutes)",
    "- 15 + 18 = 33",
    "Jake had 12 and then found 15 + 18 = 33.",
    "20 - 8 = 12 Therefore, he has 12.",
]

WRONG = [
    ("Danny has 15 + 18 = 32 caps.", "15 + 18 = 32 caps"),
    ("15 + 18 = 33 - 1 = 31", "33 - 1 = 31"),
    ("15 + 18 = 33 + 2 = 35", "15 + 18 = 33 + 2"),
    ("7/2 = 3", "7 /2 = 3"),
    ("10 / 3 = 3.4", "10 / 3 = 3.4"),
    ("10 / 3 = 3.35", "10 / 3 = 3.35"),
    ("15 + 18 = 32 caps - 13 of them red", "15 + 18 = 32 caps - 13 of them red"),
    ("1,000 + 234 = 1,244", "1,000 + 234 = 1,244"),
    ("5 books x $3 per book = $16.", "5 books * $3 per book = $16"),
    ("50% of 20 = 12", "50% of 20 = 12"),
    ("He gave away 37 - 38 = 1 file.", "37 - 38 = 1 file"),
    ("55 + 178 = 276 cards left.", "55 + 178 = 276 cards left"),
    ("20 - 10 = 18 Therefore, he has 18.", "20 - 10 = 18 Therefore"),
    ("15 plus 18 equals 34", "15 + 18 = 34"),
    ("2 + 3 * 4 = 20", "2 + 3 * 4 = 20"),
]

UNREAD = [
    "Total = 15",
    "3 books = 15 dollars",
    "1 dozen = 12",
    "total cost of 3 books = 3 x $5",
    "x + 2 = 5",
    "2x + 3 = 7",
    "5 = 10 - x",
    "f(3) = 5",
    "2^3 = 8",
    "2**3 = 8",
    "March 1, 2002 + 2 days = March 3, 2002",
    "12/31/1929 + 7 days = 01/07/1930",
    "9/7 - 1 week = 8/31",
    "y + a + j = yaj",
    "17 / 5 = 3 remainder 2",
    "7 / 2 = 3 with 1 left over",
    "7/3 = 2 and 1/3 crackers",
    "7/3 = 2 1/3",
    "25 cents + $1 = $1.25",
    "2 hours * 60 = 2 * 60 minutes = 7200 seconds",
    "100 + 10% = 110",
    "Step 1 - 15 + 18 = 33",
    "33 - 33 - 1 = 32",
    "3 bags of 5 cookies + 2 = 17 cookies",
    "15 + 18 = 33 caps - 13 of them red",
    "8 x 4 : 1 x 4 = 32 : 4",
    "5  5 = 1",
    "3:30 - 15 = 3:15",
    "1 / 0 = 7",
    "5 + = 7",
    "= 7",
    "5 + 3 =",
    "The 3rd + 2 = 6",
    "01 - 1 = 12",
    "Apples = 60 - 8 Number of pears = 7",
    "3.33 * 3 = 10",
    "They need at least ceil(3/99) = 1 bus.",
    "22 pounds + 36 pounds Total weight + 30 pounds = 52 pounds",
]


@pytest.mark.parametrize("text", HOLDING)
def test_true_arithmetic_holds(text: str) -> None:
    counts = check_arithmetic(text)
    assert counts.wrong == ()
    assert counts.holding >= 1
    assert counts.unread == (text.startswith(("Total number", "33 =")))


@pytest.mark.parametrize(("text", "written"), WRONG)
def test_false_arithmetic_is_named(text: str, written: str) -> None:
    assert check_arithmetic(text).wrong == (written,)


@pytest.mark.parametrize("text", UNREAD)
def test_what_may_mean_something_else_is_left_alone(text: str) -> None:
    counts = check_arithmetic(text)
    assert counts.wrong == ()
    assert counts.unread >= 1


@pytest.mark.parametrize("text", ["", "No equation at all, 5 + 3.", "a == b, a != 3, 5 >= 3, 5 <= 3, a => b"])
def test_no_equation_no_link(text: str) -> None:
    assert check_arithmetic(text) == EquationCounts(0, (), 0)


TERMS = st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 999)), min_size=1, max_size=4)
UNITS = st.sampled_from(["", " red balls", " apples per tree", " kg"])


@given(st.integers(0, 999), TERMS, UNITS, st.integers(-3, 3))
def test_sums_with_units_hold_exactly_if_they_are_right(
    first: int, terms: list[tuple[str, int]], unit: str, off: int
) -> None:
    plain = f"{first}" + "".join(f" {operator} {number}" for operator, number in terms)
    # A wrong sum with a last part that equals the result, as in "1 - 1 = 1", stays unread.
    parts = plain.split()
    assume(off == 0 or eval(plain) + off not in {eval(" ".join(parts[at:])) for at in range(2, len(parts), 2)})
    written = f"{first}{unit}" + "".join(f" {operator} {number}{unit}" for operator, number in terms)
    counts = check_arithmetic(f"So there are {written} = {eval(plain) + off:,}{unit}.")
    assert (counts.holding, len(counts.wrong), counts.unread) == ((1, 0, 0) if off == 0 else (0, 1, 0))


@given(st.text("0123456789 =+-*/().,$%xX\nabof", max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    counts = check_arithmetic(text)
    assert counts.holding + len(counts.wrong) + counts.unread >= 0


@pytest.mark.parametrize("piece", ["(", "1+", "1 = ", "(1", "1 apples - ", "9", "1,111", "a ", "-", "=", "1/", "%"])
def test_long_texts_are_read_in_time_that_grows_with_their_length(piece: str) -> None:
    text = piece * (20_000 // len(piece))
    start = time.perf_counter()
    check_arithmetic(text)
    assert time.perf_counter() - start < 10


def test_the_papers_teacher_makes_few_errors_and_the_mentor_many(shared_data: Path) -> None:
    """Equations of correct SVAMP rationales: the share that is wrong, of those that can be read."""

    def wrong_share(path: str) -> float:
        rows = [row for row in json.loads((shared_data / "mentor-kd" / path).read_text()) if row["initial_correct"]]
        counts = [check_arithmetic(row["chain"]) for row in rows[:600]]
        wrong, holding = sum(len(each.wrong) for each in counts), sum(each.holding for each in counts)
        assert holding > 300
        return wrong / (wrong + holding)

    assert wrong_share("main/svamp_3_train.json") < 0.02
    assert wrong_share("aug/flan-t5_large/svamp_rand3_aug3.json") > 0.05
