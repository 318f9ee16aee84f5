"""Whether two models have one vocabulary: what their files tell is what their tokenizers tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from chat_pair import base_tokenizer, chat_tokenizer, save
from mentorkd.distillation.vocabularies import end_tokens
from mentorkd.errors import ModelError
from mentorkd.models import load_tokenizer
from mentorkd.quickstart.task import MODELS
from mentorkd.recipe.learner import ModelConfig
from mentorkd.recipe.vocabularies import one_vocabulary
from places import SHARED
from tiny_models import tiny_tokenizer

CAUSAL = {"model_type": "gpt2"}
T5 = SHARED / "tokenizers" / "t5" / "spiece.model"


def model(tokenizer: str | Path) -> ModelConfig:
    return ModelConfig(from_config=CAUSAL, tokenizer=str(tokenizer))


def without_named_ends(folder: Path) -> str:
    """A folder as older ones are, whose ends are those of the tokenizer's class."""
    save(base_tokenizer(), folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(
        json.dumps({key: value for key, value in settings.items() if key not in ("eos_token", "pad_token")})
    )
    return str(folder)


SIDES: dict[str, Callable[[Path], str]] = {
    "base": lambda folder: save(base_tokenizer(), folder),
    "chat": lambda folder: save(chat_tokenizer(), folder),
    "smaller": lambda folder: save(tiny_tokenizer(vocab_size=300, append_eos=False), folder),
    "nano small": lambda folder: str(MODELS / "nano-t5-small"),
    "nano large": lambda folder: str(MODELS / "nano-t5-large"),
}


@pytest.mark.parametrize("one", SIDES)
@pytest.mark.parametrize("other", SIDES)
def test_files_tell_what_tokenizers_tell(tmp_path: Path, one: str, other: str) -> None:
    models = [model(SIDES[name](tmp_path / name)) for name in (one, other)]
    mine, theirs = map(load_tokenizer, models)
    try:
        end_tokens(theirs, mine)
    except ModelError:
        assert one_vocabulary(*models) is False
    else:
        assert one_vocabulary(*models) is True


def test_an_end_that_no_file_names_makes_no_other_vocabulary(tmp_path: Path) -> None:
    named = save(base_tokenizer(), tmp_path / "named")
    assert one_vocabulary(model(without_named_ends(tmp_path / "unnamed")), model(named)) is True


def test_an_encoder_decoder_has_no_positions_in_common_with_a_causal_model(tmp_path: Path) -> None:
    tokenizer = save(base_tokenizer(), tmp_path)
    seq2seq = ModelConfig(from_config={"model_type": "t5"}, tokenizer=tokenizer)
    assert one_vocabulary(model(tokenizer), seq2seq) is False
    assert one_vocabulary(model(tokenizer), model(tokenizer)) is True


@pytest.mark.skipif(not T5.is_file(), reason="../shared with T5's vocabulary is absent")
def test_a_sentencepiece_file_is_compared_with_the_tokenizer_that_it_makes(tmp_path: Path) -> None:
    file = model(T5)
    load_tokenizer(file).save_pretrained(tmp_path / "t5")
    assert one_vocabulary(file, model(tmp_path / "t5")) is True
    assert one_vocabulary(model(tmp_path / "t5"), file) is True
    assert one_vocabulary(file, model(save(base_tokenizer(), tmp_path / "base"))) is False


def test_what_is_not_on_this_machine_or_not_readable_tells_nothing(tmp_path: Path) -> None:
    known = model(save(base_tokenizer(), tmp_path / "base"))
    (tmp_path / "broken.model").write_bytes(b"\x00no vocabulary")
    for unknown in ("nobody/has-this", str(tmp_path / "broken.model")):
        assert one_vocabulary(known, model(unknown)) is None
