"""Options that messages advise."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from mentorkd.cli.app import app


@pytest.mark.parametrize("name", ["run", "annotate", "quickstart", "reproduce"])
def test_a_command_that_runs_stages_has_the_options_that_messages_advise(name: str) -> None:
    group: Any = typer.main.get_command(app)
    options = {option for parameter in group.commands[name].params for option in parameter.opts}
    assert {"--run", "--overwrite", "--no-verify"} <= options
