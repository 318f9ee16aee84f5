"""Checks of models and engines before anything runs. They report all faults at once, not one after an hour of training."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from importlib.util import find_spec

import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from mentorkd.distillation.objectives.hidden_states import map_layers
from mentorkd.distillation.vocabularies import end_tokens
from mentorkd.errors import Fault, MentorkdError, ModelError, RecipeError, install_command
from mentorkd.models import (
    balancing_loss,
    check_structure,
    config_of,
    dropped_layers,
    layer_count,
    load_tokenizer,
    logit_change,
    model_kind,
    resolve_device,
    vocabulary_size,
)
from mentorkd.models.attention import check_attention
from mentorkd.recipe.graph import initial_model
from mentorkd.recipe.learner import Learner, ModelConfig
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.unread import unread_filters
from mentorkd.recipe.vocabularies import soft_label_form
from mentorkd.recipe.yaml import suggestion
from mentorkd.records import TEACHER, ModelKind
from mentorkd.teachers.annotate import open_teacher
from mentorkd.training.processes import missing_devices

log = logging.getLogger(__name__)


def check(recipe: Recipe, kinds: Collection[str]) -> None:
    """Raise an error for what would fail at a stage of these kinds."""
    if "annotate" in kinds:
        open_teacher(recipe).check()
    if not {"train", "evaluate", "sample"}.isdisjoint(kinds):
        check_models(recipe)


def check_models(recipe: Recipe) -> None:
    """Raise RecipeError with all faults: models that cannot be loaded, engines and trackers that are not installed, engines
    that do not serve a model, soft labels between models of different kinds or vocabularies, hidden states of mentors that change
    their logits after the head, layers that a model does not have, settings of a chat template that it does not use, attention that
    the machine or the model does not have, packed rows of encoder-decoder models, more processes than devices, and several processes
    for a model that skips layers at random. Loads configs and tokenizers, no weights."""
    for line in unread_filters(recipe):
        log.warning("%s", line)
    faults: list[Fault] = []
    device = resolve_device(recipe.device)
    kinds: dict[str, ModelKind] = {}
    tokenizers: dict[str, PreTrainedTokenizerBase] = {}
    known: dict[str, tuple[PretrainedConfig, PreTrainedTokenizerBase]] = {}  # most arms share a model
    configs: dict[str, PretrainedConfig] = {}
    for name, learner in recipe.learners.items():
        try:
            initial = initial_model(recipe, name)
            model = initial.model_dump_json()
            if model not in known:
                check_attention(initial.attn_implementation, device)
                known[model] = config_of(initial), load_tokenizer(initial)
                check_structure(initial)
            configs[name], tokenizers[name] = known[model]
            kinds[name] = model_kind(configs[name])
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
        if kinds[name] == "seq2seq" and (unused := _chat_settings(learner.model)):
            what = f"{name} is an encoder-decoder model, whose prompts have no chat template; remove `{unused}`"
            faults.append(Fault(f"learners.{name}.model.{unused}", what))
        if kinds[name] == "seq2seq" and learner.rationales and learner.training.split == "packed":
            what = (
                f"{name} is an encoder-decoder model, and `packed` joins the rows of causal models; take auto or none"
            )
            faults.append(Fault(f"learners.{name}.training.split", what))
        if learner.rationales and (balancing := balancing_loss(configs[name])) is not None:
            log.warning(
                "learners.%s: the model has experts and a loss that balances them (%s); mentorkd trains without that loss, by "
                "the learner's objective alone",
                name,
                balancing,
            )
    faults += _scorer_faults(recipe)
    faults += _process_faults(recipe, configs, device)
    _tell_chunks(recipe, configs)
    for name in configs:
        for mentor in recipe.learners[name].mentor_weights:
            if mentor == TEACHER or mentor in configs:
                faults += _soft_label_faults(recipe, name, mentor, configs, tokenizers)
    if faults:
        places: dict[str, list[str]] = {}
        for fault in faults:  # the same message for several learners is one fault
            places.setdefault(fault.message, []).append(fault.key)
        raise RecipeError(recipe.name, [Fault(", ".join(keys), message) for message, keys in places.items()])


def _process_faults(recipe: Recipe, configs: Mapping[str, PretrainedConfig], device: torch.device) -> Iterator[Fault]:
    """Trainings with more processes than there are devices for a stage, or for a model that skips layers at random."""
    for name, learner in recipe.learners.items():
        processes, key = learner.training.processes, f"learners.{name}.training.processes"
        if learner.rationales and (missing := missing_devices(processes, device)):
            yield Fault(key, missing)
        if learner.rationales and processes > 1 and name in configs and (dropped := dropped_layers(configs[name])):
            what = f"got {processes} processes, each of which would skip other layers of the model ({dropped})"
            yield Fault(key, f"{what}; set 1, or set the model's `{dropped.partition(':')[0]}` to 0")


def _tell_chunks(recipe: Recipe, names: Collection[str]) -> None:
    """Say which learners have likelihoods of chunks by themselves, in one line for each mentor."""
    students: dict[str, list[str]] = {}
    for name in names:
        learner = recipe.learners[name]
        for mentor in learner.mentor_weights if learner.soft_label_store == "auto" else ():
            if mentor in names and soft_label_form(recipe, name, mentor) == "chunks":
                students.setdefault(mentor, []).append(name)
    for mentor, readers in students.items():
        log.warning(
            "%s has another vocabulary than %s: their soft labels are likelihoods of chunks (`soft_label_store: chunks`)",
            *(mentor, ", ".join(readers)),
        )


def _soft_label_faults(
    recipe: Recipe,
    student: str,
    mentor: str,
    configs: Mapping[str, PretrainedConfig],
    tokenizers: Mapping[str, PreTrainedTokenizerBase],
) -> Iterator[Fault]:
    """What stands against a mentor's soft labels for a student."""
    learner, key = recipe.learners[student], f"learners.{student}.soft_labels"
    if soft_label_form(recipe, student, mentor) == "chunks":
        yield from _chunk_faults(recipe, student, mentor, tokenizers)
        return
    different: str | None
    if len({model_kind(configs[name]) for name in (student, mentor)}) == 2:
        two = f"one of {mentor} and {student} is an encoder-decoder model, and one is not"
        different = f"{two}; {_or_chunks(learner)}take one kind"
    else:
        different = _vocabulary_fault(recipe, mentor, student, tokenizers)
    if different is not None:
        yield Fault(key, different)
    change = logit_change(configs[mentor])
    if change is not None and learner.soft_label_store in ("auto", "hidden"):
        what = (
            f"the mentor {mentor} changes its logits after the head ({change}), so hidden states cannot stand for them"
        )
        yield Fault(f"learners.{student}.soft_label_store", f"{what}; set `top_k` or `online`")
    try:
        if learner.divergence == "hidden_states":
            map_layers(layer_count(configs[student]), layer_count(configs[mentor]), learner.layers)
    except MentorkdError as error:
        yield Fault(f"learners.{student}.layers", str(error))


