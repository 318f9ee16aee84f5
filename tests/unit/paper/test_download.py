from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mentorkd.errors import DataError
from mentorkd.paper import download as paper_data
from mentorkd.paper.download import COMMIT, RAW_URL, PaperFile, blob_id, fetch_paper_data, paper_files


class Server(ThreadingHTTPServer):
    """Serves `content` by path; `trouble` gives the next replies of a path: a status, or `cut` to break off halfway."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content: dict[str, bytes] = {}
        self.trouble: dict[str, list[int | str]] = {}
        self.asked: Counter[str] = Counter()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.path.removeprefix("/")
        self.server.asked[path] += 1
        trouble = self.server.trouble.get(path)
        reply = trouble.pop(0) if trouble else 200 if path in self.server.content else 404
        self.send_response(reply if isinstance(reply, int) else 200)
        content = self.server.content.get(path, b"") if reply in (200, "cut") else b""
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if reply == "cut" else content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(paper_data, "PAUSE_S", 0.01)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def files(server: Server) -> list[PaperFile]:
    """Ten files that the server has."""
    paths = [f"data/{folder}/t{i}.json" for folder in ("skeleton", "main/x y") for i in range(5)]
    server.content = {path.replace(" ", "%20"): f'["{path}"]'.encode() * 1000 for path in paths}
    return [PaperFile(path, blob_id(server.content[path.replace(" ", "%20")])) for path in paths]


def local_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_files_arrive_whole_in_the_layout_of_data_root(server: Server, files: list[PaperFile], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = fetch_paper_data(
        tmp_path, base_url=server.url, files=files, on_progress=lambda done, total: seen.append((done, total))
    )
    assert local_files(tmp_path) == {file.path.removeprefix("data/") for file in files} == set(report.fetched)
    assert all(blob_id((tmp_path / file.local).read_bytes()) == file.blob for file in files)
    assert report.bytes == sum(map(len, server.content.values()))
    assert seen == [(n, 10) for n in range(1, 11)]


def test_what_is_there_and_verified_is_not_fetched(server: Server, files: list[PaperFile], tmp_path: Path) -> None:
    fetch_paper_data(tmp_path, base_url=server.url, files=files[:6])
    (tmp_path / files[0].local).write_bytes(b"changed")
    server.asked.clear()
    report = fetch_paper_data(tmp_path, base_url=server.url, files=files)
    assert report.replaced == (files[0].local,)
    assert report.present == tuple(sorted(file.local for file in files[1:6]))
    assert set(report.fetched) == {file.local for file in files[6:]}
    assert sum(server.asked.values()) == 5
    assert blob_id((tmp_path / files[0].local).read_bytes()) == files[0].blob


def test_a_corrupted_and_a_missing_file_are_reported_together_and_not_kept(
    server: Server, files: list[PaperFile], tmp_path: Path
) -> None:
    corrupted, missing, stale = files[0], files[1], files[2]
    server.content[corrupted.path] += b" "
    del server.content[missing.path]
    server.trouble[stale.path] = [403]
    (tmp_path / stale.local).parent.mkdir(parents=True)
    (tmp_path / stale.local).write_bytes(b"old")
    with pytest.raises(DataError) as caught:
        fetch_paper_data(tmp_path, base_url=server.url, files=files)
    head, *lines = str(caught.value).splitlines()
    assert "3 of 10 data files could not be fetched" in head
    assert "7 are present and verified" in head
    assert lines[0].startswith(f"  {corrupted.local}: corrupted, its git blob id is ")
    assert lines[0].endswith(f"expected {corrupted.blob}")
    assert lines[1] == f"  {missing.local}: missing on the server (HTTP 404)"
    assert lines[2].startswith(f"  {stale.local}: refused by the server (HTTP 403); the existing file of that name")
    assert local_files(tmp_path) == {file.local for file in files[2:]}
    assert server.asked[missing.path] == 1, "a missing file is not requested again"


def test_transient_troubles_are_tried_again(server: Server, files: list[PaperFile], tmp_path: Path) -> None:
    server.trouble = {files[0].path: [503, 429], files[1].path: ["cut"], files[2].path: [500, 500, 500]}
    with pytest.raises(DataError, match=r"1 of 10 .*\n  skeleton/t2.json: HTTP 500, 3 times$"):
        fetch_paper_data(tmp_path, base_url=server.url, files=files)
    assert local_files(tmp_path) == {file.local for file in files} - {files[2].local}
    assert [server.asked[file.path] for file in files[:4]] == [3, 2, 3, 1]


def test_an_interrupted_download_resumes(server: Server, files: list[PaperFile], tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_paper_data(tmp_path, base_url=server.url, files=files, on_progress=interrupt)
    kept = local_files(tmp_path)
    assert len(kept) >= 3
    assert all(blob_id((tmp_path / file.local).read_bytes()) == file.blob for file in files if file.local in kept)
    # What a killed process leaves of a file it was writing.
    half = tmp_path / "skeleton" / ".t0.json.part"
    half.write_bytes(b"half")
    (tmp_path / files[0].local).unlink(missing_ok=True)
    server.asked.clear()
    report = fetch_paper_data(tmp_path, base_url=server.url, files=files)
    assert set(report.present) == kept - {files[0].local}
    assert sum(server.asked.values()) == 10 - len(report.present)
    assert local_files(tmp_path) == {file.local for file in files}


def test_a_server_that_cannot_be_reached_is_given_up_soon(
    server: Server, files: list[PaperFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper_data, "CONNECTIONS", 1)
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match="10 of 10 data files") as caught:
        fetch_paper_data(tmp_path, base_url=server.url, files=files)
    lines = str(caught.value).splitlines()
    assert sum("no connection" in line for line in lines) == 1
    assert lines[-1] == "  9 more: not tried, the server is unreachable"
    assert len(lines) == 3
    assert local_files(tmp_path) == set()


def test_a_folder_that_cannot_be_written_is_told(server: Server, files: list[PaperFile], tmp_path: Path) -> None:
    (tmp_path / "skeleton").write_text("a file where a folder should be")
    with pytest.raises(DataError, match=r"5 of 10 .*\n  skeleton/t0.json: cannot be written"):
        fetch_paper_data(tmp_path, base_url=server.url, files=files)


def test_a_blob_id_is_gits() -> None:
    assert blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
    assert blob_id(b"") == hashlib.sha1(b"blob 0\0").hexdigest()


def test_the_list_holds_the_papers_files_at_one_commit() -> None:
    files = paper_files()
    assert len(files) == 51
    assert len({file.local for file in files}) == 51
    assert all(len(bytes.fromhex(file.blob)) == 20 for file in files)
    assert RAW_URL.endswith(COMMIT)


def test_the_list_is_that_of_the_real_files(shared_data: Path) -> None:
    lines = (shared_data / "paper-files.tsv").read_text().splitlines()
    assert COMMIT in lines[0]
    assert [f"{file.path}\t{file.blob}" for file in paper_files()] == lines[1:]
    here = [file for file in paper_files() if (shared_data / "mentor-kd" / file.local).is_file()]
    assert len(here) == 31
    wrong = [f.local for f in here if blob_id((shared_data / "mentor-kd" / f.local).read_bytes()) != f.blob]
    assert wrong == []


def test_real_files_are_fetched_and_readable(server: Server, shared_data: Path, tmp_path: Path) -> None:
    files = [file for file in paper_files() if "tracking_shuffled_objects" in file.path and "mcckd" not in file.path]
    server.content = {file.path: (shared_data / "mentor-kd" / file.local).read_bytes() for file in files}
    report = fetch_paper_data(tmp_path, base_url=server.url, files=files)
    assert len(report.fetched) == 7
    assert (tmp_path / "skeleton" / "tracking_shuffled_objects_train.json").is_file()
