"""Raw rows of a data source: JSON, JSON Lines, CSV, TSV, Parquet, or a Hugging Face data set.

A source is a file, the URL of one (`s3://bucket/questions.jsonl`; fsspec reads it), or `hub:NAME[@CONFIG][:SPLIT]`. NAME is
a data set of the hub or a local folder (plain data files, or the output of `save_to_disk`), CONFIG is one of its
configurations, and SPLIT is a split or a slice of a split: `hub:openai/gsm8k@main:train`, `hub:openai/gsm8k@main:test[:100]`,
`hub:./my-data`. Rows are numbered from 1: the objects of a JSON list, the lines of JSON Lines, the rows below the header of a CSV.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Any, NamedTuple

from mentorkd.data.remote import local_copy
from mentorkd.errors import DataError, MissingExtraError, RunError
from mentorkd.files import digest_path, is_url

HUB = "hub:"
"""Prefix of a Hugging Face data set's name."""

_HUB = re.compile(r"hub:(?P<name>[^@:]+)(@(?P<config>[^@:]+))?(:(?P<split>[^@]+))?")
_HUB_EXAMPLE = "hub:openai/gsm8k@main:train"


class SourceRow(NamedTuple):
    """A row as it stands in its source, with its position."""

    source: str
    number: int
    fields: Mapping[str, Any]

    def error(self, message: str) -> DataError:
        return DataError(f"{self.source}, row {self.number}: {message}")


