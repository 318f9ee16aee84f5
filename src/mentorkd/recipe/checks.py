"""The faults of a recipe, in plain words.

`plain_faults` translates pydantic's errors; `combined_faults` finds faults between several keys.
Both work on raw values, so that one malformed key does not hide the faults of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mentorkd.recipe.graph import Links, arms, cycles, links_of
from mentorkd.recipe.learner import BySource, Learner
from mentorkd.recipe.objectives import NOT_OF_TOP_K, OBJECTIVES, ObjectiveSpec
from mentorkd.recipe.schema import FILE_NAME, MOST_SEEDS, Recipe
from mentorkd.recipe.yaml import KeyPath, mapping, suggestion
from mentorkd.records import GOLD, SELF, TEACHER, normalise_whitespace

Finding = tuple[KeyPath, str]
"""A key, and the fault at this key."""

_SOFT_LABEL_SETTINGS = (
    *("kd_weight", "temperature", "tau_squared", "divergence", "layers", "soft_label_store", "top_k"),
    *("chunk_temperature", "mentor_reads", "shuffle_soft_labels"),
)

_RESERVED = {TEACHER: "the teacher", GOLD: "the gold answers", SELF: "a learner's own texts"}
_TEXT_ONLY = {GOLD: "the gold answers are text only", SELF: "a learner's own texts are text only"}

_SMOOTHED_CHUNKS = (
    "needs the whole distribution of the student, and `chunks` computes the likelihood of the text alone; remove it"
)

_EXPECTED = {
    "bool": "true or false",
    "dict": "a mapping of keys to values",
    "finite": "a finite number",
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


def plain_faults(error: ValidationError, raw: Any) -> list[Finding]:
    """Pydantic's errors about `raw`, with keys of `raw` and plain words.

    Where a key takes one value or a mapping, pydantic has errors of both forms: only those of the form that was given count.
    """
    errors = error.errors(include_url=False)
    findings = [_translated(details, raw) for details in errors]

    def is_of_the_other_form(details: ErrorDetails, place: KeyPath) -> bool:
        others = [
            other for other, one in zip((path for path, _ in findings), errors, strict=True) if one is not details
        ]
        if details["type"] == "dict_type":
            return place in others
        of_value = details["type"].endswith("_type") or details["type"] == "literal_error"
        return of_value and isinstance(details["input"], dict) and any(each[: len(place)] == place for each in others)

    return [
        finding
        for details, finding in zip(errors, findings, strict=True)
        if not is_of_the_other_form(details, finding[0])
    ]


def combined_faults(raw: Mapping[str, Any]) -> Iterator[Finding]:
    """Faults between keys of `raw`, a recipe with its defaults merged. Parts of the wrong shape are left to `plain_faults`."""
    learners = {name: mapping(learner) for name, learner in mapping(raw.get("learners")).items()}
    links = links_of(raw)
    for name, learner in learners.items():
        if name in _RESERVED:
            yield ("learners", name), f"`{name}` stands for {_RESERVED[name]}; give the learner another name"
        if "@" in name and name not in mapping(raw.get("variants")):
            yield ("learners", name), "`@` is reserved for names that a sweep makes; give the learner another name"
        yield from _link_faults(name, links, learners, raw)
        yield from _perplexity_faults(name, links[name], learners)
        yield from _question_faults(name, links, learners)
        yield from _setting_faults(name, learner, links[name])
        yield from own_text_faults(raw, name, learner)
        yield from _fold_faults(name, learners, links)
    for cycle in cycles({name: own.learners for name, own in links.items()}):
        way = " -> ".join([*cycle, cycle[0]])
        yield ("learners", cycle[0]), f"a cycle, where each learns from the next: {way}; remove one of these names"
    yield from _validation_faults(raw, learners)
    yield from _unlabelled_faults(raw, learners)
    seeds = raw.get("seeds")
    if isinstance(seeds, list) and len(seeds) <= MOST_SEEDS:
        for index, seed in enumerate(seeds):
            if seed in seeds[:index]:
                yield ("seeds", index), f"{seed} is given twice; each seed is one run"


def _perplexity_faults(name: str, own: Links, learners: Mapping[str, dict[str, Any]]) -> Iterator[Finding]:
    for author, perplexity in own.perplexity.items():
        model = perplexity["model"]
        place = (*_filter_place(name, author, "perplexity", learners), "model")
        if model == name:
            ways = "name another model, or set this filter under `reads` of the learners that come after it"
            yield place, f"the perplexity of `{name}` cannot filter its own training text; {ways}"
        elif not _objective(learners[model]).writes_rationales:
            yield place, f"`{model}` {_answers_alone(learners[model])}; name another model"


def _question_faults(
    name: str, links: Mapping[str, Links], learners: Mapping[str, dict[str, Any]]
) -> Iterator[Finding]:
    """The faults of filters that limit a source to the questions of another one."""
    sources = [TEACHER, GOLD, *(other for other in links if other != name)]
    for author, source in links[name].questions.items():
        place = _filter_place(name, author, "questions", learners)
        if source == author:
            yield place, f"`{source}` has all of its own questions; name another source, or remove `questions`"
        elif source in (name, SELF):
            yield place, f"`{name}` has its own texts only after it is trained; name another source"
        elif source not in sources:
            yield place, f"there is no source `{source}`{suggestion(source, sources)}"
        elif source in links and (why := _writes_nothing(source, links, learners)):
            yield place, f"`{source}` {why}; name another source"


def _writes_nothing(source: str, links: Mapping[str, Links], learners: Mapping[str, dict[str, Any]]) -> str | None:
    """Why a learner writes no rationales; None if it does."""
    if list(links[source].rationales) == [GOLD]:
        return "learns bare answers and writes no rationale"
    return None if _objective(learners[source]).writes_rationales else _answers_alone(learners[source])


def _filter_place(name: str, author: str, key: str, learners: Mapping[str, dict[str, Any]]) -> KeyPath:
    """The place of a filter of an author's text for a reader: the reader's own one, else that of all readers."""
    if key in mapping(mapping(learners[name].get("reads")).get(author)):
        return "learners", name, "reads", author, key
    return (*(("teacher",) if author == TEACHER else ("learners", author)), "select", key)


def _link_faults(
    name: str, links: Mapping[str, Links], learners: Mapping[str, dict[str, Any]], raw: Mapping[str, Any]
) -> Iterator[Finding]:
    own = links[name]
    others = [other for other in links if other != name]
    authors = [*_RESERVED, *others]
    for index, author in enumerate(own.rationales):
        place: KeyPath = ("learners", name, "rationales", index)
        if author in own.rationales[:index]:
            yield place, f"`{author}` is named twice"
        elif author == name and name not in _RESERVED:
            yield place, f"a learner's own texts are called `{SELF}`; write that, with `own_texts`"
        elif author not in authors:
            yield place, f"there is no learner `{author}`{suggestion(author, authors)}"
        elif author in links and list(links[author].rationales) == [GOLD]:
            yield place, f"`{author}` learns bare answers and writes no rationale; name it only in `soft_labels`"
    if own.initial is not None:
        yield from _initial_faults(name, own.initial, learners)
    place = ("learners", name, "soft_labels")
    for mentor in own.soft_labels:
        if mentor in _TEXT_ONLY:
            yield place, f"{_TEXT_ONLY[mentor]}; soft labels come from a learner, or from a teacher with `logprobs`"
        elif mentor == TEACHER:
            yield from _teacher_label_faults(name, own, learners[name], mapping(raw.get("teacher")))
        elif mentor == name:
            yield place, "a learner cannot learn from itself"
        elif mentor not in links:
            yield place, f"there is no learner `{mentor}`{suggestion(mentor, others)}"
    for key, sources in (("rationales", own.rationales), ("soft_labels", own.soft_labels)):
        for source in sources:
            if source in learners and not _objective(learners[source]).writes_rationales:
                why = f"{_answers_alone(learners[source])}, so no learner can learn from it"
                yield ("learners", name, key), f"`{source}` {why}; name another learner"
    for source in mapping(learners[name].get("reads")):
        if source not in own.rationales:
            close = suggestion(source, own.rationales)
            yield ("learners", name, "reads", source), f"`{source}` is not among its `rationales`{close}"


def _teacher_label_faults(
    name: str, own: Links, learner: Mapping[str, Any], teacher: Mapping[str, Any]
) -> Iterator[Finding]:
    """The faults of log-probabilities of the teacher's tokens as soft labels."""
    place: KeyPath = ("learners", name, "soft_labels")
    if TEACHER not in own.rationales:
        yield place, "the teacher's log-probabilities are those of its own texts; add `teacher` to `rationales`"
    kind = teacher.get("kind", "recorded" if teacher.get("rationales") is not None else None)
    if kind == "openai" and teacher.get("logprobs") is not True:
        yield (
            ("teacher", "logprobs"),
            f"`{name}` imitates the teacher, whose log-probabilities it needs; set `logprobs: true`",
        )
    elif kind not in ("openai", "recorded", None):
        yield place, f"a teacher of `kind: {kind}` gives no log-probabilities; name a learner"
    if learner.get("soft_label_store", "auto") not in ("auto", "chunks"):
        why = "a teacher has likelihoods of its texts alone, which `chunks` stores"
        yield ("learners", name, "soft_label_store"), f"{why}; remove `soft_label_store`"
    if mapping(learner.get("kd_weight")).get(TEACHER) == 0:
        why = "0 on the teacher's own texts, the only ones that it labels"
        yield (
            ("learners", name, "kd_weight", TEACHER),
            f"{why}; give a number above 0, or name only learners in `soft_labels`",
        )


