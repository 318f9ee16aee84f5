"""Files and hashes: stable fingerprints, content digests, atomic writes, hard links."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mentorkd.errors import RunError

log = logging.getLogger(__name__)

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


def fingerprint_list(values: Iterable[Any]) -> tuple[int, str]:
    """The length of a list of JSON-like values, and its `fingerprint`; the whole list is never in memory."""
    digest, count = hashlib.sha256(b"["), 0
    for count, value in enumerate(values, 1):
        digest.update((", " * (count > 1) + json.dumps(value, sort_keys=True, ensure_ascii=False)).encode())
    digest.update(b"]")
    return count, digest.hexdigest()[:DIGITS]


def is_url(name: str) -> bool:
    """Whether this names a file by a URL, such as `s3://bucket/file` or `simplecache::https://host/file`, and not by a path."""
    return re.match(r"[\w+.-]+(::[\w+.-]+)*://", name) is not None


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


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Write a file, of one text or of its parts, atomically, through a temporary file and a rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines([text] if isinstance(text, str) else text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def journal_line(value: Any) -> str:
    """A line of a journal: the JSON value, a tab (JSON has none) and the CRC-32 of the value's bytes, as eight hex digits."""
    text = json.dumps(value, ensure_ascii=False)
    return f"{text}\t{zlib.crc32(text.encode()):08x}\n"


def read_journal(path: Path) -> list[Any]:
    """The values of a file of journal lines; an empty list if the file does not exist.

    A kill can tear the last line. The part of a line without a line end is cut off from the file, so that the next append
    is not glued to it. A damaged line is removed from the file, too, with a warning, so its work is done again. Lines without a
    checksum, as earlier versions wrote them, need only be JSON.
    """
    if not path.exists():
        return []
    lines = read_lines(path)
    whole = [line for line in lines if line is not None]
    if damaged := len(lines) - len(whole):
        log.warning(
            "%s: %d of %d lines are damaged, and are left out; their work is done again", path, damaged, len(lines)
        )
    text = b"".join(line for line, _ in whole)
    if len(text) < path.stat().st_size:
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(text)
        temporary.replace(path)
    return [value for _, value in whole]


def read_lines(path: Path) -> list[tuple[bytes, Any] | None]:
    """Every whole line of a journal with its value; None for a damaged one. A last line without a line end is left out."""
    lines: list[tuple[bytes, Any] | None] = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        text, tab, checksum = line.partition(b"\t")
        try:
            whole = not tab or int(checksum, 16) == zlib.crc32(text)
            lines.append((line + b"\n", json.loads(text)) if whole else None)
        except ValueError:
            lines.append(None)
    return lines


def allow_open_files(count: int) -> None:
    """Raise this process's limit of open files by `count`, where the system has one; many systems begin with 1,024."""
    try:
        import resource
    except ImportError:  # Windows, which has none
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        wanted = soft + count
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


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
