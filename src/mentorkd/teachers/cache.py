"""A cache that keeps every paid reply: SQLite, keyed by the hash of the request, with a ledger of costs.

A request takes two durable steps. `open` writes its worst cost to the ledger before it is sent. `settle` writes its reply
and its real cost, in one transaction, before the reply is used. A process that is killed in between leaves the worst cost
counted, so a budget holds over kills, and only that request can be sent a second time.

One thread writes, and commits all waiting writes at once: under load one fsync serves many replies.

A reply carries a digest of itself, and a request's key is its hash. A row that does not fit its digest is as one that is not
there: it is named in the log, asked for again and then replaced.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from mentorkd.data.token_logprobs import TokenLogprobs
from mentorkd.errors import RunError
from mentorkd.records import content_id
from mentorkd.teachers.limits import Spending

log = logging.getLogger(__name__)

T = TypeVar("T")

_APPLICATION_ID = 0x6D6B6463
_VERSION = 1
_BUSY_SECONDS = 60.0
_NAMED = 5
"""The most damaged rows that the log names; it counts the others."""
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS requests (key TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS replies (
    key TEXT NOT NULL, sample INTEGER NOT NULL, at REAL NOT NULL, body TEXT NOT NULL, PRIMARY KEY (key, sample)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spent (
    account TEXT PRIMARY KEY, requests INTEGER NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    picodollars INTEGER NOT NULL, unsure_picodollars INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pending (
    id INTEGER PRIMARY KEY, account TEXT NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    picodollars INTEGER NOT NULL
);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_VERSION};
COMMIT;
"""
# Caches of earlier versions lack this table, which the first fault adds.
_FAULTS = """
CREATE TABLE IF NOT EXISTS faults (
    account TEXT NOT NULL, kind TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (account, kind)
) WITHOUT ROWID
"""
_ADD_FAULT = "INSERT INTO faults VALUES (?, ?, 1) ON CONFLICT (account, kind) DO UPDATE SET count = count + 1"
_ADD_SPENT = """
INSERT INTO spent VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (account) DO UPDATE SET
    requests = requests + excluded.requests, input_tokens = input_tokens + excluded.input_tokens,
    output_tokens = output_tokens + excluded.output_tokens, picodollars = picodollars + excluded.picodollars,
    unsure_picodollars = unsure_picodollars + excluded.unsure_picodollars
"""
_ADD_REQUEST = """
INSERT INTO requests VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET body = excluded.body
    WHERE CAST(requests.body AS BLOB) != CAST(excluded.body AS BLOB)
"""
_ADD_REPLY = """
INSERT INTO replies VALUES (?, ?, ?, ?) ON CONFLICT (key, sample) DO UPDATE SET at = excluded.at, body = excluded.body
    WHERE damaged(replies.key, replies.sample, CAST(replies.body AS BLOB))
"""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of a teacher. `estimated`: the endpoint reported no usage, and the token counts are upper bounds.

    `logprobs` cover the text; None if they were not asked for or cannot be used.
    """

    text: str
    finish_reason: str
    input_tokens: int
    output_tokens: int
    estimated: bool = False
    model: str = ""
    logprobs: TokenLogprobs | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields. `logprobs`, which earlier versions do not know, is left out where it is None."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        del values["logprobs"]
        return values if self.logprobs is None else {**values, "logprobs": self.logprobs.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Reply:
        """Raises ValueError or TypeError for other fields."""
        logprobs = values.get("logprobs")
        return cls(**{**values, "logprobs": None if logprobs is None else TokenLogprobs.from_json(logprobs)})


LookUp = Callable[[str, int], Reply | None]
"""Gives the reply to a (request key, sample), or None."""


@dataclass(frozen=True, slots=True)
class _Job:
    write: Callable[[sqlite3.Connection], Any]
    done: Future[Any]


def request_key(request: Mapping[str, Any]) -> str:
    """SHA-256 of a request (endpoint, model, messages and parameters) as JSON with sorted keys."""
    return hashlib.sha256(_canonical(request).encode()).hexdigest()


class RequestCache:
    """A cache file, safe for several threads and for several processes that share it; one process asks at a time.

    Several recipes may share a file, so `account` names the part of the ledger that this one adds its spending to. Every
    method raises RunError if the file is no cache, is damaged or cannot be written. The futures that `put`, `open` and
    `settle` return raise it too; they are done when the change is on disk.
    """

    def __init__(self, path: Path, *, account: str = "teacher") -> None:
        self.path = path
        self.account = account
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._guard = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._damaged: set[tuple[str, int]] = set()
        path.parent.mkdir(parents=True, exist_ok=True)
        with _file_faults(path):
            if not path.exists():
                _create(path)
            with _closed_by_error(self._connection()) as connection:
                _check(connection, path)
        self._writer = threading.Thread(target=self._write, name="request-cache", daemon=True)
        self._writer.start()

    def __enter__(self) -> RequestCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what waits, and close. The last process to close merges the `-wal` file, so that one file can be shared."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        self._writer.join()
        for connection in self._connections:
            connection.close()

    @contextmanager
    def asking(self, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Be the only process that asks through this file, so that no request is sent twice and the spending of an account
        is known. Waits for another process, after calling `on_wait`; the lock of a killed process is free.
        """
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def get(self, key: str, sample: int) -> Reply | None:
        """The reply to a sample of a request, or None if there is none or a damaged one."""
        with _file_faults(self.path):
            body = _find(self._connection(), key, sample)
        if body is None:
            return None
        reply = _read_reply(key, sample, body)
        if reply is None and (key, sample) not in self._damaged:
            self._damaged.add((key, sample))
            if len(self._damaged) <= _NAMED:
                row_name = _row_name(key, sample)
                log.warning("%s: the reply %s is damaged and is asked for again", self.path, row_name)
            elif len(self._damaged) == _NAMED + 1:
                log.warning("%s: more replies are damaged and are asked for again", self.path)
        return reply

    def put(self, request: Mapping[str, Any], sample: int, reply: Reply) -> Future[None]:
        """Keep a reply that cost nothing."""
        return self._submit(lambda connection: _keep(connection, request, sample, reply))

    def open(self, worst: Spending) -> Future[int]:
        """Note that a request of at most this cost is about to be sent; the result identifies it for `settle`."""

        def write(connection: sqlite3.Connection) -> int:
            sql = "INSERT INTO pending (account, input_tokens, output_tokens, picodollars) VALUES (?, ?, ?, ?)"
            row = (self.account, worst.input_tokens, worst.output_tokens, worst.picodollars)
            return int(connection.execute(sql, row).lastrowid or 0)

        return self._submit(write)

    def settle(
        self,
        pending: int,
        cost: Spending,
        reply: tuple[Mapping[str, Any], int, Reply] | None = None,
        fault: str | None = None,
    ) -> Future[None]:
        """Replace a pending request's worst cost by its real one, and keep its (request, sample, reply) or count the kind of its
        fault, in one transaction."""

        def write(connection: sqlite3.Connection) -> None:
            if reply is not None:
                _keep(connection, *reply)
            if fault is not None:
                connection.execute(_FAULTS)
                connection.execute(_ADD_FAULT, (self.account, fault))
            connection.execute("DELETE FROM pending WHERE id = ?", (pending,))
            connection.execute(_ADD_SPENT, (self.account, *cost.values()))

        return self._submit(write)

    def spending(self) -> Spending:
        """All that this account has spent; requests of unknown outcome count at their worst cost."""
        columns = "requests, input_tokens, output_tokens, picodollars, unsure_picodollars"
        sums = "count(*), sum(input_tokens), sum(output_tokens), sum(picodollars), sum(picodollars)"
        with _file_faults(self.path):
            connection = self._connection()
            settled = connection.execute(f"SELECT {columns} FROM spent WHERE account = ?", (self.account,)).fetchone()
            pending = connection.execute(f"SELECT {sums} FROM pending WHERE account = ?", (self.account,)).fetchone()
        return Spending(*(settled or ())) + Spending(*(value or 0 for value in pending))

    def faults(self) -> dict[str, int]:
        """How many requests of this account failed, by the kind of fault."""
        with _file_faults(self.path):
            connection = self._connection()
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'faults'").fetchone():
                return {}
            sql = "SELECT kind, count FROM faults WHERE account = ?"
            return dict(connection.execute(sql, (self.account,)).fetchall())

    def most_tokens(self, endpoint: str, model: str) -> tuple[int, int]:
        """The most tokens that a model of an endpoint reported for a prompt, and for a reply; 0 without such replies."""
        whole = "CASE WHEN json_valid({0}.body) THEN {0}.body ELSE '{{}}' END"
        rows = f"SELECT {whole.format('replies')} AS reply, {whole.format('requests')} AS request FROM replies JOIN requests USING (key)"
        most = "max(json_extract(reply, '$.input_tokens')), max(json_extract(reply, '$.output_tokens'))"
        sql = f"""
        SELECT {most} FROM ({rows}) WHERE NOT json_extract(reply, '$.estimated')
        AND json_extract(request, '$.endpoint') = ? AND json_extract(request, '$.body.model') = ?"""
        with _file_faults(self.path):
            read, written = self._connection().execute(sql, (endpoint, model)).fetchone()
            return read or 0, written or 0

    def __len__(self) -> int:
        with _file_faults(self.path):
            return int(self._connection().execute("SELECT count(*) FROM replies").fetchone()[0])

    def merge(self, other: Path) -> int:
        """Copy the replies of another cache file that this one lacks; return their number. Ledgers are not merged, and damaged
        rows are left out and named in the log."""
        added = 0
        with _reading(other) as source:
            cursor = _sound_rows(source, other)
            while chunk := list(islice(cursor, 1000)):
                rows = [
                    (key, sample, at, _write_reply(key, sample, reply), request)
                    for key, sample, at, request, reply in chunk
                ]
                added += self._submit(partial(_insert, rows=rows)).result()
        return added

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = _connect(self.path)
            self._connections.append(connection)
        return connection

    def _submit(self, write: Callable[[sqlite3.Connection], T]) -> Future[T]:
        job = _Job(write, Future())
        # From here on it cannot be cancelled: a reply is kept even if the task that asked for it has ended.
        job.done.set_running_or_notify_cancel()
        with self._guard:
            if self._closed:
                raise RunError(f"{self.path}: this cache was closed; open it again")
            self._jobs.put(job)
        return job.done

    def _write(self) -> None:
        connection = self._connection()
        while True:
            jobs = [self._jobs.get()]
            while not self._jobs.empty() and len(jobs) < 1024:
                jobs.append(self._jobs.get())
            _commit(connection, [job for job in jobs if job is not None], self.path)
            if None in jobs:
                return


