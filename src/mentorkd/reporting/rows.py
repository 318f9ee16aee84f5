"""The rows of the report's tables: mappings from column heading to text, with the same keys in every row of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mentorkd.recipe.objectives import OBJECTIVES
from mentorkd.reporting.decomposition import PART_NAMES
from mentorkd.reporting.format import (
    format_count,
    format_dollars,
    format_points,
    format_range,
    format_seconds,
    format_setting,
    format_share,
    format_updates,
    learns_from,
    mark_on_test,
    pair_of,
)
from mentorkd.reporting.schema import (
    ContrastResult,
    Decomposition,
    FilterCount,
    LearnerResult,
    Results,
    SampledResult,
    StageCostResult,
)
from mentorkd.reporting.statistics import format_p
from mentorkd.reporting.views import shown_learners, validated_on, validated_on_test

Rows = list[dict[str, str]]


def summary_rows(results: Results) -> Rows:
    """The table of learners for a terminal: fewer columns."""
    wide = ("model", "learns from", "± over seeds")
    return [{name: text for name, text in row.items() if name not in wide} for row in learner_rows(results)]


def learner_rows(results: Results) -> Rows:
    """One row for each learner."""
    return [
        {
            "learner": learner["name"],
            "model": learner["model"],
            "learns from": learns_from(learner),
            "accuracy % [95 %]": mark_on_test(
                format_share(learner["accuracy"], learner["interval"]), learner["on_test"]
            ),
            "± over seeds": format_share(learner["standard_error"]),
            "no answer %": format_share(learner["no_answer"]),
            "cut %": format_share(learner["cut"]),
            "tokens/answer": format_count(learner["tokens_per_answer"]),
        }
        for learner in results["learners"]
    ]


def pair_rows(results: Results) -> Rows:
    """One row for each comparison."""
    better = {"a_better": 0, "b_better": 1}
    unmatched = any(row["unmatched"] for row in results["comparisons"])
    return [
        {
            "pair": mark_on_test(" − ".join(pair_of(row)), row["on_test"]),
            "difference in points [95 %]": format_points(row["difference"], row["interval"]),
            "p": format_p(row["p_adjusted"]),
            "verdict": f"{pair_of(row)[better[row['outcome']]]} is better"
            if row["outcome"] in better
            else "no difference can be shown",
            "only one correct": f"{row['only_a']} : {row['only_b']}",
            "scatter over seeds [95 %]": format_share(row["scatter"], row["scatter_interval"]),
            "detectable": format_detectable(row),
            **({"unequal training": row["unmatched"] or ""} if unmatched else {}),
        }
        for row in results["comparisons"]
    ]


def format_detectable(row: ContrastResult) -> str:
    """`6.0 (5.4 to 11.2)` in points; `none` where the design can detect no difference."""
    if row["detectable"] > 1:
        return "none"
    low, high = row["detectable_interval"] or (row["detectable"], row["detectable"])
    ends = "" if row["detectable_interval"] is None else f" ({format_share(low)} to {format_share(min(1.0, high))})"
    return format_share(row["detectable"]) + ends


def decomposition_rows(decomposition: Decomposition) -> Rows:
    """One row for each part."""
    return [
        {
            "part": mark_on_test(PART_NAMES[part["part"]], part["on_test"]),
            "points [95 %]": format_points(part["gain"], part["interval"]),
            "p": format_p(part["p_adjusted"]),
            "arms": formula(part["arms"]),
            "note": part["note"] or "",
        }
        for part in decomposition["parts"]
    ]


def formula(arms: Mapping[str, int]) -> str:
    """`student − vanilla`."""
    terms = [f"{'+' if weight > 0 else '−'} {name}" for name, weight in arms.items()]
    return " ".join(terms).removeprefix("+ ")


def sweep_rows(results: Results) -> Rows:
    """One row for each variant, a column for each swept key."""
    variants = [learner for learner in results["learners"] if learner["swept"]]
    keys = list(dict.fromkeys(key for learner in variants for key in learner["swept"]))
    order = {name: place for place, name in enumerate(dict.fromkeys(learner["variant_of"] for learner in variants))}
    variants.sort(
        key=lambda learner: (order[learner["variant_of"]], [_rank(learner["swept"].get(key)) for key in keys])
    )
    heading = validated_on(variants, ("validation %", "test % in training", "validation or test %"))
    return [
        {"learner": learner["variant_of"] or learner["name"]}
        | {key: format_setting(learner["swept"].get(key)) for key in keys}
        | {
            "accuracy % [95 %]": mark_on_test(
                format_share(learner["accuracy"], learner["interval"]), learner["on_test"]
            ),
            "± over seeds": format_share(learner["standard_error"]),
            heading: mark_on_test(format_share(learner["validation"]), validated_on_test(learner)),
        }
        for learner in variants
    ]


def _rank(value: Any) -> tuple[bool, float]:
    """Sort key: numbers by size, everything else in the recipe's order."""
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0