def _initial_faults(name: str, initial: str, learners: Mapping[str, dict[str, Any]]) -> Iterator[Finding]:
    place: KeyPath = ("learners", name, "model", "learner")
    if initial == name:
        yield place, "a learner cannot start from its own weights; name another learner"
    elif initial not in learners:
        yield (
            place,
            f"there is no learner `{initial}`{suggestion(initial, [each for each in learners if each != name])}",
        )
    elif learners[initial].get("rationales") == []:
        yield place, f"`{initial}` is not trained; give its model here"
    elif _folds(learners[initial]) > 1:
        yield place, f"`{initial}` has `folds` and so several models; name a learner with one"
    if learners[name].get("rationales") == []:
        yield ("learners", name, "rationales"), f"empty, so this learner would be `{initial}` again; name sources"


def own_text_faults(raw: Mapping[str, Any], name: str, learner: dict[str, Any]) -> Iterator[Finding]:
    """The faults of own texts, of settings by source, and of weights by own texts."""
    place, sources = ("learners", name), learner.get("rationales")
    sources = [TEACHER] if sources is None else sources if isinstance(sources, list) else []
    for key in get_args(BySource):
        for source in mapping(learner.get(key)):
            if source not in sources:
                yield (*place, key, source), f"`{source}` is not among its `rationales`{suggestion(source, sources)}"
    for source in [] if SELF in sources else sources:
        own = mapping(mapping(learner.get("reads")).get(source))
        author = raw.get("teacher") if source == TEACHER else mapping(raw.get("learners")).get(source)
        if own.get("weight", mapping(mapping(author).get("select")).get("weight")) == "frontier":
            ways = f"add `{SELF}` to `rationales`, or set `weight: equal` here"
            yield (*place, "reads", source, "weight"), f"`frontier` needs the learner's own texts; {ways}"
    if SELF not in sources:
        if learner.get("own_texts") is not None:
            yield (
                (*place, "own_texts"),
                f"has no effect without `{SELF}` among `rationales`; add it, or remove `own_texts`",
            )
        return
    if not _objective(learner).writes_rationales:
        yield (*place, "rationales"), f"`{name}` {_answers_alone(learner)}, so it has no own texts; remove `{SELF}`"
    if learner.get("divergence") == "hidden_states":
        yield (
            (*place, "divergence"),
            f"`hidden_states` compares layers on given text; take another one, or remove `{SELF}`",
        )
    soft = learner.get("soft_labels")
    if _teacher_alone(learner):
        yield (*place, "soft_labels"), "the teacher has no soft labels of the learner's own texts; name a learner, too"
    read = mapping(mapping(learner.get("reads")).get(SELF))
    if soft is not None and mapping(learner.get("kd_weight")).get(SELF) == 0 and not read.get("correct"):
        why = "0 on own texts is cross-entropy on all of them, wrong ones too"
        yield (*place, "kd_weight", SELF), f"{why}; give a number above 0, or set `reads.self.correct: true`"
    default = Learner.model_fields["kd_weight"].default  # which a stored recipe names
    weight = learner.get("kd_weight", default)
    if sources == [SELF] and soft is not None and not isinstance(weight, dict) and weight != default:
        yield (*place, "kd_weight"), "one number is for the texts of others, and there are none; write {self: NUMBER}"
    training, rounds = mapping(learner.get("training")), mapping(learner.get("own_texts")).get("rounds", 4)
    parts = rounds + (sources != [SELF]) if isinstance(rounds, int) else 1
    if isinstance(updates := training.get("updates"), int) and updates < parts:
        yield (
            (*place, "training", "updates"),
            f"got {updates} for {parts} trainings (`own_texts.rounds`); give at least one each",
        )
    match = raw.get("match")
    if name in arms(raw) and (match == "compute" or (match == "tokens" and updates is None)):
        yield ("match",), f"`{match}` cannot count the texts that `{name}` is still to write; take `updates`"
    if updates is None:
        others = [each for each in arms(raw) if not _reads_self_alone(raw, each)]
        matched = name in arms(raw) and others and raw.get("match") != "epochs"
        if _reads_self_alone(raw, name) and not matched:
            yield (*place, "training", "updates"), "missing: a learner of own texts alone has no epochs; give a number"