@contextmanager
def open_replies(path: Path) -> Iterator[LookUp]:
    """Look replies up in a cache file that is opened for reading only. Raises RunError if there is none."""
    with _reading(path) as connection:

        def look_up(key: str, sample: int) -> Reply | None:
            body = _find(connection, key, sample)
            return None if body is None else _read_reply(key, sample, body)

        yield look_up


def export(source: Path, target: Path) -> int:
    """Write every reply of a cache file as a JSON line `{key, sample, at, request, reply}`, sorted; return their number.

    The cache is opened for reading only. Damaged rows are left out and named in the log.
    """
    count = 0
    temporary = target.with_name(f".{target.name}.tmp")
    with _reading(source) as connection, temporary.open("w", encoding="utf-8") as file:
        for key, sample, at, request, reply in _sound_rows(connection, source):
            row = {"key": key, "sample": sample, "at": at, "request": json.loads(request), "reply": reply.to_json()}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)
    return count


def damage_in_replies(path: Path) -> str | None:
    """What is wrong with a cache file and what to do, in one line; None if every row is sound. The file is opened for reading only."""
    try:
        with _reading(path) as connection:
            [structure] = connection.execute("PRAGMA quick_check(1)").fetchone()
            damaged = [name for name, row in _rows(connection) if row is None]
    except RunError as error:
        return str(error).removeprefix(f"{path}: ")
    if structure != "ok":
        return f"is damaged ({structure}); put a copy back, or move it away to start with an empty one"
    if damaged:
        rows = "a row" if len(damaged) == 1 else f"{len(damaged)} rows"
        return (
            f"has {rows} with a damaged request or reply ({_names(damaged)}); annotation asks again for a damaged reply"
        )
    return None


