"""What messages advise works as it is written."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mentorkd import errors
from mentorkd.errors import MissingExtraError
from places import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def installed_from(monkeypatch: pytest.MonkeyPatch, origin: Mapping[str, Any] | None) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return None if origin is None else json.dumps(origin)

    monkeypatch.setattr(errors, "distribution", lambda name: Installed())


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'mentorkd[math]'"),
        ({"url": "file:///a%20b", "dir_info": {"editable": True}}, "pip install -e '/a b[math]'"),
        ({"url": "file:///src/mentorkd", "dir_info": {}}, "pip install '/src/mentorkd[math]'"),
        ({"url": "https://host/m.git", "vcs_info": {"vcs": "git"}}, "pip install 'mentorkd[math] @ git+https://host/m.git'"),
    ],
)  # fmt: skip
def test_an_extra_is_installed_from_where_the_package_came(
    monkeypatch: pytest.MonkeyPatch, origin: Mapping[str, Any] | None, command: str
) -> None:
    installed_from(monkeypatch, origin)
    assert str(MissingExtraError("Grading", "math")).endswith(f"install it with: {command}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_install_extras_that_exist_from_the_checkout(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert not re.findall(r"mentorkd\[\w", text), "the package is on no index: write '.[EXTRA]'"
    assert set(re.findall(r"'\.\[([\w-]+)\]'", text)) <= set(EXTRAS)