def _chunk_faults(
    recipe: Recipe, student: str, mentor: str, tokenizers: Mapping[str, PreTrainedTokenizerBase]
) -> Iterator[Fault]:
    """What stands against likelihoods of chunks: they are aligned by characters, and they are no distributions."""
    for name in (student, mentor):
        if name in tokenizers and not tokenizers[name].is_fast:
            what = f"{type(tokenizers[name]).__name__} of {name} does not know which characters a token covers"
            ways = "give a model with a fast tokenizer (tokenizer.json), or learn from rationales alone"
            yield Fault(
                f"learners.{student}.soft_labels", f"{what}, and likelihoods of chunks are aligned by them; {ways}"
            )
    learner = recipe.learners[student]
    for setting in [name for name in ("shuffle_soft_labels", "label_smoothing") if getattr(learner, name)]:
        what = f"needs whole distributions, and {mentor} gives likelihoods of chunks"
        yield Fault(
            f"learners.{student}.{setting}", f"{what}; remove it, or take a mentor with the student's vocabulary"
        )
    others = {learner.divergence_of(source) for source in learner.rationales} - {"forward_kl"}
    if others:
        why = "the teacher's log-probabilities" if mentor == TEACHER else "another vocabulary"
        what = f"`{min(others)}` compares whole distributions, and {mentor} gives likelihoods of chunks ({why})"
        yield Fault(
            f"learners.{student}.divergence", f"{what}; remove it, or take a mentor with the student's vocabulary"
        )


def _chat_settings(model: ModelConfig) -> str | None:
    """The first chat setting that a model has, by its key."""
    given = {"chat_date": model.chat_date, "chat_template_kwargs": model.chat_template_kwargs}
    return next((key for key, value in given.items() if value), None)


def _vocabulary_fault(
    recipe: Recipe, mentor: str, student: str, tokenizers: Mapping[str, PreTrainedTokenizerBase]
) -> str | None:
    """Why a student cannot read a mentor's distributions; None if it can. Warns of one that ends its texts with another token."""
    try:
        ends = end_tokens(tokenizers[mentor], tokenizers[student])
    except ModelError as error:
        return f"{mentor} and {student} {error}; {_or_chunks(recipe.learners[student])}take models of one family"
    if not ends.differ:
        return None
    theirs, own = tokenizers[mentor].eos_token, tokenizers[student].eos_token
    columns = min(vocabulary_size(initial_model(recipe, name)) for name in (mentor, student))
    if columns <= max(ends.mentor, ends.student):
        what = f"{mentor} ends its texts with {theirs!r} ({ends.mentor}), {student} with {own!r} ({ends.student})"
        return f"{what}, and one of their heads has only {columns} tokens; take two models with heads of one size"
    log.warning(
        "learners.%s.soft_labels: the mentor %s ends its texts with %r (%d), %s with %r (%d); the mentor's probability of its "
        "end is read as the student's",
        *(student, mentor, theirs, ends.mentor, student, own, ends.student),
    )
    return None


def _or_chunks(learner: Learner) -> str:
    """The advice to take chunks, for a learner that can."""
    return "" if learner.divergence == "hidden_states" else "set `soft_label_store: chunks`, or "


def _scorer_faults(recipe: Recipe) -> list[Fault]:
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
