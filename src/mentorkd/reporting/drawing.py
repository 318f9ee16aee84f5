"""Plots as SVG by matplotlib: text stays text, and colours are CSS variables.

Deterministic: fixed hash salts, no metadata. Inside the page a plot uses the page's colours, light or dark. `standalone`
embeds a style sheet with the same colours for a separate file.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
"""Colours of the report by CSS variable, for both schemes; c0 to c7 are the colours of learners."""

# matplotlib does not support CSS variables: it draws with these placeholder colours, which `to_svg` replaces.
MARKS = {name: f"#0000{index + 1:02x}" for index, name in enumerate(PALETTE["light"])}


def standalone(svg: str) -> str:
    """The SVG as a separate file, with namespaces and the colours of both schemes."""
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
def drawing() -> Iterator[None]:
    """Context, or decorator, with matplotlib's defaults (not the user's matplotlibrc) and the report's settings."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "svg.fonttype": "none",
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


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of this size in inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def new_panel(title: str, xlabel: str) -> tuple[Figure, Axes]:
    """A small figure with a title and a horizontal grid, and its axes."""
    figure, axes = new_figure(5.2, 3.3)
    axes.grid(axis="y", color=MARKS["line"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(xlabel)
    axes.set_title(title, loc="left", fontsize=10.5, color=MARKS["ink"])
    return figure, axes


def name_rows(axes: Axes, names: Sequence[str], xlabel: str) -> None:
    """Name the rows of a plot whose y is the number of the row, counted from the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelcolor=MARKS["ink"])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(xlabel)


def add_legend(figure: Figure, names: Collection[str]) -> None:
    """A legend below the axes, in as many columns as fit; its rows add to the height of the figure."""
    columns = max(1, min(4, int(72 * 5.2 / (28 + 5.2 * max(map(len, names))))))
    figure.set_figheight(3.0 + 0.2 * math.ceil(len(names) / columns))
    figure.legend(
        loc="outside lower center", ncols=columns, frameon=False, labelcolor=MARKS["ink"], handlelength=1.2, fontsize=9
    )


def to_svg(figure: Figure, label: str, salt: str) -> str:
    """The figure as one `<svg>` element for use inside a page: no prolog, no global style, no unused ids.

    Ids that are used are hashed with `salt`, so that the plots of a page share none.
    """
    import matplotlib as mpl

    mpl.rcParams["svg.hashsalt"] = f"mentorkd-{salt}"
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
