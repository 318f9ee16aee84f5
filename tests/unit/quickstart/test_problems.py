"""The generated task: correct answers, a teacher with the stated error rates, files in the form of a user's own."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import yaml

from mentorkd.grading.grade import grade
from mentorkd.quickstart.problems import generate_problems
from mentorkd.quickstart.task import RECIPE, write_task
from mentorkd.quickstart.teacher import PHRASINGS, annotate
from mentorkd.recipe.schema import Recipe

PROBLEMS = list(islice(generate_problems(5), 2000))


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found, f"{pattern} not in {text}"
    return found.group(1)


def solve(question: str) -> int:
    """Solve a problem from its text alone, knowing the words but nothing of the generator's structured form."""
    *story, ask = re.split(r"(?<=[.?]) ", question)
    things = first(r"(?:How many|the number of) (\w+)", ask)
    place = re.search(r"(?:in|on) the (\w+)", ask)
    steps = [text for text in story[1:] if re.search(rf"\b{things}\b", text) and not BESIDE.search(text)]
    person = first(r"([A-Z]\w+) (?:has|owns|comes)", re.sub(LINK, "", story[0])) if place is None else None
    total = int(first(r"(\d+)", story[0]))
    for text in steps:
        gain, *losses = map(int, re.findall(r"\d+", text))
        total += gain if _is_gain(re.sub(LINK, "", text), person) else -gain
        total -= sum(losses)
    return total


BESIDE = re.compile(r"too\.|for a friend|on the table|another|also")
LINK = re.compile(r"^(At first|In the morning|Then|Later|After that|In the evening) ")


def _is_gain(text: str, person: str | None) -> bool:
    if person is None:
        return re.search(r"\b(puts|adds|brings|get on|come on)\b", text) is not None
    actor, verb = first(r"^(A friend|a friend|\w+) ", text), first(r"^(?:A friend|a friend|\w+) (\w+)", text)
    own = actor in (person, "He", "he", "She", "she")
    return verb in (OWN_GAINS if own else GAINS_FROM_OTHERS)


OWN_GAINS = {"buys", "finds", "gets", "picks", "wins"}
GAINS_FROM_OTHERS = {"gives", "brings"}


def test_the_same_seed_gives_the_same_problems_and_another_seed_others() -> None:
    assert list(islice(generate_problems(5), 50)) == PROBLEMS[:50]
    assert not {p.question for p in islice(generate_problems(6), 50)} & {p.question for p in PROBLEMS}


def test_answers_follow_from_the_text_alone() -> None:
    wrong = [(p.question, p.answer, solve(p.question)) for p in PROBLEMS if solve(p.question) != p.answer]
    assert wrong == []


def test_every_number_of_the_text_is_a_start_a_step_or_an_aside() -> None:
    for problem in PROBLEMS:
        numbers = Counter(map(int, re.findall(r"\d+", problem.question)))
        assert numbers == Counter([problem.start, *map(abs, problem.steps), *problem.asides])


def test_problems_are_distinct_and_sane() -> None:
    assert len({p.question for p in PROBLEMS}) == len(PROBLEMS)
    assert {len(p.steps) for p in PROBLEMS} == {2, 3, 4, 5}
    assert {len(p.asides) for p in PROBLEMS} == {0, 1}
    assert all(2 <= total <= 99 for p in PROBLEMS for total in p.totals)
    assert all(re.fullmatch(r"([A-Z0-9][^.?]*[.?] ?)+", p.question) for p in PROBLEMS)
    words = {word for p in PROBLEMS for word in re.findall(r"[A-Za-z]+", p.question)}
    assert 100 < len(words) < 200


def test_no_answer_is_so_common_that_guessing_it_pays() -> None:
    assert Counter(p.answer for p in PROBLEMS).most_common(1)[0][1] / len(PROBLEMS) < 0.04


def wrong_steps(rationale: str, start: int, steps: tuple[int, ...]) -> bool:
    """Whether the worked steps, read from the text, are not exactly the problem's."""
    found = [
        (int(a), int(b) if sign == "+" else -int(b), int(c))
        for a, sign, b, c in re.findall(r"(\d+) ([+-]) (\d+) = (\d+)", rationale)
    ] + [
        (int(a), int(n) if verb == "Adding" else -int(n), int(b))
        for verb, n, a, b in re.findall(r"(Adding|Taking) (\d+) (?:to|from) (\d+) gives (\d+)", rationale)
    ]
    expected, total = [], start
    for step in steps:
        expected.append((total, step, total + step))
        total += step
    return found != expected


