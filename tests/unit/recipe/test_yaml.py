"""YAML with lines: what is refused before any value is made, what numbers are, and that dumps read back."""

from __future__ import annotations

import datetime
import time
import tracemalloc
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mentorkd.errors import Fault, RecipeError
from mentorkd.recipe.yaml import MAX_ALIASED, MAX_DEPTH, dump_yaml, read_yaml

TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep; expected a recipe"


def refusal(text: str) -> Fault:
    with pytest.raises(RecipeError) as caught:
        read_yaml(text)
    (fault,) = caught.value.faults
    return fault


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "{a: " * 50_000, "- " * 50_000 + "a", "? " * 50_000 + "a"],
    ids=["lists", "mappings", "dashes", "keys"],
)
def test_deep_nesting_is_one_fault(text: str) -> None:
    assert refusal(text) == Fault("", TOO_DEEP, 1)


def test_nesting_is_counted_through_aliases() -> None:
    chain = "".join(f"a{level}: &a{level} [*a{level - 1}]\n" for level in range(1, 200))
    assert refusal(f"a0: &a0 [x]\n{chain}") == Fault("a49", TOO_DEEP, 50)


def test_nesting_up_to_the_limit_is_read() -> None:
    value, _, faults = read_yaml("[" * (MAX_DEPTH - 1) + "x" + "]" * (MAX_DEPTH - 1))
    assert faults == []
    assert str(value).count("[") == MAX_DEPTH - 1
    assert refusal("[" * MAX_DEPTH + "x" + "]" * MAX_DEPTH).message == TOO_DEEP


@pytest.mark.parametrize("wrap", ["[{}]", "{{<<: [{}]}}"], ids=["lists", "merges"])
def test_an_alias_bomb_is_one_fault_and_takes_no_memory(wrap: str) -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {wrap.format(', '.join([f'*a{n - 1}'] * 9))}" for n in range(1, 20)]
    tracemalloc.start()
    start = time.perf_counter()
    try:
        fault = refusal("\n".join(lines))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert fault == Fault("", f"aliases add more than {MAX_ALIASED:,} values; write fewer of them")
    assert peak < 20e6
    assert time.perf_counter() - start < 10


def test_a_long_recipe_without_aliases_is_no_bomb() -> None:
    value, _, faults = read_yaml(f"a: [{'1, ' * 20_000}]")
    assert (len(value["a"]), faults) == (20_000, [])


@pytest.mark.parametrize("text", ["- &a [*a]", "- &a {b: [*a, *a]}", "- &a [&b [*a, *b]]\n- *b"])
def test_an_anchor_around_itself_is_refused(text: str) -> None:
    assert refusal(text).message == "refers to itself by an anchor"


def test_all_duplicate_keys_are_found_at_once() -> None:
    _, _, faults = read_yaml("a: 1\nb: {c: 1, c: 2}\na: 2\nd:\n  - e: 1\n    e: 2\na: 3\n")
    assert [(fault.key, fault.line) for fault in faults] == [("b.c", 2), ("a", 3), ("d[0].e", 6), ("a", 7)]
    assert {fault.message for fault in faults} == {f"given twice; the first is on line {line}" for line in (1, 2, 5)}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("2e-4", 2e-4), ("1E5", 1e5), ("1.5", 1.5), (".5", 0.5), ("-3", -3), ("1_000", 1000), ("0x1F", 31), ("0", 0)),
        *(("true", True), ("False", False), ("null", None), ("~", None), ("y", "y"), ("1.2.3", "1.2.3")),
        *(("'010'", "010"), ('"no"', "no"), ("2024-01-02", datetime.date(2024, 1, 2)), (".inf", float("inf"))),
    ],
)  # fmt: skip
def test_plain_values(text: str, value: Any) -> None:
    assert read_yaml(f"a: {text}") == ({"a": value}, read_yaml("a: 1")[1], [])


@pytest.mark.parametrize("text", ["yes", "NO", "On", "off", "010", "08", "-017", "0o17", "1:30", "1:30.5"])
def test_a_plain_value_that_versions_of_yaml_read_differently_is_a_fault(text: str) -> None:
    _, _, faults = read_yaml(f"a:\n  - b\n  - {text}")
    assert [(fault.key, fault.line) for fault in faults] == [("a[1]", 3)]
    assert f"`{text}` has two meanings" in faults[0].message


def test_a_key_with_two_meanings_is_a_fault() -> None:
    assert [fault.key for fault in read_yaml("no: 1")[2]] == ["no"]


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.getcwd []", "!mine x"])
def test_tags_that_would_make_objects_are_refused(tag: str) -> None:
    assert "could not determine a constructor for the tag" in refusal(f"a: {tag}").message


def test_every_alias_is_a_copy() -> None:
    value, places, _ = read_yaml("a: &a {x: [1]}\nb: *a\nc: {<<: *a, y: 2}\n")
    value["b"]["x"].append(2)
    assert value == {"a": {"x": [1]}, "b": {"x": [1, 2]}, "c": {"x": [1], "y": 2}}
    assert places.lines["c", "y"] == 3


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(["no", "010", "1:30", "1e5"])
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "yes"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(deadline=None)  # a busy machine is no fault
@given(VALUES)
def test_a_dump_reads_back_equal_and_so_it_does_in_yaml_1_1(value: Any) -> None:
    text = dump_yaml({"value": value})
    assert read_yaml(text)[::2] == ({"value": value}, [])
    assert yaml.safe_load(text) == {"value": value}
