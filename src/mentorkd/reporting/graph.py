"""The learner graph as SVG: rationales (solid lines), soft labels (dashed) and initial weights (dotted) between learners.

Own texts and folds are no lines, but words in the learner's box.

A small layered layout: a learner is one layer behind its last source, long edges pass through empty slots of the layers in
between, and a few barycentre sweeps place neighbours next to each other. Colours are CSS variables.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from types import MappingProxyType

from mentorkd.records import GOLD, SELF, TEACHER
from mentorkd.reporting.format import format_range, format_share, mark_on_test
from mentorkd.reporting.schema import LearnerResult

WIDTH, HEIGHT, SLOT = 176, 54, 18
ALONG, ACROSS = 72, 20
MARGIN = 6

Edge = tuple[str, str]
"""(source, target)"""

Slot = tuple[str, ...]
"""(name,) for a node; (source, target, layer) for the slot in which a long edge crosses a layer."""

Centres = dict[Slot, tuple[float, float]]
"""The centre of each slot as (along the layers, across the layers)."""


@dataclass(frozen=True)
class Node:
    """A learner, or all variants of a swept learner."""

    name: str
    model: str
    rationales: Sequence[str]
    soft_labels: Sequence[str]
    initial: Sequence[str]
    """The learners from whose weights it starts."""
    caption: str
    """The accuracy, or the number of variants."""
    mark: str
    """`own texts, 4 rounds`, `2 folds`, or nothing."""
    colour: int


def draw_graph(
    learners: Sequence[LearnerResult],
    rounds: Mapping[str, int],
    *,
    upright: bool = False,
    done: Mapping[str, float] = MappingProxyType({}),
) -> str:
    """The SVG element, with layers from left to right, or from top to bottom if `upright` (for narrow screens).

    Args:
        rounds: the rounds with own texts of each learner that has some.
        done: the share of each learner's stages that is done, drawn as a bar in its box; that of a swept learner is of all variants.
    """
    nodes = _nodes(learners, rounds)
    edges = _edges(nodes)
    sources = [name for name in (TEACHER, GOLD) if any(source == name for source, _ in edges)]
    names = sources + [node.name for node in nodes]
    layers, routes = _layers(names, edges)
    centres, size = _place(layers, upright)
    width, height = (size[1], size[0]) if upright else size
    lines = "".join(_line(edge, styles, routes, centres, upright) for edge, styles in edges.items())
    boxes = "".join(_source_box(name, centres[name,], upright) for name in sources)
    boxes += "".join(_box(node, centres[node.name,], upright, done.get(node.name, 0.0)) for node in nodes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="graph{" upright" if upright else ""}" role="img" '
        f'aria-label="Learner graph" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        f'font-family="var(--sans)">{lines}{boxes}</svg>'
    )


def _nodes(learners: Sequence[LearnerResult], rounds: Mapping[str, int]) -> list[Node]:
    """The learners in order; the variants of one learner form one node."""
    group = {learner["name"]: learner["variant_of"] or learner["name"] for learner in learners}
    members: dict[str, list[LearnerResult]] = {}
    for learner in learners:
        members.setdefault(group[learner["name"]], []).append(learner)
    colours = {learner["name"]: index % 8 for index, learner in enumerate(learners)}

    def merged(sources: Iterable[str]) -> list[str]:
        return list(dict.fromkeys(group.get(source, source) for source in sources))

    return [
        Node(
            name,
            variants[0]["model"],
            merged(source for variant in variants for source in variant["rationales"] if source != SELF),
            merged(source for variant in variants for source in variant["imitates"]),
            merged(one["initial"] for one in variants if one["initial"] is not None),
            _caption(variants),
            _mark(variants, rounds),
            colours[variants[0]["name"]],
        )
        for name, variants in members.items()
    ]


def _caption(variants: Sequence[LearnerResult]) -> str:
    if len(variants) > 1:
        return f"{len(variants)} variants"
    accuracy = variants[0]["accuracy"]
    return "" if accuracy is None else mark_on_test(f"{format_share(accuracy)} %", variants[0]["on_test"])


def _mark(variants: Sequence[LearnerResult], rounds: Mapping[str, int]) -> str:
    """What a learner does that is no line: rounds of own texts, and folds."""
    counts = [rounds[one["name"]] for one in variants if one["name"] in rounds]
    folds = [one["folds"] for one in variants if one["folds"] > 1]
    own = f"↻ own texts, {format_range(counts)} round{'' if set(counts) == {1} else 's'}" if counts else ""
    return ", ".join(filter(None, [own, f"{format_range(folds)} folds" if folds else ""]))


def _edges(nodes: Sequence[Node]) -> dict[Edge, list[str]]:
    """The styles of the lines of each edge."""
    edges: dict[Edge, list[str]] = {}
    for node in nodes:
        for source in (*node.rationales, *node.soft_labels, *node.initial):
            drawn = {"solid": source in node.rationales, "dashed": source in node.soft_labels}
            drawn |= {"dotted": source in node.initial}
            edges[source, node.name] = [style for style in drawn if drawn[style]]
    return edges


def _layers(names: Sequence[str], edges: Collection[Edge]) -> tuple[list[list[Slot]], dict[Edge, list[Slot]]]:
    depth = dict.fromkeys(names, 0)
    for _ in names:  # converges, because a recipe has no cycles
        for source, target in edges:
            depth[target] = max(depth[target], depth[source] + 1)
    layers: list[list[Slot]] = [[] for _ in range(max(depth.values()) + 1)]
    for name in names:
        layers[depth[name]].append((name,))
    routes: dict[Edge, list[Slot]] = {}
    for source, target in edges:
        routes[source, target] = [(source,)]
        for layer in range(depth[source] + 1, depth[target]):
            layers[layer].append((source, target, str(layer)))
            routes[source, target].append((source, target, str(layer)))
        routes[source, target].append((target,))
    neighbours: dict[Slot, list[Slot]] = {slot: [] for layer in layers for slot in layer}
    for route in routes.values():
        for left, right in pairwise(route):
            neighbours[left].append(right)
            neighbours[right].append(left)
    for sweep in range(4):
        step = 1 if sweep % 2 == 0 else -1
        for index in range(len(layers))[::step][1:]:
            rank = _ranks(layers[index - step])
            pull = _ranks(layers[index])
            for slot in layers[index]:
                if known := [rank[other] for other in neighbours[slot] if other in rank]:
                    pull[slot] = sum(known) / len(known)
            layers[index].sort(key=pull.__getitem__)
    return layers, routes


def _ranks(layer: Sequence[Slot]) -> dict[Slot, float]:
    """The place of each slot in its layer, from 0 to 1."""
    return {slot: (place + 0.5) / len(layer) for place, slot in enumerate(layer)}


def _place(layers: Sequence[Sequence[Slot]], upright: bool) -> tuple[Centres, tuple[float, float]]:
    """The centres, and the size of the drawing along and across the layers."""
    depth, breadth = (HEIGHT, WIDTH) if upright else (WIDTH, HEIGHT)
    gap_along = ALONG * 0.6 if upright else ALONG
    gap_across = ACROSS * 0.6 if upright else ACROSS
    sizes = [[breadth if len(slot) == 1 else SLOT for slot in layer] for layer in layers]
    spans = [sum(layer) + gap_across * (len(layer) - 1) for layer in sizes]
    total = max(spans)
    centres: Centres = {}
    for index, (layer, widths, span) in enumerate(zip(layers, sizes, spans, strict=True)):
        across = MARGIN + (total - span) / 2
        for slot, width in zip(layer, widths, strict=True):
            centres[slot] = (MARGIN + depth / 2 + index * (depth + gap_along), across + width / 2)
            across += width + gap_across
    return centres, (2 * MARGIN + len(layers) * (depth + gap_along) - gap_along, 2 * MARGIN + total)


def _line(edge: Edge, styles: Sequence[str], routes: dict[Edge, list[Slot]], centres: Centres, upright: bool) -> str:
    half = (HEIGHT if upright else WIDTH) / 2
    out = sorted((e for e in routes if e[0] == edge[0]), key=lambda e: centres[routes[e][1]][1])
    into = sorted((e for e in routes if e[1] == edge[1]), key=lambda e: centres[routes[e][-2]][1])
    start, *bends, end = [centres[slot] for slot in routes[edge]]
    parts = []
    for index, style in enumerate(styles):
        aside = 9 * (index - (len(styles) - 1) / 2)
        points = [(start[0] + half, start[1] + _spread(out, edge) + aside)]
        for along, across in bends:
            points += [(along - half, across + aside), (along + half, across + aside)]
        points.append((end[0] - half - 1, end[1] + _spread(into, edge) + aside))
        parts.append(_curve(points, style, upright))
    return "".join(parts)


def _spread(edges: Sequence[Edge], edge: Edge) -> float:
    return 13 * (edges.index(edge) - (len(edges) - 1) / 2) if len(edges) <= 4 else 0


def _curve(points: Sequence[tuple[float, float]], style: str, upright: bool) -> str:
    def at(along: float, across: float) -> str:
        return f"{across:g} {along:g}" if upright else f"{along:g} {across:g}"

    tip = points[-1]
    points = [*points[:-1], (tip[0] - 6, tip[1])]
    path = f"M{at(*points[0])}"
    for (a0, c0), (a1, c1) in pairwise(points):
        middle = (a0 + a1) / 2
        path += f"C{at(middle, c0)} {at(middle, c1)} {at(a1, c1)}" if c0 != c1 else f"L{at(a1, c1)}"
    dashes = {"dashed": ' stroke-dasharray="5 4"', "dotted": ' stroke-dasharray="1.5 3.5"'}.get(style, "")
    colour = "var(--accent)" if style == "dashed" else "var(--edge)"
    head = f"M{at(*tip)}L{at(tip[0] - 8, tip[1] - 4)}L{at(tip[0] - 8, tip[1] + 4)}Z"
    return (
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dashes}/><path d="{head}" fill="{colour}"/>'
    )


def _source_box(name: str, centre: tuple[float, float], upright: bool) -> str:
    x, y = _corner(centre, upright)
    return (
        f'<g><rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="8" fill="none" stroke="var(--edge)" '
        f'stroke-dasharray="2 3"/>{_text(x + WIDTH / 2, y + HEIGHT / 2 + 5, name, "middle", 14, 600)}</g>'
    )


def _box(node: Node, centre: tuple[float, float], upright: bool, done: float) -> str:
    x, y = _corner(centre, upright)
    model = node.model.rsplit("/", 1)[-1]
    name_at, model_at = (18, 33) if node.mark else (23, 41)
    return (
        f"<g><title>{escape(node.name)}: {escape(node.model)}</title>"
        f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="8" fill="var(--card)" stroke="var(--line)"/>'
        f'<rect x="{x:g}" y="{y + 10:g}" width="4" height="{HEIGHT - 20}" rx="2" fill="var(--c{node.colour})"/>'
        + _text(x + 14, y + name_at, _clip(node.name, 19), "start", 14, 600)
        + _text(x + 14, y + model_at, _clip(model, max(6, 22 - len(node.caption))), "start", 11.5, 400, "var(--muted)")
        + _text(x + WIDTH - 12, y + model_at, node.caption, "end", 13 if node.caption.endswith("%") else 11.5, 600)
        + (_text(x + 14, y + HEIGHT - 7, node.mark, "start", 10.5, 400) if node.mark else "")
        + _bar(x + 14, y + HEIGHT - 5, done, node.colour)
        + "</g>"
    )


def _bar(x: float, y: float, share: float, colour: int) -> str:
    width = share * (WIDTH - 26)
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="2" fill="var(--c{colour})"/>' if share else ""


def _corner(centre: tuple[float, float], upright: bool) -> tuple[float, float]:
    along, across = centre
    return (across - WIDTH / 2, along - HEIGHT / 2) if upright else (along - WIDTH / 2, across - HEIGHT / 2)


def _clip(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"


def _text(x: float, y: float, text: str, anchor: str, size: float, weight: int, fill: str = "var(--ink)") -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size:g}" font-weight="{weight}" '
        f'fill="{fill}">{escape(text)}</text>'
    )
