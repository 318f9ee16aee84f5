"""Whether two models have one vocabulary, told from their files alone: no model is loaded, and no server asked."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mentorkd.files import digest_path, fingerprint
from mentorkd.hub import GGUF, UNKNOWN, HubModels, model_folder, on_hub
from mentorkd.recipe.graph import initial_model
from mentorkd.recipe.learner import ModelConfig
from mentorkd.recipe.schema import Recipe
from mentorkd.recipe.yaml import mapping
from mentorkd.records import TEACHER, ModelKind

SEQ2SEQ = frozenset(
    {"bart", "bigbird_pegasus", "blenderbot", "led", "longt5", "m2m_100", "marian", "mbart", "mt5", "nllb-moe"}
    | {"pegasus", "pegasus_x", "plbart", "prophetnet", "switch_transformers", "t5", "t5gemma", "umt5"}
)
CAUSAL = frozenset(
    {"bloom", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj"}
    | {"granite", "llama", "mamba", "mistral", "mixtral", "mpt", "olmo", "olmo2", "opt", "phi", "phi3", "qwen2"}
    | {"qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2"}
)
"""Some values of `model_type`, by the kind of model."""

VOCABULARY_MULTIPLE = 64
"""Rows of a new embedding are a multiple of this, which suits matrix units. T5 also has 32128 rows for its 32100 tokens."""

_T5_EXTRA_TOKENS = 100
"""Tokens that T5's tokenizer adds to the pieces of a SentencePiece model."""


class _Vocabulary(NamedTuple):
    tokens: dict[int, str]
    ends: frozenset[int]
    """The end and the padding, which may be others in two models of one family."""
    whole: bool
    """Whether tokens that a tokenizer adds to its vocabulary are among them."""


def soft_label_form(recipe: Recipe, student: str, mentor: str, hub: HubModels = UNKNOWN) -> str:
    """The form of a mentor's soft labels for a student: hidden, top_k, online, or chunks where they have different vocabularies.

    `hub` knows what an earlier run found where the files are not on this machine.
    """
    store = recipe.learners[student].soft_label_store
    if mentor == TEACHER or store == "chunks":
        return "chunks"
    if store != "auto":
        return store
    models = [initial_model(recipe, name) for name in (student, mentor)]
    one = one_vocabulary(*models)
    return "chunks" if (hub.one_vocabulary.get(_pair(models)) if one is None else one) is False else "hidden"


def vocabularies(recipe: Recipe) -> dict[str, bool]:
    """What the files tell now of each student with `soft_label_store: auto` and its mentor, by the key of the pair."""
    known = {}
    for name, learner in recipe.learners.items():
        for mentor in learner.mentor_weights if learner.soft_label_store == "auto" else ():
            if mentor != TEACHER:
                models = [initial_model(recipe, each) for each in (name, mentor)]
                if (one := one_vocabulary(*models)) is not None and any(map(_is_elsewhere, models)):
                    known[_pair(models)] = one
    return known


def _is_elsewhere(model: ModelConfig) -> bool:
    """Whether loading a model brings its files to this machine: from the hub, or by conversion."""
    sources = filter(None, (model.name, model.tokenizer))
    return any(on_hub(source) or source.endswith(GGUF) for source in sources)


def _pair(models: Sequence[ModelConfig]) -> str:
    """A key of two models that is the same wherever their files lie."""

    def content(source: str | None) -> str | None:
        return digest_path(Path(source)) if source is not None and Path(source).exists() else source

    settings = [[content(model.name), content(model.tokenizer), model.revision, model.from_config] for model in models]
    return fingerprint(settings)