def test_the_teacher_errs_at_a_realistic_rate_and_the_filter_finds_it() -> None:
    problems = [p for p in PROBLEMS for _ in range(3)]
    annotations = annotate(PROBLEMS, samples=3, seed=1)
    verdicts = Counter()
    kept = kept_wrong = 0
    for problem, row in zip(problems, annotations, strict=True):
        assert row.question == problem.question
        verdict = grade(row.completion, row.answer, "number").verdict
        verdicts[verdict] += 1
        if verdict == "correct":
            kept += 1
            kept_wrong += wrong_steps(row.rationale, problem.start, problem.steps)
        elif verdict == "wrong":
            assert wrong_steps(row.rationale, problem.start, problem.steps)
    share = {verdict: count / len(annotations) for verdict, count in verdicts.items()}
    assert share["correct"] == pytest.approx(0.77, abs=0.03)
    assert share["wrong"] == pytest.approx(0.22, abs=0.03)
    assert share["no_answer"] == pytest.approx(0.01, abs=0.006)
    assert 0 < kept_wrong / kept < 0.02


@pytest.mark.parametrize("master_seed", range(10))
def test_few_wrong_rationales_pass_the_filter_of_the_quickstart(master_seed: int, tmp_path: Path) -> None:
    """With a correct final answer, the answer filter cannot see them."""
    write_task(tmp_path, seed=master_seed)
    kept = [row for row in rows(tmp_path / "teacher.jsonl") if row_verdict(row) == "correct"]
    solved = {problem.question: problem for problem in islice(generate_problems(master_seed), 200)}
    problems = [solved[row["question"]] for row in kept]
    wrong = sum(wrong_steps(row["rationale"], p.start, p.steps) for row, p in zip(kept, problems, strict=True))
    assert 0 < wrong < 0.03 * len(kept)


def row_verdict(row: dict[str, str]) -> str:
    return grade(row["completion"], row["answer"], "number").verdict


def test_every_phrasing_is_used_and_graded_as_a_whole_target() -> None:
    annotations = annotate(PROBLEMS[:300], samples=3, seed=2)
    openings = Counter(" ".join(row.rationale.split()[:2]) for row in annotations)
    assert len(openings) == len(PHRASINGS)
    for row in annotations:
        predicted = grade(row.completion, row.answer, "number")
        assert grade(f"{row.rationale} --> {row.completion}", row.answer, "number") == predicted


def test_write_task_writes_disjoint_splits_of_the_asked_sizes(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "new" / "data", seed=3, train=60, validation=20, test=40, annotated=15, samples=2)
    splits = {name: rows(folder / f"{name}.jsonl") for name in ("train", "validation", "test")}
    assert {name: len(split) for name, split in splits.items()} == {"train": 60, "validation": 20, "test": 40}
    assert len({row["question"] for split in splits.values() for row in split}) == 120
    assert all(set(row) == {"question", "answer"} for split in splits.values() for row in split)
    taught = rows(folder / "teacher.jsonl")
    assert all(set(row) == {"question", "rationale", "completion", "answer"} for row in taught)
    assert [row["question"] for row in taught[::2]] == [row["question"] for row in splits["train"][:15]]
    assert len(taught) == 30
    asked = [row["question"] for row in splits["train"]]
    assert [row["question"] for row in rows(folder / "teacher-spread.jsonl")] == asked[:30]


def test_the_teacher_can_be_spread_over_all_questions(tmp_path: Path) -> None:
    folder = write_task(tmp_path, train=10, validation=1, test=1, annotated=4, samples=3)
    spread, asked = rows(folder / "teacher-spread.jsonl"), [row["question"] for row in rows(folder / "train.jsonl")]
    assert [row["question"] for row in spread] == asked + asked[:2]
    assert len({(row["question"], row["rationale"]) for row in spread}) == 12


def test_write_task_repeats_itself_byte_for_byte(tmp_path: Path) -> None:
    sizes = {"train": 30, "validation": 5, "test": 10, "annotated": 10}
    one, two, other = (write_task(tmp_path / name, seed=seed, **sizes) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes() != (other / file.name).read_bytes()


def test_write_task_says_what_is_wrong_with_the_budget(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="annotated must lie between 1 and train"):
        write_task(tmp_path, train=10, annotated=11)


def test_the_recipe_is_valid_and_compares_the_four_learners() -> None:
    recipe = Recipe(**yaml.safe_load(RECIPE.read_text(encoding="utf-8")))
    assert list(recipe.learners) == ["vanilla", "self-taught", "mentor", "student"]
    assert recipe.learners["student"].soft_labels == "mentor"
    assert recipe.learners["self-taught"].rationales == ["teacher", "vanilla"]