def trial_rows(results: Results) -> Rows:
    """One row for each setting tried; learners are marked that the test set reached through their sources."""
    on_test = {learner["name"] for learner in results["learners"] if learner["on_test"]}
    keys = list(dict.fromkeys(key for trial in results["trials"] for key in trial["values"]))
    several = len({trial["seed"] for trial in results["trials"]}) > 1
    return [
        {"learner": mark_on_test(trial["learner"], trial["learner"] in on_test)}
        | ({"seed": str(trial["seed"])} if several else {})
        | {key: format_setting(trial["values"].get(key)) for key in keys}
        | {"validation %": format_share(trial["validation"]), "chosen": "✓" if trial["chosen"] else ""}
        for trial in results["trials"]
    ]


def fairness_rows(results: Results) -> Rows:
    """Length of training and number of validations of each arm, and of sources in headline pairs; no rows for a single arm.

    Variants of one learner with equal numbers share a row.
    """
    validations = {curve["learner"]: len(curve["validation"]) for curve in results["curves"]}
    groups: dict[tuple[Any, ...], list[str]] = {}
    paired = {name for row in results["comparisons"] if row["headline"] for name in (row["a"], row["b"])}
    arms = [one for one in results["learners"] if (one["arm"] or one["name"] in paired) and one["updates"]]
    to_plateau = any(one.get("plateaus") for one in arms)  # reports of earlier versions have none
    for learner in arms:
        many = OBJECTIVES[learner["objective"]].rows_per_rationale
        cells = {
            "rows": format_range(learner["rows"]) + (f" ({many} per rationale)" if many > 1 else ""),
            "updates": format_range(learner["updates"]),
            "passes over the rows": format_range(learner["epochs"], 1),
            "target tokens": format_range(learner["target_tokens"]),
            "validations": format_count(validations.get(learner["name"])),
            **({"plateau at update": _plateau(learner)} if to_plateau else {}),
        }
        groups.setdefault((learner["variant_of"] or learner["name"], *cells.items()), []).append(learner["name"])
    rows = [
        {"arm": names[0] if len(names) == 1 else f"{name}, {len(names)} variants", **dict(cells)}
        for (name, *cells), names in groups.items()
    ]
    return rows if len(arms) > 1 else []


def _plateau(learner: LearnerResult) -> str:
    """`400–460`, with the number of seeds whose limit came first; a dash for a training of a given length."""
    found = [update for update in learner["plateaus"] if update is not None]
    missing = len(learner["plateaus"]) - len(found)
    limits = ([f"{missing} at the limit"] if found else ["none: the limit"]) if missing else []
    return ", ".join([*([format_range(found)] if found else []), *limits]) or "–"


def settings_rows(results: Results) -> Rows:
    """One row for each setting in which learners differ, a column for each learner.

    The heading of the first column is empty, so it cannot equal a learner's name. The leading variant of a sweep represents
    the others.
    """
    learners = shown_learners(results)
    settings = _settings(learners)
    names = [learner["name"] for learner in learners]
    rows = [{"": "updates", **{learner["name"]: format_updates(learner["updates"]) for learner in learners}}]
    rows += [
        {"": key, **{name: format_setting(settings.get(name, {}).get(key)) for name in names}}
        for key, values in _values(settings).items()
        if len(values) > 1
    ]
    return rows if settings else []


def shared_settings(results: Results) -> dict[str, str]:
    """The settings that are equal for all trained learners, by name."""
    settings = _settings(shown_learners(results))
    first = next(iter(settings.values()), {})
    return {key: format_setting(first.get(key)) for key, values in _values(settings).items() if len(values) == 1}


