"""Where the project's own files are."""

from __future__ import annotations

from pathlib import Path

__all__ = ["FIXTURES", "HELPERS", "RECIPES", "ROOT", "SHARED", "SOURCE"]

HELPERS = Path(__file__).resolve().parent
FIXTURES = HELPERS.with_name("fixtures")
ROOT = HELPERS.parents[1]
RECIPES = ROOT / "recipes"
SOURCE = ROOT / "src" / "mentorkd"
SHARED = ROOT.parent / "shared"
"""Real data and vocabularies, kept beside the project and not in it."""
