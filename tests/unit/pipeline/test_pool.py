"""Pools of made-up runs: the results of one run with all the seeds, and every difference that is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from made_up_run import ARMS, MENTOR, STUDENT, VANILLA, make_inputs
from mentorkd.errors import RunError
from mentorkd.pipeline.compare import compare_runs
from mentorkd.pipeline.pool import LISTS, pool_seeds
from mentorkd.pipeline.stages.report import ONE_SEED
from mentorkd.reporting.build import build_results
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs, StageCost
from mentorkd.reporting.schema import Results

SEEDS = (42, 43, 44)
DATA = {"questions": 473, "questions_digest": "a", "rationales": 1536, "rationales_digest": "b"}
SEARCHED = {"learning_rate": [1e-4, 3e-4, 1e-4]}
# Means over the seeds are equal, so the first variant leads; joined from the rounded means of seed 42 and of seeds 43, 44 they are not.
FIRST, SECOND = [36 / 52, 36 / 52, 39 / 52], [39 / 52, 36 / 52, 36 / 52]
SWEPT = [
    replace(
        STUDENT,
        name=f"student@kd_weight={weight}",
        variant_of="student",
        swept={"kd_weight": weight},
        kd_weight=weight,
        validation=validation,
    )
    for weight, validation in ((0.1, FIRST), (0.5, SECOND))
]
ACCOUNT: dict[str, Any] = dict.fromkeys(("questions", "solved", "samples", "replies", "correct"), 24)
ACCOUNT |= dict.fromkeys(("cut", "refused", "empty", "malformed", "lost", "cached", "unsure_dollars"), 0)
ACCOUNT |= {"accuracy": 1.0, "kept": 20, "requests": 30, "input_tokens": 100, "output_tokens": 200}
ACCOUNT |= {"dollars": 2.0, "dollars_per_kept": 0.1}


def of_seeds(inputs: ReportInputs, seeds: tuple[int, ...], **changes: Any) -> ReportInputs:
    """The part of a run's inputs that a run with only these seeds has."""
    places = [SEEDS.index(seed) for seed in seeds]

    def learner(info: LearnerInfo) -> LearnerInfo:
        lists: dict[str, Any] = {
            field: [values[place] for place in places] if (values := getattr(info, field)) else []
            for field in (*LISTS, "validation")
        }
        searched = {key: [values[place] for place in places] for key, values in info.searched.items()}
        return replace(info, **lists, searched=searched)

    def keyed(values: Mapping[tuple[str, int], Any]) -> dict[tuple[str, int], Any]:
        return {key: value for key, value in values.items() if key[1] in seeds}

    rows: dict[str, Any] = {
        part: [row for row in getattr(inputs, part) if row["seed"] in (None, *seeds)]
        for part in ("filters", "dropped", "soft_labels", "trials", "rounds")
    }
    values: dict[str, Any] = {
        **{part: keyed(getattr(inputs, part)) for part in ("predictions", "metrics", "serving")},
        "stages": {name: stage for name, stage in inputs.stages.items() if stage.seed in (None, *seeds)},
        "seeds": seeds,
        "learners": [learner(info) for info in inputs.learners],
    }
    return replace(inputs, **{**rows, **values, **changes})


def made_up(learners: tuple[LearnerInfo, ...] = (MENTOR, VANILLA, STUDENT), **changes: Any) -> ReportInputs:
    trials = [
        {
            "learner": info.name,
            "seed": seed,
            "values": {"learning_rate": rate},
            "validation": rate,
            "chosen": rate > 2e-4,
        }
        for info in learners
        if info.searched
        for seed in SEEDS
        for rate in (1e-4, 3e-4)
    ]
    return make_inputs(learners, SEEDS, 40, **{"training": DATA, "trials": trials, **changes})


