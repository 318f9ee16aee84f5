"""A cache that keeps every paid reply: SQLite, keyed by the hash of the request, with a ledger of costs.

A request takes two durable steps. `open` writes its worst cost to the ledger before it is sent. `settle` writes its reply
and its real cost, in one transaction, before the reply is used. A process that is killed in between leaves the worst cost
counted, so a budget holds over kills, and only that request can be sent a second time.

One thread writes, and commits all waiting writes at once: under load one fsync serves many replies.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from mentorkd.errors import RunError
from mentorkd.teachers.limits import Spending

T = TypeVar("T")

_APPLICATION_ID = 0x6D6B6463
_VERSION = 1
_BUSY_SECONDS = 60.0
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


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of a teacher. `estimated`: the endpoint reported no usage, and the token counts are upper bounds."""

    text: str
    finish_reason: str
    input_tokens: int
    output_tokens: int
    estimated: bool = False
    model: str = ""


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
        path.parent.mkdir(parents=True, exist_ok=True)
        with _file_faults(path):
            connection = self._connection()
            if not _is_cache(connection, path):
                _enter_wal(connection)
                connection.executescript(_SCHEMA)
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
        """The reply to a sample of a request, or None."""
        sql = "SELECT body FROM replies WHERE key = ? AND sample = ?"
        with _file_faults(self.path):
            row = self._connection().execute(sql, (key, sample)).fetchone()
            return None if row is None else Reply(**json.loads(row[0]))

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
        rows = f"SELECT {whole.format('replies')} AS reply, {whole.format('requests')} AS request" + _JOINED
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
        """Copy the replies of another cache file that this one lacks; return their number. Ledgers are not merged."""
        if not other.is_file():
            raise RunError(f"{other}: no such cache file; expected the requests.sqlite of a run")

        with _file_faults(other), closing(_connect(other)) as source:
            if not _is_cache(source, other):
                raise RunError(f"{other}: an empty file; expected the requests.sqlite of a run")
            cursor = source.execute("SELECT key, sample, at, replies.body, requests.body" + _JOINED)
            added = 0
            while chunk := cursor.fetchmany(1000):
                added += self._submit(partial(_insert, rows=chunk)).result()
        return added

    def export(self, path: Path) -> int:
        """Write every reply as a JSON line `{key, sample, at, request, reply}`, sorted; return their number."""
        count = 0
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            for row in self.rows():
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        return count

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every reply with its request, sorted by key and sample."""
        with _file_faults(self.path):
            sql = "SELECT key, sample, at, requests.body, replies.body" + _JOINED
            for key, sample, at, request, reply in self._connection().execute(sql):
                bodies = {"request": json.loads(request), "reply": json.loads(reply)}
                yield {"key": key, "sample": sample, "at": at, **bodies}

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


_JOINED = " FROM replies JOIN requests USING (key) ORDER BY key, sample"


def _canonical(request: Mapping[str, Any]) -> str:
    return json.dumps(request, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _keep(connection: sqlite3.Connection, request: Mapping[str, Any], sample: int, reply: Reply) -> None:
    body = json.dumps(asdict(reply), ensure_ascii=False)
    _insert(connection, [(request_key(request), sample, time.time(), body, _canonical(request))])


def _insert(connection: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> int:
    """Insert (key, sample, at, reply, request) rows; the first reply to a sample stays. Return the number of new ones."""
    added = 0
    for key, sample, at, reply, request in rows:
        connection.execute("INSERT OR IGNORE INTO requests VALUES (?, ?)", (key, request))
        sql = "INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?)"
        added += connection.execute(sql, (key, sample, at, reply)).rowcount
    return added


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


def _connect(path: Path) -> sqlite3.Connection:
    # Autocommit: transactions are begun by hand. FULL: a commit is on disk when it returns, even if the power fails then.
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def _is_cache(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file holds a cache; False if it is empty. Raises RunError if it holds anything else."""
    # In one transaction: another process may create the cache between two of these reads.
    connection.execute("BEGIN")
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    finally:
        if connection.in_transaction:  # some faults of a file end the transaction
            connection.execute("ROLLBACK")
    if (application, version) == (_APPLICATION_ID, _VERSION):
        return True
    if application == _APPLICATION_ID:
        raise RunError(
            f"{path}: a request cache of version {version}, expected {_VERSION}; use the version of mentorkd that made it"
        )
    if tables:
        raise RunError(f"{path}: a SQLite file, but no request cache; give another path")
    return False


def _enter_wal(connection: sqlite3.Connection) -> None:
    # SQLite does not wait for a lock here as it does elsewhere, so two processes that start together must retry.
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


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
