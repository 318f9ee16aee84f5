"""Costs of learners, from the stages of a real recipe."""

from __future__ import annotations

from mentorkd.pipeline.run import Pipeline
from mentorkd.pipeline.run_folder import role
from mentorkd.recipe.load import load_recipe
from mentorkd.reporting.build import build_results
from mentorkd.reporting.costs import build_learner_costs
from mentorkd.reporting.inputs import StageCost
from mentorkd.reporting.markdown import render_markdown
from small_recipe import write_small_recipe


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
