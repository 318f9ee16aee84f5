"""What the stages of a run made, to compare runs byte for byte."""

from __future__ import annotations

from pathlib import Path

__all__ = ["made"]


def made(run: Path) -> dict[str, bytes]:
    """What the stages made, by path, without what tells of time."""
    told = [file for part in ("data", "teacher", "budget", "learners") for file in (run / part).rglob("*")]
    files = [file for file in [*told, run / "report" / "results.json"] if file.is_file()]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}