def _reads_self_alone(raw: Mapping[str, Any], name: str) -> bool:
    return bool(mapping(mapping(raw.get("learners")).get(name)).get("rationales") == [SELF])


def _folds(learner: Mapping[str, Any]) -> int:
    folds = learner.get("folds", 1)
    return folds if isinstance(folds, int) else 1


def _fold_faults(name: str, learners: Mapping[str, dict[str, Any]], links: Mapping[str, Links]) -> Iterator[Finding]:
    learner = learners[name]
    if _folds(learner) == 1:
        return
    place: KeyPath = ("learners", name, "folds")
    readers = [other for other, own in links.items() if name in (*own.rationales, *own.soft_labels)]
    if learner.get("rationales") == []:
        yield place, "has no effect with `rationales: []`, since the model is not trained; remove it"
    if mapping(learner.get("model")).get("learner") is not None:
        why = "the weights that it starts from have seen the questions of every fold"
        yield place, f"cannot be combined with `model.learner`: {why}; remove one of them"
    for reader in [other for other, own in links.items() if name in own.perplexity_models]:
        why = f"`{reader}` filters texts by the perplexity of `{name}`, which has several models then"
        yield place, f"{why}; name another model in the filter, or remove `folds`"
    if not readers:
        yield place, f"has no effect: no learner names `{name}` in `rationales` or `soft_labels`; remove it"
    for reader in readers:
        if name in links[reader].soft_labels and learners[reader].get("soft_label_store") == "online":
            why = f"`{reader}` reads soft labels of one live mentor (`soft_label_store: online`)"
            yield place, f"{why}, and folds make several; choose another store there"
    for key in ("search", "own_texts"):
        if learner.get(key):
            yield place, f"cannot be combined with `{key}`; remove one of them"


