"""Prompts, targets and their way back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mentorkd.data.prompts import (
    CAUSAL_SEPARATOR,
    TargetForm,
    chat_prompt,
    cut_at,
    render_prompt,
    render_target,
    split_target,
)
from mentorkd.errors import DataError

FORMS: list[TargetForm] = ["arrow", "therefore"]
PIECES = [
    "-->",
    "->",
    "--",
    ">",
    "Therefore, the answer is",
    "Therefore",
    ".",
    "(C) black ball",
    " ",
    "\n",
    "3",
    "{question}",
]
TEXTS = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES), max_size=8).map("".join))


def test_the_papers_two_forms() -> None:
    assert render_target(" 3 + 4 = 7 \n", " 7 ", "arrow") == "3 + 4 = 7 --> 7"
    assert render_target(" 3 + 4 = 7.\n", " 7 ", "therefore") == "3 + 4 = 7. Therefore, the answer is 7."


@given(TEXTS, TEXTS)
def test_the_arrow_form_round_trips(rationale: str, answer: str) -> None:
    if "-->" in rationale or "-->" in answer:
        return
    assert split_target(render_target(rationale, answer, "arrow"), "arrow") == (rationale.strip(), answer.strip())


@given(TEXTS, TEXTS)
def test_the_therefore_form_round_trips_even_if_the_rationale_concludes_in_the_same_words(
    rationale: str, answer: str
) -> None:
    if "Therefore, the answer is" in answer:
        return
    assert split_target(render_target(rationale, answer, "therefore"), "therefore") == (
        rationale.strip(),
        answer.strip(),
    )


@given(TEXTS)
def test_an_arrow_in_a_rationale_never_hides_the_answer(rationale: str) -> None:
    back, answer = split_target(render_target(rationale, "7", "arrow"), "arrow")
    assert answer == "7"
    assert (back == rationale.strip()) == ("-->" not in rationale)


def test_arrows_of_any_length_are_shortened() -> None:
    assert render_target("a --> b ----> c -> d", "7", "arrow") == "a -> b -> c -> d --> 7"


def test_the_first_arrow_and_the_last_therefore_count() -> None:
    assert split_target("a --> 7 --> 8", "arrow") == ("a", "7 --> 8")
    text = "So B. Therefore, the answer is (C) black ball. Therefore, the answer is C."
    assert split_target(text, "therefore") == ("So B. Therefore, the answer is (C) black ball.", "C")


@pytest.mark.parametrize("form", FORMS)
def test_text_without_the_marker_is_all_rationale(form: TargetForm) -> None:
    assert split_target(" cut off in the mid ", form) == ("cut off in the mid", None)
    assert split_target("", form) == ("", None)


def test_a_text_cut_after_the_marker_has_an_empty_answer_and_a_missing_full_stop_is_no_matter() -> None:
    assert split_target("a -->", "arrow") == ("a", "")
    assert split_target("a Therefore, the answer is", "therefore") == ("a", "")
    assert split_target("a Therefore, the answer is St.", "therefore") == ("a", "St")
    assert split_target(render_target("a", "St.", "therefore"), "therefore") == ("a", "St.")


@pytest.mark.parametrize(("form", "answer"), [("arrow", "7 --> 8"), ("therefore", "Therefore, the answer is 7")])
def test_an_answer_with_the_marker_is_refused(form: TargetForm, answer: str) -> None:
    with pytest.raises(DataError, match="expected one without the marker"):
        render_target("a", answer, form)


def test_prompts_fill_only_the_question() -> None:
    assert render_prompt("  How many {x}? ", "{question}") == "How many {x}?"
    assert render_prompt("{question}", "Q: {question}\n{json} {question}") == "Q: {question}\n{json} {question}"


class Plain:
    chat_template = None

    def apply_chat_template(self, *_: object, **__: object) -> str:
        raise AssertionError("there is no template to apply")


def test_a_model_without_a_chat_template_gets_the_separator() -> None:
    assert chat_prompt(Plain(), "Q?") == "Q?\nAnswer:\n"
    assert chat_prompt(Plain(), "Q?", "") == "Q?"


def test_a_chat_model_gets_its_template() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    assert chat_prompt(tokenizer, "Q?") == "<|user|>Q?<|end|><|assistant|>"


def test_the_separator_survives_a_vocabulary_that_drops_newlines(shared_tokenizer: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    t5 = sentencepiece.SentencePieceProcessor(model_file=str(shared_tokenizer))
    question = t5.encode("How many are left?")
    separated = t5.encode("How many are left?" + CAUSAL_SEPARATOR)
    assert separated[: len(question)] == question
    assert t5.decode(separated[len(question) :]) == "Answer:"


@pytest.mark.parametrize(
    ("text", "stops", "before"),
    [
        ("4.\nQ: next\nQ: more", ["\nQ:"], "4."),
        ("\nQ: next", ["\nQ:"], ""),
        ("a END b\nQ: c", ["\nQ:", "END"], "a "),
        ("Q: no newline before it", ["\nQ:"], None),
        ("4.\nQ", ["\nQ:"], None),
        ("4.\nQ:", [], None),
    ],
)
def test_a_text_is_cut_at_the_first_stop(text: str, stops: list[str], before: str | None) -> None:
    assert cut_at(text, stops) == before
