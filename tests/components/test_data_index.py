"""The index: written row by row, opened by its header, read where it is asked for."""

from __future__ import annotations

import hashlib
import json
import shutil
import tracemalloc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_world import SHARD, made_index, row, tokenizer_json

from components.data.columns import COLUMNS
from components.data.documents import CorpusError
from components.data.index import Index, Row, write_index
from components.data.index_writer import CHUNK, digest_of
from components.data.row import IMAGE
from components.data.tokenizer import Tokenizer

ROWS = [
    row("a-0", [IMAGE, 12], "laion", "caption"),
    row("a-1", [3, IMAGE, IMAGE, 2000, 1], "mmc4", "matched", given=(0, 2)),
    row("a-2", [7], "laion", "caption", split="evaluation"),
    row("a-3", [IMAGE, 8], "laion", "caption"),
    row("a-4", [IMAGE, 5, 2], "vqa", "question", given=(0, 1)),
    row("a-5", [], "mmc4", "matched"),
    row("a-6", [IMAGE, 5, 2], "okvqa", "question", given=(0, 1)),
]
items = st.lists(st.sampled_from([IMAGE, 1, 2, 60, 70_000]), min_size=1, max_size=6)
rows = st.lists(
    st.builds(
        row, st.from_regex(r"[A-Za-z0-9_-]{1,80}", fullmatch=True), items, st.sampled_from(["a", "b/c", "ü"]), given=st.sets(st.just(0))
    ),
    max_size=20,
)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return made_index(tmp_path / "index", ROWS)


def test_every_row_is_read_back(index: Index) -> None:
    assert [index.row(number) for number in range(len(index))] == ROWS
    assert index.without_items == 1
    assert [one.id for one in index.rows("train", "caption")] == ["a-0", "a-3"]
    assert index.rows("train", "question")[1] == ROWS[6]
    assert index.rows("train", "question")[-1:] == [ROWS[6]]
    assert list(index.rows("evaluation", "question")) == []
    assert index.kinds("train") == ["caption", "matched", "question"]
    index.verify()


@given(rows)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_rows_are_read_back(tmp_path: Path, rows: list[Row]) -> None:
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    index = made_index(folder, rows)
    assert [index.row(number) for number in range(len(index))] == rows
    by_kind = [one for kind in index.kinds("train") for one in index.rows("train", kind)]
    assert sorted(one.id for one in by_kind) == sorted(one.id for one in rows)


def test_a_name_is_a_kind_a_source_or_both(index: Index) -> None:
    def ids(name: str) -> list[str]:
        selection = index.select("train", name)
        return [index.row(number).id for number in selection[np.arange(len(selection))].tolist()]

    assert ids("caption") == ids("laion") == ids("laion/caption") == ["a-0", "a-3"]
    assert ids("question") == ["a-4", "a-6"]
    assert ids("okvqa") == ["a-6"]
    assert ids("okvqa/caption") == ids("nothing") == []
    assert index.names("train")[:3] == ["caption", "matched", "question"]
    assert {"mmc4", "okvqa/question"} <= set(index.names("train"))


def test_a_name_that_could_mean_two_things_is_refused(tmp_path: Path) -> None:
    index = made_index(tmp_path / "index", [row("a", [1], "story", "caption"), row("b", [1], "x", "story")])
    with pytest.raises(CorpusError, match="`story` is a kind of documents and the name of a source; write SOURCE/KIND"):
        index.select("train", "story")
    assert len(index.select("train", "story/caption")) == 1


def test_the_same_rows_give_the_same_bytes_and_others_another_digest(tmp_path: Path) -> None:
    one, two = made_index(tmp_path / "one", ROWS), made_index(tmp_path / "two", iter(ROWS))
    assert one.sha256 == two.sha256
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    changed = [replace(ROWS[0], offset=512), *ROWS[1:]]
    assert made_index(tmp_path / "three", changed).sha256 != one.sha256


def test_rows_are_not_held_while_they_are_written(tmp_path: Path) -> None:
    alive: list[weakref.ref[Row]] = []
    most = 0

    def many() -> Iterator[Row]:
        nonlocal alive, most
        for number in range(3 * CHUNK):
            made = row(f"document-{number:09d}", [IMAGE, 40, 60])
            alive.append(weakref.ref(made))
            if number % 500 == 0:
                alive = [one for one in alive if one() is not None]
                most = max(most, len(alive))
            yield made

    write_index(tmp_path, many(), [SHARD], tokenizer_json())
    assert most <= 2 * CHUNK + 500


