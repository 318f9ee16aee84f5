"""The run folder: finished stages and their files, atomic publication, the lock.

Each attempt at a stage works in a folder of its own, `.work/<stage>@<fingerprint>/`, and leaves its outputs under `out/` there. One
atomic rename publishes a stage: that of `commit.json`. The outputs are then moved to their places, at once or, after a kill, by the
next process that opens the folder; this step only rolls forward. So at any instant a stage is either finished or not, never half.

Only the process that holds the lock publishes, and one attempt of each stage. Of an attempt on another machine nobody knows whether
it has ended, so the next attempt (`...@<fingerprint>~2`) goes on in a copy of what it left.

A stage's mark holds the size and hash of every file that it published. Whoever reads an output checks it first, once a process.
"""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from mentorkd.data.rows import Rows
from mentorkd.errors import DamagedError, RunError
from mentorkd.files import digest_path
from mentorkd.files.seals import FileSeal, read_sealed, seal_files, sync, sync_one, write_sealed
from mentorkd.hub import UNKNOWN, HubModels
from mentorkd.pipeline.records import StageRecord, read_record
from mentorkd.pipeline.scratch import Scratch
from mentorkd.pipeline.shards import whole_name
from mentorkd.precision import Precision, choose_precision
from mentorkd.records import Prediction, Question, Rationale, Split, read_jsonl

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

_WORKERS_SECONDS = 10
_GLANCE_SECONDS = 0.2
"""Who only looks whether the folder is locked (`is_running`) holds the lock for some microseconds."""
_REMOTE = "r"
"""Ends the name of an attempt on another machine."""
_COPIES = 3
_STATUS_FILES = shutil.ignore_patterns(".status*")
STATUS_NAME = ".status"
STATUS = f"{STATUS_NAME}.json"
"""In the folder of an attempt on another machine: where it runs, and how far it is."""
HISTORY = "history.jsonl"
"""In the folder of an attempt at a training: its log so far, for those who watch it. The whole log is published as metrics.jsonl."""
_SELF_CHECKED = {"score"}
"""Kinds of stages whose outputs have checksums of their own."""

R = TypeVar("R", bound=StageRecord)


@dataclass(frozen=True)
class Stage:
    """One node of a compiled recipe. `name` is unique. Its outputs go to `target`. `inputs` maps the roles of what it
    reads to the names of the earlier stages that make it.
    """

    name: str
    kind: str
    target: str
    inputs: Mapping[str, str]
    fingerprint: str
    learner: str = ""
    seed: int = 0
    source: str = ""
    """The source whose text a score stage reads."""
    mentor: str = ""
    """The learner, or the teacher, whose soft labels a score stage writes."""
    form: str = ""
    """The form of these soft labels: hidden, top_k or chunks."""
    trial: Mapping[str, Any] = field(default_factory=dict)
    """Settings that the learner has in this stage of its search."""
    round: int | None = None
    """The number of a training, or of what it reads, for a learner that reads its own texts."""
    fold: int | None = None
    """The part of the questions that a cross-fitted mentor is not trained on, or that it scores."""
    shard: tuple[int, int] | None = None
    """The number of a shard and how many there are; None for a whole stage."""
    forced: bool = False
    """The user asked for this very stage to run again."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the stages it reads from, each once."""
        return tuple(dict.fromkeys(self.inputs.values()))

    @property
    def whole(self) -> str:
        """The name of the stage that this one is a shard of; its own if it is none."""
        return whole_name(self.name)

    @property
    def merged(self) -> list[str]:
        """The names of the shards whose rows this stage puts together; none for a stage that makes its own."""
        return [stage for role, stage in self.inputs.items() if role.startswith("shard/")]


def part_role(role: str, fold: int | None) -> str:
    """The role in which a stage reads something that a cross-fitted mentor has once a fold; that of the first has no number."""
    return f"{role}/{fold}" if fold else role


def role(kind: str, learner: str, seed: int) -> str:
    """The role in which the report reads a learner's stage of a kind, its own or a shared one."""
    return f"{kind}/{learner}/{seed}"


