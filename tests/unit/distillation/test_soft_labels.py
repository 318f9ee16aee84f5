from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mentorkd.data.encoding import Example
from mentorkd.distillation.chunk_losses import MentorChunks
from mentorkd.distillation.losses import MentorHidden, MentorTopK, top_k_of
from mentorkd.distillation.soft_labels import SoftLabelStore, SoftLabelWriter, StoredSoftLabels, StoreMeta
from mentorkd.errors import StoreError

CPU = torch.device("cpu")
VOCABULARY, WIDTH, K = 50, 8, 5
HIDDEN = StoreMeta("hidden", "mentor-1", "tokenizer-1", "arrow", VOCABULARY, WIDTH)
TOP_K = StoreMeta("top_k", "mentor-1", "tokenizer-1", "arrow", VOCABULARY, K, temperature=2.0)
CHUNKS = StoreMeta("chunks", "mentor-1", "tokenizer-1", "arrow", VOCABULARY, 1, mentor_tokenizer="tokenizer-2")
LENGTHS = {"a": 3, "b": 7, "c": 1, "d": 12}
CHUNK_TOKENS = {"a": [2, 1], "b": [1, 1, 4, 1], "c": [1], "d": [5, 5, 1, 1]}
"""Tokens of each chunk of a row."""
HEAD = {"weight": torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(0))}


def arrays(rationale_id: str, meta: StoreMeta = HIDDEN) -> dict[str, Any]:
    make = torch.Generator().manual_seed(ord(rationale_id))
    tokens = LENGTHS[rationale_id]
    if meta.form == "chunks":
        counts = CHUNK_TOKENS[rationale_id]
        return {"log_probs": -torch.rand(len(counts), generator=make).numpy(), "tokens": np.array(counts, np.uint16)}
    labels = {"labels": torch.randint(VOCABULARY, (tokens,), generator=make).numpy()}
    if meta.form == "hidden":
        hidden = torch.randn(tokens, WIDTH, generator=make).bfloat16()
        return {**labels, "hidden": hidden.view(torch.int16).numpy().view(np.uint16)}
    kept = top_k_of(torch.randn(tokens, VOCABULARY, generator=make), K, temperature=2.0)
    shares = {"log_probs": kept.log_probs_NK, "indices": kept.indices_NK, "log_tail": kept.log_tail_N}
    measured = {"nll": torch.rand(tokens, generator=make), "lost": torch.rand(tokens, generator=make)}
    return {**labels, **{name: value.numpy() for name, value in (shares | measured).items()}}


def write(
    folder: Path, ids: str = "abcd", meta: StoreMeta = HIDDEN, head: dict[str, torch.Tensor] | None = None
) -> Path:
    writer = SoftLabelWriter(folder, meta, (head or HEAD) if meta.form == "hidden" else None)
    for rationale_id in ids:
        writer.append([(rationale_id, arrays(rationale_id, meta))])
    writer.finish()
    return folder


def rows_of(ids: str) -> list[Example]:
    """Rows with the target tokens that were scored."""
    return [Example(each, [], arrays(each)["labels"].tolist()) for each in ids]


# --- what is written is read --------------------------------------------------------------------------------------


@pytest.mark.parametrize("meta", [HIDDEN, TOP_K, CHUNKS], ids=["hidden", "top_k", "chunks"])
def test_rows_come_back_bit_for_bit(meta: StoreMeta, tmp_path: Path) -> None:
    store = SoftLabelStore(write(tmp_path, meta=meta))
    entries = CHUNK_TOKENS if meta == CHUNKS else {name: range(length) for name, length in LENGTHS.items()}
    assert (store.meta, store.rows, store.tokens) == (meta, 4, sum(map(len, entries.values())))
    assert store.ids == list("abcd")
    assert "a" in store
    assert "z" not in store
    for rationale_id in LENGTHS:
        expected = arrays(rationale_id, meta)
        row = store.row(rationale_id)
        assert row.keys() == expected.keys()
        for name in row:
            np.testing.assert_array_equal(row[name], expected[name])


