"""JSON read element by element: the same values as a whole reading, wherever the reads end, and no more than an element in memory."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.documents import MAX_LINE_BYTES
from components.data.sources.json_elements import Element, json_elements, json_lists
from components.data.sources.source import Rejected

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=4),
    max_leaves=12,
)


class Dripping(io.BytesIO):
    """A file that gives at most so many bytes at once."""

    def __init__(self, data: bytes, at_once: int) -> None:
        super().__init__(data)
        self.at_once, self.held = at_once, 0

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self.at_once)


def read(data: bytes, *path: str, at_once: int = 1 << 20) -> list[Element | Rejected]:
    return list(json_elements(Dripping(data, at_once), "f.json", *path))


@given(st.lists(VALUES, max_size=5), st.integers(1, 7), st.booleans(), st.sampled_from([None, 1]))
def test_a_list_has_the_same_elements_wherever_the_reads_end(values: list[Any], at_once: int, escaped: bool, indent: int | None) -> None:
    data = json.dumps(values, ensure_ascii=escaped, indent=indent).encode()
    assert read(data, at_once=at_once) == [Element(f"f.json:[{number}]", number, value) for number, value in enumerate(values)]


@given(st.dictionaries(st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=5), VALUES, max_size=4), st.integers(1, 7))
def test_an_object_has_the_same_members_wherever_the_reads_end(values: dict[str, Any], at_once: int) -> None:
    data = json.dumps({"before": [values, 1], "data": values, "after": 1}).encode()
    assert read(data, "data", at_once=at_once) == [Element(f"f.json:data.{key}", key, value) for key, value in values.items()]


@given(st.lists(VALUES, max_size=4), VALUES, st.lists(VALUES, max_size=4), st.integers(1, 7))
def test_lists_of_an_object_are_read_in_one_go_and_the_rest_is_passed_over(first: Any, rest: Any, last: Any, at_once: int) -> None:
    data = json.dumps({"info": rest, "images": first, "licenses": [rest], "boxes": last}, ensure_ascii=False).encode()
    found = list(json_lists(Dripping(data, at_once), "f.json", "boxes", "images"))
    assert found == [
        (name, Element(f"f.json:{name}[{number}]", number, value))
        for name, values in (("images", first), ("boxes", last))
        for number, value in enumerate(values)
    ]


def test_every_cut_of_an_object_of_lists_is_told_and_so_is_a_list_that_is_not_there() -> None:
    data = b'{"a": [1, {"b": 2}], "c": 10.25, "d": ["x,]}", -1e-5]}'
    for end in range(len(data)):
        *_, (name, last) = json_lists(io.BytesIO(data[:end]), "f.json", "a", "d")
        assert name == "" and isinstance(last, Rejected)
    *_, last_of_all = json_lists(io.BytesIO(data), "f.json", "a", "d", "e")
    assert last_of_all == ("e", Rejected("f.json", "it has no 'e'"))
    *_, not_a_list = json_lists(io.BytesIO(data), "f.json", "c")
    assert not_a_list == ("c", Rejected("f.json:c", "a list is expected, found '1'"))
    *_, twice = json_lists(io.BytesIO(b'{"a": [1], "a": [2]}'), "f.json", "a")
    assert twice == ("a", Rejected("f.json:a", "the key 'a' stands twice in an object"))


@given(st.binary(max_size=40), st.integers(1, 5))
def test_no_bytes_raise_anything(data: bytes, at_once: int) -> None:
    list(json_lists(Dripping(data, at_once), "f.json", "a", "b"))
    for path in ((), ("a",), ("a", "b")):
        read(data, *path, at_once=at_once)


@given(st.lists(VALUES, min_size=1, max_size=4), st.data())
def test_of_a_list_cut_short_only_whole_elements_are_read_and_the_cut_is_told(values: list[Any], data: st.DataObject) -> None:
    whole = json.dumps(values).encode()
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    *found, last = read(cut)
    assert isinstance(last, Rejected)
    assert [one.value for one in cast(list[Element], found)] == values[: len(found)]


@pytest.mark.parametrize(
    ("data", "where", "reason"),
    [
        (b'[1, {"a": "\xff"}, 3]', "f.json:[1]", "not UTF-8"),
        (b"[1, -Infinity, 3]", "f.json:[1]", "-Infinity is not allowed"),
        (b'[1, {"a": [{"b": 1, "c": 2, "b": 3}]}, 3]', "f.json:[1]", "the key 'b' stands twice in an object"),
        (b'[1, "' + b"x" * (MAX_LINE_BYTES + 1) + b'", 3]', "f.json:[1]", f"longer than {MAX_LINE_BYTES} characters"),
    ],
)
def test_an_element_that_can_be_told_apart_is_lost_alone(data: bytes, where: str, reason: str) -> None:
    assert read(data) == [Element("f.json:[0]", 0, 1), Rejected(where, reason), Element("f.json:[2]", 2, 3)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"data": 1}', "expected a list or an object, found '1'"),
        (b"[1]", "expected an object with 'data', found '['"),
        (b'{"other": [1, 2]}', "it has no 'data'"),
        (b'{"data": [1], "other": {}, "data": [2]}', "the key 'data' stands twice in an object"),
        (b'{"data": [1]} [2]', "more text after the end"),
        (b'{"data" 1}', "expected ':'"),
        (b"{'data': []}", "looks like Python"),
        (b'{"data": [1 2]}', "expected ','"),
        (b'{"data": [1, ' + b"9" * 5000 + b"]}", "not JSON: Exceeds the limit"),
        (b'{"data": [' + b"[" * 100_000 + b"]}", "nested too deeply"),
    ],
)
def test_what_is_missing_or_of_another_form_is_named(data: bytes, reason: str) -> None:
    last = read(data, "data")[-1]
    assert isinstance(last, Rejected)
    assert reason in last.reason


@pytest.mark.parametrize("start", [b'["', b"[1", b"[["])
def test_an_element_without_an_end_is_given_up(start: bytes) -> None:
    class Endless(io.BytesIO):
        """A file that never ends."""

        given = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.given += 1 << 20
            return start + b"1" * (1 << 20) if self.given == 1 << 20 else b"1" * (1 << 20)

    file = Endless()
    (found,) = cast(Iterator[Rejected], json_elements(file, "f.json"))
    assert "the rest of the file is not read" in found.reason
    assert file.given < 2 * MAX_LINE_BYTES