class RunFolder:
    """One run's folder. Open it for writing with `lock()`. Reading finished stages needs no lock."""

    def __init__(self, root: Path, *, verify: bool = True, scratch: Scratch | None = None) -> None:
        """`verify`: check outputs against their marks when they are read. `scratch`: read models and soft labels from copies there."""
        self.root, self.verify, self.scratch = root, verify, scratch
        self._marks = root / ".stages"
        self._work = root / ".work"
        self._checked: set[tuple[Path, FileSeal]] = set()
        self._copies: dict[tuple[str, str], Path] = {}
        self._warned_unsealed = False

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for writing, after finishing what a killed process had committed.

        Raises RunError if another process holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / ".lock")
        try:
            lock.acquire(timeout=_GLANCE_SECONDS)
            for worker in self.root.glob(".worker-*.lock"):  # workers of a killed run end milliseconds after it
                with FileLock(worker).acquire(timeout=_WORKERS_SECONDS):
                    pass
                worker.unlink(missing_ok=True)
        except Timeout:
            lock.release()
            raise RunError(
                f"another process is writing to {self.root}; wait for it to finish, or give this run another name"
            ) from None
        try:
            self._marks.mkdir(exist_ok=True)
            self._work.mkdir(exist_ok=True)
            for commit in sorted(self._work.glob("*/commit.json")):
                self._roll_forward(commit.parent)
            for workdir in self._work.iterdir():
                # A kill came while a finished stage's workdir was being removed, or while an attempt was copied.
                if self._is_published(workdir.name) or workdir.name.startswith("."):
                    shutil.rmtree(workdir, ignore_errors=True)  # an attempt on another machine may still write there
            yield
        finally:
            lock.release()

    def is_running(self) -> bool:
        """Whether a process holds the folder for writing. Changes nothing, and needs no right to write."""
        try:
            with (self.root / ".lock").open("rb") as file:
                if sys.platform == "win32":
                    file.read(1)  # it refuses to read what is locked
                else:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except (BlockingIOError, PermissionError):
            return True
        return False

    @contextmanager
    def in_use(self, worker: int | str) -> Iterator[None]:
        """Write as a worker of the process that holds the lock. If that process is killed, `lock` waits for the worker too."""
        file = self.root / f".worker-{worker}.lock"
        with FileLock(file):
            yield
        file.unlink(missing_ok=True)

    @property
    def recipe(self) -> Path:
        """The recipe that the folder belongs to, with the overrides of its last run."""
        return self.root / "recipe.yaml"

    def finished(self, stage: Stage) -> StageRecord | None:
        """The record of a stage that is finished with this fingerprint and whose outputs are there, else None."""
        record = self.recorded(stage)
        if record is None:
            return None
        target = self.root / record.target
        names = [*record.outputs, *(name for name in record.files or () if not is_editable(name))]
        return record if all((target / name).exists() for name in names) else None

    def recorded(self, stage: Stage) -> StageRecord | None:
        """What a stage recorded with this fingerprint, even if its outputs have been removed since; else None."""
        record = self.last(stage.name)
        return None if record is None or record.fingerprint != stage.fingerprint else record

    def last(self, stage: str) -> StageRecord | None:
        """What the stage of a name recorded when it last finished, with any fingerprint. None if it never did, or if another
        version of mentorkd wrote the record in another form. Raises RunError for a damaged file."""
        file = self.mark(stage)
        if not file.is_file():
            return None
        try:
            return read_record(read_sealed(file))
        except DamagedError as error:
            raise DamagedError(f"{error}; remove it and the stage {stage} will run again") from None

    def record(self, stage: str) -> StageRecord:
        """What the stage of a name recorded when it last finished. Raises RunError if it never did."""
        record = self.last(stage)
        if record is None:
            raise RunError(f"{stage} is not finished yet in {self.root}; use `mentorkd run`")
        return record

    def record_of(self, kind: type[R], stage: str) -> R:
        """What the stage of a name recorded, as the record of its kind. Raises RunError if it is not finished."""
        record = self.record(stage)
        assert isinstance(record, kind), f"{stage} has a {type(record).__name__}, not a {kind.__name__}"
        return record

    def marks(self) -> list[Path]:
        """The marks of all stages that ever finished."""
        return [
            file
            for file in sorted(self._marks.glob("*.json"))
            if file not in (self.measured_precision, self.known_hub_models)
        ]

    def history(self, stage: Stage) -> Path | None:
        """The history of an unfinished training so far, as its last attempt writes it; None if it has none."""
        file = next((attempt / HISTORY for attempt in reversed(self._attempts(stage))), None)
        return file if file is not None and file.is_file() else None

    def work(self, pattern: str) -> list[Path]:
        """The files and folders of a name or pattern in the working folders of unfinished stages."""
        return sorted(self._work.glob(f"*/{pattern}"))

    @property
    def measured_precision(self) -> Path:
        """The file that keeps which arithmetic was measured to be fast."""
        return self._marks / "precision.json"

    @property
    def known_hub_models(self) -> Path:
        """The file that keeps what is known of the hub models that the run has used."""
        return self._marks / "hub.json"

    def mark(self, stage: str) -> Path:
        """The file that says that the stage of a name is finished."""
        return self._marks / f"{_slug(stage)}.json"

    def begun(self, stage: Stage) -> bool:
        """Whether a killed process has left work on exactly this stage."""
        return bool(self._attempts(stage))

    def all_begun(self) -> Callable[[Stage], bool]:
        """`begun`, for many stages, as it is now."""
        names = {path.name.partition("~")[0] for path in self._work.glob("*")}
        return lambda stage: f"{_slug(stage.name)}@{stage.fingerprint}" in names

    def discard_if_empty(self, workdir: Path) -> None:
        """Remove the folder of an attempt that was refused before it had made anything."""
        if not any(path.is_file() and path.name != STATUS for path in workdir.rglob("*")):
            shutil.rmtree(workdir, ignore_errors=True)

    def forget(self, stage: Stage) -> None:
        """Make a stage unfinished, so that it runs again from its beginning."""
        self.mark(stage.name).unlink(missing_ok=True)
        for workdir in self._workdirs(stage):
            shutil.rmtree(workdir, ignore_errors=True)  # an attempt on another machine may still write there

    def begin(self, stage: Stage, *, remote: bool = False) -> Path:
        """The folder of a new attempt, with what the last one of the same fingerprint left.

        An attempt in a process of this machine has ended when the next begins, which therefore takes over its folder. A `remote` one,
        on another machine, may still write: the next has a copy, which its writer does not know.
        """
        attempts = self._attempts(stage)
        last = attempts[-1] if attempts else None
        if last is not None and not (remote or is_remote(last)):
            workdir = last
        else:
            number = 1 + (0 if last is None else _number(last))
            # A name that never comes again: an attempt of an earlier run may still write to its own.
            mark = f"~{number}{_REMOTE}{secrets.token_hex(3)}" if remote else f"~{number}" if number > 1 else ""
            workdir = self._work / f"{_slug(stage.name)}@{stage.fingerprint}{mark}"
            if last is not None:
                copy_at_rest(last, workdir)
        for other in self._workdirs(stage):
            if other != workdir:
                shutil.rmtree(other, ignore_errors=True)
        (workdir / STATUS).unlink(missing_ok=True)  # it is of the attempt before
        (workdir / "out").mkdir(parents=True, exist_ok=True)
        return workdir

    def publish(self, stage: Stage, workdir: Path, record: R) -> R:
        """Publish what an attempt left under `out/` into the stage's target. `record` is what `sealed` made of it."""
        write_sealed(workdir / "commit.json", record.as_json())
        self._roll_forward(workdir)
        for other in self._workdirs(stage):
            shutil.rmtree(other, ignore_errors=True)
        return record

    def _is_published(self, workdir: str) -> bool:
        slug, _, fingerprint = workdir.rpartition("@")
        file = self._marks / f"{slug}.json"
        try:
            return file.is_file() and read_sealed(file).get("fingerprint") == fingerprint.partition("~")[0]
        except DamagedError:  # told when the stage's record is read
            return False

    def _attempts(self, stage: Stage) -> list[Path]:
        """The folders of the attempts at exactly this stage, the oldest first."""
        return sorted(self._workdirs(stage, stage.fingerprint), key=_number)

    def _workdirs(self, stage: Stage, fingerprint: str = "") -> list[Path]:
        """The folders of the attempts at a stage, with fingerprints that begin so."""
        start = f"{_slug(stage.name)}@{fingerprint}"
        # Not glob(), which compiles a pattern for each stage and keeps it, and to which some characters of a name mean others.
        return [folder for folder in self._work.iterdir() if folder.name.startswith(start)]

    def _roll_forward(self, workdir: Path) -> None:
        file = workdir / "commit.json"
        try:
            commit = read_sealed(file)
        except DamagedError as error:
            file.unlink()
            log.warning("%s, so its stage goes on from where it was before", error)
            return
        target = self.root / commit["target"]
        target.mkdir(parents=True, exist_ok=True)
        for name in commit["outputs"]:
            output = workdir / "out" / name
            if output.exists():
                if (target / name).exists():
                    old = workdir / "old"
                    old.mkdir(exist_ok=True)
                    (target / name).rename(old / f"{name}-{time.time_ns()}")
                output.rename(target / name)
        for folder in (target, *target.parents):
            sync_one(folder)
            if folder == self.root:
                break
        file.replace(self.mark(commit["stage"]))
        sync_one(self._marks)
        shutil.rmtree(workdir, ignore_errors=True)

    def log(self, event: str, **fields: Any) -> None:
        """Append an event to log.jsonl."""
        row = {"time": round(time.time(), 3), "event": event, **fields}
        with (self.root / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    @property
    def engines(self) -> Path:
        """What engines make of models. It is kept from run to run."""
        return self.root / ".engines"

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Wait until no other stage holds `what`: something that the stages of a run share, and that the first of them makes."""
        self.engines.mkdir(parents=True, exist_ok=True)
        with FileLock(self.engines / f".{what}.lock"):
            yield

    @property
    def precisions(self) -> dict[str, Any]:
        """The arithmetic that was decided on, by the type of device, with the reason."""
        file = self.measured_precision
        try:
            return read_sealed(file) if file.is_file() else {}
        except DamagedError as error:
            raise DamagedError(f"{error}; remove it and the arithmetic will be chosen again") from None

    def precision(self, device_type: str) -> Precision:
        """The arithmetic of this type of device. The run's first stage on one decides."""
        with self.alone("precision"):
            precisions = self.precisions
            if device_type not in precisions:
                precisions[device_type] = list(choose_precision(device_type))
                write_sealed(self.measured_precision, precisions)
        chosen: Precision = precisions[device_type][0]
        return chosen

    @property
    def hub_models(self) -> HubModels:
        """What is known of the hub models that the run has used. Raises DamagedError for a damaged file."""
        file = self.known_hub_models
        how = "remove it and `mentorkd run` records the commits of the models again"
        try:
            return HubModels(**read_sealed(file)) if file.is_file() else UNKNOWN
        except DamagedError as error:
            raise DamagedError(f"{error}; {how}") from None
        except TypeError:
            raise DamagedError(f"{file} is damaged (expected the commits of hub models); {how}") from None

    def keep_hub_models(self, models: HubModels) -> None:
        """Write down what is known of the hub models that the run uses."""
        if models != self.hub_models:
            write_sealed(self.known_hub_models, asdict(models))

    def output(self, stage: str, name: str) -> Path:
        """A file or folder that a stage published. Raises RunError if the stage is not finished, and DamagedError if what was
        published has changed; so do all methods below.
        """
        record = self.record(stage)
        if self.verify:
            self._check(record, name)
        return self.root / record.target / name

    def _check(self, record: StageRecord, output: str) -> None:
        if record.files is None:
            self.warn_unsealed()
            return
        for name, seal in record.files.items():
            if not f"{name}/".startswith(f"{output}/") or is_editable(name):
                continue
            file = self.root / record.target / name
            if (file, seal) in self._checked:
                continue
            if damage := seal.damage(file):
                raise DamagedError(
                    f"{file} {damage}; remove it and `mentorkd run` makes it again (--no-verify reads it as it is)"
                )
            self._checked.add((file, seal))

    def warn_unsealed(self) -> None:
        """Warn, once, that outputs are read whose marks are of an earlier version and hold no hashes."""
        if not self._warned_unsealed:
            log.warning("%s: outputs of an earlier version have no hashes, and are read without a check", self.root)
            self._warned_unsealed = True

    def model(self, stage: str) -> Path:
        """The model that a stage trained, as a Hugging Face folder. Raises RunError if it is not there."""
        folder = self.root / self.record(stage).target / "model"
        if not folder.is_dir():
            raise RunError(f"{folder} is not there; `mentorkd run` makes it again")
        if self.scratch is None:
            return self.output(stage, "model")
        return self._copy(self.record(stage), "model")

    def questions(self, stage: str, split: Split | None = None) -> list[Question]:
        """The questions of a split, or all."""
        questions = read_jsonl(self.output(stage, "questions.jsonl"), Question)
        return [question for question in questions if split in (None, question.split)]

    def rationales(self, stage: str) -> Rows[Rationale]:
        """All rationales of the teacher, or all that a stage sampled from a learner; they stay on the disk."""
        return Rows.of_jsonl(self.output(stage, "rationales.jsonl"), Rationale)

    def predictions(self, stage: str) -> list[Prediction]:
        """Answers to the test questions."""
        return read_jsonl(self.output(stage, "predictions.jsonl"), Prediction)

    def samples(self, stage: str) -> list[Prediction]:
        """Sampled answers to the test questions: those of a question follow each other, as they were sampled."""
        return read_jsonl(self.output(stage, "samples.jsonl"), Prediction)

    def metrics(self, stage: str) -> list[dict[str, Any]]:
        """The log of a training."""
        file = self.output(stage, "metrics.jsonl")
        try:
            return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        except ValueError:
            raise DamagedError(f"{file} is damaged (no JSON); remove it and `mentorkd run` makes it again") from None

    def report(self) -> Path:
        """The folder of the report, whose files in JSON are checked."""
        self.output("report", "run.json")
        return self.output("report", "results.json").parent

    def soft_labels(self, stage: str) -> Path:
        """The store that a score stage wrote."""
        record = self.record(stage)
        return self._copy(record, record.outputs[0])

    def _copy(self, record: StageRecord, output: str) -> Path:
        """An output, or its copy on this node's own disk, which is checked once a process."""
        source = self.root / record.target / output
        if self.scratch is None:
            return source
        name = f"{_slug(record.stage)}@{digest_path(self.mark(record.stage))}"  # of this publication
        if (name, output) not in self._copies:
            self._copies[name, output] = self.scratch.copy(source, name, self._seals(record, output))
        return self._copies[name, output]

    def _seals(self, record: StageRecord, output: str) -> dict[str, FileSeal]:
        """Sizes and hashes of the files of an output that is a folder, by their paths in it; none if nothing is to be checked."""
        files = (
            {name: seal for name, seal in (record.files or {}).items() if not is_editable(name)} if self.verify else {}
        )
        return {name.removeprefix(f"{output}/"): seal for name, seal in files.items() if name.startswith(f"{output}/")}


def is_editable(file: str) -> bool:
    """Whether a file is for people to read and edit, such as a model card. It is not checked when its folder is read."""
    return file.endswith("/README.md")


def sealed(record: R, stage: Stage, workdir: Path) -> R:
    """The whole record of a stage: what it recorded, and the outputs that it left in the folder of an attempt. They are flushed to
    the disk, and known by size and hash."""
    sync(workdir / "out")
    return replace(
        record,
        stage=stage.name,
        fingerprint=stage.fingerprint,
        target=stage.target,
        outputs=sorted(path.name for path in (workdir / "out").iterdir()),
        files={} if stage.kind in _SELF_CHECKED else seal_files(workdir / "out"),
        needs=list(stage.needs),
        learner=stage.learner or None,
        seed=stage.seed if stage.learner else None,
    )


def copy_at_rest(source: Path, target: Path) -> None:
    """Copy a folder that another machine may still write to: again if it has changed meanwhile. Of one that does not rest, copy the
    checkpoints alone, whose hashes tell whether they are whole."""
    half = target.with_name(f".{target.name}")
    for _ in range(_COPIES):
        shutil.rmtree(half, ignore_errors=True)
        with suppress(OSError, shutil.Error):
            before = _state(source)
            shutil.copytree(source, half, ignore=_STATUS_FILES)
            if _state(source) == before:
                half.replace(target)
                return
    shutil.rmtree(half, ignore_errors=True)
    with suppress(OSError, shutil.Error):
        shutil.copytree(source / "checkpoints", half / "checkpoints")
        half.replace(target)


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of each file, by its path."""
    files = [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(STATUS_NAME)]
    stats = {str(file): file.stat() for file in files}
    return {file: (stat.st_size, stat.st_mtime_ns) for file, stat in stats.items()}


def _number(attempt: Path) -> int:
    """The number of an attempt, by the name of its folder."""
    return int(attempt.name.partition("~")[2].partition(_REMOTE)[0] or 1)


def is_remote(attempt: Path) -> bool:
    """Whether the folder is that of an attempt on another machine."""
    return _REMOTE in attempt.name.partition("~")[2]


def _slug(stage: str) -> str:
    return stage.replace("/", ".")
