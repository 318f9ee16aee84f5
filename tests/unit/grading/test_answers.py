"""Grading: an adversarial table for each kind, properties, and the verdicts recorded by the paper's authors."""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mentorkd.errors import DataError
from mentorkd.grading.answers import option_letters
from mentorkd.grading.grade import Graded, choices_of, extract, grade, normalise_answer
from mentorkd.records import AnswerKind
from places import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import grade_recorded

NUMBERS = [
    # after a marker the first candidate, without one the last
    ("3 + 4 = 7 --> 7", "7"),
    ("so 12. --> 7", "7"),
    ("--> 7 (and not 8)", "7"),
    ("--> 7 or 8", "7"),
    ("-->7", "7"),
    ("9 --> 7 --> 5", "7"),
    ("10 - 3 --> seven", None),
    ("10 - 3 = 7 -->", None),
    ("--> ", None),
    ("", None),
    ("There is no way to know.", None),
    ("3 × 4 = 12", "12"),
    ("He had 5. He ate 2. He has 3.", "3"),
    ("He had 5.He ate 2.He has 3.Done", "3"),
    ("Therefore, the answer is 42.", "42"),
    ("THEREFORE, THE ANSWER IS 42", "42"),
    ("so the answer is: 42, that is 6 * 7", "42"),
    ("The answer is 5. No wait, the answer is 6.", "6"),
    ("The answer is 5. I hope the answer is clear.", "5"),
    ("We had 5. The answer is unknown.", None),
    ("The correct answer would be 17 apples", "17"),
    ("The final answer must be 17, since 20 - 3 = 17", "17"),
    ("10 + 7\nAnswer: 17\nThat took 2 steps.", "17"),
    ("**Answer:** 17 (10 + 7)", "17"),
    ("Here is how to get the answer: 1. Take 20. 2. Subtract 3. 20 - 3 = 17", "17"),
    ("16 - 3 = 13\n#### 13", "13"),
    ("16 - 3 = 13 #### 13", "13"),
    ("#### Step 1\n16 - 3 = 13", "13"),
    ("#### 1. Subtract\n16 - 3 = 13\n\nSo 13 are left.", "13"),
    ("It is $\\boxed{42}$, found in 3 steps.", "42"),
    ("\\boxed{1} then \\boxed{2}", "2"),
    ("\\boxed{\\frac{1}{2}} of 8", "0.5"),
    ("\\boxed{3\\frac{1}{2}}", "3.5"),
    ("\\boxed{-\\dfrac12}", "-0.5"),
    ("\\boxed{\\text{about } 1{,}250}", "1250"),
    ("\\boxed{\\$1\\,250}", "1250"),
    ("\\boxed{7} and \\boxed{12", "7"),
    ("the set \\{1, 2\\} gives \\boxed{3}", "3"),
    ("\\boxed{7} --> 8", "8"),
    ("#### 7\nThe answer is 8", "8"),
    ("The answer is 8\n#### 7", "7"),
    ("The answer is 8, \\boxed{7}", "7"),
    # how numbers are written
    ("--> 18.0", "18"),
    ("--> 18.", "18"),
    ("--> 18.50", "18.5"),
    ("--> 007", "7"),
    ("--> .5", "0.5"),
    ("--> 0.1", "0.1"),
    ("--> 1,000", "1000"),
    ("--> 1,234,567.80", "1234567.8"),
    ("--> 1,2", "1"),
    ("the sides are 3,4,5", "5"),
    ("--> 12,34", "12"),
    ("--> $5", "5"),
    ("--> $1,000.00.", "1000"),
    ("--> £5 and €6", "5"),
    ("--> 50%", "50"),
    ("20% of 50 = 10", "10"),
    ("--> 20% of 50 = 10", "10"),
    ("The answer is 20% of 50 = 10.", "10"),
    ("The answer is 20 percent of 50 = 10", "10"),
    ("The answer is 1/4 of 20 = 5 apples", "5"),
    ("The answer is $20\\%$ of 50", "20"),
    ("--> 20% of the 50 people", "20"),
    ("--> 3 of 5 = 3/5", "3"),
    ("--> -3", "-3"),
    ("--> −3", "-3"),
    ("--> -$3.50", "-3.5"),
    ("--> $-3", "-3"),
    ("-->-3", "-3"),
    ("16 - 19 = -3", "-3"),
    ("x=-3", "-3"),
    ("between 10-3", "3"),
    ("10 - 3", "3"),
    ("10 -3", "3"),
    ("10–3", "3"),
    ("(10)-3", "3"),
    ("GPT-3", "3"),
    ("--> -0.0", "0"),
    ("--> 1/2", "0.5"),
    ("--> 1⁄2", "0.5"),
    ("--> ½", "0.5"),
    ("--> 2½", "2.5"),
    ("--> 2 1/2", "2.5"),
    ("--> -1/3", "-1/3"),
    ("--> 2/6", "1/3"),
    ("--> 1/0", None),
    ("--> 1e3", "1000"),
    ("--> 2.5e-3", "0.0025"),
    ("--> 3 × 10^4", "30000"),
    ("--> 3 \\times 10^{-2}", "0.03"),
    ("--> 5kg", "5"),
    ("--> 5-year", "5"),
    ("--> **5**", "5"),
    ("--> " + "9" * 50, "9" * 50),
    ("--> " + "9" * 5000, None),
    # a calculation after a marker gives its result
    ("--> 5 + 3 = 8", "8"),
    ("The answer is 5 apples + 3 apples = 8 apples, so 8 - 5 = 3", "8"),
    ("The answer is 10 - 3 = 7.", "7"),
    ("The answer is 10-3=7.", "7"),
    ("The answer is 2x4 = 8", "8"),
    ("The answer is 12/4 = 3", "3"),
    ("The answer is 3 + 4 = 10 - 3 = 7", "7"),
    ("The answer is 7 = 3 + 4", "7"),
    ("The answer is 7. 3 + 4 = 7, 7 + 1 = 8", "7"),
    # dates, times, versions and ratios are no numbers; labels and asides count last
    ("5 left on 05/01/2021", "5"),
    ("5 left on 2021-05-01", "5"),
    ("5 left at 3:30", "5"),
    ("--> 3:2", None),
    ("5 left, see 1.2.3", "5"),
    ("5 left on the 2nd", "5"),
    ("It was the 2nd", "2"),
    ("5 left in Step 2", "5"),
    ("50 cm^2", "50"),
    ("50 m2", "50"),
    ("1. He had 8.\n2. He ate 3.\n8 - 3 = 5\n3. So five are left.", "5"),
    ("So 90 are left after spending 38.", "90"),
    ("She has 5 more than the 3 before.", "5"),
    ("He has 2 more (10 - 8).", "2"),
    ("That makes eight (8) shelves (4 a wall).", "8"),
    ("After 3 days he has 15", "15"),
    ("After 3 days, he has 15. That took 2.", "2"),
    ("They fill 17,017 drums in 77 days.", "17017"),
    ("He had 12 and ate 4. So he is left with 8.", "8"),
    ("He had 12 and ate 4. That results in 8.", "8"),
    ("There are in total 8.", "8"),
    ("only after 3", "3"),
    ("It is not 5 but 6", "6"),
    ("It is 6, not 5", "6"),
    ("The answer is not 5", None),
    ("It is 6. 5 is not the answer.", "6"),
    ("5 are not ripe", "5"),
    ("the answer is five", None),
    ("٣", None),
]