def _objective(learner: Mapping[str, Any]) -> ObjectiveSpec:
    """The objective of a raw learner; the default one for an unknown name, which `plain_faults` reports."""
    return OBJECTIVES.get(str(learner.get("objective")), OBJECTIVES["rationale"])


def _answers_alone(learner: Mapping[str, Any]) -> str:
    return f"answers without reasoning (`objective: {learner['objective']}`)"


def _any_objective(names: list[str]) -> str:
    """`objective: step_by_step` or `mcc`."""
    return f"`objective: {'` or `'.join(names)}`"


def _teacher_alone(learner: Mapping[str, Any]) -> bool:
    """Whether the teacher is the only mentor of a raw learner."""
    soft = learner.get("soft_labels")
    return soft == TEACHER or (isinstance(soft, dict) and set(soft) == {TEACHER})


def unused_settings(learner: Mapping[str, Any]) -> dict[str, str]:
    """Keys of a learner that have no effect beside its other settings, each with what it needs."""
    unused: dict[str, str] = {}
    if not (matching := learner.get("divergence") == "hidden_states"):
        unused["layers"] = "`divergence: hidden_states`; remove it, or choose that divergence"
    if learner.get("soft_label_store") != "top_k":
        unused["top_k"] = "`soft_label_store: top_k`; remove it, or choose that store"
    if learner.get("soft_label_store", "auto") not in ("auto", "chunks"):
        unused["chunk_temperature"] = "`soft_label_store: chunks`; remove it, or choose that store"
    if learner.get("soft_labels") is None:
        unused |= dict.fromkeys(_SOFT_LABEL_SETTINGS, "`soft_labels`; remove it, or name a mentor in `soft_labels`")
    elif matching:
        need = "a divergence of distributions, and `hidden_states` compares layers; remove it"
        unused |= dict.fromkeys(("temperature", "tau_squared"), need)
    elif learner.get("soft_label_store") == "chunks" or _teacher_alone(learner):
        need = "a divergence of distributions, and chunks have likelihoods; remove it"
        unused |= dict.fromkeys(("temperature", "tau_squared"), need)
    if _teacher_alone(learner):
        unused["mentor_reads"] = "a learner in `soft_labels`, and the teacher has answered already; remove it"
    for key in ("objective_temperature", "objective_weight"):
        users = [name for name, spec in OBJECTIVES.items() if key in spec.settings]
        if str(learner.get("objective", "rationale")) in OBJECTIVES.keys() - users:
            unused[key] = f"{_any_objective(users)}; remove it, or choose such an objective"
    return unused


