from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from mentorkd.data.encoding import TextEncoder, encode_target
from mentorkd.distillation.chunks import Chunk, TargetTokens, align, chunks_of, right_edges, target_tokens
from mentorkd.errors import ModelError
from tiny_vocabularies import REAL, TRAINED, encoder_of

PIECES = [
    *("Tom has 3 apples and buys 4 more.", "201", "1,000", "12.5", " --> 7", "-->", "(B)", "pens", "swap"),
    *(
        " ",
        "  ",
        "\n",
        "\t",
        "\n\n",
        "é",
        "ñ",
        "ﬁ",
        "①",
        "日本",
        "😀",
        "👩‍👩‍👧",
        "🇩🇪",
        "e\u0301",
        "{x}",
        "~",
        "\u00a0",
        "\u200b",
    ),
]
TEXT = st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text("aT3, .\n-é😀▁Ġ#</s>", max_size=30)


def slices(text: str, tokens: TargetTokens, counts: Sequence[int]) -> list[tuple[list[int], str]]:
    """Token ids and text of each chunk."""
    parts, first, start = [], 0, 0
    for count in counts:
        after = first + count
        end = tokens.edges[after - 1] if count else start
        parts.append((tokens.ids[first:after], text[start:end]))
        first, start = after, end
    assert first == len(tokens.ids), "every token is in a chunk"
    return parts


VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = {chr(value): value for value in VISIBLE} | {
    chr(256 + n): value for n, value in enumerate(sorted({*range(256)} - {*VISIBLE}))
}
"""GPT-2's character for each byte."""


def surface(name: str, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text that tokens show, by their names alone, without white space and without the forms that some normalise."""
    names = [
        token for token in tokenizer.convert_ids_to_tokens(list(ids)) if token not in ("<s>", "</s>", "<|im_end|>")
    ]
    if name.startswith(("bytes", "smollm2")):
        return plain(bytes(BYTES[character] for token in names for character in token).decode())
    return plain("".join(token.removeprefix("##") if name == "wordpiece" else token for token in names))


def plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text.replace("▁", " ")).split())


def check(text: str, mentor_name: str, student_name: str, mentor: TargetTokens, student: TargetTokens) -> None:
    chunks = align(mentor, student)
    sides = [
        (mentor_name, slices(text, mentor, [chunk.mentor_tokens for chunk in chunks])),
        (student_name, slices(text, student, [chunk.student_tokens for chunk in chunks])),
    ]
    assert [part for _, part in sides[0][1]] == [part for _, part in sides[1][1]], "both sides cover the same text"
    assert "".join(part for _, part in sides[0][1]) == text, "all of it, in order, none twice"
    assert all(chunk.mentor_tokens and chunk.student_tokens for chunk in chunks)
    for name, parts in sides:
        tokenizer = encoder_of(name).tokenizer
        for (ids, part), chunk in zip(parts, chunks, strict=True):
            if chunk.known and name in READABLE and "s>" not in text:  # a text can spell a special token
                assert surface(name, tokenizer, ids) == plain(part)


READABLE = [*TRAINED, "smollm2"]
"""Tokenizers whose tokens spell the text, but for white space and the normal form NFKC."""


@pytest.mark.parametrize("names", [TRAINED, [*REAL, "nano", "metaspace"]], ids=["trained", "real"])
def test_chunks_of_both_sides_cover_the_same_bytes_in_order_and_none_twice(names: list[str]) -> None:
    for name in names:
        encoder_of(name)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(TEXT)
    def holds(text: str) -> None:
        tokens = {name: target_tokens(encoder_of(name), text) for name in names}
        for mentor, student in permutations(names, 2):
            check(text, mentor, student, tokens[mentor], tokens[student])

    holds()


@pytest.mark.parametrize("name", [*TRAINED, *REAL])
def test_tokens_with_edges_are_those_that_the_model_learns(name: str) -> None:
    encoder = encoder_of(name)
    for text in ["", *PIECES, "".join(PIECES)]:
        ids = encode_target(encoder.tokenizer, encoder.kind, text)
        assert target_tokens(encoder, text).ids == ids
        assert target_tokens(encoder, text, ended=False).ids == ids[:-1]


# --- what other alignments get wrong ------------------------------------------------------------------------------


def shown(mentor: str, student: str, text: str, *, ended: bool = True) -> list[tuple[str, str]]:
    """The tokens of both sides in each chunk, joined."""
    sides = encoder_of(mentor), encoder_of(student)
    chunks = chunks_of(*sides, text, ended=ended)
    rows = []
    for side, counts in zip(
        sides, zip(*((c.mentor_tokens, c.student_tokens) for c in chunks), strict=True), strict=True
    ):
        ids, first, parts = target_tokens(side, text, ended=ended).ids, 0, []
        for count in counts:
            parts.append(" ".join(side.tokenizer.convert_ids_to_tokens(ids[first : first + count])))
            first += count
        rows.append(parts)
    return list(zip(*rows, strict=True))


END = ("</s>", "<|im_end|>")


def test_a_leading_space_is_no_token_of_its_own() -> None:
    assert shown("t5", "smollm2", "is more") == [("▁is", "is"), ("▁more", "Ġmore"), END]
    assert shown("t5", "smollm2", " lead") == [("▁lead", "Ġlead"), END]
    assert shown("metaspace", "metaspace without the first space", "pens") == [("▁pens", "p en s"), ("</s>", "</s>")]


def test_a_token_without_width_belongs_to_the_word_after_it() -> None:
    """T5's lone "▁" covers the first character of "201", and SmolLM2 has a token that ends there."""
    assert shown("t5", "smollm2", "is 201") == [("▁is", "is"), ("▁ 201", "Ġ 2 0 1"), END]


def test_a_token_before_the_text_on_one_side_belongs_to_the_first_chunk() -> None:
    """Elsewhere a BOS shifted everything, and the whole text became one chunk."""
    assert shown("bytes and BOS", "bytes", "x 7.") == [
        ("<s> x", "x"),
        ("Ġ7", "Ġ7"),
        (".", "."),
        ("</s>", "</s>"),
    ]
    both = chunks_of(encoder_of("bytes and BOS"), encoder_of("wordpiece"), "7")
    assert both == [Chunk(2, 2, True), Chunk(1, 1, True)]


def test_a_character_of_several_bytes_is_not_split() -> None:
    assert shown("bytes", "smollm2", "é😀") == [("Ã ©", "Ã©"), ("ð Ł ĺ Ģ", "ðŁ ĺ Ģ"), END]
    assert shown("t5", "smollm2", "é!") == [("▁ é", "Ã©"), ("!", "!"), END]


def test_white_space_belongs_to_the_token_that_has_it() -> None:
    """Llama 3 and RoBERTa trim their offsets."""
    text, encoder = "Tom\n\n  has", encoder_of("bytes, trimmed")
    tokens, ends = target_tokens(encoder, text, ended=False), []
    for after in range(1, len(tokens.ids) + 1):
        ends.append(len(encoder.tokenizer.decode(tokens.ids[:after])))
    assert tokens.edges == ends
    assert {*ends} & {4, 5, 6}, "a token ends inside the white space"


def test_one_character_on_one_side_and_two_on_the_other() -> None:
    assert shown("t5", "smollm2", "①ﬁ") == [("▁1", "â ĳ ł"), ("f i", "ï¬ģ"), END]
    assert shown("nano", "bytes", "e\u0301 7") == [("▁ <unk>", "e Ì ģ"), ("▁7", "Ġ7"), ("</s>", "</s>")]


def test_dropped_characters_are_covered() -> None:
    assert shown("t5", "smollm2", "a\nb\n") == [("▁ a", "a"), ("▁ b", "Ċ b Ċ"), END]
    assert shown("smollm2", "t5", "\n") == [("Ċ <|im_end|>", "</s>")]


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("201", [("▁ 201", "2 0 1")]),
        ("1,000", [("▁1,000", "1 , 0 0 0")]),
        ("12.5", [("▁1", "1"), ("2.5", "2 . 5")]),
        ("-->", [("▁ - ->", "-- >")]),
        ("7 --> 7", [("▁7", "7"), ("▁ - ->", "Ġ-->"), ("▁7", "Ġ 7")]),
    ],
)
def test_numbers_and_arrows_that_are_split_differently(text: str, chunks: list[tuple[str, str]]) -> None:
    assert shown("t5", "smollm2", text) == [*chunks, END]


