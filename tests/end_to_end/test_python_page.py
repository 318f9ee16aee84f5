"""docs/python.md: its examples run in their order, print what the page says, and cover every public name; and those of from-trl.md."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import mentorkd
from mentorkd.quickstart.task import write_task
from places import ROOT


def examples_of(page: str) -> list[tuple[str, str]]:
    """(code, what it prints; empty if the page does not say)."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", text, re.DOTALL | re.MULTILINE)


EXAMPLES = examples_of("python.md")
METHOD, *OTHERS = EXAMPLES


def run_examples(examples: Sequence[tuple[str, str]]) -> None:
    names: dict[str, Any] = {}
    exec("from pathlib import Path", names)
    for code, expected in examples:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "docs/python.md", "exec"), names)
        if expected:
            assert printed.getvalue() == expected, code


def test_the_page_has_every_public_name() -> None:
    code = "\n".join(code for code, _ in OTHERS)
    assert [name for name in mentorkd.__all__ if not re.search(rf"\b{name}\b", code)] == []


def test_the_examples_print_what_the_page_says(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a run of smaller models with the same learners, since the first example takes minutes."""
    shutil.copytree(small_run / "run", tmp_path / "runs" / "words")
    shutil.copy(small_run / "recipe.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    run_examples(OTHERS)


def test_messages_of_trl_become_rationales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_examples(examples_of("from-trl.md"))
    questions = mentorkd.read_questions("teacher.jsonl", split="train", kind="number")
    [rationale] = mentorkd.read_rationales("teacher.jsonl", questions, kind="number")
    assert (rationale.text, rationale.predicted, rationale.verdict) == ("2 + 3 = 5.", "5", "correct")


@pytest.mark.slow
def test_the_whole_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_task(tmp_path, train=200, validation=20, test=40, annotated=100)
    monkeypatch.chdir(tmp_path)
    run_examples(EXAMPLES)
