"""The store of soft labels: computed once, kept on disk, read a batch at a time.

A store is a folder:

    meta.json            form, sizes, and whose soft labels these are (mentor, tokenizer, target format)
    index.jsonl          a line a rationale: [id, first token, tokens, checksum]
    labels.bin           the target's token ids, int32 [T]
    hidden.bin           form `hidden`: the mentor's last hidden states, bfloat16 [T, E]; or
    log_probs.bin, indices.bin, log_tail.bin     form `top_k`: float32 [T, K], int32 [T, K], float32 [T]
    head.safetensors     form `hidden`: the mentor's head, with which hidden states become logits again

T counts the target tokens of all rationales. Rows are appended, the index line last, so a killed writer goes on behind
the last whole line; meta.json says `complete` only at the end.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from mentorkd.errors import StoreError
from mentorkd.losses import IGNORE_INDEX, MentorHidden, MentorSide, MentorTopK
from mentorkd.store import write_json

__all__ = ["SoftLabelStore", "SoftLabelWriter", "StoreMeta", "StoredSoftLabels"]

Form = Literal["hidden", "top_k"]
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class StoreMeta:
    """Whose soft labels a store holds, and in what form."""

    form: Form
    mentor: str
    """Digest of the mentor's model folder."""
    tokenizer: str
    target: str
    vocab_size: int
    width: int
    """E of `hidden`, K of `top_k`."""
    temperature: float | None = None
    """The temperature of `top_k`'s probabilities; hidden states serve any."""

    def columns(self) -> dict[str, tuple[str, int]]:
        """Array name -> (numpy type, values a token)."""
        shapes = {"labels": ("<i4", 1)}
        if self.form == "hidden":
            # numpy has no bfloat16; its two bytes are kept as they are.
            return {**shapes, "hidden": ("<u2", self.width)}
        return {**shapes, "log_probs": ("<f4", self.width), "indices": ("<i4", self.width), "log_tail": ("<f4", 1)}


def _checksum(parts: Iterable[bytes]) -> int:
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return value


class SoftLabelWriter:
    """Appends rationales to a store; opened on an unfinished store of the same meta, it goes on."""

    def __init__(self, folder: Path, meta: StoreMeta, head: Mapping[str, torch.Tensor] | None = None) -> None:
        self.folder, self.meta = folder, meta
        folder.mkdir(parents=True, exist_ok=True)
        described = {**meta.__dict__, "complete": False}
        file = folder / "meta.json"
        if file.exists() and json.loads(file.read_text()) != described:
            raise StoreError(f"{folder} holds an unfinished store of other soft labels; remove it and score again")
        if head is not None and not (folder / "head.safetensors").exists():
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in head.items()}, folder / "head.tmp")
            (folder / "head.tmp").replace(folder / "head.safetensors")
        write_json(file, described)
        self._index = _whole_lines(folder / "index.jsonl")
        self.tokens = sum(row[2] for row in self._index)
        self.done = {str(row[0]) for row in self._index}
        # What a kill left behind the last whole index line is cut off.
        (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self._index), encoding="utf-8")
        self._files = {}
        for name, (kind, width) in meta.columns().items():
            stream = (folder / f"{name}.bin").open("ab")
            stream.truncate(self.tokens * width * np.dtype(kind).itemsize)
            self._files[name] = stream
        self._lines = (folder / "index.jsonl").open("a", encoding="utf-8")

    def append(self, rows: Sequence[tuple[str, Arrays]]) -> None:
        """Append (rationale id, arrays by name, each [tokens, ...]) rows; on return a kill no longer loses them."""
        lines = []
        for rationale_id, arrays in rows:
            data = {
                name: np.ascontiguousarray(arrays[name], dtype=kind).tobytes()
                for name, (kind, _) in self.meta.columns().items()
            }
            for name, part in data.items():
                self._files[name].write(part)
            count = len(arrays["labels"])
            lines.append(json.dumps([rationale_id, self.tokens, count, _checksum(data.values())]) + "\n")
            self.tokens += count
            self.done.add(rationale_id)
        for stream in self._files.values():
            stream.flush()
        self._lines.writelines(lines)
        self._lines.flush()

    def finish(self) -> None:
        """Close the store and mark it complete."""
        for stream in [*self._files.values(), self._lines]:
            stream.close()
        index = (self.folder / "index.jsonl").read_bytes()
        described = {**self.meta.__dict__, "complete": True, "rows": len(self.done), "tokens": self.tokens}
        write_json(self.folder / "meta.json", {**described, "index_checksum": zlib.crc32(index)})


def _whole_lines(file: Path) -> list[list[Any]]:
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines if line]


