"""What is wrong with a recipe, in plain words.

`plain_faults` translates pydantic's errors; `combined_faults` finds what only shows when several keys are seen at once.
Both work on raw values, so that one malformed key does not hide the faults of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mentorkd.files import digest_path
from mentorkd.recipe.graph import Links, cycles, judged_in, links_in
from mentorkd.recipe.objectives import OBJECTIVES, ObjectiveSpec
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.yaml import KeyPath, suggestion
from mentorkd.records import GOLD, TEACHER, normalise_whitespace

__all__ = [
    "Finding",
    "combined_faults",
    "learnable_filters",
    "mapping",
    "plain_faults",
    "unused_settings",
    "weight_faults",
]

Finding = tuple[KeyPath, str]
"""A key and what is wrong with it."""

_SOFT_LABEL_SETTINGS = ("kd_weight", "temperature", "tau_squared", "divergence", "layers", "soft_label_store", "top_k")

_SEQ2SEQ = frozenset(
    {"bart", "bigbird_pegasus", "blenderbot", "led", "longt5", "m2m_100", "marian", "mbart", "mt5", "nllb-moe"}
    | {"pegasus", "pegasus_x", "plbart", "prophetnet", "switch_transformers", "t5", "t5gemma", "umt5"}
)
_CAUSAL = frozenset(
    {"bloom", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj"}
    | {"granite", "llama", "mamba", "mistral", "mixtral", "mpt", "olmo", "olmo2", "opt", "phi", "phi3", "qwen2"}
    | {"qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2"}
)

_RESERVED = {TEACHER: "the teacher", GOLD: "the gold answers"}
_TEXT_ONLY = {TEACHER: "the teacher gives text only", GOLD: "the gold answers are text only"}

_VOCABULARIES = ("tokenizer.json", "spiece.model", "tokenizer.model", "vocab.json")

_EXPECTED = {
    "bool": "true or false",
    "dict": "a mapping of keys to values",
    "float": "a number",
    "int": "a whole number",
    "list": "a list, e.g. [a, b]",
    "model": "a mapping of keys to values",
    "string": "text; put it in quotes",
}
_BOUNDS = {
    "greater_than": ("gt", "a number above"),
    "greater_than_equal": ("ge", "a number of at least"),
    "less_than": ("lt", "a number below"),
    "less_than_equal": ("le", "a number of at most"),
}


def mapping(value: Any) -> dict[str, Any]:
    """`value` if it is a mapping, else an empty one: for looking into raw values of any shape."""
    return value if isinstance(value, dict) else {}


def plain_faults(error: ValidationError, raw: Any) -> list[Finding]:
    """Pydantic's errors about `raw` as keys of `raw` and plain words."""
    return [_translated(details, raw) for details in error.errors(include_url=False)]


def combined_faults(raw: Mapping[str, Any]) -> Iterator[Finding]:
    """Faults between keys of `raw`, a recipe with its defaults merged: the learner graph, settings that have no effect
    or exclude each other. Parts of the wrong shape are passed over; `plain_faults` tells of them.
    """
    learners = {str(name): mapping(learner) for name, learner in mapping(raw.get("learners")).items()}
    links = {name: links_in(learner) for name, learner in learners.items()}
    judged = {name: _judges(name, raw) for name in learners}
    for name, learner in learners.items():
        if name in _RESERVED:
            yield ("learners", name), f"`{name}` stands for {_RESERVED[name]}; give the learner another name"
        if "@" in name and name not in mapping(raw.get("variants")):
            yield ("learners", name), "`@` stands in names that a sweep makes; give the learner another name"
        yield from _link_faults(name, links)
        yield from _mentor_faults(name, learners)
        yield from _judge_faults(name, judged[name], learners)
        yield from _reading_faults(name, learner, links)
        yield from _setting_faults(name, learner)
        yield from _pair_faults(name, learner, learners)
    needs = {name: [*link.learners, *judged[name].values()] for name, link in links.items()}
    for cycle in cycles(needs):
        way = " -> ".join([*cycle, cycle[0]])
        yield ("learners", cycle[0]), f"a cycle, where each learns from the next: {way}; remove one of these names"
    yield from _validation_faults(raw, learners)
    seeds = raw.get("seeds")
    if isinstance(seeds, list):
        for index, seed in enumerate(seeds):
            if seed in seeds[:index]:
                yield ("seeds", index), f"{seed} is given twice; a seed is one run"


