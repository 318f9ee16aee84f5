"""The run folder: fingerprints, finished stages, atomic publication, the lock.

A stage works in `.work/<stage>@<fingerprint>/` and leaves what it made under `out/` there. Publication is one atomic
rename, of `commit.json`; moving the outputs to their places after it is only rolled forward, at once or, after a kill,
by the next process that opens the folder. So at any instant a stage is either finished or not, never half.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mentorkd.errors import RunError
from mentorkd.files import write_json
from mentorkd.precision import Precision, choose_precision
from mentorkd.records import Prediction, Question, Rationale, Split, read_jsonl

__all__ = ["RunFiles", "RunFolder", "Stage", "role"]

WORKERS_SECONDS = 10


@dataclass(frozen=True)
class Stage:
    """One node of a compiled recipe. `name` is unique; its outputs go to `target`; `inputs` maps the roles of what it reads
    to the names of the earlier stages that make it.
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
    """The learner whose distributions a score stage writes."""
    trial: Mapping[str, Any] = field(default_factory=dict)
    """Settings that the learner has in this stage of its search."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of the stages it reads from, each once."""
        return tuple(dict.fromkeys(self.inputs.values()))


def role(kind: str, learner: str, seed: int) -> str:
    """The role in which the report reads a learner's stage of a kind, its own or a shared one."""
    return f"{kind}/{learner}/{seed}"


