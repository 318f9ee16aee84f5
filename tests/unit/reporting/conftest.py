"""A made-up run of the shape a real one has: mentor, vanilla and student on a generated task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from made_up_run import (
    ARMS,
    make_inputs,
)
from mentorkd.reporting.build import build_results
from mentorkd.reporting.inputs import LearnerInfo, ReportInputs
from mentorkd.reporting.write import write_report


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a written report; not to be changed."""
    folder = tmp_path_factory.mktemp("report")
    write_report(build_results(make_inputs(ARMS, size=60)), folder)
    return folder


@pytest.fixture(scope="session")
def arms() -> tuple[LearnerInfo, ...]:
    """The learners of `report`."""
    return ARMS


@pytest.fixture(scope="session")
def inputs() -> Callable[..., ReportInputs]:
    """Builds a made-up run; keyword arguments replace its parts."""
    return make_inputs
