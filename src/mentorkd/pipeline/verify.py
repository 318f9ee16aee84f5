"""Verify: every file of a run against what was written, and what is wrong with each that differs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mentorkd.errors import DamagedError, RunError, StoreError
from mentorkd.files import read_lines
from mentorkd.files.seals import damage_in, read_sealed
from mentorkd.pipeline.records import ScoreRecord, read_record
from mentorkd.pipeline.run_folder import RunFolder, is_editable

_REMOVE = "remove it and `mentorkd run` makes it again"
_REMOVE_MARK = "remove it and its stage runs again"


@dataclass
class Verification:
    """What was checked in a run folder. Paths are relative to it."""

    files: int = 0
    """Files that were checked; a store of soft labels and a sealed folder count as one."""
    damaged: dict[str, str] = field(default_factory=dict)
    """What is wrong with each damaged file and what to do, by its path."""
    edited: dict[str, str] = field(default_factory=dict)
    """How each file differs that people may edit or remove, such as a model card, by its path."""
    unchecked: list[str] = field(default_factory=list)
    """Outputs without hashes that this version can read, because another version published them."""


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
        damage = _json_damage(file, _REMOVE_MARK)
        _note(result, root, file, damage)
        if damage:
            continue
        mark = read_sealed(file)
        if (record := read_record(mark)) is not None:
            records.append(record)
        else:  # of another version
            target, outputs = Path(str(mark.get("target", ""))), mark.get("outputs", ())
            result.unchecked += [(target / str(name)).as_posix() for name in outputs]
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
        damage = None if None in damages else damages[0]
        name = file.relative_to(root).as_posix()
        if damage and is_editable(name):
            result.files += 1
            result.edited[name] = damage
        else:
            _note(result, root, file, damage and f"{damage}; {_REMOVE}")
    for file, damage in _rest(folder):
        _note(result, root, file, damage)
    return result


def _note(result: Verification, root: Path, file: Path, damage: str | None) -> None:
    result.files += 1
    if damage:
        result.damaged[file.relative_to(root).as_posix()] = damage


def _json_damage(file: Path, how: str) -> str | None:
    try:
        read_sealed(file)
        return None
    except DamagedError as error:
        return f"{str(error).removeprefix(f'{file} ')}; {how}"
    except OSError as error:
        return f"cannot be read ({error.strerror}); {how}"


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
    from mentorkd.teachers.asked import CACHE
    from mentorkd.teachers.cache import damage_in_replies

    ways = {
        folder.root / "manifest.json": "the next run writes it again",
        folder.measured_precision: "remove it and the arithmetic will be chosen again",
        folder.known_hub_models: "remove it and `mentorkd run` records the commits of the models again",
        **dict.fromkeys(folder.work("commit.json"), "the next run goes on from before it"),
    }
    for file, how in ways.items():
        if file.is_file():
            yield file, _json_damage(file, how)
    for checkpoint in folder.work("checkpoints/checkpoint-*"):
        if checkpoint.is_dir():
            damage = damage_in(checkpoint)
            yield checkpoint, damage and f"{damage}; the next run goes on from an older one"
    for sealed in folder.engines.glob("*-*/"):
        if sealed.is_dir():
            damage = damage_in(sealed)
            yield sealed, damage and f"{damage}; the next run makes it again"
    for journal in [*folder.work("journal.jsonl"), *folder.engines.glob("*.jsonl")]:
        damaged = sum(line is None for line in read_lines(journal))
        yield journal, f"has damaged lines ({damaged}), whose work the next run does again" if damaged else None
    for replies in [folder.root / CACHE, *folder.work(str(CACHE))]:  # of all questions, or of unfinished shards
        if replies.is_file():
            yield replies, damage_in_replies(replies)
