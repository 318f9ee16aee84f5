"""What is marked in a text."""

from __future__ import annotations

import pytest

from mentorkd.web.marks import excerpt, false_sentences, found, pieces

TEXT = "3 + 4 = 7. Then 7 + 2 = 10. So 10 - 1 = 8. It is 8."


def test_every_sentence_with_a_false_equation_is_found() -> None:
    assert [TEXT[start:end] for start, end in false_sentences(TEXT)] == ["Then 7 + 2 = 10.", "So 10 - 1 = 8."]
    assert not false_sentences("3 + 4 = 7, which equals seven")


@pytest.mark.parametrize(
    ("text", "search", "expected"),
    [("Then then", "THEN", ["Then", "then"]), ("a.b a+b", "a+b", ["a+b"]), ("İstanbul x", "x", ["x"]), ("abc", "", [])],
)
def test_a_search_is_found_as_it_is_written(text: str, search: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in found(text, search)] == expected


def test_an_excerpt_is_of_whole_sentences_around_the_search() -> None:
    text = " ".join(f"Step {number} is {number} + 1 = {number + 1}." for number in range(100))
    first = excerpt(text)
    assert text.startswith(first.removesuffix("…"))
    assert first.endswith(".…")
    assert 280 <= len(first) <= 320
    around = excerpt(text, "step 70 ")
    assert around.startswith("…Step 70 is 70 + 1 = 71. Step 71")
    assert excerpt(text, "step 3 ") == first
    assert excerpt("short", "x") == "short"
    assert excerpt("x" * 1000) == "x" * 1000
    assert excerpt(text, "step 99 ") == "…Step 99 is 99 + 1 = 100."


def test_pieces_are_the_text() -> None:
    marked = list(pieces(TEXT, "7 + 2"))
    assert "".join(piece for piece, _ in marked) == TEXT
    assert [each for each in marked if each[1]] == [
        ("Then ", "false"),
        ("7 + 2", "false found"),
        (" = 10.", "false"),
        ("So 10 - 1 = 8.", "false"),
    ]
    assert list(pieces("", "x")) == []