def write(inputs: ReportInputs, folder: Path, *, run_json: bool = True) -> Path:
    """The two files of a report that programs read."""
    folder.mkdir()
    results: dict[str, Any] = dict(build_results(inputs))
    run = results.pop("run")
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    if run_json:
        (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return folder


def pool(tmp_path: Path, first: ReportInputs, second: ReportInputs, *, run_json: bool = True) -> Results:
    paths = [write(one, tmp_path / name, run_json=run_json) for name, one in (("a", first), ("b", second))]
    return pool_seeds(paths, "mentorkd compare a b --pool-seeds")


EQUAL = set(Results.__annotations__) - {"run", "differing"}
"""All but costs, and texts of answers, which reports do not have."""


@pytest.mark.parametrize(
    "learners",
    [
        ARMS,
        (replace(MENTOR, searched=SEARCHED), VANILLA, replace(STUDENT, searched=SEARCHED, plateaus=[900, None, 1100])),
        (MENTOR, VANILLA, *SWEPT),
    ],
    ids=["arms", "searched", "swept"],
)
def test_the_pool_has_the_results_of_one_run_with_all_seeds(tmp_path: Path, learners: tuple[LearnerInfo, ...]) -> None:
    whole = made_up(learners)
    single = build_results(whole)
    pooled = pool(tmp_path, of_seeds(whole, (42,)), of_seeds(whole, (43, 44)))
    for key in sorted(EQUAL):
        assert pooled[key] == json.loads(json.dumps(single[key])), key  # type: ignore[literal-required]
    assert pooled["differing"]["total"] == single["differing"]["total"] > 0
    assert min(pooled["comparisons"][0]["only_a"], pooled["comparisons"][0]["only_b"]) > 0
    assert pooled["learners"][0]["standard_error"]


def test_costs_are_those_of_all_runs_and_reused_stages_count_once(tmp_path: Path) -> None:
    whole = made_up(teacher=ACCOUNT)
    pooled = pool(tmp_path, of_seeds(whole, (42,)), of_seeds(whole, (43, 44)))
    costs, expected = ({row["name"]: row for row in one["run"]["costs"]} for one in (pooled, build_results(whole)))
    assert costs == expected  # both runs have the stage `annotate`, with the same cost: it was reused
    assert pooled["run"]["spent"] == json.loads(json.dumps(build_results(whole)["run"]["spent"]))
    assert pooled["run"]["teacher"] == ACCOUNT
    assert pooled["run"]["recipe_digest"] is None
    assert pooled["run"]["manifest"]["versions"] == whole.manifest["versions"]


def test_a_teacher_asked_by_each_run_is_paid_by_each(tmp_path: Path) -> None:
    whole = made_up(teacher=ACCOUNT)
    second = of_seeds(whole, (43, 44), teacher=ACCOUNT | {"kept": 25, "dollars": 3.0, "cached": 4})
    again = StageCost(kind="annotate", seconds=13.0, cpu_seconds=11.0, peak_memory_mb=530.0)
    second = replace(second, stages={**second.stages, "annotate": again})
    pooled = pool(tmp_path, of_seeds(whole, (42,)), second)
    account = pooled["run"]["teacher"]
    assert account is not None
    assert account["dollars"] == 5.0
    assert (account["requests"], account["cached"], account["kept"]) == (60, 4, 25)
    assert (account["replies"], account["dollars_per_kept"]) == (24, 0.2)
    seconds = {row["name"]: row["seconds"] for row in pooled["run"]["costs"] if row["stage"] == "annotate"}
    assert seconds == {"a:annotate": 12.0, "b:annotate": 13.0}
    vanilla = next(row for row in pooled["run"]["spent"] if row["learner"] == "vanilla")
    assert vanilla["whole_seconds"] == pytest.approx(vanilla["own_seconds"] + (12 + 13 + 13) / 3)


def test_unknown_costs_are_absent_and_named(tmp_path: Path) -> None:
    whole = made_up(teacher=ACCOUNT)
    a = write(of_seeds(whole, (42,)), tmp_path / "a", run_json=False)
    b = write(of_seeds(whole, (43, 44)), tmp_path / "b")
    pooled = pool_seeds([a, b], "")
    assert pooled["warnings"][0] == "Costs and environment of a are not known (no run.json); no cost includes them."
    assert {seed for row in pooled["run"]["spent"] for seed in row["stages"]} == {"43", "44"}
    known = {row["learner"]: row for row in build_results(of_seeds(whole, (43, 44)))["run"]["spent"]}
    assert {row["learner"]: row["own_seconds"] for row in pooled["run"]["spent"]} == {
        name: row["own_seconds"] for name, row in known.items()
    }
    (tmp_path / "pool").mkdir()
    for name, part in (("results.json", {**pooled, "run": None}), ("run.json", pooled["run"])):
        (tmp_path / "pool" / name).write_text(json.dumps(part), encoding="utf-8")
    other = write(whole, tmp_path / "other")
    compared = compare_runs([tmp_path / "pool", other], "")
    assert compared["warnings"][0].startswith("Costs and environment of pool (seed 42) are not known")


def test_a_comparison_without_costs_has_no_row_and_no_zero_of_them(tmp_path: Path) -> None:
    validated = {
        (name, seed): [{"step": 3, "validation_accuracy": 0.5}] for name in ("mentor", "vanilla") for seed in SEEDS
    }
    whole = made_up((MENTOR, VANILLA), metrics=validated, serving={}, stages={})
    a, b = write(whole, tmp_path / "a", run_json=False), write(made_up(), tmp_path / "b")
    results = compare_runs([a / "results.json", b], "")
    assert results["warnings"][0] == "Costs and environment of a are not known (no run.json); no cost includes them."
    assert {row["learner"] for row in results["run"]["spent"]} == {"b/mentor", "b/vanilla", "student"}
    points = [
        point for curve in results["curves"] if curve["learner"].startswith("a/") for point in curve["validation"]
    ]
    assert points
    assert all(point["flops"] is None for point in points)


def test_votes_are_left_out_with_a_warning_and_a_single_seed_s_caveat_without(tmp_path: Path) -> None:
    share = {"share": 0.5, "interval": [0.4, 0.6], "per_seed": [0.5]}
    sampled = [{"learner": "student", "seeds": [42], "samples": 1, "pass_at_k": [{**share, "k": 1}], "vote": None}]
    whole = made_up()
    protocol = [*whole.protocol, ONE_SEED]
    first = of_seeds(whole, (42,), sampled=sampled, protocol=protocol)
    pooled = pool(tmp_path, first, of_seeds(whole, (43, 44), protocol=[*protocol, "Optimiser updates: vanilla 5."]))
    assert pooled["sampled"] == []
    assert any(
        line.startswith("Votes and pass@k are not pooled") and line.endswith("of a.") for line in pooled["warnings"]
    )
    assert not any(ONE_SEED in line for line in pooled["protocol"])
    assert "b: Optimiser updates: vanilla 5." in pooled["protocol"]


def test_questions_in_another_order_keep_their_verdicts(tmp_path: Path) -> None:
    whole = made_up()
    turned = {key: rows[::-1] for key, rows in whole.predictions.items()}
    second = of_seeds(replace(whole, predictions=turned, questions=whole.questions[::-1]), (43, 44))
    pooled = pool(tmp_path, of_seeds(whole, (42,)), second)
    for key in ("learners", "comparisons"):
        assert pooled[key] == json.loads(json.dumps(build_results(whole)[key])), key  # type: ignore[literal-required]


def test_matched_operations_are_pooled_with_run_json_and_refused_without(tmp_path: Path) -> None:
    whole = made_up(match="compute")
    pooled = pool(tmp_path, of_seeds(whole, (42,)), of_seeds(whole, (43, 44)))
    assert pooled["warnings"] == build_results(whole)["warnings"]
    assert any("floating-point operations" in line for line in pooled["warnings"])
    (tmp_path / "b" / "run.json").unlink()
    with pytest.raises(RunError, match=r"b has no run\.json; expected one, since its recipe matches operations"):
        pool_seeds([tmp_path / "a", tmp_path / "b"], "")


def changed(**changes: Any) -> dict[str, Any]:
    return {"learners": (MENTOR, VANILLA, replace(STUDENT, **changes))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learners": (MENTOR, VANILLA)}, "the learners of a and b differ: only a has student;"),
        ({"learners": (MENTOR, VANILLA, STUDENT, replace(VANILLA, name="more"))}, "the learners of a and b differ: only b has more;"),
        (changed(model_key="other"), 'student of a and of b differ in model_key ("google/flan-t5-small" and "other");'),
        (changed(kd_weight=0.7), "student of a and of b differ in kd_weight (0.3 and 0.7);"),
        (changed(settings=STUDENT.settings | {"epochs": 9}), "student of a and of b differ in settings.epochs (20 and 9);"),
        (changed(rationales=["teacher"]), 'differ in rationales (["teacher", "mentor"] and ["teacher"]);'),
        (changed(mentor_weights={"vanilla": 1.0}), "differ in mentor_weights.mentor (1.0 and null);"),
        (changed(distillation={"tau_squared": False, "divergence": "forward_kl"}), "differ in distillation.tau_squared"),
        (changed(filters={"mentor": {"correct": False}}), 'differ in filters.mentor (null and {"correct": false});'),
        (changed(searched={"kd_weight": [0.3] * 3}), 'differ in searched ([] and ["kd_weight"]);'),
        ({"match": "epochs"}, 'a and b differ in match ("updates" and "epochs");'),
        ({"training": DATA | {"questions": 9, "questions_digest": "c"}}, "Trained on different questions: a 473, b 9;"),
        ({"training": DATA | {"rationales_digest": "c"}}, "Different rationales of the teacher: a 1,536, b 1,536;"),
        ({"training": None}, "b is a comparison of several runs; expected single runs"),
        ({"seeds": (42,)}, "got seed 42 in a and in b; expected different seeds in each run"),
    ],
)  # fmt: skip
def test_runs_of_another_recipe_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    seeds = change.pop("seeds", (43, 44))
    second = of_seeds(made_up(**change), seeds)
    with pytest.raises(RunError) as refusal:
        pool(tmp_path, of_seeds(made_up(), (42,)), second)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_other_questions_and_validation_are_refused(tmp_path: Path) -> None:
    whole = made_up()
    fewer = make_inputs(seeds=SEEDS, size=39, training=DATA)
    with pytest.raises(RunError, match="1 of 40 only in a "):
        pool(tmp_path, of_seeds(whole, (42,)), of_seeds(fewer, (43,)))
    less = replace(whole, task={**whole.task, "validation": 51})
    write(of_seeds(less, (44,)), tmp_path / "c")
    with pytest.raises(RunError, match=r"a and c differ in task\.validation \(52 and 51\)"):
        pool_seeds([tmp_path / "a", tmp_path / "c"], "")