def _setting_faults(name: str, learner: dict[str, Any], own: Links) -> Iterator[Finding]:
    place = ("learners", name)
    for key, need in unused_settings(learner).items():
        if key in learner:
            yield (*place, key), f"has no effect without {need}"
    if learner.get("soft_labels") is not None:
        yield from _imitation_faults(place, learner, own)
    if learner.get("label_smoothing"):
        yield from _smoothing_faults((*place, "label_smoothing"), learner, own)
    if learner.get("objective", "rationale") != "rationale":
        yield from _objective_faults(place, learner, own)
    if learner.get("rationales") != []:
        yield from _sharding_faults((*place, "training"), learner)
        yield from _quantisation_faults((*place, "model", "lora", "bits"), learner)
        yield from _attention_faults(place, learner)
    prompt = learner.get("prompt")
    if isinstance(prompt, str) and "{question}" not in prompt:
        yield (*place, "prompt"), f"got {prompt!r}; expected a template that contains {{question}}"


def _smoothing_faults(place: KeyPath, learner: Mapping[str, Any], own: Links) -> Iterator[Finding]:
    weight = learner.get("kd_weight")
    weights = [weight.get(source) for source in own.rationales] if isinstance(weight, dict) else [weight]
    if learner.get("soft_label_store") == "chunks" or TEACHER in own.soft_labels:
        yield place, _SMOOTHED_CHUNKS
    elif learner.get("rationales") == []:
        yield place, "has no effect with `rationales: []`, which trains nothing; remove it"
    elif own.soft_labels and all(each == 1 for each in weights):
        yield place, "has no effect with `kd_weight: 1`, which leaves no cross-entropy to smooth; remove one of them"


def _sharding_faults(place: KeyPath, learner: Mapping[str, Any]) -> Iterator[Finding]:
    training = mapping(learner.get("training"))
    if training.get("sharding", "none") == "none":
        return
    if training.get("processes", 1) == 1:
        yield (*place, "sharding"), "is over several processes, and `processes` is 1; raise it, or remove `sharding`"
    others = {
        "torch_compile": training.get("torch_compile") is True,
        "precision: float16": training.get("precision") == "float16",
        "lora.bits": _bits(learner) is not None,
    }
    for other in [name for name, given in others.items() if given]:
        yield (*place, "sharding"), f"`fsdp` cannot be combined with `{other}`; remove one of them"


def _quantisation_faults(place: KeyPath, learner: Mapping[str, Any]) -> Iterator[Finding]:
    if _bits(learner) is None:
        return
    model = mapping(learner.get("model"))
    for key in [key for key in ("from_config", "layers") if model.get(key) is not None]:
        yield place, f"weights are put into 4 bits as they are loaded, which `{key}` does not do; remove one of them"
    if SELF in (learner.get("rationales") or ()):
        why = "every round starts from the weights of the round before, and 4 bits would round away a part of its training"
        yield place, f"{why}; remove `bits`, or `{SELF}`"


def _attention_faults(place: KeyPath, learner: Mapping[str, Any]) -> Iterator[Finding]:
    training, flash = mapping(learner.get("training")), "flash_attention_2"
    if mapping(learner.get("model")).get("attn_implementation") == flash and training.get("precision") == "float32":
        yield (*place, "training", "precision"), f"`{flash}` has no float32; set auto or bfloat16, or take `sdpa`"
    if training.get("split") == "packed" and training.get("length_window", 1) != 1:
        why = "has no effect with `split: packed`, whose rows are not sorted by length"
        yield (*place, "training", "length_window"), f"{why}; remove one of them"


