"""What leaves the machine: no paths of it, no keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from mentorkd.errors import RunError
from mentorkd.sharing.privacy import Privacy
from mentorkd.sharing.source import open_source


@pytest.fixture
def privacy(monkeypatch: pytest.MonkeyPatch) -> Privacy:
    monkeypatch.setenv("HOME", "/home/jane")
    monkeypatch.setenv("MY_API_KEY", "correct-horse-battery")
    monkeypatch.setenv("EMPTY_TOKEN", "")
    return Privacy(["/home/jane/data", "/srv/my models/large", "/"])


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("root: /home/jane/data", "root: data"),
        ('"/home/jane/data/train.jsonl"', '"data/train.jsonl"'),
        ("/home/jane/data-2, /home/jane", "~/data-2, ~"),
        ("model: /srv/my models/large", "model: large"),
        ("/home/janet and 1/2 stay", "/home/janet and 1/2 stay"),
        ("https://host/home/jane/data stays", "https://host/home/jane/data stays"),
        (r'"first\n/home/jane/data"', r'"first\ndata"'),
    ],
)
def test_paths_are_cut_to_their_last_part(privacy: Privacy, text: str, public: str) -> None:
    assert privacy.public(text) == public


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("see /home/jane/x", "the path of the home folder"),
        ("key=correct-horse-battery", r"the value of \$MY_API_KEY"),
        ("hf_" + "a" * 34, "a token of the Hugging Face hub"),
        ("sk-proj-" + "b" * 30, "an API key"),
    ],
)
def test_what_nobody_should_read_is_refused_and_not_repeated(privacy: Privacy, text: str, kind: str) -> None:
    with pytest.raises(RunError, match=f"^notes.md holds {kind}, which") as caught:
        privacy.check("notes.md", text)
    assert text not in str(caught.value)
    privacy.check("notes.md", "hf_short, /home/janet, risk-free sk-ipping")


def test_the_teachers_key_may_be_in_a_variable_of_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_PASS", "correct-horse-battery")
    with pytest.raises(RunError, match=r"the value of \$LLM_PASS"):
        Privacy([], "LLM_PASS").check("notes.md", "correct-horse-battery")


def test_a_runs_own_paths_are_known(small_run: Path) -> None:
    source = open_source(small_run / "run", None, None)
    root = Path(source.pipeline.recipe.data.root)
    text = f"mentorkd run {small_run / 'run'}: {root / 'train.jsonl'} {source.learner.model.tokenizer} {Path.cwd()}"
    assert Privacy.of(source).public(text) == f"mentorkd run run: data/train.jsonl tokenizer {Path.cwd().name}"
