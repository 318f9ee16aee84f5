"""The store of soft labels: computed once, kept on disk, read a batch at a time.

A store is a folder:

    meta.json            form, sizes, origin (mentor, tokenizer, target format), checksums
    index.jsonl          one line per rationale: [id, first token, tokens, checksum of its arrays]
    labels.bin           the target's token ids, int32 [T]; not of form `chunks`
    hidden.bin           form `hidden`: the mentor's last hidden states, bfloat16 [T, E]
    head.safetensors     form `hidden`: the mentor's head, with which hidden states become logits again
    log_probs.bin, indices.bin, log_tail.bin     form `top_k`: float32 [T, K], uint16 or int32 [T, K], float32 [T]
    nll.bin, lost.bin    form `top_k`: measured on the whole distribution before it is dropped, float32 [T]
    log_probs.bin        form `chunks`: float32 [T] log-likelihoods of chunks, NaN for one without a label
    tokens.bin           form `chunks`: the student's target tokens in each chunk, uint16 [T]

T is the number of target tokens of all rationales, of their chunks for form `chunks`. Rows are appended, the index line last,
so a writer that was killed resumes after the last whole line. meta.json says `complete` only at the end.
"""

from __future__ import annotations

import json
import logging
import math
import os
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from mentorkd.data.encoding import Example
from mentorkd.distillation.chunk_losses import MentorChunks
from mentorkd.distillation.losses import MentorHidden, MentorTargets, MentorTopK
from mentorkd.distillation.vocabularies import EndTokens
from mentorkd.errors import StoreError
from mentorkd.files import allow_open_files, read_journal, write_json, write_text
from mentorkd.models.device import on_device

log = logging.getLogger(__name__)

Form = Literal["hidden", "top_k", "chunks"]
Arrays = Mapping[str, npt.NDArray[Any]]

AGAIN = "remove it and run the recipe again to compute the soft labels again"
_ADVICE = {
    "mentor": "the mentor's model has changed since: if `mentorkd verify` names it as damaged, remove its folder; if it was changed "
    "on purpose, remove the soft labels; then run the recipe again",
    "tokenizer": AGAIN,
    "target": AGAIN,
}
"""What to do about soft labels of another origin, by the part that differs."""
PLACE = "learners/MENTOR/seed-N/soft_labels"
_MOST_ARRAYS = 6
"""Files with arrays that a store has at most."""


