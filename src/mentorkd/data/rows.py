"""Rows that lie on the disk: a sequence whose memory is 8 bytes a row, for data that outgrow a list of objects."""

from __future__ import annotations

import pickle
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import IO, Any, TypeVar, cast, overload

from mentorkd.records import R, read_record

T = TypeVar("T")


class Rows(Sequence[T]):
    """Objects in a file, each read when it is asked for. A slice, or a choice of rows, is another `Rows` of the same file.

    One thread reads at a time.
    """

    def __init__(
        self, file: _File, starts: array[int], decode: Callable[[int, bytes], T], numbers: Sequence[int]
    ) -> None:
        """`starts`: where each object begins, and where the last one ends. `decode` gets the number of the object, from 1."""
        self._file, self._starts, self._decode, self._numbers = file, starts, decode, numbers

    @classmethod
    def of(cls, kind: type[T], objects: Iterable[T]) -> Rows[T]:
        """Write objects of a dataclass to a temporary file (in the folder that TMPDIR names), which goes with the last of its rows."""
        values = attrgetter(*(field.name for field in fields(cast(Any, kind))))
        file, starts = _File(TemporaryFile()), array("q", [0])  # noqa: SIM115
        try:
            for each in objects:
                starts.append(starts[-1] + file.write(pickle.dumps(values(each), pickle.HIGHEST_PROTOCOL)))
            file.flush()
        except OSError as error:  # the file has no name of its own by which the error could name the disk
            error.filename = error.filename or gettempdir()
            raise
        return cls(file, starts, lambda _, data: kind(*pickle.loads(data)), range(len(starts) - 1))

    @staticmethod
    def of_jsonl(path: Path, kind: type[R]) -> Rows[R]:
        """The records in a file that `write_jsonl` wrote. To read one raises DataError if it is not a record of `kind`."""
        starts = array("q", [0])
        with path.open("rb") as file:
            for line in file:
                starts.append(starts[-1] + len(line))
        return Rows(_File(path.open("rb")), starts, partial(read_record, path, kind), range(len(starts) - 1))

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Rows[T]: ...
    def __getitem__(self, index: int | slice) -> T | Rows[T]:
        if isinstance(index, slice):
            return self._with(self._numbers[index])
        return self._read(self._numbers[index])

    def __iter__(self) -> Iterator[T]:
        return map(self._read, self._numbers)

    def at(self, places: Iterable[int]) -> Rows[T]:
        """The rows at some places, in their order."""
        return self._with(array("q", map(self._numbers.__getitem__, places)))

    def _with(self, numbers: Sequence[int]) -> Rows[T]:
        return Rows(self._file, self._starts, self._decode, numbers)

    def _read(self, number: int) -> T:
        return self._decode(number + 1, self._file.read(self._starts[number], self._starts[number + 1]))


class _File:
    """A file that is closed with the last rows that read it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.write, self.flush = file.write, file.flush

    def read(self, start: int, end: int) -> bytes:
        self._file.seek(start)
        return self._file.read(end - start)

    def __del__(self) -> None:
        self._file.close()


def choose(rows: Sequence[T], places: Iterable[int]) -> Sequence[T]:
    """The rows at some places: `Rows` of `Rows`, and a list of any other sequence."""
    return rows.at(places) if isinstance(rows, Rows) else [rows[place] for place in places]


def where(rows: Sequence[T], passes: Callable[[T], bool]) -> Sequence[T]:
    """The rows that pass, in their order; see `choose`."""
    return choose(rows, (place for place, row in enumerate(rows) if passes(row)))
