"""Rows and scales that the page and the Markdown share: what is aggregated for reading, not for computing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mentorkd.reporting.format import format_count, format_range, format_seconds, format_setting, format_updates
from mentorkd.reporting.schema import Decomposition, GainPart, LearnerResult, Results
from mentorkd.reporting.schema_details import Cost, FilterCount

__all__ = [
    "axis",
    "cost_rows",
    "cut_lines",
    "dropped_lines",
    "funnel_notes",
    "funnel_rows",
    "manifest_rows",
    "settings_rows",
    "shared_settings",
    "shown_learners",
    "teacher_rows",
    "validated_on_test",
    "waterfall",
]

# Share of cut answers from which on the report says so in words.
OFTEN_CUT = 0.1


def axis(bounds: Iterable[float]) -> tuple[float, float, list[float]]:
    """Low end, high end and round ticks of an axis of shares that holds 0 and all `bounds`."""
    values = [0.0, *bounds]
    span = max(max(values) - min(values), 0.02)
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if span / s <= 5)
    first, last = math.floor(min(values) / step), math.ceil(max(values) / step)
    last = max(last, first + 1)
    ticks = [round(index * step, 6) for index in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def waterfall(found: Decomposition) -> list[tuple[GainPart, float]]:
    """The parts with the gain at which each begins: one after the other where they add up, else all from the base."""
    adds_up = any(part["part"] == "interaction" for part in found["parts"])
    longer = next((part["gain"] for part in found["parts"] if part["part"] == "more_updates"), 0.0)
    at, steps = 0.0, []
    for part in found["parts"]:
        first = part["part"] in ("total", "more_updates")
        steps.append((part, 0.0 if first else at if adds_up else longer))
        at += 0.0 if part["part"] == "total" else part["gain"]
    return steps


def cut_lines(results: Results) -> list[str]:
    """A sentence on the learners of whose answers so many were cut that accuracy depends on the limit, if there are any."""
    often = [
        f"{100 * learner['cut']:.1f} % of {learner['name']}'s"
        for learner in results["learners"]
        if learner["cut"] is not None and learner["cut"] > OFTEN_CUT
    ]
    if not often:
        return []
    return [
        f"Answers were cut at max_new_tokens and are graded by what stands before the cut: {', '.join(often)}. The limit is "
        "too short, or the models do not learn to stop."
    ]


def settings_rows(results: Results) -> list[dict[str, str]]:
    """One row for each setting in which learners differ, a column for each learner; the first column's heading is empty, as
    no learner's is. Of a sweep's variants the leading one stands for all."""
    learners = shown_learners(results)
    told = _settings(learners)
    if not told:
        return []
    rows = [{"": "updates", **{learner["name"]: format_updates(learner["updates"]) for learner in learners}}]
    rows += [
        {"": name, **{learner["name"]: format_setting(told.get(learner["name"], {}).get(name)) for learner in learners}}
        for name in _setting_names(told)
        if len({repr(settings.get(name)) for settings in told.values()}) > 1
    ]
    return rows


def shared_settings(results: Results) -> dict[str, str]:
    """The settings that all learners have in common, by name."""
    told = _settings(shown_learners(results))
    first = next(iter(told.values()), {})
    return {
        name: format_setting(first.get(name))
        for name in _setting_names(told)
        if len({repr(settings.get(name)) for settings in told.values()}) == 1
    }


def _settings(learners: Sequence[LearnerResult]) -> dict[str, dict[str, Any]]:
    """The settings of every learner that is trained, but for `updates`: what was set, beside what was made."""
    return {
        learner["name"]: {
            **{name: value for name, value in learner["settings"].items() if name != "updates"},
            "kd_weight": learner["kd_weight"],
            "temperature": learner["temperature"],
            **learner["distillation"],
            **{name: _chosen(values) for name, values in learner["searched"].items()},
        }
        for learner in learners
        if learner["settings"] and learner["rationales"]
    }


def _chosen(values: Sequence[Any]) -> Any:
    """What a search chose: one value, or those of the seeds."""
    return values[0] if len(set(values)) == 1 else " / ".join(map(format_setting, values))


def _setting_names(told: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The settings that play a part for anyone."""
    return list(
        dict.fromkeys(name for settings in told.values() for name, value in settings.items() if value is not None)
    )


MOST_VARIANTS = 3


def shown_learners(results: Results) -> list[LearnerResult]:
    """The learners to show one by one: of more than `MOST_VARIANTS` variants of one learner, the leading one alone."""
    sizes = Counter(learner["variant_of"] for learner in results["learners"])
    return [
        learner
        for learner in results["learners"]
        if learner["variant_of"] is None or learner["leads"] or sizes[learner["variant_of"]] <= MOST_VARIANTS
    ]


def validated_on_test(learner: LearnerResult) -> bool:
    """Whether what is called its validation was done on test questions, chosen from or not."""
    return "test" in (learner["select_on"], learner["settings"].get("select_on"))


def funnel_rows(results: Results) -> list[dict[str, str]]:
    """One row for each learner and source, a column for each filter with what it left; ranges where seeds differ."""
    filters = list(dict.fromkeys(row["filter"] for row in results["filters"]))
    groups: dict[tuple[str | None, str], list[FilterCount]] = {}
    for row in results["filters"]:
        groups.setdefault((row["learner"], row["source"]), []).append(row)
    with_learner = any(learner for learner, _ in groups)
    rows = []
    for (learner, source), counts in groups.items():
        start = format_range([row["before"] for row in counts if row["filter"] == counts[0]["filter"]])
        rows.append(
            ({"for": learner or "all"} if with_learner else {})
            | {"written by": source, "rationales": start}
            | {name: format_range([c["after"] for c in counts if c["filter"] == name]) for name in filters}
        )
    return rows