def test_a_batch_of_hidden_states_has_its_rows_in_order(tmp_path: Path) -> None:
    labels = StoredSoftLabels([write(tmp_path)], device=CPU)
    side = labels.targets_for(rows_of("da"), {})
    assert isinstance(side, MentorHidden)
    states = [torch.from_numpy(arrays(i)["hidden"].copy()).view(torch.bfloat16).float() for i in "da"]
    torch.testing.assert_close(side.hidden_NE, torch.cat(states), rtol=0, atol=0)
    torch.testing.assert_close(side.weight_VE, HEAD["weight"], rtol=0, atol=0)
    assert side.bias_V is None


def test_a_batch_of_top_k_has_its_rows_in_order(tmp_path: Path) -> None:
    labels = StoredSoftLabels([write(tmp_path, meta=TOP_K)], device=CPU)
    side = labels.targets_for(rows_of("da"), {})
    assert isinstance(side, MentorTopK)
    expected = [arrays(i, TOP_K) for i in "da"]
    for name, got in {"log_probs": side.log_probs_NK, "indices": side.indices_NK, "log_tail": side.log_tail_N}.items():
        np.testing.assert_array_equal(got.numpy(), np.concatenate([row[name] for row in expected]))
    assert (side.vocab_size, side.temperature, side.indices_NK.dtype) == (VOCABULARY, 2.0, torch.int64)


def test_a_batch_of_chunks_has_its_rows_in_order(tmp_path: Path) -> None:
    side = StoredSoftLabels([write(tmp_path, meta=CHUNKS)], device=CPU).targets_for(rows_of("da"), {})
    assert isinstance(side, MentorChunks)
    assert side.tokens_C.tolist() == [*CHUNK_TOKENS["d"], *CHUNK_TOKENS["a"]]
    np.testing.assert_array_equal(side.log_probs_C, np.concatenate([arrays(i, CHUNKS)["log_probs"] for i in "da"]))


def test_chunks_of_other_target_tokens_are_refused(tmp_path: Path) -> None:
    labels = StoredSoftLabels([write(tmp_path, meta=CHUNKS)], device=CPU)
    rows = rows_of("ba")
    rows[1].target_ids.append(rows[0].target_ids.pop())  # as many in all, and other numbers in each row
    with pytest.raises(StoreError, match="the target tokens of b, a differ from those that the mentor scored"):
        labels.targets_for(rows, {})


def test_a_store_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """Its description lacks what came later."""
    file = write(tmp_path) / "meta.json"
    described = json.loads(file.read_text())
    del described["mentor_tokenizer"], described["seal"]
    file.write_text(json.dumps({**described, "seal": zlib.crc32(json.dumps(described, sort_keys=True).encode())}))
    assert SoftLabelStore(tmp_path).meta == HIDDEN


def test_a_biased_head_comes_back(tmp_path: Path) -> None:
    head = {**HEAD, "bias": torch.arange(VOCABULARY, dtype=torch.float32)}
    SoftLabelWriter(tmp_path, HIDDEN, head).finish()
    _, bias = SoftLabelStore(tmp_path).head()
    assert torch.equal(bias, head["bias"])


def test_a_vocabulary_beyond_two_bytes_keeps_its_indices(tmp_path: Path) -> None:
    meta = StoreMeta("top_k", "m", "t", "arrow", 151_936, 1, temperature=1.0)
    writer = SoftLabelWriter(tmp_path, meta)
    one = np.zeros((1, 1), np.float32)
    shares = {"log_probs": one, "log_tail": one[0], "nll": one[0], "lost": one[0]}
    writer.append([("a", {"labels": [7], "indices": np.array([[151_935]]), **shares})])
    writer.finish()
    assert SoftLabelStore(tmp_path).row("a")["indices"].tolist() == [[151_935]]


def test_several_stores_serve_as_one(tmp_path: Path) -> None:
    folders = [write(tmp_path / "teacher", "ab"), write(tmp_path / "mentor", "cd")]
    side = StoredSoftLabels(folders, device=CPU).targets_for(rows_of("cb"), {})
    assert len(side) == LENGTHS["c"] + LENGTHS["b"]