def one_vocabulary(one: ModelConfig, other: ModelConfig) -> bool | None:
    """Whether distributions over the tokens of one model are distributions over those of the other, at the same positions.

    Every id that either side can emit, its end and padding excepted, must be the same token on both sides, as for `end_tokens`.
    None where the files do not tell, such as those of a hub model that was not downloaded yet.
    """
    kinds = {kind_of_files(one), kind_of_files(other)} - {None}
    if len(kinds) == 2:
        return False
    sources = [(model.tokenizer or model.name, model.revision) for model in (one, other)]
    if sources[0] == sources[1]:
        return True
    mine, theirs = (_vocabulary(str(source), revision) for source, revision in sources)
    if mine is None or theirs is None:
        return None
    if mine.whole and theirs.whole:
        emitted = (mine.tokens.keys() - mine.ends) | (theirs.tokens.keys() - theirs.ends)
        return all(mine.tokens.get(index) == theirs.tokens.get(index) for index in emitted)
    part, whole = (theirs, mine) if mine.whole else (mine, theirs)
    return all(whole.tokens.get(index, token) == token for index, token in part.tokens.items())


def kind_of_files(model: ModelConfig) -> ModelKind | None:
    """The kind of a model, from its files on this machine; None where they do not tell."""
    settings: dict[str, Any] = model.from_config or {}
    if (model.name or "").endswith(GGUF):
        return "causal"  # the file may not be converted yet
    if model.name is not None and (folder := model_folder(model.name, model.revision)) is not None:
        settings = _json(folder / "config.json")
    if settings.get("is_encoder_decoder") or settings.get("model_type") in SEQ2SEQ:
        return "seq2seq"
    return "causal" if settings.get("model_type") in CAUSAL else None


def vocabulary_rows(source: str, revision: str | None) -> int | None:
    """Rows of the embedding that a model with random weights gets for a tokenizer; None where its files are not on this machine."""
    vocabulary = _vocabulary(source, revision)
    if vocabulary is None or not vocabulary.tokens:
        return None
    extra = _T5_EXTRA_TOKENS if source.endswith(".model") else 0
    return math.ceil((max(vocabulary.tokens) + 1 + extra) / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def _vocabulary(source: str, revision: str | None) -> _Vocabulary | None:
    file = Path(source)
    if not (file.suffix == ".model" and file.is_file()):
        folder = model_folder(source, revision)
        names = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
        found = next((folder / name for name in names if (folder / name).is_file()), None) if folder else None
        if found is None:
            return None
        file = found
    named = [file, *(file.with_name(name) for name in _NAMES_OF_ENDS)]
    states = tuple((each.stat().st_size, each.stat().st_mtime_ns) for each in named if each.is_file())
    return _read(file, states)


_NAMES_OF_ENDS = ("special_tokens_map.json", "tokenizer_config.json")


@cache
def _read(file: Path, states: tuple[tuple[int, int], ...]) -> _Vocabulary | None:
    """The vocabulary in a file; `states` tells one version of the files from another."""
    if file.suffix == ".model":
        from sentencepiece import SentencePieceProcessor

        try:
            pieces = SentencePieceProcessor(model_file=str(file))
        except (OSError, RuntimeError):  # the check of the models names the file
            return None
        # The first three are the padding, the end and the unknown token, in this order or another.
        return _Vocabulary({n: pieces.id_to_piece(n) for n in range(3, len(pieces))}, frozenset(), whole=False)
    if file.suffix == ".txt":
        tokens = dict(enumerate(file.read_text(encoding="utf-8").split("\n")))
    elif file.name == "vocab.json":
        tokens = {index: token for token, index in _json(file).items()}
    else:
        described = _json(file)
        listed = mapping(described.get("model")).get("vocab")
        if isinstance(listed, dict):
            tokens = {index: token for token, index in listed.items()}
        elif isinstance(listed, list):
            tokens = {index: str(entry[0]) for index, entry in enumerate(listed)}
        else:
            return None
        tokens |= {entry["id"]: entry["content"] for entry in described.get("added_tokens") or []}
    settings = {key: value for name in _NAMES_OF_ENDS for key, value in _json(file.with_name(name)).items()}
    ends = [settings.get(key) for key in ("eos_token", "pad_token")]
    ends = [end.get("content") if isinstance(end, dict) else end for end in ends]
    return _Vocabulary(
        tokens, frozenset(n for n, token in tokens.items() if token in ends), whole=file.name == "tokenizer.json"
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        return mapping(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
