"""The dry run: what would be asked, and what it would cost at most."""

from __future__ import annotations

from pathlib import Path

import pytest

from asking import annotate, sums, teacher
from hostile_server import running
from mentorkd.recipe.load import parse_recipe
from mentorkd.recipe.teacher import LocalTeacherConfig
from mentorkd.teachers.cache import RequestCache
from mentorkd.teachers.dry_run import dry_run, token_counter
from mentorkd.teachers.openai import OpenAITeacher, dry_run_openai, exposed_key
from mentorkd.teachers.prompting import Prompter
from mentorkd.teachers.teacher import AnnotationContext

RECIPE = """
name: r
task: {name: svamp, train: a.json, test: b.json}
teacher: {kind: openai, model: m, base_url: "http://gpu-box/v1"}
learners: {vanilla: {model: a/b}}
"""
ONE_CALL = Prompter("zero_shot_cot", answer_kind="number")


def test_estimate_of_one_call() -> None:
    priced = teacher("http://e/v1", price={"input": 1.0, "output": 10.0})
    estimate = dry_run_openai(sums(100), priced, ONE_CALL, count_tokens=lambda _: 50)
    assert estimate.prompts == tuple(ONE_CALL.first(question.text) for question in sums(3))
    assert (estimate.requests, estimate.input_tokens, estimate.output_tokens) == (300, 300 * (50 + 16), 300 * 64)
    assert estimate.lines() == [
        "requests: 300, and 0 answered from the cache",
        "tokens: 19,800 in (estimated by characters, 4 a token), at most 19,200 out",
        "dollars: at most $0.2118",
    ]
    spoken_to = dry_run_openai(sums(1), teacher("http://e/v1", system="Be brief."), ONE_CALL, count_tokens=lambda _: 50)
    assert spoken_to.input_tokens == 3 * (50 + 16 + 50)
    bare = dry_run_openai(sums(1), teacher("http://e/v1", endpoint="completions"), ONE_CALL, count_tokens=lambda _: 50)
    assert bare.input_tokens == 3 * 50


@pytest.mark.parametrize(
    ("address", "warned"),
    [
        ("http://gpu-box:8000/v1", True),
        ("http://192.168.1.7/v1", True),
        ("https://gpu-box/v1", False),
        ("http://localhost:11434/v1", False),
        ("http://127.0.0.1:8000/v1", False),
        ("http://[::1]:8000/v1", False),
    ],
)
def test_a_key_over_plain_http_to_another_machine_is_warned_of(address: str, warned: bool) -> None:
    warning = exposed_key(teacher(address, api_key_env="SOME_KEY"))
    assert (warning is not None) == warned
    if warning:
        assert "the key in SOME_KEY is sent unencrypted to" in warning
    assert exposed_key(teacher(address, api_key_env=None)) is None


def test_the_warning_of_an_exposed_key_comes_before_the_first_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = teacher("http://gpu-box/v1", api_key_env="SOME_KEY")
    recipe = parse_recipe(RECIPE, source="recipe", base=tmp_path)
    opened, notes = OpenAITeacher(recipe, config), []
    monkeypatch.setattr("mentorkd.teachers.openai.annotate_openai", lambda *_, **__: notes.append("asked"))
    context = AnnotationContext(tmp_path, tmp_path, lambda: None, lambda done, total: None, notes.append)  # type: ignore[arg-type, return-value]
    opened.sample(sums(1), None, context)  # type: ignore[arg-type]
    assert [note.startswith("the key in SOME_KEY") for note in notes] == [True, False]
    assert opened.preview(sums(1), tmp_path, roughly=True).lines()[0].startswith("warning: the key in SOME_KEY")


def test_estimate_of_two_calls_until_correct() -> None:
    settings = {"prompt": "two_stage", "samples": 2, "until_correct": {"want": 2, "tries": 5}, "answer_tokens": 4}
    estimate = dry_run_openai(sums(10), teacher("http://e/v1", **settings), Prompter("two_stage"), count_tokens=len)
    first = sum(len(Prompter("two_stage").first(question.text)) for question in sums(10))
    assert (estimate.requests, estimate.most_requests) == (40, 100)
    trigger = len("\nTherefore, the answer is")
    assert estimate.input_tokens == 2 * (2 * first + 10 * (2 * 16 + 64 + trigger))
    assert estimate.most_output_tokens == 10 * 5 * (64 + 4)
    assert estimate.lines()[0] == "requests: 40 to 100, and 0 answered from the cache"
    assert estimate.lines()[-1] == "dollars: unknown, since the recipe gives no price"


def test_cached_replies_are_free_and_nothing_is_asked(tmp_path: Path) -> None:
    with running("friendly") as server:
        annotate(server.url, tmp_path / "c", sums(5))
        with RequestCache(tmp_path / "c") as cache:
            estimate = dry_run_openai(sums(9), teacher(server.url), ONE_CALL, look_up=cache.get)
        assert (estimate.cached, estimate.requests) == (15, 12)
        assert len(server.statistics()["arrivals"]) == 15


def test_estimate_bounds_the_cost(tmp_path: Path) -> None:
    price = {"input": 1.0, "output": 2.0}
    with running("friendly") as server:
        estimate = dry_run_openai(sums(10), teacher(server.url, price=price), ONE_CALL)
        spent = annotate(server.url, tmp_path / "c", sums(10), price=price).spending
    assert estimate.picodollars is not None
    assert spent.requests == estimate.requests
    assert 0 < spent.picodollars <= estimate.picodollars


def test_local_teacher_costs_nothing() -> None:
    estimate = dry_run(sums(4), LocalTeacherConfig(model="m"), ONE_CALL)
    assert (estimate.requests, estimate.cached, estimate.picodollars) == (12, None, 0)
    assert estimate.lines()[0] == "requests: 12, less those in the cache"
    assert estimate.lines()[-1] == "dollars: at most $0.00"


def test_estimate_of_no_questions() -> None:
    assert dry_run_openai([], teacher("http://e/v1"), ONE_CALL).requests == pytest.approx(0)


def test_tokens_are_counted_by_a_tokenizer_or_by_characters(shared_tokenizer: Path) -> None:
    count, how = token_counter(None)
    assert (count("12345"), how) == (2, "characters, 4 a token")
    count, how = token_counter(str(shared_tokenizer))
    assert how == f"the tokenizer {shared_tokenizer}"
    assert 5 <= count("How many apples are there?") <= 9