def test_more_stores_are_open_than_a_process_may_open_files_at_first(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="this system has no limit of open files")
    folders = [write(tmp_path / name, name, TOP_K) for name in "abcd"]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("this system does not list the open files of a process")
    highest = max(
        int(each.name) for each in descriptors.iterdir()
    )  # each of the 24 files that will stay open is above it
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 4, before[1]))
    try:
        labels = StoredSoftLabels(folders, device=CPU)
        assert len(labels.targets_for(rows_of("da"), {})) == LENGTHS["d"] + LENGTHS["a"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def of(rationale_id: str, source: str = "teacher") -> Example:
    return Example(rationale_id, [1], arrays(rationale_id)["labels"].tolist(), source=source)


def test_a_row_is_read_with_the_head_of_the_model_that_scored_it(tmp_path: Path) -> None:
    """A mentor with two folds: each model has stores of both sources."""
    heads = [{"weight": torch.full((VOCABULARY, WIDTH), scale)} for scale in (1.0, 2.0)]
    folders = []
    for fold, ids in enumerate(("ab", "cd")):
        for rationale_id in ids:
            folder = tmp_path / f"{fold}-{rationale_id}"
            folders.append(write(folder, rationale_id, replace(HIDDEN, mentor=f"fold-{fold}"), heads[fold]))
    labels = StoredSoftLabels(folders, device=CPU, mentors=["fold-0", "fold-1"])
    assert [labels.part_of(of(rationale_id)) for rationale_id in "abcd"] == [0, 0, 1, 1]
    for ids, head in (("ba", heads[0]), ("cd", heads[1])):
        side = labels.targets_for(rows_of(ids), {})
        assert isinstance(side, MentorHidden)
        assert torch.equal(side.weight_VE, head["weight"])
    with pytest.raises(StoreError, match="was written with mentor fold-1, expected fold-0 or fold-2"):
        StoredSoftLabels(folders, device=CPU, mentors=["fold-0", "fold-2"])


def test_a_source_without_soft_labels_is_no_missing_row(tmp_path: Path) -> None:
    labels = StoredSoftLabels([write(tmp_path, "ab")], device=CPU, sources=["teacher"])
    assert labels.part_of(of("a")) == 0
    assert labels.part_of(of("c", "gold")) is None
    with pytest.raises(StoreError, match="no soft labels of rationale c"):
        labels.part_of(of("c", "teacher"))


def test_an_empty_store_is_a_store(tmp_path: Path) -> None:
    store = SoftLabelStore(write(tmp_path, ""))
    assert (store.rows, store.tokens, store.ids) == (0, 0, [])


def test_a_batch_costs_its_own_rows_alone(tmp_path: Path) -> None:
    """A store larger than the memory is still read: rows are views of the file, and only a batch's are copied."""
    store = SoftLabelStore(write(tmp_path))
    for part in store.row("b").values():
        assert isinstance(part, np.memmap)
        assert not part.flags.owndata
    side = StoredSoftLabels([tmp_path], device=CPU).targets_for(rows_of("b"), {})
    assert side.hidden_NE.untyped_storage().nbytes() == LENGTHS["b"] * WIDTH * 4


def test_size_of_a_store(tmp_path: Path) -> None:
    store = SoftLabelStore(write(tmp_path))
    assert store.meta.bytes_per_token == 4 + 2 * WIDTH
    assert store.size_bytes > store.tokens * store.meta.bytes_per_token
    assert TOP_K.bytes_per_token == 4 + K * (4 + 2) + 3 * 4
    assert CHUNKS.bytes_per_token == 4 + 2


# --- killed writers -----------------------------------------------------------------------------------------------


def assert_whole(folder: Path) -> None:
    fresh = write(folder.parent / "fresh")
    for file in fresh.iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("torn", ["nothing", "data", "index line", "both"])
def test_a_killed_writer_goes_on_behind_its_last_whole_row(torn: str, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    writer = SoftLabelWriter(folder, HIDDEN, HEAD)
    writer.append([("a", arrays("a")), ("b", arrays("b"))])
    if torn in ("data", "both"):  # a row was on its way to the disk
        with (folder / "hidden.bin").open("ab") as stream:
            stream.write(b"half a row")
        with (folder / "labels.bin").open("ab") as stream:
            stream.write(b"\0" * 4 * LENGTHS["c"])
    if torn in ("index line", "both"):
        with (folder / "index.jsonl").open("a") as stream:
            stream.write('["c", 10, 1, 123')
    writer.close()
    again = SoftLabelWriter(folder, HIDDEN, HEAD)
    assert (again.done, again.tokens) == ({"a", "b"}, LENGTHS["a"] + LENGTHS["b"])
    again.append([("c", arrays("c")), ("d", arrays("d"))])
    again.finish()
    assert_whole(folder)


def test_a_writer_killed_behind_its_last_step_finishes_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "store")
    writer = SoftLabelWriter(folder, HIDDEN, HEAD)
    assert writer.done == set("abcd")
    with pytest.raises(StoreError, match="unfinished"):
        SoftLabelStore(folder)
    writer.finish()
    assert_whole(folder)


def test_a_writer_refuses_the_store_of_another_mentor(tmp_path: Path) -> None:
    SoftLabelWriter(tmp_path, HIDDEN, HEAD).close()
    other = StoreMeta("hidden", "mentor-2", "tokenizer-1", "arrow", VOCABULARY, WIDTH)
    with pytest.raises(StoreError, match="mentor mentor-1 where mentor-2 was expected"):
        SoftLabelWriter(tmp_path, other, HEAD)


@pytest.mark.parametrize("harm", ["hidden.bin is short", "hidden.bin", "labels.bin", "index.jsonl", "head.safetensors"])
def test_a_writer_writes_damaged_rows_again(harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Zeros would stand where data are missing."""
    folder = tmp_path / "store"
    with closing(SoftLabelWriter(folder, HIDDEN, HEAD)) as writer:
        writer.append([(each, arrays(each)) for each in "abc"])
    file = folder / harm.partition(" ")[0]
    if harm.endswith("short"):
        file.write_bytes(file.read_bytes()[:-2])
    else:
        flip(file, file.stat().st_size // 2)
    again = SoftLabelWriter(folder, HIDDEN, HEAD)
    assert again.done == (set("abc") if harm.startswith("head") else set("ab") if "short" in harm else set("a"))
    assert bool(caplog.records) == (not harm.startswith("head"))
    again.append([(each, arrays(each)) for each in "abcd" if each not in again.done])
    again.finish()
    assert_whole(folder)


def test_a_writer_refuses_an_unreadable_description(tmp_path: Path) -> None:
    SoftLabelWriter(tmp_path, HIDDEN, HEAD).close()
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(StoreError, match="cannot be read; remove it"):
        SoftLabelWriter(tmp_path, HIDDEN, HEAD)


# --- what is refused, and the reason ------------------------------------------------------------------------------


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 0x10
    file.write_bytes(data)


def read_all(folder: Path) -> None:
    store = SoftLabelStore(folder)
    if store.meta.form == "hidden":
        store.head()
    for rationale_id in store.ids:
        store.row(rationale_id)


def test_an_undamaged_store_is_read(tmp_path: Path) -> None:
    read_all(write(tmp_path))


FILES = {
    HIDDEN: ["meta.json", "index.jsonl", "labels.bin", "hidden.bin", "head.safetensors"],
    TOP_K: [
        "meta.json",
        "index.jsonl",
        "labels.bin",
        "log_probs.bin",
        "indices.bin",
        "log_tail.bin",
        "nll.bin",
        "lost.bin",
    ],
    CHUNKS: ["meta.json", "index.jsonl", "log_probs.bin", "tokens.bin"],
}


@pytest.mark.parametrize(("meta", "name"), [(meta, name) for meta, names in FILES.items() for name in names])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.99])
def test_a_flipped_byte_is_found_wherever_it_is(meta: StoreMeta, name: str, place: float, tmp_path: Path) -> None:
    write(tmp_path, meta=meta)
    assert {file.name for file in tmp_path.iterdir()} == set(FILES[meta])
    file = tmp_path / name
    flip(file, int(place * file.stat().st_size))
    with pytest.raises(StoreError, match=r"damaged|cannot be read") as caught:
        read_all(tmp_path)
    assert "run the recipe again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_flipped_byte_names_the_rationale_and_spares_the_others(tmp_path: Path) -> None:
    write(tmp_path)
    flip(tmp_path / "hidden.bin", (LENGTHS["a"] + 2) * WIDTH * 2)
    store = SoftLabelStore(tmp_path)
    store.row("a")
    with pytest.raises(StoreError, match="rationale b are damaged"):
        store.row("b")
    with pytest.raises(StoreError, match="rationale b are damaged"):
        StoredSoftLabels([tmp_path], device=CPU).targets_for(rows_of("ab"), {})


def cut(folder: Path) -> None:
    file = folder / "hidden.bin"
    file.write_bytes(file.read_bytes()[:-1])


def extend(folder: Path) -> None:
    with (folder / "labels.bin").open("ab") as stream:
        stream.write(b"\0\0\0\0")


def unfinish(folder: Path) -> None:
    SoftLabelWriter(folder, HIDDEN, HEAD).close()


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (cut, r"hidden\.bin has 367 bytes, expected 368 bytes"),
    "longer": (extend, r"labels\.bin has 96 bytes, expected 92"),
    "a file is gone": (lambda folder: (folder / "hidden.bin").unlink(), r"hidden\.bin is missing"),
    "the index is gone": (lambda folder: (folder / "index.jsonl").unlink(), r"index\.jsonl is missing"),
    "the head is gone": (lambda folder: (folder / "head.safetensors").unlink(), r"head\.safetensors is missing"),
    "unfinished": (unfinish, "is unfinished; run the recipe again, and scoring resumes"),
    "no store": (lambda folder: (folder / "meta.json").unlink(), "is no soft-label store"),
}


@pytest.mark.parametrize("damage", REFUSED)
def test_a_store_that_cannot_be_trusted_is_refused_with_the_reason(damage: str, tmp_path: Path) -> None:
    harm, reason = REFUSED[damage]
    harm(write(tmp_path))
    with pytest.raises(StoreError, match=reason):
        read_all(tmp_path)


@pytest.mark.parametrize(("part", "got"), [("mentor", "mentor-1"), ("tokenizer", "tokenizer-1"), ("target", "arrow")])
def test_the_store_of_another_mentor_tokenizer_or_target_is_refused(part: str, got: str, tmp_path: Path) -> None:
    write(tmp_path)

    def opened(value: str) -> StoredSoftLabels:
        return StoredSoftLabels([tmp_path], device=CPU, **({"mentors": [value]} if part == "mentor" else {part: value}))

    opened(got)
    with pytest.raises(StoreError, match=f"was written with {part} {got}, expected another"):
        opened("another")


def test_the_advice_for_a_changed_mentor_is_not_to_remove_the_soft_labels(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match=r"the mentor's model has changed since: if .* names it as damaged, remove its folder"
    ):
        StoredSoftLabels([write(tmp_path)], device=CPU, mentors=["another"])


def test_stores_of_two_kinds_are_refused(tmp_path: Path) -> None:
    folders = [write(tmp_path / "hidden"), write(tmp_path / "top_k", meta=TOP_K)]
    with pytest.raises(StoreError, match="two kinds"):
        StoredSoftLabels(folders, device=CPU)


def test_a_rationale_that_was_not_scored_is_named(tmp_path: Path) -> None:
    labels = StoredSoftLabels([write(tmp_path, "ab")], device=CPU)
    with pytest.raises(StoreError, match="no soft labels of rationale c"):
        labels.targets_for(rows_of("ac"), {})


def test_other_target_tokens_than_those_scored_are_refused(tmp_path: Path) -> None:
    """The last guard: whatever the digests say, soft labels stand at the tokens that they were computed for."""
    labels = StoredSoftLabels([write(tmp_path)], device=CPU)
    rows = rows_of("ab")
    rows[1].target_ids[0] += 1
    with pytest.raises(StoreError, match="another tokenizer or target format"):
        labels.targets_for(rows, {})
    with pytest.raises(StoreError, match="another tokenizer or target format"):
        labels.targets_for(
            [replace(row, rationale_id=other) for row, other in zip(rows_of("ab"), "ba", strict=True)], {}
        )


def test_meta_is_readable_by_people(tmp_path: Path) -> None:
    described = json.loads((write(tmp_path) / "meta.json").read_text())
    assert described["mentor"] == "mentor-1"
    assert described["rows"] == 4


# --- shuffled -----------------------------------------------------------------------------------------------------


def shuffled(folder: Path, ids: str = "abd", seed: int = 0) -> StoredSoftLabels:
    return StoredSoftLabels([folder], device=CPU, shuffled=(list(ids), seed))


def states(labels: StoredSoftLabels, ids: str) -> np.ndarray[Any, Any]:
    """The hidden states, or the kept probabilities, that the tokens of some rationales get."""
    side = labels.targets_for(rows_of(ids), {})
    return (side.hidden_NE if isinstance(side, MentorHidden) else side.log_probs_NK).numpy()  # type: ignore[union-attr]


@pytest.mark.parametrize("meta", [HIDDEN, TOP_K], ids=["hidden", "top_k"])
def test_shuffled_labels_are_those_of_the_trained_rows_in_other_places(meta: StoreMeta, tmp_path: Path) -> None:
    write(tmp_path, meta=meta)
    own, moved = states(StoredSoftLabels([tmp_path], device=CPU), "abd"), states(shuffled(tmp_path), "abd")
    assert sorted(map(bytes, own)) == sorted(map(bytes, moved))  # c is not trained on
    in_place = (own == moved).all(-1).sum()
    assert in_place <= 4  # 1 is expected of 22
    np.testing.assert_array_equal(states(shuffled(tmp_path, seed=0), "abd"), moved)
    assert not np.array_equal(states(shuffled(tmp_path, seed=1), "abd"), moved)


def test_shuffled_top_k_move_together(tmp_path: Path) -> None:
    write(tmp_path, meta=TOP_K)
    plain, store = SoftLabelStore(tmp_path), shuffled(tmp_path).stores[0]
    rows, moved = ([source.row(i) for i in "abd"] for source in (plain, store))
    names = ("log_probs", "indices", "log_tail")
    tokens = [
        sorted(b"".join(bytes(row[name][n]) for name in names) for row in of for n in range(len(row["labels"])))
        for of in (rows, moved)
    ]
    assert tokens[0] == tokens[1]
    for one, other in zip(rows, moved, strict=True):
        np.testing.assert_array_equal(one["labels"], other["labels"])
        np.testing.assert_array_equal(one["nll"], other["nll"])


def test_batches_and_the_order_of_rows_do_not_change_what_is_shuffled(tmp_path: Path) -> None:
    write(tmp_path)
    whole = states(shuffled(tmp_path), "abd")
    again = shuffled(tmp_path, "dbaa")
    np.testing.assert_array_equal(np.concatenate([states(again, "a"), states(again, "bd")]), whole)


def test_a_damaged_row_is_found_before_its_labels_are_used_elsewhere(tmp_path: Path) -> None:
    file = write(tmp_path) / "hidden.bin"
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(StoreError, match="the soft labels of rationale a are damaged"):
        shuffled(tmp_path)


def test_likelihoods_of_chunks_cannot_be_shuffled(tmp_path: Path) -> None:
    write(tmp_path, meta=CHUNKS)
    with pytest.raises(StoreError, match="has likelihoods of chunks, which have no distribution"):
        shuffled(tmp_path)


def test_nothing_to_shuffle_is_no_fault(tmp_path: Path) -> None:
    assert shuffled(write(tmp_path), "").stores[0].rows == 4
