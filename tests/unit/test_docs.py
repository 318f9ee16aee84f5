from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from places import ROOT

PLANTED = {
    "page.md": ("Clean.\n\nOf the rows, so\nmany are told twice.\n", ["3: so many", "4: are told"]),
    "recipe.yaml": ("name: anew  # likewise\n# some 40 rows\nkey: 'some 40'\n", ["1: likewise", "2: some 40"]),
    "page.html.jinja": ("<p>This design could have seen {{ points }}.</p>", ["1: could have seen"]),
    "code.py": (
        'def told(rows):\n    """Rows of whose text\n    a filter goes\n    on with."""\n    # anew\n    return f"{rows} anew"\n',
        ["1: told", "2: of whose", "3: goes on with", "6: anew"],
    ),
    "filters.md": (
        "`steps_check`, `learnable`\n\n`perplexity` was `learnable`; `learnable` are called so\n",
        ["1: steps_check", "1: learnable"],
    ),
    "clean.md": ("so many rows failed that it stopped; which the student has not seen; they can be told apart\n", []),
}


def check_words(*roots: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/check_words.py", *map(str, roots)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="the documentation is built by pip install 'mentorkd[docs]'")
    pytest.importorskip("material", reason="the documentation is built by pip install 'mentorkd[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = {page.relative_to(tmp_path / "site").parts[0] for page in (tmp_path / "site").rglob("index.html")}
    assert {"quickstart", "own-data", "api-teacher", "flan-t5", "many-gpus", "method", "api"} <= pages


def test_the_documents_use_plain_words() -> None:
    checked = check_words()
    assert (checked.stdout, checked.stderr, checked.returncode) == ("", "", 0)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_wording_is_listed_with_its_line(name: str, tmp_path: Path) -> None:
    text, expected = PLANTED[name]
    (tmp_path / name).write_text(text)
    checked = check_words(tmp_path)
    found = [line.removeprefix(f"{tmp_path / name}:") for line in checked.stdout.splitlines()]
    assert [line.split(": ")[0] + ": " + line.split(": ")[1] for line in found] == expected
    assert checked.returncode == bool(expected)
