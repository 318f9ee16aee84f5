from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from places import ROOT


def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="the documentation is built by pip install 'mentorkd[docs]'")
    pytest.importorskip("material", reason="the documentation is built by pip install 'mentorkd[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {page.relative_to(tmp_path / "site").parts[0] for page in (tmp_path / "site").rglob("index.html")}
    assert {"quickstart", "own-data", "api-teacher", "flan-t5", "many-gpus", "method", "api"} <= pages