@pytest.mark.parametrize(("mentor", "student"), [("t5", "smollm2"), ("wordpiece", "bytes and BOS"), ("bytes", "nano")])
def test_an_empty_text_is_its_end(mentor: str, student: str) -> None:
    (end,) = chunks_of(encoder_of(mentor), encoder_of(student), "")
    assert (end.mentor_tokens, end.student_tokens) == tuple(
        len(target_tokens(encoder_of(name), "").ids) for name in (mentor, student)
    )
    assert chunks_of(encoder_of("bytes"), encoder_of("nano"), "", ended=False) == []


def test_a_text_that_is_cut_has_no_end() -> None:
    text = "is more 20"
    assert shown("t5", "smollm2", text, ended=False) == shown("t5", "smollm2", text)[:-1]
    assert shown("t5", "smollm2", "more\n", ended=False) == [("▁more", "more Ċ")]
    assert chunks_of(encoder_of("t5"), encoder_of("smollm2"), "\n", ended=False) == [Chunk(0, 1, True)]


def test_a_chunk_with_an_unknown_token_is_marked() -> None:
    known = [chunk.known for chunk in chunks_of(encoder_of("t5"), encoder_of("smollm2"), "a 😀 b")]
    assert known == [True, False, True, True]
    assert known == [chunk.known for chunk in chunks_of(encoder_of("smollm2"), encoder_of("t5"), "a 😀 b")]


def test_texts_that_differ_in_a_space_have_other_chunks() -> None:
    assert shown("bytes", "smollm2", "a b") != shown("bytes", "smollm2", "ab")


def test_edges() -> None:
    assert right_edges([], "") == []
    assert right_edges([(0, 2), (2, 5)], "ab cd") == [2, 5]
    assert right_edges([(0, 2), (3, 4), (3, 6)], "ab cde") == [2, 6, 6], "an edge inside the next token is none"
    assert right_edges([(0, 0), (0, 1), (0, 0)], "a") == [0, 1, 1], "special tokens cover nothing"
    assert right_edges([(0, 1), (1, 2)], "ab\n\n") == [1, 4], "the last token ends with the text"


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow(PreTrainedTokenizerBase):
        is_fast = False

    with pytest.raises(ModelError, match=r"Slow does not know .*; give a model with a fast tokenizer") as caught:
        chunks_of(TextEncoder(Slow(), "causal"), encoder_of("bytes"), "a")
    assert "\n" not in str(caught.value)


def test_sides_without_a_common_edge_are_one_chunk() -> None:
    mentor, student = TargetTokens([5, 6], [1, 3], [False, False]), TargetTokens([7, 8], [2, 3], [False, True])
    assert align(mentor, student) == [Chunk(2, 2, False)]
