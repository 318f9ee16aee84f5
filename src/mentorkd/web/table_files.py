"""The tables of a run's rationales, made from the run's files: in memory, or once as files in a folder.

    texts       row, file, id, question_id, verdict, length, text in lower case: for the search
    questions   number, id, text in lower case
    facts       what is filtered and sorted by: row, file, question (its number), id and curated_id (as numbers; 0 if rejected), verdict,
                length, overlay; of each reader N outcome_N (`kept`, or what dropped it; null if N was not given the file) and nll_N

As files, facts are Parquet. What is searched is Arrow, since mapped memory that needs no decoding is searched at twice the speed.

Beside them are the places where the lines of the run's files begin, as arrays of numpy, since a row is read from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.ipc

from mentorkd.errors import DamagedError, DataError
from mentorkd.pipeline.written import RunFile, TextFile, Written
from mentorkd.records import Question, R, Rationale, read_record

OVERLAY = "overlay"
"""The outcome of a rationale that people rejected."""
KEPT = "kept"

SEARCHED = ("texts", "questions")
_FACTS = "facts.parquet"
_ARROW_ROWS = 1 << 16
"""Rows that are searched at once, by one thread."""
_SCANNED = 1 << 26
"""Bytes of a file that are looked at at once."""
_MOST_LINE = 1 << 28
"""Bytes of a line."""

Q = TypeVar("Q", Question, Rationale)

Places = npt.NDArray[np.int64]
Step = Callable[[str], None]
"""Called with what is about to be done."""


class Lines:
    """The records in a file of JSON Lines, read at their places."""

    def __init__(self, path: Path, starts: Places) -> None:
        self.path, self._starts = path, starts

    def __len__(self) -> int:
        return len(self._starts)

    def record(self, kind: type[R], number: int) -> R:
        """The record in line `number`, from 0. Raises DataError if it is none."""
        with self.path.open("rb") as file:
            file.seek(int(self._starts[number]))
            return read_record(self.path, kind, number + 1, file.readline())

    def whole(self, kind: type[Q], number: int, id: str) -> Q:
        """The record in line `number`, which has this id. Raises DamagedError for another one, or for another content."""
        try:
            record = self.record(kind, number)
            if record.id == id and record.is_whole:
                return record
        except (DataError, TypeError, AttributeError, UnicodeEncodeError):  # no record; fields of other types
            pass
        raise DamagedError(
            f"{self.path} has changed since the run wrote it; remove it and `mentorkd run` makes it again"
        )


def line_starts(path: Path) -> Places:
    """Where each line of a file begins."""
    if not path.stat().st_size:
        return np.zeros(0, np.int64)
    data = np.memmap(path, np.uint8, "r")
    parts = (np.flatnonzero(data[at : at + _SCANNED] == ord("\n")) + at + 1 for at in range(0, len(data), _SCANNED))
    ends = np.concatenate([np.zeros(1, np.int64), *parts])
    return ends[:-1] if ends[-1] == len(data) else ends


def read_starts(written: Written) -> list[Places]:
    """Where the lines of the questions, and of each file of rationales, begin.

    Raises DamagedError for a file that does not have the bytes that the run wrote.
    """
    for file in written.files:
        file.check()
    return [line_starts(file.path) for file in (written.questions, *(text.file for text in written.texts))]


def load_starts(folder: Path) -> list[Places]:
    """What `save_starts` saved."""
    with (folder / "starts.npz").open("rb") as file, np.load(file) as arrays:
        return [arrays[name] for name in arrays.files]


def save_starts(folder: Path, starts: Sequence[Places]) -> None:
    """Keep where the lines of the run's files begin beside the tables."""
    np.savez(folder / "starts.npz", *starts)


def create_tables(database: duckdb.DuckDBPyConnection, written: Written) -> None:
    """Make the tables in memory."""
    with _explaining_damage():
        for name, query in _queries(written):
            database.execute(f"CREATE TABLE {name} AS {query}")


def write_tables(database: duckdb.DuckDBPyConnection, written: Written, folder: Path, step: Step) -> None:
    """Write the tables as files, and open them."""
    with _explaining_damage():
        for name, query in _queries(written):
            step(name)
            if name == "facts":
                database.execute(f"COPY ({query}) TO {quoted(folder / _FACTS)} (FORMAT parquet, COMPRESSION zstd)")
            else:
                _write_arrow(database.sql(query).arrow(_ARROW_ROWS), folder / f"{name}.arrow")
                database.register(name, map_table(folder, name))


def map_table(folder: Path, name: str) -> pyarrow.Table:
    """The table `texts` or `questions` of a folder, mapped into memory."""
    with pyarrow.memory_map(str(folder / f"{name}.arrow")) as file:
        return pyarrow.ipc.open_file(file).read_all()


