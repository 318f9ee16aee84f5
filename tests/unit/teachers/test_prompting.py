"""Prompts: the paper's words, the sandbox, worked examples, and how replies are parted."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mentorkd.errors import DataError, TeacherError
from mentorkd.recipe.teacher import LocalTeacherConfig
from mentorkd.records import Question, Rationale, Split
from mentorkd.teachers.prompting import (
    Exemplar,
    Prompter,
    exemplars_from,
    open_prompter,
    read_exemplars,
    read_template,
    split_answer,
)

SPLITS: tuple[Split, ...] = ("train", "train", "test")
POOL = tuple(Exemplar(f"What is {n} + 1?", f"{n} + 1 = {n + 1}.", str(n + 1)) for n in range(12))


def test_two_stage_is_the_papers_word_for_word() -> None:
    prompter = Prompter("two_stage")
    assert prompter.first("What is 2 + 3?\n") == "Q: What is 2 + 3?\nA: Let's think step by step."
    second = prompter.second("What is 2 + 3?", "2 + 3 = 5.")
    assert second == "Q: What is 2 + 3?\nA: Let's think step by step. 2 + 3 = 5.\nTherefore, the answer is"
    assert "step.\n\n2 + 3" in prompter.second("What is 2 + 3?", "\n\n2 + 3 = 5. ")
    solution = prompter.read([" 2 + 3 = 5. ", " 5."])
    assert (solution.rationale, solution.answer_text) == ("2 + 3 = 5.", "Therefore, the answer is 5.")


def test_one_call_asks_for_the_line_that_is_then_read() -> None:
    prompter = Prompter("zero_shot_cot", answer_kind="number")
    prompt = prompter.first("What is 2 + 3?")
    assert "Let's think step by step." in prompt
    assert "Therefore, the answer is X" in prompt
    assert "a number without its unit" in prompt
    assert prompter.read(["2 + 3 = 5.\nTherefore, the answer is 5."]).rationale == "2 + 3 = 5."


@pytest.mark.parametrize(
    ("reply", "rationale", "answer"),
    [
        ("2 + 3 = 5.\nTherefore, the answer is 5.", "2 + 3 = 5.", "Therefore, the answer is 5."),
        ("2 + 3 = 5. Therefore, the answer is 5.", "2 + 3 = 5.", "Therefore, the answer is 5."),
        ("2 + 3 = 5.\n\n**Therefore, the answer is 5.**", "2 + 3 = 5.", "Therefore, the answer is 5."),
        ("2 + 3 = 5.\n**Answer:** 5", "2 + 3 = 5.", "Answer:** 5"),
        ("2 + 3 = 5.\n#### 5", "2 + 3 = 5.", "#### 5"),
        ("2 + 3 = 5. --> 5", "2 + 3 = 5.", "--> 5"),
        ("So the answer is 4? No: 5.\nThe final answer is 5.", "So the answer is 4? No: 5.", "The final answer is 5."),
        ("2 + 3 = 5", "2 + 3 = 5", "2 + 3 = 5"),
        ("Answer Choices: A, B. It is B.", "Answer Choices: A, B. It is B.", "Answer Choices: A, B. It is B."),
        ("Therefore, the answer is 5.", "", "Therefore, the answer is 5."),
        ("", "", ""),
    ],
)
def test_replies_are_split_at_the_last_marker(reply: str, rationale: str, answer: str) -> None:
    solution = split_answer(reply)
    assert (solution.rationale, solution.answer_text) == (rationale, answer)


def test_exemplars_never_hold_the_question_itself_and_follow_the_seed() -> None:
    prompters = [Prompter("few_shot", exemplars=POOL, shots=4, seed=seed) for seed in (1, 2)]
    for shown in POOL:
        prompt = prompters[0].first(f"  {shown.question}\n".replace(" + ", "  + "))
        assert prompt.count("Therefore, the answer is") == 4
        assert shown.rationale not in prompt
    fresh = "What is 100 + 1?"
    assert prompters[0].first(fresh) != prompters[1].first(fresh)
    turned = Prompter("few_shot", exemplars=POOL[::-1], shots=4, seed=1)
    assert turned.first(fresh) == prompters[0].first(fresh)


def test_a_question_with_several_exemplars_is_shown_once() -> None:
    pool = (*POOL[:3], *(Exemplar(POOL[0].question, f"Otherwise {n}.", "1") for n in range(5)))
    questions = re.findall(r"Q: (.*)", Prompter("few_shot", exemplars=pool, shots=3).first("Another?"))
    assert len(questions) == len(set(questions)) == 4


def test_few_shot_ignores_the_next_question_a_base_model_invents() -> None:
    prompter = Prompter("few_shot", exemplars=POOL)
    reply = "2 + 3 = 5.\nTherefore, the answer is 5.\n\nQ: What is 1 + 1?\nA: 2.\nTherefore, the answer is 2."
    assert prompter.read([reply]).answer_text == "Therefore, the answer is 5."


def test_too_few_exemplars_are_refused() -> None:
    with pytest.raises(TeacherError, match=r"got 4 worked examples, expected more than shots = 4"):
        Prompter("few_shot", exemplars=POOL[:4], shots=4)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("No question here.", "leaves the question out"),
        ("{{ question }} {{ gold }}", "'gold' is undefined"),
        ("{% for %}{{ question }}", "cannot be filled"),
        ("{{ question }}{{ ''.__class__.__mro__ }}", "cannot be filled"),
        ("{{ question }}{{ range(10**9) | list }}", "cannot be filled"),
        ("{{ question }}{{ 1 / 0 }}", "cannot be filled"),
        ("{% include '/etc/passwd' %}{{ question }}", "cannot be filled"),
    ],
)
def test_bad_templates_are_refused_at_once(template: str, said: str) -> None:
    with pytest.raises(TeacherError, match=said):
        Prompter("custom", template=template)


def test_custom_templates_see_question_exemplars_and_answer_form() -> None:
    template = "{{ exemplars[0].answer }}|{{ answer_form }}|{{ question }}"
    prompter = Prompter("custom", template=template, exemplars=POOL[:1], answer_kind="yes_no")
    assert prompter.first("Is it?") == "1|yes or no|Is it?"


@given(st.text(min_size=1).filter(str.strip))
def test_a_question_is_text_never_a_template(question: str) -> None:
    assert question.strip() in Prompter("two_stage").first(question)
    assert "{{ 7 * 7 }}" in Prompter("two_stage").first("{{ 7 * 7 }}")


def test_exemplars_of_the_training_set() -> None:
    questions = [Question.create(f"{text}?", "1", split) for text, split in zip("abc", SPLITS, strict=True)]
    rationales = [
        Rationale.create(questions[0].id, "no", "9", "wrong", "teacher", 0),
        Rationale.create(questions[0].id, "yes", "1", "correct", "teacher", 1),
        Rationale.create(questions[2].id, "leak", "3", "correct", "teacher", 0),
    ]
    assert exemplars_from(questions, rationales) == [Exemplar("a?", "yes", "1")]


def test_exemplars_are_read_from_json_and_json_lines(tmp_path: Path) -> None:
    rows = [
        {"question": "a?", "rationale": "It is 1.", "answer": 1},
        {"question": "b?", "rationale": "It is 2.", "answer": "2"},
    ]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    expected = [Exemplar("a?", "It is 1.", "1"), Exemplar("b?", "It is 2.", "2")]
    assert read_exemplars(tmp_path / "a.json", "number") == read_exemplars(tmp_path / "a.jsonl", "number") == expected


def test_wrong_rationales_are_no_exemplars(tmp_path: Path) -> None:
    marked = [
        {"input": "a?", "chain": "It is 1.", "answer": "1", "initial_correct": False},
        {"input": "b?", "chain": "It is 3.", "answer": "2", "initial_correct": False},
        {"input": "b?", "chain": "It is 2.", "answer": "2", "initial_correct": True},
    ]
    (tmp_path / "marked.json").write_text(json.dumps(marked))
    assert read_exemplars(tmp_path / "marked.json", "number") == [Exemplar("b?", "It is 2.", "2")]
    raw = [
        {"instruction": "a?", "output": ["It is 5.", "It may be anything.", "It is 1."], "label": "1"},
        {"instruction": "b?", "output": ["It is 5.", "By hand, without its answer."], "label": "2"},
        {"instruction": "c?", "output": ["It is 5."], "label": "3"},
    ]
    (tmp_path / "raw.json").write_text(json.dumps(raw))
    expected = [Exemplar("a?", "It is 1.", "1"), Exemplar("b?", "By hand, without its answer.", "2")]
    assert read_exemplars(tmp_path / "raw.json", "number") == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"question": "a?", "answer": "1"}]', "no rationale in 1 rows"),
        ('[{"question": "a?", "answer": "1", "rationale": 5}]', "row 1: field `rationale`"),
        ("[1]", "row 1"),
        ("{", "JSON"),
        ("[]", "expected"),
    ],
)
def test_faulty_exemplars_say_where_and_what(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=said):
        read_exemplars(tmp_path / "a.json", "number")


def test_real_rationales_are_exemplars(shared_data: Path) -> None:
    mentor_kd = shared_data / "mentor-kd"
    pool = read_exemplars(mentor_kd / "main" / "svamp_3_train.json", "number")
    prompter = Prompter("few_shot", exemplars=pool)
    assert all(shown.question not in prompter.first(shown.question).rsplit("Q:", 1)[0] for shown in pool[:50])
    rows = json.loads((mentor_kd / "aug" / "flan-t5_large" / "svamp_rand3_aug3.json").read_text())
    right = {row["chain"].strip() for row in rows if row["initial_correct"]}
    wrong = {row["chain"].strip() for row in rows if not row["initial_correct"]} - right
    drawn = {
        shown.rationale
        for shown in read_exemplars(mentor_kd / "aug" / "flan-t5_large" / "svamp_rand3_aug3.json", "number")
    }
    assert len(drawn) > 300
    assert not drawn & wrong


def test_a_recipe_opens_its_prompter(tmp_path: Path) -> None:
    (tmp_path / "shown.jsonl").write_text("\n".join(json.dumps(asdict(shown)) for shown in POOL))
    by_file = LocalTeacherConfig(model="m", prompt="few_shot", exemplars="shown.jsonl", shots=2, seed=3)
    by_training = LocalTeacherConfig(model="m", prompt="few_shot", exemplars="train", shots=2, seed=3)
    first = open_prompter(by_file, answer_kind="number", root=tmp_path).first("What?")
    assert first.count("Therefore, the answer is") == 2
    assert (
        open_prompter(by_training, answer_kind="number", root=tmp_path, training=lambda: POOL).first("What?") == first
    )
    (tmp_path / "own.jinja").write_text("{{ question }} ({{ answer_form }})")
    own = LocalTeacherConfig(model="m", prompt="custom", template="file:own.jinja")
    assert (
        open_prompter(own, answer_kind="choice", root=tmp_path).first("What?")
        == "What? (the letter of the right option)"
    )


def test_a_template_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "prompt.jinja").write_text("Ask: {{ question }}")
    assert read_template("file: prompt.jinja", tmp_path) == "Ask: {{ question }}"
    assert read_template("{{ question }}", tmp_path) == "{{ question }}"
    with pytest.raises(TeacherError, match=r"missing\.jinja: the prompt template cannot be read"):
        read_template("file:missing.jinja", tmp_path)
