"""Own texts in rounds: what is trained on what, for how long, and that it survives kills; cross-fitted mentors; initial weights."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mentorkd.data.selection import split_folds
from mentorkd.distillation.soft_labels import SoftLabelStore
from mentorkd.models import load_folder
from mentorkd.pipeline.graph import compile_stages
from mentorkd.pipeline.records import AugmentRecord, BudgetRecord, RoundsRecord, TrainRecord
from mentorkd.pipeline.run import Pipeline
from mentorkd.recipe.load import load_recipe
from mentorkd.recipe.rounds import in_reading_order
from mentorkd.recipe.schema import Recipe
from mentorkd.training.trainer import MentorTrainer
from small_recipe import small_recipe

ROUNDS = 2
ON_POLICY = {"rationales": ["teacher", "mentor", "self"], "own_texts": {"rounds": ROUNDS}, "soft_labels": "mentor"}
IMITATING = {**ON_POLICY, "kd_weight": {"teacher": 0, "mentor": 0}}


def recipe_of(folder: Path, **learners: Any) -> Recipe:
    """The small recipe's mentor and the given learners, each a small student unless it names another model."""
    raw = small_recipe(folder)
    model = raw["learners"]["student"]["model"]
    raw["learners"] = {"mentor": raw["learners"]["mentor"]} | {
        name: {"model": model, **learner} for name, learner in learners.items()
    }
    raw["training"] |= {"epochs": 2}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return load_recipe(path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A run with each kind of learner of own texts."""
    folder = tmp_path_factory.mktemp("own")
    recipe = recipe_of(
        folder,
        star={"rationales": ["teacher", "mentor", "self"], "own_texts": {"rounds": ROUNDS}},
        reverse={**IMITATING, "divergence": {"self": "reverse_kl"}},
        forward=IMITATING,
        weighted={**ON_POLICY, "mentor_reads": "gold", "reads": {"mentor": {"weight": "frontier"}}},
        first={"rationales": ["teacher"]},
        alone={
            "model": {"learner": "first"},
            "rationales": ["self"],
            "own_texts": {"rounds": ROUNDS},
            "soft_labels": "mentor",
        },
    )
    raw = yaml.safe_load((folder / "recipe.yaml").read_text())
    raw["learners"]["mentor"]["folds"] = 2
    (folder / "recipe.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    pipeline = Pipeline(load_recipe(folder / "recipe.yaml"), folder / "run")
    pipeline.run(until="evaluate")
    assert recipe.learners["star"].own_texts is not None
    return pipeline


def records(pipeline: Pipeline, learner: str) -> list[TrainRecord]:
    """The records of a learner's trainings, by round."""
    rounds = pipeline.folder.record_of(RoundsRecord, f"learners/{learner}/seed-1/rounds")
    assert rounds.rounds is not None
    return [pipeline.folder.record_of(TrainRecord, need) for need in rounds.needs]


def test_a_first_training_without_own_texts_and_then_rounds_with_those_of_the_model_before(finished: Pipeline) -> None:
    stages = {stage.name: stage for stage in finished.stages}
    place = "learners/weighted/seed-1"
    assert "rationales/self" not in stages[f"{place}/round-0/train"].inputs
    for number in range(1, ROUNDS + 1):
        before = f"{place}/round-{number - 1}/train"
        train = stages[f"{place}/round-{number}/train"].inputs
        assert train["initial"] == stages[f"{place}/round-{number}/augment"].inputs["model"] == before
        assert train["rationales/self"] == f"{place}/round-{number}/augment"
        texts = finished.folder.rationales(f"{place}/round-{number}/augment")
        assert len(texts) == 2 * len(finished.folder.questions("prepare", "train"))
        assert {text.source for text in texts} == {"weighted"}
    assert stages[f"{place}/evaluate"].inputs["model"] == f"{place}/rounds"


def test_all_trainings_together_have_the_matched_updates_in_equal_shares(finished: Pipeline) -> None:
    budget = finished.folder.record_of(BudgetRecord, "budget/seed-1")
    assert len({arm.updates for arm in budget.arms.values()}) == 1
    for name, arm in budget.arms.items():
        updates = [record.updates for record in records(finished, name)]
        assert sum(updates) == arm.updates
        assert max(updates) - min(updates) <= 1
        assert len(updates) == (ROUNDS if name == "alone" else ROUNDS + 1)


def test_arms_that_differ_only_in_their_own_texts_share_the_first_training_and_the_first_texts(
    finished: Pipeline,
) -> None:
    stages = {stage.name: stage for stage in finished.stages}
    of_star = "learners/star/seed-1/round-0/train"
    for name in ("reverse", "forward"):
        assert f"learners/{name}/seed-1/round-0/train" not in stages
        train = stages[f"learners/{name}/seed-1/round-1/train"].inputs
        assert train["initial"] == of_star
        assert train["rationales/self"] == "learners/star/seed-1/round-1/augment"
    assert "learners/weighted/seed-1/round-0/train" in stages  # it imitates the mentor from the beginning
    # Another split of the updates, or another total, is another first training.
    more = finished.recipe.learners["forward"].model_copy(
        update={"own_texts": finished.recipe.learners["forward"].own_texts.model_copy(update={"rounds": 3})}
    )
    changed = finished.recipe.model_copy(update={"learners": finished.recipe.learners | {"forward": more}})
    assert "learners/forward/seed-1/round-0/train" in {stage.name for stage in compile_stages(changed)}


def test_imitated_texts_are_read_as_they_were_written_and_without_cross_entropy(finished: Pipeline) -> None:
    train = {stage.name: stage for stage in finished.stages}["learners/forward/seed-1/round-1/train"]
    texts = finished.folder.rationales(train.inputs["rationales/self"])
    stores = [
        SoftLabelStore(finished.folder.soft_labels(train.inputs[f"soft_labels/mentor/self{fold}"]))
        for fold in ("", "/1")
    ]
    assert sorted(each for store in stores for each in store.ids) == sorted(text.id for text in texts)
    assert any(not text.meta["finished"] for text in texts)
    assert any(text.verdict != "correct" for text in texts)
    record = finished.folder.record_of(TrainRecord, train.name)
    assert record.encoding.unended == sum(not text.meta["finished"] for text in texts)
    assert finished.recipe.learners["forward"].kd_weight_of("self") == 1
    own = record.own_texts
    assert own is not None
    assert own.texts == len(texts)
    assert own.staleness > 0
    assert None not in (own.writer_kl, own.trained_kl, own.overlap)


def test_self_training_reads_the_correct_texts_alone(finished: Pipeline) -> None:
    record = finished.folder.record_of(TrainRecord, "learners/star/seed-1/round-1/train")
    correct = finished.folder.record_of(AugmentRecord, "learners/star/seed-1/round-1/augment").rationales["correct"]
    assert [row.after for row in record.filters if (row.source, row.filter) == ("self", "correct")] == [correct]
    assert record.own_texts is not None
    assert record.own_texts.writer_kl is None


def test_each_model_of_a_cross_fitted_mentor_serves_the_questions_that_it_has_not_seen(finished: Pipeline) -> None:
    folder, questions = finished.folder, finished.folder.questions("prepare", "train")
    folds = split_folds(questions, 2)
    assert abs(Counter(folds.values())[0] - Counter(folds.values())[1]) <= 1
    question_of = {text.id: text.question_id for text in folder.rationales("annotate")}
    stages = {stage.name: stage for stage in finished.stages}
    train = stages["learners/weighted/seed-1/round-0/train"].inputs
    for fold, role in enumerate(("", "/1")):
        training = train[f"model/mentor{role}"]
        assert training == f"learners/mentor/seed-1/fold-{fold}/train"
        record = folder.record_of(TrainRecord, training)
        [seen] = [row.after for row in record.filters if row.filter == "training_questions"]
        assert seen == sum(folds[question] != fold for question in question_of.values() if question in folds)
        store = SoftLabelStore(folder.soft_labels(train[f"soft_labels/mentor/teacher{role}"]))
        assert {folds[question_of[each]] for each in store.ids} == {fold}
    assert {text.question_id for text in folder.rationales("learners/mentor/seed-1/augment")} == folds.keys()


def test_questions_weigh_by_the_own_texts_of_the_round(finished: Pipeline) -> None:
    assert records(finished, "weighted")[0].frontier is None
    [frontier] = records(finished, "weighted")[1].frontier or []
    assert (frontier.source, frontier.questions) == ("mentor", len(finished.folder.questions("prepare", "train")))
    assert 0 <= frontier.at_floor <= frontier.questions


def test_a_learner_of_own_texts_alone_starts_from_the_weights_of_another(finished: Pipeline) -> None:
    stages = {stage.name: stage for stage in finished.stages}
    first = "learners/first/seed-1/train"
    assert stages["learners/alone/seed-1/round-1/augment"].inputs["model"] == first
    assert stages["learners/alone/seed-1/round-1/train"].inputs["initial"] == first
    own = [record.own_texts for record in records(finished, "alone")]
    assert own[0] is not None
    assert own[0].trained_kl < own[0].writer_kl  # it comes closer to its mentor
    card = (finished.folder.model("learners/alone/seed-1/rounds") / "README.md").read_text()
    assert "weights before the first training: those of first after its training" in card
    assert "training 2 of 2 (from the weights of the training before)" in card or "training 1 of 2" in card


def test_the_best_round_is_the_learner(finished: Pipeline) -> None:
    for name in ("star", "weighted"):
        rounds = finished.folder.record_of(RoundsRecord, f"learners/{name}/seed-1/rounds")
        accuracies = [outcome.validation_accuracy for outcome in rounds.rounds or []]
        best = max(range(len(accuracies)), key=lambda number: (accuracies[number], number))
        models = [finished.folder.model(stage) for stage in (f"learners/{name}/seed-1/rounds", rounds.needs[best])]
        chosen, trained = (load_folder(each, device=torch.device("cpu")).model.state_dict() for each in models)
        assert all(torch.equal(chosen[key], trained[key]) for key in trained)


def test_the_learning_rate_runs_over_all_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = {"schedule": "linear", "warmup_ratio": 0.2, "updates": 12, "select_on": "last"}
    rates: list[float] = []
    step = MentorTrainer.training_step

    def watched(self: MentorTrainer, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.optimizer.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(MentorTrainer, "training_step", watched)
    for name, learner in {
        "whole": {"rationales": ["teacher"]},
        "rounds": {"rationales": ["teacher", "self"], "own_texts": {"rounds": 2}, "soft_labels": "mentor"},
    }.items():
        recipe = recipe_of(tmp_path, learner={**learner, "training": schedule})
        if name == "whole":
            recipe = recipe.model_copy(update={"learners": {"learner": recipe.learners["learner"]}})
            Pipeline(recipe, tmp_path / name).run(until="train")
            whole, rates[:] = list(rates), []
        else:
            Pipeline(recipe, tmp_path / name).run(until="rounds")
    assert len(whole) == 12
    assert rates[-12:] == pytest.approx(whole)


@pytest.mark.slow
def test_rounds_killed_at_ten_moments_equal_the_undisturbed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(tmp_path, student={**ON_POLICY, "divergence": {"self": "reverse_kl"}})
    Pipeline(recipe, tmp_path / "undisturbed").run(until="evaluate")

    class Killed(BaseException):
        """Stands for SIGKILL: nothing may catch it."""

    moments, calls = random.Random(0), 0

    def dying(original: Any, period: int) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if kills and moments.random() < 1 / period:
                kills.pop()
                raise Killed
            return original(*args, **kwargs)

        return call

    from mentorkd.distillation.soft_labels import SoftLabelWriter
    from mentorkd.generation.transformers_engine import TransformersEngine
    from mentorkd.pipeline.run_folder import RunFolder

    kills = list(range(10))
    for owner, name, period in (
        (MentorTrainer, "training_step", 6),
        (SoftLabelWriter, "append", 2),
        (TransformersEngine, "sample", 2),
        (RunFolder, "publish", 3),
    ):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name), period))
    done: Counter[str] = Counter()
    for _ in range(40):
        pipeline = Pipeline(recipe, tmp_path / "killed")
        done.update(planned.stage.name for planned in pipeline.plan() if planned.state == "done")
        try:
            pipeline.run(until="evaluate")
            break
        except Killed:
            finished = {planned.stage.name for planned in pipeline.plan() if planned.state == "done"}
            assert finished >= set(done), "a finished stage was lost"
    assert not kills, f"{len(kills)} of 10 kills did not hit"
    for name in ("learners/student/seed-1/rounds", "learners/student/seed-1/evaluate"):
        one, other = (Pipeline(recipe, tmp_path / run).folder.record(name) for run in ("undisturbed", "killed"))
        assert one.files == other.files


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"own_texts": {"rounds": 2}}, "has no effect without `self` among `rationales`"),
        ({"rationales": ["self"], "soft_labels": "mentor"}, "missing: a learner of own texts alone has no epochs"),
        ({"rationales": ["teacher", "self"], "kd_weight": {"mentor": 0.5}}, "`mentor` is not among its `rationales`"),
        (
            {"rationales": ["teacher"], "reads": {"teacher": {"weight": "frontier"}}},
            "`frontier` needs the learner's own texts",
        ),
        ({"rationales": ["teacher"], "folds": 2}, "has no effect: no learner names `student`"),
        ({"rationales": ["teacher", "student"]}, "a learner's own texts are called `self`"),
        ({"rationales": ["teacher", "self"], "objective": "step_by_step"}, "so it has no own texts"),
        ({"model": {"learner": "student"}}, "a learner cannot start from its own weights"),
        ({"model": {"learner": "absent"}}, "there is no learner `absent`"),
        (
            {**ON_POLICY, "divergence": "hidden_states", "soft_label_store": "online"},
            "`hidden_states` compares layers on given text",
        ),
        (
            {"soft_labels": "mentor", "soft_label_store": "chunks", "divergence": "mse"},
            "`mse` compares whole distributions",
        ),
        (
            {"soft_labels": "mentor", "soft_label_store": "online", "mentor_reads": "gold"},
            "`gold` needs soft labels that are stored",
        ),
        ({"soft_labels": "mentor", "kd_weight": {"teacher": 0}}, "0 for every source, so no soft label is read"),
        (
            {"rationales": ["teacher", "self"], "soft_labels": "teacher"},
            "the teacher has no soft labels of the learner's own",
        ),
        (
            {"rationales": ["self"], "soft_labels": "mentor", "kd_weight": 0.5, "training": {"updates": 9}},
            "one number is for the texts of others",
        ),
        ({**ON_POLICY, "training": {"updates": 2}}, "got 2 for 3 trainings (`own_texts.rounds`)"),
        ({"model": {"learner": "mentor", "chat_date": "2025-01-01"}}, "`chat_date` belongs to the model of `mentor`"),
        ({**ON_POLICY, "kd_weight": {"self": 0}}, "0 on own texts is cross-entropy on all of them, wrong ones too"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_runs(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(Exception, match="recipe") as caught:
        recipe_of(tmp_path, student=changes)
    assert fault in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_more_folds_than_questions_are_told_when_the_data_are_read(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, student={"rationales": ["mentor"]})
    mentor = recipe.learners["mentor"].model_copy(update={"folds": 41})
    recipe = recipe.model_copy(update={"learners": recipe.learners | {"mentor": mentor}})
    with pytest.raises(Exception, match="folds: got 41 for 40 training questions; give at most 40"):
        Pipeline(recipe, tmp_path / "run").run(until="prepare")


def test_a_recipe_in_a_run_folder_is_read_back_equal(finished: Pipeline) -> None:
    stored = load_recipe(finished.folder.root / "recipe.yaml", check_files=False)
    assert json.loads(stored.model_dump_json()) == json.loads(finished.recipe.model_dump_json())


def fingerprints(recipe: Recipe, kind: str) -> list[str]:
    return [stage.fingerprint for stage in compile_stages(recipe) if stage.kind == kind and stage.learner == "student"]


def test_settings_by_source_are_known_by_the_texts_and_not_by_names(tmp_path: Path) -> None:
    """`a` and `b` change places: the student reads the same texts in the same order, with the weights of the other."""

    def of(first: str, second: str, weights: dict[str, float]) -> str:
        recipe = recipe_of(
            tmp_path,
            **{first: {"training": {"learning_rate": 1e-3}}, second: {"training": {"learning_rate": 2e-3}}},
            student={"rationales": [first, second], "soft_labels": "mentor", "kd_weight": weights},
        )
        return fingerprints(recipe.model_copy(update={"match": "epochs"}), "train")[0]

    assert of("a", "b", {"a": 0.1, "b": 0.9}) == of("b", "a", {"b": 0.1, "a": 0.9})
    assert of("a", "b", {"a": 0.1, "b": 0.9}) != of("b", "a", {"a": 0.1, "b": 0.9})


def test_spelt_out_defaults_are_the_same_training(tmp_path: Path) -> None:
    forms = [
        fingerprints(recipe_of(tmp_path, student={**ON_POLICY, "kd_weight": weights}), "train")
        for weights in (0.3, {"self": 1.0}, {"teacher": 0.3, "mentor": 0.3, "self": 1.0})
    ]
    assert forms[0] == forms[1] == forms[2]


def test_trials_of_a_search_have_own_texts_of_their_own(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, student={**ON_POLICY, "search": {"learning_rate": [1e-3, 1e-2]}})
    stages = compile_stages(recipe)
    assert len({stage.name for stage in stages}) == len(stages)
    assert (
        len([stage for stage in stages if stage.kind == "score" and stage.round == 1 and stage.source == "self"]) == 2
    )


def test_a_text_that_others_have_too_is_theirs(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, student={**ON_POLICY, "rationales": ["self", "teacher"]})
    assert list(in_reading_order(recipe.learners["student"])) == ["teacher", "self"]


def test_a_round_without_a_text_to_imitate_is_measured_on_the_texts_as_they_were_written(tmp_path: Path) -> None:
    recipe = recipe_of(
        tmp_path, student={**ON_POLICY, "own_texts": {"rounds": 1}, "reads": {"self": {"correct": True}}}
    )
    pipeline = Pipeline(recipe, tmp_path / "run")
    pipeline.run(until="rounds")
    own = pipeline.folder.record_of(TrainRecord, "learners/student/seed-1/round-1/train").own_texts
    assert own is not None
    assert own.writer_entropy > 0
