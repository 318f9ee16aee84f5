"""From results to files, and back from results.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from mentorkd.errors import RunError
from mentorkd.reporting.markdown import render_markdown
from mentorkd.reporting.page import render_page
from mentorkd.reporting.plots import CURVE_PANELS, draw_curves, draw_forest, standalone
from mentorkd.reporting.schema import SCHEMA, Results
from mentorkd.reporting.tables import learners_csv, learners_latex

__all__ = ["read_results", "write_report"]


def write_report(results: Results, folder: Path) -> list[Path]:
    """Write the report into `folder` (made where needed) and return its files, `index.html` first.

    The same results give the same bytes. `folder` is the caller's to publish: files are written in place.
    """
    curves = {
        panel: svg
        for panel in CURVE_PANELS
        if (svg := draw_curves(results["curves"], results["learners"], panel)) is not None
    }
    plots = {f"curves-{panel}": (CURVE_PANELS[panel], svg) for panel, svg in curves.items()}
    if results["comparisons"]:
        plots = {"forest": ("Paired differences", draw_forest(results["comparisons"])), **plots}
    texts = {
        "index.html": render_page(results, curves),
        "report.md": render_markdown(results, {title: f"plots/{name}.svg" for name, (title, _) in plots.items()}),
        "results.json": _json({name: value for name, value in results.items() if name != "run"}),
        "run.json": _json(results["run"]),
        "learners.csv": learners_csv(results),
        "learners.tex": learners_latex(results),
        **{f"plots/{name}.svg": standalone(svg) for name, (_, svg) in plots.items()},
    }
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return [folder / name for name in texts]


def read_results(folder: Path) -> Results:
    """The results that `write_report` wrote into `folder`.

    Raises RunError where a file is missing, is not JSON, or is of another version of the schema.
    """
    parts = {}
    for name in ("results.json", "run.json"):
        try:
            parts[name] = json.loads((folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{folder}: no {name}; expected a report folder; write it with `mentorkd report`") from None
        except json.JSONDecodeError as error:
            raise RunError(f"{folder / name}: not JSON ({error.msg}); write the report anew") from None
    got = parts["results.json"].get("schema")
    if got != SCHEMA:
        raise RunError(f"{folder / 'results.json'}: got schema {got!r}, expected {SCHEMA!r}; write the report anew")
    # Older reports have no account of a teacher, counted no cut answers and told no settings.
    untold: dict[str, Any] = {"cut": None, "updates": [], "settings": {}, "distillation": {}}
    learners = [{**untold, **learner} for learner in parts["results.json"]["learners"]]
    return cast(Results, {**parts["results.json"], "learners": learners, "run": {"teacher": None, **parts["run.json"]}})


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