CHOICES = [
    ("--> B", "B"),
    ("--> (B)", "B"),
    ("--> (b)", "B"),
    ("--> b", "B"),
    ("--> b.", "B"),
    ("--> b) ball", "B"),
    ("--> B.", "B"),
    ("--> B)", "B"),
    ("--> B: ball", "B"),
    ("--> B. ball", "B"),
    ("--> B ball", "B"),
    ("--> [C]", "C"),
    ("--> **C**", "C"),
    ("--> 'C'", "C"),
    ('--> "C"', "C"),
    ("--> option b", "B"),
    ("--> Choice (c)", "C"),
    ("--> A", "A"),
    ("--> A.", "A"),
    ("--> A ball", None),
    ("--> A orange ball (B)", "B"),
    ("--> a blue ball", None),
    ("--> the orange ball", None),
    ("--> D", None),
    ("--> D. (A) is close", "A"),
    ("(A) or (B) --> ", None),
    ("Alice swaps with Bob. The answer is (B).", "B"),
    ("The answer is (B), Alice", "B"),
    ("The answer is B", "B"),
    ("The answer is Claire's: C", "C"),
    ("the correct answer choice is (C) blue ball (Bob has A)", "C"),
    ("\\boxed{C}", "C"),
    ("\\boxed{\\text{(C) blue}}", "C"),
    ("It is (A).\n#### B", "B"),
    ("Alice has the orange ball (B)", "B"),
    ("So (B) Catch-22.", "B"),
    ("So the choice is (A) Hound of the Baskervilles.", "A"),
    ("So (A) Catch-22", "A"),
    ("Alice, Bob and Claire swap.", None),
    ("A ball is round, (B)", "B"),
    ("(B). A ball is round.", "B"),
    ("B it is. I am sure.", "B"),
    ("So A is right", "A"),
    ("So A and not B", "A"),
    ("So it is A because it fits", "A"),
    ("So option a is right", "A"),
    ("the choice a person makes", None),
    ("First (A), then (B), lastly (C)", "C"),
    ("(A) x (B) y (C) z. So B.", "B"),
    ("(A), not (B)", "A"),
    ("(A) fits. (B) is wrong.", "A"),
    ("(A) fits. (B) is not correct.", "A"),
    ("It isn't (B)", None),
    ("B.C. and A.D.", None),
    ("J. B. Smith said (C)", "C"),
    ("T-shirt, vitamin-C, A&C, C++, A's", None),
    ("person(s) and ball(b)", None),
    ("choices A-C", None),
    ("", None),
]

