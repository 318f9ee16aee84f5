"""Mean divergences of rationales that were measured, kept in the user's cache: each belongs to one trained model and its soft labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from mentorkd.files import digest_path, journal_line, read_journal
from mentorkd.pipeline.opened import OpenedRun
from mentorkd.web.copies import cache_folder


def read_divergences(run: OpenedRun, training: str) -> dict[str, float]:
    """The divergences of the student that a stage trained, by the id by which it read the rationale."""
    return dict(read_journal(_file(run, training)))


def keep_divergences(run: OpenedRun, training: str, kl: Mapping[str, float]) -> None:
    """Keep divergences for the next start of a server."""
    file = _file(run, training)
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{file.name}.lock")), file.open("a", encoding="utf-8") as stream:
        stream.writelines(journal_line([key, round(value, 6)]) for key, value in kl.items())


def _file(run: OpenedRun, training: str) -> Path:
    """The mark of a training tells its model, and by its inputs the soft labels."""
    return cache_folder().with_name("divergences") / f"{digest_path(run.folder.mark(training))}.jsonl"
