"""What a run does now: the state of its stages, their progress, what is next and for about how long, the cost and the log."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from mentorkd.data.overlay import read_overlay
from mentorkd.pipeline.live import LIVE_NAME, Live, read_live, read_time
from mentorkd.pipeline.opened import OpenedRun
from mentorkd.pipeline.records import AnnotateRecord, StageRecord
from mentorkd.pipeline.run import PlannedStage
from mentorkd.pipeline.run_folder import HISTORY, RunFolder, Stage

RunState = Literal["running", "finished", "stopped", "new"]
StageState = Literal["done", "running", "next", "waits"]

_LOG_BYTES = 1 << 18
"""The last part of the log that is read."""
_LOG_LINES = 200
_NOTES = {
    "resumes": "goes on where it stopped",
    "may run": "stays as it is if the budget gives it the same number of updates",
}
"""What is said of an unfinished stage, by its state in the plan."""


@dataclass(frozen=True)
class StageRow:
    """A stage, with all of its shards."""

    stage: str
    kind: str
    learner: str
    seed: int | None
    state: StageState
    done: int
    """Of `total`: steps of a running stage, or shards."""
    total: int
    started: float | None
    """When a running stage started, in seconds since 1970."""
    seconds: float
    """That it, or its finished shards, took."""
    left: float | None
    """About how many seconds it still takes; None if no stage of its kind has finished yet."""
    tokens: int | None
    note: str
    """Why it runs again, or what else is to be said."""


@dataclass(frozen=True)
class LogLine:
    """An event of the run."""

    time: float
    stage: str
    text: str


@dataclass(frozen=True)
class LiveRun:
    """A run at one moment."""

    state: RunState
    stages: list[StageRow]
    seconds: float
    """Of all stages, as they were last published; so are the tokens and dollars."""
    tokens: int
    dollars: float | None
    """What the teacher has cost so far; None without a price."""
    left: float | None
    """About how many seconds the run still takes; None if that is not known of any stage."""
    unknown: int
    """Stages for which no estimate can be made."""
    stopped: str | None
    """Why the run stopped, if it said so."""
    again: str | None
    """What the next `mentorkd run` does again of a finished run, and why; None for nothing."""
    changed: float
    """When anything last happened, in seconds since 1970."""
    log: list[LogLine]


def read_state(run: OpenedRun) -> LiveRun:
    """The state of a run."""
    live, running, events = read_live(run.root), run.folder.is_running(), _events(run.root)
    began = (run.root / "recipe.yaml").stat().st_mtime  # every `mentorkd run` writes it before its first stage
    started = _started(events, began) if running else {}
    projected = _projected(started, live)
    estimate = _Estimate(run, projected)
    rows = [
        _row(members, started, live, run.records, lambda stage: _left(stage, started, projected, estimate))
        for members in _wholes(run.planned)
    ]
    open_rows = [row for row in rows if row.state != "done"]
    known = [row.left for row in open_rows if row.left is not None]
    at_once = max(1, len(started))
    log = [*(_line(event) for event in events), *(LogLine(*note) for note in live.notes)]
    state = _state(running, live, open_rows, run)
    published = run.published.values()
    return LiveRun(
        state=state,
        stages=rows,
        seconds=sum(record.seconds for record in published),
        tokens=sum(record.tokens or 0 for record in published),
        dollars=_dollars(published),
        left=sum(known) / at_once if known else None,
        unknown=len(open_rows) - len(known),
        stopped=None if running else live.stopped,
        again=_again(run) if state == "finished" else None,
        changed=events[-1]["time"] if events else began,
        log=sorted(log, key=lambda line: line.time)[-_LOG_LINES:],
    )


def fingerprint_of(root: Path) -> tuple[Any, ...]:
    """Changes whenever something of a run does that its page shows: its lock, and names, sizes and times of a few files."""
    files = [root / name for name in ("recipe.yaml", "log.jsonl", LIVE_NAME, ".stages", ".work", ".lock")]
    state: list[Any] = [RunFolder(root).is_running()]
    for file in [*files, *sorted((root / ".work").glob(f"*/{HISTORY}"))]:
        try:
            stat = file.stat()
        except OSError:
            continue
        state.append((str(file), stat.st_size, stat.st_mtime_ns))
    return tuple(state)


def _state(running: bool, live: Live, open_rows: Sequence[StageRow], run: OpenedRun) -> RunState:
    """A run with a report is finished, even if decisions or a changed recipe make the next `mentorkd run` do stages again."""
    if running:
        return "running"
    begun_again = live.stopped is not None or any(planned.state == "resumes" for planned in run.planned)
    # The first decision of all adds the stage that applies it.
    whole = all(planned.stage.name in run.published or planned.stage.kind == "curate" for planned in run.planned)
    if "report" in run.published and (not open_rows or (whole and not begun_again)):
        return "finished"
    return "stopped" if run.published else "new"


def _again(run: OpenedRun) -> str | None:
    again = {planned.stage.whole for planned in run.planned if planned.record is None and planned.state != "may run"}
    if not again:
        return None
    outdated = dict.fromkeys(planned.outdated for planned in run.planned if planned.outdated)
    why = "; ".join(outdated) or "the recipe or its data has changed"
    if waiting := _waiting(run):
        why = f"{waiting:,} decisions wait" if waiting > 1 else "1 decision waits"
    stages = f"{len(again):,} stages run" if len(again) > 1 else "1 stage runs"
    return f"{stages} again at the next `mentorkd run`: {why}"


def _waiting(run: OpenedRun) -> int:
    """How many decisions of the overlay are later than the report."""
    if run.recipe.teacher.overlay is None:
        return 0
    finished, waiting = int(run.folder.mark("report").stat().st_mtime), 0  # decisions have whole seconds
    for decision in read_overlay(Path(run.recipe.teacher.overlay)).values():
        with suppress(ValueError):  # people may write a time in any form
            waiting += datetime.fromisoformat(decision.at).timestamp() >= finished
    return waiting


def _wholes(planned: Sequence[PlannedStage]) -> Iterable[list[PlannedStage]]:
    """The stages in order, those of one whole together."""
    wholes: dict[str, list[PlannedStage]] = {}
    for each in planned:
        wholes.setdefault(each.stage.whole, []).append(each)
    return wholes.values()


def _row(
    members: Sequence[PlannedStage],
    started: Mapping[str, float],
    live: Live,
    records: Mapping[str, StageRecord],
    left: Callable[[Stage], float | None],
) -> StageRow:
    whole, unfinished = members[-1].stage, [each for each in members if each.record is None]
    running = [each.stage for each in unfinished if each.stage.name in started]
    ready = any(all(need in records for need in each.stage.needs) for each in unfinished)
    done, total = len(members) - len(unfinished), len(members)
    if total == 1:
        done, total = live.progress.get(whole.name, (0, 0, 0))[:2] if running else (0, 0)
    finished = [each.record for each in members if each.record is not None]
    tokens = [record.tokens for record in finished if record.tokens is not None]
    seconds = [left(each.stage) for each in unfinished]
    notes = [each.outdated or ("" if running else _NOTES.get(each.state, "")) for each in unfinished]
    return StageRow(
        stage=whole.whole,
        kind=whole.kind,
        learner=whole.learner,
        seed=whole.seed if whole.learner else None,
        state="done" if not unfinished else "running" if running else "next" if ready else "waits",
        done=done,
        total=total,
        started=min((started[stage.name] for stage in running), default=None),
        seconds=sum(record.seconds for record in finished),
        left=None if None in seconds else sum(each for each in seconds if each is not None),
        tokens=sum(tokens) if tokens else None,
        note="; ".join(dict.fromkeys(filter(None, notes))),
    )


class _Estimate:
    """Seconds of stages that are left, by stages of the same kind: finished ones of the same learner, or of any, or running ones."""

    def __init__(self, run: OpenedRun, projected: Mapping[str, float]) -> None:
        """`projected`: the whole length of running stages, by their own progress."""
        self._seconds: dict[tuple[str, str | None], list[float]] = defaultdict(list)
        for record in run.published.values():
            self._seconds[record.kind, None].append(record.seconds)
            if record.learner:
                self._seconds[record.kind, record.learner].append(record.seconds)
        finished = {kind for kind, _ in self._seconds}
        for planned in run.planned:
            kind, name = planned.stage.kind, planned.stage.name
            if name in projected and kind not in finished:
                self._seconds[kind, None].append(projected[name])

    def of(self, stage: Stage) -> float | None:
        known = self._seconds.get((stage.kind, stage.learner)) or self._seconds.get((stage.kind, None))
        return fmean(known) if known else None


def _projected(started: Mapping[str, float], live: Live) -> dict[str, float]:
    """The seconds that running stages take as a whole, by name, of those that say how far they are."""
    projected, now = {}, time.time()
    for stage, start in started.items():
        steps = live.progress.get(stage)
        if steps is not None and steps.done > steps.first:
            projected[stage] = (now - start) * (steps.total - steps.first) / (steps.done - steps.first)
    return projected


def _left(
    stage: Stage, started: Mapping[str, float], projected: Mapping[str, float], estimate: _Estimate
) -> float | None:
    """Seconds that an unfinished stage still takes: by its own progress, or by stages of its kind."""
    whole = projected[stage.name] if stage.name in projected else estimate.of(stage)
    passed = time.time() - started[stage.name] if stage.name in started else 0.0
    return None if whole is None else max(0.0, whole - passed)


def _dollars(records: Iterable[StageRecord]) -> float | None:
    """Of the annotation, or of its shards while they are not yet together."""
    asked = {record.stage: record.asked for record in records if isinstance(record, AnnotateRecord)}
    whole = [usage for stage, usage in asked.items() if "/shard-" not in stage] or list(asked.values())
    dollars = [usage.dollars for usage in whole if usage is not None and usage.dollars is not None]
    return sum(dollars) if dollars else None


def _events(root: Path) -> list[dict[str, Any]]:
    """The last events of a run's log."""
    try:
        with (root / "log.jsonl").open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _LOG_BYTES))
            lines = file.read().splitlines()[1 if size > _LOG_BYTES else 0 :]
    except FileNotFoundError:
        return []
    events = []
    for line in lines:
        try:
            event = json.loads(line)
            checked = {"time": read_time(event["time"]), "stage": str(event["stage"]), "event": str(event["event"])}
            events.append(event | checked)
        except (ValueError, KeyError, TypeError):  # the line that is being written, or one that a kill tore
            continue
    return events


def _started(events: Iterable[Mapping[str, Any]], began: float) -> dict[str, float]:
    """When the stages that run started, of a run that began at some time."""
    started: dict[str, float] = {}
    for event in events:
        if event["event"] == "started" and event["time"] >= began - 1:
            started[event["stage"]] = event["time"]
        else:
            started.pop(event["stage"], None)
    return started


def _line(event: Mapping[str, Any]) -> LogLine:
    seconds = event.get("seconds")
    text = f"finished after {seconds:,.1f} s" if isinstance(seconds, int | float) and seconds < 1e11 else event["event"]
    return LogLine(event["time"], event["stage"], text)
