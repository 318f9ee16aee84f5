"""Checks of models and engines before anything runs. They report all faults at once, not one after an hour of training."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec

from mentorkd.distillation.objectives.hidden_states import map_layers
from mentorkd.errors import Fault, MentorkdError, RecipeError, install_command
from mentorkd.models import config_of, kind_of, layer_count, load_tokenizer, tokenizer_digest
from mentorkd.recipe.learner import ModelConfig
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.yaml import suggestion
from mentorkd.records import ModelKind
from mentorkd.teachers.annotate import open_teacher


def check(recipe: Recipe, kinds: Collection[str]) -> None:
    """Raise an error for what would fail at a stage of these kinds."""
    if "annotate" in kinds:
        open_teacher(recipe).check()
    if "train" in kinds or "evaluate" in kinds:
        check_models(recipe)


def check_models(recipe: Recipe) -> None:
    """Raise RecipeError with all faults: models that cannot be loaded, engines and trackers that are not installed, engines
    that do not serve a model, soft labels between models of different kinds or vocabularies, and layers that a model does not
    have. Loads configs and tokenizers, no weights."""
    faults: list[Fault] = []
    kinds: dict[str, ModelKind] = {}
    digests: dict[str, str] = {}
    known: dict[str, tuple[ModelKind, str]] = {}  # most arms share a model
    for name, learner in recipe.learners.items():
        try:
            model = learner.model.model_dump_json()
            if model not in known:
                known[model] = kind_of(learner.model), tokenizer_digest(load_tokenizer(learner.model))
            kinds[name], digests[name] = known[model]
        except MentorkdError as error:
            faults.append(Fault(f"learners.{name}.model", str(error)))
            continue
        for tracker in learner.training.report_to if learner.rationales else ():
            if find_spec(tracker) is None:
                what = f"{tracker} is not installed; install it with: pip install {tracker}"
                faults.append(Fault(f"learners.{name}.training.report_to", what))
        engine = learner.sampling.engine
        key = f"learners.{name}.sampling.engine"
        if engine in ("ctranslate2", "vllm") and find_spec(engine) is None:
            faults.append(Fault(key, f"{engine} is not installed; install it with: {install_command(engine)}"))
        elif engine == "vllm" and kinds[name] == "seq2seq":
            faults.append(Fault(key, "vllm serves causal models only; take auto, transformers or ctranslate2"))
    faults += _judge_faults(recipe)
    for name, learner in recipe.learners.items():
        for mentor in learner.mentor_weights:
            if name not in digests or mentor not in digests:
                continue
            key, pair = f"learners.{name}.soft_labels", f"{mentor} and {name}"
            if kinds[name] != kinds[mentor]:
                what = f"the mentor {mentor} is a {kinds[mentor]} model, {name} a {kinds[name]} one; take one kind"
                faults.append(Fault(key, what))
            elif digests[name] != digests[mentor]:
                what = f"{pair} have different vocabularies, so their token distributions cannot be compared"
                how = "take models of one family, or learn from its `rationales` alone"
                faults.append(Fault(key, f"{what}; {how}"))
            try:
                if learner.divergence == "hidden_states":
                    student, taught = (layer_count(config_of(recipe.learners[each].model)) for each in (name, mentor))
                    map_layers(student, taught, learner.layers)
            except MentorkdError as error:
                faults.append(Fault(f"learners.{name}.layers", str(error)))
    if faults:
        places: dict[str, list[str]] = {}
        for fault in faults:  # the same message for several learners is one fault
            places.setdefault(fault.message, []).append(fault.key)
        raise RecipeError(recipe.name, [Fault(", ".join(keys), message) for message, keys in places.items()])


def _judge_faults(recipe: Recipe) -> list[Fault]:
    """Models named by `perplexity` filters that are not learners and cannot be loaded."""
    faults = []
    for name, learner in recipe.learners.items():
        for source in learner.rationales:
            perplexity = recipe.filter_of(name, source).perplexity
            if perplexity is not None and perplexity.model not in recipe.learners:
                try:
                    load_tokenizer(ModelConfig(name=perplexity.model))
                except MentorkdError as error:
                    key = f"learners.{name}.reads.{source}.perplexity.model"
                    close = suggestion(perplexity.model, recipe.learners)
                    faults.append(Fault(key, f"no learner of the recipe{close}, and {error}"))
    return faults
