"""Forest plot and learning curves by matplotlib, as SVG whose text is text and whose colours are CSS variables.

Deterministic: fixed hash salts, no metadata. Inside the page a plot takes the page's colours, light or dark; as a file
of its own `standalone` gives it the same colours by a style sheet inside.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from mentorkd.reporting.schema import ComparisonResult, Curve, LearnerResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CURVE_PANELS", "MOST_PAIRS", "PALETTE", "draw_curves", "draw_forest", "standalone"]

MOST_PAIRS = 15
"""Pairs in the forest plot; the table has all of them."""

CURVE_PANELS = {
    "loss": "Training loss per target token",
    "accuracy": "Validation accuracy (%)",
    "divergence": "Divergence from the mentor per target token",
}

PALETTE = {
    "light": {
        "ink": "#1c2024", "muted": "#626b75", "line": "#e3e5e8", "edge": "#9aa3ad", "card": "#ffffff",
        "paper": "#fbfbfa", "accent": "#2456a6", "good": "#1f7a4d", "bad": "#b3402e",
        "c0": "#7a5aa6", "c1": "#c2702a", "c2": "#2456a6", "c3": "#2b8c78",
        "c4": "#b34a6f", "c5": "#8a7a24", "c6": "#4f6d8a", "c7": "#7d6154",
    },
    "dark": {
        "ink": "#e6e8ea", "muted": "#9aa3ad", "line": "#2c3238", "edge": "#6d7781", "card": "#1b1f23",
        "paper": "#14171a", "accent": "#7fb0f5", "good": "#6cc796", "bad": "#f08a78",
        "c0": "#b59be0", "c1": "#e8a062", "c2": "#7fb0f5", "c3": "#68c7b2",
        "c4": "#e88fb0", "c5": "#cdbd62", "c6": "#9db7d1", "c7": "#c4a596",
    },
}  # fmt: skip
"""The colours of the report by CSS variable, for both schemes; c0 to c7 are the learners'."""

# matplotlib knows no CSS variables: it draws with these marks, which are replaced in its output.
MARKS = {name: f"#0000{index + 1:02x}" for index, name in enumerate(PALETTE["light"])}


def draw_forest(comparisons: Sequence[ComparisonResult]) -> str:
    """Paired differences with intervals, one row each; a filled point marks a shown difference."""
    rows = list(comparisons[:MOST_PAIRS])
    with _drawing("forest"):
        return _forest(rows)


def _forest(rows: Sequence[ComparisonResult]) -> str:
    figure, axes = _figure(6.6, 0.9 + 0.34 * len(rows))
    axes.axvline(0, color=MARKS["edge"], linewidth=1)
    for place, row in enumerate(rows):
        low, high = (100 * bound for bound in row["interval"])
        shown = row["outcome"] != "unclear"
        colour = MARKS["accent"] if shown else MARKS["muted"]
        axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
        face = colour if shown else MARKS["card"]
        axes.plot([100 * row["difference"]], [place], marker="o", markersize=6.5, color=colour, markerfacecolor=face)
    axes.set_yticks(range(len(rows)), [f"{row['a']} − {row['b']}" for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelcolor=MARKS["ink"])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("difference of accuracy in points, 95 % interval")
    return _svg(figure, "Forest plot of paired differences")


def draw_curves(curves: Sequence[Curve], learners: Sequence[LearnerResult], panel: str) -> str | None:
    """One panel of `CURVE_PANELS`, a line for each learner and seed; None where nothing was recorded for it."""
    colour = {learner["name"]: MARKS[f"c{index % 8}"] for index, learner in enumerate(learners)}
    lines = []
    for curve in curves:
        points: Sequence[Any] = curve["validation"] if panel == "accuracy" else curve["training"]
        scale = 100 if panel == "accuracy" else 1
        known = [(point["step"], scale * point[panel]) for point in points if point[panel] is not None]
        if known:
            lines.append((curve["learner"], known))
    if not lines:
        return None
    with _drawing(f"curves-{panel}"):
        return _curves(lines, colour, panel)


def _curves(lines: Sequence[tuple[str, list[tuple[float, float]]]], colour: Mapping[str, str], panel: str) -> str:
    figure, axes = _figure(5.2, 3.3)
    seen: set[str] = set()
    several = len(lines) > len({name for name, _ in lines})
    for name, known in lines:
        axes.plot(
            *zip(*known, strict=True),
            color=colour[name],
            linewidth=1.3 if several else 1.7,
            alpha=0.75 if several else 1,
            marker="o" if len(known) < 30 else "",
            markersize=2.8,
            label=None if name in seen else name,
        )
        seen.add(name)
    axes.grid(axis="y", color=MARKS["line"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("optimiser updates")
    axes.set_title(CURVE_PANELS[panel], loc="left", fontsize=10.5, color=MARKS["ink"])
    if panel == "accuracy":
        axes.set_ylim(0, max(10.0, 1.05 * max(value for _, known in lines for _, value in known)))
    columns = max(1, min(4, int(72 * 5.2 / (28 + 5.2 * max(map(len, seen))))))
    figure.set_figheight(3.0 + 0.2 * math.ceil(len(seen) / columns))
    figure.legend(
        loc="outside lower center", ncols=columns, frameon=False, labelcolor=MARKS["ink"], handlelength=1.2, fontsize=9
    )
    return _svg(figure, CURVE_PANELS[panel])


def standalone(svg: str) -> str:
    """The SVG as a file of its own: with its namespaces and the colours of both schemes."""
    light, dark = ("".join(f"--{name}:{value};" for name, value in PALETTE[scheme].items()) for scheme in PALETTE)
    style = (
        f"<style>svg{{{light}--sans:system-ui,sans-serif;background:var(--paper)}}"
        f"@media (prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    )
    head, rest = svg.split(">", 1)
    spaces = ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    head = re.sub(r' xmlns(:xlink)?="[^"]*"', "", head)
    return f"{head}{spaces}>{style}{rest}\n"


@contextmanager
def _drawing(salt: str) -> Iterator[None]:
    """matplotlib's defaults (not the user's matplotlibrc) with our settings, for as long as a plot is drawn."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": f"mentorkd-{salt}",
                "text.parse_math": False,
                "font.size": 9.5,
                "axes.edgecolor": MARKS["edge"],
                "axes.labelcolor": MARKS["muted"],
                "xtick.color": MARKS["edge"],
                "ytick.color": MARKS["edge"],
                "xtick.labelcolor": MARKS["muted"],
                "ytick.labelcolor": MARKS["muted"],
                "axes.spines.top": False,
                "axes.spines.right": False,
            }
        )
        yield


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure, label: str) -> str:
    """The drawing as one `<svg>` element that can stand in a page: no prolog, no global style, only ids in use."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=metadata, transparent=True)
    text = buffer.getvalue()
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text[text.index("<svg") :], flags=re.DOTALL)
    body = re.sub(r' id="[\w.]+_\d+"', "", body)
    body = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", body)
    for name, mark in MARKS.items():
        body = body.replace(mark, f"var(--{name})")
    body = re.sub(r"\s*\n\s*", " ", body).strip()
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body).groups()  # type: ignore[union-attr]
    head = (
        f'<svg class="plot" role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" style="stroke-linejoin:round;stroke-linecap:butt">'
    )
    return head + body[body.index(">") + 1 :]