@dataclass(frozen=True)
class StoreMeta:
    """Origin and form of the soft labels in a store."""

    form: Form
    mentor: str
    """Digest of the mentor's model folder."""
    tokenizer: str
    """Digest of the tokenizer whose tokens the labels are: the student's."""
    target: str
    """Format of the target text."""
    vocab_size: int
    """Number of leading vocabulary entries that the distributions cover."""
    width: int
    """E of `hidden`, K of `top_k`, 1 of `chunks`."""
    temperature: float | None = None
    """Temperature of the probabilities of `top_k`; hidden states serve any temperature, and `chunks` are at 1."""
    mentor_tokenizer: str | None = None
    """Digest of the mentor's tokenizer, of `chunks`; elsewhere it has the student's tokens."""

    def columns(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Array name -> (numpy type, shape of a token's values, of a chunk's for `chunks`)."""
        if self.form == "chunks":
            return {"log_probs": ("<f4", ()), "tokens": ("<u2", ())}
        if self.form == "hidden":
            # numpy has no bfloat16; its two bytes are stored unchanged.
            return {"labels": ("<i4", ()), "hidden": ("<u2", (self.width,))}
        index = "<u2" if self.vocab_size <= 2**16 else "<i4"
        kept = {"log_probs": ("<f4", (self.width,)), "indices": (index, (self.width,)), "log_tail": ("<f4", ())}
        return {"labels": ("<i4", ()), **kept, "nll": ("<f4", ()), "lost": ("<f4", ())}

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token's arrays, of a chunk's for `chunks`."""
        return sum(map(_bytes_per_token, self.columns().values()))


def _checksum(parts: Iterable[Any]) -> int:
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return value


def _file_checksum(file: Path) -> int:
    with file.open("rb") as stream:
        return _checksum(iter(lambda: stream.read(1 << 22), b""))


def _read_meta(folder: Path) -> dict[str, Any]:
    try:
        described: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        described["complete"]
    except (OSError, ValueError, KeyError, TypeError):
        raise StoreError(f"{folder}/meta.json cannot be read; {AGAIN}") from None
    return described


def form_of(folder: Path) -> Form:
    """The form of the soft labels in a store. Raises StoreError for a folder that is none."""
    form: Form = _read_meta(folder)["form"]
    return form


def _bytes_per_token(column: tuple[str, tuple[int, ...]]) -> int:
    kind, shape = column
    return math.prod(shape) * np.dtype(kind).itemsize


def _sealed(described: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(described, sort_keys=True).encode())


class SoftLabelWriter:
    """Appends rationales to a store; opened on an unfinished store with the same meta, it resumes after the last row.

    Rows that do not fit their checksum, and all behind them, are cut off with a warning: they are to be written again.
    Raises StoreError for a folder with other soft labels.
    """

    def __init__(self, folder: Path, meta: StoreMeta, head: Mapping[str, torch.Tensor] | None = None) -> None:
        self.folder, self.meta = folder, meta
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "meta.json"
        if file.exists():
            stored = _read_meta(folder)
            differences = [
                f"{name} {stored.get(name)} where {value} was expected"
                for name, value in asdict(meta).items()
                if stored.get(name) != value
            ]
            if differences:
                raise StoreError(f"{folder} holds other soft labels ({', '.join(differences)}); {AGAIN}")
        if head is not None:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in head.items()}, folder / "head.tmp")
            (folder / "head.tmp").replace(folder / "head.safetensors")
        write_json(file, {**asdict(meta), "complete": False})
        rows = self._whole_rows()
        self.tokens = sum(row[2] for row in rows)
        self.done = {str(row[0]) for row in rows}
        self._files = {name: (folder / f"{name}.bin").open("ab") for name in meta.columns()}
        self._lines = (folder / "index.jsonl").open("a", encoding="utf-8")

    def _whole_rows(self) -> list[list[Any]]:
        """The index's rows up to the first whose data are not what was written. What stands behind them is cut off."""
        index = self.folder / "index.jsonl"
        listed, rows, tokens = read_journal(index), list[list[Any]](), 0
        files = {self.folder / f"{name}.bin": _bytes_per_token(column) for name, column in self.meta.columns().items()}
        with ExitStack() as stack:
            streams = [(stack.enter_context(file.open("a+b")), size) for file, size in files.items()]
            for stream, _ in streams:
                stream.seek(0)
            for row in listed:
                rationale_id, start, count, checksum = row
                if start != tokens or _checksum(stream.read(count * size) for stream, size in streams) != checksum:
                    log.warning(
                        "%s: the soft labels of rationale %s are damaged; they and all behind them are computed again",
                        self.folder,
                        rationale_id,
                    )
                    break
                rows.append(row)
                tokens += count
        for file, size in files.items():
            os.truncate(file, tokens * size)  # a kill can leave data without an index line, too
        if len(rows) < len(listed):
            write_text(index, "".join(json.dumps(row) + "\n" for row in rows))
        return rows

    def close(self) -> None:
        """Close the files; the store stays unfinished, and another writer can resume it."""
        for stream in [*self._files.values(), self._lines]:
            stream.close()

    def append(self, rows: Sequence[tuple[str, Arrays]]) -> None:
        """Append (rationale id, arrays by name, each [tokens, ...] or [chunks]) rows; after the return a kill no longer loses them."""
        lines = []
        for rationale_id, arrays in rows:
            parts = [np.ascontiguousarray(arrays[name], kind) for name, (kind, _) in self.meta.columns().items()]
            for stream, part in zip(self._files.values(), parts, strict=True):
                stream.write(part.data)
            count = len(parts[0])
            lines.append(json.dumps([rationale_id, self.tokens, count, _checksum(part.data for part in parts)]) + "\n")
            self.tokens += count
            self.done.add(rationale_id)
        for stream in self._files.values():
            stream.flush()
        self._lines.writelines(lines)
        self._lines.flush()

    def finish(self) -> None:
        """Close the store and mark it complete."""
        self.close()
        checked = [self.folder / name for name in ("index.jsonl", "head.safetensors")]
        described = {
            **asdict(self.meta),
            "complete": True,
            "rows": len(self.done),
            "tokens": self.tokens,
            "checksums": {file.name: _file_checksum(file) for file in checked if file.exists()},
        }
        write_json(self.folder / "meta.json", {**described, "seal": _sealed(described)})


