"""Parquet files of a data set, written row by row, and what its card says of them to the hub's viewer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mentorkd.errors import MissingExtraError

try:
    import pyarrow as pyarrow  # re-exported to the forms, so that one message names the missing extra
    import pyarrow.parquet
except ImportError:
    raise MissingExtraError("writing Parquet", "data") from None

_ROWS = 10_000
"""Rows in memory, which are a row group."""
_SIZES = [1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000]
_SHORT = ["1K", "10K", "100K", "1M", "10M", "100M"]

Row = Mapping[str, Any]


@dataclass
class Split:
    """What was written of a split."""

    rows: int = 0
    bytes: int = 0
    """In memory, as Arrow."""


@dataclass(frozen=True)
class Table:
    """A table of a data set, which the hub calls a configuration, with a Parquet file for each split."""

    name: str
    schema: Any
    """Of pyarrow."""
    splits: dict[str, Split] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(split.rows for split in self.splits.values())


def write_table(folder: Path, name: str, schema: Any, rows: Iterable[tuple[str, Row]]) -> Table:
    """Write rows, each with its split, to `folder`/`name`/SPLIT.parquet. Ten thousand rows are in memory at a time."""
    table, rows = Table(name, schema), iter(rows)
    (folder / name).mkdir()
    with ExitStack() as stack:
        writers: dict[str, Any] = {}
        while chunk := list(islice(rows, _ROWS)):
            for split in dict.fromkeys(split for split, _ in chunk):
                if split not in writers:
                    file = folder / name / f"{split}.parquet"
                    writers[split] = stack.enter_context(
                        pyarrow.parquet.ParquetWriter(file, schema, compression="zstd")
                    )
                batch = pyarrow.RecordBatch.from_pylist([row for of, row in chunk if of == split], schema)
                writers[split].write_batch(batch)
                size = table.splits.setdefault(split, Split())
                size.rows, size.bytes = size.rows + batch.num_rows, size.bytes + batch.nbytes
    return table


def card_facts(tables: Sequence[Table]) -> dict[str, Any]:
    """The keys of a data set card that describe its files: https://huggingface.co/docs/hub/datasets-manual-configuration."""
    size = next((number for number, most in enumerate(_SIZES) if max(t.rows for t in tables) < most), len(_SIZES))
    below = "n<1K" if size == 0 else f"{_SHORT[size - 1]}<n<{_SHORT[size]}" if size < len(_SIZES) else "100M<n<1B"
    configs: list[dict[str, Any]] = [
        {
            "config_name": table.name,
            "data_files": [{"split": split, "path": f"{table.name}/{split}.parquet"} for split in table.splits],
        }
        for table in tables
    ]
    configs[0]["default"] = True
    return {
        "size_categories": [below],
        "configs": configs,
        "dataset_info": [
            {
                "config_name": table.name,
                "features": [_feature(each.name, each.type) for each in table.schema],
                "splits": [
                    {"name": name, "num_bytes": split.bytes, "num_examples": split.rows}
                    for name, split in table.splits.items()
                ],
            }
            for table in tables
        ],
    }


def _feature(name: str, kind: Any) -> dict[str, Any]:
    """A column as `datasets` names it."""
    if pyarrow.types.is_struct(kind):
        return {"name": name, "struct": _fields(kind)}
    if pyarrow.types.is_list(kind):
        return {"name": name, "list": _fields(kind.value_type)}
    return {"name": name, "dtype": str(kind)}


def _fields(struct: Any) -> list[dict[str, Any]]:
    return [_feature(each.name, each.type) for each in struct]


def texts_of(file: Path) -> Iterable[str]:
    """The texts of all columns of a Parquet file, one batch after the other."""
    for batch in pyarrow.parquet.ParquetFile(file).iter_batches(_ROWS):
        for column in batch.columns:
            for value in column.to_pylist():
                yield from _texts(value)


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value
