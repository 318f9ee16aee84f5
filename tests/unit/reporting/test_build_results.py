"""The numbers of a report, checked by hand."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from mentorkd.errors import RunError
from mentorkd.records import Question
from mentorkd.reporting.build import MOST_POINTS, build_curve, build_results
from mentorkd.reporting.examples import MOST_DIFFERING, first_wrong_step
from mentorkd.reporting.inputs import LearnerInfo, StageCost
from mentorkd.reporting.roles import is_self_taught
from mentorkd.reporting.rows import pair_rows, settings_rows, shared_settings, summary_rows
from mentorkd.reporting.statistics import format_p, wilson_interval
from mentorkd.reporting.views import control_lines, cut_lines, pair_note
from ten_questions import TEN, marked, ten

VANILLA = LearnerInfo(name="vanilla", model="small", model_key="small", rationales=["teacher"])
STUDENT = LearnerInfo(
    name="student", model="small", model_key="small", rationales=["teacher", "mentor"], mentor_weights={"mentor": 1.0}
)
MENTOR = LearnerInfo(name="mentor", model="large", model_key="large", rationales=["teacher"])


def test_accuracy_no_answer_and_tokens(inputs):
    learner = ten(inputs, {("vanilla", 1): "++++++0---"}, [VANILLA])["learners"][0]
    assert learner["accuracy"] == 0.6
    assert learner["interval"] == pytest.approx([wilson_interval(6, 10).low, wilson_interval(6, 10).high], abs=1e-6)
    assert learner["no_answer"] == 0.1
    assert (learner["cut"], learner["per_seed"][0]["cut"]) == (0.1, 1)
    assert learner["tokens_per_answer"] == 4.5
    assert learner["standard_error"] is None
    assert learner["per_seed"][0]["correct"] == 6


def test_several_seeds_give_a_mean_and_its_error(inputs):
    marks = {("vanilla", 1): "++++++----", ("vanilla", 2): "++++++++--"}
    learner = ten(inputs, marks, [VANILLA], seeds=(1, 2))["learners"][0]
    assert learner["accuracy"] == 0.7
    assert learner["standard_error"] == pytest.approx(math.sqrt(0.02 / 2), abs=1e-6)
    assert [row["accuracy"] for row in learner["per_seed"]] == [0.6, 0.8]


def test_the_headline_is_student_against_vanilla(inputs):
    marks = {("mentor", 1): "++++++++++", ("vanilla", 1): "+---------", ("student", 1): "+++++++++-"}
    results = ten(inputs, marks, [MENTOR, VANILLA, STUDENT])
    row = results["comparisons"][results["headline"]["comparison"]]
    assert (row["a"], row["b"], row["headline"]) == ("student", "vanilla", True)
    assert row["difference"] == 0.8
    assert (row["only_a"], row["only_b"]) == (8, 0)
    assert row["p_value"] == pytest.approx(2 / 2**8)
    assert row["p_adjusted"] == row["p_value"]
    assert row["outcome"] == "a_better"
    assert results["headline"]["statement"].startswith("this student beats this vanilla by 80.0 points")
    assert f"{format_p(2 / 2**8)}, 1 seed, 10 questions" in results["headline"]["statement"]
    assert {(r["a"], r["b"]) for r in results["comparisons"]} == {
        ("student", "vanilla"),
        ("vanilla", "mentor"),
        ("student", "mentor"),
    }
    assert [learner["role"] for learner in results["learners"]] == ["mentor", "baseline", "student"]


def test_a_better_baseline_is_named_as_the_winner(inputs):
    marks = {("vanilla", 1): "++++++++++", ("student", 1): "----------"}
    results = ten(inputs, marks)
    assert results["headline"]["statement"].startswith("this vanilla beats this student by 100.0 points")
    assert results["comparisons"][0]["outcome"] == "b_better"


def test_with_one_seed_the_table_says_what_the_sentence_says(inputs):
    marks = {("vanilla", 1): "+---------", ("student", 1): "+++++++++-"}
    once = ten(inputs, marks)
    [row] = pair_rows(once)
    assert (row["pair"], row["verdict"]) == ("this student − this vanilla", "this student is better")
    assert "two trained models, not two learners" in pair_note(once)
    marks |= {(name, 2): text for (name, _), text in marks.items()}
    twice = ten(inputs, marks, seeds=(1, 2))
    assert pair_rows(twice)[0]["pair"] == "student − vanilla"
    assert "two trained models" not in pair_note(twice)


def test_no_difference_gives_the_minimum_detectable_effect(inputs):
    statement = ten(inputs, {("vanilla", 1): "+++++-----", ("student", 1): "++++++----"})["headline"]["statement"]
    assert statement.startswith("no difference can be shown between this student and this vanilla (+10.0 points")
    assert "minimum detectable effect: 60.0 points" in statement


@pytest.mark.parametrize(
    ("learners", "marks", "reason"),
    [
        ([VANILLA], {("vanilla", 1): "+" * 10}, "has only one learner, vanilla, and none to compare it with"),
        ([MENTOR, STUDENT], {("mentor", 1): "+" * 10, ("student", 1): "-" * 10}, "no student"),
        ([VANILLA, replace(VANILLA, name="twin")], {("vanilla", 1): "+" * 10, ("twin", 1): "-" * 10}, "no student"),
        ([VANILLA, STUDENT], {}, "no learner has been evaluated yet"),
        ([VANILLA, STUDENT], {("vanilla", 1): "+" * 10}, "not both evaluated"),
    ],
)
def test_a_missing_headline_is_explained(inputs, learners, marks, reason):
    headline = ten(inputs, marks, learners)["headline"]
    assert headline["comparison"] is None
    assert reason in headline["statement"]


def test_the_student_with_most_from_its_mentor_comes_first_in_the_headlines(inputs):
    plain = replace(STUDENT, name="plain", mentor_weights={})
    learners = [MENTOR, VANILLA, plain, STUDENT]
    results = ten(inputs, {(info.name, 1): "+-" * 5 for info in learners}, learners)
    assert [(r["a"], r["b"]) for r in results["comparisons"] if r["headline"]] == [
        ("student", "vanilla"),
        ("plain", "vanilla"),
    ]


def test_the_student_is_held_against_self_taught_arms(inputs):
    taught = replace(VANILLA, name="taught", rationales=["teacher", "vanilla"])
    own = replace(VANILLA, name="own", rationales=["teacher", "self"])
    grandchild = replace(VANILLA, name="grandchild", rationales=["teacher", "student"])  # the mentor's, in the end
    longer = replace(VANILLA, name="longer", initial="vanilla")
    chosen = replace(VANILLA, name="chosen", scorers=["vanilla"])
    swept = [replace(taught, name=f"taught@{n}", variant_of="taught", validation=[n / 10]) for n in (1, 2)]
    learners = [MENTOR, VANILLA, *swept, own, longer, chosen, STUDENT, grandchild]
    marks = {(info.name, 1): "+---------" for info in learners} | {("student", 1): "++++++++++", ("other", 1): "+" * 10}
    arms = [*learners[:-1], replace(STUDENT, name="other", mentor_weights={})]
    results = ten(inputs, marks, arms)
    controls = [results["comparisons"][number] for number in results["headline"]["controls"]]
    assert [(row["a"], row["b"]) for row in controls] == [("student", "taught@2"), ("student", "own")]
    assert control_lines(results) == [f"Against self-training: {row['verdict']}" for row in controls]
    on_test = ten(inputs, marks, [replace(info, select_on="test") for info in arms])
    assert all(line.endswith(" (SELECTED ON TEST)") for line in control_lines(on_test))
    assert len(control_lines(on_test)) == 2
    assert [info.name for info in learners if is_self_taught(info, learners)] == ["taught@1", "taught@2", "own"]


def test_every_round_of_self_training_is_a_control_but_for_what_the_student_reads(inputs):
    taught = replace(VANILLA, name="taught", rationales=["teacher", "vanilla"])
    twice = replace(VANILLA, name="twice", rationales=["teacher", "taught"])

    def controls(student):
        learners = [MENTOR, VANILLA, taught, twice, student]
        results = ten(inputs, {(info.name, 1): "+-" * 5 for info in learners}, learners)
        rows = [results["comparisons"][number] for number in results["headline"]["controls"]]
        return [({row["a"], row["b"]} - {"student"}).pop() for row in rows]

    assert set(controls(STUDENT)) == {"taught", "twice"}
    assert controls(replace(STUDENT, rationales=["teacher", "mentor", "taught"])) == ["twice"]


def test_learners_are_compared_on_the_seeds_they_share(inputs):
    marks = {("vanilla", 1): "+" * 10, ("vanilla", 2): "+" * 10, ("student", 2): "-" * 10}
    results = ten(inputs, marks, seeds=(1, 2))
    assert results["comparisons"][0]["seeds"] == [2]
    assert results["warnings"] == ["No predictions of student (seed 1): excluded from all numbers."]


def test_selection_of_epochs_on_test_is_the_first_warning(inputs):
    results = ten(inputs, {("vanilla", 1): "+" * 10}, [replace(VANILLA, select_on="test")])
    assert results["warnings"][0].startswith("EPOCHS WERE CHOSEN ON THE TEST SET for vanilla")
    assert "Weights of vanilla: best epoch, CHOSEN ON THE TEST SET." in results["protocol"]
    assert "TEST" in summary_rows(results)[0]["accuracy % [95 %]"]


def test_selection_on_test_influences_all_descendants(inputs):
    learners = [
        replace(MENTOR, select_on="test"),
        VANILLA,
        replace(STUDENT, name="by labels", rationales=["teacher"], mentor_weights={"mentor": 1.0}),
        replace(STUDENT, name="by text", rationales=["by labels"], mentor_weights={}),
    ]
    warning = ten(inputs, {(info.name, 1): "+" * 10 for info in learners}, learners)["warnings"][0]
    assert "for mentor (select_on: test)" in warning
    assert "also influenced by labels, by text, which learn from them" in warning
    assert "vanilla" not in warning


def test_equal_descriptions_do_not_mean_equal_models(inputs):
    other = replace(STUDENT, model_key="another tokenizer")
    assert other.model == VANILLA.model
    results = ten(inputs, {("vanilla", 1): "+" * 10, ("student", 1): "+" * 10}, [VANILLA, other])
    assert not results["comparisons"][0]["headline"]


def test_different_training_in_the_headline_is_a_warning(inputs):
    vanilla = replace(VANILLA, updates=[1160], settings={"epochs": 20, "learning_rate": 3e-4})
    student = replace(STUDENT, updates=[3780], settings={"epochs": 20, "learning_rate": 1e-3, "batch_size": 8})
    mentor = replace(MENTOR, updates=[7], settings={"epochs": 1})
    marks = {(name, 1): "+-" * 5 for name in ("vanilla", "student", "mentor")}
    assert ten(inputs, marks, [mentor, vanilla, student])["warnings"] == [
        "Arms were not trained for the same number of optimiser updates: vanilla 1,160, student 3,780. This may "
        "explain differences in accuracy as well as their different training data.",
        "student and vanilla were trained or evaluated with different settings: learning_rate 0.001 against 0.0003, batch_size 8 "
        "against –. This may explain their difference in accuracy as well as the mentor.",
    ]
    alike = replace(student, updates=vanilla.updates, settings=vanilla.settings)
    assert ten(inputs, marks, [mentor, vanilla, alike])["warnings"] == []


def test_arms_matched_by_tokens_are_held_to_tokens(inputs):
    vanilla = replace(VANILLA, updates=[900], target_tokens=[10_000])
    student = replace(STUDENT, updates=[700], target_tokens=[10_100])
    marks = {(name, 1): "+-" * 5 for name in ("vanilla", "student")}
    assert ten(inputs, marks, [vanilla, student], match="tokens")["warnings"] == []
    longer = replace(student, target_tokens=[12_000])
    assert "same number of target tokens: vanilla 10,000, student 12,000" in " ".join(
        ten(inputs, marks, [vanilla, longer], match="tokens")["warnings"]
    )
    by_epochs = ten(inputs, marks, [vanilla, student], match="epochs")["warnings"]
    assert "optimiser updates (arms are matched by epochs): vanilla 900, student 700" in " ".join(by_epochs)


def test_an_untrained_model_is_evaluated_like_the_others(inputs):
    untrained = LearnerInfo(name="as it is", model="small", model_key="small", rationales=[])
    marks = {("vanilla", 1): "++++++----", ("student", 1): "+++++++---", ("as it is", 1): "+---------"}
    results = ten(inputs, marks, [VANILLA, STUDENT, untrained])
    row = results["learners"][2]
    assert (row["role"], row["arm"], row["accuracy"]) == ("untrained", False, 0.1)
    assert not any("as it is" in (r["a"], r["b"]) for r in results["comparisons"] if r["headline"])
    assert not any(line.startswith("Weights of as it is") for line in results["protocol"])


def test_a_baseline_with_teacher_rationales_comes_before_one_with_gold_answers(inputs):
    answers = replace(VANILLA, name="answers", rationales=["gold"])
    marks = {(name, 1): "+-" * 5 for name in ("answers", "vanilla", "student")}
    rows = ten(inputs, marks, [answers, VANILLA, STUDENT])["comparisons"]
    assert [(row["a"], row["b"]) for row in rows if row["headline"]] == [("student", "vanilla"), ("student", "answers")]


def test_the_leading_variant_is_selected_on_validation_questions(inputs):
    variants = [
        replace(
            STUDENT, name=f"student@kd_weight={w}", swept={"student.kd_weight": w}, variant_of="student", validation=[v]
        )
        for w, v in ((0.0, 0.5), (0.3, 0.7), (0.9, 0.6))
    ]
    marks = {(info.name, 1): "+++++-----" for info in [VANILLA, *variants]} | {(variants[2].name, 1): "++++++++++"}
    results = ten(inputs, marks, [VANILLA, *variants])
    assert results["comparisons"][0]["a"] == "student@kd_weight=0.3"
    assert "student@kd_weight=0.3 represents the variants of student in the first comparison" in " ".join(
        results["protocol"]
    )


def test_all_arms_contribute_to_the_estimate_of_scatter(inputs):
    """Two arms that agree from seed to seed by luck do not look sure beside arms that do not."""
    rng = random.Random(0)
    steady = "".join(rng.choice("+-") for _ in range(10))
    wild = {1: "++++++++++", 2: "----------"}
    marks = {("vanilla", s): steady for s in (1, 2)} | {("student", s): steady[::-1] for s in (1, 2)}
    alone = ten(inputs, marks, seeds=(1, 2))["comparisons"][0]
    arms = [VANILLA, STUDENT, replace(STUDENT, name="wild"), replace(VANILLA, name="wilder")]
    marks |= {("wild", s): wild[s] for s in (1, 2)} | {("wilder", s): wild[3 - s] for s in (1, 2)}
    beside = next(
        r for r in ten(inputs, marks, arms, seeds=(1, 2))["comparisons"] if r["b"] == "vanilla" and r["a"] == "student"
    )
    assert alone["factor"] == 1 < beside["factor"]


def test_costs_of_a_learner_alone_and_with_its_dependencies(inputs):
    stages = {
        "annotate": StageCost(kind="annotate", seconds=1.0, tokens=5),
        "mentor": StageCost(
            kind="train",
            needs=["annotate"],
            seconds=100.0,
            cpu_seconds=150.0,
            gpu_seconds=100.0,
            tokens=70,
            peak_memory_mb=9,
        ),
        "augment": StageCost(kind="augment", needs=["mentor"], seconds=10.0),
        "train": StageCost(
            kind="train", needs=["annotate", "augment", "mentor"], seconds=50.0, tokens=30, peak_memory_mb=4
        ),
        "evaluate": StageCost(kind="evaluate", needs=["train"], seconds=5.0),
    }
    serving = {("student", 1): ["train", "evaluate"], ("vanilla", 1): ["evaluate"], ("gone", 1): []}
    spent = ten(inputs, {}, stages=stages, serving=serving)["run"]["spent"]
    student = next(row for row in spent if row["learner"] == "student")
    assert (student["own_seconds"], student["whole_seconds"]) == (55.0, 166.0)
    assert (student["own_cpu_seconds"], student["whole_cpu_seconds"]) == (None, 150.0)
    assert (student["own_gpu_seconds"], student["whole_gpu_seconds"]) == (None, 100.0)
    assert (student["own_tokens"], student["whole_tokens"], student["peak_memory_mb"]) == (30, 105, 9)
    assert student["teacher_dollars"] is None


def test_the_first_sentence_with_a_false_equation_is_found():
    text = "Tom has 3 + 4 = 7 apples. He eats 2, so 7 - 2 = 4 are left. Then 4 + 4 = 9.\nThe answer is 9."
    start, end = first_wrong_step(text)
    assert text[start:end] == "He eats 2, so 7 - 2 = 4 are left."
    assert first_wrong_step("3 + 4 = 7, and no more.") is None
    assert first_wrong_step("") is None


def test_settings_that_differ_stand_side_by_side_and_the_others_in_a_line(inputs):
    values = inputs(size=6)
    vanilla = replace(values.learners[1], settings=values.learners[1].settings | {"learning_rate": 1e-3})
    student = replace(values.learners[2], updates=[3780, 3800, 3780])
    results = build_results(replace(values, learners=[values.learners[0], vanilla, student]))
    rows = {row[""]: row for row in settings_rows(results)}
    assert list(rows) == ["updates", "learning_rate", "kd_weight", "temperature", "tau_squared", "divergence"]
    assert rows["updates"]["student"] == "3,780 / 3,800 / 3,780"
    assert rows["learning_rate"] == {"": "learning_rate", "mentor": "0.0003", "vanilla": "0.001", "student": "0.0003"}
    assert rows["kd_weight"] == {"": "kd_weight", "mentor": "–", "vanilla": "–", "student": "0.3"}
    assert rows["tau_squared"]["student"] == "true"
    assert shared_settings(results) == {"epochs": "20", "precision": "float32", "prompt": "{question}"}


def test_predictions_must_match_the_questions(inputs):
    marks = marked("vanilla", "+" * 9, questions=TEN[:9])
    stray = marked("vanilla", "+", questions=[Question.create("another", "A", "test")])
    for predictions, message in [(marks, "0 too many, 1 missing"), (marks + stray, "1 too many, 1 missing")]:
        with pytest.raises(RunError, match=rf"predictions of vanilla \(seed 1\): {message}"):
            ten(inputs, {}, [VANILLA], predictions={("vanilla", 1): predictions})


def test_predictions_are_paired_by_question_not_by_order(inputs):
    predictions = {
        ("vanilla", 1): marked("vanilla", "+++++-----"),
        ("student", 1): marked("student", "+++++-----")[::-1],
    }
    row = ten(inputs, {}, predictions=predictions)["comparisons"][0]
    assert (row["only_a"], row["only_b"]) == (0, 0)


def test_curves_are_thinned_by_averaging_and_keep_validations():
    rows = [{"step": n, "epoch": n / 10, "loss": float(n % 2), "ce": None} for n in range(1000)]
    rows[999] |= {"validation_accuracy": 0.5}
    rows.append({"step": 1000, "loss": float("nan")})
    curve = build_curve("vanilla", 1, rows)
    assert len(curve["training"]) == MOST_POINTS
    assert curve["training"][0] == {"step": 4, "epoch": 0.4, "loss": 0.4, "ce": None, "divergence": None}
    assert curve["training"][-1]["step"] == 999
    assert curve["validation"] == [{"step": 999, "epoch": 99.9, "accuracy": 0.5, "flops": None}]


def test_differing_examples_take_turns_and_are_counted(inputs):
    results = build_results(inputs())
    differing = results["differing"]
    assert differing["total"] > len(differing["entries"]) == MOST_DIFFERING
    assert (
        f"On {differing['total']} of 225 test questions some but not all of mentor, vanilla and student are correct"
        in differing["note"]
    )
    first = [[a["verdict"] == "correct" for a in e["answers"]] for e in differing["entries"][:6]]
    assert len({tuple(kind) for kind in first}) == 6  # all six ways to differ among three come first
    assert all([a["source"] for a in e["answers"]] == ["mentor", "vanilla", "student"] for e in differing["entries"])


def test_a_lone_learner_shows_its_failures(inputs):
    differing = ten(inputs, {("vanilla", 1): "++++++++0-"}, [VANILLA])["differing"]
    assert (differing["title"], differing["total"]) == ("Where vanilla fails", 2)
    assert {e["answers"][0]["verdict"] for e in differing["entries"]} == {"wrong", "no_answer"}


@pytest.mark.parametrize(("marks", "told"), [("00++++++++", True), ("0+++++++++", False)])
def test_many_truncated_answers_give_a_sentence(inputs, marks, told):
    lines = cut_lines(ten(inputs, {("vanilla", 1): marks}))
    assert [
        "only the text before the cut is graded: 20.0 % of vanilla's. Either the limit" in line for line in lines
    ] == [True] * told


def test_the_summary_fits_a_terminal(inputs):
    rows = summary_rows(ten(inputs, {("vanilla", 1): "++++++0---"}))
    assert rows == [
        {
            "learner": "vanilla",
            "accuracy % [95 %]": "60.0 [31.3, 83.2]",
            "no answer %": "10.0",
            "cut %": "10.0",
            "tokens/answer": "4",
        },
        {
            "learner": "student",
            "accuracy % [95 %]": "–",
            "no answer %": "–",
            "cut %": "–",
            "tokens/answer": "–",
        },
    ]
