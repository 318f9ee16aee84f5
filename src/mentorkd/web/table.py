"""The table of a run's rationales: filtered, searched, sorted, and read a page at a time from the run's own files.

DuckDB reads the tables of `table_files` a column at a time: texts for a search, and other columns once, as arrays of numpy. A view is
then a mask over the rows and an order of all rows, both of which are kept, so that a page of 10^6 rationales costs milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow

from mentorkd.pipeline.provenance import cores
from mentorkd.pipeline.written import Written
from mentorkd.records import Question, Rationale
from mentorkd.web.table_files import (
    KEPT,
    SEARCHED,
    Lines,
    create_tables,
    load_starts,
    map_table,
    open_facts,
    read_starts,
)

_KEPT_COLUMNS = 64
_KEPT_SEARCHES = 16
_KEPT_ORDERS = 8
"""What stays in memory: at most 8 bytes a rationale each."""

DROPPED = "dropped"
"""In a view: the outcome of any filter."""

_FEW = 2
"""One row of this many is few."""
_MOST_PARTS = 8
"""Threads of a search."""
_ID = re.compile(r"[0-9a-f]{16}")

Sort = Literal["question", "length", "nll", "kl"]
Facet = Literal["file", "verdict", "outcome", "overlay"]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class View:
    """Which rationales are shown, and in which order. What is None or empty filters nothing."""

    search: str = ""
    """In the text, or in its question; upper and lower case are the same."""
    files: frozenset[int] | None = None
    verdict: str | None = None
    outcome: str | None = None
    """For `reader`: `kept`, `dropped` by any filter, or the name of a filter."""
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
    file: int
    length: int
    """In characters."""
    curated_id: str | None
    """Its id after the decisions of the last run: another one if it was edited, None if it was rejected."""
    overlay: str | None
    """What the decisions of the last run did to it: `reject` or `edit`."""
    outcomes: Sequence[str | None]
    """By reader."""
    nll: Sequence[float | None]
    """By reader: nats a token under the model of its filter `perplexity`."""
    kl: Sequence[float | None]
    """By reader: mean divergence from its mentors in nats a token, where it was measured."""


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
            for file in written.files:
                file.check(size_alone=True)  # the copy was made of files with these hashes
            starts = load_starts(folder)
            open_facts(self._database, folder)
        self._parts = {} if folder is None else {name: _in_parts(map_table(folder, name)) for name in SEARCHED}
        self._firsts = np.cumsum([0, *map(len, starts[1:])])
        files = [written.questions, *(text.file for text in written.texts)]
        self._questions, *self._texts = [Lines(file.path, each) for file, each in zip(files, starts, strict=True)]
        self._kl = {number: np.full(len(self), np.nan) for number in range(len(written.readers))}
        self._column = lru_cache(_KEPT_COLUMNS)(self._read_column)
        self._by_id = lru_cache(2)(self._sort_ids)
        self._values = lru_cache(_KEPT_COLUMNS)(self._read_values)
        self._found = lru_cache(_KEPT_SEARCHES)(self._search)
        self._order = lru_cache(_KEPT_ORDERS)(self._sort)

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def order(self, view: View) -> npt.NDArray[np.int64]:
        """The numbers of a view's rows, in its order."""
        mask = self._mask(view)
        rows = np.flatnonzero(mask)
        if len(rows) * _FEW < len(self):  # sooner sorted than found in the order of all rows
            return rows[np.argsort(self._keys(view.sort, view.descending, view.reader)[rows], kind="stable")]
        order = self._order(view.sort, view.descending, view.reader)
        return order if len(rows) == len(self) else order[mask[order]]

    def count(self, facet: Facet, view: View) -> dict[Any, int]:
        """How many rows of a view have each value of a column, the most frequent first; its own filter of this column does not count."""
        mask = self._mask(view, without=facet)
        values: Sequence[Any] = range(len(self._texts))
        codes: npt.NDArray[np.integer[Any]] = self._column("file")
        if facet != "file":
            values, codes = self._values(_name(facet, view))
        counts = [int(np.count_nonzero(mask & (codes == code))) for code in range(len(values))]
        ranked = sorted(zip(values, counts, strict=True), key=lambda item: -item[1])
        return {value: count for value, count in ranked if count}

    def rows(self, numbers: Iterable[int]) -> list[TableRow]:
        """The rows of these numbers, in their order. Raises DamagedError if the run's files have changed."""
        return [self._row(int(number)) for number in numbers]

    def _row(self, row: int) -> TableRow:
        file, number = int(self._column("file")[row]), int(self._column("question")[row])
        rationale = self._texts[file].whole(
            Rationale, row - int(self._firsts[file]), f"{int(self._column('id')[row]):016x}"
        )
        question = self._questions.whole(Question, number, rationale.question_id)
        readers, curated_id = range(len(self.written.readers)), int(self._column("curated_id")[row])
        return TableRow(
            rationale,
            question,
            file,
            int(self._column("length")[row]),
            f"{curated_id:016x}" if curated_id else None,
            self._value("overlay", row),
            [self._value(f"outcome_{reader}", row) for reader in readers],
            [_finite(self._column(f"nll_{reader}")[row]) for reader in readers],
            [_finite(self._kl[reader][row]) for reader in readers],
        )

    def _value(self, name: str, row: int) -> str | None:
        values, codes = self._values(name)
        return None if codes[row] < 0 else values[codes[row]]

    def find(self, ids: Iterable[str], column: Literal["id", "curated_id"] = "id") -> list[int]:
        """The numbers of the rows with these ids, in order; unknown ids are left out."""
        wanted = np.array([int(id, 16) for id in ids if _ID.fullmatch(id)], np.uint64)
        order, column_ids = self._by_id(column), self._column(column)
        places = np.searchsorted(column_ids, wanted, sorter=order)
        rows = order[places[places < len(order)]]
        return sorted(rows[np.isin(column_ids[rows], wanted)].tolist())

    def of_question(self, id: str) -> list[int]:
        """The numbers of the rows of a question, by file; none for an unknown one."""
        numbers = self._numbers("questions", "SELECT number FROM questions WHERE id = ?", id)
        return [] if not len(numbers) else np.flatnonzero(self._column("question") == numbers.min()).tolist()

    def neighbours(self, view: View, row: int) -> tuple[str | None, str | None, int, int]:
        """The questions before and after that of a row among those of a view, the question's place among them, and how many there are."""
        questions = self._column("question")
        of_view, own = np.unique(questions[self._mask(view)]), questions[row]
        place = int(np.searchsorted(of_view, own))
        after = place + (place < len(of_view) and of_view[place] == own)

        def id_at(index: int) -> str | None:
            return self._questions.record(Question, int(of_view[index])).id if 0 <= index < len(of_view) else None

        return id_at(place - 1), id_at(after), place + 1, len(of_view)

    def read_id(self, reader: int, row: TableRow) -> str | None:
        """The id by which a reader knows a rationale; None if it was rejected before."""
        return row.curated_id if self.written.readers[reader].curated else row.rationale.id

    def keep_divergences(self, reader: int, kl: Mapping[str, float]) -> None:
        """Divergences of a reader from its mentors by `read_id`, by which views can be sorted from now on."""
        column: Literal["id", "curated_id"] = "curated_id" if self.written.readers[reader].curated else "id"
        for row in self.find(kl, column):
            self._kl[reader][row] = kl[f"{int(self._column(column)[row]):016x}"]
        self._order.cache_clear()

    def measured(self, reader: int) -> int:
        """How many rationales have a known divergence."""
        return int(np.isfinite(self._kl[reader]).sum()) if reader in self._kl else 0

    def has_nll(self, reader: int) -> bool:
        """Whether any rationale has a likelihood."""
        return reader in self._kl and bool(np.isfinite(self._column(f"nll_{reader}")).any())

    def _mask(self, view: View, *, without: str = "") -> Mask:
        """The rows of a view, but for one of its filters."""
        mask: Mask = np.ones(len(self), bool)
        if view.search:
            mask &= self._found(view.search.lower())
        if view.files is not None and without != "file":
            mask &= np.isin(self._column("file"), sorted(view.files))
        if view.ids is not None:
            chosen = np.zeros(len(self), bool)
            chosen[self.find(view.ids)] = True
            mask &= chosen
        for facet in ("verdict", "outcome"):
            value = getattr(view, facet)
            if value is None or without == facet:
                continue
            values, codes = self._values(_name(facet, view))
            if value == DROPPED:
                mask &= (codes >= 0) & (codes != (values.index(KEPT) if KEPT in values else -1))
            else:
                mask &= codes == values.index(value) if value in values else False
        return mask

    def _search(self, text: str) -> Mask:
        """The rows whose text, or whose question, contains a text in lower case."""
        found: Mask = np.zeros(len(self), bool)
        found[self._numbers("texts", "SELECT row FROM texts WHERE contains(text, ?)", text)] = True
        asked = np.zeros(len(self._questions), bool)
        asked[self._numbers("questions", "SELECT number FROM questions WHERE contains(text, ?)", text)] = True
        found |= asked[self._column("question")]
        return found

    def _sort(self, sort: Sort, descending: bool, reader: int) -> npt.NDArray[np.int64]:
        """All rows in an order; those without a value come last, and equal ones as they stand in the files."""
        return np.argsort(self._keys(sort, descending, reader), kind="stable")

    def _keys(self, sort: Sort, descending: bool, reader: int) -> npt.NDArray[Any]:
        """A number for each row, by which an order ascends."""
        keys = self._kl[reader] if sort == "kl" else self._column(f"nll_{reader}" if sort == "nll" else sort)
        return -keys if descending else keys

    def _sort_ids(self, column: str) -> npt.NDArray[np.int64]:
        return np.argsort(self._column(column), kind="stable")

    def _read_column(self, name: str) -> npt.NDArray[Any]:
        """A column of numbers; NaN where there is none."""
        column = self._database.cursor().execute(f"SELECT {name} FROM facts").fetchnumpy()[name]
        return np.ma.filled(column, np.nan) if np.ma.isMaskedArray(column) else np.asarray(column)

    def _read_values(self, name: str) -> tuple[list[str], npt.NDArray[np.int8]]:
        """The values of a column of few texts, and the number of each row's; -1 where there is none."""
        distinct = f"SELECT DISTINCT {name} FROM facts WHERE {name} IS NOT NULL ORDER BY 1"
        values = [value for (value,) in self._database.cursor().execute(distinct).fetchall()]
        query = f"SELECT (coalesce(list_position(?::VARCHAR[], {name}), 0) - 1)::TINYINT AS code FROM facts"
        return values, np.asarray(self._database.cursor().execute(query, [values]).fetchnumpy()["code"])

    def _numbers(self, table: str, query: str, value: str) -> npt.NDArray[np.int32]:
        """The numbers that a query finds in a table that is searched, in no order. Parts of it are searched at the same time: DuckDB
        itself reads Arrow with one thread."""

        def search(part: pyarrow.Table | None) -> npt.NDArray[np.int32]:
            cursor = self._database.cursor()
            if part is not None:
                cursor.register(table, part)
            (numbers,) = cursor.execute(query, [value]).fetchnumpy().values()
            return np.asarray(numbers)

        parts = self._parts.get(table, [None])
        with ThreadPoolExecutor(len(parts)) as pool:
            return np.concatenate(list(pool.map(search, parts)))


def _in_parts(table: pyarrow.Table) -> list[pyarrow.Table]:
    """A part for each processor."""
    rows = -(-len(table) // min(cores(), _MOST_PARTS)) or 1
    return [table.slice(start, rows) for start in range(0, len(table), rows)] or [table]


def _name(facet: str, view: View) -> str:
    return f"outcome_{int(view.reader)}" if facet == "outcome" else facet


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
