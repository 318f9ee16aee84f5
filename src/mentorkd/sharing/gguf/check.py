"""The proof of a GGUF file: transformers reads it back to the same weights, the same logits and the same token ids."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import torch
from transformers import PreTrainedModel

from mentorkd.data.encoding import encode_chat, encode_prompt
from mentorkd.errors import ModelError
from mentorkd.models import LoadedModel, load_folder
from mentorkd.models.gguf import convert
from mentorkd.sharing.gguf.writer import GgufType

_ROUNDING: Mapping[GgufType, float] = {"F32": 0.0, "F16": 2**-11, "Q8_0": 1 / 220}
"""Largest change of a weight by a type, as a share of the largest weight of its tensor.

Q8_0 rounds to 1/127 of the largest weight of a block, and the scale itself to 11 bits: 0.5 / 127 + 2^-11.
"""
_COMPUTED = 1e-4
"""Largest difference of logits of equal weights, as a share of the largest logit: float32 in another order."""
_PROBES = 8
"""Questions whose logits are compared."""


@dataclass(frozen=True)
class LogitChange:
    """How the type of a file changes the logits of the model, at every token of some questions."""

    mean: float
    largest: float
    scale: float
    """The largest logit of the model."""
    likeliest: float
    """Share of the tokens after which both have the same likeliest token."""


def read_back(file: Path, device: torch.device) -> LoadedModel:
    """The model in a file as transformers reads it, in float32. Raises ModelError if it cannot."""
    with tempfile.TemporaryDirectory() as folder:
        convert(file, Path(folder))
        return load_folder(Path(folder), device=device, dtype=torch.float32)


def check_file(
    file: Path, loaded: LoadedModel, types: Mapping[str, GgufType], questions: Sequence[tuple[str, str]]
) -> LogitChange:
    """Compare a file with the model from which it was written.

    The weights may differ by the rounding of their types. With the weights of the file, the model must give the logits that
    transformers computes from the file, whose sizes and constants are thereby checked. The token ids must be equal.

    Args:
        loaded: the model in float32; its weights are replaced by those of the file.
        questions: each with the learner's prompt for it. The file's chat template gets the prompt if the model has a template of
            its own, and otherwise the question.

    Raises ModelError for a file that is not the model.
    """
    read = read_back(file, torch.device("cpu"))
    _check_ids(loaded, read, questions)
    _check_weights(loaded.model, read.model, types)
    prompts = [encode_prompt(loaded.tokenizer, "causal", prompt) for _, prompt in questions[:_PROBES]]
    before = [_logits(loaded.model, ids) for ids in prompts]
    loaded.model.load_state_dict(read.model.state_dict())
    after = [_logits(read.model, ids) for ids in prompts]
    scale = max(logits.abs().max().item() for logits in before)
    for ids, expected in zip(prompts, after, strict=True):
        difference = (_logits(loaded.model, ids) - expected).abs().max().item()
        if not difference <= _COMPUTED * scale:
            raise _refusal(
                f"gives logits that differ by {difference:.2g} with equal weights; some setting is not in the file"
            )
    changes = torch.cat([(a - b).abs().flatten() for a, b in zip(before, after, strict=True)])
    agree = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in zip(before, after, strict=True)])
    return LogitChange(changes.mean().item(), changes.max().item(), scale, agree.float().mean().item())


def _check_weights(model: PreTrainedModel, read: PreTrainedModel, types: Mapping[str, GgufType]) -> None:
    weights = read.state_dict()
    for name, kind in types.items():
        expected = model.get_parameter(name)
        allowed = _ROUNDING[kind] * expected.abs().max().item()
        change = (weights[name] - expected).abs().max().item()
        if not change <= allowed:
            raise _refusal(f"gives weights {name} that differ by {change:.2g}; {kind} allows {allowed:.2g}")


def _check_ids(loaded: LoadedModel, read: LoadedModel, questions: Sequence[tuple[str, str]]) -> None:
    own = bool(loaded.tokenizer.chat_template)
    for question, prompt in questions:
        expected = encode_prompt(loaded.tokenizer, "causal", prompt)
        ids = encode_chat(read.tokenizer, [{"role": "user", "content": prompt if own else question.strip()}])
        if ids != expected:
            place = next(n for n, (a, b) in enumerate(zip_longest(ids, expected)) if a != b)
            raise _refusal(
                f"splits the prompt {prompt[:60]!r} otherwise, from token {place + 1} on: "
                f"{read.tokenizer.convert_ids_to_tokens(ids[place : place + 4])}, and the model has "
                f"{loaded.tokenizer.convert_ids_to_tokens(expected[place : place + 4])}"
            )


@torch.no_grad()
def _logits(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=torch.tensor([list(ids)])).logits[0].float()
    return logits


def _refusal(what: str) -> ModelError:
    return ModelError(
        f"the GGUF file of this model, read back by transformers, {what}; nothing was written: export it with `--as hf` or "
        "`--as ctranslate2`"
    )
