"""Several finished runs side by side: their learners, the tests between them, and the settings that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mentorkd.pipeline.compare import compare_runs
from mentorkd.pipeline.opened import OpenedRun
from mentorkd.reporting.schema import Results
from mentorkd.web.respond import respond
from mentorkd.web.runs import Runs

_MOST_RUNS = 12


def show_comparison(request: Request) -> Response:
    """The page; `run` (repeated) names two or more runs, the reference first."""
    runs: Runs = request.app.state.runs
    names = list(dict.fromkeys(request.query_params.getlist("run")))
    if not 2 <= len(names) <= _MOST_RUNS:
        raise HTTPException(400, f"got {len(names)} runs to compare; tick 2 to {_MOST_RUNS} finished runs")
    folders = tuple(runs.folder(name) for name in names)
    results = _compare(folders, tuple(_version(folder) for folder in folders))
    rows = [
        {
            "run": learner["run"],
            "learner": learner["name"],
            "model": learner["model"],
            "role": learner["role"],
            "accuracy": learner["accuracy"],
            "interval": learner["interval"],
            "validation": learner["validation"],
            "seeds": [seed["seed"] for seed in learner["per_seed"]],
            "updates": learner["updates"],
            "tokens_per_answer": learner["tokens_per_answer"],
        }
        for learner in sorted(results["learners"], key=lambda learner: -(learner["accuracy"] or 0.0))
    ]
    value = {
        "runs": names,
        "headline": results["headline"]["statement"],
        "warnings": results["warnings"],
        "rows": rows,
        "comparisons": results["comparisons"],
        "settings": _differing({name: OpenedRun(folder) for name, folder in zip(names, folders, strict=True)}),
    }
    bounds = [abs(bound) for row in results["comparisons"] for bound in row["interval"]]
    return respond(
        request,
        "compare.html.jinja",
        value,
        colour=_colours(rows),
        questions=len(results["questions"]),
        widest=max(bounds, default=0.0) or 1.0,
    )


@lru_cache(maxsize=16)
def _compare(folders: tuple[Path, ...], versions: tuple[Any, ...]) -> Results:
    return compare_runs(folders, "mentorkd view")


def _version(folder: Path) -> tuple[int, int]:
    """Changes when the report of a run is published again."""
    file = folder / "report" / "results.json"
    stat = (file if file.is_file() else folder).stat()
    return stat.st_mtime_ns, stat.st_size


def _colours(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The colour of each learner is that of its run."""
    runs = list(dict.fromkeys(row["run"] for row in rows))
    return {row["learner"]: f"c{runs.index(row['run']) % 8}" for row in rows}


def _differing(runs: Mapping[str, OpenedRun]) -> list[dict[str, Any]]:
    """The recipe's settings with other values in one run than in another: key, and the value of each run (None: no such key)."""
    flat = {name: _flat(run.recipe.model_dump(mode="json")) for name, run in runs.items()}
    rows = []
    for key in dict.fromkeys(key for settings in flat.values() for key in settings):
        values = {name: settings.get(key) for name, settings in flat.items()}
        if any(value != next(iter(values.values())) for value in values.values()):
            rows.append({"key": key, "values": values})
    return rows


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested mappings as one, with keys `learners.student.kd_weight`."""
    if not isinstance(value, dict) or not value:
        return {key: value}
    parts = {f"{key}.{name}" if key else str(name): each for name, each in value.items()}
    return {path: leaf for name, each in parts.items() for path, leaf in _flat(each, name).items()}


ROUTES = [Route("/compare", show_comparison)]
