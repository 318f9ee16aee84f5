"""The report's plots, each as one SVG element in the style of `drawing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mentorkd.reporting.decomposition import PART_NAMES
from mentorkd.reporting.drawing import MARKS, add_legend, drawing, name_rows, new_figure, new_panel, to_svg
from mentorkd.reporting.format import format_seconds, format_setting, mark_on_test, pair_of
from mentorkd.reporting.own_texts import rounds_of
from mentorkd.reporting.round_plots import draw_rounds
from mentorkd.reporting.schema import ComparisonResult, Curve, Decomposition, LearnerResult, Results
from mentorkd.reporting.views import Sweep, shown_learners, sweeps_of, validated_on, validated_on_test, waterfall

MOST_PAIRS = 15
"""Maximum number of pairs in the forest plot; the table has all of them."""

ACCURACY = "Test accuracy (%), 95 % interval"

CURVE_PANELS = {
    "loss": "Training loss per target token",
    "accuracy": "Validation accuracy (%)",
    "compute": "Validation accuracy (%), by compute",
    "divergence": "Divergence from the mentor per target token",
}


def draw_plots(results: Results) -> dict[str, tuple[str, str]]:
    """All plots that have data: file name without suffix -> (title, SVG)."""
    colour = _colours(results["learners"])
    learners = {learner["name"]: learner for learner in results["learners"]}
    plots: dict[str, tuple[str, str | None]] = {}
    if results["comparisons"]:
        plots["forest"] = "Paired differences", draw_forest(results["comparisons"])
    for number, decomposition in enumerate(results["decompositions"]):
        name = "decomposition" + (f"-{number + 1}" if number else "")
        title = "Where the gain comes from" + (f" ({number + 1})" if number else "")
        plots[name] = title, draw_decomposition(decomposition, learners[decomposition["base"]])
    for number, sweep in enumerate(sweeps_of(results)):
        plots["sweep" + (f"-{number + 1}" if number else "")] = f"Sweep of {sweep.key}", draw_sweep(sweep, colour)
    shown = {learner["name"] for learner in shown_learners(results)}
    curves = [curve for curve in results["curves"] if curve["learner"] in shown]
    for panel in CURVE_PANELS:
        plots[f"curves-{panel}"] = (
            _curves_title(panel, curves, results["learners"]),
            draw_curves(curves, results["learners"], panel),
        )
    tints = {name: tint for name, tint in colour.items() if name in shown}
    drawn = [learner for name, learner in learners.items() if name in rounds_of(results)]
    kind = validated_on(drawn, ("Validation", "TEST", "Validation or TEST"))
    plots |= draw_rounds(results["rounds"], tints, {"validation": f"{kind} accuracy of each round (%)"})
    plots["cost"] = "Accuracy against cost", draw_cost(results, colour)
    return {name: (title, svg) for name, (title, svg) in plots.items() if svg is not None}


@drawing()
def draw_forest(comparisons: Sequence[ComparisonResult]) -> str:
    """Paired differences with intervals, one row each; a filled point means that the difference is shown."""
    rows = comparisons[:MOST_PAIRS]
    figure, axes = new_figure(6.6, 0.9 + 0.34 * len(rows))
    axes.axvline(0, color=MARKS["edge"], linewidth=1)
    for place, row in enumerate(rows):
        low, high = (100 * bound for bound in row["interval"])
        shown = row["outcome"] != "unclear"
        colour = MARKS["accent"] if shown else MARKS["muted"]
        axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
        face = colour if shown else MARKS["card"]
        axes.plot([100 * row["difference"]], [place], marker="o", markersize=6.5, color=colour, markerfacecolor=face)
    names = [mark_on_test(" − ".join(pair_of(row)), row["on_test"]) for row in rows]
    name_rows(axes, names, "difference of accuracy in points, 95 % interval")
    return to_svg(figure, "Forest plot of paired differences", "forest")


@drawing()
def draw_curves(curves: Sequence[Curve], learners: Sequence[LearnerResult], panel: str) -> str | None:
    """One panel of `CURVE_PANELS`, a line for each learner and seed; None without data."""
    validated, along = panel in ("accuracy", "compute"), "flops" if panel == "compute" else "step"
    on_test = {learner["name"] for learner in learners if validated and validated_on_test(learner)}
    value, scale = ("accuracy", 100) if validated else (panel, 1)
    lines: list[tuple[str, list[tuple[float, float]]]] = []
    for curve in curves:
        points: Sequence[Any] = curve["validation"] if validated else curve["training"]
        known = [(point.get(along), point[value]) for point in points]  # reports of earlier versions have no FLOPs
        if known := [(place, scale * y) for place, y in known if place is not None and y is not None]:
            lines.append((curve["learner"], known))
    if not lines:
        return None
    title, colour = _curves_title(panel, curves, learners), _colours(learners)
    labels = {name: mark_on_test(name, name in on_test) for name, _ in lines}
    unlabelled = set(labels)
    figure, axes = new_panel(
        title, "FLOPs, with those of mentors, without the teacher's" if panel == "compute" else "optimiser updates"
    )
    several = len(lines) > len(labels)
    for name, known in lines:
        axes.plot(
            *zip(*known, strict=True),
            color=colour[name],
            linewidth=1.3 if several else 1.7,
            alpha=0.75 if several else 1,
            marker="o" if len(known) < 30 else "",
            markersize=2.8,
            label=labels[name] if name in unlabelled else None,
        )
        unlabelled.discard(name)
    if validated:
        axes.set_ylim(0, max(10.0, 1.05 * max(value for _, known in lines for _, value in known)))
    add_legend(figure, labels.values())
    return to_svg(figure, title, f"curves-{panel}")


def _curves_title(panel: str, curves: Sequence[Curve], learners: Sequence[LearnerResult]) -> str:
    """The title of a panel; accuracies on test questions are not called validation."""
    if panel not in ("accuracy", "compute"):
        return CURVE_PANELS[panel]
    drawn = {curve["learner"] for curve in curves if curve["validation"]}
    more = CURVE_PANELS[panel].removeprefix(CURVE_PANELS["accuracy"])
    titles = (
        CURVE_PANELS[panel],
        f"Accuracy (%) on TEST questions{more}",
        f"Accuracy (%): validation, or TEST where marked{more}",
    )
    return validated_on([learner for learner in learners if learner["name"] in drawn], titles)


@drawing()
def draw_decomposition(decomposition: Decomposition, first: LearnerResult) -> str:
    """A waterfall from the accuracy of the base, `first`, to that of the arm with everything, with the interval of every gain."""
    steps, base = waterfall(decomposition), first["accuracy"] or 0.0
    figure, axes = new_figure(6.6, 0.95 + 0.38 * (len(steps) + 1))
    axes.plot([100 * base], [0], marker="o", markersize=6.5, color=MARKS["ink"])
    for place, (part, start) in enumerate(steps, 1):
        total = part["part"] == "total"
        low, high = (100 * (base + start + bound) for bound in part["interval"])
        end = 100 * (base + start + part["gain"])
        colour = MARKS["muted"] if not part["shown"] else MARKS["good"] if part["gain"] > 0 else MARKS["bad"]
        colour = MARKS["accent"] if total else colour
        axes.barh(
            [place], [end - 100 * (base + start)], left=[100 * (base + start)], height=0.5, color=colour, alpha=0.45
        )
        axes.plot([low, high], [place, place], color=colour, linewidth=1.6, solid_capstyle="round")
        axes.plot([end], [place], marker="o", markersize=5, color=colour)
    axes.axvline(100 * base, color=MARKS["edge"], linewidth=1)
    names = [mark_on_test(PART_NAMES[part["part"]], part["on_test"]) for part, _ in steps]
    name_rows(axes, [_name(first), *names], "accuracy in per cent, 95 % interval of each gain")
    return to_svg(figure, "Where the gain comes from", "decomposition")


@drawing()
def draw_sweep(sweep: Sweep, colour: Mapping[str, str]) -> str:
    """Accuracy with interval over the swept value; `colour` maps learners to colours."""
    hollow = any(learner["on_test"] for points in sweep.series.values() for _, learner in points)
    figure, axes = new_panel(ACCURACY + ("; hollow: selected on TEST" if hollow else ""), sweep.key)
    values = list(dict.fromkeys(value for points in sweep.series.values() for value, _ in points))
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    place = dict(zip(values, values if numbers else range(len(values)), strict=True))
    if numbers and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_xscale("log")
    if not numbers or len(values) <= 12:
        axes.set_xticks(list(place.values()), [format_setting(value) for value in values])
        axes.minorticks_off()
    for name, points in sweep.series.items():
        points = sorted(points, key=lambda point: place[point[0]])
        xs, tint = [place[value] for value, _ in points], colour[points[0][1]["name"]]
        axes.plot(xs, [100 * (p["accuracy"] or 0) for _, p in points], color=tint, linewidth=1.6, label=name)
        for x, (_, learner) in zip(xs, points, strict=True):
            low, high = (100 * bound for bound in learner["interval"] or [0, 0])
            axes.plot([x, x], [low, high], color=tint, linewidth=1.3, alpha=0.6)
            face = MARKS["card"] if learner["on_test"] else tint
            axes.plot(
                [x], [100 * (learner["accuracy"] or 0)], marker="o", markersize=4.5, color=tint, markerfacecolor=face
            )
    for learner in sweep.references:
        axes.axhline(
            100 * (learner["accuracy"] or 0),
            color=colour[learner["name"]],
            linewidth=1.2,
            linestyle="--",
            label=_name(learner),
        )
    add_legend(figure, [*sweep.series, *map(_name, sweep.references)])
    return to_svg(figure, f"Accuracy against {sweep.key}", f"sweep-{sweep.key}")


@drawing()
def draw_cost(results: Results, colour: Mapping[str, str]) -> str | None:
    """Accuracy over time: a line from the own time of a learner to its time with dependencies."""
    learners = {learner["name"]: learner for learner in shown_learners(results) if learner["accuracy"] is not None}
    costs = [
        (learners[row["learner"]], row["own_seconds"], row["whole_seconds"])
        for row in results["run"]["spent"]
        if row["learner"] in learners and row["own_seconds"] and row["whole_seconds"]
    ]
    if len(costs) < 2:
        return None
    figure, axes = new_panel(ACCURACY, "time; hollow: own, filled: with dependencies")
    for learner, own, whole in costs:
        tint, y = colour[learner["name"]], 100 * (learner["accuracy"] or 0)
        low, high = (100 * bound for bound in learner["interval"] or [0, 0])
        axes.plot([own, whole], [y, y], color=tint, linewidth=1.1, linestyle=":")
        axes.plot([whole, whole], [low, high], color=tint, linewidth=1.3, alpha=0.6)
        axes.plot([own], [y], marker="o", markersize=4.5, color=tint, markerfacecolor=MARKS["card"])
        axes.plot([whole], [y], marker="o", markersize=5.5, color=tint, label=_name(learner))
    times = [seconds for _, own, whole in costs for seconds in (own, whole)]
    axes.set_xscale("log")
    ticks = [t for t in TIMES if min(times) / 1.6 <= t <= max(times) * 1.6]
    axes.set_xlim(min([*times, *ticks]) / 1.15, max([*times, *ticks]) * 1.15)
    axes.set_xticks(
        ticks, [format_seconds(t).replace(" 0 s", "").replace(" 0 min", "").removesuffix(".0 s") for t in ticks]
    )
    axes.minorticks_off()
    add_legend(figure, [_name(learner) for learner, _, _ in costs])
    return to_svg(figure, "Accuracy against cost", "cost")


TIMES = [1, 3, 10, 30, 60, 180, 600, 1800, 3600, 3 * 3600, 10 * 3600, 30 * 3600, 100 * 3600, 300 * 3600]
"""Ticks of a time axis, in seconds."""


def _colours(learners: Sequence[LearnerResult]) -> dict[str, str]:
    return {learner["name"]: MARKS[f"c{index % 8}"] for index, learner in enumerate(learners)}


def _name(learner: LearnerResult) -> str:
    return mark_on_test(learner["name"], learner["on_test"])