class SoftLabelStore:
    """A finished store, memory-mapped: reading a batch copies that batch's rows alone."""

    def __init__(self, folder: Path) -> None:
        try:
            described = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            index = (folder / "index.jsonl").read_bytes()
        except (OSError, ValueError) as error:
            raise StoreError(f"{folder} is no soft-label store ({error}); run the recipe again to make it") from None
        if not described.pop("complete"):
            raise StoreError(f"{folder} is unfinished; run the recipe again and scoring goes on where it stopped")
        self.folder = folder
        self.rows, self.tokens = described.pop("rows"), described.pop("tokens")
        if zlib.crc32(index) != described.pop("index_checksum"):
            raise StoreError(f"{folder}/index.jsonl is damaged (its checksum differs); remove the store and score again")
        self.meta = StoreMeta(**described)
        self._index = {row[0]: row for row in map(json.loads, index.splitlines())}
        self._arrays = {name: self._map(name, kind, width) for name, (kind, width) in self.meta.columns().items()}

    def _map(self, name: str, kind: str, width: int) -> npt.NDArray[Any]:
        file = self.folder / f"{name}.bin"
        expected = self.tokens * width * np.dtype(kind).itemsize
        size = file.stat().st_size if file.exists() else -1
        if size != expected:
            got = f"has {size} bytes" if size >= 0 else "is missing"
            raise StoreError(f"{file} {got}, expected {expected}; remove the store and score again")
        shape = (self.tokens, width) if width > 1 else (self.tokens,)
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
        """The arrays of one rationale, checked against its checksum."""
        _, start, count, checksum = self._index[rationale_id]
        found = {name: np.asarray(array[start : start + count]) for name, array in self._arrays.items()}
        if _checksum(part.tobytes() for part in found.values()) != checksum:
            raise StoreError(
                f"{self.folder}: the soft labels of rationale {rationale_id} are damaged (checksum differs); "
                "remove the store and score again"
            )
        return found

    def head(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight [V, E] and bias [V] (or None) of the mentor's head."""
        tensors = load_file(self.folder / "head.safetensors")
        return tensors["weight"], tensors.get("bias")


class StoredSoftLabels:
    """Gives the trainer a mentor's side from one or more stores (one a source of rationales)."""

    def __init__(
        self, folders: Sequence[Path], *, device: torch.device, mentor: str | None = None, tokenizer: str | None = None
    ) -> None:
        self.stores = [SoftLabelStore(folder) for folder in folders]
        self.device = device
        first = self.stores[0].meta
        for store in self.stores:
            for part, wanted in {"mentor": mentor, "tokenizer": tokenizer}.items():
                got = getattr(store.meta, part)
                if wanted is not None and got != wanted:
                    raise StoreError(f"{store.folder} was written with {part} {got}, expected {wanted}; score again")
            if store.meta != first:
                raise StoreError(f"{store.folder} and {self.stores[0].folder} hold soft labels of different kinds; score again")
        self.meta = first
        if first.form == "hidden":
            weight, bias = self.stores[0].head()
            self._head = weight.to(device), None if bias is None else bias.to(device)

    def mentor_side(self, rationale_ids: Sequence[str], batch: Mapping[str, Any]) -> MentorSide:
        """The stored distributions of a batch's rows, one after the other.

        Raises StoreError if a row is not there or the batch's target tokens are not those that were scored.
        """
        rows = []
        for rationale_id in rationale_ids:
            store = next((store for store in self.stores if rationale_id in store), None)
            if store is None:
                raise StoreError(f"rationale {rationale_id} has no soft labels in {[str(s.folder) for s in self.stores]}; score again")
            rows.append(store.row(rationale_id))
        joined = {name: torch.from_numpy(np.concatenate([row[name] for row in rows])) for name in rows[0]}
        labels = batch["labels"]
        if not torch.equal(labels[labels != IGNORE_INDEX].cpu(), joined["labels"].long()):
            raise StoreError(
                f"{self.stores[0].folder}: the target tokens of {', '.join(rationale_ids)} are not those that the mentor "
                "scored (another tokenizer or target format); score again"
            )
        if self.meta.form == "hidden":
            hidden = joined["hidden"].view(torch.bfloat16).to(self.device)
            weight, bias = self._head
            return MentorHidden(hidden.to(weight.dtype), weight, bias)
        assert self.meta.temperature is not None
        return MentorTopK(
            joined["log_probs"].to(self.device),
            joined["indices"].long().to(self.device),
            joined["log_tail"].to(self.device),
            self.meta.vocab_size,
            self.meta.temperature,
        )
