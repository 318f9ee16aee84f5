"""Costs of learners, from the stages of a real recipe."""

from __future__ import annotations

from dataclasses import replace

from mentorkd.pipeline.run import Pipeline
from mentorkd.pipeline.run_folder import part_role, role
from mentorkd.recipe.load import load_recipe
from mentorkd.recipe.yaml import dump_yaml
from mentorkd.reporting.build import build_results
from mentorkd.reporting.costs import build_learner_costs, build_round_costs
from mentorkd.reporting.inputs import LearnerInfo, StageCost
from mentorkd.reporting.markdown import render_markdown
from small_recipe import small_recipe, write_small_recipe


def test_the_cost_of_an_arm_includes_its_sources_and_not_the_budget(inputs, tmp_path):
    recipe = load_recipe(write_small_recipe(tmp_path))
    stages = Pipeline(recipe, tmp_path / "run").stages
    assert any(stage.kind == "budget" for stage in stages)
    seconds = {stage.name: 2.0**number for number, stage in enumerate(stages[:-1])}  # a sum tells its terms
    report = stages[-1]
    made = inputs(
        seeds=(1,),
        size=10,
        stages={
            stage.name: StageCost(
                kind=stage.kind,
                needs=stage.needs,
                seconds=seconds[stage.name],
                dollars=0.25 if stage.kind == "annotate" else None,
            )
            for stage in stages[:-1]
        },
        serving={
            (name, 1): [report.inputs[role(kind, name, 1)] for kind in ("train", "evaluate")]
            for name in recipe.learners
        },
    )
    spent = {row["learner"]: row for row in build_learner_costs(made)}

    def whole(learner: str) -> set[str]:
        paid = int(spent[learner]["whole_seconds"])
        return {name for number, name in enumerate(seconds) if paid >> number & 1}

    data = {"prepare", "annotate"}
    assert whole("vanilla") == data | {f"learners/vanilla/seed-1/{kind}" for kind in ("train", "evaluate")}
    mentors = {name for name in seconds if name.startswith("learners/mentor/seed-1/")} - {
        "learners/mentor/seed-1/evaluate"
    }
    assert whole("student") == data | mentors | {f"learners/student/seed-1/{kind}" for kind in ("train", "evaluate")}
    assert {row["teacher_dollars"] for row in spent.values()} == {0.25}
    assert build_results(made)["run"]["spent"] == list(spent.values())


def test_the_cost_of_own_texts_includes_all_rounds_and_folds(inputs, tmp_path):
    settings = small_recipe(tmp_path)
    learners = settings["learners"]
    learners["mentor"]["folds"] = 2
    shared = {"model": learners["student"]["model"], "own_texts": {"rounds": 2}}
    learners["star"] = shared | {"rationales": ["teacher", "self"]}
    learners["own"] = shared | {"rationales": ["teacher", "self"], "soft_labels": "mentor", "kd_weight": {"teacher": 0}}
    path = tmp_path / "own.yaml"
    path.write_text(dump_yaml(settings), encoding="utf-8")
    recipe = load_recipe(path)
    *stages, report = Pipeline(recipe, tmp_path / "run").stages
    seconds = {stage.name: 2.0**number for number, stage in enumerate(stages)}
    folds = {
        name: [part_role(role("train", name, 1), fold) for fold in range(one.folds)]
        for name, one in recipe.learners.items()
    }
    made = inputs(
        seeds=(1,),
        size=10,
        stages={one.name: StageCost(kind=one.kind, needs=one.needs, seconds=seconds[one.name]) for one in stages},
        serving={
            (name, 1): [report.inputs[part] for part in (*roles, role("evaluate", name, 1))]
            for name, roles in folds.items()
        },
    )
    learners = [LearnerInfo(name=name, model="m", model_key="m", rationales=[]) for name in recipe.learners]
    spent = {row["learner"]: row for row in build_learner_costs(replace(made, learners=learners))}

    def paid(learner: str, scope: str) -> set[str]:
        total = int(spent[learner][f"{scope}_seconds"])
        return {name for number, name in enumerate(seconds) if total >> number & 1}

    mentor = {f"learners/mentor/seed-1/fold-{fold}/train" for fold in (0, 1)}
    assert paid("mentor", "own") == {*mentor, "learners/mentor/seed-1/evaluate"}
    shared_stages = {f"learners/star/seed-1/{part}" for part in ("round-0/train", "round-1/augment")}
    star = shared_stages | {
        f"learners/star/seed-1/{part}"
        for part in ("round-1/train", "round-2/augment", "round-2/train", "rounds", "evaluate")
    }
    assert paid("star", "own") == star
    scored = {name for name in seconds if "/score/" in name and ("star.round-1" in name or "own.round-2" in name)}
    assert len(scored) == 4  # two rounds, scored by the models of two folds
    own = {
        f"learners/own/seed-1/{part}"
        for part in ("round-1/train", "round-2/augment", "round-2/train", "rounds", "evaluate")
    }
    assert paid("own", "own") == shared_stages | own | scored
    assert paid("own", "whole") == paid("own", "own") | mentor | {"prepare", "annotate"}
    times = [(row["learner"], row["round"]) for row in build_round_costs(made)]
    assert times == [(name, number) for name in ("star", "own") for number in (0, 1, 2)]
    first, second, third = (row for row in build_round_costs(made) if row["learner"] == "own")
    assert (first["writing_seconds"], first["scoring_seconds"]) == (None, None)
    assert second["writing_seconds"] == seconds["learners/star/seed-1/round-1/augment"]
    assert third["scoring_seconds"] == sum(seconds[name] for name in scored if "own.round-2" in name)
    assert third["training_seconds"] == seconds["learners/own/seed-1/round-2/train"]


def test_time_of_an_accelerator_is_shown_where_one_was_held(inputs):
    def shown(gpu: float) -> str:
        stages = {
            "a": StageCost(kind="train", learner="student", seed=1, seconds=90.0, cpu_seconds=30.0, gpu_seconds=gpu)
        }
        made = inputs(seeds=(1,), size=10, stages=stages, serving={("student", 1): ["a"]})
        return render_markdown(build_results(made), {})

    assert "GPU time" not in shown(0.0)
    text = shown(90.0)
    assert text.count("GPU time") == 2
    assert any("1 min 30 s | 30 s | 1 min 30 s" in line for line in text.splitlines() if line.startswith("| train"))