YES_NO = [
    ("--> yes", "yes"),
    ("--> No", "no"),
    ("--> NO.", "no"),
    ("--> True", "yes"),
    ("--> false", "no"),
    ("--> no, because yes would be odd", "no"),
    ("--> no it is not", "no"),
    ("--> **Yes**", "yes"),
    ("--> maybe", None),
    ("--> yes or no", None),
    ("yes --> unsure", None),
    ("So the answer is no.", "no"),
    ("So the answer is no. 5 people is too few.", "no"),
    ("The answer is not true.", "no"),
    ("The answer is \\boxed{\\text{Yes}}", "yes"),
    ("#### yes", "yes"),
    ("Yes at first. But no", "no"),
    ("No, then yes", "yes"),
    ("We know nothing; none of it is known.", None),
    ("Yesterday the nobles noted it.", None),
    ("No one was there.", None),
    ("Yes. No one was there.", "yes"),
    ("Yes, there is no evidence against it.", "yes"),
    ("Yes, it is no longer so.", "yes"),
    ("Yes. See No. 5", "yes"),
    ("Yes, a no-fly zone", "yes"),
    ("Yes, it rests on a true story.", "yes"),
    ("No, though it rests on a true story.", "no"),
    ("It is no because it rained", "no"),
    ("No\nBecause it rained", "no"),
    ("It is true that cats purr", "yes"),
    ("It is not true", "no"),
    ("It isn't true", "no"),
    ("It is not false", "yes"),
    ("The answer is not yes.", "no"),
    ("The answer isn't yes.", "no"),
    ("The answer isn’t “yes”.", "no"),
    ("The answer is not a yes.", "no"),
    ("The answer cannot be yes.", "no"),
    ("This cannot be true.", "no"),
    ("It can't be true.", "no"),
    ("It may or may not be true.", "yes"),
    ("The answer is not no.", "yes"),
    ("The answer is yes, not no.", "yes"),
    ("It is not known. Yes.", "yes"),
    ("Is it not so? --> yes", "yes"),
    ("Is it true or false?", None),
    ("Yes/No?", None),
    ("", None),
]

