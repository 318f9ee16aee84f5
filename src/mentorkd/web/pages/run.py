"""A run: its graph, stages, curves, cost and log, live while it runs; and the files of its report."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from mentorkd.errors import MentorkdError
from mentorkd.pipeline.model_card import describe_model
from mentorkd.pipeline.opened import OpenedRun
from mentorkd.pipeline.records import EvaluateRecord
from mentorkd.printable import printable
from mentorkd.recipe.graph import initial_model
from mentorkd.reporting.graph import draw_graph
from mentorkd.reporting.schema import LearnerResult
from mentorkd.web.curves import Line, draw_lines
from mentorkd.web.live import LiveRun, fingerprint_of, read_state
from mentorkd.web.respond import here, render, respond, run_url
from mentorkd.web.runs import run_of
from mentorkd.web.security import REPORT_POLICY
from mentorkd.web.summary import summarise

_LOOK_SECONDS = 1.0
_PARTS = ("facts", "graph", "stages", "curves", "log")
"""The parts of the page that change while a run goes on, each a template of its own."""
_PANELS = {
    "loss": "Training loss per target token",
    "validation_accuracy": "Validation accuracy (%)",
    "divergence": "Divergence from the mentor per target token",
}


def show_run(request: Request) -> Response:
    """The page of a run."""
    if _is_report(request):
        return RedirectResponse(run_url(request.path_params["run"], "index.html"))
    address, root = run_of(request)
    run = OpenedRun(root)
    state = read_state(run)
    value = {key: each for key, each in asdict(state).items() if key != "stages"}
    value = {
        "run": address,
        "recipe": run.recipe.name,
        "fault": run.fault,
        **value,
        "rows": [asdict(row) for row in state.stages],
    }
    if "format" in request.query_params:
        return respond(request, "run.html.jinja", value)
    return respond(
        request,
        "run.html.jinja",
        {"run": address},
        page="",
        name=run.recipe.name,
        running=state.state == "running",
        parts={part: Markup(text) for part, text in _parts(request, address, run, state).items()},
    )


def _is_report(request: Request) -> bool:
    """Whether an address names the report of a run. A folder `report` can be a run, or have runs in it; one of a run cannot."""
    above, _, name = request.path_params["run"].rpartition("/")
    with suppress(HTTPException):
        return name == "report" and bool(request.app.state.runs.folder(above))
    return False


def stream_events(request: Request) -> Response:
    """The parts of a run's page as server-sent events: a message for each change, with the parts that changed."""
    address, root = run_of(request)
    return StreamingResponse(_events(request, address, root), media_type="text/event-stream")


async def _events(request: Request, address: str, root: Path) -> AsyncIterator[str]:
    """Ends when the browser leaves: the server then closes this iterator. The last event of a run that is gone is `gone`."""
    last, sent = None, dict[str, str]()
    while True:
        try:
            now = await run_in_threadpool(fingerprint_of, root)
            parts = sent if now == last else await run_in_threadpool(_read_parts, request, address, root)
        except (MentorkdError, OSError) as error:
            why = f"The run cannot be read any more, and this page is as it was: {printable(str(error))}"
            yield f"event: gone\ndata: {json.dumps(why, ensure_ascii=False)}\n\n"
            return
        if now != last:
            last = now
            if changed := {part: text for part, text in parts.items() if sent.get(part) != text}:
                sent = parts
                yield f"data: {json.dumps(changed, ensure_ascii=False)}\n\n"
        else:
            yield ": \n\n"  # a comment, by which the server notices that the browser has left
        await asyncio.sleep(_LOOK_SECONDS)


def _read_parts(request: Request, address: str, root: Path) -> dict[str, str]:
    run = OpenedRun(root)
    return _parts(request, address, run, read_state(run))


def _parts(request: Request, address: str, run: OpenedRun, state: LiveRun) -> dict[str, str]:
    """The text of each part of the page."""
    names = list(run.recipe.learners)
    context: dict[str, Any] = {
        "run": address,
        "recipe": run.recipe,
        "state": state,
        "fault": run.fault,
        "summary": summarise(address, run.root),
        "has_report": (run.root / "report" / "index.html").is_file(),
        "colour": {name: f"c{number % 8}" for number, name in enumerate(names)},
        "graphs": [Markup(_graph(run, state, upright=upright)) for upright in (False, True)],
        "panels": _draw_curves(run),
    }
    return {part: render(request, f"run_{part}.html.jinja", **context) for part in _PARTS}


