"""Seals: a file is known by the size and hash that it had when it was written, so that damage is found when it is read.

Outputs of stages have theirs in the stage's mark, and a folder of its own (a checkpoint, a cached model) in a file inside it. JSON files
that the pipeline lives by (marks, commits, the manifest) hold their own hash under the key `seal`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mentorkd.errors import DamagedError
from mentorkd.files import write_json, write_text

_DIGITS = 16
_HASHES = ".hashes.json"
"""File with the hashes of its folder. It is hidden, so that the digest of a model's folder does not change."""


@dataclass(frozen=True)
class FileSeal:
    """Size in bytes and SHA-256 of a file, as `sha256sum` prints it."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, file: Path) -> FileSeal:
        # SHA-256, because processors have instructions for it: it is as fast as a checksum, and faster than BLAKE2.
        digest, size = hashlib.sha256(), 0
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
        return cls(size, digest.hexdigest())

    def damage(self, file: Path, *, size_alone: bool = False) -> str | None:
        """What is wrong with the file, in a few words; None if it is as it was written."""
        try:
            size = file.stat().st_size
            if size != self.bytes:
                return f"has {size:,} bytes, expected {self.bytes:,}"
            if size_alone or FileSeal.of(file) == self:
                return None
            return "has changed since it was written (its SHA-256 differs)"
        except FileNotFoundError:
            return "is missing"
        except OSError as error:
            return f"cannot be read ({error.strerror})"


def seal_files(folder: Path) -> dict[str, FileSeal]:
    """The seal of every file in a folder, by its path there."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != _HASHES]
    return {file.relative_to(folder).as_posix(): FileSeal.of(file) for file in files}


def sync(path: Path) -> None:
    """Flush a file, or a folder with all that it holds, to the disk: after a power cut a rename may outlive the data behind it."""
    for each in [*path.rglob("*"), path]:
        sync_one(each)


def sync_one(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    if os.name == "nt":  # which cannot open a folder, and keeps names in a journal of its own
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal_folder(folder: Path) -> None:
    """Flush a complete folder to the disk and write the hashes of its files beside them."""
    sync(folder)
    write_sealed(folder / _HASHES, {name: asdict(seal) for name, seal in seal_files(folder).items()})


def damage_in(folder: Path) -> str | None:
    """What is wrong with a folder that `seal_folder` sealed, in one line; None if nothing is, or if it has no hashes."""
    if not (folder / _HASHES).is_file():
        return None
    try:
        seals = read_sealed(folder / _HASHES)
    except DamagedError as error:
        return str(error)
    try:
        expected = {name: FileSeal(**seal) for name, seal in seals.items()}
    except TypeError:
        return f"{folder / _HASHES} is damaged (expected the size and hash of each file)"
    for name, seal in expected.items():
        if damage := seal.damage(folder / name):
            return f"{folder / name} {damage}"
    return None


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, with its hash under the key `seal`, and flush it to the disk."""
    plain = json.loads(json.dumps(value))  # keys are text and tuples are lists, as they are read again
    write_json(path, {**plain, "seal": _seal(plain)})
    sync_one(path.parent)


class Table(NamedTuple):
    """A JSON object that may be too long for the memory."""

    names: Sequence[str]
    read: Callable[[str], Any]
    """Gives the value of a name."""


def write_sealed_table(path: Path, head: Mapping[str, Any], key: str, table: Table) -> None:
    """`write_sealed` of `head` with a table under `key`, of which one value at a time is in memory."""
    head = json.loads(json.dumps(head))
    digest = hashlib.sha256()
    for text in _sorted_json(head, key, table):
        digest.update(text.encode())
    write_text(path, _indented_json({**head, "seal": digest.hexdigest()[:_DIGITS]}, key, table))
    sync_one(path.parent)


def _sorted_json(head: Mapping[str, Any], key: str, table: Table) -> Iterator[str]:
    """What `json.dumps(..., sort_keys=True)` makes of the whole object, in parts."""
    for number, name in enumerate(sorted([*head, key])):
        yield f"{', ' if number else '{'}{json.dumps(name)}: "
        if name != key:
            yield json.dumps(head[name], sort_keys=True)
            continue
        yield "{"
        for row, each in enumerate(sorted(table.names)):
            yield f"{', ' if row else ''}{json.dumps(each)}: {json.dumps(table.read(each), sort_keys=True)}"
        yield "}"
    yield "}"


def _indented_json(head: Mapping[str, Any], key: str, table: Table) -> Iterator[str]:
    """What `write_json` writes of the whole object, in parts; the table comes before the last key, which is the seal."""
    *names, last = head

    def entry(name: str, value: Any, depth: int) -> str:
        text = json.dumps(value, indent=1, ensure_ascii=False).replace("\n", "\n" + " " * depth)
        return f"\n{' ' * depth}{json.dumps(name, ensure_ascii=False)}: {text}"

    yield "{"
    for name in names:
        yield f"{entry(name, head[name], 1)},"
    yield f"\n {json.dumps(key, ensure_ascii=False)}: {{"
    for number, name in enumerate(table.names):
        yield f"{',' if number else ''}{entry(name, table.read(name), 2)}"
    yield f"{chr(10) + ' ' if table.names else ''}}},{entry(last, head[last], 1)}\n}}\n"


def read_sealed(path: Path) -> dict[str, Any]:
    """A JSON object that `write_sealed` wrote, or an earlier version without a seal.

    Raises DamagedError for anything else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise DamagedError(f"{path} is damaged (no JSON)") from None
    if not isinstance(value, dict):
        raise DamagedError(f"{path} is damaged (got {type(value).__name__}, expected an object)")
    if "seal" in value:
        if value.pop("seal") != _seal(value):
            raise DamagedError(f"{path} is damaged (its seal differs)")
    elif value:
        *names, last = value  # the seal is written last
        if value[last] == _seal({name: value[name] for name in names}):
            raise DamagedError(f"{path} is damaged (its seal has the key {last!r})")
    return value


def _seal(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:_DIGITS]
