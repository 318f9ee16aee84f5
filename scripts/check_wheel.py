"""Build the wheel, install it into a new environment of each given Python, and run the default tests of a clean clone against it.

    python scripts/check_wheel.py python3.11 python3.12 python3.13
    python scripts/check_wheel.py /path/to/environment                        # an environment that exists, e.g. one with torch

The tests import the installed package: a clone that would be imported instead ends the check.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "dev,data,docs,openai,ctranslate2,math,bitsandbytes,ray,view,server-tests"
"""What the tests need; the same as in the Makefile."""

_WHERE = "import mentorkd, platform, sys, torch; print(mentorkd.__file__, platform.python_version(), torch.__version__)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="+", help="interpreters, or environments that exist (folders)")
    parser.add_argument(
        "--tests", nargs=argparse.REMAINDER, default=[], help="arguments of pytest, instead of the whole suite"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mentorkd-wheel-") as folder:
        wheel = _build(Path(folder))
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
        failed = [python for python in arguments.pythons if not _passes(python, wheel, Path(folder), arguments.tests)]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def _build(folder: Path) -> Path:
    """The wheel of the last commit."""
    clone = folder / "source"
    _run("git", "clone", "--quiet", str(ROOT), str(clone))
    _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(clone))
    [wheel] = folder.glob("*.whl")
    return wheel


def _passes(python: str, wheel: Path, folder: Path, tests: list[str]) -> bool:
    """Whether the default tests pass under a Python, with the wheel installed."""
    environment = Path(python) if Path(python).is_dir() else folder / f"environment-{Path(python).name}"
    if environment != Path(python):
        _run(python, "-m", "venv", str(environment))
    inner = str(environment / "bin" / "python")
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    _run(inner, "-m", "pip", "install", "--quiet", *constraints, f"{wheel}[{EXTRAS}]")
    _run(inner, "-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps", str(wheel))
    clone = folder / f"clone-{environment.name}" / "mentorkd"
    _run("git", "clone", "--quiet", str(ROOT), str(clone))
    if (shared := ROOT.parent / "shared").is_dir():
        (clone.parent / "shared").symlink_to(shared)
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    where = subprocess.run([inner, "-c", _WHERE], cwd=clone, env=variables, check=True, capture_output=True, text=True)
    print(where.stdout.strip(), flush=True)
    if not where.stdout.startswith(str(environment)):
        raise SystemExit(f"the tests would import {where.stdout.split()[0]}, which is not in {environment}")
    start = time.monotonic()
    suite = tests or ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    code = subprocess.run([inner, "-m", "pytest", "-q", *suite], cwd=clone, env=variables, check=False).returncode
    print(f"{python}: exit code {code} after {time.monotonic() - start:.0f} s", flush=True)
    return code == 0


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