def test_documents_of_several_sources_in_turn_are_still_found(tmp_path: Path) -> None:
    mixed = [row(f"d-{number}", [number % 7 + 1], f"source{number % 3}", "text") for number in range(12_000)]
    index = made_index(tmp_path / "index", mixed)
    selection = index.select("train", "source1")
    numbers = selection[np.arange(len(selection))]
    assert numbers.tolist() == list(range(1, 12_000, 3))
    assert index.rows("train", "text")[4000].id == "d-1"


@pytest.mark.parametrize("name", ["index.json", "tokenizer.json", *(f"columns/{name}.npy" for name in COLUMNS)])
def test_a_file_that_is_cut_is_refused(index: Index, name: str) -> None:
    path = index.folder / name
    path.write_bytes(path.read_bytes()[: -1 if name.startswith("columns") else -30])
    with pytest.raises(CorpusError, match=rf"{path.name}.*dvc repro prepare"):
        Index(index.folder)


def test_what_has_the_right_size_is_found_by_its_digest(index: Index) -> None:
    path = index.folder / "columns" / "tokens.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=r"tokens\.npy differs"):
        Index(index.folder).verify()


def test_a_header_that_was_edited_is_refused(index: Index) -> None:
    path = index.folder / "index.json"
    path.write_text(path.read_text().replace('"source": "mmc4"', '"source": "mmc5"'))
    with pytest.raises(CorpusError, match="not as it was written"):
        Index(index.folder)


def test_a_newer_version_is_refused(index: Index) -> None:
    path = index.folder / "index.json"
    path.write_text(path.read_text().replace('"version": 2', '"version": 3'))
    with pytest.raises(CorpusError, match="newer mmfs"):
        Index(index.folder)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"shard": "other.tar"}, "lies in shard other.tar, which was not written"),
        ({"length": 1 << 33}, "a value of 8589934592 is more than the index holds"),
        ({"tokens": 11}, "its items .* are not its 11 text tokens and 1 images"),
    ],
)
def test_a_row_that_cannot_be_written_is_named(tmp_path: Path, wrong: dict, told: str) -> None:
    with pytest.raises(CorpusError, match=f"a-0.*{told}"):
        write_index(tmp_path, [replace(ROWS[0], **wrong)], [SHARD], tokenizer_json())


def test_an_index_of_version_1_is_still_read(tmp_path: Path) -> None:
    old = [{name: value for name, value in vars(one).items() if name not in ("items", "given")} for one in ROWS]
    data = "".join(json.dumps(values) + "\n" for values in old).encode()
    (tmp_path / "documents.jsonl").write_bytes(data)
    (tmp_path / "tokenizer.json").write_text(tokenizer_json())
    tokenizer = Tokenizer(tokenizer_json())
    header = {
        "version": 1,
        "tokenizer": {"file": "tokenizer.json", "sha256": tokenizer.sha256, "vocab_size": tokenizer.vocab_size},
        "documents_sha256": hashlib.sha256(data).hexdigest(),
        "shards": [vars(SHARD)],
    }
    (tmp_path / "index.json").write_text(json.dumps(header))
    index = Index(tmp_path)
    assert [index.row(number) for number in range(len(index))] == [replace(one, items=(), given=()) for one in ROWS]
    assert [one.id for one in index.rows("train", "matched")] == ["a-1", "a-5"]
    assert index.without_items == len(ROWS)
    (tmp_path / "documents.jsonl").write_bytes(data[:-9])
    with pytest.raises(CorpusError, match=r"documents\.jsonl differs"):
        Index(tmp_path)


def test_a_hundred_million_documents_are_opened_by_their_header(index: Index, tmp_path: Path) -> None:
    """Files with holes where the documents would be; nothing of them is read."""
    folder, count = tmp_path / "huge", 100_000_000
    shutil.copytree(index.folder, folder)
    header = json.loads((folder / "index.json").read_text())
    for name, column in COLUMNS.items():
        path, cells = folder / "columns" / f"{name}.npy", count if column.per == "document" else 0
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": column.dtype, "fortran_order": False, "shape": (cells, *column.cell)})
            file.truncate(file.tell() + cells * int(np.prod(column.cell)) * np.dtype(column.dtype).itemsize)
        header["columns"][name] |= {"shape": [cells, *column.cell], "size": path.stat().st_size}
    del header["columns"]["order"]
    header |= {"documents": count, "groups": [{"split": "train", "source": "a", "kind": "text", "documents": count}]}
    header["sha256"] = digest_of(header)
    (folder / "index.json").write_text(json.dumps(header))
    tracemalloc.start()
    huge = Index(folder)
    assert len(huge) == len(huge.select("train", "a")) == count
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