def _settings(learners: Sequence[LearnerResult]) -> dict[str, dict[str, Any]]:
    """The settings of every trained learner without `updates`, whose actual number has a row of its own."""
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
    """The value that a search chose, or the values of the seeds."""
    return values[0] if len(set(values)) == 1 else " / ".join(map(format_setting, values))


def _values(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, set[str]]:
    """The distinct values of every setting that at least one learner uses."""
    keys = dict.fromkeys(key for own in settings.values() for key, value in own.items() if value is not None)
    return {key: {repr(own.get(key)) for own in settings.values()} for key in keys}


def sampled_rows(results: Results) -> Rows:
    """One row for each learner with sampled answers, beside its greedy accuracy."""
    learners = {learner["name"]: learner for learner in results["learners"]}
    rows = []
    for row, shares in zip(results["sampled"], sampled_shares(results["sampled"]), strict=True):
        learner, vote = learners[row["learner"]], row["vote"]
        gain = None if vote is None else vote["gain"]
        cells = {
            "learner": mark_on_test(row["learner"], learner["on_test"]),
            "greedy % [95 %]": format_share(learner["accuracy"], learner["interval"]),
            "vote − greedy in points": "–"
            if vote is None or gain is None
            else format_points(gain, vote["gain_interval"]),
        }
        rows.append(cells | shares)
    return rows


def sampled_shares(sampled: Sequence[SampledResult]) -> Rows:
    """The sampling, vote and pass@k of each row; without columns of the vote where no row has one."""
    numbers = sorted({passed["k"] for row in sampled for passed in row["pass_at_k"]})
    voted = any(row["vote"] for row in sampled)
    rows = []
    for row in sampled:
        vote, passed = row["vote"], {f"pass@{one['k']} % [95 %]": one for one in row["pass_at_k"]}
        cells = {"samples": str(row["samples"]), "temperature": f"{row['temperature']:g}"}
        if voted:
            cells["vote % [95 %]"] = "–" if vote is None else format_share(vote["share"], vote["interval"])
        for column in (f"pass@{k} % [95 %]" for k in numbers):
            one = passed.get(column)
            cells[column] = "–" if one is None else format_share(one["share"], one["interval"])
        if voted:
            cells["ties %"] = format_share(None if vote is None else vote["ties"])
        rows.append({**cells, "no answer %": format_share(row["no_answer"])})
    return rows


def funnel_rows(results: Results) -> Rows:
    """One row for each learner and source, a column for each filter with the rationales left; ranges where seeds differ."""
    filters = list(dict.fromkeys(row["filter"] for row in results["filters"]))
    groups: dict[tuple[str | None, str], list[FilterCount]] = {}
    for row in results["filters"]:
        groups.setdefault((row["learner"], row["source"]), []).append(row)
    with_learner = any(learner for learner, _ in groups)
    rows = []
    for (learner, source), counts in groups.items():
        start = format_range([row["before"] for row in counts if row["filter"] == counts[0]["filter"]])
        rows.append(
            ({"learner": learner or "all"} if with_learner else {})
            | {"source": source, "rationales": start}
            | {name: format_range([c["after"] for c in counts if c["filter"] == name]) for name in filters}
        )
    return rows


