"""The table of a run's rationales: DuckDB filters, searches and sorts, and the rows of a page are read from the run's own files.

The order of the rows of a view (a filter and an order) is found once and kept, so its pages cost nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import numpy.typing as npt

from mentorkd.errors import DamagedError
from mentorkd.records import Question, Rationale
from mentorkd.web.table_files import KEPT, TABLES, Lines, Places, create_tables, open_table, read_starts
from mentorkd.web.written import Written

_ORDERS = 16
"""Views whose order is kept: 4 bytes a row each."""

Sort = Literal["question", "length", "nll", "kl"]


@dataclass(frozen=True)
class View:
    """Which rationales are shown, and in which order. What is None or empty filters nothing."""

    search: str = ""
    """In the text, or in its question; upper and lower case are the same."""
    files: frozenset[int] | None = None
    verdict: str | None = None
    outcome: str | None = None
    """For `reader`: `kept`, `dropped` by any filter, or the name of a filter."""
    question: int | None = None
    ids: frozenset[str] | None = None
    sort: Sort = "question"
    descending: bool = False
    reader: int = 0
    """The number of the reader whose outcomes, likelihoods and divergences count."""


@dataclass(frozen=True)
class TableRow:
    """A rationale with what is known of it."""

    rationale: Rationale
    question: Question
    question_number: int
    file: int
    length: int
    """In characters."""
    read_id: str | None
    """The id by which learners read it: another one if the run has an edited text of it, None if it was rejected."""
    overlay: str | None
    """What the decisions of the last run did to it: `reject` or `edit`."""
    outcomes: Sequence[str | None]
    """By reader."""
    nll: Sequence[float | None]
    """By reader: nats a token under the model of its filter `perplexity`."""


class RationaleTable:
    """The rationales of a run. Several threads may use it at once."""

    def __init__(self, written: Written, folder: Path | None = None) -> None:
        """`folder` has the tables as files; without one, they are made in memory.

        Raises DamagedError for a file that is not as the run wrote it.
        """
        self.written = written
        self._database = duckdb.connect()
        if folder is None:
            starts = read_starts(written)
            create_tables(self._database, written)
        else:
            starts = load_starts(folder)
            for name in TABLES:
                open_table(self._database, name, folder / f"{name}.parquet")
        self._database.execute("CREATE TABLE divergences (reader INTEGER, read_id VARCHAR, kl DOUBLE)")
        self._measured = 0
        self._firsts = np.cumsum([0, *map(len, starts[1:])])
        files = [written.questions, *(text.file for text in written.texts)]
        self._questions, *self._texts = [Lines(file.path, each) for file, each in zip(files, starts, strict=True)]
        self._order = lru_cache(_ORDERS)(self._sorted)

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def order(self, view: View) -> npt.NDArray[np.int32]:
        """The numbers of a view's rows, in its order."""
        return self._order(view, self._measured)

    def rows(self, numbers: Iterable[int]) -> list[TableRow]:
        """The rows of these numbers, in their order. Raises DamagedError if the run's files have changed."""
        numbers, readers = [int(number) for number in numbers], range(len(self.written.readers))
        columns = ["row", "file", "question", "id", "read_id", "overlay", "length"]
        columns += [f"{name}_{reader}" for name in ("outcome", "nll") for reader in readers]
        query = f"SELECT {', '.join(columns)} FROM facts WHERE row IN (SELECT unnest(?))"
        found = {row[0]: row[1:] for row in self._run(query, [numbers])}
        return [self._row(number, *found[number]) for number in numbers]

    def _row(
        self,
        row: int,
        file: int,
        question: int,
        id: str,
        read_id: str | None,
        overlay: str | None,
        length: int,
        *rest: Any,
    ) -> TableRow:
        rationale = self._texts[file].record(Rationale, row - int(self._firsts[file]))
        if rationale.id != id:
            raise DamagedError(
                f"{self._texts[file].path} has changed since the run wrote it; `mentorkd run` makes it again"
            )
        asked, half = self._questions.record(Question, question), len(rest) // 2
        return TableRow(rationale, asked, question, file, length, read_id, overlay, rest[:half], rest[half:])

    def find(self, ids: Iterable[str]) -> list[int]:
        """The numbers of the rows with these ids, in order; unknown ids are left out."""
        return [
            row for (row,) in self._run("SELECT row FROM facts WHERE id IN (SELECT unnest(?)) ORDER BY row", [[*ids]])
        ]

    def count(self, column: Literal["verdict", "outcome", "file"], view: View) -> dict[Any, int]:
        """How many rows of a view have each value of a column, the most frequent first; its own filter of this column does not count."""
        where, values = _where(view, without={"file": "files"}.get(column, column))
        name = _outcome(view) if column == "outcome" else column
        query = f"SELECT {name}, count(*) FROM facts {where} GROUP BY ALL ORDER BY 2 DESC, 1"
        return {value: count for value, count in self._run(query, values) if value is not None}

    def keep_divergences(self, reader: int, kl: Mapping[str, float]) -> None:
        """Divergences by `read_id`, by which views can be sorted from now on."""
        cursor = self._database.cursor()
        cursor.execute("DELETE FROM divergences WHERE reader = ? AND read_id IN (SELECT unnest(?))", [reader, [*kl]])
        if kl:
            cursor.executemany("INSERT INTO divergences VALUES (?, ?, ?)", [[reader, *each] for each in kl.items()])
        self._measured += 1

    def divergences(self, reader: int, read_ids: Iterable[str | None]) -> dict[str, float]:
        """Those that are known of some rationales."""
        query = "SELECT read_id, kl FROM divergences WHERE reader = ? AND read_id IN (SELECT unnest(?))"
        return dict(self._run(query, [reader, [each for each in read_ids if each]]))

    def _sorted(self, view: View, measured: int) -> npt.NDArray[np.int32]:
        where, values = _where(view)
        source, direction = "facts", "DESC" if view.descending else "ASC"
        key = f"nll_{view.reader}" if view.sort == "nll" else view.sort
        if view.sort == "kl":
            source = "facts LEFT JOIN (SELECT read_id, kl FROM divergences WHERE reader = ?) USING (read_id)"
            values = [view.reader, *values]
        query = f"SELECT row FROM {source} {where} ORDER BY {key} {direction} NULLS LAST, row"
        rows: npt.NDArray[np.int32] = self._database.cursor().execute(query, values).fetchnumpy()["row"]
        return rows

    def _run(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        return self._database.cursor().execute(query, values).fetchall()


def load_starts(folder: Path) -> list[Places]:
    """What `save_starts` saved."""
    with np.load(folder / "starts.npz") as arrays:
        return [arrays[name] for name in arrays.files]


def save_starts(folder: Path, starts: Sequence[Places]) -> None:
    """Keep where the lines of the run's files begin beside the tables."""
    np.savez(folder / "starts.npz", *starts)


def _outcome(view: View) -> str:
    return f"outcome_{int(view.reader)}"


def _where(view: View, *, without: str = "") -> tuple[str, list[Any]]:
    """The condition of a view but for one of its filters, and the values of its parameters."""
    conditions: dict[str, tuple[str, list[Any]]] = {}
    if view.search:
        found = "row IN (SELECT row FROM texts WHERE contains(text, ?))"
        asked = "question IN (SELECT number FROM questions WHERE contains(text, ?))"
        conditions["search"] = f"({found} OR {asked})", [view.search.lower()] * 2
    for column in ("verdict", "question"):
        if (value := getattr(view, column)) is not None:
            conditions[column] = f"{column} = ?", [value]
    for name, column in (("files", "file"), ("ids", "id")):
        if (chosen := getattr(view, name)) is not None:
            conditions[name] = f"{column} IN (SELECT unnest(?))", [sorted(chosen)]
    if view.outcome == "dropped":
        conditions["outcome"] = f"{_outcome(view)} <> '{KEPT}'", []
    elif view.outcome is not None:
        conditions["outcome"] = f"{_outcome(view)} = ?", [view.outcome]
    rest = [condition for name, condition in conditions.items() if name != without]
    where = " AND ".join(text for text, _ in rest)
    return f"WHERE {where}" if where else "", [value for _, values in rest for value in values]
