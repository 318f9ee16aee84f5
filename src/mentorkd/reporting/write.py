"""From results to the files of a report, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from mentorkd.errors import DamagedError, RunError
from mentorkd.printable import printable
from mentorkd.reporting.drawing import standalone
from mentorkd.reporting.markdown import render_markdown
from mentorkd.reporting.page import render_page
from mentorkd.reporting.plots import draw_plots
from mentorkd.reporting.rows import decomposition_rows, learner_rows, pair_rows, sampled_rows, sweep_rows
from mentorkd.reporting.schema import SCHEMA, Results, RunFacts
from mentorkd.reporting.tables import comparisons_csv, decomposition_csv, latex_table, learners_csv


def write_report(results: Results, folder: Path) -> list[Path]:
    """Write the report into `folder` (created if absent) and return its files, `index.html` first.

    The same results give the same bytes. Files are written in place, without an atomic rename: the caller publishes `folder`.
    """
    plots = draw_plots(results)
    texts = {
        "index.html": render_page(results, {name: svg for name, (_, svg) in plots.items()}),
        "report.md": render_markdown(results, {title: f"plots/{name}.svg" for name, (title, _) in plots.items()}),
        "results.json": _json({name: value for name, value in results.items() if name != "run"}),
        "run.json": _json(results["run"]),
        "learners.csv": learners_csv(results),
        "learners.tex": latex_table(learner_rows(results), 3),
        **_tables(results),
        **{f"plots/{name}.svg": standalone(svg) for name, (_, svg) in plots.items()},
    }
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(printable(text), encoding="utf-8", newline="\n")
    return [folder / name for name in texts]


def _tables(results: Results) -> dict[str, str]:
    """The non-empty tables for papers and spreadsheets."""
    tables: dict[str, str] = {}
    if results["comparisons"]:
        tables |= {"comparisons.csv": comparisons_csv(results), "comparisons.tex": latex_table(pair_rows(results), 1)}
    if results["decompositions"]:
        rows = [
            {"model": each["model"], **row} for each in results["decompositions"] for row in decomposition_rows(each)
        ]
        tables |= {"decomposition.csv": decomposition_csv(results), "decomposition.tex": latex_table(rows, 2)}
    for name, rows in (("sweep", sweep_rows(results)), ("sampled", sampled_rows(results))):
        if rows:
            tables[f"{name}.tex"] = latex_table(rows, 1)
    return tables


def read_results(folder: Path, *, run_optional: bool = False) -> Results:
    """The results in a folder written by `write_report`.

    With `run_optional`, run.json may be missing: costs and environment are then unknown, and `run` has no rows and no entries.
    Raises RunError if a file is missing, DamagedError if it is not JSON, and RunError if it has another version of the schema.
    """
    parts: dict[str, Any] = {}
    for name in ("results.json", "run.json"):
        try:
            parts[name] = json.loads((folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            if name == "run.json" and run_optional:
                parts[name] = _unknown_run()
                continue
            raise RunError(f"{folder}: no {name}; expected a report folder; `mentorkd report` writes one") from None
        except ValueError:
            raise DamagedError(f"{folder / name}: not JSON; write the report again with `mentorkd report`") from None
        if not isinstance(parts[name], dict):
            got = type(parts[name]).__name__
            raise DamagedError(
                f"{folder / name}: got a {got}, expected an object; write the report again with `mentorkd report`"
            )
    got = parts["results.json"].get("schema")
    if got != SCHEMA:
        raise RunError(
            f"{folder / 'results.json'}: got schema {got!r}, expected {SCHEMA!r}; write the report again with `mentorkd report`"
        )
    return cast(Results, {**parts["results.json"], "run": parts["run.json"]})


def _unknown_run() -> RunFacts:
    """Cost and environment of a run whose report has no run.json: no row of any stage or learner."""
    return {
        "costs": [],
        "spent": [],
        "rounds": [],
        "accelerator": None,
        "teacher": None,
        "recipe_digest": None,
        "manifest": {},
    }


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
