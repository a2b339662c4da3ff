"""Documents that are cut, joined and merged: nothing lost, nothing twice, no image cut, nothing in a row that cannot be learned from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_world import made_index, row

from components.data.content import Content, split
from components.data.index import Index
from components.data.keyed import generator
from components.data.layout import Piece, between
from components.data.measure import Measure
from components.data.row import IMAGE
from components.data.segments import PackedWindow, Segment
from components.data.window_packer import Rules, Window, WindowPacker
from components.params import FewShotParams

VISUAL = 4
BLOCK = 1 + VISUAL
CAPACITY = 40
documents = st.lists(st.tuples(st.sampled_from([IMAGE, IMAGE, 1, 3, 10, 39, 90]), st.booleans()), min_size=1, max_size=12)


def content_of(items: list[tuple[int, bool]], pairs: bool = False) -> Content:
    return Content([tokens for tokens, _ in items], [loss for _, loss in items], BLOCK, pairs)


@given(documents, st.booleans(), st.sampled_from([None, 1, 2]), st.integers(BLOCK + 2, 60))
@settings(max_examples=300)
def test_a_document_is_cut_into_parts_that_fit_and_are_all_of_it(
    items: list[tuple[int, bool]], pairs: bool, most: int | None, capacity: int
) -> None:
    content = content_of(items, pairs)
    parts = split(content, capacity, most)
    assert [begin for begin, _ in parts] == [0, *(end for _, end in parts[:-1])]
    assert parts[-1][1] == content.total
    for begin, end in parts:
        assert 0 < end - begin <= capacity - (2 if end == content.total else 1)
        assert most is None or content.images(begin, end) <= most
    pieces = [Piece(loss, image=0) if tokens == IMAGE else Piece(loss, ids=tuple(range(tokens))) for tokens, loss in items]
    laid = [piece for begin, end in parts for piece in between(pieces, begin, end, VISUAL)]  # raises where an image is cut
    assert sum(piece.image is not None for piece in laid) == sum(tokens == IMAGE for tokens, _ in items)
    assert Counter(index for piece in laid for index in piece.ids) == Counter(index for piece in pieces for index in piece.ids)


def cuts(items: list[tuple[int, bool]], pairs: bool = False, most: int | None = None) -> list[tuple[int, int]]:
    return split(content_of(items, pairs), CAPACITY, most)


def test_cuts_are_between_items_where_that_is_possible() -> None:
    assert cuts([(20, True), (15, True), (20, True)]) == [(0, 35), (35, 55)]
    assert cuts([(20, True), (IMAGE, True), (12, True), (IMAGE, True), (10, True)]) == [(0, 37), (37, 52)]
    assert cuts([(100, True)]) == [(0, 39), (39, 78), (78, 100)], "a text longer than a row is cut where the row ends"
    assert cuts([(30, True), (IMAGE, True), (10, True)], pairs=True) == [(0, 30), (30, 45)], "an image stays with its sentence"
    assert cuts([(9, True), (IMAGE, True)] * 3, most=2) == [(0, 28), (28, 42)], "a third image is in another part, after its sentence"


def test_no_part_is_without_anything_to_learn_where_that_can_be_avoided() -> None:
    question = [(IMAGE, False), (30, False), (20, True)]
    for begin, end in cuts(question):
        assert content_of(question).trains(begin, end)
    last_is_given = [(20, True), (19, True), (IMAGE, False)]
    assert all(content_of(last_is_given).trains(begin, end) for begin, end in cuts(last_is_given))
    one_text = [(38, True), (IMAGE, False)]
    assert all(content_of(one_text).trains(begin, end) for begin, end in cuts(one_text))
    picture_first = [(36, True), (IMAGE, True), (3, False)]
    assert all(content_of(picture_first).trains(begin, end) for begin, end in cuts(picture_first)), "a first picture is not generated"


def test_only_what_is_longer_than_a_row_by_itself_cannot_be_cut() -> None:
    assert split(content_of([(3, True), (IMAGE, True)]), BLOCK + 1, None) == []
    assert split(content_of([(3, True), (IMAGE, True)]), BLOCK + 2, None)[-1] == (3, 8)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """300 documents of texts and images, some far longer than a row, some pairs."""
    draw = generator("documents")
    rows = []
    for number in range(300):
        count = int(draw.integers(1, 9))
        items = [IMAGE if draw.random() < 0.4 else int(draw.integers(1, 40)) for _ in range(count)]
        items[0] = max(items[0], 1)
        rows.append(row(f"d{number}", items))
    rows += [row(f"p{number}", [IMAGE, int(draw.integers(2, 9))], "pairs", "caption") for number in range(100)]
    return made_index(tmp_path_factory.mktemp("index"), rows)


def pack_all(index: Index, rules: Rules, name: str = "interleaved", key: int = 5) -> PackedWindow:
    selection = index.select("train", name)
    order = generator(key).permutation(len(selection))
    return WindowPacker(Measure(index, VISUAL), rules).pack([Window(selection[order], 3, key)], check=False)[0]


def rows_of(window: PackedWindow) -> list[tuple[Segment, ...]]:
    return [window.row(number) for number in range(len(window))]


def tokens_of(index: Index, segments: tuple[Segment, ...]) -> int:
    """As the collator lays them out."""
    total = 0
    for segment in segments:
        own = index.row(segment.document).row_length(VISUAL) - 2
        begin, end = segment.begin, own if segment.whole else segment.end
        total += end - begin + (0 if segment.joined else 1) + (end == own and not segment.joined)
    return total


def images_of(index: Index, segments: tuple[Segment, ...]) -> int:
    measure = Measure(index, VISUAL)
    return sum(
        measure.content(one.document).images(one.begin, measure.content(one.document).total if one.whole else one.end) for one in segments
    )


@pytest.mark.parametrize("mode", ["best_fit", "concatenate_split"])
@pytest.mark.parametrize("most", [None, 2, 3])
def test_every_token_of_every_document_is_in_one_row(index: Index, mode: str, most: int | None) -> None:
    rows = rows_of(pack_all(index, Rules(CAPACITY, mode, most)))  # type: ignore[arg-type]
    spans: dict[int, list[tuple[int, int]]] = {}
    for segments in rows:
        assert 0 < tokens_of(index, segments) <= CAPACITY
        assert most is None or images_of(index, segments) <= most
        for one in segments:
            end = index.row(one.document).row_length(VISUAL) - 2 if one.whole else one.end
            spans.setdefault(one.document, []).append((one.begin, end))
            assert one.epoch == 3
    assert spans.keys() == set(range(300))
    for document, own in spans.items():
        own.sort()
        assert [begin for begin, _ in own] == [0, *(end for _, end in own[:-1])]
        assert own[-1][1] == index.row(document).row_length(VISUAL) - 2
        if mode == "best_fit" and index.row(document).row_length(VISUAL) <= CAPACITY and len(index.row(document).images) <= (most or 99):
            assert len(own) == 1, "nothing is cut that fits a row"


def test_joined_documents_fill_their_rows_and_stand_in_order(index: Index) -> None:
    rows = rows_of(pack_all(index, Rules(400, "concatenate_split")))
    order = index.select("train", "interleaved")[generator(5).permutation(300)]
    seen = [one.document for segments in rows for one in segments]
    assert list(dict.fromkeys(seen)) == order.tolist()
    short = [segments for segments in rows[:-1] if tokens_of(index, segments) < 400 - 400 // 16 - BLOCK - 2]
    assert len(short) <= 1, "a row ends earlier only where an image would be left alone with nothing to learn"
    assert sum(one.begin > 0 for segments in rows for one in segments) > len(rows) / 4, "the paper cuts what fits"


def test_a_keyed_share_of_pairs_is_merged(index: Index) -> None:
    few_shot = FewShotParams(probability=0.5, min=2, max=4)
    for mode in ("best_fit", "concatenate_split"):
        rows = rows_of(pack_all(index, Rules(80, mode, 6, few_shot), "pairs"))  # type: ignore[arg-type]
        sequences: list[int] = []
        for segments in rows:
            assert tokens_of(index, segments) <= 80
            assert images_of(index, segments) <= 6
            assert not segments[0].joined
            for one in segments:
                if one.joined:
                    sequences[-1] += 1
                else:
                    sequences.append(1)
        assert sum(sequences) >= 100
        together = sum(length for length in sequences if length > 1)
        assert 40 <= together <= 51
        assert 2 < max(sequences) <= 4
    other = rows_of(pack_all(index, Rules(80, "best_fit", 6, few_shot), "pairs", key=6))
    assert other != rows_of(pack_all(index, Rules(80, "best_fit", 6, few_shot), "pairs"))


def test_documents_that_are_not_of_the_kinds_are_not_merged(index: Index) -> None:
    rows = rows_of(pack_all(index, Rules(80, few_shot=FewShotParams(probability=1.0))))
    assert not any(one.joined for segments in rows for one in segments)


def test_what_fits_nowhere_is_found(tmp_path: Path) -> None:
    index = made_index(tmp_path, [row("a", [3, IMAGE, 9]), row("b", [3]), row("c", [50]), row("e", [50, IMAGE])])
    measure, every = Measure(index, VISUAL), np.arange(4)
    assert WindowPacker(measure, Rules(BLOCK + 2)).unplaceable(every).tolist() == [False] * 4
    assert WindowPacker(measure, Rules(BLOCK + 1)).unplaceable(every).tolist() == [True, False, False, True]