TEXTS = [
    ("--> yajc", "yajc"),
    ('--> "yajc"', "yajc"),
    ('--> "yajc".', "yajc"),
    ("--> YAJC", "yajc"),
    ("--> y a j c", "yajc"),
    ("--> y.a.j.c.", "yajc"),
    ("--> aqa'a", "aqaa"),
    ("--> “yajc”", "yajc"),
    ("--> **yajc**", "yajc"),
    ("--> yajc. I hope this helps!", "yajc"),
    ("--> yajc\nand so on", "yajc"),
    ("--> St. Louis", "stlouis"),
    ("--> J. K. Rowling", "jkrowling"),
    ("--> 'yajc' is the word", "yajc"),
    ("--> y-a-j-c", "y-a-j-c"),
    ("--> e\u0301a", "éa"),
    ('--> ".', None),
    ("-->", None),
    ("", None),
    ("The answer is yajc.", "yajc"),
    ('So the final answer would be "yajc".', "yajc"),
    ("\\boxed{\\text{yajc}}", "yajc"),
    ("y, a, j, c\n#### yajc", "yajc"),
    ("#### Conclusion\nwe get: yajc", "yajc"),
    ("- Lucky: y\n- Jc: c\n\nPutting them together, we get: yc", "yc"),
    ("Concatenating them gives us: YC.", "yc"),
    ("Lucky - y\nJc - c\n\nNow, let's concatenate them:\n\nyc", "yc"),
    ("Concatenate them:\n\ny c", "yc"),
    ("(y) + (c) = yc", "yc"),
    ('So the result for "Lucky Jc" is "yc".', "yc"),
    ('So the result for "Lucky Jc" is yc.', "yc"),
    ('So, the result is "yc" from the words "Lucky Jc".', "yc"),
    ('They form the string "yc".', "yc"),
    ("We get: yc\n\nLet me know if you need anything else!", "yc"),
    ('Both "y" and "c", together "yc"', "yc"),
    ("yc", "yc"),
    ("Here you go yc", "yc"),
]

TABLE = [
    *(
        (kind, text, expected)
        for kind, cases in (("number", NUMBERS), ("yes_no", YES_NO), ("text", TEXTS))
        for text, expected in cases
    ),
    *(("choice", text, expected) for text, expected in CHOICES),
]
OTHER_GOLD = {"number": "123456", "choice": "A", "yes_no": "yes", "text": "other"}


def test_table_is_large() -> None:
    assert len(TABLE) == len(set(TABLE)) >= 120


@pytest.mark.parametrize(("kind", "text", "expected"), TABLE)
def test_table(kind: str, text: str, expected: str | None) -> None:
    choices = ["A", "B", "C"] if kind == "choice" else None
    assert extract(text, kind, choices) == expected
    if expected is None:
        assert grade(text, OTHER_GOLD[kind], kind, choices) == Graded(None, "no_answer")
        return
    assert grade(text, expected, kind, choices) == Graded(expected, "correct")
    other = {"A": "B", "yes": "no"}.get(expected, OTHER_GOLD[kind])
    assert grade(text, other, kind, choices) == Graded(expected, "wrong")


