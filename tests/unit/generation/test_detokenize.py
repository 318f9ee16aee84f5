"""Text from tokens, piece by piece."""

from __future__ import annotations

import random

import pytest

from mentorkd.generation.detokenize import Detokenizer, Spelling, StopTexts
from tiny_vocabularies import REAL, TRAINED, encoder_of

TEXT = "Tom has 3 apples.  He buys 4 more, é ü 你好 😀 naïve 👩‍👩‍👧 --> 7\n\nOk!"


@pytest.mark.parametrize("name", [*TRAINED, *REAL])
def test_pieces_add_up_to_what_is_decoded_at_once(name: str) -> None:
    """Of a text, and of random tokens: special ones, parts of characters and ids that no text has."""
    tokenizer = encoder_of(name).tokenizer
    draw = random.Random(0)
    texts = [list(tokenizer(TEXT)["input_ids"])]
    texts += [[draw.randrange(len(tokenizer)) for _ in range(30)] for _ in range(50)]
    for ids in texts:
        decoder, start, text = Detokenizer(tokenizer), 0, ""
        while start < len(ids):
            end = start + draw.randint(1, 3)
            text += decoder.push(ids[start:end])
            start = end
        whole = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert text + decoder.finish() == whole


@pytest.mark.parametrize("name", ["bytes", "metaspace", "nano", *REAL])
def test_the_bytes_of_tokens_spell_the_text(name: str) -> None:
    tokenizer = encoder_of(name).tokenizer
    ids = tokenizer(TEXT)["input_ids"]
    spelled = b"".join(map(Spelling(tokenizer), ids))
    whole = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert spelled.decode().strip() == whole.strip()


def test_a_piece_never_ends_inside_a_character() -> None:
    tokenizer = encoder_of("bytes").tokenizer
    decoder = Detokenizer(tokenizer)
    pieces = [decoder.push([token]) for token in tokenizer("a😀b", add_special_tokens=False)["input_ids"]]
    assert [piece for piece in pieces if piece] == ["a", "😀", "b"]
    assert decoder.push(tokenizer("😀", add_special_tokens=False)["input_ids"][:1]) == ""
    assert decoder.unfinished
    assert decoder.finish() == "\ufffd"


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["He said ", "no", "t th", "is"], ["He said ", "", "not th", "is"]),
        (["a", "b\n", "\nc"], ["a", "b", ""]),
        (["a\n", "b"], ["a", "\nb"]),
        (["no", "n", "e"], ["", "", ""]),
    ],
)
def test_what_may_begin_a_stop_text_is_held_back(pieces: list[str], expected: list[str]) -> None:
    stops = StopTexts(["\n\n", "none"])
    assert [stops.push(piece) for piece in pieces] == expected
    assert stops.found == (expected[-1] == "")


def test_what_was_held_back_belongs_to_a_text_that_ends() -> None:
    stops = StopTexts(["END"])
    assert stops.push("The EN") == "The "
    assert not stops.found
    assert stops.finish() == "EN"
    assert StopTexts([]).push("The EN") == "The EN"
