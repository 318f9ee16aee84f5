"""Recipes from text: merging, overrides, paths, and every fault with its key, words and line."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mentorkd.errors import Fault, RecipeError
from mentorkd.quickstart.task import MODELS
from mentorkd.recipe.checks import combined_faults
from mentorkd.recipe.graph import learning_order, links_of, writers
from mentorkd.recipe.load import data_path, dump_recipe, load_recipe, missing_files, parse_recipe, recipe_schema
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.teacher import OpenAITeacherConfig, RecordedTeacherConfig
from mentorkd.recipe.yaml import set_override

GOOD = """\
name: demo
task:
  name: svamp
  train: train.json
  test: test.json
teacher: {rationales: rationales.json}
training: {learning_rate: 2e-4, epochs: 3}
sampling: {samples: 2}
learners:
  student:
    model: google/flan-t5-small
    rationales: [teacher, mentor]
    soft_labels: mentor
    kd_weight: 0.5
  mentor: {model: google/flan-t5-large}
  vanilla:
    model: {name: google/flan-t5-small, revision: main}
    training: {epochs: 5}
seeds: [1, 2]
"""
BASE = Path("/recipes")


def parse(text: str, *overrides: str, base: Path = BASE) -> Recipe:
    return parse_recipe(text, source="test", overrides=overrides, base=base)


def faults(text: str, *overrides: str) -> list[Fault]:
    with pytest.raises(RecipeError) as caught:
        parse(text, *overrides)
    return list(caught.value.faults)


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_recipe_level_defaults_reach_every_learner_and_yield_to_its_own() -> None:
    recipe = parse(GOOD)
    assert {name: learner.training.epochs for name, learner in recipe.learners.items()} == {
        "student": 3,
        "mentor": 3,
        "vanilla": 5,
    }
    assert {learner.training.learning_rate for learner in recipe.learners.values()} == {2e-4}
    assert {learner.sampling.samples for learner in recipe.learners.values()} == {2}


def test_a_known_task_brings_its_answer_kind() -> None:
    assert parse(GOOD).task.answer == "number"
    assert parse(GOOD, "task.answer=text").task.answer == "text"


def test_exponents_without_a_point_are_numbers_even_where_any_value_is_allowed() -> None:
    recipe = parse(
        changed(
            "{model: google/flan-t5-large}",
            """
    model:
      from_config: {model_type: t5, layer_norm_epsilon: 1e-6, d_model: 64}
      tokenizer: google/flan-t5-small""",
        )
    )
    assert recipe.learners["mentor"].model.from_config == {
        "model_type": "t5",
        "layer_norm_epsilon": 1e-6,
        "d_model": 64,
    }


@pytest.mark.parametrize("overrides", [(), ("task.choices=[A, B]", "task.name='1e5'", "task.answer=choice")])
def test_the_dump_loads_back_to_an_equal_recipe(overrides: tuple[str, ...]) -> None:
    recipe = parse(GOOD, *overrides)
    text = dump_recipe(recipe)
    assert parse(text, base=Path("/elsewhere")) == recipe
    assert dump_recipe(parse(text)) == text


@settings(deadline=None)  # a busy machine is no fault
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=30))
def test_any_prompt_survives_the_dump(text: str) -> None:
    raw = parse(GOOD).model_dump()
    raw["learners"]["student"]["prompt"] = "{question}" + text
    recipe = Recipe.model_validate(raw)
    assert parse(dump_recipe(recipe)) == recipe


@pytest.mark.parametrize("store", ["hidden", "top_k", "online"])
def test_soft_label_settings_survive_the_dump(store: str) -> None:
    k = ["learners.student.top_k=8"] if store == "top_k" else []
    recipe = parse(GOOD, f"learners.student.soft_label_store={store}", "learners.student.temperature=2", *k)
    assert parse(dump_recipe(recipe)) == recipe


def test_the_graph() -> None:
    recipe = parse(GOOD, "learners.vanilla.rationales=[mentor]", "learners.mentor.rationales=[teacher]")
    assert learning_order(recipe) == ["mentor", "student", "vanilla"]
    assert writers(recipe) == {"mentor"}
    assert {name: links.soft_labels for name, links in links_of(recipe).items() if links.soft_labels} == {
        "student": ["mentor"]
    }
    assert {name for links in links_of(recipe).values() for name in links.learners} == {"mentor"}
    chain = parse(GOOD, "learners.mentor.rationales=[vanilla]", "learners.student.soft_labels=vanilla")
    assert learning_order(chain) == ["vanilla", "mentor", "student"]
    assert (writers(chain), links_of(chain)["student"].soft_labels) == ({"mentor", "vanilla"}, ["vanilla"])


def test_order_follows_the_recipe_where_it_may() -> None:
    recipe = parse(GOOD, "learners.student.rationales=[teacher]", "learners.student.soft_labels=vanilla")
    assert learning_order(recipe) == ["mentor", "vanilla", "student"]


def test_learning_order_refuses_a_cycle_in_a_recipe_that_was_not_read_from_a_file() -> None:
    raw = parse(GOOD).model_dump()
    raw["learners"]["mentor"]["rationales"] = ["student"]
    with pytest.raises(RecipeError, match="student, mentor wait for each other"):
        learning_order(Recipe.model_validate(raw))


# Overrides


def test_overrides_create_mappings_expand_the_model_and_keep_what_stands_beside() -> None:
    recipe = parse(
        GOOD,
        "learners.mentor.model.lora.r=8",
        "task.columns.question=Body",
        "learners.student.training.epochs=7",
        "training.batch_size=2",
        "task.validation=dev.json",
    )
    mentor = recipe.learners["mentor"].model
    assert (mentor.name, mentor.lora and mentor.lora.r) == ("google/flan-t5-large", 8)
    assert recipe.task.columns == {"question": "Body"}
    student = recipe.learners["student"].training
    assert (student.epochs, student.batch_size, student.learning_rate) == (7, 2, 2e-4)
    assert recipe.task.validation == "dev.json"


def test_columns_are_of_all_files_or_of_one() -> None:
    shared = parse(GOOD, "task.columns.answer=gold", "task.columns.test={question: query}")
    assert shared.task.columns_of("train") == {"answer": "gold"}
    assert shared.task.columns_of("test") == {"answer": "gold", "question": "query"}
    assert shared.teacher.columns is None
    assert parse(GOOD, "teacher.columns={rationale: text}").teacher.columns == {"rationale": "text"}
    for wrong in ("task.columns.question={test: query}", "task.columns.test=query"):
        with pytest.raises(RecipeError, match="expected OURS: THEIRS, or a mapping of these under train"):
            parse(GOOD, wrong)


def test_the_last_override_of_a_key_holds() -> None:
    assert parse(GOOD, "seeds=[5]", "seeds=[6, 7]").seeds == [6, 7]


def test_an_override_does_not_leak_through_an_anchor() -> None:
    shared = GOOD.replace("{model: google/flan-t5-large}", "{model: &m {name: a/b, lora: {r: 4}}}")
    shared = shared.replace("{name: google/flan-t5-small, revision: main}", "*m")
    recipe = parse(shared, "learners.mentor.model.lora.r=16")
    ranks = {name: recipe.learners[name].model.lora for name in ("mentor", "vanilla")}
    assert {name: lora and lora.r for name, lora in ranks.items()} == {"mentor": 16, "vanilla": 4}


def test_set_override_tells_where_it_wrote() -> None:
    raw: dict[str, object] = {"learners": {"a": {"model": "x"}}}
    assert set_override(raw, "learners.a.model.dtype = float32") == ("learners", "a", "model", "dtype")
    assert raw == {"learners": {"a": {"model": {"name": "x", "dtype": "float32"}}}}


@pytest.mark.parametrize(
    ("assignment", "key", "words"),
    [
        ("seeds", "seeds", "got `seeds`; expected `key.path=value`"),
        ("=3", "=3", "got `=3`; expected `key.path=value`"),
        ("task..name=x", "task..name=x", "got `task..name=x`; expected `key.path=value`"),
        ("seeds.0=3", "seeds.0", "`seeds` is [1, 2], not a mapping; set it as a whole (given on the command line)"),
        ("name.x=3", "name.x", "`name` is 'demo', not a mapping; set it as a whole (given on the command line)"),
        (
            "seeds=[1",
            "seeds",
            "not valid YAML: while parsing a flow sequence expected ',' or ']', but got '<stream end>' "
            "(in the value given on the command line)",
        ),
        (
            "data={root: a, root: b}",
            "data",
            "given twice; the first is on line 1 (in the value given on the command line)",
        ),
        ("training.epochs=many", "training.epochs", "got 'many'; expected a whole number (given on the command line)"),
        ("training.epoch=3", "training.epoch", "unknown key; did you mean `epochs`? (given on the command line)"),
        (
            "learners.studnet.kd_weight=0.1",
            "learners.studnet",
            "no such learner; did you mean `student`? (given on the command line)",
        ),
        (
            "learners.student.soft_labels=mentro",
            "learners.student.soft_labels",
            "there is no learner `mentro`; did you mean `mentor`? (given on the command line)",
        ),
    ],
)
def test_a_bad_override_is_one_fault(assignment: str, key: str, words: str) -> None:
    assert faults(GOOD, assignment) == [Fault(key, words)]


# Faults


BROKEN: dict[str, tuple[str, list[Fault]]] = {
    "unknown key": (
        changed("kd_weight", "kd_wieght"),
        [Fault("learners.student.kd_wieght", "unknown key; did you mean `kd_weight`?", 14)],
    ),
    "controls that stand against their learner": (
        changed(
            "    kd_weight: 0.5\n",
            "    kd_weight: 0.5\n    shuffle_soft_labels: true\n    label_smoothing: 1\n    soft_label_store: online\n"
            "    reads:\n      teacher: {questions: techer}\n      mentor: {questions: mentor}\n",
        ).replace("{model: google/flan-t5-large}", "{model: google/flan-t5-large, shuffle_soft_labels: true}"),
        [
            Fault(
                "learners.student.shuffle_soft_labels",
                "moves stored distributions from token to token, and there are none here; choose the store `hidden` or `top_k`",
                15,
            ),
            Fault("learners.student.label_smoothing", "got 1; expected a number below 1.0", 16),
            Fault(
                "learners.student.reads.teacher.questions",
                "there is no source `techer`; did you mean `teacher`?",
                19,
            ),
            Fault(
                "learners.student.reads.mentor.questions",
                "`mentor` has all of its own questions; name another source, or remove `questions`",
                20,
            ),
            Fault(
                "learners.mentor.shuffle_soft_labels",
                "has no effect without `soft_labels`; remove it, or name a mentor in `soft_labels`",
                21,
            ),
        ],
    ),
    "smoothed labels without a cross-entropy": (
        changed("    kd_weight: 0.5\n", "    kd_weight: {teacher: 1, mentor: 1.0}\n    label_smoothing: 0.1\n").replace(
            "seeds:", "  raw: {model: m, rationales: [], label_smoothing: 0.1}\nseeds:"
        ),
        [
            Fault(
                "learners.student.label_smoothing",
                "has no effect with `kd_weight: 1`, which leaves no cross-entropy to smooth; remove one of them",
                15,
            ),
            Fault(
                "learners.raw.label_smoothing",
                "has no effect with `rationales: []`, which trains nothing; remove it",
                20,
            ),
        ],
    ),
    "questions of a reader, of a learner without rationales, and in a circle": (
        changed(
            "  mentor: {model: google/flan-t5-large}\n",
            "  mentor: {model: m, reads: {teacher: {questions: student}}}\n",
        )
        .replace("    kd_weight: 0.5\n", "    reads: {mentor: {questions: self}, teacher: {questions: bare}}\n")
        .replace("seeds:", "  bare: {model: m, rationales: [gold]}\nseeds:"),
        [
            Fault(
                "learners.student",
                "a cycle, where each learns from the next: student -> mentor -> student; remove one of these names",
                10,
            ),
            Fault(
                "learners.student.reads.teacher.questions",
                "`bare` learns bare answers and writes no rationale; name another source",
                14,
            ),
            Fault(
                "learners.student.reads.mentor.questions",
                "`student` has its own texts only after it is trained; name another source",
                14,
            ),
        ],
    ),
    "unknown key in the teacher": (
        changed("{rationales: rationales.json}", "{rationales: a, selct: {}}"),
        [Fault("teacher.selct", "unknown key; did you mean `select`?", 6)],
    ),
    "no kind of teacher": (
        changed("{rationales: rationales.json}", "{model: m}"),
        [Fault("teacher.kind", "missing; expected one of recorded, openai, local", 6)],
    ),
    "an unknown kind of teacher": (
        changed("{rationales: rationales.json}", "{kind: opnai, model: m}"),
        [Fault("teacher.kind", "got 'opnai'; expected one of recorded, openai, local; did you mean `openai`?", 6)],
    ),
    "a key of another kind of teacher": (
        changed("{rationales: rationales.json}", "{kind: openai, model: m, rationales: a}"),
        [
            Fault(
                "teacher.rationales",
                "belongs to `kind: recorded`, and this is `kind: openai`; remove it, or change `kind`",
                6,
            )
        ],
    ),
    "a key of a teacher that is missing": (
        changed("{rationales: rationales.json}", "{kind: openai, price: {input: 1}}"),
        [
            Fault("teacher.model", "missing (Name of the model at the endpoint)", 6),
            Fault("teacher.price.output", "missing (Tokens of the reply)", 6),
        ],
    ),
    "a budget without a price": (
        changed("{rationales: rationales.json}", "{kind: openai, model: m, budget: {dollars: 5}}"),
        [
            Fault(
                "teacher",
                "`budget.dollars` needs `price: {input: ..., output: ...}`, dollars a million tokens",
                6,
            )
        ],
    ),
    "lengths between which nothing is": (
        changed("{rationales: rationales.json}", "{rationales: a, select: {min_tokens: 9, max_tokens: 8}}"),
        [Fault("teacher.select", "`min_tokens: 9` is above `max_tokens: 8`; lower one or raise the other", 6)],
    ),
    "missing key": (
        changed("  train: train.json\n", ""),
        [Fault("task.train", "missing (Training questions: a file, or `hub:NAME` for a Hugging Face data set)", 2)],
    ),
    "wrong type": (
        changed("epochs: 5", "epochs: [5]"),
        [Fault("learners.vanilla.training.epochs", "got a list; expected a whole number", 18)],
    ),
    "out of range": (
        changed("kd_weight: 0.5", "kd_weight: 1.5"),
        [Fault("learners.student.kd_weight", "got 1.5; expected a number of at most 1.0", 14)],
    ),
    "a choice mistyped": (
        changed("kd_weight: 0.5", "divergence: forward-kl"),
        [
            Fault(
                "learners.student.divergence",
                "got 'forward-kl'; expected one of forward_kl, reverse_kl, jsd, mse, soft_ce, hidden_states; "
                "did you mean `forward_kl`?",
                14,
            )
        ],
    ),
    "a fault of recipe-level training is told once": (
        changed("epochs: 3", "epochs: 0"),
        [Fault("training.epochs", "got 0; expected a number of at least 1", 7)],
    ),
    "recipe-level training is no mapping": (
        changed("{learning_rate: 2e-4, epochs: 3}", "fast"),
        [Fault("training", "got 'fast'; expected a mapping of keys to values", 7)],
    ),
    "list forgotten": (
        changed("[teacher, mentor]", "teacher"),
        [Fault("learners.student.rationales", "got 'teacher'; expected a list, e.g. [a, b]", 12)],
    ),
    "YAML's yes": (
        changed("[1, 2]", "[1, 2]\ndevice: no"),
        [
            Fault(
                "device",
                "`no` has two meanings, one in YAML 1.1 and one in 1.2; write true, false or a decimal number, "
                "or put text in quotes",
                20,
            )
        ],
    ),
    "empty section": (
        changed("{rationales: rationales.json}", ""),
        [Fault("teacher", "got nothing; expected a mapping of keys to values", 6)],
    ),
    "no learners": (
        GOOD[: GOOD.index("learners:")] + "learners: {}\n",
        [Fault("learners", "empty; expected at least one", 9)],
    ),
    "a bad name": (
        changed("name: demo", "name: my/demo"),
        [
            Fault(
                "name",
                "got 'my/demo'; expected a name for a folder, without a space, a dot or a hyphen at its start and without "
                '/ \\ : * ? " < > |',
                1,
            )
        ],
    ),
    "two sources of a model": (
        changed("revision: main", "from_config: {model_type: t5}"),
        [
            Fault(
                "learners.vanilla.model",
                "give exactly one of `name` (a pretrained model), `learner` (a learner's weights) and `from_config` (random weights)",
                17,
            )
        ],
    ),
    "duplicate key": (
        changed("    kd_weight: 0.5\n", "    kd_weight: 0.5\n    kd_weight: 0.6\n"),
        [Fault("learners.student.kd_weight", "given twice; the first is on line 14", 15)],
    ),
    "a learner's name that YAML reads as a number": (
        changed("  vanilla:", "  1:"),
        [Fault("learners.1", "a key must be text; put it in quotes", 16)],
    ),
    "not YAML": (
        changed("[1, 2]", "[1, 2"),
        [Fault("", "not valid YAML: while parsing a flow sequence expected ',' or ']', but got '<stream end>'", 20)],
    ),
    "a tab": (
        changed("  test:", "\ttest:"),
        [
            Fault(
                "",
                "not valid YAML: while scanning for the next token found character '\\t' that cannot start any token",
                5,
            )
        ],
    ),
    "a control character": (
        changed("[1, 2]", "[1, 2]\x00"),
        [Fault("", "not valid YAML: character '\\x00' is not allowed", 19)],
    ),
    "a date that is none": (
        changed("name: demo", "name: 2024-13-45"),
        [Fault("", "not valid YAML: month must be in 1..12; put text that looks like a date or a number in quotes")],
    ),
    "an anchor around itself": (
        changed("{rationales: rationales.json}", "&t {rationales: *t}"),
        [Fault("teacher.rationales", "refers to itself by an anchor", 6)],
    ),
    "nothing": (
        "# only a comment\n",
        [Fault("", "got nothing; expected a mapping with name, task, teacher and learners")],
    ),
    "text": ("hello", [Fault("", "got 'hello'; expected a mapping with name, task, teacher and learners")]),
    "unknown learner": (
        changed("[teacher, mentor]", "[teacher, mentr]"),
        [Fault("learners.student.rationales[1]", "there is no learner `mentr`; did you mean `mentor`?", 12)],
    ),
    "named twice": (
        changed("[teacher, mentor]", "[mentor, mentor]"),
        [Fault("learners.student.rationales[1]", "`mentor` is named twice", 12)],
    ),
    "learns from itself": (
        changed("[teacher, mentor]", "[student]"),
        [
            Fault(
                "learners.student.rationales[0]",
                "a learner's own texts are called `self`; write that, with `own_texts`",
                12,
            )
        ],
    ),
    "own soft labels": (
        changed("soft_labels: mentor", "soft_labels: student"),
        [Fault("learners.student.soft_labels", "a learner cannot learn from itself", 13)],
    ),
    "soft labels of the gold answers": (
        changed("soft_labels: mentor", "soft_labels: gold"),
        [
            Fault(
                "learners.student.soft_labels",
                "the gold answers are text only; soft labels come from a learner, or from a teacher with `logprobs`",
                13,
            )
        ],
    ),
    "a learner called teacher": (
        changed("  vanilla:", "  teacher:"),
        [Fault("learners.teacher", "`teacher` stands for the teacher; give the learner another name", 16)],
    ),
    "a cycle": (
        changed("large}", "large, rationales: [vanilla]}").replace(
            "    training: {epochs", "    soft_labels: student\n    training: {epochs"
        ),
        [
            Fault(
                "learners.student",
                "a cycle, where each learns from the next: student -> mentor -> vanilla -> student; "
                "remove one of these names",
                10,
            )
        ],
    ),
    "no effect": (
        changed("    soft_labels: mentor\n", ""),
        [
            Fault(
                "learners.student.kd_weight",
                "has no effect without `soft_labels`; remove it, or name a mentor in `soft_labels`",
                13,
            )
        ],
    ),
    "k without its store": (
        changed("kd_weight: 0.5", "top_k: 8"),
        [
            Fault(
                "learners.student.top_k",
                "has no effect without `soft_label_store: top_k`; remove it, or choose that store",
                14,
            )
        ],
    ),
    "a store that keeps too little": (
        changed("kd_weight: 0.5", "soft_label_store: top_k\n    divergence: mse"),
        [
            Fault(
                "learners.student.divergence",
                "`mse` needs the mentor's whole distribution, and `top_k` keeps a part of it; set `soft_label_store` to "
                "`hidden` or `online`",
                15,
            )
        ],
    ),
    "a prompt without the question": (
        changed("kd_weight: 0.5", "prompt: 'Q: {input}'"),
        [Fault("learners.student.prompt", "got 'Q: {input}'; expected a template that contains {question}", 14)],
    ),
    "nothing to validate on": (
        changed("  test: test.json", "  test: test.json\n  validation_share: 0").replace(
            "training: {epochs: 5}", "training: {select_on: last}"
        ),
        [
            Fault(
                "task.validation_share",
                "0 leaves no questions on which student, mentor could choose the best epoch; give a share above 0, "
                "or a file as `task.validation`, or set `training.select_on: last`",
                6,
            )
        ],
    ),
    "unlabelled questions that nobody reads": (
        changed("  test: test.json", "  test: test.json\n  unlabelled: more.json"),
        [
            Fault(
                "task.unlabelled",
                "has no effect without a learner that imitates its own texts (`self` among its `rationales`, and `soft_labels`); "
                "add one, or remove the file",
                6,
            )
        ],
    ),
    "a limit on no unlabelled questions": (
        changed("  test: test.json", "  test: test.json\n  limit_unlabelled: 5"),
        [Fault("task.limit_unlabelled", "has no effect without `unlabelled`; remove it, or name a file there", 6)],
    ),
    "a filter by own texts that a reader without them inherits": (
        changed("{rationales: rationales.json}", "{rationales: rationales.json, select: {weight: frontier}}")
        .replace("[teacher, mentor]", "[teacher, mentor, self]")
        .replace("training: {epochs: 5}", "reads: {teacher: {weight: equal}}"),
        [
            Fault(
                "learners.mentor.reads.teacher.weight",
                "`frontier` needs the learner's own texts; add `self` to `rationales`, or set `weight: equal` here",
                15,
            )
        ],
    ),
    "a learner's filter by own texts that its reader inherits": (
        changed("{model: google/flan-t5-large}", "{model: google/flan-t5-large, select: {weight: frontier}}"),
        [
            Fault(
                "learners.student.reads.mentor.weight",
                "`frontier` needs the learner's own texts; add `self` to `rationales`, or set `weight: equal` here",
                10,
            )
        ],
    ),
    "shares of a model in one process": (
        changed("{epochs: 5}", "{sharding: fsdp}"),
        [
            Fault(
                "learners.vanilla.training.sharding",
                "is over several processes, and `processes` is 1; raise it, or remove `sharding`",
                18,
            )
        ],
    ),
    "shares of what cannot be cut": (
        changed("{epochs: 5}", "{processes: 2, sharding: fsdp, torch_compile: true, precision: float16}"),
        [
            Fault(
                "learners.vanilla.training.sharding",
                f"`fsdp` cannot be combined with `{other}`; remove one of them",
                18,
            )
            for other in ("torch_compile", "precision: float16")
        ],
    ),
    "a base in 4 bits that is cut or shared": (
        changed("revision: main}", "layers: [0], lora: {bits: 4}}").replace(
            "{epochs: 5}", "{processes: 2, sharding: fsdp}"
        ),
        [
            Fault(
                "learners.vanilla.model.lora.bits",
                "weights are put into 4 bits as they are loaded, which `layers` does not do; remove one of them",
                17,
            ),
            Fault(
                "learners.vanilla.training.sharding",
                "`fsdp` cannot be combined with `lora.bits`; remove one of them",
                18,
            ),
        ],
    ),
    "flash attention in float32, and packed rows that are sorted": (
        changed("revision: main}", "attn_implementation: flash_attention_2}").replace(
            "{epochs: 5}", "{precision: float32, split: packed, length_window: 4}"
        ),
        [
            Fault(
                "learners.vanilla.training.precision",
                "`flash_attention_2` has no float32; set auto or bfloat16, or take `sdpa`",
                18,
            ),
            Fault(
                "learners.vanilla.training.length_window",
                "has no effect with `split: packed`, whose rows are not sorted by length; remove one of them",
                18,
            ),
        ],
    ),
    "own texts of a base in 4 bits": (
        changed("model: google/flan-t5-small\n", "model: {name: google/flan-t5-small, lora: {bits: 4}}\n").replace(
            "[teacher, mentor]", "[teacher, mentor, self]"
        ),
        [
            Fault(
                "learners.student.model.lora.bits",
                "every round starts from the weights of the round before, and 4 bits would round away a part of its training; "
                "remove `bits`, or `self`",
                11,
            )
        ],
    ),
    "a seed twice": (changed("[1, 2]", "[1, 2, 1]"), [Fault("seeds[2]", "1 is given twice; each seed is one run", 19)]),
    **{
        f"{got} shards": (
            changed("seeds:", f"shards: {got}\nseeds:"),
            [Fault("shards", f"got {shown}; expected auto, or a number from 1 to 10,000", 19)],
        )
        for got, shown in {
            "0": "0",
            "10001": "10001",
            "2.0": "2.0",
            "many": "'many'",
            "true": "True",
            "": "None",
        }.items()
    },
    "unknown task": (
        changed("name: svamp", "name: svmap"),
        [
            Fault(
                "task.answer",
                "missing, and `svmap` is not a known task; did you mean `svamp`?; give one of number, choice, yes_no, text, math, or a "
                "known task: strategy_qa, commonsense_qa, asdiv, svamp, gsm8k, tracking_shuffled_objects, date_understanding, "
                "last_letter_concatenation",
                2,
            )
        ],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_recipe_gives_exactly_these_faults(case: str) -> None:
    text, expected = BROKEN[case]
    assert faults(text) == expected


@pytest.mark.parametrize(
    ("learner", "key", "words"),
    [
        ({"rationales": ["teacher", "self"], "soft_labels": "mentor"}, None, ""),
        ({"rationales": ["teacher", "self"]}, "task.unlabelled", "has no effect without a learner that imitates"),
        ({"rationales": ["teacher"], "soft_labels": "mentor"}, "task.unlabelled", "has no effect without a learner"),
        (
            {"rationales": ["self"], "soft_labels": "mentor", "mentor_reads": "gold"},
            "learners.student.mentor_reads",
            "`gold` shows the mentor the gold answer, and the questions of `task.unlabelled` have none; "
            "set `mentor_reads: question`, or remove `task.unlabelled`",
        ),
        (
            {"rationales": ["self"], "soft_labels": "mentor", "reads": {"self": {"weight": "frontier"}}},
            "learners.student.reads.self.weight",
            "`frontier` compares own texts with gold answers, and the questions of `task.unlabelled` have none; "
            "set `weight: equal`, or remove `task.unlabelled`",
        ),
        (
            {"rationales": ["self"], "soft_labels": "mentor", "reads": {"teacher": {"weight": "frontier"}}},
            None,
            "",
        ),
    ],
)
def test_unlabelled_questions_are_for_learners_that_imitate_their_own_texts(
    learner: dict[str, Any], key: str | None, words: str
) -> None:
    learners = {"student": {"model": {"name": "m"}, **learner}, "mentor": {"model": {"name": "m"}}}
    task = {"name": "svamp", "train": "a", "test": "b", "unlabelled": "c"}
    found = {".".join(map(str, place)): fault for place, fault in combined_faults({"task": task, "learners": learners})}
    about = {place: fault for place, fault in found.items() if "unlabelled" in place + fault}
    assert list(about) == ([] if key is None else [key])
    assert all(fault.startswith(words) for fault in about.values())


def test_all_faults_at_once_in_the_order_of_the_file() -> None:
    text = dedent("""\
        name: demo
        task: {name: svamp, train: a, tset: b}
        teacher: {rationales: c}
        training: {epochs: none}
        learners:
          mentor: {model: google/flan-t5-large, rationales: [student]}
          student:
            model: google/flan-t5-small
            rationales: [mentor, techer]
            kd_weight: 0.5
            kd_weight: 2
        devise: cpu
        """)
    found = faults(text)
    assert [(fault.line, fault.key) for fault in found] == [
        (2, "task.test"),
        (2, "task.tset"),
        (4, "training.epochs"),
        (6, "learners.mentor"),
        (9, "learners.student.rationales[1]"),
        (11, "learners.student.kd_weight"),
        (12, "devise"),
    ]
    with pytest.raises(RecipeError) as caught:
        parse(text)
    assert str(caught.value).startswith("test: 7 faults\n  line 2, task.test: missing")


def test_the_tag_of_a_union_is_no_key() -> None:
    (fault,) = faults(changed("{rationales: rationales.json}", "{kind: recorded, rationales: 5}"))
    assert (fault.key, fault.line) == ("teacher.rationales", 6)


def test_a_key_that_is_not_known_never_shows_its_value() -> None:
    (fault,) = faults(changed("{rationales: rationales.json}", "{rationales: a, api_key: sk-secret}"))
    assert "sk-secret" not in str(fault)


# Paths and files


def test_data_root_starts_at_the_recipe_but_at_the_working_folder_as_an_override(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse(GOOD).data.root == "/recipes"
    with_root = GOOD + "data: {root: ../data}\n"
    assert parse(with_root).data.root == "/data"
    assert parse(with_root, "data.root=here").data.root == str(tmp_path / "here")
    assert parse(with_root, "data={root: ./here}").data.root == str(tmp_path / "here")
    assert parse(with_root, "data.strict=true").data.root == "/data"
    recipe = parse(with_root, base=Path("relative"))
    assert recipe.data.root == str(tmp_path / "data")
    assert data_path(recipe, "a/b.json") == str(tmp_path / "data" / "a" / "b.json")
    assert data_path(recipe, "/x/b.json") == "/x/b.json"
    assert data_path(recipe, "hub:openai/gsm8k") == "hub:openai/gsm8k"


def test_a_model_on_disk_becomes_absolute_and_a_hub_name_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, working = tmp_path / "recipes", tmp_path / "working"
    for folder in (base / "tiny", working / "google" / "flan-t5-large", working / "tiny"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(working)
    text = changed("google/flan-t5-small\n", "tiny\n")
    recipe = parse(text, base=base)
    names = {name: learner.model.name for name, learner in recipe.learners.items()}
    assert names == {
        "student": str(base / "tiny"),
        "mentor": str(working / "google" / "flan-t5-large"),
        "vanilla": "google/flan-t5-small",
    }
    given = parse(text, "learners.mentor.model=tiny", base=base)
    assert given.learners["mentor"].model.name == str(working / "tiny")


def test_files_of_an_asked_teacher_start_at_the_recipe_but_worked_examples_are_data(tmp_path: Path) -> None:
    settings = "{kind: openai, model: m, prompt: few_shot, exemplars: shots.json, tokenizer: ./t, cache: ../c.sqlite}"
    text = changed("{rationales: rationales.json}", settings) + f"data: {{root: {tmp_path}}}\n"
    teacher = parse(text, base=tmp_path / "recipes").teacher
    assert isinstance(teacher, OpenAITeacherConfig)
    assert (teacher.exemplars, teacher.cache) == ("shots.json", str(tmp_path / "c.sqlite"))
    assert {"teacher.exemplars", "teacher.tokenizer"} < {fault.key for fault in missing_files(parse(text))}
    custom = changed(
        "{rationales: rationales.json}", "{kind: openai, model: m, prompt: custom, template: 'file: p.jinja'}"
    )
    recipe = parse(custom)
    assert isinstance(recipe.teacher, OpenAITeacherConfig)
    assert recipe.teacher.template == "file:/recipes/p.jinja"
    assert "teacher.template" in {fault.key for fault in missing_files(recipe)}
    assert parse(dump_recipe(recipe), base=Path("/elsewhere")) == recipe


def test_a_local_teacher_may_be_a_folder_and_a_remote_one_never_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    for kind, model in (("local", str(tmp_path / "m")), ("openai", "m")):
        teacher = parse(changed("{rationales: rationales.json}", f"{{kind: {kind}, model: m}}")).teacher
        assert not isinstance(teacher, RecordedTeacherConfig)
        assert teacher.model == model
    absent = parse(changed("{rationales: rationales.json}", "{kind: local, model: ./none}"))
    assert "teacher.model" in {fault.key for fault in missing_files(absent)}


def test_missing_files_are_faults_with_the_path_that_was_tried(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(changed("{name: google/flan-t5-small, revision: main}", "./none"))
    (tmp_path / "test.json").write_text("[]")
    with pytest.raises(RecipeError) as caught:
        load_recipe(file, ["task.validation=hub:x/y"])
    assert [(fault.key, fault.line) for fault in caught.value.faults] == [
        ("task.train", 4),
        ("teacher.rationales", 6),
        ("learners.vanilla.model.name", 17),
    ]
    assert str(caught.value.faults[0]) == (
        f"line 4, task.train: no file at {tmp_path}/train.json; `mentorkd data paper DIR` fetches the paper's data, "
        "`data.root=DIR` sets the folder of the data"
    )
    recipe = load_recipe(file, check_files=False)
    assert [fault.key for fault in missing_files(recipe)] == [fault.key for fault in caught.value.faults]
    for name in ("train.json", "rationales.json"):
        (tmp_path / name).write_text("[]")
    (tmp_path / "none").mkdir()
    recipe = load_recipe(file)
    assert missing_files(recipe) == []
    task = recipe.task.model_copy(update={"unlabelled": "none.json"})
    assert [fault.key for fault in missing_files(recipe.model_copy(update={"task": task}))] == ["task.unlabelled"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read: No such file or directory; expected a YAML recipe"), (b"name: \xff", "not UTF-8 text")],
)
def test_a_file_that_cannot_be_read_is_one_fault(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "recipe.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RecipeError, match=words) as caught:
        load_recipe(file)
    assert len(caught.value.faults) == 1


def test_models_of_the_package_are_named_without_a_path_and_yield_to_a_folder_of_that_name(tmp_path: Path) -> None:
    text = "name: r\ntask: {name: svamp}\nlearners: {a: {model: nano-t5-small}, b: {model: gpt2}}"
    assert parse(text).learners["a"].model.name == str(MODELS / "nano-t5-small")
    assert parse(text).learners["b"].model.name == "gpt2"
    dumped = dump_recipe(parse(text))
    assert str(MODELS) not in dumped
    assert parse(dumped) == parse(text)
    (tmp_path / "nano-t5-small").mkdir()
    assert parse(text, base=tmp_path).learners["a"].model.name == str(tmp_path / "nano-t5-small")


def test_a_task_of_the_paper_brings_its_files_and_its_teacher_where_none_is_named() -> None:
    learners = "learners: {vanilla: {model: a/b}}"
    recipe = parse(f"name: r\ntask: {{name: last-letter}}\n{learners}", "teacher.select.question_ratio=0.5")
    assert recipe.task.train == "skeleton/last_letter_concatenation_train.json"
    assert recipe.task.test == "skeleton/last_letter_concatenation_test.json"
    assert isinstance(recipe.teacher, RecordedTeacherConfig)
    assert recipe.teacher.rationales == "main/last_letter_concatenation_3_train.json"
    assert recipe.teacher.select.question_ratio == 0.5
    asked = parse(f"name: r\ntask: {{name: svamp}}\nteacher: {{kind: openai, model: m}}\n{learners}")
    assert (asked.teacher.kind, asked.task.answer) == ("openai", "number")
    with pytest.raises(RecipeError, match=r"task\.test: missing"):  # half of another data set, half of this one
        parse(f"name: r\ntask: {{name: svamp, train: mine.json}}\n{learners}")
    with pytest.raises(RecipeError, match=r"task\.train: missing"):
        parse(f"name: r\ntask: {{name: mine, answer: number}}\n{learners}")


# Schema and speed


def test_the_schema_knows_every_key_and_the_short_form_of_a_model() -> None:
    schema = recipe_schema()
    assert schema["properties"].keys() == Recipe.model_fields.keys()
    learner = schema["$defs"]["Learner"]["properties"]
    assert learner["model"]["anyOf"] == [{"type": "string"}, {"$ref": "#/$defs/ModelConfig"}]
    undescribed = [
        f"{name}.{key}"
        for name, part in schema["$defs"].items()
        for key, field in part["properties"].items()
        if "description" not in field and "const" not in field
    ]
    assert undescribed == []


def test_a_hundred_lines_load_in_50_ms_and_without_torch() -> None:
    learners = "".join(
        f"  v{index}:\n    model: a/b\n    target: arrow\n    training: {{epochs: 3}}\n" for index in range(20)
    )
    text = changed("seeds:", f"{learners}seeds:")
    assert text.count("\n") >= 99
    parse(text)
    times = []
    for _ in range(10):  # by the processor's time, and the least of them: the machine may be busy
        start = time.process_time()
        parse(text)
        times.append(time.process_time() - start)
    assert min(times) < 0.05
    code = "import sys, mentorkd.recipe.load; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