def _canonical(request: Mapping[str, Any]) -> str:
    return json.dumps(request, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _keep(connection: sqlite3.Connection, request: Mapping[str, Any], sample: int, reply: Reply) -> None:
    key = request_key(request)
    _insert(connection, [(key, sample, time.time(), _write_reply(key, sample, reply), _canonical(request))])


def _insert(connection: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> int:
    """Insert (key, sample, at, reply, request) rows; the first sound reply to a sample stays. Return the number of new ones."""
    connection.create_function("damaged", 3, lambda *row: _read_reply(*row) is None)
    added = 0
    for key, sample, at, reply, request in rows:
        connection.execute(_ADD_REQUEST, (key, request))
        added += connection.execute(_ADD_REPLY, (key, sample, at, reply)).rowcount
    return added


_Row = tuple[str, int, float, str, Reply]
"""The key, sample, time, request and reply of a row."""


def _rows(connection: sqlite3.Connection) -> Iterator[tuple[str, _Row | None]]:
    """The name of every row, and the row, or None if it is damaged; sorted by key and sample."""
    columns = "CAST(key AS BLOB), sample, at, CAST(requests.body AS BLOB), CAST(replies.body AS BLOB)"
    joined = "replies LEFT JOIN requests USING (key) ORDER BY key, sample"
    for name, sample, at, request, body in connection.execute(f"SELECT {columns} FROM {joined}"):
        key = name.decode(errors="replace")
        reply = _read_reply(key, sample, body)
        sound = reply is not None and request is not None and hashlib.sha256(request).hexdigest() == key
        yield _row_name(key, sample), (key, sample, at, request.decode(), reply) if sound and reply else None


def _sound_rows(connection: sqlite3.Connection, path: Path) -> Iterator[_Row]:
    """Every sound row; at the end, the log names the others."""
    damaged = []
    for name, row in _rows(connection):
        if row is not None:
            yield row
        else:
            damaged.append(name)
    if damaged:
        log.warning("%s: %d damaged replies are left out: %s", path, len(damaged), _names(damaged))


def _names(damaged: Sequence[str]) -> str:
    return ", ".join(damaged[:_NAMED]) + (", ..." if len(damaged) > _NAMED else "")


def _find(connection: sqlite3.Connection, key: str, sample: int) -> bytes | None:
    sql = "SELECT CAST(body AS BLOB) FROM replies WHERE key = ? AND sample = ?"
    row = connection.execute(sql, (key, sample)).fetchone()
    return None if row is None else bytes(row[0])


def _row_name(key: str, sample: int) -> str:
    return f"{key[:12]} (sample {sample})"


def _write_reply(key: str, sample: int, reply: Reply) -> str:
    values = reply.to_json()
    return json.dumps({**values, "digest": _digest(key, sample, values)}, ensure_ascii=False)


def _read_reply(key: str, sample: int, body: bytes) -> Reply | None:
    """The reply in a row; None if it is damaged. Rows of earlier versions have no digest."""
    try:
        values = json.loads(body)
        digest = values.pop("digest", None)
        return Reply.from_json(values) if digest in (None, _digest(key, sample, values)) else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _digest(key: str, sample: int, values: Mapping[str, Any]) -> str:
    return content_id(key, str(sample), _canonical(values))


def _commit(connection: sqlite3.Connection, jobs: list[_Job], path: Path) -> None:
    try:
        with _file_faults(path):
            connection.execute("BEGIN IMMEDIATE")
            results = [job.write(connection) for job in jobs]
            connection.execute("COMMIT")
    except Exception as error:  # every waiting task must get it
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        for job in jobs:
            job.done.set_exception(error)
    else:
        for job, result in zip(jobs, results, strict=True):
            job.done.set_result(result)


def _connect(path: Path, options: str = "") -> sqlite3.Connection:
    # Autocommit: transactions are begun by hand. FULL: a commit is on disk when it returns, even if the power fails then.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    with _closed_by_error(connection):  # a file that is no database is found by its first statement
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA trusted_schema = OFF")
    return connection


@contextmanager
def _closed_by_error(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield connection
    except BaseException:
        connection.close()
        raise


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """The cache in a file, for reading only. Raises RunError if there is none."""
    if not path.is_file():
        raise RunError(f"{path}: no such cache file; expected the requests.sqlite of a run")
    # A file that nobody writes to has no -wal file. SQLite would make one even to read, unless the file is called immutable.
    in_use = path.with_name(f"{path.name}-wal").exists()
    with _file_faults(path), closing(_connect(path, "mode=ro" if in_use else "immutable=1")) as connection:
        _check(connection, path)
        yield connection


def _create(path: Path) -> None:
    """Make an empty cache. It appears whole, so that an empty file is always damage."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    with closing(_connect(temporary)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_SCHEMA)
    try:
        os.link(temporary, path)
        temporary.unlink()
    except FileExistsError:  # another process was first
        temporary.unlink()
    except OSError:  # a file system without hard links
        temporary.rename(path)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Raise RunError if the file does not hold a cache."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if (application, version) == (_APPLICATION_ID, _VERSION):
        return
    if application == _APPLICATION_ID:
        raise RunError(
            f"{path}: a request cache of version {version}, expected {_VERSION}; use the version of mentorkd that made it"
        )
    if path.stat().st_size == 0:
        raise RunError(
            f"{path}: the request cache is empty (0 bytes), so paid replies may be lost; put a copy back, or remove the file "
            "to start with an empty cache"
        )
    what = "a SQLite file, but no request cache" if connection.execute("SELECT 1 FROM sqlite_master").fetchone() else ""
    raise RunError(f"{path}: {what or 'not a request cache'}; give another path")


@contextmanager
def _file_faults(path: Path) -> Iterator[None]:
    """Turn faults of the file into RunErrors."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise RunError(f"{path}: the request cache cannot be used ({error}); check the disk and its rights") from None
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise RunError(
            f"{path}: not a request cache, or a damaged one ({error}); move it away to start with an empty one"
        ) from None