def learnable_filters(raw: Mapping[str, Any]) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """Every `learnable` filter of a raw recipe, and its place."""
    learners = mapping(raw.get("learners"))
    filters: list[tuple[KeyPath, Any]] = [(("teacher", "select"), mapping(raw.get("teacher")).get("select"))]
    filters += [(("learners", name, "select"), mapping(learner).get("select")) for name, learner in learners.items()]
    for name, learner in learners.items():
        reads = mapping(mapping(learner).get("reads"))
        filters += [(("learners", name, "reads", source), select) for source, select in reads.items()]
    for place, select in filters:
        if isinstance(judge := mapping(select).get("learnable"), dict):
            yield (*place, "learnable"), judge


def _judges(name: str, raw: Mapping[str, Any]) -> dict[KeyPath, str]:
    """The learners that judge what a learner reads, by the places that name them."""
    reads, judges = mapping(mapping(mapping(raw.get("learners"))[name]).get("reads")), dict[KeyPath, str]()
    for source, learnable in judged_in(raw, name).items():
        shared: KeyPath = ("teacher", "select") if source == TEACHER else ("learners", source, "select")
        own = "learnable" in mapping(reads.get(source))
        place = ("learners", name, "reads", source) if own else shared
        judges[(*place, "learnable", "model")] = learnable["model"]
    return judges


def _judge_faults(
    name: str, judges: Mapping[KeyPath, str], learners: Mapping[str, dict[str, Any]]
) -> Iterator[Finding]:
    for place, judge in judges.items():
        if judge == name:
            how = "name another model, or filter under `reads` of those that come after it"
            yield place, f"`{name}` cannot judge what it is itself to learn from; {how}"
        elif not _objective(learners[judge]).writes_rationales:
            yield place, f"`{judge}` {_answers_alone(learners[judge])}; name another model"


def _link_faults(name: str, links: Mapping[str, Links]) -> Iterator[Finding]:
    own = links[name]
    others = [other for other in links if other != name]
    authors = [*_RESERVED, *others]
    for index, author in enumerate(own.rationales):
        place: KeyPath = ("learners", name, "rationales", index)
        if author in own.rationales[:index]:
            yield place, f"`{author}` is named twice"
        elif author == name and name not in _RESERVED:
            yield place, "a learner cannot learn from itself"
        elif author not in authors:
            yield place, f"there is no learner `{author}`{suggestion(author, authors)}"
        elif author in links and list(links[author].rationales) == [GOLD]:
            yield place, f"`{author}` learns bare answers and writes no rationale; name it in `soft_labels` alone"
    place = ("learners", name, "soft_labels")
    for mentor in own.soft_labels:
        if mentor in _TEXT_ONLY:
            yield place, f"{_TEXT_ONLY[mentor]}; soft labels come from a learner"
        elif mentor == name:
            yield place, "a learner cannot learn from itself"
        elif mentor not in links:
            yield place, f"there is no learner `{mentor}`{suggestion(mentor, others)}"


def _mentor_faults(name: str, learners: Mapping[str, dict[str, Any]]) -> Iterator[Finding]:
    own = links_in(learners[name])
    for key, named in (("rationales", own.rationales), ("soft_labels", own.soft_labels)):
        for other in named:
            if other in learners and not _objective(learners[other]).writes_rationales:
                why = f"{_answers_alone(learners[other])}, which teaches nobody"
                yield ("learners", name, key), f"`{other}` {why}; name another learner"


