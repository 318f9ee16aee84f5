"""Verify: every file of a run against what was written, and what is wrong with each that differs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mentorkd.errors import DamagedError, RunError, StoreError
from mentorkd.files import read_lines
from mentorkd.pipeline.records import ScoreRecord, StageRecord, read_record
from mentorkd.pipeline.run_folder import RunFolder
from mentorkd.seals import damage_in, read_sealed


@dataclass
class Verification:
    """What was checked in a run folder. Paths are relative to it."""

    files: int = 0
    """Files that were checked; a store of soft labels and a sealed folder count as one."""
    damaged: dict[str, str] = field(default_factory=dict)
    """What is wrong with each damaged file, by its path."""
    unchecked: list[str] = field(default_factory=list)
    """Outputs without hashes, which earlier versions published."""


def verify_run(root: Path) -> Verification:
    """Check the marks, outputs, manifest, unfinished work and caches of a run folder. Changes nothing.

    The recipe's data and models need not be there. Raises RunError for a folder without marks.
    """
    folder, result = RunFolder(root), Verification()
    marks = folder.marks()
    if not marks:
        raise RunError(f"{root} has no finished stage; expected a folder that `mentorkd run` made")
    records = []
    for file in marks:
        damage, record = _read_mark(file)
        _note(result, root, file, damage)
        records += [record] if record else []
    claims: dict[Path, list[str | None]] = {}
    for record in records:
        target = root / record.target
        if isinstance(record, ScoreRecord):
            claims |= {target / name: [_store_damage(target / name)] for name in record.outputs}
        elif record.files is None:
            result.unchecked += [(target / name).relative_to(root).as_posix() for name in record.outputs]
        else:
            for name, seal in record.files.items():
                # A stage may have replaced the output of another: a file is as written if any mark says so.
                claims.setdefault(target / name, []).append(seal.damage(target / name))
    for file, damages in claims.items():
        _note(result, root, file, None if None in damages else damages[0])
    for file, damage in _rest(folder):
        _note(result, root, file, damage)
    return result


def _note(result: Verification, root: Path, file: Path, damage: str | None) -> None:
    result.files += 1
    if damage:
        result.damaged[file.relative_to(root).as_posix()] = damage


def _read_mark(file: Path) -> tuple[str | None, StageRecord | None]:
    damage = _json_damage(file)
    return damage, None if damage else read_record(read_sealed(file))


def _json_damage(file: Path) -> str | None:
    try:
        read_sealed(file)
        return None
    except DamagedError as error:
        return str(error).removeprefix(f"{file} ")
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _store_damage(folder: Path) -> str | None:
    from mentorkd.distillation.soft_labels import SoftLabelStore  # imports torch

    try:
        store = SoftLabelStore(folder)
        for rationale_id in store.ids:
            store.row(rationale_id)
        if store.meta.form == "hidden":
            store.head()
        return None
    except StoreError as error:
        return str(error)


def _rest(folder: RunFolder) -> Iterator[tuple[Path, str | None]]:
    """What is not a stage's output, and what is wrong with it."""
    for file in (
        folder.root / "manifest.json",
        folder.measured_precision,
        folder.known_hub_models,
        *folder.work("commit.json"),
    ):
        if file.is_file():
            yield file, _json_damage(file)
    for sealed in [*folder.work("checkpoints/checkpoint-*"), *folder.engines.glob("*-*/")]:
        if sealed.is_dir():
            yield sealed, damage_in(sealed)
    for journal in [*folder.work("journal.jsonl"), *folder.engines.glob("*.jsonl")]:
        damaged = sum(line is None for line in read_lines(journal))
        yield journal, f"has {damaged} damaged lines, whose work the next run does again" if damaged else None
