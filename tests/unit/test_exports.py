"""The public surface is small and guarded: what a user may import is listed here, exactly."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mentorkd

PUBLIC = [
    "Completion",
    "Engine",
    "Graded",
    "Learner",
    "MentorkdError",
    "Pipeline",
    "Prediction",
    "Question",
    "Rationale",
    "Recipe",
    "SoftLabelStore",
    "__version__",
    "distillation_loss",
    "fused_distillation_loss",
    "grade",
    "load_recipe",
    "open_engine",
    "open_run",
    "read_jsonl",
    "read_questions",
    "read_rationales",
    "read_results",
    "select",
    "write_jsonl",
]


def test_the_public_names_are_exactly_these() -> None:
    assert mentorkd.__all__ == PUBLIC
    assert dir(mentorkd) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(mentorkd, name) is not None


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mentorkd.nothing


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, mentorkd; assert not {'torch', 'transformers', 'pydantic', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