def _objective(learner: Mapping[str, Any]) -> ObjectiveSpec:
    """The objective of a raw learner; the default one for an unknown name, which `plain_faults` reports."""
    return OBJECTIVES.get(str(learner.get("objective")), OBJECTIVES["rationale"])


def _answers_alone(learner: Mapping[str, Any]) -> str:
    return f"answers without reasoning (`objective: {learner['objective']}`)"


def _any_objective(names: list[str]) -> str:
    """`objective: step_by_step` or `mcc`."""
    return f"`objective: {'` or `'.join(names)}`"


def _reading_faults(name: str, learner: dict[str, Any], links: Mapping[str, Links]) -> Iterator[Finding]:
    for source in mapping(learner.get("reads")):
        if source not in links[name].rationales:
            close = suggestion(source, links[name].rationales)
            yield ("learners", name, "reads", source), f"`{source}` is not among its `rationales`{close}"


def unused_settings(learner: Mapping[str, Any]) -> dict[str, str]:
    """Keys of a learner that mean nothing beside its others, and what they wait for."""
    idle: dict[str, str] = {}
    matching = learner.get("divergence") == "hidden_states"
    if not matching:
        idle["layers"] = "`divergence: hidden_states`; remove it, or choose that divergence"
    if learner.get("soft_label_store") != "top_k":
        idle["top_k"] = "`soft_label_store: top_k`; remove it, or choose that store"
    if learner.get("soft_labels") is None:
        idle |= dict.fromkeys(_SOFT_LABEL_SETTINGS, "`soft_labels`; remove it, or name a mentor in `soft_labels`")
    elif matching:
        idle |= dict.fromkeys(("temperature", "tau_squared"), "distributions, which `hidden_states` has not; remove it")
    for key in ("objective_temperature", "objective_weight"):
        users = [name for name, spec in OBJECTIVES.items() if key in spec.settings]
        if str(learner.get("objective", "rationale")) in OBJECTIVES.keys() - users:
            idle[key] = f"{_any_objective(users)}; remove it, or choose such an objective"
    return idle


def _setting_faults(name: str, learner: dict[str, Any]) -> Iterator[Finding]:
    place = ("learners", name)
    for key, need in unused_settings(learner).items():
        if key in learner:
            yield (*place, key), f"has no effect without {need}"
    if learner.get("soft_labels") is not None:
        yield from _imitation_faults(place, learner)
    if learner.get("objective", "rationale") != "rationale":
        yield from _objective_faults(place, learner)
    prompt = learner.get("prompt")
    if isinstance(prompt, str) and "{question}" not in prompt:
        yield (*place, "prompt"), f"got {prompt!r}; expected a template with {{question}} in it"


def _imitation_faults(place: KeyPath, learner: dict[str, Any]) -> Iterator[Finding]:
    divergence, store = learner.get("divergence"), learner.get("soft_label_store")
    if learner.get("rationales") == []:
        why = "has no effect with `rationales: []`; soft labels are given on text"
        yield (*place, "soft_labels"), f"{why}, so name whose in `rationales`"
    elif store == "top_k" and divergence in ("mse", "soft_ce"):
        need = f"`{divergence}` needs the mentor's whole distribution"
        yield (*place, "divergence"), f"{need}, of which `top_k` keeps a part; store `hidden`, or use `online`"
    elif divergence == "hidden_states":
        if store != "online":
            why = "`hidden_states` compares layers with those of a live mentor"
            yield (*place, "divergence"), f"{why}; set `soft_label_store: online`"
        if (count := len(links_in(learner).soft_labels)) > 1:
            yield (*place, "soft_labels"), f"got {count} mentors; `hidden_states` compares layers with those of one"
    if learner["soft_labels"] == {}:
        yield (*place, "soft_labels"), "empty; name a learner, or several with their weights"


