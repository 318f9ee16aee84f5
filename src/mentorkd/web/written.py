"""What a run's teacher and learners wrote so far, as files: their rationales, and what each training made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from mentorkd.errors import DamagedError, RunError
from mentorkd.files import fingerprint
from mentorkd.pipeline.records import (
    AnnotateRecord,
    AugmentRecord,
    RoundsRecord,
    SearchRecord,
    TrainRecord,
    best_round,
)
from mentorkd.pipeline.selection_log import SELECTION
from mentorkd.pipeline.shards import whole_name
from mentorkd.records import TEACHER
from mentorkd.seals import FileSeal
from mentorkd.web.opened import OpenedRun


@dataclass(frozen=True)
class RunFile:
    """A file that a stage published. It is known by its hash, which the stage's mark holds."""

    stage: str
    path: Path
    digest: str
    seal: FileSeal | None

    @classmethod
    def of(cls, run: OpenedRun, stage: str, name: str) -> RunFile:
        record = run.records[stage]
        path = run.root / record.target / name
        seal = (record.files or {}).get(name)
        if seal is not None:
            return cls(stage, path, seal.sha256, seal)
        stat = path.stat()  # an earlier version kept no hashes
        return cls(stage, path, f"{stat.st_size}-{stat.st_mtime_ns}", None)

    def check(self, *, size_alone: bool = False) -> None:
        """Raises DamagedError if the file is not as it was written."""
        if self.seal is not None and (damage := self.seal.damage(self.path, size_alone=size_alone)):
            raise DamagedError(f"{self.path} {damage}; remove it and `mentorkd run` makes it again")


@dataclass(frozen=True)
class Author:
    """Who wrote the rationales of a file."""

    source: str
    """The teacher, or a learner."""
    seed: int | None = None
    round: int | None = None
    """The round of a learner that reads its own texts."""

    @property
    def name(self) -> str:
        """`teacher`, `mentor@seed-1`, `student@seed-1/round-2`."""
        seed = "" if self.seed is None else f"@seed-{self.seed}"
        return f"{self.source}{seed}" + ("" if self.round is None else f"/round-{self.round}")


@dataclass(frozen=True)
class TextFile:
    """A file of rationales."""

    file: RunFile
    author: Author
    rows: int


@dataclass(frozen=True)
class Reader:
    """A trained learner, with the log of what it did not read."""

    learner: str
    seed: int
    training: str
    """The stage that trained it."""
    selection: RunFile
    reads: frozenset[int]
    """The numbers of the files of rationales that it was given."""

    @property
    def name(self) -> str:
        return f"{self.learner}@seed-{self.seed}"


@dataclass(frozen=True)
class Written:
    """All rationales of a run, and who read them."""

    questions: RunFile
    texts: Sequence[TextFile]
    curated: RunFile | None
    """The teacher's rationales after the decisions of the overlay, if some are in effect."""
    readers: Sequence[Reader]
    without_log: Sequence[str]
    """Trained learners whose training is of a version that kept no log of what it did not read."""

    @property
    def rows(self) -> int:
        return sum(text.rows for text in self.texts)

    @property
    def key(self) -> str:
        """Hash of the content of all files, and of who wrote and read them."""
        texts = [[text.file.digest, *astuple(text.author)] for text in self.texts]
        readers = [[reader.name, reader.selection.digest, sorted(reader.reads)] for reader in self.readers]
        return fingerprint([self.questions.digest, texts, self.curated and self.curated.digest, readers])


def find_written(run: OpenedRun) -> Written:
    """The rationales that are there now. Raises RunError if there is none yet."""
    texts = [text for planned in run.planned if (text := _text(run, planned.stage.name, planned.stage.round))]
    if not texts or "prepare" not in run.records:
        raise RunError(f"{run.root} has no rationales yet; the first come with the stage annotate")
    numbers = {text.file.stage: number for number, text in enumerate(texts)}
    readers, without = [], []
    for learner in run.recipe.learners:
        for seed in run.recipe.seeds:
            stage = run.stage("train", learner, seed)
            record = None if stage is None else run.records[stage]
            if stage is None or not isinstance(record, TrainRecord):
                continue
            if SELECTION not in record.outputs:
                without.append(f"{learner}@seed-{seed}")
                continue
            training = _training(run, stage)
            needs = ["annotate" if need == "curate" else need for need in run.records[training].needs]
            if reads := frozenset(numbers[need] for need in needs if need in numbers):
                readers.append(Reader(learner, seed, training, RunFile.of(run, stage, SELECTION), reads))
    curated = RunFile.of(run, "curate", "rationales.jsonl") if "curate" in run.records else None
    return Written(RunFile.of(run, "prepare", "questions.jsonl"), texts, curated, readers, without)


def _text(run: OpenedRun, stage: str, round: int | None) -> TextFile | None:
    """The rationales that a finished stage wrote; None for other stages, and for shards that are merged."""
    record, whole = run.records.get(stage), whole_name(stage)
    if not isinstance(record, AnnotateRecord | AugmentRecord) or (whole != stage and whole in run.records):
        return None
    author = Author(record.learner or TEACHER, record.seed, round)
    return TextFile(RunFile.of(run, stage, "rationales.jsonl"), author, sum(record.rationales.values()))


def _training(run: OpenedRun, stage: str) -> str:
    """The stage that trained what a stage published: of a search the best trial, of rounds the best round."""
    record = run.records[stage]
    match record:
        case SearchRecord():
            place = [trial.values for trial in record.search.tried].index(record.search.chosen)
        case RoundsRecord():
            best = best_round(record.rounds or [])
            place = (record.rounds or []).index(best)
        case _:
            return stage
    return _training(run, record.needs[place])
