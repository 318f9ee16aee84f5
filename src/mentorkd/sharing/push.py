"""A learner as repositories of the Hugging Face hub: their files are gathered, then sent, or written to a folder.

What is sent is what was gathered, so the dry run shows it to the byte.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from mentorkd.errors import RunError
from mentorkd.files import write_text
from mentorkd.recipe.yaml import dump_yaml
from mentorkd.sharing.card import eval_results, write_card
from mentorkd.sharing.forms import form_of
from mentorkd.sharing.lineage import trace
from mentorkd.sharing.privacy import Privacy
from mentorkd.sharing.source import Source

_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
"""What the hub's HTTP library raises: httpx, or in later versions httpx2."""

_REFUSED = {
    401: "the hub does not know the token; log in again with `hf auth login`, or set HF_TOKEN",
    403: "the token may not write there; take a token with the right to write, and an owner that you belong to",
    404: "the hub has no such owner or repository; check the name OWNER/NAME, and that the token may see it",
    413: "the hub refuses the size of the files",
    429: "the hub asks for a pause; wait some minutes, and the same command goes on",
}


@dataclass(frozen=True)
class Repository:
    """A repository of the hub, with the files of one commit."""

    kind: Literal["model", "dataset"]
    name: str
    """OWNER/NAME."""
    files: Mapping[str, Path]
    """Where each file lies now, by its path in the repository."""

    @property
    def url(self) -> str:
        """Its address in an answer to the user."""
        return f"{constants.ENDPOINT}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"


def gather(source: Source, name: str, folder: Path, *, data_set: str | None, report: bool) -> list[Repository]:
    """The repositories of a learner, the data set first, which the model's card names. What is generated is written to `folder`.

    Args:
        name: OWNER/NAME of the model.
        data_set: OWNER/NAME of a data set with all rationales of the run; None makes none.
        report: whether the run's report goes with the model.

    Raises RunError for a wrong name, a learner that is not trained, and a file that holds a key or the path of the home folder.
    """
    for each in filter(None, (name, data_set)):
        _check_name(each)
    privacy, lineage = Privacy.of(source), trace(source)
    repositories = []
    if data_set is not None:
        own = folder / "dataset"
        own.mkdir()
        form_of("dataset").write(source, own, None)
        repositories.append(Repository("dataset", data_set, _files(own)))
    own = folder / "model"
    own.mkdir()
    write_card(source, lineage, own, data_set=data_set)
    if (results := eval_results(source, lineage, name, report=report)) is not None:
        path, entries = results
        (own / path).parent.mkdir()
        write_text(own / path, dump_yaml(entries))
    taken = {path: file for path, file in _files(source.model()).items() if path != "README.md"}
    if report:
        taken |= {f"report/{path}": file for path, file in _files(source.pipeline.folder.report()).items()}
    originals = {
        path: _public(file, own / path, privacy) if _names_paths(path) else file for path, file in taken.items()
    }
    repositories.append(Repository("model", name, {**originals, **_files(own)}))
    for repository in repositories:
        for path, file in repository.files.items():
            for text in _texts(file):
                privacy.check(f"{repository.name}: {path}", text)
    return repositories


def write_tree(repositories: Sequence[Repository], folder: Path) -> None:
    """Copy the files of each repository to `folder`/models/OWNER/NAME or `folder`/datasets/OWNER/NAME."""
    for repository in repositories:
        for path, file in repository.files.items():
            target = folder / f"{repository.kind}s" / repository.name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def known_token() -> str:
    """The user's token for the hub. Raises RunError if there is none."""
    if (token := get_token()) is None:
        raise RunError("got no token for the Hugging Face hub; log in with `hf auth login`, or set HF_TOKEN")
    return token


def send(repositories: Sequence[Repository], token: str, *, private: bool) -> None:
    """Make the repositories that do not exist, and add a commit to each. All are made before any file is sent.

    Raises RunError if the hub refuses something or cannot be reached, and if `private` is asked for and a repository is public.
    """
    hub = HfApi(token=token)
    for repository in repositories:
        with _explaining(repository):
            hub.create_repo(repository.name, repo_type=repository.kind, private=private or None, exist_ok=True)
            if private and not hub.repo_info(repository.name, repo_type=repository.kind).private:
                raise RunError(
                    f"{repository.url} exists and is public; make it private in its settings, or push without --private"
                )
    for repository in repositories:
        additions = [CommitOperationAdd(path, str(file)) for path, file in repository.files.items()]
        with _explaining(repository):
            message = "Upload by mentorkd"
            hub.create_commit(repository.name, additions, commit_message=message, repo_type=repository.kind)


def _check_name(name: str) -> None:
    try:
        validate_repo_id(name)
        fault = None if "/" in name else "no owner"
    except HFValidationError as error:
        fault = str(error).splitlines()[0]
    if fault is not None:
        raise RunError(f"got the repository {name} ({fault}); expected OWNER/NAME, such as jane/my-student")


def _files(folder: Path) -> dict[str, Path]:
    """The files of a folder by their path in it; without the hidden ones of this program's own."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != ".hashes.json"]
    return {file.relative_to(folder).as_posix(): file for file in files}


def _names_paths(path: str) -> bool:
    """Whether this program or transformers may have written a path of the machine into a file. Vocabularies and code hold none of
    them: a word of a vocabulary that is spelled like one has to stay."""
    return path.startswith("report/") or path.endswith("config.json")


def _public(file: Path, copy: Path, privacy: Privacy) -> Path:
    """The file, or a copy of it without the paths of this machine, if it has some."""
    text = _text(file)
    if text is None or (public := privacy.public(text)) == text:
        return file
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(public, encoding="utf-8", newline="")
    return copy


def _texts(file: Path) -> Iterator[str]:
    """All texts that a file holds; nothing of weights."""
    if file.suffix == ".parquet":
        from mentorkd.sharing.parquet import texts_of

        yield from texts_of(file)
    elif (text := _text(file)) is not None:
        yield text


def _text(file: Path) -> str | None:
    """The content of a text file; None for others."""
    if file.suffix in (".safetensors", ".bin", ".model", ".parquet", ".png"):
        return None
    try:
        return file.read_bytes().decode()
    except UnicodeDecodeError:
        return None


@contextmanager
def _explaining(repository: Repository) -> Iterator[None]:
    """Turn what the hub's client raises into one line."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        # The upload of a large file raises a RuntimeError, whose cause tells what happened.
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        if (why := _why(cause, f"the {repository.kind} {repository.name}")) is None:
            raise
        raise RunError(why) from error


def _why(error: BaseException, where: str) -> str | None:
    """Why something was not sent; None for what is no affair of the hub."""
    line = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return f"the hub refused {where} ({status}): {_REFUSED.get(status) or error.server_message or line}"
    if isinstance(error, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set, so {where} is not sent; unset it, or use --dry-run DIR"
    if isinstance(error, _HTTP_ERROR | ConnectionError | TimeoutError):
        return f"the hub cannot be reached for {where} ({line}); check the network, and the same command goes on"
    if isinstance(error, RuntimeError | ValueError):  # a part of an upload, or the front matter of a card
        return f"the hub did not take {where}: {line}"
    return None