@pytest.mark.parametrize(
    ("gold", "kind", "choices", "expected"),
    [
        ("1,080", "number", None, "1080"),
        ("18.0 apples", "number", None, "18"),
        ("He has 3 + 4 = <<3+4=7>>7.\n#### 7", "number", None, "7"),
        ("$5.50", "number", None, "5.5"),
        ("", "number", None, None),
        ("five", "number", None, None),
        ("10-3", "number", None, None),
        ("3 or 4", "number", None, None),
        ("05/01/2021", "number", None, None),
        ("A. ignore", "choice", None, "A"),
        ("B. vitamin C", "choice", None, "B"),
        ("(C) ball", "choice", None, "C"),
        ("d", "choice", None, "D"),
        ("D", "choice", ["A", "B", "C"], None),
        ("Alice", "choice", None, None),
        ("A ball", "choice", None, None),
        ("True", "yes_no", None, "yes"),
        ("no.", "yes_no", None, "no"),
        ("not sure", "yes_no", None, None),
        ("Aqa'a", "text", None, "aqaa"),
        (" . ", "text", None, None),
    ],
)
def test_normalise_answer(gold: str, kind: str, choices: list[str] | None, expected: str | None) -> None:
    assert normalise_answer(gold, kind, choices) == expected
    if expected is None:
        with pytest.raises(DataError, match="the gold answer is"):
            grade("--> 5", gold, kind, choices)
    else:
        assert normalise_answer(expected, kind, choices) == expected


def test_equal_answers_have_one_normal_form() -> None:
    def equal(one: str, other: str, kind: AnswerKind) -> bool:
        form = normalise_answer(one, kind)
        return form is not None and form == normalise_answer(other, kind)

    assert equal("18.0", "18", "number")
    assert equal("1/2", "0.50", "number")
    assert equal("(b)", "B. ball", "choice")
    assert equal("True", "yes", "yes_no")
    assert equal('"Y A J C".', "yajc", "text")
    assert not equal("25", "5", "number")
    assert not equal("0.30000000000000004", "0.3", "number")
    assert not equal("5 or 6", "5", "number")
    with pytest.raises(DataError, match="expected one number"):
        grade("5", "five", "number")


@pytest.mark.parametrize(
    ("question", "letters"),
    [
        ("Which choice is true? Answer choices: (A) 05/01/2021, (B) 05/02/2021, (C) 03/14/2021.", "ABC"),
        ("What? Answer Choices:\nA. ignore\nB. enforce\nC. vitamin B. C\nD. yell at\nE. avoid\n", "ABCDE"),
        ("Who? A) Bob B) Claire", "AB"),
        ("Is (A) or (B) right? (A) x (B) y (C) z", "ABC"),
        ("Is J. B. Smith (A) good?", ""),
        ("Alice has a ball. Bob has none.", ""),
        ("A. only one", ""),
        ("", ""),
    ],
)
def test_option_letters(question: str, letters: str) -> None:
    assert option_letters(question) == list(letters)


FRACTIONS = st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=10**6)


@given(
    FRACTIONS,
    st.sampled_from(["--> {}", "Therefore, the answer is {}.", "2 + 2\n#### {}", "\\boxed{{{}}}", "so it is {}"]),
)
def test_any_fraction_is_itself(value: Fraction, form: str) -> None:
    assert grade(form.format(value), str(value), "number").verdict == "correct"
    assert grade(form.format(value), str(value + 1), "number").verdict == "wrong"


@given(
    st.decimals(min_value=-(10**9), max_value=10**9, places=3),
    st.sampled_from(["{:,}", "${:,}", "{}0", "{}%", "{} apples", "**{}**", "({})", "{}."]),
    st.sampled_from(["5 + 6 --> {}", "The final answer is: {}", "of 7: \\boxed{{{}}}", "I had 3 and got {}"]),
)
def test_any_decimal_in_any_rendering(value: object, rendering: str, form: str) -> None:
    assert grade(form.format(rendering.format(value)), str(value), "number").verdict == "correct"


@given(st.text(max_size=200).filter(lambda text: "-->" not in text), st.sampled_from("ABCDE"))
def test_a_marker_decides_whatever_stands_before(before: str, letter: str) -> None:
    assert extract(f"{before} --> ({letter}) ball", "choice", list("ABCDE")) == letter