def soft_label_rows(results: Results) -> Rows:
    """One row for each student and mentor, mean over seeds weighted by tokens."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for row in results["soft_labels"]:
        groups.setdefault((row["learner"], row["mentor"]), []).append(row)
    return [
        {
            "student": learner,
            "mentor": mentor,
            "mentor NLL": _nats(_token_mean(rows, "mentor_nll")),
            "student NLL": _nats(_token_mean(rows, "student_nll")),
            "mentor entropy": _nats(_token_mean(rows, "mentor_entropy")),
            "student entropy": _nats(_token_mean(rows, "student_entropy")),
            "agreement %": format_share(_token_mean(rows, "agreement")),
            "target tokens": format_count(sum(row["tokens"] for row in rows)),
        }
        for (learner, mentor), rows in groups.items()
    ]


def _token_mean(rows: Sequence[Mapping[str, Any]], field: str) -> float | None:
    tokens = sum(row["tokens"] for row in rows)
    if not tokens or any(row[field] is None for row in rows):
        return None
    return float(sum(row[field] * row["tokens"] for row in rows) / tokens)


def _nats(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def learner_cost_rows(results: Results) -> Rows:
    """One row for each learner: its own cost, and its cost with all its dependencies."""
    shown = {learner["name"]: learner for learner in shown_learners(results)}
    on_gpu = any(cost["whole_gpu_seconds"] for cost in results["run"]["spent"])
    return [
        {
            "learner": cost["learner"],
            "accuracy %": mark_on_test(format_share(learner["accuracy"]), learner["on_test"]),
            "own time": format_seconds(cost["own_seconds"]),
            "time with dependencies": format_seconds(cost["whole_seconds"]),
            "processor time": format_seconds(cost["whole_cpu_seconds"]),
            **({"GPU time": format_seconds(cost["whole_gpu_seconds"])} if on_gpu else {}),
            "tokens": format_count(cost["whole_tokens"]),
            "peak memory": _megabytes(cost["peak_memory_mb"]),
            "teacher": format_dollars(cost["teacher_dollars"]),
        }
        for cost in results["run"]["spent"]
        if (learner := shown.get(cost["learner"]))
    ]


def _megabytes(size: float | None) -> str:
    return "–" if size is None else f"{format_count(size)} MB"


def cost_rows(results: Results) -> Rows:
    """One row for each stage and learner: times and tokens summed over seeds, the peak memory; then the total."""
    costs = results["run"]["costs"]
    on_gpu = any(row["gpu_seconds"] for row in costs)
    groups: dict[tuple[str, str], list[StageCostResult]] = {}
    for row in costs:
        groups.setdefault((row["stage"], row["learner"] or "–"), []).append(row)
    if groups:
        groups["total", ""] = costs
    return [_cost(stage, learner, rows, on_gpu) for (stage, learner), rows in groups.items()]


def _cost(stage: str, learner: str, rows: Sequence[Mapping[str, Any]], on_gpu: bool) -> dict[str, str]:
    def known(field: str) -> list[float]:
        return [row[field] for row in rows if row[field] is not None]

    def total(field: str) -> float | None:
        return sum(known(field)) if known(field) else None

    return {
        "stage": stage,
        "learner": learner,
        "time": format_seconds(total("seconds")),
        "processor time": format_seconds(total("cpu_seconds")),
        **({"GPU time": format_seconds(total("gpu_seconds"))} if on_gpu else {}),
        "tokens": format_count(total("tokens")),
        "peak memory": _megabytes(max(known("peak_memory_mb"), default=None)),
    }


def teacher_rows(account: Mapping[str, Any] | None) -> dict[str, str]:
    """The account of a queried teacher in words, name -> text; unknown values are left out."""
    if account is None:
        return {}
    lost = f", {format_count(account['lost'])} without a reply" if account["lost"] else ""
    share = "" if account["accuracy"] is None else f" ({100 * account['accuracy']:.1f} %)"
    unusable = {word: account[word] for word in ("cut", "refused", "empty", "malformed") if account[word]}
    unsure = format_dollars(account["unsure_dollars"])
    rows = {
        "questions": f"{format_count(account['questions'])}, of which {format_count(account['solved'])} solved",
        "samples": f"{format_count(account['samples'])}{lost}",
        "correct": f"{format_count(account['correct'])} of {format_count(account['replies'])} replies{share}",
        "unusable replies": ", ".join(f"{format_count(count)} {word}" for word, count in unusable.items()),
        "requests": f"{format_count(account['requests'])}, and {format_count(account['cached'])} answers from the cache",
        "tokens": f"{format_count(account['input_tokens'])} in, {format_count(account['output_tokens'])} out",
        "cost": format_dollars(account["dollars"]),
        "uncertain cost": f"{unsure} of it, for requests with unknown outcome" if account["unsure_dollars"] else "",
        "cost per kept rationale": format_dollars(account.get("dollars_per_kept")),
    }
    return {name: text for name, text in rows.items() if text not in ("", "–")}


def manifest_rows(results: Results) -> list[tuple[str, str]]:
    """(name, text) of every entry of the manifest; nested mappings as `a 1, b 2`."""
    return [
        (name, _flat(value)) for name, value in results["run"]["manifest"].items() if value not in (None, "", {}, [])
    ]


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_flat(inner)}" for name, inner in value.items())
    return ", ".join(map(_flat, value)) if isinstance(value, list | tuple) else str(value)