COUNTED = {
    "tokens": "tokens, by the learner's own tokenizer",
    "characters": "characters, four to a token",
}


def funnel_notes(results: Results) -> list[str]:
    """What the counts alone do not say: equations that `steps_check` left alone, and what `length` counted."""
    notes, met = [], [row for row in results["filters"] if row["equations"] is not None]
    for learner, source in dict.fromkeys((row["learner"], row["source"]) for row in met):
        rows = [row for row in met if (row["learner"], row["source"]) == (learner, source)]
        counts = [row["equations"] or 0 for row in rows]
        unread = 100 * sum(row["unread"] or 0 for row in rows) / max(1, sum(counts))
        whose = f"{source}'s rationales" + (f" for {learner}" if learner else "")
        notes.append(f"steps_check, {whose}: {unread:.1f} % of {format_range(counts)} equations unread and left alone.")
    counted = dict.fromkeys(row["counted_in"] for row in results["filters"] if row["counted_in"])
    return notes + [f"length counts {COUNTED.get(unit, unit)}." for unit in counted if unit]


def dropped_lines(results: Results) -> list[str]:
    """`student: 3 rows a seed (target over 128 tokens)`, ranges where seeds differ."""
    groups: dict[tuple[str, str], list[int]] = {}
    for row in results["dropped"]:
        groups.setdefault((row["learner"], row["reason"]), []).append(row["rows"])
    each = " a seed" if len(results["seeds"]) > 1 else ""
    return [f"{learner}: {format_range(counts)} rows{each} ({reason})" for (learner, reason), counts in groups.items()]


def cost_rows(results: Results) -> list[dict[str, str]]:
    """One row for each stage and learner: times and tokens summed over seeds, the highest memory; then the total."""
    on_gpu = any(row["gpu_seconds"] for row in results["run"]["costs"])
    groups: dict[tuple[str, str], list[Cost]] = {}
    for row in results["run"]["costs"]:
        groups.setdefault((row["stage"], row["learner"] or "–"), []).append(row)
    if not groups:
        return []
    return [_cost(stage, learner, rows, on_gpu) for (stage, learner), rows in groups.items()] + [
        _cost("total", "", results["run"]["costs"], on_gpu)
    ]


def manifest_rows(results: Results) -> list[tuple[str, str]]:
    """Name and text of everything the manifest says, nested mappings as `a 1, b 2`."""
    return [
        (name, _flat(value)) for name, value in results["run"]["manifest"].items() if value not in (None, "", {}, [])
    ]


def teacher_rows(account: Mapping[str, Any] | None) -> dict[str, str]:
    """The account of a teacher that was asked, in words; what is not known is left out."""
    if account is None:
        return {}
    lost = f", {format_count(account['lost'])} got no reply" if account["lost"] else ""
    unusable = {word: account[word] for word in ("cut", "refused", "empty", "malformed") if account[word]}
    rows = {
        "questions": f"{format_count(account['questions'])}, {format_count(account['solved'])} of them solved",
        "samples": f"{format_count(account['samples'])}{lost}",
        "right": f"{format_count(account['correct'])} of {format_count(account['replies'])} replies"
        + ("" if account["accuracy"] is None else f" ({100 * account['accuracy']:.1f} %)"),
        "unusable replies": ", ".join(f"{format_count(count)} {word}" for word, count in unusable.items()),
        "requests": f"{format_count(account['requests'])}, and {format_count(account['cached'])} answers from the cache",
        "tokens": f"{format_count(account['input_tokens'])} in, {format_count(account['output_tokens'])} out",
        "cost": _dollars(account["dollars"]),
        "unsure": f"{_dollars(account['unsure_dollars'])} of it, for requests whose outcome was never learnt"
        if account["unsure_dollars"]
        else "",
        "cost of a kept rationale": _dollars(account.get("dollars_per_kept")),
    }
    return {name: text for name, text in rows.items() if text}


def _dollars(dollars: float | None) -> str:
    return "" if dollars is None else f"${dollars:,.2f}" if dollars >= 1 else f"${dollars:.6f}"


def _cost(stage: str, learner: str, rows: Sequence[Cost], on_gpu: bool) -> dict[str, str]:
    seconds = [row["seconds"] for row in rows if row["seconds"] is not None]
    cpu = [row["cpu_seconds"] for row in rows if row["cpu_seconds"] is not None]
    gpu = [row["gpu_seconds"] for row in rows if row["gpu_seconds"] is not None]
    tokens = [row["tokens"] for row in rows if row["tokens"] is not None]
    memory = [row["peak_memory_mb"] for row in rows if row["peak_memory_mb"] is not None]
    return {
        "stage": stage,
        "learner": learner,
        "time": format_seconds(sum(seconds) if seconds else None),
        "processor time": format_seconds(sum(cpu) if cpu else None),
        **({"GPU time": format_seconds(sum(gpu) if gpu else None)} if on_gpu else {}),
        "tokens": format_count(sum(tokens) if tokens else None),
        "peak memory": f"{format_count(max(memory))} MB" if memory else "–",
    }


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_flat(inner)}" for name, inner in value.items())
    return ", ".join(map(_flat, value)) if isinstance(value, list | tuple) else str(value)
