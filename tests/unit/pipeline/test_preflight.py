"""Checks of models before anything runs: all faults at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from mentorkd.errors import RecipeError
from mentorkd.pipeline.preflight import check_models
from mentorkd.recipe.load import load_recipe
from small_recipe import write_small_recipe


def test_packed_rows_and_attention_that_cannot_be_are_told_together(tmp_path: Path) -> None:
    recipe = load_recipe(
        write_small_recipe(tmp_path),
        [
            "learners.student.training.split=packed",
            "learners.vanilla.model.attn_implementation=flex_attention",
            "device=cpu",
        ],
    )
    with pytest.raises(RecipeError) as caught:
        check_models(recipe)
    faults = {fault.key: fault.message for fault in caught.value.faults}
    assert faults.keys() == {"learners.student.training.split", "learners.vanilla.model"}
    assert faults["learners.student.training.split"].startswith(
        "student is an encoder-decoder model, and `packed` joins"
    )
    assert faults["learners.vanilla.model"].startswith("got `attn_implementation: flex_attention` on cpu")


def test_filters_of_texts_that_nobody_reads_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = write_small_recipe(tmp_path)

    def told(*overrides: str) -> list[str]:
        caplog.clear()
        check_models(load_recipe(recipe, [*overrides, "device=cpu"]))
        return [record.message for record in caplog.records if "filters nothing" in record.message]

    assert told() == told("learners.mentor.select.arithmetic=true") == []  # the student reads these
    assert told("learners.vanilla.select.arithmetic=true") == [
        "learners.vanilla.select filters nothing, since no learner reads the texts of `vanilla`; to filter what it reads, set "
        "`reads: {SOURCE: {...}}`"
    ]
