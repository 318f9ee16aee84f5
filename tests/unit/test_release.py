"""What builds a release names what the package has."""

from __future__ import annotations

import re
import tomllib

import mentorkd
from places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def named(file: str, pattern: str) -> str:
    found = re.search(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{file} has no {pattern}"
    return found[1]


def test_the_wheel_is_tested_with_the_extras_of_make_test() -> None:
    assert named("scripts/check_wheel.py", r'^EXTRAS = "(.*)"$') == named("Makefile", r"-e '\.\[(.*,.*)\]'$")


def test_the_image_has_extras_of_the_package() -> None:
    assert set(named("Containerfile", r"^ARG EXTRAS=(.*)$").split(",")) <= set(PROJECT["optional-dependencies"])


def test_a_release_is_tested_from_the_oldest_python_on() -> None:
    oldest = named(".github/workflows/release.yml", r'python: \["([\d.]+)"')
    assert PROJECT["requires-python"] == f">={oldest}"


def test_the_version_is_told_once() -> None:
    assert PROJECT["version"] == mentorkd.__version__
