"""What the machine refuses becomes one line; what is a fault of the program stays one."""

from __future__ import annotations

import errno
import pickle
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mentorkd.errors import MachineError, RunError, explaining
from mentorkd.files import write_json
from mentorkd.records import Question, write_jsonl

GO_ON = "and the same command goes on"
FULL = "the disk is full, or its quota is used up; free some space, and the same command goes on"
MEMORY = "not enough memory; stop other programs, or take a smaller"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files cannot grow beyond `size` bytes, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_with_the_file_that_could_not_be_written(tmp_path: Path) -> None:
    questions = [Question.create(f"question {number}", "1", "train") for number in range(1000)]
    with largest_file(1000), pytest.raises(MachineError) as caught, explaining("augment", tmp_path):
        write_jsonl(tmp_path / "questions.jsonl", questions)
    assert str(caught.value) == f"augment: {tmp_path / '.questions.jsonl.tmp'}: {FULL}"
    with largest_file(10), pytest.raises(MachineError, match=r"\.a\.json\.tmp: the disk is full"), explaining():
        write_json(tmp_path / "a.json", list(range(1000)))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."), MEMORY),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you"), MEMORY),
        (Exception("No space left on device (os error 28)"), f"/run: {FULL}"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), f"/run: {FULL}"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 43392 vs 43280"), f"/run: {FULL}"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), f"/run: {FULL}"),
        (OSError(errno.ENOSPC, "No space left on device"), f"/run: {FULL}"),
        (OSError(errno.EROFS, "Read-only file system", "/run/a"), "/run/a: the disk is read-only; make it writable"),
        (OSError(errno.ENOLCK, "No locks available"), "/run: this file system has no locks; put the run folder on"),
        (OSError(errno.EMFILE, "Too many open files", "/a"), "/a: too many files are open; raise the limit"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/a"), "/a: is a folder; expected a file"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), "/a: no right to read or write it"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/a"), "/a: the name is too long"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_the_machine_refuses_is_one_line(error: Exception, message: str) -> None:
    with pytest.raises(MachineError) as caught, explaining("train", Path("/run")):
        raise error
    assert str(caught.value).startswith(f"train: {message}")
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bug"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RecursionError("maximum recursion depth exceeded"),
        OSError(errno.ENOENT, "a path that no message names"),
        RunError("one line already: out of memory"),
        KeyboardInterrupt(),
        SystemExit(3),
    ],
    ids=repr,
)
def test_other_errors_stay_as_they_are(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, explaining("train", Path("/run")):
        raise error
    assert caught.value is error