def _objective_faults(place: KeyPath, learner: dict[str, Any]) -> Iterator[Finding]:
    objective = learner["objective"]
    if not set(links_in(learner).rationales) - {GOLD}:
        yield (*place, "objective"), f"`{objective}` learns from rationales; name whose in `rationales`"
    if not _objective(learner).soft_labels and learner.get("soft_labels") is not None:
        others = _any_objective([name for name, spec in OBJECTIVES.items() if spec.soft_labels])
        yield (*place, "soft_labels"), f"`{objective}` learns from text alone; remove `soft_labels`, or choose {others}"
    yield from weight_faults((*place, "objective_weight"), learner, learner.get("objective_weight"))


def weight_faults(place: KeyPath, learner: Mapping[str, Any], weight: Any) -> Iterator[Finding]:
    """What is wrong with a value of `objective_weight`."""
    limit = _objective(learner).max_weight
    if isinstance(weight, int | float) and weight > limit:
        yield place, f"got {weight}; expected at most {limit:g} with `objective: {learner['objective']}`"


def _pair_faults(name: str, learner: dict[str, Any], learners: Mapping[str, dict[str, Any]]) -> Iterator[Finding]:
    """Soft labels are probabilities over one vocabulary, of text that both models see in the same place."""
    for mentor in links_in(learner).soft_labels:
        if mentor in learners and mentor != name:
            yield from _two_models_faults(name, learner, mentor, learners)


def _two_models_faults(
    name: str, learner: dict[str, Any], mentor: str, learners: Mapping[str, dict[str, Any]]
) -> Iterator[Finding]:
    place = ("learners", name, "soft_labels")
    ours, theirs = mapping(learner.get("model")), mapping(learners[mentor].get("model"))
    config, their_config = mapping(ours.get("from_config")), mapping(theirs.get("from_config"))
    if not (config and their_config):
        return
    tokenizer, their_tokenizer = ours.get("tokenizer"), theirs.get("tokenizer")
    if isinstance(tokenizer, str) and isinstance(their_tokenizer, str) and _differ(tokenizer, their_tokenizer):
        two = f"the tokenizer is {tokenizer} here and {their_tokenizer} in `{mentor}`"
        yield place, f"{two}; soft labels need one vocabulary"
    kinds = {config.get("model_type"): name, their_config.get("model_type"): mentor}
    seq2seq = [f"`{who}` ({kind})" for kind, who in kinds.items() if kind in _SEQ2SEQ]
    causal = [f"`{who}` ({kind})" for kind, who in kinds.items() if kind in _CAUSAL]
    if seq2seq and causal:
        yield place, f"{seq2seq[0]} is an encoder-decoder and {causal[0]} is not; soft labels need two of a kind"


def _differ(tokenizer: str, other: str) -> bool:
    """Whether two local tokenizers have the same vocabulary file with different content. What cannot be told from files
    (hub names, files of different kinds) is for the run to find, which loads them.
    """
    files = [_vocabulary(Path(name)) for name in (tokenizer, other)]
    if tokenizer == other or None in files:
        return False
    mine, theirs = (file for file in files if file is not None)
    return mine.suffix == theirs.suffix and digest_path(mine) != digest_path(theirs)


def _vocabulary(tokenizer: Path) -> Path | None:
    candidates = [tokenizer, *(tokenizer / name for name in _VOCABULARIES)]
    return next((file for file in candidates if file.is_file()), None)


def _validation_faults(raw: Mapping[str, Any], learners: Mapping[str, dict[str, Any]]) -> Iterator[Finding]:
    task = mapping(raw.get("task"))
    if task.get("validation") is not None or task.get("validation_share") != 0:
        return
    trained = {name: learner for name, learner in learners.items() if learner.get("rationales") != []}
    settings = {name: mapping(learner.get("training")) for name, learner in trained.items()}
    selecting = [name for name, own in settings.items() if own.get("select_on", "validation") == "validation"]
    if selecting:
        lack = f"0 leaves {', '.join(selecting)} nothing to choose the best epoch on"
        ways = "give a share above 0, or a file as `task.validation`, or `training.select_on: last`"
        yield ("task", "validation_share"), f"{lack}; {ways}"


