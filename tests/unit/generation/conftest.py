"""Each family's model saved once a session, and loaded as a learner's is."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from mentorkd.models import load_folder
from tiny_families import CPU, PROMPTS, Saved, build


@pytest.fixture(scope="session")
def save(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Saved]:
    """Saves a family's model, the first time it is asked for."""

    @cache
    def save(family: str) -> Saved:
        folder = tmp_path_factory.mktemp(family)
        model, tokenizer = build(family)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        loaded = load_folder(folder, device=CPU)
        # Further end tokens from what the model writes, so that some texts end early and others do not.
        written = Saved(folder, loaded).reference(PROMPTS)
        loaded.model.generation_config.eos_token_id = [1, written[1][5], written[2][11]]
        loaded.model.generation_config.save_pretrained(folder)
        return Saved(folder, loaded)

    return save
