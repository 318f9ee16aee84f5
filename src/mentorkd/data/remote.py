"""Input files that a URL names (`s3://bucket/questions.jsonl`), read through fsspec."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from mentorkd.errors import DataError, MissingExtraError

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""Protocol -> the extra that has its package."""


@contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """A copy of a file on this machine, made once by this process for each state of the file. Messages of a DataError name the URL.

    Raises DataError for a file that cannot be had, and MissingExtraError for a protocol whose package is not installed.
    """
    path = _fetched(url)
    try:
        yield path
    except DataError as error:
        raise DataError(str(error).replace(str(path), url)) from None


def _fetched(url: str) -> Path:
    from fsspec.core import url_to_fs

    protocol = url.partition(":")[0]
    try:
        system, place = url_to_fs(url)
    except ImportError as error:
        if protocol in _EXTRAS:
            raise MissingExtraError(f"{url}: reading {protocol}://", _EXTRAS[protocol]) from None
        raise DataError(f"{url}: reading {protocol}:// needs another package ({error})") from None
    except ValueError as error:
        raise DataError(
            f"{url}: {error}; expected a protocol of fsspec, such as s3, gs, https or file, or a path"
        ) from None
    try:
        described = system.info(place)
        if described["type"] == "directory":
            raise DataError(f"{url}: got a folder, expected a file")
        return _copied(system, place, repr(sorted(described.items())))
    except FileNotFoundError:
        raise DataError(f"{url}: no such file; check its address") from None
    except DataError:
        raise
    except Exception as error:  # each file system has errors of its own
        reason = next(iter(str(error).splitlines()), "")
        raise DataError(
            f"{url}: cannot be read ({type(error).__name__}: {reason}); check its address, the network, and the credentials "
            f"that the file system of {protocol}:// takes from the environment"
        ) from error


@cache
def _copied(system: Any, place: str, described: str) -> Path:
    """The copy of a file. Another description (size, time of change, tag) is another state of it, and gets a copy of its own."""
    copy = Path(tempfile.mkdtemp(dir=_folder().name), PurePosixPath(place.partition("?")[0]).name)
    system.get_file(place, str(copy))
    return copy


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """The folder of all copies, removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="mentorkd-")
