"""What a run's teacher and learners wrote so far, as files: their rationales, and what each training made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from mentorkd.errors import DamagedError, RunError
from mentorkd.files import fingerprint
from mentorkd.files.seals import FileSeal
from mentorkd.pipeline.opened import OpenedRun
from mentorkd.pipeline.records import (
    AnnotateRecord,
    AugmentRecord,
    RoundsRecord,
    SearchRecord,
    StageRecord,
    TrainRecord,
    best_round,
)
from mentorkd.pipeline.selection_log import SELECTION
from mentorkd.pipeline.shards import whole_name
from mentorkd.records import TEACHER

_CURATE = "curate"


@dataclass(frozen=True)
class RunFile:
    """A file that a stage published. It is known by its hash, which the stage's mark holds."""

    stage: str
    path: Path
    digest: str
    seal: FileSeal | None

    def check(self, *, size_alone: bool = False) -> None:
        """Raises DamagedError if the file is not as it was written, or does not have the size that it had."""
        if self.seal is not None and (damage := self.seal.damage(self.path, size_alone=size_alone)):
            remove = "remove it and " if self.path.exists() else ""
            raise DamagedError(f"{self.path} {damage}; {remove}`mentorkd run` makes it again")


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
    curated: bool = False
    """Whether it was given the teacher's rationales as the decisions of the overlay left them."""

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
    def files(self) -> list[RunFile]:
        """What the tables are made of."""
        curated = [] if self.curated is None else [self.curated]
        selections = [reader.selection for reader in self.readers]
        return [self.questions, *(text.file for text in self.texts), *curated, *selections]

    @property
    def rows(self) -> int:
        return sum(text.rows for text in self.texts)

    @property
    def key(self) -> str:
        """Hash of the content of all files, and of who wrote and read them."""
        texts = [[text.file.digest, *astuple(text.author)] for text in self.texts]
        readers = [
            [reader.name, reader.selection.digest, sorted(reader.reads), reader.curated] for reader in self.readers
        ]
        return fingerprint([self.questions.digest, texts, self.curated and self.curated.digest, readers])


class _Records(dict[str, StageRecord]):
    """What each stage of a run recorded when it last finished, by name: with the settings and decisions of now, or with earlier ones."""

    def __init__(self, run: OpenedRun) -> None:
        names = [*(planned.stage.name for planned in run.planned), _CURATE]
        super().__init__({name: record for name in names if (record := run.folder.last(name)) is not None})
        self.run = run

    def file(self, stage: str, name: str) -> RunFile:
        """A file that a stage published."""
        record = self[stage]
        path, seal = self.run.root / record.target / name, (record.files or {}).get(name)
        if seal is not None:
            return RunFile(stage, path, seal.sha256, seal)
        stat = path.stat()  # an earlier version kept no hashes
        return RunFile(stage, path, f"{stat.st_size}-{stat.st_mtime_ns}", None)

    def trained_on(self, training: str, texts: Iterable[str]) -> bool:
        """Whether a training read what these stages published last. A recipe that changed may have written new texts since."""
        mark = self.run.folder.mark
        time = mark(training).stat().st_mtime_ns
        return training in self.run.records or all(mark(text).stat().st_mtime_ns <= time for text in texts)


def find_written(run: OpenedRun) -> Written:
    """The rationales that are there now. Raises RunError if there is none yet."""
    records = _Records(run)
    texts = [text for planned in run.planned if (text := _text(records, planned.stage.name, planned.stage.round))]
    if not texts or "prepare" not in records:
        raise RunError(f"{run.root} has no rationales yet; the first come with the stage annotate")
    numbers = {text.file.stage: number for number, text in enumerate(texts)}
    readers, without = [], []
    for learner in run.recipe.learners:
        for seed in run.recipe.seeds:
            stage = _stage_of(run, records, learner, seed)
            if stage is None:
                continue
            training = _training(records, stage)
            needs = [need for need in records[training].needs if need in numbers or need == _CURATE]
            if not needs or not records.trained_on(training, (need for need in needs if need in records)):
                continue
            if SELECTION not in records[stage].outputs:
                without.append(f"{learner}@seed-{seed}")
                continue
            reads = frozenset(numbers["annotate" if need == _CURATE else need] for need in needs)
            log = records.file(stage, SELECTION)
            readers.append(Reader(learner, seed, training, log, reads, curated=_CURATE in needs))
    is_curated = any(planned.stage.name == _CURATE for planned in run.planned) or any(each.curated for each in readers)
    curated = records.file(_CURATE, "rationales.jsonl") if is_curated and _CURATE in records else None
    return Written(records.file("prepare", "questions.jsonl"), texts, curated, readers, without)


def _text(records: _Records, stage: str, round: int | None) -> TextFile | None:
    """The rationales that a stage wrote; None for other stages, and for shards that are merged."""
    record, whole = records.get(stage), whole_name(stage)
    if not isinstance(record, AnnotateRecord | AugmentRecord) or (whole != stage and whole in records):
        return None
    author = Author(record.learner or TEACHER, record.seed, round)
    return TextFile(records.file(stage, "rationales.jsonl"), author, sum(record.rationales.values()))


def _stage_of(run: OpenedRun, records: _Records, learner: str, seed: int) -> str | None:
    """The stage that published a learner's model: that of now, its own or another's, or the last of an earlier recipe."""
    if (stage := run.stage("train", learner, seed)) is not None:
        return stage
    names = (f"learners/{learner}/seed-{seed}/{kind}" for kind in ("search", "rounds", "train"))
    return next((name for name in names if isinstance(records.get(name), TrainRecord)), None)


def _training(records: _Records, stage: str) -> str:
    """The stage that trained what a stage published: of a search the best trial, of rounds the best round."""
    record = records[stage]
    match record:
        case SearchRecord():
            place = [trial.values for trial in record.search.tried].index(record.search.chosen)
        case RoundsRecord():
            best = best_round(record.rounds or [])
            place = (record.rounds or []).index(best)
        case _:
            return stage
    return _training(records, record.needs[place])
