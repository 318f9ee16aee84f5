"""Copies of a run's models and soft labels on a node's own disk, which is faster to read again and again than shared storage."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from mentorkd.errors import DamagedError
from mentorkd.files.seals import FileSeal


@dataclass(frozen=True)
class Scratch:
    """A folder of a node's own disk. Nothing is removed from it but damaged copies."""

    root: Path

    def copy(self, source: Path, name: str, seals: Mapping[str, FileSeal]) -> Path:
        """The node's copy of a file or folder, made by the first of its processes that asks.

        `name` tells copies of different contents apart. `seals` has the size and hash of each file, by its path in the folder; files
        that it does not name are compared by size. Raises DamagedError for a copy that differs.
        """
        target = self.root / name / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / ".lock"):
            if target.exists() and _damage(source, target, seals):
                _remove(target)
            if not target.exists():
                half = target.with_name(f".{target.name}")
                _remove(half)
                shutil.copytree(source, half) if source.is_dir() else shutil.copy2(source, half)
                if damage := _damage(source, half, seals):
                    raise DamagedError(f"{damage}; check the disk and the network")
                half.replace(target)
        return target


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)


def _damage(source: Path, copied: Path, seals: Mapping[str, FileSeal]) -> str | None:
    """What is wrong with the first file of a copy that differs; None if none does."""
    files = [file for file in source.rglob("*") if file.is_file()] if source.is_dir() else [source]
    for file in files:
        part = file.relative_to(source).as_posix() if source.is_dir() else ""
        other = copied / part if part else copied
        expected = seals.get(part, FileSeal(file.stat().st_size, ""))
        if damage := expected.damage(other, size_alone=part not in seals):
            return f"{file}: its copy {other} {damage}"
    return None