def open_facts(database: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Give the facts of a folder the name of their table, and read all of them once. Raises duckdb.Error for a damaged file."""
    database.execute(f"CREATE VIEW facts AS SELECT * FROM read_parquet({quoted(folder / _FACTS, pattern=True)})")
    database.execute("SELECT bit_xor(hash(COLUMNS(*))) FROM facts").fetchall()


def _write_arrow(batches: pyarrow.RecordBatchReader, file: Path) -> None:
    with pyarrow.OSFile(str(file), "wb") as stream, pyarrow.ipc.new_file(stream, batches.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def quoted(path: Path, *, pattern: bool = False) -> str:
    """A path as a text in SQL; functions that read files take a `pattern`, in which stars and brackets have a meaning."""
    text = str(path)
    if pattern:
        text = "".join(f"[{sign}]" if sign in "*?[" else sign for sign in text)
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def _explaining_damage() -> Iterator[None]:
    """Say that a file of the run cannot be read, where its hash is not known."""
    try:
        yield
    except duckdb.InvalidInputException as error:
        raise DamagedError(f"a file of the run is damaged: {error}; `mentorkd verify` tells which") from None


def _queries(written: Written) -> Iterable[tuple[str, str]]:
    """The query of each table, which may read the tables before it."""
    texts = " UNION ALL ".join(_text_rows(number, text) for number, text in enumerate(written.texts))
    # Numbered before any join: only such queries keep the order of lines.
    yield "texts", f"SELECT (row_number() OVER () - 1)::INTEGER AS row, * FROM ({texts})"
    question = _lines(written.questions, id="VARCHAR", text="VARCHAR")
    yield "questions", f"SELECT (row_number() OVER () - 1)::INTEGER AS number, id, lower(text) AS text FROM {question}"
    yield "facts", _facts(written)


def _text_rows(number: int, text: TextFile) -> str:
    kinds = {"id": "VARCHAR", "question_id": "VARCHAR", "verdict": "VARCHAR", "text": "VARCHAR"}
    columns = "id, question_id, verdict, length(text)::INTEGER AS length, lower(text) AS text"
    return f"SELECT {number}::INTEGER AS file, {columns} FROM {_lines(text.file, **kinds)}"


def _facts(written: Written) -> str:
    """Rows with what the overlay and each reader did with them.

    A question is in several splits at most once each, so it is the first line that counts.
    """
    columns = ["t.row", "t.file", "q.number AS question", f"{_number('t.id')} AS id", "t.verdict", "t.length"]
    curated_id, overlay, joins = "t.id", "NULL::VARCHAR", []
    joins.append("LEFT JOIN (SELECT id, min(number) AS number FROM questions GROUP BY id) AS q ON q.id = t.question_id")
    if written.curated is not None:
        curated = _lines(written.curated, id="VARCHAR", meta="STRUCT(edited_from VARCHAR)")
        of_teacher = [number for number, text in enumerate(written.texts) if text.author.seed is None]
        mine = f"t.file IN ({', '.join(map(str, of_teacher))})"
        joins.append(
            f"LEFT JOIN (SELECT id, meta.edited_from AS old FROM {curated}) AS c ON {mine} AND coalesce(c.old, c.id) = t.id"
        )
        curated_id = f"CASE WHEN {mine} THEN c.id ELSE t.id END"
        overlay = (
            f"CASE WHEN NOT {mine} THEN NULL WHEN c.id IS NULL THEN 'reject' WHEN c.old IS NOT NULL THEN 'edit' END"
        )
    columns += [f"coalesce({_number(curated_id)}, 0) AS curated_id", f"{overlay} AS overlay"]
    for number, reader in enumerate(written.readers):
        log = _lines(reader.selection, rationale_id="VARCHAR", dropped_by="VARCHAR", nll="DOUBLE")
        facts = f"SELECT rationale_id, max(dropped_by) AS dropped_by, max(nll) AS nll FROM {log} GROUP BY rationale_id"
        own_id = curated_id if reader.curated else "t.id"
        joins.append(f"LEFT JOIN ({facts}) AS r{number} ON r{number}.rationale_id = {own_id}")
        given = f"t.file IN ({', '.join(map(str, sorted(reader.reads)))})"
        outcome = (
            f"CASE WHEN NOT {given} THEN NULL WHEN ({own_id}) IS NULL THEN '{OVERLAY}' "
            f"ELSE coalesce(r{number}.dropped_by, '{KEPT}') END"
        )
        columns += [f"{outcome} AS outcome_{number}", f"CASE WHEN {given} THEN r{number}.nll END AS nll_{number}"]
    return f"SELECT {', '.join(columns)} FROM texts AS t {' '.join(joins)} ORDER BY t.row"


def _number(id: str) -> str:
    return f"('0x' || ({id}))::UBIGINT"


def _lines(file: RunFile, **columns: str) -> str:
    """The lines of a JSON Lines file as rows with some of its fields."""
    kinds = ", ".join(f"{name}: '{kind}'" for name, kind in columns.items())
    options = f"format = 'newline_delimited', maximum_object_size = {_MOST_LINE}, columns = {{{kinds}}}"
    return f"read_json({quoted(file.path, pattern=True)}, {options})"
