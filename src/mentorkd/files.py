"""Files and hashes: stable fingerprints, content digests, atomic writes, hard links."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from mentorkd.errors import RunError

DIGITS = 16


def fingerprint(value: Any) -> str:
    """Hash of a JSON-like value, for any order of keys; RunError for one without a stable form (object, path, set, NaN)."""
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"cannot fingerprint {type(value).__name__}: {error}; expected text, numbers, lists and mappings"
        ) from None
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def digest_path(path: Path) -> str:
    """Hash of the bytes of a file, or of all files in a model or data folder except Markdown and hidden files."""
    digest = hashlib.sha256()
    if path.is_dir():
        files = [f for f in sorted(path.rglob("*")) if f.is_file() and f.suffix != ".md" and not f.name.startswith(".")]
    else:
        files = [path]
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        digest.update(f"{name}:{file.stat().st_size}:".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()[:DIGITS]


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file atomically, through a temporary file and a rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_journal(path: Path) -> list[Any]:
    """The JSON values of a file of one per line; an empty list if the file does not exist.

    A kill can tear the last line. The part of a line without a line end is cut off from the file, so that the next append
    is not glued to it. Raises RunError for a whole line that is not JSON.
    """
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    values = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            values.append(json.loads(line))
        except ValueError:
            raise RunError(f"{path}: line {number} is damaged (no JSON); remove the file and run again") from None
    return values


def link(source: Path, target: Path) -> None:
    """Link a file or folder to `target`: by hard links if the file system supports them, else by copies."""

    def one(old: str, new: str) -> str:
        Path(new).unlink(missing_ok=True)  # a partial copy of an interrupted run
        try:
            os.link(old, new)
        except OSError:
            shutil.copy2(old, new)
        return new

    if source.is_dir():
        shutil.copytree(source, target, copy_function=one, dirs_exist_ok=True)
    else:
        one(str(source), str(target))
