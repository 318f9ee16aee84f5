"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import cli  # noqa: F401  (a fixture)
from places import SHARED


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real questions and GPT-3.5 rationales, kept beside the project."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; it is kept beside the project, not in it")
    return folder


@pytest.fixture(scope="session")
def shared_tokenizer() -> Path:
    """T5's own SentencePiece vocabulary, kept beside the project."""
    file = SHARED / "tokenizers" / "t5" / "spiece.model"
    if not file.is_file():
        pytest.skip(f"T5 vocabulary not found at {file}; it is kept beside the project, not in it")
    return file
