"""Verified download of the paper's data files from one commit of the reference repository.

`paper-files.tsv` lists the path and git blob id of each file, so a verified file equals the published file byte for
byte. The files belong to github.com/2hojae/mentor-kd (Apache-2.0).
"""

from __future__ import annotations

import hashlib
import http.client
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from mentorkd.errors import DataError
from mentorkd.records import Progress

COMMIT = "ec9ea1118ef1ef71152b61c0768220011ac58e52"
RAW_URL = f"https://raw.githubusercontent.com/2hojae/mentor-kd/{COMMIT}"

CONNECTIONS = 4
_ATTEMPTS = 3
_TIMEOUT_S = 30.0
"""Longest wait, in seconds, for a response of the server."""
_UNTRIED = "not tried, the server is unreachable"
PAUSE_S = 1.0
"""Pause, in seconds, before the second attempt; twice as long before the third."""


@dataclass(frozen=True, slots=True)
class PaperFile:
    """A file of the reference repository, with the git blob id of its content."""

    path: str
    blob: str

    @property
    def local(self) -> str:
        """The path below the data root: `path` without a leading `data/`."""
        return self.path.removeprefix("data/")


@dataclass(frozen=True, slots=True)
class FetchReport:
    """The files of a download, by local path.

    `fetched` files were missing before, `replaced` files differed from the published ones, `present` files were already
    verified. `bytes` counts the downloaded bytes.
    """

    folder: Path
    fetched: tuple[str, ...]
    replaced: tuple[str, ...]
    present: tuple[str, ...]
    bytes: int


def paper_files() -> list[PaperFile]:
    """The paper's data files: training and test questions, and rationales of the teacher and of mentors."""
    text = resources.files("mentorkd.paper").joinpath("paper-files.tsv").read_text(encoding="utf-8")
    return [PaperFile(*line.split("\t")) for line in text.splitlines() if line and not line.startswith("#")]


def blob_id(content: bytes) -> str:
    """The git blob id of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def fetch_paper_data(
    folder: Path,
    *,
    base_url: str = RAW_URL,
    files: Sequence[PaperFile] | None = None,
    on_progress: Progress = lambda done, total: None,
) -> FetchReport:
    """Download `files` (None: all of `paper_files()`) into `folder`, in the layout of `data.root`.

    A file gets its name only after it is complete and verified. Files that are already verified are not downloaded, so a
    second call resumes. `on_progress(done, total)` is called after each file.
    Raises DataError with a list of all failed files, after all other files were downloaded.
    """
    files = paper_files() if files is None else files
    unreachable = threading.Event()
    done: dict[str, list[str]] = {"fetched": [], "replaced": [], "present": []}
    failed: dict[str, str] = {}
    size = 0
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        jobs = {pool.submit(_fetch, file, folder, base_url, unreachable): file.local for file in files}
        try:
            for number, job in enumerate(as_completed(jobs), start=1):
                try:
                    outcome, length = job.result()
                    done[outcome].append(jobs[job])
                    size += length
                except _Failure as failure:
                    failed[jobs[job]] = str(failure)
                on_progress(number, len(files))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        lines = [
            f"{len(failed)} of {len(files)} data files could not be fetched from {base_url} into {folder} "
            f"({sum(map(len, done.values()))} are present and verified); run the command again to fetch the rest"
        ]
        lines += [f"{name}: {reason}" for name, reason in sorted(failed.items()) if not reason.startswith(_UNTRIED)]
        if untried := sum(reason.startswith(_UNTRIED) for reason in failed.values()):
            lines.append(f"{untried} more: {_UNTRIED}")
        raise DataError("\n  ".join(lines))
    return FetchReport(folder, **{key: tuple(sorted(names)) for key, names in done.items()}, bytes=size)


class _Failure(Exception):
    """The reason why a file could not be downloaded."""


def _fetch(file: PaperFile, folder: Path, base_url: str, unreachable: threading.Event) -> tuple[str, int]:
    target = folder / file.local
    outcome = "fetched"
    try:
        if target.is_file():
            if blob_id(target.read_bytes()) == file.blob:
                return "present", 0
            outcome = "replaced"
        content = _download(f"{base_url}/{urllib.parse.quote(file.path)}", unreachable)
        if blob_id(content) != file.blob:
            raise _Failure(f"corrupted, its git blob id is {blob_id(content)}, expected {file.blob}")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.part")
        temporary.write_bytes(content)
        temporary.replace(target)
    except OSError as error:
        raise _Failure(f"cannot be written ({error.strerror or error})") from None
    except _Failure as failure:
        note = "; the existing file of that name differs from the published one" if outcome == "replaced" else ""
        raise _Failure(f"{failure}{note}") from None
    return outcome, len(content)


def _download(url: str, unreachable: threading.Event) -> bytes:
    """The content of `url`. Transient errors are retried, but not after the server has proved unreachable."""
    reason = ""
    for attempt in range(_ATTEMPTS):
        if unreachable.is_set():
            raise _Failure(_UNTRIED)
        if attempt:
            time.sleep(PAUSE_S * 2 ** (attempt - 1))
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as reply:
                content: bytes = reply.read()
                return content
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 429 and error.code < 500:
                missing = "missing on the server" if error.code in (404, 410) else "refused by the server"
                raise _Failure(f"{missing} (HTTP {error.code})") from None
            reason = f"HTTP {error.code}"
        except urllib.error.URLError as error:
            reason = f"no connection: {error.reason}"
        except (http.client.HTTPException, OSError) as error:
            reason = f"connection lost: {error or type(error).__name__}"
    if reason.startswith("no connection"):
        unreachable.set()
    raise _Failure(f"{reason}, {_ATTEMPTS} times")
