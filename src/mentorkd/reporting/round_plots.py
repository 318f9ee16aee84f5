"""Plots of the measures of own texts over rounds, one panel a measure with all learners, in the style of `drawing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from mentorkd.reporting.drawing import add_legend, drawing, new_panel, to_svg
from mentorkd.reporting.schema import RoundResult

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """A measure of rounds: its title, and the field of `RoundResult` or of its `own_texts`."""

    title: str
    field: str
    writer: str = ""
    """The field with the value before the training of the round; empty for a measure with one value a round."""
    scale: float = 1.0


PANELS = {
    "validation": Panel("Validation accuracy of each round (%)", "validation", scale=100),
    "kl": Panel("KL to the mentor on own texts (nats per token)", "trained_kl", "writer_kl"),
    "entropy": Panel("Entropy on own texts (nats per token)", "trained_entropy", "writer_entropy"),
    "overlap": Panel("Overlap with the mentor's ten likeliest tokens (%)", "overlap", scale=100),
    "staleness": Panel("Staleness: KL(writer || trained) (nats per token)", "staleness"),
    "length": Panel("Mean length of own texts (tokens)", "mean_tokens"),
    "unfinished": Panel("Own texts without an end token (%)", "unfinished", scale=100),
}


def draw_rounds(
    rounds: Sequence[RoundResult], colour: Mapping[str, str], titles: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    """The panels that have data: file name without suffix -> (title, SVG).

    Args:
        colour: the colours of the learners to draw.
        titles: titles that replace those of `PANELS`, by panel.
    """
    plots = {}
    for name, panel in PANELS.items():
        title = titles.get(name, panel.title)
        lines = {learner: _segments([row for row in rounds if row["learner"] == learner], panel) for learner in colour}
        if any(lines.values()):
            plots[f"own-texts-{name}"] = title, _draw(name, title, panel, {k: v for k, v in lines.items() if v}, colour)
    return plots


def _segments(rounds: Sequence[RoundResult], panel: Panel) -> dict[int, list[Points]]:
    """By seed, the lines to draw: one over all rounds, or one a round from the writer to the model after the training.

    The writer of round r is the model of round r - 1, and stands there.
    """
    lines: dict[int, list[Points]] = {}
    for row in rounds:
        values: dict[str, Any] = {**row, **(row["own_texts"] or {})}
        value, writer = values.get(panel.field), values.get(panel.writer)
        if value is None:
            continue
        point = (float(row["round"]), panel.scale * value)
        if not panel.writer:
            lines.setdefault(row["seed"], [[]])[0].append(point)
        elif writer is not None:
            lines.setdefault(row["seed"], []).append([(row["round"] - 1.0, panel.scale * writer), point])
    return lines


def _mean(seeds: Sequence[list[Points]]) -> list[Points]:
    """The mean over seeds of every point; seeds have equal rounds."""
    return [
        [(points[0][0], fmean(y for _, y in points)) for points in zip(*segment, strict=True)]
        for segment in zip(*seeds, strict=True)
    ]


@drawing()
def _draw(
    name: str, title: str, panel: Panel, learners: Mapping[str, Mapping[int, list[Points]]], colour: Mapping[str, str]
) -> str:
    """A line for each learner, the mean over its seeds, with thin lines for several seeds."""
    from matplotlib.ticker import MaxNLocator

    what = "round of the model; hollow: writer, filled: after the training" if panel.writer else "round"
    figure, axes = new_panel(title, what)
    top = 0.0
    for learner, seeds in learners.items():
        for segments in seeds.values() if len(seeds) > 1 else ():
            for segment in segments:
                axes.plot(*zip(*segment, strict=True), color=colour[learner], linewidth=0.8, alpha=0.35)
        for number, segment in enumerate(_mean(list(seeds.values()))):
            axes.plot(
                *zip(*segment, strict=True),
                color=colour[learner],
                linewidth=1.6,
                marker="o",
                markersize=4,
                markevery=[len(segment) - 1] if panel.writer else None,
                label=None if number else learner,
            )
            if panel.writer:
                axes.plot(*segment[0], color=colour[learner], marker="o", markersize=4, markerfacecolor="none")
        top = max([top, *(y for segments in seeds.values() for segment in segments for _, y in segment)])
    axes.set_ylim(0, max(1.08 * top, 1e-3 if panel.scale == 1 else 1.0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(figure, learners)
    return to_svg(figure, title, f"own-texts-{name}")