class SoftLabelStore:
    """A finished store, memory-mapped: reading a batch copies the rows of that batch alone.

    Raises StoreError, with the reason, for one that is unfinished, truncated or damaged.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "meta.json").exists():
            raise StoreError(f"{folder} is no soft-label store; a run keeps its stores in {PLACE}")
        described = _read_meta(folder)
        if not described["complete"]:
            raise StoreError(f"{folder} is unfinished; run the recipe again, and scoring resumes where it stopped")
        self.folder = folder
        if described.pop("seal", None) != _sealed(described):
            raise StoreError(f"{folder}/meta.json is damaged (its checksum differs); {AGAIN}")
        self._checksums: dict[str, int] = described["checksums"]
        self.rows: int = described["rows"]
        self.tokens: int = described["tokens"]
        # A store of an earlier version lacks the fields that came later.
        self.meta = StoreMeta(**{name: described[name] for name in StoreMeta.__dataclass_fields__ if name in described})
        self._check_file("index.jsonl")
        index = [json.loads(line) for line in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines()]
        self._index: dict[str, tuple[int, int, int]] = {row[0]: (row[1], row[2], row[3]) for row in index}
        self._arrays = {name: self._map(name, kind, shape) for name, (kind, shape) in self.meta.columns().items()}

    def _check_file(self, name: str) -> None:
        file = self.folder / name
        if not file.exists():
            raise StoreError(f"{file} is missing; {AGAIN}")
        if _file_checksum(file) != self._checksums.get(name):
            raise StoreError(f"{file} is damaged (its checksum differs); {AGAIN}")

    def _map(self, name: str, kind: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        file = self.folder / f"{name}.bin"
        expected = self.tokens * _bytes_per_token((kind, shape))
        size = file.stat().st_size if file.exists() else None
        if size != expected:
            got = "is missing" if size is None else f"has {size} bytes"
            raise StoreError(f"{file} {got}, expected {expected} bytes; {AGAIN}")
        shape = (self.tokens, *shape)
        return np.memmap(file, dtype=kind, mode="r", shape=shape) if expected else np.empty(shape, kind)

    def __contains__(self, rationale_id: str) -> bool:
        return rationale_id in self._index

    @property
    def ids(self) -> list[str]:
        return list(self._index)

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of all files."""
        return sum(file.stat().st_size for file in self.folder.iterdir())

    def row(self, rationale_id: str) -> dict[str, npt.NDArray[Any]]:
        """The arrays of one rationale, not copied, checked against their checksum."""
        start, count, checksum = self._index[rationale_id]
        arrays = {name: array[start : start + count] for name, array in self._arrays.items()}
        if _checksum(part.data for part in arrays.values()) != checksum:
            raise StoreError(
                f"{self.folder}: the soft labels of rationale {rationale_id} are damaged (their checksum differs); {AGAIN}"
            )
        return arrays

    def head(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight [V, E] and bias [V] (or None) of the mentor's head."""
        self._check_file("head.safetensors")
        tensors = load_file(self.folder / "head.safetensors")
        return tensors["weight"], tensors.get("bias")


_OF_THE_TEXT = ("labels", "nll", "lost")
"""Arrays that describe a text and its scoring, and no distribution."""


class ShuffledStore(SoftLabelStore):
    """A store that gives each token of some rationales the distribution of another of their tokens, by one permutation of all of them.

    The permutation depends on `seed` and on the rationales, and not on their order. Raises StoreError for a store of chunks, which have
    no distributions, and for a damaged row.
    """

    def __init__(self, folder: Path, rationale_ids: Collection[str], seed: int) -> None:
        super().__init__(folder)
        if self.meta.form == "chunks":
            raise StoreError(
                f"{folder} has likelihoods of chunks, which have no distribution; remove `shuffle_soft_labels`"
            )
        ids = sorted(each for each in set(rationale_ids) if each in self)
        for each in ids:
            super().row(each)  # checked here, since its arrays are read by other rows
        places = [np.arange(start, start + count) for start, count, _ in map(self._index.__getitem__, ids)]
        shuffled = np.random.default_rng(seed).permutation(np.concatenate([np.empty(0, np.int64), *places]))
        ends = np.cumsum([len(each) for each in places], dtype=np.int64)
        self._places = dict(zip(ids, np.split(shuffled, ends), strict=False))  # what is behind the last end is empty

    def row(self, rationale_id: str) -> dict[str, npt.NDArray[Any]]:
        """The arrays of one rationale, with the distributions of other tokens."""
        own, places = super().row(rationale_id), self._places[rationale_id]
        return {name: own[name] if name in _OF_THE_TEXT else array[places] for name, array in self._arrays.items()}


class StoredSoftLabels:
    """Gives the trainer a mentor's distributions from one or more stores (one per source of rationales, and per shard of its questions).

    A mentor with folds has several models, each with stores of its own. Stores that one model wrote, at one temperature, are a part:
    their rows can be read together. The stores must have been written with one of `mentors` (digests of its models), `tokenizer`
    and `target`, where these are given: StoreError if not. With `ends`, the mentor's end token is read as the student's. `sources`
    names the sources of which the mentor has soft labels; None is all. A row without a labelled chunk is of no part, either.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        device: torch.device,
        mentors: Collection[str] | None = None,
        tokenizer: str | None = None,
        target: str | None = None,
        ends: EndTokens | None = None,
        sources: Collection[str] | None = None,
        shuffled: tuple[Collection[str], int] | None = None,
    ) -> None:
        self.ends = ends or EndTokens(0, 0)
        allow_open_files(_MOST_ARRAYS * len(folders))  # a memory map keeps its file open
        self.stores = [ShuffledStore(folder, *shuffled) if shuffled else SoftLabelStore(folder) for folder in folders]
        self.device, self.sources = device, sources
        self.meta = self.stores[0].meta
        expected = {"mentor": mentors, "tokenizer": tokenizer and [tokenizer], "target": target and [target]}
        for store in self.stores:
            for name, wanted in expected.items():
                got = getattr(store.meta, name)
                if wanted is not None and got not in wanted:
                    raise StoreError(
                        f"{store.folder} was written with {name} {got}, expected {' or '.join(wanted)}; {_ADVICE[name]}"
                    )
            if replace(store.meta, mentor=self.meta.mentor, temperature=self.meta.temperature) != self.meta:
                raise StoreError(f"{store.folder} and {self.stores[0].folder} hold soft labels of two kinds; {AGAIN}")
        self._parts = list(dict.fromkeys(store.meta for store in self.stores))
        self._heads: dict[StoreMeta, tuple[torch.Tensor, torch.Tensor | None]] = {}
        self._read: dict[str, Arrays] = {}

    def read_ahead(self, rows: Iterable[Example]) -> None:
        """Read and check the soft labels of rows that `targets_for` is asked for later, in any thread.

        A row that cannot be read stays unread: `targets_for` reads it again, and raises.
        """
        for row in rows:
            with suppress(StoreError):
                if self.sources is None or row.source in self.sources:
                    self._read[row.rationale_id] = self._store_of(row.rationale_id).row(row.rationale_id)

    def part_of(self, row: Example) -> int | None:
        if self.sources is not None and row.source not in self.sources:
            return None
        store = self._store_of(row.rationale_id)
        if store.meta.form != "chunks":
            return self._parts.index(store.meta)
        arrays = self._read.get(row.rationale_id) or store.row(row.rationale_id)
        if np.isnan(arrays["log_probs"]).all():
            self._read.pop(row.rationale_id, None)  # nobody asks for its targets
            return None
        return self._parts.index(store.meta)

    def _store_of(self, rationale_id: str) -> SoftLabelStore:
        store = next((store for store in self.stores if rationale_id in store), None)
        if store is None:
            others = f" and {len(self.stores) - 1} other stores" if len(self.stores) > 1 else ""
            raise StoreError(f"{self.stores[0].folder}{others}: no soft labels of rationale {rationale_id}; {AGAIN}")
        return store

    def targets_for(self, rows: Sequence[Example], batch: Mapping[str, Any]) -> MentorTargets | MentorChunks:
        """The stored distributions, or likelihoods of chunks, of a batch's rows, which are of one part, one after the other.

        Raises StoreError if a row is missing or its target tokens differ from those that were scored.
        """
        stores = [self._store_of(row.rationale_id) for row in rows]
        (meta,) = {store.meta for store in stores}
        arrays = [
            self._read.pop(row.rationale_id, {}) or store.row(row.rationale_id)
            for store, row in zip(stores, rows, strict=True)
        ]
        if not self._same_targets(arrays, rows):
            raise StoreError(
                f"{stores[0].folder}: the target tokens of {', '.join(row.rationale_id for row in rows)} differ from those that "
                f"the mentor scored (another tokenizer or target format); {AGAIN}"
            )

        def joined(name: str, dtype: type[np.generic] | None = None) -> torch.Tensor:
            return on_device(torch.from_numpy(np.concatenate([row[name] for row in arrays], dtype=dtype)), self.device)

        if meta.form == "chunks":
            tokens = sum(len(row.target_ids) for row in rows)
            return MentorChunks(joined("log_probs"), joined("tokens", np.int64), tokens)
        if meta.form == "hidden":
            weight, bias = self._head(stores[0])
            return MentorHidden(joined("hidden").view(torch.bfloat16).to(weight.dtype), weight, bias)
        assert meta.temperature is not None
        return MentorTopK(
            joined("log_probs"),
            self.ends.ids(joined("indices", np.int64)),
            joined("log_tail"),
            meta.vocab_size,
            meta.temperature,
        )

    def _same_targets(self, arrays: Sequence[Arrays], rows: Sequence[Example]) -> bool:
        """Whether the arrays are of these rows' target tokens; a store of chunks knows the number of each row's."""
        if self.meta.form == "chunks":
            return all(int(each["tokens"].sum()) == len(row.target_ids) for each, row in zip(arrays, rows, strict=True))
        scored = np.concatenate([each["labels"] for each in arrays])
        if self.ends.differ:  # the last token of each row is the end of the text
            last = np.cumsum([len(each["labels"]) for each in arrays]) - 1
            scored[last] = np.where(scored[last] == self.ends.mentor, self.ends.student, scored[last])
        return np.array_equal(np.fromiter(chain.from_iterable(row.target_ids for row in rows), np.int64), scored)

    def _head(self, store: SoftLabelStore) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The head of a store's part on the device; under autocast in the type of autocast, so that no step casts it again."""
        if store.meta not in self._heads:
            self._heads[store.meta] = self._on_device(*store.head())
        return self._heads[store.meta]

    def _on_device(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        weight, bias = self.ends.columns(weight, 0), None if bias is None else self.ends.columns(bias, 0)
        kind = self.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        return weight.to(self.device, dtype), None if bias is None else bias.to(self.device)