class RunFolder:
    """One run's folder. Open it for writing with `lock()`; reading finished stages needs no lock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._marks = root / ".stages"
        self._work = root / ".work"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for writing, after finishing what a killed process had committed.

        Raises RunError at once if another process holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / ".lock")
        try:
            lock.acquire(timeout=0)
            for worker in self.root.glob(".worker-*.lock"):  # those of a killed run end at once, but after it
                with FileLock(worker).acquire(timeout=WORKERS_SECONDS):
                    pass
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
            for work in self._work.iterdir():  # left by a kill while a finished stage's work was being removed
                if self._is_published(work.name):
                    shutil.rmtree(work)
            yield
        finally:
            lock.release()

    @contextmanager
    def in_use(self, worker: int) -> Iterator[None]:
        """Write as a worker of the process that holds the lock; should that be killed, `lock` waits for the worker too."""
        with FileLock(self.root / f".worker-{worker}.lock"):
            yield

    def finished(self, stage: Stage) -> dict[str, Any] | None:
        """The record of a finished stage if it was made with this fingerprint and its outputs are there, else None."""
        record = self.last(stage)
        if record is None or record["fingerprint"] != stage.fingerprint:
            return None
        target = self.root / record["target"]
        return record if all((target / name).exists() for name in record["outputs"]) else None

    def last(self, stage: Stage) -> dict[str, Any] | None:
        """What a stage of this name recorded when it was last finished, with whatever fingerprint; None if it never was."""
        file = self._mark_file(stage.name)
        if not file.is_file():
            return None
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except ValueError:
            raise RunError(f"{file} is damaged; remove it and the stage {stage.name} will run again") from None

    def record(self, stage: str) -> dict[str, Any]:
        """What the stage of a name recorded when it was last finished. Raises RunError if it never was."""
        file = self._mark_file(stage)
        if not file.is_file():
            raise RunError(f"{stage} is not finished yet in {self.root}; use `mentorkd run`")
        return dict(json.loads(file.read_text(encoding="utf-8")))

    def begun(self, stage: Stage) -> bool:
        """Whether a killed process has left work on exactly this stage."""
        return self._place(stage).is_dir()

    def discard_if_empty(self, stage: Stage) -> None:
        """Remove the working folder of a stage that was refused before it had made anything."""
        work = self._place(stage)
        if not any(path.is_file() for path in work.rglob("*")):
            shutil.rmtree(work)

    def forget(self, stage: Stage) -> None:
        """Make a stage unfinished, so that it runs again from its beginning."""
        self._mark_file(stage.name).unlink(missing_ok=True)
        for work in self._works(stage):
            shutil.rmtree(work)

    def begin(self, stage: Stage) -> Path:
        """The stage's working folder. One left by a killed process of the same fingerprint is handed out again."""
        work = self._place(stage)
        for other in self._works(stage):
            if other != work:
                shutil.rmtree(other)
        (work / "out").mkdir(parents=True, exist_ok=True)
        return work

    def publish(self, stage: Stage, record: Mapping[str, Any]) -> dict[str, Any]:
        """Publish what stands under the working folder's `out/` into the stage's target."""
        work = self._place(stage)
        outputs = sorted(path.name for path in (work / "out").iterdir())
        about: dict[str, Any] = {
            "stage": stage.name,
            "fingerprint": stage.fingerprint,
            "target": stage.target,
            "outputs": outputs,
            "needs": list(stage.needs),
        }
        about |= {"kind": stage.kind, "learner": stage.learner or None, "seed": stage.seed if stage.learner else None}
        full = {**about, **record}
        write_json(work / "commit.json", full)
        self._roll_forward(work)
        return full

    def _is_published(self, work: str) -> bool:
        slug, _, mark = work.rpartition("@")
        file = self._marks / f"{slug}.json"
        return file.is_file() and json.loads(file.read_text(encoding="utf-8"))["fingerprint"] == mark

    def _place(self, stage: Stage) -> Path:
        return self._work / f"{_slug(stage.name)}@{stage.fingerprint}"

    def _works(self, stage: Stage) -> list[Path]:
        return list(self._work.glob(f"{_slug(stage.name)}@*"))

    def _roll_forward(self, work: Path) -> None:
        commit = work / "commit.json"
        record = json.loads(commit.read_text(encoding="utf-8"))
        target = self.root / record["target"]
        target.mkdir(parents=True, exist_ok=True)
        for name in record["outputs"]:
            made = work / "out" / name
            if made.exists():
                if (target / name).exists():
                    old = work / "old"
                    old.mkdir(exist_ok=True)
                    (target / name).rename(old / f"{name}-{time.time_ns()}")
                made.rename(target / name)
        commit.replace(self._mark_file(record["stage"]))
        shutil.rmtree(work)

    def _mark_file(self, stage: str) -> Path:
        return self._marks / f"{_slug(stage)}.json"

    def log(self, event: str, **fields: Any) -> None:
        """Append an event to log.jsonl."""
        row = {"time": round(time.time(), 3), "event": event, **fields}
        with (self.root / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _slug(stage: str) -> str:
    return stage.replace("/", ".")


class RunFiles:
    """The files of one run, by the names of the stages that made them."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.root = folder, folder.root

    @property
    def engines(self) -> Path:
        """What engines make of models, kept from run to run."""
        return self.root / ".engines"

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Wait until no other stage is at `what`: something that the stages of a run share, and the first one makes."""
        self.engines.mkdir(parents=True, exist_ok=True)
        with FileLock(self.engines / f".{what}.lock"):
            yield

    def precision(self, device_type: str) -> Precision:
        """The arithmetic measured to be fast on this kind of device when the run began on one; measured now if it has not."""
        file = self.root / ".stages" / "precision.json"
        with self.alone("precision"):
            known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
            if device_type not in known:
                known[device_type] = list(choose_precision(device_type))
                write_json(file, known)
        chosen: Precision = known[device_type][0]
        return chosen

    def record(self, stage: str) -> dict[str, Any]:
        """What a stage recorded. Raises RunError if it is not finished."""
        return self.folder.record(stage)

    def outputs(self, stage: str) -> Path:
        """The folder of a stage's outputs. Raises RunError if it is not finished."""
        return self.root / str(self.record(stage)["target"])

    def model(self, stage: str) -> Path:
        """The model that a stage trained, as a Hugging Face folder. Raises RunError if it is not there."""
        folder = self.outputs(stage) / "model"
        if not folder.is_dir():
            raise RunError(f"{folder} is not there; `mentorkd run` makes it anew")
        return folder

    def questions(self, stage: str, split: Split | None = None) -> list[Question]:
        """The questions of a split, or all."""
        questions = read_jsonl(self.outputs(stage) / "questions.jsonl", Question)
        return [question for question in questions if split in (None, question.split)]

    def rationales(self, stage: str) -> list[Rationale]:
        """All rationales that a stage asked the teacher for, or sampled from a learner."""
        return read_jsonl(self.outputs(stage) / "rationales.jsonl", Rationale)

    def predictions(self, stage: str) -> list[Prediction]:
        """Answers to the test questions."""
        return read_jsonl(self.outputs(stage) / "predictions.jsonl", Prediction)

    def metrics(self, stage: str) -> list[dict[str, Any]]:
        """The log of a training."""
        text = (self.outputs(stage) / "metrics.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def soft_labels(self, stage: str) -> Path:
        """The store that a score stage wrote."""
        record = self.record(stage)
        return self.root / str(record["target"]) / str(record["outputs"][0])