def _bits(learner: Mapping[str, Any]) -> Any:
    return mapping(mapping(learner.get("model")).get("lora")).get("bits")


def _imitation_faults(place: KeyPath, learner: dict[str, Any], own: Links) -> Iterator[Finding]:
    divergence, store = learner.get("divergence"), learner.get("soft_label_store")
    if learner.get("rationales") == []:
        why = "has no effect with `rationales: []`, since soft labels belong to text"
        yield (*place, "soft_labels"), f"{why}; name the authors of the text in `rationales`"
    elif store == "top_k" and (whole := [each for each in _values(divergence) if each in NOT_OF_TOP_K]):
        need = f"`{whole[0]}` needs the mentor's whole distribution, and `top_k` keeps a part of it"
        yield (*place, "divergence"), f"{need}; set `soft_label_store` to `hidden` or `online`"
    elif store == "chunks" and (others := sorted(set(_values(divergence)) - {"forward_kl"})):
        why = f"`{others[0]}` compares whole distributions, and `chunks` keeps the likelihood of the text alone"
        yield (*place, "divergence"), f"{why}; remove it, or choose another store"
    elif divergence == "hidden_states":
        if store != "online":
            why = "`hidden_states` compares the student's layers with the layers of a live mentor"
            yield (*place, "divergence"), f"{why}; set `soft_label_store: online`"
        if (count := len(own.soft_labels)) > 1:
            yield (*place, "soft_labels"), f"got {count} mentors; expected one, since `hidden_states` compares layers"
    if isinstance(divergence, dict) and "hidden_states" in _values(divergence):
        yield (*place, "divergence"), "`hidden_states` cannot hold for one source alone; take another divergence there"
    if learner.get("mentor_reads") == "gold" and store == "online":
        yield (*place, "mentor_reads"), "`gold` needs soft labels that are stored; choose another `soft_label_store`"
    if learner.get("shuffle_soft_labels") is True and (store in ("online", "chunks") or TEACHER in own.soft_labels):
        why = "moves stored distributions from token to token"
        ways = (
            "choose the store `hidden` or `top_k`"
            if TEACHER not in own.soft_labels
            else "name only learners in `soft_labels`"
        )
        yield (*place, "shuffle_soft_labels"), f"{why}, and there are none here; {ways}"
    weights = _values(learner.get("kd_weight"))
    if (
        isinstance(learner.get("kd_weight"), dict)
        and set(own.rationales) <= learner["kd_weight"].keys()
        and not any(weights)
    ):
        yield (
            (*place, "kd_weight"),
            "0 for every source, so no soft label is read; remove `soft_labels` and `kd_weight`",
        )
    if learner["soft_labels"] == {}:
        yield (*place, "soft_labels"), "empty; expected a learner, or several learners with their weights"


def _values(setting: Any) -> list[Any]:
    """The value of a setting, or its values by source."""
    return list(setting.values()) if isinstance(setting, dict) else [] if setting is None else [setting]


def _objective_faults(place: KeyPath, learner: dict[str, Any], own: Links) -> Iterator[Finding]:
    objective = learner["objective"]
    if not set(own.rationales) - {GOLD}:
        yield (*place, "objective"), f"`{objective}` learns from rationales; name their authors in `rationales`"
    if not _objective(learner).soft_labels and learner.get("soft_labels") is not None:
        others = _any_objective([name for name, spec in OBJECTIVES.items() if spec.soft_labels])
        yield (*place, "soft_labels"), f"`{objective}` learns from text alone; remove `soft_labels`, or choose {others}"
    yield from weight_faults((*place, "objective_weight"), learner, learner.get("objective_weight"))


def weight_faults(place: KeyPath, learner: Mapping[str, Any], weight: Any) -> Iterator[Finding]:
    """What is wrong with a value of `objective_weight`."""
    limit = _objective(learner).max_weight
    if isinstance(weight, int | float) and weight > limit:
        yield place, f"got {weight}; expected at most {limit:g} with `objective: {learner['objective']}`"


def _validation_faults(raw: Mapping[str, Any], learners: Mapping[str, dict[str, Any]]) -> Iterator[Finding]:
    task = mapping(raw.get("task"))
    if task.get("validation") is not None or task.get("validation_share") != 0:
        return
    settings = {name: mapping(each.get("training")) for name, each in learners.items() if each.get("rationales") != []}
    selecting = [name for name, own in settings.items() if own.get("select_on", "validation") == "validation"]
    if selecting:
        why = f"0 leaves no questions on which {', '.join(selecting)} could choose the best epoch"
        ways = "give a share above 0, or a file as `task.validation`, or set `training.select_on: last`"
        yield ("task", "validation_share"), f"{why}; {ways}"


