"""Where a run's results come from: the command, commit, versions and machine of every stage that made them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from mentorkd import hardware

__all__ = ["here", "summarised"]

Facts = dict[str, Any]


@cache
def here() -> Facts:
    """What stages that this process carries out are made by."""
    return {
        "command": shlex.join(hardware.command_line()),
        "git": hardware.git_commit(),
        "versions": hardware.versions(),
        "host": hardware.describe_host(),
    }


def summarised(stages: Iterable[Mapping[str, Any]], report: Facts | None) -> Facts:
    """What the records of stages say (`made_by`): of each fact its value, or the list of values where stages differ.

    A report may be written anew long after the training, by other code on another machine. What its own facts (`report`) have
    different is told apart, under `report`, and is never taken for the stages'.
    """
    made = [record["made_by"] for record in stages if record["kind"] != "report" and "made_by" in record]
    facts = {}
    for key in here():
        values = [told[key] for told in made if told.get(key) is not None]
        distinct = [value for number, value in enumerate(values) if value not in values[:number]]
        facts[key] = distinct[0] if len(distinct) == 1 else distinct or None
    apart = {key: value for key, value in (report or {}).items() if value != facts.get(key)}
    return {**facts, **({"report": apart} if apart else {})}