def _translated(details: ErrorDetails, raw: Any) -> Finding:
    location = [part for part in details["loc"] if part != "[key]"]
    path = _key_path(location, raw, with_absent=details["type"] in ("missing", "extra_forbidden"))
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "extra_forbidden":
        return path, _unknown_key(path, next((part for part in location if part not in path), None))
    if kind == "union_tag_not_found":
        choices = ", ".join(tag for model in _models_at(path) for tag in _tag(model))
        return (*path, "kind"), f"missing; expected one of {choices}"
    if kind == "union_tag_invalid":
        path, value = (*path, "kind"), context["tag"]
    if kind == "missing":
        fields = [model.model_fields.get(str(path[-1])) for model in _models_at(path[:-1])]
        about = next((field.description for field in fields if field is not None), None)
        return path, f"missing ({_first_sentence(about)})" if about else "missing"
    if kind == "value_error":
        return path, str(context["error"])
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return path, f"got {_shown(value)}; expected {words} {context[key]}"
    if kind in ("literal_error", "union_tag_invalid"):
        choices = str(context.get("expected", context.get("expected_tags"))).replace(" or ", ", ").replace("'", "")
        close = suggestion(value, choices.split(", ")) if isinstance(value, str) else ""
        return path, f"got {_shown(value)}; expected one of {choices}{close}"
    if kind == "too_short":
        return path, "empty; expected at least one"
    if kind == "string_pattern_mismatch":
        signs = context["pattern"].split("[")[-1].split("]")[0].replace("A-Za-z0-9", "letters, digits, ")
        return path, f"got {_shown(value)}; expected a letter or digit, then only {signs}"
    expected = _EXPECTED.get(kind.split("_")[0])
    return path, f"got {_shown(value)}; expected {expected or details['msg']}"


def _key_path(location: list[int | str], raw: Any, *, with_absent: bool) -> KeyPath:
    """Pydantic's location without the parts that are not keys of `raw`, such as the tag of a union; a key that is
    missed or not wanted is the last part.
    """
    path: list[int | str] = []
    for number, part in enumerate(location, 1):
        inside = (isinstance(raw, list) and isinstance(part, int)) or part in mapping(raw)
        if inside or (with_absent and number == len(location)):
            path.append(part)
            raw = raw[part] if inside else None
    return tuple(path)


def _unknown_key(path: KeyPath, tag: int | str | None) -> str:
    """What is wrong with a key that the model at its place has not; `tag` tells which of a union's models that is."""
    key, models = str(path[-1]), _models_at(path[:-1])
    mine = [model for model in models if tag in _tag(model)] or models
    if others := [other for model in models if key in model.model_fields for other in _tag(model)]:
        return f"belongs to `kind: {others[0]}`, and this is `kind: {tag}`; remove it, or change `kind`"
    return f"unknown key{suggestion(key, [known for model in mine for known in model.model_fields])}"


def _tag(model: type[BaseModel]) -> tuple[str, ...]:
    """The value of `kind` that chooses this model of a union; none where there is no such choice."""
    field = model.model_fields.get("kind")
    return () if field is None else get_args(field.annotation)


def _models_at(path: KeyPath) -> list[type[BaseModel]]:
    """The models that may stand at `path` of a recipe."""
    kinds: list[Any] = [Recipe]
    for part in path:
        kinds = [inner for kind in kinds for inner in _inside(kind, part)]
    return [model for kind in kinds for model in _models(kind)]


def _inside(kind: Any, part: int | str) -> list[Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind.model_fields[part].annotation] if part in kind.model_fields else []
    if get_origin(kind) in (dict, list):
        return [get_args(kind)[-1]]
    return [inner for argument in get_args(kind) for inner in _inside(argument, part)]


def _models(kind: Any) -> list[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [] if get_origin(kind) in (dict, list) else [model for part in get_args(kind) for model in _models(part)]


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _first_sentence(text: str) -> str:
    return normalise_whitespace(text).split(". ")[0].rstrip(".")