def _unlabelled_faults(raw: Mapping[str, Any], learners: Mapping[str, dict[str, Any]]) -> Iterator[Finding]:
    """Questions without answers are read by learners that imitate their own texts, whose settings may need no answer."""
    task = mapping(raw.get("task"))
    if task.get("unlabelled") is None:
        if task.get("limit_unlabelled") is not None:
            yield ("task", "limit_unlabelled"), "has no effect without `unlabelled`; remove it, or name a file there"
        return
    readers = [name for name, each in learners.items() if _imitates_own_texts(each)]
    if not readers:
        need = "a learner that imitates its own texts (`self` among its `rationales`, and `soft_labels`)"
        yield ("task", "unlabelled"), f"has no effect without {need}; add one, or remove the file"
    for name in readers:
        without = "and the questions of `task.unlabelled` have none"
        if learners[name].get("mentor_reads") == "gold":
            ways = "set `mentor_reads: question`, or remove `task.unlabelled`"
            yield ("learners", name, "mentor_reads"), f"`gold` shows the mentor the gold answer, {without}; {ways}"
        if mapping(mapping(learners[name].get("reads")).get(SELF)).get("weight") == "frontier":
            why = f"`frontier` compares own texts with gold answers, {without}"
            ways = "set `weight: equal`, or remove `task.unlabelled`"
            yield ("learners", name, "reads", SELF, "weight"), f"{why}; {ways}"
        if mapping(mapping(learners[name].get("reads")).get(SELF)).get("correct"):
            why = f"`correct` compares own texts with gold answers, {without}"
            ways = "set it to false, or remove `task.unlabelled`"
            yield ("learners", name, "reads", SELF, "correct"), f"{why}; {ways}"


def _imitates_own_texts(learner: Mapping[str, Any]) -> bool:
    sources = learner.get("rationales")
    return isinstance(sources, list) and SELF in sources and learner.get("soft_labels") is not None


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
        sentence = normalise_whitespace(about or "").split(". ")[0].rstrip(".")
        return path, f"missing ({sentence})" if sentence else "missing"
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
    if kind == "too_long":
        return path, f"got {context['actual_length']:,}; expected at most {context['max_length']:,}"
    if kind == "string_pattern_mismatch":
        if context["pattern"] == FILE_NAME:
            first, anywhere = "a space, a dot or a hyphen at its start", '/ \\ : * ? " < > |'
            return path, f"got {_shown(value)}; expected a name for a folder, without {first} and without {anywhere}"
        signs = context["pattern"].split("[")[-1].split("]")[0].replace("A-Za-z0-9", "letters, digits, ")
        return path, f"got {_shown(value)}; expected a letter or digit, then only {signs}"
    expected = _EXPECTED.get(kind.split("_")[0])
    return path, f"got {_shown(value)}; expected {expected or details['msg']}"


def _key_path(location: list[int | str], raw: Any, *, with_absent: bool) -> KeyPath:
    """Pydantic's location without the parts that are no keys of `raw` (the tag of a union), but with an absent last key."""
    path: list[int | str] = []
    for number, part in enumerate(location, 1):
        inside = (isinstance(raw, list) and isinstance(part, int)) or part in mapping(raw)
        if inside or (with_absent and number == len(location)):
            path.append(part)
            raw = raw[part] if inside else None
    return tuple(path)


def _unknown_key(path: KeyPath, tag: int | str | None) -> str:
    """The fault of a key that the model at its place does not have; `tag` names the model of a union."""
    key, models = str(path[-1]), _models_at(path[:-1])
    chosen = [model for model in models if tag in _tag(model)] or models
    if others := [other for model in models if key in model.model_fields for other in _tag(model)]:
        return f"belongs to `kind: {others[0]}`, and this is `kind: {tag}`; remove it, or change `kind`"
    return f"unknown key{suggestion(key, [known for model in chosen for known in model.model_fields])}"


def _tag(model: type[BaseModel]) -> tuple[str, ...]:
    """The value of `kind` that selects this model of a union; empty for a model without `kind`."""
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
