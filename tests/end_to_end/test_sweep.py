"""Sweeps: the learners that a key reaches, the names and links of their variants, and a run of a sweep."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mentorkd.errors import Fault, RecipeError
from mentorkd.pipeline.run import Pipeline, open_run
from mentorkd.recipe.graph import arms
from mentorkd.recipe.load import dump_recipe, load_recipe, parse_recipe
from mentorkd.recipe.schema import Recipe
from small_recipe import small_recipe

TEXT = """\
name: demo
task: {name: svamp, train: a, test: b}
teacher: {rationales: c}
learners:
  mentor: {model: big}
  vanilla: {model: small, training: {learning_rate: 5e-4}}
  student: {model: small, rationales: [teacher, mentor], soft_labels: mentor}
  untrained: {model: small, rationales: []}
"""


def parse(sweep: str, *overrides: str, text: str = TEXT) -> Recipe:
    return parse_recipe(f"{text}sweep: {sweep}\n", source="test", base=Path("/"), overrides=overrides)


def values(recipe: Recipe) -> dict[str, Any]:
    return {name: variant.values for name, variant in recipe.variants.items()}


def test_a_key_of_a_learner_reaches_it_and_nobody_before_it() -> None:
    recipe = parse("{student.kd_weight: [0, 0.3]}")
    assert list(recipe.learners) == ["mentor", "vanilla", "student@kd_weight=0", "student@kd_weight=0.3", "untrained"]
    assert values(recipe) == {
        "student@kd_weight=0": {"student.kd_weight": 0},
        "student@kd_weight=0.3": {"student.kd_weight": 0.3},
    }
    assert {variant.of for variant in recipe.variants.values()} == {"student"}
    assert recipe.learners["student@kd_weight=0.3"].kd_weight == 0.3


def test_a_key_of_a_mentor_reaches_those_who_learn_from_it() -> None:
    recipe = parse("{mentor.model: [t5-base, google/t5-large]}")
    student = recipe.learners["student@model=t5-large"]
    assert student.rationales == ["teacher", "mentor@model=t5-large"]
    assert student.soft_labels == "mentor@model=t5-large"
    assert (student.model.name, recipe.learners["mentor@model=t5-large"].model.name) == ("small", "google/t5-large")


def test_variants_start_from_variants_and_keep_their_settings_by_source() -> None:
    by_source = "kd_weight: {mentor: 0.9, self: 0.8}, temperature: {mentor: 2, self: 1}, divergence: {mentor: jsd}"
    own = f"soft_labels: mentor, rationales: [teacher, mentor, self], {by_source}"
    text = TEXT.replace("  untrained:", f"  own: {{model: {{learner: mentor}}, {own}}}\n  untrained:")
    recipe = parse("{mentor.model: [t5-base, t5-large]}", text=text)
    for size in ("base", "large"):
        learner = recipe.learners[f"own@model=t5-{size}"]
        assert learner.model.learner == f"mentor@model=t5-{size}"
        assert learner.kd_weight_of(f"mentor@model=t5-{size}") == 0.9
        assert learner.temperature == {f"mentor@model=t5-{size}": 2, "self": 1}
        assert learner.divergence == {f"mentor@model=t5-{size}": "jsd"}


def test_several_keys_make_all_combinations_of_those_that_reach_a_learner() -> None:
    recipe = parse("{mentor.sampling.samples: [1, 2, 3], student.kd_weight: [0, 1]}")
    counts = Counter(name.partition("@")[0] for name in recipe.learners)
    assert counts == {"mentor": 3, "student": 6, "vanilla": 1, "untrained": 1}
    assert recipe.learners["student@samples=2,kd_weight=1"].soft_labels == "mentor@samples=2"


def test_a_filter_of_a_source_reaches_its_readers_who_have_none_of_their_own() -> None:
    text = TEXT.replace("{model: big}", "{model: big, reads: {teacher: {question_ratio: 1}}}")
    recipe = parse("{teacher.select.question_ratio: [0.1, 0.5]}", text=text)
    assert recipe.learners["mentor"].reads["teacher"].question_ratio == 1
    assert recipe.learners["vanilla@question_ratio=0.1"].reads["teacher"].question_ratio == 0.1
    assert recipe.learners["student@question_ratio=0.5"].soft_labels == "mentor"
    assert recipe.teacher.select.question_ratio == 1


def test_a_setting_for_all_reaches_those_that_have_none_of_their_own_and_are_trained() -> None:
    recipe = parse("{training.learning_rate: [1e-4, 2e-4]}")
    assert set(values(recipe)) == {
        f"{name}@learning_rate={rate}" for name in ("mentor", "student") for rate in ("0.0001", "0.0002")
    }
    assert recipe.learners["vanilla"].training.learning_rate == 5e-4


def test_whom_a_variant_learns_from_decides_what_reaches_it() -> None:
    recipe = parse(
        "{student.soft_labels: [null, mentor], student.rationales: [[teacher]], mentor.target: [arrow, therefore]}"
    )
    assert [name for name in recipe.learners if name.startswith("student")] == [
        "student@soft_labels=none,rationales=teacher",
        "student@soft_labels=mentor,rationales=teacher,target=arrow",
        "student@soft_labels=mentor,rationales=teacher,target=therefore",
    ]


def test_variants_of_a_scorer_score_for_variants_of_their_readers() -> None:
    text = TEXT.replace("{rationales: c}", "{rationales: c, select: {perplexity: {model: scorer, drop: 0.2}}}").replace(
        "  mentor:", "  scorer: {model: j, rationales: [gold]}\n  mentor:"
    )
    recipe = parse("{scorer.training.epochs: [1, 2]}", text=text)
    assert set(values(recipe)) == {
        f"{n}@epochs={e}" for n in ("scorer", "mentor", "vanilla", "student") for e in (1, 2)
    }
    perplexity = recipe.filter_of("vanilla@epochs=2", "teacher").perplexity
    assert perplexity is not None
    assert (perplexity.model, perplexity.drop) == ("scorer@epochs=2", 0.2)
    assert "scorer" not in {name.partition("@")[0] for name in arms(recipe)}


def test_a_variant_reads_the_questions_of_a_variant() -> None:
    student = "student: {model: k, reads: {teacher: {questions: writer, max_per_question: 2}}}\n  "
    text = TEXT.replace("  mentor:", "  writer: {model: j}\n  mentor:").replace(
        "  vanilla:", f"  limited-{student}vanilla:"
    )
    recipe = parse("{writer.training.epochs: [1, 2]}", text=text)
    select = recipe.filter_of("limited-student@epochs=2", "teacher")
    assert (select.questions, select.max_per_question) == ("writer@epochs=2", 2)


def test_names_are_fit_for_folders_and_all_different() -> None:
    recipe = parse(
        "{student.prompt: ['{question}', '{question}?', 'Q: {question} / A:'], vanilla.training.epochs: [1, 2]}"
    )
    names = list(recipe.learners)
    assert len(set(names)) == 7
    assert "student@prompt=question-2" in names
    assert not set("".join(names)) & set('/\\:*?"<>| {}')
    long = parse("{student.prompt: ['%s {question}', '{question}']}" % ("x" * 300))
    assert max(map(len, long.learners)) < 120


def test_two_keys_of_one_name_are_told_apart() -> None:
    recipe = parse("{mentor.training.epochs: [1, 2], student.training.epochs: [3]}")
    assert "student@mentor.training.epochs=1,student.training.epochs=3" in recipe.learners


def test_a_sweep_can_be_given_on_the_command_line() -> None:
    given = parse_recipe(TEXT, source="t", base=Path("/"), overrides=["sweep.student.kd_weight=[0, 0.3]"])
    assert given == parse("{student.kd_weight: [0, 0.3]}")


def test_an_expanded_recipe_loads_back_as_it_is() -> None:
    recipe = parse("{mentor.sampling.samples: [1, 2], student.kd_weight: [0, 1e-5]}")
    text = dump_recipe(recipe)
    assert parse_recipe(text, source="dump", base=Path("/elsewhere")) == recipe
    with pytest.raises(RecipeError, match="is the result of a sweep"):
        parse_recipe(text, source="dump", base=Path("/"), overrides=["sweep={mentor.sampling.samples: [7]}"])


@pytest.mark.parametrize(
    ("sweep", "key", "message"),
    [
        ("{student.kd_wieght: [0]}", "student.kd_wieght", "; did you mean `kd_weight`?"),
        ("{studnt.kd_weight: [0]}", "studnt.kd_weight", "; did you mean `student`?"),
        ("{task.limit_train: [5]}", "task.limit_train", "cannot be swept; expected a learner's key (student.kd_weight)"),
        ("{seeds: [[1], [2]]}", "seeds", "cannot be swept"),
        ("{student.search: [null]}", "student.search", "cannot be swept"),
        ("{student.kd_weight: []}", "student.kd_weight", "empty; expected at least one"),
        ("{student.kd_weight: 3}", "student.kd_weight", "got 3; expected a list"),
        ("{student.kd_weight: [0, 0]}", "student.kd_weight", "a value is given twice"),
        ("{student.soft_labels.mentor: [1, 2]}", "student.soft_labels.mentor", "`student.soft_labels` is `mentor` and no mapping"),
        ("{student.kd_weight: [0, 2]}", "student.kd_weight", "got 2; expected a number of at most 1.0"),
        ("{student.model.nam: [a]}", "student.model.nam", "unknown key; did you mean `name`?"),
        ("{vanilla.kd_weight: [0, 1]}", "vanilla.kd_weight", "has no effect without `soft_labels`"),
        ("{training.epochs: [x]}", "training.epochs", "got 'x'; expected a whole number"),
        ("{teacher.select.correct: [1, 2]}", "teacher.select.correct", "expected true or false"),
    ],
)  # fmt: skip
def test_a_fault_is_told_once_at_the_key_of_the_sweep(sweep: str, key: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(sweep)
    told = [fault for fault in caught.value.faults if fault.key == f"sweep.{key}"]
    assert [message in fault.message for fault in told] == [True]
    assert {fault.line for fault in told} == {9}
    assert told == list(caught.value.faults)


def test_one_source_of_a_value_for_all_is_refused() -> None:
    words = "`student.kd_weight` is `0.7` and no mapping; write the mapping there, with every source"
    scalar = TEXT.replace("soft_labels: mentor}", "soft_labels: mentor, kd_weight: 0.7}")
    for sweep, text in [
        ("{student.kd_weight.mentor: [0.5, 0.9]}", scalar),
        ("{student.kd_weight: [0.7, {teacher: 0.2}], student.kd_weight.mentor: [0.5, 0.9]}", TEXT),
    ]:
        with pytest.raises(RecipeError) as caught:
            parse(sweep, text=text)
        assert [(fault.key, fault.message) for fault in caught.value.faults] == [
            ("sweep.student.kd_weight.mentor", words)
        ]
    mapped = scalar.replace("0.7", "{teacher: 0.7, mentor: 0.1}")
    weights = parse("{student.kd_weight.mentor: [0.5]}", text=mapped).learners["student@mentor=0.5"].kd_weight
    assert weights == {"teacher": 0.7, "mentor": 0.5}
    assert parse("{student.model.dtype: [float32]}").learners["student@dtype=float32"].model.name == "small"


def test_a_fault_that_no_sweep_made_is_told_once_where_it_stands() -> None:
    with pytest.raises(RecipeError) as caught:
        parse("{student.kd_weight: [0, 1]}", text=TEXT.replace("soft_labels: mentor", "soft_labels: mentro"))
    assert list(caught.value.faults) == [
        Fault("learners.student.soft_labels", "there is no learner `mentro`; did you mean `mentor`?", 7)
    ]


def test_a_key_that_every_learner_has_for_itself_is_refused() -> None:
    text = "\n".join(TEXT.splitlines()[:4]) + "\n  vanilla: {model: a, training: {epochs: 3}}\n"
    with pytest.raises(RecipeError, match=r"sweep.training.epochs: reaches no learner"):
        parse("{training.epochs: [1, 2]}", text=text)


def test_people_give_no_names_with_an_at_sign() -> None:
    with pytest.raises(RecipeError, match="`@` is reserved for names that a sweep makes"):
        parse_recipe(TEXT.replace("  vanilla:", "  vanilla@x:"), source="t", base=Path("/"))


def test_a_sweep_of_seven_weights_trains_one_mentor_augments_once_and_scores_once(tmp_path: Path) -> None:
    raw = small_recipe(tmp_path)
    del raw["learners"]["vanilla"]
    raw["learners"]["student"]["rationales"] = ["mentor"]
    raw["training"] |= {"epochs": 1, "select_on": "last"}
    raw["sampling"] |= {"samples": 1, "max_new_tokens": 8}
    raw["sweep"] = {"student.kd_weight": [0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(raw))
    Pipeline(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "run").run()
    stages = json.loads((tmp_path / "run" / "manifest.json").read_text())["stages"]
    made = Counter(
        f"{record['kind']} {(record['learner'] or '').partition('@')[0]}".strip() for record in stages.values()
    )
    assert made == {
        "prepare": 1, "annotate": 1, "train mentor": 1, "evaluate mentor": 1, "augment mentor": 1, "score student": 1,
        "budget": 1, "train student": 7, "evaluate student": 7, "report": 1,
    }  # fmt: skip
    losses = {
        json.loads(
            (tmp_path / f"run/learners/student@kd_weight={w}/seed-1/metrics.jsonl").read_text().splitlines()[-1]
        )["loss"]
        for w in (0, 0.1, 1.0)
    }
    assert len(losses) == 3
    again = open_run(tmp_path / "run")
    assert {planned.state for planned in again.plan()} == {"done"}
    assert again.recipe.variants["student@kd_weight=0.7"].values == {"student.kd_weight": 0.7}