def _graph(run: OpenedRun, state: LiveRun, *, upright: bool) -> str:
    """The graph of learners, with the accuracies so far and, until all is done, the share of each learner's stages that is."""
    recipe, done = run.recipe, defaultdict[str, list[bool]](list)
    for row in state.stages:
        if row.learner:
            variant = recipe.variants.get(row.learner)
            done[variant.of if variant else row.learner].append(row.state == "done")
    shares = {name: sum(each) / len(each) for name, each in done.items()} if state.state != "finished" else {}
    rounds = {name: learner.own_texts.rounds for name, learner in recipe.learners.items() if learner.own_texts}
    return draw_graph([_learner(run, name) for name in recipe.learners], rounds, upright=upright, done=shares)


def _learner(run: OpenedRun, name: str) -> LearnerResult:
    """What the graph shows of a learner."""
    recipe, learner = run.recipe, run.recipe.learners[name]
    records = [run.published.get(run.stage("evaluate", name, seed) or "") for seed in recipe.seeds]
    counts = [record.predictions for record in records if isinstance(record, EvaluateRecord)]
    accuracies = [count["correct"] / sum(count.values()) for count in counts]
    return cast(
        LearnerResult,
        {
            "name": name,
            "model": describe_model(initial_model(recipe, name)),
            "variant_of": recipe.variants[name].of if name in recipe.variants else None,
            "rationales": learner.rationales,
            "imitates": learner.mentor_weights,
            "initial": learner.model.learner,
            "folds": learner.folds,
            "accuracy": sum(accuracies) / len(accuracies) if accuracies else None,
            "on_test": False,
        },
    )


def _draw_curves(run: OpenedRun) -> list[tuple[str, Markup]]:
    """The panels that have data: title and drawing. A line for every training, of all seeds, trials, rounds and folds."""
    colours = {name: number for number, name in enumerate(run.recipe.learners)}
    lines: dict[str, list[Line]] = {panel: [] for panel in _PANELS}
    for planned in run.planned:
        stage = planned.stage
        if stage.kind != "train":
            continue
        file = None if planned.record else run.folder.history(stage)
        growing, record = file is not None, run.published.get(stage.name)
        if file is None and record is not None:
            file = run.root / record.target / "metrics.jsonl"
        rows = _history(file)
        for panel, drawn in lines.items():
            scale = 100.0 if panel == "validation_accuracy" else 1.0
            points = [(row["step"], scale * row[panel]) for row in rows if row.get(panel) is not None]
            name = stage.name.removeprefix("learners/").removesuffix("/train")
            drawn.append(Line(name, colours.get(stage.learner, 0), points, growing))
    drawings = {
        panel: draw_lines(_PANELS[panel], lines[panel], logarithmic=panel != "validation_accuracy") for panel in _PANELS
    }
    return [(_PANELS[panel], drawing) for panel, drawing in drawings.items() if drawing]


def _history(file: Path | None) -> Iterable[Mapping[str, Any]]:
    """The rows of a training's log; those that can be read, of a file that is being written or was torn."""
    try:
        stat = file.stat() if file is not None else None
    except OSError:
        return ()
    return () if stat is None or file is None else _read_history(file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1024)
def _read_history(file: Path, changed: int, size: int) -> tuple[Mapping[str, Any], ...]:
    rows = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append({key: _number(row.get(key)) for key in ("step", *_PANELS)})
    return tuple(row for row in rows if row["step"] is not None)


def _number(value: Any) -> float | None:
    """A value that can be drawn; None for all others."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and (value == 0 or 1e-100 < abs(value) < 1e100) else None


def show_report(request: Request) -> Response:
    """A file of the run's report, which is a page of its own."""
    address, root = run_of(request)
    report, name = root / "report", request.path_params["file"]
    file = report / name
    if "\0" in name or not file.resolve().is_relative_to(report.resolve()) or not file.is_file():
        raise HTTPException(404, f"got {name!r}, which is no file of the report of {address}")
    return FileResponse(file, headers={"Content-Security-Policy": REPORT_POLICY})


def show_recipe(request: Request) -> Response:
    """The recipe of the run, as text."""
    _, root = run_of(request)
    return PlainTextResponse((root / "recipe.yaml").read_bytes().decode(errors="backslashreplace"))


def leave_form(request: Request) -> Response:
    """To the page of a form, from the address that the form is sent to: a browser asks for it when it loads a reply again."""
    return RedirectResponse("rationales" + here(request))


ROUTES = [
    Route("/run/{run:path}/events", stream_events),
    Route("/run/{run:path}/recipe", show_recipe),
    Route("/run/{run:path}/", show_run),
    Route("/run/{run:path}/report/{file:path}", show_report),
    *(Route(f"/run/{{run:path}}/{form}", leave_form) for form in ("overlay", "divergences")),
]
