"""Copies of large tables in the user's cache: each made once, under the hash of the run's files, and the oldest removed.

A copy is a folder that a rename publishes, so it is whole or not there. Several servers may make and read copies at once.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4
from zipfile import BadZipFile

import duckdb
import pyarrow
from filelock import FileLock

from mentorkd.pipeline.written import Written
from mentorkd.web.table import RationaleTable
from mentorkd.web.table_files import read_starts, save_starts, write_tables

log = logging.getLogger(__name__)

IN_MEMORY = 20_000
"""Most rationales that a server reads from the run's files whenever it opens the run; this takes a part of a second."""
MOST_BYTES = 4 << 30
"""What all copies may have together."""
_MOST_OPEN = 8
"""Tables that a server keeps open."""
_UNREADABLE = (duckdb.Error, pyarrow.ArrowInvalid, BadZipFile, EOFError, OSError, ValueError)
"""What a copy raises that a power cut left half written."""
_ABANDONED_SECONDS = 24 * 3600
_SHARES = {"files": 0.1, "texts": 0.65, "questions": 0.05, "facts": 0.2}
"""About which part of the work each step is."""


class Making:
    """A copy that a thread is making."""

    def __init__(self, written: Written, folder: Path) -> None:
        self.written, self.folder = written, folder
        self.error: Exception | None = None
        self._step, self._database = "files", duckdb.connect()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def progress(self) -> float:
        """About which part of the work is done, from 0 to 1."""
        names = list(_SHARES)
        before = sum(_SHARES[name] for name in names[: names.index(self._step)])
        return before + _SHARES[self._step] * max(0.0, self._database.query_progress()) / 100

    def wait(self) -> None:
        """Return when it has ended, well or not."""
        self._thread.join()

    def _run(self) -> None:
        try:
            write_copy(self.written, self.folder, self._database, self._begin)
        except Exception as error:  # told to whoever asks for the table
            self.error = error

    def _begin(self, step: str) -> None:
        self._step = step


class Tables:
    """The tables of runs, opened when they are first asked for."""

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache_folder() if cache is None else cache
        self._open: OrderedDict[tuple[str, Path], RationaleTable] = OrderedDict()
        self._making: dict[str, Making] = {}
        self._lock = threading.Lock()

    def get(self, written: Written) -> RationaleTable | Making:
        """The table of a run; or, if it has many rationales and no copy yet, the work on its copy.

        Raises DamagedError for a file that is not as the run wrote it.
        """
        key = written.key, written.questions.path  # a copy serves runs with equal files, and a table one of them
        with self._lock:
            if key not in self._open:
                small = written.rows <= IN_MEMORY
                table = RationaleTable(written) if small else self._open_copy(written, self.cache / written.key)
                if isinstance(table, Making):
                    return table
                self._open[key] = table
            self._open.move_to_end(key)
            while len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
            return self._open[key]

    def _open_copy(self, written: Written, folder: Path) -> RationaleTable | Making:
        """The table of a copy. One that is not there is made; one that cannot be read is removed, and made again."""
        making = self._making.get(written.key)
        if making is None and folder.is_dir():
            try:
                return _open(written, folder)
            except _UNREADABLE as error:
                log.warning("%s cannot be read, so it is made again: %s", folder, error)
                shutil.rmtree(folder, ignore_errors=True)
        if making is None:
            making = self._making[written.key] = Making(written, folder)
        if making.is_alive:
            return making
        del self._making[written.key]
        if making.error is not None:
            raise making.error
        return _open(written, folder)


def _open(written: Written, folder: Path) -> RationaleTable:
    table = RationaleTable(written, folder)
    os.utime(folder)  # it was used
    return table


def cache_folder() -> Path:
    """Where copies are kept: in XDG_CACHE_HOME, or in `.cache` of the user's home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mentorkd" / "tables"


def write_copy(
    written: Written, folder: Path, database: duckdb.DuckDBPyConnection, step: Callable[[str], None]
) -> None:
    """Make the copy of a run's tables in `folder`, unless another process does so meanwhile, and remove the oldest copies."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            return
        half = folder.with_name(f".{folder.name}.{uuid4().hex}.tmp")
        half.mkdir()
        try:
            save_starts(half, read_starts(written))
            write_tables(database, written, half, step)
            half.rename(folder)
        finally:
            shutil.rmtree(half, ignore_errors=True)
    remove_oldest(folder.parent, keep=folder)


def remove_oldest(cache: Path, keep: Path, most: int = MOST_BYTES) -> None:
    """Remove the copies that were not used for longest until the others have at most `most` bytes, and what killed servers left."""
    for half in cache.glob(".*.tmp"):
        if time.time() - half.stat().st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(half, ignore_errors=True)
    copies = sorted((path for path in cache.iterdir() if path.is_dir() and not path.name.startswith(".")), key=_used)
    total = sum(map(_size, copies))
    for copy in copies:
        if total <= most:
            break
        if copy != keep:
            total -= _size(copy)
            log.info("%s is removed: copies of tables have more than %.1f GB together", copy, most / 2**30)
            shutil.rmtree(copy, ignore_errors=True)
            copy.with_name(f".{copy.name}.lock").unlink(missing_ok=True)


def _used(copy: Path) -> float:
    return copy.stat().st_mtime


def _size(copy: Path) -> int:
    return sum(file.stat().st_size for file in copy.iterdir())
