"""Whether two models have one vocabulary, told from their files alone: no model is loaded, and no server asked."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mentorkd.hub import GGUF, model_folder
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


class _Vocabulary(NamedTuple):
    tokens: dict[int, str]
    """Without the end and the padding, which may be others in two models of one family."""
    whole: bool
    """Whether tokens that a tokenizer adds to its vocabulary are among them."""


def soft_label_form(recipe: Recipe, student: str, mentor: str) -> str:
    """The form of a mentor's soft labels for a student: hidden, top_k, online, or chunks where they have different vocabularies."""
    store = recipe.learners[student].soft_label_store
    if mentor == TEACHER or store == "chunks":
        return "chunks"
    if store != "auto":
        return store
    return (
        "chunks" if one_vocabulary(*(initial_model(recipe, name) for name in (student, mentor))) is False else "hidden"
    )


def one_vocabulary(one: ModelConfig, other: ModelConfig) -> bool | None:
    """Whether distributions over the tokens of one model are distributions over those of the other, at the same positions.

    None where the files do not tell, such as those of a hub model that was not downloaded yet.
    """
    kinds = {_kind(one), _kind(other)} - {None}
    if len(kinds) == 2:
        return False
    sources = [(model.tokenizer or model.name, model.revision) for model in (one, other)]
    if sources[0] == sources[1]:
        return True
    vocabularies = [_vocabulary(str(source), revision) for source, revision in sources]
    mine, theirs = vocabularies
    if mine is None or theirs is None:
        return None
    if mine.whole and theirs.whole:
        return mine.tokens == theirs.tokens
    part, whole = (mine, theirs) if theirs.whole or len(mine.tokens) < len(theirs.tokens) else (theirs, mine)
    return all(whole.tokens.get(index, token) == token for index, token in part.tokens.items())


def _kind(model: ModelConfig) -> ModelKind | None:
    settings: dict[str, Any] = model.from_config or {}
    if (model.name or "").endswith(GGUF):
        return "causal"  # the file may not be converted yet
    if model.name is not None and (folder := model_folder(model.name, model.revision)) is not None:
        settings = _json(folder / "config.json")
    if settings.get("is_encoder_decoder") or settings.get("model_type") in SEQ2SEQ:
        return "seq2seq"
    return "causal" if settings.get("model_type") in CAUSAL else None


def _vocabulary(source: str, revision: str | None) -> _Vocabulary | None:
    file = Path(source)
    if not (file.suffix == ".model" and file.is_file()):
        folder = model_folder(source, revision)
        names = ("tokenizer.json", "spiece.model", "tokenizer.model")
        found = next((folder / name for name in names if (folder / name).is_file()), None) if folder else None
        if found is None:
            return None
        file = found
    state = file.stat()
    return _read(file, state.st_size, state.st_mtime_ns)


@cache
def _read(file: Path, size: int, changed: int) -> _Vocabulary | None:
    if file.suffix == ".model":
        from sentencepiece import SentencePieceProcessor

        pieces = SentencePieceProcessor(model_file=str(file))
        return _Vocabulary({index: pieces.id_to_piece(index) for index in range(3, len(pieces))}, whole=False)
    described = _json(file)
    listed = mapping(described.get("model")).get("vocab")
    if isinstance(listed, dict):
        tokens = {index: token for token, index in listed.items()}
    elif isinstance(listed, list):
        tokens = {index: str(entry[0]) for index, entry in enumerate(listed)}
    else:
        return None
    tokens |= {entry["id"]: entry["content"] for entry in described.get("added_tokens") or []}
    named = _json(file.with_name("special_tokens_map.json")) | _json(file.with_name("tokenizer_config.json"))
    ends = [named.get(key) for key in ("eos_token", "pad_token")]
    ends = [end.get("content") if isinstance(end, dict) else end for end in ends]
    return _Vocabulary({index: token for index, token in tokens.items() if token not in ends}, whole=True)


def _json(file: Path) -> dict[str, Any]:
    try:
        return mapping(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