class SourceRows:
    """The rows of a source, read again from it in every loop, so that a large file is never all in memory.

    Only a JSON list is: it has no rows that could be read alone.
    """

    def __init__(self, source: str, read: Callable[[], Numbered]) -> None:
        """Read every row once. Raises DataError for a row that is no object, and if there is none."""
        self.source, self._read = source, read
        names: dict[str, None] = {}
        self._count = 0
        for _, fields in self._objects():
            if not fields.keys() <= names.keys():
                names |= dict.fromkeys(fields)
            self._count += 1
        if not self._count:
            raise DataError(f"{source}: got no rows, expected at least one")
        self.names = list(names)
        """The fields that any row has."""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[SourceRow]:
        return starmap(partial(SourceRow, self.source), self._objects())

    def _objects(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """The rows with their numbers."""
        for number, fields in self._read():
            if type(fields) is not dict and not isinstance(fields, Mapping):  # the abstract class is slow to ask
                raise DataError(
                    f"{self.source}, row {number}: got {type_name(fields)}, expected an object with named fields"
                )
            yield number, fields

    @property
    def first(self) -> SourceRow:
        return next(iter(self))


def read_rows(source: str | Path, *, split: str = "train") -> SourceRows:
    """All rows of a source. `split` applies to hub names without a split of their own; files have no splits.

    Raises DataError with the row number for malformed data, and MissingExtraError for Parquet and hub names without the
    package `datasets`.
    """
    name = str(source)
    if is_url(name):
        return SourceRows(name, partial(_remote, name))
    return SourceRows(name, _hub(name, split) if name.startswith(HUB) else _file(Path(source)))


def _remote(url: str) -> Numbered:
    """The rows of a file that a URL names."""
    with local_copy(url) as path:
        yield from _file(path)()


def source_identity(source: str) -> str:
    """Content hash of a source, or the name of a data set that is on the hub alone; RunError for a file that is not there."""
    if source.startswith(HUB):
        local = Path(source.removeprefix(HUB).split("@")[0].split(":")[0])
        return f"{source} {digest_path(local)}" if local.is_dir() else source
    if is_url(source):
        with local_copy(source) as path:
            return digest_path(path)
    if not Path(source).exists():
        raise RunError(
            f"{source} is not there; put it back, or say where it is now: "
            "mentorkd run RUN/recipe.yaml --run RUN data.root=DIR"
        )
    _check_is_file(Path(source))
    return digest_path(Path(source))


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{path}: got a folder, expected a file; write hub:{path} for a Hugging Face data set in it")
    if path.exists() and not path.is_file():
        raise DataError(
            f"{path}: got a pipe or a device, which can be read only once; expected a file, so save its data"
        )


Numbered = Iterable[tuple[int, Any]]
"""Rows with their numbers."""


def _file(path: Path) -> Callable[[], Numbered]:
    read = _FORMATS.get(path.suffix.lower())
    _check_is_file(path)
    if read is None:
        raise DataError(f"{path}: unknown file type, expected one of {', '.join(_FORMATS)}, or hub:NAME")
    if not path.is_file():
        raise DataError(f"{path}: no such file; check the path and `data.root`")
    if path.suffix.lower() == ".json" and (objects := _json_list(path)) is not None:
        return partial(enumerate, objects, 1)
    return partial(_rows_of, path, read)


def _rows_of(path: Path, read: Callable[[Path], Numbered]) -> Numbered:
    with _readable(path):
        yield from read(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text (byte {_undecodable(path)}); save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _undecodable(path: Path) -> int:
    """The first byte that is not UTF-8; a decoder that reads piece by piece counts from the start of the piece."""
    try:
        path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        return error.start
    raise AssertionError("the file has changed while it was read")


def _json_list(path: Path) -> list[Any] | None:
    """The objects of a JSON list. A `.json` file that does not start with `[` is None: JSON Lines, as many on the hub are."""
    with _readable(path):
        with path.open(encoding="utf-8-sig") as file:
            while (start := file.read(1 << 12)).isspace():
                pass
        if not start.lstrip().startswith("["):
            return None
        text = path.read_text(encoding="utf-8-sig")
    try:
        objects: list[Any] = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"row {_objects_before(text, error.pos) + 1} (line {error.lineno})"
        raise DataError(f"{path}, {place}: not JSON ({error.msg}); correct it or download the file again") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or lists thousands deep
        raise DataError(f"{path}: not readable JSON ({error})") from None
    return objects


def _objects_before(text: str, position: int) -> int:
    """The number of elements of the JSON list `text` that end before `position`, where decoding failed."""
    decoder, between = json.JSONDecoder(), re.compile(r"[\s,]*")
    count, at = 0, text.index("[") + 1
    while True:
        try:
            _, at = decoder.raw_decode(text, between.match(text, at).end())  # type: ignore[union-attr]
        except json.JSONDecodeError:
            return count
        if at > position:
            return count
        count += 1


def _json_lines(path: Path) -> Numbered:
    decode = json.JSONDecoder().raw_decode  # without the care for spaces around a value, that takes twice the time
    with path.open(encoding="utf-8-sig") as file:
        # Not splitlines(): JSON strings may contain unescaped line separators such as U+2028.
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            try:
                fields, end = decode(line)
                if line[end:] not in ("\n", ""):
                    raise ValueError
            except (ValueError, RecursionError):
                fields = _json_line(path, number, line)
            yield number, fields


def _json_line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line.removesuffix("\n"))
    except (ValueError, RecursionError) as error:
        expected = "expected one JSON object a line" + (", or a list of them" if path.suffix == ".json" else "")
        raise DataError(f"{path}, row {number}: not JSON ({error}); {expected}") from None


def _separated(path: Path, delimiter: str) -> Numbered:
    """The rows below the header. A header that is one cell by `,` and several by `;` or tab is of a file separated by these:
    spreadsheets write `;` where the comma is the decimal sign."""
    with path.open(encoding="utf-8-sig") as text:
        first = text.readline()
        text.seek(0)
        if delimiter == "," and "," not in first:
            delimiter = next((sign for sign in ";\t" if sign in first), delimiter)
        lines = csv.reader(text, delimiter=delimiter, strict=True)
        number = 0
        try:
            header = next(lines, [])
            if len(set(header)) != len(header) or not all(name.strip() for name in header):
                raise DataError(f"{path}: header {header} has an empty or repeated name; give each column its own name")
            for number, cells in enumerate(lines, start=1):
                if cells and len(cells) != len(header):
                    raise DataError(
                        f"{path}, row {number}: got {len(cells)} cells, expected {len(header)} ({', '.join(header)}); "
                        "put text that contains the separator in double quotes"
                    )
                if cells:
                    yield number, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise DataError(f"{path}, row {number + 1}: not valid CSV ({error}); correct its quotes") from None


def _parquet(path: Path) -> Numbered:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError(f"{path}: reading Parquet", "data") from None
    try:
        with parquet.ParquetFile(path) as file:
            yield from enumerate((row for batch in file.iter_batches() for row in batch.to_pylist()), start=1)
    except arrow.ArrowException as error:
        raise DataError(f"{path}: not a Parquet file ({_first_line(error)}); download it again") from None


_FORMATS: dict[str, Callable[[Path], Numbered]] = {
    ".json": _json_lines,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".csv": partial(_separated, delimiter=","),
    ".tsv": partial(_separated, delimiter="\t"),
    ".parquet": _parquet,
}


class HubData(NamedTuple):
    """What `hub:NAME[@CONFIG][:SPLIT]` names."""

    name: str
    """The name of a data set on the hub, or a folder."""
    config: str | None
    split: str | None

    @property
    def is_path(self) -> bool:
        return self.name.startswith((".", "/", "~"))


def hub_data(source: str) -> HubData:
    """The parts of a source that begins with `hub:`. Raises DataError if they are not in order."""
    match = _HUB.fullmatch(source)
    if match is None:
        raise DataError(f"{source}: no data set's name; expected hub:NAME[@CONFIG][:SPLIT], such as {_HUB_EXAMPLE}")
    return HubData(match["name"], match["config"], match["split"])


def _hub(source: str, split: str) -> Callable[[], Numbered]:
    data = hub_data(source)
    name, config, split = data.name, data.config, data.split or split
    folder = Path(name).expanduser()
    if data.is_path and not folder.is_dir():
        raise DataError(f"{source}: no folder {name}; check the path")
    try:
        import datasets
    except ImportError:
        raise MissingExtraError(f"{source}: reading a Hugging Face data set", "data") from None
    try:
        if any((folder / marker).is_file() for marker in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(str(folder))
            if isinstance(loaded, datasets.DatasetDict):
                if split not in loaded:
                    raise DataError(f"{source}: no split `{split}`, expected one of {', '.join(loaded)}")
                loaded = loaded[split]
        else:
            loaded = datasets.load_dataset(str(folder) if folder.is_dir() else name, config, split=split)
    except DataError:
        raise
    except Exception as error:  # the library, its file readers and the network raise many types
        hint = f"expected hub:NAME[@CONFIG][:SPLIT] with an existing configuration and split, such as {_HUB_EXAMPLE}"
        raise DataError(f"{source}: cannot load the split `{split}` ({_first_line(error)}); {hint}") from error
    return partial(enumerate, loaded, 1)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def type_name(value: Any) -> str:
    """The type of a value, for error messages."""
    return "null" if value is None else type(value).__name__