@given(st.text(max_size=300), st.sampled_from(["number", "choice", "yes_no", "text"]))
def test_any_text_is_gradable_and_its_answer_is_normal(text: str, kind: str) -> None:
    found = extract(text, kind)
    assert found is None or normalise_answer(found, kind) == found


MARKS = (
    "\n | |{|}|\\boxed{|\\boxed{1} |####|#### 1\n|-->|the answer is |the answer is 1 |answer:|\nanswer: |*|the |\\|. "
)
GARBAGE = {
    "number": "1|1 |1,|1.|1/|1:|1-|-|- 1|x1 |after 1 |(1|3:30 |not 1 |1 + |1 1/|1e|\\frac{|\\frac{1|{,}|$|((((1|1/2 = ",
    "choice": "A|A |(A) |(A|a |not (A) |A. |[A|I |option |'A",
    "yes_no": "yes or no |no |true |not true |n't|no. ",
    "text": "\"|\"a|'|'a |“|:|: |is |St. |a. |.|* ",
}


@pytest.mark.parametrize(("kind", "gold"), [("number", "1"), ("choice", "A"), ("yes_no", "yes"), ("text", "a")])
def test_garbage_is_graded_in_linear_time(kind: str, gold: str) -> None:
    rng = random.Random(0)
    texts = [unit * (100_000 // len(unit)) for unit in GARBAGE[kind].split("|")]
    texts += ["the answer is " + text for text in texts]
    texts += [unit * (100_000 // len(unit)) for unit in MARKS.split("|")]
    texts += ["\\boxed{" * 12_000 + "}" * 12_000, "".join(rng.choices("0123456789.,-/:() $ABx\n\"'", k=100_000))]
    for text in texts:
        spent = []
        for _ in range(3):  # a busy machine stretches even the processor's own time
            start = time.process_time()
            grade(text, gold, kind)
            spent.append(time.process_time() - start)
            if spent[-1] < 0.5:
                break
        assert min(spent) < 0.5, text[:40]


def test_the_paper_s_mentor_outputs(shared_data: Path) -> None:
    """The verdict agrees with the recorded one on at least 99.5 % of the rows that carry a completion."""
    files = sorted((shared_data / "mentor-kd" / "aug").glob("*/*.json"))
    assert len(files) == 8
    rows = agree = 0
    for row in grade_recorded.mentor_rows(shared_data):
        rows += 1
        agree += row.agrees
    assert rows == 10_998
    assert agree / rows >= 0.995


def test_the_paper_s_raw_teacher_rationales(shared_data: Path) -> None:
    """Without a marker, the statement of the last sentence is correct more often than the plain last number."""
    rows = json.loads((shared_data / "mcc-kd" / "SVAMP" / "train.json").read_text(encoding="utf-8"))[:200]
    texts = [(text, row["label"]) for row in rows for text in row["output"]]
    verdicts = Counter(grade(text, label, "number").verdict for text, label in texts)
    plain = sum(grade_recorded.plain_last(text, "number", None) == label for text, label in texts)
    assert sum(verdicts.values()) == 2000
    assert plain < verdicts["correct"] < 1.1 * plain
    assert verdicts["no_answer"] < 20


def test_every_paper_gold_answer_is_readable(shared_data: Path) -> None:
    count = 0
    for file in sorted((shared_data / "mentor-kd" / "skeleton").glob("*.json")):
        kind = grade_recorded.kind_of(file)
        for row in json.loads(file.read_text(encoding="utf-8")):
            letters = choices_of(row["input"], kind)
            assert letters is None or 3 <= len(letters) <= 6
            assert normalise_answer(row["answer"], kind, letters) is not None
            count += 1
    assert count > 20_000


@pytest.mark.slow
def test_the_document_holds_the_tables_of_the_script(shared_data: Path) -> None:
    document = ROOT / "docs" / "results" / "grading.md"
    assert grade_recorded.tables(shared_data) in document.read_text(encoding="utf-8")
