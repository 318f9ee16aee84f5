"""index.html: one self-contained file. jinja2 escapes all text; only the SVG of this package is inserted unescaped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from mentorkd.reporting import rows, views
from mentorkd.reporting.decomposition import PART_NAMES
from mentorkd.reporting.drawing import PALETTE
from mentorkd.reporting.format import (
    format_count,
    format_points,
    format_setting,
    format_share,
    pair_of,
    soft_labels_of,
    sources_of,
)
from mentorkd.reporting.graph import draw_graph
from mentorkd.reporting.own_texts import TIME, round_notes, round_tables, round_time_rows, rounds_of
from mentorkd.reporting.plots import MOST_PAIRS
from mentorkd.reporting.schema import ComparisonResult, Decomposition, GainPart, LearnerResult, Results
from mentorkd.reporting.statistics import format_p


def render_page(results: Results, plots: Mapping[str, str]) -> str:
    """The page; `plots` maps a plot's name to its SVG."""
    environment = Environment(
        loader=PackageLoader("mentorkd.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": format_count, "points": format_points, "share": format_share, "p": format_p}
    environment.filters |= {"soft_labels_of": soft_labels_of, "sources_of": sources_of, "setting": format_setting}
    environment.filters |= {"pair": pair_of, "detectable": rows.format_detectable}
    comparison = results["headline"]["comparison"]
    rounds, own_texts = rounds_of(results), round_tables(results)
    variants = [learner for learner in results["learners"] if learner["swept"]]
    return environment.get_template("template.html.jinja").render(
        r=results,
        most_pairs=MOST_PAIRS,
        pair_note=views.pair_note(results),
        palette=PALETTE,
        headline=None if comparison is None else _headline(results["comparisons"][comparison], results["learners"]),
        controls=views.control_lines(results),
        accuracies={
            learner["name"]: _place(learner["accuracy"], learner["interval"], 0.0, 1.0)
            for learner in results["learners"]
            if learner["accuracy"] is not None and learner["interval"] is not None
        },
        cut=views.cut_lines(results),
        learners=views.shown_learners(results),
        variants_on=views.validated_on(variants, ("validation", "TEST", "validation or TEST")),
        forest=_forest(results["comparisons"][:MOST_PAIRS]),
        more_forest=_forest(results["comparisons"][MOST_PAIRS:]),
        breakable=_breakable,
        graph=Markup(draw_graph(results["learners"], rounds)),
        upright=Markup(draw_graph(results["learners"], rounds, upright=True)),
        own_texts=own_texts,
        own_text_notes=round_notes(own_texts),
        round_times=round_time_rows(results),
        round_time_note=TIME,
        own_text_plots=[Markup(svg) for name, svg in plots.items() if name.startswith("own-texts-")],
        curves=[Markup(svg) for name, svg in plots.items() if name.startswith("curves-")],
        gains=[_gain(decomposition, results) for decomposition in results["decompositions"]],
        sampled=rows.sampled_rows(results),
        sampled_note=views.SAMPLED,
        sweep=rows.sweep_rows(results),
        sweep_plots=[Markup(svg) for name, svg in plots.items() if name.startswith("sweep")],
        trials=rows.trial_rows(results),
        fairness=rows.fairness_rows(results),
        soft_labels=rows.soft_label_rows(results),
        soft_label_note=views.SOFT_LABELS,
        learner_costs=rows.learner_cost_rows(results),
        cost_note=views.COSTS,
        cost_plot=Markup(plots["cost"]) if "cost" in plots else None,
        settings=rows.settings_rows(results),
        shared=rows.shared_settings(results),
        funnel=rows.funnel_rows(results),
        funnel_notes=views.funnel_notes(results),
        dropped=views.dropped_lines(results),
        costs=rows.cost_rows(results),
        teacher=rows.teacher_rows(results["run"]["teacher"]),
        manifest=rows.manifest_rows(results),
        colour={learner["name"]: f"var(--c{i % 8})" for i, learner in enumerate(results["learners"])},
    )


def _breakable(name: str) -> Markup:
    """A name with optional line breaks before the values of a variant and after their signs."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?=@)|(?<=[=,/])", name))


def _headline(row: Mapping[str, Any], learners: list[LearnerResult]) -> dict[str, Any]:
    """The headline with the better learner first, so that the difference is a gain."""
    swapped = row["outcome"] == "b_better"
    first, second = "ba" if swapped else "ab"
    accuracy = {learner["name"]: learner["accuracy"] for learner in learners}
    return {
        "row": row,
        "shown": row["outcome"] != "unclear",
        "expected": not swapped,
        "first": row[first],
        "second": row[second],
        "difference": -row["difference"] if swapped else row["difference"],
        "interval": [-end for end in reversed(row["interval"])] if swapped else row["interval"],
        "only_first": row[f"only_{first}"],
        "only_second": row[f"only_{second}"],
        "first_accuracy": accuracy[row[first]],
        "second_accuracy": accuracy[row[second]],
    }


def _forest(comparisons: list[ComparisonResult]) -> dict[str, Any]:
    low, high, ticks = views.axis(bound for row in comparisons for bound in row["interval"])
    return {
        "zero": _percent(0.0, low, high),
        "ticks": [(_percent(tick, low, high), format_points(tick).replace(".0", "")) for tick in ticks],
        "places": [_place(row["difference"], row["interval"], low, high) for row in comparisons],
    }


def _gain(decomposition: Decomposition, results: Results) -> dict[str, Any]:
    """The waterfall of a decomposition, on a scale of gains over the base."""
    steps = views.waterfall(decomposition)
    ends = [start + bound for part, start in steps for bound in (*part["interval"], part["gain"])]
    low, high, ticks = views.axis(ends)
    return {
        "decomposition": decomposition,
        "base": next(learner for learner in results["learners"] if learner["name"] == decomposition["base"]),
        "zero": _percent(0.0, low, high),
        "ticks": [(_percent(tick, low, high), format_points(tick).replace(".0", "")) for tick in ticks],
        "rows": [_step(part, start, low, high) for part, start in steps],
    }


def _step(part: GainPart, start: float, low: float, high: float) -> dict[str, Any]:
    tone = ("good" if part["gain"] > 0 else "bad") if part["shown"] else "unclear"
    left, right = sorted(_percent(start + gain, low, high) for gain in (0.0, part["gain"]))
    first, last = (_percent(start + bound, low, high) for bound in part["interval"])
    return {
        "part": part,
        "name": PART_NAMES[part["part"]],
        "tone": "whole" if part["part"] == "total" and part["shown"] else tone,
        "left": left,
        "width": round(right - left, 3),
        "low": first,
        "span": round(last - first, 3),
        "end": _percent(start + part["gain"], low, high),
        "formula": rows.formula(part["arms"]),
    }


def _place(value: float, bounds: list[float], low: float, high: float) -> dict[str, float]:
    """The positions of a point and its interval on a scale from `low` to `high`, in per cent of the scale."""
    left, right = (_percent(bound, low, high) for bound in bounds)
    return {"dot": _percent(value, low, high), "left": left, "width": round(right - left, 3)}


def _percent(value: float, low: float, high: float) -> float:
    return round(100 * (value - low) / (high - low), 3)
